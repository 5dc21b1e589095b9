<?php
/**
 * Who the bearer of an access token is. On the plugin's own routes an Authorization header does not matter, but to those
 * that are about the token in it.
 */

namespace JwtAuthPro;

use WP_Error;
use WP_REST_Request;
use WP_REST_Server;

defined( 'ABSPATH' ) || exit;

/** Filter determine_current_user. Only says who it is; refuse_bad_bearer() answers for an invalid token. */
function user_from_bearer( int|false $user_id ): int|false {
	$jwt = $user_id || own_route() ? null : bearer_token();
	$row = null === $jwt ? null : valid_row( $jwt );
	if ( null === $row || is_wp_error( $row ) ) {
		return $user_id;
	}
	touch_row( (int) $row->id );
	return (int) $row->user_id;
}

/** Filter rest_pre_dispatch. */
function refuse_bad_bearer( mixed $result, WP_REST_Server $server, WP_REST_Request $request ): mixed {
	$jwt = bearer_token();
	if ( null !== $result || null === $jwt || own_route() ) {
		return $result;
	}
	$limited = rate_limited();
	if ( $limited ) {
		return $limited;
	}
	if ( is_wp_error( valid_row( $jwt ) ) ) {
		return new WP_Error( 'jwt_auth_invalid_token', 'Invalid token.', array( 'status' => 401 ) );
	}
	return $result;
}

/** By the target: WordPress asks for the user before it knows the route. */
function own_route(): bool {
	return false !== stripos( rawurldecode( $_SERVER['REQUEST_URI'] ?? '' ), '/' . REST_NAMESPACE . '/' );
}

function bearer_token(): ?string {
	$header = authorization_header();
	return str_starts_with( $header, 'Bearer ' ) ? trim( substr( $header, 7 ) ) : null;
}

/** The row of an access token that is good: signature, times, issuer, user, and the first row found not revoked. */
function valid_row( string $jwt ): object {
	$bad    = fn( string $code, string $message ) => new WP_Error( $code, $message, array( 'status' => 403 ) );
	$claims = decode_jwt( $jwt );
	if ( is_string( $claims ) ) {
		return $bad( 'jwt_auth_invalid_token', $claims );
	}
	if ( ( $claims['iss'] ?? null ) !== get_bloginfo( 'url' ) ) {
		return $bad( 'jwt_auth_bad_iss', 'The iss do not match with this server' );
	}
	if ( ! isset( $claims['data']['user']['id'] ) ) {
		return $bad( 'jwt_auth_bad_request', 'User ID not found in the token' );
	}
	$row = row_of_jwt( $jwt );
	if ( null === $row || null !== $row->revoked_at ) {
		return $bad( 'jwt_auth_invalid_token', 'The token is not known, or revoked.' );
	}
	return $row;
}

function touch_row( int $id ): void {
	global $wpdb;
	$wpdb->update( tokens_table(), array( 'last_used_at' => gmdate( 'Y-m-d H:i:s' ) ), array( 'id' => $id ) );
}
