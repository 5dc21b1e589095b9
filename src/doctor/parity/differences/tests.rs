use bytes::Bytes;
use http::HeaderMap;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use super::*;

const REFRESH_TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn answer() -> Answer {
    let at = |seconds| UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    Answer { status: 200, headers: HeaderMap::new(), body: Bytes::new(), sent: at(1000), received: at(1001) }
}

fn token(claims: &Value) -> String {
    encode(&Header::default(), claims, &EncodingKey::from_secret(b"key")).unwrap()
}

fn usual() -> Value {
    json!({"iss": "https://shop.example", "iat": 1000, "nbf": 1000, "exp": 4600, "data": {"user": {"id": "2"}}})
}

#[test]
fn members_are_told_by_name_and_kind() {
    let ours = json!({"access_token": "a", "token": "a", "expires_in": 3600, "token_type": "Bearer",
                      "refresh_token": REFRESH_TOKEN, "user_id": 2, "user_email": "ada@example.org"});
    let theirs =
        json!({"access_token": "b", "expires_in": 3600, "token_type": "Bearer", "refresh_token": REFRESH_TOKEN});
    assert_eq!(members(&theirs, &ours), Vec::<String>::new());
    let theirs = json!({"access_token": null, "expires_in": 60, "token_type": "bearer", "refresh_token": "short secret",
                        "user_email": "other@example.org", "roles": ["secret role"]});
    let lines = members(&theirs, &ours);
    assert_eq!(
        lines,
        [
            "member access_token: WordPress null, the sidecar string",
            "member expires_in: WordPress 60, the sidecar 3600",
            "member token_type: WordPress \"bearer\", the sidecar \"Bearer\"",
            "member refresh_token: WordPress's has 12 characters, the sidecar's 32 hex digits",
            "member user_email: another value (not shown)",
            "member roles (array): only from WordPress",
        ]
    );
    assert!(lines.iter().all(|line| !line.contains("secret") && !line.contains("example.org")));
    assert_eq!(
        members(&json!({"success": true}), &ours),
        [
            "member success (boolean): only from WordPress",
            "members access_token and token: only from the sidecar",
            "member refresh_token: only from the sidecar"
        ]
    );
    assert_eq!(members(&json!([]), &ours), ["body: WordPress's is no JSON object"]);
}

#[test]
fn claims_are_told_by_path_and_times_by_what_is_between_them() {
    let mut ours = usual();
    ours["jti"] = json!("x");
    // A second later is no difference.
    let theirs =
        json!({"iss": "https://shop.example", "iat": 1001, "nbf": 1001, "exp": 4601, "data": {"user": {"id": "2"}}});
    assert_eq!(claims(&token(&theirs), &token(&ours), &answer()), (vec![], 5));
    let theirs = json!({"iss": "https://www.shop.example", "iat": 900, "nbf": 910, "exp": 1500,
                        "data": {"user": {"id": 2, "role": "secret role"}}, "extra": {"a": 1}});
    let (lines, both) = claims(&token(&theirs), &token(&ours), &answer());
    assert_eq!(
        lines,
        [
            "claim data.user.id: WordPress number, the sidecar string",
            "claim data.user.role (string): only from WordPress",
            "claim extra.a (number): only from WordPress",
            "claim iss: WordPress \"https://www.shop.example\", the sidecar \"https://shop.example\"",
            "claim nbf: WordPress 10 s after iat, the sidecar 0 s",
            "claim exp: WordPress 600 s after iat, the sidecar 3600 s",
            "claim iat: WordPress's is -101 s from this machine's clock",
        ]
    );
    assert_eq!(both, 5);
    let without = json!({"iss": "https://shop.example", "iat": 1000, "nbf": 1000, "exp": 4600});
    assert_eq!(claims(&token(&without), &token(&ours), &answer()).0, ["claim data.user.id: only from the sidecar"]);
    assert_eq!(claims("none", &token(&ours), &answer()).0, ["access token: WordPress's is no JWT that can be read"]);
}

#[test]
fn rows_that_are_not_as_they_should_be_are_told() {
    let stored = |parent_is_revoked, is_of_family| Stored {
        hash: String::new(),
        parent_is_revoked,
        is_of_family,
        is_of_user: true,
    };
    assert_eq!(rows(Some(&stored(true, true))), Vec::<String>::new());
    assert_eq!(rows(Some(&stored(false, false))).len(), 2);
    assert_eq!(rows(None).len(), 1);
}
