//! Bytes that a client sends by a connection.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if fuzzing::http1::against_hyper::requests(bytes) > 0 {
        fuzzing::passed_on::request(bytes);
    }
});
