//! Reports panics: as a log line with the place, or, for a library called under [`caught`], as an
//! error.
//!
//! SECURITY: the message of a panic may quote values (`unwrap` prints the error, and an error may
//! hold a row), so only a literal of the source is shown. The standard hook would print any
//! message, over several lines, into a log of JSON.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::{Cell, RefCell};
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, Location, PanicHookInfo};

use tracing::error;

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Replaces the standard hook for the whole process.
pub fn install_hook() {
    std::panic::set_hook(Box::new(hook));
}

/// What `work` returns, or where it panicked: `mysql_async-0.37.1/src/conn/mod.rs:780`. After a
/// panic, the values that `work` borrowed may be in any state and must not be used again. Must not
/// be nested.
///
/// # Errors
/// The place of the panic.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    CATCHING.set(true);
    let done = std::panic::catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(false);
    // With another hook, as in tests, the place is unknown.
    done.map_err(|_| PLACE.take().unwrap_or_else(|| "an unknown place".to_owned()))
}

fn hook(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(place).unwrap_or_default();
    if CATCHING.get() {
        PLACE.set(Some(place));
        return;
    }
    let what = literal(panic.payload());
    // Only with RUST_BACKTRACE.
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    if tracing::dispatcher::has_been_set() {
        error!(place, what, backtrace, "the program panicked");
    } else {
        let backtrace = backtrace.unwrap_or_default();
        // If standard error is closed, nothing can be reported; a panic here would end the process.
        let _ = writeln!(std::io::stderr(), "wp-jwt-sidecar: the program panicked at {place}: {what}\n{backtrace}");
    }
}

/// The message if it is a literal, otherwise a placeholder.
fn literal(payload: &(dyn Any + Send)) -> &'static str {
    payload.downcast_ref::<&'static str>().copied().unwrap_or("(the message is not shown: it may quote a secret)")
}

fn place(location: &Location<'_>) -> String {
    format!("{}:{}", within_crate(location.file()), location.line())
}

/// The path without the directory that the crates were built in.
fn within_crate(file: &str) -> &str {
    let Some((_, crates)) = file.split_once("/registry/src/") else { return file };
    crates.split_once('/').map_or(crates, |(_, file)| file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_and_what_follows_is_not() {
        let number = |text: &str| text.parse::<u8>().unwrap();
        assert!(caught(|| number("x")).is_err());
        assert_eq!(caught(|| number("7")), Ok(7));
        assert!(!CATCHING.get());
    }

    #[test]
    fn only_literals_are_shown() {
        assert_eq!(literal(&"a literal"), "a literal");
        assert!(!literal(&"called `Result::unwrap()` on an `Err` value: ec340f87".to_owned()).contains("ec340f"));
    }

    #[test]
    fn places_are_short() {
        let file = "/root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/mysql_async-0.37.1/src/conn/mod.rs";
        assert_eq!(within_crate(file), "mysql_async-0.37.1/src/conn/mod.rs");
        assert_eq!(within_crate("src/main.rs"), "src/main.rs");
    }
}
