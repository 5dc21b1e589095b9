//! A made-up WordPress with the plugin: it answers refreshes from the site's own tables as the
//! recorded exchanges have them, and the site's own code may change anything of it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use mysql_async::prelude::Queryable as _;
use serde_json::{Map, Value, json};

use crate::support::mariadb::{TestDatabase, random_hex};
use crate::support::raw::{Message, Upstream};
use crate::support::rig::{AUTH_KEY, AUTH_SALT, HOME, SECRET};

/// A refresh before it is stored.
pub struct Making {
    pub header: Value,
    pub claims: Map<String, Value>,
    pub key: &'static str,
    pub salt: String,
    pub refresh_lifetime: u32,
    pub blog_id: u32,
    pub metadata: Value,
    pub ip_address: &'static str,
    pub stores: bool,
    pub revokes: bool,
    pub analyses: bool,
}

/// An answer before it is sent.
pub struct Answer {
    pub status: u16,
    pub fields: Vec<(&'static str, String)>,
    pub body: Value,
}

impl Answer {
    pub fn set(&mut self, name: &str, value: Value) {
        self.body.as_object_mut().unwrap().insert(name.to_owned(), value);
    }

    pub fn remove(&mut self, name: &str) {
        self.body.as_object_mut().unwrap().shift_remove(name);
    }
}

/// The site's own code.
#[derive(Clone, Copy)]
pub struct Code {
    pub making: fn(&mut Making),
    pub success: fn(&mut Answer),
    pub refusal: fn(&mut Answer),
    /// Of every answer: the web server.
    pub any: fn(&mut Answer),
}

pub const NONE: Code = Code { making: |_| (), success: |_| (), refusal: |_| (), any: |_| () };

/// The web server's side of it.
pub struct WordPress {
    pub upstream: Upstream,
    code: Arc<Mutex<Code>>,
}

impl WordPress {
    /// Before `database`. Does `hold` with each refresh that is stored, before its answer.
    pub fn held(database: &TestDatabase, code: Code, hold: impl Fn() + Send + Sync + 'static) -> WordPress {
        let code = Arc::new(Mutex::new(code));
        let (site, table) = (Arc::clone(&code), TestDatabase::open(database.url(), database.prefix()));
        let upstream = Upstream::answering(move |request| {
            let code = *site.lock().unwrap_or_else(PoisonError::into_inner);
            let mut answer = answer(request, &table, &code, &hold);
            (code.any)(&mut answer);
            bytes(&answer)
        });
        WordPress { upstream, code }
    }

    pub fn set(&self, code: Code) {
        *self.code.lock().unwrap() = code;
    }

    pub fn address(&self) -> SocketAddr {
        self.upstream.address()
    }

    /// How many refreshes came here.
    pub fn refreshes(&self) -> usize {
        self.upstream.requests().iter().filter(|request| request.start_line().contains("token/refresh")).count()
    }
}

fn bytes(answer: &Answer) -> String {
    let body = match &answer.body {
        Value::String(page) => page.clone(),
        body => body.to_string().replace('/', r"\/"),
    };
    let fields: String = answer.fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("HTTP/1.1 {} Made-Up\r\n{fields}Content-Length: {}\r\n\r\n{body}", answer.status, body.len())
}

fn answer(request: &Message, database: &TestDatabase, code: &Code, hold: &impl Fn()) -> Answer {
    let line = request.start_line();
    let mut answer = Answer { status: 200, fields: vec![("Server", "made-up".to_owned())], body: json!({}) };
    if line.contains("_fields=home,namespaces") {
        answer.body = json!({"home": HOME, "namespaces": ["jwt-auth/v1"]});
    } else if line.contains("token/refresh") {
        let usual = [
            ("Content-Type", "application/json; charset=UTF-8"),
            ("X-Robots-Tag", "noindex"),
            ("Link", "<http://shop.example/wp-json/>; rel=\"https://api.w.org/\""),
            ("X-Content-Type-Options", "nosniff"),
            ("Access-Control-Expose-Headers", "X-WP-Total, X-WP-TotalPages, Link"),
            (
                "Access-Control-Allow-Headers",
                "Authorization, X-WP-Nonce, Content-Disposition, Content-MD5, Content-Type",
            ),
            ("Allow", "POST"),
        ];
        answer.fields.extend(usual.map(|(name, value)| (name, value.to_owned())));
        if let Some(origin) = request.value("origin") {
            answer.fields.push(("Access-Control-Allow-Origin", origin));
            let methods = "OPTIONS, GET, POST, PUT, PATCH, DELETE";
            answer.fields.push(("Access-Control-Allow-Methods", methods.to_owned()));
            answer.fields.push(("Access-Control-Allow-Credentials", "true".to_owned()));
            answer.fields.push(("Vary", "Origin".to_owned()));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let token = request.json()["refresh_token"].as_str().unwrap_or_default().to_owned();
        match runtime.block_on(refresh(database, &token, code)) {
            Some(body) => {
                answer.body = body;
                (code.success)(&mut answer);
                hold();
            }
            None => {
                answer.status = 403;
                let code = "jwt_auth_invalid_refresh_token";
                answer.body = json!({"code": code, "message": "Invalid refresh token.", "data": {"status": 403}});
            }
        }
        if answer.status == 403 {
            (code.refusal)(&mut answer);
        }
    } else {
        answer.body = Value::String("GIF89a".to_owned());
    }
    answer
}

async fn refresh(database: &TestDatabase, token: &str, code: &Code) -> Option<Value> {
    let (tokens, analytics) =
        (format!("{}jwt_auth_tokens", database.prefix()), format!("{}jwt_auth_analytics", database.prefix()));
    let mut connection = database.connect().await;
    let row: Option<(u64, u64, String)> = connection
        .exec_first(
            format!(
                "SELECT id, user_id, token_family FROM {tokens} WHERE refresh_token_hash = ? AND revoked_at IS NULL \
                 AND refresh_token_expires_at > UTC_TIMESTAMP()"
            ),
            (token,),
        )
        .await
        .unwrap();
    let (id, user_id, family) = row?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({
        "iss": HOME, "iat": now, "nbf": now, "exp": now + 604_800, "data": {"user": {"id": user_id.to_string()}},
    });
    let mut making = Making {
        header: json!({"typ": "JWT", "alg": "HS256"}),
        claims: claims.as_object().unwrap().clone(),
        key: SECRET,
        salt: format!("{AUTH_KEY}{AUTH_SALT}"),
        refresh_lifetime: 2_592_000,
        blog_id: 1,
        metadata: json!({"user_agent": ""}),
        ip_address: "127.0.0.1",
        stores: true,
        revokes: true,
        analyses: true,
    };
    (code.making)(&mut making);
    let coded = |value: &str| URL_SAFE_NO_PAD.encode(value);
    let unsigned =
        format!("{}.{}", coded(&making.header.to_string()), coded(&Value::Object(making.claims.clone()).to_string()));
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(making.key.as_bytes()).unwrap();
    mac.update(unsigned.as_bytes());
    let access_token = format!("{unsigned}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()));
    let mut mac = Hmac::<md5::Md5>::new_from_slice(making.salt.as_bytes()).unwrap();
    mac.update(access_token.as_bytes());
    let hash: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let refresh_token = random_hex::<16>();
    let claim = |name: &str| making.claims.get(name).and_then(Value::as_u64).unwrap();
    if making.revokes {
        let revoke = format!("UPDATE {tokens} SET revoked_at = UTC_TIMESTAMP() WHERE id = ?");
        connection.exec_drop(revoke, (id,)).await.unwrap();
    }
    if making.stores {
        let insert = format!(
            "INSERT INTO {tokens} (hash, user_id, issued_at, expires_at, refresh_token_hash, refresh_token_expires_at, \
             token_family, metadata, user_agent, ip_address, blog_id) VALUES (?, ?, '1970-01-01' + INTERVAL ? SECOND, \
             '1970-01-01' + INTERVAL ? SECOND, ?, UTC_TIMESTAMP() + INTERVAL ? SECOND, ?, ?, '', ?, ?)"
        );
        let values = (
            (hash, user_id, claim("iat"), claim("exp"), &refresh_token),
            (making.refresh_lifetime, family.as_str(), making.metadata.to_string(), making.ip_address, making.blog_id),
        );
        let ((a, b, c, d, e), (f, g, h, i, j)) = values;
        connection.exec_drop(insert, (a, b, c, d, e, f, g, h, i, j)).await.unwrap();
    }
    if making.analyses {
        let insert = format!(
            "INSERT INTO {analytics} (event_type, event_status, user_id, token_id, token_family, ip_address, user_agent, \
             country_code, request_path, request_method, response_time, blog_id, event_timestamp) \
             VALUES ('token_refresh', 1, ?, ?, ?, '127.0.0.1', '', '--', '', 'POST', 1, 1, UTC_TIMESTAMP())"
        );
        connection.exec_drop(insert, (user_id, id, family.as_str())).await.unwrap();
    }
    let expires_in = claim("exp").saturating_sub(now);
    Some(json!({
        "access_token": access_token, "expires_in": expires_in, "token_type": "Bearer", "refresh_token": refresh_token,
    }))
}
