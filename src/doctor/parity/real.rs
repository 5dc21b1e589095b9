//! One real refresh by WordPress, compared with the sidecar's response for the same token.
//!
//! WordPress rotates the token. The sidecar's response is made by its usual code from the same row
//! and user, but with a refresh token that is not stored. The request is only sent if the token is
//! live and the sidecar would answer the request itself.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mysql_async::Row;
use sha2::{Digest as _, Sha256};

use super::differences::{Differences, WordPress, differences};
use super::{Case, native, random_hex};
use crate::config::Secret;
use crate::declared::User;
use crate::doctor::address;
use crate::doctor::client::{self, Answer, SiteAddress};
use crate::finding::{Area, Finding};
use crate::net::dial::Dialer;
use crate::refresh::Refresher;
use crate::refresh::response::{Cors, Pair, Reply, ReplyContext, response};
use crate::wordpress::access_token::{ClaimsInput, new_refresh_token};
use crate::wordpress::database::{DatabaseError, column};
use crate::wordpress::site::Site;

/// The id of its findings.
pub const ID: &str = "parity.refresh";

/// The longest token that the column holds.
const LONGEST: usize = 255;

/// How often to look for the row that WordPress has added, perhaps through another server.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// The time limit of a query, which may read the whole table for the token.
const LIMIT: Duration = Duration::from_secs(10);

/// Why WordPress was not asked.
enum NotAsked {
    /// The plugin does not issue such tokens.
    NoToken,
    Database(DatabaseError),
    Dead(&'static str),
    /// The sidecar would leave the call to WordPress.
    Left(String),
    Failed(String),
}

/// The row of a token.
struct TokenRow {
    id: u64,
    user: User,
}

/// The finding if the token could not be used.
pub fn not_used() -> Finding {
    let what = "the token of --with-token was not used: what a refresh needs does not work";
    Finding::warning(Area::Parity, ID, what, "See the findings above; the token is unchanged.")
}

/// Lets WordPress refresh `token`.
pub async fn look(
    refresher: &Arc<Refresher>,
    dialer: &Dialer,
    site: &Site,
    place: &SiteAddress,
    token: &Secret,
) -> Vec<Finding> {
    let name = name_of(token);
    let found = async {
        let row = find(refresher, token).await?;
        let sidecar = prepare(refresher, site, place, &row).await?;
        Ok::<_, NotAsked>((row, sidecar))
    };
    let (row, sidecar) = match found.await {
        Ok(found) => found,
        Err(why) => return vec![not_asked(&name, &why)],
    };
    let answer = match ask(dialer, place, token).await {
        Ok(answer) => answer,
        Err(error) => {
            let what = format!(
                "WordPress gave no answer to the refresh of the token {name}: {error}. Whether it is used up is not known"
            );
            return vec![Finding::problem(
                Area::Parity,
                ID,
                what,
                "See the findings about the web server, and PHP's error log.",
            )];
        }
    };
    let stored = match refresher.store.database.within(LIMIT, stored(refresher, &answer, row.id)).await {
        Ok(stored) => stored,
        Err(error) => {
            let what =
                format!("WordPress answered the refresh of the token {name}, but its rows could not be read: {error}");
            return vec![Finding::warning(
                Area::Parity,
                ID,
                what,
                "See the findings about the database, and try it with another token.",
            )];
        }
    };
    let found = differences(&WordPress { answer: &answer, stored: stored.as_ref() }, &sidecar, site);
    vec![judge(&name, &found)]
}

/// SECURITY: the only part of the token that is ever shown, of its hash.
fn name_of(token: &Secret) -> String {
    let digest = Sha256::digest(token.expose().as_bytes());
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

async fn find(refresher: &Refresher, token: &Secret) -> Result<TokenRow, NotAsked> {
    let text = token.expose();
    if text.is_empty() || text.len() > LONGEST || !text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(NotAsked::NoToken);
    }
    let store = &refresher.store;
    let read = async {
        let mut session = store.database.session().await?;
        let statement = format!(
            "SELECT id, user_id, revoked_at IS NOT NULL, COALESCE(refresh_token_expires_at > UTC_TIMESTAMP(), 0) FROM \
             {} WHERE refresh_token_hash = ? ORDER BY id LIMIT 1",
            store.tokens
        );
        let row: Option<Row> = session.conn().exec_first(statement, (text,)).await?;
        let Some(mut row) = row else {
            return Ok(Err(NotAsked::Dead("unknown: it is in no row of the plugin's table")));
        };
        let (id, user_id) = (column(&mut row, 0, "id")?, column(&mut row, 1, "user_id")?);
        let is_revoked: bool = column(&mut row, 2, "revoked_at")?;
        let is_live: bool = column(&mut row, 3, "refresh_token_expires_at")?;
        let user = store.user(&mut session, user_id).await?;
        session.give_back();
        Ok::<_, DatabaseError>(match (is_revoked, is_live, user) {
            (true, ..) => Err(NotAsked::Dead("used or revoked")),
            (false, false, _) => Err(NotAsked::Dead("expired")),
            (false, true, None) => Err(NotAsked::Dead("that of a user who does not exist")),
            (false, true, Some(user)) => Ok(TokenRow { id, user }),
        })
    };
    store.database.within(LIMIT, read).await.map_err(NotAsked::Database)?
}

/// Prepares the sidecar's response.
async fn prepare(
    refresher: &Arc<Refresher>,
    site: &Site,
    place: &SiteAddress,
    row: &TokenRow,
) -> Result<Answer, NotAsked> {
    let failed = |error: &dyn std::fmt::Display| NotAsked::Failed(error.to_string());
    let home = refresher.sites.home(site, place.scheme).map_err(|why| NotAsked::Left(why.to_string()))?;
    // Tests with an unknown token whether such a call is native at all.
    let random = random_hex().map_err(|error| failed(&error))?;
    let case = Case::of_token(&random);
    let request = case.request(place, address::CLIENT, client::USER_AGENT).map_err(|error| failed(&error))?;
    let refused = native(refresher, place, request).await.map_err(|error| failed(&error))?;
    let refused = refused.map_err(NotAsked::Left)?;
    if refused.status != 403 {
        return Err(NotAsked::Failed(format!("the sidecar answered an unknown token with {}", refused.status)));
    }
    let refresh_token = new_refresh_token().map_err(|error| failed(&error))?;
    let issued_at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let expires_in = site.settings.jwt_expiration;
    let values = site.values(&row.user).map_err(|uncertain| NotAsked::Left(uncertain.to_string()))?;
    let claims = ClaimsInput {
        iss: &home.url,
        issued_at,
        expires_at: issued_at.saturating_add(expires_in),
        user_id: row.user.id,
        refresh_token: &refresh_token,
        declared: &values.claims,
    };
    let access_token = site.signer.access_token(&claims).map_err(|error| failed(&error))?;
    let limit = site.settings.rate_limit;
    let client = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    let context = ReplyContext {
        api_link: home.api_link.as_ref(),
        cors: Cors::Own(None),
        expose_rate_limit: false,
        window: limit.map(|limit| refresher.rate_limiter.count_here(client, limit, issued_at)),
        fields: refresher.fields,
        omit: &site.declared.omit,
    };
    let user = row.user.clone();
    let rotated = Pair { access_token, refresh_token, expires_in, user, fields: values.fields };
    let (head, body) = response(&Reply::Pair(rotated), &context).into_parts();
    let now = SystemTime::now();
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body, sent: now, received: now })
}

async fn ask(dialer: &Dialer, place: &SiteAddress, token: &Secret) -> Result<Answer, client::ClientError> {
    let case = Case::of_token(token.expose());
    let request = case.request(place, address::CLIENT, client::USER_AGENT)?;
    client::ask(dialer, address::CLIENT.parse().ok(), request).await
}

/// The row that WordPress has stored for the refresh token of its response. `None` if there is
/// none.
async fn stored(refresher: &Refresher, answer: &Answer, parent: u64) -> Result<Option<Stored>, DatabaseError> {
    let body = serde_json::from_slice::<serde_json::Value>(&answer.body).ok();
    let Some(token) = body.as_ref().and_then(|body| body.get("refresh_token")?.as_str()) else { return Ok(None) };
    let store = &refresher.store;
    let statement = format!(
        "SELECT child.hash, parent.revoked_at IS NOT NULL, COALESCE(child.token_family = parent.token_family, 0), \
         child.user_id = parent.user_id FROM {0} child JOIN {0} parent ON parent.id = ? WHERE child.id > parent.id \
         AND child.refresh_token_hash = ? LIMIT 1",
        store.tokens
    );
    for attempt in 0..TRIES {
        if attempt > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let mut session = store.database.session().await?;
        let row: Option<Row> = session.conn().exec_first(statement.as_str(), (parent, token)).await?;
        session.give_back();
        if let Some(mut row) = row {
            return Ok(Some(Stored {
                hash: column(&mut row, 0, "hash")?,
                parent_is_revoked: column(&mut row, 1, "revoked_at")?,
                is_of_family: column(&mut row, 2, "token_family")?,
                is_of_user: column(&mut row, 3, "user_id")?,
            }));
        }
    }
    Ok(None)
}

/// The row that WordPress added.
pub struct Stored {
    /// The hash of the access token, as WordPress stores it.
    pub hash: String,
    /// Whether the presented token is used up.
    pub parent_is_revoked: bool,
    /// Whether the new row has the same family.
    pub is_of_family: bool,
    /// Whether the new row has the same user.
    pub is_of_user: bool,
}

fn not_asked(name: &str, why: &NotAsked) -> Finding {
    let unused = "nothing was sent to WordPress";
    match why {
        NotAsked::NoToken => Finding::warning(
            Area::Parity,
            ID,
            format!(
                "--with-token was given no refresh token of the plugin's (letters and digits, at most {LONGEST}); {unused}"
            ),
            "Log in, and take the refresh_token of the answer.",
        ),
        NotAsked::Dead(what) => Finding::warning(
            Area::Parity,
            ID,
            format!("the refresh token {name} is {what}; {unused}"),
            "Log in, and take the refresh_token of the answer.",
        ),
        NotAsked::Left(why) => Finding::warning(
            Area::Parity,
            ID,
            format!(
                "the sidecar would leave the refresh of the token {name} to WordPress ({why}): there is nothing to \
                 compare; {unused}"
            ),
            "See the findings about the database, the plugin and the web server.",
        ),
        NotAsked::Database(error) => Finding::problem(
            Area::Parity,
            ID,
            format!("the row of the refresh token {name} cannot be read: {error}; {unused}"),
            "See the findings about the database.",
        ),
        NotAsked::Failed(why) => Finding::problem(
            Area::Parity,
            ID,
            format!("the sidecar's answer to the refresh token {name} cannot be made: {why}; {unused}"),
            "See the findings about the signing key and the web server.",
        ),
    }
}

/// Pure.
fn judge(name: &str, found: &Differences) -> Finding {
    let gone = "The new pair is shown and kept nowhere: the client of this token has to log in again.";
    let alike = "Different on purpose, and left out: members that only the sidecar sends (refresh.response_fields), \
                 its claim jti and its Cache-Control, the plugin's Retry-After, and how far the rate limit is \
                 counted.";
    if found.is_refused {
        let what = format!("WordPress refused the live refresh token {name}, which the sidecar would have refreshed");
        let fix = "Code of the site's own, another plugin or the licence refuses. Where that is meant so, set \
                    refresh.mode to \"forward\".";
        return Finding::problem(Area::Parity, ID, what, fix).with_lines(found.lines.clone());
    }
    if found.lines.is_empty() {
        let what = format!(
            "WordPress refreshed the token {name}, and the sidecar would have said the same: {}",
            found.compared
        );
        return Finding::ok(Area::Parity, ID, what).with_hint(format!("{gone} {alike}"));
    }
    let what = format!(
        "WordPress refreshed the token {name}, and the sidecar would have answered differently ({} compared)",
        found.compared
    );
    let fix = match found.is_serious {
        true => {
            "If clients go by what differs, set refresh.mode to \"forward\"; code of the site's own, or another \
             version of the plugin, makes the difference."
        }
        false => {
            "What the web server adds to all responses belongs in the configuration of the server in front of the sidecar."
        }
    };
    let finding = if found.is_serious { Finding::problem } else { Finding::warning };
    finding(Area::Parity, ID, what, format!("{fix} {gone} {alike}")).with_lines(found.lines.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Level;

    #[test]
    fn a_token_is_named_by_its_hash_only() {
        // printf %s abc | sha256sum
        assert_eq!(name_of(&Secret::new("abc")), "ba7816bf");
    }

    #[test]
    fn differences_are_judged_by_what_clients_go_by() {
        let found = |lines: &[&str], is_serious, is_refused| Differences {
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
            compared: "4 members".to_owned(),
            is_serious,
            is_refused,
        };
        let finding = judge("ba7816bf", &found(&[], false, false));
        assert_eq!(finding.level, Level::Ok);
        assert!(finding.fix.is_some_and(|hint| hint.contains("has to log in again")));
        assert_eq!(judge("x", &found(&["x-a: 1 — only from WordPress"], false, false)).level, Level::Warning);
        assert_eq!(judge("x", &found(&["member roles"], true, false)).level, Level::Problem);
        assert_eq!(judge("x", &found(&["status 403"], true, true)).level, Level::Problem);
        assert_eq!(not_asked("x", &NotAsked::Dead("expired")).level, Level::Warning);
        assert_eq!(not_used().level, Level::Warning);
    }
}
