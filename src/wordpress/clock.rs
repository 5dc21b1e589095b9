//! The time at which tokens are issued: that of the slowest of three clocks.
//!
//! The plugin refuses a token whose `nbf` is in the future by PHP's clock. So a token is issued by
//! this machine's clock, the database's or the one in `Date` of WordPress's response to the home
//! question, whichever is behind the others. The last two are readings from some seconds ago,
//! advanced by the monotonic clock: a step of this machine's own clock does not affect them.
//!
//! A reading is an interval: it was taken at some moment of an exchange, and `Date` has whole
//! seconds. Two clocks differ only if their intervals do, so an accurate machine never counts as
//! ahead.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// If clocks differ by more, the route is left to WordPress: one that is far behind would shorten
/// every token.
pub const TOO_FAR: Duration = Duration::from_secs(60);

/// From this difference on, operators see a warning.
const NOTICEABLE: Duration = Duration::from_secs(2);

/// Clocks that differed agree again below this.
const AGREE: Duration = Duration::from_secs(1);

/// A reading that took longer is too inaccurate.
const LONGEST: Duration = Duration::from_secs(2);

/// `Date` has whole seconds (RFC 9110, section 5.6.7).
const DATE_STEP: Duration = Duration::from_secs(1);

/// One of the three clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    Machine,
    Database,
    /// The clock by which the site's web server writes `Date`; PHP runs on the same machine.
    WordPress,
}

impl fmt::Display for Clock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Clock::Machine => "this machine's",
            Clock::Database => "the database's",
            Clock::WordPress => "WordPress's",
        })
    }
}

/// Two clocks that differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Apart {
    /// The one that is behind.
    pub behind: Clock,
    pub ahead: Clock,
    /// The minimum difference.
    pub by: Duration,
}

impl Apart {
    /// Whether tokens must not be issued.
    pub fn is_too_far(&self) -> bool {
        self.by > TOO_FAR
    }
}

impl fmt::Display for Apart {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Apart { behind, ahead, by } = self;
        write!(formatter, "{behind} clock is {} s or more behind {ahead}", by.as_secs())
    }
}

/// What a clock showed: at `at`, a time since 1970 between the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    at: Instant,
    earliest: Duration,
    latest: Duration,
}

impl Reading {
    /// From the `Date` of a response, with the times when the request was sent and the response
    /// received. `None` if that took too long.
    pub fn of_date(date: SystemTime, sent: Instant, received: Instant) -> Option<Self> {
        let date = date.duration_since(UNIX_EPOCH).ok()?;
        Reading::new(date, DATE_STEP, sent, received)
    }

    /// From an exact time (microseconds since 1970). `None` as for [`Reading::of_date`].
    pub fn of_microseconds(time: i64, sent: Instant, received: Instant) -> Option<Self> {
        Reading::new(Duration::from_micros(u64::try_from(time).ok()?), Duration::ZERO, sent, received)
    }

    /// The time was read at some moment of the exchange, and may be any moment within `step`.
    fn new(time: Duration, step: Duration, sent: Instant, received: Instant) -> Option<Self> {
        let took = received.saturating_duration_since(sent);
        (took <= LONGEST).then(|| Reading { at: received, earliest: time, latest: time + step + took })
    }

    fn at(self, now: Instant) -> Span {
        let since = now.saturating_duration_since(self.at);
        Span { earliest: self.earliest + since, latest: self.latest + since }
    }
}

/// What a clock shows now, as far as known.
#[derive(Debug, Clone, Copy)]
struct Span {
    earliest: Duration,
    latest: Duration,
}

/// The readings of the three clocks.
#[derive(Debug, Default)]
pub struct Clocks(Mutex<State>);

#[derive(Debug, Default, Clone, Copy)]
struct State {
    database: Option<Reading>,
    wordpress: Option<Reading>,
    /// The difference that operators are shown.
    said: Option<Apart>,
}

impl Clocks {
    /// The database's clock was read.
    pub fn database_shows(&self, reading: Reading) {
        self.state().database = Some(reading);
    }

    /// WordPress has sent a `Date`.
    pub fn wordpress_shows(&self, reading: Reading) {
        self.state().wordpress = Some(reading);
    }

    /// The time to issue a token at, in Unix seconds.
    ///
    /// # Errors
    /// The clocks differ by more than [`TOO_FAR`].
    pub fn issuing_time(&self) -> Result<u64, Apart> {
        let (time, apart) = self.judge_now();
        match apart.filter(Apart::is_too_far) {
            None => Ok(time.as_secs()),
            // The wording stays the same while the difference lasts.
            Some(apart) => Err(self.apart().filter(Apart::is_too_far).unwrap_or(apart)),
        }
    }

    /// The clocks that differ noticeably. It stays the same while they differ by about as much.
    pub fn apart(&self) -> Option<Apart> {
        let (_, apart) = self.judge_now();
        let mut state = self.state();
        state.said = to_be_said(state.said, apart);
        state.said
    }

    /// How far WordPress's clock may be ahead of the database's at most. `None` if one of them was
    /// not read.
    pub fn wordpress_ahead_of_database(&self) -> Option<Duration> {
        let State { database, wordpress, .. } = *self.state();
        let now = Instant::now();
        let (database, wordpress) = (database?.at(now), wordpress?.at(now));
        Some(wordpress.latest.saturating_sub(database.earliest))
    }

    fn judge_now(&self) -> (Duration, Option<Apart>) {
        let State { database, wordpress, .. } = *self.state();
        let now = Instant::now();
        let machine = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        judge(machine, database.map(|reading| reading.at(now)), wordpress.map(|reading| reading.at(now)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Three values, each of them complete.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time of the slowest clock, and the two clocks that differ most. Pure.
fn judge(machine: Duration, database: Option<Span>, wordpress: Option<Span>) -> (Duration, Option<Apart>) {
    let machine = Span { earliest: machine, latest: machine };
    // No Vec: every refresh gets here.
    let clocks = [
        Some((Clock::Machine, machine)),
        database.map(|span| (Clock::Database, span)),
        wordpress.map(|span| (Clock::WordPress, span)),
    ];
    let clocks = || clocks.iter().flatten();
    // For a clock that is certainly behind, the earliest time is used: a second too early does no
    // harm, a second too late means a refused token.
    let behind = clocks().filter(|(_, span)| span.latest < machine.earliest).map(|(_, span)| span.earliest);
    let time = behind.min().unwrap_or(machine.earliest);
    let pairs = clocks().flat_map(|behind| clocks().map(move |ahead| (behind, ahead)));
    let apart = pairs
        .map(|((behind, late), (ahead, early))| Apart {
            behind: *behind,
            ahead: *ahead,
            by: early.earliest.saturating_sub(late.latest),
        })
        .max_by_key(|apart| apart.by)
        .filter(|apart| !apart.by.is_zero());
    (time, apart)
}

/// The difference to show from now on, after `before`; fluctuations of a second are ignored. Pure.
fn to_be_said(before: Option<Apart>, now: Option<Apart>) -> Option<Apart> {
    let now = now.filter(|now| now.by >= AGREE)?;
    let of_the_same = before.filter(|before| (before.behind, before.ahead) == (now.behind, now.ahead));
    match of_the_same {
        Some(before) => {
            let moved = before.by.abs_diff(now.by);
            let is_much = moved > NOTICEABLE + before.by / 10;
            Some(if is_much || before.is_too_far() != now.is_too_far() { now } else { before })
        }
        None => (now.by >= NOTICEABLE).then_some(now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(1_795_000_000.0 + seconds)
    }

    /// The reading of a web server whose clock is `behind` this machine's, requested at `sent` and
    /// received `took` later.
    fn asked(sent: f64, took: f64, behind: f64) -> Option<Reading> {
        let written = seconds(sent + took / 2.0 - behind);
        let date = UNIX_EPOCH + Duration::from_secs(written.as_secs());
        let now = Instant::now();
        Reading::of_date(date, now, now + Duration::from_secs_f64(took))
    }

    /// A token issued at `at`, some time after the reading.
    fn issued(at: f64, database: Option<Span>, wordpress: Option<Span>) -> (f64, Option<Apart>) {
        let (time, apart) = judge(seconds(at), database, wordpress);
        (time.as_secs_f64() - 1_795_000_000.0, apart)
    }

    #[test]
    fn a_machine_that_is_in_time_issues_by_its_own_clock() {
        for tenths in 0..20 {
            for took in [0.0, 0.01, 0.3, 1.9] {
                let sent = f64::from(tenths) / 10.0;
                let reading = asked(sent, took, 0.0).unwrap();
                for later in [0.0, 0.4, 59.9] {
                    let span = reading.at(reading.at + Duration::from_secs_f64(later));
                    let at = sent + took + later;
                    let (time, apart) = issued(at, Some(span), Some(span));
                    assert!((time - at).abs() < 0.001 && apart.is_none(), "{sent} {took} {later}: {time}, {apart:?}");
                }
            }
        }
    }

    #[test]
    fn a_machine_that_is_ahead_issues_what_php_takes() {
        for behind in [1.5, 2.0, 5.0, 33.3, 60.0] {
            for tenths in 0..10 {
                for took in [0.0, 0.2, 0.4] {
                    let sent = f64::from(tenths) / 10.0;
                    let reading = asked(sent, took, behind).unwrap();
                    for later in [0.0, 0.7, 30.0] {
                        let span = reading.at(reading.at + Duration::from_secs_f64(later));
                        let at = sent + took + later;
                        let (time, apart) = issued(at, None, Some(span));
                        assert!(time <= at - behind + 0.001, "{time} is in the future: {behind} {sent} {took}");
                        assert!(
                            time >= at - behind - 1.0 - took - 0.001,
                            "{time} is too early: {behind} {sent} {took}"
                        );
                        let apart = apart.unwrap();
                        assert_eq!((apart.behind, apart.ahead), (Clock::WordPress, Clock::Machine));
                        assert!(apart.by <= Duration::from_secs_f64(behind + 0.001));
                    }
                }
            }
        }
    }

    #[test]
    fn the_slowest_of_three_counts() {
        let exact = |at: f64| Some(Span { earliest: seconds(at), latest: seconds(at) });
        for (database, wordpress, time, behind, ahead, by) in [
            (-5.0, 3.0, -5.0, Clock::Database, Clock::WordPress, 8),
            (4.0, -7.0, -7.0, Clock::WordPress, Clock::Database, 11),
            // Tokens are never issued ahead of this machine's clock.
            (4.0, 0.0, 0.0, Clock::Machine, Clock::Database, 4),
            (0.0, 70.0, 0.0, Clock::Machine, Clock::WordPress, 70),
            (-61.0, 0.0, -61.0, Clock::Database, Clock::Machine, 61),
        ] {
            let (issued, apart) = issued(0.0, exact(database), exact(wordpress));
            let apart = apart.unwrap();
            assert!((issued - time).abs() < 0.001, "{issued}, {time}");
            // With equal differences, either pair may be reported.
            assert_eq!(apart.by.as_secs_f64().round() as u64, by, "{apart:?}");
            assert!(apart.behind == behind || apart.ahead == ahead, "{apart:?}");
            assert_eq!(apart.is_too_far(), by > 60);
        }
    }

    #[test]
    fn a_step_of_the_machines_clock_moves_no_reading() {
        let reading = asked(0.0, 0.0, 0.0).unwrap();
        let span = reading.at(reading.at + Duration::from_secs(10));
        // Ten seconds have passed, and this machine's clock was set 30 s ahead.
        let (time, apart) = issued(40.0, None, Some(span));
        assert!((time - 10.0).abs() < 0.001, "{time}");
        assert_eq!(apart.unwrap().by.as_secs(), 29);
    }

    #[test]
    fn a_reading_that_took_long_is_none() {
        assert_eq!(asked(0.0, 2.1, 0.0), None);
        let now = Instant::now();
        assert_eq!(Reading::of_microseconds(-1, now, now), None);
        assert!(Reading::of_microseconds(i64::MAX, now, now).is_some());
    }

    #[test]
    fn how_far_wordpress_is_ahead_is_known_once_both_were_read() {
        let (clocks, now) = (Clocks::default(), Instant::now());
        clocks.wordpress_shows(Reading::of_date(UNIX_EPOCH + Duration::from_secs(1_000_030), now, now).unwrap());
        assert_eq!(clocks.wordpress_ahead_of_database(), None);
        clocks.database_shows(Reading::of_microseconds(1_000_000_500_000, now, now).unwrap());
        // `Date` has whole seconds.
        assert_eq!(clocks.wordpress_ahead_of_database(), Some(Duration::from_millis(30_500)));
        clocks.database_shows(Reading::of_microseconds(1_000_090_000_000, now, now).unwrap());
        assert_eq!(clocks.wordpress_ahead_of_database(), Some(Duration::ZERO));
    }

    #[test]
    fn operators_see_changes_only() {
        let apart =
            |by| Some(Apart { behind: Clock::Database, ahead: Clock::Machine, by: Duration::from_secs_f64(by) });
        let other = Some(Apart { behind: Clock::WordPress, ahead: Clock::Machine, by: Duration::from_secs(3) });
        for (before, now, said) in [
            (None, None, None),
            (None, apart(1.9), None),
            (None, apart(2.0), apart(2.0)),
            (apart(3.0), apart(1.2), apart(3.0)),
            (apart(3.0), apart(0.9), None),
            (apart(3.0), None, None),
            (apart(3.0), apart(4.9), apart(3.0)),
            (apart(3.0), apart(5.5), apart(5.5)),
            (apart(3.0), other, other),
            (apart(59.0), apart(61.0), apart(61.0)),
            (apart(61.0), apart(59.0), apart(59.0)),
            (apart(3600.0), apart(3700.0), apart(3600.0)),
        ] {
            assert_eq!(to_be_said(before, now), said, "{before:?} {now:?}");
        }
    }
}
