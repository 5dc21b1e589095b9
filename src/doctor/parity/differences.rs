//! Compares WordPress's response to a real refresh with the sidecar's, without showing secret or
//! personal values. Pure.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::dangerous::insecure_decode;
use serde_json::Value;

use super::compare;
use super::real::Stored;
use crate::doctor::client::Answer;
use crate::wordpress::access_token::wp_hash;
use crate::wordpress::site::Site;

/// Members whose values are tokens.
const TOKENS: [&str; 2] = ["access_token", "token"];

/// Members whose values may be shown: neither secrets nor personal data.
const SHOWN: [&str; 3] = ["expires_in", "token_type", "code"];

/// Members that only the sidecar sends, see `refresh.response_fields`.
const UNION: [&str; 9] = [
    "access_token",
    "expires_in",
    "token_type",
    "refresh_token",
    "token",
    "user_id",
    "user_email",
    "user_nicename",
    "user_display_name",
];

/// Claims whose values may be shown; times are shown as differences in seconds.
const SHOWN_CLAIMS: [&str; 1] = ["iss"];

/// Seconds by which clocks and responses may differ.
const APART: i64 = 2;

/// WordPress's side.
pub struct WordPress<'a> {
    /// The client's response.
    pub answer: &'a Answer,
    pub stored: Option<&'a Stored>,
}

/// The result.
pub struct Differences {
    /// A line for each difference.
    pub lines: Vec<String>,
    /// A description of what was compared.
    pub compared: String,
    /// Whether a status, a body, a claim or a row differs.
    pub is_serious: bool,
    /// Whether WordPress returned no pair.
    pub is_refused: bool,
}

/// Compares. `native` is the sidecar's response for the same user.
pub fn differences(wordpress: &WordPress<'_>, native: &Answer, site: &Site) -> Differences {
    let answer = wordpress.answer;
    let (theirs, ours) = (json(&answer.body), json(&native.body));
    if answer.status != native.status {
        let code = theirs.get("code").and_then(Value::as_str).unwrap_or("without a code");
        let lines = vec![format!("status: WordPress {} ({code}), the sidecar {}", answer.status, native.status)];
        return Differences { lines, compared: "the status".to_owned(), is_serious: true, is_refused: true };
    }
    let mut lines = members(&theirs, &ours);
    let (mut claims_compared, mut is_same_key) = (0, "");
    if let Some(token) = theirs.get("access_token").or_else(|| theirs.get("token")).and_then(Value::as_str) {
        let ours = ours.get("access_token").or_else(|| ours.get("token")).and_then(Value::as_str).unwrap_or_default();
        let (claims, compared) = claims(token, ours, answer);
        claims_compared = compared;
        lines.extend(claims);
        match signature(token, wordpress.stored, site) {
            Ok(said) => is_same_key = said,
            Err(line) => lines.push(line),
        }
    }
    // Without a token there is no row, and the missing token is already reported.
    if theirs.get("refresh_token").is_some_and(Value::is_string) {
        lines.extend(rows(wordpress.stored));
    }
    let is_serious = !lines.is_empty();
    let fields: Vec<String> = compare::fields(&answer.headers, &native.headers, compare::Of::User)
        .into_iter()
        .filter(|line| !DELIBERATE.iter().any(|(name, only)| line.starts_with(name) && line.ends_with(only)))
        .collect();
    lines.extend(fields);
    let members =
        ours.as_object().map_or(0, |ours| ours.keys().filter(|name| theirs.get(name.as_str()).is_some()).count());
    let compared = format!("{members} members, {claims_compared} claims{is_same_key}, the rows and all header fields");
    Differences { lines, compared, is_serious, is_refused: false }
}

/// Header fields that differ deliberately.
const DELIBERATE: [(&str, &str); 2] =
    [("cache-control: no-store", "only from the sidecar"), ("retry-after: ", "only from WordPress")];

fn json(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_default()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn members(theirs: &Value, ours: &Value) -> Vec<String> {
    let (Some(theirs), Some(ours)) = (theirs.as_object(), ours.as_object()) else {
        return vec!["body: WordPress's is no JSON object".to_owned()];
    };
    let mut lines = Vec::new();
    for (name, value) in theirs {
        let Some(our) = ours.get(name) else {
            lines.push(format!("member {} ({}): only from WordPress", cut(name), kind(value)));
            continue;
        };
        if kind(value) != kind(our) {
            lines.push(format!("member {name}: WordPress {}, the sidecar {}", kind(value), kind(our)));
        } else if name == "refresh_token" {
            lines.extend(
                form_of_token(value)
                    .map(|form| format!("member refresh_token: WordPress's {form}, the sidecar's 32 hex digits")),
            );
        } else if !TOKENS.contains(&name.as_str()) && value != our {
            lines.push(match SHOWN.contains(&name.as_str()) {
                true => format!(
                    "member {name}: WordPress {}, the sidecar {}",
                    cut(&value.to_string()),
                    cut(&our.to_string())
                ),
                false => format!("member {name}: another value (not shown)"),
            });
        }
    }
    let only_ours = ours.keys().filter(|name| !theirs.contains_key(*name) && !UNION.contains(&name.as_str()));
    lines.extend(only_ours.map(|name| format!("member {name}: only from the sidecar")));
    // Clients of either documentation find their member if WordPress sends one of the two.
    if !TOKENS.iter().any(|name| theirs.contains_key(*name)) {
        lines.push("members access_token and token: only from the sidecar".to_owned());
    }
    if !theirs.contains_key("refresh_token") {
        lines.push("member refresh_token: only from the sidecar".to_owned());
    }
    lines
}

/// The form of a token; `None` if it is the plugin's.
fn form_of_token(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    let is_hex = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    (text.len() != 32 || !is_hex).then(|| format!("has {} characters", text.chars().count()))
}

/// The claims of a token, each by its path.
fn flat(value: &Value, path: &str, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flat(value, &path, into);
            }
        }
        value => {
            into.insert(path.to_owned(), value.clone());
        }
    }
}

fn decoded(token: &str) -> Option<(Value, BTreeMap<String, Value>)> {
    let decoded = insecure_decode::<Value>(token).ok()?;
    let mut claims = BTreeMap::new();
    flat(&decoded.claims, "", &mut claims);
    Some((serde_json::to_value(&decoded.header).ok()?, claims))
}

/// The differences of two access tokens, and how many claims both have.
fn claims(theirs: &str, ours: &str, answer: &Answer) -> (Vec<String>, usize) {
    let (Some((head, theirs)), Some((our_head, ours))) = (decoded(theirs), decoded(ours)) else {
        return (vec!["access token: WordPress's is no JWT that can be read".to_owned()], 0);
    };
    let mut lines = Vec::new();
    for name in ["alg", "typ", "kid"] {
        let (their, our) =
            (head.get(name).filter(|one| !one.is_null()), our_head.get(name).filter(|one| !one.is_null()));
        if their != our {
            let shown = |value: Option<&Value>| value.map_or("none".to_owned(), |value| cut(&value.to_string()));
            lines.push(format!("access token, {name}: WordPress {}, the sidecar {}", shown(their), shown(our)));
        }
    }
    let mut both = 0;
    for (path, value) in &theirs {
        let Some(our) = ours.get(path) else {
            lines.push(format!("claim {} ({}): only from WordPress", cut(path), kind(value)));
            continue;
        };
        both += 1;
        let is_time = ["iat", "nbf", "exp"].contains(&path.as_str());
        if kind(value) != kind(our) {
            lines.push(format!("claim {path}: WordPress {}, the sidecar {}", kind(value), kind(our)));
        } else if !is_time && value != our {
            lines.push(match SHOWN_CLAIMS.contains(&path.as_str()) {
                true => format!(
                    "claim {path}: WordPress {}, the sidecar {}",
                    cut(&value.to_string()),
                    cut(&our.to_string())
                ),
                false => format!("claim {path}: another value (not shown)"),
            });
        }
    }
    let missing = ours.keys().filter(|path| *path != "jti" && !theirs.contains_key(*path));
    lines.extend(missing.map(|path| format!("claim {path}: only from the sidecar")));
    lines.extend(times(&theirs, &ours, answer));
    (lines, both)
}

/// Compares the times of an access token relative to each other.
fn times(theirs: &BTreeMap<String, Value>, ours: &BTreeMap<String, Value>, answer: &Answer) -> Vec<String> {
    let time = |claims: &BTreeMap<String, Value>, name: &str| claims.get(name).and_then(Value::as_i64);
    let after = |claims: &BTreeMap<String, Value>, name: &str| time(claims, name)?.checked_sub(time(claims, "iat")?);
    let mut lines = Vec::new();
    for name in ["nbf", "exp"] {
        if let (Some(their), Some(our)) = (after(theirs, name), after(ours, name))
            && their != our
        {
            lines.push(format!("claim {name}: WordPress {their} s after iat, the sidecar {our} s"));
        }
    }
    let unix = |time: SystemTime| {
        time.duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or_default()
    };
    let (sent, received) = (unix(answer.sent), unix(answer.received));
    if let Some(issued) = time(theirs, "iat")
        && !(sent.saturating_sub(APART)..=received.saturating_add(APART)).contains(&issued)
    {
        lines
            .push(format!("claim iat: WordPress's is {} s from this machine's clock", issued.saturating_sub(received)));
    }
    lines
}

/// Whether WordPress signs and hashes as the sidecar does: an addition to what was compared, or the
/// difference.
fn signature(token: &str, stored: Option<&Stored>, site: &Site) -> Result<&'static str, String> {
    let Some(stored) = stored else { return Ok("") };
    if wp_hash(token, &site.auth_salt) != stored.hash {
        return Err(
            "hash of the access token: WordPress's salt is another than the sidecar's, or its code filters the token"
                .to_owned(),
        );
    }
    match site.signer.verifies(token) {
        true => Ok(", the signing key, the salt"),
        false => Err("signature of the access token: WordPress signs with another key than the sidecar".to_owned()),
    }
}

fn rows(stored: Option<&Stored>) -> Vec<String> {
    let Some(stored) = stored else {
        return vec!["row: WordPress has not stored the refresh token that it answered with".to_owned()];
    };
    [
        (stored.parent_is_revoked, "row: WordPress has not revoked the token that was used"),
        (stored.is_of_family, "row: WordPress has given the new token another family"),
        (stored.is_of_user, "row: WordPress has given the new token to another user"),
    ]
    .into_iter()
    .filter(|(is_so, _)| !is_so)
    .map(|(_, line)| line.to_owned())
    .collect()
}

/// Names come from the site and may be long.
fn cut(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
