//! The database: can it be reached, does it accept writes, does its clock agree with this
//! machine's?

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mysql_async::Row;

use crate::finding::{Area, Finding};
use crate::wordpress::database::tls::{self, Presented, Protection};
use crate::wordpress::database::{Database, DatabaseError, Hosts, NotUnderstood, Session, column};
use crate::wordpress::installation::Installation;

/// Clocks that differ by less are taken to agree: columns have whole seconds.
const AGREE: Duration = Duration::from_secs(2);

/// A server's certificate that expires so soon should have been renewed.
const ENDS_SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// From this difference on, it matters for sessions whose clock is used.
const FAR_APART: Duration = Duration::from_secs(60);

/// What is known of the server.
pub struct Server {
    /// `VERSION()`.
    pub version: String,
    /// `CURRENT_USER()`: the account whose privileges count.
    pub account: String,
    /// `DATABASE()`.
    pub database: String,
    /// Whether it accepts no writes, even from the sidecar's user.
    pub read_only: bool,
    /// How far its clock is ahead of this machine's.
    ahead: Difference,
}

/// How far two clocks are apart, and the uncertainty of the measurement. In seconds.
#[derive(Debug, Clone, Copy)]
pub struct Difference {
    /// Positive if the other clock is ahead.
    pub seconds: f64,
    /// Half of the time that the query took.
    pub uncertainty: f64,
}

impl Difference {
    /// The minimum difference.
    pub fn least(self) -> Duration {
        Duration::from_secs_f64((self.seconds.abs() - self.uncertainty).max(0.0))
    }
}

impl Server {
    /// Whether it is MariaDB; otherwise it is MySQL, or unknown.
    pub fn is_mariadb(&self) -> bool {
        self.version.contains("MariaDB")
    }

    /// The findings about it. `label` names its address.
    pub fn findings(&self, label: &str) -> Vec<Finding> {
        let reached = format!("{label}: {} answers as {}", self.version, self.account);
        let mut reached = Finding::ok(Area::Database, "database.reachable", reached);
        if !self.is_mariadb() {
            reached = reached.with_hint("It is not a MariaDB: a \"revoke all\" of the plugin may meet a deadlock with a refresh there, and has to be repeated.");
        }
        let mut findings = vec![reached];
        if self.read_only {
            findings.push(Finding::problem(
                Area::Database,
                "database.read_only",
                "the server is read-only: it is a replica, or was made so for maintenance",
                "Name the server that WordPress writes to (DB_HOST, or wordpress.database_url), or SET GLOBAL read_only = 0.",
            ));
        }
        findings.push(clock(self.ahead));
        findings
    }
}

/// Queries the server's properties.
///
/// # Errors
/// The database's.
pub async fn server(session: &mut Session<'_>) -> Result<Server, DatabaseError> {
    let conn = session.conn();
    let row: Option<Row> =
        conn.query_first("SELECT VERSION(), CURRENT_USER(), DATABASE(), CAST(@@GLOBAL.read_only AS CHAR)").await?;
    let mut row = row.ok_or(DatabaseError::Column("VERSION()"))?;
    let read_only: String = column(&mut row, 3, "read_only")?;
    let before = now();
    let time: Option<Row> =
        conn.query_first("SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))").await?;
    let after = now();
    let mut time = time.ok_or(DatabaseError::Column("UTC_TIMESTAMP"))?;
    let theirs = column::<i64>(&mut time, 0, "UTC_TIMESTAMP")? as f64 / 1e6;
    Ok(Server {
        version: column(&mut row, 0, "VERSION()")?,
        account: column(&mut row, 1, "CURRENT_USER()")?,
        database: column(&mut row, 2, "DATABASE()")?,
        read_only: !matches!(read_only.to_ascii_uppercase().as_str(), "0" | "OFF"),
        ahead: Difference { seconds: theirs - before.midpoint(after), uncertainty: (after - before) / 2.0 },
    })
}

/// Whether the account is allowed as many connections as the sidecar may use.
///
/// # Errors
/// The database's.
pub async fn connections(session: &mut Session<'_>, wanted: usize) -> Result<Option<Finding>, DatabaseError> {
    let asked = "SELECT CAST(@@SESSION.max_user_connections AS UNSIGNED), CAST(@@GLOBAL.max_connections AS UNSIGNED)";
    let mut row = match session.conn().query_first(asked).await {
        Ok(Some(row)) => row,
        // A proxy in front of the server may not know them, and has limits of its own.
        Ok(None) | Err(mysql_async::Error::Server(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let of_account: u64 = column(&mut row, 0, "max_user_connections")?;
    let of_server: u64 = column(&mut row, 1, "max_connections")?;
    Ok(too_few(wanted as u64, of_account, of_server))
}

/// Pure. 0 means that the account has no limit of its own.
fn too_few(wanted: u64, of_account: u64, of_server: u64) -> Option<Finding> {
    let (limit, name) = match of_account {
        0 => (of_server, "max_connections"),
        own => (own, "max_user_connections"),
    };
    // A connection that is closing counts for a moment longer, and probing a silent server takes
    // one more.
    let needed = wanted + 2;
    (limit < needed).then(|| {
        Finding::warning(
            Area::Database,
            "database.connections",
            format!("the server allows {limit} connections ({name}), and the sidecar may want {needed}"),
            "Lower wordpress.database_connections, or raise the server's limit: under load refreshes would find none free.",
        )
    })
}

/// Unix time in seconds.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Checks each of several hosts by itself: an unusable one will be missed when the others fail.
pub async fn hosts(installation: &Installation) -> Vec<Finding> {
    let id = "database.hosts";
    let hosts = installation.database.opts();
    let mut findings = Vec::new();
    for (opts, label) in hosts.iter().zip(installation.database.labels()).filter(|_| hosts.len() > 1) {
        let database = Database::new(Hosts::new(vec![opts.clone()]));
        let asked = async {
            let mut session = database.session().await?;
            let server = server(&mut session).await?;
            session.give_back();
            Ok::<_, DatabaseError>((server, database.unsynced_node()))
        };
        findings.push(match asked.await {
            Ok((server, _)) if server.read_only => {
                Finding::ok(Area::Database, id, format!("{label} is read-only: it is used once it accepts writes"))
            }
            Ok((_, Some(node))) => Finding::warning(
                Area::Database,
                id,
                format!("{label} is a node of a cluster that is not in step ({node}): others are used before it"),
                "It is used again once it is synced. If it stays so: what does its error log say, and is a backup or a \
                 transfer to a node that joins under way?",
            ),
            Ok(_) => Finding::ok(Area::Database, id, format!("{label} accepts writes")),
            Err(error) => Finding::warning(
                Area::Database,
                id,
                format!("{label} cannot be used: {error}"),
                "Is it running, and does it have the user? While it is down, there is one host less to fail over to.",
            ),
        });
        database.close().await;
    }
    findings
}

/// TLS with each host. Connection failures are reported by [`unreachable`] and [`hosts`].
pub async fn tls(installation: &Installation) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (opts, label) in installation.database.opts().iter().zip(installation.database.labels()) {
        let protection = Protection::of(opts);
        let presented = match protection {
            Protection::Socket | Protection::Off => None,
            Protection::Verified | Protection::EncryptOnly => match tls::probe(opts).await {
                Ok(presented) => Some(presented),
                Err(_) => continue,
            },
        };
        findings.extend(judge_tls(&label, protection, presented.as_ref(), SystemTime::now()));
    }
    findings
}

/// Pure.
fn judge_tls(label: &str, protection: Protection, presented: Option<&Presented>, now: SystemTime) -> Option<Finding> {
    let (area, id) = (Area::Database, "database.tls");
    let what = format!("{label}: TLS {}", protection.describe());
    let Some(presented) = presented else { return Some(Finding::ok(area, id, what)) };
    let what = format!("{what}; {}", presented.describe());
    let ends_soon = presented.facts.as_ref().is_some_and(|facts| facts.end < now + ENDS_SOON);
    match (protection, &presented.refused) {
        (Protection::EncryptOnly, Some(_)) => Some(Finding::warning(
            area,
            id,
            what,
            "Eavesdroppers cannot read it; an attacker who can impersonate the server can, and gets the password. Keep this only \
             on a network of your own.",
        )),
        (Protection::EncryptOnly, None) => Some(Finding::warning(
            area,
            id,
            what,
            "This certificate would verify: set wordpress.database_tls = \"verify\", so that only this server is connected to.",
        )),
        (_, Some(_)) => None,
        (_, None) if ends_soon => Some(Finding::warning(
            area,
            id,
            what,
            "Renew the database's certificate; when it has ended, refreshes are left to WordPress, which does not look at it.",
        )),
        (_, None) => Some(Finding::ok(area, id, what)),
    }
}

/// Why it cannot be reached, and what to check.
pub fn unreachable(error: &DatabaseError, installation: &Installation) -> Finding {
    let text = error.to_string();
    let fix = match error {
        // 1045: wrong user or password. 1698: an account for one of the system's users only.
        DatabaseError::Connect(said) if is_one_of(said, &[1045, 1698]) => {
            "User or password is not what the server has: compare DB_USER and DB_PASSWORD in wp-config.php (or \
             wordpress.database_url) with the server's account; the part behind the @ counts too, and an account with REQUIRE SSL or \
             X509 needs TLS (wordpress.database_tls, wordpress.database_client_certificate)."
        }
        DatabaseError::Connect(said) if is_one_of(said, &[1044, 1049]) => {
            "The database is not there, or its user may not use it: compare DB_NAME in wp-config.php with the server's."
        }
        DatabaseError::Connect(said) if is_one_of(said, &[1040, 1203, 1226]) => {
            "The server has no connection free: raise max_connections or the account's max_user_connections there, or lower \
             wordpress.database_connections, the most that the sidecar takes."
        }
        DatabaseError::Connect(said) if said.contains("not supported") => {
            "Give the sidecar a database user of its own that logs in by a password and one of those plugins, and name it in \
             wordpress.database_url."
        }
        DatabaseError::Connect(_) | DatabaseError::NotUnderstood(_) if text.contains(NotUnderstood::WHAT) => {
            "Is it a MySQL or MariaDB that listens there? If so, report its version and the place in the brackets; until then \
             the refresh route is left to WordPress."
        }
        DatabaseError::Tls(_) => {
            "The text says the cause and what to do; `openssl x509 -text` shows what a certificate holds."
        }
        DatabaseError::ReadOnly => {
            "All that can be reached are replicas: is a failover under way? Promote one, or start the primary; the sidecar \
             takes the first that accepts writes."
        }
        DatabaseError::NoConnection | DatabaseError::TimedOut => {
            "Something drops the connection without a word: look for a firewall, and at DB_HOST (or wordpress.database_url)."
        }
        _ => {
            "Is the server running, and is it where DB_HOST (or wordpress.database_url) says? A service without rights to a \
             local socket's folder cannot reach it either."
        }
    };
    let what = format!("the database {} cannot be used: {text}", installation.database_label);
    Finding::problem(Area::Database, "database.reachable", what, fix)
}

/// `ERROR 1045 (28000): Access denied …`
fn is_one_of(said: &str, codes: &[u16]) -> bool {
    codes.iter().any(|code| said.contains(&format!("ERROR {code} ")))
}

/// Pure.
fn clock(ahead: Difference) -> Finding {
    let id = "database.clock";
    let (apart, least) = (ahead.seconds.abs(), ahead.least());
    let direction = if ahead.seconds > 0.0 { "ahead of" } else { "behind" };
    let what = format!("the database's clock is {apart:.1} s {direction} this machine's");
    let fix = "Have both machines set their clocks by NTP (chrony or systemd-timesyncd): `timedatectl` shows whether they do. \
                Refresh tokens expire by the database's clock here and by PHP's there.";
    if least >= FAR_APART {
        Finding::problem(Area::Database, id, what + ": refreshes are left to WordPress", fix)
    } else if least >= AGREE {
        Finding::warning(Area::Database, id, what, fix)
    } else {
        Finding::ok(Area::Database, id, "the database's clock agrees with this machine's")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Level;
    use crate::wordpress::database::tls::Facts;

    #[test]
    fn limits_of_the_server_are_compared() {
        for (of_account, of_server, is_enough) in
            [(0, 151, true), (0, 18, true), (0, 17, false), (18, 151, true), (17, 151, false), (10, 151, false)]
        {
            assert_eq!(too_few(16, of_account, of_server).is_none(), is_enough, "{of_account} {of_server}");
        }
    }

    #[test]
    fn clocks_are_judged_by_what_is_certain() {
        for (seconds, uncertainty, level) in [
            (0.4, 0.1, Level::Ok),
            (-2.5, 1.0, Level::Ok),
            (2.5, 0.1, Level::Warning),
            (-59.0, 0.1, Level::Warning),
            (-3600.0, 0.1, Level::Problem),
        ] {
            let finding = clock(Difference { seconds, uncertainty });
            assert_eq!(finding.level, level, "{seconds}: {finding:?}");
            assert_eq!(finding.what.contains("behind"), level != Level::Ok && seconds < 0.0);
        }
    }

    #[test]
    fn tls_is_judged_by_what_is_presented() {
        let now = SystemTime::now();
        let presented = |days: u64, refused: Option<&str>| Presented {
            agreed: "TLSv1_3".to_owned(),
            chain: Vec::new(),
            facts: Some(Facts {
                names: vec!["db.example".to_owned()],
                common_name: None,
                issuer: "CN=ca".to_owned(),
                self_signed: false,
                version: 3,
                is_authority: false,
                begin: now,
                end: now + Duration::from_secs(days * 86_400),
            }),
            refused: refused.map(str::to_owned),
        };
        let judge = |protection, presented: Option<&Presented>| judge_tls("db", protection, presented, now);
        let (good, ending, bad) = (presented(90, None), presented(13, None), presented(90, Some("because")));
        for (protection, presented, expected) in [
            (Protection::Socket, None, Some((Level::Ok, "none, by a local socket"))),
            (Protection::Off, None, Some((Level::Ok, "TLS off"))),
            (
                Protection::Verified,
                Some(&good),
                Some((Level::Ok, "TLSv1_3; certificate for db.example, signed by CN=ca, until ")),
            ),
            (Protection::Verified, Some(&ending), Some((Level::Warning, "signed by CN=ca"))),
            // Reported as an unreachable database.
            (Protection::Verified, Some(&bad), None),
            (Protection::EncryptOnly, Some(&good), Some((Level::Warning, "not verified"))),
            (Protection::EncryptOnly, Some(&bad), Some((Level::Warning, "because"))),
        ] {
            let found = judge(protection, presented).map(|finding| (finding.level, finding.what));
            assert_eq!(found.as_ref().map(|(level, _)| *level), expected.map(|(level, _)| level), "{found:?}");
            if let (Some((_, what)), Some((_, part))) = (found, expected) {
                assert!(what.contains(part), "{what}");
            }
        }
    }
}
