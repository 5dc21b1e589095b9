<?php
/**
 * Plugin Name: JWT Auth Pro (stand-in for tests)
 * Description: Does what the refresh contract says of JWT Auth Pro 0.2.1. Written from that contract alone, for tests.
 * Version: 0.2.1
 * License: MIT
 *
 * The tests need a WordPress that answers the routes as the plugin does. This one is ours, so that it can be kept with
 * the tests, and it passes the recorded exchanges when asked directly. It keeps the weaknesses that were measured on
 * the original, since a fair stand-in must not be better than what it stands for:
 *  - no `jti`: two tokens of one user made in one second are the same JWT with the same hash;
 *  - revoking the old row and inserting the new one are two statements, and the second one's failure goes unnoticed;
 *  - the look-up by refresh token has no index;
 *  - the client chooses its address by X-Forwarded-For;
 *  - a site's own code that refuses a refresh, or answers with an object, ends PHP after the old row was revoked.
 * Its hooks are the original's by name, arguments and place, and a site's own code does with them what was recorded of
 * the original (tests/sidecar/custom.rs). It does not do licences, an admin page, clean-up jobs or revocation on changes
 * of the user.
 */

namespace JwtAuthPro;

defined( 'ABSPATH' ) || exit;

const VERSION         = '0.2.1';
const REST_NAMESPACE  = 'jwt-auth/v1';
const SETTINGS_OPTION = 'jwt_auth_pro_settings';

require_once __DIR__ . '/src/schema.php';
require_once __DIR__ . '/src/settings.php';
require_once __DIR__ . '/src/client.php';
require_once __DIR__ . '/src/cors.php';
require_once __DIR__ . '/src/rate-limit.php';
require_once __DIR__ . '/src/jwt.php';
require_once __DIR__ . '/src/refusals.php';
require_once __DIR__ . '/src/tokens.php';
require_once __DIR__ . '/src/analytics.php';
require_once __DIR__ . '/src/routes.php';
require_once __DIR__ . '/src/bearer.php';

register_activation_hook( __FILE__, __NAMESPACE__ . '\activate' );

add_action( 'rest_api_init', __NAMESPACE__ . '\register_routes' );
add_action( 'rest_api_init', __NAMESPACE__ . '\send_allowed_headers' );
add_filter( 'rest_post_dispatch', __NAMESPACE__ . '\send_exposed_headers' );
add_filter( 'determine_current_user', __NAMESPACE__ . '\user_from_bearer', 20 );
add_filter( 'rest_pre_dispatch', __NAMESPACE__ . '\refuse_bad_bearer', 10, 3 );

// A further site of a network gets its tables with its first request.
add_action( 'plugins_loaded', fn() => VERSION === get_option( 'jwt_auth_pro_version' ) || activate() );

/** Creates the tables and the options with their defaults; what is there already stays as it is. */
function activate(): void {
	create_tables();
	add_option( SETTINGS_OPTION, default_settings() );
	update_option( 'jwt_auth_pro_version', VERSION );
}
