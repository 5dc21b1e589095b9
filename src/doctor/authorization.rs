//! Does the field `Authorization` reach PHP? The doctor sends an invalid bearer token: the plugin
//! refuses it with an error of its own, while WordPress without the field answers with another. No
//! token is stored for this; a valid one would need a row in the site's table.

use bytes::Bytes;
use http::{Method, header};

use super::address;
use super::client::{self, Answer, ClientError, SiteAddress};
use crate::finding::{Area, Finding};
use crate::net::dial::Dialer;

/// A route for logged-in users only.
const ROUTE: &str = "/wp/v2/users/me";

/// Three parts, like a JWT.
const TOKEN: &str = "Bearer wp-jwt-sidecar.doctor.asks";

const ID: &str = "upstream.authorization";

/// Asks WordPress for the user of an invalid token.
pub async fn look(dialer: &Dialer, place: &SiteAddress) -> Finding {
    let asked = async {
        let request = place
            .request(&place.rest(ROUTE), address::CLIENT)?
            .method(Method::GET)
            .header(header::USER_AGENT, client::USER_AGENT)
            .header(header::AUTHORIZATION, TOKEN)
            .header(header::CONNECTION, "close")
            .body(Bytes::new())?;
        client::ask(dialer, address::CLIENT.parse().ok(), request).await
    };
    judge(&asked.await)
}

/// Pure.
fn judge(answer: &Result<Answer, ClientError>) -> Finding {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return unknown(&format!("{ROUTE} gave no answer: {error}")),
    };
    let body = serde_json::from_slice::<serde_json::Value>(&answer.body).ok();
    let code = body.as_ref().and_then(|body| body.get("code")?.as_str()).unwrap_or_default();
    if code.starts_with("jwt_auth") {
        return Finding::ok(Area::Upstream, ID, "the Authorization field of requests reaches the plugin");
    }
    if code == "rest_not_logged_in" {
        return Finding::problem(
            Area::Upstream,
            ID,
            "the Authorization field of requests never reaches PHP: WordPress takes a request with a bearer token for \
             one without, so that no access token is of use, its own or the sidecar's",
            "Have the web server pass the field on to PHP:",
        )
        .with_lines([
            "# nginx, beside the other fastcgi_param lines (proxy_pass passes it on by itself)",
            "fastcgi_param HTTP_AUTHORIZATION $http_authorization;",
            "# Apache, in the site's <VirtualHost> or <Directory>",
            "CGIPassAuth On",
            "# or, in .htaccess",
            "SetEnvIf Authorization \"(.+)\" HTTP_AUTHORIZATION=$1",
        ]);
    }
    let code = if code.is_empty() { String::new() } else { format!(" {code}") };
    unknown(&format!(
        "{ROUTE} answered with {}{code}, which is neither the plugin's response nor WordPress's",
        answer.status
    ))
}

fn unknown(why: &str) -> Finding {
    Finding::ok(Area::Upstream, ID, format!("whether the Authorization field reaches PHP is not known: {why}"))
        .with_hint(
            "To test it: log in, and ask /wp-json/wp/v2/users/me with the access token: WordPress must know the user.",
        )
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::HeaderMap;

    use super::*;
    use crate::finding::Level;

    #[test]
    fn the_plugins_word_shows_that_the_field_came() {
        let level = |status, body: &str| {
            let (headers, body) = (HeaderMap::new(), Bytes::from(body.to_owned()));
            let finding = judge(&Ok(Answer { status, headers, body, sent: UNIX_EPOCH, received: UNIX_EPOCH }));
            (finding.level, finding.fix.is_some())
        };
        assert_eq!(level(401, r#"{"code":"jwt_auth_invalid_token"}"#), (Level::Ok, false));
        assert_eq!(level(403, r#"{"code":"jwt_auth_bad_auth_header"}"#), (Level::Ok, false));
        assert_eq!(
            level(429, r#"{"code":"jwt_auth_rate_limited"}"#),
            (Level::Ok, false),
            "it is counted for its token"
        );
        assert_eq!(level(401, r#"{"code":"rest_not_logged_in"}"#), (Level::Problem, true));
        assert_eq!(level(401, r#"{"code":"rest_forbidden"}"#), (Level::Ok, true), "not known");
        assert_eq!(level(200, "<html>"), (Level::Ok, true));
    }
}
