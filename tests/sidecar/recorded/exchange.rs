//! One recorded exchange and all comparisons of it. Values that cannot be the same twice (tokens,
//! times, ids) are not skipped but computed or related: a new row's hash must be that of the JWT in
//! the response, its family the old one's.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{DecodingKey, Validation};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::complaints::Complaints;
use super::wire::{self, Answer};
use super::{Difference, Differences};
use crate::support::mariadb::{Row, TestDatabase, Token, TokenState, User};
use crate::support::sidecar::PATIENCE;
use crate::support::site::Keys;

/// The home URL of the site that was recorded.
const RECORDED_HOME: &str = "http://127.0.0.1:8099";

/// How long rows may be written after the response.
const WRITTEN_BEHIND: Duration = PATIENCE;

/// As in `fixtures/recorded.json`.
#[derive(Deserialize)]
pub struct Exchange {
    pub name: String,
    token: String,
    request: Request,
    response: Response,
    old_token_revoked: Option<bool>,
    new_token_rows: Vec<Map<String, Value>>,
    analytics_rows: Vec<Map<String, Value>>,
}

#[derive(Deserialize)]
struct Request {
    method: String,
    path: String,
    headers: Map<String, Value>,
    body: String,
}

#[derive(Deserialize)]
struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: Value,
}

/// The state that is passed from one exchange to the next.
pub struct Session<'a> {
    base: SocketAddr,
    database: &'a TestDatabase,
    keys: &'a Keys,
    differences: &'a Differences,
    home: String,
    user: User,
    /// The greatest ids of tokens and analytics that were compared.
    seen: (u64, u64),
    /// The rate-limit window of the last response: its end, and the remaining requests.
    window: Option<(u64, u32)>,
    /// The second before the last request was sent, since PHP's clock may be some milliseconds
    /// behind, and that of its response.
    during: (u64, u64),
}

impl<'a> Session<'a> {
    pub async fn new(
        base: SocketAddr,
        database: &'a TestDatabase,
        keys: &'a Keys,
        differences: &'a Differences,
    ) -> Session<'a> {
        let home = database.option("home").await.expect("the option home");
        let user = database.insert_user("replay").await;
        let seen = database.last_ids().await;
        Session { base, database, keys, differences, home, user, seen, window: None, during: (0, 0) }
    }

    /// Replays one exchange and returns all differences from the recording.
    pub async fn compare(&mut self, exchange: &Exchange) -> Vec<String> {
        let reset = format!(
            "DELETE FROM {}options WHERE option_name LIKE '%jwt\\_auth\\_rate\\_limit\\_%'",
            self.database.prefix()
        );
        self.database.execute(&reset).await;
        let mut complaints = Complaints::default();
        complaints.same("the last token row", &self.database.last_ids().await.0, &self.seen.0);
        let token = match exchange.token.as_str() {
            "live" => Some(TokenState::Live),
            "used" => Some(TokenState::Used),
            "revoked" => Some(TokenState::Revoked),
            "expired" => Some(TokenState::Expired),
            "orphan" => Some(TokenState::Orphan),
            "none" => None,
            other => panic!("unknown state of a token: {other}"),
        };
        let token = match token {
            Some(state) => Some(self.database.insert_token(state, self.user.id).await),
            None => None,
        };
        if let Some(token) = &token {
            self.seen.0 = token.id;
        }

        let asked = now() - 1;
        let answer = wire::exchange(self.base, &self.request(&exchange.request, token.as_ref())).await;
        self.during = (asked, now());

        complaints.same("status", &answer.status, &exchange.response.status);
        self.compare_headers(&answer, &exchange.response, &mut complaints);
        let pair = self.compare_body(&answer, &exchange.response, &mut complaints);
        self.compare_tokens(exchange, token.as_ref(), pair.as_ref(), &mut complaints).await;
        self.compare_analytics(exchange, token.as_ref(), &mut complaints).await;
        complaints.0
    }

    /// What was written after the last exchange was compared.
    pub async fn late_rows(&self) -> Vec<String> {
        let now = self.database.last_ids().await;
        if now == self.seen {
            Vec::new()
        } else {
            vec![format!("rows were written late: {:?} became {now:?}", self.seen)]
        }
    }

    fn request(&self, request: &Request, token: Option<&Token>) -> Vec<u8> {
        let fill =
            |text: &str| token.map_or_else(|| text.to_owned(), |token| text.replace("{T}", &token.refresh_token));
        let (_, authority) = self.home.split_once("://").unwrap();
        let (host, path) = authority.find('/').map_or((authority, ""), |at| authority.split_at(at));
        let body = fill(&request.body);
        let mut head = format!("{} {path}{} HTTP/1.1\r\nHost: {host}\r\n", request.method, fill(&request.path));
        for (name, value) in &request.headers {
            head.push_str(&format!("{name}: {}\r\n", value.as_str().unwrap()));
        }
        if request.method == "POST" {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("Connection: close\r\n\r\n");
        [head, body].concat().into_bytes()
    }

    fn compare_headers(&mut self, answer: &Answer, recorded: &Response, complaints: &mut Complaints) {
        let success = recorded.headers.iter().any(|(name, _)| name == "Retry-After");
        let mut expected = recorded.headers.clone();
        if self.differences.has(Difference::NoRetryAfterOnSuccess) {
            expected.retain(|(name, _)| name != "Retry-After");
        }
        let mut actual = answer.own_headers();
        if success && self.differences.has(Difference::NoStore) {
            let before = actual.len();
            actual.retain(|(name, value)| !(name.eq_ignore_ascii_case("Cache-Control") && value == "no-store"));
            complaints.same("number of Cache-Control: no-store", &(before - actual.len()), &1);
        }

        let names = |headers: &[(String, String)]| {
            headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect::<Vec<_>>()
        };
        complaints.same("names of headers, in order", &names(&actual), &names(&expected));
        for (name, recorded_value) in &expected {
            let Some((_, value)) = actual.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)) else { continue };
            match name.as_str() {
                "X-RateLimit-Remaining" | "X-RateLimit-Reset" | "Retry-After" => {}
                _ => complaints.same(name, value, &recorded_value.replace(RECORDED_HOME, &self.home)),
            }
        }
        self.compare_window(&actual, complaints);
    }

    /// Remaining, reset and Retry-After, if the response has them.
    fn compare_window(&mut self, headers: &[(String, String)], complaints: &mut Complaints) {
        let number = |wanted: &str| -> Option<u64> {
            headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).and_then(|(_, value)| value.parse().ok())
        };
        let (Some(remaining), Some(reset)) = (number("X-RateLimit-Remaining"), number("X-RateLimit-Reset")) else {
            return;
        };
        let (asked, answered) = self.during;
        complaints.demand((asked..=answered + 60).contains(&reset), || {
            format!("X-RateLimit-Reset is {reset}, the answer of {asked} to {answered}")
        });
        if let Some(retry_after) = number("Retry-After") {
            complaints.demand((asked..=answered + 1).contains(&reset.saturating_sub(retry_after)), || {
                format!("Retry-After is {retry_after}, the reset {reset}, the answer of {asked} to {answered}")
            });
        }
        let remaining = u32::try_from(remaining).unwrap_or(u32::MAX);
        let expected = match self.window {
            // Requests before the replay are counted in the same window.
            None if self.differences.has(Difference::WindowGoesOn) => remaining.min(59),
            Some((end, before)) if self.differences.has(Difference::WindowGoesOn) && end == reset => {
                before.saturating_sub(1)
            }
            _ => 59,
        };
        complaints.same("X-RateLimit-Remaining", &remaining, &expected);
        self.window = Some((reset, remaining));
    }

    /// The new pair, if the recorded response is one: its tokens cannot be compared, but must be
    /// valid.
    fn compare_body(&self, answer: &Answer, recorded: &Response, complaints: &mut Complaints) -> Option<Pair> {
        let Ok(mut body) = serde_json::from_slice::<Value>(&answer.body) else {
            complaints.demand(false, || format!("the body is no JSON: {}", String::from_utf8_lossy(&answer.body)));
            return None;
        };
        let expected: Value =
            serde_json::from_str(&recorded.body.to_string().replace(RECORDED_HOME, &self.home)).unwrap();
        let Some(recorded_token) = expected.get("access_token").and_then(Value::as_str) else {
            complaints.same("body", &body, &expected);
            return None;
        };

        if self.differences.has(Difference::DocumentedFields) {
            let token = body["access_token"].clone();
            for (key, value) in [
                ("token", token),
                ("user_id", json!(self.user.id)),
                ("user_email", json!(self.user.email)),
                ("user_nicename", json!(self.user.nicename)),
                ("user_display_name", json!(self.user.display_name)),
            ] {
                let found = body.as_object_mut().and_then(|fields| fields.remove(key));
                complaints.same(key, &found, &Some(value));
            }
        }
        let (Some(jwt), Some(refresh_token)) = (body["access_token"].as_str(), body["refresh_token"].as_str()) else {
            complaints.demand(false, || format!("no pair in the body: {body}"));
            return None;
        };
        let pair = Pair { jwt: jwt.to_owned(), refresh_token: refresh_token.to_owned() };
        complaints.demand(is_hex(refresh_token), || "the refresh token is not 32 lower-case hex digits".to_owned());
        self.compare_jwt(&pair.jwt, recorded_token, complaints);
        let mut expected = expected;
        expected["access_token"] = json!(pair.jwt);
        expected["refresh_token"] = json!(pair.refresh_token);
        // PHP counts from the response's second, which may be the one after the token's.
        if body["expires_in"].as_u64().map(|seconds| seconds + 1) == expected["expires_in"].as_u64() {
            expected["expires_in"] = body["expires_in"].clone();
        }
        complaints.same("body", &body, &expected);
        Some(pair)
    }

    fn compare_jwt(&self, jwt: &str, recorded: &str, complaints: &mut Complaints) {
        let header = |jwt: &str| jwt.split('.').next().map(str::to_owned);
        complaints.same("JOSE header", &header(jwt), &header(recorded));
        let mut validation = Validation::new(jsonwebtoken::Algorithm::HS256);
        validation.validate_nbf = true;
        let key = DecodingKey::from_secret(self.keys.signing.as_bytes());
        let mut claims = match jsonwebtoken::decode::<Map<String, Value>>(jwt, &key, &validation) {
            Ok(decoded) => decoded.claims,
            Err(error) => return complaints.demand(false, || format!("the access token is no good: {error}")),
        };
        if self.differences.has(Difference::TokenId) {
            let id = claims.remove("jti");
            complaints.demand(id.as_ref().and_then(Value::as_str).is_some_and(is_hex), || format!("jti is {id:?}"));
        }
        let issued_at = claims.get("iat").and_then(Value::as_u64).unwrap_or(0);
        let (asked, answered) = self.during;
        complaints.demand((asked..=answered).contains(&issued_at), || {
            format!("iat is {issued_at}, the answer of {asked} to {answered}")
        });
        let expected = json!({
            "iss": self.home,
            "iat": issued_at,
            "nbf": issued_at,
            "exp": issued_at + 604_800,
            "data": { "user": { "id": self.user.id.to_string() } },
        });
        complaints.same("claims", &Value::Object(claims), &expected);
    }

    async fn compare_tokens(
        &mut self,
        exchange: &Exchange,
        token: Option<&Token>,
        pair: Option<&Pair>,
        complaints: &mut Complaints,
    ) {
        let revoked = match token {
            Some(token) => self.database.token_row(token.id).await.map(|row| row.get("revoked_at").is_some()),
            None => None,
        };
        complaints.same("the old token is revoked", &revoked, &exchange.old_token_revoked);

        let rows = self.database.token_rows_after(self.seen.0).await;
        complaints.same("number of new token rows", &rows.len(), &exchange.new_token_rows.len());
        for (row, recorded) in rows.iter().zip(&exchange.new_token_rows) {
            same_columns(row, recorded, &["id"], complaints);
            let (Some(token), Some(pair)) = (token, pair) else { continue };
            let times = self.times(row).await;
            for (column, value) in recorded {
                let expected = match column.as_str() {
                    "id" => continue,
                    "hash" => Some(self.keys.wp_hash(&pair.jwt)),
                    "user_id" => Some(self.user.id.to_string()),
                    "refresh_token_hash" => Some(pair.refresh_token.clone()),
                    "token_family" => Some(token.token_family.clone()),
                    "issued_at" | "expires_at" | "refresh_token_expires_at" => continue,
                    _ => recorded_value(value),
                };
                complaints.same(column, &row.get(column).map(str::to_owned), &expected);
            }
            // The times in the row are UTC and those of the JWT; the refresh token is valid for 30
            // days from then.
            let claims = claims_of(&pair.jwt);
            let issued_at = claims["iat"].as_i64().unwrap_or(0);
            complaints.same("issued_at, expires_at", &(times[0], times[1]), &(issued_at, issued_at + 604_800));
            let took = self.during.1.abs_diff(self.during.0);
            complaints.demand((times[2] - issued_at - 2_592_000).unsigned_abs() <= took.max(1), || {
                format!("refresh_token_expires_at: {times:?}")
            });
        }
        self.seen.0 = rows.last().map_or(self.seen.0, id_of);
    }

    async fn compare_analytics(&mut self, exchange: &Exchange, token: Option<&Token>, complaints: &mut Complaints) {
        let patience = tokio::time::Instant::now() + WRITTEN_BEHIND;
        let mut rows = self.database.analytics_rows_after(self.seen.1).await;
        while rows.len() < exchange.analytics_rows.len() && tokio::time::Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(20)).await;
            rows = self.database.analytics_rows_after(self.seen.1).await;
        }
        complaints.same("number of analytics rows", &rows.len(), &exchange.analytics_rows.len());
        for (row, recorded) in rows.iter().zip(&exchange.analytics_rows) {
            same_columns(row, recorded, &["id", "event_timestamp"], complaints);
            for (column, value) in recorded {
                let value = recorded_value(value);
                let expected = match (column.as_str(), value.as_deref()) {
                    ("response_time", Some("set")) => {
                        complaints.demand(row.get(column).is_some(), || "response_time is NULL".to_owned());
                        continue;
                    }
                    ("user_id", Some(_)) => Some(self.user.id.to_string()),
                    ("token_id", Some("set")) => token.map(|token| token.id.to_string()),
                    ("token_family", Some("set")) => token.map(|token| token.token_family.clone()),
                    ("token_family", Some("empty")) => Some(String::new()),
                    ("request_path", Some(path)) => Some(self.stored_path(path, token)),
                    _ => value,
                };
                complaints.same(column, &row.get(column).map(str::to_owned), &expected);
            }
        }
        self.seen.1 = rows.last().map_or(self.seen.1, id_of);
    }

    /// The recorded path with this exchange's token instead of the recorded one, or without the
    /// query that contained it.
    fn stored_path(&self, recorded: &str, token: Option<&Token>) -> String {
        let home_path = self.home.splitn(4, '/').nth(3).map_or_else(String::new, |path| format!("/{path}"));
        match (recorded.split_once("?refresh_token="), token) {
            (Some((path, _)), _) if self.differences.has(Difference::QueryCut) => format!("{home_path}{path}"),
            (Some((path, _)), Some(token)) => format!("{home_path}{path}?refresh_token={}", token.refresh_token),
            _ => format!("{home_path}{recorded}"),
        }
    }

    /// `issued_at`, `expires_at` and `refresh_token_expires_at` of a row as Unix times.
    async fn times(&self, row: &Row) -> Vec<i64> {
        let mut times = Vec::new();
        for column in ["issued_at", "expires_at", "refresh_token_expires_at"] {
            let value = row.get(column).unwrap_or("NULL");
            let sql = format!("SELECT TIMESTAMPDIFF(SECOND, '1970-01-01 00:00:00', '{value}') AS at");
            let at = self.database.rows(&sql).await;
            times.push(at.first().and_then(|row| row.get("at")).and_then(|at| at.parse().ok()).unwrap_or(i64::MIN));
        }
        times
    }
}

struct Pair {
    jwt: String,
    refresh_token: String,
}

/// The row must have the recorded columns and, in addition, only those that the recording omits.
fn same_columns(row: &Row, recorded: &Map<String, Value>, left_out: &[&str], complaints: &mut Complaints) {
    let actual: Vec<&str> = row.columns().filter(|column| !left_out.contains(column)).collect();
    let expected: Vec<&str> = recorded.keys().map(String::as_str).filter(|column| !left_out.contains(column)).collect();
    complaints.same("columns", &actual, &expected);
}

fn recorded_value(value: &Value) -> Option<String> {
    value.as_str().filter(|value| *value != "NULL").map(str::to_owned)
}

fn id_of(row: &Row) -> u64 {
    row.get("id").and_then(|id| id.parse().ok()).expect("an id")
}

/// The claims, without checking the signature: [`Session::compare_jwt`] has done that.
fn claims_of(jwt: &str) -> Value {
    jsonwebtoken::dangerous::insecure_decode::<Value>(jwt).map_or(Value::Null, |decoded| decoded.claims)
}

fn is_hex(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
