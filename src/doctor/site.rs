//! Puts into words what keeps the site from being refreshed natively, and how to mend it.

use super::finding::{Area, Finding};
use crate::wordpress::site::NotNative;

/// Puts `obstacle` into words. While it stands, WordPress answers the refreshes, as it did before there was a sidecar.
pub fn obstacle(obstacle: &NotNative) -> Finding {
    let (area, id, mend) = match obstacle {
        NotNative::Unknown(_) => {
            (Area::Database, "site.unknown", "See what is said of the database; the sidecar keeps trying.".to_owned())
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
                 there, the database user may not see it: see what is said of its rights."
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
            "Nothing has to be done: WordPress goes on answering. To refresh natively the option blog_charset must be UTF-8."
                .to_owned(),
        ),
        NotNative::Salt => (
            Area::Keys,
            "keys.salt_unknown",
            "Open the site once, for WordPress to make the salt; or set AUTH_KEY and AUTH_SALT in wp-config.php.".to_owned(),
        ),
        NotNative::OtherBlog => (
            Area::Plugin,
            "site.network",
            "Nothing can be done: only the main site with the id 1 of a network is refreshed natively.".to_owned(),
        ),
        NotNative::HomeUnknown(_) => (
            Area::Upstream,
            "upstream.rest",
            "Open that address by the web server (upstream.url): it must answer with JSON. If it is protected or moved, set \
             wordpress.home to the site's home URL, to the letter."
                .to_owned(),
        ),
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
        // WordPress does all it did before, and there is nothing to mend.
        NotNative::Charset(_) | NotNative::OtherBlog => Finding::warning(area, id, what, mend),
        _ => Finding::problem(area, id, what, mend),
    }
}
