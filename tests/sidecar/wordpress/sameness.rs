//! The rest of a site is the same through the sidecar as without it: status, header, body.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::{Client, set, write};
use crate::support::mariadb::TestDatabase;
use crate::support::raw::Message;
use crate::support::rig::eventually;
use crate::support::sidecar::Sidecar;
use crate::support::site::Site;

/// What no proxy passes on unchanged (RFC 9110, section 7.6.1), and what changes by itself.
const OF_THE_CONNECTION: [&str; 3] = ["Connection", "Transfer-Encoding", "Date"];

const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";

const UPLOAD: usize = 30 * 1024 * 1024;

/// In seconds.
const YEAR: u64 = 31_536_000;

/// The same site, directly and through the sidecar.
struct Ways<'a> {
    directly: Client<'a>,
    through: Client<'a>,
}

impl<'a> Ways<'a> {
    fn to(site: &'a Site, sidecar: SocketAddr) -> Ways<'a> {
        Ways { directly: Client::of(site, site.upstream()), through: Client::of(site, sidecar) }
    }

    /// Sends a request both ways, requires the same response, and returns it.
    fn same(&self, method: &str, target: &str, fields: &str, body: &str) -> Message {
        let send = |client: &Client<'_>| client.send(method, target, fields, body.as_bytes());
        // PHP's clock may be some milliseconds behind.
        let begun = unix_seconds() - 1;
        let (directly, through) = (send(&self.directly), send(&self.through));
        let [one, other] = [&directly, &through].map(|message| without_now(message, begun..=unix_seconds()));
        assert_same(&format!("{method} {target}"), &one, &other);
        through
    }
}

/// A message without the times in `now`, which WordPress writes into the cookies of a user's
/// settings and into the pages that set them, since the two responses were made at two times.
fn without_now(message: &Message, now: RangeInclusive<u64>) -> Message {
    let mut head = String::from_utf8(message.head.clone()).unwrap();
    let mut body = message.body.clone();
    let is_page = message.value("content-type").is_some_and(|kind| kind.starts_with("text/html"));
    for second in now {
        let expires = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second + YEAR));
        head = head.replace(&format!("={second}; expires={expires}; Max-Age={YEAR};"), "=now; for a year;");
        let time = format!("\"time\":\"{second}\"").into_bytes();
        if is_page && let Some(at) = body.windows(time.len()).position(|window| window == time) {
            body.splice(at..at + time.len(), *b"now");
        }
    }
    Message { head: head.into_bytes(), body, complete: message.complete }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn assert_same(what: &str, directly: &Message, through: &Message) {
    assert!(directly.complete && through.complete, "{what}");
    assert_eq!(directly.start_line(), through.start_line(), "{what}");
    assert_eq!(fields(directly), fields(through), "{what}");
    assert_eq!(directly.values("transfer-encoding"), through.values("transfer-encoding"), "{what}: framing");
    // Megabytes should not be printed.
    if directly.body != through.body {
        let differing = directly.body.iter().zip(&through.body).position(|(one, other)| one != other);
        let around = |message: &Message| {
            let at = differing.unwrap_or(message.body.len().min(through.body.len()));
            let range = at.saturating_sub(60)..message.body.len().min(at + 60);
            String::from_utf8_lossy(&message.body[range]).into_owned()
        };
        panic!("{what}: the bodies differ at {differing:?}: {:?} and {:?}", around(directly), around(through));
    }
}

/// The header lines that can be equal, with names as they arrived. Lines with the same name stay in
/// order; the order of different names has no meaning (RFC 9110, section 5.3), and hyper's map
/// keeps lines with one name together. A session's cookie has a secret of its own.
fn fields(message: &Message) -> Vec<(String, String)> {
    let mut fields = message.fields();
    fields.retain(|(name, _)| !OF_THE_CONNECTION.iter().any(|left_out| name.eq_ignore_ascii_case(left_out)));
    for (name, value) in &mut fields {
        if name.eq_ignore_ascii_case("set-cookie") && value.contains("%7C") {
            *value = without_secret(value);
        }
    }
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    fields
}

/// `name=value; attributes` without the value.
fn without_secret(cookie: &str) -> String {
    let (name, rest) = cookie.split_once('=').unwrap();
    let attributes = rest.split_once(';').map_or("", |(_, attributes)| attributes);
    format!("{name}=…;{attributes}")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_site_is_the_same_through_the_sidecar() {
    let site = Site::up(&[]);
    set(&site, "rate_limit_settings", "enabled", "false");
    let sidecar = Sidecar::of_site(site.upstream(), site.wp_config(), &[]);
    let ways = Ways::to(&site, sidecar.address());

    pages_and_files(&site, &ways);
    administration(&site, &ways);
    an_upload(&site, &ways, &site.database()).await;
    cron(&site, &ways).await;
}

fn pages_and_files(site: &Site, ways: &Ways<'_>) {
    let status = |method, target, fields| ways.same(method, target, fields, "").status();
    let style = "/wp-content/themes/plain/style.css";
    for (method, target, fields, expected) in [
        ("GET", "/", "", 200),
        ("HEAD", "/", "", 200),
        ("GET", "/hello-world/", "", 200),
        ("GET", "/?p=1", "", 301),
        ("GET", "/no-such-page/", "", 404),
        ("GET", "/feed/", "", 200),
        ("GET", "/robots.txt", "", 200),
        ("GET", "/wp-json/", "", 200),
        ("GET", "/wp-json/wp/v2/posts?_embed", "Origin: https://app.example\r\n", 200),
        ("OPTIONS", "/wp-json/jwt-auth/v1/token/refresh", "Origin: https://app.example\r\n", 200),
        ("GET", "/wp-json/jwt-auth/v1/token/refresh", "", 404),
        ("DELETE", "/wp-json/wp/v2/posts/1", "", 401),
        ("GET", "/wp-admin/", "", 302),
        ("GET", "/xmlrpc.php", "", 405),
        ("GET", style, "", 200),
        ("HEAD", style, "", 200),
        ("GET", style, "Range: bytes=10-19\r\n", 206),
        ("GET", style, "If-None-Match: *\r\n", 304),
        ("GET", "/wp-includes/js/jquery/jquery.min.js", "", 200),
        ("GET", "/wp-includes/images/w-logo-blue.png", "", 200),
        ("GET", "/wp-content/none.png", "", 404),
    ] {
        assert_eq!(status(method, target, fields), expected, "{method} {target}");
    }
    let comment = "comment=Hello&author=Bob&email=bob%40example.org&comment_post_ID=1";
    let answer = ways.through.send("POST", "/wp-comments-post.php", FORM, comment.as_bytes());
    assert_eq!(answer.status(), 302, "{answer:?}");
    let stored = site.php("echo get_comments( array( 'author_email' => 'bob@example.org' ) )[0]->comment_author_IP;");
    assert_eq!(stored, "127.0.0.1", "PHP knows the client's address");
}

/// A login with cookies, and pages that only logged-in users see.
fn administration(site: &Site, ways: &Ways<'_>) {
    ways.same("GET", "/wp-login.php", "", "");
    let credentials = format!(
        "log={}&pwd={}&wp-submit=Log+In&testcookie=1&redirect_to={}",
        site.said("ADMIN_USER"),
        site.said("ADMIN_PASSWORD"),
        format!("{}/wp-admin/", site.home()).replace(':', "%3A").replace('/', "%2F")
    );
    let form = format!("{FORM}Cookie: wordpress_test_cookie=WP%20Cookie%20check\r\n");
    let login = ways.same("POST", "/wp-login.php", &form, &credentials);
    assert_eq!(login.value("location"), Some(format!("{}/wp-admin/", site.home())), "{login:?}");
    // The first of each name, since a browser selects by path.
    let cookies: Vec<String> = login
        .values("set-cookie")
        .iter()
        .filter(|cookie| cookie.contains("path=/wp-admin") || cookie.contains("_logged_in_"))
        .map(|cookie| cookie.split(';').next().unwrap().to_owned())
        .collect();
    assert_eq!(cookies.len(), 2, "{login:?}");
    let cookies = format!("Cookie: {}\r\n", cookies.join("; "));
    // The first visit stores settings of the user, which change the next page.
    ways.directly.send("GET", "/wp-admin/", &cookies, b"");
    for target in
        ["/wp-admin/edit.php", "/wp-admin/users.php", "/wp-admin/load-styles.php?c=1&load%5Bchunk_0%5D=common"]
    {
        let page = ways.same("GET", target, &cookies, "");
        assert_eq!(page.status(), 200, "{target}");
    }
    let dashboard = ways.through.send("GET", "/wp-admin/", &cookies, b"");
    assert!(String::from_utf8_lossy(&dashboard.body).contains("Dashboard"), "{:?}", dashboard.start_line());
    let posted = ways.same("POST", "/wp-admin/admin-ajax.php", &format!("{cookies}{FORM}"), "");
    assert_eq!(posted.status(), 400, "no action");
}

/// Uploads 30 MB each way and downloads them both ways.
async fn an_upload(site: &Site, ways: &Ways<'_>, database: &TestDatabase) {
    let admin = ways.through.log_in(site.said("ADMIN_USER"), site.said("ADMIN_PASSWORD"));
    let authorization = format!("Authorization: Bearer {}\r\n", admin.access_token);
    let fields = format!(
        "{authorization}Content-Type: text/plain\r\nContent-Disposition: attachment; filename=\"large.txt\"\r\n"
    );
    // No two megabytes are equal.
    let content: Vec<u8> = (0..UPLOAD / 16).flat_map(|line| format!("{line:015}\n").into_bytes()).collect();
    let next = database.rows("SELECT MAX(ID) + 1 AS next FROM wp_posts").await[0].get("next").unwrap().to_owned();

    let mut answers = Vec::new();
    for client in [&ways.directly, &ways.through] {
        let answer = client.send("POST", "/wp-json/wp/v2/media", &fields, &content);
        assert_eq!(answer.status(), 201, "{answer:?}");
        let media = answer.json();
        let url = media["source_url"].as_str().unwrap();
        let target = url.strip_prefix(site.home()).unwrap();
        let down = ways.same("GET", target, "", "");
        assert!(down.body == content, "{} bytes came back", down.body.len());
        answers.push(answer);

        let delete = format!("/wp-json/wp/v2/media/{}?force=true", media["id"]);
        assert_eq!(client.send("DELETE", &delete, &authorization, b"").status(), 200);
        database.execute(&format!("ALTER TABLE wp_posts AUTO_INCREMENT = {next}")).await;
    }
    let [directly, through] = answers.try_into().unwrap();
    assert_eq!(fields_without_times(&directly), fields_without_times(&through));
}

/// A response about a new attachment, without the times of its creation.
fn fields_without_times(answer: &Message) -> (Vec<(String, String)>, Value) {
    let mut body = answer.json();
    for time in ["date", "date_gmt", "modified", "modified_gmt"] {
        assert!(body[time].take().is_string(), "{time}");
    }
    let length = |(name, _): &(String, String)| !name.eq_ignore_ascii_case("content-length");
    (fields(answer).into_iter().filter(length).collect(), body)
}

/// `wp-cron.php` answers immediately and continues to work.
async fn cron(site: &Site, ways: &Ways<'_>) {
    write(
        &Path::new(site.said("ROOT")).join("wp-content/mu-plugins/cron.php"),
        "<?php add_action( 'of_the_test', fn() => update_option( 'of_the_test', 'done' ) );",
    );
    site.php("wp_schedule_single_event( time() - 60, 'of_the_test' );");
    let answer = ways.through.send("GET", "/wp-cron.php?doing_wp_cron", "", b"");
    assert_eq!((answer.status(), answer.body.len()), (200, 0), "{answer:?}");
    eventually("the event has run", || async { site.php("echo get_option( 'of_the_test' );") == "done" }).await;
    ways.same("GET", "/wp-cron.php", "", "");
}
