<?php
/**
 * What is known of the client: its address, its country, its user agent.
 */

namespace JwtAuthPro;

defined( 'ABSPATH' ) || exit;

/** The leftmost entry of X-Forwarded-For, whoever sent it (a weakness of the original). */
function client_address(): string {
	$forwarded = trim( explode( ',', (string) ( $_SERVER['HTTP_X_FORWARDED_FOR'] ?? '' ) )[0] );
	$address   = '' !== $forwarded ? $forwarded : (string) ( $_SERVER['REMOTE_ADDR'] ?? '' );
	return sanitize_text_field( $address );
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

/** `--` for private and reserved addresses; `ZZ` for all others, for there is no country database here. */
function country_code( string $address ): string {
	$public = filter_var( $address, FILTER_VALIDATE_IP, FILTER_FLAG_NO_PRIV_RANGE | FILTER_FLAG_NO_RES_RANGE );
	return false === $public ? '--' : 'ZZ';
}

/** Cleaned, but with the slashes that WordPress adds to $_SERVER, as the original stores it. */
function user_agent(): string {
	return sanitize_text_field( $_SERVER['HTTP_USER_AGENT'] ?? '' );
}

/** PHP-FPM hides no header; under Apache the second name is the one that rewriting leaves. */
function authorization_header(): string {
	return (string) ( $_SERVER['HTTP_AUTHORIZATION'] ?? $_SERVER['REDIRECT_HTTP_AUTHORIZATION'] ?? '' );
}
