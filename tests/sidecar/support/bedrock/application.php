<?php
// As roots/bedrock has it: config/application.php.
use Roots\WPConfig\Config;

$root_dir    = dirname( __DIR__ );
$webroot_dir = $root_dir . '/www';

if ( file_exists( $root_dir . '/.env' ) ) {
	$dotenv = Dotenv\Dotenv::createUnsafeImmutable( $root_dir, array( '.env.local', '.env' ) );
	$dotenv->load();
	$dotenv->required( array( 'WP_HOME', 'WP_SITEURL' ) );
	if ( ! env( 'DATABASE_URL' ) ) {
		$dotenv->required( array( 'DB_NAME', 'DB_USER', 'DB_PASSWORD' ) );
	}
}
define( 'WP_ENV', env( 'WP_ENV' ) ?: 'production' );
Config::define( 'WP_HOME', env( 'WP_HOME' ) );
Config::define( 'WP_SITEURL', env( 'WP_SITEURL' ) );
Config::define( 'CONTENT_DIR', '/app' );
Config::define( 'WP_CONTENT_DIR', $webroot_dir . '/app' );
Config::define( 'WP_CONTENT_URL', env( 'WP_HOME' ) . '/app' );
if ( env( 'DATABASE_URL' ) ) {
	$dsn = (object) parse_url( env( 'DATABASE_URL' ) );
	Config::define( 'DB_NAME', substr( $dsn->path, 1 ) );
	Config::define( 'DB_USER', $dsn->user );
	Config::define( 'DB_PASSWORD', $dsn->pass );
}
Config::define( 'DB_HOST', env( 'DB_HOST' ) ?: 'localhost' );
Config::define( 'DB_CHARSET', 'utf8mb4' );
Config::define( 'DB_COLLATE', '' );
$table_prefix = env( 'DB_PREFIX' ) ?: 'wp_';
foreach ( array( 'AUTH_KEY', 'SECURE_AUTH_KEY', 'LOGGED_IN_KEY', 'NONCE_KEY', 'AUTH_SALT', 'SECURE_AUTH_SALT', 'LOGGED_IN_SALT', 'NONCE_SALT' ) as $name ) {
	Config::define( $name, env( $name ) );
}
Config::define( 'JWT_AUTH_SECRET_KEY', env( 'JWT_AUTH_SECRET_KEY' ) );
Config::define( 'WP_HTTP_BLOCK_EXTERNAL', true );
Config::define( 'DISABLE_WP_CRON', true );
Config::define( 'AUTOMATIC_UPDATER_DISABLED', true );
Config::define( 'WP_DEBUG_DISPLAY', false );
Config::define( 'WP_DEFAULT_THEME', 'plain' );
$env_config = __DIR__ . '/environments/' . WP_ENV . '.php';
if ( file_exists( $env_config ) ) {
	require_once $env_config;
}
Config::apply();
if ( ! defined( 'ABSPATH' ) ) {
	define( 'ABSPATH', $webroot_dir . '/wp/' );
}
