//! Rules on field names: which fields end at this hop, and which names PHP cannot distinguish.

pub mod folded;
pub mod hop_by_hop;

use http::HeaderMap;

/// SECURITY: some servers merge trailers into the header fields (Apache's `MergeTrailers`), where
/// they would overrule those that the sidecar sets.
pub fn prepare_request_trailers(trailers: &mut HeaderMap) {
    hop_by_hop::remove_from_trailers(trailers, |name| {
        let text = name.as_str();
        text.starts_with("x-forwarded-") || matches!(text, "forwarded" | "x-real-ip") || folded::is_twin(name)
    });
}
