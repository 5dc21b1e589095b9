//! A call whose body was read: refused at once, rotated, or left to WordPress.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderValue, Response, Uri, header};
use tokio::time::timeout_at;
use tracing::warn;

use super::analytics::{Event, EventResult, Failure};
use super::comparison::Comparison;
use super::comparison::gate::Gated;
use super::error::RefreshError;
use super::plan::{Plan, Replays};
use super::rate_limit::{Window, unix_now};
use super::refresher::{RefreshLog, Refresher};
use super::request::Parsed;
use super::response::{self, Reply, ReplyContext};
use super::rotation::Rotation;
use super::row_cache::Key;
use super::waiting::RotationError;
use super::{Leave, elsewhere, has_bearer};
use crate::client_addr::Client;
use crate::request_id::RequestId;
use crate::verify::origins::{App, Cors};
use crate::verify::verdict::Class;
use crate::wordpress::access_token;
use crate::wordpress::database::DatabaseError;
use crate::wordpress::home::Home;
use crate::wordpress::site::Site;
use crate::wordpress::text;

/// The result for a call whose body was read.
pub(super) enum Decided {
    Answered(Response<Bytes>, RefreshLog),
    Left(Leave),
    /// Left to WordPress, whose response is compared.
    Compared(Leave, Box<Comparison>),
}

/// A call that is certainly a refresh.
pub(super) struct Call<'a> {
    pub refresher: &'a Arc<Refresher>,
    pub site: &'a Arc<Site>,
    pub home: &'a Arc<Home>,
    pub client: &'a Client,
    pub head: &'a http::request::Parts,
    pub arrived: Instant,
    pub id: &'a RequestId,
    /// Unix seconds, by the slowest of three clocks.
    pub issued_at: u64,
    /// Whether the call may be refused here. Otherwise it may be for another site.
    pub refuses: bool,
    /// The request's origin, if it is an app's.
    pub app: Option<App<'a>>,
    /// The fields of a native response to that origin, if they are known.
    pub agreed: Option<Arc<Cors>>,
}

impl Call<'_> {
    /// Answers the call, or leaves it to WordPress.
    ///
    /// # Errors
    /// A rotation began and could not be completed.
    pub async fn decide(&self, parsed: Parsed) -> Result<Decided, RefreshError> {
        let counters = &self.refresher.counters;
        let parsed = match self.gate(parsed).await {
            Gated::Native(parsed) => parsed,
            Gated::Replay(token, replays) => return self.refresh(token, replays).await,
            Gated::Ended(decided) => return Ok(decided),
        };
        Ok(match parsed {
            Parsed::Forward(why) => Decided::Left(Leave::counted(&counters.left_for_request, why)),
            // WordPress may send the message in the site's language.
            Parsed::Invalid(_) if !self.site.is_english => {
                Decided::Left(Leave::counted(&counters.left_for_settings, "an error message in the site's language"))
            }
            Parsed::Invalid(fault) => {
                counters.invalid.add();
                Decided::Answered(self.respond(&Reply::BadRequest(fault), None), RefreshLog::of("invalid"))
            }
            Parsed::Token(token) => return self.refresh(token, Replays::None).await,
        })
    }

    /// The class of calls on which WordPress's responses must have agreed.
    pub fn class(&self) -> Class {
        match self.app {
            Some(_) => Class::App,
            None => Class::of(self.head.headers.contains_key(header::ORIGIN), has_bearer(self.head)),
        }
    }

    async fn refresh(&self, token: String, replays: Replays) -> Result<Decided, RefreshError> {
        if let Some(why) = self.refresher.standing.leaves() {
            return Ok(Decided::Left(Leave::counted(&self.refresher.counters.not_begun, why)));
        }
        let now = unix_now();
        let window = match self.site.settings.rate_limit {
            Some(limit) => Some(self.refresher.rate_limiter.count(self.client.address, limit, now).await),
            None => None,
        };
        if window.as_ref().is_some_and(|window| window.retry_after.is_some()) {
            if !self.refuses {
                return Ok(Decided::Left(Leave::counted(
                    &self.refresher.counters.left_for_host,
                    elsewhere::OVER_LIMIT,
                )));
            }
            self.refresher.counters.rate_limited.add();
            return Ok(Decided::Answered(self.respond(&Reply::RateLimited, window), RefreshLog::of("rate_limited")));
        }
        let user_agent = self.user_agent();
        let key = Key::of(&token, self.site.columns.folds_case);
        if self.refuses && self.refresher.look_ups.is_known_unknown(&key) {
            // It needs no look-up and no row, so a flood of them costs the database side nothing.
            self.refresher.counters.unknown.add();
            self.refresher.record(self.event(&user_agent), EventResult::Failure(Failure::InvalidToken));
            return Ok(Decided::Answered(self.respond(&Reply::InvalidToken, window), RefreshLog::of("unknown")));
        }
        let Ok(refresh_token) = access_token::new_refresh_token() else {
            warn!(request_id = %self.id, "no random bytes from the operating system; a refresh is left to WordPress");
            return Ok(Decided::Left(Leave::because("no random bytes from the operating system")));
        };
        let event = self.event(&user_agent);
        let plan = Plan { replays, ..self.plan(token, refresh_token, user_agent) };
        let (answered, deadline) = Rotation::begin(self.refresher, key, plan, event);
        let Ok(answered) = timeout_at(deadline, answered).await else {
            // The rotation continues, and may yet result in a replay or a refusal. It sends no more
            // COMMIT.
            return Err(RefreshError::Rotation(RotationError::Failed(DatabaseError::TimedOut)));
        };
        match answered {
            Ok(Ok((reply, _))) if !self.refuses && !matches!(reply, Reply::Pair(_)) => {
                let counter = &self.refresher.counters.left_for_host;
                Ok(Decided::Left(Leave::counted(counter, "a token that is not live any more")))
            }
            Ok(Ok((reply, log))) => Ok(Decided::Answered(self.respond(&reply, window), log)),
            Ok(Err(RotationError::NotBegun(error))) => {
                warn!(%error, request_id = %self.id, "a refresh goes to WordPress");
                Ok(Decided::Left(Leave::because(error)))
            }
            // It was counted, and the site's behaviour was logged once.
            Ok(Err(RotationError::Unverified(why))) => Ok(Decided::Left(Leave::because(why))),
            // `Standing` logged it once.
            Ok(Err(RotationError::Refused(error))) => Ok(Decided::Left(Leave::because(error))),
            Ok(Err(error)) => Err(RefreshError::Rotation(error)),
            Err(error) => Err(RefreshError::Dropped(error)),
        }
    }

    /// The user agent as wp_magic_quotes() and sanitize_text_field() leave it (empty if it is not
    /// UTF-8). One that is longer than the column must not lose the session, as it does with the
    /// plugin.
    pub fn user_agent(&self) -> String {
        let columns = self.site.columns;
        let sent = self.head.headers.get(header::USER_AGENT).map_or(&b""[..], HeaderValue::as_bytes);
        let slashed = std::str::from_utf8(sent).map(text::wp_slash).unwrap_or_default();
        let clean = text::sanitize_text_field(slashed.as_bytes());
        text::cut_to_column(&clean, columns.user_agent_length, columns.user_agent_charset)
    }

    fn plan(&self, token: String, refresh_token: String, user_agent: String) -> Plan {
        let recent = self.refresher.recent.as_ref().filter(|_| !self.site.signer.is_repeatable());
        Plan {
            token,
            refresh_token,
            issued_at: self.issued_at,
            home: Arc::clone(self.home),
            sites: Arc::clone(&self.refresher.sites),
            verification: Arc::clone(&self.refresher.verification),
            class: self.class(),
            agreed: self.agreed.clone(),
            replays: Replays::None,
            refuses: self.refuses,
            site: Arc::clone(self.site),
            user_agent,
            client: self.client.address,
            signed: OnceLock::new(),
            recent: recent.map(Arc::clone),
            user_cache: Arc::clone(&self.refresher.store.user_cache),
        }
    }

    /// `None` if analytics are off.
    fn event(&self, user_agent: &str) -> Option<Event> {
        self.refresher.analytics.is_some().then(|| Event {
            arrived: self.arrived,
            client: self.client.address,
            anonymize_ip: self.site.settings.anonymize_ip,
            user_agent: user_agent.to_owned(),
            method: self.head.method.clone(),
            target: shared(&self.head.uri),
            plugin: Arc::clone(&self.site.plugin),
        })
    }

    fn respond(&self, reply: &Reply, window: Option<Window>) -> Response<Bytes> {
        response::response(reply, &self.reply_context(window))
    }

    pub fn reply_context(&self, window: Option<Window>) -> ReplyContext<'_> {
        ReplyContext {
            api_link: self.home.api_link.as_ref(),
            cors: match &self.agreed {
                Some(cors) => response::Cors::Seen(&cors.fields),
                None => response::Cors::Own(self.head.headers.get(header::ORIGIN)),
            },
            expose_rate_limit: self.site.settings.enable_cors && has_bearer(self.head),
            window,
            fields: self.refresher.fields,
            omit: &self.site.declared.omit,
        }
    }
}

/// The request's target. Nearly all calls have the same, so it is shared: memory that one thread
/// allocates and another frees is expensive.
fn shared(uri: &Uri) -> Arc<str> {
    thread_local! {
        static LAST: RefCell<Arc<str>> = RefCell::new(Arc::from(""));
    }
    let written: Cow<'_, str> = match (uri.authority(), uri.path_and_query()) {
        (None, Some(target)) => target.as_str().into(),
        _ => uri.to_string().into(),
    };
    LAST.with_borrow_mut(|last| {
        if **last != *written {
            *last = Arc::from(&*written);
        }
        Arc::clone(last)
    })
}
