//! What the system reports about the process. Missing values are omitted.

use std::fs;

/// `USER_HZ` of Linux's interface to programs: 100 on every architecture that Rust's standard
/// library runs on.
const CLOCK_TICKS: f64 = 100.0;

/// The process by `/proc/self`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Process {
    /// Memory in use, in bytes.
    pub resident_bytes: Option<u64>,
    /// Open files, sockets and pipes.
    pub open_files: Option<u64>,
    pub max_open_files: Option<u64>,
    /// Processor time used, in seconds.
    pub cpu_seconds: Option<f64>,
}

impl Process {
    pub fn read() -> Process {
        let text = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        Process {
            resident_bytes: resident_bytes(&text("status")),
            open_files: fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64),
            max_open_files: max_open_files(&text("limits")),
            cpu_seconds: cpu_seconds(&text("stat")),
        }
    }
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

fn max_open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The 14th and 15th field of proc(5); the second may contain spaces and ends with the last
/// parenthesis.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / CLOCK_TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found() {
        let process = Process::read();
        assert!(process.resident_bytes.is_some_and(|bytes| bytes > 1 << 20), "{process:?}");
        assert!(process.open_files.is_some_and(|files| files > 2), "{process:?}");
        assert!(process.max_open_files >= process.open_files, "{process:?}");
        assert!(process.cpu_seconds.is_some_and(|seconds| seconds >= 0.0), "{process:?}");
    }

    #[test]
    fn a_name_with_spaces_moves_no_field() {
        let stat = "7 (a b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!((cpu_seconds("7 (a"), resident_bytes("VmRSS: many"), max_open_files("")), (None, None, None));
    }
}
