<?php
/**
 * One row for each login, and for each refresh that got as far as the look-up of its token.
 */

namespace JwtAuthPro;

defined( 'ABSPATH' ) || exit;

function record_success( string $type, int $user_id, int $token_id, string $token_family, float $started ): void {
	record(
		array(
			'event_type'    => $type,
			'event_status'  => 1,
			'user_id'       => $user_id,
			'token_id'      => $token_id,
			'token_family'  => $token_family,
			'response_time' => (int) round( 1000 * ( microtime( true ) - $started ) ),
		)
	);
}

function record_failure( string $type, string $reason ): void {
	record(
		array(
			'event_type'     => $type,
			'event_status'   => 2,
			'failure_reason' => $reason,
			'token_family'   => '',
			'response_time'  => 0,
		)
	);
}

function record( array $event ): void {
	global $wpdb;
	$address   = client_address();
	$anonymize = apply_filters( 'jwt_auth_anonymize_ip', setting( 'data_management', 'anonymize_ip' ) );
	$wpdb->insert(
		analytics_table(),
		$event + array(
			'ip_address'      => $anonymize ? anonymized( $address ) : $address,
			'user_agent'      => user_agent(),
			'country_code'    => country_code( $address ),
			'request_path'    => sanitize_text_field( esc_url_raw( $_SERVER['REQUEST_URI'] ?? '' ) ),
			'request_method'  => sanitize_text_field( $_SERVER['REQUEST_METHOD'] ?? '' ),
			'blog_id'         => get_current_blog_id(),
			'event_timestamp' => gmdate( 'Y-m-d H:i:s' ),
		)
	);
}
