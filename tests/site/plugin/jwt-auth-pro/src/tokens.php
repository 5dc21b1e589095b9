<?php
/**
 * Pairs of access and refresh token, and the rows that hold them. All times are UTC.
 */

namespace JwtAuthPro;

use WP_Error;
use WP_User;

defined( 'ABSPATH' ) || exit;

/** The row of a live refresh token. Reads the whole table: refresh_token_hash has no index. */
function live_row( string $refresh_token ): ?object {
	global $wpdb;
	return $wpdb->get_row(
		$wpdb->prepare(
			'SELECT * FROM ' . tokens_table()
			. ' WHERE refresh_token_hash = %s AND refresh_token_expires_at > %s AND revoked_at IS NULL',
			$refresh_token,
			gmdate( 'Y-m-d H:i:s' )
		)
	);
}

/** An access token with its columns of a row, which is not stored yet. */
function new_access_token( WP_User $user ): array|WP_Error {
	$user = apply_filters( 'jwt_auth_before_authenticate', $user );
	if ( is_wp_error( $user ) ) {
		return refusal( 'jwt_auth_failed', $user->get_error_message() );
	}
	if ( ! in_array( algorithm(), ALGORITHMS, true ) ) {
		return refusal( 'jwt_auth_unsupported_algorithm' );
	}
	$issued_at = (int) apply_filters( 'jwt_auth_issued_at', time() );
	$expires   = $issued_at + (int) setting( 'token_settings', 'jwt_expiration' );
	$claims    = array(
		'iss'  => apply_filters( 'jwt_auth_issuer', get_bloginfo( 'url' ) ),
		'iat'  => $issued_at,
		'nbf'  => (int) apply_filters( 'jwt_auth_not_before', $issued_at, $issued_at ),
		'exp'  => (int) apply_filters( 'jwt_auth_expire', $expires, $issued_at ),
		'data' => array( 'user' => apply_filters( 'jwt_auth_token_user_data', array( 'id' => (string) $user->ID ), $user ) ),
	);
	$claims    = apply_filters( 'jwt_auth_token_before_sign', $claims, $user );
	$jwt       = encode_jwt( $claims );
	if ( null === $jwt ) {
		return refusal( 'jwt_auth_bad_config' );
	}
	$columns = array(
		'hash'       => wp_hash( $jwt ),
		'user_id'    => $user->ID,
		'issued_at'  => gmdate( 'Y-m-d H:i:s', $claims['iat'] ),
		'expires_at' => gmdate( 'Y-m-d H:i:s', $claims['exp'] ),
		'metadata'   => wp_json_encode( array( 'user_agent' => user_agent() ) ),
		'user_agent' => user_agent(),
		'ip_address' => client_address(),
		// Not blog_id: on every blog of a network it is the column's default, 1.
	);
	return array(
		'jwt'        => $jwt,
		'expires_at' => $claims['exp'],
		'columns'    => apply_filters( 'jwt_auth_jwt_token_data_before_update', $columns ),
	);
}

/** Gives these columns of an access token a refresh token, stores the row, and returns its id with that token. */
function store_pair( array $columns, string $token_family ): array {
	global $wpdb;
	// Hashed, so that whatever a site's own code makes has the same form.
	$refresh_token = wp_hash( apply_filters( 'jwt_auth_refresh_token_generation', bin2hex( random_bytes( 32 ) ) ) );
	$lifetime      = apply_filters( 'jwt_auth_refresh_token_expiration', setting( 'token_settings', 'refresh_token_expiration' ) );
	$of_refresh    = array(
		'refresh_token_hash'       => $refresh_token,
		'refresh_token_expires_at' => gmdate( 'Y-m-d H:i:s', time() + (int) $lifetime ),
		'token_family'             => $token_family,
	);
	// Whether the row was stored is not checked (a weakness of the original).
	$wpdb->insert( tokens_table(), array_merge( $columns, apply_filters( 'jwt_auth_refresh_token_data_before_update', $of_refresh ) ) );
	return array( (int) $wpdb->insert_id, $refresh_token );
}

function revoke_row( int $id ): void {
	global $wpdb;
	$wpdb->update( tokens_table(), array( 'revoked_at' => gmdate( 'Y-m-d H:i:s' ) ), array( 'id' => $id ) );
}

/** The first row with this hash; two rows can share one, for want of a `jti`. */
function row_of_jwt( string $jwt ): ?object {
	global $wpdb;
	return $wpdb->get_row( $wpdb->prepare( 'SELECT * FROM ' . tokens_table() . ' WHERE hash = %s', wp_hash( $jwt ) ) );
}
