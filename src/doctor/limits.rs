//! Limits of the site's web server that affect a proxy in front: how long it keeps idle
//! connections, and how large a request may be.

use std::time::{Duration, Instant};

use http::HeaderValue;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::client::SiteAddress;
use crate::finding::{Area, Finding};
use crate::net::dial::Dialer;
use crate::net::stream::UpstreamStream;

/// How long an idle connection is watched at most: longer times are long enough for every purpose.
const WATCHED: Duration = Duration::from_secs(12);

/// Added to the sidecar's own time, so that a server that closes at that moment is noticed.
const MARGIN: Duration = Duration::from_millis(500);

/// The time for the response to a request without a body.
const ANSWER: Duration = Duration::from_secs(5);

/// How long a server may take to refuse a body. One that does not is waiting for it.
const REFUSAL: Duration = Duration::from_secs(2);

/// The announced sizes, smallest first, with what fails if they are refused.
const SIZES: [(u64, &str); 3] = [
    (16 << 10, "refreshes and the REST API fail"),
    ((1 << 20) + 1, "uploads of photos, plugins and themes fail (1 MiB is nginx's own limit where none is set)"),
    (8 << 20, "larger uploads fail"),
];

/// Watches an idle connection for as long as the sidecar would reuse it.
pub async fn keep_alive(dialer: &Dialer, place: &SiteAddress, reused_for: Duration) -> Finding {
    let id = "upstream.keepalive";
    if reused_for.is_zero() || dialer.introduces() {
        return Finding::ok(Area::Upstream, id, "connections to the web server are not reused, by configuration");
    }
    match watch(dialer, place, (reused_for + MARGIN).min(WATCHED)).await {
        Ok(idle) => judge_keep_alive(idle, reused_for),
        Err(error) => Finding::warning(
            Area::Upstream,
            id,
            format!("how long the web server keeps idle connections could not be checked: {error}"),
            "See the findings about the web server.",
        ),
    }
}

/// What happened to an idle connection.
#[derive(Debug, Clone, Copy)]
enum Idle {
    /// Closed with the response, or immediately after.
    ClosedAtOnce,
    /// Closed after so long.
    ClosedAfter(Duration),
    /// Still open after so long.
    OpenAfter(Duration),
}

/// Pure.
fn judge_keep_alive(idle: Idle, reused_for: Duration) -> Finding {
    let id = "upstream.keepalive";
    match idle {
        Idle::ClosedAtOnce => Finding::warning(
            Area::Upstream,
            id,
            "the web server closes each connection after one answer: every request takes a new one",
            "Let it keep connections: nginx `keepalive_timeout 75s`, Apache `KeepAlive On` and `KeepAliveTimeout 5`.",
        ),
        Idle::ClosedAfter(time) if time < reused_for => {
            let what = format!(
                "the web server closes idle connections after {:.1} s, while the sidecar reuses them for {:.1} s: requests meet \
                 connections that are being closed and have to be sent once more; with less than 1 s, those with side effects, \
                 which are never sent twice, fail with a 502",
                time.as_secs_f64(),
                reused_for.as_secs_f64()
            );
            let below = (time.as_secs_f64() * 0.8 * 10.0).floor() / 10.0;
            let lines = ["[upstream]".to_owned(), format!("keepalive_idle = \"{}ms\"", (below * 1000.0) as u64)];
            Finding::warning(
                Area::Upstream,
                id,
                what,
                "Raise its time (nginx: keepalive_timeout, Apache: KeepAliveTimeout), or stay below it:",
            )
            .with_lines(lines)
        }
        Idle::ClosedAfter(time) | Idle::OpenAfter(time) => Finding::ok(
            Area::Upstream,
            id,
            format!(
                "the web server keeps idle connections for {:.1} s or more; the sidecar reuses them for {:.1} s",
                time.as_secs_f64(),
                reused_for.as_secs_f64()
            ),
        ),
    }
}

async fn watch(dialer: &Dialer, place: &SiteAddress, longest: Duration) -> Result<Idle, String> {
    let mut stream = dialer.dial_home(None, Some(&place.host)).await.map_err(|error| error.to_string())?;
    // WordPress is not involved: the target is a file that every WordPress has, and a 404 would do
    // as well.
    let target = format!("{}/wp-includes/images/blank.gif", place.forms.home_path);
    let request = head(place, "HEAD", &target, "")?;
    let written = async {
        stream.write_all(request.as_bytes()).await?;
        read_head(&mut stream).await
    };
    let head = timeout(ANSWER, written).await.map_err(|_| format!("no answer within {ANSWER:?}"))?;
    head.map_err(|error| error.to_string())?;
    let began = Instant::now();
    let mut rest = [0; 1024];
    loop {
        let left = longest.saturating_sub(began.elapsed());
        match timeout(left, stream.read(&mut rest)).await {
            Err(_) => return Ok(Idle::OpenAfter(longest)),
            // A server that sends a body in response to HEAD, or a TLS alert.
            Ok(Ok(1..)) => {}
            Ok(_) if began.elapsed() < MARGIN => return Ok(Idle::ClosedAtOnce),
            Ok(_) => return Ok(Idle::ClosedAfter(began.elapsed())),
        }
    }
}

/// Announces bodies that are never sent, all at once, and checks which are refused.
pub async fn body_limit(dialer: &Dialer, place: &SiteAddress) -> Finding {
    let [small, medium, large] = SIZES.map(|(size, _)| announce(dialer, place, size));
    let (small, medium, large) = tokio::join!(small, medium, large);
    let refused = [small, medium, large];
    if let Some(error) = refused.iter().find_map(|refused| refused.as_ref().err()) {
        return Finding::warning(
            Area::Upstream,
            "upstream.body_limit",
            format!("how large a request may be could not be checked: {error}"),
            "See the findings about the web server.",
        );
    }
    judge_body_limit(refused.iter().position(|refused| matches!(refused, Ok(true))))
}

/// `first_refused` is an index into [`SIZES`]. Pure.
fn judge_body_limit(first_refused: Option<usize>) -> Finding {
    let id = "upstream.body_limit";
    let Some((at, (size, harm))) = first_refused.and_then(|at| Some((at, SIZES.get(at)?))) else {
        let largest = SIZES.last().map_or(0, |(size, _)| *size);
        return Finding::ok(
            Area::Upstream,
            id,
            format!("the web server takes requests of {} and more", bytes(largest)),
        );
    };
    let what = format!("the web server refuses requests of {} (413): {harm}", bytes(*size));
    let fix = "Raise its limit, to what PHP takes too (post_max_size, upload_max_filesize): nginx \
                `client_max_body_size 64m;`, Apache `LimitRequestBody 67108864`. The sidecar itself has none.";
    let finding = if at == 0 { Finding::problem } else { Finding::warning };
    finding(Area::Upstream, id, what, fix)
}

fn bytes(size: u64) -> String {
    if size < 1 << 20 { format!("{} KiB", size >> 10) } else { format!("{} MiB", size >> 20) }
}

/// Whether a POST to the refresh route with a body of `size` is refused as too large.
async fn announce(dialer: &Dialer, place: &SiteAddress, size: u64) -> Result<bool, String> {
    let mut stream = dialer.dial_home(None, Some(&place.host)).await.map_err(|error| error.to_string())?;
    let fields = format!("Content-Type: application/json\r\nContent-Length: {size}\r\nExpect: 100-continue\r\n");
    let request = head(place, "POST", &place.rest("/jwt-auth/v1/token/refresh"), &fields)?;
    let answer = async {
        stream.write_all(request.as_bytes()).await?;
        read_head(&mut stream).await
    };
    match timeout(REFUSAL, answer).await {
        // It waits for the body, with or without a 100. Closed now, the request is never complete.
        Err(_) => Ok(false),
        Ok(Ok(head)) => Ok(head.split(' ').nth(1) == Some("413")),
        Ok(Err(error)) => Err(error.to_string()),
    }
}

fn head(place: &SiteAddress, method: &str, target: &str, fields: &str) -> Result<String, String> {
    // SECURITY: the home URL comes from the database; nothing in it may end a line.
    HeaderValue::from_str(&place.host).map_err(|_| "the host of the home URL is invalid".to_owned())?;
    let proto = place.scheme.name();
    let target: http::Uri = target.parse().map_err(|_| "the path of the home URL is invalid".to_owned())?;
    Ok(format!(
        "{method} {target} HTTP/1.1\r\nHost: {}\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: {proto}\r\n\
         User-Agent: {}\r\n{fields}\r\n",
        place.host,
        super::client::USER_AGENT
    ))
}

/// The head of a response, up to its empty line or 64 KiB.
async fn read_head(stream: &mut UpstreamStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    let mut part = [0; 4096];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < 64 << 10 {
        match stream.read(&mut part).await? {
            0 if head.is_empty() => {
                return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "it was closed without an answer"));
            }
            0 => break,
            count => head.extend_from_slice(part.get(..count).unwrap_or_default()),
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Level;

    #[test]
    fn what_is_closed_before_it_is_reused_is_told() {
        let ours = Duration::from_secs(4);
        let level = |idle| judge_keep_alive(idle, ours).level;
        assert_eq!(level(Idle::ClosedAtOnce), Level::Warning);
        assert_eq!(level(Idle::OpenAfter(ours)), Level::Ok);
        assert_eq!(level(Idle::ClosedAfter(Duration::from_millis(4_300))), Level::Ok);
        let finding = judge_keep_alive(Idle::ClosedAfter(Duration::from_secs(2)), ours);
        assert_eq!(finding.level, Level::Warning);
        assert_eq!(finding.lines, ["[upstream]", "keepalive_idle = \"1600ms\""]);
    }

    #[test]
    fn small_limits_are_worse() {
        assert_eq!(judge_body_limit(None).level, Level::Ok);
        assert_eq!(judge_body_limit(Some(0)).level, Level::Problem);
        assert_eq!(judge_body_limit(Some(1)).level, Level::Warning);
        assert!(judge_body_limit(Some(2)).what.contains("8 MiB"));
    }
}
