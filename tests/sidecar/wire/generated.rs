//! Random requests and responses, generated from a seed: names in any case, several lines with one
//! name, values and targets of any bytes allowed in them, bodies in all framings, trailers.

/// Pseudorandom numbers that depend only on the seed (splitmix64).
pub struct Random(u64);

impl Random {
    /// The numbers for case `number` of a run.
    pub fn of(seed: u64, number: usize) -> Random {
        Random(seed.wrapping_add((number as u64).wrapping_mul(0x2545_f491_4f6c_dd1d)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// True one time in `times`.
    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn one<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }

    fn bytes(&mut self, longest: usize, byte: impl Fn(&mut Random) -> u8) -> Vec<u8> {
        (0..self.below(longest + 1)).map(|_| byte(self)).collect()
    }
}

/// A header line.
#[derive(Clone)]
pub struct Line {
    pub name: Vec<u8>,
    pub value: Vec<u8>,
    /// The whitespace before and after the value.
    space: (&'static str, &'static str),
}

impl Line {
    fn new(name: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Line {
        Line { name: name.into(), value: value.into(), space: (" ", "") }
    }

    /// The name in lower case.
    pub fn lower(&self) -> String {
        String::from_utf8_lossy(&self.name).to_ascii_lowercase()
    }
}

/// A body and its framing.
pub enum Body {
    None,
    Length(Vec<u8>),
    Chunked(Vec<Vec<u8>>, Vec<Line>),
    /// Of a response: it ends with the connection.
    ToTheEnd(Vec<u8>),
}

impl Body {
    /// The body without its framing.
    pub fn data(&self) -> Vec<u8> {
        match self {
            Body::None => Vec::new(),
            Body::Length(data) | Body::ToTheEnd(data) => data.clone(),
            Body::Chunked(chunks, _) => chunks.concat(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let Body::Chunked(chunks, trailers) = self else { return self.data() };
        let mut bytes = Vec::new();
        for chunk in chunks {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n");
        write_lines(&mut bytes, trailers);
        bytes
    }
}

/// What a client sends.
pub struct Request {
    pub method: &'static str,
    pub target: Vec<u8>,
    pub lines: Vec<Line>,
    pub body: Body,
}

impl Request {
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.method.as_bytes(), b" ", &self.target, b" HTTP/1.1\r\n"].concat();
        write_lines(&mut bytes, &self.lines);
        bytes.extend(self.body.bytes());
        bytes
    }
}

/// What the upstream sends.
pub struct Answer {
    pub status: u16,
    pub reason: Vec<u8>,
    pub lines: Vec<Line>,
    pub body: Body,
}

impl Answer {
    /// Whether the connection ends after this response.
    pub fn closes(&self) -> bool {
        matches!(self.body, Body::ToTheEnd(_))
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = [format!("HTTP/1.1 {} ", self.status).as_bytes(), &self.reason, b"\r\n"].concat();
        write_lines(&mut bytes, &self.lines);
        bytes.extend(self.body.bytes());
        bytes
    }
}

fn write_lines(bytes: &mut Vec<u8>, lines: &[Line]) {
    for Line { name, value, space } in lines {
        bytes.extend([name, &b":"[..], space.0.as_bytes(), value, space.1.as_bytes(), b"\r\n"].concat());
    }
    bytes.extend_from_slice(b"\r\n");
}

/// One exchange.
pub struct Case {
    pub request: Request,
    pub answer: Answer,
}

impl Case {
    pub fn new(mut random: Random) -> Case {
        let method = random.one(&["GET", "GET", "POST", "POST", "HEAD", "PUT", "PURGE", "M-SEARCH", "!#$%&'*+-.^_`|~"]);
        let target = target(&mut random);
        let mut lines = lines(&mut random, REQUEST_NAMES);
        let at = random.below(lines.len() + 1);
        lines.insert(at, Line::new(spelt(&mut random, "host"), "a.example"));
        let body = body(&mut random, &mut lines, false);
        let request = Request { method, target, lines, body };
        let answer = answer(&mut random, method);
        Case { request, answer }
    }
}

fn answer(random: &mut Random, method: &str) -> Answer {
    let status: u16 = random.one(&["200", "200", "201", "204", "206", "301", "304", "404", "500"]).parse().unwrap();
    let reason = value(random, 12);
    let mut lines = lines(random, ANSWER_NAMES);
    let mut body = match status {
        204 => Body::None,
        _ => body(random, &mut lines, true),
    };
    if method == "HEAD" || status == 304 {
        body = Body::None;
    }
    Answer { status, reason, lines, body }
}

/// A request target in any form except `*`, of any bytes except `#`.
fn target(random: &mut Random) -> Vec<u8> {
    let byte = |random: &mut Random| match random.below(4) {
        0 => random.one(&[b"\"<>`{}|\\^[]%?&=;:@!$'()*+,~"])[random.below(26)],
        1 => 0x80 + random.below(0x80) as u8,
        _ => b'a' + random.below(26) as u8,
    };
    let path = [b"/", &random.bytes(20, byte)[..]].concat();
    let query = if random.once_in(2) { [b"?", &random.bytes(20, byte)[..]].concat() } else { Vec::new() };
    let before: &[u8] = if random.once_in(10) { b"http://a.example" } else { b"" };
    [before, &path, &query].concat()
}

/// Tabs, inner spaces and bytes from 0x80 are all valid (RFC 9110, 5.5).
fn value(random: &mut Random, longest: usize) -> Vec<u8> {
    let value = random.bytes(longest, |random| match random.below(6) {
        0 => 0x80 + random.below(0x80) as u8,
        1 => random.one(&[b" \t,;=\"\\()"])[random.below(9)],
        _ => b'!' + random.below(94) as u8,
    });
    value.trim_ascii().to_vec()
}

fn spelt(random: &mut Random, name: &str) -> Vec<u8> {
    let how = random.below(3);
    let spell = |byte: u8| match how {
        0 => byte,
        1 => byte.to_ascii_uppercase(),
        _ if random.once_in(2) => byte.to_ascii_uppercase(),
        _ => byte,
    };
    name.bytes().map(spell).collect()
}

fn lines(random: &mut Random, names: &[&'static str]) -> Vec<Line> {
    let line = |random: &mut Random| {
        let name = match random.below(5) {
            0 => {
                let name = random.bytes(8, |random| random.one(&[TOKEN])[random.below(TOKEN.len())]);
                [b"x", &name[..]].concat()
            }
            _ => {
                let name = random.one(names);
                spelt(random, name)
            }
        };
        let lower = String::from_utf8_lossy(&name).to_ascii_lowercase();
        let value = match lower.as_str() {
            "connection" => random.one(&["keep-alive", "X-Hop", "x-hop, Cookie", "close", "keep-alive, x-HOP2"]).into(),
            "te" => random.one(&["trailers", "gzip", "gzip;q=0.5, Trailers"]).into(),
            "keep-alive" => "timeout=5".into(),
            "upgrade" => "h2c".into(),
            _ => value(random, 30),
        };
        let space = (random.one(&[" ", " ", " ", "", "\t", "  \t"]), random.one(&["", "", "", " ", "\t "]));
        Line { name, value, space }
    };
    (0..random.below(14)).map(|_| line(random)).collect()
}

fn body(random: &mut Random, lines: &mut Vec<Line>, of_answer: bool) -> Body {
    let data = |random: &mut Random| {
        let longest = if random.once_in(20) { 20_000 } else { 40 };
        random.bytes(longest, |random| random.next() as u8)
    };
    let at = random.below(lines.len() + 1);
    match random.below(4) {
        0 if of_answer => Body::ToTheEnd(data(random)),
        0 | 1 if !of_answer => Body::None,
        0..=2 => {
            let data = data(random);
            lines.insert(at, Line::new(spelt(random, "content-length"), data.len().to_string()));
            Body::Length(data)
        }
        _ => {
            lines.insert(at, Line::new(spelt(random, "transfer-encoding"), random.one(&["chunked", "Chunked"])));
            let chunks = (0..random.below(4)).map(|_| data(random)).filter(|chunk| !chunk.is_empty()).collect();
            let trailers = if random.once_in(2) { self::lines(random, TRAILER_NAMES) } else { Vec::new() };
            Body::Chunked(chunks, trailers)
        }
    }
}

/// The characters of a token (RFC 9110, 5.6.2), in lower case.
const TOKEN: &[u8] = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz";

const REQUEST_NAMES: &[&str] = &[
    "accept",
    "accept-language",
    "cookie",
    "cookie",
    "x-a",
    "x-a",
    "x-b",
    "x-b",
    "x_c",
    "via",
    "trailer",
    "authorization",
    "origin",
    "connection",
    "keep-alive",
    "te",
    "upgrade",
    "proxy-connection",
    "proxy-authorization",
    "http2-settings",
    "x-hop",
    "x-hop2",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-real-ip",
    "forwarded",
    "x-request-id",
    "x_forwarded_for",
    "content_length",
    "x.real.ip",
    "date",
    "cache-control",
    "content-type",
    "range",
];

const ANSWER_NAMES: &[&str] = &[
    "server",
    "date",
    "set-cookie",
    "set-cookie",
    "set-cookie",
    "link",
    "link",
    "x-a",
    "x-a",
    "x-b",
    "x_c",
    "x-hop",
    "x-hop2",
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "upgrade",
    "vary",
    "vary",
    "etag",
    "last-modified",
    "cache-control",
    "pragma",
    "location",
    "content-type",
    "content-encoding",
    "accept-ranges",
    "x-powered-by",
    "x-request-id",
    "x-forwarded-for",
    "trailer",
    "www-authenticate",
    "www-authenticate",
    "status",
];

const TRAILER_NAMES: &[&str] = &[
    "x-sum",
    "x-sum",
    "server-timing",
    "grpc-status",
    "digest",
    "cookie",
    "set-cookie",
    "authorization",
    "host",
    "content-length",
    "x-forwarded-for",
    "connection",
    "x_real_ip",
    "te",
    "content-type",
];
