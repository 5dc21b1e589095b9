//! `wp-config.php` as the sidecar reads it, and as PHP runs it.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;

use wp_jwt_sidecar::internals::wordpress::wp_config::{self, Lookup, Scalar, Surroundings};

use super::generated::{FILES, config_file};
use super::{BATCH, cases, hex, php, runner, sample, wordpress_dir};

/// Names that generated configuration files define.
const NAMES: [&str; 6] = ["A", "B", "C", "D", "BASE", "LATER"];
/// The sidecar's environment; there is no `UNSET`.
const ENVIRONMENT: [(&str, &str); 2] = [("SET", "from the environment"), ("EMPTY", "")];

/// PHP's possible environments: the same, the same with an empty `$_ENV`, and with an additional
/// variable.
const PHP_ENVIRONMENTS: [(&str, bool); 3] = [("", true), ("", false), ("UNSET", true)];

/// A constant known to the sidecar has that very value in PHP, and one that it takes as undefined
/// is undefined. If PHP's environment differs, that still holds for everything that is not reported
/// as assumed. Unknown values cannot be wrong, so they are counted: a good part must be known.
#[test]
fn configuration_files_define_what_php_says() {
    let mut runner = runner(2);
    let files = config_file();
    let (mut known, mut unknown, mut assumed) = (0_usize, 0_usize, 0_usize);
    for _ in 0..cases().div_ceil(BATCH) {
        let sources: Vec<String> = (0..BATCH).map(|_| sample(&mut runner, &files)).collect();
        let cases: Vec<Case<'_>> = sources.iter().map(|source| (source.as_str(), FILES.as_slice())).collect();
        for count in compared(&cases) {
            known += count.known;
            unknown += count.unknown;
            assumed += count.assumed;
        }
    }
    // Most generated code is behind code that may or may not run.
    assert!(unknown < 2 * known, "{unknown} of {} values were not known", known + unknown);
    assert!(unknown > 0, "the generator makes nothing that only PHP can know");
    assert!(assumed > 0, "the generator makes nothing that is assumed");
}

/// Code that looks plain but is not: PHP takes one of several ways, and a value that counts as
/// known must be the right one. Some values can be known.
#[test]
fn what_is_done_behind_the_readers_back_is_never_believed() {
    let early = "<?php if (!isset($_SERVER['no'])) return; $v = 'dev'; $table_prefix = 'dev_'; putenv('P=dev'); $_ENV['P'] = 'dev'; require __DIR__ . '/deep.php';";
    let deep = "<?php define('B', 'dev'); exit;";
    let files: &[(&str, &str)] = &[
        ("local.php", early),
        ("deep.php", deep),
        ("once.php", "<?php define('C', 'once');"),
        ("unread.php", "<?php putenv('P=unread'); define('D', 'unread');"),
    ];
    let cases = [
        (
            "putenv('P=p'); $_ENV['P'] = 'p'; $table_prefix = 'wp_'; $v = 'prod'; require __DIR__ . '/local.php'; define('A', $v); defined('B') || define('B', 'prod'); define('C', getenv('P')); define('D', $_ENV['P']);",
            false,
        ),
        (
            "if (isset($_SERVER['no'])) { putenv('P=dev'); $_ENV['P'] = 'dev'; } define('A', getenv('P')); define('B', $_ENV['P'] ?? 'none');",
            false,
        ),
        ("foreach ([] as $k) { putenv('SET=dev'); } define('A', getenv('SET'));", false),
        ("isset($_SERVER['no']) && putenv('SET=dev'); define('A', getenv('SET'));", false),
        (
            "try { throw new Exception(); putenv('SET=dev'); } catch (Exception $e) {} define('A', getenv('SET'));",
            false,
        ),
        ("define('A', getenv('UNSET') ? 'with' : 'without');", false),
        ("define('A', isset($_ENV['SET']) ? 'with' : 'without');", false),
        (
            "putenv('SET=p'); define('A', $_ENV['SET'] ?? 'array'); $_ENV['EMPTY'] = 'a'; define('B', getenv('EMPTY')); define('C', getenv('SET'));",
            true,
        ),
        (
            "preg_replace_callback('/a/', function ($m) { define('A', 'called'); return ''; }, 'a'); defined('A') || define('A', 'v');",
            false,
        ),
        ("$f = fn () => define('A', 'called'); array_reduce([1], $f); defined('A') || define('A', 'v');", false),
        (
            "function called() { define('A', 'called'); } array_reduce([1], 'called'); defined('A') || define('A', 'v');",
            false,
        ),
        ("function getenv_docker($n, $d) { return 'own'; } define('A', getenv_docker('UNSET', 'd'));", false),
        ("namespace n; function trim($t) { return 'own'; } \\define('A', trim(' v '));", false),
        ("namespace n; const K = 'namespace'; \\define('K', 'global'); \\define('A', K);", false),
        ("$n = 'v'; str_replace('a', 'b', 'aa', $n); define('A', $n);", false),
        (
            "require $_SERVER['no'] ?? __DIR__ . '/unread.php'; @define('D', 'late'); define('A', getenv('P') ?: 'd');",
            false,
        ),
        (
            "if (isset($_SERVER['no'])) { require_once __DIR__ . '/once.php'; exit; } require_once __DIR__ . '/once.php';",
            true,
        ),
        (
            "if (!isset($_SERVER['no'])) { require_once __DIR__ . '/once.php'; } require_once __DIR__ . '/once.php';",
            false,
        ),
        (
            "define('A', dirname('/a/b/.')); define('B', dirname('/a//b//')); define('C', dirname('/a')); define('D', dirname('/a/../b/c', 2));",
            true,
        ),
        ("define('A', isset($_SERVER['no']) ? exit : 'v');", true),
    ];
    let sources: Vec<String> = cases.iter().map(|(source, _)| format!("<?php {source}")).collect();
    let requested: Vec<Case<'_>> = sources.iter().map(|source| (source.as_str(), files)).collect();
    for ((source, known), count) in cases.iter().zip(compared(&requested)) {
        assert!(count.unknown > 0 || *known, "this was believed for no good reason: {source}");
    }
}

type Case<'a> = (&'a str, &'a [(&'a str, &'a str)]);

#[derive(Default)]
struct Count {
    known: usize,
    unknown: usize,
    assumed: usize,
}

/// Compares the files with PHP: a constant that is known and not assumed has its value in every
/// environment of PHP.
fn compared(cases: &[Case<'_>]) -> Vec<Count> {
    let directory = tempfile::tempdir().unwrap();
    let directory = std::fs::canonicalize(directory.path()).unwrap();
    let path = directory.join("wp-config.php");
    let mut request = Vec::new();
    for (source, files) in cases {
        let files: HashMap<&str, String> = files.iter().map(|(name, text)| (*name, hex(text.as_bytes()))).collect();
        for (more, array) in PHP_ENVIRONMENTS {
            let mut environment = HashMap::from(ENVIRONMENT);
            if !more.is_empty() {
                environment.insert(more, "set in PHP");
            }
            request.push(serde_json::json!({"source": hex(source.as_bytes()), "files": files, "environment": environment, "array": array}));
        }
    }
    let answer = php("wp_config_constants.php", &[directory.to_str().unwrap()], &serde_json::to_vec(&request).unwrap());
    let answers: Vec<serde_json::Value> = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answers.len(), request.len());
    let mut counts = Vec::new();
    for ((source, files), answers) in cases.iter().zip(answers.chunks(PHP_ENVIRONMENTS.len())) {
        for (name, text) in *files {
            std::fs::write(directory.join(name), text).unwrap();
        }
        let mut count = Count::default();
        let config = wp_config::read(&path, source.as_bytes(), Some(&directory), &surroundings())
            .unwrap_or_else(|error| panic!("{error}\n{source}"));
        let lookups = NAMES.map(|name| (name, config.constant(name)));
        for (name, ours) in lookups.into_iter().chain([("$table_prefix", config.table_prefix())]) {
            let ours = match ours {
                Lookup::NotDefined if config.incomplete().is_some() => {
                    count.unknown += 1;
                    continue;
                }
                Lookup::NotDefined => serde_json::Value::Null,
                Lookup::Known(scalar, _) => described(scalar),
                Lookup::Unknown(_) => {
                    count.unknown += 1;
                    continue;
                }
            };
            count.known += 1;
            let assumed = !config.assumed().is_empty();
            count.assumed += usize::from(assumed);
            for (answer, environment) in answers.iter().zip(PHP_ENVIRONMENTS).take(if assumed { 1 } else { 3 }) {
                let theirs = match name {
                    "$table_prefix" => &answer["prefix"],
                    name => &answer["constants"][name],
                };
                assert!(answer.is_object(), "PHP refuses\n{source}");
                assert_eq!(&ours, theirs, "{name} with {environment:?} in\n{source}");
            }
        }
        counts.push(count);
    }
    counts
}

/// The original files: the sample's values are plain, and those of Debian's file depend on the
/// request's host name.
#[test]
fn delivered_configuration_files_are_read() {
    let text = |name: &str, constant: &str| {
        let path = PathBuf::from(wordpress_dir()).join(name);
        let config = wp_config::read(&path, &std::fs::read(&path).unwrap(), path.parent(), &surroundings()).unwrap();
        match config.constant(constant) {
            Lookup::Known(scalar, _) => String::from_utf8(scalar.to_bytes()).unwrap(),
            Lookup::Unknown(doubt) => doubt.to_string(),
            Lookup::NotDefined => "not defined".to_owned(),
        }
    };
    assert_eq!(text("wp-config-sample.php", "DB_NAME"), "database_name_here");
    assert_eq!(text("wp-config-sample.php", "AUTH_KEY"), "put your unique phrase here");
    assert_eq!(text("wp-config-sample.php", "ABSPATH"), format!("{}/", wordpress_dir()));
    assert_eq!(text("wp-config-sample.php", "MULTISITE"), "not defined");
    let debian = text("wp-config.php", "DB_NAME");
    assert!(debian.contains("depends on $_SERVER["), "{debian}");
}

fn surroundings() -> Surroundings<'static> {
    Surroundings {
        environment: &|name| {
            ENVIRONMENT.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        },
        read_file: &|path| std::fs::read(path),
        canonicalize: &|path| std::fs::canonicalize(path),
    }
}

pub(crate) fn described(scalar: &Scalar) -> serde_json::Value {
    let kind = match scalar {
        Scalar::Text(_) => "string",
        Scalar::Integer(_) => "int",
        Scalar::Boolean(_) => "bool",
        Scalar::Null => "null",
    };
    serde_json::json!([kind, hex(&scalar.to_bytes())])
}
