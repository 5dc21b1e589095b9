//! What the service manager is told (sd_notify(3)), where there is one: ready, reloading, draining, alive. Without
//! $NOTIFY_SOCKET nothing happens here.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::warn;

/// Everything that was to be there before the first request is there.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// What goes on, for `systemctl status`.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// A reload has begun; [`ready`] ends it, whatever came of it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        // Type=notify-reload wants to know that this answers to its own signal, and not to an earlier one.
        Ok(now) => tell(&[NotifyState::Reloading, now, NotifyState::Status("reading the configuration anew")]),
        Err(error) => warn!(%error, "the service manager was not told of a reload"),
    }
}

/// The end has begun.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// What is left to do may take this long from now, whatever TimeoutStopSec= says.
pub fn draining(left: Duration, status: &str) {
    let left = u32::try_from(left.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::ExtendTimeoutUsec(left), NotifyState::Status(status)]);
}

/// The self-check was passed.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often the service manager wants to hear [`alive`], if it does.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// Whether anybody listens.
pub fn is_wanted() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "the service manager could not be told of the service's state");
    }
}
