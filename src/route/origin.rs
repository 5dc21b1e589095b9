//! What WordPress makes of a request's `Origin`.
//!
//! WordPress sends `Access-Control-Allow-Origin` with what `esc_url_raw` leaves of the origin
//! (`rest_send_cors_headers`): the whole of a web page's origin, nothing of an app's, because
//! `capacitor` is not among its protocols (`wp_allowed_protocols`). What an app gets is then up to
//! the site's own code.

use http::header::ORIGIN;
use http::{HeaderMap, HeaderValue};

/// Maximum length of an app's origin, in bytes. A browser extension's, with its UUID, has less than
/// 60.
const LONGEST: usize = 128;

/// The request's origin, if it is that of an app: `capacitor://localhost`, `chrome-extension://…`,
/// `file://`.
pub fn of_app(headers: &HeaderMap) -> Option<&str> {
    headers.get(ORIGIN)?.to_str().ok().filter(|origin| is_of_app(origin))
}

/// Whether the request has no origin, or a single one: a page's, or an app's.
pub(super) fn is_usual(headers: &HeaderMap) -> bool {
    let mut origins = headers.get_all(ORIGIN).iter();
    let is_usual = |origin: &HeaderValue| is_plain(origin.as_bytes()) || origin.to_str().is_ok_and(is_of_app);
    origins.next().is_none_or(is_usual) && origins.next().is_none()
}

/// Whether WordPress returns the origin unchanged.
fn is_plain(origin: &[u8]) -> bool {
    if origin == b"null" {
        return true;
    }
    let Some(authority) = origin.strip_prefix(b"https://").or_else(|| origin.strip_prefix(b"http://")) else {
        return false;
    };
    let (host, port) = match authority.iter().position(|byte| *byte == b':') {
        Some(colon) => {
            let (host, port) = authority.split_at(colon);
            (host, port.strip_prefix(b":"))
        }
        None => (authority, None),
    };
    host.first().is_some_and(u8::is_ascii_alphanumeric)
        && host.iter().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(b))
        && port.is_none_or(|port| matches!(port.len(), 1..=5) && port.iter().all(u8::is_ascii_digit))
}

/// Accepts only the spelling that browsers and WebViews send.
// SECURITY: it is shown to operators and logged, so it contains no character with a special meaning
// there.
fn is_of_app(origin: &str) -> bool {
    let Some((scheme, rest)) = origin.split_once("://") else { return false };
    origin.len() <= LONGEST
        && !matches!(scheme, "http" | "https")
        && scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b))
        && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_of_apps() {
        for origin in [
            "capacitor://localhost",
            "ionic://localhost",
            "tauri://localhost",
            "chrome-extension://gighmmpiobklfepjocnamgkkbiglidom",
            "moz-extension://6c1d3a1e-7b53-4a4b-9e6e-0a4a2b7f2d11",
            "app://.",
            "file://",
            "ms-appx-web://com.example.app:8080",
        ] {
            assert!(is_of_app(origin) && !is_plain(origin.as_bytes()), "{origin}");
        }
        let long = format!("app://{}", "a".repeat(LONGEST));
        for origin in [
            "",
            "null",
            "https://app.example",
            "http://localhost",
            "https://[::1]",
            "://localhost",
            "Capacitor://localhost",
            "1app://localhost",
            "capacitor:localhost",
            "capacitor://local host",
            "capacitor://localhost/",
            "capacitor://a, capacitor://b",
            "capacitor://<b>",
            "capacitor://a@b",
            "capacitor://é",
            &long,
        ] {
            assert!(!is_of_app(origin), "{origin}");
        }
        assert!(is_of_app(&long[..LONGEST]));
    }
}
