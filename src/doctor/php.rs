//! Finds out what only PHP knows: which of the site's own code changes the plugin's responses, and
//! whether the keys found in `wp-config.php` are those that PHP has. Asks PHP's command line, if
//! installed; see `probe.php`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use nix::unistd::{Uid, User};
use serde::Deserialize;
use sha2::Sha256;
use tokio::process::Command;
use tokio::time::timeout;

use super::blocks::{self, AT_LOGIN, Callback, EARLY, REFUSING, UNSEEN};
use super::client::SiteAddress;
use crate::config::Secret;
use crate::finding::{Area, Finding};
use crate::wordpress::installation::Installation;
use crate::wordpress::site::Site;

/// How long WordPress with all its plugins may take to start.
const LIMIT: Duration = Duration::from_secs(10);

const PROBE: &str = include_str!("probe.php");

/// The hooks of WordPress that every response of its REST API passes, and those of its salt; each
/// with what it decides.
const ANSWERS: [(&str, &str); 10] = [
    ("rest_request_after_callbacks", "the answer"),
    ("rest_post_dispatch", "the answer, its status and its header fields"),
    ("rest_pre_serve_request", "how the answer is sent, and its header fields"),
    ("rest_pre_echo_response", "the body"),
    ("rest_send_nocache_headers", "Expires and Cache-Control"),
    ("rest_exposed_cors_headers", "Access-Control-Expose-Headers"),
    ("rest_allowed_cors_headers", "Access-Control-Allow-Headers"),
    ("http_origin", "Access-Control-Allow-Origin"),
    ("rest_url_prefix", "the path of the REST API"),
    ("salt", "the salt"),
];

/// The users that web servers usually run PHP as, if the files belong to root.
const USUAL_USERS: [&str; 4] = ["www-data", "apache", "nginx", "http"];

/// What the probe prints.
#[derive(Deserialize)]
struct Said {
    php: String,
    wordpress: String,
    handlers: Vec<Handler>,
    hooks: Vec<Hook>,
    salt: String,
    key: Option<String>,
}

/// The handler of the refresh route.
#[derive(Deserialize)]
struct Handler {
    name: String,
    file: String,
    line: u64,
    /// Whether it belongs to the plugin itself.
    own: bool,
}

/// A callback of the site's own code.
#[derive(Deserialize)]
struct Hook {
    hook: String,
    priority: serde_json::Value,
    name: String,
    file: String,
    line: u64,
    /// Whether the filter is the plugin's rather than WordPress's.
    of_plugin: bool,
    /// See [`Callback::home`].
    home: String,
    /// Whether it was added only when WordPress set up its REST API, and so runs for that only.
    #[serde(default)]
    late: bool,
}

/// Why PHP gave no answer.
enum Silent {
    Unwanted,
    NoPhp,
    NoWordPress,
    NoUser,
    Failed(String),
    TimedOut,
}

/// The finding if PHP was not to be run.
pub fn not_run() -> Finding {
    silent(&Silent::Unwanted)
}

/// Asks PHP.
pub async fn look(
    installation: &Installation,
    site: &Site,
    place: &SiteAddress,
    secret: Option<&Secret>,
) -> Vec<Finding> {
    let mut bytes = [0; 16];
    if getrandom::fill(&mut bytes).is_err() {
        return vec![silent(&Silent::Failed("no random bytes from the operating system".to_owned()))];
    }
    let nonce: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    match timeout(LIMIT, ask(installation, site, place, &nonce)).await.unwrap_or(Err(Silent::TimedOut)) {
        Ok(said) => judge(&said, &nonce, &site.auth_salt, secret),
        Err(why) => vec![silent(&why)],
    }
}

async fn ask(installation: &Installation, site: &Site, place: &SiteAddress, nonce: &str) -> Result<Said, Silent> {
    let load = wordpress(installation).ok_or(Silent::NoWordPress)?;
    let scheme = place.scheme.name();
    let mut php = Command::new("php");
    // SECURITY: wp-config.php may read variables, but the sidecar's own contain secrets.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WP_JWT_SIDECAR_") {
            php.env_remove(name);
        }
    }
    if Uid::effective().is_root() {
        // SECURITY: the site's code must not run as root.
        let user = runner(&load).ok_or(Silent::NoUser)?;
        php.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    php.args(["-d", "memory_limit=512M", "-d", "sendmail_path=/bin/true", "-r", PROBE, "--"])
        .arg(&load)
        .args([place.host.as_str(), scheme, &*site.plugin, nonce])
        .args([
            [names_of_answers().as_slice(), &REFUSING, &AT_LOGIN].concat().join(","),
            EARLY.join(","),
            blocks::folders().collect::<Vec<_>>().join(","),
        ])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // SECURITY: PHP's messages can quote passwords.
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let output = php.output().await.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Silent::NoPhp,
        _ => Silent::Failed(error.to_string()),
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let said = text.lines().rev().find_map(|line| line.strip_prefix(nonce));
    said.and_then(|said| serde_json::from_str(said).ok())
        .ok_or_else(|| Silent::Failed(format!("it ended with {} and without an answer", output.status)))
}

/// `wp-load.php`: beside the plugins directory, or beside `wp-config.php`.
fn wordpress(installation: &Installation) -> Option<PathBuf> {
    let below_plugins = installation.plugins_dir.as_deref().and_then(|plugins| plugins.parent()?.parent());
    let beside_config = installation.config_file.as_deref().and_then(Path::parent);
    [beside_config, below_plugins]
        .into_iter()
        .flatten()
        .map(|root| root.join("wp-load.php"))
        .find(|load| load.is_file())
}

/// The owner of the site's files, unless that is root; otherwise the usual user of a web server.
fn runner(load: &Path) -> Option<User> {
    use std::os::unix::fs::MetadataExt as _;
    let root = load.parent()?;
    let places = [load.to_owned(), root.to_owned(), root.join("wp-content"), root.join("wp-content/uploads")];
    let owner = places.iter().filter_map(|place| place.metadata().ok()).map(|file| file.uid()).find(|uid| *uid != 0);
    match owner {
        Some(uid) => User::from_uid(Uid::from_raw(uid)).ok().flatten(),
        None => USUAL_USERS.iter().find_map(|name| User::from_name(name).ok().flatten()),
    }
}

fn silent(why: &Silent) -> Finding {
    let id = "customized.php";
    let by_hand = "To see it by hand, look for add_filter( 'jwt_auth…' ) in the site's themes, plugins and mu-plugins: what \
                   they change, the sidecar does not.";
    match why {
        Silent::Unwanted => {
            let what =
                "the site's own code was not run (--no-php): whether it changes what the plugin answers is not known";
            Finding::ok(Area::Customized, id, what).with_hint(by_hand)
        }
        Silent::NoPhp => {
            let what = "there is no PHP command line here (php in $PATH): whether code of the site's own changes what the \
                        plugin answers is not known";
            Finding::ok(Area::Customized, id, what).with_hint(format!("Install it (Debian: php-cli). {by_hand}"))
        }
        Silent::NoWordPress => {
            let what = "WordPress's files are not beside wp-config.php on this machine: whether code of the site's own changes \
                        what the plugin answers is not known";
            Finding::ok(Area::Customized, id, what).with_hint(by_hand)
        }
        Silent::NoUser => {
            let what = "the site's files belong to root, and there is none of the usual users of a web server: the site's code \
                        was not run, for it must not run as root";
            Finding::ok(Area::Customized, id, what)
                .with_hint("Run the doctor as the user that PHP runs as: `sudo -u USER wp-jwt-sidecar doctor`.")
        }
        Silent::Failed(why) => {
            let what = format!("WordPress could not be started by PHP's command line: {why}");
            let fix = format!(
                "Try `php wp-load.php` as PHP's user; the command line may miss extensions that the web server's PHP has. {by_hand}"
            );
            Finding::warning(Area::Customized, id, what, fix)
        }
        Silent::TimedOut => {
            let what = format!("WordPress was not started by PHP's command line within {LIMIT:?}");
            Finding::warning(
                Area::Customized,
                id,
                what,
                format!("Something in it waits: a cache server, a remote file. {by_hand}"),
            )
        }
    }
}

/// Pure.
fn judge(said: &Said, nonce: &str, salt: &Secret, secret: Option<&Secret>) -> Vec<Finding> {
    let versions = format!("PHP {}, WordPress {}", said.php, said.wordpress);
    let mut findings = Vec::new();
    let changes: Vec<&Hook> = said.hooks.iter().filter(|hook| hook.of_plugin).collect();
    let answers: Vec<&Hook> = said.hooks.iter().filter(|hook| hook.decides().is_some()).collect();
    if changes.is_empty() {
        let what = format!(
            "looked at: the plugin's own filters (jwt_auth…) and {}, in WordPress as PHP's command line starts it ({versions}). No \
             callback but the plugin's own was on the plugin's filters",
            names_of_answers().join(", ")
        );
        let mut finding = Finding::ok(Area::Customized, "customized.filters", what).with_hint(UNSEEN);
        if !answers.is_empty() {
            finding = finding
                .with_hint(format!(
                    "{UNSEEN} These hook into every answer of the REST API and do not run for answers of the sidecar. What they \
                     make of refusals is seen below, where answers are compared; of one that succeeds, with --with-token:"
                ))
                .with_lines(answers.iter().map(|hook| hook.line_of_text()));
        }
        findings.push(finding);
    } else {
        let what = format!(
            "code of the site's own hooks into the plugin's filters ({versions}); it does not run for refreshes that the \
             sidecar answers"
        );
        let fix = "If what it changes matters to clients (claims, answers, refusals), set refresh.mode to \"forward\". A private \
                    key that it supplies goes into jwt.private_key_file.";
        findings.push(
            Finding::warning(Area::Customized, "customized.filters", what, fix)
                .with_lines(changes.iter().chain(&answers).map(|hook| hook.line_of_text())),
        );
    }
    let refusing: Vec<Callback<'_>> = said
        .hooks
        .iter()
        .filter(|hook| !hook.of_plugin && hook.decides().is_none())
        .map(|hook| Callback { hook: &hook.hook, home: &hook.home, line: hook.line_of_text() })
        .collect();
    findings.push(blocks::callbacks(&refusing));
    findings.extend(rivals(&said.handlers));
    findings.extend(keys(said, nonce, salt, secret));
    findings
}

impl Hook {
    fn line_of_text(&self) -> String {
        let decides = self.decides().map(|what| format!("; decides {what}")).unwrap_or_default();
        let late = if self.late { "; added in rest_api_init" } else { "" };
        format!(
            "{} (priority {}): {} in {}:{}{decides}{late}",
            self.hook, self.priority, self.name, self.file, self.line
        )
    }

    /// For [`ANSWERS`]: what the hook decides.
    fn decides(&self) -> Option<&'static str> {
        ANSWERS.iter().find(|(hook, _)| *hook == self.hook).map(|(_, what)| *what)
    }
}

fn names_of_answers() -> Vec<&'static str> {
    ANSWERS.iter().map(|(hook, _)| *hook).collect()
}

fn rivals(handlers: &[Handler]) -> Option<Finding> {
    if handlers.iter().all(|handler| handler.own) {
        return None;
    }
    let what = "the refresh route is registered by other code than the plugin's";
    let fix = "Deactivate the plugin that it belongs to, or, if it is meant so, set refresh.mode to \"forward\".";
    let lines = handlers.iter().map(|handler| {
        let own = if handler.own { " (the plugin's own)" } else { "" };
        format!("{} in {}:{}{own}", handler.name, handler.file, handler.line)
    });
    Some(Finding::problem(Area::Plugin, "plugin.rival", what, fix).with_lines(lines))
}

/// Whether PHP has the same salt and the same key. Only their HMACs are compared.
fn keys(said: &Said, nonce: &str, salt: &Secret, secret: Option<&Secret>) -> Vec<Finding> {
    let id = "keys.same";
    let is_same = |ours: &Secret, theirs: &str| hmac(nonce, ours).as_deref() == Some(theirs);
    let fix = "Is this the site's own wp-config.php, and does the sidecar have PHP's environment variables? A filter `salt` in \
                the site's code changes it as well. Set wordpress.auth_key and wordpress.auth_salt, or jwt.secret_file.";
    let mut findings = Vec::new();
    if !is_same(salt, &said.salt) {
        let what =
            "wp_salt( 'auth' ) is another in PHP than the sidecar has: WordPress treats its access tokens as revoked";
        findings.push(Finding::problem(Area::Keys, id, what, fix));
    }
    if let (Some(secret), Some(key)) = (secret, &said.key)
        && !is_same(secret, key)
    {
        let what = "JWT_AUTH_SECRET_KEY is another in PHP than the key that the sidecar signs with: WordPress refuses its tokens";
        findings.push(Finding::problem(Area::Keys, id, what, fix));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(Area::Keys, id, "PHP has the same salt and signing key as the sidecar"));
    }
    findings
}

fn hmac(nonce: &str, secret: &Secret) -> Option<String> {
    let mut hmac = Hmac::<Sha256>::new_from_slice(nonce.as_bytes()).ok()?;
    hmac.update(secret.expose().as_bytes());
    Some(hmac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Level;

    fn said(hooks: Vec<Hook>, handlers: Vec<Handler>) -> Said {
        let of = |text: &str| hmac("nonce", &Secret::new(text)).unwrap();
        let (php, wordpress) = ("8.2".to_owned(), "6.8".to_owned());
        Said { php, wordpress, handlers, hooks, salt: of("the salt"), key: Some(of("the key")) }
    }

    fn levels(said: &Said, salt: &str, key: &str) -> Vec<(&'static str, Level)> {
        let findings = judge(said, "nonce", &Secret::new(salt), Some(&Secret::new(key)));
        findings.iter().map(|finding| (finding.id, finding.level)).collect()
    }

    fn hook(of_plugin: bool) -> Hook {
        Hook {
            hook: "jwt_auth_x".to_owned(),
            priority: serde_json::json!(10),
            name: "shop_claims".to_owned(),
            file: "/srv/mu.php".to_owned(),
            line: 3,
            of_plugin,
            home: String::new(),
            late: false,
        }
    }

    #[test]
    fn code_of_the_sites_own_and_other_keys_are_told() {
        let refusals = ("customized.refusals", Level::Ok);
        let good = [("customized.filters", Level::Ok), refusals, ("keys.same", Level::Ok)];
        assert_eq!(levels(&said(vec![], vec![]), "the salt", "the key"), good);
        assert_eq!(levels(&said(vec![hook(false)], vec![]), "the salt", "the key"), good);
        let warned = [("customized.filters", Level::Warning), refusals, ("keys.same", Level::Ok)];
        assert_eq!(levels(&said(vec![hook(true)], vec![]), "the salt", "the key"), warned);
        let other = levels(&said(vec![], vec![]), "another salt", "another key");
        assert_eq!(other.iter().filter(|finding| **finding == ("keys.same", Level::Problem)).count(), 2);
        let mut closes = hook(false);
        (closes.hook, closes.home) = ("rest_authentication_errors".to_owned(), "mu-plugins".to_owned());
        let warned =
            [("customized.filters", Level::Ok), ("customized.refusals", Level::Warning), ("keys.same", Level::Ok)];
        assert_eq!(levels(&said(vec![closes], vec![]), "the salt", "the key"), warned);
        assert_eq!(hook(true).line_of_text(), "jwt_auth_x (priority 10): shop_claims in /srv/mu.php:3");
    }

    #[test]
    fn what_hooks_on_every_answer_decide_is_said() {
        let mut origin = hook(false);
        (origin.hook, origin.late) = ("http_origin".to_owned(), true);
        let findings = judge(&said(vec![origin], vec![]), "nonce", &Secret::new("the salt"), None);
        let line = "http_origin (priority 10): shop_claims in /srv/mu.php:3; decides Access-Control-Allow-Origin; added in \
                    rest_api_init";
        assert_eq!((findings[0].level, findings[0].lines.as_slice()), (Level::Ok, [line.to_owned()].as_slice()));
        assert!(findings[1].lines.is_empty(), "it refuses nothing: {:?}", findings[1]);
    }
}
