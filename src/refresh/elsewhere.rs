//! Calls for a host that only the client has named.
//!
//! The host may be another name of this site's, or another site of the same web server. A token that lives in this
//! site's table tells: such a call is answered here, with the home URL that WordPress has on that host. Whatever else
//! comes there is left to WordPress, so that no other site's client is ever refused.
//!
//! A used token that a replay may answer counts as well: on a host where the first of two calls at the same instant is
//! answered here, the second would be refused by WordPress.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, header};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::rate_limit::unix_now;
use super::refresher::Refresher;
use super::replay::Decision;
use super::request::Parsed;
use super::row_cache::{Key, RowRef};
use super::store::TokenState;
use crate::client_addr::{Client, Scheme};
use crate::wordpress::database::ANSWER_LIMIT;
use crate::wordpress::home::{Home, Question};
use crate::wordpress::site::Site;

/// How long such a call may be held up before it goes to WordPress, where all of them went without the sidecar.
const PATIENCE: Duration = Duration::from_millis(500);

/// So many of them may read the database at once; others wait their turn.
const AT_ONCE: usize = 4;

/// [`AT_ONCE`], where there are so many connections. Pure.
pub fn at_once(connections: usize) -> usize {
    AT_ONCE.min(connections / 4).max(1)
}

/// Why it goes there.
const NO_LIVE_TOKEN: &str = "no live token, and a host that is neither the home URL's nor in wordpress.hosts";
pub(super) const OVER_LIMIT: &str = "the rate limit, which WordPress counts by itself";
const REFUSED: &str = "the database refuses rotations, and the host is neither the home URL's nor in wordpress.hosts";
const NO_HOME: &str = "WordPress has not answered yet for a host that is neither the home URL's nor in wordpress.hosts";

impl Refresher {
    /// The home URL by which a call for another host is answered.
    ///
    /// # Errors
    /// Why it is left to WordPress.
    pub(super) async fn home_elsewhere(
        self: &Arc<Self>,
        site: &Arc<Site>,
        question: &Question,
        parsed: &Parsed,
        client: &Client,
    ) -> Result<Arc<Home>, &'static str> {
        let Parsed::Token(token) = parsed else { return Err(NO_LIVE_TOKEN) };
        // SECURITY: a client beyond the limit costs the database nothing here either.
        let limit = site.settings.rate_limit;
        if limit.is_some_and(|limit| self.rate_limiter.is_over(client.address, limit, unix_now())) {
            return Err(OVER_LIMIT);
        }
        if self.standing.leaves().is_some() {
            return Err(REFUSED);
        }
        let state = timeout(PATIENCE, self.look_elsewhere(site, token)).await.ok().flatten().ok_or(NO_LIVE_TOKEN)?;
        if !state.is_live && self.reuse.decide(state.revoked_for) != Decision::Replay {
            return Err(NO_LIVE_TOKEN);
        }
        // SECURITY: one token can be used once, but presented as used as often as its client likes.
        self.sites.home_elsewhere(site, question, state.is_live).ok_or(NO_HOME)
    }

    /// Whether the token was used so lately that its pair may be given once more.
    pub(super) async fn is_used_lately(self: &Arc<Self>, site: &Arc<Site>, token: &str, client: &Client) -> bool {
        let limit = site.settings.rate_limit;
        // SECURITY: as above.
        if self.reuse.interval.is_zero()
            || limit.is_some_and(|limit| self.rate_limiter.is_over(client.address, limit, unix_now()))
        {
            return false;
        }
        let state = timeout(PATIENCE, self.look_elsewhere(site, token)).await.ok().flatten();
        state.is_some_and(|state| !state.is_live && self.reuse.decide(state.revoked_for) == Decision::Replay)
    }

    /// As [`Refresher::token_state`], on the database side's runtime: a client that leaves cuts the wait short, never a
    /// statement, and the connection is of the runtime that closes the pool.
    async fn look_elsewhere(self: &Arc<Self>, site: &Arc<Site>, token: &str) -> Option<TokenState> {
        // SECURITY: a flood of tokens that are in no row must not take the connections that rotations need.
        let permit = Arc::clone(&self.elsewhere).acquire_owned().await.ok()?;
        let (refresher, site, token) = (Arc::clone(self), Arc::clone(site), token.to_owned());
        let read = async move {
            let state = refresher.token_state(&site, &token).await;
            drop(permit);
            state
        };
        self.tasks.spawn(read).await.ok()?
    }

    /// How the token stands; `None` where it is in no row, or where that cannot be said at once.
    async fn token_state(&self, site: &Arc<Site>, token: &str) -> Option<TokenState> {
        let key = Key::of(token, site.columns.folds_case);
        let row = match self.look_ups.cached(&key) {
            Some(row) => row,
            None => self.look_up(site, key).await?,
        };
        // Whatever fails here, nothing has begun.
        let database = &self.store.database;
        let mut session = database.session().await.ok()?;
        let state = self.store.token_state(&mut session, row.id, token);
        let state = database.within(ANSWER_LIMIT, state).await.ok()?;
        session.give_back();
        state
    }

    /// Not where the whole table would be read: a client that is forwarded at once waits for less.
    async fn look_up(&self, site: &Arc<Site>, key: Key) -> Option<RowRef> {
        let must_scan = !site.columns.indexed && self.look_ups.live_tokens.complete().is_none();
        if must_scan || self.look_ups.is_known_unknown(&key) {
            return None;
        }
        let (found, row) = oneshot::channel();
        // The time limit may have ended the wait.
        let on_done = move |result| drop(found.send(result));
        self.look_ups.find(key, Arc::clone(site), Box::new(on_done));
        row.await.ok()?.ok()?
    }
}

/// A call that was left to WordPress, whose answer may show that what is known of the site does not hold any more.
pub struct Left {
    refresher: Arc<Refresher>,
    host: Option<HeaderValue>,
    scheme: Scheme,
}

impl Left {
    /// `request`, which came by `scheme`.
    pub fn new<B>(refresher: Arc<Refresher>, request: &Request<B>, scheme: Scheme) -> Self {
        Left { refresher, host: request.headers().get(header::HOST).cloned(), scheme }
    }

    /// WordPress has answered it. Only the status counts: it is reason enough to ask, and these questions are few.
    pub fn answered<B>(&self, response: &Response<B>) {
        let status = response.status();
        if let Some(host) = self.host.as_ref().and_then(|host| host.to_str().ok()) {
            self.refresher.sites.heed_response(host, self.scheme, status);
        }
    }
}
