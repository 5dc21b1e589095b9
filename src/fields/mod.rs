//! Rules on the names of fields: which end at this hop, and which PHP cannot tell from others.

pub mod folded;
pub mod hop_by_hop;

use http::HeaderMap;

/// SECURITY: some servers merge trailers into the fields (Apache's `MergeTrailers`), where these would overrule ours.
pub fn prepare_request_trailers(trailers: &mut HeaderMap) {
    hop_by_hop::remove_from_trailers(trailers, |name| {
        let text = name.as_str();
        text.starts_with("x-forwarded-") || matches!(text, "forwarded" | "x-real-ip") || folded::is_twin(name)
    });
}
