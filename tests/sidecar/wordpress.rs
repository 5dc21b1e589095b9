//! The main function on a real site: WordPress, PHP-FPM, nginx, MariaDB and the stand-in for the
//! plugin, with the real binary in front. WordPress must treat the sidecar's answers exactly like
//! its own.

mod addresses;
mod algorithms;
mod bedrock;
mod home;
mod language;
mod sameness;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::mariadb::TestDatabase;
use crate::support::raw::{Connection, Message};
use crate::support::rig::{ROUTE, eventually};
use crate::support::sidecar::Sidecar;
use crate::support::site::Site;

/// No client has this token.
const UNKNOWN_TOKEN: &str = "00000000000000000000000000000000";

/// A client of a site, through the sidecar or directly.
struct Client<'a> {
    address: SocketAddr,
    host: &'a str,
    /// The path of the home URL.
    path: &'a str,
    /// The REST API's path below the home URL, up to the route: `/wp-json`.
    rest: &'a str,
    /// Additional header lines of each request, each with its line end.
    fields: &'a str,
}

/// The result of a login or a refresh.
#[derive(Clone)]
struct Pair {
    access_token: String,
    refresh_token: String,
}

impl<'a> Client<'a> {
    fn of(site: &'a Site, address: SocketAddr) -> Client<'a> {
        Client { address, host: site.host(), path: "", rest: "/wp-json", fields: "" }
    }

    /// A request on a connection of its own.
    fn send(&self, method: &str, target: &str, fields: &str, body: &[u8]) -> Message {
        let mut connection = Connection::to(self.address);
        connection.send(format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n{}{fields}\r\n",
            self.host,
            body.len(),
            self.fields
        ));
        connection.send(body);
        connection.response_to(method)
    }

    fn post(&self, route: &str, body: &Value) -> Message {
        let target = format!("{}{}{route}", self.path, self.rest);
        self.send("POST", &target, "Content-Type: application/json\r\n", body.to_string().as_bytes())
    }

    /// Logs in with a password.
    fn log_in(&self, user: &str, password: &str) -> Pair {
        pair(&self.post("/jwt-auth/v1/token", &json!({"username": user, "password": password})))
    }

    fn log_in_to(&self, site: &Site) -> Pair {
        self.log_in(site.said("USER"), site.said("USER_PASSWORD"))
    }

    fn refresh(&self, refresh_token: &str) -> Message {
        self.post("/jwt-auth/v1/token/refresh", &json!({"refresh_token": refresh_token}))
    }

    /// Refreshes; the response must be a success by the sidecar itself.
    fn refresh_natively(&self, refresh_token: &str) -> Pair {
        let answer = self.refresh(refresh_token);
        assert!(is_native(&answer), "{answer:?}");
        pair(&answer)
    }

    /// WordPress's description of the user whose access token this is.
    fn me(&self, access_token: &str) -> Message {
        // Before the query, if the query contains the route.
        let target = format!("{}{}/wp/v2/users/me", self.path, self.rest);
        self.send("GET", &target, &format!("Authorization: Bearer {access_token}\r\n"), b"")
    }

    fn assert_is_ada(&self, access_token: &str) {
        let me = self.me(access_token);
        assert_eq!((me.status(), me.json()["name"].as_str()), (200, Some("Ada Lovelace")), "{me:?}");
    }
}

fn pair(answer: &Message) -> Pair {
    assert_eq!(answer.status(), 200, "{answer:?}");
    let body = answer.json();
    let field = |name: &str| body[name].as_str().unwrap_or_else(|| panic!("no {name} in {body}")).to_owned();
    // The plugin's login returns the one name, its refresh the other, the sidecar both.
    let access_token = if body["access_token"].is_null() { "token" } else { "access_token" };
    Pair { access_token: field(access_token), refresh_token: field("refresh_token") }
}

/// Whether the response is a success by the sidecar itself: WordPress sends no `no-store` to
/// clients that are not logged in.
fn is_native(answer: &Message) -> bool {
    answer.status() == 200 && answer.value("cache-control").as_deref() == Some("no-store")
}

fn claims(access_token: &str) -> Value {
    jsonwebtoken::dangerous::insecure_decode::<Value>(access_token).unwrap().claims
}

/// Changes one of the plugin's settings as its settings page does. `value` is PHP.
fn set(site: &Site, section: &str, key: &str, value: &str) {
    site.php(&format!(
        "$s = get_option( 'jwt_auth_pro_settings' ); $s['{section}']['{key}'] = {value}; update_option( 'jwt_auth_pro_settings', $s );"
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_refreshed_natively_and_wordpress_takes_the_new_token() {
    let site = Site::up(&[]);
    set(&site, "rate_limit_settings", "enabled", "false");
    let sidecar = Sidecar::of_site(site.upstream(), site.wp_config(), &[]);
    let client = Client::of(&site, sidecar.address());
    let database = site.database();
    let ada = database.rows("SELECT ID FROM wp_users WHERE user_login = 'ada'").await[0].get("ID").unwrap().to_owned();

    let first = client.log_in_to(&site);
    client.assert_is_ada(&first.access_token);
    let login_row = database.token_rows_after(0).await.pop().unwrap();
    let (_, last_event) = database.last_ids().await;

    let answer = client.refresh(&first.refresh_token);
    assert!(is_native(&answer), "{answer:?}");
    let body = answer.json();
    assert_eq!(
        [&body["user_id"], &body["user_email"], &body["user_display_name"], &body["token"]],
        [&json!(ada.parse::<u64>().unwrap()), &json!("ada@example.org"), &json!("Ada Lovelace"), &body["access_token"]]
    );
    let second = pair(&answer);
    let reached = site.requests();
    assert!(reached.iter().any(|request| request == "POST /wp-json/jwt-auth/v1/token"), "the login was forwarded");
    assert!(!reached.iter().any(|request| request.contains("token/refresh")), "{reached:?}");

    client.assert_is_ada(&second.access_token);
    let of_old = client.me(&first.access_token);
    assert_eq!(of_old.status(), 401, "the old access token: {of_old:?}");
    // Within the reuse interval the same pair again, and no event; after it, WordPress's response.
    let again = client.refresh_natively(&first.refresh_token);
    assert_eq!((again.access_token, again.refresh_token), (second.access_token.clone(), second.refresh_token.clone()));
    let earlier = "UPDATE wp_jwt_auth_tokens SET revoked_at = revoked_at - INTERVAL 12 SECOND WHERE id = ";
    database.execute(&format!("{earlier}{}", login_row.get("id").unwrap())).await;
    let of_old = client.refresh(&first.refresh_token);
    assert_eq!((of_old.status(), &of_old.json()["code"]), (403, &json!("jwt_auth_invalid_refresh_token")));
    let wanted = "SELECT event_status, failure_reason, user_id, token_id, request_path FROM wp_jwt_auth_analytics \
                  WHERE event_type = 'token_refresh' AND id > ";
    let wanted = format!("{wanted}{last_event} ORDER BY id");
    // The sidecar writes its analytics rows after its responses, PHP writes them immediately.
    eventually("the sidecar's analytics rows", || async { database.rows(&wanted).await.len() >= 2 }).await;
    let directly = Client::of(&site, site.upstream()).refresh(&first.refresh_token);
    assert_eq!((directly.status(), directly.json()), (403, of_old.json()), "WordPress itself says the same");

    let rows = database.family_rows(login_row.get("token_family").unwrap()).await;
    assert_eq!(rows.len(), 2);
    assert!(rows[0].get("revoked_at").is_some() && rows[1].get("revoked_at").is_none());
    assert!(rows[1].get("last_used_at").is_some(), "PHP found the row by its own hash of the token");
    let events = database.rows(&wanted).await;
    let values = |at: usize| ["event_status", "failure_reason", "user_id", "token_id"].map(|name| events[at].get(name));
    assert_eq!(values(0), [Some("1"), None, Some(&*ada), rows[0].get("id")]);
    let refused = [Some("2"), Some("jwt_auth_invalid_refresh_token"), None, None];
    assert_eq!((values(1), values(2), events.len()), (refused, refused, 3), "the sidecar's, then WordPress's");
    assert!(events.iter().all(|event| event.get("request_path") == Some(ROUTE)));

    within_one_second(&site, &client);
    what_the_site_changes_shows(&site, &client, &database).await;
}

/// The plugin itself returns the same JWT twice then, and takes the second for the revoked first
/// one.
fn within_one_second(site: &Site, client: &Client<'_>) {
    // PHP reads the clock again for `exp`: the second may end in between.
    let times = |pair: &Pair| ["iat", "exp"].map(|claim| claims(&pair.access_token)[claim].clone());
    // Through the sidecar the new token is valid; with WordPress alone it is not.
    for (client, status) in [(client, 200), (&Client::of(site, site.upstream()), 401)] {
        let in_one_second = (0..20).find_map(|_| {
            let login = client.log_in_to(site);
            let refreshed = pair(&client.refresh(&login.refresh_token));
            if times(&login) == times(&refreshed) {
                return Some(refreshed);
            }
            // A login in the second of this refresh would return the same JWT as this pair, whose
            // row stays live.
            std::thread::sleep(Duration::from_secs(1));
            None
        });
        let refreshed = in_one_second.expect("a login and a refresh within one second");
        assert_eq!(client.me(&refreshed.access_token).status(), status);
    }
}

async fn what_the_site_changes_shows(site: &Site, client: &Client<'_>, database: &TestDatabase) {
    // The setting that the test waits for is changed last, since settings are read at any moment.
    set(site, "token_settings", "refresh_token_expiration", "99999");
    set(site, "token_settings", "jwt_expiration", "1234");
    let mut token = client.log_in_to(site).refresh_token;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let answer = client.refresh(&token);
        assert!(is_native(&answer), "{answer:?}");
        let pair = pair(&answer);
        if answer.json()["expires_in"] == 1234 {
            let claims = claims(&pair.access_token);
            assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 1234);
            client.assert_is_ada(&pair.access_token);
            let row = database
                .rows(&format!(
                    "SELECT TIMESTAMPDIFF(SECOND, issued_at, refresh_token_expires_at) AS life FROM wp_jwt_auth_tokens \
                     WHERE refresh_token_hash = '{}'",
                    pair.refresh_token
                ))
                .await;
            assert!(matches!(row[0].get("life"), Some("99999" | "100000")), "{row:?}");
            token = pair.refresh_token;
            break;
        }
        token = pair.refresh_token;
        assert!(tokio::time::Instant::now() < deadline, "the new jwt_expiration does not show");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    let plugin = "require_once ABSPATH . 'wp-admin/includes/plugin.php';";
    site.php(&format!("{plugin} deactivate_plugins( 'jwt-auth-pro/jwt-auth-pro.php' );"));
    eventually("the route is gone", || async { client.refresh(UNKNOWN_TOKEN).status() == 404 }).await;
    let gone = client.refresh(&token);
    assert_eq!((gone.status(), &gone.json()["code"]), (404, &json!("rest_no_route")));
    let directly = Client::of(site, site.upstream()).refresh(&token);
    assert_eq!(directly.json(), gone.json(), "WordPress's own answer");

    site.php(&format!("{plugin} activate_plugin( 'jwt-auth-pro/jwt-auth-pro.php' );"));
    // Once it is, WordPress does not see the calls with this unknown token.
    eventually("the route is native again", || async {
        let before = reached_by_refreshes(site);
        client.refresh(UNKNOWN_TOKEN).status() == 403 && reached_by_refreshes(site) == before
    })
    .await;
    client.assert_is_ada(&client.refresh_natively(&token).access_token);
}

fn reached_by_refreshes(site: &Site) -> usize {
    site.requests().iter().filter(|request| request.contains("token/refresh")).count()
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}
