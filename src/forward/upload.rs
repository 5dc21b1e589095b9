//! The start of a request body is read before a connection to the upstream is taken: a client that sends slowly, by
//! nature or by intent, must not hold one of the upstream's workers while it does (Apache's prefork has 150 of them).
//!
//! Only bodies that announce their length: a client that does sends it without waiting for us, whereas a chunked one may
//! be half of a conversation and streams from its first byte. Small bodies are whole before they go on, so that what
//! is wrong with them is answered before the upstream has seen anything.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use http::{Request, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Frame};

use crate::body::RequestBody;
use crate::error::ExchangeError;

/// How much of a body is waited for. Logins, comments and API calls fit; of an upload it is what a few reads bring.
const START: usize = 64 << 10;

/// Smaller frames are joined.
///
/// SECURITY: each holds the buffer that it was read to, and a client can send a body byte by byte: 64 KiB of it
/// would hold half a gigabyte.
const SMALL: usize = 4 << 10;

/// Reads the start of the body of `request`, as far as that is to be waited for.
///
/// # Errors
/// The client's: the body broke off, was not valid, came too slowly or was too large.
pub async fn read_start(request: &mut Request<RequestBody>) -> Result<(), ExchangeError> {
    if !matches!(request.body(), RequestBody::Streamed(_)) || !request.headers().contains_key(header::CONTENT_LENGTH) {
        return Ok(());
    }
    let body = request.body_mut();
    let mut frames = VecDeque::new();
    let mut small = BytesMut::new();
    let mut length = 0;
    while length < START && !body.is_end_stream() {
        match body.frame().await {
            Some(Ok(frame)) => {
                let size = frame.data_ref().map_or(0, |data| data.len());
                length += size;
                match frame.into_data() {
                    // Most bodies are one frame.
                    Ok(data) if size < SMALL && !frames.is_empty() => small.extend_from_slice(&data),
                    data_or_trailers => {
                        join(&mut frames, &mut small);
                        frames.push_back(data_or_trailers.map_or_else(|trailers| trailers, Frame::data));
                    }
                }
            }
            Some(Err(error)) => return Err(error.into()),
            None => break,
        }
    }
    join(&mut frames, &mut small);
    body.put_back(frames);
    Ok(())
}

fn join(frames: &mut VecDeque<Frame<Bytes>>, small: &mut BytesMut) {
    if !small.is_empty() {
        frames.push_back(Frame::data(small.split().freeze()));
    }
}
