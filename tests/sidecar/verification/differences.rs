//! Each difference has its words, and no refresh is native after it.

use std::time::{Duration, Instant};

use serde_json::json;

use super::plugin::{Answer, Code, Making, NONE};
use super::{AGREES, DIFFERS, Lab, is_native};
use crate::support::mariadb::TokenState;
use crate::support::raw::Connection;
use crate::support::rig::{call_with, refresh_at};
use crate::support::sidecar::wait_until;

fn making(making: fn(&mut Making)) -> Code {
    Code { making, ..NONE }
}

fn success(success: fn(&mut Answer)) -> Code {
    Code { success, ..NONE }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_first_sight() {
    let lab = Lab::of(NONE).await;
    for (code, words) in [
        (success(|answer| answer.set("roles", json!(["subscriber"]))), "body +roles (array of string)"),
        (success(|answer| answer.remove("token_type")), "body -token_type"),
        (success(|answer| answer.fields.push(("Set-Cookie", "a=b".to_owned()))), "header +set-cookie"),
        (success(|answer| answer.fields.push(("X-Session-User", "2".to_owned()))), "header +x-session-user"),
        (success(|answer| answer.fields.retain(|(name, _)| *name != "Allow")), "header -allow"),
        (making(|making| drop(making.claims.insert("sub".to_owned(), json!("2")))), "claim +sub (string)"),
        (making(|making| making.claims["iss"] = json!("http://api.shop.example")), "claim iss"),
        (making(|making| making.claims["data"]["user"]["role"] = json!("x")), "claim +data.user.role (string)"),
        (making(|making| making.header = json!({"typ": "JWT", "alg": "HS512"})), "header of the access token: alg"),
        (
            making(|making| making.claims["exp"] = json!(making.claims["iat"].as_u64().unwrap() + 2_592_000)),
            "lifetime 2592000 s, the setting says 604800 s",
        ),
        (making(|making| making.refresh_lifetime = 86_400), "refresh lifetime 86400 s, the setting says 2592000 s"),
        (making(|making| making.key = "another-key-another-key-another-key-another"), "signature"),
        (making(|making| making.salt.push('x')), "hash that WordPress has stored"),
        (making(|making| making.blog_id = 7), "row blog_id"),
        (making(|making| making.metadata = json!({"device": "phone"})), "row metadata"),
        (making(|making| making.revokes = false), "row of the old token not revoked"),
        (
            success(|answer| {
                answer.status = 403;
                answer.body = json!({"code": "account_pending", "message": "Wait.", "data": {"status": 403}});
            }),
            "status 403, code account_pending, and the token is revoked",
        ),
    ] {
        lab.wordpress.set(code);
        let sidecar = lab.sidecar(&[]);
        lab.refresh(&sidecar, 0).await;
        let line = sidecar.wait_for_log(DIFFERS);
        assert!(line.contains(words), "{words}: {line}");
        lab.wordpress.set(NONE);
        let before = lab.wordpress.refreshes();
        for user in 0..3 {
            assert!(!is_native(&lab.refresh(&sidecar, user).await), "{words}");
        }
        assert_eq!(lab.wordpress.refreshes(), before + 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_agreed_is_left_at_the_first_sample_that_differs() {
    let lab = Lab::of(NONE).await;
    let sidecar = lab.agreeing(&[("WP_JWT_SIDECAR_REFRESH_VERIFY_EVERY", "1")]).await;
    lab.wordpress.set(success(|answer| answer.set("role", json!("x"))));
    // At most one in a second is compared.
    let mut natively = 0;
    let is_told = || sidecar.log().iter().any(|line| line.contains(DIFFERS));
    while !is_told() {
        natively += usize::from(is_native(&lab.refresh(&sidecar, 0).await));
        assert!(natively < 10_000, "no sample");
    }
    assert!(sidecar.wait_for_log(DIFFERS).contains("body +role (string)"));
    let before = lab.wordpress.refreshes();
    let answer = lab.refresh(&sidecar, 1).await;
    assert_eq!(answer.json()["role"], "x");
    assert!(answer.json().get("token").is_none(), "nothing is added to an answer that is not the plugin's");
    assert_eq!(lab.wordpress.refreshes(), before + 1);
}

/// No client gets them, and thousands of others may be written in between.
#[tokio::test(flavor = "multi_thread")]
async fn analytics_decide_nothing() {
    let sidecar = Lab::of(making(|making| making.analyses = false)).await.agreeing(&[]).await;
    assert!(sidecar.log().iter().any(|line| line.contains("no row of analytics")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_client_can_bring_about_decides_nothing() {
    fn crashes(answer: &mut Answer) {
        answer.status = 500;
        answer.body = json!({"code": "internal_server_error", "message": "", "data": {"status": 500}});
    }
    fn denies(answer: &mut Answer) {
        answer.status = 401;
        answer.body = json!({"code": "rest_forbidden", "message": "", "data": {"status": 401}});
    }
    let lab = Lab::of(NONE).await;
    for (code, words) in [
        (success(crashes), "status 500, and the token is revoked"),
        (Code { making: |making| making.revokes = false, success: denies, ..NONE }, "status 401, code rest_forbidden"),
        // A logout at the same moment.
        (Code { making: |making| making.stores = false, success: denies, ..NONE }, "status 401, code rest_forbidden"),
        (making(|making| making.stores = false), "row of the new token missing"),
    ] {
        let sidecar = lab.sidecar(&[]);
        lab.wordpress.set(code);
        lab.refresh(&sidecar, 0).await;
        lab.refresh(&sidecar, 0).await;
        // A third comparison that is certain shows that the first two have ended, and said nothing.
        lab.wordpress.set(NONE);
        lab.refresh(&sidecar, 2).await;
        assert!(!sidecar.log().iter().any(|line| line.contains(DIFFERS)), "{words}");
        lab.wordpress.set(code);
        lab.refresh(&sidecar, 1).await;
        let line = sidecar.wait_for_log(DIFFERS);
        assert!(line.contains(words), "{words}: {line}");
        lab.wordpress.set(NONE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_says_nothing_is_not_counted() {
    let lab = Lab::of(NONE).await;
    let sidecar = lab.sidecar(&[]);
    for code in [
        success(|answer| answer.status = 429),
        success(|answer| answer.status = 503),
        success(|answer| {
            answer.fields.retain(|(name, _)| *name != "Content-Type");
            answer.body = json!("<html>One moment</html>");
        }),
        success(|answer| answer.set("long", json!("x".repeat(100_000)))),
    ] {
        lab.wordpress.set(code);
        let answer = lab.refresh(&sidecar, 0).await;
        if let Ok(body) = serde_json::from_slice::<serde_json::Value>(&answer.body)
            && let Some(long) = body.get("long")
        {
            assert_eq!(long.as_str().unwrap().len(), 100_000);
        }
    }
    lab.wordpress.set(NONE);
    for user in 0..3 {
        assert!(!is_native(&lab.refresh(&sidecar, user).await));
    }
    sidecar.wait_for_log(AGREES);
    assert!(!sidecar.log().iter().any(|line| line.contains(DIFFERS)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_refusal_is_compared_too() {
    let lab = Lab::of(NONE).await;
    let sidecar = lab.agreeing(&[]).await;
    let unknown = || refresh_at(sidecar.address(), &crate::support::mariadb::random_hex::<16>());
    let before = lab.wordpress.refreshes();
    wait_until("a refusal is compared", || {
        assert_eq!(unknown().status(), 403);
        lab.wordpress.refreshes() > before
    });
    // At most one in a second would be.
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(1_500) {
        assert_eq!(unknown().status(), 403);
    }
    assert_eq!(lab.wordpress.refreshes(), before + 1);
    // A used token never was compared: it might get its pair again.
    let token = lab.database.insert_token(TokenState::Used, lab.users[0].id).await;
    let before = lab.wordpress.refreshes();
    assert_eq!(refresh_at(sidecar.address(), &token.refresh_token).status(), 403);
    assert_eq!(lab.wordpress.refreshes(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_in_other_words_is_a_difference() {
    let lab = Lab::of(Code { refusal: |answer| answer.status = 401, ..NONE }).await;
    let sidecar = lab.agreeing(&[]).await;
    let unknown = || refresh_at(sidecar.address(), &crate::support::mariadb::random_hex::<16>());
    wait_until("a refusal is compared", || unknown().status() == 401);
    let line = sidecar.wait_for_log(DIFFERS);
    assert!(line.contains("status 401, the plugin answers 403"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_for_a_cookie_needs_a_second_user() {
    let lab = Lab::of(success(|answer| answer.fields.push(("Set-Cookie", "a=b".to_owned())))).await;
    let sidecar = lab.sidecar(&[]);
    for user in [0, 0, 1] {
        assert!(!sidecar.log().iter().any(|line| line.contains(DIFFERS)));
        let mut client = Connection::to(sidecar.address());
        let token = lab.token(user).await.refresh_token;
        client.send(call_with(&json!({"refresh_token": token}), "Cookie: cart=1\r\n"));
        assert_eq!(client.response().value("set-cookie").as_deref(), Some("a=b"));
    }
    sidecar.wait_for_log(DIFFERS);
}
