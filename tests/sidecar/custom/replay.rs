//! Replays the exchanges of a customized site, and compares everything about them.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{DecodingKey, Validation};
use serde_json::{Map, Value};

use super::pattern::{Meanings, is_hex, unix_time};
use crate::recorded::complaints::Complaints;
use crate::recorded::wire::{self, Answer};
use crate::support::custom::recording::{Answered, Exchange, RecordedSite, Request, SentToken};
use crate::support::custom::{CustomSites, Login};
use crate::support::mariadb::{Row, TokenState};
use crate::support::site::Keys;

/// The user whose token is sent if none is named.
const USER: &str = "user1";

/// Sends recorded requests to one address in front of the sites, or to the sites' own.
pub struct Replay<'a> {
    sites: &'a CustomSites,
    base: SocketAddr,
    keys: Keys,
}

/// The token sent with a request, and what is known of it.
struct Sent {
    row_id: u64,
    refresh_token: String,
    access_token: Option<String>,
}

/// The logins of one site that no exchange has used yet.
struct Logins {
    plain: Vec<(String, Login)>,
    under_customization: Option<Login>,
    last: Option<Sent>,
}

impl<'a> Replay<'a> {
    /// Reads the keys before the site's own code can change them.
    pub fn of(sites: &'a CustomSites, base: SocketAddr) -> Replay<'a> {
        Replay { sites, base, keys: sites.site().keys() }
    }

    /// Sets up a recorded site with this code or the recorded one, replays it, and removes it
    /// again. Returns all differences from the recording.
    pub async fn compare(&self, site: &RecordedSite, php: Option<&str>) -> Vec<String> {
        let mut logins = Logins { plain: Vec::new(), under_customization: None, last: None };
        for exchange in site.exchanges.iter().filter(|exchange| exchange.token == SentToken::Plain) {
            let user = exchange.user.as_deref().unwrap_or(USER);
            logins.plain.push((user.to_owned(), self.sites.log_in(user).await));
        }
        match php {
            Some(php) => drop(self.sites.install(php)),
            None => self.sites.database().set_option("WPLANG", "de_DE").await,
        }

        let mut complaints = Vec::new();
        let mut say = |at: &str, found: Complaints| {
            complaints.extend(found.0.into_iter().map(|said| format!("{}, {at}: {said}", site.name)));
        };
        for exchange in &site.exchanges {
            say(&exchange.name, self.compare_exchange(exchange, &mut logins).await);
        }
        say("home question", self.compare_home_question(site).await);
        if let Some(window) = &site.limit_window {
            let mut found = Complaints::default();
            let value = self.sites.database().option(&window.name).await.unwrap_or_default();
            found.demand(self.meanings().matches(&value, &window.value), || format!("{} is {value}", window.name));
            say("window", found);
        }

        self.sites.remove();
        self.sites.database().delete_option("WPLANG").await;
        if site.exchanges.iter().any(|exchange| exchange.flushed) {
            self.sites.flush_rewrite_rules();
        }
        complaints
    }

    async fn compare_exchange(&self, exchange: &Exchange, logins: &mut Logins) -> Complaints {
        let recorded = self.sites.recorded();
        if exchange.flushed {
            self.sites.flush_rewrite_rules();
        }
        let sent = self.token(exchange, logins).await;
        if !exchange.name.starts_with("series_") {
            self.sites.open_window().await;
        }
        let (last_token, last_event) = self.sites.database().last_ids().await;

        let request = recorded.request(exchange);
        // PHP's clock may be some milliseconds behind.
        let asked = now() - 1;
        let answer = wire::exchange(self.base, &self.bytes(&request, sent.as_ref())).await;
        let mut meanings = Meanings { during: (asked, now()), ..self.meanings() };

        let mut complaints = Complaints::default();
        compare_answer(&answer, &recorded.answered(exchange), &mut meanings, &mut complaints);
        let rows = self.sites.database().token_rows_after(last_token).await;
        if let Some(jwt) = recorded.access_token(exchange) {
            self.compare_access_token(&jwt, rows.first(), &mut meanings, &mut complaints);
        }
        let old = match &sent {
            Some(sent) => self.sites.database().token_row(sent.row_id).await,
            None => None,
        };
        let revoked = old.as_ref().map(|row| row.get("revoked_at").is_some());
        complaints.same("the old token is revoked", &revoked, &exchange.old_token_revoked);
        self.compare_tokens(&recorded.token_rows(exchange), &rows, old.as_ref(), &mut meanings, &mut complaints);
        let events = self.sites.database().analytics_rows_after(last_event).await;
        compare_events(&recorded.analytics_rows(exchange), &events, old.as_ref(), rows.first(), &mut complaints);
        if let (Some(validate), Some(jwt)) = (&exchange.validate, &meanings.access_token) {
            self.compare_validation(validate, &request, &jwt.clone(), &mut meanings, &mut complaints).await;
        }

        if request.path.ends_with("/token")
            && let Some(row) = rows.into_iter().next()
        {
            let (row_id, refresh_token) = (id_of(&row), row.get("refresh_token_hash").unwrap().to_owned());
            logins.under_customization = Some(Login { row_id, refresh_token, access_token: meanings.access_token });
        }
        logins.last = sent;
        complaints
    }

    /// The token of an exchange, made on its first use.
    async fn token(&self, exchange: &Exchange, logins: &mut Logins) -> Option<Sent> {
        let user = exchange.user.as_deref().unwrap_or(USER);
        let of = |Login { row_id, refresh_token, access_token }| Sent { row_id, refresh_token, access_token };
        let made = |state| async move {
            let id = self.sites.database().rows("SELECT ID FROM wp_users WHERE user_login = 'user1'").await;
            let token = self.sites.database().insert_token(state, id[0].get("ID").unwrap().parse().unwrap()).await;
            Sent { row_id: token.id, refresh_token: token.refresh_token, access_token: None }
        };
        match exchange.token {
            SentToken::None => None,
            SentToken::Again => logins.last.take(),
            SentToken::Expired => Some(made(TokenState::Expired).await),
            SentToken::Orphan => Some(made(TokenState::Orphan).await),
            SentToken::Plain => {
                let at = logins.plain.iter().position(|(of, _)| of == user).expect("a login before");
                Some(of(logins.plain.remove(at).1))
            }
            SentToken::Login => {
                let unused = if user == USER { logins.under_customization.take() } else { None };
                Some(of(match unused {
                    Some(login) => login,
                    None => self.sites.log_in(user).await,
                }))
            }
        }
    }

    fn bytes(&self, request: &Request, sent: Option<&Sent>) -> Vec<u8> {
        let fill = |text: &str| match sent {
            Some(Sent { refresh_token, access_token, .. }) => {
                text.replace("{T}", refresh_token).replace("{bearer}", access_token.as_deref().unwrap_or("no token"))
            }
            None => text.to_owned(),
        };
        let body = fill(&request.body);
        let (method, path) = (&request.method, &request.path);
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.sites.site().host());
        for (name, value) in &request.headers {
            head.push_str(&format!("{name}: {}\r\n", fill(value.as_str().unwrap())));
        }
        if method == "POST" {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("Connection: close\r\n\r\n");
        [head, body].concat().into_bytes()
    }

    /// The access token that was captured when the response was compared: its form, its key, and
    /// the hash in its row.
    fn compare_access_token(
        &self,
        recorded: &Map<String, Value>,
        row: Option<&Row>,
        meanings: &mut Meanings<'_>,
        complaints: &mut Complaints,
    ) {
        let (Some(jwt), Some(row)) = (meanings.access_token.clone(), row) else {
            return complaints.demand(false, || "no access token, or no row".to_owned());
        };
        let Some((header, claims)) = parts(&jwt) else {
            return complaints.demand(false, || "the access token is no JWT".to_owned());
        };
        meanings.issued_at = claims["iat"].as_i64().unwrap_or(0);
        meanings.user = row.get("user_id").unwrap_or_default().to_owned();
        meanings.compare("JOSE header", &header, &recorded["header"], complaints);
        meanings.compare("claims", &claims, &recorded["claims"], complaints);
        let times = ["issued_at", "expires_at"].map(|column| row.get(column).and_then(unix_time));
        complaints.same("times of the row", &times, &["iat", "exp"].map(|claim| claims[claim].as_i64()));

        let fits_secret = jsonwebtoken::decode_header(&jwt).is_ok_and(|header| {
            let mut validation = Validation::new(header.alg);
            validation.validate_exp = false;
            validation.validate_aud = false;
            validation.required_spec_claims.clear();
            let key = DecodingKey::from_secret(self.keys.signing.as_bytes());
            jsonwebtoken::decode::<Value>(&jwt, &key, &validation).is_ok()
        });
        complaints.same("the signature fits the secret", &Value::Bool(fits_secret), &recorded["fits_secret"]);
        let fits_salt = row.get("hash") == Some(&self.keys.wp_hash(&jwt));
        complaints.same("the hash fits the salt", &Value::Bool(fits_salt), &recorded["fits_salt"]);
    }

    fn compare_tokens(
        &self,
        recorded: &[Map<String, Value>],
        rows: &[Row],
        old: Option<&Row>,
        meanings: &mut Meanings<'_>,
        complaints: &mut Complaints,
    ) {
        complaints.same("number of new token rows", &rows.len(), &recorded.len());
        for (row, recorded) in rows.iter().zip(recorded) {
            let beside = ["id", "hash", "refresh_token_hash", "token_family"];
            let names = |names: Vec<&str>| {
                let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
                names.sort();
                names
            };
            let expected = recorded.keys().map(String::as_str).filter(|name| *name != "fits").chain(beside).collect();
            complaints.same("columns", &names(row.columns().collect()), &names(expected));
            for (column, value) in recorded.iter().filter(|(column, _)| *column != "fits") {
                match (row.get(column), value.as_str()) {
                    (Some(text), Some(value)) => complaints.demand(meanings.matches(text, value), || {
                        format!("{column}\n    is       {text}\n    recorded {value}")
                    }),
                    (found, recorded) => complaints.same(column, &found, &recorded),
                }
            }
            let (issued_at, expires_at) = (row.get("issued_at"), row.get("expires_at"));
            let times = issued_at.and_then(unix_time).zip(expires_at.and_then(unix_time));
            let fits = times.is_some_and(|(issued_at, expires_at)| {
                let user = row.get("user_id").unwrap();
                let jwt = self.keys.unfiltered_access_token(meanings.home, user, issued_at, expires_at);
                row.get("hash") == Some(&self.keys.wp_hash(&jwt))
            });
            complaints.same("the row fits the unfiltered form", &Value::Bool(fits), &recorded["fits"]);
            let refresh_token = row.get("refresh_token_hash").unwrap_or_default();
            complaints.demand(meanings.matches(refresh_token, "{refresh_token}"), || {
                "the row has another refresh token than the answer".to_owned()
            });
            let family = row.get("token_family");
            match old {
                Some(old) => complaints.same("token_family", &family, &old.get("token_family")),
                None => complaints.demand(family.is_some_and(is_hex), || format!("token_family is {family:?}")),
            }
        }
    }

    /// The plugin's answer about an access token.
    async fn compare_validation(
        &self,
        recorded: &Value,
        request: &Request,
        jwt: &str,
        meanings: &mut Meanings<'_>,
        complaints: &mut Complaints,
    ) {
        // Two tokens of one user and one second are the same for the plugin, which then treats this
        // one as revoked. The recorder waited for the next second.
        self.sites
            .database()
            .execute("UPDATE wp_jwt_auth_tokens SET hash = CONCAT('revoked-', id) WHERE revoked_at IS NOT NULL")
            .await;
        let target = request.path.replace("/refresh", "/validate");
        let answer = self.sites.post(&target, &format!("Authorization: Bearer {jwt}\r\n"), &Value::Object(Map::new()));
        let body = answer.json();
        let (status, code, message) = if recorded == "valid" {
            (200, "jwt_auth_valid_token".into(), Value::Null)
        } else {
            (recorded["status"].as_u64().unwrap(), recorded["code"].clone(), recorded["message"].clone())
        };
        complaints.same("status of the validation", &u64::from(answer.status()), &status);
        complaints.same("code of the validation", &body["code"], &code);
        meanings.compare("message of the validation", &body["message"], &message, complaints);
    }

    async fn compare_home_question(&self, site: &RecordedSite) -> Complaints {
        let recorded = self.sites.recorded().home_question(site);
        let request =
            Request { method: "GET".to_owned(), path: recorded.path.clone(), headers: Map::new(), body: String::new() };
        let answer = wire::exchange(self.base, &self.bytes(&request, None)).await;
        let mut complaints = Complaints::default();
        complaints.same("status", &answer.status, &recorded.status);
        self.meanings().compare("body", &body_of(&answer), &recorded.body, &mut complaints);
        complaints
    }

    fn meanings(&self) -> Meanings<'a> {
        Meanings {
            home: self.sites.site().home(),
            user: String::new(),
            during: (0, 0),
            issued_at: 0,
            access_token: None,
            refresh_token: None,
        }
    }
}

fn compare_answer(answer: &Answer, recorded: &Answered<'_>, meanings: &mut Meanings<'_>, complaints: &mut Complaints) {
    complaints.same("status", &answer.status, &recorded.status);
    // The body first: a header may repeat its tokens.
    meanings.compare("body", &body_of(answer), recorded.body, complaints);
    let actual = answer.own_headers();
    let names =
        |headers: &[(String, String)]| headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect::<Vec<_>>();
    complaints.same("names of headers, in order", &names(&actual), &names(&recorded.headers));
    for (name, value) in &recorded.headers {
        let Some((_, actual)) = actual.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)) else { continue };
        let same = meanings.matches(actual, value);
        complaints.demand(same, || format!("{name}\n    is       {actual}\n    recorded {value}"));
    }
}

/// An HTML page contains a theme's form, which does not matter here: it is `{html}`.
fn body_of(answer: &Answer) -> Value {
    let text = String::from_utf8_lossy(&answer.body);
    if text.trim_start().to_ascii_lowercase().starts_with("<!doctype html>") {
        return Value::String("{html}".to_owned());
    }
    let mut body = serde_json::from_str(&text).unwrap_or_else(|_| Value::String(text.into_owned()));
    // The recorder left out where PHP failed.
    if let Some(error) = body.pointer_mut("/data/error").and_then(Value::as_object_mut) {
        error.retain(|name, _| matches!(name.as_str(), "type" | "message"));
    }
    body
}

fn compare_events(
    recorded: &[Map<String, Value>],
    rows: &[Row],
    old: Option<&Row>,
    new: Option<&Row>,
    complaints: &mut Complaints,
) {
    complaints.same("number of analytics rows", &rows.len(), &recorded.len());
    for (row, recorded) in rows.iter().zip(recorded) {
        for (column, value) in recorded {
            let found = row.get(column);
            match (column.as_str(), value.as_str()) {
                ("response_time", Some("set")) => {
                    complaints.demand(found.is_some(), || "response_time is NULL".to_owned());
                }
                // For a refresh it is the old row's.
                ("token_id", Some("set")) => {
                    complaints.same(column, &found, &old.or(new).and_then(|row| row.get("id")))
                }
                ("token_family", Some("set")) => {
                    complaints.same(column, &found, &old.or(new).and_then(|row| row.get("token_family")));
                }
                (_, value) => complaints.same(column, &found, &value),
            }
        }
        let beside = row.columns().filter(|column| !recorded.contains_key(*column)).collect::<Vec<_>>();
        complaints.same("columns that were not recorded", &beside, &vec!["id", "event_timestamp"]);
    }
}

/// Header and claims of a JWT, without checking its signature.
fn parts(jwt: &str) -> Option<(Value, Value)> {
    let mut parts = jwt.split('.').map(|part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok());
    Some((parts.next()??, parts.next()??))
}

fn id_of(row: &Row) -> u64 {
    row.get("id").and_then(|id| id.parse().ok()).expect("an id")
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}
