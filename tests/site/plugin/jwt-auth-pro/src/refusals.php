<?php
/**
 * Refusals of logins and refreshes, whose texts the site's own code can change, and with refreshes the status too.
 */

namespace JwtAuthPro;

use WP_Error;

defined( 'ABSPATH' ) || exit;

const REFUSALS = array(
	'jwt_auth_bad_config'            => 'JWT is not configured properly.',
	'jwt_auth_unsupported_algorithm' => 'Algorithm not supported',
	'jwt_auth_invalid_refresh_token' => 'Invalid refresh token.',
	'jwt_auth_user_not_found'        => 'User not found.',
);

/** A refusal by its code; `$message` where the text is not the plugin's own. */
function refusal( string $code, ?string $message = null, int $status = 403 ): WP_Error {
	$messages = REFUSALS;
	if ( null !== $message ) {
		$messages[ $code ] = $message;
	}
	$messages = apply_filters( 'jwt_auth_error_messages', $messages );
	return new WP_Error( $code, $messages[ $code ] ?? '', array( 'status' => $status ) );
}

function refused_login( WP_Error $refusal ): WP_Error {
	record_failure( 'token_generation', (string) $refusal->get_error_code() );
	return $refusal;
}

function refused_refresh( string $code ): WP_Error {
	record_failure( 'token_refresh', $code );
	return refusal( $code, null, (int) apply_filters( 'jwt_auth_error_status', 403, $code ) );
}
