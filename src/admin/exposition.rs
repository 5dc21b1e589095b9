//! All metrics as OpenMetrics text, for Prometheus and compatible programs.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::network::Network;
use super::process::Process;
use crate::fields::folded;
use crate::metrics::{Distribution, Event, Level, Metrics, Series, Timing};
use crate::refresh::Refresher;
use crate::refresh::blogs::Blogs;
use crate::refresh::counters::Counters;
use crate::shared_store::SharedStore;
use crate::tls::Tls;
use crate::verify::origins::OriginState;
use crate::verify::{Verification, View, ViewState};
use crate::version::{COMMIT, TLS as TLS_PROVIDER, VERSION};

/// The content type of `/metrics`.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The prefix of all names, except those of the process, which are the same for all programs.
const PREFIX: &str = "wp_jwt_sidecar";

/// A gauge that is 0 or 1.
#[derive(Debug)]
pub struct Flag {
    /// The name after the prefix.
    pub name: &'static str,
    /// The help text, one sentence.
    pub help: &'static str,
    /// The value.
    pub is_so: bool,
}

/// The sources of the metrics.
#[derive(Clone)]
pub struct Exposed {
    /// The metrics of requests.
    pub metrics: Arc<Metrics>,
    /// The native refresh, across all reloads.
    pub refreshes: Arc<Counters>,
    /// For caches, queues and the database; `None` if `[refresh] mode` is `forward`.
    pub refresher: Option<Arc<Refresher>>,
    /// The certificates; `None` if nothing listens with TLS.
    pub tls: Option<Arc<Tls>>,
}

impl Exposed {
    /// All metrics as text of [`CONTENT_TYPE`].
    ///
    /// # Errors
    /// Never: writing to a string cannot fail.
    pub fn encode(self, flags: Vec<Flag>) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.sub_registry_with_prefix(PREFIX).register_collector(Box::new(Flags(flags)));
        registry.register_collector(Box::new(OfProcess(self.metrics.started)));
        registry.sub_registry_with_prefix(PREFIX).register_collector(Box::new(self));
        let mut text = String::with_capacity(32 << 10);
        text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

#[derive(Debug)]
struct Flags(Vec<Flag>);

impl Collector for Flags {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut write = Writer(&mut encoder);
        self.0.iter().try_for_each(|Flag { name, help, is_so }| write.gauge(name, help, f64::from(u8::from(*is_so))))
    }
}

#[derive(Debug)]
struct OfProcess(SystemTime);

impl Collector for OfProcess {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut write = Writer(&mut encoder);
        let process = Process::read();
        write.gauge("process_start_time_seconds", "When the program started, in Unix time.", unix(self.0))?;
        if let Some(seconds) = process.cpu_seconds {
            write.family("process_cpu_seconds", "Processor time used.", MetricType::Counter, |encoder| {
                ConstCounter::new(seconds).encode(encoder)
            })?;
        }
        let gauges = [
            ("process_resident_memory_bytes", "Memory in use.", process.resident_bytes),
            ("process_open_fds", "Files, sockets and pipes open.", process.open_files),
            ("process_max_fds", "How many of them may be.", process.max_open_files),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                write.gauge(name, help, value as f64)?;
            }
        }
        Ok(())
    }
}

/// A collector has to implement [`fmt::Debug`].
impl fmt::Debug for Exposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exposed").finish_non_exhaustive()
    }
}

impl Collector for Exposed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (metrics, mut write) = (&self.metrics, Writer(&mut encoder));
        let build = [("version", VERSION), ("commit", COMMIT), ("tls_provider", TLS_PROVIDER)];
        write.family("build", "What is running.", MetricType::Info, |mut encoder| encoder.encode_info(&build))?;
        write.table(Event::ALL.iter().map(|event| (event.series(), metrics.count(*event))), MetricType::Counter)?;
        write.table(Level::ALL.iter().map(|level| (level.series(), metrics.level(*level))), MetricType::Gauge)?;
        let in_flight = [(NONE, metrics.in_flight())];
        write.samples("requests_in_flight", "Requests that wait for their answer.", MetricType::Gauge, &in_flight)?;
        for timing in Timing::ALL {
            let Series { family, help, .. } = timing.series();
            write.durations(family, help, &metrics.timing(*timing))?;
        }
        write.samples(
            "header_names_dropped",
            "Request fields dropped because PHP would have taken their names for another's.",
            MetricType::Counter,
            &[(NONE, folded::total())],
        )?;
        refresh(&mut write, &self.refreshes)?;
        if let Some(refresher) = &self.refresher {
            caches_and_queues(&mut write, refresher)?;
            verification(&mut write, &refresher.verification)?;
            if let Some(shared) = refresher.rate_limiter.shared() {
                store(&mut write, shared.store())?;
            }
            if let (Some(network), Some(blogs)) = (Network::of(refresher), &refresher.blogs) {
                sites(&mut write, &network, blogs)?;
            }
        }
        if let Some(tls) = &self.tls {
            let help = "Pairs of tls.certificates that were never there, or could not be read, and are waited for.";
            let missing = [(NONE, tls.missing() as u64)];
            write.samples("tls_certificates_missing", help, MetricType::Gauge, &missing)?;
            let help = "Until when each certificate is valid, in Unix time.";
            write.family("tls_certificate_not_after_timestamp_seconds", help, MetricType::Gauge, |mut encoder| {
                // A certificate that no client gets may have the name and kind of another, but a
                // series must occur once.
                let mut written = HashSet::new();
                for certificate in tls.certificates() {
                    let (name, kind) = (certificate.first_name(), certificate.kind.to_string());
                    if written.insert((name.clone(), certificate.kind)) {
                        let labels = [("name", name.as_str()), ("kind", kind.as_str())];
                        ConstGauge::new(unix(certificate.not_after)).encode(encoder.encode_family(&labels)?)?;
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

fn refresh(write: &mut Writer<'_, '_>, c: &Counters) -> fmt::Result {
    write.table(c.table(), MetricType::Counter)?;
    write.samples(
        "rotations_waiting",
        "Rotations that wait for a transaction.",
        MetricType::Gauge,
        &[(NONE, c.queued.value())],
    )?;
    write.durations("database_duration_seconds", "Time of a transaction of rotations.", &c.transactions.read())?;
    let sizes: Vec<(f64, u64)> =
        c.groups.iter().zip(0..).map(|(group, power)| (f64::from(1 << power), group.value())).collect();
    write.family("group_size", "Rotations in one transaction.", MetricType::Histogram, |mut encoder| {
        let count = sizes.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(c.grouped.value() as f64, count, &with_infinity(&sizes), None)
    })
}

fn caches_and_queues(write: &mut Writer<'_, '_>, refresher: &Refresher) -> fmt::Result {
    let (known, unknown) = refresher.look_ups.row_cache.sizes();
    write.samples(
        "cache_entries",
        "What is remembered, by cache.",
        MetricType::Gauge,
        &[
            (&[("cache", "tokens")], known),
            (&[("cache", "unknown_tokens")], unknown),
            (&[("cache", "rate_limited_addresses")], refresher.rate_limiter.addresses()),
        ],
    )?;
    let map = u64::from(refresher.look_ups.live_tokens.complete().is_some());
    let help = "Whether every live token's row is known, for a table without an index (1) or not (0).";
    write.samples("token_map_complete", help, MetricType::Gauge, &[(NONE, map)])?;
    if let Some(analytics) = &refresher.analytics {
        let waiting = analytics.waiting() as u64;
        let help = "Analytics rows that wait to be written.";
        write.samples("analytics_rows_waiting", help, MetricType::Gauge, &[(NONE, waiting)])?;
        let help = "Analytics rows that could not be written.";
        write.samples("analytics_rows_lost", help, MetricType::Counter, &[(NONE, analytics.lost())])?;
        let help = "Analytics rows of refused refreshes beyond refresh.analytics_refusals a second.";
        write.samples("analytics_rows_skipped", help, MetricType::Counter, &[(NONE, analytics.skipped())])?;
    }
    let database = &refresher.store.database;
    let pool = database.pool();
    write.samples(
        "database_connections",
        "Connections to the database, by what they do.",
        MetricType::Gauge,
        &[(&[("state", "busy")], pool.busy as u64), (&[("state", "idle")], pool.idle as u64)],
    )?;
    let help = "Connections to the database at most.";
    write.samples("database_connections_limit", help, MetricType::Gauge, &[(NONE, pool.limit as u64)])?;
    if let Some(node) = database.node_view() {
        let help = "Whether the node of the cluster that is used is in step with the others (1) or not (0).";
        let synced = [(NONE, u64::from(node.is_synced))];
        write.samples("database_node_synced", help, MetricType::Gauge, &synced)?;
        if let Some(nodes) = node.nodes {
            let help = "Nodes of the cluster that the one in use sees.";
            write.samples("database_cluster_nodes", help, MetricType::Gauge, &[(NONE, nodes)])?;
        }
    }
    let opened = [(NONE, database.connected.value())];
    write.samples("database_connections_opened", "Connections made to the database.", MetricType::Counter, &opened)?;
    let failed = [(NONE, database.not_connected.value())];
    let help = "Times that no connection to the database could be had.";
    write.samples("database_connection_failures", help, MetricType::Counter, &failed)?;
    let help = "Times that the database sent what made the client library panic.";
    write.samples("database_library_panics", help, MetricType::Counter, &[(NONE, database.panics())])?;
    let help = "Times that connections began to go to another server of the database.";
    write.samples("database_server_changes", help, MetricType::Counter, &[(NONE, database.epoch())])
}

fn verification(write: &mut Writer<'_, '_>, verification: &Verification) -> fmt::Result {
    let help = "Answers of WordPress's that were compared, and rows that were proved to differ, by what was found.";
    write.family("verify", help, MetricType::Counter, |mut encoder| {
        for (result, difference, value) in verification.counts().table() {
            let labels = [("result", result), ("difference", difference)];
            number(MetricType::Counter, value, encoder.encode_family(&labels)?)?;
        }
        Ok(())
    })?;
    let View { state, origins, .. } = verification.view();
    let help = "Whether the verification is in this state (1) or not (0).";
    write.family("verify_state", help, MetricType::Gauge, |mut encoder| {
        for one in ViewState::ALL {
            let labels = [("state", one.name())];
            number(MetricType::Gauge, u64::from(one == state), encoder.encode_family(&labels)?)?;
        }
        Ok(())
    })?;
    // SECURITY: without the origins themselves, which clients make up.
    let help = "Origins of apps that are remembered, by their state.";
    write.family("verify_origins", help, MetricType::Gauge, |mut encoder| {
        for one in OriginState::ALL {
            let labels = [("state", one.name())];
            let count = origins.iter().filter(|origin| origin.state == one).count() as u64;
            number(MetricType::Gauge, count, encoder.encode_family(&labels)?)?;
        }
        Ok(())
    })
}

fn store(write: &mut Writer<'_, '_>, store: &SharedStore) -> fmt::Result {
    let help = "Whether the shared store is connected (1) or not (0).";
    let up = u64::from(store.standing().is_up);
    write.samples("shared_store_up", help, MetricType::Gauge, &[(NONE, up)])?;
    let counts = store.counts();
    let help = "Requests to the shared store: answered, without an answer in time (failed), or skipped since it was away (unasked).";
    let results: [(&[(&str, &str)], u64); 3] = [
        (&[("result", "answered")], counts.answered.value()),
        (&[("result", "failed")], counts.failed.value()),
        (&[("result", "unasked")], counts.unasked.value()),
    ];
    write.samples("shared_store_requests", help, MetricType::Counter, &results)?;
    let help = "Time of an answer of the shared store.";
    write.durations("shared_store_duration_seconds", help, &counts.took.read())
}

/// The metrics of a network. [`Tallies`](crate::refresh::blogs::Tallies) limits the number of
/// names.
fn sites(write: &mut Writer<'_, '_>, network: &Network, blogs: &Blogs) -> fmt::Result {
    if let Some(sites) = network.sites {
        write.samples("network_sites", "Sites of the network.", MetricType::Gauge, &[(NONE, sites)])?;
    }
    let help =
        "Sites of the network besides the first with a refresh in the last ten minutes, by whether it was native.";
    let left = network.in_use.saturating_sub(network.native);
    let in_use: [(&[(&str, &str)], u64); 2] =
        [(&[("refreshes", "native")], network.native), (&[("refreshes", "left")], left)];
    write.samples("network_sites_in_use", help, MetricType::Gauge, &in_use)?;
    let help = "Tokens of the network's sites besides the first that are remembered.";
    write.samples("network_tokens", help, MetricType::Gauge, &[(NONE, network.tokens)])?;
    let help = "Calls of the route for the network's sites besides the first; some sites by name, all others together.";
    write.family("network_refreshes", help, MetricType::Counter, |mut encoder| {
        for (name, tally) in blogs.tallies().all() {
            let site = name.as_deref().unwrap_or("others");
            for (outcome, counter) in [("native", &tally.native), ("left", &tally.left)] {
                let labels = [("site", site), ("outcome", outcome)];
                number(MetricType::Counter, counter.value(), encoder.encode_family(&labels)?)?;
            }
        }
        Ok(())
    })
}

const NONE: &[(&str, &str)] = &[];

/// Writes families.
struct Writer<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Writer<'_, '_> {
    fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        samples: impl FnOnce(MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        samples(self.0.encode_descriptor(name, help, None, kind)?)
    }

    fn samples(&mut self, name: &str, help: &str, kind: MetricType, samples: &[(&[(&str, &str)], u64)]) -> fmt::Result {
        self.family(name, help, kind, |mut encoder| {
            for (labels, value) in samples {
                if labels.is_empty() {
                    return number(kind, *value, encoder);
                }
                number(kind, *value, encoder.encode_family(labels)?)?;
            }
            Ok(())
        })
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, |encoder| ConstGauge::new(value).encode(encoder))
    }

    /// Writes series; those of one family are consecutive.
    fn table(&mut self, all: impl Iterator<Item = (Series, u64)>, kind: MetricType) -> fmt::Result {
        let all: Vec<(Series, u64)> = all.collect();
        for family in all.chunk_by(|(one, _), (next, _)| one.family == next.family) {
            let samples: Vec<(&[(&str, &str)], u64)> =
                family.iter().map(|(series, value)| (series.labels, *value)).collect();
            if let Some((series, _)) = family.first() {
                self.samples(series.family, series.help, kind, &samples)?;
            }
        }
        Ok(())
    }

    fn durations(&mut self, name: &str, help: &str, read: &Distribution) -> fmt::Result {
        let bounds: Vec<f64> = read.cumulated().map(|(bound, _)| bound).collect();
        let buckets: Vec<(f64, u64)> = bounds.into_iter().zip(read.buckets).collect();
        self.family(name, help, MetricType::Histogram, |mut encoder| {
            encoder.encode_histogram::<NoLabelSet>(read.seconds, read.count(), &buckets, None)
        })
    }
}

fn number(kind: MetricType, value: u64, encoder: MetricEncoder<'_>) -> fmt::Result {
    match kind {
        MetricType::Counter => ConstCounter::new(value).encode(encoder),
        _ => ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(encoder),
    }
}

fn with_infinity(buckets: &[(f64, u64)]) -> Vec<(f64, u64)> {
    buckets.iter().copied().chain([(f64::INFINITY, 0)]).collect()
}

fn unix(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_series_is_there_once_and_families_stand_together() {
        let all: Vec<Series> = Event::ALL
            .iter()
            .map(|event| event.series())
            .chain(Level::ALL.iter().map(|level| level.series()))
            .chain(Timing::ALL.iter().map(|timing| timing.series()))
            .chain(Counters::default().table().map(|(series, _)| series))
            .collect();
        let mut families: Vec<&str> = Vec::new();
        for (place, series) in all.iter().enumerate() {
            assert!(!all.iter().skip(place + 1).any(|other| other == series), "{series:?}");
            assert!(series.help.ends_with('.') && !series.help.contains('\n'), "{series:?}");
            if families.last() != Some(&series.family) {
                assert!(!families.contains(&series.family), "{} is in two places", series.family);
                families.push(series.family);
            }
        }
    }

    #[test]
    fn numbers_come_out_as_they_went_in() {
        let (metrics, refreshes) = (Metrics::new(), Arc::new(Counters::default()));
        let shard = metrics.shard();
        shard.add(Event::Begun);
        shard.add(Event::Begun);
        shard.add(Event::Forward2xx);
        shard.observe(Timing::Forward, Duration::from_millis(3));
        shard.observe(Timing::Forward, Duration::from_millis(7));
        refreshes.rotated.add_many(5);
        refreshes.queued.add_many(3);
        refreshes.group(3);
        let text = Exposed { metrics, refreshes, refresher: None, tls: None }.encode(Vec::new()).unwrap();
        for line in [
            "# TYPE wp_jwt_sidecar_requests counter",
            "wp_jwt_sidecar_requests_total{kind=\"forward\",class=\"2xx\"} 1",
            "wp_jwt_sidecar_requests_total{kind=\"forward\",class=\"5xx\"} 0",
            "wp_jwt_sidecar_requests_in_flight 1",
            "wp_jwt_sidecar_forward_duration_seconds_bucket{le=\"0.005\"} 1",
            "wp_jwt_sidecar_forward_duration_seconds_bucket{le=\"+Inf\"} 2",
            "wp_jwt_sidecar_forward_duration_seconds_sum 0.01",
            "wp_jwt_sidecar_forward_duration_seconds_count 2",
            "wp_jwt_sidecar_refreshes_total{outcome=\"rotated\"} 5",
            "wp_jwt_sidecar_group_size_bucket{le=\"2.0\"} 0",
            "wp_jwt_sidecar_group_size_bucket{le=\"4.0\"} 1",
            "wp_jwt_sidecar_group_size_sum 3.0",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(
            text.contains("wp_jwt_sidecar_build_info{version=\"") && text.contains("\nprocess_open_fds "),
            "{text}"
        );
    }
}
