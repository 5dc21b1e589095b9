//! Handles calls for a host that only the client has named.
//!
//! The host may be another name of this site, or another site on the same web server. If the token
//! is live in this site's table, the call is answered here, with the home URL that WordPress uses
//! on that host. All other such calls are left to WordPress, so that no client of another site is
//! ever refused.
//!
//! A used token that a replay may answer counts as well: if the first of two simultaneous calls on
//! a host is answered here, WordPress would refuse the second.

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

/// How long such a call may be delayed before it is left to WordPress, which would answer all of
/// them without the sidecar.
const PATIENCE: Duration = Duration::from_millis(500);

/// How many of them may read the database at once; others wait.
const AT_ONCE: usize = 4;

/// [`AT_ONCE`], or fewer if there are few connections. Pure.
pub fn at_once(connections: usize) -> usize {
    AT_ONCE.min(connections / 4).max(1)
}

/// Why the call is left to WordPress.
const NO_LIVE_TOKEN: &str = "no live token, and a host that is neither the home URL's nor in wordpress.hosts";
pub(super) const OVER_LIMIT: &str = "the rate limit, which WordPress counts by itself";
const REFUSED: &str = "the database refuses rotations, and the host is neither the home URL's nor in wordpress.hosts";
const NO_HOME: &str = "WordPress has not answered yet for a host that is neither the home URL's nor in wordpress.hosts";

impl Refresher {
    /// The home URL for a call on another host.
    ///
    /// # Errors
    /// Why the call is left to WordPress.
    pub(super) async fn home_elsewhere(
        self: &Arc<Self>,
        site: &Arc<Site>,
        question: &Question,
        parsed: &Parsed,
        client: &Client,
    ) -> Result<Arc<Home>, &'static str> {
        let Parsed::Token(token) = parsed else { return Err(NO_LIVE_TOKEN) };
        // SECURITY: here too, a client beyond the limit causes no work for the database.
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
        // SECURITY: a live token can be used only once, but a used one can be presented any number
        // of times.
        self.sites.home_elsewhere(site, question, state.is_live).ok_or(NO_HOME)
    }

    /// Whether the token was used so recently that its pair may be returned again.
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

    /// Calls [`Refresher::token_state`] on the database side's runtime: a client that disconnects
    /// ends the wait, never a statement, and the connection belongs to the runtime that closes the
    /// pool.
    async fn look_elsewhere(self: &Arc<Self>, site: &Arc<Site>, token: &str) -> Option<TokenState> {
        // SECURITY: a flood of unknown tokens must not take the connections that rotations need.
        let permit = Arc::clone(&self.elsewhere).acquire_owned().await.ok()?;
        let (refresher, site, token) = (Arc::clone(self), Arc::clone(site), token.to_owned());
        let read = async move {
            let state = refresher.token_state(&site, &token).await;
            drop(permit);
            state
        };
        self.tasks.spawn(read).await.ok()?
    }

    /// The state of the token; `None` if it is in no row, or if finding out takes too long.
    async fn token_state(&self, site: &Arc<Site>, token: &str) -> Option<TokenState> {
        let key = Key::of(token, site.columns.folds_case);
        let row = match self.look_ups.cached(&key) {
            Some(row) => row,
            None => self.look_up(site, key).await?,
        };
        // Nothing has begun, so every error can be ignored.
        let database = &self.store.database;
        let mut session = database.session().await.ok()?;
        let state = self.store.token_state(&mut session, row.id, token);
        let state = database.within(ANSWER_LIMIT, state).await.ok()?;
        session.give_back();
        state
    }

    /// Returns `None` if the whole table would have to be read: leaving the call to WordPress is
    /// faster.
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

/// A call that was left to WordPress, whose response may show that what is known of the site is out
/// of date.
pub struct Left {
    refresher: Arc<Refresher>,
    host: Option<HeaderValue>,
    scheme: Scheme,
}

impl Left {
    pub fn new<B>(refresher: Arc<Refresher>, request: &Request<B>, scheme: Scheme) -> Self {
        Left { refresher, host: request.headers().get(header::HOST).cloned(), scheme }
    }

    /// WordPress has responded. Only the status counts: it is reason enough to ask the site again,
    /// and these questions are rare.
    pub fn answered<B>(&self, response: &Response<B>) {
        let status = response.status();
        if let Some(host) = self.host.as_ref().and_then(|host| host.to_str().ok()) {
            self.refresher.sites.heed_response(host, self.scheme, status);
        }
    }
}
