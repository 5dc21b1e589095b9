//! The site's web server: does it respond, are WordPress's REST API and the plugin's route there,
//! does its clock agree?

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Method, header};
use serde::Deserialize;
use std::collections::HashMap;

use super::client::{self, Answer, SiteAddress};
use super::site;
use crate::config::{Config, UpstreamUrl};
use crate::finding::in_full;
use crate::finding::{Area, Finding};
use crate::net::ask::AskError;
use crate::net::dial::{DialError, Dialer};
use crate::wordpress::clock::TOO_FAR;
use crate::wordpress::home::{self, Answered, Home, HomeError, Question, Word};
use crate::wordpress::site::NotNative;

/// Tokens are issued by the slowest clock, and end earlier by the difference.
const NOTICEABLE: Duration = Duration::from_secs(2);

/// The plugin's namespace, and the route in it.
const NAMESPACE: &str = "/jwt-auth/v1";
const ROUTE: &str = "/jwt-auth/v1/token/refresh";

/// Whether the upstream accepts a connection. `host` is the home URL's, if known.
pub async fn reachable(dialer: &Dialer, config: &Config, host: Option<&str>) -> Finding {
    let id = "upstream.reachable";
    let url = &config.upstream.url;
    let error = match dialer.dial_home(None, host).await {
        Ok(_) => return Finding::ok(Area::Upstream, id, format!("{url} accepts connections")),
        Err(error) => error,
    };
    let fix = match (&error, url) {
        (DialError::Connect(source), UpstreamUrl::Unix(_)) if source.kind() == std::io::ErrorKind::PermissionDenied => {
            "The sidecar's user may not write to the socket: add it to the socket's group."
        }
        (DialError::Connect(_), _) => {
            "Is the web server running, and does it listen there? `ss -ltnx` shows which programs listen where."
        }
        (DialError::Tls(_), _) => {
            "Its certificate must be valid for the host in upstream.url, or for what upstream.tls_name says, and stand in \
             upstream.ca_file, or be signed by an authority that stands there or that the system trusts."
        }
        (DialError::TimedOut(_), _) => "Something drops the connection without a word: look for a firewall in between.",
    };
    let what = format!("{url} cannot be reached: {}", in_full(&error));
    Finding::problem(Area::Upstream, id, what, fix)
}

/// WordPress's answer at the REST root.
pub async fn rest_root(dialer: &Dialer, question: &Question) -> (Finding, Option<Arc<Home>>) {
    let id = "upstream.rest";
    let stored = &question.stored_home;
    match home::ask(dialer, question).await {
        Ok(Answered { word: Word::Home(home), .. }) if home.url == *stored => {
            (Finding::ok(Area::Upstream, id, format!("WordPress answers; its home URL is {stored}")), Some(home))
        }
        Ok(Answered { word: Word::Refused { status, code }, .. }) => {
            let obstacle = NotNative::Refused(stored.clone(), status, code);
            (Finding::problem(Area::Upstream, id, obstacle.to_string(), site::CLOSED), None)
        }
        Ok(Answered { word: Word::Moved, .. }) => (site::obstacle(&NotNative::Moved(stored.clone())), None),
        Ok(Answered { word: Word::Home(home), .. }) => {
            let what = format!(
                "WordPress answers; its home URL is {}, though the database says {stored} (its own code changes it); the \
                 sidecar goes by what WordPress says",
                home.url
            );
            (Finding::ok(Area::Upstream, id, what), Some(home))
        }
        Err(error) => {
            let fix = match &error {
                HomeError::Status(401 | 403) => {
                    "Something protects the REST API: a security plugin, a password, or the web server. Let \
                     GET …/wp-json/ through for the sidecar (it comes with User-Agent wp-jwt-sidecar), or set wordpress.home."
                }
                HomeError::Status(301 | 302 | 307 | 308) => {
                    "WordPress redirects: it does not recognise the request as one to its own home URL. Most often it does not \
                     know about HTTPS: have the web server pass X-Forwarded-Proto on to PHP as HTTPS=on."
                }
                HomeError::Status(421) => {
                    "The web server takes the name of the TLS handshake and the Host of the request for two virtual hosts \
                     (Apache from 2.4.64): set upstream.tls_name to \"host\", or to the site's host."
                }
                HomeError::Status(404) => {
                    "Is the upstream the web server of this site, and does it answer for this host name? Save the permalinks \
                     once more in WordPress, and see that the web server hands unknown paths to index.php."
                }
                HomeError::Status(500..=599) => "PHP fails: its error log, or the web server's, says why.",
                HomeError::Json(_) | HomeError::Ask(AskError::Body) => {
                    "A page came in the place of JSON: another site, a maintenance page, or a security plugin."
                }
                HomeError::TimedOut => "PHP takes too long: look at the site's load, and at PHP's slow log.",
                _ => "See the findings about the web server.",
            };
            let error = in_full(&error);
            let what = format!("{stored}/wp-json/ was asked by the web server and gave no answer: {error}");
            (Finding::problem(Area::Upstream, id, what, fix), None)
        }
    }
}

/// The route as WordPress describes it, and PHP's clock.
pub async fn route(dialer: &Dialer, place: &SiteAddress) -> Vec<Finding> {
    let asked = async {
        let request = place
            .request(&place.rest(NAMESPACE), "127.0.0.1")?
            .method(Method::GET)
            .header(header::USER_AGENT, client::USER_AGENT)
            .header(header::CONNECTION, "close")
            .body(Bytes::new())?;
        client::ask(dialer, None, request).await
    };
    match asked.await {
        Ok(answer) => [Some(registered(&answer)), clock_of(&answer)].into_iter().flatten().collect(),
        Err(error) => {
            let fix = "See the findings about the web server, and look into PHP's error log.";
            vec![Finding::problem(
                Area::Upstream,
                "upstream.route",
                format!("the plugin's routes were asked for: {error}"),
                fix,
            )]
        }
    }
}

#[derive(Deserialize)]
struct Namespace {
    routes: HashMap<String, RouteDescription>,
}

#[derive(Deserialize)]
struct RouteDescription {
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    #[serde(default)]
    methods: Vec<String>,
}

/// Pure.
fn registered(answer: &Answer) -> Finding {
    let id = "upstream.route";
    let missing = |what: String| {
        let fix = "Is the plugin active, and its licence valid? PHP's error log may say more. Until then refreshes fail, with \
                    the sidecar and without.";
        Finding::problem(Area::Upstream, id, what, fix)
    };
    if answer.status != 200 {
        return missing(format!("WordPress does not describe the plugin's routes: status {}", answer.status));
    }
    let Ok(namespace) = serde_json::from_slice::<Namespace>(&answer.body) else {
        return missing("WordPress's description of the plugin's routes is not the expected JSON".to_owned());
    };
    let Some(route) = namespace.routes.get(ROUTE) else {
        return missing(format!("WordPress has no route {ROUTE}"));
    };
    let takers =
        route.endpoints.iter().filter(|endpoint| endpoint.methods.iter().any(|method| method == "POST")).count();
    match takers {
        1 => Finding::ok(Area::Upstream, id, format!("WordPress has the route {ROUTE}")),
        0 => missing(format!("the route {ROUTE} accepts no POST")),
        _ => Finding::problem(
            Area::Plugin,
            "plugin.rival",
            format!("{takers} plugins have registered the route {ROUTE}: the first of them answers"),
            "Deactivate the other one. Where PHP's command line can be run here, it is named below.",
        ),
    }
}

fn clock_of(answer: &Answer) -> Option<Finding> {
    let date = answer.headers.get(header::DATE)?.to_str().ok()?;
    Some(clock(httpdate::parse_http_date(date).ok()?, answer.sent, answer.received))
}

/// `date` has whole seconds: it may be any moment of its second, and was written between `sent` and
/// `received`. Pure.
fn clock(date: SystemTime, sent: SystemTime, received: SystemTime) -> Finding {
    let id = "upstream.clock";
    let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let behind_us = since(sent).saturating_sub(since(date) + Duration::from_secs(1));
    let ahead_of_us = since(date).saturating_sub(since(received));
    let (by, direction) = if behind_us > ahead_of_us { (behind_us, "behind") } else { (ahead_of_us, "ahead of") };
    let what = format!("the web server's clock is {} s or more {direction} this machine's: ", by.as_secs());
    if by > TOO_FAR {
        return Finding::problem(Area::Upstream, id, what + "refreshes are left to WordPress", site::BY_NTP);
    }
    if by >= NOTICEABLE {
        let what = what + "tokens are issued by the slower one, and end earlier by as much";
        return Finding::warning(Area::Upstream, id, what, site::BY_NTP);
    }
    Finding::ok(Area::Upstream, id, "the web server's clock agrees with this machine's")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Level;

    fn at(seconds: f64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs_f64(1_000_000.0 + seconds)
    }

    #[test]
    fn clocks_are_judged_by_what_is_certain() {
        for (date, sent, received, level) in [
            (0.0, 0.2, 0.3, Level::Ok),
            (0.0, 1.9, 2.0, Level::Ok),
            (0.0, 2.9, 3.0, Level::Ok),
            (0.0, 3.1, 3.2, Level::Warning),
            (0.0, 61.0, 61.1, Level::Warning),
            (0.0, 61.2, 61.3, Level::Problem),
            (2.0, 0.0, 0.1, Level::Ok),
            (3.0, 0.0, 0.9, Level::Warning),
            (62.0, 0.0, 0.9, Level::Problem),
            // A slow response: it may have been written at any moment.
            (0.0, 0.9, 9.0, Level::Ok),
        ] {
            assert_eq!(clock(at(date), at(sent), at(received)).level, level, "{date} {sent} {received}");
        }
    }

    fn described(status: u16, body: &str) -> Finding {
        let headers = http::HeaderMap::new();
        registered(&Answer { status, headers, body: Bytes::from(body.to_owned()), sent: at(0.0), received: at(0.0) })
    }

    #[test]
    fn a_route_has_one_owner() {
        let endpoint = r#"{"methods":["POST"],"args":{}}"#;
        let body =
            |endpoints: &str| format!(r#"{{"routes":{{"/jwt-auth/v1/token/refresh":{{"endpoints":[{endpoints}]}}}}}}"#);
        assert_eq!(described(200, &body(endpoint)).level, Level::Ok);
        let two = described(200, &body(&format!("{endpoint},{endpoint}")));
        assert_eq!((two.level, two.id), (Level::Problem, "plugin.rival"));
        assert_eq!(described(200, &body("")).level, Level::Problem);
        assert_eq!(described(200, r#"{"routes":{}}"#).level, Level::Problem);
        assert_eq!(described(200, "<html>").level, Level::Problem);
        assert_eq!(described(404, "").level, Level::Problem);
    }
}
