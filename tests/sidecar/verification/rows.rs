//! Rows prove that the site's own code has no hand in its tokens: under the row's lock before each
//! rotation, and soon after WordPress has written them.

use mysql_async::prelude::Queryable;
use serde_json::json;
use wp_jwt_sidecar::internals::verify::difference::{Difference, Kind};

use super::site::{COUNTS_AFTER, DAY, LIFETIME, PhpRow, Verifying, now};
use crate::support::rig;

const FORWARDED: u16 = 299;

/// How many rows there are, and how many of them are revoked.
async fn rows(site: &Verifying) -> (usize, usize) {
    let rows = site.database.token_rows_after(0).await;
    (rows.len(), rows.iter().filter(|row| row.get("revoked_at").is_some()).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_other_claims_is_wordpresss_and_so_is_all_that_follows() {
    let site = Verifying::start(&[]).await;
    site.agree();
    let at = now() + COUNTS_AFTER;
    let (plain, foreign) = (PhpRow::plain(site.user.id, at), PhpRow::with_role(site.user.id, at));
    site.insert(&plain).await;
    let answer = site.refresh(&plain.refresh_token);
    assert_eq!(answer.status(), 200, "{answer:?}");
    let foreign_id = site.insert(&foreign).await;
    let before = rows(&site).await;
    assert_eq!(before, (3, 1));
    assert_eq!(site.refresh(&foreign.refresh_token).status(), FORWARDED);
    let said = format!("WordPress signs other claims than the sidecar (row {foreign_id})");
    assert_eq!(site.difference(), (said, "claim"));
    let next = answer.json()["refresh_token"].as_str().unwrap().to_owned();
    assert_eq!((site.refresh(&next).status(), rows(&site).await), (FORWARDED, before), "nothing is written");
    let counters = &site.refresher.counters;
    assert_eq!((counters.rotated.value(), counters.left_unverified.value()), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn either_scheme_is_the_homes() {
    let site = Verifying::start(&[]).await;
    site.agree();
    let mut by_https = PhpRow::plain(site.user.id, now() + COUNTS_AFTER);
    by_https.claims["iss"] = json!(rig::HOME.replace("http:", "https:"));
    let mut elsewhere = by_https.clone();
    elsewhere.claims["iss"] = json!("http://api.shop.example");
    elsewhere.refresh_token.replace_range(..4, "beef");
    site.insert(&by_https).await;
    assert_eq!(site.refresh(&by_https.refresh_token).status(), 200);
    site.insert(&elsewhere).await;
    assert_eq!((site.refresh(&elsewhere.refresh_token).status(), site.difference().1), (FORWARDED, "claim"));
}

/// After a change of key, salt, home or algorithm, old sessions are none of the site's code.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_an_earlier_epoch_is_native_and_what_comes_of_it_too() {
    let site = Verifying::start(&[]).await;
    site.agree();
    let old = PhpRow::with_role(site.user.id, now() - DAY);
    site.insert(&old).await;
    let answer = site.refresh(&old.refresh_token);
    assert_eq!(answer.status(), 200, "{answer:?}");
    // What this process has written is not proved again: also where it could not be.
    let prefix = site.database.prefix();
    site.database.execute(&format!("UPDATE {prefix}jwt_auth_tokens SET hash = REVERSE(hash)")).await;
    let answer = site.refresh(answer.json()["refresh_token"].as_str().unwrap());
    assert_eq!((answer.status(), site.agrees()), (200, true), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_foreign_row_leaves_the_others_of_its_group_whole() {
    let site = Verifying::start(&[]).await;
    site.agree();
    let at = now() + COUNTS_AFTER;
    let mut connection = site.database.connect().await;
    let mut all: Vec<PhpRow> = (0..40).map(|_| PhpRow::plain(site.user.id, at)).collect();
    all[20] = PhpRow::with_role(site.user.id, at);
    for row in &all {
        row.insert(&mut connection, site.database.prefix()).await;
    }
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let site = &site;
        let calls: Vec<_> =
            all.iter().map(|row| scope.spawn(move || site.refresh(&row.refresh_token).status())).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert_eq!(statuses[20], FORWARDED);
    let rows = site.database.token_rows_after(0).await;
    let revoked = |row: &PhpRow| {
        let stored = rows.iter().find(|stored| stored.get("refresh_token_hash") == Some(&row.refresh_token)).unwrap();
        stored.get("revoked_at").is_some()
    };
    let mut native = 0;
    for (row, status) in all.iter().zip(&statuses) {
        assert!(matches!(*status, 200 | FORWARDED), "{status}");
        assert_eq!(revoked(row), *status == 200);
        native += usize::from(*status == 200);
    }
    assert_eq!(rows.len(), all.len() + native, "one successor for each that was exchanged");
}

/// They waited for their rows when the verdict fell: 62 live tokens, a used one, and one whose row
/// is another's by now.
#[tokio::test(flavor = "multi_thread")]
async fn no_call_whose_transaction_had_not_begun_is_native_after_the_verdict() {
    let site = Verifying::start(&[("WP_JWT_SIDECAR_REFRESH_REUSE_INTERVAL", "60s")]).await;
    site.agree();
    let at = now() + COUNTS_AFTER;
    let all: Vec<PhpRow> = (0..64).map(|_| PhpRow::plain(site.user.id, at)).collect();
    for row in &all {
        site.insert(row).await;
    }
    let [used, gone, ..] = &all[..] else { unreachable!() };
    assert_eq!(site.refresh(&used.refresh_token).status(), 200);
    let before = rows(&site).await;
    let prefix = site.database.prefix().to_owned();
    let mut holder = site.database.connect().await;
    holder.query_drop("START TRANSACTION").await.unwrap();
    holder.query_drop(format!("SELECT id FROM {prefix}jwt_auth_tokens FOR UPDATE")).await.unwrap();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let site = &site;
        let calls: Vec<_> =
            all.iter().map(|row| scope.spawn(move || site.refresh(&row.refresh_token).status())).collect();
        let held = &site.refresher.counters.held;
        site.wait("all of them wait", || held.value() >= 64);
        site.verification().differs(Difference::new(Kind::Body, "body +role (string)"));
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                let other =
                    format!("UPDATE {prefix}jwt_auth_tokens SET refresh_token_hash = 'x' WHERE refresh_token_hash = ?");
                holder.exec_drop(other, (&gone.refresh_token,)).await.unwrap();
                holder.query_drop("COMMIT").await.unwrap();
            });
        });
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert_eq!((statuses, rows(&site).await), (vec![FORWARDED; 64], before));
    assert_eq!(site.difference(), ("body +role (string)".to_owned(), "body"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_foreign_row_is_seen_without_a_request() {
    let site = Verifying::start(&[]).await;
    let user = site.user.id;
    type Make = fn(PhpRow) -> PhpRow;
    let kinds: [(Make, &str, &str); 5] = [
        (|row| row.living(30 * DAY), "lifetime 2592000 s, the setting says 604800 s", "lifetime"),
        (
            |row| PhpRow { refresh_lifetime: 14 * DAY, ..row },
            "refresh token's lifetime 1209600 s, the setting says 2592000 s",
            "lifetime",
        ),
        (|row| PhpRow { blog_id: 7, ..row }, "column blog_id", "row"),
        (
            |row| PhpRow { metadata: json!({"user_agent": "", "device": "app"}), ..row },
            "column metadata +device",
            "row",
        ),
        (
            |row| PhpRow::with_role(row.user_id, row.issued_at),
            "WordPress signs other claims than the sidecar (row ",
            "claim",
        ),
    ];
    for (make, words, kind) in kinds {
        site.verification().again();
        site.agree();
        let plain = || PhpRow::plain(user, now() + COUNTS_AFTER);
        site.insert(&plain()).await;
        site.insert(&PhpRow { metadata: json!("odd"), ..plain() }).await;
        site.watched();
        assert!(site.agrees(), "{:?}", site.verification().view());
        assert_eq!(site.verification().view().notes, ["column metadata: no JSON object with a user_agent"]);
        site.insert(&make(plain())).await;
        let (said, of) = site.difference();
        assert!(said.starts_with(words) && of == kind, "{said} {of}");
    }
    assert_eq!(site.upstream.requests().iter().filter(|request| request.start_line().contains("POST")).count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_other_keys_no_row_fits() {
    let site = Verifying::start(&[("WP_JWT_SIDECAR_WORDPRESS_AUTH_SALT", "another-salt")]).await;
    site.agree();
    for _ in 0..3 {
        site.insert(&PhpRow::plain(site.user.id, now() + COUNTS_AFTER)).await;
    }
    let keys = || async { site.verification().view().kind.is_some_and(|kind| kind.name() == "keys") };
    rig::eventually("the keys are doubted", keys).await;
    assert!(site.difference().0.starts_with("key, salt or home are not those that PHP uses"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_committed_late_is_seen_and_own_ones_are_no_difference() {
    let site = Verifying::start(&[]).await;
    site.agree();
    site.watched();
    let at = || now() + COUNTS_AFTER;
    let prefix = site.database.prefix().to_owned();
    let mut slow = site.database.connect().await;
    slow.query_drop("START TRANSACTION").await.unwrap();
    let low = PhpRow::plain(site.user.id, at()).living(900).insert(&mut slow, &prefix).await;
    let mut token = PhpRow::plain(site.user.id, at());
    assert!(low < site.insert(&token).await);
    for _ in 0..5 {
        let answer = site.refresh(&token.refresh_token);
        assert_eq!(answer.status(), 200, "{answer:?}");
        answer.json()["refresh_token"].as_str().unwrap().clone_into(&mut token.refresh_token);
    }
    site.watched();
    assert!(site.agrees(), "{:?}", site.verification().view());
    slow.query_drop("COMMIT").await.unwrap();
    assert_eq!(site.difference(), ("lifetime 900 s, the setting says 604800 s".to_owned(), "lifetime"));
}

/// PHP goes by the new settings before the sidecar has read them, and for a moment by the old ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_settings_is_no_difference() {
    let site = Verifying::start(&[]).await;
    site.agree();
    let with = |seconds: u64| {
        let value = format!("i:{seconds};");
        rig::settings(&[("token_settings", "jwt_expiration", &value), ("rate_limit_settings", "enabled", "b:0;")])
    };
    let mut before = LIFETIME;
    for lifetime in [900, 3600, 86_400] {
        site.database.set_option("jwt_auth_pro_settings", with(lifetime)).await;
        site.insert(&PhpRow::plain(site.user.id, now()).living(lifetime)).await;
        site.insert(&PhpRow::plain(site.user.id, now()).living(before)).await;
        site.watched();
        assert_eq!(site.verification().view().difference, None);
        before = lifetime;
    }
    site.agree();
    site.insert(&PhpRow::plain(site.user.id, now() + COUNTS_AFTER).living(900)).await;
    assert_eq!(site.difference().0, "lifetime 900 s, the setting says 86400 s");
}
