//! A request has one id everywhere: at the proxy in front, in the sidecar's log, on the site and on
//! an error page.

use crate::support::mariadb::Database;
use crate::support::port::Port;
use crate::support::raw::{Connection, Message, Upstream};
use crate::support::rig::{ROUTE, Rig, refresh_at};
use crate::support::sidecar::Sidecar;

const TRUSTING: &[&str] = &["--forwarded-trusted-proxies", "127.0.0.1"];

fn ask(sidecar: &Sidecar, fields: &str) -> Message {
    let mut client = Connection::to(sidecar.address());
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    client.response()
}

fn ids_that_arrive(arguments: &[&str], fields: &str) -> Vec<String> {
    let upstream = Upstream::answering(|_| "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let sidecar = Sidecar::forwarding_with(upstream.address(), arguments);
    let answer = ask(&sidecar, fields);
    assert!(answer.value("x-request-id").is_none(), "the site's answers pass unchanged");
    upstream.request().values("x-request-id")
}

fn is_own(id: &str) -> bool {
    id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[test]
fn a_trusted_proxys_name_is_everywhere() {
    let fields = "X-Request-ID: b3f1:2.5_x=/+@\r\n";
    assert_eq!(ids_that_arrive(TRUSTING, fields), ["b3f1:2.5_x=/+@"]);
    let closed = Port::reserve();
    let sidecar = Sidecar::forwarding_with(closed.address(), TRUSTING);
    let answer = ask(&sidecar, fields);
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.value("x-request-id").as_deref(), Some("b3f1:2.5_x=/+@"));
    assert_eq!(answer.json()["data"]["request_id"], "b3f1:2.5_x=/+@");
    sidecar.wait_for_log("\"request_id\":\"b3f1:2.5_x=/+@\"");
}

#[test]
fn a_strangers_name_gives_way_to_our_own() {
    for (arguments, fields) in [
        (&[][..], "X-Request-Id: mine\r\n"),
        (TRUSTING, "X-Request-Id: with space\r\n"),
        (TRUSTING, "X-Request-Id: a\r\nX-Request-Id: b\r\n"),
        (TRUSTING, "X-Request-Id: \r\n"),
        (TRUSTING, ""),
    ] {
        let ids = ids_that_arrive(arguments, fields);
        assert!(matches!(&ids[..], [id] if is_own(id)), "{arguments:?} {fields:?}: {ids:?}");
    }
    let closed = Port::reserve();
    let sidecar = Sidecar::forwarding(closed.address());
    let id = ask(&sidecar, "X-Request-Id: mine\r\n").value("x-request-id").unwrap();
    assert!(is_own(&id), "{id}");
    assert!(sidecar.wait_for_log(&id).contains("502"));
}

#[test]
fn preserve_leaves_it_alone() {
    let preserve = ["--forwarded-request-id", "preserve"];
    assert_eq!(ids_that_arrive(&preserve, "X-Request-Id: mine\r\n"), ["mine"]);
    assert!(ids_that_arrive(&preserve, "").is_empty());
    // PHP reads both as one field.
    let fields = "X-Request-Id: mine\r\nX_Request_ID: other\r\n";
    let upstream = Upstream::answering(|_| "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let sidecar = Sidecar::forwarding_with(upstream.address(), &preserve);
    ask(&sidecar, fields);
    assert!(upstream.request().values("x_request_id").is_empty());
}

#[tokio::test]
async fn a_native_answer_has_a_name_only_where_a_proxy_gave_one() {
    let rig = Rig::start_on(Database::shared(), &[("WP_JWT_SIDECAR_FORWARDED_TRUSTED_PROXIES", "127.0.0.1")]).await;
    let answer = refresh_at(rig.sidecar.address(), &rig.token().await.refresh_token);
    assert_eq!((answer.status(), answer.value("x-request-id")), (200, None));
    let mut client = Connection::to(rig.sidecar.address());
    client.send(format!(
        "POST {ROUTE} HTTP/1.1\r\nHost: shop.example\r\nX-Request-Id: from-the-proxy\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
    ));
    let answer = client.response();
    assert_eq!((answer.status(), answer.value("x-request-id").as_deref()), (400, Some("from-the-proxy")));
}
