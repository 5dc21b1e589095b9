//! Obstacles to native refreshes of a site.

use std::sync::Arc;

use crate::wordpress::clock::Apart;
use crate::wordpress::home::{Home, Question, Word};
use crate::wordpress::installation::layout::UnknownMain;

/// Why the route is currently left to WordPress.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotNative {
    /// The site was never read successfully.
    #[error("the site's settings cannot be read: {0}")]
    Unknown(String),
    #[error("the plugin JWT Auth Pro is not active")]
    Inactive,
    /// An option has an invalid value.
    #[error("the option {0} cannot be understood: {1}")]
    Option(&'static str, String),
    /// The plugin's table is not as expected: a rotation would fail, or could not be rolled back.
    #[error("the table {0} cannot be used: {1}")]
    Table(String, String),
    /// The sidecar does not support the site's algorithm.
    #[error("tokens cannot be signed with the site's algorithm {0}: {1}")]
    Algorithm(String, String),
    /// WordPress names its charset in the Content-Type of each response.
    #[error("the site's charset is {0}, not UTF-8")]
    Charset(String),
    /// `wp_salt('auth')` is unknown.
    #[error("the salt wp_salt('auth') is neither in wp-config.php nor in the database")]
    Salt,
    /// Which site is the network's first is unknown.
    #[error("the network's main site is unknown: {0}")]
    OtherBlog(UnknownMain),
    /// The first site of a network has another id than 1, and its row cannot be read.
    #[error("the network's first site has another id than 1, which its tables do not confirm: {0}")]
    UnprovenMain(String),
    /// The option `home` of a network's site differs from where the network has it.
    #[error("its home URL is {0}, and the network has it at {1}")]
    Elsewhere(String, String),
    /// WordPress has not yet answered the question about its home URL.
    #[error("WordPress has not answered {0}/wp-json/ yet")]
    HomeUnknown(String),
    /// WordPress does not have the route.
    #[error("WordPress does not have the route jwt-auth/v1")]
    RouteMissing,
    /// WordPress has closed its REST API, or the site.
    #[error("WordPress answers {0}/wp-json/ with {1} {2}")]
    Refused(String, u16, String),
    /// The filter `rest_url_prefix`.
    #[error("WordPress has its REST API elsewhere than at {0}/wp-json/")]
    Moved(String),
    /// A call for a host on which the web server may have another site.
    #[error("another host than the home URL's and those in wordpress.hosts")]
    OtherHost,
    /// A host in `[wordpress] hosts` is another site of the network.
    #[error("on this host WordPress has the home URL {0}: it is another site of the network")]
    OtherSite(String),
    /// Tokens would not be valid yet, or would end early.
    #[error("the clocks differ too much: {0}")]
    Clocks(Apart),
}

/// The home URL, if WordPress's `word` allows native refreshes with it; otherwise the obstacle.
pub(super) fn usable(word: Option<Word>, question: &Question) -> Result<Arc<Home>, NotNative> {
    match word {
        None => Err(NotNative::HomeUnknown(question.place())),
        Some(Word::Refused { status, code }) => Err(NotNative::Refused(question.place(), status, code)),
        Some(Word::Moved) => Err(NotNative::Moved(question.place())),
        Some(Word::Home(home)) if !home.route_registered => Err(NotNative::RouteMissing),
        // The route was recognised below the stored path; if WordPress has another path, it may not
        // be the route.
        Some(Word::Home(home)) if path_of(&home.url) != question.forms.home_path => {
            Err(NotNative::HomeUnknown(question.place()))
        }
        Some(Word::Home(home)) => Ok(home),
    }
}

pub(super) fn path_of(url: &str) -> &str {
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    after_scheme.find('/').map_or("", |slash| &after_scheme[slash..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_a_home_url() {
        assert_eq!(path_of("https://example.com"), "");
        assert_eq!(path_of("https://example.com/blog"), "/blog");
        assert_eq!(path_of("http://[::1]:8080/a/b"), "/a/b");
        assert_eq!(path_of(""), "");
    }
}
