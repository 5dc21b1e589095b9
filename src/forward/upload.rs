//! The start of a request body is read before a connection to the upstream is taken: a client that sends slowly, by
//! nature or by intent, must not hold one of the upstream's workers while it does (Apache's prefork has 150 of them).
//!
//! It makes no difference whether a body announces its length. Small ones are whole before they go on, so that what is
//! wrong with them is answered before the upstream has seen anything.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use http::Request;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Frame};

use crate::body::{BodyError, RequestBody};

/// How much of a body is waited for. Logins, comments and API calls fit; of an upload it is what a few reads bring.
const START: usize = 64 << 10;

/// Reads the start of the body of `request`, or all of a small one.
///
/// # Errors
/// The client's: the body broke off, was not valid, came too slowly or was too large.
pub async fn read_start(request: &mut Request<RequestBody>) -> Result<(), BodyError> {
    if !matches!(request.body(), RequestBody::Streamed(_)) {
        return Ok(());
    }
    let body = request.body_mut();
    let mut frames = VecDeque::new();
    let mut joined = BytesMut::new();
    let mut length = 0;
    while length < START && !body.is_end_stream() {
        let Some(frame) = body.frame().await.transpose()? else { break };
        match frame.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) => {
                length += data.len();
                if joined.is_empty() && body.is_end_stream() {
                    frames.push_back(Frame::data(data));
                } else {
                    // SECURITY: each frame keeps the buffer that it was read to, and a body may come byte by byte, for
                    // as long as the client likes: 64 KiB of it would hold half a gigabyte.
                    joined.extend_from_slice(&data);
                }
            }
            Err(trailers) => {
                join(&mut frames, &mut joined);
                frames.push_back(trailers);
            }
        }
    }
    join(&mut frames, &mut joined);
    body.put_back(frames);
    Ok(())
}

fn join(frames: &mut VecDeque<Frame<Bytes>>, joined: &mut BytesMut) {
    if !joined.is_empty() {
        frames.push_back(Frame::data(joined.split().freeze()));
    }
}
