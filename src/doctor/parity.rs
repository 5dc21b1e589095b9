//! Sends refused refreshes both to WordPress and through the native path, and reports every
//! difference between the responses.
//!
//! They are harmless: no token is made or ended. The plugin notes the two with an unknown token in
//! its analytics, and counts them for an address that no client has. The native path is the real
//! one, in this process, without analytics. A real refresh needs a token given for that purpose:
//! see [`real`].

mod compare;
mod differences;
mod real;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use http::{Method, Request, header};
use tokio::time::timeout;

use super::address;
use super::client::{self, Answer, ClientError, SiteAddress};
use crate::body::RequestBody;
use crate::client_addr::Client;
use crate::finding::{Area, Finding};
use crate::http1::frame::Frame;
use crate::net::dial::Dialer;
use crate::refresh::{self, Refresher};
use crate::request_id::RequestIds;
use crate::wordpress::site::Site;
use compare::Differences;

pub use real::{ID as REFRESH, look as refresh, not_used as token_not_used};

/// The smallest rate limit under which the two counted requests are still sent.
const LEAST_LIMIT: u32 = 4;

/// No site has this origin (RFC 2606).
const ORIGIN: &str = "https://wp-jwt-sidecar.invalid";

/// One refused refresh.
struct Case {
    name: &'static str,
    body: String,
    has_origin: bool,
    /// Whether it reaches the plugin's rate limit and analytics.
    is_counted: bool,
}

impl Case {
    /// A refresh with `token`, as apps send it.
    fn of_token(token: &str) -> Case {
        Case { name: "a token", body: format!(r#"{{"refresh_token":"{token}"}}"#), has_origin: false, is_counted: true }
    }

    fn request(&self, place: &SiteAddress, chain: &str, agent: &str) -> Result<Request<Bytes>, http::Error> {
        let target = place.rest("/jwt-auth/v1/token/refresh");
        let mut request = place.request(&target, chain)?.method(Method::POST);
        if self.has_origin {
            request = request.header(header::ORIGIN, ORIGIN);
        }
        request
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, agent)
            .header(header::CONTENT_LENGTH, self.body.len())
            .body(Bytes::from(self.body.clone()))
    }
}

/// The responses to one case. `native` is the reason if the sidecar leaves it to WordPress.
struct Pair {
    name: String,
    wordpress: Answer,
    native: Result<Answer, String>,
}

/// Sends and compares, and also finds out which address WordPress takes as the client's.
pub async fn look(
    refresher: &Arc<Refresher>,
    dialer: &Dialer,
    site: &Site,
    place: &SiteAddress,
    prefix: &str,
) -> Vec<Finding> {
    let id = "parity.answers";
    let Ok(random) = random_hex() else {
        let fix = "Look at /dev/urandom.";
        return vec![Finding::problem(Area::Parity, id, "no random bytes from the operating system", fix)];
    };
    let (nonce, token) = random.split_at(8);
    let agents = (format!("{} {nonce}a", client::USER_AGENT), format!("{} {nonce}b", client::USER_AGENT));
    let before = address::last_event(&refresher.store.database, prefix).await;
    let limited = site.settings.rate_limit.filter(|limit| limit.max_requests < LEAST_LIMIT);
    let mut pairs = Vec::new();
    for case in cases(token).into_iter().filter(|case| limited.is_none() || !case.is_counted) {
        let (chain, agent) = match case.has_origin {
            false => (address::CLIENT, agents.0.as_str()),
            true => (address::CLIENT_BEHIND_NOTHING, agents.1.as_str()),
        };
        let name = format!("{}{}", case.name, if case.has_origin { ", with Origin" } else { "" });
        match ask_both(refresher, dialer, place, &case, chain, agent).await {
            Ok((wordpress, native)) => pairs.push(Pair { name, wordpress, native }),
            Err(error) => {
                let what = format!("no answers to compare: {name}: {error}");
                return vec![Finding::problem(Area::Parity, id, what, "See the findings about the web server.")];
            }
        }
    }
    let mut findings = judge(&pairs, site.is_english);
    match limited {
        Some(limit) => findings.push(
            Finding::ok(
                Area::Parity,
                "parity.rate_limit",
                format!(
                    "no unknown token was sent: the plugin lets {} requests through, and the doctor would use them up",
                    limit.max_requests
                ),
            )
            .with_hint(
                "The client's address could not be checked without it: write a comment on the site and look at its address.",
            ),
        ),
        None => {
            let seen = match before {
                Ok(after) => address::seen(&refresher.store.database, prefix, after, (&agents.0, &agents.1)).await,
                Err(error) => Err(error),
            };
            findings.push(seen.map_or_else(|error| address::not_known(&error), |seen| address::judge(&seen)));
        }
    }
    findings
}

fn cases(token: &str) -> Vec<Case> {
    let bodies = [
        ("unknown token", format!(r#"{{"refresh_token":"{token}"}}"#), true),
        ("no token", "{}".to_owned(), false),
        ("a number for a token", r#"{"refresh_token":12345}"#.to_owned(), false),
        ("broken JSON", r#"{"refresh_token":"#.to_owned(), false),
    ];
    let case = |(name, body, is_counted): (&'static str, String, bool)| {
        [false, true].map(|has_origin| Case { name, body: body.clone(), has_origin, is_counted })
    };
    bodies.into_iter().flat_map(case).collect()
}

async fn ask_both(
    refresher: &Arc<Refresher>,
    dialer: &Dialer,
    place: &SiteAddress,
    case: &Case,
    chain: &str,
    agent: &str,
) -> Result<(Answer, Result<Answer, String>), ClientError> {
    let request = || case.request(place, chain, agent);
    let ip: Option<IpAddr> = address::CLIENT.parse().ok();
    let wordpress = client::ask(dialer, ip, request()?).await?;
    let native = timeout(client::LIMIT, native(refresher, place, request()?))
        .await
        .unwrap_or(Err(ClientError::TimedOut(client::LIMIT)))?;
    Ok((wordpress, native))
}

/// The sidecar's response, by the code that answers a listener's requests; or why it would leave
/// the request to WordPress.
async fn native(
    refresher: &Arc<Refresher>,
    place: &SiteAddress,
    request: Request<Bytes>,
) -> Result<Result<Answer, String>, ClientError> {
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let client = Client { peer, address: peer, peer_is_trusted: false, scheme: place.scheme };
    let request = request.map(|body| RequestBody::Replayed(VecDeque::from([Frame::data(body)]), None));
    let sent = SystemTime::now();
    match refresh::answer(&refresher.into(), request, &client, &RequestIds::new().next()).await {
        Ok(refresh::Answer::Native(answer, _)) => {
            let (head, body) = answer.into_parts();
            let received = SystemTime::now();
            Ok(Ok(Answer { status: head.status.as_u16(), headers: head.headers, body, sent, received }))
        }
        Ok(refresh::Answer::Forward(_, log, _)) => {
            Ok(Err(log.and_then(|log| log.reason).unwrap_or_else(|| "not the refresh route".to_owned())))
        }
        Ok(refresh::Answer::ForwardElsewhere(_, log)) => Ok(Err(log.reason.unwrap_or_default())),
        Err(error) => Err(ClientError::Native(error.to_string())),
    }
}

fn random_hex() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 20];
    getrandom::fill(&mut bytes)?;
    Ok(HEXLOWER.encode(&bytes))
}

/// Pure.
fn judge(pairs: &[Pair], is_english: bool) -> Vec<Finding> {
    let id = "parity.answers";
    let mut findings: Vec<Finding> =
        pairs.iter().find_map(|pair| refused_otherwise(&pair.wordpress)).into_iter().collect();
    let mut differences = Differences::default();
    let mut compared = 0;
    let mut forwarded = Vec::new();
    for pair in pairs {
        match &pair.native {
            Ok(native) => {
                compared += 1;
                differences.add(&pair.name, &pair.wordpress, native);
            }
            Err(why) => forwarded.push(format!("{}: {why}", pair.name)),
        }
    }
    if !forwarded.is_empty() {
        findings.push(left_to_wordpress(forwarded, is_english));
    }
    if compared == 0 {
        return findings;
    }
    let deliberate = "Different on purpose: the sidecar counts the rate limit of this route by itself, and writes \
                      X-Ratelimit-… where the plugin writes X-RateLimit-… (HTTP ignores the case); see \"Differences from \
                      the plugin\" in docs/refresh.md.";
    if differences.is_empty() {
        let what = format!("{compared} refused refreshes: WordPress and the sidecar answer alike");
        findings.push(Finding::ok(Area::Parity, id, what).with_hint(deliberate));
        return findings;
    }
    let lines = differences.lines(compared);
    let finding = if differences.is_serious() {
        Finding::problem(
            Area::Parity,
            id,
            "WordPress and the sidecar answer refused refreshes differently",
            "Code of the site's own, another plugin or another version of JWT Auth Pro answers here. If clients go by what \
             differs, set refresh.mode to \"forward\".",
        )
    } else {
        Finding::warning(
            Area::Parity,
            id,
            "the responses of WordPress have header fields that the sidecar's do not have, or the other way round",
            "What the site's web server adds to all answers belongs in the configuration of the server in front of the sidecar, where it reaches \
             the sidecar's own answers too; what the site's code adds needs refresh.mode = \"forward\", if clients go by it.",
        )
    };
    findings.push(finding.with_lines(lines));
    findings
}

/// A finding if WordPress refuses before it looks at the token.
fn refused_otherwise(answer: &Answer) -> Option<Finding> {
    let code = serde_json::from_slice::<serde_json::Value>(&answer.body).ok();
    let code = code.as_ref().and_then(|body| body.get("code")?.as_str()).unwrap_or_default();
    match (answer.status, code) {
        (401, "rest_forbidden") => Some(Finding::problem(
            Area::Plugin,
            "plugin.licence",
            "WordPress answers the refresh route with 401 rest_forbidden: the plugin has no valid licence, or another plugin \
             closes the REST API; the sidecar would refresh all the same",
            "Enter the licence in the plugin's settings; or see which security plugin closes the REST API to visitors.",
        )),
        (429, _) => Some(Finding::warning(
            Area::Parity,
            "parity.rate_limit",
            "the plugin's rate limit refused the doctor, which has an address of its own: were there several runs within a minute?",
            "Wait for the limit's window to end, and run it again.",
        )),
        _ => None,
    }
}

fn left_to_wordpress(forwarded: Vec<String>, is_english: bool) -> Finding {
    let id = "parity.forwarded";
    if !is_english {
        let what = "refusals are left to WordPress, whose messages may be in the site's language: its language pack is installed, or \
                    cannot be looked for";
        return Finding::ok(Area::Parity, id, what).with_lines(forwarded);
    }
    Finding::warning(
        Area::Parity,
        id,
        "the sidecar leaves to WordPress what it should answer itself",
        "See the findings about the database, the plugin and the web server.",
    )
    .with_lines(forwarded)
}
