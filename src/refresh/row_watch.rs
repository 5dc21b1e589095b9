//! Watches the rows that WordPress writes, at logins and at refreshes left to it. Each row shows
//! whether the site's own code affects its tokens, within [`LOOK`] and without a request.
//!
//! What one row shows holds for the whole site, so a row is checked twice before it counts: the
//! second time with settings read after it, and when the plugin has had the time to complete it.
//! Rows of an earlier epoch show nothing. Rows of this process are not read at all, and those of
//! other sidecars are recognised by their `jti`.

mod judge;
mod reader;
mod tally;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info};

use super::refresher::Refresher;
use super::row_proof;
use super::seen_ids::SeenIds;
use crate::metrics::Counter;
use crate::verify::Verification;
use crate::verify::difference::{Difference, Kind};
use crate::verify::verdict::State as Stands;
use crate::wordpress::database::{Database, DatabaseError};
use crate::wordpress::site::Site;
use judge::{Expected, Judged, Written, judge};
use reader::{Found, Reader, Sought};
use tally::Tally;

/// How often to read new rows. With [`AGAIN`] and the reading itself, a row has been judged three
/// seconds after its commit.
const LOOK: Duration = Duration::from_secs(2);

/// How soon a row is checked again.
const AGAIN: Duration = Duration::from_millis(500);

/// A row that is not complete within this time will not be completed.
const WHOLE_WITHIN: Duration = Duration::from_secs(10);

/// The most rows that wait for their second check.
const MOST_AGAIN: usize = 128;

/// How long a look may take: some pages over the primary key.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// The most tokens that one look signs again if a signature takes up to some milliseconds.
const SLOW_PROOFS: usize = 8;

/// Watches one token table.
pub struct RowWatch {
    reader: Reader,
    /// Completed looks.
    pub looks: Counter,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `None`: the watch begins with the next row.
    seen: Option<SeenIds>,
    /// The rows to be checked again, and since when.
    again: BTreeMap<u64, Instant>,
    tally: Tally,
    /// When the tally's epoch began.
    epoch_since: u64,
    /// The server that numbered the rows.
    server: u64,
}

impl State {
    fn pause(&self) -> Duration {
        if self.again.is_empty() && self.seen.is_some() { LOOK } else { AGAIN }
    }
}

/// What rows are judged by, while the site is native.
struct Ground {
    site: Arc<Site>,
    issuers: Vec<String>,
    may_have_other_issuers: bool,
    php_is_ahead: Option<u64>,
    apart: u64,
    /// Unix seconds: rows issued earlier belong to another epoch.
    since: u64,
    epoch_since: u64,
}

/// Whether rows can be judged.
enum Footing {
    Firm(Ground),
    /// Not at the moment: the site is changing, or the database is down.
    Moving,
    /// No: refreshes are left to WordPress for another reason.
    Lost,
}

impl RowWatch {
    /// `tokens`: the table's name, quoted.
    pub fn new(tokens: &str) -> Self {
        RowWatch { reader: Reader::new(tokens), looks: Counter::default(), state: Mutex::default() }
    }

    /// The sidecar itself has inserted and committed row `id`.
    pub fn note(&self, id: u64) {
        if let Some(seen) = &mut self.state().seen {
            seen.add(id, id, std::time::Instant::now());
        }
    }

    /// Looks repeatedly. Never returns.
    pub async fn keep_watching(&self, refresher: &Refresher) {
        loop {
            match self.footing(refresher).await {
                Footing::Firm(ground) => {
                    if let Err(error) = self.look(&refresher.store.database, &refresher.verification, ground).await {
                        debug!(%error, "the rows that WordPress writes could not be read; once more in a moment");
                    }
                }
                Footing::Moving => {}
                Footing::Lost => *self.state() = State::default(),
            }
            let pause = self.state().pause();
            sleep(pause).await;
        }
    }

    async fn footing(&self, refresher: &Refresher) -> Footing {
        let Refresher { sites, verification, standing, .. } = refresher;
        if standing.leaves().is_some() {
            return Footing::Lost;
        }
        // A row's second check uses settings that were read after the first.
        let site = if self.state().again.is_empty() {
            sites.current().await.ok()
        } else {
            match sites.examine().await {
                Ok(examined) => examined.site,
                Err(_) => return Footing::Moving,
            }
        };
        let Some(site) = site else { return Footing::Lost };
        let (Ok(home), Ok(_)) = (sites.home(&site, site.usual_scheme()), sites.issuing_time(&site)) else {
            return Footing::Lost;
        };
        let epoch_since = verification.epoch_since();
        if !verification.is_of(site.makeup.tag()) {
            return Footing::Moving;
        }
        let others = sites.homes().issuers().into_iter().filter(|other| other.url != home.url);
        let issuers = [Arc::clone(&home)].into_iter().chain(others);
        let apart = sites.clocks_apart().map_or(Duration::ZERO, |apart| apart.by);
        Footing::Firm(Ground {
            issuers: row_proof::issuers(issuers).collect(),
            may_have_other_issuers: sites.home_may_depend_on_host(&site),
            php_is_ahead: sites.wordpress_ahead_of_database().map(|ahead| ahead.as_secs() + 1),
            apart: apart.as_secs() + 1,
            since: row_proof::counts_from(epoch_since, apart),
            epoch_since,
            site,
        })
    }

    async fn look(
        &self,
        database: &Database,
        verification: &Verification,
        ground: Ground,
    ) -> Result<(), DatabaseError> {
        let sought = self.sought(database.epoch(), ground.epoch_since);
        let read = async {
            let mut session = database.session().await?;
            let found = self.reader.read(&mut session, sought.as_ref()).await?;
            session.give_back();
            Ok(found)
        };
        // On a timeout the connection is closed. Other users of the database find out by themselves
        // whether it is frozen.
        let Found { newest, rows } = timeout(READ_LIMIT, read).await.unwrap_or(Err(DatabaseError::TimedOut))?;
        let rows = self.seen(newest, sought.as_ref(), rows);
        let makeup = ground.site.makeup.tag();
        let judged = spawn_blocking(move || judge_all(rows, &ground)).await.unwrap_or_default();
        // If the site has changed, the rows are checked again or belong to an earlier epoch.
        let is_still = verification.is_of(makeup);
        for (row, judged) in judged {
            let Some(judged) = judged else {
                self.state().again.remove(&row.id);
                continue;
            };
            if let Some(difference) = self.take(&row, &judged, is_still, verification) {
                say(difference, verification);
            }
        }
        self.looks.add();
        Ok(())
    }

    /// The rows to read; `None`: only the newest id, from which the watch begins.
    fn sought(&self, server: u64, epoch_since: u64) -> Option<Sought> {
        let mut state = self.state();
        if state.server != server {
            // Another server may have numbered its rows differently.
            *state = State { server, ..State::default() };
        }
        if state.epoch_since != epoch_since {
            state.tally = Tally::default();
            state.epoch_since = epoch_since;
        }
        state.seen.as_ref().map(|seen| Sought::of(seen, state.again.keys().copied()))
    }

    /// Notes what was read, and returns each row once, the newest first.
    fn seen(&self, newest: u64, sought: Option<&Sought>, mut rows: Vec<Written>) -> Vec<Written> {
        let mut state = self.state();
        let now = std::time::Instant::now();
        match (&mut state.seen, sought) {
            // Rows were deleted; if all were, the ids may start again.
            (Some(_), Some(sought)) if newest.saturating_add(1) < sought.next => {
                state.seen = Some(SeenIds::at(newest.saturating_add(1)));
            }
            (Some(seen), Some(_)) => {
                rows.iter().for_each(|row| seen.add(row.id, row.id, now));
                seen.looked_at(now, &[]);
            }
            (seen, _) => *seen = Some(SeenIds::at(newest.saturating_add(1))),
        }
        rows.sort_unstable_by_key(|row| std::cmp::Reverse(row.id));
        rows.dedup_by_key(|row| row.id);
        // Rows that are gone are no longer looked for.
        let is_there = |id: &u64| rows.binary_search_by(|row| id.cmp(&row.id)).is_ok();
        let asked = |id: &u64| sought.is_some_and(|sought| sought.again.contains(id));
        state.again.retain(|id, _| !asked(id) || is_there(id));
        rows
    }

    /// The difference that a judged row shows, once it is certain.
    fn take(&self, row: &Written, judged: &Judged, is_still: bool, verification: &Verification) -> Option<Difference> {
        let mut state = self.state();
        let since = state.again.get(&row.id).copied();
        let is_new = since.is_none();
        let may_become_whole = !row.is_whole() && since.is_none_or(|since| since.elapsed() < WHOLE_WITHIN);
        let is_odd = judged.fault.is_some() || judged.note.is_some();
        if is_odd && (is_new || !is_still || may_become_whole) {
            if is_new && state.again.len() < MOST_AGAIN {
                state.again.insert(row.id, Instant::now());
            }
            return None;
        }
        state.again.remove(&row.id);
        let difference = state.tally.add(judged);
        if let Some(seconds) = state.tally.constant_lifetime().filter(|_| difference.is_some()) {
            info!(
                seconds,
                "the last tokens of WordPress's all live for the same time, which is not what the setting says"
            );
        }
        drop(state);
        if let Some(note) = judged.note {
            verification.note(note.to_owned());
        }
        difference
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first difference stands: a comparison may have described it more exactly. Reported again, it
/// keeps the site from becoming native.
fn say(difference: Difference, verification: &Verification) {
    let said = match verification.verdict().state {
        Stands::Differs(known) if difference.kind == Kind::Keys && row_proof::is_other_claims(&known) => difference,
        Stands::Differs(known) => known,
        Stands::Unverified | Stands::Agrees => difference,
    };
    verification.differs(said);
}

/// Rows of an earlier epoch are not judged. Takes as long as the signatures do.
fn judge_all(rows: Vec<Written>, ground: &Ground) -> Vec<(Written, Option<Judged>)> {
    let Ground { site, issuers, may_have_other_issuers, php_is_ahead, apart, since, .. } = ground;
    let expected = Expected {
        declared: &site.declared,
        signer: &site.signer,
        auth_salt: &site.auth_salt,
        jwt_expiration: site.settings.jwt_expiration,
        refresh_token_expiration: site.settings.refresh_token_expiration,
        issuers,
        may_have_other_issuers: *may_have_other_issuers,
        php_is_ahead: *php_is_ahead,
        apart: *apart,
    };
    let most = if site.signer.is_quick() { usize::MAX } else { SLOW_PROOFS };
    let mut proved = 0;
    rows.into_iter()
        .map(|row| {
            if row.issued_at.is_some_and(|issued_at| issued_at < *since) {
                return (row, None);
            }
            proved += 1;
            let judged = judge(&row, &expected, proved <= most);
            (row, Some(judged))
        })
        .collect()
}
