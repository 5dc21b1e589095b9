//! What this program does in PHP's and WordPress's stead is what they do: the same generated
//! inputs go through PHP itself (command line, Debian's WordPress) and through us.
//!
//! Each PHP process takes a batch, as starting one costs more than the work of hundreds of inputs.
//! The seeds are fixed: a run is the same every time; `PHP_PARITY_CASES` asks for more inputs.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use wp_jwt_sidecar::wordpress::text;
use wp_jwt_sidecar::wordpress::wp_config::{self, Lookup, Scalar, Surroundings};

const BATCH: usize = 500;

#[test]
fn text_functions_are_wordpress_own() {
    let mut runner = runner(1);
    let texts = nasty_text();
    for _ in 0..cases().div_ceil(BATCH) {
        let inputs: Vec<Vec<u8>> = (0..BATCH).map(|_| sample(&mut runner, &texts)).collect();
        let encoded: Vec<String> = inputs.iter().map(|input| hex(input)).collect();
        let answer = php("wordpress_text.php", &[&wordpress_dir()], &serde_json::to_vec(&encoded).unwrap());
        let answers: Vec<Vec<String>> = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answers.len(), inputs.len());
        for (input, answer) in inputs.iter().zip(&answers) {
            let [sanitized, slashed, json, url] = answer.as_slice() else { panic!("{answer:?}") };
            let shown = String::from_utf8_lossy(input);
            assert_eq!(text::sanitize_text_field(input), unhex(sanitized), "sanitize_text_field({shown:?})");
            let Ok(input) = std::str::from_utf8(input) else { continue };
            assert_eq!(text::wp_slash(input), unhex(slashed), "wp_slash({shown:?})");
            assert_eq!(text::json_ascii(&text::wp_slash(input)), unhex(json), "json_ascii({shown:?})");
            // What is no path, and `//` with a bracket, is outside the function's promise.
            let trimmed = input.trim_start_matches([' ', '\t', '\n', '\r', '\0', '\u{b}']);
            if trimmed.starts_with('/') && !(trimmed.contains(['[', ']']) && unhex(url).starts_with("//")) {
                assert_eq!(text::esc_url_raw(input), unhex(url), "esc_url_raw({shown:?})");
            }
        }
    }
}

/// Short runs of what the functions treat in a special way.
fn nasty_text() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop_oneof![
        6 => proptest::sample::select(vec![
            "<", ">", "<", "<!", "<!-", "<!--", "-->", "--", "-", "<?", "<?php ", "?>", "<?xml ", "<?XML", "<!DOCTYPE ", "<!doctype", "doctype", "DOCTYPE>", "?xml", "xml", "<?a", "<?xm",
            "<script>", "</script>", "<SCRIPT a='>'>", "</SCRIPT>", "<style", "</style>", "<b>", "</b>", "<b", "< b", "\"", "'", "\\", "(", ")",
            "&", "&amp;", "&lt;", "&apos;", "&nbsp;", "&frac12;", "&bogus;", "&#0;", "&#00;", "&#38;", "&#0000038;", "&#x0;", "&#x26;", "&#X0026;",
            "&#xD800;", "&#1114112;", "&#12345678;", "&#x110000;", "#38;", "amp;", ";", ";//", "#",
            "%", "%4", "%41", "41", "%0", "%0d", "%0A", "d", "a", "%%", "%c3%a9", " ", "  ", "\t", "\n", "\r", "\r\n", "\u{b}", "\u{c}", "\0",
            "/", "//", ":", "[", "]", "?", "=", "{", "}", "|", "^", "`", "~", "é", "😀", "\u{feff}", "\u{2028}", "\u{7f}", "\u{1}", "-", "x", "l", "e", "E", "0", "<\n", "<\n>",
        ]).prop_map(|fragment| fragment.as_bytes().to_vec()),
        2 => "[ -~]{1,6}".prop_map(String::into_bytes),
        1 => any::<char>().prop_map(|character| character.to_string().into_bytes()),
    ];
    let text = proptest::collection::vec(fragment, 0..14).prop_map(|fragments| fragments.concat());
    (text, 0..20_u8, any::<u8>()).prop_map(|(text, kind, byte)| match kind {
        0 => [text.as_slice(), &[byte]].concat(),
        1..=7 => [b"/", text.as_slice()].concat(),
        _ => text,
    })
}

/// Names that generated configuration files define.
const NAMES: [&str; 6] = ["A", "B", "C", "D", "BASE", "LATER"];
/// What `getenv` gives; there is no `UNSET`.
const ENVIRONMENT: [(&str, &str); 2] = [("SET", "from the environment"), ("EMPTY", "")];

/// A constant that we know has that very value in PHP, and one that we take for undefined is. What
/// we do not claim to know cannot be wrong, so it is counted: most must be known.
#[test]
fn configuration_files_define_what_php_says() {
    let mut runner = runner(2);
    let directory = tempfile::tempdir().unwrap();
    let directory = std::fs::canonicalize(directory.path()).unwrap();
    let path = directory.join("wp-config.php");
    let (mut known, mut unknown) = (0_usize, 0_usize);
    let files = config_file();
    for _ in 0..cases().div_ceil(BATCH) {
        let sources: Vec<String> = (0..BATCH).map(|_| sample(&mut runner, &files)).collect();
        let request: Vec<_> = sources
            .iter()
            .map(|source| serde_json::json!({"source": hex(source.as_bytes()), "environment": HashMap::from(ENVIRONMENT)}))
            .collect();
        let answer =
            php("wp_config_constants.php", &[directory.to_str().unwrap()], &serde_json::to_vec(&request).unwrap());
        let answers: Vec<serde_json::Value> = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answers.len(), sources.len());
        for (source, answer) in sources.iter().zip(&answers) {
            assert!(answer.is_object(), "PHP refuses\n{source}");
            let config = wp_config::read(&path, source.as_bytes(), None, &surroundings())
                .unwrap_or_else(|error| panic!("{error}\n{source}"));
            let lookups = NAMES.map(|name| (name, config.constant(name), &answer["constants"][name]));
            for (name, ours, theirs) in
                lookups.into_iter().chain([("$table_prefix", config.table_prefix(), &answer["prefix"])])
            {
                let ours = match ours {
                    Lookup::NotDefined => serde_json::Value::Null,
                    Lookup::Known(scalar, _) => described(scalar),
                    Lookup::Unknown(_) => {
                        unknown += 1;
                        continue;
                    }
                };
                known += 1;
                assert_eq!(&ours, theirs, "{name} in\n{source}");
            }
        }
    }
    assert!(unknown * 2 < known, "{unknown} of {} values were not known", known + unknown);
    assert!(unknown > 0, "the generator makes nothing that only PHP can know");
}

/// The files as they are delivered: what the sample holds is plain, and what Debian's holds depends
/// on the request's host name.
#[test]
fn delivered_configuration_files_are_read() {
    let text = |name: &str, constant: &str| {
        let path = PathBuf::from(wordpress_dir()).join(name);
        let config = wp_config::read(&path, &std::fs::read(&path).unwrap(), None, &surroundings()).unwrap();
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
    assert!(debian.ends_with("includes a file whose path only PHP knows"), "{debian}");
}

fn surroundings() -> Surroundings<'static> {
    Surroundings {
        environment: &|name| ENVIRONMENT.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()),
        read_file: &|path| std::fs::read(path),
        canonicalize: &|path| std::fs::canonicalize(path),
    }
}

fn described(scalar: &Scalar) -> serde_json::Value {
    let kind = match scalar {
        Scalar::Text(_) => "string",
        Scalar::Integer(_) => "int",
        Scalar::Boolean(_) => "bool",
        Scalar::Null => "null",
    };
    serde_json::json!([kind, hex(&scalar.to_bytes())])
}

fn config_file() -> impl Strategy<Value = String> {
    let statements = proptest::collection::vec(statement(2, true), 1..8).prop_map(|statements| statements.concat());
    let end = proptest::sample::select(vec![
        "",
        "?>\n",
        "// the end ?>html",
        "require __DIR__ . '/wp-settings.php';\ndefine('LATER', 1);\n",
    ]);
    (statements, end).prop_map(|(statements, end)| {
        // PHP has to get past the place where it would load WordPress.
        let end = if end.starts_with("require") {
            "return; require __DIR__ . '/wp-settings.php';\ndefine('LATER', 1);\n"
        } else {
            end
        };
        format!("<?php // begin\n$v = 'start'; $w = 1;\ndefine('BASE', 'base');\n{statements}{end}")
    })
}

/// A statement that PHP runs without a fatal error.
fn statement(depth: u32, top: bool) -> BoxedStrategy<String> {
    let name = || proptest::sample::select(vec!["A", "B", "C", "D"]);
    let plain = prop_oneof![
        6 => (name(), expression(3)).prop_map(|(name, value)| format!("define( '{name}', {value} );\n")),
        2 => (name(), expression(2)).prop_map(|(name, value)| format!("defined('{name}') or \\DEFINE(\"{name}\", {value});\n")),
        2 => (name(), expression(2)).prop_map(|(name, value)| format!("!defined('{name}') && @define('{name}', {value}, false, );\n")),
        2 => expression(2).prop_map(|value| format!("$v = {value};\n")),
        1 => expression(2).prop_map(|value| format!("$v .= {value}; $w = $v;\n")),
        2 => expression(1).prop_map(|value| format!("$table_prefix = {value};\n")),
        1 => proptest::sample::select(vec![
            "# comment ?> html <?php\n", "/* ' \" ?> */", "// x <?php ' \"\n", "?>\n<p>'html' \"</p><?PHP\n", ";", "ini_set('precision', '14');\n",
            "$v = preg_replace('/a/', 'b', (string) $v);\n", "putenv('PUT=put'); $v = getenv('PUT');\n", "isset($table_prefix) or $table_prefix = 'late_';\n",
        ]).prop_map(str::to_owned),
    ];
    let constant = (name(), constant_expression())
        .prop_map(|(name, value)| format!("const {name} = {value}, UNUSED{name} = 1;\n"));
    let plain = if top { prop_oneof![8 => plain, 1 => constant].boxed() } else { plain.boxed() };
    if depth == 0 {
        return plain;
    }
    let body =
        || proptest::collection::vec(statement(depth - 1, false), 0..3).prop_map(|statements| statements.concat());
    prop_oneof![
        6 => plain,
        2 => (condition(2), body(), body()).prop_map(|(condition, yes, no)| format!("if ({condition}) {{\n{yes}}} else {{\n{no}}}\n")),
        1 => (condition(1), condition(1), body(), body()).prop_map(|(one, two, yes, no)| format!("if ({one}):\n{yes};elseif ({two}):\n{no};endif;\n")),
        1 => (condition(2), body(), condition(2), body()).prop_map(|(one, yes, two, no)| format!("if ({one}) {{ {yes} }}\nelse if ({two}) {{ {no} }}\n")),
        1 => body().prop_map(|body| format!("foreach ( [1, 2] as $k => $w ) {{ {body} }}\n")),
        1 => body().prop_map(|body| format!("while ( $k = isset($_SERVER['no']) ) {{ {body} }}\n")),
        1 => (body(), body()).prop_map(|(one, two)| format!("switch ($w) {{ case 1: {one} break; default: {two} }}\n")),
        1 => (body(), body()).prop_map(|(one, two)| format!("try {{ {one} throw new Exception('x'); }} catch (Exception $e) {{ {two} }}\n")),
        1 => body().prop_map(|body| format!("eval('{}');\n", body.replace('\\', "\\\\").replace('\'', "\\'"))).prop_filter("heredoc labels stay at line starts", |code| !code.contains("<<<")),
    ]
    .boxed()
}

fn condition(depth: u32) -> BoxedStrategy<String> {
    let plain = proptest::sample::select(vec![
        "true",
        "FALSE",
        "!defined('A')",
        "defined('B')",
        "defined( 'BASE' )",
        "getenv('SET')",
        "getenv('UNSET')",
        "getenv('EMPTY') !== false",
        "isset($_ENV['SET'])",
        "isset( $_SERVER['argv'] )",
        "isset($_SERVER['no'])",
        "empty($_SERVER['no'])",
        "$w === 1",
        "BASE == 'base'",
        "'1' == '01'",
        "$v != 'start'",
        "PHP_VERSION_ID > 80000",
        "null",
        "'0'",
        "file_exists(__FILE__)",
        "file_exists(__DIR__ . '/none')",
        "getenv('SET') === 'from the environment'",
    ])
    .prop_map(str::to_owned);
    if depth == 0 {
        return plain.boxed();
    }
    prop_oneof![
        3 => plain,
        1 => condition(depth - 1).prop_map(|inner| format!("! ({inner})")),
        1 => (condition(depth - 1), condition(depth - 1)).prop_map(|(left, right)| format!("({left}) && ({right})")),
        1 => (condition(depth - 1), condition(depth - 1)).prop_map(|(left, right)| format!("{left} || {right}")),
    ]
    .boxed()
}

fn expression(depth: u32) -> BoxedStrategy<String> {
    let plain = prop_oneof![
        6 => literal(),
        1 => proptest::sample::select(vec![
            "BASE", "\\BASE", "true", "False", "NULL", "__DIR__", "dirname(__FILE__)", "getenv('SET')", "$_ENV['SET']", "(getenv('UNSET') ?: 'd')",
            "($_ENV['UNSET'] ?? 'd')", "(getenv('EMPTY') ?: 'd')", "($_ENV['EMPTY'] ?? 'd')", "$v", "$w", "md5('x')", "PHP_EOL", "constant('BASE')",
            "\"a$v\"", "\"{$v}\"", "($_SERVER['no'] ?? 'd')", "trim(\" x\\n\")", "-5", "0x1F", "1_000", "017", "1.5", "[1][0]", "__LINE__",
            "(isset($_ENV['UNSET']) ? $_ENV['UNSET'] : 'e')", "(getenv('UNSET') !== false ? getenv('UNSET') : 'f')",
        ]).prop_map(str::to_owned),
    ];
    if depth == 0 {
        return plain.boxed();
    }
    prop_oneof![
        4 => plain,
        3 => (expression(depth - 1), expression(depth - 1)).prop_map(|(left, right)| format!("{left} . {right}")),
        1 => (condition(1), expression(depth - 1), expression(depth - 1)).prop_map(|(condition, yes, no)| format!("(({condition}) ? {yes} : {no})")),
        1 => (expression(depth - 1), expression(depth - 1)).prop_map(|(left, right)| format!("({left} ?: {right})")),
        1 => expression(depth - 1).prop_map(|inner| format!("({inner})")),
        1 => expression(depth - 1).prop_map(|inner| format!("(string) ({inner})")),
        1 => expression(depth - 1).prop_map(|inner| format!("!({inner})")),
        1 => expression(depth - 1).prop_map(|inner| format!("/* ' */ {inner} # \"\n")),
    ]
    .boxed()
}

fn constant_expression() -> impl Strategy<Value = String> {
    prop_oneof![
        literal(),
        (literal(), literal()).prop_map(|(left, right)| format!("{left} . {right}")),
        Just("BASE . __DIR__".to_owned())
    ]
}

/// Strings in all their quotations, with what needs care in each.
fn literal() -> impl Strategy<Value = String> {
    let piece = proptest::sample::select(vec![
        "a",
        "Z",
        "0",
        "7",
        "8",
        " ",
        "\\\\",
        "\\n",
        "\\t",
        "\\q",
        "\\$",
        "$ ",
        "$1",
        "\\101",
        "\\0",
        "\\x41",
        "\\xg",
        "\\x4g",
        "\\u{e9}",
        "\\u{1F600}",
        "\\uz",
        "\\e",
        "\\v",
        "\\f",
        "{ ",
        "}",
        "{ $ ",
        "é",
        "😀",
        "?>",
        "<?php",
        "//",
        "#",
        "/*",
        "\n",
        "\r\n",
        "%",
        "&",
        "=",
    ]);
    let text = proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat());
    prop_oneof![
        3 => text.clone().prop_map(|text| format!("'{text}\\''")),
        3 => text.clone().prop_map(|text| format!("\"{text}\\\"'\"")),
        1 => text.clone().prop_map(|text| format!("<<<'EOT'\n  {}\"'\n  EOT\n", text.replace('\n', "\n  "))),
        1 => text.prop_map(|text| format!("<<<EOT\n{text}\"'\nEOT\n")),
        1 => (0..5000_i64).prop_map(|number| number.to_string()),
    ]
}

/// What a script under `tests/php` prints for this input. PHP's warnings are failures.
fn php(script: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("php")
        .args(["-d", "display_errors=stderr", "-d", "error_reporting=-1"])
        .arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/php").join(script))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the php command line interpreter");
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

fn wordpress_dir() -> String {
    std::env::var("WORDPRESS_DIR").unwrap_or_else(|_| "/usr/share/wordpress".to_owned())
}

fn cases() -> usize {
    std::env::var("PHP_PARITY_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(BATCH)
}

fn runner(seed: u8) -> TestRunner {
    TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]))
}

fn sample<S: Strategy>(runner: &mut TestRunner, strategy: &S) -> S::Value {
    strategy.new_tree(runner).unwrap().current()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// PHP's answers are UTF-8 wherever ours must be; an `Err` would differ from any text of ours.
fn unhex(hex: &str) -> String {
    let bytes: Vec<u8> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    String::from_utf8(bytes).unwrap_or_else(|error| format!("no UTF-8: {:?}", error.as_bytes()))
}
