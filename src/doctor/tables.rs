//! The plugin's tables: what is missing, how large they are, and whether there is an index on the
//! tokens.

use mysql_async::Row;

use super::database::Server;
use super::rights;
use crate::finding::{Area, Finding};
use crate::index;
use crate::wordpress::database::{DatabaseError, Session, column};
use crate::wordpress::installation::Installation;

/// The number of rows from which a look-up without an index is noticeable: PHP reads the whole
/// table for each refresh that it answers, and so does the sidecar shortly after its start.
const LARGE: u64 = 50_000;

/// The columns of an event's row.
const EVENT_COLUMNS: [&str; 14] = [
    "event_type",
    "event_status",
    "failure_reason",
    "user_id",
    "token_id",
    "token_family",
    "ip_address",
    "user_agent",
    "country_code",
    "request_path",
    "request_method",
    "response_time",
    "blog_id",
    "event_timestamp",
];

/// Checks the table of events, and the index on the tokens. Faults of the token table are reported
/// by [`super::site`].
///
/// # Errors
/// The database's.
pub async fn look(
    session: &mut Session<'_>,
    server: &Server,
    installation: &Installation,
    writes_events: bool,
) -> Result<Vec<Finding>, DatabaseError> {
    let prefix = &installation.table_prefix;
    let (tokens, events) = (format!("{prefix}jwt_auth_tokens"), format!("{prefix}jwt_auth_analytics"));
    let mut findings = Vec::new();
    let found: Vec<Row> = session
        .conn()
        .exec(
            "SELECT COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?",
            (&events,),
        )
        .await?;
    let found: Vec<String> =
        found.into_iter().map(|mut row| column(&mut row, 0, "COLUMN_NAME")).collect::<Result<_, _>>()?;
    findings.extend(event_table(&events, &found, writes_events));
    // The server's own estimate: counting would read the whole table.
    let rows: Option<Row> = session
        .conn()
        .exec_first(
            "SELECT COALESCE(TABLE_ROWS, 0) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?",
            (&tokens,),
        )
        .await?;
    if let Some(mut rows) = rows {
        let rows: u64 = column(&mut rows, 0, "TABLE_ROWS")?;
        let consecutive = session.abilities().consecutive_ids;
        let names = index::indexes(session.conn(), &tokens).await.map_err(|error| match error {
            index::IndexError::Database(error) => error,
            _ => DatabaseError::Failed(None),
        })?;
        let grant = rights::grant_for_index(server, prefix);
        findings.push(token_index(&tokens, rows, &names, consecutive, grant));
    }
    Ok(findings)
}

fn event_table(table: &str, found: &[String], writes_events: bool) -> Option<Finding> {
    let id = "tables.analytics";
    if !writes_events {
        return None;
    }
    let missing: Vec<&str> = EVENT_COLUMNS
        .into_iter()
        .filter(|name| !found.iter().any(|column| column.eq_ignore_ascii_case(name)))
        .collect();
    if missing.is_empty() {
        return Some(Finding::ok(Area::Tables, id, format!("{table} has all columns that events are written to")));
    }
    let what = match found.is_empty() {
        true => format!(
            "there is no table {table}, or the database user may not see it: no statistics of refreshes are kept"
        ),
        false => format!("{table} has no column {}: no statistics of refreshes are kept", missing.join(", ")),
    };
    let fix = "The plugin makes it when it is activated: deactivate and activate it, or update it. Set refresh.analytics to \
                false to do without.";
    Some(Finding::warning(Area::Tables, id, what, fix))
}

fn token_index(table: &str, rows: u64, names: &[String], consecutive_ids: bool, grant: String) -> Finding {
    let id = "tables.index";
    if !names.is_empty() {
        let what = format!("{table}: about {rows} rows, refresh tokens are found by the index {}", names.join(", "));
        return Finding::ok(Area::Tables, id, what);
    }
    let fix = "`wp-jwt-sidecar index` shows what an index would do, and with --apply adds it while the table is in use. The \
                database user needs for it, meanwhile:";
    if !consecutive_ids {
        let what = format!(
            "{table}: about {rows} rows, no index on refresh_token_hash, and ids do not grow by one (a cluster): unknown \
             tokens are looked for in the whole table"
        );
        return Finding::warning(Area::Tables, id, what, fix).with_lines([grant]);
    }
    if rows >= LARGE {
        let what = format!(
            "{table}: about {rows} rows and no index on refresh_token_hash: WordPress reads the whole table for every \
             refresh that it answers itself (the sidecar does not, once it has read it after its start)"
        );
        return Finding::warning(Area::Tables, id, what, fix).with_lines([grant]);
    }
    Finding::ok(
        Area::Tables,
        id,
        format!("{table}: about {rows} rows; there is no index on refresh_token_hash, and at this size none is needed"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Level;

    #[test]
    fn an_index_is_asked_for_where_it_matters() {
        let level = |rows, names: &[&str], consecutive| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            token_index("t", rows, &names, consecutive, "GRANT".to_owned()).level
        };
        assert_eq!(level(100, &[], true), Level::Ok);
        assert_eq!(level(LARGE, &[], true), Level::Warning);
        assert_eq!(level(100, &[], false), Level::Warning);
        assert_eq!(level(10 * LARGE, &["x"], false), Level::Ok);
    }

    #[test]
    fn a_missing_column_is_named() {
        let columns: Vec<String> =
            EVENT_COLUMNS.iter().filter(|name| **name != "country_code").map(|name| (*name).to_owned()).collect();
        assert!(event_table("t", &columns, true).unwrap().what.contains("no column country_code"));
        assert!(event_table("t", &[], true).unwrap().what.contains("there is no table"));
        assert!(event_table("t", &[], false).is_none());
    }
}
