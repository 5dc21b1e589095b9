//! Looks every few seconds whether the site is still the one that was verified, and reads its files for code that a native refresh
//! leaves out.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};
use tracing::info;

use crate::config;
use crate::refresh::Refresher;
use crate::verify::difference::{Difference, Kind};
use crate::verify::epoch::epoch;
use crate::wordpress::database::{ANSWER_LIMIT, DatabaseError};
use crate::wordpress::hook_scan::{self, Active, HookScan, Snippets, Themes};
use crate::wordpress::site::Site;

/// As often as the site's options are read.
const LOOK: Duration = Duration::from_secs(3);

/// How often files that changed are read where nothing else says that the site changed.
const SCAN_AGAIN: Duration = Duration::from_secs(600);

/// A scan that cannot read everything is gone on with so often. Then there is more code than any scan reads.
const CUT_AT_MOST: u32 = 20;

/// What of the configuration answers depend on.
type Configuration = (config::Jwt, config::Refresh);

/// Never returns.
pub async fn watch(refresher: Arc<Refresher>, configuration: Configuration) {
    let mut scans = Scans { scan: HookScan::in_background(), due: Instant::now(), cut: 0, unread: Vec::new() };
    loop {
        if let Ok(site) = refresher.sites.read_or_known().await {
            let active = active(&refresher, &site);
            let (files, active) = match spawn_blocking(move || (hook_scan::files_state(&active), active)).await {
                Ok(read) => read,
                // The runtime ends.
                Err(_) => return,
            };
            let makeup = &site.makeup;
            let epoch = epoch(makeup, &files, &configuration);
            let is_new = refresher.verification.enter(&epoch, makeup.tag(), &makeup.plugin_version);
            if is_new || !refresher.verification.is_scanned() || scans.due <= Instant::now() {
                scans.run(&refresher, active, &configuration.1.trusted_hooks).await;
            }
        }
        sleep(LOOK).await;
    }
}

fn active(refresher: &Refresher, site: &Site) -> Active {
    let makeup = &site.makeup;
    let themes = Themes { stylesheet: makeup.stylesheet.clone(), template: makeup.template.clone() };
    Active::of(refresher.sites.installation(), makeup.active_plugins.clone(), &site.plugin, themes)
}

struct Scans {
    scan: HookScan,
    due: Instant,
    /// Scans in a row that could not read everything.
    cut: u32,
    /// What the log said last of what cannot be read.
    unread: Vec<String>,
}

impl Scans {
    async fn run(&mut self, refresher: &Refresher, active: Active, trusted: &[String]) {
        let active = Arc::new(active);
        let (scan, found) = std::mem::take(&mut self.scan).look(Arc::clone(&active)).await;
        self.scan = scan;
        let mut unread = found.unread.sentences();
        let snippets = snippets(refresher, &active).await.unwrap_or_else(|error| {
            unread.push(format!("snippets in the database cannot be read: {error}"));
            Snippets::default()
        });
        if snippets.is_unread {
            unread.push("snippets in the database cannot be read by this user".to_owned());
        }
        if unread != self.unread {
            for sentence in &unread {
                info!("hook scan: {sentence}");
            }
            self.unread = unread;
        }
        let is_cut = found.unread.is_cut;
        let mut hits = found.hits.iter().chain(&snippets.hits).filter(|hit| !hook_scan::is_trusted(hit, trusted));
        let first = hits.next();
        let others = hits.count();
        // What was not read yet may hold one.
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
            info!(files = found.files, "hook scan: the site's files are read");
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
