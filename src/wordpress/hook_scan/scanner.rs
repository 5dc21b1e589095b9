//! Shares scans between the sites of a network that run the same code, as most do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::{Active, Found, HookScan, Unread};

/// How long the result of one scan can serve others.
const SHARED_FOR: Duration = Duration::from_secs(60);

/// How many sets of plugins and themes have their files remembered.
const MOST: usize = 16;

/// Runs one scan at a time.
#[derive(Default)]
pub struct Scanner(Mutex<Vec<Scanned>>);

struct Scanned {
    active: Arc<Active>,
    scan: HookScan,
    last: Option<Last>,
}

struct Last {
    began: Instant,
    /// The state of the files: see [`FilesState::here`](super::FilesState::here).
    files: [u8; 16],
    found: Found,
}

impl Scanner {
    /// Scans the files of `active`, whose state is `files`. The scan runs to its end even if its
    /// caller stops waiting: the task for a network's site ends some seconds after its last call,
    /// and reading all files may take longer.
    pub async fn look(self: &Arc<Self>, active: Arc<Active>, files: [u8; 16]) -> Found {
        let scanner = Arc::clone(self);
        let found = tokio::spawn(async move { scanner.scan(active, files).await }).await;
        // The runtime is shutting down, or the scan has panicked.
        found.unwrap_or_else(|_| Found { unread: Unread { is_cut: true, ..Unread::default() }, ..Found::default() })
    }

    async fn scan(&self, active: Arc<Active>, files: [u8; 16]) -> Found {
        let mut all = self.0.lock().await;
        let place = all.iter().position(|scanned| scanned.active == active);
        let before = place.map(|place| all.remove(place));
        let is_whole = |last: &&Last| !last.found.unread.is_cut && last.files == files;
        let last = before.as_ref().and_then(|scanned| scanned.last.as_ref()).filter(is_whole);
        if let Some(last) = last.filter(|last| last.began.elapsed() < SHARED_FOR) {
            let found = last.found.clone();
            all.extend(before);
            return found;
        }
        let began = Instant::now();
        let scan = before.map_or_else(HookScan::in_background, |scanned| scanned.scan);
        let (scan, found) = scan.look(Arc::clone(&active)).await;
        // The most recently used is at the end.
        if all.len() >= MOST {
            all.remove(0);
        }
        let last = Some(Last { began, files, found: found.clone() });
        all.push(Scanned { active, scan, last });
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_scan_serves_those_that_run_the_same_code() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.php");
        std::fs::write(&file, "<?php add_filter( 'jwt_auth_before_authenticate', 'f' );").unwrap();
        let active = |stylesheet: &str| {
            let mu_plugins = Some(folder.path().to_owned());
            Arc::new(Active { mu_plugins, stylesheet: stylesheet.to_owned(), ..Active::default() })
        };
        let scanner = Arc::<Scanner>::default();
        let hits = |found: Found| found.hits.len();
        assert_eq!(hits(scanner.look(active("one"), [1; 16]).await), 1);
        std::fs::remove_file(file).unwrap();
        assert_eq!(hits(scanner.look(active("one"), [1; 16]).await), 1, "a moment ago");
        assert_eq!(hits(scanner.look(active("two"), [1; 16]).await), 0, "another set");
        assert_eq!(hits(scanner.look(active("one"), [2; 16]).await), 0, "other files");
        // A scan whose caller stops waiting continues.
        tokio::select! {
            biased;
            _ = scanner.look(active("three"), [1; 16]) => panic!("it was asked for only once"),
            () = std::future::ready(()) => {}
        }
        let is_known = async || scanner.0.lock().await.iter().any(|one| one.active == active("three"));
        for _ in 0..200 {
            if is_known().await {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(is_known().await);
        for number in 0..2 * MOST {
            scanner.look(active(&number.to_string()), [1; 16]).await;
        }
        assert_eq!(scanner.0.lock().await.len(), MOST);
    }
}
