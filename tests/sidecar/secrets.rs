//! No token, key, salt or password in any output of the sidecar: its log at level trace, its
//! errors, its metrics.

use crate::support::mariadb::{Database, TokenState, random_hex};
use crate::support::raw::Connection;
use crate::support::rig::{ROUTE, Rig, refresh_at};
use crate::support::secrets;

/// All outcomes of a refresh at level trace, and every kind of log line. The search finds a planted
/// secret, and nothing else in the lines of all sidecars that other tests have run so far.
#[tokio::test]
async fn nothing_that_is_said_holds_a_secret() {
    let environment = [
        ("WP_JWT_SIDECAR_LOG_LEVEL", "info,wp_jwt_sidecar=trace"),
        ("WP_JWT_SIDECAR_LOG_ACCESS", "true"),
        ("WP_JWT_SIDECAR_REFRESH_REUSE_INTERVAL", "30s"),
        ("WP_JWT_SIDECAR_REFRESH_REUSE_DETECTION", "revoke_family"),
    ];
    let rig = Rig::start_on(Database::shared(), &environment).await;
    let at = rig.sidecar.address();
    let live = rig.token().await.refresh_token;
    for _ in 0..2 {
        assert_eq!(refresh_at(at, &live).status(), 200);
    }
    for state in [TokenState::Used, TokenState::Expired, TokenState::Revoked, TokenState::Orphan] {
        let token = rig.database.insert_token(state, rig.user.id).await.refresh_token;
        assert!(refresh_at(at, &token).status() >= 400);
    }
    let unknown = random_hex::<16>();
    secrets::register(&unknown);
    assert_eq!(refresh_at(at, &unknown).status(), 403);
    let ask = |request: String| {
        let mut client = Connection::to(at);
        client.send(request);
        client.response().status()
    };
    // A token in the query: of a request that the sidecar answers, leaves to WordPress, forwards on
    // another route, and refuses.
    let host = "Host: shop.example\r\nContent-Length: 0\r\n\r\n";
    for target in [
        format!("POST {ROUTE}?refresh_token={unknown}"),
        format!("POST {ROUTE}?refresh_token={unknown}&_fields=a"),
        format!("GET /?key={unknown}"),
    ] {
        ask(format!("{target} HTTP/1.1\r\nAuthorization: Bearer {unknown}\r\nCookie: a={unknown}\r\n{host}"));
    }
    assert_eq!(ask(format!("GET /?key={unknown} HTTP/1.1\r\nHost: a\r\nHost: {unknown}\r\n\r\n")), 400);
    assert_eq!(ask(format!("GET /?key=#{unknown} HTTP/1.1\r\nHost: a\r\n\r\n")), 400);

    let planted = format!("planted-{}", random_hex::<8>());
    secrets::plant(&planted);
    ask(format!("GET / HTTP/1.1\r\nUser-Agent: {planted}\r\nHost: shop.example\r\n\r\n"));
    rig.sidecar.wait_for_log(&planted);
    let (found, leaked): (Vec<_>, Vec<_>) =
        secrets::lines_with_secrets().into_iter().partition(|line| line.contains("planted-"));
    assert!(found.iter().any(|line| line.contains(&planted)), "the search does not find what is there");
    assert!(leaked.is_empty(), "secrets in logs: {leaked:#?}");
}
