//! The user and the limits, as arguments of util-linux's programs.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::import::user::Runner;

/// Processes that it may start in addition to those that the user has.
const PROCESSES: u64 = 64;

/// `prlimit … setpriv … prlimit …`
pub(super) fn within(prlimit: &Path, setpriv: &Path, runner: &Runner, timeout: Duration) -> Vec<OsString> {
    let mut all: Vec<OsString> = vec![prlimit.into()];
    let cpu = format!("--cpu={}", timeout.as_secs() + 1);
    all.extend(
        [cpu.as_str(), "--fsize=268435456", "--as=1073741824", "--nofile=256", "--core=0", "--"].map(OsString::from),
    );
    all.push(setpriv.into());
    if !runner.is_caller {
        // --pdeathsig: what `unshare --kill-child` sets is lost when the user changes.
        let user = [format!("--reuid={}", runner.uid), format!("--regid={}", runner.gid), "--init-groups".to_owned()];
        all.extend(user.map(OsString::from));
    }
    all.extend(["--no-new-privs", "--inh-caps=-all", "--pdeathsig=KILL", "--"].map(OsString::from));
    // The limit counts all processes of the user, including those of a busy pool, and would keep
    // PHP itself from starting if it were set before the user changes.
    all.push(prlimit.into());
    all.extend([format!("--nproc={}", running_of(runner) + PROCESSES), "--".to_owned()].map(OsString::from));
    all
}

/// The user's threads, which the limit counts.
fn running_of(runner: &Runner) -> u64 {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let status = processes.filter_map(|process| fs::read_to_string(process.path().join("status")).ok());
    status.map(|status| threads_of(&status, runner.uid.as_raw())).sum()
}

/// The threads of the process with this `/proc/PID/status`; none if it is another user's.
fn threads_of(status: &str, uid: u32) -> u64 {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::split_whitespace);
    let real = field("Uid:").and_then(|mut ids| ids.next()?.parse::<u32>().ok());
    let threads = field("Threads:").and_then(|mut number| number.next()?.parse::<u64>().ok());
    if real == Some(uid) { threads.unwrap_or(1) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_the_user_count() {
        let status = "Name:\tphp\nUid:\t33\t0\t0\t0\nGid:\t33\t33\nThreads:\t5\n";
        assert_eq!((threads_of(status, 33), threads_of(status, 0), threads_of("", 33)), (5, 0, 0));
    }
}
