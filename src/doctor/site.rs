//! Describes what keeps the site from being refreshed natively, and how to fix it.

use crate::finding::{Area, Finding};
pub use crate::verify::view::CLOSED;
use crate::wordpress::clock::Apart;
use crate::wordpress::installation::layout::UnknownMain;
use crate::wordpress::site::{NamedHost, NotNative};

/// How to synchronise clocks.
pub const BY_NTP: &str =
    "Have all machines set their clocks by NTP (chrony or systemd-timesyncd): `timedatectl` shows whether they do.";

/// Describes `obstacle`. While it exists, WordPress answers refreshes, as without the sidecar.
pub fn obstacle(obstacle: &NotNative) -> Finding {
    let (area, id, fix) = match obstacle {
        NotNative::Unknown(_) => {
            (Area::Database, "site.unknown", "See the findings about the database; the sidecar keeps trying.".to_owned())
        }
        NotNative::Inactive => (
            Area::Plugin,
            "plugin.active",
            "Activate it in WordPress (Plugins, or `wp plugin activate jwt-auth-pro`); until then there is nothing to refresh."
                .to_owned(),
        ),
        NotNative::Option(option, _) => (
            Area::Plugin,
            "plugin.settings",
            format!("Save the settings once more in WordPress, or restore the option {option} from a backup."),
        ),
        NotNative::Table(table, _) => (
            Area::Tables,
            "tables.tokens",
            format!(
                "The plugin makes {table} when it is activated: deactivate and activate it, or update it. If the table is \
                 there, the database user may not see it: see the findings about its rights."
            ),
        ),
        NotNative::Algorithm(..) => (
            Area::Keys,
            "keys.algorithm",
            "Choose another algorithm in the plugin's settings, or give the key with jwt.private_key_file (and \
             jwt.algorithm); HS256, HS384, HS512, RS256, RS384, RS512, ES256, ES384 and EdDSA can be signed with."
                .to_owned(),
        ),
        NotNative::Charset(_) => (
            Area::Plugin,
            "site.charset",
            "Nothing has to be done: WordPress continues to answer. To refresh natively the option blog_charset must be UTF-8."
                .to_owned(),
        ),
        NotNative::Salt => (
            Area::Keys,
            "keys.salt_unknown",
            "Open the site once, for WordPress to make the salt; or set AUTH_KEY and AUTH_SALT in wp-config.php.".to_owned(),
        ),
        NotNative::UnprovenMain(_) => (
            Area::Plugin,
            "site.network",
            "Nothing has to be done: WordPress goes on answering. To refresh natively, make the network's tables usable.".to_owned(),
        ),
        NotNative::OtherBlog(why) => (
            Area::Plugin,
            "site.network",
            match why {
                UnknownMain::Computed(_) => {
                    "Nothing has to be done: WordPress goes on answering. To refresh natively, define this constant as a plain value."
                }
                UnknownMain::NoMultisite => {
                    "Nothing has to be done: WordPress goes on answering. Do not define the constant without moving tables: WordPress \
                     then expects those of the site 1 under other names."
                }
            }
            .to_owned(),
        ),
        NotNative::Elsewhere(..) => (
            Area::Plugin,
            "site.network_place",
            "Nothing has to be done: WordPress continues to answer for this site of the network. To refresh natively, let its \
             domain and path in the network's list of sites be those of its home URL."
                .to_owned(),
        ),
        NotNative::HomeUnknown(_) => (
            Area::Upstream,
            "upstream.rest",
            "Open that address by the web server (upstream.url): it must answer with JSON. If it is protected or moved, set \
             wordpress.home to the site's home URL, to the letter."
                .to_owned(),
        ),
        NotNative::Refused(..) => (Area::Upstream, "upstream.rest", CLOSED.to_owned()),
        NotNative::Moved(_) => (
            Area::Upstream,
            "upstream.rest",
            "The site's code moves its REST API (the filter rest_url_prefix). Nothing has to be done: WordPress continues \
             to answer. To refresh natively it must be at /wp-json/."
                .to_owned(),
        ),
        NotNative::OtherHost | NotNative::OtherSite(_) => (
            Area::Plugin,
            "upstream.hosts",
            "Take the host out of wordpress.hosts: only the main site of a network is refreshed natively.".to_owned(),
        ),
        NotNative::Clocks(apart) => return clocks(apart),
        NotNative::RouteMissing => (
            Area::Plugin,
            "upstream.route",
            "WordPress answers, but without the plugin's routes: look into PHP's error log, and whether the upstream is \
             really the site of this wp-config.php."
                .to_owned(),
        ),
    };
    let what = format!("refreshes are left to WordPress: {obstacle}");
    match obstacle {
        // WordPress works as before, so there is nothing to fix.
        NotNative::Charset(_) | NotNative::OtherBlog(_) | NotNative::UnprovenMain(_) | NotNative::Moved(_) => {
            Finding::warning(area, id, what, fix)
        }
        _ => Finding::problem(area, id, what, fix),
    }
}

/// Describes the state of a host in `[wordpress] hosts`.
pub fn named_host(named: &NamedHost) -> Finding {
    let (id, host) = ("upstream.hosts", &named.host);
    match &named.home {
        Ok(home) => Finding::ok(
            Area::Upstream,
            id,
            format!("on {host} WordPress has the home URL {}: tokens are issued for it", home.url),
        ),
        Err(why) => Finding::warning(
            Area::Upstream,
            id,
            format!("refreshes on {host}, a host in wordpress.hosts, are left to WordPress: {why}"),
            "Does the web server answer for that host, and is it this site? Else take it out of wordpress.hosts.",
        ),
    }
}

/// Describes a difference between two clocks.
pub fn clocks(apart: &Apart) -> Finding {
    let id = "site.clocks";
    if apart.is_too_far() {
        let what = format!("refreshes are left to WordPress: the clocks differ too much: {apart}");
        return Finding::problem(Area::Upstream, id, what, BY_NTP);
    }
    let what = format!("{apart}; tokens are issued by the slowest clock, and end earlier by as much");
    Finding::warning(Area::Upstream, id, what, BY_NTP)
}
