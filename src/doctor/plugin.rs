//! The plugin: is it active, is it the version that the sidecar was made for, does another one use
//! its route?

use super::blocks;
use super::site;
use crate::finding::{Area, Finding};
use crate::wordpress::options::Settings;
use crate::wordpress::site::Examined;

/// The version whose behaviour the sidecar implements.
const KNOWN_VERSION: &str = "0.2.1";

/// Other plugins with routes in the namespace `jwt-auth/v1`: their file, their name, and whether
/// the refresh route is among them.
const RIVALS: [(&str, &str, bool); 2] = [
    ("jwt-auth/jwt-auth.php", "JWT Auth", true),
    ("jwt-authentication-for-wp-rest-api/jwt-auth.php", "JWT Authentication for WP REST API", false),
];

/// The findings by the site's rows.
pub fn findings(examined: &Examined) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(plugin) = &examined.plugin {
        findings.push(version(plugin, examined.plugin_version.as_deref()));
        findings.extend(examined.active_plugins.iter().filter_map(|active| rival(active)));
        findings.push(blocks::active(&examined.active_plugins));
    }
    findings.extend(examined.settings.as_ref().map(settings));
    findings.extend(examined.obstacles.iter().map(site::obstacle));
    findings
}

fn version(plugin: &str, version: Option<&str>) -> Finding {
    let id = "plugin.active";
    match version {
        Some(KNOWN_VERSION) => Finding::ok(Area::Plugin, id, format!("{plugin} is active, version {KNOWN_VERSION}")),
        other => Finding::warning(
            Area::Plugin,
            "plugin.version",
            format!(
                "{plugin} is active, version {}; the sidecar does what version {KNOWN_VERSION} does",
                other.unwrap_or("unknown")
            ),
            "See below whether WordPress and the sidecar answer alike; if not, set refresh.mode to \"forward\" until the \
             sidecar knows this version.",
        ),
    }
}

fn rival(active: &str) -> Option<Finding> {
    let (file, name, has_route) = RIVALS.iter().find(|(file, ..)| *file == active)?;
    let what = match has_route {
        true => format!("the plugin {name} ({file}) is active too and claims the refresh route for tokens of its own"),
        false => format!("the plugin {name} ({file}) is active too and claims the login route of the same name"),
    };
    let fix = "Deactivate one of the two: which of them answers depends on their order, and the tokens of one are nothing to \
                the other.";
    let finding = if *has_route { Finding::problem } else { Finding::warning };
    Some(finding(Area::Plugin, "plugin.rival", what, fix))
}

fn settings(settings: &Settings) -> Finding {
    let limit = settings.rate_limit.map_or("no rate limit".to_owned(), |limit| {
        format!("{} requests in {} min for each client", limit.max_requests, limit.window_minutes)
    });
    let what = format!(
        "settings: {}, access tokens for {} s, refresh tokens for {} s, {limit}",
        settings.signing_algorithm, settings.jwt_expiration, settings.refresh_token_expiration
    );
    Finding::ok(Area::Plugin, "plugin.settings", what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Level;

    #[test]
    fn versions_and_rivals() {
        assert_eq!(version("a/jwt-auth-pro.php", Some("0.2.1")).level, Level::Ok);
        assert_eq!(version("a/jwt-auth-pro.php", Some("0.3.0")).level, Level::Warning);
        assert_eq!(version("a/jwt-auth-pro.php", None).level, Level::Warning);
        assert_eq!(rival("jwt-auth/jwt-auth.php").map(|finding| finding.level), Some(Level::Problem));
        assert_eq!(rival("akismet/akismet.php"), None);
    }
}
