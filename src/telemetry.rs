//! Logging: events to standard error, as text for people or JSON lines for machines, or to journald
//! with their fields.
//!
//! Rotation, shipping and storage are left to the service manager (systemd, a container runtime).
//! Here each event becomes one line, and a flood of events of one kind becomes a few lines and a
//! count.

mod journald;
mod one_line;
mod outlet;
mod repeats;

use std::io::{self, IsTerminal as _};
use std::sync::OnceLock;

use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::access_log::ACCESS;
use crate::config::{self, LogFormat};
use crate::printable;
use journald::Journald;
use one_line::OneLine;
use outlet::{Outlet, Sink};
use repeats::Repeats;

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level was checked with the configuration, so this only happens to a `Log` made by hand.
    #[error("log.level is not a list of log directives")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    /// There is no journald, or writing to it is not allowed.
    #[error(
        "log.format is \"journald\", but journald cannot be reached at {}; use \"text\" or \"json\"",
        journald::SOCKET
    )]
    Journald(#[source] io::Error),
    #[error("the threads that write the log cannot be started")]
    Thread(#[source] io::Error),
    /// Logging was already started in this process.
    #[error("logging was started twice")]
    Started(#[from] tracing_subscriber::util::TryInitError),
}

/// Logging in operation. On drop it reports pending counts and waits until everything is written.
#[must_use]
#[derive(Debug)]
pub struct Telemetry {
    repeats: Repeats,
    outlet: Outlet,
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.repeats.tell();
        self.outlet.flush();
    }
}

/// A process has one log, and so one level.
static LEVEL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Parsed log settings that are not in effect yet.
#[derive(Debug)]
pub struct Level(EnvFilter);

impl Level {
    /// Parses `[log] level` and `access`.
    ///
    /// # Errors
    /// An invalid level.
    pub fn of(log: &config::Log) -> Result<Self, TelemetryError> {
        // Checked as it is written.
        EnvFilter::builder().parse(&log.level)?;
        let mut level = EnvFilter::builder().parse(without_redis(&log.level))?;
        level = level.add_directive("redis=off".parse()?);
        if quiets_h2(&log.level) {
            level = level.add_directive("h2=error".parse()?);
        }
        if log.access {
            // Added by name, so that a level for everything else does not exclude it.
            level = level.add_directive(format!("{ACCESS}=info").parse()?);
        }
        Ok(Level(level))
    }

    /// Puts the settings into effect, if logging has started.
    ///
    /// # Errors
    /// The subscriber is gone.
    pub fn apply(self) -> Result<(), reload::Error> {
        LEVEL.get().map_or(Ok(()), |level| level.reload(self.0))
    }
}

/// Whether the crate h2 may log errors only. It warns about things that any client may do: frames
/// for closed streams, a PONG without a ping. A level above `info`, errors only, or a directive for
/// h2 is used unchanged.
fn quiets_h2(level: &str) -> bool {
    let mut all = None;
    for directive in level.split(',').map(str::trim) {
        if directive.split(['=', '[', ':']).next() == Some("h2") {
            return false;
        }
        all = directive.parse::<tracing::Level>().ok().or(all);
    }
    matches!(all, Some(tracing::Level::WARN | tracing::Level::INFO))
}

/// `level` without directives for the crate redis and its modules, at whose place `redis=off` stands.
// SECURITY: it logs servers' errors as they are, and a server that does not know a command repeats
// it; the login is one. What operators need is logged in words of our own.
fn without_redis(level: &str) -> String {
    let is_of_redis = |directive: &&str| {
        let target = directive.trim().split(['=', '[']).next().unwrap_or_default();
        target == "redis" || target.starts_with("redis::")
    };
    level.split(',').filter(|directive| !is_of_redis(directive)).collect::<Vec<_>>().join(",")
}

/// Starts logging for the whole process.
///
/// # Errors
/// [`TelemetryError`]: an invalid level, a missing journald, or logging that has already started.
pub fn start(log: &config::Log) -> Result<Telemetry, TelemetryError> {
    let (level, changing) = reload::Layer::new(Level::of(log)?.0);
    let repeats = Repeats::start().map_err(TelemetryError::Thread)?;
    let (form, sink) = form(log.format)?;
    let outlet = Outlet::start(sink).map_err(TelemetryError::Thread)?;
    let registry = Registry::default().with(level);
    let lines = outlet.clone();
    match form {
        Form::Journald => registry.with(Journald(lines).with_filter(repeats.filter())).try_init()?,
        Form::Json => {
            let layer = fmt::layer().json().flatten_event(true).with_current_span(false).log_internal_errors(false);
            let layer = layer.with_writer(move || OneLine::new(&lines, printable::Form::Json, false));
            registry.with(layer.with_filter(repeats.filter())).try_init()?;
        }
        Form::Text => {
            let colours = colours();
            let layer = fmt::layer().with_ansi(colours).log_internal_errors(false);
            let layer = layer.with_writer(move || OneLine::new(&lines, printable::Form::Text, colours));
            registry.with(layer.with_filter(repeats.filter())).try_init()?;
        }
    }
    let _ = LEVEL.set(changing);
    Ok(Telemetry { repeats, outlet })
}

enum Form {
    Text,
    Json,
    Journald,
}

fn form(configured: LogFormat) -> Result<(Form, Sink), TelemetryError> {
    Ok(match configured {
        LogFormat::Text => (Form::Text, Sink::Stderr),
        LogFormat::Json => (Form::Json, Sink::Stderr),
        LogFormat::Journald => (Form::Journald, Sink::Journal(journald::open().map_err(TelemetryError::Journald)?)),
        LogFormat::Auto if journald::is_our_stderr() => match journald::open() {
            Ok(socket) => (Form::Journald, Sink::Journal(socket)),
            // Standard error leads there too, though only as text.
            Err(_) => (Form::Text, Sink::Stderr),
        },
        LogFormat::Auto => (Form::Text, Sink::Stderr),
    })
}

/// Colours are for terminals, unless NO_COLOR is set and not empty (no-color.org).
fn colours() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Log;

    #[test]
    fn the_crate_redis_logs_nothing() {
        for level in ["info", "debug", "redis=trace", "info,redis::cluster_handling=debug,a=warn", "redis::a=info"] {
            let log = config::Log { format: LogFormat::Text, level: level.to_owned(), refreshes: false, access: false };
            let level = Level::of(&log).unwrap();
            let directives = level.0.to_string();
            let of_redis: Vec<&str> = directives.split(',').filter(|directive| directive.contains("redis")).collect();
            assert_eq!(of_redis, ["redis=off"], "{directives}");
        }
        assert_eq!(without_redis("info,rediscovery=debug, a=b"), "info,rediscovery=debug, a=b");
    }

    #[test]
    fn h2_is_heard_of_by_those_who_ask() {
        for quiet in ["info", "WARN", "info,wp_jwt_sidecar=debug", "hyper=trace, info", "info,h2o=debug"] {
            assert!(quiets_h2(quiet), "{quiet}");
        }
        for heard in
            ["debug", "trace", "error", "off", "info,h2=warn", "info, h2::proto=debug", "h2[x]=warn,info", "a=b"]
        {
            assert!(!quiets_h2(heard), "{heard}");
        }
    }

    #[test]
    fn a_second_start_and_a_bad_level_are_errors() {
        let log = |level: &str| Log { format: LogFormat::Json, level: level.into(), refreshes: true, access: true };
        assert!(matches!(start(&log("x[")), Err(TelemetryError::Level(_))));
        let first = start(&log("off"));
        assert!(first.is_ok());
        assert!(matches!(start(&log("off")), Err(TelemetryError::Started(_))));
    }
}
