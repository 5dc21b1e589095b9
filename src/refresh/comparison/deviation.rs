//! How a response of WordPress's deviates from the plugin's own, with the values. Pure.
//!
//! [`super::judge`] stops at the first difference; a declaration needs all of them.

use bytes::Bytes;
use http::response::Parts;
use serde_json::{Map, Value};

use super::claims;
use super::headers::{self, Change};
use super::judge::{Expectation, Expected, is_refresh_token};
use crate::verify::explain::{Deviation, Place};

/// The longest path to a value, in names.
const DEPTH: usize = 4;

/// The most values that are kept of the members, and of the claims.
const MOST_VALUES: usize = 256;

/// Seconds by which times may be off: the plugin reads the clock more than once.
const SLACK: u64 = 2;

/// Seconds by which a lifetime may be off.
const LIFETIME_SLACK: u64 = 1;

/// `issued`: the Unix seconds in which the token was issued. `None` if the response is not a
/// success, or its token is not signed with the sidecar's key.
pub fn of(
    head: &Parts,
    body: &Bytes,
    expected: &Expected,
    issued: (u64, u64),
    further: &dyn Fn(&str, &str) -> Map<String, Value>,
) -> Option<Deviation> {
    let Expectation::Exchanged { issuer, signer, user_id, lifetime, .. } = &expected.token else { return None };
    let found: Map<String, Value> = serde_json::from_slice(body).ok()?;
    let text = |name: &str| found.get(name).and_then(Value::as_str).unwrap_or_default();
    let (access_token, refresh_token) = (text("access_token"), text("refresh_token"));
    let mut deviation = Deviation::default();
    let lives = match access_token {
        // There may be only members to explain.
        "" => None,
        jwt if !signer.verifies(jwt) => return None,
        jwt => {
            let claims = claims::payload(jwt)?;
            if !jwt.starts_with(&format!("{}.", signer.header())) {
                deviation.others.push("the header of the access token".to_owned());
            }
            of_claims(&claims, issuer, *user_id, issued, &mut deviation)
        }
    };
    deviation.lifetime = lives.filter(|lives| lives.abs_diff(*lifetime) > LIFETIME_SLACK);
    let known = further(access_token, refresh_token);
    of_members(&found, &known, lives, &mut deviation);
    let changes = headers::compare(&head.headers, &expected.head, &expected.ignored);
    let certain: Vec<&Change> = changes.iter().filter(|change| !change.is_unsure()).collect();
    if !certain.is_empty() {
        deviation.others.push(headers::listed(certain));
    }
    for (values, of) in [(&mut deviation.fields, "members"), (&mut deviation.claims, "claims")] {
        if values.len() > MOST_VALUES {
            values.truncate(MOST_VALUES);
            deviation.others.push(format!("{of} beyond the first {MOST_VALUES}"));
        }
    }
    // SECURITY: no copy of a token is kept.
    let tokens = [access_token, refresh_token].map(Value::from);
    for (_, value) in deviation.fields.iter_mut().chain(&mut deviation.claims) {
        if tokens.contains(value) {
            *value = Value::Null;
        }
    }
    Some(deviation)
}

/// The members; `lives` is the access token's lifetime in seconds.
fn of_members(found: &Map<String, Value>, further: &Map<String, Value>, lives: Option<u64>, deviation: &mut Deviation) {
    for (name, value) in found {
        let is_as_ever = match &**name {
            "access_token" => value.is_string(),
            "refresh_token" => value.as_str().is_some_and(is_refresh_token),
            "token_type" => value == "Bearer",
            "expires_in" => value.is_u64(),
            // Members that the sidecar adds to its own responses.
            _ => further.get(name) == Some(value),
        };
        if !is_as_ever {
            flatten(vec![name.clone()], value, &mut deviation.fields);
        }
    }
    let own = ["access_token", "expires_in", "token_type", "refresh_token"];
    let missing = own.into_iter().filter(|name| !found.contains_key(*name));
    deviation.missing_fields.extend(missing.map(|name| vec![name.to_owned()]));
    let expires_in = found.get("expires_in").and_then(Value::as_u64);
    if expires_in.zip(lives).is_some_and(|(expires_in, lives)| expires_in.abs_diff(lives) > SLACK) {
        deviation.others.push("body expires_in (not the lifetime of the access token)".to_owned());
    }
}

/// The claims. Returns the token's lifetime in seconds.
fn of_claims(
    claims: &Map<String, Value>,
    issuer: &str,
    user_id: u64,
    issued: (u64, u64),
    deviation: &mut Deviation,
) -> Option<u64> {
    let time = |name: &str| claims.get(name).and_then(Value::as_u64);
    for (name, value) in claims {
        let place = || vec![name.clone()];
        match (&**name, value) {
            ("iss", value) if value == issuer => {}
            ("iat" | "nbf" | "exp", value) if value.is_u64() => {}
            ("data", Value::Object(data)) => of_data(data, user_id, deviation),
            (_, value) => flatten(place(), value, &mut deviation.claims),
        }
    }
    let own = ["iss", "iat", "nbf", "exp", "data"];
    let missing = own.into_iter().filter(|name| !claims.contains_key(*name));
    deviation.missing_claims.extend(missing.map(|name| vec![name.to_owned()]));
    let issued_at = time("iat")?;
    if issued_at < issued.0 || issued_at > issued.1 {
        deviation.others.push("claim iat (not the time of the answer)".to_owned());
    }
    if time("nbf").is_some_and(|not_before| not_before != issued_at) {
        deviation.others.push("claim nbf (not that of iat)".to_owned());
    }
    time("exp").map(|expires_at| expires_at.saturating_sub(issued_at))
}

fn of_data(data: &Map<String, Value>, user_id: u64, deviation: &mut Deviation) {
    let place = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Place>();
    let mut has_id = false;
    for (name, value) in data {
        let ("user", Value::Object(user)) = (&**name, value) else {
            flatten(place(&["data", name]), value, &mut deviation.claims);
            continue;
        };
        for (name, value) in user {
            let is_id = name == "id";
            has_id |= is_id;
            if !(is_id && value.as_str() == Some(&*user_id.to_string())) {
                flatten(place(&["data", "user", name]), value, &mut deviation.claims);
            }
        }
    }
    if !has_id {
        deviation.missing_claims.push(place(&["data", "user", "id"]));
    }
}

/// The values in `value`, each with its place. One beyond [`MOST_VALUES`] shows that there are
/// more.
fn flatten(place: Place, value: &Value, values: &mut Vec<(Place, Value)>) {
    if values.len() > MOST_VALUES {
        return;
    }
    match value {
        Value::Object(members) if place.len() < DEPTH && !members.is_empty() => {
            for (name, value) in members {
                let below = place.iter().chain([name]).cloned().collect();
                flatten(below, value, values);
            }
        }
        value => values.push((place, value.clone())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn so_many_values_are_kept() {
        let many: Map<String, Value> = (0..1_000).map(|number| (format!("n{number}"), json!(number))).collect();
        let mut values = Vec::new();
        flatten(vec!["a".to_owned()], &json!({"b": many, "c": 1}), &mut values);
        assert_eq!(values.len(), MOST_VALUES + 1);
        assert_eq!(values[1], (["a", "b", "n1"].map(str::to_owned).into(), json!(1)));
    }
}
