//! `wp-jwt-sidecar import` with malicious files, or files that PHP does not run to the end: each is
//! an error with a fix, PHP's output is never printed raw, and no process is left. Also the user
//! that PHP runs as.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::mariadb::random_hex;
use crate::support::sidecar::{command, wait_until};

/// Must not occur in any output.
const SECRET: &str = "hunter2-hunter2";

/// The end of a usual file.
const LOAD: &str = "require ABSPATH . 'wp-settings.php';";

/// A WordPress of empty files.
pub struct Wordpress {
    directory: TempDir,
    user: String,
}

impl Wordpress {
    fn new() -> Wordpress {
        let directory = TempDir::new().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let wordpress = Wordpress { directory, user: site_user() };
        for file in ["index.php", "wp-load.php", "wp-settings.php", "wp-includes/version.php"] {
            wordpress.write(file, "<?php throw new Exception( 'WordPress itself is not to run' );");
        }
        wordpress
    }

    /// With this `wp-config.php`.
    pub fn with(source: &str) -> Wordpress {
        let wordpress = Wordpress::new();
        wordpress.write("wp-config.php", source);
        wordpress
    }

    /// The owner of its files.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// A file of the site's user.
    fn write(&self, name: &str, text: &str) {
        let path = self.directory.path().join("www").join(name);
        for directory in path.ancestors().skip(1).take_while(|path| *path != self.directory.path()) {
            fs::create_dir_all(directory).unwrap();
            self.give(directory);
        }
        fs::write(&path, text).unwrap();
        self.give(&path);
    }

    fn give(&self, path: &Path) {
        let id = |flag| said_by("id", &[flag, &self.user]).parse().ok();
        chown(path, id("-u"), id("-g")).unwrap();
    }

    fn wp_config(&self) -> PathBuf {
        self.directory.path().join("www/wp-config.php")
    }

    fn output(&self) -> PathBuf {
        self.directory.path().join("site.toml")
    }

    fn command(&self) -> Command {
        let mut command = command();
        command.arg("import").arg("--wp-config").arg(self.wp_config()).arg("--output").arg(self.output());
        command.args(["--group", &said_by("id", &["-gn"]), "--timeout", "2"]);
        command.env("SECRET_OF_ROOT", "hunter2");
        command
    }

    fn import(&self, arguments: &[&str]) -> Output {
        let output = self.command().args(arguments).output().unwrap();
        assert!(!said(&output).contains(SECRET), "{}", said(&output));
        output
    }

    /// It is refused for this reason, and nothing is written.
    fn refused(&self, arguments: &[&str], reason: &str) {
        let output = self.import(arguments);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(reason), "{reason:?} is not in: {}", said(&output));
        assert!(!self.output().exists());
    }

    /// The written file.
    fn imported(&self, arguments: &[&str]) -> toml::Table {
        let output = self.import(arguments);
        assert!(output.status.success(), "{}", said(&output));
        fs::read_to_string(self.output()).unwrap().parse().unwrap()
    }

    /// The written value of this constant.
    pub fn constant(&self, name: &str, arguments: &[&str]) -> String {
        self.imported(arguments)["constants"][name].as_str().unwrap().to_owned()
    }
}

/// The user that PHP runs as.
pub fn site_user() -> String {
    let caller = said_by("id", &["-un"]);
    if caller == "root" { "www-data".to_owned() } else { caller }
}

/// Everything that a command has printed.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

/// The output of another program.
pub fn said_by(program: &str, arguments: &[&str]) -> String {
    String::from_utf8(Command::new(program).args(arguments).output().unwrap().stdout).unwrap().trim().to_owned()
}

/// Whether a process with this in its command line exists.
fn is_running(mark: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path().join("cmdline"));
    processes.filter_map(|path| fs::read(path).ok()).any(|line| String::from_utf8_lossy(&line).contains(mark))
}

#[test]
fn what_php_does_not_run_to_the_end_is_refused_with_a_way_out() {
    for (source, reason) in [
        ("<?php exit;", "--host"),
        ("<?php die( 'hunter2-hunter2' );", "it ends the request (exit)"),
        ("<?php define( 'DB_NAME', 'x' );", "--root"),
        ("<?php return;", "it ends without loading wp-settings.php"),
        ("<?php define( 'DB_PASSWORD', 'hunter2-hunter2' x );", "a syntax error in"),
        ("<?php\nthrow new RuntimeException( 'hunter2-hunter2' );", "an uncaught RuntimeException in"),
        ("<?php\n\nno_such_function( 'hunter2-hunter2' );", "wp-config.php:3: there is no function no_such_function()"),
        ("<?php No\\Such::thing();", "there is no class No\\Such"),
        ("<?php trigger_error( 'hunter2-hunter2', E_USER_ERROR );", "a fatal error in"),
        ("<?php require '/etc/hunter2-hunter2/file.php';", "it cannot open a file below /etc as the user "),
        (
            "<?php $a = array(); while ( true ) { $a[] = str_repeat( 'hunter2-hunter2', 100000 ); }",
            "the memory limit in",
        ),
        (
            "<?php define( 'DB_NAME', array( 'hunter2-hunter2' ) ); require ABSPATH . 'wp-settings.php';",
            "is of the type array",
        ),
        ("<?php define( 'DB_NAME', uniqid() ); require ABSPATH . 'wp-settings.php';", "is another each time: DB_NAME"),
    ] {
        Wordpress::with(source).refused(&[], reason);
    }
    for (source, says) in [
        ("$f = 'hunter2f'; $f();", "an uncaught Error in"),
        ("$c = 'hunter2c'; new $c;", "an uncaught Error in"),
        ("throw new Exception( 'Call to undefined function hunter2f()' );", "an uncaught Exception in"),
        ("trigger_error( 'Uncaught hunter2', E_USER_ERROR );", "an uncaught exception in"),
        ("throw new ErrorException( '', 0, 1, 'hunter2', 7 );", "in a file that it does not name"),
        ("require '/etc/hunter2/x.php';", "it cannot open a file below /etc as"),
        ("require 'hunter2';", "it cannot open a file as"),
    ] {
        let output = Wordpress::with(&format!("<?php {source}")).import(&[]);
        let said = said(&output);
        assert!(said.contains(says) && !said.contains("hunter2"), "{source}: {said}");
    }
    let wordpress = Wordpress::with(&format!("<?php {LOAD}"));
    wordpress.refused(&["--php", "/bin/true"], "PHP ended without an answer");
    wordpress.refused(&["--php", "/no/such/php"], "there is no such program (--php)");
    wordpress.refused(&["--env-file", "/no/such/file"], "--env-file");
    wordpress.refused(&["--env", "hunter2-hunter2"], "accepted: NAME=VALUE");
}

#[test]
fn what_does_not_end_is_ended() {
    for (source, reason) in [
        ("<?php while ( true ) { echo 'hunter2-hunter2'; }", "--timeout gives it longer"),
        ("<?php sleep( 600 );", "PHP was not done within 2 s"),
        (
            "<?php $f = fopen( 'php://stdout', 'w' ); while ( true ) { fwrite( $f, str_repeat( 'hunter2-hunter2', 1000 ) ); }",
            "writes without end",
        ),
    ] {
        let began = Instant::now();
        Wordpress::with(source).refused(&[], reason);
        assert!(began.elapsed() < Duration::from_secs(20), "{source}: {:?}", began.elapsed());
    }
}

#[test]
fn what_is_started_ends_too() {
    // A number that no other process sleeps for.
    let mark = format!("7{}", u32::from_str_radix(&random_hex::<3>(), 16).unwrap());
    let source = format!(
        "<?php for ( $i = 0; $i < 500; $i++ ) {{ exec( 'setsid sleep {mark} >/dev/null 2>&1 &' ); }} sleep( 600 );"
    );
    let wordpress = Wordpress::with(&source);
    let output = wordpress.import(&[]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    let is_contained = !said(&output).contains("unshare --pid");
    if is_contained {
        wait_until("all has ended", || !is_running(&format!("sleep\0{mark}")));
    }
}

#[test]
fn the_terminal_of_the_shell_is_out_of_reach() {
    let asks = "( @fopen( '/dev/tty', 'w' ) ? 'open' : 'closed' )";
    let wordpress = Wordpress::with(&format!("<?php define( 'DB_NAME', {asks} ); {LOAD}"));
    let import = wordpress.command();
    let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_str().unwrap());
    let line: Vec<String> = std::iter::once(import.get_program()).chain(import.get_args()).map(quoted).collect();
    // There is a terminal for a process that is not cut off from it.
    let line = format!("echo there > /dev/tty && {}", line.join(" "));
    let output = Command::new("script").args(["-qec", &line, "/dev/null"]).output().unwrap();
    assert!(output.status.success() && said(&output).contains("there"), "{}", said(&output));
    let written: toml::Table = fs::read_to_string(wordpress.output()).unwrap().parse().unwrap();
    assert_eq!(written["constants"]["DB_NAME"].as_str(), Some("closed"));
}

#[test]
fn who_could_choose_the_owner_does_not_choose_the_user() {
    let wordpress = Wordpress::with(&format!("<?php define( 'DB_NAME', 'x' ); {LOAD}"));
    let www = wordpress.directory.path().join("www");
    fs::set_permissions(&www, Permissions::from_mode(0o775)).unwrap();
    wordpress.refused(&[], "--user www-data");
    assert_eq!(wordpress.constant("DB_NAME", &["--user", wordpress.user()]), "x");
}

#[test]
fn output_and_closing_tags_do_no_harm() {
    let text = "define( 'DB_NAME', 'shop' ); define( 'X', 1 ); $table_prefix = 'x_';";
    for source in [
        format!("<?php echo str_repeat( 'noise', 100000 ); {text} {LOAD}"),
        format!("\n\n<html>\n<?php {text} ?>\n\n<b>\n<?php {LOAD} ?>\n"),
        format!("<?php ob_end_clean(); echo 'noise'; {text} {LOAD}"),
        format!("<?php register_shutdown_function( function () {{ sleep( 600 ); }} ); {text} {LOAD}"),
        format!("<?php set_error_handler( function () {{ exit; }} ); {text} {LOAD}"),
    ] {
        let imported = Wordpress::with(&source).imported(&[]);
        assert_eq!(imported["constants"]["DB_NAME"].as_str(), Some("shop"), "{source}");
        assert_eq!(imported["table_prefix"].as_str(), Some("x_"), "{source}");
        assert!(imported["constants"].get("X").is_none(), "only what is asked for");
    }
}

#[test]
fn there_is_no_network() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let source = format!(
        "<?php define( 'DB_NAME', @stream_socket_client( 'tcp://{address}', $e, $s, 1 ) ? 'open' : 'closed' ); {LOAD}"
    );
    let wordpress = Wordpress::with(&source);
    let output = wordpress.import(&[]);
    let expected = if said(&output).contains("cut off from the network") { "open" } else { "closed" };
    assert_eq!(wordpress.constant("DB_NAME", &[]), expected);
}

#[test]
fn php_runs_as_the_sites_user_and_writes_nothing_of_others() {
    let wordpress = Wordpress::new();
    // The directory of the output is not the site's.
    let target = wordpress.directory.path().join("written");
    wordpress.write(
        "wp-config.php",
        &format!(
            "<?php define( 'DB_NAME', posix_geteuid() . ' ' . posix_getegid() . ' ' . implode( ',', posix_getgroups() ) );\n\
             define( 'DB_USER', get_current_user() . getenv( 'USER' ) . getenv( 'SECRET_OF_ROOT' ) );\n\
             @file_put_contents( '{}', 'x' ); {LOAD}",
            target.display()
        ),
    );
    let id = |flag| said_by("id", &[flag, &wordpress.user]);
    let groups = id("-G").replace(' ', ",");
    assert_eq!(wordpress.constant("DB_NAME", &[]), format!("{} {} {groups}", id("-u"), id("-g")));
    assert!(wordpress.constant("DB_USER", &[]).ends_with(&wordpress.user), "no environment of the caller's");
    let is_root = said_by("id", &["-u"]) == "0";
    if is_root {
        assert!(!target.exists());
        assert_eq!(fs::metadata(wordpress.output()).unwrap().uid(), 0);
    }
}

#[test]
fn root_and_the_service_run_no_php() {
    let wordpress = Wordpress::with(&format!("<?php {LOAD}"));
    wordpress.refused(&["--user", "root"], "--user www-data");
    wordpress.refused(&["--user", "no-such-user"], "there is no user no-such-user");
    if said_by("id", &["-u"]) != "0" {
        return;
    }
    chown(wordpress.wp_config(), Some(0), Some(0)).unwrap();
    wordpress.refused(&[], "PHP would run as root");
    let pool = wordpress.directory.path().join("www.conf");
    fs::write(&pool, "[www]\nuser = nobody\ngroup = www-data\nenv[NAME] = \"from the pool\"\n").unwrap();
    let own = "define( 'DB_NAME', getenv( 'NAME' ) . ' ' . posix_geteuid() . ' ' . posix_getegid() );";
    wordpress.write("wp-config.php", &format!("<?php {own} {LOAD}"));
    let expected = format!("from the pool {} {}", said_by("id", &["-u", "nobody"]), said_by("id", &["-g", "www-data"]));
    assert_eq!(wordpress.constant("DB_NAME", &["--fpm-pool", pool.to_str().unwrap()]), expected);
    // A name given on the command line overrides the pool's.
    let arguments = ["--fpm-pool", pool.to_str().unwrap(), "--user", "www-data", "--env", "NAME=given"];
    assert_eq!(wordpress.constant("DB_NAME", &arguments), format!("given {0} {0}", said_by("id", &["-u", "www-data"])));
}

#[test]
fn hosts_and_the_command_line_are_told_apart() {
    let by_host = format!(
        "<?php switch ( $_SERVER['HTTP_HOST'] ) {{ case 'a.example': define( 'DB_NAME', 'a' ); break;\n\
         case 'b.example': define( 'DB_NAME', 'b' ); break; default: exit; }}\n\
         define( 'WP_HOME', 'https://' . $_SERVER['HTTP_HOST'] ); {LOAD}"
    );
    let wordpress = Wordpress::with(&by_host);
    wordpress.refused(&[], "--host");
    for (host, name) in [("a.example", "a"), ("b.example", "b")] {
        let imported = wordpress.imported(&["--host", host]);
        assert_eq!(imported["constants"]["DB_NAME"].as_str(), Some(name));
        assert!(imported["constants"].get("WP_HOME").is_none(), "WordPress is asked");
        assert_eq!(imported["host"].as_str(), Some(host));
    }
    let wordpress = Wordpress::with(&format!(
        "<?php define( 'DB_NAME', $_SERVER['REQUEST_METHOD'] === 'POST' ? 'x' : 'y' ); {LOAD}"
    ));
    wordpress.refused(&[], "depends on the request");

    let wordpress = Wordpress::with(&format!("<?php if ( PHP_SAPI === 'cli' ) {{ define( 'DB_NAME', 'x' ); }} {LOAD}"));
    wordpress.refused(&["--php", "php"], "wp-config.php:1 asks for PHP_SAPI");
    assert_eq!(wordpress.constant("DB_NAME", &["--php", "php", "--accept-cli"]), "x");
    for (condition, word) in
        [("PHP_SAPI === 'fpm-fcgi'", "fpm-fcgi"), ("strlen( php_sapi_name() ) === 3", "php_sapi_name")]
    {
        let source = format!("<?php define( 'DB_NAME', {condition} ? 'x' : 'y' ); {LOAD}");
        Wordpress::with(&source).refused(&[], &format!("wp-config.php:1 asks for {word}"));
    }
}

/// What a request has besides its host.
#[test]
fn the_file_has_what_it_has_in_a_request() {
    let of = |source: &str| Wordpress::with(&format!("<?php {source} {LOAD}"));
    let by_host = of("define( 'DB_NAME', getenv( 'HTTP_HOST' ) === 'b.example' ? 'b' : 'a' );");
    by_host.refused(&[], "wp-config.php:1 asks for HTTP_HOST");
    assert_eq!(by_host.constant("DB_NAME", &["--host", "b.example"]), "b");
    for condition in [
        "defined( 'WP_USE_THEMES' )",
        "isset( $wp_did_header )",
        "isset( $_SERVER['SERVER_SOFTWARE'] )",
        "getenv( 'DOCUMENT_ROOT' ) === __DIR__",
    ] {
        let source = format!("define( 'DB_NAME', {condition} ? 'request' : 'command line' );");
        assert_eq!(of(&source).constant("DB_NAME", &[]), "request", "{condition}");
    }
    let by_server = of("define( 'DB_NAME', strpos( $_SERVER['SERVER_SOFTWARE'], 'nginx' ) === 0 ? 'a' : 'b' );");
    by_server.refused(&[], "DB_NAME");
    // Requests without TLS are redirected.
    for condition in ["empty( $_SERVER['HTTPS'] )", "$_SERVER['HTTP_X_FORWARDED_PROTO'] !== 'https'"] {
        let redirects = format!("if ( {condition} ) {{ exit; }} define( 'DB_NAME', 'a' );");
        assert_eq!(of(&redirects).constant("DB_NAME", &[]), "a", "{condition}");
        assert_eq!(of(&redirects).constant("DB_NAME", &["--host", "a.example"]), "a", "{condition}");
    }
}

#[test]
fn what_comes_after_wordpress_is_not_lost() {
    let of = |rest: &str| Wordpress::with(&format!("<?php define( 'DB_NAME', 'a' );\n{LOAD}\n{rest}"));
    let late = of("\ndefine( 'JWT_AUTH_CORS_ENABLE', false );");
    late.refused(&[], "wp-config.php:4: JWT_AUTH_CORS_ENABLE comes after the line that loads wp-settings.php");
    of("const JWT_AUTH_SECRET_KEY = 'x';").refused(&[], "move it before that line");
    of("/* a\n*/ # b\n?> it's\n<?php require 'x.php';").refused(&[], "wp-config.php:6: require comes after");
    let before = "function f() {} class C { static function g() {} function h() {} } $f = 'f'; $c = new C;";
    let with = |rest: &str| Wordpress::with(&format!("<?php define( 'DB_NAME', 'a' ); {before} {LOAD} {rest}"));
    for (rest, word) in [
        ("f();", "a call"),
        ("\\f();", "a call"),
        ("$f();", "a call"),
        ("C::g();", "a call"),
        ("$c->h();", "a call"),
        ("new C;", "a call"),
        ("add_action( 'init', 'f' );", "a call"),
        ("require $x . '/more.php';", "require"),
        ("require '/a.php' . f2();", "require"),
        ("include_once 'more.php';", "include_once"),
        ("eval( $x );", "eval"),
        ("define( 'JWT_AUTH_CORS_ENABLE', true );", "JWT_AUTH_CORS_ENABLE"),
    ] {
        with(rest).refused(&[], &format!("wp-config.php:1: {word} comes after the line"));
    }
    let harmless =
        "add_filter( 'x', function ( $y ) { unset( $y['x'] ); return $y; } ); $wpdb->f(); D::f(); new D; // f();";
    assert_eq!(with(harmless).constant("DB_NAME", &[]), "a");
    for harmless in ["// define( 'JWT_AUTH_CORS_ENABLE', false );", "/* JWT_AUTH_SECRET_KEY */", "do_something();"] {
        assert_eq!(of(harmless).constant("DB_NAME", &[]), "a", "{harmless}");
    }
}

#[test]
fn a_secret_that_is_asked_for_as_a_file_is_not_shown() {
    let source = format!(
        "<?php $k = '{SECRET}'; define( 'JWT_AUTH_SECRET_KEY', is_file( $k ) ? file_get_contents( $k ) : $k );\n\
         file_exists( __DIR__ . '/.env.local' ); {LOAD}"
    );
    let site = Wordpress::with(&source);
    let printed = site.import(&["--print"]);
    assert!(said(&printed).contains(".env.local: is not there"), "{}", said(&printed));
    assert_eq!(site.constant("JWT_AUTH_SECRET_KEY", &[]), SECRET);
}

#[test]
fn what_a_pool_sets_counts() {
    let site = Wordpress::with(&format!("<?php define( 'DB_NAME', $_ENV['NAME'] ?? 'none' ); {LOAD}"));
    let pool = |lines: &str| {
        let file = site.wp_config().with_file_name("pool.conf");
        fs::write(&file, format!("[www]\nuser = {}\nenv[NAME] = b\n{lines}\n", site.user())).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let file = pool("php_admin_value[variables_order] = EGPCS");
    assert_eq!(site.constant("DB_NAME", &["--fpm-pool", &file]), "b");
    fs::remove_file(site.output()).unwrap();
    let file = pool("clear_env = no");
    site.refused(&["--fpm-pool", &file], "--env-file");
    let file = pool("php_value[auto_prepend_file] = /srv/before.php");
    site.refused(&["--fpm-pool", &file], "auto_prepend_file");
}

#[test]
fn a_file_that_was_only_touched_changes_nothing() {
    let site = Wordpress::with(&format!("<?php define( 'DB_NAME', 'a' ); {LOAD}"));
    let check = || site.import(&["--check"]).status.code();
    assert_eq!(check(), Some(1), "there is no import yet");
    site.imported(&[]);
    assert_eq!(check(), Some(0));
    let touched = fs::File::options().write(true).open(site.wp_config()).unwrap();
    touched.set_modified(std::time::SystemTime::now() - Duration::from_secs(600)).unwrap();
    assert_eq!(check(), Some(0));
    site.write("wp-config.php", &format!("<?php define( 'DB_NAME', 'a' );  {LOAD}"));
    assert_eq!(check(), Some(1), "its content is another one");
    site.imported(&[]);
    fs::write(site.output(), "format = 1").unwrap();
    assert_eq!(check(), Some(1), "what is there is not whole");
}

#[test]
fn the_file_is_found_where_wordpress_finds_it() {
    let wordpress = Wordpress::new();
    // One directory above WordPress.
    let above = wordpress.directory.path().join("www");
    wordpress.write("wordpress/wp-load.php", "");
    for file in ["index.php", "wp-load.php", "wp-settings.php"] {
        fs::remove_file(above.join(file)).unwrap();
    }
    wordpress.write("wordpress/wp-settings.php", "");
    wordpress.write("wordpress/wp-includes/version.php", "");
    wordpress
        .write("wp-config.php", &format!("<?php defined( 'ABSPATH' ) || define( 'ABSPATH', __DIR__ . '/' ); {LOAD}"));
    let expected = format!("{}/wordpress/", fs::canonicalize(&above).unwrap().display());
    assert_eq!(wordpress.constant("ABSPATH", &[]), expected);
    wordpress.write("second/wp-load.php", "");
    let refused = wordpress.import(&[]);
    assert!(said(&refused).contains("name the site's by --root"), "{}", said(&refused));
    let root = above.join("wordpress");
    assert_eq!(wordpress.constant("ABSPATH", &["--root", root.to_str().unwrap()]), expected);
}
