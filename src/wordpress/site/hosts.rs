//! The hosts that clients reach the site by, and what WordPress says its home URL is on each.
//!
//! Behind one web server there may be other sites, and on a network every site has its own host or path. Certain to be
//! for this site are calls for the home URL's own host and for those in `[wordpress] hosts`. On any other host a call
//! may be answered only where its token proves that it is for this site: see [`Called::Elsewhere`].

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{NotNative, PATIENCE, Site, Sites, StoredHome, usable};
use crate::client_addr::Scheme;
use crate::route::RouteForms;
use crate::wordpress::home::{Home, Question, Word};
use crate::wordpress::network::blog;

/// The longest valid host name (RFC 1035, section 2.3.4), and a port.
const LONGEST_HOST: usize = 255 + ":65535".len();

/// What a call was made to.
pub enum Called {
    /// A host that is certain to be this site's.
    Here(Arc<Home>),
    /// A host that only the client has named: a live token of this site's is exchanged there, and all other calls are
    /// WordPress's. With the question to WordPress about its home URL there.
    Elsewhere(Question),
}

/// A host in `[wordpress] hosts`, and its home URL.
pub struct NamedHost {
    /// As it is configured.
    pub host: String,
    /// What WordPress says there, or why refreshes are left to it.
    pub home: Result<Arc<Home>, NotNative>,
}

/// What WordPress is asked about the site's own hosts.
pub(super) struct Questions {
    /// About the home URL's own.
    pub(super) own: ByScheme,
    named: Vec<ByScheme>,
    /// `WP_HOME` is made of the request: another spelling of the host makes another home URL.
    depends_on_host: bool,
}

/// About one host.
pub(super) struct ByScheme {
    http: Question,
    https: Question,
}

impl ByScheme {
    fn new(stored_home: &str, host: Option<&str>, forms: &RouteForms, depends_on_host: bool) -> Self {
        let question = |scheme| {
            // A stored https home stays https whatever the request came by: one question for both. Code that makes it
            // of the host may do otherwise.
            let is_https = stored_home.starts_with("https:") && host.is_none() && !depends_on_host;
            let scheme = if is_https { Scheme::Https } else { scheme };
            let host = host.map(str::to_owned);
            Question { stored_home: stored_home.to_owned(), host, scheme, forms: forms.clone() }
        };
        ByScheme { http: question(Scheme::Http), https: question(Scheme::Https) }
    }

    pub(super) fn by(&self, scheme: Scheme) -> &Question {
        match scheme {
            Scheme::Http => &self.http,
            Scheme::Https => &self.https,
        }
    }

    pub(super) fn stored_home(&self) -> &str {
        &self.http.stored_home
    }

    fn host(&self) -> &str {
        self.http.host.as_deref().unwrap_or_else(|| authority_of(self.stored_home()))
    }
}

impl Questions {
    /// `own`: the host to ask at in place of the home URL's.
    pub(super) fn new(
        stored_home: &str,
        own: Option<&str>,
        forms: &RouteForms,
        hosts: &[String],
        depends_on_host: bool,
    ) -> Self {
        let about = |host| ByScheme::new(stored_home, host, forms, depends_on_host);
        let named = hosts.iter().map(|host| about(Some(host))).collect();
        Questions { own: about(own), named, depends_on_host }
    }

    /// Whether `host`, as a request has it, is `known`. A default port is the same as none.
    fn is(&self, host: &str, known: &str, home: &str) -> bool {
        if self.depends_on_host { host == known } else { is_same(host, known, home) }
    }
}

impl Sites {
    /// What a call for `host` that came by `scheme` was made to, and the home URL there, or why that is not known.
    ///
    /// # Errors
    /// The call is WordPress's: [`NotNative::OtherHost`] for its host, anything else for the site.
    pub fn called(&self, site: &Site, host: &str, scheme: Scheme) -> Result<Called, NotNative> {
        if self.blog().is_some() {
            return self.home_of_blog(site, host, scheme).map(Called::Here);
        }
        let questions = match &site.home {
            StoredHome::Given(home) => {
                let is_here = |known: &str| is_same(host, known, &home.url);
                let is_own = is_here(authority_of(&home.url)) || self.hosts.iter().any(|named| is_here(named));
                return if is_own { Ok(Called::Here(Arc::clone(home))) } else { Err(NotNative::OtherHost) };
            }
            StoredHome::Stored(questions) => questions,
        };
        let stored_home = questions.own.stored_home();
        if let Some(named) = questions.named.iter().find(|named| questions.is(host, named.host(), stored_home)) {
            return self.home_of_named(questions, named, scheme).map(Called::Here);
        }
        let home = self.home(site, scheme)?;
        let own = authority_of(&home.url);
        if questions.is(host, own, &home.url) {
            if is_same(own, questions.own.host(), stored_home) {
                return Ok(Called::Here(home));
            }
            // WordPress's own code has moved the home URL to another host than the one that was asked.
            let question = questions.elsewhere(own, scheme);
            return usable(self.homes.known(&question), &question).map(Called::Here);
        }
        // On a network the tokens of all sites are in one table, and a host may be any one's.
        if self.installation.multisite || !is_host(host) {
            return Err(NotNative::OtherHost);
        }
        Ok(Called::Elsewhere(questions.elsewhere(host, scheme)))
    }

    /// What a further site of a network has as its home URL for calls to `host`, where the network has found it.
    // SECURITY: WordPress must say so itself for this very host and path. `sunrise.php`, or a plugin that maps domains, may have
    // picked another site, whose tokens are not in this one's table.
    pub(super) fn home_of_blog(&self, site: &Site, host: &str, scheme: Scheme) -> Result<Arc<Home>, NotNative> {
        let question = self.question_of_blog(site, host, scheme).ok_or(NotNative::OtherHost)?;
        let home = usable(self.homes.known_lately(&question), &question)?;
        if without_scheme(&home.url) == without_scheme(&question.stored_home) {
            Ok(home)
        } else {
            Err(NotNative::OtherSite(home.url.clone()))
        }
    }

    fn question_of_blog(&self, site: &Site, host: &str, scheme: Scheme) -> Option<Question> {
        let StoredHome::Stored(questions) = &site.home else { return None };
        let plain = blog::wordpress_host(host)?;
        // Code that sees the host before WordPress does may tell apart what WordPress does not.
        (plain == host || !self.installation.sunrise).then(|| questions.elsewhere(&plain, scheme))
    }

    /// Waits for what [`Sites::called`] needs of WordPress where nothing keeps that fresh but calls: of a network's further sites.
    pub async fn wait_for_home(&self, site: &Site, host: &str, scheme: Scheme) {
        if self.blog().is_some()
            && let Some(question) = self.question_of_blog(site, host, scheme)
        {
            // It goes on where this ends, and the next call finds it.
            let _ = timeout(PATIENCE, self.homes.ask_lately(&question)).await;
        }
    }

    /// The home URL on a host that only a client has named, if WordPress has answered for it. With `may_ask` it is
    /// asked, and the call does not wait for that.
    // SECURITY: another site of the same web server may answer for the host, and would choose the issuer.
    pub fn home_elsewhere(&self, site: &Site, question: &Question, may_ask: bool) -> Option<Arc<Home>> {
        let home = usable(self.homes.known_of_other(question, may_ask), question).ok()?;
        let own = self.home(site, question.scheme).ok()?;
        let asked = question.host.as_deref()?;
        let is_ours = [asked, authority_of(&own.url)].iter().any(|host| has_name(&home.url, host));
        is_ours.then_some(home)
    }

    /// What WordPress says on each host in `[wordpress] hosts`, as far as it was asked. Asks again in the background
    /// when it is time.
    pub fn named_hosts(&self, site: &Site) -> Vec<NamedHost> {
        let StoredHome::Stored(questions) = &site.home else { return Vec::new() };
        let named = questions.named.iter();
        named
            .map(|named| NamedHost {
                host: named.host().to_owned(),
                home: self.home_of_named(questions, named, site.usual_scheme()),
            })
            .collect()
    }

    /// As [`Sites::ask_home`] in the usual scheme; and where a host of the site's was never asked for, waits for its
    /// answer, too.
    ///
    /// # Errors
    /// Why the home URL is not known on its own host.
    pub async fn ask_homes(&self, site: &Site) -> Result<Arc<Home>, NotNative> {
        let scheme = site.usual_scheme();
        let home = self.ask_home(site, scheme).await;
        if let StoredHome::Stored(questions) = &site.home {
            let moved = home.as_ref().ok().map(|home| authority_of(&home.url));
            let moved = moved.filter(|own| !is_same(own, questions.own.host(), questions.own.stored_home()));
            let moved = moved.map(|own| questions.elsewhere(own, scheme));
            let named = questions.named.iter().map(|named| named.by(scheme).clone());
            let mut asked: JoinSet<_> = named
                .chain(moved)
                .map(|question| {
                    let homes = Arc::clone(&self.homes);
                    async move { drop(homes.ask_once(&question).await) }
                })
                .collect();
            while asked.join_next().await.is_some() {}
        }
        home
    }

    /// Whether WordPress may have another home URL on a host that it was not asked about: `WP_HOME` is seen to be computed, or it has
    /// named two hosts already, or it has not answered yet for one in `[wordpress] hosts`.
    pub fn home_may_depend_on_host(&self, site: &Site) -> bool {
        let StoredHome::Stored(questions) = &site.home else { return false };
        let is_known =
            |named: &ByScheme| [&named.http, &named.https].iter().any(|asked| self.homes.last(asked).is_some());
        let homes = self.homes.issuers_of(questions.own.stored_home());
        let own = homes.first().map(|home| authority_of(&home.url)).unwrap_or_default();
        let has_several = homes.iter().any(|home| !authority_of(&home.url).eq_ignore_ascii_case(own));
        self.installation.home_is_computed || has_several || !questions.named.iter().all(is_known)
    }

    /// WordPress has answered a call for `host` that was left to it: see
    /// [`Homes::doubt`](crate::wordpress::home::Homes::doubt).
    // SECURITY: only for the site's own hosts. Behind the others there may be sites that refuse every such call.
    pub fn heed_response(&self, host: &str, scheme: Scheme, status: http::StatusCode) {
        let Some(Ok(site)) = self.last_read() else { return };
        if self.blog().is_some() {
            if let Some(question) = self.question_of_blog(&site, host, scheme) {
                self.homes.doubt(&question, status);
            }
            return;
        }
        let StoredHome::Stored(questions) = &site.home else { return };
        let stored_home = questions.own.stored_home();
        let mut own = [&questions.own].into_iter().chain(&questions.named);
        if let Some(own) = own.find(|own| is_same(host, own.host(), stored_home)) {
            self.homes.doubt(own.by(scheme), status);
        } else if let Some(Word::Home(home)) = self.homes.last(questions.own.by(scheme)) {
            let own = authority_of(&home.url);
            if is_same(host, own, &home.url) {
                self.homes.doubt(&questions.elsewhere(own, scheme), status);
            }
        }
    }

    fn home_of_named(&self, questions: &Questions, named: &ByScheme, scheme: Scheme) -> Result<Arc<Home>, NotNative> {
        let question = named.by(scheme);
        let home = usable(self.homes.known(question), question)?;
        if self.installation.multisite {
            let own = questions.own.by(scheme);
            let main = usable(self.homes.known(own), own)?;
            if without_scheme(&main.url) != without_scheme(&home.url) {
                return Err(NotNative::OtherSite(home.url.clone()));
            }
        }
        Ok(home)
    }
}

impl Questions {
    fn elsewhere(&self, host: &str, scheme: Scheme) -> Question {
        Question { host: Some(host.to_owned()), scheme, ..self.own.by(scheme).clone() }
    }
}

/// Whether two spellings mean one host to a site whose home URL is `home`: case and the scheme's own port do not
/// count. A dot at the end does, for a web server may have another site there.
fn is_same(host: &str, other: &str, home: &str) -> bool {
    let is_https = home.split_once("://").is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("https"));
    let default_port = if is_https { ":443" } else { ":80" };
    let plain = |host: &str| host.len() - if host.ends_with(default_port) { default_port.len() } else { 0 };
    let (host, other) = (host.get(..plain(host)), other.get(..plain(other)));
    host.zip(other).is_some_and(|(host, other)| host.eq_ignore_ascii_case(other))
}

/// Whether a client's host can be asked for: a name or an IPv4 address, perhaps with a port.
// SECURITY: it becomes the `Host` of a request of our own.
fn is_host(host: &str) -> bool {
    let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    host.len() <= LONGEST_HOST
        && !name.is_empty()
        && !name.ends_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        && port.is_none_or(|port| matches!(port.len(), 1..=5) && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether the home URL `home` is at `host`. A port does not count: PHP's `SERVER_NAME`, of which a site may make its
/// home URL, has none.
fn has_name(home: &str, host: &str) -> bool {
    without_port(authority_of(home)).eq_ignore_ascii_case(without_port(host))
}

fn without_port(host: &str) -> &str {
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    host.rsplit_once(':').filter(|(_, port)| is_port(port)).map_or(host, |(name, _)| name)
}

fn without_scheme(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, rest)| rest)
}

/// Host and port of a URL.
pub(super) fn authority_of(url: &str) -> &str {
    without_scheme(url).split('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_has_several_spellings() {
        for (host, other, home, same) in [
            ("shop.example", "shop.example", "http://shop.example", true),
            ("SHOP.example:80", "shop.example", "http://shop.example", true),
            ("shop.example", "Shop.example:80", "http://shop.example", true),
            ("shop.example:443", "shop.example", "HTTPS://shop.example", true),
            ("shop.example:443", "shop.example", "http://shop.example", false),
            ("shop.example:80", "shop.example", "https://shop.example", false),
            ("shop.example:8080", "shop.example", "http://shop.example", false),
            ("shop.example.", "shop.example", "http://shop.example", false),
            ("", "shop.example", "http://shop.example", false),
            ("ü", "shop.example", "http://shop.example", false),
        ] {
            assert_eq!(is_same(host, other, home), same, "{host} {other} {home}");
        }
    }

    #[test]
    fn a_home_url_is_at_one_host() {
        for (home, host, is_there) in [
            ("https://shop.example/blog", "SHOP.example", true),
            ("http://shop.example", "shop.example:8080", true),
            ("http://shop.example:8080", "shop.example", true),
            ("https://other.example", "shop.example", false),
            ("https://shop.example.other.example", "shop.example", false),
            ("https://shop.example:pass@other.example", "shop.example", false),
            ("http://[::1]:8080", "[::1]", true),
            ("http://[::1]", "[::2]", false),
            ("", "shop.example", false),
        ] {
            assert_eq!(has_name(home, host), is_there, "{home} {host}");
        }
    }

    #[test]
    fn what_can_be_asked_for_is_a_plain_name() {
        for host in ["a", "shop.example", "SHOP.example:8080", "192.0.2.1", "a_b.example", &"a".repeat(255)] {
            assert!(is_host(host), "{host}");
        }
        for host in [
            "",
            ":80",
            "shop.example.",
            "shop.example.:80",
            "a b",
            "a/b",
            "a@b",
            "[::1]",
            "a:",
            "a:123456",
            "a:b",
            "ü",
            "a\r\nb",
        ] {
            assert!(!is_host(host), "{host:?}");
        }
        assert!(!is_host(&"a".repeat(262)));
    }

    #[test]
    fn a_question_for_each_host_and_scheme() {
        let forms = RouteForms { home_path: String::new(), permalinks: crate::route::Permalinks::Pretty };
        let hosts = ["www.shop.example".to_owned()];
        let about = |home, depends| Questions::new(home, None, &forms, &hosts, depends);
        let fixed = about("https://shop.example", false);
        assert_eq!(fixed.own.by(Scheme::Http), fixed.own.by(Scheme::Https), "https stays https");
        assert_eq!(fixed.named[0].by(Scheme::Http).place(), "http://www.shop.example");
        assert_eq!(fixed.elsewhere("shop.test", Scheme::Http).place(), "http://shop.test");
        assert!(fixed.is("SHOP.example:443", "shop.example", "https://shop.example"));
        let dynamic = about("https://shop.example", true);
        assert_eq!(dynamic.own.by(Scheme::Http).scheme, Scheme::Http, "WP_HOME may be made of the scheme, too");
        assert!(!dynamic.is("SHOP.example", "shop.example", "https://shop.example"));
        assert!(dynamic.is("shop.example", "shop.example", "https://shop.example"));
    }
}
