//! The table: small configurations in files of this form, laid out as a site on disk.
//!
//! ```text
//! === NAME: served                  or `NAME: refused: PART OF THE MESSAGE`
//! --- env NAME=value                an environment variable; `env-hex` for bytes
//! --- encoding: crlf                or `latin-1`, `bom`: how all files of the case are written
//! --- entry ../wp-config.php        the file that WordPress loads, wp-config.php by default
//! --- given ../wp-config.php        the path in the sidecar's configuration, wp-config.php by default
//! --- large NAME, --- deep NAME     a file that is too large, or nested too deeply
//! --- NAME                          a file: all lines up to the next `---`
//! ```
//!
//! Paths are relative to WordPress's root. `%S%` loads wp-settings.php, `%BASE%` defines all that
//! the sidecar needs, in one line (`%DB%` and `%SALTS%` a part of it), `%ROOT%` is the root's path,
//! `%DOCKER-…%` the official image's file.

use std::fs;
use std::path::{Path, PathBuf};

/// A configuration and the expected result.
pub struct Case {
    pub name: String,
    pub expected: Expected,
    pub host: &'static str,
    variables: Vec<(String, Vec<u8>)>,
    encoding: String,
    entry: String,
    given: String,
    files: Vec<(String, String)>,
}

pub enum Expected {
    Served,
    /// Refused, with this text in the message.
    Refused(String),
}

/// The paths of a case on disk.
pub struct LaidOut {
    /// WordPress's directory: index.php, wp-load.php, wp-settings.php.
    pub root: PathBuf,
    /// The configuration file that PHP runs.
    pub entry: PathBuf,
    /// The value of `wordpress.config`.
    pub given: PathBuf,
}

pub fn all() -> Vec<Case> {
    let files = [
        include_str!("plain.cases"),
        include_str!("hosting.cases"),
        include_str!("traps.cases"),
        include_str!("endings.cases"),
    ];
    files.iter().flat_map(|file| file.split("\n=== ").skip(1)).map(parsed).collect()
}

fn parsed(text: &str) -> Case {
    let (title, rest) = text.split_once('\n').unwrap();
    let (name, expected) = match (title.strip_suffix(": served"), title.split_once(": refused: ")) {
        (Some(name), _) => (name, Expected::Served),
        (None, Some((name, part))) => (name, Expected::Refused(part.to_owned())),
        (None, None) => panic!("{title}"),
    };
    let mut case = Case {
        name: name.to_owned(),
        expected,
        host: "example.com",
        variables: Vec::new(),
        encoding: String::new(),
        entry: "wp-config.php".into(),
        given: "wp-config.php".into(),
        files: Vec::new(),
    };
    for part in format!("\n{rest}").split("\n--- ").skip(1) {
        let (head, body) = part.split_once('\n').unwrap_or((part, ""));
        match head.split_once(' ') {
            Some(("env", variable)) => {
                let (name, value) = variable.split_once('=').unwrap();
                case.variables.push((name.to_owned(), value.as_bytes().to_vec()));
            }
            Some(("env-hex", variable)) => {
                let (name, value) = variable.split_once('=').unwrap();
                let byte = |at: usize| u8::from_str_radix(&value[at..at + 2], 16).unwrap();
                case.variables.push((name.to_owned(), (0..value.len()).step_by(2).map(byte).collect()));
            }
            Some(("encoding:", encoding)) => case.encoding = encoding.to_owned(),
            Some(("entry", path)) => case.entry = path.to_owned(),
            Some(("given", path)) => case.given = path.to_owned(),
            Some(("large", path)) => {
                case.files.push((path.to_owned(), format!("<?php {}\n{BASE}\n{S}", " ".repeat(1 << 20))));
            }
            Some(("deep", path)) => {
                let deep = format!("<?php $a = {}1{};\n{BASE}\n{S}", "(".repeat(300), ")".repeat(300));
                case.files.push((path.to_owned(), deep));
            }
            Some(_) => panic!("{head}"),
            None => case.files.push((head.to_owned(), written_out(body))),
        }
    }
    case
}

impl Case {
    /// Writes the site into `directory`, which must not exist. Its root is a directory in it.
    pub fn lay_out(&self, directory: &Path) -> LaidOut {
        let root = directory.join("html");
        fs::create_dir_all(root.join("wp-includes")).unwrap();
        for (name, content) in [
            ("index.php", "<?php require __DIR__ . '/wp-load.php';"),
            ("wp-load.php", "<?php"),
            ("wp-includes/version.php", "<?php"),
            ("wp-settings.php", "<?php if (function_exists('wp_settings_loaded')) { \\wp_settings_loaded(); }"),
        ] {
            fs::write(root.join(name), content).unwrap();
        }
        for (name, content) in &self.files {
            let path = at(&root, name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, self.encoded(&content.replace("%ROOT%", root.to_str().unwrap()))).unwrap();
        }
        LaidOut { entry: at(&root, &self.entry), given: at(&root, &self.given), root }
    }

    /// The environment of PHP and of the sidecar.
    pub fn environment(&self, place: &LaidOut) -> Vec<(&str, Vec<u8>)> {
        let value = |value: &[u8]| match std::str::from_utf8(value) {
            Ok(text) => text.replace("%ROOT%", place.root.to_str().unwrap()).into_bytes(),
            Err(_) => value.to_vec(),
        };
        self.variables.iter().map(|(name, text)| (name.as_str(), value(text))).collect()
    }

    fn encoded(&self, text: &str) -> Vec<u8> {
        match self.encoding.as_str() {
            "crlf" => text.replace('\n', "\r\n").into_bytes(),
            "bom" => format!("\u{feff}{text}").into_bytes(),
            "latin-1" => text.chars().map(|character| u8::try_from(u32::from(character)).unwrap()).collect(),
            _ => text.into(),
        }
    }
}

/// The path without `..`, as PHP shows it.
fn at(root: &Path, name: &str) -> PathBuf {
    match name.strip_prefix("../") {
        Some(name) => root.parent().unwrap().join(name),
        None => root.join(name),
    }
}

fn written_out(text: &str) -> String {
    let docker = |file: &str, is_set: &str| DOCKER.replace("%FILE%", file).replace("%IS-SET%", is_set);
    let trimmed = r#"rtrim(file_get_contents($fileEnv), "\r\n")"#;
    let (raw, is_set) = ("file_get_contents($fileEnv)", "($val = getenv($env)) !== false");
    text.replace("%DOCKER-2021-04%", &docker(trimmed, is_set))
        .replace("%DOCKER-2021-02%", &docker(raw, is_set))
        .replace("%DOCKER-2020-12%", &docker(raw, "$val = getenv($env)"))
        .replace("%BASE%", BASE)
        .replace("%DB%", DB)
        .replace("%SALTS%", &format!("{OTHER_SALTS} define('JWT_AUTH_SECRET_KEY', 'signing');"))
        .replace("%OTHER-SALTS%", OTHER_SALTS)
        .replace("%S%", S)
}

/// The statement that loads WordPress.
pub const S: &str = "require_once ABSPATH . 'wp-settings.php';";

const DB: &str = "define('DB_NAME', 'site'); define('DB_USER', 'user'); define('DB_PASSWORD', 'p@ss'); define('DB_HOST', 'db:3307');";

const OTHER_SALTS: &str = "define('AUTH_KEY', 'k1'); define('SECURE_AUTH_KEY', 'k2'); define('LOGGED_IN_KEY', 'k3'); define('NONCE_KEY', 'k4'); define('AUTH_SALT', 's1'); define('SECURE_AUTH_SALT', 's2'); define('LOGGED_IN_SALT', 's3'); define('NONCE_SALT', 's4');";

const BASE: &str = "define('DB_NAME', 'site'); define('DB_USER', 'user'); define('DB_PASSWORD', 'p@ss'); define('DB_HOST', 'db:3307'); define('AUTH_KEY', 'k1'); define('SECURE_AUTH_KEY', 'k2'); define('LOGGED_IN_KEY', 'k3'); define('NONCE_KEY', 'k4'); define('AUTH_SALT', 's1'); define('SECURE_AUTH_SALT', 's2'); define('LOGGED_IN_SALT', 's3'); define('NONCE_SALT', 's4'); define('JWT_AUTH_SECRET_KEY', 'signing'); $table_prefix = 'wp_';";

/// wp-config-docker.php of the official image.
const DOCKER: &str = r#"<?php
/**
 * The base configuration for WordPress
 */

// IMPORTANT: this file needs to stay in-sync with
// https://github.com/WordPress/WordPress/blob/master/wp-config-sample.php

// a helper function to lookup "env_FILE", "env", then fallback
if (!function_exists('getenv_docker')) {
	// https://github.com/docker-library/wordpress/issues/588 (WP-CLI will load this file 2x)
	function getenv_docker($env, $default) {
		if ($fileEnv = getenv($env . '_FILE')) {
			return %FILE%;
		}
		else if (%IS-SET%) {
			return $val;
		}
		else {
			return $default;
		}
	}
}

define( 'DB_NAME', getenv_docker('WORDPRESS_DB_NAME', 'wordpress') );
define( 'DB_USER', getenv_docker('WORDPRESS_DB_USER', 'example username') );
define( 'DB_PASSWORD', getenv_docker('WORDPRESS_DB_PASSWORD', 'example password') );
define( 'DB_HOST', getenv_docker('WORDPRESS_DB_HOST', 'mysql') );
define( 'DB_CHARSET', getenv_docker('WORDPRESS_DB_CHARSET', 'utf8mb4') );
define( 'DB_COLLATE', getenv_docker('WORDPRESS_DB_COLLATE', '') );

define( 'AUTH_KEY',         getenv_docker('WORDPRESS_AUTH_KEY',         '3f1') );
define( 'SECURE_AUTH_KEY',  getenv_docker('WORDPRESS_SECURE_AUTH_KEY',  '3f2') );
define( 'LOGGED_IN_KEY',    getenv_docker('WORDPRESS_LOGGED_IN_KEY',    '3f3') );
define( 'NONCE_KEY',        getenv_docker('WORDPRESS_NONCE_KEY',        '3f4') );
define( 'AUTH_SALT',        getenv_docker('WORDPRESS_AUTH_SALT',        '3f5') );
define( 'SECURE_AUTH_SALT', getenv_docker('WORDPRESS_SECURE_AUTH_SALT', '3f6') );
define( 'LOGGED_IN_SALT',   getenv_docker('WORDPRESS_LOGGED_IN_SALT',   '3f7') );
define( 'NONCE_SALT',       getenv_docker('WORDPRESS_NONCE_SALT',       '3f8') );
// (See also https://wordpress.stackexchange.com/a/152905/199287)

$table_prefix = getenv_docker('WORDPRESS_TABLE_PREFIX', 'wp_');

define( 'WP_DEBUG', !!getenv_docker('WORDPRESS_DEBUG', '') );

// If we're behind a proxy server and using HTTPS, we need to alert WordPress of that fact
if (isset($_SERVER['HTTP_X_FORWARDED_PROTO']) && strpos($_SERVER['HTTP_X_FORWARDED_PROTO'], 'https') !== false) {
	$_SERVER['HTTPS'] = 'on';
}
// (we include this by default because reverse proxying is extremely common in container
// environments)

if ($configExtra = getenv_docker('WORDPRESS_CONFIG_EXTRA', '')) {
	eval($configExtra);
}
defined( 'JWT_AUTH_SECRET_KEY' ) || define( 'JWT_AUTH_SECRET_KEY', 'signing' );

/* That's all, stop editing! Happy publishing. */

/** Absolute path to the WordPress directory. */
if ( ! defined( 'ABSPATH' ) ) {
	define( 'ABSPATH', __DIR__ . '/' );
}

/** Sets up WordPress vars and included files. */
require_once ABSPATH . 'wp-settings.php';
"#;
