// Runs within the site's own WordPress (php -r) for `wp-jwt-sidecar doctor`: which of the site's own code does a native refresh
// leave out? Prints one line of JSON after a marker; the output of plugins is dropped. Writes nothing: the database session is
// read-only, and there is no cron and no request to other servers.
// WordPress and its plugins share the scope of these variables: those that must survive have unique names.
[ , $doctor_load, $doctor_host, $doctor_scheme, $doctor_plugin, $doctor_nonce, $doctor_hooks, $doctor_early, $doctor_folders ] = $argv;
ini_set( 'display_errors', '0' );
ini_set( 'log_errors', '0' );
ob_start();

$_SERVER['HTTP_HOST']       = $doctor_host;
$_SERVER['SERVER_NAME']     = $doctor_host;
$_SERVER['REQUEST_URI']     = '/';
$_SERVER['REQUEST_METHOD']  = 'GET';
$_SERVER['SERVER_PROTOCOL'] = 'HTTP/1.1';
$_SERVER['REMOTE_ADDR']     = '127.0.0.1';
if ( 'https' === $doctor_scheme ) {
	$_SERVER['HTTPS'] = 'on';
}
foreach ( array( 'DISABLE_WP_CRON', 'WP_HTTP_BLOCK_EXTERNAL', 'AUTOMATIC_UPDATER_DISABLED' ) as $constant ) {
	define( $constant, true );
}
// WordPress takes over hooks that are there before it (WP_Hook::build_preinitialized_hooks). This one is asked as soon as
// there is a database connection, before any plugin.
$wp_filter = array(
	'enable_loading_object_cache_dropin' => array(
		0 => array(
			'doctor' => array(
				'accepted_args' => 1,
				'function'      => function ( $enabled ) {
					global $wpdb;
					$wpdb->suppress_errors();
					$wpdb->query( 'SET SESSION TRANSACTION READ ONLY' );
					return $enabled;
				},
			),
		),
	),
);
require $doctor_load;
ini_set( 'log_errors', '0' );

$place = function ( $callback ): array {
	try {
		if ( is_string( $callback ) && str_contains( $callback, '::' ) ) {
			$callback = explode( '::', $callback, 2 );
		}
		if ( is_object( $callback ) && ! $callback instanceof Closure ) {
			$callback = array( $callback, '__invoke' );
		}
		$code = is_array( $callback ) ? new ReflectionMethod( $callback[0], $callback[1] ) : new ReflectionFunction( $callback );
		$name = is_array( $callback ) ? $code->class . '::' . $code->name : $code->name;
		return array( 'name' => $name, 'file' => (string) $code->getFileName(), 'line' => (int) $code->getStartLine() );
	} catch ( Throwable $error ) {
		return array( 'name' => '(unknown)', 'file' => '', 'line' => 0 );
	}
};
$within = function ( string $file, string ...$folders ): bool {
	foreach ( $folders as $folder ) {
		$folder = realpath( $folder );
		if ( false !== $folder && str_starts_with( (string) realpath( $file ), $folder . '/' ) ) {
			return true;
		}
	}
	return false;
};
// The owner of a file: a plugin (its folder), the site itself, or unknown.
$whose = function ( string $file ) use ( $within ): string {
	if ( $within( $file, WPMU_PLUGIN_DIR ) ) {
		return 'mu-plugins';
	}
	if ( $within( $file, get_theme_root(), get_template_directory(), get_stylesheet_directory() ) ) {
		return 'theme';
	}
	$active = is_multisite() ? array_merge( wp_get_active_network_plugins(), wp_get_active_and_valid_plugins() ) : wp_get_active_and_valid_plugins();
	foreach ( array_map( 'dirname', $active ) as $folder ) {
		if ( WP_PLUGIN_DIR !== $folder && $within( $file, $folder ) ) {
			return basename( $folder );
		}
	}
	return '';
};
$own  = WP_PLUGIN_DIR . '/' . dirname( $doctor_plugin );
$core = array( ABSPATH . WPINC, ABSPATH . 'wp-admin' );

// Setting up the REST API runs rest_api_init, in which code may add more.
$doctor_seen = array();
foreach ( $wp_filter as $name => $hook ) {
	foreach ( $hook->callbacks as $priority => $callbacks ) {
		foreach ( array_keys( $callbacks ) as $id ) {
			$doctor_seen[ "$name $priority $id" ] = true;
		}
	}
}
$routes   = rest_get_server()->get_routes( 'jwt-auth/v1' );
$handlers = array();
foreach ( $routes['/jwt-auth/v1/token/refresh'] ?? array() as $handler ) {
	if ( ! empty( $handler['methods']['POST'] ) ) {
		$at         = $place( $handler['callback'] ?? null );
		$handlers[] = $at + array( 'own' => $within( $at['file'], $own ) );
	}
}

// The plugin's own filters, and those of WordPress that were asked for; of the early ones only what certain plugins do there.
$general = explode( ',', $doctor_hooks );
$early   = explode( ',', $doctor_early );
$folders = explode( ',', $doctor_folders );
$hooks   = array();
foreach ( $wp_filter as $name => $hook ) {
	$of_plugin = str_starts_with( $name, 'jwt_auth' );
	$is_early  = in_array( $name, $early, true );
	if ( ! $of_plugin && ! $is_early && ! in_array( $name, $general, true ) ) {
		continue;
	}
	foreach ( $hook->callbacks as $priority => $callbacks ) {
		foreach ( $callbacks as $id => $callback ) {
			$at = $place( $callback['function'] );
			if ( $within( $at['file'], $own, ...$core ) || '' === $at['file'] ) {
				continue;
			}
			$home = $whose( $at['file'] );
			if ( ! $is_early || in_array( $home, $folders, true ) ) {
				$late    = ! isset( $doctor_seen[ "$name $priority $id" ] );
				$hooks[] = $at + array( 'hook' => $name, 'priority' => $priority, 'of_plugin' => $of_plugin, 'home' => $home, 'late' => $late );
			}
		}
	}
}
$key  = defined( 'JWT_AUTH_SECRET_KEY' ) ? (string) JWT_AUTH_SECRET_KEY : '';
$said = array(
	'php'       => PHP_VERSION,
	'wordpress' => get_bloginfo( 'version' ),
	'handlers'  => $handlers,
	'hooks'     => $hooks,
	// Compared without being shown: the nonce makes them worthless to others.
	'salt'      => hash_hmac( 'sha256', wp_salt( 'auth' ), $doctor_nonce ),
	'key'       => '' === $key ? null : hash_hmac( 'sha256', $key, $doctor_nonce ),
);
remove_all_actions( 'shutdown' );
while ( ob_get_level() > 0 ) {
	ob_end_clean();
}
echo "\n$doctor_nonce", json_encode( $said, JSON_INVALID_UTF8_SUBSTITUTE ), "\n";
