//! The map of tokens to rows, for a table without an index on its tokens. It is filled once in the
//! background, page by page over the primary key, and extended by new rows.
//!
//! A row that is not committed while its page is read appears later, however far back its id is. So
//! the ids of uncommitted rows are read, too (by READ UNCOMMITTED, which is used for nothing else),
//! and checked until they are committed.
//!
//! Once the map is complete, a token that is not in it is in no row, and the table need not be read
//! to find that out. It does not count as complete if rows had to make room for others, if ids do
//! not grow by one (the nodes of a cluster number their rows independently), or if rows that were
//! seen are gone (the table was emptied and may be numbered again): then it is filled again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mysql_async::{Params, Row, Value};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{debug, info};

use super::row_cache::{Forgotten, Key, RowCache, RowRef};
use super::seen_ids::SeenIds;
use super::store::Store;
use crate::wordpress::database::{ANSWER_LIMIT, DatabaseError, Session, column};
use crate::wordpress::site::Columns;

/// Rows per page. A page takes a few milliseconds, so that a connection is never held for long.
const PAGE: u64 = 2_000;

/// An INSERT that had an id but no row when the filling began has one of the last so many ids.
const IN_FLIGHT: u64 = 1_000;

/// How long a page may take on a busy disk. If it takes longer, the server is frozen.
const PAGE_LIMIT: Duration = Duration::from_secs(10);

/// Gaps checked by one statement.
const GAPS: usize = 16;

/// The minimum time before the table is read again, and the multiple of the last reading's
/// duration: the server has other clients.
const READ_AGAIN: Duration = Duration::from_secs(60);
const READ_AGAIN_TIMES: u32 = 20;

/// The same, if the live tokens did not fit: some must expire first.
const FULL_FOR: Duration = Duration::from_secs(3_600);

/// With so many gaps they are checked even if no token is being looked up, since each check takes
/// longer with them.
const MANY_GAPS: usize = 256;

/// The state of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Empty,
    /// Its tokens can be used, but it is to be filled: again, or once more after an error.
    Partial,
    /// Every row was read.
    Filled {
        /// Ids grow by one.
        may_be_complete: bool,
        /// When it may be filled again.
        again: Instant,
    },
}

/// What has been read, and by which filling.
struct Progress {
    state: State,
    seen_ids: SeenIds,
    filling: u64,
}

/// The map. The tokens themselves are in [`RowCache`].
pub struct LiveTokens {
    store: Arc<Store>,
    row_cache: Arc<RowCache>,
    /// For how many seconds used tokens are distinguished from unknown ones: see
    /// [`LiveTokens::new`].
    used_for: Option<u64>,
    /// For a table that is one of many: not worth a log line each time.
    is_one_of_many: bool,
    progress: Mutex<Progress>,
    page: String,
    tail: String,
    gaps: String,
    ids: String,
}

impl LiveTokens {
    /// An empty map. It takes live tokens, and used ones while they must be distinguished from
    /// unknown ones: those of the last `used_for` seconds, or all that have not expired (`None`).
    pub fn new(store: Arc<Store>, row_cache: Arc<RowCache>, used_for: Option<u64>) -> Self {
        let table = &store.tokens;
        let range = vec!["id BETWEEN ? AND ?"; GAPS].join(" OR ");
        let columns = "id, refresh_token_hash, user_id";
        LiveTokens {
            // A row that does not count is read without its token, so that every page has all its
            // rows and an end.
            page: format!(
                "SELECT id, IF(refresh_token_expires_at > UTC_TIMESTAMP() AND (revoked_at IS NULL OR \
                 revoked_at >= UTC_TIMESTAMP() - INTERVAL ? SECOND), refresh_token_hash, NULL), user_id \
                 FROM {table} FORCE INDEX (PRIMARY) WHERE id > ? ORDER BY id LIMIT {PAGE}"
            ),
            tail: format!("SELECT {columns} FROM {table} FORCE INDEX (PRIMARY) WHERE id >= ? ORDER BY id LIMIT {PAGE}"),
            gaps: format!("SELECT {columns} FROM {table} FORCE INDEX (PRIMARY) WHERE {range} ORDER BY id LIMIT {PAGE}"),
            ids: format!("SELECT id FROM {table} FORCE INDEX (PRIMARY) WHERE {range} ORDER BY id LIMIT {PAGE}"),
            progress: Mutex::new(Progress { state: State::Empty, seen_ids: SeenIds::at(0), filling: 0 }),
            store,
            row_cache,
            used_for,
            is_one_of_many: false,
        }
    }

    /// The table is that of a further site of a network, of which there may be thousands.
    #[must_use]
    pub fn of_many(self) -> Self {
        LiveTokens { is_one_of_many: true, ..self }
    }

    /// Whether every row was read once.
    pub fn is_filled(&self) -> bool {
        self.progress().state != State::Empty
    }

    /// The number of the filling that made it complete, if it is: then a token that is not in it is
    /// in no row. Earlier results hold only while the number is unchanged.
    pub fn complete(&self) -> Option<u64> {
        let progress = self.progress();
        let may_be_complete = matches!(progress.state, State::Filled { may_be_complete: true, .. });
        (may_be_complete && !self.has_lost(&progress)).then_some(progress.filling)
    }

    /// Whether it should be filled: it never was, or it is no longer complete and another reading
    /// may help.
    pub fn needs_filling(&self) -> bool {
        let progress = self.progress();
        match progress.state {
            State::Empty | State::Partial => true,
            State::Filled { may_be_complete, again } => {
                may_be_complete && self.has_lost(&progress) && Instant::now() >= again
            }
        }
    }

    /// Whether so many ids were skipped that they should be read before the next token is looked
    /// up.
    pub fn has_fallen_behind(&self) -> bool {
        let progress = self.progress();
        progress.state != State::Empty && progress.seen_ids.count() >= MANY_GAPS
    }

    /// The sidecar itself has inserted and committed row `id`, and remembers its token.
    pub fn note(&self, id: u64) {
        let mut progress = self.progress();
        if progress.state != State::Empty {
            progress.seen_ids.add(id, id, Instant::now());
        }
    }

    /// What was read no longer counts.
    pub fn empty(&self) {
        self.progress().state = State::Empty;
    }

    /// The table has an index now, and is not read any more.
    pub fn give_up(&self) {
        self.empty();
        forget(self.row_cache.end_reading());
    }

    fn has_lost(&self, progress: &Progress) -> bool {
        progress.seen_ids.has_lost() || self.row_cache.has_overflowed()
    }

    /// Reads the whole table, page by page, with a pause as long as each page took. The earlier
    /// tokens can be used meanwhile, but are not complete.
    ///
    /// # Errors
    /// The database's; the map must then be filled once more.
    pub async fn fill(&self, columns: Columns) -> Result<(), DatabaseError> {
        let began = Instant::now();
        let (first, numbered_by_one) = self.newest().await?;
        // That of the new connection.
        let epoch = self.store.database.epoch();
        let edge = first.saturating_sub(IN_FLIGHT).max(1);
        let mut seen_ids = SeenIds::at(edge);
        {
            let mut progress = self.progress();
            if progress.state != State::Empty {
                progress.state = State::Partial;
            }
        }
        forget(self.row_cache.begin_reading());
        let rows = self.read_all(columns, edge, &mut seen_ids).await?;
        forget(self.row_cache.end_reading());
        if self.store.database.epoch() != epoch {
            debug!("the database is at another server than it was; the table is read again");
            return Ok(());
        }
        let took = began.elapsed();
        let rest = if self.row_cache.has_overflowed() { FULL_FOR } else { READ_AGAIN };
        let again = Instant::now() + rest.max(took * READ_AGAIN_TIMES);
        {
            let mut progress = self.progress();
            let filling = progress.filling + 1;
            let state = State::Filled { may_be_complete: numbered_by_one, again };
            *progress = Progress { state, seen_ids, filling };
        }
        let complete = self.complete().is_some();
        let table = &self.store.tokens;
        if self.is_one_of_many {
            debug!(%table, rows, complete, ?took, "the tokens of the table are known");
        } else {
            info!(%table, rows, complete, ?took, "the tokens of the table are known");
        }
        Ok(())
    }

    /// Returns the number of rows. From the id `edge` on, missing ids are gaps in `seen_ids`.
    async fn read_all(&self, columns: Columns, edge: u64, seen_ids: &mut SeenIds) -> Result<u64, DatabaseError> {
        let database = &self.store.database;
        let used_for = self.used_for.unwrap_or(u64::from(u32::MAX));
        let (mut last, mut rows) = (0, 0_u64);
        loop {
            let page_began = Instant::now();
            let after = last;
            let mut session = database.session().await?;
            let page = async { Ok(session.conn().exec(self.page.as_str(), (used_for, last)).await?) };
            let page: Vec<Row> = database.within(PAGE_LIMIT, page).await?;
            let mut ids = Vec::with_capacity(page.len());
            for row in page {
                last = self.take(row, columns, seen_ids)?;
                ids.push(last);
            }
            let is_last = (ids.len() as u64) < PAGE;
            let to = if is_last { edge - 1 } else { last.min(edge - 1) };
            if after < to {
                let range = [(after + 1, to)];
                let under_way = self.under_way(&range, &ids, &mut session);
                let under_way = database.within(PAGE_LIMIT, under_way).await?;
                seen_ids.under_way(&under_way, Instant::now());
            }
            session.give_back();
            rows += ids.len() as u64;
            if is_last {
                return Ok(rows);
            }
            sleep(page_began.elapsed()).await;
        }
    }

    /// Reads the new rows, as of `now`; with `is_causal`, including those that any node of the
    /// cluster has committed.
    ///
    /// # Errors
    /// The database's.
    pub async fn extend(&self, columns: Columns, now: Instant, is_causal: bool) -> Result<(), DatabaseError> {
        let database = &self.store.database;
        let mut session = if is_causal { database.causal_session().await? } else { database.session().await? };
        let mut looked = database.within(ANSWER_LIMIT, self.look(&mut session, columns, now, is_causal)).await;
        let is_dead = match &looked {
            // The connection was idle and may be dead.
            Err(error) => error.code().is_none(),
            // The newest rows may be on another server by now.
            Ok(()) if session.is_read_only().await? => {
                database.distrust();
                true
            }
            Ok(()) => false,
        };
        if is_dead {
            drop(session);
            session = if is_causal { database.fresh_causal_session().await? } else { database.fresh_session().await? };
            looked = database.within(ANSWER_LIMIT, self.look(&mut session, columns, now, is_causal)).await;
            if session.is_read_only().await? {
                looked = looked.and(Err(DatabaseError::ReadOnly));
            }
        }
        looked.inspect_err(|error| database.heed(error))?;
        session.give_back();
        Ok(())
    }

    async fn look(
        &self,
        session: &mut Session<'_>,
        columns: Columns,
        now: Instant,
        is_causal: bool,
    ) -> Result<(), DatabaseError> {
        // Behind a proxy, each of them may be read on another node.
        let causal = if is_causal { session.causal() } else { "" };
        let (gaps_read, tail_read) = (format!("{causal}{}", self.gaps), format!("{causal}{}", self.tail));
        // Read together: a rotation noted in between moves the end, and leaves a gap that is not
        // among these.
        let (gaps, old, mut next, filling) = {
            let Progress { seen_ids, filling, .. } = &*self.progress();
            (seen_ids.gaps(), seen_ids.old(now), seen_ids.next(), *filling)
        };
        let take = |row| self.take(row, columns, &mut self.progress().seen_ids);
        self.read_ranges(&gaps_read, &gaps, session, false, take).await?;
        let under_way = self.under_way(&old, &[], session).await?;
        {
            let progress = &mut *self.progress();
            // The gaps of another filling were not checked.
            if progress.filling == filling {
                progress.seen_ids.looked_at(now, &under_way);
            }
        }
        // The last known row is read again: if it is gone, the table may have been emptied.
        let mut is_first = true;
        loop {
            let from = if is_first { next.saturating_sub(1) } else { next };
            let rows: Vec<Row> = session.conn().exec(tail_read.as_str(), (from,)).await?;
            let count = rows.len() as u64;
            let (lowest, highest) = self.take_all(rows, columns)?;
            if is_first && next > 1 && lowest != Some(from) {
                debug!("the newest token row is gone; the table is read again");
                self.empty();
                return Ok(());
            }
            is_first = false;
            next = highest.map_or(next, |highest| highest.saturating_add(1));
            if count < PAGE {
                return Ok(());
            }
        }
    }

    /// The ids in `ranges` whose row is not among `committed` (ascending).
    async fn under_way(
        &self,
        ranges: &[(u64, u64)],
        committed: &[u64],
        session: &mut Session<'_>,
    ) -> Result<Vec<u64>, DatabaseError> {
        let mut under_way = Vec::new();
        let take = |mut row| {
            let id = column(&mut row, 0, "id")?;
            if committed.binary_search(&id).is_err() {
                under_way.push(id);
            }
            Ok(id)
        };
        self.read_ranges(&self.ids, ranges, session, true, take).await?;
        Ok(under_way)
    }

    /// Reads the rows in `ranges` (ascending) with a statement of [`GAPS`] ranges, page by page;
    /// `take` returns a row's id.
    async fn read_ranges(
        &self,
        statement: &str,
        mut ranges: &[(u64, u64)],
        session: &mut Session<'_>,
        uncommitted: bool,
        mut take: impl FnMut(Row) -> Result<u64, DatabaseError>,
    ) -> Result<(), DatabaseError> {
        if ranges.is_empty() {
            return Ok(());
        }
        // Before the isolation level is set, which applies to the next statement only.
        let statement = session.conn().prep(statement).await?;
        let mut from = 0;
        while !ranges.is_empty() {
            let (chunk, rest) = ranges.split_at(ranges.len().min(GAPS));
            let mut values: Vec<Value> =
                chunk.iter().flat_map(|(first, last)| [from.max(*first).into(), (*last).into()]).collect();
            // No row has the id 0.
            values.resize(2 * GAPS, Value::from(0));
            if uncommitted {
                session.conn().query_drop("SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED").await?;
            }
            let rows: Vec<Row> = session.conn().exec(&statement, Params::Positional(values)).await?;
            let is_full = rows.len() as u64 == PAGE;
            let mut highest = None;
            for row in rows {
                highest = Some(take(row)?);
            }
            match highest {
                // Another sidecar may have filled the whole gap: the page ends before it.
                Some(highest) if is_full => {
                    from = highest.saturating_add(1);
                    ranges = &ranges[ranges.partition_point(|(_, last)| *last < from)..];
                }
                _ => ranges = rest,
            }
        }
        Ok(())
    }

    /// Returns the lowest and the highest id.
    fn take_all(&self, rows: Vec<Row>, columns: Columns) -> Result<(Option<u64>, Option<u64>), DatabaseError> {
        let mut ids = (None, None);
        for row in rows {
            let id = self.take(row, columns, &mut self.progress().seen_ids)?;
            ids = (ids.0.min(Some(id)).or(Some(id)), ids.1.max(Some(id)));
        }
        Ok(ids)
    }

    fn take(&self, mut row: Row, columns: Columns, seen_ids: &mut SeenIds) -> Result<u64, DatabaseError> {
        let id: u64 = column(&mut row, 0, "id")?;
        let token: Option<Vec<u8>> = column(&mut row, 1, "refresh_token_hash")?;
        if let Some(token) = token.filter(|token| !token.is_empty()) {
            let token = Key::of(&String::from_utf8_lossy(&token), columns.folds_case);
            let found = RowRef::found(id, column(&mut row, 2, "user_id").ok());
            // The row may be one that this process wrote.
            let is_proved = self.row_cache.row_of(&token).is_some_and(|known| known.id == id && known.is_proved);
            self.row_cache.remember(token, RowRef { is_proved, ..found });
        }
        seen_ids.add(id, id, Instant::now());
        Ok(id)
    }

    /// The greatest id, and whether ids grow by one.
    async fn newest(&self) -> Result<(u64, bool), DatabaseError> {
        // An idle connection may be dead; filling is rare enough for a new one.
        let mut session = self.store.database.fresh_session().await?;
        let newest: Option<Row> =
            session.conn().query_first(format!("SELECT COALESCE(MAX(id), 0) FROM {}", self.store.tokens)).await?;
        let newest = newest.map_or(Ok(0), |mut row| column(&mut row, 0, "id"))?;
        let numbered_by_one = session.abilities().consecutive_ids;
        session.give_back();
        Ok((newest, numbered_by_one))
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// On another thread: dropping a million tokens takes time.
fn forget(tokens: Option<Forgotten>) {
    if let Some(tokens) = tokens {
        spawn_blocking(move || drop(tokens));
    }
}
