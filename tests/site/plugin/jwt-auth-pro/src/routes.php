<?php
/**
 * The three routes: log in, refresh, revoke.
 *
 * The rate limit is counted in the callbacks, after WordPress's own check of the arguments, so that a 400 is not
 * counted; not in a permission callback, which WordPress calls a second time for the Allow header.
 */

namespace JwtAuthPro;

use WP_Error;
use WP_REST_Request;
use WP_REST_Response;

defined( 'ABSPATH' ) || exit;

function register_routes(): void {
	$required = array(
		'type'     => 'string',
		'required' => true,
	);
	$routes   = array(
		'/token'         => array( 'log_in', array( 'username' => $required, 'password' => $required ) ),
		'/token/refresh' => array( 'refresh', array( 'refresh_token' => $required ) ),
		'/token/revoke'  => array( 'revoke', array() ),
	);
	foreach ( $routes as $route => list( $callback, $args ) ) {
		register_rest_route(
			REST_NAMESPACE,
			$route,
			array(
				'methods'             => 'POST',
				'callback'            => __NAMESPACE__ . '\\' . $callback,
				'args'                => $args,
				'permission_callback' => '__return_true',
			)
		);
	}
}

function log_in( WP_REST_Request $request ): WP_REST_Response|WP_Error {
	$limited = rate_limited();
	if ( $limited ) {
		return $limited;
	}
	$user = wp_authenticate( $request->get_param( 'username' ), $request->get_param( 'password' ) );
	if ( is_wp_error( $user ) ) {
		return new WP_Error( '[jwt_auth] ' . $user->get_error_code(), $user->get_error_message(), array( 'status' => 403 ) );
	}
	return rest_ensure_response( new_pair( $user->ID, bin2hex( random_bytes( 16 ) ) ) );
}

function refresh( WP_REST_Request $request ): WP_REST_Response|WP_Error {
	$started = microtime( true );
	$limited = rate_limited();
	if ( $limited ) {
		return $limited;
	}
	$row = live_row( sanitize_text_field( $request->get_param( 'refresh_token' ) ) );
	if ( null === $row ) {
		return failed_refresh( 'jwt_auth_invalid_refresh_token', 'Invalid refresh token.' );
	}
	if ( ! get_userdata( (int) $row->user_id ) ) {
		return failed_refresh( 'jwt_auth_user_not_found', 'User not found.' );
	}
	// Two statements, as in the original: who fails between them has lost the session.
	revoke_row( (int) $row->id );
	$pair = new_pair( (int) $row->user_id, (string) $row->token_family );
	if ( is_wp_error( $pair ) ) {
		return $pair;
	}
	record_success( $row, $started );
	return rest_ensure_response( $pair );
}

function failed_refresh( string $code, string $message ): WP_Error {
	record_failure( $code );
	return new WP_Error( $code, $message, array( 'status' => 403 ) );
}

/** Revokes the row of the access token in the Authorization header, and with it that row's refresh token. */
function revoke(): WP_REST_Response|WP_Error {
	$limited = rate_limited();
	if ( $limited ) {
		return $limited;
	}
	$jwt = bearer_token();
	$row = null === $jwt ? null : valid_row( $jwt );
	if ( null === $row ) {
		return new WP_Error( 'jwt_auth_invalid_token', 'Invalid token.', array( 'status' => 401 ) );
	}
	revoke_row( (int) $row->id );
	return new WP_REST_Response(
		array(
			'code'    => 'jwt_auth_token_revoked',
			'message' => 'Token revoked.',
			'data'    => array( 'status' => 200 ),
		)
	);
}
