//! Field names that PHP cannot distinguish: CGI turns `X-Forwarded-For`, `X_Forwarded_For` and, in
//! some servers, `X.Forwarded.For` into `HTTP_X_FORWARDED_FOR`. A client that sends such a twin of
//! a field that the sidecar sets, or that frames or routes a message, wants it to be read in the
//! other's place (GHSA-f59h-q822-g45g and GHSA-49wc-4hcv-v58q, of Caddy).
//!
//! Only such twins are dropped. Other names with `_` or `.` belong to the site.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::HeaderName;
use tracing::debug;

/// Fields dropped since the start. A static, so that the functions that prepare a request need no
/// counter passed in.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// How many fields were dropped since the start.
pub fn total() -> u64 {
    DROPPED.load(Relaxed)
}

/// Whether PHP would read `name` as another field that matters here.
pub fn is_twin(name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    if name.iter().all(is_plain) {
        return false;
    }
    let folded: String = name.iter().map(|byte| if is_plain(byte) { char::from(*byte) } else { '-' }).collect();
    folded.starts_with("x-forwarded-") || MATTERS.contains(&folded.as_str())
}

/// Counts the dropped fields and logs them.
pub fn dropped(names: &[HeaderName]) {
    for name in names {
        let total = DROPPED.fetch_add(1, Relaxed) + 1;
        debug!(%name, total, "dropped a field whose name PHP reads as another's");
    }
}

/// Fields that say who the client is, how the message is framed, where it goes, and what it may do.
const MATTERS: [&str; 16] = [
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "forwarded",
    "host",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-http-method-override",
    "x-real-ip",
    "x-request-id",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twins_and_nothing_else() {
        for name in ["x_forwarded_for", "X.Real.IP", "Content_Length", "content_type", "X-Forwarded_Proto", "x~real-ip"]
        {
            assert!(is_twin(&name.parse().unwrap()), "{name}");
        }
        for name in ["x-forwarded-for", "x-real-ip", "content-length", "x_my_field", "x.y", "_", "sec_ch_ua"] {
            assert!(!is_twin(&name.parse().unwrap()), "{name}");
        }
    }
}
