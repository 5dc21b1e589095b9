<?php
// Runs laid out configurations as WordPress would: index.php's directory is the working directory, wp-load.php has
// defined ABSPATH, and the site's wp-settings.php is a stand-in that calls wp_settings_loaded().
// Standard input: a JSON list of {"root", "entry", "host", "environment": {name: hex}}. Output: a JSON list of
// {"loaded": what there is when wp-settings.php is loaded, or null, "end": what there is at the end}, each
// {"constants": {name: [type, hex]}, "prefix": [type, hex] or null}. Every configuration runs in a fork, as constants
// cannot be undefined. Argument 1: a directory for the answers.

/** @return array{string, string} */
function described( mixed $value ): array {
	return array( get_debug_type( $value ), is_scalar( $value ) ? bin2hex( (string) $value ) : '' );
}

function known_now(): array {
	$constants = array_map( 'described', get_defined_constants( true )['user'] ?? array() );
	return array( 'constants' => (object) $constants, 'prefix' => isset( $GLOBALS['table_prefix'] ) ? described( $GLOBALS['table_prefix'] ) : null );
}

function wp_settings_loaded(): void {
	$GLOBALS['__loaded'] ??= known_now();
}

$__answer = $argv[1] . '/answer.json';
$__answers = array();
foreach ( json_decode( stream_get_contents( STDIN ), true ) as $__case ) {
	@unlink( $__answer );
	$__child = pcntl_fork();
	if ( 0 === $__child ) {
		register_shutdown_function(
			function () use ( $__answer ) {
				file_put_contents( $__answer, json_encode( array( 'loaded' => $GLOBALS['__loaded'] ?? null, 'end' => known_now() ) ) );
				posix_kill( getmypid(), SIGKILL ); // An orderly end takes longer than all the rest.
			}
		);
		ini_set( 'display_errors', '0' ); // What PHP refuses is one of the cases.
		ini_set( 'log_errors', '0' );
		ob_start( fn () => '' );
		foreach ( $__case['environment'] as $name => $value ) {
			putenv( $name . '=' . hex2bin( $value ) );
			$_ENV[ $name ] = hex2bin( $value );
		}
		$request = array( 'HTTP_HOST' => $__case['host'], 'SERVER_NAME' => $__case['host'], 'REQUEST_URI' => '/wp-json/jwt-auth/v1/token/refresh' );
		foreach ( $request as $name => $value ) {
			$_SERVER[ $name ] = $value;
			putenv( "$name=$value" ); // In a request getenv() asks the server first (sapi_getenv()).
		}
		define( 'WP_USE_THEMES', true ); // As index.php and wp-blog-header.php have it by then.
		$wp_did_header = true;
		chdir( $__case['root'] );
		define( 'ABSPATH', $__case['root'] . '/' );
		$__entry = $__case['entry'];
		unset( $name, $value, $request, $argv, $argc );
		require $__entry;
		exit;
	}
	pcntl_waitpid( $__child, $status );
	$__answers[] = is_file( $__answer ) ? json_decode( file_get_contents( $__answer ) ) : null;
}
echo json_encode( $__answers );
