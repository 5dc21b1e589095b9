<?php
/**
 * The plugin's own CORS headers, which it sends by itself, not by WordPress's filters.
 */

namespace JwtAuthPro;

use WP_HTTP_Response;

defined( 'ABSPATH' ) || exit;

/** The constant wins over the setting, and a filter over both. */
function cors_enabled(): bool {
	$enabled = defined( 'JWT_AUTH_CORS_ENABLE' ) ? JWT_AUTH_CORS_ENABLE : setting( 'token_settings', 'enable_cors' );
	return (bool) apply_filters( 'jwt_auth_token_enable_cors', $enabled );
}

/** Action rest_api_init. Without effect, as in the original: WordPress sends its own list later, and PHP keeps the last. */
function send_allowed_headers(): void {
	if ( cors_enabled() && ! headers_sent() ) {
		$headers = apply_filters( 'jwt_auth_cors_allow_headers', 'Access-Control-Allow-Headers, Content-Type, Authorization' );
		header( 'Access-Control-Allow-Headers: ' . $headers );
	}
}

/** Filter rest_post_dispatch, as the recorded answers have this header behind those of the rate limit and ahead of Allow. */
function send_exposed_headers( WP_HTTP_Response $response ): WP_HTTP_Response {
	if ( cors_enabled() && str_contains( authorization_header(), 'Bearer ' ) ) {
		$headers = apply_filters( 'jwt_auth_cors_expose_headers', 'X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, Retry-After' );
		header( 'Access-Control-Expose-Headers: ' . $headers );
	}
	return $response;
}
