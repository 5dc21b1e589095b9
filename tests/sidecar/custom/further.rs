//! Customizations that were not recorded, and that are harder to notice. Each does what it
//! describes.

use serde_json::{Value, json};

use crate::support::custom::{
    CustomSites, EXPIRE_IS_A_LENGTH, ONE_USER_IN_FIFTY, ONLY_WITH_ORIGIN, UPDATE_AFTER, UPDATE_BEFORE, access_token_in,
};
use crate::support::raw::Message;
use crate::support::rig::ROUTE;

fn refresh(sites: &CustomSites, refresh_token: &str, fields: &str) -> Message {
    let answer = sites.post(ROUTE, fields, &json!({"refresh_token": refresh_token}));
    assert_eq!(answer.status(), 200, "{answer:?}");
    answer
}

/// The claims of the access token in an answer.
fn claims(answer: &Message) -> Value {
    let jwt = access_token_in(&String::from_utf8_lossy(&answer.body)).expect("an access token");
    jsonwebtoken::dangerous::insecure_decode::<Value>(&jwt).unwrap().claims
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_hard_to_notice_is_there() {
    let sites = CustomSites::start();
    sites.site().php(
        "update_option( 'jwt_auth_pro_settings', array( 'rate_limit_settings' => array( 'enabled' => false ) ) );",
    );
    a_length_for_a_time(&sites).await;
    one_user_in_fifty(&sites).await;
    an_update(&sites).await;
    only_with_origin(&sites).await;
}

async fn a_length_for_a_time(sites: &CustomSites) {
    sites.install(EXPIRE_IS_A_LENGTH);
    let login = sites.log_in("user1").await;
    let answer = refresh(sites, &login.refresh_token, "");
    assert_eq!(claims(&answer)["exp"], 2_592_000, "in 1970");
    assert!(answer.json()["expires_in"].as_i64().unwrap() < -1_000_000_000, "{answer:?}");
    let row = sites.database().token_rows_after(login.row_id).await.pop().unwrap();
    assert_eq!(row.get("expires_at"), Some("1970-01-31 00:00:00"));
    sites.remove();
}

async fn one_user_in_fifty(sites: &CustomSites) {
    sites.make_crowd(100);
    sites.install(ONE_USER_IN_FIFTY);
    let ids = sites.database().rows("SELECT ID, user_login FROM wp_users WHERE user_login LIKE 'crowd%'").await;
    assert_eq!(ids.len(), 100);
    let is_member = |id: &str| id.parse::<u64>().unwrap() % 50 == 0;
    assert_eq!(ids.iter().filter(|row| is_member(row.get("ID").unwrap())).count(), 2);
    for row in ids.iter().filter(|row| row.get("ID").unwrap().parse::<u64>().unwrap() % 25 == 0) {
        let (id, login) = (row.get("ID").unwrap(), row.get("user_login").unwrap());
        let login = sites.log_in_with(login, "crowd").await;
        let answer = refresh(sites, &login.refresh_token, "");
        assert_eq!(answer.json().get("member_number").is_some(), is_member(id), "{id}: {answer:?}");
    }
    sites.remove();
}

async fn an_update(sites: &CustomSites) {
    sites.install(UPDATE_BEFORE);
    let login = sites.log_in("user1").await;
    let before = refresh(sites, &login.refresh_token, "");
    assert_eq!(claims(&before)["data"]["user"], json!({"id": "2"}));
    sites.remove();
    sites.install(UPDATE_AFTER);
    let login = sites.log_in("user1").await;
    let count = sites.refreshes_by_php();
    let after = refresh(sites, &login.refresh_token, "");
    assert_eq!(claims(&after)["data"]["user"], json!({"id": "2", "shop": "customer-2"}));
    assert_eq!(sites.refreshes_by_php(), count + 1);
    sites.remove();
}

async fn only_with_origin(sites: &CustomSites) {
    sites.install(ONLY_WITH_ORIGIN);
    for (fields, cookies) in [("", 0), ("Origin: https://app.example\r\n", 1)] {
        let login = sites.log_in("user1").await;
        assert_eq!(refresh(sites, &login.refresh_token, fields).values("set-cookie").len(), cookies);
    }
    sites.remove();
}
