//! Strings of a recording with placeholders, and the values of these in one exchange.

use std::time::UNIX_EPOCH;

use serde_json::Value;
use time::{Date, Month};

use crate::recorded::complaints::Complaints;

/// The values of placeholders. Tokens are taken from the first place that contains them, and must
/// be the same everywhere else.
pub struct Meanings<'a> {
    /// `{home}`
    pub home: &'a str,
    /// `{user}`
    pub user: String,
    /// The second before the request and that of the response; `{now}` is between them.
    pub during: (i64, i64),
    /// `{iat}`
    pub issued_at: i64,
    /// `{jwt}`
    pub access_token: Option<String>,
    /// `{refresh_token}`
    pub refresh_token: Option<String>,
}

impl Meanings<'_> {
    /// Compares a value with the recording: members, their order and types, and the rest except
    /// placeholders.
    pub fn compare(&mut self, at: &str, actual: &Value, recorded: &Value, complaints: &mut Complaints) {
        match (actual, recorded) {
            (Value::Object(actual), Value::Object(recorded)) => {
                let names = |map: &serde_json::Map<String, Value>| map.keys().cloned().collect::<Vec<_>>();
                complaints.same(&format!("members of {at}"), &names(actual), &names(recorded));
                for (name, value) in recorded {
                    let Some(actual) = actual.get(name) else { continue };
                    self.compare(&format!("{at}.{name}"), actual, value, complaints);
                }
            }
            (Value::Array(actual), Value::Array(recorded)) => {
                complaints.same(&format!("length of {at}"), &actual.len(), &recorded.len());
                for (index, (actual, recorded)) in actual.iter().zip(recorded).enumerate() {
                    self.compare(&format!("{at}[{index}]"), actual, recorded, complaints);
                }
            }
            (actual, Value::String(recorded)) => {
                let same = match actual {
                    Value::String(text) => self.matches(text, recorded),
                    Value::Number(number) => number.as_i64().is_some_and(|number| self.is_number(number, recorded)),
                    _ => false,
                };
                complaints.demand(same, || format!("{at}\n    is       {actual}\n    recorded {recorded:?}"));
            }
            (actual, recorded) => complaints.same(at, actual, recorded),
        }
    }

    /// Whether a text matches the recording.
    pub fn matches(&mut self, text: &str, recorded: &str) -> bool {
        let recorded = recorded.replace("{home}", self.home).replace("{user}", &self.user);
        let (mut text, mut recorded) = (text, &*recorded);
        loop {
            let Some((before, placeholder, after)) = first_placeholder(recorded) else { return text == recorded };
            let Some(rest) = text.strip_prefix(before) else { return false };
            // It ends where the text after it begins, up to the next placeholder.
            let next = first_placeholder(after).map_or(after, |(literal, _, _)| literal);
            let end = if next.is_empty() { Some(rest.len()) } else { rest.find(next) };
            let Some(end) = end else { return false };
            if !self.holds(placeholder, &rest[..end]) {
                return false;
            }
            (text, recorded) = (&rest[end..], after);
        }
    }

    fn holds(&mut self, placeholder: &str, text: &str) -> bool {
        match placeholder {
            "*" => true,
            "n" => text.parse::<u64>().is_ok(),
            "jwt" => text.starts_with("eyJ") && same_as_before(&mut self.access_token, text),
            "refresh_token" => is_hex(text) && same_as_before(&mut self.refresh_token, text),
            _ => {
                let time = if placeholder.starts_with("http:") {
                    httpdate::parse_http_date(text)
                        .ok()
                        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
                        .and_then(|since| i64::try_from(since.as_secs()).ok())
                } else {
                    unix_time(text)
                };
                let (from, to) = self.during;
                let offset = offset(placeholder);
                time.is_some_and(|time| (from + offset..=to + offset).contains(&time))
            }
        }
    }

    fn is_number(&self, number: i64, recorded: &str) -> bool {
        let Some(("", placeholder, "")) = first_placeholder(recorded) else { return false };
        if placeholder.starts_with("iat") {
            return number == self.issued_at + offset(placeholder);
        }
        // The remaining seconds of a period, at the time when PHP counted them.
        let seconds = offset(placeholder);
        placeholder.starts_with("seconds:") && (seconds - 2..=seconds).contains(&number)
    }
}

fn same_as_before(meaning: &mut Option<String>, text: &str) -> bool {
    meaning.get_or_insert_with(|| text.to_owned()) == text
}

/// The text before the first placeholder, the placeholder without braces, and the text after it.
fn first_placeholder(text: &str) -> Option<(&str, &str, &str)> {
    for (at, _) in text.match_indices('{') {
        let Some(end) = text[at..].find('}') else { break };
        let inner = &text[at + 1..at + end];
        let known = ["*", "n", "jwt", "refresh_token"].contains(&inner)
            || ["now", "iat", "http:", "iso:", "seconds:"].iter().any(|kind| inner.starts_with(kind));
        if known {
            return Some((&text[..at], inner, &text[at + end + 1..]));
        }
    }
    None
}

/// The number at the end of `now+300`, `iso:+60` or `seconds:900`; 0 without a number.
fn offset(placeholder: &str) -> i64 {
    let number = placeholder.trim_start_matches(|letter: char| letter.is_ascii_alphabetic() || letter == ':');
    if number.is_empty() { 0 } else { number.parse().expect("a number of seconds") }
}

/// The Unix time of `2026-11-28 16:31:08`, or the same with a `T` and a UTC offset.
pub fn unix_time(text: &str) -> Option<i64> {
    let utc = text.strip_suffix("+00:00").unwrap_or(text);
    let parts: Vec<u16> = utc.split(['-', ' ', 'T', ':']).map(str::parse).collect::<Result<_, _>>().ok()?;
    let [year, month, day, hour, minute, second] = parts[..] else { return None };
    let small = |part: u16| u8::try_from(part).ok();
    let date = Date::from_calendar_date(year.into(), Month::try_from(small(month)?).ok()?, small(day)?).ok()?;
    Some(date.with_hms(small(hour)?, small(minute)?, small(second)?).ok()?.assume_utc().unix_timestamp())
}

/// Whether it has the form of a refresh token, or of a family.
pub fn is_hex(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
