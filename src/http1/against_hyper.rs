//! What two servers read differently is what request smuggling lives on. hyper's server is the other one here: whatever
//! `head` takes for a request, hyper takes for the same one, with the same end.
//!
//! The other way round it need not be so: we refuse a Content-Length that is none behind a transfer coding, which hyper
//! does not look at, a length that stands twice, lengths of 2^63 and more, and bare line feeds among trailers.

use std::convert::Infallible;
use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderMap, Method, Request, Response, Version, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc::unbounded_channel;

use super::decoder::Decoded;
use super::fields::tokens;
use super::head::{self, HeadLimits};

/// What a server read.
#[derive(Debug, PartialEq)]
struct Understood {
    method: Method,
    target: String,
    version: Version,
    fields: Vec<(String, Vec<u8>)>,
    length: Option<u64>,
    /// `None` where it is none, or is not all there.
    body: Option<(Vec<u8>, HeaderMap)>,
}

const LIMITS: HeadLimits = HeadLimits { bytes: 8 * 1024, fields: 100 };

/// Without what `head` takes off as it reads, by name: hyper changes the order where it takes a length off.
fn fields(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let is_of_the_connection = |name: &str, value: &[u8]| {
        let mut options = tokens(value).map(<[u8]>::to_ascii_lowercase);
        name == "keep-alive" || name == "connection" && options.all(|it| it == b"close" || it == b"keep-alive")
    };
    let all = headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
    let mut fields: Vec<_> = all.filter(|(name, value)| !is_of_the_connection(name, value)).collect();
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    fields
}

fn ours(bytes: &[u8]) -> Option<Understood> {
    let mut buffer = BytesMut::from(bytes);
    let head::RequestHead { request, body: mut decoder, .. } = head::request(&mut buffer, &LIMITS).ok()??;
    let length = decoder.left();
    let (mut body, mut trailers) = (Vec::new(), HeaderMap::new());
    let ended = loop {
        match decoder.decode(&mut buffer) {
            Ok(Decoded::Frame(frame)) => match frame.into_data() {
                Ok(data) => body.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
            },
            Ok(Decoded::End) => break true,
            Ok(Decoded::More) | Err(_) => break false,
        }
    };
    Some(understood(&request, length, ended.then_some((body, trailers))))
}

fn understood<B>(request: &Request<B>, length: Option<u64>, body: Option<(Vec<u8>, HeaderMap)>) -> Understood {
    Understood {
        method: request.method().clone(),
        target: request.uri().to_string(),
        version: request.version(),
        fields: fields(request.headers()),
        length,
        body,
    }
}

async fn hypers(bytes: &[u8]) -> Option<Understood> {
    let (mut client, server) = tokio::io::duplex(64 * 1024);
    let (told, mut heard) = unbounded_channel();
    let service = service_fn(move |request: Request<Incoming>| {
        let told = told.clone();
        async move {
            let (head, body) = request.into_parts();
            let length = body.size_hint().exact();
            let body = body.collect().await.ok().map(|body| {
                let trailers = body.trailers().cloned().unwrap_or_default();
                (body.to_bytes().to_vec(), trailers)
            });
            let _ = told.send(understood(&Request::from_parts(head, ()), length, body));
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    let reading = async {
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer).await;
    };
    let mut http = http1::Builder::new();
    http.half_close(true).max_headers(LIMITS.fields);
    let serving = http.serve_connection(TokioIo::new(server), service);
    let both = async { tokio::join!(serving, reading) };
    tokio::time::timeout(Duration::from_secs(10), both).await.expect("hyper ends").0.ok();
    heard.try_recv().ok()
}

fn compare(bytes: &[u8]) -> Result<bool, TestCaseError> {
    let Some(mut ours) = ours(bytes) else { return Ok(false) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let text = String::from_utf8_lossy(bytes);
    let Some(mut hypers) = runtime.block_on(hypers(bytes)) else {
        return Err(TestCaseError::fail(format!("hyper refuses {text:?}, and we read {ours:?}")));
    };
    // hyper takes bare line feeds among trailers. Of CONNECT, which `vet` refuses, it says nothing of a body.
    if ours.body.is_none() || ours.method == Method::CONNECT {
        (ours.body, hypers.body) = (None, None);
    }
    prop_assert_eq!(ours, hypers, "{:?}", text);
    Ok(true)
}

fn requests() -> impl Strategy<Value = Vec<u8>> {
    let end = prop_oneof![20 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r"), 1 => Just("\r\n\r\n")];
    let line = (
        prop_oneof![4 => "(GET|POST|HEAD|PUT|M-SEARCH|get|CONNECT)", 1 => "[!-~ ]{0,4}"],
        prop_oneof![9 => Just(" ".to_owned()), 1 => "[ \t]{0,2}"],
        prop_oneof![4 => "/[a-z0-9/%?&=.#-]{0,12}", 1 => "(\\*|http://a/b|http://a|a:1|//x)", 1 => "[ -~\u{80}-\u{ff}]{0,6}"],
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
        // Latin-1, so that there are bytes that are no UTF-8.
        head.chars().map(|char| u8::try_from(u32::from(char)).unwrap_or(b'?')).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]
    #[test]
    fn what_is_taken_for_a_request_is_one_to_hyper(bytes in requests()) {
        compare(&bytes)?;
    }
}

#[test]
fn plain_requests_are_taken() {
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nab",
        "POST / HTTP/1.1\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nA: b\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n2;a=b\r\nab\r\n0\r\n\r\n",
    ] {
        assert_eq!(compare(request.as_bytes()).map_err(|error| error.to_string()), Ok(true), "{request:?}");
        let bodiless = ours(request.as_bytes()).is_some_and(|it| it.body.is_none());
        assert!(!bodiless, "{request:?}");
    }
    assert!(ours(format!("POST / HTTP/1.1\r\n{}: 5\r\n\r\n", header::CONTENT_LENGTH).as_bytes()).is_some());
}
