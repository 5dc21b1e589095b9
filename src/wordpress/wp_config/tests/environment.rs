use super::*;

#[test]
fn the_environment_stands_for_that_of_php() {
    let world = World { environment: HashMap::from([("KEY", "v"), ("EMPTY", "")]), ..World::default() };
    for source in [
        "define('WP_X', getenv('KEY'));",
        "define('WP_X', $_ENV['KEY']);",
        "define('WP_X', getenv('KEY') ?: 'd');",
        "define('WP_X', $_ENV['NONE'] ?? 'v');",
        "define('WP_X', getenv('NONE') ?: 'v');",
        "define('WP_X', getenv('EMPTY') ?: 'v');",
        "if (getenv('KEY') === 'v') { define('WP_X', 'v'); }",
    ] {
        assert_eq!(in_world(&world, source), "v", "{source}");
    }
    assert!(in_world(&world, "define('WP_X', getenv_docker('KEY', 'd'));").starts_with('?'), "it is not declared");
    for source in [
        "define('WP_X', getenv('NONE') !== false ? getenv('NONE') : 'v');",
        "define('WP_X', isset($_ENV['NONE']) ? $_ENV['NONE'] : 'v');",
        "putenv('NONE=v'); define('WP_X', getenv('NONE'));",
        "$_ENV['NONE'] = 'v'; define('WP_X', $_ENV['NONE']);",
        "define('WP_X', $_ENV['KEY'] . '');",
        "define('WP_X', isset($_ENV['KEY']) ? $_ENV['KEY'] : 'd');",
        "define('WP_X', $_ENV['KEY'] ?? 'd');",
        "if ($_ENV['KEY'] === 'v') { define('WP_X', 'v'); } else { define('WP_X', 'w'); }",
        "putenv('NONE=v'); define('WP_X', $_ENV['NONE']);",
        "$_ENV['NONE'] = 'v'; define('WP_X', getenv('NONE'));",
        "define('WP_X', getenv('NONE') ? 'with' : 'without');",
        "unset($_ENV['KEY']); define('WP_X', $_ENV['KEY']);",
    ] {
        assert!(in_world(&world, source).starts_with('?'), "{source}: {}", in_world(&world, source));
    }
    let config =
        world.read("<?php\n$k = getenv('NONE') ?: 'v';\ndefine('WP_X', $k); define('Y', $_ENV['KEY']);").unwrap();
    assert_eq!(
        config.assumed(),
        [
            "the file's own defaults, since these are not in the sidecar's environment: NONE",
            "that PHP fills $_ENV (an E in variables_order), of which are used: KEY",
        ]
    );
    assert!(
        in_world(&world, "define('WP_X', getenv('NONE') ?? 'd');").starts_with('?'),
        "getenv() gives false, not null"
    );
}

#[test]
fn the_official_docker_file_is_read() {
    let source = r#"<?php
if (!function_exists('getenv_docker')) {
	function getenv_docker($env, $default) {
		if ($fileEnv = getenv($env . '_FILE')) {
			return rtrim(file_get_contents($fileEnv), "\r\n");
		}
		else if (($val = getenv($env)) !== false) {
			return $val;
		}
		else {
			return $default;
		}
	}
}
define( 'DB_NAME', getenv_docker('WORDPRESS_DB_NAME', 'wordpress') );
define( 'DB_PASSWORD', getenv_docker('WORDPRESS_DB_PASSWORD', 'example password') );
define( 'AUTH_KEY', getenv_docker('WORDPRESS_AUTH_KEY', 'random') );
$table_prefix = getenv_docker('WORDPRESS_TABLE_PREFIX', 'wp_');
define( 'WP_DEBUG', !!getenv_docker('WORDPRESS_DEBUG', '') );
if (isset($_SERVER['HTTP_X_FORWARDED_PROTO']) && strpos($_SERVER['HTTP_X_FORWARDED_PROTO'], 'https') !== false) {
	$_SERVER['HTTPS'] = 'on';
}
if ($configExtra = getenv_docker('WORDPRESS_CONFIG_EXTRA', '')) {
	eval($configExtra);
}
if ( ! defined( 'ABSPATH' ) ) {
	define( 'ABSPATH', __DIR__ . '/' );
}
require_once ABSPATH . 'wp-settings.php';
"#;
    let world = World {
        environment: HashMap::from([
            ("WORDPRESS_DB_NAME", "site"),
            ("WORDPRESS_DB_PASSWORD_FILE", "/run/secrets/db"),
            ("WORDPRESS_CONFIG_EXTRA", "define('JWT_AUTH_SECRET_KEY', 'j');"),
        ]),
        files: HashMap::from([("/run/secrets/db", "pass word\r\n")]),
        ..World::default()
    };
    let config = world.read(source).unwrap();
    let known = ["DB_NAME", "DB_PASSWORD", "AUTH_KEY", "JWT_AUTH_SECRET_KEY", "ABSPATH", "WP_DEBUG"]
        .map(|name| words(config.constant(name)));
    assert_eq!(known, ["site", "pass word", "random", "j", "/site/", ""]);
    assert_eq!(words(config.table_prefix()), "wp_");
    assert_eq!(config.incomplete(), None);
}
