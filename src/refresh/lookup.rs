//! Finds the row that a token is in, outside any transaction: the cache, the map, the index, and only then the whole table.
//!
//! What has to be asked waits as rotations do: two workers take what is there, up to [`LARGEST`], into one statement. Without an
//! index one such statement reads the whole table, so that there are never more than two of those at a time, whatever the
//! number of tokens that are looked for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Row, Value};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::counters::Counters;
use super::group::RotationError;
use super::map::Map;
use super::store::Store;
use super::tokens::{Tokens, key};
use crate::wordpress::database::{DatabaseError, Session, column};
use crate::wordpress::site::Columns;

/// Statements at a time.
const WORKERS: usize = 2;

/// Tokens in one statement.
const LARGEST: usize = 64;

/// How often a look-up is begun anew because the database moved to another server meanwhile.
const SERVERS: usize = 3;

/// A worker rests so long after a statement that found nothing: a flood of unknown tokens then comes in few statements, and a good
/// one among them hardly waits.
const REST: Duration = Duration::from_millis(4);

/// Look-ups that may wait.
const QUEUE: usize = 4096;

/// How long a look-up may take, with its wait: a table of ten million rows is read in some four seconds.
const SCAN_LIMIT: Duration = Duration::from_secs(10);

/// The same, where the table is not read.
const LIMIT: Duration = Duration::from_secs(3);

/// The error of a wait for a lock that took too long.
const LOCK_WAIT: u16 = 1205;

/// Looks tokens up.
pub struct LookUps {
    /// What is known already.
    pub tokens: Arc<Tokens>,
    /// The map of all live tokens, for tables without an index.
    pub map: Arc<Map>,
    queue: mpsc::Sender<Question>,
    store: Arc<Store>,
    counters: Arc<Counters>,
    /// That of the database when what is known was learnt: see [`LookUps::forget_another_servers`].
    epoch: AtomicU64,
}

struct Question {
    token: String,
    columns: Columns,
    answer: oneshot::Sender<Result<Option<u64>, DatabaseError>>,
}

impl LookUps {
    /// Starts the workers in the runtime that this is called in.
    pub fn start(store: Arc<Store>, tokens: Arc<Tokens>, map: Arc<Map>, counters: Arc<Counters>) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let queue = Arc::new(Mutex::new(receiver));
        for _ in 0..WORKERS {
            let looker = Looker::new(Arc::clone(&store), Arc::clone(&tokens), Arc::clone(&counters));
            tokio::spawn(looker.work(Arc::clone(&queue)));
        }
        let epoch = AtomicU64::new(store.database.epoch());
        LookUps { tokens, map, queue: sender, store, counters, epoch }
    }

    /// The row that `token` was last seen in.
    pub fn cached(&self, token: &str, columns: Columns) -> Option<u64> {
        let row = self.tokens.row(token, columns.folds_case);
        if row.is_some() {
            self.counters.found_in_cache.add();
        }
        row
    }

    /// Whether a look-up of the last seconds found `token` in no row.
    pub fn is_known_unknown(&self, token: &str, columns: Columns) -> bool {
        self.forget_another_servers();
        let unknown =
            self.tokens.is_unknown(token, columns.folds_case) && self.tokens.row(token, columns.folds_case).is_none();
        if unknown {
            self.counters.known_unknown.add();
        }
        unknown
    }

    /// The row that `token` is in, if it is in any.
    ///
    /// # Errors
    /// The database's; nothing has begun.
    pub async fn find(&self, token: &str, columns: Columns) -> Result<Option<u64>, RotationError> {
        // What one server does not have another may.
        for _ in 0..SERVERS {
            let epoch = self.forget_another_servers();
            let found = self.find_at(token, columns).await?;
            if found.is_some() || self.store.database.epoch() == epoch {
                return Ok(found);
            }
        }
        Err(RotationError::Failed(DatabaseError::NoConnection))
    }

    /// What a server said of tokens that it does not have does not hold for the next one. Which row a token is in may be kept:
    /// that is always asked.
    fn forget_another_servers(&self) -> u64 {
        let epoch = self.store.database.epoch();
        if self.epoch.load(Ordering::Acquire) != epoch && self.epoch.swap(epoch, Ordering::AcqRel) != epoch {
            self.tokens.forget_unknown();
            self.map.empty();
        }
        epoch
    }

    async fn find_at(&self, token: &str, columns: Columns) -> Result<Option<u64>, RotationError> {
        if self.tokens.is_unknown(token, columns.folds_case) {
            self.counters.known_unknown.add();
            return Ok(None);
        }
        if !columns.indexed && self.map.is_filled() {
            self.counters.looked_in_tail.add();
            match timeout(LIMIT, self.map.extend(columns)).await {
                Ok(extended) => extended.map_err(failed)?,
                Err(_) => return Err(RotationError::Failed(DatabaseError::TimedOut)),
            }
            if let Some(row) = self.tokens.row(token, columns.folds_case) {
                return Ok(Some(row));
            }
            // Asked only now: reading the new rows may have shown that the map is not what it was.
            self.forget_another_servers();
            if self.map.is_complete() {
                self.tokens.remember_unknown(token, columns.folds_case);
                return Ok(None);
            }
        }
        let (answer, answered) = oneshot::channel();
        let asked = async {
            let question = Question { token: token.to_owned(), columns, answer };
            self.queue.send(question).await.ok()?;
            answered.await.ok()
        };
        let limit = if columns.indexed { LIMIT } else { SCAN_LIMIT };
        match timeout(limit, asked).await {
            Ok(Some(found)) => found.map_err(failed),
            // A flood of unknown tokens must not go on to WordPress, which would read the table for each of them.
            Ok(None) | Err(_) => Err(RotationError::Failed(DatabaseError::TimedOut)),
        }
    }
}

/// WordPress may have a better answer, but not of a database that is silent or of a table that is locked: there its processes would
/// wait, too, one for each call.
fn failed(error: DatabaseError) -> RotationError {
    match error {
        DatabaseError::TimedOut | DatabaseError::Failed(Some(LOCK_WAIT)) => RotationError::Failed(error),
        _ => RotationError::NotBegun(error),
    }
}

struct Looker {
    store: Arc<Store>,
    tokens: Arc<Tokens>,
    counters: Arc<Counters>,
    statements: [(usize, String); 4],
}

impl Looker {
    fn new(store: Arc<Store>, tokens: Arc<Tokens>, counters: Arc<Counters>) -> Self {
        let statement = |count: usize| {
            let places = vec!["?"; count].join(", ");
            let table = &store.tokens;
            let text = format!(
                "SELECT id, refresh_token_hash, revoked_at IS NULL FROM {table} WHERE refresh_token_hash IN ({places})"
            );
            (count, text)
        };
        let statements = [1, 4, 16, LARGEST].map(statement);
        Looker { store, tokens, counters, statements }
    }

    async fn work(self, queue: Arc<Mutex<mpsc::Receiver<Question>>>) {
        let mut questions = Vec::with_capacity(LARGEST);
        while queue.lock().await.recv_many(&mut questions, LARGEST).await > 0 {
            if !self.answer(std::mem::take(&mut questions)).await {
                sleep(REST).await;
            }
        }
    }

    /// Whether any was found.
    async fn answer(&self, questions: Vec<Question>) -> bool {
        // What waits together was asked of one site; should its columns change in between, the next look-up knows.
        let Some(columns) = questions.first().map(|question| question.columns) else { return false };
        let fold = |token: &str| key(token, columns.folds_case);
        let mut tokens: Vec<Box<str>> = Vec::new();
        for question in &questions {
            let token = fold(&question.token);
            // Another look-up may have told meanwhile.
            let told = self.tokens.is_unknown(&token, columns.folds_case)
                || self.tokens.row(&token, columns.folds_case).is_some();
            if !told && !tokens.contains(&token) {
                tokens.push(token);
            }
        }
        let epoch = self.store.database.epoch();
        let found = self.look(&tokens, columns).await;
        let is_same_server = self.store.database.epoch() == epoch;
        for question in questions {
            let answer = match &found {
                Ok(rows) => Ok(rows
                    .get(&fold(&question.token))
                    .copied()
                    .or_else(|| self.tokens.row(&question.token, columns.folds_case))),
                Err(error) => Err(error.clone()),
            };
            match answer {
                Ok(Some(row)) => self.tokens.remember(&question.token, columns.folds_case, row),
                Ok(None) if is_same_server => self.tokens.remember_unknown(&question.token, columns.folds_case),
                Ok(None) | Err(_) => {}
            }
            let _ = question.answer.send(answer);
        }
        found.is_ok_and(|found| !found.is_empty())
    }

    /// The rows of those of `tokens` that are in one.
    async fn look(&self, tokens: &[Box<str>], columns: Columns) -> Result<HashMap<Box<str>, u64>, DatabaseError> {
        if tokens.is_empty() {
            return Ok(HashMap::new());
        }
        let counter = if columns.indexed { &self.counters.looked_by_index } else { &self.counters.looked_by_scan };
        counter.add_many(tokens.len());
        let database = &self.store.database;
        let mut session = database.session().await?;
        // Not given up for being slow: it would go on in the server, and the next beside it.
        let mut found = database.while_it_answers(self.ask(&mut session, tokens, columns.folds_case)).await;
        let is_dead = match &found {
            // A connection that idled.
            Err(error) => error.code().is_none(),
            Ok(found) if found.len() < tokens.len() && session.turned_read_only().await? => {
                database.distrust();
                true
            }
            Ok(_) => false,
        };
        if is_dead {
            session = database.fresh_session().await?;
            found = database.while_it_answers(self.ask(&mut session, tokens, columns.folds_case)).await;
        }
        let found = found.inspect_err(|error| database.heed(error))?;
        session.give_back();
        Ok(found)
    }

    async fn ask(
        &self,
        session: &mut Session<'_>,
        tokens: &[Box<str>],
        folds_case: bool,
    ) -> Result<HashMap<Box<str>, u64>, DatabaseError> {
        let mut best: HashMap<Box<str>, (bool, u64)> = HashMap::new();
        let fitting = self.statements.iter().find(|(count, _)| *count >= tokens.len());
        let Some((count, statement)) = fitting.or(self.statements.last()) else { return Ok(HashMap::new()) };
        let mut values: Vec<Value> = tokens.iter().map(|token| Value::from(&**token)).collect();
        values.resize(*count, tokens.last().map_or(Value::NULL, |token| Value::from(&**token)));
        let rows: Vec<Row> = session.conn().exec(statement.as_str(), values).await?;
        for mut row in rows {
            let id: u64 = column(&mut row, 0, "id")?;
            let token: Vec<u8> = column(&mut row, 1, "refresh_token_hash")?;
            let is_live: bool = column(&mut row, 2, "revoked_at")?;
            let token = match tokens {
                // The column's collation has compared.
                [only] => only.clone(),
                _ => key(&String::from_utf8_lossy(&token), folds_case),
            };
            // A live row before others: tokens of old plugin versions may not be unique.
            let entry = best.entry(token).or_insert((is_live, id));
            *entry = (*entry).max((is_live, id));
        }
        Ok(best.into_iter().map(|(token, (_, id))| (token, id)).collect())
    }
}
