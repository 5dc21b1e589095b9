//! Which site of a network a request is for, as WordPress finds it: by its host and the first
//! segment of its path (`ms_load_current_site_and_network()` and `get_site_by_path()` in
//! wp-includes/ms-load.php). Pure.

use std::collections::HashMap;
use std::sync::Arc;

use crate::wordpress::installation::layout::{Layout, is_plain};

/// The longest valid host name (RFC 1035, section 2.3.4), and a port.
pub const LONGEST_HOST: usize = 255 + ":65535".len();

/// In bytes: the column `path` has 100 characters.
const LONGEST_PATH: usize = 100;

/// A row of the table `blogs`. WordPress's code calls the sites of a network blogs, and so does
/// this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blog {
    pub id: u64,
    /// The network of the site: the column `site_id`.
    pub network: u64,
    pub domain: String,
    /// With a slash at both ends.
    pub path: String,
    /// Why WordPress does not serve the site, if so: see `ms_site_check()`.
    pub closed: Option<&'static str>,
}

impl Blog {
    /// The reason for the row's flags. WordPress checks for certain values only; any other value
    /// except 0 is left to WordPress.
    pub fn closed(archived: u64, spam: u64, deleted: u64) -> Option<&'static str> {
        match (deleted, archived, spam) {
            (0, 0, 0) => None,
            (2, ..) => Some("not activated yet"),
            (1.., ..) => Some("deleted"),
            (_, 1.., _) => Some("archived"),
            _ => Some("marked as spam"),
        }
    }

    /// Whether domain and path compare equal only up to the case of ASCII letters: the columns'
    /// collation also folds accents and ignores trailing spaces.
    fn is_plain(&self) -> bool {
        let is_plain = |byte: u8| byte.is_ascii_graphic();
        self.domain.bytes().chain(self.path.bytes()).all(is_plain)
    }

    /// The site's address, for operators.
    pub fn place(&self) -> String {
        format!("{}{}", self.domain, self.path)
    }
}

/// A request's address, as far as it distinguishes the sites of a network.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The host in WordPress's form: see [`wordpress_host`].
    host: String,
    /// The path's segments that count, without slashes; mostly only the first.
    segments: Vec<String>,
    /// The id of the network's first site.
    main: u64,
}

/// The host in the form in which WordPress looks for it: lower case, without the ports 80 and 443
/// (wp-includes/ms-settings.php). `None` if the `Host` is ambiguous, or longer than any valid one.
pub fn wordpress_host(host: &str) -> Option<String> {
    if host.len() > LONGEST_HOST {
        return None;
    }
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix(":80").or_else(|| host.strip_suffix(":443")).unwrap_or(&host);
    let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    let is_name = !name.is_empty()
        && !name.starts_with('.')
        && !name.ends_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    let is_port = |port: &str| matches!(port.len(), 1..=5) && port.bytes().all(|byte| byte.is_ascii_digit());
    (is_name && port.is_none_or(is_port)).then(|| host.to_owned())
}

impl Place {
    /// The place for a request's `Host` and path; `None` if WordPress may read either differently,
    /// or if either is longer than that of any site.
    pub fn of(host: &str, path: &str, layout: &Layout) -> Option<Self> {
        let host = wordpress_host(host)?;
        let looked_at = layout.segments(&host, path);
        // `/?rest_route=…` has no segments; `/two/?rest_route=…` has one.
        let within = path.strip_prefix('/')?;
        let segments: Vec<String> = match within.strip_suffix('/').unwrap_or(within) {
            "" if within.is_empty() => Vec::new(),
            within => within.split('/').take(looked_at).map(str::to_owned).collect(),
        };
        let length = 1 + segments.iter().map(|segment| segment.len() + 1).sum::<usize>();
        let is_plain = length <= LONGEST_PATH && segments.iter().all(|segment| is_plain(segment));
        is_plain.then_some(Place { host, segments, main: layout.main })
    }

    /// The domains to look for, in WordPress's order. `www.` is removed, never added.
    pub fn domains(&self) -> impl Iterator<Item = &str> {
        [Some(self.host.as_str()), self.host.strip_prefix("www.")].into_iter().flatten()
    }

    /// The paths to look for, the longest first.
    pub fn paths(&self) -> impl Iterator<Item = String> {
        let own = (1..=self.segments.len()).rev().map(|count| format!("/{}/", self.segments[..count].join("/")));
        own.chain(["/".to_owned()])
    }

    /// The site that WordPress selects from `rows`, which are all rows that the database finds for
    /// these domains and paths.
    pub fn pick(&self, rows: &[Arc<Blog>]) -> Picked {
        if !rows.iter().all(|row| self.is_sought(row)) {
            return Picked::Unsure;
        }
        for domain in self.domains() {
            for path in self.paths() {
                let is_it =
                    |row: &&Arc<Blog>| row.domain.eq_ignore_ascii_case(domain) && row.path.eq_ignore_ascii_case(&path);
                let mut found = rows.iter().filter(is_it);
                match (found.next(), found.next()) {
                    (None, _) => {}
                    // The first site is treated like a single site, where case does not count.
                    (Some(row), None) if row.id == self.main || (row.domain == domain && row.path == path) => {
                        return Picked::Blog(Arc::clone(row));
                    }
                    // Either the case differs, which the server may or may not distinguish; or
                    // there are two rows, whose order is uncertain.
                    _ => return Picked::Unsure,
                }
            }
        }
        Picked::None
    }

    fn is_sought(&self, row: &Blog) -> bool {
        self.domains().any(|domain| row.domain.eq_ignore_ascii_case(domain))
            && self.paths().any(|path| row.path.eq_ignore_ascii_case(&path))
    }
}

/// WordPress's result for a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Picked {
    Blog(Arc<Blog>),
    /// No site: WordPress redirects, or answers that there is none.
    None,
    /// The site is uncertain.
    Unsure,
}

/// All sites of a network.
#[derive(Debug, Default)]
pub struct Blogs {
    /// By domain and path in lower case.
    by_place: HashMap<Box<str>, Vec<Arc<Blog>>>,
    /// The number of sites.
    pub count: usize,
    /// The number of those that WordPress does not serve.
    pub closed: usize,
}

impl Blogs {
    /// # Errors
    /// The id of a site whose domain or path the database may confuse with another's.
    pub fn of(rows: Vec<Blog>) -> Result<Self, u64> {
        if let Some(odd) = rows.iter().find(|row| !row.is_plain()) {
            return Err(odd.id);
        }
        let mut blogs = Blogs { count: rows.len(), ..Blogs::default() };
        blogs.closed = rows.iter().filter(|row| row.closed.is_some()).count();
        for row in rows {
            blogs.by_place.entry(key(&row.domain, &row.path)).or_default().push(Arc::new(row));
        }
        Ok(blogs)
    }

    /// All sites, in the order of their ids.
    pub fn all(&self) -> Vec<Arc<Blog>> {
        let mut all: Vec<Arc<Blog>> = self.by_place.values().flatten().cloned().collect();
        all.sort_by_key(|blog| blog.id);
        all
    }

    /// The site at `place`.
    pub fn at(&self, place: &Place) -> Picked {
        let rows: Vec<Arc<Blog>> = place
            .domains()
            .flat_map(|domain| place.paths().map(move |path| key(domain, &path)))
            .filter_map(|key| self.by_place.get(&key))
            .flatten()
            .cloned()
            .collect();
        place.pick(&rows)
    }
}

fn key(domain: &str, path: &str) -> Box<str> {
    let mut key = domain.to_ascii_lowercase();
    key.push('\n');
    key.extend(path.chars().map(|letter| letter.to_ascii_lowercase()));
    key.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blog(id: u64, domain: &str, path: &str) -> Blog {
        Blog { id, network: 1, domain: domain.to_owned(), path: path.to_owned(), closed: None }
    }

    /// The sites of the network whose exchanges were recorded, and some that are hard to
    /// distinguish.
    fn blogs() -> Blogs {
        Blogs::of(vec![
            blog(1, "net.test", "/"),
            blog(2, "net.test", "/two/"),
            blog(3, "mapped.test", "/"),
            blog(10, "mapped.test", "/deep/"),
            blog(11, "www.shop.test", "/"),
            blog(12, "www.net.test", "/"),
            blog(13, "port.test:8080", "/"),
            blog(14, "net.test", "/Upper/"),
            blog(15, "net.test", "/twice/"),
            blog(16, "net.test", "/twice/"),
            blog(17, "Case.test", "/"),
        ])
        .unwrap()
    }

    fn at(host: &str, path: &str) -> Option<Result<u64, &'static str>> {
        Some(match blogs().at(&Place::of(host, path, &Layout::default())?) {
            Picked::Blog(blog) => Ok(blog.id),
            Picked::None => Err("none"),
            Picked::Unsure => Err("unsure"),
        })
    }

    const REST: &str = "/wp-json/jwt-auth/v1/token/refresh";

    #[test]
    fn a_site_is_found_as_wordpress_finds_it() {
        for (host, path, found) in [
            ("net.test", "", Ok(1)),
            ("net.test", "/two", Ok(2)),
            ("NET.test", "/two", Ok(2)),
            ("net.test:80", "/two", Ok(2)),
            ("net.test:443", "/two", Ok(2)),
            // The longer domain takes precedence over the longer path.
            ("www.net.test", "/two", Ok(12)),
            ("mapped.test", "", Ok(3)),
            ("mapped.test", "/deep", Ok(10)),
            ("www.mapped.test", "/deep", Ok(10)),
            ("www.shop.test", "", Ok(11)),
            ("port.test:8080", "", Ok(13)),
            // Only one segment counts; then the route is not below these.
            ("net.test", "/nosuch", Ok(1)),
            ("net.test", "/two/nosuch", Ok(2)),
            // `www.` is not added.
            ("shop.test", "", Err("none")),
            ("net.test:8181", "", Err("none")),
            ("port.test", "", Err("none")),
            ("net.test:80:80", "", Err("none")),
            ("unknown.test", "", Err("none")),
            // MySQL does not distinguish these, and another collation might.
            ("net.test", "/TWO", Err("unsure")),
            ("net.test", "/upper", Err("unsure")),
            ("case.test", "", Err("unsure")),
            ("net.test", "/twice", Err("unsure")),
            ("net.test", "/Upper", Ok(14)),
        ] {
            assert_eq!(at(host, &format!("{path}{REST}")), Some(found), "{host}{path}");
        }
        let place = Place::of("net.test", REST, &Layout::default()).unwrap();
        let first = Blogs::of(vec![blog(1, "Net.test", "/")]).unwrap().at(&place);
        assert!(matches!(first, Picked::Blog(blog) if blog.id == 1), "as on a single site, case does not count");
        assert_eq!(at("mapped.test", "/"), Some(Ok(3)), "?rest_route=");
        assert_eq!(at("mapped.test", "/index.php/wp-json/"), Some(Ok(3)));
    }

    #[test]
    fn a_network_at_a_path_has_its_sites_below_it() {
        let sites = Blogs::of(vec![
            blog(5, "net.test", "/net/"),
            blog(2, "net.test", "/net/two/"),
            blog(3, "mapped.test", "/"),
            blog(4, "mapped.test", "/net/"),
            blog(6, "net.test", "/two/"),
        ])
        .unwrap();
        let layout = Layout { main: 5, ..Layout::default() }.at("net.test", "/net/");
        for (host, path, found) in [
            ("net.test", "/net", Some(5)),
            ("net.test", "/net/two", Some(2)),
            // One segment after the network's own, not more.
            ("net.test", "/net/two/more", Some(2)),
            ("net.test", "/net/nosuch", Some(5)),
            ("net.test", "/two", Some(6)),
            ("net.test", "", None),
            // On other domains the network has no path.
            ("mapped.test", "/net", Some(4)),
            ("mapped.test", "/net/two", Some(4)),
            ("mapped.test", "", Some(3)),
        ] {
            let place = Place::of(host, &format!("{path}{REST}"), &layout).unwrap();
            let is = match sites.at(&place) {
                Picked::Blog(blog) => Some(blog.id),
                _ => None,
            };
            assert_eq!(is, found, "{host}{path}");
        }
        assert_eq!(Place::of("net.test", "/net//two/", &layout), None);
        assert_eq!(
            Place::of("net.test", "/net/", &layout).map(|place| place.paths().collect()),
            Some(vec!["/net/".to_owned(), "/".to_owned()])
        );
    }

    #[test]
    fn what_may_mean_something_else_has_no_place() {
        for (host, path) in [
            ("net.test.", "/two/"),
            ("", "/two/"),
            (":80", "/two/"),
            ("net.test:x", "/"),
            ("net test", "/"),
            ("[::1]", "/"),
            ("ü.test", "/"),
            ("net.test", "//two/"),
            ("net.test", "/t%77o/"),
            ("net.test", "/../"),
            ("net.test", "/./"),
            ("net.test", "/a\\b/"),
            ("net.test", "two/"),
            ("net.test", ""),
        ] {
            assert_eq!(at(host, path), None, "{host} {path}");
        }
        // A path of the longest possible site, and one byte more.
        let path = |length: usize| format!("/{}/", "p".repeat(length - 2));
        assert_eq!((at("net.test", &path(100)), at("net.test", &path(101))), (Some(Ok(1)), None));
        let host = |length: usize| format!("{}.net.test", "h".repeat(length - ".net.test".len()));
        assert_eq!((at(&host(LONGEST_HOST), "/"), at(&host(LONGEST_HOST + 1), "/")), (Some(Err("none")), None));
    }

    #[test]
    fn a_row_that_the_server_takes_for_another_makes_it_unsure() {
        let place = Place::of("net.test", "/two/", &Layout::default()).unwrap();
        let rows = |odd| [blog(2, "net.test", "/two/"), odd].map(Arc::new);
        assert!(matches!(place.pick(&rows(blog(1, "net.test", "/"))), Picked::Blog(found) if found.id == 2));
        assert_eq!(place.pick(&rows(blog(5, "net.test", "/twö/"))), Picked::Unsure);
        assert_eq!(Blogs::of(rows(blog(5, "net.test", "/twö/")).map(|row| (*row).clone()).into()).unwrap_err(), 5);
        assert_eq!(Blogs::of(vec![blog(6, "net.test ", "/")]).unwrap_err(), 6);
    }

    #[test]
    fn what_wordpress_does_not_serve() {
        for (archived, spam, deleted, closed) in [
            (0, 0, 0, None),
            (1, 0, 0, Some("archived")),
            (2, 0, 0, Some("archived")),
            (0, 1, 0, Some("marked as spam")),
            (0, 0, 1, Some("deleted")),
            (0, 0, 2, Some("not activated yet")),
            (1, 1, 1, Some("deleted")),
        ] {
            assert_eq!(Blog::closed(archived, spam, deleted), closed, "{archived} {spam} {deleted}");
        }
    }
}
