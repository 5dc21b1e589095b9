//! Parses `DB_HOST` like WordPress (`wpdb::parse_db_host`) and PHP's mysqlnd.
//!
//! mysqlnd uses the local socket whenever the host is `localhost` or empty, whatever the port, and
//! TCP in all other cases, whatever the socket. The default socket is set in php.ini
//! (`mysqli.default_socket`), which is not read here: the usual places are tried.

use std::path::PathBuf;

/// Where PHP, MariaDB and MySQL packages put the server's socket, most likely first.
pub const USUAL_SOCKETS: [&str; 4] =
    ["/run/mysqld/mysqld.sock", "/var/run/mysqld/mysqld.sock", "/tmp/mysql.sock", "/var/lib/mysql/mysql.sock"];

/// Where the database listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseAddress {
    /// A host name or an IP address without brackets, and a port.
    Tcp(String, u16),
    Socket(PathBuf),
}

/// Why a `DB_HOST` is invalid. The fault is in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DbHostError {
    /// WordPress cannot parse it.
    #[error("WordPress takes host, host:port, localhost:/path/to.sock, [::1]:3306")]
    NotAHost,
    /// A number that is not a port.
    #[error("a port is at most 65535")]
    Port,
}

/// Parses `DB_HOST`. `sockets` are the sockets that exist, most likely first; without one, a
/// `localhost` that names no socket is 127.0.0.1.
///
/// # Errors
/// WordPress cannot parse it either, or the port is invalid.
pub fn database_address(db_host: &str, sockets: &[PathBuf]) -> Result<DatabaseAddress, DbHostError> {
    let (address, socket) = match db_host.find(":/") {
        Some(colon) => (db_host.get(..colon).unwrap_or_default(), db_host.get(colon + 1..)),
        None => (db_host, None),
    };
    let (host, port) = if address.matches(':').count() > 1 { ipv6_and_port(address)? } else { name_and_port(address) };
    let port = match port {
        Some(digits) => match digits.trim_start_matches('0') {
            "" => 3306, // PHP: empty( '0' ), no port
            digits => digits.parse().map_err(|_| DbHostError::Port)?,
        },
        None => 3306,
    };
    if !host.is_empty() && !host.eq_ignore_ascii_case("localhost") && host != "0" {
        return Ok(DatabaseAddress::Tcp(host.to_owned(), port));
    }
    Ok(match (socket, sockets.first()) {
        (Some(socket), _) => DatabaseAddress::Socket(PathBuf::from(socket)),
        (None, Some(usual)) => DatabaseAddress::Socket(usual.clone()),
        (None, None) => DatabaseAddress::Tcp("127.0.0.1".to_owned(), port),
    })
}

/// `^(?:\[)?(?P<host>[0-9a-fA-F:]+)(?:\]:(?P<port>[\d]+))?`
fn ipv6_and_port(address: &str) -> Result<(&str, Option<&str>), DbHostError> {
    let address = address.strip_prefix('[').unwrap_or(address);
    let (host, rest) = split_where(address, |character| !character.is_ascii_hexdigit() && character != ':');
    if host.is_empty() {
        return Err(DbHostError::NotAHost);
    }
    Ok((host, rest.strip_prefix("]:").map(digits).filter(|digits| !digits.is_empty())))
}

/// `^(?P<host>[^:/]*)(?::(?P<port>[\d]+))?`
fn name_and_port(address: &str) -> (&str, Option<&str>) {
    let (host, rest) = split_where(address, |character| character == ':' || character == '/');
    (host, rest.strip_prefix(':').map(digits).filter(|digits| !digits.is_empty()))
}

fn digits(text: &str) -> &str {
    split_where(text, |character| !character.is_ascii_digit()).0
}

fn split_where(text: &str, ends: fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(ends).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(db_host: &str) -> Result<DatabaseAddress, DbHostError> {
        database_address(db_host, &[])
    }

    fn tcp(host: &str, port: u16) -> Result<DatabaseAddress, DbHostError> {
        Ok(DatabaseAddress::Tcp(host.to_owned(), port))
    }

    fn socket(path: &str) -> Result<DatabaseAddress, DbHostError> {
        Ok(DatabaseAddress::Socket(PathBuf::from(path)))
    }

    #[test]
    fn hosts_and_ports() {
        assert_eq!(read("db.example.com"), tcp("db.example.com", 3306));
        assert_eq!(read("db:3307"), tcp("db", 3307));
        assert_eq!(read("10.0.0.1:0"), tcp("10.0.0.1", 3306));
        assert_eq!(read("db:x"), tcp("db", 3306));
        assert_eq!(read("db/x"), tcp("db", 3306));
        assert_eq!(read("db:99999"), Err(DbHostError::Port));
        assert_eq!(read("db:99999999999999999999"), Err(DbHostError::Port));
    }

    #[test]
    fn ipv6() {
        for (db_host, port) in [("::1", 3306), ("[::1]", 3306), ("[::1]:3307", 3307), ("::1]:3307", 3307)] {
            assert_eq!(read(db_host), tcp("::1", port), "{db_host}");
        }
        assert_eq!(read("fe80::1%eth0"), tcp("fe80::1", 3306));
        assert_eq!(read("x:y:z"), Err(DbHostError::NotAHost));
    }

    #[test]
    fn localhost_is_the_socket_where_there_is_one() {
        let there = [PathBuf::from("/run/mysqld/mysqld.sock")];
        for db_host in ["localhost", "LOCALHOST", "", "localhost:3307"] {
            assert_eq!(database_address(db_host, &there), socket("/run/mysqld/mysqld.sock"), "{db_host}");
        }
        assert_eq!(read("localhost"), tcp("127.0.0.1", 3306));
        assert_eq!(read("localhost:3307"), tcp("127.0.0.1", 3307));
        assert_eq!(database_address("127.0.0.1", &there), tcp("127.0.0.1", 3306));
    }

    #[test]
    fn sockets_count_for_localhost_only() {
        assert_eq!(read("localhost:/srv/my.sock"), socket("/srv/my.sock"));
        assert_eq!(read(":/srv/my.sock"), socket("/srv/my.sock"));
        assert_eq!(read("localhost:3306:/srv/my.sock"), socket("/srv/my.sock"));
        assert_eq!(read("127.0.0.1:/srv/my.sock"), tcp("127.0.0.1", 3306));
    }

    proptest! {
        #[test]
        fn any_text_is_read(db_host in "[0-9a-fA-F:/\\[\\]. é]{0,30}") {
            if let Ok(DatabaseAddress::Tcp(host, port)) = read(&db_host) {
                prop_assert!(!host.is_empty() && port > 0);
            }
        }

        #[test]
        fn a_plain_host_and_port_come_back(host in "[a-z][a-z0-9.-]{0,20}[0-9]", port in 1_u16..) {
            prop_assert_eq!(read(&format!("{host}:{port}")), tcp(&host, port));
        }
    }
}
