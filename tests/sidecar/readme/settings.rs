//! The commands and files of docs/wp-config.md, docs/customized-sites.md and the rest of the keys that documents show.

use std::process::Stdio;

use wp_jwt_sidecar::internals::config::keys;

use super::block;
use crate::doctor::real::log_in;
use crate::import::Wordpress;
use crate::support::raw::Connection;
use crate::support::rig::{ROUTE, call_with};
use crate::support::sidecar::command;
use crate::support::site::Site;

const SHOP: &str = "<?php define( 'DB_NAME', 'shop' ); require ABSPATH . 'wp-settings.php';";

#[test]
fn import() {
    let wordpress = Wordpress::with("<?php define( 'DB_NAME', 'shop' ); require ABSPATH . 'wp-settings.php';");
    let text = block("import").replace("www-data", wordpress.user());
    let arguments = text.trim().strip_prefix("sudo wp-jwt-sidecar import ").expect("import");
    assert_eq!(wordpress.constant("DB_NAME", &arguments.split(' ').collect::<Vec<_>>()), "shop");
}

/// The first of these three commands; the others are those of the README and of operating.
#[test]
fn import_of_another_place() {
    let wordpress = Wordpress::with(SHOP);
    let text = block("import-elsewhere");
    let [import, check, reload] = text.lines().collect::<Vec<_>>()[..] else { panic!("not three commands: {text}") };
    let flag = import.strip_prefix("sudo wp-jwt-sidecar import ").unwrap().split(' ').next();
    assert_eq!((flag, keys::find("wordpress.config").unwrap().flag()), (Some("--wp-config"), "wp-config"));
    assert_eq!(wordpress.constant("DB_NAME", &["--user", wordpress.user()]), "shop");
    assert_eq!(check, "sudo runuser -u wp-jwt-sidecar -- wp-jwt-sidecar check");
    assert_eq!(reload, "sudo systemctl reload wp-jwt-sidecar");
}

/// Of two sites in one file each gets its own.
#[test]
fn import_of_one_site_of_several() {
    let by_host = "<?php define( 'DB_NAME', 'shop.example' === $_SERVER['HTTP_HOST'] ? 'shop' : 'other' ); \
                   require ABSPATH . 'wp-settings.php';";
    let wordpress = Wordpress::with(by_host);
    let text = block("import-of-several");
    let arguments: Vec<&str> = text.trim().strip_prefix("sudo wp-jwt-sidecar import ").unwrap().split(' ').collect();
    let ["--config", _, "--host", host, "--output", output] = arguments[..] else { panic!("{arguments:?}") };
    assert!(output.ends_with(".toml"));
    assert_eq!(wordpress.constant("DB_NAME", &["--host", host, "--user", wordpress.user()]), "shop");
}

/// What systemd hands over under the name of the unit is what the configuration names.
#[test]
fn a_copy_of_wp_config_by_systemd() {
    let site = Site::up(&[]);
    let unit = block("credential");
    let (_, credential) = unit.split_once("[Service]\nLoadCredential=").expect("a drop-in");
    let (name, _) = credential.trim().split_once(':').unwrap();
    let directory = tempfile::TempDir::new().unwrap();
    std::fs::copy(site.wp_config(), directory.path().join(name)).unwrap();
    let config = directory.path().join("config.toml");
    std::fs::write(&config, block("credential-key")).unwrap();
    let output = command()
        .args(["check", "--upstream", site.said("UPSTREAM"), "--config", config.to_str().unwrap()])
        .env("CREDENTIALS_DIRECTORY", directory.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// All that can be declared is taken as it is shown.
#[test]
fn what_the_sites_code_adds_declared() {
    let site = Site::up(&[]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), block("declared")).unwrap();
    let check = |more: &[&str]| {
        let arguments = ["check", "--upstream", site.said("UPSTREAM"), "--wp-config", site.said("WP_CONFIG")];
        command().args(arguments).args(more).output().unwrap()
    };
    let output = check(&["--config", file.path().to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    for declared in ["jwt.lifetime", "jwt.claim", "refresh.field", "refresh.omit"] {
        assert!(said.contains(declared), "check does not show {declared}: {said}");
    }
}

/// A real token is used up, and the exit code is one of a doctor that has looked.
#[test]
fn one_real_refresh() {
    let site = Site::up(&[]);
    let token = log_in(&site);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{token}\n")).unwrap();
    let text = block("with-token");
    let (called, input) = text.trim().split_once(" <").expect("a token from a file");
    let arguments = called.strip_prefix("wp-jwt-sidecar ").unwrap().split(' ');
    assert_eq!(input, "/path/to/a/file/with/a/refresh/token");
    let output = command()
        .args(arguments)
        .args(["--no-php", "--upstream-keepalive-idle", "0s", "--upstream", site.said("UPSTREAM")])
        .args(["--wp-config", site.said("WP_CONFIG")])
        .stdin(Stdio::from(std::fs::File::open(file.path()).unwrap()))
        .output()
        .unwrap();
    assert!(matches!(output.status.code(), Some(0..=2)), "{output:?}");
    let mut client = Connection::to(site.upstream());
    let call = call_with(&serde_json::json!({"refresh_token": token}), "").replace("shop.example", site.host());
    client.send(call);
    assert_eq!(client.response().status(), 403, "{ROUTE}: the token was not used");
}
