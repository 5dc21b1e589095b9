//! Finds what refuses requests in WordPress, and so does not refuse requests that the sidecar
//! answers: security plugins that are known by name, and callbacks on WordPress's hooks that can
//! refuse requests. Pure; the callbacks come from [`super::php`].

use crate::finding::{Area, Finding};

/// Plugins that refuse requests: directory, name, and kinds of blocks.
const BLOCKERS: [(&str, &str, &str); 20] = [
    ("wordfence", "Wordfence", "addresses, countries, lockouts after failed logins"),
    ("better-wp-security", "Solid Security", "addresses, lockouts after failed logins"),
    ("ithemes-security-pro", "Solid Security Pro", "addresses, lockouts after failed logins"),
    ("all-in-one-wp-security-and-firewall", "All-In-One Security", "addresses, lockouts after failed logins"),
    (
        "limit-login-attempts-reloaded",
        "Limit Login Attempts Reloaded",
        "addresses, countries, lockouts after failed logins",
    ),
    ("loginizer", "Loginizer", "addresses, lockouts after failed logins"),
    ("wps-limit-login", "WPS Limit Login", "lockouts after failed logins"),
    ("wp-cerber", "WP Cerber", "addresses, countries, lockouts after failed logins, the REST API"),
    ("ninjafirewall", "NinjaFirewall", "addresses, requests by rules"),
    ("bulletproof-security", "BulletProof Security", "lockouts after failed logins, requests by rules"),
    ("wp-simple-firewall", "Shield Security", "addresses, lockouts after failed logins"),
    ("defender-security", "Defender Security", "addresses, countries, lockouts after failed logins"),
    ("security-malware-firewall", "Security by CleanTalk", "addresses, countries, lockouts after failed logins"),
    ("iq-block-country", "iQ Block Country", "countries"),
    ("ip2location-country-blocker", "IP2Location Country Blocker", "countries"),
    ("ip-geo-block", "IP Geo Block", "addresses, countries"),
    ("zero-spam", "Zero Spam", "addresses, countries"),
    ("disable-json-api", "Disable REST API", "the REST API for visitors"),
    ("password-protected", "Password Protected", "the site for visitors"),
    ("wp-force-login", "Force Login", "the site for visitors"),
];

/// WordPress's hooks that every request of the REST API passes and whose callbacks can refuse it.
pub const REFUSING: [&str; 6] = [
    "rest_authentication_errors",
    "rest_pre_dispatch",
    "rest_request_before_callbacks",
    "rest_dispatch_request",
    "rest_endpoints",
    "determine_current_user",
];

/// Hooks whose callbacks refuse logins. WordPress does not call these for a refresh either.
pub const AT_LOGIN: [&str; 2] = ["authenticate", "wp_authenticate_user"];

/// Hooks that nearly every plugin uses: only callbacks of [`folders`] count there.
pub const EARLY: [&str; 7] =
    ["muplugins_loaded", "plugins_loaded", "setup_theme", "after_setup_theme", "init", "wp_loaded", "parse_request"];

/// What examining WordPress cannot show.
pub const UNSEEN: &str = "Not seen this way: code that hooks in only for some requests (by address, user or time), a \
                          firewall that runs before WordPress (auto_prepend_file, a drop-in), and what PHP's command \
                          line leaves out.";

/// What to do if WordPress refuses a client that the sidecar serves.
const FIX: &str = "Have the server or CDN in front of the sidecar block addresses and countries: that holds for \
                    everything. Where a block within WordPress must hold for refreshes, set refresh.mode to \
                    \"forward\".";

/// The directories of the plugins that are known to refuse requests.
pub fn folders() -> impl Iterator<Item = &'static str> {
    BLOCKERS.iter().map(|(folder, ..)| *folder)
}

/// The known ones among the active plugins, each of which is `FOLDER/FILE.php`.
pub fn active(plugins: &[String]) -> Finding {
    let id = "customized.blocks";
    let lines: Vec<String> = plugins
        .iter()
        .filter_map(|plugin| {
            let folder = plugin.split('/').next().unwrap_or_default();
            let (_, name, kinds) = BLOCKERS.iter().find(|(known, ..)| *known == folder)?;
            Some(format!("{name} ({plugin}): {kinds}"))
        })
        .collect();
    if lines.is_empty() {
        let what = format!(
            "none of the {} security plugins that the doctor knows by name is active. What another plugin, the theme \
             or a firewall within PHP refuses (an address, a country, a client after failed logins), the sidecar does \
             not refuse",
            BLOCKERS.len()
        );
        return Finding::ok(Area::Customized, id, what).with_hint(FIX);
    }
    let what = "a security plugin is active. Its blocks (an address, a country, a client after failed logins) do not \
                hold for refreshes that the sidecar answers: PHP does not run for them";
    Finding::warning(Area::Customized, id, what, FIX).with_lines(lines)
}

/// A callback on one of WordPress's hooks.
pub struct Callback<'a> {
    pub hook: &'a str,
    /// The plugin's directory, `mu-plugins` or `theme`; empty if it is in none of them.
    pub home: &'a str,
    pub line: String,
}

impl Callback<'_> {
    /// Other plugins are not reported: most of those with such a callback (shops, caches) refuse no
    /// client.
    fn is_suspect(&self) -> bool {
        !AT_LOGIN.contains(&self.hook)
            && (matches!(self.home, "mu-plugins" | "theme") || folders().any(|known| known == self.home))
    }
}

/// Callbacks on [`REFUSING`], [`AT_LOGIN`] and, for known plugins, on [`EARLY`].
pub fn callbacks(callbacks: &[Callback<'_>]) -> Finding {
    let id = "customized.refusals";
    let lines = callbacks.iter().map(|callback| {
        let login = if AT_LOGIN.contains(&callback.hook) { " (for logins only, which WordPress answers)" } else { "" };
        format!("{}{login}", callback.line)
    });
    if callbacks.is_empty() {
        let what = format!(
            "looked at: {} and {}. No callback but WordPress's and the plugin's own was on these hooks, by which code \
             refuses a request",
            REFUSING.join(", "),
            AT_LOGIN.join(", ")
        );
        return Finding::ok(Area::Customized, id, what).with_hint(UNSEEN);
    }
    if callbacks.iter().any(Callback::is_suspect) {
        let what = "code of the site's own is on hooks of WordPress by which it can refuse a request (an address, a \
                    country, a client after failed logins, visitors); it does not run for refreshes that the sidecar \
                    answers";
        return Finding::warning(Area::Customized, id, what, format!("See what it refuses. {FIX} {UNSEEN}"))
            .with_lines(lines);
    }
    let what = "other plugins are on hooks of WordPress by which code can refuse a request. Most of them refuse no \
                client; if one does (an address, a country, a client after failed logins), that does not hold for \
                refreshes that the sidecar answers";
    Finding::ok(Area::Customized, id, what).with_hint(format!("{FIX} {UNSEEN}")).with_lines(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Level;

    #[test]
    fn known_plugins_are_named_with_what_they_block() {
        let plugins = |plugins: &[&str]| active(&plugins.iter().map(|plugin| (*plugin).to_owned()).collect::<Vec<_>>());
        let none = plugins(&["jwt-auth-pro/jwt-auth-pro.php", "woocommerce/woocommerce.php", "hello.php"]);
        assert_eq!((none.level, none.lines.len()), (Level::Ok, 0));
        assert!(none.what.contains("does not refuse"), "it is no all-clear: {}", none.what);
        let two = plugins(&[
            "wordfence/wordfence.php",
            "woocommerce/woocommerce.php",
            "iq-block-country/iq-block-country.php",
        ]);
        assert_eq!(two.level, Level::Warning);
        let wordfence = "Wordfence (wordfence/wordfence.php): addresses, countries, lockouts after failed logins";
        assert_eq!(two.lines, [wordfence, "iQ Block Country (iq-block-country/iq-block-country.php): countries"]);
        // Another plugin's name may begin with Wordfence's.
        assert_eq!(plugins(&["wordfence-helper/x.php"]).level, Level::Ok);
    }

    #[test]
    fn callbacks_that_can_refuse_are_judged_by_whose_they_are() {
        let of = |hook, home| Callback { hook, home, line: format!("{hook} of {home}") };
        let level = |all: &[Callback<'_>]| callbacks(all).level;
        let none = callbacks(&[]);
        assert_eq!(none.level, Level::Ok);
        assert!(none.what.starts_with("looked at: ") && none.fix.is_some_and(|unseen| unseen.starts_with("Not seen")));
        assert_eq!(level(&[of("rest_authentication_errors", "woocommerce")]), Level::Ok);
        assert_eq!(level(&[of("rest_authentication_errors", "mu-plugins")]), Level::Warning);
        assert_eq!(level(&[of("rest_pre_dispatch", "theme"), of("rest_pre_dispatch", "woocommerce")]), Level::Warning);
        assert_eq!(level(&[of("init", "wordfence")]), Level::Warning);
        let login = callbacks(&[of("authenticate", "mu-plugins")]);
        assert_eq!(login.level, Level::Ok, "WordPress does not ask it for a refresh either");
        assert_eq!(login.lines, ["authenticate of mu-plugins (for logins only, which WordPress answers)"]);
    }
}
