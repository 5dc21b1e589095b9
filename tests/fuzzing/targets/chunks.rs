//! Bytes behind the head of a chunked request, and of a chunked answer.
#![no_main]

use http::Method;

const REQUEST: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nTrailer: A\r\nTransfer-Encoding: chunked\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let request = [REQUEST, bytes].concat();
    assert!(fuzzing::http1::against_hyper::requests(&request) > 0);
    fuzzing::passed_on::request(&request);
    assert!(fuzzing::http1::against_hyper::answer(&[ANSWER, bytes].concat(), &Method::GET));
});
