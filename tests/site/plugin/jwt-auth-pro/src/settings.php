<?php
/**
 * The option jwt_auth_pro_settings. A key that is missing has its default, and each has a filter of its own.
 */

namespace JwtAuthPro;

defined( 'ABSPATH' ) || exit;

function default_settings(): array {
	return array(
		'data_management'     => array(
			'delete_on_deactivation'   => false,
			'analytics_retention_days' => 90,
			'anonymize_ip'             => false,
		),
		'token_settings'      => array(
			'jwt_expiration'           => 604800,
			'refresh_token_expiration' => 2592000,
			'signing_algorithm'        => 'HS256',
			'enable_cors'              => false,
		),
		'user_settings'       => array(
			'revoke_on_password_change' => true,
			'revoke_on_role_change'     => true,
			'revoke_on_email_change'    => true,
			'delete_on_user_delete'     => true,
		),
		'rate_limit_settings' => array(
			'max_requests'   => 60,
			'window_minutes' => 1,
			'enabled'        => true,
		),
	);
}

function setting( string $group, string $key ): mixed {
	$stored = get_option( SETTINGS_OPTION );
	$value  = $stored[ $group ][ $key ] ?? default_settings()[ $group ][ $key ];
	return apply_filters( "jwt_auth_{$group}_{$key}", $value );
}
