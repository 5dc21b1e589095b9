//! The bare database: the statements of a rotation with its analytics row, one transaction for
//! each, from a plain client.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use std::time::Instant;

use crate::load::{Outcome, Span};
use crate::support::mariadb::random_hex;
use crate::support::rig::ROUTE;

/// Rotates from row `id` on, each time the row that the previous rotation has added.
pub async fn rotations(mut conn: Conn, mut id: u64, user: u64, span: Span) -> Outcome {
    conn.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await.unwrap();
    let mut outcome = Outcome::default();
    while Instant::now() < span.until {
        let began = Instant::now();
        conn.query_drop("START TRANSACTION").await.unwrap();
        let lock = "SELECT id, refresh_token_hash, revoked_at IS NOT NULL, refresh_token_expires_at <= UTC_TIMESTAMP(), user_id, \
                    token_family FROM wp_jwt_auth_tokens WHERE id = ? FOR UPDATE";
        conn.exec_drop(lock, (id,)).await.unwrap();
        conn.exec_drop("SELECT user_email, user_nicename, display_name FROM wp_users WHERE ID = ?", (user,))
            .await
            .unwrap();
        let insert = "INSERT INTO wp_jwt_auth_tokens (hash, user_id, issued_at, expires_at, refresh_token_hash, \
                      refresh_token_expires_at, token_family, metadata, user_agent, ip_address, blog_id) VALUES (?, ?, \
                      UTC_TIMESTAMP(), UTC_TIMESTAMP() + INTERVAL 7 DAY, ?, UTC_TIMESTAMP() + INTERVAL 30 DAY, ?, ?, '', '127.0.0.1', 1)";
        let (hash, token) = (random_hex::<16>(), random_hex::<16>());
        conn.exec_drop(insert, (hash, user, token, "f", "{\"user_agent\":\"\"}")).await.unwrap();
        let child = conn.last_insert_id().unwrap();
        conn.exec_drop("UPDATE wp_jwt_auth_tokens SET revoked_at = UTC_TIMESTAMP() WHERE id = ?", (id,)).await.unwrap();
        let event = "INSERT INTO wp_jwt_auth_analytics (event_type, event_status, user_id, token_id, token_family, ip_address, \
                     user_agent, country_code, request_path, request_method, response_time, blog_id, event_timestamp) VALUES \
                     ('token_refresh', 1, ?, ?, 'f', '127.0.0.1', '', '--', ?, 'POST', 1, 1, UTC_TIMESTAMP())";
        conn.exec_drop(event, (user, id, ROUTE)).await.unwrap();
        conn.query_drop("COMMIT").await.unwrap();
        id = child;
        outcome.note(began, span);
    }
    outcome
}
