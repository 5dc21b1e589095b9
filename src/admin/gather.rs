//! Gathers the numbers of a [`Status`].

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::Subject;
use super::exposition::Flag;
use super::findings;
use super::health::{LATELY, Readiness, Seen};
use super::history::{Hour, Reading, Refusal, STEP};
use super::network::Network;
use super::process::Process;
use super::status::{
    Certificate, Dependency, Flow, Latency, Machine, Open, Program, Refused, Setting, Site, Status, Steps, Store,
    Trouble,
};
use crate::config::Effective;
use crate::last_seen::Sight;
use crate::metrics::{Distribution, Event, Level, Timing};
use crate::refresh::Refresher;
use crate::refresh::analytics::Analytics;
use crate::shared_store::SharedStore;
use crate::tls;
use crate::verify::ViewState;
use crate::version;
use crate::wordpress::site::NotNative;

/// Latencies are of the last five minutes: long enough for a small site to have some, short enough
/// to count as "now".
const RECENT: Duration = Duration::from_secs(300);

/// The length of "the last hour".
const HOUR: Duration = Duration::from_secs(3600);

/// Responses of the site, whatever their status.
const FORWARDED: &[Event] = &[
    Event::Forward1xx,
    Event::Forward2xx,
    Event::Forward3xx,
    Event::Forward4xx,
    Event::Forward5xx,
    Event::ForwardOther,
    Event::Upgrade,
];

/// Refreshes with a new pair of tokens.
const REFRESHED: &[Event] = &[Event::Refresh2xx];

/// Refused refreshes.
const REFUSED: &[Event] = &[Event::Refresh4xx];

/// Errors answered by the site.
const SITE_ERRORS: &[Event] = &[Event::Forward5xx];

/// Errors answered by the sidecar.
const OWN_ERRORS: &[Event] = &[Event::Error5xx, Event::Refresh5xx];

impl Status {
    /// Gathers everything. Only the system is asked, about this process.
    pub fn gather(subject: &Subject) -> Self {
        let now = Instant::now();
        let reading = Reading::take(&subject.metrics, &subject.refreshes, now);
        let hour = subject.history.hour();
        let in_force = subject.in_force();
        let (config, refresher) = (&in_force.config, in_force.refresher.as_deref());
        let database_sight = refresher.map(|refresher| refresher.sites.database());
        let upstream_sight = subject.upstream.look();
        let obstacle = refresher.and_then(|refresher| refresher.standing.obstacle());
        let seen = Seen {
            is_draining: subject.drain.begun.is_cancelled(),
            database: database_sight.as_ref(),
            refused: obstacle.as_ref(),
            upstream: &upstream_sight,
            tls: in_force.tls.as_deref(),
        };
        let mut readiness = Readiness::judge(&seen, now);
        readiness.warnings.extend(refresher.and_then(warning));
        let metrics = &subject.metrics;
        let pool = refresher.map(|refresher| refresher.store.database.pool());
        let database = refresher.zip(database_sight).zip(pool).map(|((refresher, sight), pool)| Dependency {
            busy: pool.busy as u64,
            idle: pool.idle as u64,
            limit: Some(pool.limit as u64),
            tls: refresher.store.database.tls(),
            node: refresher.store.database.node_view().map(|node| node.to_string()),
            ..dependency(refresher.sites.installation().database_label.clone(), &sight, now)
        });
        let (made, idle) = (metrics.level(Level::Upstream), metrics.level(Level::UpstreamIdle));
        let max_upstream = config.upstream.max_connections as u64;
        let upstream = Dependency {
            busy: made.saturating_sub(idle),
            idle,
            limit: (max_upstream > 0).then_some(max_upstream),
            ..dependency(config.upstream.url.to_string(), &upstream_sight, now)
        };
        let mut status = Status {
            program: program(metrics.started, subject.drain.begun.is_cancelled()),
            readiness,
            verification: refresher.map(|refresher| refresher.verification.view()),
            findings: Vec::new(),
            site: refresher.map(|refresher| site(refresher, database.as_ref().is_some_and(|database| database.well))),
            network: refresher.and_then(Network::of),
            database,
            upstream,
            store: refresher.and_then(|refresher| refresher.rate_limiter.shared()).map(|shared| store(shared.store())),
            traffic: traffic(&reading, &hour),
            latencies: latencies(&reading, &hour),
            refusals: refusals(&reading, &hour),
            open: Open {
                connections: metrics.level(Level::Connections),
                max_connections: config.server.max_connections as u64,
                accepted: metrics.count(Event::Accepted),
                requests: metrics.in_flight(),
                tunnels: metrics.level(Level::Tunnels),
            },
            certificates: in_force.tls.as_ref().map(|tls| certificates(&tls.certificates())).unwrap_or_default(),
            process: process(),
            history: steps(&hour),
            configuration: configuration(&in_force.effective),
        };
        status.findings = findings::of(&in_force, &status);
        status
    }
}

/// Whether requests can be served; cheap enough for frequent checks.
pub fn readiness(subject: &Subject) -> Readiness {
    let in_force = subject.in_force();
    let database = in_force.refresher.as_ref().map(|refresher| refresher.sites.database());
    let is_draining = subject.drain.begun.is_cancelled();
    let obstacle = in_force.refresher.as_ref().and_then(|refresher| refresher.standing.obstacle());
    let upstream = subject.upstream.look();
    let tls = in_force.tls.as_deref();
    let seen = Seen { is_draining, database: database.as_ref(), refused: obstacle.as_ref(), upstream: &upstream, tls };
    let mut readiness = Readiness::judge(&seen, Instant::now());
    readiness.warnings.extend(in_force.refresher.as_deref().and_then(warning));
    readiness
}

/// A problem that does not make the sidecar unready: WordPress answers meanwhile.
fn warning(refresher: &Refresher) -> Option<String> {
    let site = site(refresher, true);
    // With a home URL, the obstacle is the verification's or the database's refusal, which
    // `Readiness::judge` states.
    let obstacle = match (site.home, refresher.standing.obstacle()) {
        (None, _) => site.obstacle,
        (Some(_), None) => unproven(refresher),
        (Some(_), Some(_)) => None,
    }?;
    Some(format!("refreshes are left to WordPress: {obstacle}"))
}

/// The flags for `/metrics`.
pub fn flags(subject: &Subject) -> Vec<Flag> {
    let now = Instant::now();
    let flag = |name, help, is_so| Flag { name, help, is_so };
    let sees_upstream = subject.upstream.look().is_well(now, LATELY);
    let mut flags = vec![
        flag("ready", "Whether /readyz answers 200.", readiness(subject).ready),
        flag("upstream_up", "Whether the site's web server was seen lately.", sees_upstream),
    ];
    if let Some(refresher) = &subject.in_force().refresher {
        let sees_database = refresher.sites.database().is_well(now, LATELY);
        let help = "Whether refreshes are native: neither left to WordPress nor answered with 503.";
        flags.push(flag("database_up", "Whether the site's database was seen lately.", sees_database));
        flags.push(flag("native", help, site(refresher, sees_database).native));
    }
    flags
}

/// How many responses the site has given, to see whether it still does.
pub fn answers_of_upstream(subject: &Subject) -> u64 {
    FORWARDED.iter().map(|event| subject.metrics.count(*event)).sum()
}

fn program(started: SystemTime, draining: bool) -> Program {
    let now = SystemTime::now();
    Program {
        version: version::VERSION,
        commit: version::COMMIT,
        tls: version::TLS,
        pid: std::process::id(),
        draining,
        started_unix_seconds: unix_seconds(started),
        uptime_seconds: now.duration_since(started).unwrap_or_default().as_secs(),
        now_unix_seconds: unix_seconds(now),
    }
}

fn site(refresher: &Refresher, sees_database: bool) -> Site {
    let sites = &refresher.sites;
    let (site, home) = match sites.last_read() {
        Some(Ok(site)) => {
            let home = sites.home(&site, site.usual_scheme()).and_then(|home| {
                sites.issuing_time(&site)?;
                Ok(home.url.clone())
            });
            let home = home.map_err(|why| why.to_string());
            (Some(site), home)
        }
        Some(Err(why)) => (None, Err(why.to_string())),
        None => (None, Err(NotNative::Unknown("not looked at yet".to_owned()).to_string())),
    };
    let away = || "the database is away".to_owned();
    let refused = refresher.standing.obstacle().map(|obstacle| obstacle.to_string());
    let obstacle = home.as_ref().err().cloned().or_else(|| (!sees_database).then(away)).or(refused);
    let obstacle = obstacle.or_else(|| unproven(refresher));
    Site {
        native: obstacle.is_none(),
        obstacle,
        home: home.ok(),
        plugin: site.as_ref().map(|site| site.plugin.to_string()),
        algorithm: site.as_ref().map(|site| site.signer.algorithm().to_string()),
        table_prefix: sites.installation().table_prefix.clone(),
        indexed: site.as_ref().map(|site| site.columns.indexed),
        map_filled: refresher.look_ups.live_tokens.is_filled(),
        left_unverified: refresher.counters.left_unverified.value(),
        lost_analytics: refresher.analytics.as_ref().map_or(0, Analytics::lost),
    }
}

/// Why the verification leaves refreshes to WordPress, if it does.
fn unproven(refresher: &Refresher) -> Option<String> {
    let verification = &refresher.verification;
    matches!(verification.view().state, ViewState::Unverified | ViewState::Differs).then(|| verification.why())
}

fn dependency(address: String, sight: &Sight, now: Instant) -> Dependency {
    let ago = |then: Instant| now.saturating_duration_since(then).as_secs_f64();
    let trouble = sight.trouble.as_ref().map(|trouble| Trouble {
        current: sight.current_trouble().is_some(),
        began_seconds_ago: ago(trouble.since),
        found_seconds_ago: ago(trouble.last),
        error: trouble.error.clone(),
    });
    Dependency {
        address,
        well: sight.is_well(now, LATELY),
        seen_seconds_ago: sight.seen.map(ago),
        trouble,
        node: None,
        tls: None,
        busy: 0,
        idle: 0,
        limit: None,
    }
}

fn store(shared: &SharedStore) -> Store {
    let (standing, counts) = (shared.standing(), shared.counts());
    Store {
        address: standing.label,
        up: standing.is_up,
        trouble: standing.trouble,
        answered: counts.answered.value(),
        failed: counts.failed.value(),
        unasked: counts.unasked.value(),
    }
}

fn traffic(now: &Reading, hour: &Hour) -> Vec<Flow> {
    let lately = hour.lately(now);
    let begun = hour.since(now, HOUR);
    let flow = |name, events: &[Event]| Flow {
        name,
        per_second: lately.and_then(|earlier| now.rate_since(earlier, events)),
        last_hour: now.count(events).saturating_sub(begun.map_or(0, |earlier| earlier.count(events))),
        total: now.count(events),
    };
    vec![
        flow("forwarded", FORWARDED),
        flow("refreshed", REFRESHED),
        flow("refused", REFUSED),
        flow("site_errors", SITE_ERRORS),
        flow("own_errors", OWN_ERRORS),
    ]
}

fn latencies(now: &Reading, hour: &Hour) -> Vec<Latency> {
    let earlier = hour.since(now, RECENT);
    let latency = |name, measured: &dyn Fn(&Reading) -> Distribution| {
        let measured = earlier.map_or_else(Distribution::default, measured);
        Latency {
            name,
            count: measured.count(),
            p50_seconds: measured.quantile(0.50),
            p95_seconds: measured.quantile(0.95),
            p99_seconds: measured.quantile(0.99),
        }
    };
    vec![
        latency("refresh", &|earlier| now.timing_since(earlier, Timing::Refresh)),
        latency("database", &|earlier| now.transactions_since(earlier)),
        latency("forward", &|earlier| now.timing_since(earlier, Timing::Forward)),
        latency("upstream", &|earlier| now.timing_since(earlier, Timing::Upstream)),
    ]
}

fn refusals(now: &Reading, hour: &Hour) -> Vec<Refused> {
    let begun = hour.since(now, HOUR);
    let refreshes = Refusal::ALL.map(|refusal| {
        let total = now.refused(refusal);
        let last_hour = total.saturating_sub(begun.map_or(0, |earlier| earlier.refused(refusal)));
        Refused { what: "refresh", reason: refusal.name(), status: Some(refusal.status()), last_hour, total }
    });
    let counted = Event::ALL.iter().filter_map(|event| {
        let series = event.series();
        let what = match series.family {
            "errors" => "request",
            "connections_refused" | "connections_closed_silent" | "tls_handshake_failures" => "connection",
            _ => return None,
        };
        let label = |name: &str| series.labels.iter().find(|(label, _)| *label == name).map(|(_, value)| *value);
        let reason = label("reason").or(label("waited_for"))?;
        let total = now.count(&[*event]);
        let last_hour = total.saturating_sub(begun.map_or(0, |earlier| earlier.count(&[*event])));
        Some(Refused { what, reason, status: label("status"), last_hour, total })
    });
    refreshes.into_iter().chain(counted).collect()
}

fn certificates(presented: &[Arc<tls::pair::Certificate>]) -> Vec<Certificate> {
    let now = SystemTime::now();
    let certificate = |one: &Arc<tls::pair::Certificate>| Certificate {
        name: one.first_name(),
        kind: one.kind.to_string(),
        begins_unix_seconds: unix_seconds(one.not_before),
        ends_unix_seconds: unix_seconds(one.not_after),
        left_seconds: one.not_after.duration_since(now).unwrap_or_default().as_secs(),
    };
    presented.iter().map(certificate).collect()
}

fn process() -> Machine {
    let Process { resident_bytes, open_files, max_open_files, cpu_seconds } = Process::read();
    Machine { resident_bytes, open_files, max_open_files, cpu_seconds }
}

fn steps(hour: &Hour) -> Steps {
    let rate = |events: &'static [Event]| hour.steps(move |earlier, later| later.rate_since(earlier, events));
    let p95 = |timing| hour.steps(move |earlier, later| later.timing_since(earlier, timing).quantile(0.95));
    Steps {
        step_seconds: STEP.as_secs(),
        forwarded: rate(FORWARDED),
        refreshed: rate(REFRESHED),
        refused: rate(REFUSED),
        site_errors: rate(SITE_ERRORS),
        own_errors: rate(OWN_ERRORS),
        forward_p95: p95(Timing::Forward),
        refresh_p95: p95(Timing::Refresh),
    }
}

fn configuration(effective: &Effective) -> Vec<Setting> {
    let lines = effective.lines();
    lines.map(|(key, value, from)| Setting { key, value: value.to_owned(), from: from.to_owned() }).collect()
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
