//! Random configuration files that PHP runs without a fatal error.

use proptest::prelude::*;

/// Files beside the configuration file, which it may include.
pub(super) const FILES: [(&str, &str); 4] = [
    // PHP returns at once, which cannot be known.
    (
        "returns.php",
        "<?php if (!isset($_SERVER['no'])) return; $v = 'r'; $table_prefix = 'r_'; putenv('PUT=r'); define('A', 'r');",
    ),
    ("goes-on.php", "<?php if (isset($_SERVER['no'])) return; $v = 'g'; putenv('PUT=g'); define('B', 'g');"),
    ("ends.php", "<?php $v = 'e'; if (!isset($_SERVER['no'])) { return; } exit;"),
    (
        "unread.php",
        "<?php $v = 'u'; putenv('PUT=u'); putenv('SET=u'); $_ENV['SET'] = 'u'; defined('C') or define('C', 'u');",
    ),
];

pub(super) fn config_file() -> impl Strategy<Value = String> {
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
            "$v = preg_replace('/a/', 'b', (string) $v);\n", "putenv('PUT=put'); $v = getenv('PUT');\n", "putenv('PUT'); $_ENV['PUT'] = 'array';\n", "putenv('UNSET=put');\n", "unset($_ENV['SET']);\n",
            "include __DIR__ . '/returns.php';\n", "require_once 'goes-on.php';\n", "include_once __DIR__ . '/ends.php';\n", "require $_SERVER['no'] ?? __DIR__ . '/unread.php';\n",
            "array_map(function ($name) { defined($name) or define($name, 'c'); putenv('PUT=c'); }, ['D']);\n", "preg_match('/./', 'm', $v); $v = implode('', $v);\n",
            "$w = str_replace('a', 'b', 'aa', $v);\n", "isset($table_prefix) or $table_prefix = 'late_';\n",
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
        "getenv('PUT') === 'put'",
        "$_ENV['SET'] ?? false",
        "isset($_ENV['PUT'])",
        "putenv('PUT=condition')",
        "(getenv('UNSET') ?: 'd') === 'd'",
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
            "(isset($_ENV['SET']) ? $_ENV['SET'] : 'h')", "(getenv('UNSET') ? 'with' : 'without')", "(getenv('UNSET') ? 'same' : 'same')", "getenv('PUT')", "(getenv('PUT') ?: 'i')",
            "($_ENV['PUT'] ?? 'j')", "(!getenv('UNSET') ? 'k' : getenv('UNSET'))", "(empty($_ENV['SET']) ? 'l' : 'm')", "(true ? 'n' : exit)", "dirname(__DIR__ . '/a/.')",
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

/// Strings in all kinds of quotes, with the special cases of each.
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
