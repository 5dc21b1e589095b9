//! Makes an upstream's response fit for the client. It is changed in place, since its extensions
//! carry the reason phrase and the spelling of the field names.

use std::net::IpAddr;

use http::{HeaderMap, Response, header, response};

use super::error::ForwardError;
use super::relay::Relay;
use super::response_body::ResponseBody;
use super::upstream::Lease;
use crate::fields::hop_by_hop;
use crate::request_id::RequestId;

/// Prepares `answer`, read from `lease`, the response to the request `id` of `client`.
///
/// # Errors
/// A transfer coding other than `chunked`: the field is removed, so the client could not read the
/// body.
pub fn prepare(
    mut answer: Response<()>,
    lease: Lease,
    client: IpAddr,
    id: &RequestId,
) -> Result<Response<ResponseBody>, ForwardError> {
    let headers = answer.headers_mut();
    let is_coded = headers.contains_key(header::TRANSFER_ENCODING);
    if is_coded && !is_chunked_only(headers) {
        return Err(ForwardError::TransferEncoding);
    }
    // If both are present, the coding wins (RFC 9112, 6.3).
    hop_by_hop::remove(headers, false, |name| is_coded && name == header::CONTENT_LENGTH);
    Ok(answer.map(|()| ResponseBody::relayed(Relay::new(lease, client, id.clone()))))
}

/// Prepares the head of an interim response (1xx).
pub fn announcement(mut head: Response<()>) -> response::Parts {
    hop_by_hop::remove(head.headers_mut(), false, |_| false);
    head.into_parts().0
}

fn is_chunked_only(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (lines.next(), lines.next()) {
        (Some(only), None) => only.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        _ => false,
    }
}
