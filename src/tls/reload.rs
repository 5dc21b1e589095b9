//! New certificates without a restart and without a signal: when a file changes. Connections that are open keep what they
//! have; new handshakes get the new certificates, all of them or, where one cannot be used, none.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::Tls;
use super::certificates::Certificates;
use crate::config::CertificateFiles;
use crate::metrics::{Event, Shard};

/// How often the files are looked at. A look costs a system call a file; a renewed certificate is in no hurry, but who
/// has just replaced one wants to see it.
const LOOK: Duration = Duration::from_secs(2);

/// What a look at a file finds. Another inode, since tools put a new file in the place of the old one; through links,
/// since Let's Encrypt's files are links that move on.
type Seen = Result<(u64, u64, u64, i64, i64), io::ErrorKind>;

/// Reloads until `stop`.
pub async fn reload_when_changed(tls: Arc<Tls>, metrics: Arc<Shard>, stop: CancellationToken) {
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut in_effect = look(&tls.files);
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
        }
    }
}

/// Whether the certificates are new ones now.
async fn reload(tls: &Tls) -> bool {
    let files = tls.files.clone();
    match tokio::task::spawn_blocking(move || Certificates::read(&files)).await {
        Ok(Ok(certificates)) => {
            tls.current.set(certificates);
            info!(certificates = tls.describe(), "new certificates are in effect");
            true
        }
        Ok(Err(problems)) => {
            let problems: Vec<String> = problems.into_iter().map(|(_, problem)| problem).collect();
            error!(problems = problems.join("; "), "tls.certificates cannot be used, those before stay in effect");
            false
        }
        Err(error) => {
            error!(%error, "the certificates could not be read anew, those before stay in effect");
            false
        }
    }
}

fn look(files: &[CertificateFiles]) -> Vec<Seen> {
    let look = |path: &Path| match fs::metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino(), found.size(), found.mtime(), found.mtime_nsec())),
        Err(error) => Err(error.kind()),
    };
    files.iter().flat_map(|files| [look(&files.chain), look(&files.key)]).collect()
}
