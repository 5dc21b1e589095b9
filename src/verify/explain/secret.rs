//! Decides which constants are not shown.
//!
//! SECURITY: a constant of the site's code is the operator's own text. One that looks like a key, a
//! token or personal data is not shown all the same: others may read the status page and a
//! terminal's log.

use serde_json::Value;

/// So many consecutive hexadecimal digits look like a hash or a token.
const DIGITS: usize = 32;

/// So many consecutive letters and digits look like a key.
const KEY: usize = 24;

/// The longest text that is shown.
const LONGEST: usize = 256;

/// Whether a value may be a secret, or a person's.
pub fn looks_secret(value: &Value) -> bool {
    match value {
        Value::String(text) => is_secret(text),
        Value::Array(values) => values.iter().any(looks_secret),
        Value::Object(members) => members.iter().any(|(name, value)| is_secret(name) || looks_secret(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn is_secret(text: &str) -> bool {
    let has_run = |least: usize, is_of_it: fn(char) -> bool| {
        text.split(|letter| !is_of_it(letter)).any(|run| run.len() >= least && is_mixed(run))
    };
    text.len() > LONGEST
        || has_run(DIGITS, |letter| letter.is_ascii_hexdigit())
        || has_run(KEY, |letter| letter.is_ascii_alphanumeric() || "+_-=".contains(letter))
        || is_jwt(text)
        || is_address(text)
}

/// A word of letters only is not a key.
fn is_mixed(run: &str) -> bool {
    run.bytes().any(|byte| byte.is_ascii_digit())
}

fn is_jwt(text: &str) -> bool {
    text.split_whitespace().any(|word| word.starts_with("eyJ") && word.matches('.').count() == 2)
}

fn is_address(text: &str) -> bool {
    text.split_once('@').is_some_and(|(local, domain)| !local.is_empty() && domain.contains('.'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_tokens_and_addresses_are_not_shown() {
        for value in [
            json!("5f0c1e2d3a4b5c6d7e8f5f0c1e2d3a4b"),
            json!("https://x.test/?k=5F0C1E2D3A4B5C6D7E8F5F0C1E2D3A4B"),
            json!("eyJhbGciOiJI.eyJpc3MiOiJo.c2ln"),
            json!("Bearer eyJh.eyJp.c2ln"),
            json!("ada@example.org"),
            json!(["a", "Ada <ada@example.org>"]),
            json!({"key": "sk_live_4eC39HqLyjWDarjtT1zdp7dc"}),
            json!({"ada@example.org": 1}),
            json!("x ".repeat(200)),
        ] {
            assert!(looks_secret(&value), "{value}");
        }
        for value in [
            json!("shop"),
            json!("https://app.example.org/start?from=login"),
            json!("2026-11-29 10:00:00"),
            json!(["subscriber", "shop_manager"]),
            json!("@home"),
            json!(1_795_984_599),
            json!(true),
        ] {
            assert!(!looks_secret(&value), "{value}");
        }
    }
}
