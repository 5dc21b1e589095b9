//! Writes the plugin's analytics rows.
//!
//! There is one row for each refresh whose token was looked up. Rows are written after the
//! response: their foreign keys take locks that must not be in the rotation's transaction, and no
//! client should wait for statistics. A bounded queue lies between; if the database is down for
//! longer than it lasts, rows are dropped, counted and logged. A row is never written twice. For
//! refused calls the number of rows per second is limited.

mod refusals;
mod tally;
mod writer;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::Method;
use tokio::sync::mpsc;
use tracing::warn;

pub use writer::{insert, write_behind};

use refusals::Refusals;
use tally::Tally;

use super::country::Countries;
use crate::wordpress::text::{ColumnCharset, cut_to_column, esc_url_raw, sanitize_text_field};

/// Events that may wait to be written: 8 MB at some 500 bytes each, enough for a quarter of an hour
/// without a database at twenty refreshes a second.
const QUEUE: usize = 16_384;

/// Characters that the columns `user_agent`, `request_path` and `token_family` hold.
const TEXT_COLUMN: usize = 255;

/// What is known of a call before it ends.
#[derive(Clone)]
pub struct Event {
    /// When the call arrived: the start of the response time.
    pub arrived: Instant,
    /// The client's full address; the country is looked up by it.
    pub client: IpAddr,
    /// Whether the row contains a shortened address.
    pub anonymize_ip: bool,
    /// As in the token row.
    pub user_agent: String,
    /// The request's method.
    pub method: Method,
    /// Path and query as the client sent them. A token in the query is left out of the row.
    pub target: Arc<str>,
    /// The plugin's main file, relative to the plugins directory, which also contains its country
    /// database.
    pub plugin: Arc<str>,
}

/// Why a token was refused after its look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// `jwt_auth_invalid_refresh_token`
    InvalidToken,
    /// `jwt_auth_user_not_found`
    UserNotFound,
}

/// How a call ended.
#[derive(Clone)]
pub enum EventResult {
    /// The token was rotated.
    Success {
        /// The token's user.
        user_id: u64,
        /// The row of the presented token, not of the new one.
        token_id: u64,
        /// The token's family.
        token_family: Option<String>,
    },
    /// The token was refused after its look-up.
    Failure(Failure),
}

/// The analytics table of one site.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    /// The table's prefix.
    pub prefix: String,
    /// The `blog_id` of its rows: the site within a network; 1 for a single site.
    pub blog_id: u64,
}

/// Accepts events. Clones share one queue.
#[derive(Clone)]
pub struct Analytics {
    table: Arc<Table>,
    queue: mpsc::Sender<Queued>,
    dropped: Arc<Dropped>,
    refusals: Arc<Refusals>,
}

/// The receiving end of the queue, for [`write_behind`].
pub struct Events {
    queue: mpsc::Receiver<Queued>,
    dropped: Arc<Dropped>,
    refusals: Arc<Refusals>,
    countries: Countries,
    paths: Paths,
}

/// A waiting event with its times, which must not depend on when it is written.
struct Queued {
    table: Arc<Table>,
    event: Event,
    result: EventResult,
    /// Unix seconds.
    at: u64,
    took: Duration,
}

impl Analytics {
    /// A queue and its receiving end. Refused calls add at most `refusals` rows a second.
    pub fn new(table: Table, countries: Countries, refusals: usize) -> (Self, Events) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let refusals = Arc::new(Refusals::new(refusals));
        let analytics = Self { table: Arc::new(table), queue: sender, dropped: Arc::default(), refusals };
        let (dropped, refusals) = (Arc::clone(&analytics.dropped), Arc::clone(&analytics.refusals));
        (analytics, Events { queue: receiver, dropped, refusals, countries, paths: Paths::default() })
    }

    /// For the rows of another site, with the same queue.
    #[must_use]
    pub fn of_table(&self, table: Table) -> Self {
        Self { table: Arc::new(table), ..self.clone() }
    }

    /// Queues an event. Never waits: if the queue is full, or closed for the shutdown, the event is
    /// dropped.
    pub fn record(&self, event: Event, result: EventResult) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        // SECURITY: anyone can send tokens that do not exist, without limit.
        if matches!(result, EventResult::Failure(_)) && !self.refusals.take(at) {
            return;
        }
        let took = event.arrived.elapsed();
        let table = Arc::clone(&self.table);
        if self.queue.try_send(Queued { table, event, result, at, took }).is_err() {
            self.dropped.add(1, &"the queue is full");
        }
    }

    /// Events in the queue.
    pub fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// Rows dropped since the start.
    pub fn lost(&self) -> u64 {
        self.dropped.0.total()
    }

    /// Rows of refused calls omitted because of the limit.
    pub fn skipped(&self) -> u64 {
        self.refusals.skipped()
    }
}

/// Counts dropped rows and logs them.
#[derive(Default)]
struct Dropped(Tally);

impl Dropped {
    fn add(&self, rows: usize, reason: &dyn fmt::Display) {
        say(self.0.add(rows), reason);
    }

    /// Logs what has not been logged yet.
    fn end(&self) {
        say(self.0.rest(), &"the sidecar ends");
    }
}

fn say(rows: Option<u64>, reason: &dyn fmt::Display) {
    if let Some(rows) = rows {
        warn!(rows, %reason, "analytics rows lost");
    }
}

/// A row of the table, as bound to the statement.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    event_status: u8,
    failure_reason: Option<&'static str>,
    user_id: Option<u64>,
    token_id: Option<u64>,
    token_family: Option<String>,
    ip_address: String,
    user_agent: String,
    country_code: String,
    request_path: String,
    request_method: String,
    response_time: u32,
    /// Unix seconds.
    event_timestamp: u64,
}

/// The row of an event. Pure except for the country database.
fn row(queued: Queued, countries: &Countries, paths: &mut Paths) -> Row {
    let Queued { event, result, at, took, .. } = queued;
    let (user_id, token_id, token_family, failure_reason) = match result {
        EventResult::Success { user_id, token_id, token_family } => (Some(user_id), Some(token_id), token_family, None),
        // As the plugin writes it: no user, no token, and a family that is empty, not NULL.
        EventResult::Failure(failure) => (None, None, Some(String::new()), Some(failure.reason())),
    };
    let is_success = failure_reason.is_none();
    let address = if event.anonymize_ip { anonymized(event.client) } else { event.client };
    Row {
        event_status: if is_success { 1 } else { 2 },
        failure_reason,
        user_id,
        token_id,
        token_family: token_family.map(|family| cut(&family)),
        ip_address: address.to_string(),
        user_agent: cut(&event.user_agent),
        country_code: countries.code(event.client),
        request_path: paths.of(event.target),
        request_method: event.method.as_str().chars().take(10).collect(),
        response_time: if is_success { u32::try_from(took.as_millis()).unwrap_or(u32::MAX) } else { 0 },
        event_timestamp: at,
    }
}

impl Failure {
    /// The plugin's error code.
    fn reason(self) -> &'static str {
        match self {
            Self::InvalidToken => "jwt_auth_invalid_refresh_token",
            Self::UserNotFound => "jwt_auth_user_not_found",
        }
    }
}

/// The last target and its cleaned path: nearly all calls have the same.
#[derive(Default)]
struct Paths(Option<(Arc<str>, String)>);

impl Paths {
    fn of(&mut self, target: Arc<str>) -> String {
        match &self.0 {
            Some((last, path)) if *last == target => path.clone(),
            _ => {
                let path = request_path(&target);
                self.0 = Some((target, path.clone()));
                path
            }
        }
    }
}

/// The target as WordPress cleans it.
fn request_path(target: &str) -> String {
    // SECURITY: the plugin stores the whole target, including a token in its query. A stored secret
    // is worse than a small difference.
    let target = match target.split_once('?') {
        Some((path, query)) if query.contains("refresh_token") => path,
        _ => target,
    };
    cut(&sanitize_text_field(esc_url_raw(target).as_bytes()))
}

fn cut(text: &str) -> String {
    cut_to_column(text, TEXT_COLUMN, ColumnCharset::Utf8mb4)
}

/// Without the last IPv4 octet, or the last 64 bits of an IPv6 address.
pub(super) fn anonymized(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() & !0xff).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(target: &str, client: &str, anonymize_ip: bool) -> Event {
        Event {
            arrived: Instant::now(),
            client: client.parse().unwrap(),
            anonymize_ip,
            user_agent: "O\\'Neil".to_owned(),
            method: Method::POST,
            target: target.into(),
            plugin: "jwt-auth-pro/jwt-auth-pro.php".into(),
        }
    }

    fn shaped(event: Event, result: EventResult) -> Row {
        let table = Arc::new(table());
        let queued = Queued { table, event, result, at: 1_795_379_799, took: Duration::from_micros(12_900) };
        row(queued, &Countries::new(None, None), &mut Paths::default())
    }

    fn table() -> Table {
        Table { prefix: "wp_".to_owned(), blog_id: 1 }
    }

    const TARGET: &str = "/wp-json/jwt-auth/v1/token/refresh";

    #[test]
    fn rows_as_recorded() {
        let success = EventResult::Success { user_id: 3, token_id: 7, token_family: Some("f".to_owned()) };
        let written = shaped(event(TARGET, "127.0.0.1", false), success);
        let expected = Row {
            event_status: 1,
            failure_reason: None,
            user_id: Some(3),
            token_id: Some(7),
            token_family: Some("f".to_owned()),
            ip_address: "127.0.0.1".to_owned(),
            user_agent: "O\\'Neil".to_owned(),
            country_code: "--".to_owned(),
            request_path: TARGET.to_owned(),
            request_method: "POST".to_owned(),
            response_time: 12,
            event_timestamp: 1_795_379_799,
        };
        assert_eq!(written, expected);
        for (failure, reason) in [
            (Failure::InvalidToken, "jwt_auth_invalid_refresh_token"),
            (Failure::UserNotFound, "jwt_auth_user_not_found"),
        ] {
            let written = shaped(event(TARGET, "127.0.0.1", false), EventResult::Failure(failure));
            let expected = Row {
                event_status: 2,
                failure_reason: Some(reason),
                user_id: None,
                token_id: None,
                token_family: Some(String::new()),
                response_time: 0,
                ..expected.clone()
            };
            assert_eq!(written, expected);
        }
    }

    #[test]
    fn paths() {
        for (target, path) in [
            ("/?rest_route=/jwt-auth/v1/token/refresh", "/?rest_route=/jwt-auth/v1/token/refresh"),
            ("/wp-json/jwt-auth/v1/token/refresh/?refresh_token=0123", "/wp-json/jwt-auth/v1/token/refresh/"),
            ("/a%20b?x=%41", "/ab?x="),
        ] {
            assert_eq!(request_path(target), path);
        }
        assert_eq!(request_path(&format!("/{}", "a".repeat(300))).len(), 255);
    }

    #[test]
    fn a_path_is_that_of_its_own_target() {
        let mut paths = Paths::default();
        for target in [TARGET, TARGET, "/a?refresh_token=1", "/b", TARGET] {
            assert_eq!(paths.of(target.into()), request_path(target));
        }
    }

    #[test]
    fn addresses() {
        for (client, row) in
            [("203.0.113.77", "203.0.113.0"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"), ("::1", "::")]
        {
            let failure = EventResult::Failure(Failure::InvalidToken);
            assert_eq!(shaped(event(TARGET, client, true), failure.clone()).ip_address, row);
            assert_eq!(shaped(event(TARGET, client, false), failure).ip_address, client);
        }
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let (analytics, events) = Analytics::new(table(), Countries::new(None, None), 2 * QUEUE);
        // The first loss is logged at once; the others add up until the next warning.
        for _ in 0..QUEUE + 3 {
            analytics.record(event(TARGET, "::1", false), EventResult::Failure(Failure::InvalidToken));
        }
        assert_eq!(events.queue.len(), QUEUE);
        assert_eq!(events.dropped.0.rest(), Some(2));
        drop(events);
        analytics.record(event(TARGET, "::1", false), EventResult::Failure(Failure::InvalidToken));
        assert_eq!(analytics.dropped.0.rest(), Some(1));
        assert_eq!((analytics.lost(), analytics.waiting()), (4, 0));
    }

    proptest! {
        #[test]
        fn texts_fit_their_columns(target in ".{0,300}", agent in ".{0,300}", method in "[A-Z]{1,20}") {
            let event = Event { user_agent: agent, method: method.parse().unwrap(), ..event(&target, "::1", true) };
            let row = shaped(event, EventResult::Failure(Failure::InvalidToken));
            for text in [row.user_agent, row.request_path] {
                prop_assert!(text.chars().count() <= TEXT_COLUMN);
            }
            prop_assert!(row.request_method.chars().count() <= 10);
        }
    }
}
