//! An upstream's answer made fit for the client. It is changed in place: its extensions carry the reason phrase and
//! the case of the field names.

use http::{Response, StatusCode, Version, header};
use hyper::body::Incoming;

use super::hop_by_hop;
use super::upstream::Lease;
use crate::body::{ResponseBody, UpstreamBody};
use crate::error::ExchangeError;

/// Makes `answer`, read from `lease`, fit for the client.
///
/// # Errors
/// A 101 that nobody asked for: the client would take what follows for another protocol.
pub fn prepare(mut answer: Response<Incoming>, lease: Lease) -> Result<Response<ResponseBody>, ExchangeError> {
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(ExchangeError::UpstreamUnaskedUpgrade);
    }
    let headers = answer.headers_mut();
    // With both, hyper's server gives up and the client gets an empty reply; the coding wins (RFC 9112, 6.3).
    if headers.contains_key(header::TRANSFER_ENCODING) && headers.contains_key(header::CONTENT_LENGTH) {
        hop_by_hop::remove_in_order(headers, |name| name == header::CONTENT_LENGTH);
    }
    hop_by_hop::remove(headers);
    // A copied HTTP/1.0 would make hyper answer in 1.0 and close; a 1.0 client still gets what it can read.
    *answer.version_mut() = Version::HTTP_11;
    Ok(answer.map(|body| ResponseBody::Upstream(UpstreamBody::new(body, lease))))
}
