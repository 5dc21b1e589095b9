//! Asks the database for the rows of tokens: by the index, or by reading the whole table.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use mysql_async::{Row, Value};

use super::{LookUps, Queue, Sought};
use crate::refresh::row_cache::{Key, RowRef};
use crate::wordpress::database::{CAUSAL_LIMIT, DatabaseError, NO_INDEX, Session, column};
use crate::wordpress::site::Site;

/// Tokens per statement.
pub const LARGEST: usize = 128;

/// The sizes of statements. A smaller number of tokens is padded with the last, which costs the
/// server half of what another token would.
const SIZES: [usize; 10] = [1, 2, 4, 8, 16, 32, 48, 64, 96, LARGEST];

/// Works on the queue for the index, or on that for the whole table, for as long as it exists:
/// takes up to [`LARGEST`] waiting tokens into one statement.
pub async fn work(look_ups: Weak<LookUps>, queue: Arc<Queue>, by_index: bool) {
    loop {
        let sought = queue.take(LARGEST).await;
        let Some(look_ups) = look_ups.upgrade().filter(|_| !sought.is_empty()) else { return };
        // Reading the whole table takes longer than waiting for what the other nodes have
        // committed.
        let is_causal = !by_index && look_ups.store.database.is_cluster();
        if (Worker { look_ups, by_index, is_causal }).find(sought).await {
            queue.found();
        }
    }
}

pub struct Worker {
    pub look_ups: Arc<LookUps>,
    pub by_index: bool,
    /// On a cluster: see [`Causality`](crate::wordpress::database::Causality).
    pub is_causal: bool,
}

impl Worker {
    /// Returns whether any was found.
    pub async fn find(&self, sought: Vec<Sought>) -> bool {
        // Tokens that wait together are of the same site; if its columns change in between, the
        // next look-up uses the new ones. A caller that waits for a read of the whole table has its
        // own time limit.
        let sought = if self.by_index { self.look_ups.without_late(sought) } else { sought };
        let Some(first) = sought.first() else { return false };
        let (site, limit) = (Arc::clone(&first.site), first.time_left());
        let LookUps { store, row_cache: known, .. } = &*self.look_ups;
        let mut tokens: Vec<&Key> = Vec::with_capacity(sought.len());
        for one in &sought {
            // Another look-up may have found it meanwhile.
            let is_known = known.is_unknown(&one.token) || known.row_of(&one.token).is_some();
            if !is_known && !tokens.contains(&&one.token) {
                tokens.push(&one.token);
            }
        }
        let epoch = store.database.epoch();
        let looked = self.look(&tokens, &site);
        let found = match (self.by_index, self.is_causal) {
            (true, true) => store.database.causally(CAUSAL_LIMIT.min(limit), looked).await,
            (true, false) => store.database.within(limit, looked).await,
            // Not cancelled for being slow: it would continue in the server, and the next beside
            // it.
            (false, _) => looked.await,
        };
        if found.as_ref().is_err_and(|error| error.code() == Some(NO_INDEX)) {
            // The index was dropped a moment ago, or the server was told to ignore it.
            sought.into_iter().for_each(|one| self.look_ups.scan(one));
            return false;
        }
        let is_same_server = store.database.epoch() == epoch;
        // Checked only now: the connection may have been the first.
        let is_certain = self.is_causal || !store.database.is_cluster();
        let any = found.as_ref().is_ok_and(|found| !found.is_empty());
        for one in sought {
            let row = match &found {
                Ok(found) => Ok(found.get(&one.token).copied().or_else(|| known.row_of(&one.token))),
                Err(error) => Err(error.clone()),
            };
            match row {
                Ok(None) if !is_certain => {
                    self.look_ups.ask_once_more(one);
                    continue;
                }
                Ok(Some(row)) => known.remember(one.token.clone(), row),
                Ok(None) if is_same_server => known.remember_unknown(one.token.clone()),
                Ok(None) | Err(_) => {}
            }
            match self.is_causal {
                true => self.look_ups.end_causal(one, row),
                false => self.look_ups.end(one, row),
            }
        }
        any
    }

    /// The rows of those `tokens` that are in one.
    async fn look(&self, tokens: &[&Key], site: &Site) -> Result<HashMap<Key, RowRef>, DatabaseError> {
        if tokens.is_empty() {
            return Ok(HashMap::new());
        }
        let LookUps { counters, store, .. } = &*self.look_ups;
        let counter = if self.by_index { &counters.looked_by_index } else { &counters.looked_by_scan };
        counter.add_many(tokens.len());
        let database = &store.database;
        let mut session = match self.is_causal {
            true => database.causal_session().await?,
            false => database.session().await?,
        };
        let mut found = database.while_it_answers(self.ask_the_writer(&mut session, tokens, site)).await;
        let is_dead = match &found {
            // The connection was idle, or its node has left the cluster: another host may belong to
            // it.
            Err(error) => error.code().is_none() || error.says_unfit(),
            Ok(found) if found.len() < tokens.len() && session.is_read_only().await? => {
                database.distrust();
                true
            }
            Ok(_) => false,
        };
        if is_dead {
            if let Err(error) = &found {
                database.heed(error);
            }
            drop(session);
            session = match self.is_causal {
                true => database.fresh_causal_session().await?,
                false => database.fresh_session().await?,
            };
            found = database.while_it_answers(self.ask_the_writer(&mut session, tokens, site)).await;
            if found.as_ref().is_ok_and(|found| found.len() < tokens.len()) && session.is_read_only().await? {
                found = Err(DatabaseError::ReadOnly);
            }
        }
        let found = found.inspect_err(|error| database.heed(error))?;
        session.give_back();
        Ok(found)
    }

    /// SECURITY: a replica may not yet have a token that a client has. A token missing there must
    /// not log its user out.
    async fn ask_the_writer(
        &self,
        session: &mut Session<'_>,
        tokens: &[&Key],
        site: &Site,
    ) -> Result<HashMap<Key, RowRef>, DatabaseError> {
        match self.is_causal {
            true => session.begin_causal().await?,
            false => session.begin_at_writer().await?,
        }
        let found = self.ask(session, tokens, site).await?;
        session.end_at_writer().await?;
        Ok(found)
    }

    async fn ask(
        &self,
        session: &mut Session<'_>,
        tokens: &[&Key],
        site: &Site,
    ) -> Result<HashMap<Key, RowRef>, DatabaseError> {
        let mut values: Vec<Value> = tokens.iter().map(|token| Value::from(token.as_str())).collect();
        let size = SIZES.into_iter().find(|size| *size >= tokens.len()).unwrap_or(LARGEST);
        values.resize(size, tokens.last().map_or(Value::NULL, |token| Value::from(token.as_str())));
        let index = site.token_index.as_deref().filter(|_| self.by_index);
        let causal = self.is_causal.then(|| session.causal_setting()).flatten();
        let limit = index.filter(|_| session.abilities().set_statement).map(|_| NO_DIVES);
        let settings: Vec<&str> = causal.into_iter().chain(limit).collect();
        let statement = statement(&self.look_ups.store.tokens, size, index, &settings);
        let rows: Vec<Row> = session.conn().exec(statement, values).await?;
        let mut best: HashMap<Key, (bool, RowRef)> = HashMap::new();
        for mut row in rows {
            let row_ref = RowRef::found(column(&mut row, 0, "id")?, column(&mut row, 3, "user_id").ok());
            let token: Vec<u8> = column(&mut row, 1, "refresh_token_hash")?;
            let is_live: bool = column(&mut row, 2, "revoked_at")?;
            let token = match tokens {
                // The column's collation has compared them.
                [only] => (*only).clone(),
                _ => Key::of(&String::from_utf8_lossy(&token), site.columns.folds_case),
            };
            // Live rows come first: tokens of old plugin versions may not be unique.
            let entry = best.entry(token).or_insert((is_live, row_ref));
            *entry = (*entry).max((is_live, row_ref));
        }
        Ok(best.into_iter().map(|(token, (_, row_ref))| (token, row_ref)).collect())
    }
}

/// See [`statement`].
const NO_DIVES: &str = "eq_range_index_dive_limit = 1";

/// Looks up `size` tokens, by an index if there is one, with these `settings` of the server.
///
/// By default the server first dives into the index at both ends of each token's rows, only to
/// estimate their number. MySQL does not if it is told which index to use; MariaDB does not with
/// [`NO_DIVES`]. MariaDB needs both: without an index hint, its statistics of a column that is
/// nearly always NULL would make it (10.11) read the whole table.
// SECURITY: the index's name becomes part of the SQL, quoted as in MySQL's manual (9.2, Schema
// Object Names).
fn statement(table: &str, size: usize, index: Option<&str>, settings: &[&str]) -> String {
    let places = vec!["?"; size].join(", ");
    // In one prefix: of two, MariaDB applies only the second.
    let settings = match settings {
        [] => String::new(),
        settings => format!("SET STATEMENT {} FOR ", settings.join(", ")),
    };
    let index = index.map(|index| format!(" FORCE INDEX (`{}`)", index.replace('`', "``"))).unwrap_or_default();
    format!(
        "{settings}SELECT id, refresh_token_hash, revoked_at IS NULL, user_id FROM {table}{index} WHERE refresh_token_hash IN ({places})"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_in_one_prefix() {
        let of = |settings: &[&str]| statement("`t`", 2, Some("i`j"), settings);
        assert!(of(&[]).starts_with("SELECT id") && of(&[]).contains("FORCE INDEX (`i``j`)"));
        let both = of(&["wsrep_sync_wait = 1", NO_DIVES]);
        assert!(
            both.starts_with("SET STATEMENT wsrep_sync_wait = 1, eq_range_index_dive_limit = 1 FOR SELECT id"),
            "{both}"
        );
        assert!(both.ends_with("IN (?, ?)"));
    }
}
