//! Which address does WordPress take as the client's? The plugin's analytics of the doctor's
//! refused refreshes show it; those requests have an address of a documentation network (RFC 5737)
//! in `X-Forwarded-For`.

use std::time::Duration;

use mysql_async::Row;
use tokio::time::sleep;

use crate::finding::{Area, Finding};
use crate::wordpress::database::{Database, DatabaseError, column};

/// An address that no client has.
pub const CLIENT: &str = "192.0.2.77";

/// The part of it that remains if the plugin shortens addresses, and the beginning of the whole.
const NETWORK: &str = "192.0.2.";

/// The chain with an empty first element, which a list may have (RFC 9110, section 5.6.1). The
/// plugin uses the first element, and if that is empty the web server's address of the client
/// (`REMOTE_ADDR`); a correctly configured web server uses the last.
pub const CLIENT_BEHIND_NOTHING: &str = ", 192.0.2.77";

/// Rows are written before the response, but perhaps on another machine.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// The error codes for a denied table or column.
const DENIED: [u16; 2] = [1142, 1143];

/// The addresses that the plugin noted for the requests of two user agents.
pub struct Seen {
    /// For the request with [`CLIENT`].
    pub plain: Option<String>,
    /// For the request with [`CLIENT_BEHIND_NOTHING`].
    pub behind_nothing: Option<String>,
}

/// The greatest id of the plugin's events: the doctor's come after it.
///
/// # Errors
/// The database's.
pub async fn last_event(database: &Database, table_prefix: &str) -> Result<u64, DatabaseError> {
    let mut session = database.session().await?;
    let statement = format!("SELECT COALESCE(MAX(id), 0) FROM `{table_prefix}jwt_auth_analytics`");
    let row: Option<Row> = session.conn().query_first(statement).await?;
    session.give_back();
    row.map_or(Ok(0), |mut row| column(&mut row, 0, "id"))
}

/// Reads the events of the two user agents after the id `after`.
///
/// # Errors
/// The database's.
pub async fn seen(
    database: &Database,
    table_prefix: &str,
    after: u64,
    agents: (&str, &str),
) -> Result<Seen, DatabaseError> {
    let statement = format!(
        "SELECT user_agent, ip_address FROM `{table_prefix}jwt_auth_analytics` FORCE INDEX (PRIMARY) \
         WHERE id > ? AND user_agent IN (?, ?)"
    );
    let mut seen = Seen { plain: None, behind_nothing: None };
    for attempt in 0..TRIES {
        if attempt > 0 {
            sleep(PAUSE).await;
        }
        let mut session = database.session().await?;
        let rows: Vec<Row> = session.conn().exec(statement.as_str(), (after, agents.0, agents.1)).await?;
        session.give_back();
        for mut row in rows {
            let agent: Option<String> = column(&mut row, 0, "user_agent")?;
            let address: Option<String> = column(&mut row, 1, "ip_address")?;
            match agent.as_deref() {
                Some(agent) if agent == agents.0 => seen.plain = address,
                Some(agent) if agent == agents.1 => seen.behind_nothing = address,
                _ => {}
            }
        }
        if seen.plain.is_some() && seen.behind_nothing.is_some() {
            break;
        }
    }
    Ok(seen)
}

/// The finding if the table could not be read.
pub fn not_known(error: &DatabaseError) -> Finding {
    let why = match error.code() {
        Some(code) if DENIED.contains(&code) => "the database user may not read the plugin's analytics".to_owned(),
        _ => error.to_string(),
    };
    unknown(&why)
}

/// Pure.
pub fn judge(seen: &Seen) -> Finding {
    let id = "client_address.seen";
    let is_client = |address: &&String| address.starts_with(NETWORK);
    let Some(plain) = &seen.plain else {
        return unknown("the plugin's analytics contain no refused refresh");
    };
    let fix = "Have the web server take the client's address from the sidecar:";
    if !is_client(&plain) {
        let what = format!(
            "WordPress took {plain} as the client of a request from {CLIENT}: it sees all clients as one, with one rate limit \
             and one address in the plugin's statistics. The web server does not pass X-Forwarded-For on"
        );
        return Finding::problem(Area::ClientAddress, id, what, fix).with_lines(snippets());
    }
    match seen.behind_nothing.as_ref() {
        Some(address) if is_client(&address) => {
            Finding::ok(Area::ClientAddress, id, "WordPress sees the client's address, and so does the web server")
        }
        Some(address) if !address.is_empty() => {
            let what = format!(
                "the plugin sees the client's address, but the web server uses {address} instead: comments, logs and plugins \
                 that limit logins use REMOTE_ADDR, and see all clients as one"
            );
            Finding::warning(Area::ClientAddress, id, what, fix).with_lines(snippets())
        }
        _ => Finding::ok(Area::ClientAddress, id, "the plugin sees the client's address").with_hint(
            "Whether REMOTE_ADDR is right too could not be checked: write a comment on the site and look at its address.",
        ),
    }
}

fn unknown(why: &str) -> Finding {
    let what = format!("whether WordPress sees the client's address is not known: {why}");
    Finding::ok(Area::ClientAddress, "client_address.seen", what).with_hint(
        "To test it: write a comment on the site by way of the sidecar, and look at its address under Comments.",
    )
}

fn snippets() -> [&'static str; 8] {
    [
        "# nginx, in the site's server block; 127.0.0.1 is where the sidecar comes from",
        "set_real_ip_from 127.0.0.1;",
        "real_ip_header X-Forwarded-For;",
        "real_ip_recursive on;",
        "# Apache, with mod_remoteip",
        "RemoteIPHeader X-Forwarded-For",
        "RemoteIPInternalProxy 127.0.0.1",
        "# and fastcgi_param HTTP_X_FORWARDED_FOR must not be cleared",
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Level;

    #[test]
    fn both_views_are_judged() {
        let judged = |plain: Option<&str>, behind: Option<&str>| {
            let seen = Seen { plain: plain.map(str::to_owned), behind_nothing: behind.map(str::to_owned) };
            let finding = judge(&seen);
            (finding.level, finding.fix.is_some())
        };
        assert_eq!(judged(Some(CLIENT), Some(CLIENT)), (Level::Ok, false));
        assert_eq!(judged(Some("192.0.2.0"), Some("192.0.2.0")), (Level::Ok, false), "shortened");
        assert_eq!(judged(Some(CLIENT), Some("127.0.0.1")), (Level::Warning, true));
        assert_eq!(judged(Some("127.0.0.1"), Some("127.0.0.1")), (Level::Problem, true));
        assert_eq!(judged(Some(CLIENT), Some("")), (Level::Ok, true));
        assert_eq!(judged(None, None), (Level::Ok, true));
    }
}
