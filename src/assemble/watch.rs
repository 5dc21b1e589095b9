//! Watches the site while it is served: logs whether refreshes are native, on which hosts, and
//! whether the clocks agree.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::refresh::Refresher;
use crate::verify::ViewState;
use crate::wordpress::clock::Apart;
use crate::wordpress::home::Home;
use crate::wordpress::site::{NamedHost, NotNative, Site};

/// How often the site is looked at even without a request, so that what is known of it stays fresh
/// and the log reports changes.
const LOOK: Duration = Duration::from_secs(5);

/// What a look at the site found: the site and its home URL, or why refreshes are left to
/// WordPress.
pub type Found = Result<(Arc<Site>, Arc<Home>), Arc<NotNative>>;

/// Looks at the site once. Takes as long as reading the settings and asking WordPress.
pub async fn look(refresher: &Refresher) -> Found {
    let unproven = match &refresher.blogs {
        Some(blogs) => blogs.network().unproven_main().await,
        None => None,
    };
    let site = refresher.sites.read_or_known().await;
    // Reading the site reports what is wrong with the database.
    let _ = refresher.store.database.look_at_node().await;
    let site = site?;
    if let Some(why) = unproven {
        return Err(Arc::new(NotNative::UnprovenMain(why)));
    }
    refresher.standing.first_trial().await;
    let home = refresher.sites.ask_homes(&site).await?;
    refresher.sites.issuing_time(&site)?;
    Ok((site, home))
}

/// What the log and `check` say about it.
pub fn describe(found: &Found, refresher: &Refresher) -> String {
    match (found, refresher.standing.obstacle()) {
        (Ok(_), Some(obstacle)) => format!("{obstacle}; {}", obstacle.refused.fix()),
        (Ok((site, home)), None) => {
            let verification = &refresher.verification;
            let site = format!("home {}, algorithm {}, plugin {}", home.url, site.signer.algorithm(), site.plugin);
            match verification.view().state {
                ViewState::Unverified => format!("ready to refresh natively once that is verified: {site}"),
                ViewState::Differs => format!("leaving the refresh route to WordPress: {}; {site}", verification.why()),
                ViewState::Agrees | ViewState::Trusted | ViewState::Closed => format!("refreshing natively: {site}"),
            }
        }
        (Err(why), _) => format!("leaving the refresh route to WordPress: {why}"),
    }
}

/// What they say about one host of the site.
pub fn describe_host(named: &NamedHost) -> String {
    match &named.home {
        Ok(home) => format!("host {}: its tokens are issued for {}", named.host, home.url),
        Err(why) => format!("host {} in wordpress.hosts: left to WordPress: {why}", named.host),
    }
}

/// What decides whether the line is logged again: changes of the verification are logged elsewhere.
fn subject(found: &Found, line: &str, refresher: &Refresher) -> String {
    match (found, refresher.standing.obstacle()) {
        (Ok((site, home)), None) => format!("{} {} {}", home.url, site.signer.algorithm(), site.plugin),
        _ => line.to_owned(),
    }
}

/// Looks at the site every [`LOOK`] and after news from WordPress, until `stop`. Logs what has
/// changed.
pub async fn watch(refresher: Arc<Refresher>, looked: oneshot::Sender<()>, stop: CancellationToken) {
    let mut last = String::new();
    let mut lately = Lately::default();
    let mut looked = Some(looked);
    loop {
        let found = look(&refresher).await;
        refresher.verification.closed(match &found {
            Err(why) if matches!(**why, NotNative::Refused(..)) => Some(why.to_string()),
            _ => None,
        });
        let now = describe(&found, &refresher);
        let subject = subject(&found, &now, &refresher);
        if subject != last {
            match &found {
                // The obstacle was logged where it was found.
                Ok(_) if refresher.standing.obstacle().is_some() => {}
                Ok(_) if refresher.verification.view().state != ViewState::Differs => info!("{now}"),
                _ => warn!("{now}"),
            }
            last = subject;
        }
        lately.tell_changes(&refresher);
        if let Some(looked) = looked.take() {
            let _ = looked.send(());
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(LOOK) => {}
            () = refresher.sites.homes().news() => {}
        }
    }
}

/// What else was logged last.
#[derive(Default)]
struct Lately {
    hosts: HashMap<String, String>,
    apart: Option<Apart>,
}

impl Lately {
    fn tell_changes(&mut self, refresher: &Refresher) {
        let apart = refresher.sites.clocks_apart();
        if apart != self.apart {
            match apart {
                Some(apart) => warn!(%apart, "the clocks differ; tokens are issued by the slowest, up to a minute"),
                None => info!("the clocks agree again"),
            }
            self.apart = apart;
        }
        let Some(Ok(site)) = refresher.sites.last_read() else { return };
        for named in refresher.sites.named_hosts(&site) {
            let now = describe_host(&named);
            if self.hosts.get(&named.host) == Some(&now) {
                continue;
            }
            match &named.home {
                Ok(home) => {
                    info!(host = named.host, issuer = home.url, "refreshing natively on a host in wordpress.hosts")
                }
                Err(why) => warn!(host = named.host, %why, "refreshes on a host in wordpress.hosts go to WordPress"),
            }
            self.hosts.insert(named.host, now);
        }
    }
}
