//! Keeps the verdict in a file across restarts: `verification-….json` in `[refresh]
//! state_directory`.
//!
//! Several sidecars may share a directory: the file's name depends on the site's database, its
//! tables and the addresses that the sidecar listens on. `wp-jwt-sidecar verify --again` creates a
//! marker beside it, which makes the running sidecar begin again.
//!
//! SECURITY: the file contains no token, key or salt, and no user's id.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Verification;
use super::verdict::Verdict;
use crate::config::{self, Config};
use crate::wordpress::installation::Installation;

/// How often to look for the marker, and to write numbers that do not change the state. A change of
/// the state is written at once.
const LOOK: Duration = Duration::from_secs(2);

/// The version of the file's format. Other versions are not read.
const FORMAT: u32 = 1;

/// In bytes: far more than a valid file has.
const LONGEST: u64 = 64 << 10;

/// The directory of the package's unit (`StateDirectory=`).
pub const OF_PACKAGE: &str = "/var/lib/wp-jwt-sidecar";

/// systemd's variable for that directory.
const VARIABLE: &str = "STATE_DIRECTORY";

/// A file that keeps a verdict.
#[derive(Debug)]
pub struct Kept {
    file: PathBuf,
    marker: PathBuf,
    /// Locked while writing: during a reload there are briefly two sidecars' parts.
    written: Mutex<Written>,
}

#[derive(Debug, Default)]
struct Written {
    verdict: Option<Verdict>,
    has_failed: bool,
    /// Identifies a marker that could not be removed, which must act only once.
    marker: Option<(u64, i64, i64)>,
}

#[derive(Serialize, Deserialize)]
struct Content {
    format: u32,
    verdict: Verdict,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
enum Useless {
    #[error("it cannot be read: {0}")]
    Unread(#[from] io::Error),
    #[error("it is longer than {LONGEST} bytes")]
    Long,
    #[error("it is not what this version writes: {0}")]
    Garbage(#[from] serde_json::Error),
    #[error("it is of the format {0}, not {FORMAT}")]
    Format(u32),
}

/// The configured directory, otherwise the first of those that systemd names. `None` if there is
/// none.
pub fn directory(refresh: &config::Refresh, environment: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let of_systemd = || {
        let named = environment(VARIABLE)?;
        // Several are separated by colons (systemd.exec(5)).
        let first = std::env::split_paths(&named).next()?;
        (!first.as_os_str().is_empty()).then_some(first)
    };
    refresh.state_directory.clone().or_else(of_systemd)
}

/// The name of the file for this sidecar and this site.
pub fn name(config: &Config, installation: &Installation) -> String {
    let listen = config.server.listen.iter().chain(&config.tls.listen).map(ToString::to_string);
    let site = [installation.database_label.clone(), installation.table_prefix.clone()];
    let mut digest = Sha256::new();
    for part in site.into_iter().chain(listen) {
        digest.update(part.as_bytes());
        digest.update([0]);
    }
    let mut name = String::from("verification-");
    for byte in digest.finalize().iter().take(6) {
        // Writing to a string cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name + ".json"
}

/// The name for a further site of the network whose first site has `name`.
pub fn name_of_blog(name: &str, blog_id: u64) -> String {
    format!("{}-{blog_id}.json", name.strip_suffix(".json").unwrap_or(name))
}

impl Kept {
    /// The file `name` in `directory`. Nothing is read or written yet.
    pub fn new(directory: &Path, name: &str) -> Arc<Self> {
        let file = directory.join(name);
        let marker = file.with_extension("again");
        Arc::new(Kept { file, marker, written: Mutex::default() })
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The kept verdict; `None` if no file exists, if it is unusable, or if a marker says to ignore
    /// it.
    pub fn read(&self) -> Option<Verdict> {
        if self.is_marked() {
            return None;
        }
        let verdict = read(&self.file).unwrap_or_else(|useless| {
            let file = self.file.display();
            warn!(%file, %useless, "the stored state of the verification cannot be used; verifying again");
            None
        });
        self.written().verdict.clone_from(&verdict);
        verdict
    }

    /// Creates the marker.
    ///
    /// # Errors
    /// The system's.
    pub fn mark(&self) -> io::Result<()> {
        // SECURITY: root may do this in the directory of the sidecar's user, so links there are not
        // followed.
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.marker) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    pub fn is_marked(&self) -> bool {
        fs::symlink_metadata(&self.marker).is_ok()
    }

    /// Removes the marker. `true` if there was a new one.
    fn take_marker(&self) -> bool {
        let Ok(metadata) = fs::symlink_metadata(&self.marker) else { return false };
        let this = Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec()));
        let mut written = self.written();
        let is_new = std::mem::replace(&mut written.marker, this) != this;
        if let Err(error) = fs::remove_file(&self.marker)
            && is_new
        {
            self.failed(&mut written, &error);
        }
        is_new
    }

    /// Writes `verdict`, unless it is already written.
    fn write(&self, verdict: &Verdict) {
        let mut written = self.written();
        if written.verdict.as_ref() == Some(verdict) {
            return;
        }
        match self.replace(verdict) {
            Ok(()) => {
                written.verdict = Some(verdict.clone());
                written.has_failed = false;
            }
            Err(error) => self.failed(&mut written, &error),
        }
    }

    /// Replaces the file by renaming, so that a reader always gets one complete version.
    fn replace(&self, verdict: &Verdict) -> io::Result<()> {
        let content = serde_json::to_vec(&Content { format: FORMAT, verdict: verdict.clone() })?;
        let beside = self.file.with_extension(format!("{}.new", std::process::id()));
        // A file left over from an interrupted run.
        let _ = fs::remove_file(&beside);
        let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside);
        let written =
            written.and_then(|mut file| file.write_all(&content)).and_then(|()| fs::rename(&beside, &self.file));
        if written.is_err() {
            // The temporary file may not exist.
            let _ = fs::remove_file(&beside);
        }
        written
    }

    fn failed(&self, written: &mut Written, error: &io::Error) {
        if !std::mem::replace(&mut written.has_failed, true) {
            let fix = "let the sidecar's user write to the directory (StateDirectory=wp-jwt-sidecar in the unit), or name another \
                       one in refresh.state_directory";
            let file = self.file.display();
            warn!(%file, %error, fix, "the state of the verification cannot be kept; it begins again at a restart");
        }
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(file: &Path) -> Result<Option<Verdict>, Useless> {
    let file = match File::open(file) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut text = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LONGEST {
        return Err(Useless::Long);
    }
    let content: serde_json::Value = serde_json::from_slice(&text)?;
    match content.get("format").and_then(serde_json::Value::as_u64) {
        Some(format) if format != u64::from(FORMAT) => Err(Useless::Format(u32::try_from(format).unwrap_or(u32::MAX))),
        _ => {
            let mut verdict = serde_json::from_value::<Content>(content)?.verdict;
            // Dates beyond the year 9999 cannot be displayed, and no valid date is in the future.
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            verdict.since = verdict.since.min(now);
            verdict.epoch_since = verdict.epoch_since.min(now);
            Ok(Some(verdict))
        }
    }
}

/// Writes the results of `verification` whenever they have changed, and looks for the marker, until
/// `stop`.
pub async fn keep(verification: Arc<Verification>, kept: Arc<Kept>, stop: CancellationToken) {
    loop {
        let (of_verification, of_kept) = (Arc::clone(&verification), Arc::clone(&kept));
        let step = move || {
            // The verification that has taken over looks for the marker itself.
            if !of_verification.is_replaced() && of_kept.take_marker() {
                info!("the verification begins again, as `wp-jwt-sidecar verify --again` asks for");
                of_verification.again_as_asked();
            }
            if !of_verification.is_replaced() {
                of_kept.write(&of_verification.verdict());
            }
        };
        // The panic hook has logged a panic.
        let _ = spawn_blocking(step).await;
        tokio::select! {
            () = stop.cancelled() => break,
            () = verification.changed() => {}
            () = sleep(LOOK) => {}
        }
    }
    // Done here, since a runtime that is ending starts no more tasks.
    if !verification.is_replaced() {
        kept.write(&verification.verdict());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::{Faults, Verify};
    use crate::verify::difference::{Difference, Kind};
    use crate::verify::verdict::{Class, Observation, State};
    use crate::verify::{Rules, ViewState};

    fn difference() -> Difference {
        Difference::new(Kind::Body, "body +roles (array of string)")
    }

    fn verdict() -> Verdict {
        let mut verdict = Verdict::new(20, 1_000);
        for user in 70_000_001..70_000_006 {
            verdict.observe(Observation::Agrees { class: Class::Origin, user: Some(user) }, 1_001);
        }
        verdict.enter("of-the-site", false, 20, 1_002);
        verdict
    }

    #[test]
    fn what_is_written_is_read_but_for_the_users() {
        let directory = tempfile::tempdir().unwrap();
        let kept = Kept::new(directory.path(), "verification-1.json");
        assert_eq!(kept.read(), None);
        let mut verdict = verdict();
        kept.write(&verdict);
        verdict.differ(difference(), 1_003);
        kept.write(&verdict);
        let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["verification-1.json"]);
        let mode = fs::metadata(kept.file()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = fs::read_to_string(kept.file()).unwrap();
        assert!(text.contains("of-the-site") && !text.contains("7000000"), "{text}");
        let read = Kept::new(directory.path(), "verification-1.json").read().unwrap();
        assert_eq!(read.state, State::Differs(difference()));
        assert_eq!((read.compared, read.since, read.epoch.as_str()), (5, 1_003, "of-the-site"));
    }

    #[test]
    fn what_is_of_no_use_is_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let kept = Kept::new(directory.path(), "v.json");
        kept.write(&verdict());
        let good = fs::read_to_string(kept.file()).unwrap();
        let useless = |text: &str| {
            fs::write(kept.file(), text).unwrap();
            assert_eq!(kept.read(), None, "{text:.80}");
            read(kept.file()).unwrap_err().to_string()
        };
        assert!(useless("").contains("not what this version writes"));
        assert!(useless(&good[..good.len() / 2]).contains("not what this version writes"));
        assert!(useless("{\"format\":1}").contains("not what this version writes"));
        assert_eq!(useless(&good.replace("\"format\":1", "\"format\":7")), "it is of the format 7, not 1");
        assert_eq!(useless(&format!("{}{good}", " ".repeat(LONGEST as usize))), "it is longer than 65536 bytes");
        fs::write(kept.file(), good).unwrap();
        assert!(kept.read().is_some());
    }

    #[test]
    fn names_tell_sites_and_listeners_apart() -> Result<(), Faults> {
        let named = |listen: &str, database: &str| -> Result<String, Faults> {
            let flag = |name: &str, text: &str| config::Flag {
                key: config::keys::find(name).unwrap(),
                text: Some(text.to_owned()),
            };
            let flags = vec![flag("upstream.url", "http://127.0.0.1:1"), flag("server.listen", listen)];
            let variable = |name: &str, value: &str| (OsString::from(format!("WP_JWT_SIDECAR_{name}")), value.into());
            let environment = vec![
                variable("WORDPRESS_DATABASE_URL", &format!("mysql://u@127.0.0.1/{database}")),
                variable("WORDPRESS_TABLE_PREFIX", "wp_"),
                variable("WORDPRESS_AUTH_KEY", "k"),
                variable("WORDPRESS_AUTH_SALT", "s"),
                variable("JWT_SECRET", "not-a-secret-not-a-secret-not-a-secret"),
            ];
            let config = Config::load(&config::Sources { flags, environment, ..config::Sources::default() })?;
            let installation = crate::wordpress::installation::installation(&config.wordpress, &config.jwt, &|_| None)?;
            Ok(name(&config, &installation))
        };
        let one = named("127.0.0.1:8080", "shop")?;
        assert_eq!(one, named("127.0.0.1:8080", "shop")?);
        assert!(one.starts_with("verification-") && one.ends_with(".json") && one.len() == 30, "{one}");
        assert_ne!(one, named("127.0.0.1:8081", "shop")?);
        assert_ne!(one, named("127.0.0.1:8080", "blog")?);
        Ok(())
    }

    #[test]
    fn the_first_directory_of_systemd_is_taken_where_none_is_configured() {
        let mut refresh = Config::load(&config::Sources {
            environment: vec![
                ("WP_JWT_SIDECAR_UPSTREAM_URL".into(), "http://127.0.0.1:1".into()),
                ("WP_JWT_SIDECAR_REFRESH_MODE".into(), "forward".into()),
            ],
            ..config::Sources::default()
        })
        .unwrap()
        .refresh;
        let of = |value: &'static str| move |name: &str| (name == "STATE_DIRECTORY").then(|| value.into());
        assert_eq!(directory(&refresh, of("/var/lib/a:/var/lib/b")), Some("/var/lib/a".into()));
        assert_eq!(directory(&refresh, of("")), None);
        assert_eq!(directory(&refresh, |_| None), None);
        refresh.state_directory = Some("/srv/state".into());
        assert_eq!(directory(&refresh, of("/var/lib/a")), Some("/srv/state".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_written_at_once_and_a_marker_begins_again() {
        let directory = tempfile::tempdir().unwrap();
        let kept = Kept::new(directory.path(), "v.json");
        let rules = Rules { verify: Verify::Auto, first: 20, every: 1_000 };
        let verification = Verification::new(rules, None);
        let stop = CancellationToken::new();
        let keeping = tokio::spawn(keep(Arc::clone(&verification), Arc::clone(&kept), stop.clone()));
        let of_file = async |state: &dyn Fn(&State) -> bool| {
            while !read(&directory.path().join("v.json")).unwrap().is_some_and(|verdict| state(&verdict.state)) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        of_file(&|state| *state == State::Unverified).await;
        verification.differs(difference());
        of_file(&|state| matches!(state, State::Differs(_))).await;
        kept.mark().unwrap();
        kept.mark().unwrap();
        assert_eq!(kept.read(), None, "a marker says that nothing is to be gone on with");
        of_file(&|state| *state == State::Unverified).await;
        assert!(!kept.is_marked());
        assert_eq!(verification.view().state, ViewState::Unverified);
        assert!(verification.begins_again(), "and what other sidecars have found is to be forgotten");
        // A change at the last moment is kept.
        verification.differs(difference());
        stop.cancel();
        keeping.await.unwrap();
        assert!(read(kept.file()).unwrap().is_some_and(|verdict| matches!(verdict.state, State::Differs(_))));
    }

    #[test]
    fn a_directory_that_is_gone_is_told_once() {
        let directory = tempfile::tempdir().unwrap();
        let kept = Kept::new(&directory.path().join("gone"), "v.json");
        kept.write(&verdict());
        assert!(kept.written().has_failed && kept.written().verdict.is_none());
        assert!(kept.mark().is_err() && !kept.take_marker());
        fs::create_dir(directory.path().join("gone")).unwrap();
        kept.write(&verdict());
        assert!(!kept.written().has_failed && kept.read().is_some());
    }
}
