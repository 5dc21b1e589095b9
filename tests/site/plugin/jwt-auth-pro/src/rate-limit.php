<?php
/**
 * A fixed window for each client address, in a transient. `delete_transient( rate_limit_key( … ) )` opens a new one.
 */

namespace JwtAuthPro;

use WP_Error;
use WP_HTTP_Response;

defined( 'ABSPATH' ) || exit;

function rate_limit_key( string $address ): string {
	return 'jwt_auth_rate_limit_' . hash( 'sha256', $address );
}

/** Counts this request. NULL where it may go on. */
function rate_limited(): ?WP_Error {
	if ( ! setting( 'rate_limit_settings', 'enabled' ) ) {
		return null;
	}
	$max    = (int) setting( 'rate_limit_settings', 'max_requests' );
	$length = MINUTE_IN_SECONDS * (int) setting( 'rate_limit_settings', 'window_minutes' );
	$key    = rate_limit_key( client_address() );
	$now    = time();
	$window = get_transient( $key );
	if ( ! is_array( $window ) || $window['reset'] <= $now ) {
		$window = array(
			'count' => 0,
			'reset' => $now + $length,
		);
	}

	$refused = $window['count'] >= $max;
	if ( ! $refused ) {
		++$window['count'];
		set_transient( $key, $window, max( 1, $window['reset'] - $now ) );
	}
	$retry_after = max( 1, $window['reset'] - $now );
	rate_limit_headers(
		array(
			'X-RateLimit-Limit'     => (string) $max,
			'X-RateLimit-Remaining' => (string) max( 0, $max - $window['count'] ),
			'X-RateLimit-Reset'     => (string) $window['reset'],
			'Retry-After'           => (string) $retry_after,
		)
	);
	if ( ! $refused ) {
		return null;
	}
	return new WP_Error(
		'jwt_auth_rate_limited',
		'Rate limit exceeded',
		array(
			'status'      => 429,
			'retry_after' => $retry_after,
		)
	);
}

/** Remembers the headers of this request's window; none before the request was counted. */
function rate_limit_headers( ?array $set = null ): array {
	static $headers = array();
	return $headers = $set ?? $headers;
}

/** Retry-After goes with a 429 and, as recorded, with a success, but not with a 403. */
function add_rate_limit_headers( WP_HTTP_Response $response ): WP_HTTP_Response {
	foreach ( rate_limit_headers() as $name => $value ) {
		if ( 'Retry-After' !== $name || in_array( $response->get_status(), array( 200, 429 ), true ) ) {
			$response->header( $name, $value );
		}
	}
	return $response;
}
