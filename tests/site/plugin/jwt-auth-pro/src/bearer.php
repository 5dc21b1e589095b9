<?php
/**
 * Who the bearer of an access token is. On the plugin's own routes an Authorization header does not matter.
 */

namespace JwtAuthPro;

use WP_Error;
use WP_REST_Request;
use WP_REST_Server;

defined( 'ABSPATH' ) || exit;

/** Filter determine_current_user. Only says who it is; refuse_bad_bearer() answers for a token that is none. */
function user_from_bearer( int|false $user_id ): int|false {
	$jwt = $user_id || own_route() ? null : bearer_token();
	$row = null === $jwt ? null : valid_row( $jwt );
	if ( null === $row ) {
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
	if ( null === valid_row( $jwt ) ) {
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
function valid_row( string $jwt ): ?object {
	$claims = decode_jwt( $jwt );
	if ( null === $claims || ( $claims['iss'] ?? null ) !== get_bloginfo( 'url' ) ) {
		return null;
	}
	if ( ! isset( $claims['data']['user']['id'] ) ) {
		return null;
	}
	$row = row_of_jwt( $jwt );
	return null === $row || null !== $row->revoked_at ? null : $row;
}

function touch_row( int $id ): void {
	global $wpdb;
	$wpdb->update( tokens_table(), array( 'last_used_at' => gmdate( 'Y-m-d H:i:s' ) ), array( 'id' => $id ) );
}
