<?php
/**
 * The two tables, to the letter of the contract. There is no index on refresh_token_hash: the original has none.
 */

namespace JwtAuthPro;

defined( 'ABSPATH' ) || exit;

function tokens_table(): string {
	global $wpdb;
	return $wpdb->prefix . 'jwt_auth_tokens';
}

function analytics_table(): string {
	global $wpdb;
	return $wpdb->prefix . 'jwt_auth_analytics';
}

/** Plain statements, not dbDelta(): that one does not know foreign keys. */
function create_tables(): void {
	global $wpdb;
	$tokens    = tokens_table();
	$analytics = analytics_table();
	$charset   = $wpdb->get_charset_collate();

	$statements = array(
		"CREATE TABLE IF NOT EXISTS $tokens (
			id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
			hash VARCHAR(255) NOT NULL,
			user_id BIGINT UNSIGNED NOT NULL,
			issued_at DATETIME NOT NULL,
			expires_at DATETIME NOT NULL,
			last_used_at DATETIME NULL,
			revoked_at DATETIME NULL,
			refresh_token_hash VARCHAR(255) NULL,
			refresh_token_expires_at DATETIME NULL,
			token_family VARCHAR(255) NULL,
			metadata JSON NULL,
			user_agent VARCHAR(255) NULL,
			ip_address VARCHAR(45) NULL,
			blog_id BIGINT UNSIGNED NOT NULL DEFAULT 1,
			INDEX user_id_idx (user_id),
			INDEX hash_idx (hash),
			INDEX expires_at_idx (expires_at),
			INDEX blog_id_idx (blog_id),
			INDEX revoked_at_idx (revoked_at),
			INDEX token_family_idx (token_family),
			INDEX issued_at_idx (issued_at),
			INDEX revoked_expires_idx (revoked_at, expires_at),
			INDEX user_revoked_expires_idx (user_id, revoked_at, expires_at)
		) ENGINE=InnoDB $charset",
		"CREATE TABLE IF NOT EXISTS $analytics (
			id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
			event_type VARCHAR(50) NOT NULL,
			event_status TINYINT UNSIGNED NOT NULL,
			failure_reason TEXT NULL,
			user_id BIGINT UNSIGNED NULL,
			token_id BIGINT UNSIGNED NULL,
			token_family VARCHAR(255) NULL,
			ip_address VARCHAR(45) NULL,
			user_agent VARCHAR(255) NULL,
			country_code CHAR(2) NULL,
			request_path VARCHAR(255) NULL,
			request_method VARCHAR(10) NULL,
			response_time INT UNSIGNED NULL,
			blog_id BIGINT UNSIGNED NOT NULL DEFAULT 1,
			event_timestamp DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP,
			FOREIGN KEY (user_id) REFERENCES {$wpdb->users} (ID) ON DELETE SET NULL,
			FOREIGN KEY (token_id) REFERENCES $tokens (id) ON DELETE SET NULL
		) ENGINE=InnoDB $charset",
	);
	foreach ( $statements as $statement ) {
		if ( false === $wpdb->query( $statement ) ) {
			wp_die( 'A table could not be created: ' . esc_html( $wpdb->last_error ) );
		}
	}
}
