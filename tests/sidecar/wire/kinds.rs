//! The kinds of differences between what was sent and what arrived.

use std::collections::{BTreeMap, BTreeSet};

use super::generated::{Body, Case, Line};
use super::proxied::{Arrived, fields, status};

/// Adds the kinds of one exchange to `found`.
pub fn find(case: &Case, request: Option<&Arrived>, answer: &Arrived, found: &mut BTreeSet<&'static str>) {
    let Some(request) = request else {
        let is_usual = case.request.method.bytes().all(|byte| byte.is_ascii_uppercase() || b"-_".contains(&byte));
        found.insert(match (status(&answer.head), is_usual) {
            (400 | 405, false) => "request: methods of other bytes than `A` to `Z`, `-` and `_` are refused",
            (400, true) if !is_escaped(&case.request.target) => {
                "request: paths with a `%` that begins no escape are refused"
            }
            (400, true) if twice(&case.request.lines, "authorization") => {
                "request: a second `Authorization` is refused"
            }
            (400, true) => "request: others are refused",
            _ => "request: others are answered",
        });
        return;
    };
    let line = request.head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let target = line.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    if target != case.request.target && !case.request.target.starts_with(b"http://") {
        found.insert("request: bytes of the target");
    }
    let of_request = Of { lines: &case.request.lines, arrived: fields(&request.head) };
    of_request.find(REQUEST, found);
    if let (Body::Chunked(..), None) = (&case.request.body, &request.trailers) {
        found.insert("request: chunks become a length");
    }
    if lost_trailers(&case.request.body, request.trailers.as_deref()) {
        found.insert("request: trailers");
    }
    if request.data != case.request.body.data() {
        found.insert("request: the body");
    }
    if !answer
        .head
        .starts_with(&[format!("HTTP/1.1 {} ", case.answer.status).as_bytes(), &case.answer.reason, b"\r\n"].concat())
    {
        found.insert("response: status or reason");
    }
    let of_answer = Of { lines: &case.answer.lines, arrived: fields(&answer.head) };
    of_answer.find(ANSWER, found);
    if lost_trailers(&case.answer.body, answer.trailers.as_deref()) {
        found.insert("response: trailers");
    }
    if answer.data != case.answer.body.data() {
        found.insert("response: the body");
    }
}

fn twice(lines: &[Line], name: &str) -> bool {
    lines.iter().filter(|line| line.lower() == name).count() > 1
}

/// Whether each `%` in the path begins an escape.
fn is_escaped(target: &[u8]) -> bool {
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let mut escapes = path.split(|byte| *byte == b'%').skip(1);
    escapes.all(|after| after.get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)))
}

/// Whether a trailer was lost that a proxy may pass on.
fn lost_trailers(body: &Body, arrived: Option<&[u8]>) -> bool {
    let Body::Chunked(_, trailers) = body else { return false };
    let arrived = arrived.unwrap_or_default().to_ascii_lowercase();
    let has_arrived = |name: &str| arrived.windows(name.len()).any(|part| part == name.as_bytes());
    trailers.iter().any(|line| line.lower() == "x-sum") && !has_arrived("x-sum")
}

/// The names of the kinds, for requests or for responses.
struct Names {
    is_request: bool,
    order: &'static str,
    spelling: &'static str,
    value: &'static str,
    hop: &'static str,
    twin: &'static str,
    odd: &'static str,
    underscore: &'static str,
    forwarding: &'static str,
    length: &'static str,
    dropped: &'static str,
    added: &'static str,
}

const OWN: &str = "response: `Server` and `Date` are replaced or added";

const REQUEST: Names = Names {
    is_request: true,
    order: "request: order of the lines",
    spelling: "request: spelling of names",
    value: "request: values of other fields",
    hop: "request: hop-by-hop fields end",
    twin: "request: names that PHP reads as others' (`X_Real_IP`) are dropped",
    odd: "request: names with other bytes than letters, digits, `-` and `_` are dropped",
    underscore: "request: other names with `_` are dropped",
    forwarding: "request: forwarding fields and `X-Request-Id` are replaced",
    length: "request: `Content-Length` stands elsewhere or goes",
    dropped: "request: other lines are dropped",
    added: "request: forwarding fields and `X-Request-Id` are added",
};

const ANSWER: Names = Names {
    is_request: false,
    order: "response: order of the lines",
    spelling: "response: spelling of names",
    value: "response: values of other fields",
    hop: "response: hop-by-hop fields end",
    twin: "response: names that PHP reads as others' are dropped",
    odd: "response: names with other bytes than letters, digits, `-` and `_` are dropped",
    underscore: "response: other names with `_` are dropped",
    forwarding: "response: `X-Request-Id` is replaced",
    length: "response: `Content-Length` stands elsewhere or goes",
    dropped: "response: other lines are dropped",
    added: "response: fields are added",
};

struct Of<'a> {
    lines: &'a [Line],
    arrived: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Of<'_> {
    fn find(mut self, names: Names, found: &mut BTreeSet<&'static str>) {
        let mut places = Vec::new();
        let arrived: Vec<_> = self.arrived.drain(..).collect();
        let mut is_taken = vec![false; arrived.len()];
        for line in self.lines {
            let lower = line.lower();
            if ends_here(&lower) {
                if !arrived.iter().any(|(name, value)| name == &line.name && value == &line.value) {
                    found.insert(names.hop);
                }
                continue;
            }
            let is_free = |at: &usize| !is_taken[*at];
            let is_it = |at: &usize| arrived[*at].0.eq_ignore_ascii_case(&line.name) && arrived[*at].1 == line.value;
            let exact = |at: &usize| is_it(at) && arrived[*at].0 == line.name;
            let all = || (0..arrived.len()).filter(is_free);
            match all().find(exact).or_else(|| all().find(is_it)) {
                Some(at) => {
                    if arrived[at].0 != line.name {
                        found.insert(names.spelling);
                    }
                    is_taken[at] = true;
                    places.push(at);
                }
                None => drop(found.insert(names.of_lost(&lower, &arrived))),
            }
        }
        if !places.is_sorted() {
            found.insert(names.order);
        }
        let framing = ["transfer-encoding", "connection", "keep-alive", "te", "upgrade"];
        let is_added = |at: usize| {
            let lower = String::from_utf8_lossy(&arrived[at].0).to_lowercase();
            let was_there = self.lines.iter().any(|line| line.lower() == lower);
            !is_taken[at] && !was_there && !framing.contains(&&*lower) && lower != "content-length"
        };
        for at in (0..arrived.len()).filter(|at| is_added(*at)) {
            let is_own = !names.is_request && [&b"server"[..], b"date"].contains(&&*arrived[at].0.to_ascii_lowercase());
            found.insert(if is_own { OWN } else { names.added });
        }
    }
}

/// Whether the header is hop-by-hop, or one that `Connection` lists in these cases.
fn ends_here(lower: &str) -> bool {
    let names = ["connection", "keep-alive", "te", "upgrade", "http2-settings", "transfer-encoding", "x-hop", "x-hop2"];
    names.contains(&lower) || lower.starts_with("proxy-")
}

impl Names {
    fn of_lost(&self, lower: &str, arrived: &[(Vec<u8>, Vec<u8>)]) -> &'static str {
        let is_there = arrived.iter().any(|(name, _)| name.eq_ignore_ascii_case(lower.as_bytes()));
        match lower {
            "x_forwarded_for" | "content_length" | "x.real.ip" => self.twin,
            "x-real-ip" | "forwarded" | "x-request-id" => self.forwarding,
            _ if lower.starts_with("x-forwarded-") => self.forwarding,
            "content-length" => self.length,
            "server" | "date" if !self.is_request => OWN,
            "content-type" if !self.is_request => "response: an empty or second `Content-Type` is dropped",
            _ if is_there => self.value,
            _ if !lower.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) => self.odd,
            _ if lower.contains('_') => self.underscore,
            _ => self.dropped,
        }
    }
}

/// For each kind of change, whether the sidecar and nginx make it.
pub fn rows(found: &[BTreeSet<&'static str>; 2]) -> BTreeMap<String, [bool; 2]> {
    let all = found[0].union(&found[1]);
    all.map(|kind| ((*kind).to_owned(), [0, 1].map(|of| found[of].contains(kind)))).collect()
}

/// The same, read from the table in the documentation.
pub fn documented(text: &str) -> BTreeMap<String, [bool; 2]> {
    let (_, table) = text.split_once("| what is changed | the sidecar | nginx |\n|---|---|---|\n").expect("the table");
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [what, own, nginx] = cells[..] else { panic!("{line}") };
        (what.to_owned(), [own, nginx].map(|cell| cell.starts_with("yes")))
    };
    rows.map(row).collect()
}
