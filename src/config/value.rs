//! What single texts mean: durations, addresses, URLs, log directives.
//!
//! Each reader is a pure function from text to value, or to a sentence that says what is wrong and
//! what is accepted. The sentence never repeats the text: it is shown beside it, or is a secret.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;
use url::{Host, Url};

/// Where requests go: a host and a port reached over plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamUrl {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The TCP port, never 0.
    pub port: u16,
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "http://[{}]:{}", self.host, self.port),
            false => write!(f, "http://{}:{}", self.host, self.port),
        }
    }
}

/// The longest wait that can be configured. `Instant + Duration` panics when it overflows, and a wait
/// of more than a day is a mistake in the unit.
pub const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// `example.com` or `example.com:8080`, in lower case.
pub fn host(text: &str) -> Result<String, String> {
    let accepted = "accepted: a host as clients send it, such as \"www.example.com\" or \"example.com:8080\"";
    match text.parse::<http::uri::Authority>() {
        Ok(authority) if !text.contains('@') && !authority.host().is_empty() => Ok(text.to_ascii_lowercase()),
        _ => Err(format!("not a host; {accepted}")),
    }
}

/// `"500ms"`, `"30s"`, `"5m"`, `"1h"`: a whole number and its unit.
pub fn duration(text: &str) -> Result<Duration, String> {
    let accepted = "a whole number with its unit, such as \"500ms\", \"30s\", \"5m\" or \"1h\"";
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let milliseconds: u64 = match unit.trim_start() {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" if digits > 0 => return Err(format!("the unit is missing; accepted: {accepted}")),
        _ => return Err(format!("not a duration; accepted: {accepted}")),
    };
    let number: u64 = match number.parse() {
        Ok(number) => number,
        Err(_) if digits == 0 => return Err(format!("not a duration; accepted: {accepted}")),
        Err(_) => return Err("too long; at most \"24h\"".into()),
    };
    match number.checked_mul(milliseconds).map(Duration::from_millis) {
        Some(duration) if duration <= LONGEST => Ok(duration),
        _ => Err("too long; at most \"24h\"".into()),
    }
}

/// An address to listen on: `IP:port`. A name is refused, since what it resolves to can change between two starts.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let accepted = "an IP address with a port, such as \"127.0.0.1:8080\" or \"[::1]:8080\"";
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if text.starts_with("unix:") || text.starts_with('/') {
        return Err(format!("unix sockets are not supported yet; accepted: {accepted}"));
    }
    if text.contains("://") {
        return Err(format!("is a URL; accepted: {accepted}"));
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Err(format!("the port is missing; write \"{}\"", SocketAddr::new(ip, 8080)));
    }
    if let Ok(port) = text.parse::<u16>() {
        return Err(format!(
            "the address is missing; write \"127.0.0.1:{port}\", or \"0.0.0.0:{port}\" for every interface"
        ));
    }
    match text.rsplit_once(':') {
        Some(("" | "*", port)) if port.parse::<u16>().is_ok() => {
            Err(format!("for every interface write \"0.0.0.0:{port}\" or \"[::]:{port}\""))
        }
        Some(("localhost", port)) if port.parse::<u16>().is_ok() => {
            Err(format!("is a name; write \"127.0.0.1:{port}\" or \"[::1]:{port}\""))
        }
        Some((_, port)) if port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_err() => {
            Err("the port must be a number from 0 to 65535 (0: any free port)".into())
        }
        _ => Err(format!("not an address; accepted: {accepted}")),
    }
}

/// The upstream: `http://host` or `http://host:port`.
pub fn upstream_url(text: &str) -> Result<UpstreamUrl, String> {
    let accepted = "http://HOST or http://HOST:PORT";
    if text.starts_with("unix:") || text.starts_with('/') {
        return Err(format!("unix sockets are not supported yet; accepted: {accepted}"));
    }
    let url = match absolute_url(text) {
        Ok(url) => url,
        Err(_) if !text.contains("://") && absolute_url(&format!("http://{text}")).is_ok() => {
            return Err(format!("the scheme is missing; accepted: {accepted}"));
        }
        Err(problem) => return Err(format!("{problem}; accepted: {accepted}")),
    };
    match url.scheme() {
        "http" => {}
        "https" => {
            return Err(format!("https to the upstream is not supported yet; accepted: {accepted}"));
        }
        _ => return Err(format!("not an http URL; accepted: {accepted}")),
    }
    if has_userinfo(&url) {
        return Err(format!("a user name or password has no use here, requests carry their own; accepted: {accepted}"));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(format!(
            "has a path or query, but every request keeps the path that the client sent, so it would never be used; accepted: {accepted}"
        ));
    }
    let host = match url.host() {
        Some(Host::Ipv6(ip)) => ip.to_string(),
        Some(host) => host.to_string(),
        None => return Err(format!("the host is missing; accepted: {accepted}")),
    };
    match url.port_or_known_default() {
        Some(0) | None => Err("port 0 cannot be connected to; accepted: 1 to 65535".into()),
        Some(port) => Ok(UpstreamUrl { host, port }),
    }
}

/// The site's home URL, without a trailing slash, as WordPress's `untrailingslashit` leaves it.
pub fn home_url(text: &str) -> Result<String, String> {
    let accepted =
        "the site's address as WordPress has it, such as \"https://example.com\" or \"https://example.com/blog\"";
    let url = absolute_url(text).map_err(|problem| format!("{problem}; accepted: {accepted}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("not an http or https URL; accepted: {accepted}"));
    }
    if has_userinfo(&url) || url.query().is_some() || url.fragment().is_some() {
        return Err(format!("has a user name, a query or a fragment; accepted: {accepted}"));
    }
    // Not the `Url`'s own text: `iss` must be what WordPress has, to the letter.
    Ok(text.trim_end_matches('/').to_owned())
}

/// A connection URL for the database. What is wrong is told without the URL's text: it holds the password.
pub fn database_url(text: &str) -> Result<(), String> {
    let accepted = "mysql://USER:PASSWORD@HOST:PORT/DATABASE, with ?socket=/PATH for a local socket";
    if !text.starts_with("mysql://") {
        return Err(format!("must begin with mysql://; accepted: {accepted}"));
    }
    let options = mysql_async::Opts::from_url(text).map_err(|error| match error {
        mysql_async::UrlError::UnknownParameter { .. } => format!("has an unknown parameter; accepted: {accepted}"),
        mysql_async::UrlError::InvalidParamValue { .. } => {
            format!("has a parameter with a value it cannot have; accepted: {accepted}")
        }
        _ => format!(
            "not a connection URL (special characters in the password are written as %XX); accepted: {accepted}"
        ),
    })?;
    match options.db_name() {
        Some(name) if !name.is_empty() => Ok(()),
        _ => Err(format!("the database's name is missing; accepted: {accepted}")),
    }
}

/// A network (`10.0.0.0/8`) or a single address, which is a network of one.
pub fn network(text: &str) -> Result<IpNet, String> {
    let net = match text.parse::<IpAddr>() {
        Ok(ip) => Ok(IpNet::from(ip)),
        Err(_) => text.parse::<IpNet>(),
    };
    net.map_err(|_| "not an address or network; accepted: \"10.0.0.1\", \"10.0.0.0/8\", \"2001:db8::/32\"".into())
}

/// A table prefix that WordPress itself accepts.
// SECURITY: the prefix becomes part of SQL statements, so nothing that could end an identifier may pass.
pub fn table_prefix(text: &str) -> Result<String, String> {
    match !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        true => Ok(text.to_owned()),
        false => Err("accepted: letters, digits and underscores, such as \"wp_\"".into()),
    }
}

/// A list of log directives as tracing-subscriber's `EnvFilter` reads it.
pub fn log_level(text: &str) -> Result<String, String> {
    const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];
    let accepted = "off, error, warn, info, debug or trace, or a list such as \"info,wp_jwt_sidecar=debug\"";
    let directives: Vec<&str> = text.split(',').map(str::trim).collect();
    for directive in &directives {
        // EnvFilter takes any bare word that is no level for a module's name, so that "inof" would silence the log.
        let bare = !directive.contains(['=', '[']);
        if bare && !LEVELS.contains(&directive.to_ascii_lowercase().as_str()) {
            return Err(match super::fault::nearest(directive, LEVELS.iter().copied()) {
                Some(level) => format!("no such level, perhaps {level:?}; accepted: {accepted}"),
                None => format!("no such level; accepted: {accepted}"),
            });
        }
    }
    // EnvFilter takes no blank after a comma; people write one.
    let directives = directives.join(",");
    match tracing_subscriber::EnvFilter::builder().parse(&directives) {
        Ok(_) => Ok(directives),
        Err(_) => Err(format!("not a list of log directives; accepted: {accepted}")),
    }
}

/// The URL parser drops tabs and line breaks and trims spaces; here they are mistakes.
fn absolute_url(text: &str) -> Result<Url, &'static str> {
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("has white space in it");
    }
    if text.contains('\\') {
        return Err("has a backslash in it");
    }
    // `http:host` and `http:///host` parse, but nobody means them.
    match text.split_once("://") {
        Some((_, rest)) if !rest.starts_with('/') => Url::parse(text).map_err(|_| "not a URL"),
        _ => Err("not a URL"),
    }
}

fn has_userinfo(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("5 m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("24h"), Ok(LONGEST));
        for (text, problem) in [
            ("25h", "too long"),
            ("18446744073709551616s", "too long"),
            ("18446744073709551615h", "too long"),
            ("30", "the unit is missing"),
            ("s", "not a duration"),
            ("-1s", "not a duration"),
            ("1.5s", "not a duration"),
            ("1d", "not a duration"),
            ("٣s", "not a duration"),
        ] {
            assert!(duration(text).unwrap_err().starts_with(problem), "{text}: {:?}", duration(text));
        }
    }

    #[test]
    fn listen_addresses() {
        assert_eq!(listen_address("[::1]:0").unwrap().to_string(), "[::1]:0");
        for (text, hint) in [
            ("127.0.0.1", "the port is missing; write \"127.0.0.1:8080\""),
            ("::1", "the port is missing; write \"[::1]:8080\""),
            ("[::]", "the port is missing; write \"[::]:8080\""),
            ("8080", "the address is missing; write \"127.0.0.1:8080\""),
            (":80", "for every interface write \"0.0.0.0:80\""),
            ("*:80", "for every interface write \"0.0.0.0:80\""),
            ("localhost:80", "is a name; write \"127.0.0.1:80\""),
            ("127.0.0.1:65536", "the port must be a number from 0 to 65535"),
            ("http://127.0.0.1:80", "is a URL; accepted: an IP address with a port"),
            ("unix:/run/x.sock", "unix sockets are not supported yet"),
            ("example.com:80", "not an address; accepted:"),
            ("", "not an address; accepted:"),
        ] {
            assert!(listen_address(text).unwrap_err().starts_with(hint), "{text}: {:?}", listen_address(text));
        }
    }

    #[test]
    fn upstream_urls() {
        for (text, display) in [
            ("http://127.0.0.1:8081", "http://127.0.0.1:8081"),
            ("http://wordpress", "http://wordpress:80"),
            ("HTTP://WordPress:80/", "http://wordpress:80"),
            ("http://[::1]:8081", "http://[::1]:8081"),
        ] {
            assert_eq!(upstream_url(text).unwrap().to_string(), display);
        }
        assert_eq!(upstream_url("http://[::1]").unwrap().host, "::1");
        for (text, hint) in [
            ("https://x", "https to the upstream is not supported yet"),
            ("127.0.0.1:8081", "the scheme is missing"),
            ("wordpress", "the scheme is missing"),
            ("ftp://x", "not an http URL"),
            ("http://x/blog", "has a path or query"),
            ("http://x?a", "has a path or query"),
            ("http://x/#a", "has a path or query"),
            ("http://user:pass@x", "a user name or password has no use here"),
            ("http://x:0", "port 0 cannot be connected to"),
            ("http://x:99999", "not a URL"),
            ("http:///x", "not a URL"),
            ("http://", "not a URL"),
            ("http://a b", "has white space in it"),
            (" http://a", "has white space in it"),
            ("http:\\\\a", "has a backslash in it"),
            ("unix:/run/x.sock", "unix sockets are not supported yet"),
        ] {
            assert!(upstream_url(text).unwrap_err().starts_with(hint), "{text}: {:?}", upstream_url(text));
        }
    }

    #[test]
    fn home_urls_are_kept_to_the_letter() {
        assert_eq!(home_url("https://Example.com/Blog//").unwrap(), "https://Example.com/Blog");
        assert_eq!(home_url("http://example.com:80").unwrap(), "http://example.com:80");
        for text in ["example.com", "ftp://example.com", "https://a@b", "https://a?b", "https://a#b", "//a", ""] {
            assert!(home_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn database_urls_are_never_quoted() {
        assert_eq!(database_url("mysql://u:p%40ss@[::1]:3306/wp?socket=/run/m.sock"), Ok(()));
        for (text, hint) in [
            ("postgres://u:hunter2@h/d", "must begin with mysql://"),
            ("mysql://u:hunter2@h", "the database's name is missing"),
            ("mysql://u:hunter2@h/", "the database's name is missing"),
            ("mysql://u:hunter2@h:x/d", "not a connection URL"),
            ("mysql://u@h/d?hunter2=1", "has an unknown parameter"),
            ("mysql://u@h/d?pool_min=hunter2", "has a parameter with a value it cannot have"),
        ] {
            let problem = database_url(text).unwrap_err();
            assert!(problem.starts_with(hint) && !problem.contains("hunter2"), "{text}: {problem}");
        }
    }

    #[test]
    fn networks() {
        assert_eq!(network("10.0.0.1").unwrap().to_string(), "10.0.0.1/32");
        assert_eq!(network("2001:db8::/32").unwrap().to_string(), "2001:db8::/32");
        for text in ["10.0.0.0/33", "10.0.0", "localhost", "10.0.0.0/", ""] {
            assert!(network(text).is_err(), "{text}");
        }
    }

    #[test]
    fn log_levels() {
        for text in
            ["info", "DEBUG", "off", "info,wp_jwt_sidecar=debug", "warn, hyper=trace", "wp_jwt_sidecar[x]=debug"]
        {
            assert!(log_level(text).is_ok(), "{text}: {:?}", log_level(text));
        }
        assert!(log_level("inof").unwrap_err().starts_with("no such level, perhaps \"info\""));
        for text in ["verbose", "info,", "hyper=loud", "x[", ""] {
            assert!(log_level(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in ".{0,40}|[a-z0-9.:/@\\[\\]=,-]{0,40}|(http|mysql)://[a-z0-9.:/@\\[\\]?=%]{0,30}") {
            let _ = (duration(&text), listen_address(&text), network(&text), log_level(&text));
            let _ = (upstream_url(&text), home_url(&text), database_url(&text));
            if let Ok(prefix) = table_prefix(&text) {
                prop_assert!(prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
            }
            // What is accepted can be written back.
            if let Ok(url) = upstream_url(&text) {
                prop_assert_eq!(upstream_url(&url.to_string()), Ok(url));
            }
        }
    }
}
