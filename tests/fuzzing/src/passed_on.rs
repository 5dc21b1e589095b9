//! A message that the sidecar writes is the same message to the next server or client, with the
//! same end, and nothing follows it.

use std::future::{Future as _, poll_fn};
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use http::{Method, StatusCode, Uri, Version, header};

use crate::fields::hop_by_hop;
use crate::http1::against_hyper::{
    LIMITS, block_on, fields, hypers_answer, hypers_requests, is_odd, with_plain_target,
};
use crate::http1::decoder::{Decoded, Decoder};
use crate::http1::encoder::Encoder;
use crate::http1::head::{self, AnswerHead, RequestHead};
use crate::http1::output::Output;
use crate::http1::target;
use crate::http1::write::{self, ResponseFraming};
use crate::vet;

/// The first request of `bytes`, if it is forwarded, prepared by `forward::request`.
pub fn request(bytes: &[u8]) {
    let mut buffer = BytesMut::from(bytes);
    let Ok(Some(RequestHead { request, body, .. })) = head::request(&mut buffer, &LIMITS) else { return };
    if vet::vet(&request).is_err() {
        return;
    }
    let came = lines(&bytes[..bytes.len() - buffer.len()]);
    let (mut head, ()) = request.into_parts();
    head.uri = head.uri.path_and_query().cloned().map(Uri::from).unwrap_or_default();
    let target = target::sent(&head.uri, head.extensions.get()).to_vec();
    hop_by_hop::remove(&mut head.headers, false, |_| false);
    let mut out = Written::default();
    let encoder = write::request(out.output.gathered(), &head, body.left(), |_| {});
    let sent = out.body(encoder, body, &mut buffer, false);
    let text = String::from_utf8_lossy(&out.bytes);
    let slash: &[u8] = if matches!(target[..], [b'/' | b'*', ..]) { b"" } else { b"/" };
    let line = [head.method.as_str().as_bytes(), b" ", slash, &target, b" HTTP/1.1\r\n"].concat();
    assert!(out.bytes.starts_with(&line), "{text:?}");
    // Line by line, except removed fields and those that are framed or set again.
    let stays = |(name, _): &(Vec<u8>, Vec<u8>)| {
        let lower = String::from_utf8_lossy(name).to_ascii_lowercase();
        lower != "te" && lower != "transfer-encoding" && head.headers.contains_key(&lower)
    };
    let written: Vec<_> = lines(&out.bytes).into_iter().filter(stays).collect();
    assert_eq!(written, came.into_iter().filter(stays).collect::<Vec<_>>(), "{text:?}");
    let is_odd = is_odd(&head.uri, &target);
    let plain = if is_odd { with_plain_target(&out.bytes, &target) } else { out.bytes.clone() };
    let mut read = block_on(hypers_requests(&plain));
    assert_eq!(read.len(), 1, "{text:?}");
    let Some(read) = read.pop() else { return };
    assert!(is_odd || read.begin == format!("{} {}", head.method, head.uri), "{text:?}");
    assert_eq!(without_coding(read.fields), fields(&head.headers), "{text:?}");
    assert_eq!(read.body.map(|(body, _)| body), sent, "{text:?}");
}

/// The response in `bytes` to a request of `method`, prepared by `forward::response` for a client
/// of `version`.
pub fn answer(bytes: &[u8], method: &Method, version: Version) {
    let mut buffer = BytesMut::from(bytes);
    let (answer, body) = loop {
        match head::answer(&mut buffer, method, LIMITS.fields) {
            Ok(Some(AnswerHead { answer, .. })) if head::is_interim(answer.status()) => {}
            Ok(Some(AnswerHead { answer, body, .. })) => break (answer, body),
            _ => return,
        }
    };
    let (mut head, ()) = answer.into_parts();
    let codings: Vec<_> = head.headers.get_all(header::TRANSFER_ENCODING).iter().collect();
    let is_coded = !codings.is_empty();
    let is_chunked = matches!(codings[..], [only] if only.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"));
    if is_coded && !is_chunked || head.status == StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    hop_by_hop::remove(&mut head.headers, false, |name| is_coded && name == header::CONTENT_LENGTH);
    let framing = ResponseFraming { is_head: method == Method::HEAD, version, keeps: true };
    let mut out = Written::default();
    let (encoder, _) = write::answer(out.output.gathered(), &head, body.left(), &framing);
    let is_until_close = encoder.is_until_close();
    let sent = out.body(encoder, body, &mut buffer, true);
    let read = block_on(hypers_answer(&out.bytes, method));
    let text = String::from_utf8_lossy(&out.bytes);
    let Some(read) = read else { panic!("no answer to hyper: {text:?}") };
    assert_eq!(read.begin, head.status.as_str(), "{text:?}");
    // An HTTP/1.0 client cannot notice that a body was cut off.
    if sent.is_some() || !is_until_close {
        assert_eq!(read.body.map(|(body, _)| body), sent, "{text:?}");
    }
}

/// The lines of a head as any recipient reads them: names as written, values without surrounding
/// space.
fn lines(head: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let fields = lines.skip_while(|line| line.is_empty()).skip(1).take_while(|line| !line.is_empty());
    let field = |line: &[u8]| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        Some((line[..colon].to_vec(), line[colon + 1..].trim_ascii().to_vec()))
    };
    fields.filter_map(field).collect()
}

fn without_coding(mut fields: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    fields.retain(|(name, _)| name != "transfer-encoding");
    fields
}

/// A message as it is sent.
#[derive(Default)]
struct Written {
    output: Output,
    bytes: Vec<u8>,
}

impl Written {
    /// The body that `decoder` reads from `buffer`, after the head. Returns what was sent of it, if
    /// it was complete.
    fn body(
        &mut self,
        mut encoder: Encoder,
        mut decoder: Decoder,
        buffer: &mut BytesMut,
        is_closed: bool,
    ) -> Option<Vec<u8>> {
        let mut sent = Vec::new();
        let is_whole = loop {
            self.flush();
            match decoder.decode(buffer) {
                Ok(Decoded::Frame(mut frame)) => {
                    sent.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                    if let Some(trailers) = frame.trailers_mut() {
                        hop_by_hop::remove_from_trailers(trailers, |_| false);
                    }
                    if !encoder.is_complete() {
                        encoder.push(frame, &mut self.output);
                    }
                }
                Ok(Decoded::End) => break true,
                Ok(Decoded::More) if is_closed && decoder.close().is_ok() => {}
                Ok(Decoded::More) | Err(_) => break false,
            }
        };
        if is_whole {
            self.flush();
            assert!(encoder.end(&mut self.output).is_ok());
        }
        self.flush();
        is_whole.then_some(sent)
    }

    fn flush(&mut self) {
        let mut flushed = std::pin::pin!(poll_fn(|cx| self.output.poll_flush(&mut self.bytes, cx)));
        let flushed = flushed.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(flushed, Poll::Ready(Ok(()))));
    }
}
