//! Finds the row that a token is in, outside any transaction: the cache, the map, the index, and only then the whole table.
//!
//! What has to be asked waits as rotations do, in the queue for a look at the rows that are new, in that for the index, or in that
//! for the whole table. Who works there takes what waits into one look, so that a flood of unknown tokens comes to few statements.
//! The table is read by two at a time at most, whatever the number of tokens that are looked for.
//!
//! On a cluster a node may not have a row yet that another has committed. What a look does not find there goes into a further
//! queue, and is asked for once more with causality: see [`absent`].

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

/// Statements at a time, by the index and of the whole table.
const WORKERS: usize = 2;

/// Look-ups that may wait in each queue.
const QUEUE: usize = 4096;

/// Tokens that one look at the new rows is for.
const TOGETHER: usize = 256;

/// After a look that found nothing the next one waits so long: a flood of unknown tokens then comes in few statements, and a good
/// one among them hardly waits.
const REST: Duration = Duration::from_millis(8);

/// How often a look-up is begun anew because the database moved to another server meanwhile.
const SERVERS: usize = 3;

/// How long a look-up may take that reads the table, with its wait: ten million rows take some four seconds. The others have
/// [`LIMIT`].
const SCAN_LIMIT: Duration = Duration::from_secs(10);

/// What a look has at least: who has waited for nearly all of the time must not take it from the others.
const LEAST: Duration = Duration::from_secs(1);

/// The error of a wait for a lock that took too long.
const LOCK_WAIT: u16 = 1205;

/// What is done with a look-up's result: where the token is, if it is in any row. An error says that nothing has begun. It
/// must not take long: others that were found with it wait.
// A callback, since an async function takes a task and a channel for each: with 10,000 unknown tokens a second beside 64 connections
// that cost 7 % (no index) and 19 % (index) of the good refreshes, and a fifth more of the processor (`tests/bench/refresh`,
// "million", in alternation).
pub type OnDone = Box<dyn FnOnce(Result<Option<RowRef>, RotationError>) + Send>;

/// What is looked for in one way.
struct Queue {
    sought: Mutex<mpsc::Receiver<Sought>>,
    /// When the next look may begin.
    next: std::sync::Mutex<Instant>,
    /// That is now.
    is_now: Notify,
}

impl Queue {
    fn new() -> (mpsc::Sender<Sought>, Arc<Self>) {
        let (sender, sought) = mpsc::channel(QUEUE);
        let (sought, next) = (Mutex::new(sought), std::sync::Mutex::new(Instant::now()));
        (sender, Arc::new(Queue { sought, next, is_now: Notify::new() }))
    }

    /// What waits, up to `most`; nothing when nobody is left who asks.
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

    /// The next look begins after `pause`.
    fn rest(&self, pause: Duration) {
        *self.next() = Instant::now() + pause;
    }

    /// A look found something.
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
    /// What is known already.
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
    /// That of the database when what is known was learnt: see [`LookUps::forget_another_servers`].
    epoch: AtomicU64,
}

/// A token that is looked for.
struct Sought {
    token: Key,
    site: Arc<Site>,
    since: Instant,
    /// That of the database when it was asked for.
    epoch: u64,
    /// How many servers may be asked, this one included.
    servers: usize,
    on_done: OnDone,
}

impl Sought {
    fn is_late(&self) -> bool {
        self.since.elapsed() >= LIMIT
    }

    /// For the look that it is the oldest of.
    fn time_left(&self) -> Duration {
        LIMIT.saturating_sub(self.since.elapsed()).max(LEAST)
    }
}

impl LookUps {
    /// Starts the workers in the runtime that this is called in.
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
        // The workers end when nobody is left who asks.
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

    /// Whether a look-up of the last seconds found the token in no row.
    pub fn is_known_unknown(&self, token: &Key) -> bool {
        self.forget_another_servers();
        let unknown = self.row_cache.is_unknown(token) && self.row_cache.row_of(token).is_none();
        if unknown {
            self.counters.known_unknown.add();
        }
        unknown
    }

    /// How long it may take until a call has its answer that a look-up may be part of.
    pub fn limit(&self, site: &Site) -> Duration {
        let may_scan = !site.columns.indexed && self.live_tokens.complete().is_none();
        if may_scan { SCAN_LIMIT + LIMIT } else { LIMIT }
    }

    /// Finds the row that the token is in, from whatever thread, and then does `on_done` on the database side. Dropped undone only
    /// where a worker fails or the runtime ends.
    pub fn find(self: &Arc<Self>, token: Key, site: Arc<Site>, on_done: OnDone) {
        self.find_at(SERVERS, token, site, on_done);
    }

    /// What one server does not have another may: so many are asked.
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

    /// A node of a cluster does not have the token. It is asked once more, with causality.
    fn ask_once_more(self: &Arc<Self>, sought: Sought) {
        self.hand_in(&self.once_more, sought);
    }

    /// As [`LookUps::end`], for a causal look. SECURITY: where that was not to be had, WordPress must not answer: its node may be
    /// behind as well, and it would refuse the token.
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

    /// Looks through the whole table. That goes on where the time is over that anybody waits for it.
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
            // A flood of unknown tokens must not go on to WordPress, which would read the table for each of them.
            on_done(found.unwrap_or(Err(RotationError::Failed(DatabaseError::TimedOut))));
        });
    }

    /// Ends those who have waited for too long.
    fn without_late(self: &Arc<Self>, sought: Vec<Sought>) -> Vec<Sought> {
        let (late, sought): (Vec<_>, Vec<_>) = sought.into_iter().partition(Sought::is_late);
        late.into_iter().for_each(|one| self.end(one, Err(DatabaseError::TimedOut)));
        sought
    }

    /// Whether any was found.
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
        // Asked only now: reading the new rows may have shown that the map is not what it was.
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
                // Before the table is read for it: what came a moment ago is among the new rows.
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

    /// What a server said of tokens that it does not have does not hold for the next one. Which row a token is in may be kept:
    /// that is always asked.
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

/// WordPress may have a better answer, but not of a database that is silent or of a table that is locked: there its processes would
/// wait, too, one for each call; nor of one that takes no writes.
fn failed(error: DatabaseError) -> RotationError {
    match error {
        DatabaseError::TimedOut | DatabaseError::ReadOnly | DatabaseError::Failed(Some(LOCK_WAIT)) => {
            RotationError::Failed(error)
        }
        _ => RotationError::NotBegun(error),
    }
}
