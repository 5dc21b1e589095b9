<?php
/**
 * A fixed window for each client address, in a transient. `delete_transient( rate_limit_key( … ) )` opens a new one.
 */

namespace JwtAuthPro;

use WP_Error;

defined( 'ABSPATH' ) || exit;

function rate_limit_key( string $address ): string {
	return 'jwt_auth_rate_limit_' . hash( 'sha256', $address );
}

function rate_limit_enabled(): bool {
	return (bool) apply_filters( 'jwt_auth_rate_limit_enabled', setting( 'rate_limit_settings', 'enabled' ) );
}

/** Counts this request. NULL where it may go on. */
function rate_limited(): ?WP_Error {
	if ( ! rate_limit_enabled() ) {
		return null;
	}
	$max     = (int) apply_filters( 'jwt_auth_rate_limit_max_requests', setting( 'rate_limit_settings', 'max_requests' ) );
	$minutes = (int) apply_filters( 'jwt_auth_rate_limit_window_minutes', setting( 'rate_limit_settings', 'window_minutes' ) );
	$address = client_address();
	$key     = rate_limit_key( $address );
	$now     = time();
	$window  = get_transient( $key );
	if ( ! is_array( $window ) || strtotime( $window['window_end'] . ' UTC' ) <= $now ) {
		$window = array(
			'ip_address'   => $address,
			'counter'      => 0,
			'window_start' => gmdate( 'Y-m-d H:i:s', $now ),
			'window_end'   => gmdate( 'Y-m-d H:i:s', $now + MINUTE_IN_SECONDS * $minutes ),
		);
	}
	$end     = strtotime( $window['window_end'] . ' UTC' );
	$refused = $window['counter'] >= $max;
	if ( ! $refused ) {
		++$window['counter'];
		set_transient( $key, $window, max( 1, $end - $now ) );
	}
	rate_limit_window( array( $max, max( 0, $max - $window['counter'] ), $end ) );
	send_rate_limit_headers( $refused );
	if ( ! $refused ) {
		return null;
	}
	return new WP_Error(
		'jwt_auth_rate_limited',
		'Rate limit exceeded',
		array(
			'status'      => 429,
			'retry_after' => max( 1, $end - $now ),
		)
	);
}

/** Remembers the limit, what remains and the end of this request's window; none before the request was counted. */
function rate_limit_window( ?array $set = null ): ?array {
	static $window = null;
	return $window = $set ?? $window;
}

/**
 * Sends the headers by itself, so that they are in the answer whatever becomes of it. The second time they replace the
 * first ones, behind what was sent since then: so a new pair has them, with a Retry-After.
 */
function send_rate_limit_headers( bool $with_retry_after ): void {
	$window = rate_limit_window();
	if ( null === $window || ! apply_filters( 'jwt_auth_rate_limit_headers_enabled', true ) ) {
		return;
	}
	list( $max, $remaining, $end ) = $window;
	header( 'X-RateLimit-Limit: ' . $max );
	header( 'X-RateLimit-Remaining: ' . $remaining );
	header( 'X-RateLimit-Reset: ' . $end );
	if ( $with_retry_after ) {
		header( 'Retry-After: ' . max( 1, $end - time() ) );
	}
}
