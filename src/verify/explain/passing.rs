//! Recognises values that are the same for all users seen but will change soon: a nonce, today's
//! date, an IP address.

use std::net::IpAddr;

use serde_json::Value;
use time::{Duration, OffsetDateTime};

/// The minimum of hexadecimal digits that count as a nonce. `wp_create_nonce()`
/// (wp-includes/pluggable.php) makes ten, which change after half a day.
const DIGITS: usize = 8;

/// Whether a value looks constant only for now. `now` in Unix seconds.
pub fn looks_passing(value: &Value, now: u64) -> bool {
    is_any(value, &|text| text.parse::<IpAddr>().is_ok() || is_nonce(text) || has_date_of(text, now))
}

fn is_any(value: &Value, is_it: &dyn Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => is_it(text),
        Value::Array(values) => values.iter().any(|value| is_any(value, is_it)),
        Value::Object(members) => members.iter().any(|(name, value)| is_it(name) || is_any(value, is_it)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn is_nonce(text: &str) -> bool {
    text.len() >= DIGITS
        && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        && text.bytes().any(|byte| byte.is_ascii_digit())
}

/// Whether it contains today's date, in the time zone of any site.
fn has_date_of(text: &str, now: u64) -> bool {
    let Some(now) = i64::try_from(now).ok().and_then(|now| OffsetDateTime::from_unix_timestamp(now).ok()) else {
        return false;
    };
    [-1, 0, 1].into_iter().filter_map(|days| now.checked_add(Duration::days(days))).any(|day| {
        let (year, month, day) = (day.year(), u8::from(day.month()), day.day());
        [
            format!("{year:04}-{month:02}-{day:02}"),
            format!("{day:02}.{month:02}.{year:04}"),
            format!("{month:02}/{day:02}/{year:04}"),
            format!("{year:04}{month:02}{day:02}"),
        ]
        .iter()
        .any(|date| text.contains(date))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nonces_addresses_and_dates_of_today_pass() {
        // 2026-11-29 10:00:00 UTC
        let now = 1_795_946_400;
        for value in [
            json!("0123456789"),
            json!("ab12cd34ef"),
            json!("192.0.2.7"),
            json!("2001:db8::1"),
            json!("2026-11-29"),
            json!("29.11.2026"),
            json!("at 11/29/2026 10:00"),
            json!("v20261129"),
            json!("2026-11-30T00:30:00+14:00"),
            json!("2026-11-28"),
            json!(["a", {"b": "192.0.2.7"}]),
        ] {
            assert!(looks_passing(&value, now), "{value}");
        }
        for value in [
            json!("shop"),
            json!("2026-11-20"),
            json!("1.2.3"),
            json!("abcdefab"),
            json!("1234567"),
            json!(1_795_946_400),
        ] {
            assert!(!looks_passing(&value, now), "{value}");
        }
        assert!(!looks_passing(&json!("2026-11-29"), u64::MAX));
    }
}
