//! Deletes rows that are no longer needed: tokens that were revoked or expired long ago, and old
//! analytics. Off by default.
//!
//! It deletes by primary key, a few rows at a time, with pauses: the plugin's own cleanup, if any,
//! deletes by date in one statement and locks everything that it reads. The newest row of each
//! family stays, whatever its age: it tells a known session from one that never existed.

use std::sync::Arc;
use std::time::Duration;

use mysql_async::{Row, Value};
use tokio::time::sleep;
use tracing::{info, warn};

use super::counters::Counters;
use super::refresher::Refresher;
use super::store::Store;
use crate::wordpress::database::{DatabaseError, column};

/// Rows examined by one statement, and the most that one deletes.
const LOOKED_AT: u64 = 2_000;
const DELETED: usize = 100;

/// The pause between two statements.
const REST: Duration = Duration::from_millis(50);

/// The pause between two passes over the table.
pub const EVERY: Duration = Duration::from_secs(3600);

/// A longer step means that the server does not respond.
const STEP_LIMIT: Duration = Duration::from_secs(30);

/// The pause before asking again what to delete, if the site's settings cannot be read.
const UNKNOWN: Duration = Duration::from_secs(5);

/// Consecutive failures after which a pass is given up until the next.
const PATIENCE: u32 = 5;

/// What to delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cleanup {
    /// Days after which a revoked or expired row is deleted; `None`: never.
    pub tokens_after_days: Option<u32>,
    /// Days after which an analytics row is deleted; `None`: never.
    pub analytics_after_days: Option<u32>,
}

/// Cleans up now and every hour. `cleanup` returns what to delete each time, and `None` while that
/// is unknown. Never returns.
pub async fn clean<F: Future<Output = Option<Cleanup>> + Send>(
    refresher: Arc<Refresher>,
    table_prefix: String,
    cleanup: impl Fn() -> F + Send,
) {
    loop {
        let Some(cleanup) = cleanup().await else {
            sleep(UNKNOWN).await;
            continue;
        };
        clean_once(&refresher, &table_prefix, cleanup).await;
        sleep(EVERY).await;
    }
}

/// One pass over the tables of a site.
pub async fn clean_once(refresher: &Refresher, table_prefix: &str, cleanup: Cleanup) {
    let (store, counters) = (&refresher.store, &refresher.counters);
    if let Some(days) = cleanup.tokens_after_days {
        pass(store, counters, &store.tokens, &old_tokens(&store.tokens), days).await;
    }
    if let Some(days) = cleanup.analytics_after_days {
        let analytics = format!("`{table_prefix}jwt_auth_analytics`");
        pass(store, counters, &analytics, &old_analytics(&analytics), days).await;
    }
}

/// The next rows after an id, each with whether it is to be deleted. SECURITY: table names are
/// inserted into the text; see [`Store::new`].
pub fn old_tokens(table: &str) -> String {
    format!(
        "SELECT t.id, COALESCE(LEAST(COALESCE(t.revoked_at, '9999-12-31'), COALESCE(t.refresh_token_expires_at, t.expires_at)) \
         < UTC_TIMESTAMP() - INTERVAL ? DAY, 0) AND (COALESCE(t.token_family, '') = '' OR EXISTS (SELECT 1 FROM {table} n \
         WHERE n.token_family = t.token_family AND n.id > t.id)) \
         FROM {table} t FORCE INDEX (PRIMARY) WHERE t.id > ? ORDER BY t.id LIMIT {LOOKED_AT}"
    )
}

/// Like [`old_tokens`], for analytics. `table` is quoted.
pub fn old_analytics(table: &str) -> String {
    format!(
        "SELECT id, event_timestamp < UTC_TIMESTAMP() - INTERVAL ? DAY \
         FROM {table} FORCE INDEX (PRIMARY) WHERE id > ? ORDER BY id LIMIT {LOOKED_AT}"
    )
}

/// The statement that deletes rows of `table` (quoted) by their ids.
pub fn delete(table: &str) -> String {
    format!("DELETE FROM {table} WHERE id IN ({})", vec!["?"; DELETED].join(", "))
}

async fn pass(store: &Store, counters: &Counters, table: &str, look: &str, days: u32) {
    let delete = delete(table);
    let (mut last, mut deleted, mut failures) = (0, 0, 0);
    loop {
        match store.database.within(STEP_LIMIT, step(store, look, &delete, days, last)).await {
            Ok((count, Some(next))) => {
                counters.cleaned.add_many(count);
                (last, deleted, failures) = (next, deleted + count, 0);
            }
            Ok((_, None)) => break,
            Err(error) => {
                failures += 1;
                if failures == PATIENCE {
                    warn!(%error, table, deleted, "old rows could not be deleted; once more later");
                    return;
                }
            }
        }
        sleep(REST).await;
    }
    if deleted > 0 {
        info!(table, deleted, "old rows deleted");
    }
}

/// Examines the next rows and deletes those that are old. Returns how many it deleted, and the last
/// row that it examined.
async fn step(
    store: &Store,
    look: &str,
    delete: &str,
    days: u32,
    last: u64,
) -> Result<(usize, Option<u64>), DatabaseError> {
    let mut session = store.database.session().await?;
    let rows: Vec<Row> = session.conn().exec(look, (days, last)).await?;
    let rows: Vec<(u64, bool)> = rows
        .into_iter()
        .map(|mut row| Ok((column(&mut row, 0, "id")?, column(&mut row, 1, "is_old")?)))
        .collect::<Result<_, DatabaseError>>()?;
    let old: Vec<u64> = rows.iter().filter(|(_, is_old)| *is_old).map(|(id, _)| *id).collect();
    for chunk in old.chunks(DELETED) {
        let mut ids: Vec<Value> = chunk.iter().map(|id| Value::from(*id)).collect();
        ids.resize(DELETED, chunk.last().map_or(Value::NULL, |id| Value::from(*id)));
        session.conn().exec_drop(delete, ids).await?;
    }
    session.give_back();
    Ok((old.len(), rows.last().map(|(id, _)| *id)))
}
