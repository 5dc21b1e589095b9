//! Compares this parser with hyper's. Request smuggling depends on two servers that read the same
//! bytes differently; here hyper is the second server: every message that `head` accepts, hyper
//! accepts too, with the same end, and so all messages that follow it on the connection.
//!
//! The reverse need not hold. This parser also refuses an invalid Content-Length behind a transfer
//! coding, which hyper ignores, a repeated length, lengths of 2^63 and more, and bare line feeds
//! among trailers. And it accepts targets that hyper's `Uri` cannot hold: hyper is given such a
//! request with plain letters instead.
//!
//! Used by the tests below and by the fuzzing (`tests/fuzz`).

use std::convert::Infallible;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use http::{HeaderMap, Method, Request, Response, Uri, Version, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{client, server};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::unbounded_channel;

use super::decoder::{Decoded, Decoder};
use super::error::HeadError;
use super::fields::{digits, tokens};
use super::head::{self, HeadLimits};
use super::target;

/// What was read of a message.
#[derive(Debug, PartialEq)]
pub struct Understood {
    /// Method and target, or status.
    pub begin: String,
    /// The target as it arrived, after an authority.
    pub target: Vec<u8>,
    /// Whether a `Uri` cannot hold it.
    pub is_odd: bool,
    pub version: Version,
    pub fields: Vec<(String, Vec<u8>)>,
    pub length: Option<u64>,
    /// `None` if it is invalid or incomplete.
    pub body: Option<(Vec<u8>, HeaderMap)>,
}

const CODING: &str = "transfer-encoding";

pub const LIMITS: HeadLimits = HeadLimits { bytes: 8 * 1024, fields: 100 };

/// A few more than this parser accepts, for the fields that the test adds.
const HYPERS_FIELDS: usize = LIMITS.fields + 10;

/// How many requests this parser reads in `bytes`. hyper must read the same ones, however the bytes
/// arrive.
pub fn requests(bytes: &[u8]) -> usize {
    let mut ours = our_requests(bytes, bytes.len().max(1));
    let text = String::from_utf8_lossy(bytes);
    assert_eq!(ours, our_requests(bytes, in_parts(bytes)), "in parts: {text:?}");
    if let Some(first) = ours.first().filter(|first| first.is_odd) {
        let plain = with_plain_target(bytes, &first.target);
        let read = our_requests(&plain, plain.len());
        let rest = |it: &Understood| (it.version, it.fields.clone(), it.length, it.body.clone());
        assert!(read.first().is_some_and(|read| !read.is_odd), "{text:?}");
        assert_eq!(ours.iter().map(rest).collect::<Vec<_>>(), read.iter().map(rest).collect::<Vec<_>>(), "{text:?}");
        return requests(&plain);
    }
    ours.truncate(ours.iter().position(|it| it.is_odd).unwrap_or(ours.len()));
    // hyper does not find `chunked` in a line that is not ASCII; `vet` refuses all but a lone
    // `chunked`.
    let is_strange = |it: &Understood, of: &str| it.fields.iter().any(|(name, value)| name == of && !value.is_ascii());
    ours.truncate(ours.iter().position(|it| is_strange(it, CODING)).unwrap_or(ours.len()));
    // Nor does it find `keep-alive` in such a line, so it closes after an HTTP/1.0 request where
    // this parser continues.
    let closes = ours.iter().position(|it| is_strange(it, header::CONNECTION.as_str()));
    ours.truncate(closes.map_or(ours.len(), |at| at + 1));
    let Some(last) = ours.last_mut() else { return 0 };
    let mut hypers = block_on(hypers_requests(bytes));
    // hyper accepts bare line feeds after trailers. For CONNECT, which `vet` refuses, it reports no
    // body.
    if last.body.is_none() || last.begin.starts_with("CONNECT ") {
        last.body = None;
        hypers.iter_mut().skip(ours.len() - 1).for_each(|it| it.body = None);
    }
    hypers.truncate(ours.len());
    // hyper only has its `Uri`.
    ours.iter_mut().chain(&mut hypers).for_each(|it| it.target.clear());
    assert_eq!(ours, hypers, "{text:?}");
    ours.len()
}

/// Whether this parser accepts `bytes` as the response to a request of `method`. If so, hyper must
/// read the same response.
pub fn answer(bytes: &[u8], method: &Method) -> bool {
    let ours = our_answer(bytes, method, bytes.len().max(1));
    let text = String::from_utf8_lossy(bytes);
    assert_eq!(ours, our_answer(bytes, method, in_parts(bytes)), "in parts: {text:?}");
    let Some(mut ours) = ours else { return false };
    let Some(mut hypers) = block_on(hypers_answer(bytes, method)) else {
        panic!("hyper refuses {text:?}, and we read {ours:?}");
    };
    // The same holds for a response; `forward::response` refuses such a one.
    if ours.fields.iter().any(|(name, value)| name == CODING && !value.is_ascii()) {
        return true;
    }
    if ours.body.is_none() {
        hypers.body = None;
    }
    (ours.fields, hypers.fields) = (one_length(ours.fields), one_length(hypers.fields));
    assert_eq!(ours, hypers, "{text:?}");
    true
}

/// Equal lengths of a response count as one, as RFC 9110, 8.6, allows.
fn one_length(mut fields: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    let mut is_second = false;
    fields.retain_mut(|(name, value)| {
        if name != "content-length" {
            return true;
        }
        let number = value.split(|byte| *byte == b',').next().and_then(|one| digits(one.trim_ascii()));
        *value = number.map_or(std::mem::take(value), |number| number.to_string().into_bytes());
        !std::mem::replace(&mut is_second, true)
    });
    fields
}

/// The size of the parts, which differs from message to message.
fn in_parts(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |sum, byte| sum + usize::from(*byte)) % 17 + 1
}

/// Bytes that arrive in parts of `size`.
struct Arriving<'a> {
    buffer: BytesMut,
    rest: &'a [u8],
    size: usize,
}

impl Arriving<'_> {
    fn new(bytes: &[u8], size: usize) -> Arriving<'_> {
        Arriving { buffer: BytesMut::new(), rest: bytes, size }
    }

    /// Reads the next part; `false` at the end.
    fn read(&mut self) -> bool {
        let (part, rest) = self.rest.split_at(self.size.min(self.rest.len()));
        self.buffer.extend_from_slice(part);
        self.rest = rest;
        !part.is_empty()
    }

    /// Reads a head as `Inbound` and `Connection` do.
    fn head<T>(&mut self, read: impl Fn(&mut BytesMut) -> Result<Option<T>, HeadError>) -> Option<T> {
        let mut looked_at = 0;
        loop {
            if (looked_at == 0 || head::may_end(&self.buffer, looked_at)) && !self.buffer.is_empty() {
                match read(&mut self.buffer) {
                    Ok(None) => {}
                    found => return found.ok().flatten(),
                }
            }
            looked_at = self.buffer.len();
            if !self.read() {
                return None;
            }
        }
    }

    fn body(&mut self, mut decoder: Decoder) -> Option<(Vec<u8>, HeaderMap)> {
        let (mut body, mut trailers) = (Vec::new(), HeaderMap::new());
        loop {
            match decoder.decode(&mut self.buffer) {
                Ok(Decoded::Frame(frame)) => match frame.into_data() {
                    Ok(data) => body.extend_from_slice(&data),
                    Err(frame) => trailers = frame.trailers_ref().cloned().unwrap_or_default(),
                },
                Ok(Decoded::End) => return Some((body, trailers)),
                Ok(Decoded::More) if self.read() || decoder.close().is_ok() => {}
                Ok(Decoded::More) | Err(_) => return None,
            }
        }
    }
}

fn our_requests(bytes: &[u8], size: usize) -> Vec<Understood> {
    let mut arriving = Arriving::new(bytes, size);
    let mut all = Vec::new();
    loop {
        let head = arriving.head(|buffer| {
            while let [b'\n', ..] | [b'\r', b'\n', ..] = buffer[..] {
                buffer.advance(if buffer.starts_with(b"\n") { 1 } else { 2 });
            }
            head::request(buffer, &LIMITS)
        });
        let Some(head::RequestHead { request, body, keeps, .. }) = head else { return all };
        let length = body.left();
        let read = of_request(&request, length, arriving.body(body));
        let is_last = !keeps || read.body.is_none() || request.method() == Method::CONNECT;
        all.push(read);
        if is_last {
            return all;
        }
    }
}

fn our_answer(bytes: &[u8], method: &Method, size: usize) -> Option<Understood> {
    let mut arriving = Arriving::new(bytes, size);
    let head = loop {
        let head = arriving.head(|buffer| head::answer(buffer, method, LIMITS.fields))?;
        if !head::is_interim(head.answer.status()) {
            break head;
        }
    };
    let length = head.body.left();
    Some(of_answer(&head.answer, length, arriving.body(head.body)))
}

fn of_request<B>(request: &Request<B>, length: Option<u64>, body: Option<(Vec<u8>, HeaderMap)>) -> Understood {
    let begin = format!("{} {}", request.method(), request.uri());
    let target = target::sent(request.uri(), request.extensions().get()).to_vec();
    let is_odd = is_odd(request.uri(), &target);
    Understood { begin, target, is_odd, version: request.version(), fields: fields(request.headers()), length, body }
}

/// Whether `uri`, which was read from `target`, does not hold all of it.
pub fn is_odd(uri: &Uri, target: &[u8]) -> bool {
    // `http://a?b` has an empty path, for which `Uri` has `/`.
    let holds = |held: &[u8]| held == target || held.strip_prefix(b"/") == Some(target);
    uri.path_and_query().is_some_and(|held| !holds(held.as_str().as_bytes()))
}

/// `bytes`, with each byte of the first target that a `Uri` cannot hold replaced by `x`.
pub fn with_plain_target(bytes: &[u8], target: &[u8]) -> Vec<u8> {
    let mut plain = bytes.to_vec();
    let at = bytes.windows(target.len()).position(|part| part == target).unwrap_or_default();
    for byte in plain.iter_mut().skip(at).take(target.len()) {
        if !byte.is_ascii() || b"<>\"`".contains(byte) {
            *byte = b'x';
        }
    }
    plain
}

fn of_answer<B>(answer: &Response<B>, length: Option<u64>, body: Option<(Vec<u8>, HeaderMap)>) -> Understood {
    let begin = answer.status().as_str().to_owned();
    let (target, is_odd) = (Vec::new(), false);
    Understood { begin, target, is_odd, version: answer.version(), fields: fields(answer.headers()), length, body }
}

/// The fields sorted by name, without those that `head` removes: hyper changes the order when it
/// removes a length.
pub fn fields(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let is_of_the_connection = |name: &str, value: &[u8]| {
        let mut options = tokens(value).map(<[u8]>::to_ascii_lowercase);
        name == "keep-alive" || name == "connection" && options.all(|it| it == b"close" || it == b"keep-alive")
    };
    let all = headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
    let mut fields: Vec<_> = all.filter(|(name, value)| !is_of_the_connection(name, value)).collect();
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    fields
}

async fn whole(body: Incoming) -> Option<(Vec<u8>, HeaderMap)> {
    let body = body.collect().await.ok()?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    Some((body.to_bytes().to_vec(), trailers))
}

/// The requests that hyper's server reads if `bytes` arrive, followed by the end of the stream.
pub async fn hypers_requests(bytes: &[u8]) -> Vec<Understood> {
    let (mut client, server) = tokio::io::duplex(ROOM);
    let (sender, mut receiver) = unbounded_channel();
    let service = service_fn(move |request: Request<Incoming>| {
        let sender = sender.clone();
        async move {
            let (head, body) = request.into_parts();
            let length = body.size_hint().exact();
            let body = whole(body).await;
            let _ = sender.send(of_request(&Request::from_parts(head, ()), length, body));
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    client.write_all(bytes).await.expect("room");
    client.shutdown().await.expect("an open stream");
    let reading = async {
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer).await;
    };
    let mut http = server::conn::http1::Builder::new();
    http.half_close(true).max_headers(HYPERS_FIELDS);
    let serving = http.serve_connection(TokioIo::new(server), service);
    let _ = tokio::join!(serving, reading);
    std::iter::from_fn(|| receiver.try_recv().ok()).collect()
}

/// The response that hyper's client reads if `bytes` and then the end of the stream answer its
/// request of `method`.
pub async fn hypers_answer(bytes: &[u8], method: &Method) -> Option<Understood> {
    let (client, mut server) = tokio::io::duplex(ROOM);
    let mut http = client::conn::http1::Builder::new();
    http.max_headers(HYPERS_FIELDS);
    let (mut asking, connection) = http.handshake(TokioIo::new(client)).await.ok()?;
    let request = Request::builder().method(method).uri("/").header("host", "a").body(Empty::<Bytes>::new()).ok()?;
    let answering = async {
        let mut request = [0; 1024];
        let _ = server.read(&mut request).await;
        let _ = server.write_all(bytes).await;
        let _ = server.shutdown().await;
    };
    let reading = async move {
        let (head, body) = asking.send_request(request).await.ok()?.into_parts();
        let length = body.size_hint().exact();
        let body = whole(body).await;
        Some(of_answer(&Response::from_parts(head, ()), length, body))
    };
    tokio::join!(connection, answering, reading).2
}

/// Enough for everything that a client or a server sends here.
const ROOM: usize = 1024 * 1024;

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
}

/// The result of hyper's reading, if it ends.
pub fn block_on<T>(reading: impl Future<Output = T>) -> T {
    RUNTIME.with(|runtime| {
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), reading).await }).expect("hyper ends")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header;
    use proptest::prelude::*;

    fn generated() -> impl Strategy<Value = Vec<u8>> {
        let end = prop_oneof![20 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r"), 1 => Just("\r\n\r\n")];
        let line = (
            prop_oneof![4 => "(GET|POST|HEAD|PUT|M-SEARCH|get|CONNECT)", 1 => "[!-~ ]{0,4}"],
            prop_oneof![9 => Just(" ".to_owned()), 1 => "[ \t]{0,2}"],
            prop_oneof![4 => "/[a-z0-9/%?&=.#-]{0,12}", 1 => "(\\*|http://a/b|http://a|a:1|//x)", 1 => "/?[ -~\u{80}-\u{ff}]{0,6}"],
            prop_oneof![9 => "HTTP/1\\.[01]", 1 => "[HTPhtp/0-9. ]{0,9}"],
        );
        let line = line.prop_map(|(method, space, target, version)| format!("{method}{space}{target} {version}"));
        let length = prop_oneof![
            4 => "[0-9]",
            2 => "[+0-9a-f ,x-]{0,4}",
            1 => "(18446744073709551615|18446744073709551616|9223372036854775808|05|5, 5| 5|5 )",
        ];
        let coding = prop_oneof![4 => "[Cc]hunked", 2 => "(gzip|chunked|identity| |,|\t|;a|x){0,3}"];
        let field = prop_oneof![
            3 => length.prop_map(|length| format!("Content-Length: {length}")),
            3 => coding.prop_map(|coding| format!("transfer-Encoding:{coding}")),
            2 => "(Connection|Keep-Alive|Upgrade|Expect|TE|Host): (close|keep-alive|100-Continue|x|,| ){0,3}",
            2 => "[A-Za-z_-]{1,4}[: \t]{1,3}[ -~\t\u{80}-\u{ff}]{0,5}",
            1 => "[ -~\t\u{0}\u{7f}]{0,8}",
        ];
        let body = prop_oneof![
            2 => "[0-9a-zA-Z]{0,12}",
            3 => "([0-3]{1,2}[ \t]?(;[a-z=\"\n]{0,3})?\r\n[a-z]{0,3}\r\n){0,2}0\r?\n(A: b\r?\n)?\r?\n(GET / HTTP/1.1\r\n\r\n)?",
        ];
        let fields = prop::collection::vec((field, end.clone()), 0..5);
        ("(\r?\n){0,2}", line, end.clone(), fields, end, body).prop_map(|(before, line, end, fields, last, body)| {
            let fields: String = fields.iter().map(|(field, end)| format!("{field}{end}")).collect();
            let head = format!("{before}{line}{end}{fields}{last}{body}");
            // Latin-1, so that some bytes are not UTF-8.
            head.chars().map(|char| u8::try_from(u32::from(char)).unwrap_or(b'?')).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]
        #[test]
        fn what_is_taken_for_a_request_is_one_to_hyper(bytes in generated()) {
            requests(&bytes);
        }
    }

    #[test]
    fn plain_requests_are_taken() {
        for (count, request) in [
            (1, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            (1, "POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nab"),
            (
                1,
                "POST / HTTP/1.1\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nA: b\r\n\r\n",
            ),
            (2, "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nab\r\n0\r\n\r\nGET /b HTTP/1.1\r\n\r\n"),
        ] {
            assert_eq!(requests(request.as_bytes()), count, "{request:?}");
            let read = our_requests(request.as_bytes(), 1);
            assert!(read.iter().all(|it| it.body.is_some()), "{request:?}");
        }
        assert_eq!(requests(format!("POST / HTTP/1.1\r\n{}: 5\r\n\r\n", header::CONTENT_LENGTH).as_bytes()), 1);
    }

    #[test]
    fn plain_answers_are_taken() {
        for answered in [
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab",
            "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nA: b\r\n\r\n",
            "HTTP/1.0 200 OK\r\n\r\nab",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n",
        ] {
            assert!(answer(answered.as_bytes(), &Method::GET), "{answered:?}");
            assert!(
                our_answer(answered.as_bytes(), &Method::GET, 1).is_some_and(|it| it.body.is_some()),
                "{answered:?}"
            );
        }
    }
}
