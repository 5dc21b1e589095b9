//! The constants in `wp-config.php` about a network: which network it is, which of its sites is the
//! main one, and its address.

use super::Assembly;
use crate::wordpress::wp_config::Lookup;

/// A network, as `ms_load_current_site_and_network()` in wp-includes/ms-load.php knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Its id: `SITE_ID_CURRENT_SITE`, or else 1.
    pub id: u64,
    /// The id of its main site, the first one: `BLOG_ID_CURRENT_SITE`, or else 1.
    pub main: u64,
    /// Its address, if not at the path `/`: `DOMAIN_CURRENT_SITE` and `PATH_CURRENT_SITE`.
    pub below: Option<Below>,
}

/// The path of a network on one domain. Sites on other domains are found as if the network were at
/// `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Below {
    /// In lower case.
    domain: String,
    /// The path's segments, without slashes.
    segments: Vec<String>,
}

/// Why the constants do not say which tables are the main site's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnknownMain {
    #[error("the constant {0} in wp-config.php is computed")]
    Computed(&'static str),
    /// WordPress makes a network of it because of another constant (`SUBDOMAIN_INSTALL`, `VHOST` or
    /// `SUNRISE`), and names the tables of the site 1 `wp_1_…` then.
    #[error("the constant MULTISITE is not defined in wp-config.php, and other constants set up a network")]
    NoMultisite,
}

impl Default for Layout {
    fn default() -> Self {
        Layout { id: 1, main: 1, below: None }
    }
}

impl Layout {
    /// The layout of a network at `path` on `domain`.
    #[must_use]
    pub fn at(self, domain: &str, path: &str) -> Self {
        Layout { below: Below::new(domain, path), ..self }
    }

    /// The network's path.
    pub fn path(&self) -> String {
        self.below.as_ref().map_or_else(|| "/".to_owned(), |below| format!("/{}/", below.segments.join("/")))
    }

    /// How many segments of a path WordPress looks at: one after the network's own.
    pub fn segments(&self, host: &str, path: &str) -> usize {
        let own = self.below.as_ref().filter(|below| below.domain == host && path.starts_with(&self.path()));
        1 + own.map_or(0, |below| below.segments.len())
    }

    /// The largest number of segments for any host.
    pub fn most_segments(&self) -> usize {
        1 + self.below.as_ref().map_or(0, |below| below.segments.len())
    }
}

impl Below {
    /// `None` for the path `/`, and for anything but plain segments between two slashes.
    fn new(domain: &str, path: &str) -> Option<Self> {
        let inner = path.strip_prefix('/')?.strip_suffix('/')?;
        let segments: Vec<String> = inner.split('/').map(str::to_owned).collect();
        segments
            .iter()
            .all(|segment| is_plain(segment))
            .then(|| Below { domain: domain.to_ascii_lowercase(), segments })
    }
}

impl Assembly<'_> {
    pub(super) fn network(&self) -> Result<Layout, UnknownMain> {
        if !self.multisite() {
            return Ok(Layout::default());
        }
        let id = |name| match self.constant(name) {
            Lookup::NotDefined => Ok(1),
            Lookup::Known(scalar, _) => {
                let id = String::from_utf8_lossy(&scalar.to_bytes()).parse().ok();
                id.filter(|id| *id > 0).ok_or(UnknownMain::Computed(name))
            }
            Lookup::Unknown(_) => Err(UnknownMain::Computed(name)),
        };
        match self.constant("MULTISITE") {
            Lookup::Known(..) => {}
            Lookup::Unknown(_) => return Err(UnknownMain::Computed("MULTISITE")),
            // Code that is not read most likely defines it.
            Lookup::NotDefined if self.incomplete().is_some() => {}
            Lookup::NotDefined => return Err(UnknownMain::NoMultisite),
        }
        let layout = Layout { id: id("SITE_ID_CURRENT_SITE")?, main: id("BLOG_ID_CURRENT_SITE")?, below: None };
        let text = |name| match self.constant(name) {
            Lookup::Known(scalar, _) => String::from_utf8(scalar.to_bytes()).ok(),
            _ => None,
        };
        // Without both, WordPress finds the network in its table.
        Ok(match (text("DOMAIN_CURRENT_SITE"), text("PATH_CURRENT_SITE")) {
            (Some(domain), Some(path)) => layout.at(&domain, &path),
            _ => layout,
        })
    }
}

/// The same as `wpdb::get_blog_prefix()` where `MULTISITE` is defined.
pub(super) fn prefix_of(base_prefix: &str, blog_id: u64) -> String {
    if blog_id == 1 { base_prefix.to_owned() } else { format!("{base_prefix}{blog_id}_") }
}

/// Whether WordPress takes this segment of a path literally.
pub fn is_plain(segment: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    !matches!(segment, "" | "." | "..") && segment.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_segment_is_looked_at_behind_the_networks_own() {
        let at = |path: &str| Layout::default().at("Net.test", path);
        for (layout, host, path, segments) in [
            (Layout::default(), "net.test", "/net/two/wp-json/", 1),
            (at("/"), "net.test", "/net/two/", 1),
            (at("/net/"), "net.test", "/net/two/wp-json/", 2),
            (at("/net/"), "net.test", "/other/two/", 1),
            (at("/net/"), "net.test", "/net", 1),
            (at("/net/"), "mapped.test", "/net/two/", 1),
            (at("/a/b/"), "net.test", "/a/b/two/", 3),
        ] {
            assert_eq!(layout.segments(host, path), segments, "{host}{path}");
        }
        for (path, is) in
            [("/net/", "/net/"), ("/a/b/", "/a/b/"), ("net", "/"), ("/n%65t/", "/"), ("//", "/"), ("", "/")]
        {
            assert_eq!(at(path).path(), is, "{path}");
        }
    }
}
