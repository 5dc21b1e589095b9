//! Parses single texts: durations, URLs, networks, log directives. Addresses of sockets are in
//! `address`.
//!
//! Each parser is a pure function from text to value, or to a sentence that states the fault and
//! what is accepted. The sentence never repeats the text: it is shown beside it, or is secret.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use rustls::pki_types::ServerName;
use url::Url;

use super::Secret;
use super::db_host::database_address;

/// The longest time that can be configured. `Instant + Duration` panics when it overflows, and a
/// wait of more than a day is a mistake in the unit.
pub const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// `example.com` or `example.com:8080`, in lower case.
pub fn host(text: &str) -> Result<String, String> {
    let accepted = "accepted: a host as clients send it, such as \"www.example.com\" or \"example.com:8080\"";
    match text.parse::<http::uri::Authority>() {
        Ok(authority) if !text.contains('@') && !authority.host().is_empty() => Ok(text.to_ascii_lowercase()),
        _ => Err(format!("not a host; {accepted}")),
    }
}

/// The name of a header field, in lower case.
pub fn field_name(text: &str) -> Result<String, String> {
    let name = text.parse::<http::HeaderName>();
    name.map(|name| name.as_str().to_owned())
        .map_err(|_| "not the name of a header field, such as \"x-frame-options\"".to_owned())
}

/// `"500ms"`, `"30s"`, `"5m"`, `"1h"`: an integer with its unit.
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

/// `"900s"`, `"30d"`: like a duration, also in days. From a second to ten years.
pub fn lifetime(text: &str) -> Result<Duration, String> {
    let accepted = "accepted: a whole number with its unit, such as \"900s\", \"12h\" or \"30d\", of at most ten years";
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let seconds = match unit.trim_start() {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(format!("not a lifetime; {accepted}")),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds));
    match seconds {
        Some(seconds) if (1..=3_650 * 86_400).contains(&seconds) => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("too short or too long; {accepted}")),
    }
}

/// The site's home URL, without a trailing slash, like WordPress's `untrailingslashit`.
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
    // Not the text of the `Url`: `iss` must equal WordPress's home URL exactly.
    Ok(text.trim_end_matches('/').to_owned())
}

/// Keys in a store should stay short: each costs memory there for as long as it lives.
const LONGEST_PREFIX: usize = 64;

/// A connection URL for the database. Faults are reported without the URL's text, which contains
/// the password.
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

/// What the names of keys in a store begin with. Braces would put all of a cluster's keys onto one
/// server.
pub fn store_prefix(text: &str) -> Result<String, String> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'.' | b'_' | b'-');
    if (1..=LONGEST_PREFIX).contains(&text.len()) && text.bytes().all(is_allowed) {
        return Ok(text.to_owned());
    }
    Err(format!("accepted: 1 to {LONGEST_PREFIX} letters, digits and : . _ -"))
}

/// Whether the URL disables the check of the certificate's name, which mysql_async accepts but does
/// not do: it looks for a text in rustls's error that rustls no longer writes.
pub fn ignores_the_name(url: &Secret) -> bool {
    let options = mysql_async::Opts::from_url(url.expose());
    options.is_ok_and(|options| {
        options.ssl_opts().is_some_and(|tls| tls.skip_domain_validation() && !tls.accept_invalid_certs())
    })
}

/// A name that a certificate can be valid for: a host name or an IP address.
pub fn tls_name(text: &str) -> Result<String, String> {
    match ServerName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => {
            Err("no certificate can be for this name; accepted: a host's name or an IP address, without port or \
                       brackets, such as \"db.example.com\""
                .into())
        }
    }
}

/// A host of the database in any form that WordPress accepts for `DB_HOST`.
pub fn database_host(text: &str) -> Result<String, String> {
    let accepted =
        "as DB_HOST may be, such as \"10.0.0.5\", \"db2.example.com:3307\" or \"localhost:/run/mysqld/mysqld.sock\"";
    match database_address(text, &[]) {
        Ok(_) if !text.is_empty() => Ok(text.to_owned()),
        Ok(_) => Err(format!("is empty; accepted: {accepted}")),
        Err(error) => Err(format!("{error}; accepted: {accepted}")),
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

/// The mode of a file in octal digits: `0660`.
pub fn octal_mode(text: &str) -> Result<u32, String> {
    let accepted = "three octal digits with or without a 0 in front, such as \"0660\"";
    let digits = text.strip_prefix('0').filter(|digits| digits.len() == 3).unwrap_or(text);
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit()) => Ok(mode),
        _ => Err(format!("not a file mode; accepted: {accepted}")),
    }
}

/// The id of a user of this machine, from the name or the number.
pub fn user(text: &str) -> Result<u32, String> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    match nix::unistd::User::from_name(text) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err("there is no such user on this machine".into()),
        Err(error) => Err(format!("the user cannot be looked up: {error}")),
    }
}

/// The id of a group of this machine, from the name or the number.
pub fn group(text: &str) -> Result<u32, String> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    match nix::unistd::Group::from_name(text) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err("there is no such group on this machine".into()),
        Err(error) => Err(format!("the group cannot be looked up: {error}")),
    }
}

/// A table prefix that WordPress itself accepts.
// SECURITY: the prefix becomes part of SQL statements, so no character that could end an identifier
// is accepted.
pub fn table_prefix(text: &str) -> Result<String, String> {
    match !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        true => Ok(text.to_owned()),
        false => Err("accepted: letters, digits and underscores, such as \"wp_\"".into()),
    }
}

/// A list of log directives for tracing-subscriber's `EnvFilter`.
pub fn log_level(text: &str) -> Result<String, String> {
    const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];
    let accepted = "off, error, warn, info, debug or trace, or a list such as \"info,wp_jwt_sidecar=debug\"";
    let directives: Vec<&str> = text.split(',').map(str::trim).collect();
    for directive in &directives {
        // EnvFilter takes any bare word that is not a level as a module's name, so that "inof"
        // would silence the log.
        let bare = !directive.contains(['=', '[']);
        if bare && !LEVELS.contains(&directive.to_ascii_lowercase().as_str()) {
            return Err(match super::fault::nearest(directive, LEVELS.iter().copied()) {
                Some(level) => format!("no such level, perhaps {level:?}; accepted: {accepted}"),
                None => format!("no such level; accepted: {accepted}"),
            });
        }
    }
    // EnvFilter accepts no space after a comma, but people write one.
    let directives = directives.join(",");
    match tracing_subscriber::EnvFilter::builder().parse(&directives) {
        Ok(_) => Ok(directives),
        Err(_) => Err(format!("not a list of log directives; accepted: {accepted}")),
    }
}

/// The URL parser drops tabs and line breaks and trims spaces; here they are faults.
pub fn absolute_url(text: &str) -> Result<Url, &'static str> {
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("has white space in it");
    }
    if text.contains('\\') {
        return Err("has a backslash in it");
    }
    // `http:host` and `http:///host` can be parsed, but are mistakes.
    match text.split_once("://") {
        Some((_, rest)) if !rest.starts_with('/') => Url::parse(text).map_err(|_| "not a URL"),
        _ => Err("not a URL"),
    }
}

pub fn has_userinfo(url: &Url) -> bool {
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
    fn prefixes_of_keys() {
        assert_eq!(store_prefix("Shop-1:a.b_c").as_deref(), Ok("Shop-1:a.b_c"));
        for text in ["", "a b", "{shop}", "a*", "ä", &"x".repeat(65)] {
            assert!(store_prefix(text).is_err(), "{text}");
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
    fn modes_owners_and_groups() {
        assert_eq!([octal_mode("0660"), octal_mode("660"), octal_mode("000")], [Ok(0o660), Ok(0o660), Ok(0)]);
        for text in ["", "66", "0668", "01777", "+66", "rw-", "0o660"] {
            assert!(octal_mode(text).is_err(), "{text}");
        }
        assert_eq!((user("root"), user("12345"), group("root")), (Ok(0), Ok(12345), Ok(0)));
        assert!(user("no-such-user").unwrap_err().starts_with("there is no such user"));
        assert!(group("no-such-group").unwrap_err().starts_with("there is no such group"));
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
            let _ = (duration(&text), network(&text), log_level(&text), octal_mode(&text));
            let _ = (home_url(&text), database_url(&text));
            if let Ok(prefix) = table_prefix(&text) {
                prop_assert!(prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
            }
        }
    }
}
