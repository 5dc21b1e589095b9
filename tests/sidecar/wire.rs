//! "Forwarded unchanged", tested literally: what arrives is what was sent, byte for byte, except
//! for the changes that docs/forwarding.md lists. The test generates thousands of random requests
//! and responses; the same ones through nginx show which changes only the sidecar or only nginx
//! makes.
//!
//! `WIRE_SEED=… WIRE_CASES=…` select other cases. A failure names both.

mod generated;
mod kinds;
mod list;
mod nginx;
mod proxied;

use std::collections::BTreeSet;

use crate::support::raw::Connection;
use crate::support::sidecar::Sidecar;
use generated::{Body, Case, Random};
use proxied::{Arrived, Site};

const SEED: u64 = 0x5eed;
const CASES: u64 = 3_000;

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

fn cases(seed: u64, count: usize) -> impl Iterator<Item = (String, Case)> {
    (0..count).map(move |at| (format!("case {at} of WIRE_SEED={seed}"), Case::new(Random::of(seed, at))))
}

#[test]
fn what_arrives_is_what_was_sent_but_for_the_list() {
    let site = Site::start();
    let sidecar = Sidecar::forwarding(site.address());
    let mut client = Connection::to(sidecar.address());
    for (name, case) in cases(number("WIRE_SEED", SEED), number("WIRE_CASES", CASES) as usize) {
        let (request, answer) = site.exchange(&mut client, &case);
        let request = request.unwrap_or_else(|| panic!("{name}: refused\n{}", text(&case.request.bytes())));
        assert_same(&name, &list::request(&case.request), &without_id(&request.head));
        assert_body(&name, &case.request.body, &request, true);
        assert_same(&name, &list::answer(&case.answer, &case.request), &answer.head);
        assert_body(&name, &case.answer.body, &answer, false);
        if list::closes(&case.request) {
            assert!(client.is_closed(), "{name}");
            client = Connection::to(sidecar.address());
        }
    }
}

fn assert_body(name: &str, sent: &Body, arrived: &Arrived, of_request: bool) {
    assert!(arrived.data == sent.data(), "{name}: another body");
    match (sent, &arrived.trailers) {
        (Body::Chunked(_, trailers), Some(arrived)) => {
            assert_same(name, &list::trailers(trailers, of_request), arrived)
        }
        (Body::ToTheEnd(_), Some(arrived)) => assert_same(name, b"\r\n", arrived),
        (Body::Chunked(..) | Body::ToTheEnd(_), None) => panic!("{name}: no chunks"),
        (_, arrived) => assert!(arrived.is_none(), "{name}: chunks"),
    }
}

fn assert_same(name: &str, expected: &[u8], found: &[u8]) {
    assert!(expected == found, "{name}: expected\n{}\nand found\n{}", text(expected), text(found));
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().replace("\\r\\n", "\n")
}

/// The head, with [`list::OWN_ID`] in place of the request ID that the sidecar generated.
fn without_id(head: &[u8]) -> Vec<u8> {
    let lower = head.to_ascii_lowercase();
    let field = b"\r\nx-request-id: ";
    let at = lower.windows(field.len()).position(|part| part == field).expect("a name") + field.len();
    let mut head = head.to_vec();
    let id = &mut head[at..at + list::OWN_ID.len()];
    assert!(id.iter().all(u8::is_ascii_hexdigit), "{}", id.escape_ascii());
    id.copy_from_slice(list::OWN_ID);
    head
}

/// The table in docs/forwarding.md is the result of this test, with exactly these cases: another
/// seed may miss a rare kind of change.
#[test]
fn who_changes_what() {
    let site = Site::start();
    let sidecar = Sidecar::forwarding(site.address());
    let nginx = nginx::Nginx::before(site.address());
    let found = [sidecar.address(), nginx.address()].map(|proxy| {
        let mut found = BTreeSet::new();
        for (_, case) in cases(SEED, 600) {
            // nginx closes the connection after a request that it refuses.
            let mut client = Connection::to(proxy);
            let (request, answer) = site.exchange(&mut client, &case);
            kinds::find(&case, request.as_ref(), &answer, &mut found);
        }
        found
    });
    let documented = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/forwarding.md")).unwrap();
    assert_eq!(kinds::documented(&documented), kinds::rows(&found));
}
