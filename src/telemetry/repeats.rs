//! Limits repeated events: an upstream that is down for a night must not fill the disk with the
//! same sentence, nor must a client that sends nonsense.
//!
//! Events are of one kind if they come from the same place in the source. Each kind may write
//! [`AT_ONCE`] lines per [`WINDOW`]; further ones are counted, and the count is logged at the
//! window's end. Lines that were requested one by one are not limited: the line per refresh and per
//! request, and the levels debug and trace.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, error, info, warn};
use tracing_subscriber::layer::{Context, Filter};

use crate::access_log::{ACCESS, REFRESHES};

/// Lines of one kind within a [`WINDOW`]: more than anyone reads.
const AT_ONCE: u32 = 100;

/// With [`AT_ONCE`], at most 150,000 lines of one kind a day, some 40 MB.
const WINDOW: Duration = Duration::from_secs(60);

/// The limit on repeats.
#[derive(Clone, Debug, Default)]
pub struct Repeats {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    kinds: Mutex<HashMap<Identifier, Kind>>,
    /// Signalled when an event was dropped.
    changed: Condvar,
}

/// The state of one kind of event.
#[derive(Debug)]
struct Kind {
    level: Level,
    module: &'static str,
    begun: Instant,
    written: u32,
    left_out: Option<LeftOut>,
}

/// Events that were dropped.
#[derive(Debug, PartialEq, Eq)]
struct LeftOut {
    count: u64,
    /// When the count is to be logged.
    due: Instant,
    /// The message of the first of them, without its fields.
    message: String,
}

impl Repeats {
    /// Starts counting. A thread logs the counts; it sleeps while there are none.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub fn start() -> io::Result<Self> {
        let repeats = Repeats::default();
        let teller = repeats.clone();
        std::thread::Builder::new().name("log-repeats".into()).spawn(move || teller.keep_telling())?;
        Ok(repeats)
    }

    /// The filter for the writing layer.
    pub fn filter(&self) -> Self {
        self.clone()
    }

    /// Logs all pending counts, due or not.
    pub fn tell(&self) {
        let all = take(&mut self.kinds(), |_| true);
        tell(all);
    }

    fn keep_telling(&self) {
        let mut kinds = self.kinds();
        loop {
            let next = kinds.values().filter_map(|kind| kind.left_out.as_ref().map(|left_out| left_out.due)).min();
            let Some(next) = next else {
                kinds = self.shared.changed.wait(kinds).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let wait = next.saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                kinds = self.shared.changed.wait_timeout(kinds, wait).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            let now = Instant::now();
            let due = take(&mut kinds, |left_out| left_out.due <= now);
            // Logging calls this filter again.
            drop(kinds);
            tell(due);
            kinds = self.kinds();
        }
    }

    fn kinds(&self) -> MutexGuard<'_, HashMap<Identifier, Kind>> {
        self.shared.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber> Filter<S> for Repeats {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO || [REFRESHES, ACCESS, module_path!()].contains(&metadata.target()) {
            return true;
        }
        let now = Instant::now();
        let mut kinds = self.kinds();
        let kind = kinds.entry(metadata.callsite()).or_insert_with(|| Kind::new(metadata, now));
        if kind.admits(now) {
            return true;
        }
        let is_first = kind.left_out.is_none();
        kind.leave_out(|| Message::of(event));
        drop(kinds);
        if is_first {
            self.shared.changed.notify_one();
        }
        false
    }
}

impl Kind {
    fn new(metadata: &Metadata<'static>, now: Instant) -> Self {
        let module = metadata.target();
        Kind { level: *metadata.level(), module, begun: now, written: 0, left_out: None }
    }

    fn admits(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.begun) >= WINDOW {
            (self.begun, self.written) = (now, 0);
        }
        let is_admitted = self.written < AT_ONCE;
        self.written += u32::from(is_admitted);
        is_admitted
    }

    fn leave_out(&mut self, message: impl FnOnce() -> String) {
        let due = self.begun + WINDOW;
        self.left_out.get_or_insert_with(|| LeftOut { count: 0, due, message: message() }).count += 1;
    }
}

fn take(
    kinds: &mut HashMap<Identifier, Kind>,
    which: impl Fn(&LeftOut) -> bool,
) -> Vec<(Level, &'static str, LeftOut)> {
    let take = |kind: &mut Kind| kind.left_out.take_if(|left_out| which(left_out));
    kinds.values_mut().filter_map(|kind| take(kind).map(|left_out| (kind.level, kind.module, left_out))).collect()
}

fn tell(all: Vec<(Level, &'static str, LeftOut)>) {
    for (level, module, LeftOut { count, message, .. }) in all {
        let more = with_commas(count);
        match level {
            Level::ERROR => error!(count, module, "… and {more} more: {message}"),
            Level::WARN => warn!(count, module, "… and {more} more: {message}"),
            _ => info!(count, module, "… and {more} more: {message}"),
        }
    }
}

fn with_commas(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// An event's message.
#[derive(Default)]
struct Message(String);

impl Message {
    fn of(event: &Event<'_>) -> String {
        let mut message = Message::default();
        event.record(&mut message);
        message.0
    }
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use tracing_subscriber::layer::{Layer, SubscriberExt as _};

    /// Sends every message that is actually written.
    struct Written(mpsc::Sender<String>);

    impl<S: Subscriber> Layer<S> for Written {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let _ = self.0.send(Message::of(event));
        }
    }

    #[test]
    fn a_flood_is_some_lines_and_a_count() {
        let (repeats, (written, lines)) = (Repeats::default(), mpsc::channel());
        let subscriber = tracing_subscriber::registry().with(Written(written).with_filter(repeats.filter()));
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..1_334 {
                warn!(number, "the upstream is away: {number}");
                info!(target: ACCESS, number, "GET");
                tracing::debug!(number, "asked for");
            }
            warn!("another kind");
            repeats.tell();
            repeats.tell();
        });
        let lines: Vec<String> = lines.try_iter().collect();
        let count = |text: &str| lines.iter().filter(|line| line.starts_with(text)).count();
        assert_eq!(count("the upstream is away: "), AT_ONCE as usize);
        assert_eq!((count("GET"), count("asked for"), count("another kind")), (1_334, 1_334, 1));
        assert_eq!(count("… and"), 1);
        assert_eq!(lines.last().unwrap(), "… and 1,234 more: the upstream is away: 100");
    }

    #[test]
    fn each_window_has_its_lines_and_its_count() {
        let now = Instant::now();
        let mut kind = Kind { level: Level::WARN, module: "m", begun: now, written: 0, left_out: None };
        let admitted = |kind: &mut Kind, at: Instant| (0..AT_ONCE * 3).filter(|_| kind.admits(at)).count();
        assert_eq!(admitted(&mut kind, now), AT_ONCE as usize);
        kind.leave_out(|| "first".to_owned());
        kind.leave_out(|| "second".to_owned());
        let expected = LeftOut { count: 2, due: now + WINDOW, message: "first".to_owned() };
        assert_eq!(kind.left_out, Some(expected));
        assert_eq!(admitted(&mut kind, now + WINDOW - Duration::from_millis(1)), 0);
        assert_eq!(admitted(&mut kind, now + WINDOW), AT_ONCE as usize);
    }

    #[test]
    fn counts_are_for_people() {
        for (count, text) in [(1, "1"), (999, "999"), (1_000, "1,000"), (12_345, "12,345"), (1_234_567, "1,234,567")] {
            assert_eq!(with_commas(count), text);
        }
    }
}
