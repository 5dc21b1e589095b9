//! Checks every few seconds whether the site is still the one that was verified, and scans its
//! files for code that a native refresh would leave out.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};
use tracing::{debug, info};

use super::refresher::Refresher;
use super::shared_verdict::SharedVerdict;
use crate::config;
use crate::verify::difference::{Difference, Kind};
use crate::verify::epoch::epoch;
use crate::wordpress::database::{ANSWER_LIMIT, DatabaseError};
use crate::wordpress::hook_scan::{self, Active, FilesState, Scanner, Snippets, Themes};
use crate::wordpress::site::{Makeup, Site};

/// As often as the site's options are read.
const LOOK: Duration = Duration::from_secs(3);

/// How often changed files are scanned while nothing else indicates that the site has changed.
const SCAN_AGAIN: Duration = Duration::from_secs(600);

/// How many times an incomplete scan is continued. After that there is more code than any scan
/// reads.
const CUT_AT_MOST: u32 = 20;

/// The parts of the configuration that responses depend on.
type Configuration = (config::Jwt, config::Refresh);

/// Watches one site.
pub struct Epochs {
    configuration: Arc<Configuration>,
    scanner: Arc<Scanner>,
    scans: Mutex<Scans>,
    shared: Arc<SharedVerdict>,
}

impl Epochs {
    /// For a site whose files `scanner` reads.
    pub fn new(configuration: Arc<Configuration>, scanner: Arc<Scanner>, shared: Arc<SharedVerdict>) -> Self {
        let scans = Mutex::new(Scans { due: Instant::now(), cut: 0, unread: Vec::new() });
        Epochs { configuration, scanner, scans, shared }
    }

    /// Looks repeatedly and calls `looked` after each look. Never returns.
    pub async fn keep_looking(&self, refresher: &Refresher, looked: impl Fn()) {
        loop {
            // `None` if the runtime is shutting down.
            if self.look(refresher).await.is_some() {
                looked();
            }
            sleep(LOOK).await;
        }
    }

    async fn look(&self, refresher: &Refresher) -> Option<()> {
        // A site that cannot be native needs no epoch; its calls are left to WordPress for that
        // reason.
        let Ok(site) = refresher.sites.read_or_known().await else { return Some(()) };
        let active = active(refresher, &site);
        let (files, active) = spawn_blocking(move || (hook_scan::files_state(&active), active)).await.ok()?;
        let makeup = &site.makeup;
        let epoch = epoch(makeup, &files.here, &*self.configuration);
        let is_new = refresher.verification.enter(&epoch, makeup.tag(), &makeup.plugin_version);
        self.shared.publish_and_heed(refresher, &self.anywhere(makeup, &files)).await;
        let mut scans = self.scans.lock().await;
        if is_new || !refresher.verification.is_scanned() || scans.due <= Instant::now() {
            scans.run(refresher, &self.scanner, active, files.here, &self.configuration.1.trusted_hooks).await;
        }
        Some(())
    }

    /// The epoch as other machines with the same code and the same declarations have it.
    fn anywhere(&self, makeup: &Makeup, files: &FilesState) -> String {
        let (jwt, refresh) = &*self.configuration;
        let declared = (&jwt.claims, jwt.lifetime, jwt.algorithm, &refresh.fields, &refresh.omit);
        let compared = (refresh.response_fields, &refresh.verify_ignore_headers);
        epoch(makeup, &files.anywhere, &(declared, compared))
    }
}

fn active(refresher: &Refresher, site: &Site) -> Active {
    let makeup = &site.makeup;
    let themes = Themes { stylesheet: makeup.stylesheet.clone(), template: makeup.template.clone() };
    Active::of(refresher.sites.installation(), makeup.active_plugins.clone(), &site.plugin, themes)
}

struct Scans {
    due: Instant,
    /// Consecutive incomplete scans.
    cut: u32,
    /// The last logged list of what cannot be read.
    unread: Vec<String>,
}

impl Scans {
    async fn run(
        &mut self,
        refresher: &Refresher,
        scanner: &Arc<Scanner>,
        active: Active,
        files: [u8; 16],
        trusted: &[String],
    ) {
        let active = Arc::new(active);
        let found = scanner.look(Arc::clone(&active), files).await;
        let mut unread = found.unread.sentences();
        let snippets = snippets(refresher, &active).await.unwrap_or_else(|error| {
            unread.push(format!("snippets in the database cannot be read: {error}"));
            Snippets::default()
        });
        if snippets.is_unread {
            unread.push("snippets in the database cannot be read by this user".to_owned());
        }
        let site = refresher.sites.blog().map(|blog| blog.place());
        if unread != self.unread {
            for sentence in &unread {
                info!(site, "hook scan: {sentence}");
            }
            self.unread = unread;
        }
        let is_cut = found.unread.is_cut;
        let mut hits = found.hits.iter().chain(&snippets.hits).filter(|hit| !hook_scan::is_trusted(hit, trusted));
        let first = hits.next();
        let others = hits.count();
        // The part that was not read yet may contain a hook.
        if first.is_none() && is_cut && self.cut < CUT_AT_MOST {
            self.cut += 1;
            self.due = Instant::now();
            return;
        }
        self.cut = 0;
        let difference = first.map(|hit| {
            let more = if others > 0 { format!(", and {others} more") } else { String::new() };
            Difference::new(Kind::Hook, format!("{} at {}{more}", hit.hook, hit.place))
        });
        if !refresher.verification.is_scanned() {
            match &site {
                None => info!(files = found.files, "hook scan: the site's files are read"),
                // One of many.
                Some(site) => debug!(site, files = found.files, "hook scan: the site's files are read"),
            }
        }
        refresher.verification.scanned(difference);
        self.due = Instant::now() + SCAN_AGAIN;
    }
}

async fn snippets(refresher: &Refresher, active: &Active) -> Result<Snippets, DatabaseError> {
    let database = &refresher.store.database;
    let mut session = database.session().await?;
    let read = hook_scan::snippets(&mut session, refresher.sites.installation(), &active.plugins);
    let snippets = database.within(ANSWER_LIMIT, read).await?;
    session.give_back();
    Ok(snippets)
}
