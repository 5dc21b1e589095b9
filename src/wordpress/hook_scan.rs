//! Finds code of the site's own that registers callbacks on the plugin's hooks: it can refuse a
//! user or act at a refresh, which a few compared responses do not rule out.
//!
//! So its presence counts. The scan reads the active PHP files (must-use plugins, drop-ins,
//! plugins, the theme and its parent, `wp-config.php`), and what snippet plugins keep in the
//! database. A false hit costs speed: refreshes are forwarded until the operator trusts the place.
//! A miss costs safety, so everything that cannot be read is reported, too.
//!
//! Nothing is executed. Files that were read before are read again only if they have changed.
//!
//! Two kinds of code are not found: code that computes a hook's name from nothing that resembles it
//! (a name from an option, or in pieces spread over files), and code in other kinds of files.

mod files;
mod found;
mod names;
mod php;
mod scanner;
mod state;
mod stored;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};

use super::installation::Installation;
use files::{Part, Walker};
pub use found::{Found, Hit, Unread, is_trusted};
use php::{Form, Named};
pub use scanner::Scanner;
pub use state::{FilesState, files_state};
pub use stored::{Snippets, Themes, snippets, themes};

/// The active code of a site, and where its files are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Active {
    /// `wp-content`.
    pub content: Option<PathBuf>,
    /// The plugins directory.
    pub plugins_dir: Option<PathBuf>,
    /// The directory of must-use plugins, if there is one.
    pub mu_plugins: Option<PathBuf>,
    /// The file `wp-config.php`: it may contain code after WordPress is loaded.
    pub config_file: Option<PathBuf>,
    /// The active plugins as `folder/file.php` or `file.php`, including those of the network.
    pub plugins: Vec<String>,
    /// The theme's directory below `wp-content/themes`: the option `stylesheet`.
    pub stylesheet: String,
    /// The parent theme's directory, or again the theme's: the option `template`.
    pub template: String,
    /// JWT Auth Pro itself, one of `plugins`.
    pub own_plugin: String,
}

impl Active {
    /// With the directories that are known for the installation.
    pub fn of(installation: &Installation, plugins: Vec<String>, own_plugin: &str, themes: Themes) -> Self {
        Active {
            content: installation.content_dir.clone(),
            plugins_dir: installation.plugins_dir.clone(),
            mu_plugins: installation.mu_plugins_dir.clone(),
            config_file: installation.config_file.clone(),
            plugins,
            stylesheet: themes.stylesheet,
            template: themes.template,
            own_plugin: own_plugin.to_owned(),
        }
    }
}

/// The limits of one scan.
#[derive(Debug, Clone, Copy)]
struct Limits {
    files: usize,
    /// Bytes of files that were not read before.
    bytes: u64,
    file: u64,
    /// A file that changed less than this ago may change again within the same tick of the file
    /// system's clock.
    settled: Duration,
}

const LIMITS: Limits = Limits { files: 200_000, bytes: 512 << 20, file: 1 << 20, settled: Duration::from_secs(2) };

/// A file as it was when it was read.
struct Seen {
    stamp: Stamp,
    is_settled: bool,
    named: Vec<Named>,
    round: u64,
}

/// Changes whenever the file does.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: (i64, i64),
    /// The inode's change time. No program can set it back.
    changed: (i64, i64),
}

/// Scans, and remembers the contents of files.
pub struct HookScan {
    seen: HashMap<[u8; 16], Seen>,
    round: u64,
    limits: Limits,
    is_gentle: bool,
    is_stopped: Arc<AtomicBool>,
    /// Bytes read by this scan.
    bytes: u64,
    #[cfg(test)]
    read: usize,
}

impl HookScan {
    /// A scan at full speed that remembers nothing yet.
    pub fn new() -> Self {
        HookScan {
            seen: HashMap::new(),
            round: 0,
            limits: LIMITS,
            is_gentle: false,
            is_stopped: Arc::default(),
            bytes: 0,
            #[cfg(test)]
            read: 0,
        }
    }

    /// A scan beside a serving program: it pauses for as long as it works.
    pub fn in_background() -> Self {
        HookScan { is_gentle: true, ..HookScan::new() }
    }

    /// Runs [`HookScan::scan`] on a thread that may block. Dropped, it stops soon.
    pub async fn look(self, what: Arc<Active>) -> (HookScan, Found) {
        let is_gentle = self.is_gentle;
        let mut stop = Stop { flag: Arc::clone(&self.is_stopped), is_waited_for: false };
        let mut scan = self;
        let looked = tokio::task::spawn_blocking(move || {
            let found = scan.scan(&what);
            (scan, found)
        });
        let looked = looked.await;
        stop.is_waited_for = true;
        looked.unwrap_or_else(|_| {
            let unread = Unread { is_cut: true, ..Unread::default() };
            (HookScan { is_gentle, ..HookScan::new() }, Found { unread, ..Found::default() })
        })
    }

    /// Scans everything active. Blocks.
    pub fn scan(&mut self, what: &Active) -> Found {
        self.round += 1;
        self.bytes = 0;
        let mut found = Found::default();
        let (parts, is_elsewhere) = files::parts(what);
        found.unread.is_elsewhere = is_elsewhere;
        found.unread.of = parts.iter().filter(|part| part.is_there()).count();
        let mut walker = Walker::new(files::roots(what));
        let mut rest = Rest::new(self.is_gentle);
        for part in &parts {
            if !self.part(part, &mut walker, &mut rest, &mut found) {
                break;
            }
        }
        found.unread.links = walker.links;
        if !found.unread.is_cut {
            let round = self.round;
            self.seen.retain(|_, seen| seen.round == round);
        }
        found.hits.sort();
        found
    }

    /// Returns whether to continue with the next part.
    fn part(&mut self, part: &Part, walker: &mut Walker, rest: &mut Rest, found: &mut Found) -> bool {
        let mut is_unread = false;
        walker.begin(part);
        while let Some(next) = walker.next_file() {
            if self.is_stopped.load(Ordering::Relaxed) || found.files >= self.limits.files {
                found.unread.is_cut = true;
                return false;
            }
            match next.and_then(|(path, place)| Ok((self.named(&path)?, place))) {
                Ok((Look::Named(named), place)) => {
                    found.files += 1;
                    let hit = |named: Named| Hit { place: format!("{place}:{}", named.line), hook: named.hook };
                    found.hits.extend(named.into_iter().map(hit));
                }
                Ok((Look::TooLarge, _)) => found.unread.too_large += 1,
                // Files that were read before are still checked.
                Ok((Look::Enough, _)) => found.unread.is_cut = true,
                // It was removed a moment ago.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(_) => is_unread = true,
            }
            rest.after();
        }
        if is_unread {
            found.unread.parts.push(part.name.clone());
        }
        true
    }

    fn named(&mut self, path: &Path) -> io::Result<Look> {
        let key = key_of(path);
        let stamp = Stamp::of(&path.metadata()?);
        if let Some(seen) = self.seen.get_mut(&key).filter(|seen| seen.is_settled && seen.stamp == stamp) {
            seen.round = self.round;
            return Ok(Look::Named(seen.named.clone()));
        }
        if stamp.size > self.limits.file {
            return Ok(Look::TooLarge);
        }
        if self.bytes >= self.limits.bytes {
            return Ok(Look::Enough);
        }
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let mut source = Vec::new();
        file.take(self.limits.file + 1).read_to_end(&mut source)?;
        let length = u64::try_from(source.len()).unwrap_or(u64::MAX);
        self.bytes = self.bytes.saturating_add(length);
        #[cfg(test)]
        {
            self.read += 1;
        }
        if length > self.limits.file {
            return Ok(Look::TooLarge);
        }
        let named = php::names(&source, Form::File);
        let stamp = Stamp::of(&metadata);
        let is_settled = stamp.is_older_than(self.limits.settled);
        self.seen.insert(key, Seen { stamp, is_settled, named: named.clone(), round: self.round });
        Ok(Look::Named(named))
    }
}

impl Default for HookScan {
    fn default() -> Self {
        HookScan::new()
    }
}

/// The result for one file.
enum Look {
    Named(Vec<Named>),
    TooLarge,
    /// The scan's limit is reached; the file is left for the next scan.
    Enough,
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Stamp {
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    fn is_older_than(&self, age: Duration) -> bool {
        let changed = u64::try_from(self.changed.0).unwrap_or_default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Duration::from_secs(changed) + age <= now
    }
}

/// A key of fixed size: a large site has tens of thousands of files.
fn key_of(path: &Path) -> [u8; 16] {
    short_digest(Sha256::new().chain_update(path.as_os_str().as_encoded_bytes()))
}

fn short_digest(digest: Sha256) -> [u8; 16] {
    let mut short = [0; 16];
    for (to, from) in short.iter_mut().zip(digest.finalize()) {
        *to = from;
    }
    short
}

/// Stops a scan that is no longer waited for.
struct Stop {
    flag: Arc<AtomicBool>,
    /// Set when the scan has run to its end.
    is_waited_for: bool,
}

impl Drop for Stop {
    fn drop(&mut self) {
        if !self.is_waited_for {
            self.flag.store(true, Ordering::Relaxed);
        }
    }
}

/// Pauses between pieces of work.
struct Rest {
    is_gentle: bool,
    since: Instant,
}

/// Short enough that no request waits noticeably for the core.
const PIECE: Duration = Duration::from_millis(5);

impl Rest {
    fn new(is_gentle: bool) -> Self {
        Rest { is_gentle, since: Instant::now() }
    }

    fn after(&mut self) {
        let worked = self.since.elapsed();
        if self.is_gentle && worked >= PIECE {
            std::thread::sleep(worked.min(PIECE * 20));
            self.since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests;
