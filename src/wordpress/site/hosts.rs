//! The hosts that clients use for the site, and WordPress's home URL on each.
//!
//! One web server may serve several sites, and on a network each site has its own host or path.
//! Only calls for the home URL's own host and for those in `[wordpress] hosts` are certainly for
//! this site. A call on any other host may only be answered if its token proves that it is for this
//! site: see [`Called::Elsewhere`].

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{NotNative, PATIENCE, Site, Sites, StoredHome, usable};
use crate::client_addr::Scheme;
use crate::route::RouteForms;
use crate::wordpress::home::{Home, Question, Word};
use crate::wordpress::network::blog::{self, LONGEST_HOST};

/// The destination of a call.
pub enum Called {
    /// A host that certainly belongs to this site.
    Here(Arc<Home>),
    /// A host that only the client has named: a live token of this site is exchanged there, and all
    /// other calls are left to WordPress. Contains the question to WordPress about its home URL
    /// there.
    Elsewhere(Question),
}

/// A host in `[wordpress] hosts`, and the home URL on it.
pub struct NamedHost {
    /// As configured.
    pub host: String,
    /// WordPress's answer there, or why refreshes are left to it.
    pub home: Result<Arc<Home>, NotNative>,
}

/// The questions to WordPress about the site's own hosts.
pub(super) struct Questions {
    /// About the home URL's own host.
    pub(super) own: ByScheme,
    named: Vec<ByScheme>,
    /// `WP_HOME` depends on the request: another spelling of the host results in another home URL.
    depends_on_host: bool,
}

/// For one host.
pub(super) struct ByScheme {
    http: Question,
    https: Question,
}

impl ByScheme {
    fn new(stored_home: &str, host: Option<&str>, forms: &RouteForms, depends_on_host: bool) -> Self {
        let question = |scheme| {
            // A stored https home stays https for any scheme of the request: one question for both.
            // Code that computes it from the host may do otherwise.
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
    /// `own` is the host to ask instead of the home URL's.
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

    /// Whether `host`, as in a request, is `known`. A default port counts as none.
    fn is(&self, host: &str, known: &str, home: &str) -> bool {
        if self.depends_on_host { host == known } else { is_same(host, known, home) }
    }
}

impl Sites {
    /// The destination of a call for `host` with `scheme`, and the home URL there, or why it is
    /// unknown.
    ///
    /// # Errors
    /// The call is left to WordPress: [`NotNative::OtherHost`] because of its host, anything else
    /// because of the site.
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
            // The site's own code has moved the home URL to another host than the one that was
            // asked.
            let question = questions.elsewhere(own, scheme);
            return usable(self.homes.known(&question), &question).map(Called::Here);
        }
        // On a network a host may belong to another site.
        if self.installation.multisite || !is_host(host) {
            return Err(NotNative::OtherHost);
        }
        Ok(Called::Elsewhere(questions.elsewhere(host, scheme)))
    }

    /// The home URL of a network's further site for calls to `host`, on the host where the network
    /// has the site.
    // SECURITY: WordPress must itself confirm this very host and path. `sunrise.php`, or a plugin
    // that maps domains, may have chosen another site, whose tokens are not in this one's table.
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
        // Code that sees the host before WordPress may distinguish spellings that WordPress does
        // not.
        (plain == host || !self.installation.sunrise).then(|| questions.elsewhere(&plain, scheme))
    }

    /// Waits for the answers that [`Sites::called`] needs and that only calls keep fresh: for a
    /// network's further sites.
    pub async fn wait_for_home(&self, site: &Site, host: &str, scheme: Scheme) {
        if self.blog().is_some()
            && let Some(question) = self.question_of_blog(site, host, scheme)
        {
            // The question continues if this wait ends, and the next call finds the answer.
            let _ = timeout(PATIENCE, self.homes.ask_lately(&question)).await;
        }
    }

    /// The home URL on a host that only a client has named, if WordPress has answered for it. With
    /// `may_ask` it is asked, without waiting.
    // SECURITY: another site on the same web server may answer for the host, and would choose the
    // issuer.
    pub fn home_elsewhere(&self, site: &Site, question: &Question, may_ask: bool) -> Option<Arc<Home>> {
        let home = usable(self.homes.known_of_other(question, may_ask), question).ok()?;
        let own = self.home(site, question.scheme).ok()?;
        let asked = question.host.as_deref()?;
        let is_ours = [asked, authority_of(&own.url)].iter().any(|host| has_name(&home.url, host));
        is_ours.then_some(home)
    }

    /// WordPress's answer for each host in `[wordpress] hosts`, if there is one. Renews it in the
    /// background when it is time.
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

    /// Like [`Sites::ask_home`] with the usual scheme; also waits for the answers for the site's
    /// other hosts that were never asked for.
    ///
    /// # Errors
    /// Why the home URL is unknown on its own host.
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

    /// Whether WordPress may have another home URL on a host that it was not asked about: `WP_HOME`
    /// is visibly computed, WordPress has already named two hosts, or it has not answered yet for
    /// one in `[wordpress] hosts`.
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
    // SECURITY: only for the site's own hosts. Other hosts may be sites that refuse every such
    // call.
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

/// Whether two spellings mean one host to a site whose home URL is `home`: case and the scheme's
/// default port do not count. A trailing dot does, since a web server may have another site there.
fn is_same(host: &str, other: &str, home: &str) -> bool {
    let is_https = home.split_once("://").is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("https"));
    let default_port = if is_https { ":443" } else { ":80" };
    let plain = |host: &str| host.len() - if host.ends_with(default_port) { default_port.len() } else { 0 };
    let (host, other) = (host.get(..plain(host)), other.get(..plain(other)));
    host.zip(other).is_some_and(|(host, other)| host.eq_ignore_ascii_case(other))
}

/// Whether WordPress can be asked for a client's host: a name or an IPv4 address, with or without a
/// port.
// SECURITY: it becomes the `Host` of a request by the sidecar.
fn is_host(host: &str) -> bool {
    let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    host.len() <= LONGEST_HOST
        && !name.is_empty()
        && !name.ends_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        && port.is_none_or(|port| matches!(port.len(), 1..=5) && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether the home URL `home` is on `host`. A port does not count: PHP's `SERVER_NAME`, from which
/// a site may compute its home URL, has none.
fn has_name(home: &str, host: &str) -> bool {
    without_port(authority_of(home)).eq_ignore_ascii_case(without_port(host))
}

fn without_port(host: &str) -> &str {
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    host.rsplit_once(':').filter(|(_, port)| is_port(port)).map_or(host, |(name, _)| name)
}

pub(super) fn without_scheme(url: &str) -> &str {
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
