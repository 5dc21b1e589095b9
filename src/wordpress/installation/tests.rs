mod tls;

use std::fs;

use mysql_async::Opts;

use super::*;
use crate::wordpress::imported::{CONSTANTS, Imported, Seen};
use crate::wordpress::wp_config::Scalar;

const PLAIN: &str = "<?php
define('DB_NAME', 'site');
define('DB_USER', 'user');
define('DB_PASSWORD', 'p@ss');
define('DB_HOST', 'db.example.com:3307');
define('AUTH_KEY', 'k');
define('AUTH_SALT', 's');
define('JWT_AUTH_SECRET_KEY', 'signing');
$table_prefix = 'wp_';
";

fn explicit() -> config::WordPress {
    config::WordPress::default()
}

fn no_jwt() -> config::Jwt {
    config::Jwt::default()
}

/// The installation for a `wp-config.php` with this content, in a directory with a
/// `wp-content/plugins`.
fn with(source: &str, config: config::WordPress, jwt: &config::Jwt) -> Result<Installation, Vec<String>> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("wp-config.php");
    fs::write(&path, source).unwrap();
    fs::create_dir_all(directory.path().join("wp-content/plugins")).unwrap();
    installation(&config::WordPress { config: Some(path), ..config }, jwt, &|_| None).map_err(problems)
}

fn problems(faults: Faults) -> Vec<String> {
    faults.0.into_iter().map(|fault| format!("{}: {}", fault.key, fault.problem)).collect()
}

fn read(source: &str) -> Installation {
    with(source, explicit(), &no_jwt()).unwrap()
}

/// With a configured prefix: one that is followed by code that is not read is not used.
fn with_prefix(source: &str) -> Installation {
    with(source, config::WordPress { table_prefix: Some("wp_".into()), ..explicit() }, &no_jwt()).unwrap()
}

fn refused(source: &str) -> Vec<String> {
    with(source, explicit(), &no_jwt()).unwrap_err()
}

fn first(site: &Installation) -> Opts {
    site.database.opts()[0].clone()
}

#[test]
fn wp_config_alone_is_enough() {
    let site = read(PLAIN);
    let options = first(&site);
    assert_eq!(
        (options.ip_or_hostname(), options.tcp_port(), options.user(), options.pass(), options.db_name()),
        ("db.example.com", 3307, Some("user"), Some("p@ss"), Some("site"))
    );
    assert!(options.ssl_opts().is_none() && !options.prefer_socket() && options.socket().is_none());
    assert_eq!(site.database_label, "user@db.example.com:3307/site");
    assert_eq!(site.table_prefix, "wp_");
    assert_eq!(site.salts.auth_salt(None, None).unwrap().expose(), "ks");
    assert_eq!(site.jwt_secret.as_ref().unwrap().expose(), "signing");
    assert_eq!(
        (site.wp_home.clone(), site.multisite, site.network.clone(), site.cors_enable),
        (WpHome::NotDefined, false, Ok(Layout::default()), None)
    );
    assert!(site.plugins_dir.clone().unwrap().ends_with("wp-content/plugins"));
    let debug = format!("{site:?}");
    assert!(!debug.contains("p@ss") && !debug.contains("signing"), "{debug}");
}

#[test]
fn where_the_code_is() {
    let site = read(PLAIN);
    assert!(site.content_dir.as_deref().unwrap().ends_with("wp-content"));
    assert!(site.mu_plugins_dir.as_deref().unwrap().ends_with("wp-content/mu-plugins"), "it need not be there");

    let directory = tempfile::tempdir().unwrap();
    let other = directory.path().to_owned();
    let path = other.display();
    fs::create_dir_all(other.join("plugins")).unwrap();
    let site = read(&format!("{PLAIN} define('WP_CONTENT_DIR', '{path}'); define('WPMU_PLUGIN_DIR', '/srv/always');"));
    assert_eq!(site.content_dir.as_deref(), Some(other.as_path()));
    assert_eq!(site.plugins_dir, Some(other.join("plugins")));
    assert_eq!(site.mu_plugins_dir.as_deref(), Some(std::path::Path::new("/srv/always")));

    let site =
        read(&format!("{PLAIN} define('WP_CONTENT_DIR', '/not/there'); define('WPMU_PLUGIN_DIR', $_SERVER['x']);"));
    assert!(site.content_dir.as_deref().unwrap().ends_with("wp-content"));
    assert_eq!(site.mu_plugins_dir, None, "only PHP knows it");
}

#[test]
fn what_else_the_constants_say() {
    let site = read(&format!("{PLAIN}
        define('WP_HOME', 'https://example.com/'); define('MULTISITE', true); define('BLOG_ID_CURRENT_SITE', '2'); define('SITE_ID_CURRENT_SITE', 3);
        define('DOMAIN_CURRENT_SITE', 'Net.example'); define('PATH_CURRENT_SITE', '/net/'); define('JWT_AUTH_CORS_ENABLE', true);
        define('MYSQL_CLIENT_FLAGS', MYSQLI_CLIENT_SSL | MYSQLI_CLIENT_SSL_DONT_VERIFY_SERVER_CERT);"));
    assert_eq!(
        (site.wp_home.clone(), site.multisite, site.network.clone(), site.cors_enable),
        (
            WpHome::Known("https://example.com".to_owned()),
            true,
            Ok(Layout { id: 3, main: 2, below: None }.at("net.example", "/net/")),
            Some(true)
        )
    );
    // The table names that wpdb uses for every site but the first.
    assert_eq!((site.blog_id, site.table_prefix.as_str(), site.base_prefix.as_str()), (2, "wp_2_", "wp_"));
    assert_eq!((site.of_blog(1).table_prefix, site.of_blog(7).table_prefix), ("wp_".to_owned(), "wp_7_".to_owned()));
    for computed in ["'0'", "'x'", "-1", "$_SERVER['BLOG']"] {
        let site = read(&format!("{PLAIN} define('MULTISITE', true); define('BLOG_ID_CURRENT_SITE', {computed});"));
        assert_eq!((site.network, site.blog_id), (Err(UnknownMain::Computed("BLOG_ID_CURRENT_SITE")), 1), "{computed}");
    }
    // Without MULTISITE, wpdb uses the tables wp_1_… for the site 1.
    for other in ["SUBDOMAIN_INSTALL", "VHOST", "SUNRISE"] {
        let site = read(&format!("{PLAIN} define('{other}', true);"));
        assert_eq!((site.multisite, site.network), (true, Err(UnknownMain::NoMultisite)), "{other}");
    }
    let unread = with_prefix(&format!("{PLAIN} define('SUNRISE', true); require $_SERVER['x'];"));
    assert_eq!(unread.network, Ok(Layout::default()), "code that is not read may define it");
    assert_eq!((site.home_host().as_deref(), read(PLAIN).home_host()), (Some("example.com"), None));
    let options = first(&site);
    assert!(options.ssl_opts().unwrap().accept_invalid_certs());
    assert_eq!(
        read(&format!("{PLAIN} define('WP_HOME', 'https://' . $_SERVER['HTTP_HOST']);")).wp_home,
        WpHome::Dynamic
    );
    assert_eq!(read(&format!("{PLAIN} define('WP_SITEURL', $_SERVER['x']);")).wp_home, WpHome::Dynamic);
    for (more, is_computed) in [
        ("", false),
        ("define('WP_HOME', 'https://example.com');", false),
        ("define('WP_HOME', 'https://' . $_SERVER['HTTP_HOST']);", true),
        ("define('WP_SITEURL', $_SERVER['x']);", true),
    ] {
        assert_eq!(read(&format!("{PLAIN} {more}")).home_is_computed, is_computed, "{more}");
    }
    assert_eq!(
        with_prefix(&format!("{PLAIN} define('CUSTOM_USER_TABLE', 'wp_users'); require $where;")).wp_home,
        WpHome::Dynamic
    );
}

#[test]
fn a_socket_is_labelled_as_one() {
    let site = read(&PLAIN.replace("db.example.com:3307", "localhost:/srv/my.sock"));
    assert_eq!(site.database_label, "user@/srv/my.sock/site");
    assert_eq!(first(&site).socket(), Some("/srv/my.sock"));
    assert_eq!(read(&PLAIN.replace("db.example.com:3307", "[::1]:3307")).database_label, "user@[::1]:3307/site");
}

#[test]
fn hosts_take_the_place_of_the_one() {
    let hosts = ["10.0.0.1", "db2:3307", "localhost:/srv/my.sock"].map(str::to_owned).to_vec();
    let config = config::WordPress { database_hosts: hosts, ..explicit() };
    let labels = ["user@10.0.0.1:3306/site", "user@db2:3307/site", "user@/srv/my.sock/site"];
    // A DB_HOST that only PHP knows does not matter then.
    for source in [PLAIN.to_owned(), PLAIN.replace("'db.example.com:3307'", "$_SERVER['x']")] {
        let site = with(&source, config.clone(), &no_jwt()).unwrap();
        assert_eq!(site.database.labels(), labels);
        assert_eq!(site.database_label, labels.join(", "));
        assert!(site.database.opts().iter().all(|opts| opts.pass() == Some("p@ss") && !opts.prefer_socket()));
        assert_eq!(first(&site).socket(), None);
    }
    let url = Some(Secret::new("mysql://u:p%40@h:3310/d?socket=%2Fsrv%2Fother.sock"));
    let site = with(PLAIN, config::WordPress { database_url: url, ..config }, &no_jwt()).unwrap();
    assert_eq!(site.database.labels(), labels.map(|label| label.replace("user@", "u@").replace("/site", "/d")));
}

#[test]
fn all_faults_are_told_at_once() {
    let faults = refused(
        "<?php\n\ndefine('DB_NAME', $_SERVER['x']);\ndefine('DB_HOST', 'a:99999');\ndefine('NONCE_KEY', md5('a'));\n$table_prefix = 'a-b';",
    );
    assert_eq!(
        faults,
        [
            "wordpress.config: the constant DB_HOST is not understood: a port is at most 65535",
            "wordpress.config: the table prefix may hold letters, digits and underscores only",
            "wordpress.config: DB_NAME cannot be known: line 3 depends on $_SERVER['x'], which only PHP knows; run `wp-jwt-sidecar import`, which has PHP say it, or set wordpress.database_url",
            "wordpress.config: DB_USER, DB_PASSWORD and JWT_AUTH_SECRET_KEY are not defined there; set wordpress.database_url and jwt.secret or jwt.secret_file",
            "wordpress.config: NONCE_KEY cannot be known: line 5 depends on md5(), which only PHP can compute; run `wp-jwt-sidecar import`, which has PHP say it, or set wordpress.auth_key and wordpress.auth_salt",
        ]
    );
}

#[test]
fn one_cause_is_named_once() {
    let faults = refused("<?php\nrequire $where;\ndefine('DB_NAME', 'a');\n");
    // One cause is one fault, however much depends on it.
    assert_eq!(
        faults,
        [
            "wordpress.config: line 2 includes a file by a path that depends on $where, which only PHP knows, and so DB_NAME, DB_USER, DB_PASSWORD, DB_HOST, \
             $table_prefix, AUTH_KEY, AUTH_SALT and JWT_AUTH_SECRET_KEY cannot be known; run `wp-jwt-sidecar import`, which has PHP say it, or set wordpress.database_url, wordpress.table_prefix, \
             wordpress.auth_key and wordpress.auth_salt and jwt.secret or jwt.secret_file"
        ]
    );
}

/// A site with a plain file, and an import with another database.
#[test]
fn an_import_wins_unless_it_is_another_sites() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for (name, source) in [("wp-config.php", PLAIN.to_owned()), ("other.php", PLAIN.replace("'site'", "'other'"))] {
        fs::write(at(name), source).unwrap();
    }
    let text = |text: &str| Scalar::Text(text.as_bytes().to_vec());
    let constants = ["DB_NAME", "DB_USER", "DB_PASSWORD", "DB_HOST", "AUTH_KEY", "AUTH_SALT", "JWT_AUTH_SECRET_KEY"];
    let imported = Imported {
        config: at("wp-config.php"),
        resolved: fs::canonicalize(at("wp-config.php")).unwrap(),
        host: None,
        table_prefix: Some(text("x_")),
        constants: constants.map(|name| (name.to_owned(), text("of-php"))).into(),
        undefined: CONSTANTS.iter().filter(|name| !constants.contains(name)).map(|name| (*name).to_owned()).collect(),
        varying: ["WP_HOME".to_owned()].into(),
        files: vec![Seen::Missing { path: at(".env") }],
    };
    fs::write(at("site.toml"), imported.to_toml().unwrap()).unwrap();
    let of = |wp_config: Option<&str>, is_named: bool| {
        let import = Some(config::ImportFile { path: at("site.toml"), is_named });
        let config = config::WordPress { config: wp_config.map(at), import, ..explicit() };
        installation(&config, &no_jwt(), &|_| None).map_err(problems)
    };
    // The same for its directory.
    for wp_config in [Some("wp-config.php"), Some(""), None] {
        let site = of(wp_config, false).unwrap();
        assert_eq!(site.database_label, "of-php@of-php:3306/of-php");
        assert_eq!((site.table_prefix.as_str(), site.wp_home.clone()), ("x_", WpHome::Dynamic));
        assert_eq!(site.import.as_ref().map(|import| import.stale.clone()), Some(None));
        assert!(site.source().starts_with("as PHP said, in "), "{}", site.source());
    }
    let site = of(Some("other.php"), false).unwrap();
    assert_eq!((site.database_label.as_str(), site.import.as_ref()), ("user@db.example.com:3307/other", None));
    assert!(site.source().starts_with("as read in "), "{}", site.source());
    let other = site.passed_over.unwrap();
    assert_eq!((other.file, other.made_of, other.wanted), (at("site.toml"), at("wp-config.php"), at("other.php")));
    // The errors suggest `import`, which was run for another site: that is reported, too.
    fs::write(at("computed.php"), "<?php define('DB_NAME', $x);").unwrap();
    let faults = of(Some("computed.php"), false).unwrap_err();
    assert!(faults.last().unwrap().contains("site.toml is not used: it was made of "), "{faults:?}");
    assert_eq!(of(Some("wp-config.php"), false).unwrap().passed_over, None);
    let faults = of(Some("other.php"), true).unwrap_err();
    assert!(faults[0].starts_with("wordpress.import: was made of ") && faults.len() == 1, "{faults:?}");

    fs::write(at(".env"), "").unwrap();
    let site = of(Some("wp-config.php"), true).unwrap();
    assert!(site.import.unwrap().stale.unwrap().ends_with(".env is there now"), "it holds all the same");
}

#[test]
fn keys_win_over_constants() {
    let config = config::WordPress {
        database_url: Some(Secret::new("mysql://u:p%40@127.0.0.1:3310/d")),
        table_prefix: Some("x_".to_owned()),
        auth_key: Some(Secret::new("ek")),
        auth_salt: Some(Secret::new("es")),
        home: Some("https://example.org".to_owned()),
        ..explicit()
    };
    let jwt = config::Jwt { secret: Some(Secret::new("ej")), ..no_jwt() };
    for source in [PLAIN, "<?php define('DB_NAME', $x); define('AUTH_KEY', $x); define('JWT_AUTH_SECRET_KEY', $x);"] {
        let site = with(source, config.clone(), &jwt).unwrap();
        assert_eq!(site.database_label, "u@127.0.0.1:3310/d");
        assert!(!first(&site).prefer_socket());
        assert_eq!((site.table_prefix.as_str(), site.home.as_deref()), ("x_", Some("https://example.org")));
        assert_eq!(site.salts.auth_salt(None, None).unwrap().expose(), "ekes");
        assert_eq!(site.jwt_secret.unwrap().expose(), "ej");
    }
    let site = installation(&config, &jwt, &|_| None).unwrap();
    assert_eq!((site.wp_home, site.home_is_computed, site.plugins_dir), (WpHome::Dynamic, false, None));
}

#[test]
fn without_a_file_every_key_is_needed() {
    let faults = problems(installation(&explicit(), &no_jwt(), &|_| None).unwrap_err());
    let keys: Vec<&str> = faults.iter().filter_map(|fault| fault.split(':').next()).collect();
    assert_eq!(
        keys,
        ["wordpress.database_url", "wordpress.table_prefix", "wordpress.auth_key", "wordpress.auth_salt", "jwt.secret"]
    );
}

#[test]
fn a_private_key_needs_no_constant() {
    let jwt = config::Jwt { private_key: Some(Secret::new("pem")), ..no_jwt() };
    let without = PLAIN.replace("JWT_AUTH_SECRET_KEY", "OTHER");
    assert!(with(&without, explicit(), &jwt).unwrap().jwt_secret.is_none());
    assert!(with(PLAIN, explicit(), &jwt).unwrap().jwt_secret.is_some());
    assert_eq!(refused(&PLAIN.replace("'signing'", "''")).len(), 1);
}

#[test]
fn a_database_url_is_never_shown() {
    for url in [
        "mysql://u:topsecret@h",
        "postgres://u:topsecret@h/d",
        "topsecret",
        "mysql://u:topsecret@h:x/d",
        "mysql://u:topsecret@h/d?nonsense=topsecret",
    ] {
        let config = config::WordPress { database_url: Some(Secret::new(url)), ..explicit() };
        let faults = with(PLAIN, config, &no_jwt()).unwrap_err();
        assert_eq!(faults.len(), 1, "{url}");
        assert!(
            faults[0].starts_with("wordpress.database_url: is not of the form") && !faults[0].contains("topsecret"),
            "{faults:?}"
        );
    }
}

#[test]
fn wp_config_that_is_not_there_or_no_php() {
    let missing = config::WordPress { config: Some(PathBuf::from("/nonexistent/wp-config.php")), ..explicit() };
    assert_eq!(
        problems(installation(&missing, &no_jwt(), &|_| None).unwrap_err()),
        ["wordpress.config: there is no such file"]
    );
    let faults = refused("<?php\n(((");
    assert!(
        faults[0].starts_with("wordpress.config: line 2 is not understood as PHP; see what `php -l` says"),
        "{faults:?}"
    );
    assert!(
        faults[0].contains("`wp-jwt-sidecar import`") && faults[0].contains("set wordpress.database_url, "),
        "{faults:?}"
    );
}

#[test]
fn users_may_have_a_table_of_their_own() {
    assert_eq!(read(PLAIN).users_table, "wp_users");
    assert_eq!(read(&format!("{PLAIN} define('CUSTOM_USER_TABLE', 'shared_users');")).users_table, "shared_users");
    let site = with_prefix(&format!("{PLAIN} require $x;"));
    assert_eq!((site.users_table.as_str(), site.multisite), ("wp_users", true), "what was not read may define it");
    for name in ["CUSTOM_USER_TABLE", "CUSTOM_USER_META_TABLE", "JWT_AUTH_CORS_ENABLE", "MYSQL_CLIENT_FLAGS"] {
        let assumption = format!("{name}: taken as not defined, but line 10 includes");
        assert!(site.assumed.iter().any(|sentence| sentence.starts_with(&assumption)), "{:?}", site.assumed);
    }
    for more in ["define('CUSTOM_USER_TABLE', 'a`b');", "define('CUSTOM_USER_TABLE', $x);"] {
        let faults = refused(&format!("{PLAIN} {more}"));
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains("CUSTOM_USER_TABLE cannot be known"), "{faults:?}");
    }
}

#[test]
fn and_so_may_their_meta() {
    let usermeta = |more: &str| read(&format!("{PLAIN} {more}")).usermeta_table;
    assert_eq!(usermeta("").as_deref(), Some("wp_usermeta"));
    assert_eq!(usermeta("define('CUSTOM_USER_META_TABLE', 'shared_meta');").as_deref(), Some("shared_meta"));
    for more in ["define('CUSTOM_USER_META_TABLE', 'a`b');", "define('CUSTOM_USER_META_TABLE', $x);"] {
        assert_eq!(usermeta(more), None, "{more}");
    }
}

#[test]
fn what_is_assumed_is_told() {
    let source = PLAIN.replace("'k'", "getenv('KEY_OF_SITE') ?: 'k'");
    let site = read(&format!("{source} define('WP_DEBUG', getenv('DEBUG') ?: false); define('WPLANG', 'de_DE');"));
    assert_eq!(
        site.assumed,
        ["the file's own defaults, since these are not in the sidecar's environment: DEBUG, KEY_OF_SITE"]
    );
    assert_eq!(site.language, LanguageConstant::Known("de_DE".to_owned()));
    assert_eq!((read(PLAIN).assumed, read(PLAIN).language), (Vec::new(), LanguageConstant::NotDefined));
    assert_eq!(read(&format!("{PLAIN} define('WPLANG', $x);")).language, LanguageConstant::Unknown);
}

#[test]
fn whether_wordpress_connects_the_same_way() {
    let url = |url: &str| config::WordPress { database_url: Some(Secret::new(url)), ..explicit() };
    let hosts = |hosts: &[&str]| config::WordPress {
        database_hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        ..explicit()
    };
    for (config, is_sites_own) in [
        (explicit(), true),
        (url("mysql://user:p@db.example.com:3307/site"), true),
        (url("mysql://sidecar:p@db.example.com:3307/site"), false),
        (url("mysql://user:p@replica.example.com:3307/site"), false),
        // It is enough that WordPress uses one of several hosts.
        (hosts(&["10.0.0.5", "db.example.com:3307"]), true),
        (hosts(&["10.0.0.5", "10.0.0.6"]), false),
    ] {
        let site = with(PLAIN, config, &no_jwt()).unwrap();
        assert_eq!(site.database.is_sites_own(), is_sites_own, "{}", site.database_label);
        assert!(site.assumed.is_empty());
    }
}

#[test]
fn language_packs_are_where_wordpress_is() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let packs = |more: &str| {
        let path = root.join("wp-config.php");
        fs::write(&path, format!("{PLAIN} {more}")).unwrap();
        installation(&config::WordPress { config: Some(path), ..explicit() }, &no_jwt(), &|_| None).unwrap().packs
    };
    assert_eq!(packs(""), None, "WordPress is not there");
    fs::create_dir(root.join("wp-includes")).unwrap();
    fs::write(root.join("wp-includes/version.php"), "<?php").unwrap();
    let root = fs::canonicalize(root).unwrap();
    let plain = Packs { content: root.join("wp-content"), folder: None, is_network: false, root: root.clone() };
    assert_eq!(packs(""), Some(plain.clone()));
    let more =
        "define('WP_CONTENT_DIR', '/srv/content'); define('WP_LANG_DIR', '/srv/packs'); define('MULTISITE', true);";
    let moved = Packs { content: "/srv/content".into(), folder: Some("/srv/packs".into()), is_network: true, root };
    assert_eq!(packs(more), Some(moved));
    // Values that only PHP knows, or that depend on where it runs.
    for more in ["define('WP_LANG_DIR', $x);", "define('WP_CONTENT_DIR', $x);", "define('WP_LANG_DIR', 'packs');"] {
        assert_eq!(packs(more), None, "{more}");
    }
}
