//! Whether the sidecar connects to the database as WordPress does.
//!
//! If both connect as the same user to the same host, the database also refuses to WordPress what
//! it refuses to the sidecar (writes, privileges); the plugin then answers 200 with a pair that it
//! could not store, and the session is lost at the next refresh. A refused rotation is left to
//! WordPress only if WordPress's connection is certainly a different one.

use std::net::IpAddr;

use mysql_async::Opts;

use super::Assembly;
use crate::config::db_host::{DatabaseAddress, database_address};
use crate::wordpress::wp_config::Lookup;

/// How WordPress connects, as far as `wp-config.php` shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SitesConnection {
    /// `DB_USER`
    pub user: Option<String>,
    /// `DB_NAME`
    pub database: Option<String>,
    /// `DB_HOST`
    pub address: Option<DatabaseAddress>,
}

impl SitesConnection {
    /// Whether `ours` may be the same: everything known of both is equal. Pure.
    pub fn may_be(&self, ours: &Opts) -> bool {
        let user = self.user.as_deref().is_none_or(|user| user == ours.user().unwrap_or_default());
        // The server's `lower_case_table_names` decides whether case counts.
        let name = ours.db_name().unwrap_or_default();
        let database = self.database.as_deref().is_none_or(|database| database.eq_ignore_ascii_case(name));
        let address = self.address.as_ref().is_none_or(|address| may_be_same(&place(address), &place_of(ours)));
        user && database && address
    }
}

/// Where a server listens, in canonical form.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Socket(String),
    /// A port of this machine.
    Local(u16),
    Remote(String, u16),
}

fn place(address: &DatabaseAddress) -> Place {
    match address {
        DatabaseAddress::Socket(path) => socket(&path.to_string_lossy()),
        DatabaseAddress::Tcp(host, port) => tcp(host, *port),
    }
}

fn place_of(ours: &Opts) -> Place {
    match ours.socket() {
        Some(path) => socket(path),
        None => tcp(ours.ip_or_hostname(), ours.tcp_port()),
    }
}

/// `/var/run` is a link to `/run` on every system with systemd.
fn socket(path: &str) -> Place {
    Place::Socket(path.strip_prefix("/var").filter(|rest| rest.starts_with("/run/")).unwrap_or(path).to_owned())
}

fn tcp(host: &str, port: u16) -> Place {
    let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
    match host.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(address) if address.is_loopback() => Place::Local(port),
        Ok(address) => Place::Remote(address.to_string(), port),
        Err(_) if host == "localhost" => Place::Local(port),
        Err(_) => Place::Remote(host, port),
    }
}

/// A socket and a port of this machine may lead to one server.
fn may_be_same(one: &Place, other: &Place) -> bool {
    one == other || matches!((one, other), (Place::Socket(_), Place::Local(_)) | (Place::Local(_), Place::Socket(_)))
}

impl Assembly<'_> {
    /// As far as `wp-config.php` shows; empty without one.
    pub(super) fn sites_connection(&self, sockets: &[std::path::PathBuf]) -> SitesConnection {
        let text = |name: &str| match self.file?.content.constant(name) {
            Lookup::Known(scalar, _) => String::from_utf8(scalar.to_bytes()).ok(),
            Lookup::NotDefined | Lookup::Unknown(_) => None,
        };
        let address = text("DB_HOST").and_then(|host| database_address(&host, sockets).ok());
        SitesConnection { user: text("DB_USER"), database: text("DB_NAME"), address }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sites(user: &str, host: &str, database: &str) -> SitesConnection {
        let address = database_address(host, &["/run/mysqld/mysqld.sock".into()]).unwrap();
        SitesConnection { user: Some(user.into()), database: Some(database.into()), address: Some(address) }
    }

    #[test]
    fn which_connection_may_be_the_sites_own() {
        let socket = |path: &str| format!("mysql://wp:x@localhost/shop?socket={}", path.replace('/', "%2F"));
        for (host, url, may_be) in [
            ("db", "mysql://wp:x@db:3306/shop".to_owned(), true),
            ("DB.example.", "mysql://wp:x@db.example/shop".into(), true),
            ("db", "mysql://wp:other-password@db/SHOP".into(), true),
            ("db", "mysql://sidecar:x@db/shop".into(), false),
            ("db", "mysql://WP:x@db/shop".into(), false),
            ("db", "mysql://db/shop".into(), false),
            ("db", "mysql://wp:x@db/shop2".into(), false),
            ("db", "mysql://wp:x@db:3307/shop".into(), false),
            ("db", "mysql://wp:x@10.0.0.5/shop".into(), false),
            ("10.0.0.5", "mysql://wp:x@10.0.0.5/shop".into(), true),
            ("[2001:db8::5]:3306", "mysql://wp:x@[2001:DB8:0::5]/shop".into(), true),
            ("127.0.0.1", "mysql://wp:x@localhost:3306/shop".into(), true),
            ("127.0.0.1", "mysql://wp:x@[::1]:3306/shop".into(), true),
            ("127.0.0.1:3307", "mysql://wp:x@127.0.0.1:6033/shop".into(), false),
            // For PHP, localhost is the socket; a port of this machine may lead to the same server.
            ("localhost", "mysql://wp:x@127.0.0.1/shop".into(), true),
            ("localhost", socket("/run/mysqld/mysqld.sock"), true),
            ("localhost", socket("/var/run/mysqld/mysqld.sock"), true),
            ("localhost:/var/run/mysqld/mysqld.sock", socket("/run/mysqld/mysqld.sock"), true),
            ("localhost", socket("/srv/mysql.sock"), false),
            ("db", socket("/run/mysqld/mysqld.sock"), false),
        ] {
            assert_eq!(sites("wp", host, "shop").may_be(&Opts::from_url(&url).unwrap()), may_be, "{host} {url}");
        }
    }

    #[test]
    fn what_is_not_known_may_be_the_same() {
        let ours = Opts::from_url("mysql://sidecar:x@db/shop").unwrap();
        assert!(SitesConnection::default().may_be(&ours));
        let user = |name: &str| SitesConnection { user: Some(name.into()), ..SitesConnection::default() };
        assert!(user("sidecar").may_be(&ours));
        assert!(!user("wp").may_be(&ours), "another user is another connection wherever it goes");
    }
}
