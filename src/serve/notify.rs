//! Notifies the service manager (sd_notify(3)): ready, reloading, draining, alive. Without
//! $NOTIFY_SOCKET every function here does nothing.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::warn;

/// Everything needed before the first request is there.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// What the program is doing, for `systemctl status`.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// A reload has begun. [`ready`] ends it, whether it succeeded or not.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        // Type=notify-reload needs the time, to tell the reply to this signal from the reply to an
        // earlier one.
        Ok(now) => tell(&[NotifyState::Reloading, now, NotifyState::Status("reading the configuration again")]),
        Err(error) => warn!(%error, "the service manager could not be notified of a reload"),
    }
}

/// The program is about to end.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// The drain may take this much longer, whatever TimeoutStopSec= says.
pub fn draining(left: Duration, status: &str) {
    let left = u32::try_from(left.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::ExtendTimeoutUsec(left), NotifyState::Status(status)]);
}

/// The self-check passed.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often the service manager expects [`alive`], if it does.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// Whether there is a service manager to notify.
pub fn is_wanted() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "the service manager could not be notified of the service's state");
    }
}
