//! Bytes that a connection begins with where a PROXY header is expected.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::proxy_headers::header(bytes));
