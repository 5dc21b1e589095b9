//! The PROXY protocol (haproxy.org, proxy-protocol.txt): a proxy in front states in the first bytes
//! of a connection which client it is for, and the sidecar may do so to the upstream.
//!
//! The parser is our own: it has a hundred lines, must not read one byte too many (TLS or HTTP
//! follows immediately), and must be strict (the crate ppp accepts `+80` as a port). Of the
//! extensions of a v2 header, the checksum and whether the client used TLS are read; the others are
//! skipped.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::timeout;

use crate::client_addr::is_trusted;
use crate::config::ProxyProtocol;

/// A proxy sends the header with the first segment; the specification asks for at least 3 s, so
/// that one lost segment does not matter.
const LIMIT: Duration = Duration::from_secs(5);

const SIGNATURE_V2: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const PREFIX_V1: &[u8] = b"PROXY ";

/// With CR and LF, as the specification counts, in bytes.
const LONGEST_V1: usize = 107;

/// After the first 16 bytes. Addresses take at most 216; proxies add some tags, of which
/// certificates are the longest.
const LONGEST_V2: usize = 4096;

/// Why a connection is refused.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// The peer is not allowed to state the client's address.
    #[error("the PROXY protocol is taken from forwarded.trusted_proxies only")]
    Untrusted,
    /// Other bytes arrived, or the other version.
    #[error("there is no PROXY header, or one of a version that server.proxy_protocol does not take")]
    Absent,
    /// The header is invalid.
    #[error("the PROXY header is not valid")]
    Malformed,
    #[error("the PROXY header did not come within {LIMIT:?}")]
    TimedOut,
    /// The connection was closed within the header.
    #[error("the connection broke off in its PROXY header")]
    Io(#[from] io::Error),
}

/// The client that a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Introduced {
    /// The client's address; `None` if the header has none (the proxy's own health checks,
    /// protocols that it does not know, clients on its own machine).
    pub address: Option<SocketAddr>,
    /// Whether the client used TLS to the proxy.
    pub by_tls: bool,
}

impl Introduced {
    const UNNAMED: Introduced = Introduced { address: None, by_tls: false };
}

/// The client of a connection from `from`: reads the header, and not one byte more, off `stream`.
/// `None` if connections begin without a header.
///
/// # Errors
/// There is no header that can be trusted.
pub async fn client_of(
    stream: &mut (impl AsyncRead + Unpin),
    from: SocketAddr,
    accepted: ProxyProtocol,
    trusted: &[IpNet],
) -> Result<Option<Introduced>, HeaderError> {
    if accepted == ProxyProtocol::Off {
        return Ok(None);
    }
    // SECURITY: the sender of this header chooses the address that is rate-limited and logged.
    if !is_trusted(from.ip().to_canonical(), trusted) {
        return Err(HeaderError::Untrusted);
    }
    timeout(LIMIT, read(stream, accepted)).await.map_err(|_| HeaderError::TimedOut)?.map(Some)
}

async fn read(stream: &mut (impl AsyncRead + Unpin), accepted: ProxyProtocol) -> Result<Introduced, HeaderError> {
    let takes = |version| accepted == version || accepted == ProxyProtocol::Any;
    // The shortest header of all is `PROXY UNKNOWN` with CR and LF, 15 bytes.
    let mut start = [0; 12];
    stream.read_exact(&mut start).await?;
    if start == SIGNATURE_V2 && takes(ProxyProtocol::V2) {
        let [version_and_command, family, high, low] = {
            let mut rest = [0; 4];
            stream.read_exact(&mut rest).await?;
            rest
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > LONGEST_V2 {
            return Err(HeaderError::Malformed);
        }
        let head = start.len() + 4;
        let mut header = [&start[..], &[version_and_command, family, high, low]].concat();
        header.resize(head + length, 0);
        stream.read_exact(header.get_mut(head..).unwrap_or_default()).await?;
        return parse_v2(&header).ok_or(HeaderError::Malformed);
    }
    if start.starts_with(PREFIX_V1) && takes(ProxyProtocol::V1) {
        let mut line = start.to_vec();
        // Byte by byte: the bytes after the line belong to the next protocol.
        while !line.ends_with(b"\n") {
            if line.len() == LONGEST_V1 {
                return Err(HeaderError::Malformed);
            }
            line.push(stream.read_u8().await?);
        }
        let address = parse_v1(&line).ok_or(HeaderError::Malformed)?;
        return Ok(Introduced { address, by_tls: false });
    }
    Err(HeaderError::Absent)
}

/// The source that a complete line names: `Some(None)` if it names none, `None` if the line is
/// invalid.
fn parse_v1(line: &[u8]) -> Option<Option<SocketAddr>> {
    let line = std::str::from_utf8(line.strip_prefix(PREFIX_V1)?.strip_suffix(b"\r\n")?).ok()?;
    let mut parts = line.split(' ');
    let family = parts.next()?;
    if family == "UNKNOWN" {
        return Some(None);
    }
    let (source, destination) = (parts.next()?, parts.next()?);
    let (port, _) = (parse_port(parts.next()?)?, parse_port(parts.next()?)?);
    let source: IpAddr = match (family, parts.next()) {
        ("TCP4", None) => {
            destination.parse::<Ipv4Addr>().ok()?;
            source.parse::<Ipv4Addr>().ok()?.into()
        }
        ("TCP6", None) => {
            destination.parse::<Ipv6Addr>().ok()?;
            source.parse::<Ipv6Addr>().ok()?.into()
        }
        _ => return None,
    };
    Some(Some(SocketAddr::new(source, port)))
}

/// Digits without a sign or leading zeros.
fn parse_port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    is_plain.then(|| text.parse().ok()).flatten()
}

/// The client of a complete binary header; `None` if the header is invalid.
fn parse_v2(header: &[u8]) -> Option<Introduced> {
    let (head, body) = header.split_first_chunk::<16>()?;
    let [.., version_and_command, family, _, _] = *head;
    // A proxy that connects for itself may send any bytes after it.
    if version_and_command == 0x20 {
        return Some(Introduced::UNNAMED);
    }
    if version_and_command != 0x21 {
        return None;
    }
    let (address, extensions) = match family {
        0x11 => {
            let ([a, b, c, d, _, _, _, _, high, low, _, _], rest) = body.split_first_chunk::<12>()?;
            let port = u16::from_be_bytes([*high, *low]);
            (Some(SocketAddr::new(Ipv4Addr::new(*a, *b, *c, *d).into(), port)), rest)
        }
        0x21 => {
            let (addresses, rest) = body.split_first_chunk::<36>()?;
            let source = addresses.first_chunk::<16>()?;
            let [.., high, low, _, _] = *addresses;
            (Some(SocketAddr::new(Ipv6Addr::from(*source).into(), u16::from_be_bytes([high, low]))), rest)
        }
        // An unspecified protocol; the rest must be ignored.
        0x00 => return Some(Introduced::UNNAMED),
        // A client on the proxy's own machine: unix sockets.
        0x31 => (None, body.split_first_chunk::<216>()?.1),
        _ => return None,
    };
    let by_tls = parse_extensions(header, extensions)?;
    Some(Introduced { address, by_tls })
}

const CHECKSUM: u8 = 0x03;
const TLS: u8 = 0x20;

/// In the first byte of the TLS extension: the client used TLS to the proxy.
const CLIENT_SPEAKS_TLS: u8 = 0x01;

/// Parses the extensions after the addresses (section 2.2): each is a type, a length in two bytes,
/// and as many bytes. Returns whether the client used TLS; `None` if they are invalid or the
/// checksum does not match.
fn parse_extensions(header: &[u8], mut rest: &[u8]) -> Option<bool> {
    let mut by_tls = false;
    while let Some(([kind, high, low], behind)) = rest.split_first_chunk::<3>() {
        let (value, behind) = behind.split_at_checked(u16::from_be_bytes([*high, *low]).into())?;
        match *kind {
            CHECKSUM => {
                let at = header.len() - behind.len() - value.len();
                let said = u32::from_be_bytes(value.try_into().ok()?);
                // The checksum is calculated with zeros in its own place.
                let mut plain = header.to_vec();
                plain.get_mut(at..at + value.len())?.fill(0);
                if crc32c(&plain) != said {
                    return None;
                }
            }
            TLS => by_tls |= value.first()? & CLIENT_SPEAKS_TLS != 0,
            _ => {}
        }
        rest = behind;
    }
    rest.is_empty().then_some(by_tls)
}

/// RFC 3720, appendix B.4: the polynomial 0x1EDC6F41, reflected. Bit by bit: a header has a hundred
/// bytes and comes once per connection.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _: u32| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

/// A header of version 2 for the upstream. Without a client it says that the connection is the
/// sidecar's own.
///
/// Ports are 0, and the destination is the unspecified address: with further proxies in front,
/// neither is known.
pub fn introduction(client: Option<IpAddr>) -> Vec<u8> {
    let mut header = SIGNATURE_V2.to_vec();
    match client {
        None => header.extend([0x20, 0x00, 0, 0]),
        Some(IpAddr::V4(client)) => {
            header.extend([0x21, 0x11, 0, 12]);
            header.extend(client.octets());
            header.extend([0; 4 + 2 + 2]);
        }
        Some(IpAddr::V6(client)) => {
            header.extend([0x21, 0x21, 0, 36]);
            header.extend(client.octets());
            header.extend([0; 16 + 2 + 2]);
        }
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FROM: &str = "10.0.0.1:4711";

    /// The client of the header, and the bytes after it.
    fn client(bytes: &[u8], accepted: ProxyProtocol) -> (Result<String, HeaderError>, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut stream = bytes;
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let found = runtime.block_on(client_of(&mut stream, FROM.parse().unwrap(), accepted, &trusted));
        let text = |found: Option<Introduced>| {
            let Some(found) = found else { return "no header".to_owned() };
            let address = found.address.map_or("unnamed".to_owned(), |address| address.to_string());
            if found.by_tls { format!("{address} by TLS") } else { address }
        };
        (found.map(text), stream.to_vec())
    }

    /// With its checksum filled in.
    fn checked(mut header: Vec<u8>) -> Vec<u8> {
        let length = u16::from_be_bytes([header[14], header[15]]) + 7;
        header[14..16].copy_from_slice(&length.to_be_bytes());
        header.extend([CHECKSUM, 0, 4, 0, 0, 0, 0]);
        let (crc, at) = (crc32c(&header), header.len() - 4);
        header[at..].copy_from_slice(&crc.to_be_bytes());
        header
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE_V2[..], &[command, family], &length, body].concat()
    }

    #[test]
    fn both_versions_name_the_client_and_nothing_behind_is_read() {
        let v4 = [203, 0, 113, 9, 192, 0, 2, 1, 0x12, 0x67, 0, 80];
        let v6 = [[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9], [0; 16]].concat();
        let with = |extensions: &[u8]| [&v4[..], extensions].concat();
        let (noop, tls, no_tls) = ([4, 0, 1, 7], [0x20, 0, 5, 1, 0, 0, 0, 0], [0x20, 0, 5, 0, 0, 0, 0, 1]);
        for (header, expected) in [
            (b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 80\r\n".to_vec(), "203.0.113.9:4711"),
            (b"PROXY TCP6 2001:db8::9 ::1 0 65535\r\n".to_vec(), "[2001:db8::9]:0"),
            (b"PROXY UNKNOWN\r\n".to_vec(), FROM),
            (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n".to_vec(), FROM),
            (v2(0x21, 0x11, &v4), "203.0.113.9:4711"),
            (v2(0x21, 0x11, &with(&noop)), "203.0.113.9:4711"),
            (v2(0x21, 0x11, &with(&[0xea, 0, 0])), "203.0.113.9:4711"),
            (v2(0x21, 0x11, &with(&no_tls)), "203.0.113.9:4711"),
            (v2(0x21, 0x11, &with(&[&noop[..], &tls].concat())), "203.0.113.9:4711 by TLS"),
            (checked(v2(0x21, 0x11, &with(&tls))), "203.0.113.9:4711 by TLS"),
            (checked(v2(0x21, 0x21, &[&v6[..], &[0, 7, 0, 80]].concat())), "[2001:db8::9]:7"),
            (v2(0x21, 0x31, &[&[0; 216][..], &tls].concat()), "unnamed by TLS"),
            (v2(0x20, 0x11, &[0xff; 3]), FROM),
            (v2(0x21, 0x00, &[0xff; 3]), FROM),
            (v2(0x21, 0x21, &[&v6[..], &[0, 7, 0, 80]].concat()), "[2001:db8::9]:7"),
            (v2(0x20, 0x11, &v4), FROM),
            (v2(0x20, 0x00, b""), FROM),
            (v2(0x21, 0x00, b""), FROM),
            (v2(0x21, 0x31, &[0; 216]), FROM),
        ] {
            let expected = if expected == FROM { "unnamed" } else { expected };
            let (found, left) = client(&[&header, &b"GET /"[..]].concat(), ProxyProtocol::Any);
            assert_eq!((found.unwrap().as_str(), left.as_slice()), (expected, &b"GET /"[..]), "{header:?}");
        }
    }

    #[test]
    fn what_is_not_valid_is_refused() {
        for line in [
            "PROXY TCP4 203.0.113.9 192.0.2.1 4711 80\n",
            "PROXY TCP4 203.0.113.9 192.0.2.1 4711 80 \r\n",
            "PROXY TCP4 203.0.113.9 192.0.2.1 4711\r\n",
            "PROXY TCP4 203.0.113.9 192.0.2.1 +4711 80\r\n",
            "PROXY TCP4 203.0.113.9 192.0.2.1 04711 80\r\n",
            "PROXY TCP4 203.0.113.9 192.0.2.1 65536 80\r\n",
            "PROXY TCP4  203.0.113.9 192.0.2.1 4711 80\r\n",
            "PROXY TCP4 203.0.113.09 192.0.2.1 4711 80\r\n",
            "PROXY TCP4 2001:db8::9 ::1 4711 80\r\n",
            "PROXY TCP6 203.0.113.9 192.0.2.1 4711 80\r\n",
            "PROXY TCP5 203.0.113.9 192.0.2.1 4711 80\r\n",
            "PROXY UNKNOWNX\r\n\r\n",
        ] {
            assert!(matches!(client(line.as_bytes(), ProxyProtocol::Any).0, Err(HeaderError::Malformed)), "{line}");
        }
        let endless = format!("PROXY UNKNOWN {}", "x".repeat(200));
        assert!(matches!(client(endless.as_bytes(), ProxyProtocol::Any).0, Err(HeaderError::Malformed)));
        let mut one_bit = checked(v2(0x21, 0x11, &[0; 12]));
        one_bit[16] = 1;
        for header in [
            one_bit,
            v2(0x21, 0x11, &[0; 11]),
            // Extensions that are cut off, longer than the header, with a checksum of fewer than
            // four bytes, or with an empty TLS value.
            v2(0x21, 0x11, &[&[0; 12][..], &[4]].concat()),
            v2(0x21, 0x11, &[&[0; 12][..], &[4, 0]].concat()),
            v2(0x21, 0x11, &[&[0; 12][..], &[4, 0, 2, 7]].concat()),
            v2(0x21, 0x11, &[&[0; 12][..], &[3, 0, 3, 0, 0, 0]].concat()),
            v2(0x21, 0x11, &[&[0; 12][..], &[0x20, 0, 0]].concat()),
            v2(0x21, 0x21, &[0; 35]),
            v2(0x21, 0x12, &[0; 12]),
            v2(0x22, 0x11, &[0; 12]),
            v2(0x11, 0x11, &[0; 12]),
            v2(0x21, 0x31, &[0; 215]),
            v2(0x20, 0, &[0; 4097]),
        ] {
            assert!(matches!(client(&header, ProxyProtocol::Any).0, Err(HeaderError::Malformed)), "{header:?}");
        }
        assert!(matches!(client(b"PROXY TC", ProxyProtocol::Any).0, Err(HeaderError::Io(_))));
    }

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn the_version_and_the_peer_have_to_be_the_right_ones() {
        let v1 = b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 80\r\n";
        let v2 = v2(0x20, 0, b"");
        assert!(matches!(client(v1, ProxyProtocol::V2).0, Err(HeaderError::Absent)));
        assert!(matches!(client(&v2, ProxyProtocol::V1).0, Err(HeaderError::Absent)));
        assert!(matches!(client(b"GET / HTTP/1.1\r\n", ProxyProtocol::Any).0, Err(HeaderError::Absent)));
        assert_eq!(client(v1, ProxyProtocol::Off), (Ok("no header".to_owned()), v1.to_vec()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let from = "198.51.100.7:1".parse().unwrap();
        let refused = runtime.block_on(client_of(&mut &v1[..], from, ProxyProtocol::Any, &[]));
        assert!(matches!(refused, Err(HeaderError::Untrusted)));
    }

    impl PartialEq for HeaderError {
        fn eq(&self, other: &Self) -> bool {
            self.to_string() == other.to_string()
        }
    }

    proptest! {
        #[test]
        fn what_we_write_we_read(client: IpAddr) {
            let (found, left) = super::tests::client(&introduction(Some(client)), ProxyProtocol::V2);
            prop_assert_eq!(found, Ok(SocketAddr::new(client, 0).to_string()));
            prop_assert!(left.is_empty());
            prop_assert_eq!(super::tests::client(&introduction(None), ProxyProtocol::V2).0, Ok("unnamed".to_owned()));
        }

        // Every header that the specification allows names its client and ends at its end; with one
        // bit of its addresses flipped, it is invalid.
        #[test]
        fn valid_headers_are_understood_and_changed_ones_are_not(
            client: SocketAddr,
            extensions in prop::collection::vec((prop_oneof![4 => any::<u8>(), 1 => Just(TLS)], prop::collection::vec(any::<u8>(), 0..40)), 0..6),
            rest in prop::collection::vec(any::<u8>(), 0..20),
            bit in any::<prop::sample::Index>(),
        ) {
            let mut body = match client.ip() {
                IpAddr::V4(ip) => [&ip.octets()[..], &[0; 4]].concat(),
                IpAddr::V6(ip) => [&ip.octets()[..], &[0; 16]].concat(),
            };
            body.extend([client.port().to_be_bytes(), [0, 80]].concat());
            let mut by_tls = false;
            for (kind, value) in &extensions {
                // The checksum occurs once and is correct; TLS has at least its flags.
                let kind = if *kind == CHECKSUM { 4 } else { *kind };
                let value: &[u8] = if kind == TLS && value.is_empty() { &[0] } else { value };
                by_tls |= kind == TLS && value[0] & 1 == 1;
                body.push(kind);
                body.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
                body.extend(value);
            }
            let header = checked(v2(0x21, if client.is_ipv4() { 0x11 } else { 0x21 }, &body));
            let (found, left) = super::tests::client(&[&header[..], &rest].concat(), ProxyProtocol::Any);
            let client = SocketAddr::new(client.ip(), client.port());
            prop_assert_eq!(found, Ok(format!("{client}{}", if by_tls { " by TLS" } else { "" })));
            prop_assert_eq!(left, rest);
            let mut changed = header.clone();
            // Only in the addresses: a changed length may change the meaning of the bytes after it.
            let bit = bit.index(if client.is_ipv4() { 12 * 8 } else { 36 * 8 });
            changed[16 + bit / 8] ^= 1 << (bit % 8);
            prop_assert!(super::tests::client(&changed, ProxyProtocol::Any).0.is_err());
        }

        #[test]
        fn no_bytes_panic(
            start in prop_oneof![Just(&b"PROXY "[..]), Just(&SIGNATURE_V2[..]), Just(&b""[..])],
            rest in prop::collection::vec(any::<u8>(), 0..300),
            line in "(TCP4|TCP6|UNKNOWN)( [0-9a-f:.]{0,12}){0,5}(\r\n)?",
        ) {
            let _ = client(&[start, &rest].concat(), ProxyProtocol::Any);
            let _ = client(&[start, line.as_bytes()].concat(), ProxyProtocol::Any);
        }
    }
}
