//! The database: can it be reached, can it be written, does its clock agree with ours.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mysql_async::Row;
use mysql_async::prelude::Queryable as _;

use super::finding::{Area, Finding};
use crate::wordpress::database::{Database, DatabaseError, Hosts, Session, column};
use crate::wordpress::installation::Installation;

/// Clocks that differ by less are taken to agree: columns have whole seconds.
const AGREE: Duration = Duration::from_secs(2);

/// From here on sessions end noticeably earlier or later, by whose clock is asked.
const FAR_APART: Duration = Duration::from_secs(60);

/// What is known of the server.
pub struct Server {
    /// `VERSION()`.
    pub version: String,
    /// `CURRENT_USER()`: the account whose rights count.
    pub account: String,
    /// `DATABASE()`.
    pub database: String,
    read_only: bool,
    /// By how much its clock is ahead of ours.
    ahead: Difference,
}

/// How far two clocks are apart, and how far the measurement can be wrong. In seconds.
#[derive(Debug, Clone, Copy)]
pub struct Difference {
    /// Positive: theirs is ahead.
    pub seconds: f64,
    /// Half of the time that asking took.
    pub uncertainty: f64,
}

impl Difference {
    /// How far they are apart at the least.
    pub fn least(self) -> Duration {
        Duration::from_secs_f64((self.seconds.abs() - self.uncertainty).max(0.0))
    }
}

impl Server {
    /// Whether it is a MariaDB; else it is a MySQL, or says nothing.
    pub fn is_mariadb(&self) -> bool {
        self.version.contains("MariaDB")
    }

    /// What is to be said of it. `label` says where it is.
    pub fn findings(&self, label: &str) -> Vec<Finding> {
        let reached = format!("{label}: {} answers as {}", self.version, self.account);
        let mut reached = Finding::ok(Area::Database, "database.reachable", reached);
        if !self.is_mariadb() {
            reached = reached.with_hint("It is no MariaDB; the sidecar is tested with MariaDB only.");
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

/// Asks the server about itself.
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

/// Unix time in seconds.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Each of several hosts by itself: one that cannot be used will be missed when the others are gone.
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
            Ok::<_, DatabaseError>(server)
        };
        findings.push(match asked.await {
            Ok(server) if server.read_only => {
                Finding::ok(Area::Database, id, format!("{label} is read-only: it is used once it takes writes"))
            }
            Ok(_) => Finding::ok(Area::Database, id, format!("{label} takes writes")),
            Err(error) => Finding::warning(
                Area::Database,
                id,
                format!("{label} cannot be used: {error}"),
                "Is it running, and does it know the user? While it is away there is one host less to go to.",
            ),
        });
        database.close().await;
    }
    findings
}

/// Why it cannot be reached, and what to look at.
pub fn unreachable(error: &DatabaseError, installation: &Installation) -> Finding {
    let text = error.to_string();
    let mend = match error {
        // 1045: wrong user or password. 1698: a user that only the system's own may be.
        DatabaseError::Connect(said) if is_one_of(said, &[1045, 1698]) => {
            "User or password is not what the server has: compare DB_USER and DB_PASSWORD in wp-config.php (or \
             wordpress.database_url) with the server's account; the part behind the @ counts too."
        }
        DatabaseError::Connect(said) if is_one_of(said, &[1044, 1049]) => {
            "The database is not there, or its user may not use it: compare DB_NAME in wp-config.php with the server's."
        }
        DatabaseError::Connect(said) if is_one_of(said, &[1040, 1203]) => {
            "The server has no connection free: raise max_connections there; the sidecar takes at most 16."
        }
        DatabaseError::ReadOnly => {
            "All that can be reached are replicas: is a failover under way? Promote one, or start the primary; the sidecar \
             takes the first that takes writes."
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
    Finding::problem(Area::Database, "database.reachable", what, mend)
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
    let mend = "Have both machines set their clocks by NTP (chrony or systemd-timesyncd): `timedatectl` shows whether they do. \
                Refresh tokens expire by the database's clock here and by PHP's there.";
    if least >= FAR_APART {
        Finding::problem(Area::Database, id, what, mend)
    } else if least >= AGREE {
        Finding::warning(Area::Database, id, what, mend)
    } else {
        Finding::ok(Area::Database, id, "the database's clock agrees with this machine's")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

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
}
