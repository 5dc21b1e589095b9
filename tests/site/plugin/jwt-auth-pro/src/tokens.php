<?php
/**
 * Pairs of access and refresh token, and the rows that hold them. All times are UTC.
 */

namespace JwtAuthPro;

use WP_Error;

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

/** A new pair and its row. Nobody looks whether the row was stored (a weakness of the original). */
function new_pair( int $user_id, string $token_family ): array|WP_Error {
	global $wpdb;
	$now      = time();
	$lifetime = (int) setting( 'token_settings', 'jwt_expiration' );
	$claims   = array(
		'iss'  => get_bloginfo( 'url' ),
		'iat'  => $now,
		'nbf'  => $now,
		'exp'  => $now + $lifetime,
		'data' => array( 'user' => array( 'id' => (string) $user_id ) ),
	);
	$jwt      = encode_jwt( $claims );
	if ( null === $jwt ) {
		return new WP_Error( 'jwt_auth_bad_config', 'JWT is not configured properly.', array( 'status' => 403 ) );
	}
	$refresh_token = bin2hex( random_bytes( 16 ) );
	$wpdb->insert(
		tokens_table(),
		array(
			'hash'                     => wp_hash( $jwt ),
			'user_id'                  => $user_id,
			'issued_at'                => gmdate( 'Y-m-d H:i:s', $claims['iat'] ),
			'expires_at'               => gmdate( 'Y-m-d H:i:s', $claims['exp'] ),
			'refresh_token_hash'       => $refresh_token,
			'refresh_token_expires_at' => gmdate( 'Y-m-d H:i:s', $now + (int) setting( 'token_settings', 'refresh_token_expiration' ) ),
			'token_family'             => $token_family,
			'metadata'                 => wp_json_encode( array( 'user_agent' => user_agent() ) ),
			'user_agent'               => user_agent(),
			'ip_address'               => client_address(),
			'blog_id'                  => get_current_blog_id(),
		)
	);
	return array(
		'access_token'  => $jwt,
		'expires_in'    => $lifetime,
		'token_type'    => 'Bearer',
		'refresh_token' => $refresh_token,
	);
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
