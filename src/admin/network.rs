//! What operators see of a network: how many sites it has, which sites in use are native, and why
//! the others are not.

use serde::Serialize;

use crate::refresh::Refresher;
use crate::refresh::blogs::{Blogs, InUse};
use crate::verify::ViewState;
use crate::wordpress::network::Known;

/// The most sites that are listed.
const LISTED: usize = 50;

/// A network of sites.
#[derive(Serialize)]
pub struct Network {
    /// How many sites it has; `None` if that is unknown, or more than are read.
    pub sites: Option<u64>,
    /// How many of those WordPress does not serve: archived, deleted, spam, not activated.
    pub closed: Option<u64>,
    /// The same as text, or why only the first site is refreshed natively.
    pub summary: String,
    /// Why only the first site is refreshed natively, if that is so.
    pub obstacle: Option<String>,
    /// Sites, besides the first, that had a refresh in the last ten minutes.
    pub in_use: u64,
    /// How many of those are native.
    pub native: u64,
    /// Tokens of those sites that are remembered.
    pub tokens: u64,
    /// The sites in use, those that are not native first; at most 50.
    pub listed: Vec<Listed>,
}

/// One further site of a network that is in use.
#[derive(Serialize)]
pub struct Listed {
    pub id: u64,
    /// The site's domain and path.
    pub place: String,
    pub native: bool,
    pub obstacle: Option<String>,
    /// The time since its last refresh.
    pub idle_seconds: u64,
}

impl Network {
    /// Reads nothing. `None` on a single site.
    pub fn of(refresher: &Refresher) -> Option<Self> {
        let blogs = refresher.blogs.as_deref()?;
        let mut listed: Vec<Listed> = blogs.in_use().iter().filter_map(|in_use| Listed::of(in_use)).collect();
        let native = listed.iter().filter(|site| site.native).count() as u64;
        let in_use = listed.len() as u64;
        listed.sort_by_key(|site| (site.native, site.idle_seconds));
        listed.truncate(LISTED);
        let (sites, closed, obstacle) = match blogs.network().last_read() {
            Some(Known::All(all)) => (Some(all.count as u64), Some(all.closed as u64), None),
            Some(Known::Many) | None => (None, None, None),
            Some(Known::Unusable(unusable)) => (None, None, Some(unusable.to_string())),
        };
        let tokens = blogs.tokens() as u64;
        Some(Network { sites, closed, summary: summary(blogs), obstacle, in_use, native, tokens, listed })
    }
}

impl Listed {
    fn of(in_use: &InUse) -> Option<Self> {
        let refresher = &*in_use.refresher;
        let blog = refresher.sites.blog()?;
        let obstacle = obstacle(refresher);
        let (native, idle_seconds) = (obstacle.is_none(), in_use.idled().as_secs());
        Some(Listed { id: blog.id, place: blog.place(), native, obstacle, idle_seconds })
    }
}

/// Why refreshes of a site are left to WordPress, as far as already known.
fn obstacle(refresher: &Refresher) -> Option<String> {
    let sites = &refresher.sites;
    match sites.last_read() {
        None => return Some("its settings were not read yet".to_owned()),
        Some(Err(why)) => return Some(why.to_string()),
        Some(Ok(site)) => {
            if let Some(why) = sites.home_obstacle(&site) {
                return Some(why.to_string());
            }
        }
    }
    let verification = &refresher.verification;
    let refused = refresher.standing.obstacle().map(|obstacle| obstacle.to_string());
    refused.or_else(|| {
        let is_unproven = matches!(verification.view().state, ViewState::Unverified | ViewState::Differs);
        is_unproven.then(|| verification.why())
    })
}

/// How many sites there are, as text.
fn summary(blogs: &Blogs) -> String {
    match blogs.network().last_read() {
        Some(known) => known.to_string(),
        None => "not looked at yet".to_owned(),
    }
}
