//! New certificates without a restart and without a signal: when a file changes, or appears. Connections that are open keep
//! what they have; new handshakes get the new certificates, and of a pair that cannot be used the one before.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::Tls;
use super::certificates::Renewed;
use crate::config::CertificateFiles;
use crate::metrics::{Event, Shard};

/// How often the files are looked at. A look costs a system call a file; a renewed certificate is in no hurry, but who
/// has just replaced one wants to see it.
const LOOK: Duration = Duration::from_secs(2);

/// What a look at a file finds. Another inode, since tools put a new file in the place of the old one; through links,
/// since Let's Encrypt's files are links that move on; another time of change, since the right to read is given later.
pub(super) type Seen = Result<(u64, u64, u64, [i64; 4]), io::ErrorKind>;

/// Reloads until `stop`, and tells `renewed` when there is anything new.
pub async fn reload_when_changed(tls: Arc<Tls>, metrics: Arc<Shard>, renewed: Arc<Notify>, stop: CancellationToken) {
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut in_effect = tls.seen.clone();
    let mut last = in_effect.clone();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let now = look(&tls.files);
        // Certificate and key are two files and change one after the other: once nothing moves any more, both are there.
        let has_settled = now == last;
        last.clone_from(&now);
        if has_settled && now != in_effect {
            in_effect = now;
            metrics.add(if reload(&tls).await { Event::ReloadWorked } else { Event::ReloadFailed });
            renewed.notify_one();
        }
    }
}

/// Whether every pair that is there can be used.
async fn reload(tls: &Tls) -> bool {
    let (files, before) = (tls.files.clone(), tls.current.get());
    let read = tokio::task::spawn_blocking(move || before.renewed(&files)).await;
    let Renewed { certificates, differs, problems } = match read {
        Ok(renewed) => renewed,
        Err(error) => {
            error!(%error, "the certificates could not be read again, those before stay in effect");
            return false;
        }
    };
    tls.current.set(certificates);
    if differs || problems.is_empty() {
        info!(certificates = tls.describe(), "new certificates are in effect");
        for warning in tls.warnings() {
            warn!("{warning}");
        }
    }
    if !problems.is_empty() {
        error!(problems = problems.join("; "), "tls.certificates cannot be used, those before stay in effect");
    }
    problems.is_empty()
}

pub(super) fn look(files: &[CertificateFiles]) -> Vec<Seen> {
    let look = |path: &Path| match fs::metadata(path) {
        Ok(found) => {
            let times = [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()];
            Ok((found.dev(), found.ino(), found.size(), times))
        }
        Err(error) => Err(error.kind()),
    };
    files.iter().flat_map(|files| [look(&files.chain), look(&files.key)]).collect()
}
