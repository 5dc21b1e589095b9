//! The home URL as WordPress itself computes it, for each host that clients use.
//!
//! The plugin refuses a token whose `iss` is not exactly WordPress's home URL, and a site's own
//! code can filter that URL, or make it depend on the host. So WordPress is asked: `GET
//! {home}/wp-json/?_fields=home,namespaces`, sent to the upstream like a client's request. Until it
//! has answered, refreshes are forwarded.
//!
//! A refusal in WordPress's own form also counts as an answer: the REST API is closed to visitors,
//! or has moved. Then the route is forwarded until WordPress answers otherwise. Anything uncertain
//! (no response, 5xx, a page) leaves the last answer in effect.

mod question;

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderValue, StatusCode};
use moka::sync::Cache;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tracing::debug;

use super::clock::Clocks;
use crate::client_addr::Scheme;
use crate::net::ask::AskError;
use crate::net::dial::Dialer;
use crate::route::{Permalinks, RouteForms};
pub use question::{Answered, ask, host_of};

/// An older answer is renewed in the background.
const FRESH: Duration = Duration::from_secs(60);

/// The pause after a failed question: a site in trouble must not be asked with every refresh.
// SECURITY: clients can have their calls refused any number of times, so this also applies to
// questions caused by refusals.
const RETRY: Duration = Duration::from_secs(1);

/// The pause if an answer is doubted for another reason than a refusal.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// How long WordPress may take to answer; no client waits for it.
const LIMIT: Duration = Duration::from_secs(10);

/// Questions for the site's own hosts, and for those of a network's sites in use: two schemes each,
/// and some more while a site is being changed.
const OWN: u64 = 8192;

/// An answer that only calls keep fresh is not used after this time.
const LATELY: Duration = Duration::from_secs(600);

/// How many other hosts are remembered.
// SECURITY: clients choose these.
const OTHERS: u64 = 64;

/// An answer for another host is forgotten after this time. Only calls keep it fresh.
const OTHERS_FOR: Duration = Duration::from_secs(120);

/// How many questions for other hosts run at once, and the pause between the beginnings of two.
const OTHERS_AT_ONCE: usize = 4;
const OTHERS_REST: Duration = Duration::from_millis(250);

/// How many questions of any kind run at once, each on its own connection.
const AT_ONCE: usize = 16;

/// A question; changes when the site does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Question {
    /// The home URL by options and constants, without a trailing slash.
    pub stored_home: String,
    /// The host to ask for, as in `Host`; `None` for the home URL's.
    pub host: Option<String>,
    /// The client's scheme.
    pub scheme: Scheme,
    /// Which spellings of the REST root exist.
    pub forms: RouteForms,
}

impl Question {
    /// The home URL as far as known without asking.
    pub fn place(&self) -> String {
        match &self.host {
            Some(host) => format!("{}://{host}{}", self.scheme.name(), self.forms.home_path),
            None => self.stored_home.clone(),
        }
    }
}

/// WordPress's answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Home {
    /// The home URL, exactly as it is compared with `iss`.
    pub url: String,
    pub route_registered: bool,
    /// The value of the `Link` field, which names the REST root. `None` would need a control
    /// character in the URL, which no client could use.
    pub api_link: Option<HeaderValue>,
}

impl Home {
    /// With the home URL `url` and these permalinks.
    pub fn new(url: String, route_registered: bool, permalinks: Permalinks) -> Self {
        let path = match permalinks {
            Permalinks::Pretty => "/wp-json/",
            Permalinks::PathInfo => "/index.php/wp-json/",
            Permalinks::Plain => "/index.php?rest_route=/",
        };
        let api_link = HeaderValue::try_from(format!("<{url}{path}>; rel=\"https://api.w.org/\"")).ok();
        Home { url, route_registered, api_link }
    }
}

/// A certain answer of WordPress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    Home(Arc<Home>),
    /// 401, 403, 404 or 410 with an error code: the REST API is closed to visitors, or the site is.
    Refused {
        status: u16,
        code: String,
    },
    /// The REST API exists, but not below `/wp-json/` (the filter `rest_url_prefix`).
    Moved,
}

/// Whether this status may mean that WordPress refuses the REST API, or the route, permanently.
pub fn is_definite(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::GONE)
}

/// Asks and remembers.
pub struct Homes {
    upstream: Dialer,
    tasks: Handle,
    clocks: Arc<Clocks>,
    /// For the hosts that the configuration and the site name.
    own: Cache<Question, Arc<Answer>>,
    /// For hosts that clients have named.
    others: Cache<Question, Arc<Answer>>,
    others_at_once: Arc<Semaphore>,
    at_once: Semaphore,
    /// When a question for another host was last asked.
    other_asked: Mutex<Option<Instant>>,
    /// When a response of WordPress to a client last caused a question.
    doubted: Mutex<Option<Instant>>,
    /// Counts the changes of the site that answers may depend on.
    changes: AtomicU64,
    /// Signalled when a new answer is there.
    news: Notify,
}

/// What is known of one question.
struct Answer {
    known: Mutex<Answers>,
    being_renewed: AtomicBool,
    /// Signalled when a question was answered, or failed.
    renewed: Notify,
}

#[derive(Clone, Default)]
struct Answers {
    word: Option<Word>,
    /// When it was last asked.
    at: Option<Instant>,
    /// The number of changes of the site when it was asked.
    changes: u64,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    #[error("no answer within {LIMIT:?}")]
    TimedOut,
    /// There is no valid response.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The home URL's host is invalid.
    #[error("the request cannot be built")]
    Request(#[from] http::Error),
    /// A response that is not the REST API's.
    #[error("status {0}")]
    Status(u16),
    /// A page, or other JSON.
    #[error("the body is not the expected JSON")]
    Json(#[from] serde_json::Error),
    /// The option `home` is invalid.
    #[error("{0} is not a URL")]
    Url(String),
}

impl Homes {
    /// Asks nothing yet. Questions run in the runtime of `tasks`; readings of WordPress's clock go
    /// to `clocks`.
    pub fn new(upstream: Dialer, tasks: Handle, clocks: Arc<Clocks>) -> Arc<Self> {
        Arc::new(Homes {
            upstream,
            tasks,
            clocks,
            own: Cache::new(OWN),
            others: Cache::builder().max_capacity(OTHERS).time_to_live(OTHERS_FOR).build(),
            others_at_once: Arc::new(Semaphore::new(OTHERS_AT_ONCE)),
            at_once: Semaphore::new(AT_ONCE),
            other_asked: Mutex::default(),
            doubted: Mutex::default(),
            changes: AtomicU64::new(0),
            news: Notify::new(),
        })
    }

    /// The last answer to `question`; `None` until there is one. Renews it in the background when
    /// it is time.
    pub fn known(self: &Arc<Self>, question: &Question) -> Option<Word> {
        let answer = self.own(question);
        let known = answer.known();
        if known.is_due(self.changes()) {
            self.renew_soon(question, answer);
        }
        known.word
    }

    /// Like [`Homes::known`], but without an answer yet, asks and waits for it.
    pub async fn ask(self: &Arc<Self>, question: &Question) -> Option<Word> {
        match self.known_or_never_asked(question) {
            Some(word) => Some(word),
            None => self.renew(question, &self.own(question)).await,
        }
    }

    /// Like [`Homes::known`], but `None` if the last answer is older than [`LATELY`].
    pub fn known_lately(self: &Arc<Self>, question: &Question) -> Option<Word> {
        let is_late = self.own(question).known().at.is_some_and(|at| at.elapsed() > LATELY);
        self.known(question).filter(|_| !is_late)
    }

    /// Waits for an answer if [`Homes::known_lately`] would return none, unless the question was
    /// asked a moment ago.
    pub async fn ask_lately(self: &Arc<Self>, question: &Question) {
        let answer = self.own(question);
        let mut renewed = pin!(answer.renewed.notified());
        // From here on a signal is not missed.
        renewed.as_mut().enable();
        let known = answer.known();
        let is_missing = known.word.is_none() || known.at.is_some_and(|at| at.elapsed() > LATELY);
        if is_missing && known.at.is_none_or(|at| at.elapsed() > RETRY) {
            // Another task may already be asking.
            self.renew_soon(question, Arc::clone(&answer));
            renewed.await;
        }
    }

    /// Like [`Homes::ask`], but waits for the first question only.
    pub async fn ask_once(self: &Arc<Self>, question: &Question) -> Option<Word> {
        let is_asked = self.own.get(question).is_some_and(|answer| answer.known().at.is_some());
        if is_asked { self.known(question) } else { self.ask(question).await }
    }

    fn known_or_never_asked(self: &Arc<Self>, question: &Question) -> Option<Word> {
        self.own.get(question).filter(|answer| answer.known().word.is_some()).and_then(|_| self.known(question))
    }

    /// Like [`Homes::known`], for a host that only a client has named. With `may_ask` the question
    /// is asked, if there is room.
    pub fn known_of_other(self: &Arc<Self>, question: &Question, may_ask: bool) -> Option<Word> {
        let answer = self.others.get(question);
        let known = answer.as_ref().map(|answer| answer.known()).unwrap_or_default();
        if may_ask
            && known.is_due(self.changes())
            && let Some(permit) = self.room_for_another()
        {
            let answer = answer.unwrap_or_else(|| self.others.get_with_by_ref(question, Arc::default));
            if !answer.being_renewed.swap(true, Ordering::AcqRel) {
                let (homes, question) = (Arc::clone(self), question.clone());
                self.tasks.spawn(async move {
                    homes.renew(&question, &answer).await;
                    // It expires counting from its answer.
                    homes.others.insert(question, answer);
                    drop(permit);
                });
            }
        }
        known.word
    }

    fn room_for_another(&self) -> Option<tokio::sync::OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.others_at_once).try_acquire_owned().ok()?;
        passed(&self.other_asked, OTHERS_REST).then_some(permit)
    }

    /// The last answer to `question`, if any. Asks no question.
    pub fn last(&self, question: &Question) -> Option<Word> {
        self.own.get(question).and_then(|answer| answer.known().word)
    }

    /// WordPress has answered a call of the route itself, and its response contradicts the last
    /// answer to `question`: it has refused the call, or has served it although that answer is a
    /// refusal. Then the question is asked again at once.
    pub fn doubt(self: &Arc<Self>, question: &Question, response: StatusCode) {
        let Some(answer) = self.own.get(question) else { return };
        let known = answer.known();
        let speaks_against = match &known.word {
            Some(Word::Home(home)) if home.route_registered => is_definite(response),
            Some(_) => response.is_success(),
            None => false,
        };
        let has_rested = known.at.is_some_and(|at| at.elapsed() > RETRY);
        if speaks_against && has_rested && passed(&self.doubted, RETRY) {
            self.renew_soon(question, answer);
        }
    }

    /// Asks again if the last time was at least [`ASK_AGAIN`] ago.
    pub fn ask_again(self: &Arc<Self>, question: &Question) {
        let answer = self.own(question);
        if answer.known().at.is_none_or(|at| at.elapsed() > ASK_AGAIN) {
            self.renew_soon(question, answer);
        }
    }

    /// The site has changed in a way that any answer may depend on: other plugins are active.
    pub fn site_changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.news.notify_one();
    }

    /// Waits for news since the last call. For a single waiter.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// The home URLs that WordPress has named, each once; those of the site's own hosts first.
    pub fn issuers(&self) -> Vec<Arc<Home>> {
        let mut homes: Vec<Arc<Home>> = Vec::new();
        for (_, answer) in self.own.iter().chain(self.others.iter()) {
            if let Some(Word::Home(home)) = answer.known().word
                && !homes.iter().any(|known| known.url == home.url)
            {
                homes.push(home);
            }
        }
        homes
    }

    /// Those [`Homes::issuers`] that belong to the current site: stored as `stored_home`.
    pub fn issuers_of(&self, stored_home: &str) -> Vec<Arc<Home>> {
        let answers = self.own.iter().chain(self.others.iter()).filter(|(asked, _)| asked.stored_home == stored_home);
        let homes = answers.filter_map(|(_, answer)| match answer.known().word {
            Some(Word::Home(home)) => Some(home),
            _ => None,
        });
        homes.collect()
    }

    fn own(&self, question: &Question) -> Arc<Answer> {
        self.own.get_with_by_ref(question, Arc::default)
    }

    fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    fn renew_soon(self: &Arc<Self>, question: &Question, answer: Arc<Answer>) {
        if !answer.being_renewed.swap(true, Ordering::AcqRel) {
            let (homes, question) = (Arc::clone(self), question.clone());
            self.tasks.spawn(async move { homes.renew(&question, &answer).await });
        }
    }

    async fn renew(&self, question: &Question, answer: &Answer) -> Option<Word> {
        let changes = self.changes();
        // SECURITY: on a network, calls for any of its sites cause questions. They wait for each
        // other.
        let place = self.at_once.acquire().await;
        let asked = question::ask(&self.upstream, question).await;
        drop(place);
        let before = answer.known();
        let now = match asked {
            Ok(Answered { word, clock }) => {
                // SECURITY: clients choose the other hosts; another machine may serve some of them.
                if let Some(reading) = clock.filter(|_| self.own.contains_key(question)) {
                    self.clocks.wordpress_shows(reading);
                }
                Answers { word: Some(word), at: Some(Instant::now()), changes }
            }
            Err(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                debug!(%error, source, home = question.place(), "WordPress did not say its home URL");
                // An upstream that is down for a while does not change the home URL.
                Answers { at: Some(Instant::now()), ..before.clone() }
            }
        };
        let word = now.word.clone();
        let is_new = word != before.word;
        *answer.locked() = now;
        answer.being_renewed.store(false, Ordering::Release);
        answer.renewed.notify_waiters();
        if is_new {
            self.news.notify_one();
        }
        word
    }
}

/// Whether at least `rest` has passed since this last returned `true`.
fn passed(last: &Mutex<Option<Instant>>, rest: Duration) -> bool {
    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
    let has_passed = last.is_none_or(|last| last.elapsed() >= rest);
    if has_passed {
        *last = Some(Instant::now());
    }
    has_passed
}

impl Default for Answer {
    fn default() -> Self {
        Answer { known: Mutex::default(), being_renewed: AtomicBool::new(false), renewed: Notify::new() }
    }
}

impl Answer {
    fn known(&self) -> Answers {
        self.locked().clone()
    }

    fn locked(&self) -> MutexGuard<'_, Answers> {
        // It is replaced as a whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answers {
    /// Whether the question is due, with this number of changes of the site.
    fn is_due(&self, changes: u64) -> bool {
        let wait = if self.word.is_some() && self.changes == changes { FRESH } else { RETRY };
        self.at.is_none_or(|at| at.elapsed() > wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_asked_for_again_in_time() {
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds));
        let known = |word: bool, at, changes| Answers { word: word.then_some(Word::Moved), at, changes };
        for (what, answers, is_due) in [
            ("never asked", known(false, None, 0), true),
            ("fresh", known(true, ago(59), 3), false),
            ("old", known(true, ago(61), 3), true),
            ("no answer a moment ago", known(false, ago(0), 3), false),
            ("no answer", known(false, ago(2), 3), true),
            ("other plugins", known(true, ago(2), 2), true),
            ("other plugins, asked a moment ago", known(true, ago(0), 2), false),
        ] {
            assert_eq!(answers.is_due(3), is_due, "{what}");
        }
    }
}
