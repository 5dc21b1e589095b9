//! Compares an access token of WordPress's with the one that the sidecar would have made. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::judge::Finding;
use super::words;
use crate::declared;
use crate::verify::difference::{Difference, Kind};
use crate::wordpress::access_token::Signer;

/// Seconds by which a lifetime may be off: the plugin reads the clock more than once.
const LIFETIME_SLACK: u64 = 1;

/// The expected contents of the token.
pub struct Wanted<'a> {
    pub signer: &'a Signer,
    pub issuer: &'a str,
    pub user_id: u64,
    /// Seconds.
    pub lifetime: u64,
    /// The values declared for the user.
    pub declared: &'a [(Vec<String>, Value)],
    /// The Unix seconds in which it was issued, by PHP's clock.
    pub issued: (u64, u64),
}

/// What the rows are compared with. Has no `Debug`: it is as secret as the token.
pub struct Times {
    pub issued_at: u64,
    pub expires_at: u64,
}

/// The times of `jwt`, if it equals the sidecar's except for its times and the `jti`.
///
/// # Errors
/// The difference.
pub fn check(jwt: &str, wanted: &Wanted<'_>) -> Result<Times, Finding> {
    let claim = |what: String| Finding::Differs(Difference::new(Kind::Claim, what));
    let unreadable = || claim("claim access token that is not a JWT".to_owned());
    let mut parts = jwt.split('.');
    let (Some(header), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(unreadable());
    };
    if header != wanted.signer.header() {
        let found = object(header).ok_or_else(unreadable)?;
        let expected = object(wanted.signer.header()).unwrap_or_default();
        let mut changes = words::members(&found, &expected);
        changes.extend(expected.iter().filter_map(|(name, value)| {
            let other = found.get(name).is_some_and(|found| found.is_string() && found != value);
            other.then(|| name.clone())
        }));
        return Err(claim(words::listed("header of the access token:", &changes)));
    }
    // Before the claims: with a different key, everything that the sidecar signs is worthless.
    if !wanted.signer.verifies(jwt) {
        let difference = Difference::new(Kind::Keys, "the signature of WordPress's access token does not verify");
        return Err(Finding::Differs(difference));
    }
    let claims = object(payload).ok_or_else(unreadable)?;
    let expected = json!({
        "iss": wanted.issuer, "iat": 0, "nbf": 0, "exp": 0, "data": {"user": {"id": wanted.user_id.to_string()}},
    });
    let Value::Object(mut expected) = expected else { return Err(unreadable()) };
    for (path, value) in wanted.declared {
        declared::set(&mut expected, path, value.clone());
    }
    let changes = words::members(&claims, &expected);
    if !changes.is_empty() {
        return Err(claim(words::listed("claim", &changes)));
    }
    let others = words::other_values(&claims, wanted.declared);
    if !others.is_empty() {
        // SECURITY: users may change their own names between the sidecar's read and WordPress's
        // response.
        return Err(Finding::Suspicious(Difference::new(Kind::Claim, words::listed("claim", &others))));
    }
    if claims.get("iss") != expected.get("iss") {
        return Err(claim("claim iss (not the home URL)".to_owned()));
    }
    if claims.get("data") != expected.get("data") {
        return Err(claim("claim data.user.id (another user)".to_owned()));
    }
    let time = |name: &str| claims.get(name).and_then(Value::as_u64);
    let (Some(issued_at), Some(not_before), Some(expires_at)) = (time("iat"), time("nbf"), time("exp")) else {
        return Err(claim("claim iat, nbf or exp (not a time)".to_owned()));
    };
    let (earliest, latest) = wanted.issued;
    if issued_at < earliest || issued_at > latest {
        return Err(claim("claim iat (not the time of the answer)".to_owned()));
    }
    if not_before != issued_at {
        return Err(claim("claim nbf (not that of iat)".to_owned()));
    }
    let lifetime = expires_at.saturating_sub(issued_at);
    if lifetime.abs_diff(wanted.lifetime) > LIFETIME_SLACK {
        return Err(Finding::Differs(lifetimes("lifetime", lifetime, wanted.lifetime)));
    }
    Ok(Times { issued_at, expires_at })
}

/// `lifetime 2592000 s, the setting says 604800 s`
pub fn lifetimes(what: &str, found: u64, setting: u64) -> Difference {
    Difference::new(Kind::Lifetime, format!("{what} {found} s, the setting says {setting} s"))
}

/// The claims of `jwt`, without checking its signature.
pub fn payload(jwt: &str) -> Option<Map<String, Value>> {
    object(jwt.split('.').nth(1)?)
}

fn object(part: &str) -> Option<Map<String, Value>> {
    let bytes = URL_SAFE_NO_PAD.decode(part.trim_end_matches('.')).ok()?;
    serde_json::from_slice(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{Algorithm, Secret};

    fn signer(algorithm: Algorithm, secret: &str) -> Signer {
        Signer::new(algorithm, Some(&Secret::new(secret.to_owned())), None).unwrap()
    }

    fn said(jwt: &str, signer: &Signer) -> String {
        let wanted = Wanted {
            signer,
            issuer: "http://shop.example",
            user_id: 2,
            lifetime: 600,
            declared: &[],
            issued: (1_000, 1_004),
        };
        match check(jwt, &wanted) {
            Ok(times) => format!("{} {}", times.issued_at, times.expires_at),
            Err(Finding::Differs(difference)) => format!("{}: {difference}", difference.kind.name()),
            Err(other) => format!("{other:?}"),
        }
    }

    fn jwt(claims: Value, signer: &Signer) -> String {
        signer.sign_claims(claims.to_string().as_bytes())
    }

    fn plain(change: impl Fn(&mut Map<String, Value>)) -> Value {
        let claims = json!({"iss": "http://shop.example", "iat": 1_002, "nbf": 1_002, "exp": 1_602, "data": {"user": {"id": "2"}}});
        let Value::Object(mut claims) = claims else { panic!("an object") };
        change(&mut claims);
        claims.into()
    }

    #[test]
    fn each_difference_has_its_words() {
        let ours = signer(Algorithm::HS256, "secret-key-0123456789-0123456789-0123456789");
        let set = |name: &'static str, value: Value| {
            plain(move |claims| {
                claims.insert(name.to_owned(), value.clone());
            })
        };
        assert_eq!(said(&jwt(plain(|_| ()), &ours), &ours), "1002 1602");
        for (claims, words) in [
            (set("iss", json!("https://api.shop.example")), "claim: claim iss (not the home URL)"),
            (set("sub", json!("2")), "claim: claim +sub (string)"),
            (set("data", json!({"user": {"id": 2}})), "claim: claim data.user.id (integer)"),
            (set("data", json!({"user": {"id": "3"}})), "claim: claim data.user.id (another user)"),
            (set("data", json!({"user": {"id": "2", "role": "x"}})), "claim: claim +data.user.role (string)"),
            (set("iat", json!(1_300)), "claim: claim iat (not the time of the answer)"),
            (set("iat", json!(-1)), "claim: claim iat, nbf or exp (not a time)"),
            (set("nbf", json!(1_302)), "claim: claim nbf (not that of iat)"),
            (set("exp", json!(3_602)), "lifetime: lifetime 2600 s, the setting says 600 s"),
            (set("exp", json!(0)), "lifetime: lifetime 0 s, the setting says 600 s"),
            (json!([]), "claim: claim access token that is not a JWT"),
        ] {
            assert_eq!(said(&jwt(claims, &ours), &ours), words);
        }
        assert_eq!(said(&jwt(set("exp", json!(1_603)), &ours), &ours), "1002 1603");
        let other = signer(Algorithm::HS256, "another-key-0123456789-0123456789-0123456789");
        let of_other_key = jwt(plain(|_| ()), &other);
        assert_eq!(said(&of_other_key, &ours), "keys: the signature of WordPress's access token does not verify");
        let other = signer(Algorithm::HS512, "secret-key-0123456789-0123456789-0123456789");
        assert_eq!(said(&jwt(plain(|_| ()), &other), &ours), "claim: header of the access token: alg");
        for jwt in ["", "a", "a.b", "a.b.c", "a.b.c.d"] {
            assert!(said(jwt, &ours).starts_with("claim: claim access token"), "{jwt}");
        }
    }

    proptest! {
        #[test]
        fn any_token_can_be_checked(token in ".{0,200}", header in ".{0,40}", payload in ".{0,80}") {
            let ours = signer(Algorithm::HS256, "secret-key-0123456789-0123456789-0123456789");
            let _ = said(&token, &ours);
            let _ = said(&jwt(Value::String(payload.clone()), &ours), &ours);
            let _ = said(&format!("{}.{}.x", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload)), &ours);
        }
    }
}
