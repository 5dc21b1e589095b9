//! What clients get while answers are compared.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};

use super::plugin::{Code, NONE};
use super::{AGREES, DIFFERS, Lab, is_native};
use crate::http2::client;
use crate::support::raw::Connection;
use crate::support::rig::{ROUTE, call, call_with, refresh_at};
use crate::support::sidecar::wait_until;
use crate::support::tls::{Authority, tls_address};

#[tokio::test(flavor = "multi_thread")]
async fn native_after_the_first_answers() {
    let lab = Lab::of(NONE).await;
    let sidecar = lab.sidecar(&[]);
    for user in 0..3 {
        let token = lab.token(user).await;
        let answer = refresh_at(sidecar.address(), &token.refresh_token);
        assert!(!is_native(&answer));
        // What WordPress says comes first, and untouched.
        let body = answer.json();
        let names: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
        let promised = ["token", "user_id", "user_email", "user_nicename", "user_display_name"];
        let own = ["access_token", "expires_in", "token_type", "refresh_token"];
        assert_eq!(names, [&own[..], &promised].concat());
        assert_eq!(body["token"], body["access_token"]);
        assert_eq!(body["user_email"], lab.users[user].email);
        assert_eq!(answer.value("cache-control").as_deref(), Some("no-store"));
        assert_eq!(answer.value("content-length").unwrap(), answer.body.len().to_string());
        assert_eq!(answer.value("server").as_deref(), Some("made-up"));
    }
    sidecar.wait_for_log(AGREES);
    let before = lab.wordpress.refreshes();
    let native = lab.refresh(&sidecar, 0).await;
    assert!(is_native(&native));
    assert_eq!(lab.wordpress.refreshes(), before);
    // A class of its own.
    for _ in 0..3 {
        let mut client = Connection::to(sidecar.address());
        let token = lab.token(0).await.refresh_token;
        client.send(call_with(&json!({"refresh_token": token}), "Origin: https://app.example\r\n"));
        let answer = client.response();
        assert!(!is_native(&answer));
        assert_eq!(answer.value("access-control-allow-origin").as_deref(), Some("https://app.example"));
    }
    assert_eq!(lab.wordpress.refreshes(), before + 3);
    assert!(!sidecar.log().iter().any(|line| line.contains(DIFFERS)));
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_the_web_server_are_none_of_wordpresss() {
    let lab = Lab::of(Code { any: |answer| answer.fields.push(("X-Front", "blue".to_owned())), ..NONE }).await;
    let sidecar = lab.agreeing(&[]).await;
    assert!(is_native(&lab.refresh(&sidecar, 0).await));
    let asked =
        |place: &str| lab.wordpress.upstream.requests().iter().filter(|one| one.start_line().contains(place)).count();
    assert_eq!((asked("blank.gif"), asked("admin-ajax.php")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_is_ignored_is_no_difference() {
    let lab = Lab::of(Code { success: |answer| answer.fields.push(("X-Team", "a".to_owned())), ..NONE }).await;
    lab.agreeing(&[("WP_JWT_SIDECAR_REFRESH_VERIFY_IGNORE_HEADERS", "X-Team")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_call_with_the_token_gets_the_same_pair() {
    let (holds, held) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let (hold, seen) = (Arc::clone(&holds), Arc::clone(&held));
    let lab = Lab::held(NONE, move || {
        seen.store(true, Ordering::SeqCst);
        wait_until("the test lets it go on", || !hold.load(Ordering::SeqCst));
    })
    .await;
    let sidecar = lab.sidecar(&[]);
    let token = lab.token(0).await.refresh_token;
    let mut first = Connection::to(sidecar.address());
    first.send(call(&token));
    wait_until("the first is with WordPress", || held.load(Ordering::SeqCst));
    let mut others: Vec<Connection> = (0..3).map(|_| Connection::to(sidecar.address())).collect();
    for other in &mut others {
        other.send(call(&token));
    }
    let waits = |line: &String| line.contains("waits for WordPress's answer to another");
    wait_until("the others wait", || sidecar.log().iter().filter(|line| waits(line)).count() == 3);
    holds.store(false, Ordering::SeqCst);
    let first = first.response();
    assert!(!is_native(&first));
    for other in &mut others {
        let other = other.response();
        assert_eq!((other.status(), &other.json()["access_token"]), (200, &first.json()["access_token"]));
        assert_eq!(other.json()["refresh_token"], first.json()["refresh_token"]);
    }
    assert_eq!(lab.wordpress.refreshes(), 1);
}

/// As at a restart: the answer of the one before was lost, and the next has yet to verify the site.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_natively_is_given_again_before_the_site_is_verified_again() {
    let lab = Lab::of(NONE).await;
    let before = lab.agreeing(&[]).await;
    let token = lab.token(0).await.refresh_token;
    let lost = refresh_at(before.address(), &token);
    assert!(is_native(&lost));
    drop(before);
    let after = lab.sidecar(&[]);
    let again = refresh_at(after.address(), &token);
    assert_eq!((again.status(), &again.json()["refresh_token"]), (200, &lost.json()["refresh_token"]));
    assert_eq!(again.json()["access_token"], lost.json()["access_token"]);
    // It is no rotation, and the new token is WordPress's.
    let refreshed = refresh_at(after.address(), lost.json()["refresh_token"].as_str().unwrap());
    assert_eq!((refreshed.status(), is_native(&refreshed)), (200, false));
    // What WordPress gave is not given by the sidecar, which does not know yet what the site adds
    // to it.
    let used = lab.token(2).await.refresh_token;
    assert_eq!(refresh_at(lab.wordpress.address(), &used).status(), 200);
    assert_eq!(refresh_at(after.address(), &used).status(), 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_leaves_nothing_behind() {
    let (holds, held) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let (hold, seen) = (Arc::clone(&holds), Arc::clone(&held));
    let lab = Lab::held(NONE, move || {
        seen.store(true, Ordering::SeqCst);
        wait_until("the test lets it go on", || !hold.load(Ordering::SeqCst));
    })
    .await;
    let sidecar = lab.sidecar(&[]);
    // More than there are places for comparisons.
    for _ in 0..6 {
        held.store(false, Ordering::SeqCst);
        let mut client = Connection::to(sidecar.address());
        client.send(call(&lab.token(0).await.refresh_token));
        wait_until("it is with WordPress", || held.load(Ordering::SeqCst));
    }
    holds.store(false, Ordering::SeqCst);
    // As soon as the sidecar has seen that they have left.
    for turn in 0..600 {
        assert_eq!(lab.refresh(&sidecar, turn % 3).await.status(), 200);
        if sidecar.log().iter().any(|line| line.contains(AGREES)) {
            return;
        }
    }
    panic!("the places for comparisons are gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2() {
    let authority = Authority::new();
    let pair = authority.issue("shop", &["shop.example"]).argument();
    let tls = [("WP_JWT_SIDECAR_TLS_LISTEN", "127.0.0.1:0"), ("WP_JWT_SIDECAR_TLS_CERTIFICATES", pair.as_str())];
    let lab = Lab::of(NONE).await;
    let sidecar = lab.sidecar(&tls);
    let mut client = client(tls_address(&sidecar), &authority).await;
    // The home URL as WordPress has it for https is asked for in the background; until then nothing
    // is compared.
    for turn in 0..200 {
        let body = json!({"refresh_token": lab.token(turn % 3).await.refresh_token}).to_string();
        let request = Request::post(format!("https://shop.example{ROUTE}"))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let answer = client.send(request).await;
        let length: Option<usize> =
            answer.headers().get("content-length").map(|it| it.to_str().unwrap().parse().unwrap());
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(length.is_none_or(|length| length == body.len()));
        let body: Value = serde_json::from_slice(&body).unwrap();
        if body.get("token").is_some_and(|token| *token == body["access_token"]) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("nothing was compared");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_close_and_old_clients() {
    let lab = Lab::of(Code { any: |answer| answer.fields.push(("Connection", "close".to_owned())), ..NONE }).await;
    let sidecar = lab.sidecar(&[]);
    for user in 0..3 {
        let mut client = Connection::to(sidecar.address());
        let call = call(&lab.token(user).await.refresh_token).replace("HTTP/1.1", "HTTP/1.0");
        client.send(call);
        let answer = client.response();
        assert!(answer.complete && answer.json()["token"].is_string());
    }
    sidecar.wait_for_log(AGREES);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_is_passed_on_as_far_as_it_came() {
    use crate::support::raw::Upstream;
    use crate::support::rig::{HOME, sidecar};
    let lab = Lab::of(NONE).await;
    for head in ["Transfer-Encoding: chunked\r\n\r\n5\r\n", "Content-Length: 50\r\n\r\n"] {
        let upstream = Upstream::with(move |connection, request| {
            let body = json!({"home": HOME, "namespaces": ["jwt-auth/v1"]}).to_string();
            match request.start_line().contains("token/refresh") {
                true => {
                    let end = if head.contains("chunked") { "\r\n" } else { "" };
                    connection.send(format!("HTTP/1.1 200 OK\r\n{head}{{\"acc{end}"));
                    false
                }
                false => {
                    connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
                    true
                }
            }
        });
        let sidecar = sidecar(&lab.database, upstream.address(), &super::THREE);
        sidecar.wait_for_log("natively once that is verified: home");
        let answer = refresh_at(sidecar.address(), &lab.token(0).await.refresh_token);
        assert!(!answer.complete, "{answer:?}");
        assert_eq!(answer.body, b"{\"acc");
        assert!(!sidecar.log().iter().any(|line| line.contains(DIFFERS)));
    }
}
