//! Compares a replayed call with the recorded one: its response, and the rows that were written.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::{Map, Value};

use super::made::NetworkSite;
use super::recording::Call;
use crate::support::mariadb::TestDatabase;
use crate::support::raw::Message;

/// The fields of a success by the sidecar that the recorded one lacks.
const DOCUMENTED: [&str; 5] = ["token", "user_id", "user_email", "user_nicename", "user_display_name"];

/// Headers that a web server adds, or the sidecar to every response.
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

/// A response to a recorded call.
pub struct Answered<'a> {
    pub call: &'a Call,
    pub message: &'a Message,
    pub is_by_php: bool,
}

impl Answered<'_> {
    /// All differences from the recording and from the sidecar's deliberate differences: see
    /// [`crate::recorded::SIDECAR`] for these and their reasons.
    pub fn compare(&self, header_sets: &[Vec<(String, Option<String>)>]) -> Vec<String> {
        let Answered { call, message, .. } = self;
        let mut found = Vec::new();
        let mut demand = |holds: bool, what: &dyn Fn() -> String| {
            if !holds {
                found.push(what());
            }
        };
        demand(message.status() == call.status, &|| format!("status {}, recorded {}", message.status(), call.status));
        let is_html = message.body.to_ascii_lowercase().starts_with(b"<!doctype html>");
        demand(is_html == call.html, &|| format!("a page: {is_html}"));
        if let Some(recorded) = &call.json {
            match serde_json::from_slice(&message.body) {
                Ok(said) => self.compare_body(&said, recorded, &mut demand),
                Err(error) => demand(false, &|| format!("no JSON: {error}: {message:?}")),
            }
        }
        for (name, recorded) in [("content-type", &call.answer_type), ("location", &call.location)] {
            if call.answer_type.is_some() {
                demand(message.value(name) == *recorded, &|| format!("{name} is {:?}", message.value(name)));
            }
        }
        if let Some(set) = call.headers {
            self.compare_headers(&header_sets[set], &mut demand);
        }
        if call.status == 200 && call.iss.is_some() {
            self.compare_access_token(&mut demand);
        }
        found
    }

    fn compare_body(&self, said: &Value, recorded: &Value, demand: &mut impl FnMut(bool, &dyn Fn() -> String)) {
        let (Value::Object(said), Value::Object(recorded)) = (said, recorded) else {
            return demand(said == recorded, &|| format!("body {said}, recorded {recorded}"));
        };
        for (name, value) in recorded {
            let found = said.get(name);
            demand(found.is_some_and(|found| is_as(found, value)), &|| {
                format!("body.{name} is {found:?}, recorded {value}")
            });
        }
        // WordPress before 6.8 adds links to the fields that were requested.
        let is_index = |name: &&String| self.call.method() == "GET" && *name == "_links";
        let more: Vec<&String> = said.keys().filter(|name| !recorded.contains_key(*name) && !is_index(name)).collect();
        let may = !self.is_by_php && self.call.iss.is_some();
        demand(more.iter().all(|name| may && DOCUMENTED.contains(&name.as_str())), &|| format!("members {more:?}"));
    }

    fn compare_headers(
        &self,
        recorded: &[(String, Option<String>)],
        demand: &mut impl FnMut(bool, &dyn Fn() -> String),
    ) {
        let Answered { call, message, is_by_php } = self;
        let mut names: BTreeSet<String> = recorded.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
        names.extend(call.link.iter().map(|_| "link".to_owned()));
        if call.iss.is_some() && !is_by_php {
            names.remove("retry-after");
            names.insert("cache-control".to_owned());
        }
        names.retain(|name| !OF_SERVERS.contains(&name.as_str()));
        let sent: BTreeSet<String> = message
            .fields()
            .into_iter()
            .map(|(name, _)| name.to_ascii_lowercase())
            .filter(|name| !OF_SERVERS.contains(&name.as_str()))
            .collect();
        demand(sent == names, &|| format!("headers {sent:?}, recorded {names:?}"));
        let more = [("Link", &call.link), ("X-RateLimit-Remaining", &call.remaining)];
        let more = more.map(|(name, value)| (name.to_owned(), value.clone()));
        for (name, value) in recorded.iter().chain(&more) {
            if let Some(value) = value {
                let found = message.value(name);
                demand(found.as_ref() == Some(value), &|| format!("{name} is {found:?}, recorded {value}"));
            }
        }
    }

    fn compare_access_token(&self, demand: &mut impl FnMut(bool, &dyn Fn() -> String)) {
        let Answered { call, message, is_by_php } = self;
        let Some(token) = pair(message).0 else { return demand(false, &|| "no access token".to_owned()) };
        let claims = jsonwebtoken::dangerous::insecure_decode::<Value>(&token).unwrap().claims;
        demand(claims["iss"].as_str() == call.iss.as_deref(), &|| format!("iss {}", claims["iss"]));
        demand(claims["jti"].is_string() != *is_by_php, &|| format!("jti {}", claims["jti"]));
        let header = jsonwebtoken::decode_header(&token).unwrap();
        demand(call.alg.as_deref() == Some(&*format!("{:?}", header.alg)), &|| format!("alg {:?}", header.alg));
    }
}

/// Whether the value equals the recorded one.
fn is_as(said: &Value, recorded: &Value) -> bool {
    match (said, recorded) {
        (_, Value::String(any)) if any == "{*}" => true,
        // It contains the address of the site's own administrator.
        (Value::String(said), Value::String(text)) if text.contains("admin AT example.test") => {
            said.contains("has not been activated yet")
        }
        (Value::Object(said), Value::Object(recorded)) => {
            said.len() == recorded.len()
                && recorded.iter().all(|(name, value)| said.get(name).is_some_and(|said| is_as(said, value)))
        }
        (said, recorded) => said == recorded,
    }
}

/// The access token and the refresh token of a login or a refresh.
pub fn pair(message: &Message) -> (Option<String>, Option<String>) {
    let Ok(body) = serde_json::from_slice::<Value>(&message.body) else { return (None, None) };
    let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
    (text("access_token").or_else(|| text("token")), text("refresh_token"))
}

/// The greatest ids in the plugin's tables of some sites, before a call.
pub struct TablesOf(BTreeMap<u64, (u64, u64)>);

impl TablesOf {
    /// A site whose tables do not exist yet has no rows.
    pub async fn read(network: &NetworkSite, sites: BTreeSet<u64>) -> TablesOf {
        let mut ids = BTreeMap::new();
        for site in sites {
            let is_there = !network.plugin_tables(site).await.is_empty();
            ids.insert(site, if is_there { network.tables(site).last_ids().await } else { (0, 0) });
        }
        TablesOf(ids)
    }

    /// Compares the list of tables.
    pub async fn compare_names(&self, network: &NetworkSite, recorded: Option<&Vec<String>>) -> Vec<String> {
        let Some(recorded) = recorded else { return Vec::new() };
        // The stand-in for the plugin does not have this table.
        let recorded: Vec<&String> = recorded.iter().filter(|name| !name.ends_with("_summary")).collect();
        let mut found = Vec::new();
        for site in self.0.keys() {
            let tables = network.plugin_tables(*site).await;
            if !tables.iter().eq(recorded.iter().copied()) {
                found.push(format!("tables {tables:?}, recorded {recorded:?}"));
            }
        }
        found
    }

    /// Compares the rows written since.
    pub async fn compare_rows(&self, network: &NetworkSite, call: &Call, client: Ipv4Addr) -> Vec<String> {
        let mut found = Vec::new();
        for (site, (last_token, last_event)) in &self.0 {
            if network.plugin_tables(*site).await.is_empty() {
                continue;
            }
            let prefix = if *site == 1 { "wp_".to_owned() } else { format!("wp_{site}_") };
            let wanted = |rows: &[Map<String, Value>], name: &str, names: &[&str]| -> Vec<Vec<String>> {
                let rows = rows.iter().filter(|row| row["table"] == format!("{prefix}jwt_auth_{name}"));
                rows.map(|row| columns(row, names, client)).collect()
            };
            let (rows, events) = (wanted(&call.rows, "tokens", &TOKEN), wanted(&call.events, "analytics", &EVENT));
            let is = rows_after(&network.database, &prefix, *last_token).await;
            if is != rows {
                found.push(format!("rows {is:?}, recorded {rows:?}"));
            }
            let is = events_after(&network.database, &prefix, *last_event, events.len()).await;
            if is != events {
                found.push(format!("events {is:?}, recorded {events:?}"));
            }
        }
        found
    }
}

const TOKEN: [&str; 5] = ["blog_id", "user_id", "lifetime", "refresh_lifetime", "ip_address"];
const EVENT: [&str; 8] = [
    "blog_id",
    "event_type",
    "event_status",
    "failure_reason",
    "user_id",
    "ip_address",
    "request_path",
    "request_method",
];

/// The recorded columns, with this client's address in place of the recorded one.
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

/// Lifetimes rounded to ten seconds, since two clocks are involved.
async fn rows_after(database: &TestDatabase, prefix: &str, id: u64) -> Vec<Vec<String>> {
    let rows = database
        .rows(&format!(
            "SELECT blog_id, user_id, (TIMESTAMPDIFF(SECOND, issued_at, expires_at) + 5) DIV 10 * 10 AS lifetime, \
             (TIMESTAMPDIFF(SECOND, issued_at, refresh_token_expires_at) + 5) DIV 10 * 10 AS refresh_lifetime, ip_address \
             FROM {prefix}jwt_auth_tokens WHERE id > {id} ORDER BY id"
        ))
        .await;
    rows.iter().map(|row| TOKEN.map(|name| row.get(name).unwrap_or("NULL").to_owned()).to_vec()).collect()
}

/// Longer than events are gathered before they are written.
const GATHERED: Duration = Duration::from_millis(100);

/// These rows are written after the response.
async fn events_after(database: &TestDatabase, prefix: &str, id: u64, count: usize) -> Vec<Vec<String>> {
    // Any number is at least 0, so one that must not come is waited for.
    if count == 0 {
        tokio::time::sleep(GATHERED).await;
    }
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
