mod environment;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

/// Surroundings with a few files and variables.
#[derive(Default)]
struct World {
    files: HashMap<&'static str, &'static str>,
    environment: HashMap<&'static str, &'static str>,
    root: Option<&'static str>,
}

impl World {
    fn read(&self, source: &str) -> Result<WpConfig, WpConfigError> {
        self.read_bytes(source.as_bytes())
    }

    fn read_bytes(&self, source: &[u8]) -> Result<WpConfig, WpConfigError> {
        let there = |path: &Path| {
            path.to_str().and_then(|path| self.files.get(path)).ok_or(io::Error::from(io::ErrorKind::NotFound))
        };
        read(
            Path::new("/site/wp-config.php"),
            source,
            Some(Path::new(self.root.unwrap_or("/site"))),
            &Surroundings {
                environment: &|name| self.environment.get(name).map(OsString::from),
                read_file: &|path| there(path).map(|content| content.as_bytes().to_vec()),
                canonicalize: &|path| there(path).map(|_| path.to_owned()),
            },
        )
    }
}

/// The constant `WP_X` as text: its value, `not defined`, or the reason of the doubt.
fn x(source: &str) -> String {
    in_world(&World::default(), source)
}

fn in_world(world: &World, source: &str) -> String {
    words(world.read(&format!("<?php\n{source}")).unwrap().constant("WP_X"))
}

fn words(lookup: Lookup<'_>) -> String {
    match lookup {
        Lookup::NotDefined => "not defined".to_owned(),
        Lookup::Known(scalar, _) => String::from_utf8_lossy(&scalar.to_bytes()).into_owned(),
        Lookup::Unknown(doubt) => format!("?{doubt}"),
    }
}

fn unknown(source: &str) {
    let words = x(source);
    assert!(words.starts_with('?'), "{source}: {words}");
}

#[test]
fn what_wordpress_ships_is_read() {
    let source = "<?php\n/** c */\ndefine( 'DB_NAME', 'd' );\ndefine( 'AUTH_KEY', 'k$`\\'' );\n$table_prefix = 'wp_';\ndefine( 'WP_DEBUG', false );\n\
        if ( ! defined( 'ABSPATH' ) ) {\n\tdefine( 'ABSPATH', __DIR__ . '/' );\n}\nrequire_once ABSPATH . 'wp-settings.php';\ndefine('LATE', 1);\n";
    let config = World::default().read(source).unwrap();
    assert_eq!(words(config.constant("DB_NAME")), "d");
    assert_eq!(words(config.constant("AUTH_KEY")), "k$`'");
    assert_eq!(words(config.constant("ABSPATH")), "/site/");
    assert_eq!(words(config.table_prefix()), "wp_");
    assert_eq!(words(config.constant("LATE")), "?line 11 comes after wp-settings.php and may define it");
    assert_eq!(words(config.constant("db_name")), "not defined");
    assert!(matches!(config.constant("DB_NAME"), Lookup::Known(_, 3)));
    assert_eq!(config.incomplete(), None);
}

#[test]
fn definitions_in_all_their_forms() {
    for source in [
        "define('WP_X', 'v');",
        "\\DEFINE(\"WP_X\", 'v',);",
        "const Y = 'n', WP_X = 'v';",
        "?> html <?php define(/* a */ 'WP_X' /* b */, 'v') // ?> more\n<?PHP ;",
        "@define('WP_X', 'v');",
        "defined('WP_X') or define('WP_X', 'v');",
        "defined('WP_X') || define('WP_X', 'v');",
        "!defined('WP_X') && define('WP_X', 'v');",
        "if (!defined('WP_X')): define('WP_X', 'v'); endif;",
        "define('WP_X', 'v'); define('WP_X', 'w');",
        "$a = 'v'; define('WP_X', $a);",
        "define('A', 'v'); define('WP_X', A);",
        "const A = 1; define('WP_X', A === 1 ? 'v' : 'w');",
        "if (false) { define('WP_X', 'a'); } elseif (!true) {} else { define('WP_X', 'v'); }",
        "if ($_SERVER['x']) { exit; } define('WP_X', 'v');",
        "defined('ABSPATH') || isset($q) || exit; define('WP_X', 'v');",
        "function f() { define('WP_X', 'w'); } define('WP_X', 'v');",
        "define('WP_X', 'v'); __halt_compiler(); ((",
        "define('WP_X', ('' ?: 'v'));",
    ] {
        assert_eq!(x(source), "v", "{source}");
    }
}

#[test]
fn what_only_php_can_compute_is_unknown() {
    for source in [
        "if ($_SERVER['x']) { define('WP_X', 'v'); } else { define('WP_X', 'v'); }",
        "if ($_SERVER['x']) { define('WP_X', 'v'); } else { die('no'); }",
        "foreach ($_SERVER as $k) { ini_set($k, 1); } define('WP_X', 'v');",
        "define('WP_X', $_SERVER['x']);",
        "define('WP_X', \"a$b\");",
        "define('WP_X', md5('a'));",
        "$a = ''; $a .= 'v'; define('WP_X', $a);",
        "define('A', 'v'); define('WP_X', constant('A'));",
        "define('WP_X', trim(' v '));",
        "define('WP_X', $a = 'v');",
        "define('WP_X', 'a' . f());",
        "define('WP_X', 1.5);",
        "define('WP_X', 0x1F);",
        "define('WP_X', 010);",
        "define('WP_X', \"\\x76\");",
        "define('WP_X', <<<'E'\n  v\n  E);",
        "goto a; a: define('WP_X', 'v');",
        "if ($_SERVER['x']) { goto a; } define('WP_X', 'v'); a:",
        "define('WP_X', Y);",
        "if ($_SERVER['x']) { define('WP_X', 'v'); }",
        "if ($_SERVER['x']) { define('WP_X', 'v'); } else { define('WP_X', 'w'); }",
        "if ($_SERVER['x']) { define('WP_X', 'v'); } define('WP_X', 'w');",
        "isset($_SERVER['x']) && define('WP_X', 'v'); defined('WP_X') || define('WP_X', 'w');",
        "foreach ($a as $b) { define('WP_X', 'v'); }",
        "while ($a) { $v = 'b'; } define('WP_X', $v);",
        "$v = 'a'; for (;;) { define('WP_X', $v); $v = 'b'; }",
        "$v = 'a'; foreach ($b as $k => $v) {} define('WP_X', $v);",
        "$v = 'a'; foreach ($b as [$c, $v]): endforeach; define('WP_X', $v);",
        "$v = 'a'; try {} catch (E $v) {} define('WP_X', $v);",
        "switch ($a) { case 1: define('WP_X', 'v'); break; default: define('WP_X', 'v'); }",
        "try { define('WP_X', 'v'); } catch (E $e) {}",
        "$a = 'v'; $b = &$a; $b = 'w'; define('WP_X', $a);",
        "$a = 'v'; preg_match('/a/', 'a', $a); define('WP_X', $a);",
        "$a = 'v'; $$b = 'w'; define('WP_X', $a);",
        "$a = 'v'; extract($_SERVER); define('WP_X', $a);",
        "$a = 'v'; require $where; define('WP_X', $a);",
        "require $where; if (!defined('WP_X')) { define('WP_X', 'v'); }",
        "function f() {} f(); defined('WP_X') || define('WP_X', 'v');",
        "f(); function f() {} defined('WP_X') || define('WP_X', 'v');",
        "A::b(); defined('WP_X') || define('WP_X', 'v');",
        "$f('WP_X'); defined('WP_X') || define('WP_X', 'v');",
        "define($name, 'v'); defined('WP_X') || define('WP_X', 'v');",
        "$x ??= 'v'; define('WP_X', $x);",
        "$a = ['v']; define('WP_X', $a[0]);",
        "if (getenv('STAGE')) { define('WP_X', 'a'); } else { define('WP_X', 'b'); }",
        "define('WP_X', getenv('STAGE') === 'production' ? 'a' : 'b');",
        "define('WP_X', getenv('KEY'));",
        "define('WP_X', 'a' . getenv('KEY'));",
        "putenv('KEY=' . $a); define('WP_X', getenv('KEY') ?: 'v');",
    ] {
        unknown(source);
    }
    // `$f('WP_X')` may do anything; without it the same file is plain.
    assert_eq!(x("ini_set('a', $_SERVER['x']); defined('WP_X') || define('WP_X', 'v');"), "v");
}

#[test]
fn doubts_name_the_line_and_the_reason() {
    assert_eq!(x("\ndefine('WP_X', $_SERVER['x']);"), "?line 3 depends on $_SERVER['x'], which only PHP knows");
    assert_eq!(
        x("define('WP_X', getenv('KEY'));"),
        "?line 2 takes it from getenv(), and the environment here has no KEY"
    );
    assert_eq!(
        x("require $w;\nif (!defined('WP_X')) define('WP_X', 'v');"),
        "?line 2 includes a file by a path that depends on $w, which only PHP knows"
    );
    let config = World::default().read("<?php define('WP_X', 'v'); require $w; define('Y', 'v');").unwrap();
    assert_eq!(words(config.constant("WP_X")), "v");
    let why = "line 1 includes a file by a path that depends on $w, which only PHP knows";
    assert_eq!(words(config.constant("Y")), format!("?{why}"));
    assert_eq!(config.incomplete().unwrap().to_string(), why);
}

#[test]
fn included_files_are_read() {
    let world = World {
        files: HashMap::from([
            ("/site/local.php", "<?php\ndefine('WP_X', 'v'); if ($_SERVER['a']) return; define('LATE', 1);"),
            ("/site/loop.php", "<?php include __DIR__ . '/loop.php';"),
            ("/site/broken.php", "<?php define('WP_X', 'w'); ((("),
            ("/site/more.php", "<?php include_once 'local.php'; return ['a'];"),
        ]),
        ..World::default()
    };
    for source in [
        "require __DIR__ . '/local.php';",
        "$c = include 'more.php'; include_once 'local.php';",
        "if (file_exists(dirname(__FILE__) . '/local.php')) { require_once('/site/local.php'); } else { define('WP_X', 'w'); }",
        "@include __DIR__ . '/none.php'; defined('WP_X') || define('WP_X', 'v');",
    ] {
        assert_eq!(in_world(&world, source), "v", "{source}");
    }
    let config =
        world.read("<?php $table_prefix = 'wp_'; require 'local.php'; defined('Z') || define('Z', 1);").unwrap();
    assert!(words(config.table_prefix()).starts_with("?line 2 of local.php depends on $_SERVER"));
    assert!(
        words(config.constant("LATE")).starts_with("?line 2 of local.php depends on $_SERVER"),
        "{}",
        words(config.constant("LATE"))
    );
    assert!(words(config.constant("Z")).starts_with('?'));
    assert!(
        in_world(&world, "include 'loop.php'; defined('WP_X') || define('WP_X', 'v');")
            .starts_with("?line 1 of loop.php includes /site/loop.php, too many")
    );
    assert!(
        in_world(&world, "include 'broken.php'; defined('WP_X') || define('WP_X', 'v');")
            .contains("of which line 1 is not understood")
    );
    assert!(
        in_world(&world, "require '/none.php'; defined('WP_X') || define('WP_X', 'v');")
            .contains("which is not there for this user")
    );
}

#[test]
fn wordpress_defines_abspath_before_its_configuration() {
    let world = World { root: Some("/site/wp"), ..World::default() };
    assert_eq!(
        in_world(&world, "defined('ABSPATH') || define('ABSPATH', '/elsewhere/'); define('WP_X', ABSPATH);"),
        "/site/wp/"
    );
}

#[test]
fn the_table_prefix_survives_what_does_not_touch_it() {
    let prefix = |source: &str| words(World::default().read(&format!("<?php\n{source}")).unwrap().table_prefix());
    assert_eq!(prefix("$table_prefix = 'wp_'; while ($c) { $d = 1; }"), "wp_");
    assert_eq!(prefix("if (!isset($table_prefix)) { $table_prefix = 'wp_'; }"), "wp_");
    for source in [
        "$table_prefix = 'a_'; while ($c) { $table_prefix = 'b_'; }",
        "$table_prefix = $a;",
        "$table_prefix = 'wp_'; require $a;",
        "$table_prefix = 'wp_'; f();",
        "$other = &$table_prefix; $table_prefix = 'a_'; $other = 'b_';",
        "$table_prefix = 'a'; $GLOBALS['table_prefix'] = 'b';",
    ] {
        assert!(prefix(source).starts_with('?') || prefix(source) == "not defined", "{source}: {}", prefix(source));
    }
    assert_eq!(prefix("define('A', 1);"), "not defined");
}

#[test]
fn what_is_no_php_is_an_error_with_its_line() {
    let error = |source: &str| World::default().read(source).err().expect(source);
    assert_eq!(error("<?php\ndefine('A', 1);\ndefine('B' 2);\n"), WpConfigError::Syntax { line: 3 });
    assert_eq!(error("<?php\n$a = ;"), WpConfigError::Syntax { line: 2 });
    assert_eq!(error(&" ".repeat(SIZE_LIMIT + 1)), WpConfigError::TooLarge);
    let deep = format!("<?php\n$a = {}1{};", "(".repeat(5000), ")".repeat(5000));
    assert_eq!(error(&deep), WpConfigError::TooDeep { line: 2 });
    assert!(World::default().read("").is_ok() && World::default().read("no php").is_ok());
    assert_eq!(x("require ABSPATH . 'wp-settings.php'; ((("), "not defined");
}

#[test]
fn hostile_files_end_soon() {
    let start = Instant::now();
    for source in [
        "define('a','b');\n".repeat(4_000),
        "if(a){define('a','b');}\n".repeat(4_000),
        "$a='x';".to_owned() + &"$a.=$a;".repeat(5_000),
        "'a'.".repeat(10_000),
    ] {
        let _ = World::default().read(&format!("<?php {source}"));
    }
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn values_are_not_shown() {
    assert_eq!(format!("{:?}", Scalar::text("secret")), "Text(…)");
    let config = World::default().read("<?php define('WP_X', 'secret');").unwrap();
    assert!(!format!("{:?}", config.constant("WP_X")).contains("secret"));
}

/// Fragments of PHP.
fn fragment() -> impl Strategy<Value = String> {
    let pieces = proptest::sample::select(vec![
        "define(",
        "'X'",
        ",",
        ")",
        ";",
        "if (",
        "{",
        "}",
        "else",
        "elseif(",
        "$a",
        "=",
        ".",
        "'",
        "\"",
        "?>",
        "<?php ",
        "<<<A\n",
        "\nA",
        "getenv('X')",
        "const ",
        "?:",
        "??",
        "!",
        "defined('WP_X')",
        "||",
        "require ",
        "/*",
        "*/",
        "//",
        "#",
        "\\",
        "\n",
        "foreach(",
        "as",
        ":",
        "endif;",
        "namespace ",
        "0x",
        "&",
        "fn",
        "=>",
        "[",
        "]",
        "${",
        "{$",
    ]);
    prop_oneof![8 => pieces.prop_map(str::to_owned), 1 => any::<char>().prop_map(String::from)]
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = World::default().read_bytes(&[b"<?php ", bytes.as_slice()].concat());
    }

    #[test]
    fn no_php_panics(pieces in proptest::collection::vec(fragment(), 0..60)) {
        let _ = World::default().read(&format!("<?php {}", pieces.concat()));
    }
}
