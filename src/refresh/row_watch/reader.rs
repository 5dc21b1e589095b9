//! Reads a bounded number of new rows of the token table.

use mysql_async::{Params, Row, Value};

use super::judge::Written;
use crate::refresh::seen_ids::SeenIds;
use crate::refresh::store::unix_seconds;
use crate::wordpress::database::{DatabaseError, Session, column};

/// Rows per page, and pages per look. If there are more new rows, only the newest are read.
const PAGE: u64 = 200;
const PAGES: u64 = 10;

/// Ranges of ids per statement, and per look: the newest, if there are more.
const RANGES: usize = 16;
const MOST_RANGES: usize = 32 * RANGES;

/// The rows to read.
pub struct Sought {
    /// Every id from here on is new.
    pub next: u64,
    /// Smaller ids that have not been seen, ascending, ends included.
    pub gaps: Vec<(u64, u64)>,
    /// Rows to be read again.
    pub again: Vec<u64>,
}

impl Sought {
    /// The ids that `seen` has not seen, and `again`.
    pub fn of(seen: &SeenIds, again: impl IntoIterator<Item = u64>) -> Self {
        let gaps = seen.gaps();
        let newest = gaps.len().saturating_sub(MOST_RANGES);
        Sought { next: seen.next(), gaps: gaps.into_iter().skip(newest).collect(), again: again.into_iter().collect() }
    }
}

/// The rows that were read.
pub struct Found {
    /// The greatest id.
    pub newest: u64,
    /// Unordered. Some may occur twice.
    pub rows: Vec<Written>,
}

/// The statements for one table.
pub struct Reader {
    newest: String,
    page: String,
    ranges: String,
}

impl Reader {
    /// `tokens` is the table's name, quoted.
    pub fn new(tokens: &str) -> Self {
        // A value longer than any User-Agent is not the plugin's, and not worth transferring.
        let select = format!(
            "SELECT id, user_id, hash, issued_at, expires_at, refresh_token_hash, refresh_token_expires_at, blog_id, \
             IF(CHAR_LENGTH(metadata) <= 16384, metadata, NULL), TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), issued_at) \
             FROM {tokens} FORCE INDEX (PRIMARY) WHERE"
        );
        let ranges = vec!["id BETWEEN ? AND ?"; RANGES].join(" OR ");
        Reader {
            newest: format!("SELECT COALESCE(MAX(id), 0) FROM {tokens}"),
            page: format!("{select} id >= ? ORDER BY id LIMIT {PAGE}"),
            ranges: format!("{select} {ranges} ORDER BY id DESC LIMIT {PAGE}"),
        }
    }

    /// Reads the rows `sought`; without it, only the greatest id.
    ///
    /// # Errors
    /// The database's.
    pub async fn read(&self, session: &mut Session<'_>, sought: Option<&Sought>) -> Result<Found, DatabaseError> {
        session.begin_at_writer().await?;
        let newest: Option<Row> = session.conn().query_first(self.newest.as_str()).await?;
        let newest: u64 = newest.map_or(Ok(0), |mut row| column(&mut row, 0, "id"))?;
        let mut rows = Vec::new();
        if let Some(sought) = sought {
            let again: Vec<(u64, u64)> = sought.again.iter().map(|id| (*id, *id)).collect();
            for ranges in again.chunks(RANGES).chain(sought.gaps.chunks(RANGES)) {
                self.read_ranges(session, ranges, &mut rows).await?;
            }
            let mut next = sought.next.max(newest.saturating_sub(PAGES * PAGE));
            for _ in 0..PAGES {
                let page: Vec<Row> = session.conn().exec(self.page.as_str(), (next,)).await?;
                let is_last = (page.len() as u64) < PAGE;
                let page = page.into_iter().map(written).collect::<Result<Vec<_>, _>>()?;
                next = page.last().map_or(next, |row| row.id.saturating_add(1));
                rows.extend(page);
                if is_last {
                    break;
                }
            }
        }
        session.end_at_writer().await?;
        Ok(Found { newest, rows })
    }

    async fn read_ranges(
        &self,
        session: &mut Session<'_>,
        ranges: &[(u64, u64)],
        rows: &mut Vec<Written>,
    ) -> Result<(), DatabaseError> {
        let mut values: Vec<Value> =
            ranges.iter().flat_map(|(first, last)| [(*first).into(), (*last).into()]).collect();
        // No row has the id 0.
        values.resize(2 * RANGES, Value::from(0));
        let read: Vec<Row> = session.conn().exec(self.ranges.as_str(), Params::Positional(values)).await?;
        for row in read {
            rows.push(written(row)?);
        }
        Ok(())
    }
}

fn written(mut row: Row) -> Result<Written, DatabaseError> {
    let mut time = |at, name| column(&mut row, at, name).map(|value: Value| unix_seconds(&value));
    let (issued_at, expires_at) = (time(3, "issued_at")?, time(4, "expires_at")?);
    let refresh_expires_at = time(6, "refresh_token_expires_at")?;
    Ok(Written {
        id: column(&mut row, 0, "id")?,
        user_id: column(&mut row, 1, "user_id")?,
        hash: column(&mut row, 2, "hash")?,
        issued_at,
        expires_at,
        refresh_token: column(&mut row, 5, "refresh_token_hash")?,
        refresh_expires_at,
        blog_id: column(&mut row, 7, "blog_id")?,
        metadata: column(&mut row, 8, "metadata")?,
        ahead: column(&mut row, 9, "issued_at")?,
    })
}
