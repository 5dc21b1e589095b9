//! The fields of WordPress's response that depend on the request's `Origin` (Fetch Standard,
//! section 3.3.3). Pure.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::verify::origins::Fields;

/// A site has six of them, with far less than a kilobyte. Beyond these limits they are not kept.
const MOST_FIELDS: usize = 16;
const MOST_BYTES: usize = 2048;

pub fn is_of_origin(name: &HeaderName) -> bool {
    *name == header::VARY || name.as_str().starts_with("access-control-")
}

/// These fields, sorted by name; `None` if they are too many or too long.
pub fn of(headers: &HeaderMap) -> Option<Fields> {
    let mut fields: Fields = headers
        .iter()
        .filter(|(name, _)| is_of_origin(name))
        .filter_map(|(name, value)| {
            Some((name.clone(), if *name == header::VARY { varies(value)? } else { value.clone() }))
        })
        .collect();
    fields.sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
    let bytes: usize = fields.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    (fields.len() <= MOST_FIELDS && bytes <= MOST_BYTES).then_some(fields)
}

/// Without the names that the web server adds for compression.
fn varies(value: &HeaderValue) -> Option<HeaderValue> {
    let Ok(text) = value.to_str() else { return Some(value.clone()) };
    let is_ours =
        |token: &&str| !["", "accept-encoding", "user-agent"].iter().any(|others| token.eq_ignore_ascii_case(others));
    let left: Vec<&str> = text.split(',').map(str::trim).filter(is_ours).collect();
    if left.is_empty() { None } else { HeaderValue::try_from(left.join(", ")).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(lines: &[(&'static str, &'static str)]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let fields = of(&headers)?;
        Some(fields.iter().map(|(name, value)| format!("{name}: {};", value.to_str().unwrap())).collect())
    }

    #[test]
    fn what_depends_on_the_origin_is_kept_as_it_came() {
        let lines = [
            ("vary", "Accept-Encoding, Origin"),
            ("content-type", "application/json"),
            ("access-control-allow-origin", "capacitor://localhost"),
            ("access-control-allow-headers", "B, a"),
            // No WebView accepts a repeated field, but that is what the app gets from WordPress.
            ("access-control-allow-origin", "capacitor://localhost"),
        ];
        let origin = "access-control-allow-origin: capacitor://localhost;";
        assert_eq!(shown(&lines), Some(format!("access-control-allow-headers: B, a;{origin}{origin}vary: Origin;")));
        assert_eq!(shown(&[("access-control-allow-origin", "")]).as_deref(), Some("access-control-allow-origin: ;"));
        assert_eq!(shown(&[("vary", "accept-encoding"), ("vary", "User-Agent,")]).as_deref(), Some(""));
        assert_eq!(shown(&[("vary", "*")]).as_deref(), Some("vary: *;"));
    }

    #[test]
    fn what_is_too_much_is_not_kept() {
        assert_eq!(shown(&[("access-control-max-age", "1"); MOST_FIELDS + 1]), None);
        assert!(shown(&[("access-control-max-age", "1"); MOST_FIELDS]).is_some());
        let long: &'static str = "x".repeat(MOST_BYTES).leak();
        assert_eq!(shown(&[("access-control-expose-headers", long)]), None);
    }
}
