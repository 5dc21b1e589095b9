<?php
/**
 * Installs the throw-away site with WordPress's own installer, then the theme, the plugin, the permalinks and a
 * subscriber. Called by `up`, which says everything by environment variables.
 */

$_SERVER['HTTP_HOST']   = (string) preg_replace( '~^https?://([^/]+).*$~', '$1', getenv( 'SITE_HOME' ) );
$_SERVER['REQUEST_URI'] = '/';

define( 'WP_INSTALLING', true );
define( 'WP_SITEURL', getenv( 'SITE_HOME' ) ); // wp_guess_url() would guess from a web request.
require getenv( 'SITE_DOCUMENT_ROOT' ) . '/wp-load.php';
require_once ABSPATH . 'wp-admin/includes/upgrade.php';
require_once ABSPATH . 'wp-admin/includes/plugin.php';

// The installer asks the site over HTTP whether pretty permalinks work, but no server is running yet.
add_filter( 'pre_http_request', fn() => new WP_Error( 'no_http', 'No HTTP while the site is being installed.' ) );

wp_install( 'Sidecar test site', getenv( 'SITE_ADMIN_USER' ), 'admin@example.org', false, '', getenv( 'SITE_ADMIN_PASSWORD' ) );
wp_installing( false );

update_option( 'home', getenv( 'SITE_HOME' ) );
switch_theme( 'plain' );

$user = wp_insert_user(
	array(
		'user_login'    => getenv( 'SITE_USER' ),
		'user_pass'     => getenv( 'SITE_USER_PASSWORD' ),
		'user_email'    => 'ada@example.org',
		'user_nicename' => 'ada-lovelace',
		'display_name'  => 'Ada Lovelace',
		'role'          => 'subscriber',
	)
);
if ( is_wp_error( $user ) ) {
	fail( $user );
}

$activated = activate_plugin( 'jwt-auth-pro/jwt-auth-pro.php' );
if ( is_wp_error( $activated ) ) {
	fail( $activated );
}

update_option( 'permalink_structure', getenv( 'SITE_PERMALINKS' ) );
$wp_rewrite->init();
flush_rewrite_rules( false );

function fail( WP_Error $error ): never {
	fwrite( STDERR, 'install.php: ' . $error->get_error_message() . "\n" );
	exit( 1 );
}
