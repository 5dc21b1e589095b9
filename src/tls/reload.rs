//! Renews certificates when a file changes or appears, without a restart or a signal. Open
//! connections keep theirs; new handshakes get the new certificates, or the previous one of an
//! unusable pair.

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

/// How often the files are checked. A check costs one system call per file. A renewed certificate
/// could wait longer, but a person who has just replaced one wants to see it.
const LOOK: Duration = Duration::from_secs(2);

/// What identifies the version of a file. The inode, since tools replace files; after following
/// links, since Let's Encrypt's files are links that move; and the time of change, since read
/// permission may be granted later.
pub(super) type Seen = Result<(u64, u64, u64, [i64; 4]), io::ErrorKind>;

/// Reloads until `stop`, and notifies `renewed` of new certificates.
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
        // Certificate and key are two files, written one after the other. Once neither has changed
        // between two checks, both are complete.
        let has_settled = now == last;
        last.clone_from(&now);
        if has_settled && now != in_effect {
            in_effect = now;
            metrics.add(if reload(&tls).await { Event::ReloadWorked } else { Event::ReloadFailed });
            renewed.notify_one();
        }
    }
}

/// Whether every pair that exists can be used.
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
