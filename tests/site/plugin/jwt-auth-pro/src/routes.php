<?php
/**
 * The routes: log in, refresh, validate, revoke.
 *
 * The rate limit is counted in the callbacks, after WordPress's own check of the arguments, so that a 400 is not
 * counted; not in a permission callback, which WordPress calls a second time for the Allow header.
 */

namespace JwtAuthPro;

use WP_Error;
use WP_REST_Request;
use WP_REST_Response;
use WP_User;

defined( 'ABSPATH' ) || exit;

function register_routes(): void {
	$required = array(
		'type'     => 'string',
		'required' => true,
	);
	$routes   = array(
		'/token'          => array( 'log_in', array( 'username' => $required, 'password' => $required ) ),
		'/token/refresh'  => array( 'refresh', array( 'refresh_token' => $required ) ),
		'/token/validate' => array( 'validate', array() ),
		'/token/revoke'   => array( 'revoke', array() ),
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
	$started = microtime( true );
	$limited = rate_limited();
	if ( $limited ) {
		return $limited;
	}
	$user = wp_authenticate( $request->get_param( 'username' ), $request->get_param( 'password' ) );
	if ( is_wp_error( $user ) ) {
		return refused_login( refusal( 'jwt_auth_failed', $user->get_error_message() ) );
	}
	$token = new_access_token( $user );
	if ( is_wp_error( $token ) ) {
		return refused_login( $token );
	}
	$token_family               = bin2hex( random_bytes( 16 ) );
	list( $id, $refresh_token ) = store_pair( $token['columns'], $token_family );
	record_success( 'token_generation', $user->ID, $id, $token_family, $started );
	do_action( 'jwt_auth_token_generated', $token['jwt'], $user );
	send_rate_limit_headers( true );
	return rest_ensure_response( login_body( $token['jwt'], $refresh_token, $user ) );
}

/** PHP ends the request where the filter returns anything else, as in the original. */
function login_body( string $jwt, string $refresh_token, WP_User $user ): array {
	$body = array(
		'token'             => $jwt,
		'user_id'           => $user->ID,
		'user_email'        => $user->user_email,
		'user_nicename'     => $user->user_nicename,
		'user_display_name' => $user->display_name,
		'refresh_token'     => $refresh_token,
	);
	return apply_filters( 'jwt_auth_token_before_dispatch', $body, $user );
}

function refresh( WP_REST_Request $request ): WP_REST_Response|WP_Error {
	$started = microtime( true );
	$limited = rate_limited();
	if ( $limited ) {
		return $limited;
	}
	return rest_ensure_response( refresh_body( sanitize_text_field( $request->get_param( 'refresh_token' ) ), $started ) );
}

/** PHP ends the request where the filter returns anything else, as in the original. */
function refresh_body( string $refresh_token, float $started ): array|WP_Error {
	$row = live_row( $refresh_token );
	if ( null === $row ) {
		return refused_refresh( 'jwt_auth_invalid_refresh_token' );
	}
	$user = get_userdata( (int) $row->user_id );
	if ( ! $user ) {
		return refused_refresh( 'jwt_auth_user_not_found' );
	}
	// Two statements, as in the original: who fails between them has lost the session.
	revoke_row( (int) $row->id );
	$token = new_access_token( $user );
	// The result is not checked for an error (a weakness of the original): PHP then ends the request.
	list( , $refresh_token ) = store_pair( $token['columns'], (string) $row->token_family );
	record_success( 'token_refresh', $user->ID, (int) $row->id, (string) $row->token_family, $started );
	$body = array(
		'access_token'  => $token['jwt'],
		'expires_in'    => $token['expires_at'] - time(),
		'token_type'    => 'Bearer',
		'refresh_token' => $refresh_token,
	);
	$body = apply_filters( 'jwt_auth_token_before_dispatch', $body, $user );
	do_action( 'jwt_auth_token_refreshed', $token['jwt'], $user );
	send_rate_limit_headers( true );
	return $body;
}

/** Says whether the access token in the Authorization header is good. */
function validate(): WP_REST_Response|WP_Error {
	$limited = rate_limited();
	if ( $limited ) {
		return $limited;
	}
	$jwt = bearer_token();
	if ( null === $jwt ) {
		return new WP_Error( 'jwt_auth_no_auth_header', 'Authorization header not found.', array( 'status' => 403 ) );
	}
	$row = valid_row( $jwt );
	if ( is_wp_error( $row ) ) {
		return $row;
	}
	return new WP_REST_Response(
		array(
			'code' => 'jwt_auth_valid_token',
			'data' => array( 'status' => 200 ),
		)
	);
}

/** Revokes the row of the access token in the Authorization header, and with it that row's refresh token. */
function revoke(): WP_REST_Response|WP_Error {
	$limited = rate_limited();
	if ( $limited ) {
		return $limited;
	}
	$jwt = bearer_token();
	$row = null === $jwt ? null : valid_row( $jwt );
	if ( null === $row || is_wp_error( $row ) ) {
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
