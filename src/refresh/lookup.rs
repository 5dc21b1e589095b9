//! Finds the row of a token, outside any transaction: in the cache, in the map, by the index, and
//! only then in the whole table.
//!
//! Look-ups that need the database wait in one of three queues, like rotations: for a read of the
//! new rows, of the index, or of the whole table. A worker combines what waits into one look, so
//! that a flood of unknown tokens needs few statements. At most two statements read the whole table
//! at a time, whatever the number of tokens.
//!
//! On a cluster, a node may lack a row that another has already committed. Tokens that are not
//! found there go into a further queue, and are looked up once more with causality: see [`absent`].

mod absent;
mod worker;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Mutex, Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::counters::Counters;
use super::live_tokens::LiveTokens;
use super::row_cache::{Key, RowCache, RowRef};
use super::store::Store;
use super::supervise::keep_working;
use super::waiting::{LIMIT, RotationError};
use crate::wordpress::database::{CAUSAL_LIMIT, DatabaseError};
use crate::wordpress::site::Site;

/// Statements at a time, for the index and for the whole table each.
const WORKERS: usize = 2;

/// Look-ups that may wait in each queue.
const QUEUE: usize = 4096;

/// Tokens per read of the new rows.
const TOGETHER: usize = 256;

/// The pause after a look that found nothing: a flood of unknown tokens then needs few statements,
/// and a valid one among them hardly waits.
const REST: Duration = Duration::from_millis(8);

/// How often a look-up is started again because the database moved to another server meanwhile.
const SERVERS: usize = 3;

/// How long a look-up that reads the whole table may take, with its wait: ten million rows take
/// about four seconds. Others have [`LIMIT`].
const SCAN_LIMIT: Duration = Duration::from_secs(10);

/// The minimum time of a look: a token that has used up most of its time waiting must not cut short
/// the others.
const LEAST: Duration = Duration::from_secs(1);

/// The server's error for a lock wait that took too long.
const LOCK_WAIT: u16 = 1205;

/// Receives the result of a look-up: where the token is, if it is in any row. An error means that
/// nothing has begun. It must be quick: other look-ups of the same statement wait.
// A callback, since an async function takes a task and a channel for each: with 10,000 unknown
// tokens a second beside 64 connections that cost 7 % (no index) and 19 % (index) of the good
// refreshes, and a fifth more of the processor (`tests/bench/refresh`, "million", in alternation).
pub type OnDone = Box<dyn FnOnce(Result<Option<RowRef>, RotationError>) + Send>;

/// The look-ups of one kind that wait.
struct Queue {
    sought: Mutex<mpsc::Receiver<Sought>>,
    /// When the next look may begin.
    next: std::sync::Mutex<Instant>,
    /// Signalled to begin it now.
    is_now: Notify,
}

impl Queue {
    fn new() -> (mpsc::Sender<Sought>, Arc<Self>) {
        let (sender, sought) = mpsc::channel(QUEUE);
        let (sought, next) = (Mutex::new(sought), std::sync::Mutex::new(Instant::now()));
        (sender, Arc::new(Queue { sought, next, is_now: Notify::new() }))
    }

    /// Takes up to `most` look-ups; none when all senders are gone.
    async fn take(&self, most: usize) -> Vec<Sought> {
        let mut queue = self.sought.lock().await;
        let mut next = *self.next();
        while Instant::now() < next {
            let _ = timeout_at(next, self.is_now.notified()).await;
            next = *self.next();
        }
        let mut sought = Vec::new();
        queue.recv_many(&mut sought, most).await;
        *self.next() = Instant::now() + REST;
        sought
    }

    /// Delays the next look by `pause`.
    fn rest(&self, pause: Duration) {
        *self.next() = Instant::now() + pause;
    }

    /// A look found a token.
    fn found(&self) {
        *self.next() = Instant::now();
        self.is_now.notify_one();
    }

    fn next(&self) -> MutexGuard<'_, Instant> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks tokens up.
pub struct LookUps {
    /// Where tokens were last seen.
    pub row_cache: Arc<RowCache>,
    /// The map of all live tokens, for tables without an index.
    pub live_tokens: Arc<LiveTokens>,
    in_new_rows: mpsc::Sender<Sought>,
    by_index: mpsc::Sender<Sought>,
    by_scan: mpsc::Sender<Sought>,
    once_more: mpsc::Sender<Sought>,
    tasks: Handle,
    store: Arc<Store>,
    counters: Arc<Counters>,
    /// The database's epoch when the current knowledge was gained: see
    /// [`LookUps::forget_another_servers`].
    epoch: AtomicU64,
}

/// A token that is being looked up.
struct Sought {
    token: Key,
    site: Arc<Site>,
    since: Instant,
    /// The database's epoch when it was asked for.
    epoch: u64,
    /// How many servers may be asked, including this one.
    servers: usize,
    on_done: OnDone,
}

impl Sought {
    fn is_late(&self) -> bool {
        self.since.elapsed() >= LIMIT
    }

    /// How much time a look has whose oldest token this is.
    fn time_left(&self) -> Duration {
        LIMIT.saturating_sub(self.since.elapsed()).max(LEAST)
    }
}

impl LookUps {
    /// Starts the workers in the current runtime.
    pub fn start(
        store: Arc<Store>,
        row_cache: Arc<RowCache>,
        live_tokens: Arc<LiveTokens>,
        counters: Arc<Counters>,
    ) -> Arc<Self> {
        let ((in_new_rows, new_rows), (by_index, index)) = (Queue::new(), Queue::new());
        let ((by_scan, scan), (once_more, absent)) = (Queue::new(), Queue::new());
        let epoch = AtomicU64::new(store.database.epoch());
        let tasks = Handle::current();
        let look_ups = Arc::new(LookUps {
            row_cache,
            live_tokens,
            in_new_rows,
            by_index,
            by_scan,
            once_more,
            tasks,
            store,
            counters,
            epoch,
        });
        // The workers end when `LookUps` is dropped.
        let weak = Arc::downgrade(&look_ups);
        for (queue, by_index) in [(index, true), (scan, false)] {
            for _ in 0..WORKERS {
                let (look_ups, queue) = (Weak::clone(&weak), Arc::clone(&queue));
                let work = move || worker::work(Weak::clone(&look_ups), Arc::clone(&queue), by_index);
                tokio::spawn(keep_working("look-ups", work));
            }
        }
        for _ in 0..WORKERS {
            let (look_ups, queue) = (Weak::clone(&weak), Arc::clone(&absent));
            let work = move || absent::work(Weak::clone(&look_ups), Arc::clone(&queue));
            tokio::spawn(keep_working("look-ups", work));
        }
        tokio::spawn(keep_working("look-ups", move || work_at_new_rows(Weak::clone(&weak), Arc::clone(&new_rows))));
        look_ups
    }

    /// Where the token was last seen.
    pub fn cached(&self, token: &Key) -> Option<RowRef> {
        let row = self.row_cache.row_of(token);
        if row.is_some() {
            self.counters.found_in_cache.add();
        }
        row
    }

    /// Whether a look-up within the last seconds found the token in no row.
    pub fn is_known_unknown(&self, token: &Key) -> bool {
        self.forget_another_servers();
        let unknown = self.row_cache.is_unknown(token) && self.row_cache.row_of(token).is_none();
        if unknown {
            self.counters.known_unknown.add();
        }
        unknown
    }

    /// How long a call may take that may need a look-up.
    pub fn limit(&self, site: &Site) -> Duration {
        let may_scan = !site.columns.indexed && self.live_tokens.complete().is_none();
        if may_scan { SCAN_LIMIT + LIMIT } else { LIMIT }
    }

    /// Finds the row of the token, then calls `on_done` on the database side. May be called from
    /// any thread. `on_done` is dropped without a call only if a worker fails or the runtime ends.
    pub fn find(self: &Arc<Self>, token: Key, site: Arc<Site>, on_done: OnDone) {
        self.find_at(SERVERS, token, site, on_done);
    }

    /// A token that one server lacks may be on another: at most `servers` are asked.
    fn find_at(self: &Arc<Self>, servers: usize, token: Key, site: Arc<Site>, on_done: OnDone) {
        let epoch = self.forget_another_servers();
        let columns = site.columns;
        let sought = Sought { token, site, since: Instant::now(), epoch, servers, on_done };
        if columns.indexed {
            self.hand_in(&self.by_index, sought);
        } else if self.live_tokens.is_filled() {
            self.hand_in(&self.in_new_rows, sought);
        } else {
            self.scan(sought);
        }
    }

    fn end(self: &Arc<Self>, sought: Sought, found: Result<Option<RowRef>, DatabaseError>) {
        let Sought { token, site, epoch, servers, on_done, .. } = sought;
        match found {
            Ok(None) if self.store.database.epoch() != epoch => match servers {
                0 | 1 => on_done(Err(RotationError::Failed(DatabaseError::NoConnection))),
                _ => self.find_at(servers - 1, token, site, on_done),
            },
            found => on_done(found.map_err(failed)),
        }
    }

    /// A node of a cluster does not have the token, so it is asked once more, with causality.
    fn ask_once_more(self: &Arc<Self>, sought: Sought) {
        self.hand_in(&self.once_more, sought);
    }

    /// Like [`LookUps::end`], for a causal look. SECURITY: if the causal look failed, the call must
    /// not be left to WordPress: its node may be behind as well, and it would refuse the token.
    fn end_causal(self: &Arc<Self>, sought: Sought, found: Result<Option<RowRef>, DatabaseError>) {
        match &found {
            Ok(Some(_)) => self.counters.was_behind.add(),
            Ok(None) => self.counters.is_absent.add(),
            Err(_) => self.counters.not_caught_up.add(),
        }
        match found {
            Err(error) => (sought.on_done)(Err(RotationError::Failed(error))),
            found => self.end(sought, found),
        }
    }

    fn hand_in(self: &Arc<Self>, queue: &mpsc::Sender<Sought>, sought: Sought) {
        let Err(TrySendError::Full(sought) | TrySendError::Closed(sought)) = queue.try_send(sought) else { return };
        let (queue, look_ups) = (queue.clone(), Arc::clone(self));
        self.tasks.spawn(async move {
            match timeout_at(sought.since + LIMIT, queue.reserve()).await {
                Ok(Ok(place)) => place.send(sought),
                _ => look_ups.end(sought, Err(DatabaseError::TimedOut)),
            }
        });
    }

    /// Searches the whole table. The search continues even when no caller waits for it any more.
    fn scan(&self, sought: Sought) {
        let queue = self.by_scan.clone();
        self.tasks.spawn(async move {
            let (answer, answered) = oneshot::channel();
            let Sought { on_done, .. } = sought;
            let sought = Sought { on_done: Box::new(|found| drop(answer.send(found))), ..sought };
            let found = async {
                queue.send(sought).await.ok()?;
                answered.await.ok()
            };
            let found = timeout(SCAN_LIMIT, found).await.ok().flatten();
            // A flood of unknown tokens must not be left to WordPress, which would read the table
            // for each of them.
            on_done(found.unwrap_or(Err(RotationError::Failed(DatabaseError::TimedOut))));
        });
    }

    /// Ends those that have waited too long.
    fn without_late(self: &Arc<Self>, sought: Vec<Sought>) -> Vec<Sought> {
        let (late, sought): (Vec<_>, Vec<_>) = sought.into_iter().partition(Sought::is_late);
        late.into_iter().for_each(|one| self.end(one, Err(DatabaseError::TimedOut)));
        sought
    }

    /// Returns whether any was found.
    async fn look_at_new_rows(self: &Arc<Self>, sought: Vec<Sought>, is_causal: bool) -> bool {
        let sought = self.without_late(sought);
        self.counters.looked_in_tail.add_many(sought.len());
        let Some(first) = sought.first() else { return false };
        let complete = self.live_tokens.complete();
        let looked = self.live_tokens.extend(first.site.columns, Instant::now().into_std(), is_causal);
        let looked = if is_causal {
            self.store.database.causally(CAUSAL_LIMIT, looked).await
        } else {
            timeout(first.time_left(), looked).await.unwrap_or(Err(DatabaseError::TimedOut))
        };
        // Checked after the rows were read, which may have shown that the map is out of date.
        self.forget_another_servers();
        let is_complete = complete.is_some() && self.live_tokens.complete() == complete;
        let is_certain = is_causal || !self.store.database.is_cluster();
        let mut found_any = false;
        for one in sought {
            let found = match (&looked, self.row_cache.row_of(&one.token)) {
                (Err(error), _) => Err(error.clone()),
                (Ok(()), Some(place)) => {
                    found_any = true;
                    Ok(Some(place))
                }
                // Before the whole table is read: a token that has just been issued is among the
                // new rows.
                (Ok(()), None) if !is_certain => {
                    self.ask_once_more(one);
                    continue;
                }
                (Ok(()), None) if !is_complete => {
                    self.scan(one);
                    continue;
                }
                (Ok(()), None) => {
                    self.row_cache.remember_unknown(one.token.clone());
                    Ok(None)
                }
            };
            match is_causal {
                true => self.end_causal(one, found),
                false => self.end(one, found),
            }
        }
        found_any
    }

    /// What one server said about missing tokens does not hold for the next server. Known rows are
    /// kept: they are always checked.
    fn forget_another_servers(&self) -> u64 {
        let epoch = self.store.database.epoch();
        if self.epoch.load(Ordering::Acquire) != epoch && self.epoch.swap(epoch, Ordering::AcqRel) != epoch {
            self.row_cache.forget_unknown();
            self.live_tokens.empty();
        }
        epoch
    }
}

async fn work_at_new_rows(look_ups: Weak<LookUps>, queue: Arc<Queue>) {
    loop {
        let sought = queue.take(TOGETHER).await;
        let Some(look_ups) = look_ups.upgrade().filter(|_| !sought.is_empty()) else { return };
        if look_ups.look_at_new_rows(sought, false).await {
            queue.found();
        }
    }
}

/// Whether the call is left to WordPress, which may do better. Not if the database is silent or the
/// table locked: WordPress's processes would wait there too, one per call. And not if it accepts no
/// writes.
fn failed(error: DatabaseError) -> RotationError {
    match error {
        DatabaseError::TimedOut | DatabaseError::ReadOnly | DatabaseError::Failed(Some(LOCK_WAIT)) => {
            RotationError::Failed(error)
        }
        _ => RotationError::NotBegun(error),
    }
}
