//! The body of a refresh. The first byte says of which type it is, and whether the query has a token, too.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((kind, body)) = bytes.split_first() else { return };
    match kind {
        b'J' => fuzzing::refreshes::json(body, None),
        b'j' => fuzzing::refreshes::json(body, Some("0aZ")),
        b'f' => fuzzing::refreshes::form(body, Some("0aZ")),
        _ => fuzzing::refreshes::form(body, None),
    }
});
