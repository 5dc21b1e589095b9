//! A site with the layout of Bedrock, whose `wp-config.php` only PHP can evaluate: one import from
//! PHP suffices, and the sidecar notices changes to the site's files.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::Client;
use crate::support::rig::eventually;
use crate::support::secrets;
use crate::support::sidecar::{Sidecar, command, tells_a_secret};
use crate::support::site::Site;

/// The files of a project, relative to its directory.
const FILES: [(&str, &str); 6] = [
    ("vendor/autoload.php", include_str!("../support/bedrock/autoload.php")),
    ("vendor/composer/autoload_real.php", include_str!("../support/bedrock/autoload_real.php")),
    ("vendor/vlucas/phpdotenv/src/Dotenv.php", include_str!("../support/bedrock/Dotenv.php")),
    ("vendor/roots/wp-config/src/Config.php", include_str!("../support/bedrock/Config.php")),
    ("vendor/oscarotero/env/src/env_function.php", include_str!("../support/bedrock/env_function.php")),
    ("config/application.php", include_str!("../support/bedrock/application.php")),
];

const WP_CONFIG: &str = "<?php\nrequire_once dirname(__DIR__) . '/vendor/autoload.php';\n\
                         require_once dirname(__DIR__) . '/config/application.php';\nrequire_once ABSPATH . 'wp-settings.php';\n";

/// A project around a site's WordPress.
struct Bedrock<'a> {
    site: &'a Site,
    directory: PathBuf,
}

impl<'a> Bedrock<'a> {
    /// Moves the site's WordPress to `www/wp` and its code to `www/app`, and its settings to
    /// `.env`.
    fn of(site: &'a Site) -> Bedrock<'a> {
        let www = Path::new(site.said("ROOT"));
        let directory = www.parent().unwrap().to_owned();
        let constants = fs::read_to_string(site.wp_config()).unwrap();
        let (wordpress, code) = (www.join("wp"), www.join("app"));
        fs::create_dir(&wordpress).unwrap();
        for entry in fs::read_dir(www).unwrap().map(|entry| entry.unwrap()) {
            let name = entry.file_name();
            match name.to_str().unwrap() {
                "wp" | "wp-config.php" => {}
                "wp-content" => fs::rename(entry.path(), &code).unwrap(),
                _ => fs::rename(entry.path(), wordpress.join(&name)).unwrap(),
            }
        }
        let index = "<?php\ndefine( 'WP_USE_THEMES', true );\nrequire __DIR__ . '/wp/wp-blog-header.php';\n";
        fs::write(www.join("index.php"), index).unwrap();
        fs::write(site.wp_config(), WP_CONFIG).unwrap();
        for (name, text) in FILES {
            let path = directory.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let bedrock = Bedrock { site, directory };
        let mut settings = format!("WP_HOME='{}'\nWP_SITEURL='{}/wp'\n", site.home(), site.home());
        settings += &format!("DATABASE_URL='mysql://wordpress:{}@localhost/wordpress'\n", site.said("DB_PASSWORD"));
        for line in constants.lines() {
            if let [_, name, _, value, ..] = line.split('\'').collect::<Vec<_>>()[..]
                && ["_KEY", "_SALT", "DB_HOST"].iter().any(|end| name.ends_with(end))
            {
                settings += &format!("{name}='{value}'\n");
            }
        }
        bedrock.write(".env", &settings);
        bedrock
    }

    /// Writes a file that only PHP's user may read.
    fn write(&self, name: &str, text: &str) {
        let path = self.directory.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        // PHP-FPM runs as the owner of the uploads directory.
        let owner = fs::metadata(self.directory.join("www/app/uploads")).unwrap();
        chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }

    fn settings(&self) -> String {
        fs::read_to_string(self.directory.join(".env")).unwrap()
    }

    fn user(&self) -> String {
        said_by(Command::new("stat").args(["-c", "%U"]).arg(self.directory.join("www/app/uploads")))
    }

    fn import(&self, file: &Path, arguments: &[&str]) -> Output {
        let mut command = command();
        let group = said_by(Command::new("id").arg("-gn"));
        command.arg("import").arg("--wp-config").arg(self.site.wp_config()).arg("--wordpress-import").arg(file);
        let output = command.args(["--user", &self.user(), "--group", &group]).args(arguments).output().unwrap();
        let said = [&*output.stdout, &*output.stderr].concat();
        assert!(!tells_a_secret(&String::from_utf8_lossy(&said)), "{}", String::from_utf8_lossy(&said));
        output
    }
}

fn said_by(command: &mut Command) -> String {
    String::from_utf8(command.output().unwrap().stdout).unwrap().trim().to_owned()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn php_says_once_what_only_php_understands() {
    let site = Site::up(&[]);
    super::set(&site, "rate_limit_settings", "enabled", "false");
    let bedrock = Bedrock::of(&site);
    let of_php = Client::of(&site, site.upstream());
    eventually("PHP has seen that all has moved", || async {
        of_php.send("GET", "/wp-json/", "", b"").status() == 200 && of_php.refresh(super::UNKNOWN_TOKEN).status() == 403
    })
    .await;
    let upstream = site.said("UPSTREAM");
    let wp_config = site.wp_config().to_str().unwrap();

    // Without the import: one cause, reported once, and the solutions.
    let refused = command().args(["check", "--upstream", upstream, "--wp-config", wp_config]).output().unwrap();
    let said = text(&refused);
    assert_eq!(refused.status.code(), Some(78), "{said}");
    assert!(said.contains("the configuration has a fault:") && said.contains("`wp-jwt-sidecar import`"), "{said}");
    assert!(said.contains("wordpress.database_url") && said.lines().count() == 2, "{said}");

    let file = tempfile::tempdir().unwrap();
    let path = file.path().join("site.toml");
    let shown = bedrock.import(&path, &["--print"]);
    assert!(shown.status.success() && !path.exists(), "{}", text(&shown));
    for part in ["DB_PASSWORD: a text", ".env.local: is not there", "/.env\n", "WP_CONTENT_DIR: a text"] {
        assert!(text(&shown).contains(part), "{part} in {}", text(&shown));
    }
    assert_eq!(bedrock.import(&path, &["--check"]).status.code(), Some(1), "it is not there yet");
    let done = bedrock.import(&path, &[]);
    assert!(done.status.success(), "{}", text(&done));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(bedrock.import(&path, &["--check"]).status.code(), Some(0));

    let import = path.to_str().unwrap();
    let arguments = ["--upstream", upstream, "--wp-config", wp_config, "--wordpress-import", import];
    let sidecar = Sidecar::start(&arguments);
    sidecar.wait_for_log("refreshing natively");
    let client = Client::of(&site, sidecar.address());
    let pair = client.refresh_natively(&client.log_in_to(&site).refresh_token);
    assert_eq!(of_php.refresh(&pair.refresh_token).status(), 200, "WordPress knows the sidecar's token");

    // Another key, in a file that did not exist at the import.
    let key = "k".repeat(40) + "-another-key";
    secrets::register(&key);
    bedrock.write(".env.local", &format!("JWT_AUTH_SECRET_KEY='{key}'\n"));
    assert_eq!(bedrock.import(&path, &["--check"]).status.code(), Some(1));
    sidecar.signal("HUP");
    let warning = sidecar.wait_for_log("the import is older than the files that it was made from");
    assert!(warning.contains(".env.local is there now"), "{warning}");
    let report = command().arg("doctor").args(["--no-php", "--json"]).args(arguments).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
    let finding = report["findings"].as_array().unwrap().iter().find(|finding| finding["id"] == "wp_config.import");
    assert_eq!(finding.unwrap()["level"], "problem", "{report:#}");
    let check = command().arg("check").args(arguments).output().unwrap();
    assert!(text(&check).contains("site: as PHP said, in "), "{}", text(&check));

    assert!(bedrock.import(&path, &[]).status.success());
    let lines = sidecar.log().len();
    sidecar.signal("HUP");
    sidecar.wait_for_log_after(lines, "\"reloaded\"");
    let login = client.log_in_to(&site);
    let pair = client.refresh_natively(&login.refresh_token);
    // Signed with the key that PHP has now.
    of_php.assert_is_ada(&pair.access_token);

    // The error that PHP reports is named, without the values that it quotes.
    let settings = bedrock.settings();
    bedrock.write(".env", &settings.replace("WP_SITEURL", "OTHER"));
    let refused = bedrock.import(&path, &[]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused).contains("an uncaught RuntimeException in "), "{}", text(&refused));
    assert!(!text(&refused).contains("is missing in"), "no message of PHP: {}", text(&refused));
}
