//! The URL of the store that several sidecars share: one server, the servers that Sentinels watch,
//! or a cluster.

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo};
use url::{Url, form_urlencoded};

const ACCEPTED: &str = "redis://USER:PASSWORD@HOST:PORT/DB, rediss://… (TLS), unix:/PATH?db=DB&user=USER&pass=PASSWORD, \
                        redis+sentinel://USER:PASSWORD@HOST:PORT,…/SERVICE/DB, redis+cluster://USER:PASSWORD@HOST:PORT,…";

/// Where Sentinels listen by themselves.
const SENTINEL_PORT: u16 = 26_379;

/// A store, as its URL says.
// SECURITY: no `Debug`; the crate's types hide passwords in theirs, and this one shows nothing at
// all.
#[derive(Clone)]
pub struct StoreUrl {
    /// Whom to connect to.
    pub servers: Servers,
    /// The same for logs, without user and password.
    pub label: String,
}

/// Whom to connect to.
#[derive(Clone)]
pub enum Servers {
    /// This one.
    One(ConnectionInfo),
    /// Whichever these say is the service's primary.
    Sentinels {
        /// At least one.
        sentinels: Vec<ConnectionAddr>,
        /// As it is called there.
        service: String,
        /// User, password and database of the primary.
        primary: RedisConnectionInfo,
        /// User and password of the Sentinels.
        own: RedisConnectionInfo,
        /// With both.
        is_encrypted: bool,
    },
    /// A cluster that these are of, at least one.
    Cluster(Vec<ConnectionInfo>),
}

impl StoreUrl {
    /// Whether connections are made by TLS.
    pub fn is_encrypted(&self) -> bool {
        let by_tls = |info: &ConnectionInfo| matches!(info.addr(), ConnectionAddr::TcpTls { .. });
        match &self.servers {
            Servers::One(info) => by_tls(info),
            Servers::Sentinels { is_encrypted, .. } => *is_encrypted,
            Servers::Cluster(nodes) => nodes.iter().any(by_tls),
        }
    }
}

/// Parses it. Faults are reported without the URL's text, which contains the password.
///
/// # Errors
/// In words that follow the key's name.
pub fn parse(text: &str) -> Result<StoreUrl, String> {
    let unknown = || format!("is no URL of a store; accepted: {ACCEPTED}");
    let (scheme, rest) = text.split_once(':').ok_or_else(unknown)?;
    let (base, form) = scheme.split_once('+').unwrap_or((scheme, ""));
    match (base, form) {
        ("unix", "") | ("redis" | "valkey", "unix") => one(text, Some(&["db", "user", "pass"])),
        ("redis" | "rediss" | "valkey" | "valkeys", "") => one(text, None),
        ("redis" | "rediss" | "valkey" | "valkeys", "sentinel" | "cluster") => {
            let several = Several::of(base, rest.strip_prefix("//").ok_or_else(unknown)?)?;
            if form == "sentinel" { several.sentinels(scheme) } else { several.cluster(scheme) }
        }
        _ => Err(unknown()),
    }
}

/// With these parameters at most; `None`: with none, and a database in its path.
fn one(text: &str, parameters: Option<&[&str]>) -> Result<StoreUrl, String> {
    // SECURITY: what is not understood may be a slip that switches something off, `#insecure` for
    // instance.
    let wrong = || {
        format!("is no URL of a store (special characters in the password are written as %XX); accepted: {ACCEPTED}")
    };
    let url = Url::parse(text).map_err(|_| wrong())?;
    let known = parameters.unwrap_or_default();
    if url.fragment().is_some() || url.query_pairs().any(|(name, _)| !known.contains(&name.as_ref())) {
        return Err(format!("has a parameter or a fragment (#…) that is not known; accepted: {ACCEPTED}"));
    }
    let info = url.into_connection_info().map_err(|_| wrong())?;
    let scheme = match info.addr() {
        ConnectionAddr::Tcp(..) => "redis://",
        ConnectionAddr::TcpTls { .. } => "rediss://",
        _ => "unix:",
    };
    let label = format!("{scheme}{}", info.addr());
    Ok(StoreUrl { servers: Servers::One(info), label })
}

/// The parts of a URL that names several hosts, which no URL by RFC 3986 does.
struct Several<'a> {
    base: &'a str,
    login: &'a str,
    hosts: Vec<&'a str>,
    path: Vec<&'a str>,
    query: &'a str,
}

impl<'a> Several<'a> {
    fn of(base: &'a str, rest: &'a str) -> Result<Self, String> {
        if rest.contains('#') {
            return Err(format!("has a fragment (#…); accepted: {ACCEPTED}"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let path = path.split('/').filter(|part| !part.is_empty()).collect();
        Ok(Several { base, login, hosts: hosts.split(',').collect(), path, query })
    }

    /// Each host by itself, with the login of all.
    fn nodes(&self, port: Option<u16>, database: &str) -> Result<Vec<ConnectionInfo>, String> {
        let wrong = || format!("has a host, user, password or database that cannot be; accepted: {ACCEPTED}");
        let node = |host: &&str| {
            let at = if self.login.is_empty() { "" } else { "@" };
            let mut url =
                Url::parse(&format!("{}://{}{at}{host}/{database}", self.base, self.login)).map_err(|_| wrong())?;
            if url.port().is_none() && port.is_some() {
                url.set_port(port).map_err(|()| wrong())?;
            }
            url.into_connection_info().map_err(|_| wrong())
        };
        self.hosts.iter().map(node).collect()
    }

    fn label(scheme: &str, nodes: &[ConnectionInfo]) -> String {
        let nodes: Vec<String> = nodes.iter().map(|node| node.addr().to_string()).collect();
        format!("{scheme}://{}", nodes.join(","))
    }

    fn sentinels(&self, scheme: &str) -> Result<StoreUrl, String> {
        let (service, database) = match *self.path {
            [service] => (service, ""),
            [service, database] => (service, database),
            _ => return Err(format!("does not name the Sentinels' service; accepted: {ACCEPTED}")),
        };
        let nodes = self.nodes(Some(SENTINEL_PORT), database)?;
        let primary = nodes.first().map(|node| node.redis_settings().clone()).unwrap_or_default();
        let mut own = RedisConnectionInfo::default();
        for (name, value) in form_urlencoded::parse(self.query.as_bytes()) {
            own = match &*name {
                "sentinel_user" => own.set_username(value),
                "sentinel_password" => own.set_password(value),
                _ => return Err(format!("has an unknown parameter; accepted: {ACCEPTED}")),
            };
        }
        let label = format!("{}/{service}", Self::label(scheme, &nodes));
        let sentinels: Vec<ConnectionAddr> = nodes.iter().map(|node| node.addr().clone()).collect();
        let is_encrypted = sentinels.iter().any(|addr| matches!(addr, ConnectionAddr::TcpTls { .. }));
        let service = service.to_owned();
        Ok(StoreUrl { servers: Servers::Sentinels { sentinels, service, primary, own, is_encrypted }, label })
    }

    fn cluster(&self, scheme: &str) -> Result<StoreUrl, String> {
        if !self.path.is_empty() || !self.query.is_empty() {
            return Err(format!("has more than hosts; a cluster has one database; accepted: {ACCEPTED}"));
        }
        let nodes = self.nodes(None, "")?;
        let label = Self::label(scheme, &nodes);
        Ok(StoreUrl { servers: Servers::Cluster(nodes), label })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(text: &str) -> String {
        parse(text).map_or_else(|problem| panic!("{text}: {problem}"), |url| url.label)
    }

    #[test]
    fn stores_of_all_forms() {
        for (text, expected) in [
            ("redis://10.0.0.1", "redis://10.0.0.1:6379"),
            ("redis://u:hunter2@[::1]:7/3", "redis://::1:7"),
            ("valkeys://:hunter2@store.example", "rediss://store.example:6379"),
            ("unix:/run/valkey.sock?db=2&user=u&pass=hunter2", "unix:/run/valkey.sock"),
            ("redis+unix:///run/valkey.sock", "unix:/run/valkey.sock"),
            ("redis+sentinel://u:hunter2@a:1,b/shop/2", "redis+sentinel://a:1,b:26379/shop"),
            ("rediss+cluster://u:hunter2@a,b:7", "rediss+cluster://a:6379,b:7"),
        ] {
            assert_eq!(label(text), expected);
        }
        let Servers::One(info) = parse("redis://u:p%40ss@h:7/3").unwrap().servers else { panic!() };
        let login = info.redis_settings();
        assert_eq!((login.username(), login.password(), login.db()), (Some("u"), Some("p@ss"), 3));
        let url = "valkeys+sentinel://u:p@a/shop/2?sentinel_password=q%26";
        let Servers::Sentinels { primary, own, service, is_encrypted, .. } = parse(url).unwrap().servers else {
            panic!()
        };
        assert_eq!((primary.username(), primary.password(), primary.db()), (Some("u"), Some("p"), 2));
        assert_eq!((own.username(), own.password(), &*service, is_encrypted), (None, Some("q&"), "shop", true));
        let encrypted = |text| parse(text).unwrap().is_encrypted();
        assert!(encrypted("rediss://a") && encrypted("rediss+cluster://a") && !encrypted("redis://a"));
    }

    #[test]
    fn stores_are_never_quoted() {
        for text in [
            "hunter2",
            "http://u:hunter2@h",
            "redis+http://u:hunter2@h",
            "redis://u:hunter2@",
            "redis://u:hunter2@h/x",
            "redis://u:hunter2@h:x",
            "redis://u:hunter2@h?protocol=resp3",
            "rediss://u:hunter2@h#insecure",
            "rediss+cluster://u:hunter2@h#insecure",
            "unix:/run/a.sock?password=hunter2",
            "redis+sentinel://u:hunter2@h",
            "redis+sentinel://u:hunter2@h/shop?password=hunter2",
            "redis+sentinel://u:hunter2@,h/shop",
            "redis+cluster://u:hunter2@h/1",
        ] {
            let problem = parse(text).err().unwrap_or_else(|| panic!("{text} is accepted"));
            assert!(problem.contains("accepted: redis://") && !problem.contains("hunter2"), "{text}: {problem}");
        }
    }
}
