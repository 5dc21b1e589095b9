//! Tokens are issued by the slowest of three clocks. Here the site's is behind.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::admin::{admin, get};
use crate::support::mariadb::Database;
use crate::support::raw::Upstream;
use crate::support::rig::{self, HOME, Rig};

/// A rig whose WordPress has a clock behind this machine's by so much.
async fn rig_behind(seconds: u64, native: bool) -> Rig {
    let database = rig::site(Database::shared()).await;
    let user = database.insert_user("alice").await;
    let upstream = Upstream::answering(move |request| {
        let (status, body) = match request.start_line().contains("_fields=home,namespaces") {
            true => (200, json!({"home": HOME, "namespaces": ["jwt-auth/v1"]}).to_string()),
            false => (299, "{}".to_owned()),
        };
        let date = httpdate(SystemTime::now() - Duration::from_secs(seconds));
        format!("HTTP/1.1 {status} X\r\nDate: {date}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    });
    let sidecar = rig::sidecar(&database, upstream.address(), &[("WP_JWT_SIDECAR_ADMIN_LISTEN", "127.0.0.1:0")]);
    sidecar.wait_for_log(if native { "refreshing natively" } else { "leaving the refresh route to WordPress" });
    Rig { database, upstream, sidecar, user }
}

/// RFC 9110, section 5.6.7.
fn httpdate(time: SystemTime) -> String {
    let output = std::process::Command::new("date")
        .args(["-u", &format!("--date=@{}", unix(time)), "+%a, %d %b %Y %H:%M:%S GMT"])
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_issued_by_wordpresss_clock_where_that_is_behind() {
    let rig = rig_behind(5, true).await;
    let token = rig.token().await;
    let answer = rig.refresh(&token.refresh_token);
    let now = unix(SystemTime::now());
    let body = answer.json();
    let claims =
        jsonwebtoken::dangerous::insecure_decode::<Value>(body["access_token"].as_str().unwrap()).unwrap().claims;
    let claim = |name: &str| claims[name].as_u64().unwrap();
    // Behind by five seconds, and by one more for the precision of `Date`.
    assert!((now - 7..=now - 5).contains(&claim("iat")), "{now}: {claims}");
    assert_eq!((claim("nbf"), claim("exp") - claim("iat")), (claim("iat"), 604_800));
    let row = &rig.database.family_rows(&token.token_family).await[1];
    let stored = "SELECT TIMESTAMPDIFF(SECOND, '1970-01-01', issued_at) AS issued FROM wp_jwt_auth_tokens WHERE id = ";
    let stored = rig.database.rows(&format!("{stored}{}", row.get("id").unwrap())).await;
    assert_eq!(stored[0].get("issued"), Some(&*claim("iat").to_string()), "the row is that token's");

    rig.sidecar.wait_for_log("the clocks differ; tokens are issued by the slowest");
    let findings = get(admin(&rig.sidecar), "/status.json").json()["findings"].to_string();
    assert!(findings.contains("WordPress's clock is 4 s or more behind"), "{findings}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_are_far_apart_leave_the_route_to_wordpress() {
    let rig = rig_behind(90, false).await;
    let token = rig.token().await.refresh_token;
    assert_eq!(rig.refresh(&token).status(), 299);
    let line = rig.sidecar.wait_for_log("the clocks differ too much: WordPress's clock is");
    assert!(line.contains("leaving the refresh route to WordPress") && line.contains("behind"), "{line}");
}

/// An accurate clock, with the second of uncertainty that every `Date` has.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_in_time_issues_by_its_own_clock() {
    let rig = rig_behind(0, true).await;
    for _ in 0..5 {
        let before = unix(SystemTime::now());
        let body = rig.refresh(&rig.token().await.refresh_token).json();
        let claims = jsonwebtoken::dangerous::insecure_decode::<Value>(body["access_token"].as_str().unwrap()).unwrap();
        assert!(claims.claims["iat"].as_u64().unwrap() >= before);
    }
    assert!(!rig.sidecar.log().iter().any(|line| line.contains("the clocks differ")));
}
