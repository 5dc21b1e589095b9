//! `fixtures/recorded-network.json`: how WordPress and the plugin behaved on networks, and on a
//! site with many hosts.

use serde::Deserialize;
use serde_json::{Map, Value};

const FILE: &str = include_str!("../../fixtures/recorded-network.json");

/// The fields are explained in the file itself.
#[derive(Deserialize)]
pub struct Recorded {
    pub header_sets: Vec<Vec<(String, Option<String>)>>,
    pub networks: Vec<Network>,
}

#[derive(Deserialize)]
pub struct Network {
    pub name: String,
    pub domain: String,
    pub subdomains: bool,
    /// Additional lines of wp-config.php; of the single site.
    pub config: Option<String>,
    /// The hosts of the single site; empty for a network.
    #[serde(default)]
    pub hosts: Vec<String>,
    pub sites: Vec<RecordedSite>,
    pub exchanges: Vec<Exchange>,
}

#[derive(Deserialize)]
pub struct RecordedSite {
    pub id: u64,
    pub domain: String,
    pub path: String,
    pub settings: Option<String>,
}

/// Something that was recorded, mostly a call.
#[derive(Deserialize)]
pub struct Exchange {
    pub name: String,
    #[serde(flatten)]
    pub what: What,
    pub flag: Option<Flag>,
    pub active: Option<Vec<u64>>,
    #[serde(default)]
    pub dollar_host: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub enum What {
    Checks { checks: Vec<Check> },
    Windows { windows: Map<String, Value> },
    Call(Box<Call>),
}

#[derive(Deserialize)]
pub struct Call {
    pub host: String,
    pub path: String,
    pub token: String,
    pub method: Option<String>,
    pub blog: Option<u64>,
    pub user: Option<u64>,
    #[serde(default)]
    pub fields: Map<String, Value>,
    pub cookie: Option<String>,
    pub content_type: Option<String>,
    pub body: Option<String>,
    pub user_flag: Option<UserFlag>,
    #[serde(default)]
    pub removed: bool,
    pub tables_before: Option<Vec<String>>,

    pub status: u16,
    pub headers: Option<usize>,
    pub answer_type: Option<String>,
    pub location: Option<String>,
    pub link: Option<String>,
    pub remaining: Option<String>,
    pub json: Option<Value>,
    #[serde(default)]
    pub html: bool,
    pub revoked: Option<bool>,
    pub rows: Vec<Map<String, Value>>,
    pub events: Vec<Map<String, Value>>,
    pub iss: Option<String>,
    pub alg: Option<String>,
    pub validate: Option<Said>,
    pub tables_after: Option<Vec<String>>,
}

#[derive(Deserialize)]
pub struct Check {
    pub of: String,
    pub at: String,
    #[serde(flatten)]
    pub said: Said,
}

/// The plugin's answer about an access token.
#[derive(Deserialize, Clone)]
pub struct Said {
    pub status: u16,
    pub code: String,
    pub message: Option<String>,
}

#[derive(Deserialize, Clone, PartialEq)]
pub struct Flag {
    pub site: u64,
    pub column: String,
    pub value: u64,
}

#[derive(Deserialize, Clone, PartialEq)]
pub struct UserFlag {
    pub user: u64,
    pub column: String,
}

impl Recorded {
    pub fn read() -> Recorded {
        serde_json::from_str(FILE).unwrap()
    }

    /// The network with this name.
    pub fn network(&self, name: &str) -> &Network {
        self.networks.iter().find(|network| network.name == name).unwrap()
    }
}

impl Call {
    pub fn method(&self) -> &str {
        self.method.as_deref().unwrap_or("POST")
    }

    /// Whether the call has the refresh route's path and method. WordPress answers all others.
    pub fn is_refresh(&self) -> bool {
        self.method() == "POST" && !self.path.ends_with("/token")
    }
}

impl Network {
    /// The id of the site that WordPress selects for a call; the first one if it selects none.
    pub fn site_at(&self, host: &str, path: &str) -> u64 {
        let host = host.to_ascii_lowercase();
        let host = host.strip_suffix(":80").or_else(|| host.strip_suffix(":443")).unwrap_or(&host);
        let path = path.to_ascii_lowercase().replace("//", "/");
        let at = |host: &str, path: &str| self.sites.iter().find(|site| site.domain == host && site.path == path);
        let first = path.split(['/', '?']).nth(1).map(|segment| format!("/{segment}/"));
        let hosts = [Some(host), host.strip_prefix("www.")];
        let mut found = hosts.into_iter().flatten().flat_map(|host| {
            [first.as_deref(), Some("/")].into_iter().flatten().filter_map(move |path| at(host, path))
        });
        found.next().map_or(1, |site| site.id)
    }
}
