<?php
/**
 * What is known of the client: its address, its country, its user agent.
 */

namespace JwtAuthPro;

defined( 'ABSPATH' ) || exit;

/** The leftmost entry of X-Forwarded-For, even from an untrusted client (a weakness of the original). */
function client_address(): string {
	foreach ( (array) apply_filters( 'jwt_auth_ip_headers', array( 'HTTP_X_FORWARDED_FOR', 'REMOTE_ADDR' ) ) as $name ) {
		$first = trim( explode( ',', sanitize_text_field( $_SERVER[ $name ] ?? '' ) )[0] );
		// The first header that says anything decides, even if that is no address.
		if ( '' !== $first ) {
			return filter_var( $first, FILTER_VALIDATE_IP ) ? $first : default_address();
		}
	}
	return default_address();
}

function default_address(): string {
	return (string) apply_filters( 'jwt_auth_default_ip', '0.0.0.0' );
}

/** The last IPv4 octet, or the last 64 bits of an IPv6 address, set to zero. */
function anonymized( string $address ): string {
	$bytes = @inet_pton( $address ); // Warns on what is no address; that stays as it is.
	if ( false === $bytes ) {
		return $address;
	}
	$cut = 4 === strlen( $bytes ) ? 1 : 8;
	return inet_ntop( substr( $bytes, 0, -$cut ) . str_repeat( "\0", $cut ) );
}

/**
 * `--` for private and reserved addresses; `ZZ` for all others, for there is no country database here. For the same
 * reason nothing asks the filter jwt_auth_unknown_country_code, for addresses that the database does not have.
 */
function country_code( string $address ): string {
	$public = filter_var( $address, FILTER_VALIDATE_IP, FILTER_FLAG_NO_PRIV_RANGE | FILTER_FLAG_NO_RES_RANGE );
	return false === $public
		? (string) apply_filters( 'jwt_auth_private_ip_country_code', '--' )
		: (string) apply_filters( 'jwt_auth_error_country_code', 'ZZ' );
}

/** Cleaned, but with the slashes that WordPress adds to $_SERVER, as the original stores it. */
function user_agent(): string {
	return sanitize_text_field( $_SERVER['HTTP_USER_AGENT'] ?? '' );
}

/** PHP-FPM hides no header; under Apache the second name is the one that rewriting leaves. */
function authorization_header(): string {
	return (string) ( $_SERVER['HTTP_AUTHORIZATION'] ?? $_SERVER['REDIRECT_HTTP_AUTHORIZATION'] ?? '' );
}
