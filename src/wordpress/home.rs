//! The home URL as WordPress itself computes it, for each host that clients use.
//!
//! The plugin refuses a token whose `iss` is not exactly WordPress's home URL, and a site's own code can filter that,
//! or make it depend on the host. So WordPress is asked: `GET {home}/wp-json/?_fields=home,namespaces`, sent to the
//! upstream as a client's request would arrive there. Until it has answered, refreshes are forwarded.
//!
//! A refusal in WordPress's own form counts as an answer, too: the REST API is closed to visitors, or is elsewhere.
//! Then the route is forwarded until WordPress says otherwise. What says nothing for certain (no response, 5xx, a
//! page) leaves the last answer in effect.

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

/// An answer older than this is asked for again, in the background.
const FRESH: Duration = Duration::from_secs(60);

/// After no answer, the next question waits this long: a site in trouble is not to be asked with every refresh.
// SECURITY: clients can have their calls refused as often as they like, so this also holds for what those refusals
// cause.
const RETRY: Duration = Duration::from_secs(1);

/// Where an answer is doubted for another reason than a refusal.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// WordPress has this long to answer; it is never waited for by a client.
const LIMIT: Duration = Duration::from_secs(10);

/// Questions for the site's own hosts, and for those of a network's sites in use: two schemes each, and some more while a site is
/// being changed.
const OWN: u64 = 8192;

/// An answer that nothing keeps fresh but calls is of no use after this time.
const LATELY: Duration = Duration::from_secs(600);

/// Other hosts that are remembered.
// SECURITY: clients choose these.
const OTHERS: u64 = 64;

/// An answer for another host is forgotten then. Nothing but calls keeps it fresh.
const OTHERS_FOR: Duration = Duration::from_secs(120);

/// Questions for other hosts under way at once, and how long after one the next may begin.
const OTHERS_AT_ONCE: usize = 4;
const OTHERS_REST: Duration = Duration::from_millis(250);

/// Questions of any kind under way at once, each by a connection of its own.
const AT_ONCE: usize = 16;

/// What is asked: changes when the site does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Question {
    /// The home URL as far as options and constants tell, without a trailing slash.
    pub stored_home: String,
    /// The host that is asked for, as it stands in `Host`; `None` for the home URL's.
    pub host: Option<String>,
    /// How the client reached the site.
    pub scheme: Scheme,
    /// Which spellings of the REST root exist.
    pub forms: RouteForms,
}

impl Question {
    /// The home URL as far as it is known without asking.
    pub fn place(&self) -> String {
        match &self.host {
            Some(host) => format!("{}://{host}{}", self.scheme.name(), self.forms.home_path),
            None => self.stored_home.clone(),
        }
    }
}

/// What WordPress says.
#[derive(Debug, PartialEq, Eq)]
pub struct Home {
    /// The home URL, exactly as it is compared with `iss`.
    pub url: String,
    /// Whether the plugin's routes are registered.
    pub route_registered: bool,
    /// The value of the `Link` field, which names the REST root. `None` would take a control character in the URL,
    /// which no client could reach.
    pub api_link: Option<HeaderValue>,
}

impl Home {
    /// At `url`, of a site with such permalinks.
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

/// What WordPress has said for certain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    Home(Arc<Home>),
    /// 401, 403, 404 or 410 with an error code: the REST API is closed to visitors, or the site is.
    Refused {
        status: u16,
        code: String,
    },
    /// Its REST API is there, and not below `/wp-json/` (the filter `rest_url_prefix`).
    Moved,
}

/// Whether WordPress can refuse the REST API, or the route, with such a status for longer than a moment.
pub fn is_definite(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::GONE)
}

/// Asks, and remembers.
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
    /// When another host was last asked for.
    other_asked: Mutex<Option<Instant>>,
    /// When a response of WordPress to a client last made it be asked.
    doubted: Mutex<Option<Instant>>,
    /// Counts the changes of the site that any answer may depend on.
    changes: AtomicU64,
    /// Something has become known.
    news: Notify,
}

/// What is known of one question.
struct Answer {
    known: Mutex<Answers>,
    being_renewed: AtomicBool,
    /// There is an answer, or none came.
    renewed: Notify,
}

#[derive(Clone, Default)]
struct Answers {
    word: Option<Word>,
    /// When it was last asked.
    at: Option<Instant>,
    /// How many changes of the site it knows of.
    changes: u64,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Nothing came.
    #[error("no answer within {LIMIT:?}")]
    TimedOut,
    /// No response.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The home URL names a host that cannot be one.
    #[error("the request cannot be built")]
    Request(#[from] http::Error),
    /// Something else than an answer of the REST API.
    #[error("status {0}")]
    Status(u16),
    /// A page, or another JSON.
    #[error("the body is not the expected JSON")]
    Json(#[from] serde_json::Error),
    /// The option `home` is not understood.
    #[error("{0} is no URL")]
    Url(String),
}

impl Homes {
    /// Asks nothing yet. Questions are asked in the runtime of `tasks`; what WordPress's clock shows goes to `clocks`.
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

    /// The last answer to `question`; `None` until there is one. Asks (again) in the background when it is time.
    pub fn known(self: &Arc<Self>, question: &Question) -> Option<Word> {
        let answer = self.own(question);
        let known = answer.known();
        if known.is_due(self.changes()) {
            self.renew_soon(question, answer);
        }
        known.word
    }

    /// As [`Homes::known`], but where there is no answer yet, asks and waits for it.
    pub async fn ask(self: &Arc<Self>, question: &Question) -> Option<Word> {
        match self.known_or_never_asked(question) {
            Some(word) => Some(word),
            None => self.renew(question, &self.own(question)).await,
        }
    }

    /// As [`Homes::known`], but `None` where the last answer is older than [`LATELY`].
    pub fn known_lately(self: &Arc<Self>, question: &Question) -> Option<Word> {
        let is_late = self.own(question).known().at.is_some_and(|at| at.elapsed() > LATELY);
        self.known(question).filter(|_| !is_late)
    }

    /// Waits for an answer where there is none that [`Homes::known_lately`] would give, unless one was asked for a moment ago.
    pub async fn ask_lately(self: &Arc<Self>, question: &Question) {
        let answer = self.own(question);
        let mut renewed = pin!(answer.renewed.notified());
        // From here on it is not missed.
        renewed.as_mut().enable();
        let known = answer.known();
        let is_missing = known.word.is_none() || known.at.is_some_and(|at| at.elapsed() > LATELY);
        if is_missing && known.at.is_none_or(|at| at.elapsed() > RETRY) {
            // Others may be at it already.
            self.renew_soon(question, Arc::clone(&answer));
            renewed.await;
        }
    }

    /// As [`Homes::ask`], but waits for the first question only.
    pub async fn ask_once(self: &Arc<Self>, question: &Question) -> Option<Word> {
        let is_asked = self.own.get(question).is_some_and(|answer| answer.known().at.is_some());
        if is_asked { self.known(question) } else { self.ask(question).await }
    }

    fn known_or_never_asked(self: &Arc<Self>, question: &Question) -> Option<Word> {
        self.own.get(question).filter(|answer| answer.known().word.is_some()).and_then(|_| self.known(question))
    }

    /// As [`Homes::known`], for a host that only a client has named. With `may_ask` it is asked for, if there is room.
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
                    // Its time begins with its answer.
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

    /// The last answer to `question`, if there is one. Asks no question.
    pub fn last(&self, question: &Question) -> Option<Word> {
        self.own.get(question).and_then(|answer| answer.known().word)
    }

    /// WordPress has answered a call of the route itself, and has refused it in a way that speaks against the last
    /// answer to `question`, or has served it, which does so where that answer is a refusal. Then it is asked again at
    /// once.
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

    /// Asks again if the last time is [`ASK_AGAIN`] ago.
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

    /// Waits until something may have become known that was not when this was last called. For one who waits.
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

    /// Those of [`Homes::issuers`] that are of the site as it is now: stored as `stored_home`.
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
        // SECURITY: on a network, calls for any of its sites bring questions about. They wait for each other.
        let place = self.at_once.acquire().await;
        let asked = question::ask(&self.upstream, question).await;
        drop(place);
        let before = answer.known();
        let now = match asked {
            Ok(Answered { word, clock }) => {
                // SECURITY: which other hosts there are, clients say; some may be served by another machine.
                if let Some(reading) = clock.filter(|_| self.own.contains_key(question)) {
                    self.clocks.wordpress_shows(reading);
                }
                Answers { word: Some(word), at: Some(Instant::now()), changes }
            }
            Err(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                debug!(%error, source, home = question.place(), "WordPress did not say its home URL");
                // An upstream that is away for a while does not change the home URL.
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

/// Whether so much time has passed since this last said so.
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
        // Replaced as a whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answers {
    /// Whether it is to be asked (again), the site having changed so many times.
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
