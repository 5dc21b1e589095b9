//! Old rows are deleted; the newest of each family and all live ones stay.

use std::time::Duration;

use crate::support::mariadb::{Database, TokenState};
use crate::support::rig::{self, eventually, settings};

#[tokio::test(flavor = "multi_thread")]
async fn old_rows_go_and_the_newest_of_a_family_stays() {
    let database = rig::site(Database::shared()).await;
    let retention = settings(&[("data_management", "analytics_retention_days", "i:60;")]);
    database.set_option("jwt_auth_pro_settings", retention).await;
    let user = database.insert_user("alice").await;
    let first = database.insert_token(TokenState::Revoked, user.id).await;
    let family = &first.token_family;
    let second = database.insert_token_of_family(TokenState::Revoked, user.id, family).await;
    let live = database.insert_token_of_family(TokenState::Live, user.id, family).await;
    let ended = database.insert_token(TokenState::Revoked, user.id).await;
    let expired = database.insert_token(TokenState::Expired, user.id).await;
    let newest = database.insert_token_of_family(TokenState::Expired, user.id, &expired.token_family).await;
    let age = |column: &str, days: u32, ids: &[u64]| {
        let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
        format!(
            "UPDATE wp_jwt_auth_tokens SET {column} = UTC_TIMESTAMP() - INTERVAL {days} DAY WHERE id IN ({})",
            ids.join(",")
        )
    };
    database.execute(&age("revoked_at", 31, &[first.id, ended.id])).await;
    database.execute(&age("revoked_at", 29, &[second.id])).await;
    database.execute(&age("refresh_token_expires_at", 31, &[expired.id, newest.id])).await;
    for days in [59, 61, 200] {
        let insert = "INSERT INTO wp_jwt_auth_analytics (event_type, event_status, event_timestamp) VALUES ('x', 1, ";
        database.execute(&format!("{insert} UTC_TIMESTAMP() - INTERVAL {days} DAY)")).await;
    }
    // Many more than one step examines.
    database.fill_tokens(5_000).await;
    let old = "refresh_token_expires_at = '2020-01-01', token_family = ''";
    database.execute(&format!("UPDATE wp_jwt_auth_tokens SET {old} WHERE user_id > 1000000")).await;
    let upstream = rig::wordpress();
    let environment =
        [("WP_JWT_SIDECAR_CLEANUP_TOKENS_AFTER_DAYS", "30"), ("WP_JWT_SIDECAR_CLEANUP_ANALYTICS", "true")];
    let _sidecar = rig::sidecar(&database, upstream.address(), &environment);
    eventually("old analytics are deleted", || async { database.analytics_rows_after(0).await.len() == 1 }).await;
    let left: Vec<u64> =
        database.token_rows_after(0).await.iter().map(|row| row.get("id").unwrap().parse().unwrap()).collect();
    assert_eq!(left, [second.id, live.id, ended.id, newest.id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_unasked() {
    let database = rig::site(Database::shared()).await;
    database.fill_tokens(10).await;
    database.execute("UPDATE wp_jwt_auth_tokens SET refresh_token_expires_at = '2020-01-01', token_family = ''").await;
    let upstream = rig::wordpress();
    let sidecar = rig::sidecar(&database, upstream.address(), &[]);
    sidecar.wait_for_log("the tokens of the table are known");
    // A pass that is requested begins at the start.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(database.token_rows_after(0).await.len(), 10);
}
