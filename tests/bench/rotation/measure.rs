//! Measures a line of the table: the load's exchanges, the server's counters, the processes' CPU
//! time.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::load::{Outcome, Span};

/// The time before each line is measured: connections are made, statements prepared, caches filled.
pub const WARM_UP: Duration = Duration::from_millis(1_500);

/// The result of one run of a line, or the median of several.
#[derive(Clone, Debug, Default)]
pub struct Line {
    pub rate: f64,
    pub p50: f64,
    pub p99: f64,
    /// CPU seconds of the database per 1,000.
    pub cpu_database: f64,
    /// CPU seconds of everything else except the load, per 1,000.
    pub cpu_other: f64,
    pub queries: f64,
    pub writes: f64,
    pub fsyncs: f64,
    pub scanned: f64,
}

/// A span of time, and the counters when it began.
pub struct Measure {
    pub span: Span,
    before: HashMap<String, u64>,
    cpu: Cpu,
}

impl Measure {
    /// Call just before the load begins. Counters count from here, including the warm-up; rates are
    /// those of the span.
    pub async fn begin(root: &mut Conn, length: Duration) -> Measure {
        let before = status(root).await;
        let from = Instant::now() + WARM_UP;
        Measure { span: Span { from, until: from + length }, before, cpu: Cpu::now() }
    }

    /// Call when the load has ended.
    pub async fn end(self, root: &mut Conn, outcome: Outcome) -> Line {
        let cpu = Cpu::now();
        let after = status(root).await;
        let all = outcome.all.max(1) as f64;
        let mut latencies = outcome.latencies;
        latencies.sort_unstable();
        let quantile = |part: f64| {
            let place = (latencies.len() as f64 * part) as usize;
            latencies.get(place).map_or(0.0, |took| f64::from(*took) / 1e3)
        };
        let per = |names: &[&str]| -> f64 {
            let count = |name: &&str| after.get(*name).unwrap_or(&0) - self.before.get(*name).unwrap_or(&0);
            names.iter().map(|name| count(name) as f64).sum::<f64>() / all
        };
        Line {
            rate: latencies.len() as f64 / (self.span.until - self.span.from).as_secs_f64(),
            p50: quantile(0.5),
            p99: quantile(0.99),
            cpu_database: (cpu.database - self.cpu.database) / all * 1e3,
            cpu_other: (cpu.other - self.cpu.other) / all * 1e3,
            queries: per(&["Questions"]),
            writes: per(&["Innodb_data_writes", "Innodb_log_writes"]),
            fsyncs: per(&["Innodb_data_fsyncs"]),
            scanned: per(&["Handler_read_rnd_next"]),
        }
    }
}

impl Line {
    /// The median of each column by itself.
    pub fn median(lines: &[Line]) -> Line {
        let median = |column: fn(&Line) -> f64| {
            let mut values: Vec<f64> = lines.iter().map(column).collect();
            values.sort_by(f64::total_cmp);
            match values.len() {
                0 => 0.0,
                count if count % 2 == 0 => (values[count / 2 - 1] + values[count / 2]) / 2.0,
                count => values[count / 2],
            }
        };
        Line {
            rate: median(|line| line.rate),
            p50: median(|line| line.p50),
            p99: median(|line| line.p99),
            cpu_database: median(|line| line.cpu_database),
            cpu_other: median(|line| line.cpu_other),
            queries: median(|line| line.queries),
            writes: median(|line| line.writes),
            fsyncs: median(|line| line.fsyncs),
            scanned: median(|line| line.scanned),
        }
    }

    pub fn print_head() {
        println!(
            "{:46} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>7} {:>7} {:>8}",
            "", "per s", "p50 ms", "p99 ms", "CPU/1k", "DB/1k", "queries", "writes", "fsyncs", "scanned"
        );
    }

    pub fn print(&self, what: &str) {
        let Line { rate, p50, p99, cpu_database, cpu_other, queries, writes, fsyncs, scanned } = self;
        println!(
            "{what:46} {rate:8.0} {p50:8.2} {p99:8.2} {cpu_other:8.3} {cpu_database:8.3} {queries:8.2} {writes:7.2} {fsyncs:7.3} {scanned:8.1}"
        );
    }
}

pub async fn status(root: &mut Conn) -> HashMap<String, u64> {
    let rows: Vec<(String, String)> = root.query("SHOW GLOBAL STATUS").await.unwrap();
    rows.into_iter().filter_map(|(name, value)| Some((name, value.parse().ok()?))).collect()
}

/// CPU seconds of the processes below this one: the database, the sidecar, PHP and nginx, but not
/// the load.
struct Cpu {
    database: f64,
    other: f64,
}

impl Cpu {
    fn now() -> Cpu {
        let mut processes = HashMap::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
            let Some((name, rest)) = stat.rsplit_once(") ") else { continue };
            let fields: Vec<&str> = rest.split(' ').collect();
            // USER_HZ is 100 on Linux.
            let seconds = (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) as f64 / 100.0;
            processes.insert(pid, (fields[1].parse::<u32>().unwrap(), name.ends_with("(mariadbd"), seconds));
        }
        let mut below = HashSet::from([std::process::id()]);
        let child = |below: &HashSet<u32>| {
            processes
                .iter()
                .find(|(pid, (parent, ..))| below.contains(parent) && !below.contains(*pid))
                .map(|(pid, _)| *pid)
        };
        while let Some(pid) = child(&below) {
            below.insert(pid);
        }
        below.remove(&std::process::id());
        let mut cpu = Cpu { database: 0.0, other: 0.0 };
        for (_, is_database, seconds) in below.iter().map(|pid| processes[pid]) {
            *if is_database { &mut cpu.database } else { &mut cpu.other } += seconds;
        }
        cpu
    }
}
