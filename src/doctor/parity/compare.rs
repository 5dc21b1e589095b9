//! Compares two responses to one request, as far as a client can tell them apart. Pure.

use std::collections::BTreeSet;

use http::{HeaderMap, HeaderName};
use serde_json::Value;

use crate::doctor::client::Answer;

/// Fields that web servers and proxies add to a response, or that belong to the connection.
const OF_THE_WEB_SERVER: [&str; 9] = [
    "server",
    "date",
    "connection",
    "keep-alive",
    "transfer-encoding",
    "content-length",
    "x-powered-by",
    "via",
    "alt-svc",
];

/// The sidecar counts separately: only the presence of these fields counts.
const COUNTED_APART: [&str; 2] = ["x-ratelimit-remaining", "x-ratelimit-reset"];

/// SECURITY: their values are secrets.
const SECRET: [&str; 1] = ["set-cookie"];

/// Fields whose values are the same for every client, so that a report may show them even if the
/// response is a user's. Those that begin with `access-control-` and `x-ratelimit-` also count.
const PUBLIC: [&str; 18] = [
    "allow",
    "cache-control",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
    "link",
    "pragma",
    "referrer-policy",
    "retry-after",
    "strict-transport-security",
    "vary",
    "x-content-type-options",
    "x-frame-options",
    "x-robots-tag",
    "x-wp-total",
    "x-wp-totalpages",
    "x-xss-protection",
];

/// Whose responses are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// Any client's: they were requested without a secret.
    Anybody,
    /// A user's own. SECURITY: the site's own code may put tokens and nonces into fields of any
    /// name, and reports are shown to others. Only values that are [known](PUBLIC) to be harmless
    /// are shown.
    User,
}

/// Longer values are cut in the report.
const SHOWN: usize = 160;

/// The differences of several pairs of responses, each with where it occurred.
#[derive(Default)]
pub struct Differences {
    found: Vec<(String, Vec<String>)>,
    is_serious: bool,
}

impl Differences {
    /// Compares one pair.
    pub fn add(&mut self, name: &str, wordpress: &Answer, native: &Answer) {
        if wordpress.status != native.status {
            self.is_serious = true;
            self.note(name, format!("status: WordPress {}, the sidecar {}", wordpress.status, native.status));
        }
        if let Some(difference) = bodies(&wordpress.body, &native.body) {
            self.is_serious = true;
            self.note(name, difference);
        }
        for difference in fields(&wordpress.headers, &native.headers, Of::Anybody) {
            self.note(name, difference);
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Whether a status or a body differs.
    pub fn is_serious(&self) -> bool {
        self.is_serious
    }

    /// One line for each difference. `compared` is the number of pairs.
    pub fn lines(&self, compared: usize) -> Vec<String> {
        self.found
            .iter()
            .map(|(difference, names)| match names.len() {
                all if all == compared => format!("{difference} (all {compared})"),
                _ => format!("{difference} ({})", names.join("; ")),
            })
            .collect()
    }

    fn note(&mut self, name: &str, difference: String) {
        match self.found.iter_mut().find(|(known, _)| *known == difference) {
            Some((_, names)) => names.push(name.to_owned()),
            None => self.found.push((difference, vec![name.to_owned()])),
        }
    }
}

fn bodies(wordpress: &[u8], native: &[u8]) -> Option<String> {
    let json = |body: &[u8]| serde_json::from_slice::<Value>(body).ok();
    let is_same = match (json(wordpress), json(native)) {
        // Escapes may differ (`\/`), their meaning may not.
        (Some(wordpress), Some(native)) => wordpress == native,
        _ => wordpress == native,
    };
    let shown = |body: &[u8]| cut(&String::from_utf8_lossy(body));
    (!is_same).then(|| format!("body: WordPress {}, the sidecar {}", shown(wordpress), shown(native)))
}

/// A line for each header field that differs.
pub fn fields(wordpress: &HeaderMap, native: &HeaderMap, of: Of) -> Vec<String> {
    let names: BTreeSet<&str> = wordpress.keys().chain(native.keys()).map(HeaderName::as_str).collect();
    names
        .into_iter()
        .filter(|name| !OF_THE_WEB_SERVER.contains(name))
        .filter_map(|name| {
            let (theirs, ours) = (values(wordpress, name), values(native, name));
            let may_be_shown = may_be_shown(name, of);
            let shown = |values: &BTreeSet<String>| match may_be_shown {
                false => "(not shown)".to_owned(),
                true => cut(&values.iter().cloned().collect::<Vec<_>>().join(", ")),
            };
            match (theirs.is_empty(), ours.is_empty()) {
                (true, true) => None,
                (false, true) => Some(format!("{name}: {} — only from WordPress", shown(&theirs))),
                (true, false) => Some(format!("{name}: {} — only from the sidecar", shown(&ours))),
                (false, false) if COUNTED_APART.contains(&name) || theirs == ours => None,
                (false, false) if !may_be_shown => Some(format!("{name}: another value (not shown)")),
                (false, false) => Some(format!("{name}: WordPress {}, the sidecar {}", shown(&theirs), shown(&ours))),
            }
        })
        .collect()
}

fn may_be_shown(name: &str, of: Of) -> bool {
    let is_public =
        || PUBLIC.contains(&name) || name.starts_with("access-control-") || name.starts_with("x-ratelimit-");
    !SECRET.contains(&name) && (of == Of::Anybody || is_public())
}

/// The values of a field; those of `Vary` one by one, and without those that compression in the web
/// server adds.
fn values(headers: &HeaderMap, name: &str) -> BTreeSet<String> {
    let lines = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    if name != "vary" {
        return lines.collect();
    }
    lines
        .flat_map(|line| line.split(',').map(|part| part.trim().to_ascii_lowercase()).collect::<Vec<_>>())
        .filter(|part| part != "accept-encoding")
        .collect()
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use bytes::Bytes;
    use http::HeaderValue;

    use super::*;

    fn answer(status: u16, fields: &[(&'static str, &str)], body: &str) -> Answer {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        Answer { status, headers, body: Bytes::from(body.to_owned()), sent: UNIX_EPOCH, received: UNIX_EPOCH }
    }

    fn differences(wordpress: &Answer, native: &Answer) -> Vec<String> {
        let mut differences = Differences::default();
        differences.add("x", wordpress, native);
        differences.lines(2)
    }

    #[test]
    fn what_a_client_cannot_tell_is_no_difference() {
        let wordpress = answer(
            403,
            &[
                ("server", "nginx"),
                ("vary", "Accept-Encoding"),
                ("vary", "Origin"),
                ("x-ratelimit-reset", "1"),
                ("allow", "POST"),
            ],
            r#"{"a":"\/"}"#,
        );
        let native =
            answer(403, &[("allow", "POST"), ("vary", "origin"), ("x-ratelimit-reset", "2")], r#"{ "a": "/" }"#);
        assert!(differences(&wordpress, &native).is_empty());
    }

    #[test]
    fn what_it_can_tell_is_shown() {
        let wordpress = answer(
            401,
            &[("strict-transport-security", "max-age=1"), ("allow", "POST"), ("set-cookie", "session=secret")],
            r#"{"code":"rest_forbidden"}"#,
        );
        let native = answer(403, &[("allow", "GET"), ("x-ratelimit-limit", "60")], r#"{"code":"x"}"#);
        assert_eq!(
            differences(&wordpress, &native),
            [
                "status: WordPress 401, the sidecar 403 (x)",
                r#"body: WordPress {"code":"rest_forbidden"}, the sidecar {"code":"x"} (x)"#,
                "allow: WordPress POST, the sidecar GET (x)",
                "set-cookie: (not shown) — only from WordPress (x)",
                "strict-transport-security: max-age=1 — only from WordPress (x)",
                "x-ratelimit-limit: 60 — only from the sidecar (x)",
            ]
        );
    }

    #[test]
    fn of_a_users_own_answer_only_public_values_are_shown() {
        let fields_of = |token: &str, link: &str| {
            let fields = [
                ("x-auth-token", token),
                ("x-wp-nonce", "a1b2c3"),
                ("link", link),
                ("access-control-allow-origin", link),
                ("cache-control", link),
            ];
            answer(200, &fields[..], "").headers
        };
        let (mut theirs, mut ours) = (fields_of("live", "<1>"), fields_of("other", "<2>"));
        theirs.insert("authorization", HeaderValue::from_static("Bearer live"));
        ours.remove("x-wp-nonce");
        ours.insert("set-cookie", HeaderValue::from_static("session=live"));
        assert_eq!(
            fields(&theirs, &ours, Of::User),
            [
                "access-control-allow-origin: WordPress <1>, the sidecar <2>",
                "authorization: (not shown) — only from WordPress",
                "cache-control: WordPress <1>, the sidecar <2>",
                "link: WordPress <1>, the sidecar <2>",
                "set-cookie: (not shown) — only from the sidecar",
                "x-auth-token: another value (not shown)",
                "x-wp-nonce: (not shown) — only from WordPress",
            ]
        );
    }

    #[test]
    fn the_same_difference_is_told_once() {
        let (one, other) = (answer(403, &[("x-a", "1")], "{}"), answer(403, &[], "{}"));
        let mut all = Differences::default();
        all.add("x", &one, &other);
        all.add("y", &one, &other);
        assert_eq!(all.lines(2), ["x-a: 1 — only from WordPress (all 2)"]);
        assert!(!all.is_serious());
    }
}
