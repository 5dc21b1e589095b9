//! Native responses under the plugin's settings and the sidecar's keys, and their limits: in any
//! doubt a request reaches WordPress unchanged.

mod clocks;
mod closed;
mod forwarded;
mod hosts;
mod noticed;

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::mariadb::Database;
use crate::support::raw::{Connection, Message};
use crate::support::rig::{self, HOME, ROUTE, Rig, call_with, eventually};
use crate::support::sidecar::{command, tells_a_secret};

/// A refresh with this token and additional fields.
fn present(rig: &Rig, token: &str, fields: &str) -> Message {
    send(rig, call_with(&json!({"refresh_token": token}), fields))
}

fn send(rig: &Rig, bytes: impl AsRef<[u8]>) -> Message {
    let mut client = Connection::to(rig.sidecar.address());
    client.send(bytes);
    client.response()
}

/// A rig whose site has these settings, and whose sidecar trusts proxies on loopback.
async fn rig_with(settings: &[(&str, &str, &str)], environment: &[(&str, &str)]) -> Rig {
    let mut all = vec![("WP_JWT_SIDECAR_FORWARDED_TRUSTED_PROXIES", "127.0.0.0/8")];
    all.extend_from_slice(environment);
    Rig::start_with_settings(Database::shared(), &rig::settings(settings), &all).await
}

const LIMIT_OF_THREE: [(&str, &str, &str); 3] = [
    ("rate_limit_settings", "enabled", "b:1;"),
    ("rate_limit_settings", "max_requests", "i:3;"),
    ("rate_limit_settings", "window_minutes", "s:1:\"1\";"),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_rate_limit_is_the_plugins() {
    let rig = rig_with(&LIMIT_OF_THREE, &[]).await;
    let number = |answer: &Message, name: &str| answer.value(name).and_then(|value| value.parse::<u64>().ok());
    let from = "X-Forwarded-For: 203.0.113.5\r\n";
    let first = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();

    // 400s are not counted, and show nothing about the limit.
    let answer = send(&rig, call_with(&json!({"other": 1}), from));
    assert_eq!((answer.status(), number(&answer, "x-ratelimit-limit")), (400, None), "{answer:?}");

    let mut reset = None;
    let mut token = rig.token().await.refresh_token;
    for (remaining, status) in [(2, 200), (1, 403), (0, 200)] {
        let answer = present(&rig, if status == 200 { &token } else { "none" }, from);
        assert_eq!(
            (answer.status(), number(&answer, "x-ratelimit-remaining")),
            (status, Some(remaining)),
            "{answer:?}"
        );
        assert_eq!((number(&answer, "x-ratelimit-limit"), answer.value("retry-after")), (Some(3), None));
        reset = reset.or(number(&answer, "x-ratelimit-reset"));
        assert_eq!(number(&answer, "x-ratelimit-reset"), reset, "one window for all");
        if status == 200 {
            token = answer.json()["refresh_token"].as_str().unwrap().to_owned();
        }
    }
    let reset = reset.unwrap();
    assert!((first + 60..first + 80).contains(&reset), "{reset}, {first}");

    let answer = present(&rig, &token, from);
    let wait = number(&answer, "retry-after").unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!((answer.status(), number(&answer, "x-ratelimit-reset")), (429, Some(reset)));
    assert_eq!(
        answer.json(),
        json!({"code": "jwt_auth_rate_limited", "message": "Rate limit exceeded", "data": {"status": 429, "retry_after": wait}})
    );

    // Per address: another client of the same proxy has its own window; addresses that a client
    // writes itself are ignored.
    for other in ["X-Forwarded-For: 203.0.113.6\r\n", "X-Forwarded-For: 2001:db8::5\r\n", ""] {
        let answer = present(&rig, "none", other);
        assert_eq!((answer.status(), number(&answer, "x-ratelimit-remaining")), (403, Some(2)), "{other}");
    }
    assert_eq!(present(&rig, &token, "X-Forwarded-For: 9.9.9.9, 203.0.113.5\r\n").status(), 429);
    let rows = rig.database.token_rows_after(0).await;
    let addresses: Vec<_> = rows.iter().skip(1).map(|row| row.get("ip_address")).collect();
    assert_eq!(addresses, [Some("203.0.113.5"); 2]);
    assert_eq!(rig.forwarded(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_choose_its_address() {
    let rig = Rig::start_with_settings(Database::shared(), &rig::settings(&LIMIT_OF_THREE), &[]).await;
    let statuses: Vec<u16> = (0..5)
        .map(|at| {
            present(&rig, "none", &format!("X-Forwarded-For: 203.0.113.{at}\r\nX-Real-IP: 203.0.113.{at}\r\n")).status()
        })
        .collect();
    assert_eq!(statuses, [403, 403, 403, 429, 429]);
}

/// The shortest window of the setting is a minute, and so is the duration of this test.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_ends() {
    let rig = rig_with(&LIMIT_OF_THREE, &[]).await;
    let statuses: Vec<u16> = (0..4).map(|_| present(&rig, "none", "").status()).collect();
    assert_eq!(statuses, [403, 403, 403, 429]);
    let refused = present(&rig, "none", "");
    let wait: u64 = refused.value("retry-after").unwrap().parse().unwrap();
    tokio::time::sleep(Duration::from_secs(wait)).await;
    let answer = present(&rig, "none", "");
    assert_eq!((answer.status(), answer.value("x-ratelimit-remaining").as_deref()), (403, Some("2")), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn analytics_are_anonymized_where_the_site_wants_it() {
    let rig =
        rig_with(&[("rate_limit_settings", "enabled", "b:0;"), ("data_management", "anonymize_ip", "s:1:\"1\";")], &[])
            .await;
    let clients = [
        ("203.0.113.77", "203.0.113.0", "ZZ"),
        ("2a00:1450:1:2:3:4:5:6", "2a00:1450:1:2::", "ZZ"),
        ("10.1.2.3", "10.1.2.0", "--"),
    ];
    for (address, ..) in clients {
        let token = rig.token().await;
        assert_eq!(present(&rig, &token.refresh_token, &format!("X-Forwarded-For: {address}\r\n")).status(), 200);
        let child = &rig.database.family_rows(&token.token_family).await[1];
        assert_eq!(child.get("ip_address"), Some(address), "a token's row holds it whole");
    }
    eventually("the rows", || async { rig.database.analytics_rows_after(0).await.len() >= clients.len() }).await;
    let rows = rig.database.analytics_rows_after(0).await;
    let stored: Vec<_> = rows.iter().map(|row| (row.get("ip_address"), row.get("country_code"))).collect();
    assert_eq!(stored, clients.map(|(_, anonymized, country)| (Some(anonymized), Some(country))));
}

#[tokio::test(flavor = "multi_thread")]
async fn analytics_can_be_left_out() {
    let rig = Rig::start_on(Database::shared(), &[("WP_JWT_SIDECAR_REFRESH_ANALYTICS", "false")]).await;
    assert_eq!(rig.refresh(&rig.token().await.refresh_token).status(), 200);
    let Rig { database, mut sidecar, .. } = rig;
    sidecar.signal("TERM");
    assert!(sidecar.wait().success(), "what waits to be written is written before the end");
    assert_eq!(database.analytics_rows_after(0).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn response_fields_are_those_of_the_key() {
    let documented = ["token", "user_id", "user_email", "user_nicename", "user_display_name"];
    let oauth2 = ["access_token", "expires_in", "token_type"];
    let both = [&documented[..], &oauth2].concat();
    for (key, fields) in [("documented", &documented[..]), ("oauth2", &oauth2), ("all", &both)] {
        let rig = Rig::start_on(Database::shared(), &[("WP_JWT_SIDECAR_REFRESH_RESPONSE_FIELDS", key)]).await;
        let answer = rig.refresh(&rig.token().await.refresh_token);
        let body = answer.json();
        let mut names: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names.pop(), Some("refresh_token"), "{key}");
        assert_eq!(names, fields, "{key}");
        for (name, value) in [
            ("user_id", json!(rig.user.id)),
            ("user_email", json!(rig.user.email)),
            ("user_nicename", json!(rig.user.nicename)),
            ("user_display_name", json!(rig.user.display_name)),
            ("expires_in", json!(604_800)),
            ("token_type", json!("Bearer")),
        ] {
            assert!(!fields.contains(&name) || body[name] == value, "{key}: {name} is {}", body[name]);
        }
        let token = body.get("access_token").or(body.get("token")).and_then(Value::as_str).unwrap();
        let claims = jsonwebtoken::dangerous::insecure_decode::<Value>(token).unwrap().claims;
        assert_eq!((&claims["iss"], &claims["data"]["user"]["id"]), (&json!(HOME), &json!(rig.user.id.to_string())));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_and_queries_are_native_too() {
    let rig = Rig::start().await;
    for form in ["refresh_token=T", "grant_type=refresh_token&refresh_token=T&client_id=app", "refresh_token=+T%20%0a"]
    {
        let token = rig.token().await.refresh_token;
        let form = form.replace('T', &token);
        let answer = send(
            &rig,
            format!(
                "POST {ROUTE} HTTP/1.1\r\nHost: shop.example\r\nContent-Type: application/x-www-form-urlencoded; charset=UTF-8\r\n\
                 Content-Length: {}\r\n\r\n{form}",
                form.len()
            ),
        );
        assert_eq!(answer.status(), 200, "{form}");
    }
    for target in [
        "/wp-json/jwt-auth/v1/token/refresh?refresh_token=T",
        "/index.php/wp-json/JWT-auth/v1/token/refresh/?refresh_token=T",
    ] {
        let token = rig.token().await.refresh_token;
        let target = target.replace("=T", &format!("={token}"));
        let answer = send(&rig, format!("POST {target} HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 0\r\n\r\n"));
        assert_eq!(answer.status(), 200);
    }
    let token = rig.token().await.refresh_token;
    let body = json!({"refresh_token": token}).to_string();
    let (first, second) = body.split_at(20);
    let chunks = format!(
        "POST /?rest_route=/jwt-auth/v1/token/refresh HTTP/1.1\r\nHost: shop.example\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n14\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n",
        second.len()
    );
    assert_eq!(send(&rig, chunks).status(), 200);
    assert_eq!(rig.forwarded(), 0);
    // A token in a query is a secret that the analytics would store.
    eventually("the rows", || async { rig.database.analytics_rows_after(0).await.len() >= 6 }).await;
    for row in rig.database.analytics_rows_after(0).await {
        assert!(!row.get("request_path").unwrap().contains("refresh_token"), "{row:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_what_serve_would_do_and_no_secret() {
    let rig = Rig::start().await;
    let check = |upstream: &str, database: &str| {
        let output = command()
            .arg("check")
            .envs(rig::command_environment(&rig.database, rig.upstream.address()))
            .envs([("WP_JWT_SIDECAR_UPSTREAM_URL", upstream), ("WP_JWT_SIDECAR_WORDPRESS_DATABASE_URL", database)])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0));
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert!(!tells_a_secret(&said), "{said}");
        said
    };
    let upstream = format!("http://{}", rig.upstream.address());
    let said = check(&upstream, rig.database.url());
    let found = format!("refreshing natively: home {HOME}, algorithm HS256, plugin jwt-auth-pro/jwt-auth-pro.php");
    let used = "used tokens: a used refresh token that comes again within 10s gets the same pair once more, never";
    for wanted in [&found, "sidecar@", "wp_jwt_auth_tokens", &upstream, used] {
        assert!(said.contains(wanted), "no {wanted:?} in\n{said}");
    }
    let said = check("http://127.0.0.1:1", rig.database.url());
    assert!(said.contains("leaving the refresh route to WordPress: WordPress has not answered"), "{said}");
    let said = check(&upstream, "mysql://nobody:nothing@127.0.0.1:1/none");
    assert!(said.contains("leaving the refresh route to WordPress: the site's settings cannot be read"), "{said}");
    rig.database.set_option("active_plugins", "a:0:{}").await;
    let said = check(&upstream, rig.database.url());
    assert!(said.contains("leaving the refresh route to WordPress: the plugin JWT Auth Pro is not active"), "{said}");
}

/// Every test's sidecar is checked with it, so it must find what it looks for.
#[test]
fn the_search_for_secrets_finds_them() {
    let token = crate::support::mariadb::random_hex::<16>();
    for secret in [
        &*token,
        &token.to_uppercase(),
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.e30.c2ln",
        rig::SECRET,
        rig::AUTH_KEY,
        rig::AUTH_SALT,
        "mysql://sidecar:p%40ss%3Aw%2Frd%201@localhost",
    ] {
        assert!(tells_a_secret(&format!("\"error\":\"at {secret}\"")), "{secret}");
    }
    assert!(!tells_a_secret("refresh token 0a1b2c3d, file /tmp/wp-jwt-sidecar.0123456789abcdef/x"));
}
