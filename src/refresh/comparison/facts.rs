//! Reads what the database contains about a user, for the search for an explanation of a difference
//! ([`crate::verify::explain`]).

use std::collections::BTreeMap;

use mysql_async::Row;
use tracing::debug;

use crate::declared::{LONGEST_META, User, is_serialized, role_names};
use crate::refresh::refresher::Refresher;
use crate::verify::explain::Facts;
use crate::wordpress::database::{ANSWER_LIMIT, DatabaseError, Refusal, Session, column};

/// The most meta values that are read of a user.
const MOST_ROWS: usize = 200;

/// The most bytes of them that are kept.
const MOST_BYTES: usize = 256 << 10;

/// Reads them; `None` if the database does not answer.
pub async fn read(refresher: &Refresher, user: &User) -> Option<Facts> {
    let mut facts = Facts {
        id: user.id,
        email: user.email.clone(),
        nicename: user.nicename.clone(),
        display_name: user.display_name.clone(),
        ..Facts::default()
    };
    let database = &refresher.store.database;
    let mut session = database.session().await.ok()?;
    let asked = async {
        session.begin_at_writer().await?;
        read_all(refresher, &mut session, &mut facts).await?;
        session.end_at_writer().await
    };
    if let Err(error) = database.within(ANSWER_LIMIT, asked).await {
        debug!(%error, "the cause of a difference could not be looked up");
        return None;
    }
    session.give_back();
    Some(facts)
}

/// Skips what the account may not read.
async fn read_all(refresher: &Refresher, session: &mut Session<'_>, facts: &mut Facts) -> Result<(), DatabaseError> {
    let installation = refresher.sites.installation();
    let prefix = &installation.table_prefix;
    columns(session, &format!("`{}`", installation.users_table), facts).await?;
    facts.roles = match roles(session, prefix).await {
        Err(error) if !is_denied(&error) => return Err(error),
        roles => roles.ok().flatten(),
    };
    let Some(table) = &installation.usermeta_table else { return Ok(()) };
    match meta(session, table, prefix, facts).await {
        Err(error) if is_denied(&error) => facts.is_meta_denied = true,
        read => read?,
    }
    Ok(())
}

fn is_denied(error: &DatabaseError) -> bool {
    matches!(error.refusal(), Some(Refusal::Denied | Refusal::Absent))
}

async fn columns(session: &mut Session<'_>, users: &str, facts: &mut Facts) -> Result<(), DatabaseError> {
    for (name, field) in
        [("user_login", &mut facts.login), ("user_url", &mut facts.url), ("user_registered", &mut facts.registered)]
    {
        // As text, whatever its type. One column at a time: an account may be allowed to read only
        // some.
        let statement = format!("SELECT CAST({name} AS CHAR) FROM {users} WHERE ID = ?");
        let row: Result<Option<Row>, _> = session.conn().exec_first(statement, (facts.id,)).await;
        *field = match row.map_err(DatabaseError::from) {
            Err(error) if is_denied(&error) => {
                facts.denied_columns.push(name);
                None
            }
            row => row?.map(|mut row| text(&mut row, 0)).transpose()?.flatten(),
        };
    }
    Ok(())
}

async fn roles(session: &mut Session<'_>, prefix: &str) -> Result<Option<Vec<String>>, DatabaseError> {
    let statement = format!("SELECT option_value FROM `{prefix}options` WHERE option_name = ?");
    let row: Option<Row> = session.conn().exec_first(statement, (format!("{prefix}user_roles"),)).await?;
    let option: Option<Vec<u8>> = row.map(|mut row| column(&mut row, 0, "option_value")).transpose()?;
    Ok(option.and_then(|option| role_names(&option)))
}

async fn meta(session: &mut Session<'_>, table: &str, prefix: &str, facts: &mut Facts) -> Result<(), DatabaseError> {
    // SECURITY: without the sessions. The order is that of get_metadata_raw()
    // (wp-includes/meta.php), where the first row counts.
    let statement = format!(
        "SELECT meta_key, IF(LENGTH(meta_value) <= {LONGEST_META}, meta_value, NULL) FROM `{table}` \
         WHERE user_id = ? AND meta_key <> 'session_tokens' ORDER BY umeta_id LIMIT {}",
        MOST_ROWS + 1
    );
    let rows: Vec<Row> = session.conn().exec(statement, (facts.id,)).await?;
    facts.is_whole = rows.len() <= MOST_ROWS;
    let own = format!("{prefix}capabilities");
    let (mut left, mut values) = (MOST_BYTES, BTreeMap::new());
    for mut row in rows.into_iter().take(MOST_ROWS) {
        let Some(key) = text(&mut row, 0)? else { continue };
        let value: Option<Vec<u8>> = column(&mut row, 1, "meta_value")?;
        if values.contains_key(&key) {
            continue;
        }
        if key == own {
            facts.capabilities.clone_from(&value);
            facts.roles = facts.roles.take().filter(|_| value.is_some());
        }
        let usable =
            value.filter(|value| value.len() <= left && str::from_utf8(value).is_ok_and(|value| !is_serialized(value)));
        left = left.saturating_sub(usable.as_ref().map_or(0, Vec::len));
        values.insert(key, usable);
    }
    facts.meta = values;
    Ok(())
}

fn text(row: &mut Row, place: usize) -> Result<Option<String>, DatabaseError> {
    let bytes: Option<Vec<u8>> = column(row, place, "a column of users")?;
    Ok(bytes.and_then(|bytes| String::from_utf8(bytes).ok()))
}
