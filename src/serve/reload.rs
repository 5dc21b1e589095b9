//! Reloads the configuration without a restart. It is read and checked as a whole; if it is valid,
//! all of it takes effect at once, otherwise nothing changes. Requests in flight keep the settings
//! that they began with.

use std::sync::Arc;

use tracing::{error, info, warn};

use super::notify;
use super::{Serving, settings, watch_certificates};
use crate::admin::InForce;
use crate::assemble::{LEFT_TO_WORDPRESS, Native, Parts};
use crate::config::keys::{self, Key};
use crate::config::{Config, Effective, Fault, Faults};
use crate::metrics::Event;
use crate::telemetry;
use crate::worker::Work;

impl Serving {
    /// Reads everything again and serves with that; if anything in it is invalid, nothing changes.
    /// Dropped before its end, it has changed nothing.
    pub(super) async fn reload(&mut self) {
        notify::reloading();
        match self.try_reload().await {
            Ok((changed, level)) => {
                self.metrics.add(Event::ConfigurationReloaded);
                // Logged at the more verbose of the two levels, so that a change of the level shows
                // either way.
                if tracing::enabled!(tracing::Level::INFO) {
                    info!(changed = changed.join(", "), "reloaded");
                    put_in_force(level);
                } else {
                    put_in_force(level);
                    info!(changed = changed.join(", "), "reloaded");
                }
            }
            Err(faults) => {
                self.metrics.add(Event::ConfigurationRefused);
                error!(faults = faults.one_line(), "the new configuration has faults, the one before stays in effect");
            }
        }
        notify::ready(&self.status());
    }

    /// Returns the changed keys and the log's level, which is not in effect yet.
    async fn try_reload(&mut self) -> Result<(Vec<&'static str>, telemetry::Level), Faults> {
        let load = Arc::clone(&self.load);
        let loaded = tokio::task::spawn_blocking(move || load()).await;
        let Parts { mut config, dialer, tls, installation } = loaded.map_err(|error| fault(&error))??;
        let level = telemetry::Level::of(&config.log).map_err(|error| fault(&error))?;
        tls.as_ref().map_or(Ok(()), |tls| tls.can_replace(self.tls.as_deref()))?;
        let bound = self.listeners.prepare(&config, tls.as_deref()).await?;
        // `None`: the native refresh stays as it is.
        let native = match (installation, &self.native) {
            (Some(installation), Some(native)) if native.is_made_of(&config, &dialer, &installation) => None,
            (Some(installation), _) => {
                let native = Native::assemble(&config, dialer.clone(), installation, &self.lasting);
                let native = native.map_err(|error| fault(&error))?;
                native.first_look().await;
                if self.native.is_some() {
                    native.ready().await;
                }
                Some(Some(native))
            }
            (None, Some(_)) => Some(None),
            (None, None) => None,
        };

        // Nothing fails or waits from here on.
        let changed = differences(self.config.effective(), config.effective());
        warn_of_restart(&self.started, &config);
        for warning in &config.warnings {
            warn!("{warning}");
        }
        config.server.workers = self.workers.len();
        if let Some(native) = native {
            if native.is_none() {
                info!("{LEFT_TO_WORDPRESS}");
            }
            self.replace_native(native);
        }
        self.lasting.reloaded();
        self.permits.change(config.server.max_connections);
        self.drain.change_limit(config.shutdown.drain_timeout);
        self.config = Arc::new(config);
        self.dialer = dialer;
        self.tls = tls;
        let settings =
            settings(&self.config, &self.dialer, self.tls.as_deref(), self.native.as_ref(), &self.per_address);
        if let Some(admin) = &self.admin {
            admin.change(InForce {
                config: Arc::clone(&self.config),
                effective: self.config.effective().since(&self.started),
                dialer: self.dialer.clone(),
                refresher: settings.refresher.clone(),
                tls: self.tls.clone(),
            });
        }
        for worker in &self.workers {
            // A worker that is gone has panicked, and the self-check reports that.
            let _ = worker.send(Work::Change(Box::new(settings.clone())));
        }
        // After the workers: a new listener's connections get the settings that opened it.
        self.listeners.change(bound, &self.config, self.tls.as_deref());
        self.pulse.change(self.listeners.orders());
        self.watching.cancel();
        self.watching =
            watch_certificates(self.tls.as_ref(), &self.metrics, &self.renewed, "new certificates are in effect");
        Ok((changed, level))
    }

    /// Replaces the native refresh. The old one ends on a thread of its own, since its calls and
    /// rotations may still be running.
    fn replace_native(&mut self, native: Option<Native>) {
        let Some(before) = std::mem::replace(&mut self.native, native) else { return };
        before.stop_looking();
        let drain = self.drain.clone();
        self.retired.retain(|thread| !thread.is_finished());
        let thread = std::thread::Builder::new().name("retired".into()).spawn(move || before.retire(&drain));
        match thread {
            Ok(thread) => self.retired.push(thread),
            Err(error) => warn!(%error, "what was replaced could not be ended in order"),
        }
    }
}

fn put_in_force(level: telemetry::Level) {
    if let Err(error) = level.apply() {
        error!(%error, "log.level stays as it was");
    }
}

fn differences(before: &Effective, now: &Effective) -> Vec<&'static str> {
    let pairs = before.lines().zip(now.lines());
    pairs.filter(|((_, before, _), (_, now, _))| before != now).map(|((key, ..), _)| key).collect()
}

fn warn_of_restart(started: &Effective, config: &Config) {
    let at_restart = |name: &&str| keys::find(name).is_some_and(Key::takes_a_restart);
    let keys: Vec<_> = differences(started, config.effective()).into_iter().filter(at_restart).collect();
    if !keys.is_empty() {
        warn!(keys = keys.join(", "), "these keys have changed and take effect at the next start only");
    }
}

/// A fault that is not in the configuration but keeps it from taking effect.
fn fault(error: &dyn std::fmt::Display) -> Faults {
    Faults(vec![Fault { key: "reload".into(), problem: error.to_string(), ..Fault::default() }])
}
