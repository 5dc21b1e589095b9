//! `fixtures/recorded-custom.json`: responses of real sites with their own code.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

const FILE: &str = include_str!("../../../fixtures/recorded-custom.json");

/// What was recorded on WordPress 6.8, and what older versions send instead.
const BEFORE_6_8: [(&str, &str); 4] = [
    (", max-age=0, no-store, private", ", max-age=0"),
    ("https://wordpress.org/documentation/article/", "https://wordpress.org/support/article/"),
    // SHA-256 of the address in 6.8, MD5 before.
    (
        "https://secure.gravatar.com/avatar/2315d3ff791cf2d7513a2b039c42f75a4e102f32967fccad067cf7608cba9643",
        "http://{*}.gravatar.com/avatar/9b688de0036a6a14bb58fd8d9c21d57c",
    ),
    (
        "https://secure.gravatar.com/avatar/b209323a975801990b5ed651415982fb72a463b402d49120f7f43c00d7a70deb",
        "http://{*}.gravatar.com/avatar/c225003f90e981c9654a92ad9138ff62",
    ),
];

/// The whole file. Compared strings contain placeholders, which the file itself explains.
#[derive(Deserialize)]
pub struct Recorded {
    users: Vec<Map<String, Value>>,
    header_sets: HashMap<String, Vec<(String, String)>>,
    responses: HashMap<String, Response>,
    request: Request,
    row: Map<String, Value>,
    event: Map<String, Value>,
    refused: Map<String, Value>,
    jwt: Map<String, Value>,
    home_question: HomeQuestion,
    /// In the recorded order.
    pub sites: Vec<RecordedSite>,
}

/// A site with its code.
#[derive(Deserialize)]
pub struct RecordedSite {
    pub name: String,
    /// A description of its code.
    pub what: String,
    /// The must-use plugin. The site without one has the option `WPLANG` instead.
    pub php: Option<String>,
    pub exchanges: Vec<Exchange>,
    home_question: Option<HomeQuestion>,
    pub limit_window: Option<LimitWindow>,
}

/// WordPress's answer about its home URL.
#[derive(Clone, Deserialize)]
pub struct HomeQuestion {
    pub path: String,
    pub status: u16,
    pub body: Value,
}

/// A row of `wp_options`.
#[derive(Deserialize)]
pub struct LimitWindow {
    pub name: String,
    pub value: String,
}

/// A request, its response, and the changes in the database.
#[derive(Deserialize)]
pub struct Exchange {
    pub name: String,
    #[serde(default)]
    pub token: SentToken,
    #[serde(default)]
    pub user: Option<String>,
    #[serde(default)]
    pub flushed: bool,
    #[serde(default)]
    request: PartOfRequest,
    response: NamedOrWhole,
    pub old_token_revoked: Option<bool>,
    #[serde(default)]
    new_token_rows: Vec<Map<String, Value>>,
    #[serde(default)]
    analytics_rows: Vec<Map<String, Value>>,
    jwt: Option<Map<String, Value>>,
    pub validate: Option<Value>,
}

/// Whose token `{T}` stands for in a request.
#[derive(Clone, Copy, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum SentToken {
    #[default]
    None,
    Login,
    Plain,
    Again,
    Expired,
    Orphan,
}

/// A request as it was sent, with placeholders in braces.
#[derive(Clone, Deserialize)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Map<String, Value>,
    pub body: String,
}

#[derive(Default, Deserialize)]
struct PartOfRequest {
    method: Option<String>,
    path: Option<String>,
    headers: Option<Map<String, Value>>,
    body: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NamedOrWhole {
    Named(String),
    Whole(Response),
}

#[derive(Deserialize)]
struct Response {
    status: u16,
    headers: Vec<NamedOrField>,
    body: Value,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NamedOrField {
    Named(String),
    Field(String, String),
}

/// A complete response.
pub struct Answered<'a> {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: &'a Value,
}

impl Recorded {
    /// The recording, adapted to this version of WordPress.
    pub fn as_on_wordpress(version: &str) -> Recorded {
        let number = |at| version.split('.').nth(at).and_then(|part: &str| part.parse::<u32>().ok()).unwrap_or(0);
        let mut text = FILE.to_owned();
        let is_older = (number(0), number(1)) < (6, 8);
        for (recorded, said) in BEFORE_6_8.into_iter().filter(|_| is_older) {
            assert!(text.contains(recorded), "{recorded} was not recorded");
            text = text.replace(recorded, said);
        }
        let mut recorded = serde_json::from_str(&text).expect("fixtures/recorded-custom.json");
        if is_older {
            with_members_of_before_6_8(&mut recorded);
        }
        serde_json::from_value(recorded).expect("fixtures/recorded-custom.json")
    }

    /// A recorded user's password.
    pub fn password(&self, login: &str) -> String {
        let user = self.users.iter().find(|user| user["user_login"] == login);
        user.unwrap_or_else(|| panic!("no user {login}"))["password"].as_str().unwrap().to_owned()
    }

    /// A site's answer about its home URL.
    pub fn home_question<'a>(&'a self, site: &'a RecordedSite) -> &'a HomeQuestion {
        site.home_question.as_ref().unwrap_or(&self.home_question)
    }

    /// The complete request of an exchange.
    pub fn request(&self, exchange: &Exchange) -> Request {
        let (usual, own) = (self.request.clone(), &exchange.request);
        Request {
            method: own.method.clone().unwrap_or(usual.method),
            path: own.path.clone().unwrap_or(usual.path),
            headers: own.headers.clone().unwrap_or(usual.headers),
            body: own.body.clone().unwrap_or(usual.body),
        }
    }

    /// The complete response of an exchange.
    pub fn answered<'a>(&'a self, exchange: &'a Exchange) -> Answered<'a> {
        let response = match &exchange.response {
            NamedOrWhole::Named(name) => &self.responses[name],
            NamedOrWhole::Whole(response) => response,
        };
        let mut headers = Vec::new();
        for header in &response.headers {
            match header {
                NamedOrField::Named(name) => headers.extend_from_slice(&self.header_sets[name]),
                NamedOrField::Field(name, value) => headers.push((name.clone(), value.clone())),
            }
        }
        Answered { status: response.status, headers, body: &response.body }
    }

    /// The token rows that an exchange has added, with `fits` for a column.
    pub fn token_rows(&self, exchange: &Exchange) -> Vec<Map<String, Value>> {
        exchange.new_token_rows.iter().map(|own| with(&[&self.row, own])).collect()
    }

    /// The analytics rows that an exchange has added.
    pub fn analytics_rows(&self, exchange: &Exchange) -> Vec<Map<String, Value>> {
        let none = Map::new();
        let mut rows = Vec::new();
        for own in &exchange.analytics_rows {
            let refused = own.get("event_status").is_some_and(|status| status == "2");
            let mut row = with(&[&self.event, if refused { &self.refused } else { &none }, own]);
            row.entry("request_path").or_insert_with(|| Value::String(self.request(exchange).path));
            rows.push(row);
        }
        rows
    }

    /// The contents of the access token that an exchange returned.
    pub fn access_token(&self, exchange: &Exchange) -> Option<Map<String, Value>> {
        exchange.jwt.as_ref().map(|own| with(&[&self.jwt, own]))
    }
}

/// The recorded users, as in the file.
pub fn users() -> Value {
    serde_json::from_str::<Value>(FILE).expect("fixtures/recorded-custom.json")["users"].take()
}

/// Older versions do not name the failed check, and answer the home question with links that were
/// not requested.
fn with_members_of_before_6_8(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.get("status").is_some_and(|status| status == 500) {
                map.shift_remove("error");
            }
            if map.contains_key("namespaces") {
                let links = json!({"help": [{"href": "https://developer.wordpress.org/rest-api/"}]});
                map.insert("_links".to_owned(), links);
            }
            map.values_mut().for_each(with_members_of_before_6_8);
        }
        Value::Array(values) => values.iter_mut().for_each(with_members_of_before_6_8),
        _ => {}
    }
}

/// The members of all, later ones overriding earlier ones.
fn with(maps: &[&Map<String, Value>]) -> Map<String, Value> {
    maps.iter().flat_map(|map| map.iter().map(|(name, value)| (name.clone(), value.clone()))).collect()
}
