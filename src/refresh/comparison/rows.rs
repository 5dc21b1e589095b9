//! Compares what WordPress has stored for a refresh with what the sidecar would have.
//!
//! SECURITY: the address, the user agent and what is derived from them come from the request: other
//! values are noted, but decide nothing.

use mysql_async::Row;

use super::claims;
use super::judge::Finding;
use crate::refresh::store::Store;
use crate::verify::difference::{Difference, Kind};
use crate::wordpress::database::{DatabaseError, Session, column};

/// Seconds by which times may be off.
const SLACK: u64 = 2;

/// How many of the newest analytics rows may be read if the table has no index on `token_id` (the
/// plugin's has one, for its foreign key): thousands are written in a second.
const LATEST: u64 = 20_000;

/// The rows to read.
pub struct Sought<'a> {
    /// `wp_hash` of the new access token.
    pub hash: &'a str,
    pub refresh_token: &'a str,
    pub user_id: u64,
    /// The old token's row.
    pub parent: u64,
}

/// The rows that were read.
pub struct Found {
    /// Whether the old token is revoked; `None` if its row is gone.
    pub is_parent_revoked: Option<bool>,
    /// The row with both the hash and the new refresh token.
    pub child: Option<Child>,
    /// Whether any row of the user contains the new refresh token.
    pub is_stored: bool,
}

/// A row that PHP has added. Has no `Debug`.
#[derive(Clone)]
pub struct Child {
    user_id: u64,
    issued_at: Option<i64>,
    expires_at: Option<i64>,
    /// Seconds from `issued_at`.
    refresh_lifetime: Option<i64>,
    family: Option<String>,
    metadata: Option<String>,
    user_agent: Option<String>,
    ip_address: Option<String>,
    blog_id: u64,
}

/// The expected contents of the row.
pub struct Wanted<'a> {
    pub times: &'a claims::Times,
    pub user_id: u64,
    pub family: Option<&'a str>,
    /// Seconds.
    pub refresh_lifetime: u64,
    pub user_agent: &'a str,
    pub ip_address: &'a str,
}

/// The compared columns of an analytics row.
pub struct Event {
    pub ip_address: Option<String>,
    pub blog_id: u64,
}

/// Reads the rows of one refresh.
///
/// # Errors
/// The database's.
pub async fn read(store: &Store, session: &mut Session<'_>, sought: &Sought<'_>) -> Result<Found, DatabaseError> {
    let tokens = &store.tokens;
    let statement = format!(
        "SELECT user_id, TIMESTAMPDIFF(SECOND, '1970-01-01', issued_at), TIMESTAMPDIFF(SECOND, '1970-01-01', expires_at), \
         TIMESTAMPDIFF(SECOND, issued_at, refresh_token_expires_at), token_family, metadata, user_agent, ip_address, blog_id \
         FROM {tokens} WHERE hash = ? AND refresh_token_hash = ? LIMIT 1"
    );
    let row: Option<Row> = session.conn().exec_first(statement, (sought.hash, sought.refresh_token)).await?;
    let child = row.map(child).transpose()?;
    let is_stored = match child {
        Some(_) => true,
        None => {
            let statement = format!("SELECT id FROM {tokens} WHERE user_id = ? AND refresh_token_hash = ? LIMIT 1");
            let row: Option<Row> = session.conn().exec_first(statement, (sought.user_id, sought.refresh_token)).await?;
            row.is_some()
        }
    };
    let is_parent_revoked = is_revoked(store, session, sought.parent).await?;
    Ok(Found { is_parent_revoked, child, is_stored })
}

/// Whether the token in row `id` is revoked; `None` if there is no such row.
///
/// # Errors
/// The database's.
pub async fn is_revoked(store: &Store, session: &mut Session<'_>, id: u64) -> Result<Option<bool>, DatabaseError> {
    let statement = format!("SELECT revoked_at IS NOT NULL FROM {} WHERE id = ?", store.tokens);
    let row: Option<Row> = session.conn().exec_first(statement, (id,)).await?;
    row.map(|mut row| column(&mut row, 0, "revoked_at")).transpose()
}

/// Whether row `id` has a younger row of its family. A logout leaves none.
///
/// # Errors
/// The database's.
pub async fn is_succeeded(
    store: &Store,
    session: &mut Session<'_>,
    id: u64,
    user_id: u64,
    family: Option<&str>,
) -> Result<bool, DatabaseError> {
    let statement =
        format!("SELECT id FROM {} WHERE user_id = ? AND token_family <=> ? AND id > ? LIMIT 1", store.tokens);
    let row: Option<Row> = session.conn().exec_first(statement, (user_id, family, id)).await?;
    Ok(row.is_some())
}

/// The analytics row of the refresh of the token in row `parent`.
///
/// # Errors
/// The database's; the sidecar's account need not be allowed to read them.
// SECURITY: `analytics` becomes part of the SQL; see `Store::new`.
pub async fn event(session: &mut Session<'_>, analytics: &str, parent: u64) -> Result<Option<Event>, DatabaseError> {
    let last: Option<Row> =
        session.conn().query_first(format!("SELECT COALESCE(MAX(id), 0) FROM `{analytics}`")).await?;
    let last: u64 = last.map_or(Ok(0), |mut row| column(&mut row, 0, "id"))?;
    let statement = format!(
        "SELECT ip_address, blog_id FROM `{analytics}` WHERE id > ? AND token_id = ? \
         AND event_type = 'token_refresh' AND event_status = 1 ORDER BY id DESC LIMIT 1"
    );
    let row: Option<Row> = session.conn().exec_first(statement, (last.saturating_sub(LATEST), parent)).await?;
    let event = |mut row: Row| {
        Ok(Event { ip_address: text(&mut row, 0, "ip_address")?, blog_id: column(&mut row, 1, "blog_id")? })
    };
    row.map(event).transpose()
}

/// The difference of the rows, if any. Pure.
pub fn judge(found: &Found, wanted: &Wanted<'_>) -> Option<Finding> {
    let differs = |kind, what: &str| Some(Finding::Differs(Difference::new(kind, what)));
    let Some(child) = &found.child else {
        return match found.is_stored {
            true => differs(Kind::Keys, "the hash that WordPress has stored is not that of its access token"),
            false => Some(Finding::Suspicious(Difference::new(Kind::Row, "row of the new token missing"))),
        };
    };
    if found.is_parent_revoked == Some(false) {
        return differs(Kind::Row, "row of the old token not revoked");
    }
    child.differs(wanted).map(Finding::Differs)
}

impl Child {
    fn differs(&self, wanted: &Wanted<'_>) -> Option<Difference> {
        let row = |column: &str| Some(Difference::new(Kind::Row, format!("row {column}")));
        let is = |found: Option<i64>, wanted: u64| {
            found.and_then(|found| u64::try_from(found).ok()).is_some_and(|found| found.abs_diff(wanted) <= SLACK)
        };
        if self.user_id != wanted.user_id {
            return row("user_id");
        }
        // An empty family equals none.
        if self.family.as_deref().unwrap_or_default() != wanted.family.unwrap_or_default() {
            return row("token_family");
        }
        if !is(self.issued_at, wanted.times.issued_at) {
            return row("issued_at");
        }
        if !is(self.expires_at, wanted.times.expires_at) {
            return row("expires_at");
        }
        if !is(self.refresh_lifetime, wanted.refresh_lifetime) {
            let found = self.refresh_lifetime.and_then(|found| u64::try_from(found).ok()).unwrap_or_default();
            return Some(claims::lifetimes("refresh lifetime", found, wanted.refresh_lifetime));
        }
        if self.blog_id != 1 {
            return row("blog_id");
        }
        if !has_usual_form(self.metadata.as_deref()) {
            return row("metadata");
        }
        None
    }

    /// The columns that are derived from the request and contain another value.
    pub fn notes(&self, wanted: &Wanted<'_>) -> Vec<&'static str> {
        let is = |found: &Option<String>, wanted: &str| found.as_deref().unwrap_or_default() == wanted;
        let notes = [
            (!is(&self.ip_address, wanted.ip_address)).then_some("ip_address of tokens"),
            (!is(&self.user_agent, wanted.user_agent)).then_some("user_agent of tokens"),
        ];
        notes.into_iter().flatten().collect()
    }
}

/// `{"user_agent":"…"}`
fn has_usual_form(metadata: Option<&str>) -> bool {
    let metadata: Option<serde_json::Value> = metadata.and_then(|metadata| serde_json::from_str(metadata).ok());
    let members = metadata.as_ref().and_then(serde_json::Value::as_object);
    members
        .is_some_and(|members| members.len() == 1 && members.get("user_agent").is_some_and(|value| value.is_string()))
}

fn child(mut row: Row) -> Result<Child, DatabaseError> {
    Ok(Child {
        user_id: column(&mut row, 0, "user_id")?,
        issued_at: column(&mut row, 1, "issued_at")?,
        expires_at: column(&mut row, 2, "expires_at")?,
        refresh_lifetime: column(&mut row, 3, "refresh_token_expires_at")?,
        family: text(&mut row, 4, "token_family")?,
        metadata: text(&mut row, 5, "metadata")?,
        user_agent: text(&mut row, 6, "user_agent")?,
        ip_address: text(&mut row, 7, "ip_address")?,
        blog_id: column(&mut row, 8, "blog_id")?,
    })
}

fn text(row: &mut Row, index: usize, name: &'static str) -> Result<Option<String>, DatabaseError> {
    let bytes: Option<Vec<u8>> = column(row, index, name)?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Child {
        Child {
            user_id: 2,
            issued_at: Some(1_000),
            expires_at: Some(1_600),
            refresh_lifetime: Some(6_000),
            family: Some("f".to_owned()),
            metadata: Some(r#"{"user_agent":"app"}"#.to_owned()),
            user_agent: Some("app".to_owned()),
            ip_address: Some("192.0.2.1".to_owned()),
            blog_id: 1,
        }
    }

    fn judged(child: Option<Child>, is_parent_revoked: bool, is_stored: bool) -> String {
        let times = claims::Times { issued_at: 1_000, expires_at: 1_600 };
        let wanted = Wanted {
            times: &times,
            user_id: 2,
            family: Some("f"),
            refresh_lifetime: 6_000,
            user_agent: "app",
            ip_address: "192.0.2.1",
        };
        let found = Found { is_parent_revoked: Some(is_parent_revoked), child, is_stored };
        match judge(&found, &wanted) {
            None => found.child.map(|child| child.notes(&wanted).join(", ")).unwrap_or_default(),
            Some(Finding::Void) => "void".to_owned(),
            Some(Finding::Differs(difference)) => format!("{}: {difference}", difference.kind.name()),
            Some(Finding::Suspicious(difference)) => format!("{}? {difference}", difference.kind.name()),
        }
    }

    #[test]
    fn each_column_counts() {
        let with = |change: fn(&mut Child)| {
            let mut child = plain();
            change(&mut child);
            judged(Some(child), true, true)
        };
        assert_eq!(with(|_| ()), "");
        assert_eq!(with(|child| child.issued_at = Some(1_002)), "");
        for (change, words) in [
            ((|child| child.user_id = 3) as fn(&mut Child), "row: row user_id"),
            (|child| child.family = None, "row: row token_family"),
            (|child| child.issued_at = Some(1_300), "row: row issued_at"),
            (|child| child.expires_at = None, "row: row expires_at"),
            (
                |child| child.refresh_lifetime = Some(9_000),
                "lifetime: refresh lifetime 9000 s, the setting says 6000 s",
            ),
            (|child| child.refresh_lifetime = Some(-1), "lifetime: refresh lifetime 0 s, the setting says 6000 s"),
            (|child| child.blog_id = 7, "row: row blog_id"),
            (|child| child.metadata = None, "row: row metadata"),
            (|child| child.metadata = Some(r#"{"user_agent":"a","device":"b"}"#.to_owned()), "row: row metadata"),
            (|child| child.metadata = Some(r#"{"user_agent":"another"}"#.to_owned()), ""),
            (|child| child.user_agent = None, "user_agent of tokens"),
            (|child| child.ip_address = Some("192.0.2.2".to_owned()), "ip_address of tokens"),
        ] {
            assert_eq!(with(change), words);
        }
    }

    #[test]
    fn rows_that_are_not_there() {
        assert_eq!(judged(Some(plain()), false, true), "row: row of the old token not revoked");
        assert!(judged(None, true, true).starts_with("keys: the hash"));
        assert_eq!(judged(None, true, false), "row? row of the new token missing");
    }
}
