//! The refresh calls of recorded networks, once more through the sidecar: what clients get and what
//! is written is what was recorded, but for the sidecar's deliberate differences.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::made::{At, NetworkSite};
use crate::support::mariadb::{TestDatabase, Token, TokenState};
use crate::support::raw::{Connection, Message};
use crate::support::sidecar::Sidecar;

const FILE: &str = include_str!("../../fixtures/recorded-network.json");

/// As the file itself explains.
#[derive(Deserialize)]
struct Recorded {
    header_sets: Vec<Vec<(String, Option<String>)>>,
    networks: Vec<Network>,
}

#[derive(Deserialize)]
struct Network {
    name: String,
    domain: String,
    subdomains: bool,
    sites: Vec<RecordedSite>,
    exchanges: Vec<Exchange>,
}

#[derive(Deserialize)]
struct RecordedSite {
    id: u64,
    domain: String,
    path: String,
    settings: Option<String>,
}

#[derive(Deserialize)]
struct Exchange {
    name: String,
    host: String,
    path: String,
    token: String,
    method: Option<String>,
    blog: Option<u64>,
    #[serde(default)]
    fields: Map<String, Value>,
    content_type: Option<String>,
    body: Option<String>,
    status: u16,
    headers: usize,
    link: Option<String>,
    json: Option<Value>,
    revoked: Option<bool>,
    rows: Vec<Map<String, Value>>,
    events: Vec<Map<String, Value>>,
    iss: Option<String>,
    alg: Option<String>,
    flag: Option<Flag>,
}

#[derive(Deserialize, Clone, PartialEq)]
struct Flag {
    site: u64,
    column: String,
    value: u64,
}

/// What WordPress answers by itself, with the reason. All else is the sidecar's.
const BY_WORDPRESS: &[(&str, &str)] = &[
    ("upper_case_path_TWO", "the database decides whether that is /two/"),
    ("mixed_case_path_Two", "likewise"),
    ("two_double_slash", "an unusual path"),
    ("double_slash_two", "an unusual path"),
    ("encoded_two", "an unusual path"),
    ("two_rest_route_no_slash", "an unusual path"),
    ("host_other_port", "no site"),
    ("host_trailing_dot", "no site"),
    ("host_port_443", "by http it is another port than the first site's own"),
    ("bare_host_of_www_blog", "no site"),
    ("unknown_host", "no site"),
    ("unknown_subdomain", "no site"),
    ("unknown_path", "not the route"),
    ("two_and_more_segments", "not the route"),
    ("mapped_with_path_two", "not the route"),
    ("mapped_blog_at_its_first_path", "not the route"),
    ("path_two_on_main", "not the route"),
    ("path_on_two", "not the route"),
    ("options_two", "not a POST"),
    ("www_host_main", "the first site is native at its own host and those in wordpress.hosts only"),
    ("archived_refresh_live", "a site that is not served"),
    ("archived_refresh_unknown", "likewise"),
    ("archived_refresh_live_form", "likewise"),
    ("archived_refresh_live_form_accept_json", "likewise"),
    ("archived_upper_case", "likewise"),
    ("archived_options", "likewise"),
    ("spam_refresh_live", "likewise"),
    ("spam_refresh_unknown", "likewise"),
    ("deleted_refresh_live", "likewise"),
    ("deleted_refresh_unknown", "likewise"),
    ("archived_2_refresh", "a flag that WordPress may heed one day"),
    ("deleted_2_unconfirmed_refresh", "a site that is not activated"),
];

/// What an answer of the sidecar's has besides what was recorded of a success.
const DOCUMENTED: [&str; 5] = ["token", "user_id", "user_email", "user_nicename", "user_display_name"];

/// What a web server adds, or the sidecar to everything.
const OF_SERVERS: [&str; 9] = [
    "date",
    "server",
    "content-length",
    "connection",
    "transfer-encoding",
    "x-request-id",
    "keep-alive",
    "x-powered-by",
    "expires",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_sidecar_answers_on_networks_as_recorded() {
    let recorded: Recorded = serde_json::from_str(FILE).unwrap();
    let counts: Vec<usize> = recorded.networks.iter().map(|network| network.exchanges.len()).collect();
    assert_eq!(counts, [85, 20], "fixtures/recorded-network.json is not what was recorded");
    let mut complaints = Vec::new();
    for network in &recorded.networks {
        let further: Vec<At> =
            network.sites[1..].iter().map(|site| At(&site.domain, site.path.trim_end_matches('/'))).collect();
        let made = NetworkSite::up_at(&network.domain, network.subdomains, &further, "");
        for site in &network.sites {
            let settings = site.settings.as_ref().or(network.sites[0].settings.as_ref()).unwrap();
            made.tables(site.id).set_option("jwt_auth_pro_settings", settings).await;
        }
        // A used token that comes back at once is given its pair again; that is another test's.
        let sidecar = made.sidecar(&["--refresh-reuse-interval", "0s"]);
        let mut replay =
            Replay { network, made: &made, sidecar: &sidecar, flag: None, last: None, headers: &recorded.header_sets };
        for (number, exchange) in network.exchanges.iter().enumerate() {
            let found = replay.compare(number, exchange).await;
            complaints.extend(found.into_iter().map(|said| format!("{}, {}: {said}", network.name, exchange.name)));
        }
    }
    assert!(complaints.is_empty(), "{} differences:\n{}", complaints.len(), complaints.join("\n"));
}

struct Replay<'a> {
    network: &'a Network,
    made: &'a NetworkSite,
    sidecar: &'a Sidecar,
    flag: Option<Flag>,
    /// The token of the exchange before, and whose table it is in.
    last: Option<(u64, Token)>,
    headers: &'a [Vec<(String, Option<String>)>],
}

impl Replay<'_> {
    async fn compare(&mut self, number: usize, exchange: &Exchange) -> Vec<String> {
        self.raise(exchange.flag.clone()).await;
        let site = exchange.blog.unwrap_or_else(|| self.site_of(exchange));
        let network = self.made;
        let made = |state| async move { (site, network.tables(site).insert_token(state, 2).await) };
        let sent = match &*exchange.token {
            "live" => Some(made(TokenState::Live).await),
            "expired" => Some(made(TokenState::Expired).await),
            "orphan" => Some(made(TokenState::Orphan).await),
            "used" => self.last.take(),
            _ => None,
        };
        // The window of each is its own, but for those that are about it.
        let client = match exchange.name.starts_with("limit_") {
            true => Ipv4Addr::new(127, 2, 0, 1),
            false => Ipv4Addr::new(127, 1, 0, u8::try_from(number).unwrap() + 1),
        };
        let tables: BTreeSet<u64> = [site, self.site_of(exchange)].into();
        let mut before = BTreeMap::new();
        for table in &tables {
            before.insert(*table, self.made.tables(*table).last_ids().await);
        }
        let by_php = self.made.refreshes_by_php();
        let mut connection = Connection::from(client, self.sidecar.address());
        connection.send(request(exchange, sent.as_ref().map_or("", |(_, token)| &token.refresh_token)));
        let answer = connection.response_to(exchange.method.as_deref().unwrap_or("POST"));
        let is_by_php = self.made.refreshes_by_php() > by_php || exchange.method.is_some();

        let mut found = Vec::new();
        let mut demand = |holds: bool, what: &dyn Fn() -> String| {
            if !holds {
                found.push(what());
            }
        };
        let expected = BY_WORDPRESS.iter().any(|(name, _)| *name == exchange.name);
        demand(is_by_php == expected, &|| format!("answered by WordPress: {is_by_php}: {answer:?}"));
        demand(answer.status() == exchange.status, &|| {
            format!("status {}, recorded {}", answer.status(), exchange.status)
        });
        if let Some(json) = exchange
            .json
            .as_ref()
            .filter(|_| exchange.method.is_none() && matches!(exchange.status, 200 | 400 | 403 | 429))
        {
            self.compare_answer(exchange, &answer, json, is_by_php, &mut demand);
        }
        if let Some((table, token)) = &sent {
            let row = self.made.tables(*table).token_row(token.id).await;
            let revoked = row.map(|row| row.get("revoked_at").is_some());
            demand(revoked == exchange.revoked, &|| format!("old token revoked: {revoked:?}"));
        }
        for table in tables {
            let prefix = if table == 1 { "wp_".to_owned() } else { format!("wp_{table}_") };
            let (last_token, last_event) = before[&table];
            let of = |rows: &[Map<String, Value>], name: &str| -> Vec<Map<String, Value>> {
                rows.iter().filter(|row| row["table"] == format!("{prefix}jwt_auth_{name}")).cloned().collect()
            };
            let rows = rows_after(&self.made.database, &prefix, last_token).await;
            let wanted = of(&exchange.rows, "tokens");
            let wanted: Vec<Vec<String>> = wanted.iter().map(|row| columns(row, &TOKEN, client)).collect();
            demand(rows == wanted, &|| format!("rows {rows:?}, recorded {wanted:?}"));
            let wanted = of(&exchange.events, "analytics");
            let wanted: Vec<Vec<String>> = wanted.iter().map(|row| columns(row, &EVENT, client)).collect();
            let events = events_after(&self.made.database, &prefix, last_event, wanted.len()).await;
            demand(events == wanted, &|| format!("events {events:?}, recorded {wanted:?}"));
        }
        self.last = sent;
        found
    }

    fn compare_answer(
        &self,
        exchange: &Exchange,
        answer: &Message,
        json: &Value,
        is_by_php: bool,
        demand: &mut impl FnMut(bool, &dyn Fn() -> String),
    ) {
        let is_success = exchange.iss.is_some();
        let said = answer.json();
        if let (Value::Object(said), Value::Object(recorded)) = (&said, json) {
            for (name, value) in recorded {
                let same = if value == "{*}" || name == "data" {
                    said.contains_key(name)
                } else {
                    said.get(name) == Some(value)
                };
                demand(same, &|| format!("body.{name} is {:?}, recorded {value}", said.get(name)));
            }
            let more: Vec<&String> = said.keys().filter(|name| !recorded.contains_key(*name)).collect();
            let may = !is_by_php && is_success;
            demand(more.iter().all(|name| may && DOCUMENTED.contains(&name.as_str())), &|| format!("members {more:?}"));
        }
        let mut names: BTreeSet<String> =
            self.headers[exchange.headers].iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
        names.extend(exchange.link.iter().map(|_| "link".to_owned()));
        if is_success && !is_by_php {
            names.remove("retry-after");
            names.insert("cache-control".to_owned());
        }
        let fields: Vec<(String, String)> =
            answer.fields().into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
        let sent: BTreeSet<String> =
            fields.iter().map(|(name, _)| name.clone()).filter(|name| !OF_SERVERS.contains(&name.as_str())).collect();
        demand(sent == names, &|| format!("headers {sent:?}, recorded {names:?}"));
        let link = ("Link".to_owned(), exchange.link.clone());
        for (name, value) in self.headers[exchange.headers].iter().chain([&link]) {
            if let Some(value) = value {
                demand(answer.value(&name.to_ascii_lowercase()).as_ref() == Some(value), &|| {
                    format!("{name} is not {value}")
                });
            }
        }
        if let Some(token) = said["access_token"].as_str().filter(|_| is_success) {
            let claims = jsonwebtoken::dangerous::insecure_decode::<Value>(token).unwrap().claims;
            demand(claims["iss"].as_str() == exchange.iss.as_deref(), &|| format!("iss {}", claims["iss"]));
            demand(claims["jti"].is_string() != is_by_php, &|| format!("jti {}", claims["jti"]));
            let header = jsonwebtoken::decode_header(token).unwrap();
            demand(exchange.alg.as_deref() == Some(&*format!("{:?}", header.alg)), &|| format!("alg {:?}", header.alg));
        }
    }

    /// Sets the flag of a site, and takes the last one back.
    async fn raise(&mut self, flag: Option<Flag>) {
        if self.flag == flag {
            return;
        }
        for (flag, value) in [(self.flag.take(), 0), (flag.clone(), flag.as_ref().map_or(0, |flag| flag.value))] {
            if let Some(Flag { site, column, .. }) = flag {
                self.made.flag(site, &column, &format!("'{value}'")).await;
            }
        }
        self.flag = flag;
        // What is known of the network is three seconds old at most.
        tokio::time::sleep(Duration::from_millis(3_500)).await;
    }

    /// The site that WordPress takes the call for, if any; else the first.
    fn site_of(&self, exchange: &Exchange) -> u64 {
        let host = exchange.host.to_ascii_lowercase();
        let host = host.strip_suffix(":80").or_else(|| host.strip_suffix(":443")).unwrap_or(&host);
        let path = exchange.path.to_ascii_lowercase().replace("//", "/");
        let at =
            |host: &str, path: &str| self.network.sites.iter().find(|site| site.domain == host && site.path == path);
        let first = path.split(['/', '?']).nth(1).map(|segment| format!("/{segment}/"));
        let hosts = [Some(host), host.strip_prefix("www.")];
        let mut found = hosts.into_iter().flatten().flat_map(|host| {
            [first.as_deref(), Some("/")].into_iter().flatten().filter_map(move |path| at(host, path))
        });
        found.next().map_or(1, |site| site.id)
    }
}

const TOKEN: [&str; 4] = ["blog_id", "lifetime", "refresh_lifetime", "ip_address"];
const EVENT: [&str; 7] =
    ["blog_id", "event_type", "event_status", "failure_reason", "ip_address", "request_path", "request_method"];

/// What was recorded, with this client's address in the place of that one's.
fn columns(row: &Map<String, Value>, names: &[&str], client: Ipv4Addr) -> Vec<String> {
    let [a, b, c, _] = client.octets();
    let text = |name: &&str| match &row[*name] {
        Value::String(text) if text == "127.0.0.1" => client.to_string(),
        Value::String(text) if text == "127.0.0.0" => Ipv4Addr::new(a, b, c, 0).to_string(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    names.iter().map(text).collect()
}

/// Lifetimes to ten seconds: two clocks take part in them.
async fn rows_after(database: &TestDatabase, prefix: &str, id: u64) -> Vec<Vec<String>> {
    let rows = database
        .rows(&format!(
            "SELECT blog_id, (TIMESTAMPDIFF(SECOND, issued_at, expires_at) + 5) DIV 10 * 10 AS lifetime, \
             (TIMESTAMPDIFF(SECOND, issued_at, refresh_token_expires_at) + 5) DIV 10 * 10 AS refresh_lifetime, ip_address \
             FROM {prefix}jwt_auth_tokens WHERE id > {id} ORDER BY id"
        ))
        .await;
    rows.iter().map(|row| TOKEN.map(|name| row.get(name).unwrap_or("NULL").to_owned()).to_vec()).collect()
}

/// They are written behind the answer.
async fn events_after(database: &TestDatabase, prefix: &str, id: u64, count: usize) -> Vec<Vec<String>> {
    for _ in 0..60 {
        let rows =
            database.rows(&format!("SELECT * FROM {prefix}jwt_auth_analytics WHERE id > {id} ORDER BY id")).await;
        if rows.len() >= count {
            return rows
                .iter()
                .map(|row| EVENT.map(|name| row.get(name).unwrap_or("NULL").to_owned()).to_vec())
                .collect();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Vec::new()
}

fn request(exchange: &Exchange, token: &str) -> String {
    let body = exchange.body.as_deref().unwrap_or(r#"{"refresh_token":"{T}"}"#).replace("{T}", token);
    let method = exchange.method.as_deref().unwrap_or("POST");
    let content_type = exchange.content_type.as_deref().unwrap_or("application/json");
    let fields: String =
        exchange.fields.iter().map(|(name, value)| format!("{name}: {}\r\n", value.as_str().unwrap())).collect();
    format!(
        "{method} {} HTTP/1.1\r\nHost: {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n{fields}\r\n{body}",
        exchange.path,
        exchange.host,
        body.len()
    )
}
