//! Bytes that an upstream sends by a connection. The first one says which method it was asked by.
#![no_main]

use http::{Method, Version};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((method, bytes)) = bytes.split_first() else { return };
    let method = match method {
        b'H' => Method::HEAD,
        b'P' => Method::POST,
        _ => Method::GET,
    };
    if fuzzing::http1::against_hyper::answer(bytes, &method) {
        for version in [Version::HTTP_11, Version::HTTP_10] {
            fuzzing::passed_on::answer(bytes, &method, version);
        }
    }
});
