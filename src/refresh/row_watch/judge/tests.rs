use proptest::prelude::*;

use super::*;
use crate::config::Algorithm;
use crate::wordpress::access_token::wp_hash;

const HOME: &str = "http://127.0.0.1:8099";
const ISSUED_AT: u64 = 1_795_379_799;
const REFRESH_TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Recorded on a test site.
fn vector(name: &str) -> String {
    let vectors = include_str!("../../../../tests/fixtures/vectors.json");
    let vectors: Value = serde_json::from_str(vectors).unwrap();
    vectors[name].as_str().unwrap().to_owned()
}

struct Keys {
    signer: Signer,
    auth_salt: Secret,
    issuers: Vec<String>,
}

fn keys() -> Keys {
    let signer = Signer::new(Algorithm::HS256, Some(&Secret::new(vector("JWT_AUTH_SECRET_KEY"))), None).unwrap();
    let auth_salt = Secret::new(vector("AUTH_KEY") + &vector("AUTH_SALT"));
    Keys { signer, auth_salt, issuers: vec!["http://elsewhere.example".to_owned(), HOME.to_owned()] }
}

static NOTHING: std::sync::LazyLock<Declared> = std::sync::LazyLock::new(Declared::default);

impl Keys {
    fn expected(&self) -> Expected<'_> {
        Expected {
            signer: &self.signer,
            auth_salt: &self.auth_salt,
            jwt_expiration: 604_800,
            refresh_token_expiration: 2_592_000,
            issuers: &self.issuers,
            may_have_other_issuers: false,
            declared: &NOTHING,
            php_is_ahead: Some(1),
            apart: 0,
        }
    }
}

/// A row as PHP wrote it.
fn plain() -> Written {
    Written {
        id: 4711,
        user_id: 3,
        hash: vector("wp_hash").into_bytes(),
        issued_at: Some(ISSUED_AT),
        expires_at: Some(ISSUED_AT + 604_800),
        refresh_token: Some(REFRESH_TOKEN.into()),
        refresh_expires_at: Some(ISSUED_AT + 2_592_000),
        blog_id: Some(1),
        metadata: Some(br#"{"user_agent":"app\/1.0 \"x\""}"#.to_vec()),
        ahead: Some(0),
    }
}

fn judged(row: &Written) -> Judged {
    judge(row, &keys().expected(), true)
}

fn fault(row: &Written) -> Option<(Kind, String)> {
    judged(row).fault.map(|fault| (fault.kind, fault.what))
}

#[test]
fn a_row_of_the_plugin_alone_is_plain() {
    let expected = Judged { proof: Proof::Plain, fault: None, is_ahead: false, note: None, lifetime: Some(604_800) };
    assert_eq!(judged(&plain()), expected);
}

#[test]
fn what_other_code_writes_is_told_in_words() {
    let row = plain();
    let metadata = |json: &str| Some(json.as_bytes().to_vec());
    for (row, kind, words) in [
        (
            Written { hash: b"00112233445566778899aabbccddeeff".to_vec(), ..row.clone() },
            Kind::Claim,
            "WordPress signs other claims than the sidecar (row 4711)",
        ),
        (
            Written { user_id: 4, ..row.clone() },
            Kind::Claim,
            "WordPress signs other claims than the sidecar (row 4711)",
        ),
        (
            Written { issued_at: None, ..row.clone() },
            Kind::Claim,
            "WordPress signs other claims than the sidecar (row 4711)",
        ),
        (
            Written { refresh_expires_at: Some(ISSUED_AT + 1_209_600), ..row.clone() },
            Kind::Lifetime,
            "refresh token's lifetime 1209600 s, the setting says 2592000 s",
        ),
        (
            // The filter of iat changes this one.
            Written { refresh_expires_at: Some(ISSUED_AT + 2_591_700), ..row.clone() },
            Kind::Lifetime,
            "refresh token's lifetime 2591700 s, the setting says 2592000 s",
        ),
        (Written { blog_id: Some(7), ..row.clone() }, Kind::Row, "column blog_id"),
        (
            Written { metadata: metadata(r#"{"user_agent":"","device":"app"}"#), ..row.clone() },
            Kind::Row,
            "column metadata +device",
        ),
        (
            Written { metadata: metadata(r#"{"Bob's iPhone":"app"}"#), ..row.clone() },
            Kind::Row,
            "column metadata +a member",
        ),
        (Written { ahead: Some(300), ..row.clone() }, Kind::Claim, "claim iat 300 s ahead of the clocks"),
    ] {
        assert_eq!(fault(&row), Some((kind, words.to_owned())));
    }
    // A filter of the lifetime changes the claim and the column together.
    let keys = keys();
    let thirty_days = Expected { jwt_expiration: 900, ..keys.expected() };
    let fault = judge(&row, &thirty_days, true).fault.unwrap();
    assert_eq!((fault.kind, fault.what.as_str()), (Kind::Lifetime, "lifetime 604800 s, the setting says 900 s"));
}

#[test]
fn what_a_client_may_have_brought_about_is_only_noted() {
    for metadata in
        [None, Some(""), Some("null"), Some("[]"), Some("{}"), Some("\"x\""), Some("{\"user_agent\":\"\u{fffd}")]
    {
        let row = Written { metadata: metadata.map(|text| text.as_bytes().to_vec()), ..plain() };
        let judged = judged(&row);
        assert!(judged.fault.is_none() && judged.note.is_some(), "{metadata:?}");
    }
    let row = Written { metadata: Some(b"\xff{}".to_vec()), ..plain() };
    assert!(judged(&row).fault.is_none());
}

#[test]
fn what_the_plugin_and_its_machine_do_is_no_fault() {
    let keys = keys();
    // It reads the two times one after the other.
    for (late, fits) in [(-3, false), (-2, true), (2, true), (30, true), (31, false)] {
        let row = Written { refresh_expires_at: (ISSUED_AT + 2_592_000).checked_add_signed(late), ..plain() };
        assert_eq!(fault(&row).is_none(), fits, "{late}");
        let apart = Expected { apart: 60, ..keys.expected() };
        assert_eq!(judge(&row, &apart, true).fault.is_none(), late >= -2);
    }
    for (setting, fits) in [(604_797, false), (604_798, true), (604_802, true), (604_803, false)] {
        let expected = Expected { jwt_expiration: setting, ..keys.expected() };
        assert_eq!(judge(&plain(), &expected, true).fault.is_none(), fits, "{setting}");
    }
    // The known amount by which PHP's clock is ahead.
    for (ahead, php, fits) in [(6, Some(1), true), (7, Some(1), false), (60, Some(55), true), (600, None, true)] {
        let row = Written { ahead: Some(ahead), ..plain() };
        let judged = judge(&row, &Expected { php_is_ahead: php, ..keys.expected() }, true);
        assert_eq!((judged.fault.is_none(), judged.is_ahead), (fits, !fits), "{ahead} {php:?}");
    }
    // An incomplete row shows nothing about what is missing.
    for unfinished in [
        Written { refresh_token: None, refresh_expires_at: None, ..plain() },
        Written { refresh_token: Some(Vec::new()), refresh_expires_at: Some(0), ..plain() },
    ] {
        assert!(!unfinished.is_whole() && judged(&unfinished).fault.is_none());
    }
}

#[test]
fn a_row_of_another_sidecar_is_not_judged() {
    let keys = keys();
    let claims = ClaimsInput {
        declared: &[],
        iss: HOME,
        issued_at: ISSUED_AT,
        expires_at: ISSUED_AT + 604_800,
        user_id: 3,
        refresh_token: REFRESH_TOKEN,
    };
    let hash = wp_hash(&keys.signer.access_token(&claims).unwrap(), &keys.auth_salt).into_bytes();
    let row = Written { hash, refresh_expires_at: Some(0), ..plain() };
    assert_eq!((judged(&row).proof, judged(&row).fault), (Proof::Ours, None));
}

#[test]
fn what_cannot_be_proved_is_still_judged_by_its_times() {
    let keys = keys();
    let foreign = Written { hash: b"00".to_vec(), ..plain() };
    let elsewhere = Expected { may_have_other_issuers: true, ..keys.expected() };
    for (expected, proves) in [(&elsewhere, true), (&keys.expected(), false)] {
        assert_eq!(
            (judge(&foreign, expected, proves).proof, fault_of(&foreign, expected, proves)),
            (Proof::Unknown, None)
        );
        let other_end = Written { expires_at: Some(ISSUED_AT + 900), ..foreign.clone() };
        assert_eq!(fault_of(&other_end, expected, proves), Some(Kind::Lifetime));
    }
    assert_eq!(judge(&plain(), &elsewhere, true).proof, Proof::Plain);
}

fn fault_of(row: &Written, expected: &Expected<'_>, proves: bool) -> Option<Kind> {
    judge(row, expected, proves).fault.map(|fault| fault.kind)
}

proptest! {
    /// Whatever a row contains, there is no panic, and no value of it is shown.
    #[test]
    fn no_value_is_told(
        hash in "[a-z]{8}\\PC{0,8}",
        token in "[a-z]{8}\\PC{0,8}",
        name in "[A-Z]{8}\\PC{0,8}",
        value in "[a-z]{8}[a-z ]{0,8}",
        times in any::<(Option<u64>, Option<u64>, Option<u64>, Option<i64>)>(),
        proves in any::<bool>(),
    ) {
        let (issued_at, expires_at, refresh_expires_at, ahead) = times;
        let metadata = serde_json::json!({"user_agent": value, name.clone(): value}).to_string();
        let row = Written {
            hash: hash.clone().into_bytes(),
            refresh_token: Some(token.clone().into_bytes()),
            metadata: Some(metadata.into_bytes()),
            issued_at,
            expires_at,
            refresh_expires_at,
            ahead,
            ..plain()
        };
        let fault = judge(&row, &keys().expected(), proves).fault.unwrap().what;
        for value in [hash, token, name, value] {
            prop_assert!(!fault.contains(&value), "{}", fault);
        }
    }
}
