//! Judges by one row whether the plugin alone has written it. Pure.

use serde_json::Value;

use crate::config::Secret;
use crate::declared::Declared;
use crate::refresh::row_proof::other_claims;
use crate::verify::difference::{Difference, Kind};
use crate::wordpress::access_token::{ClaimsInput, Proof, Signer};

/// Seconds by which two times may differ that the plugin reads one after the other.
const STEP: i64 = 2;

/// The same if it signs in between, on an overloaded machine.
const LATE: i64 = 30;

/// Seconds by which a token may seem to be issued in the future.
const AHEAD: u64 = 5;

/// How many members of `metadata` are named.
const NAMED: usize = 3;

/// A row of the token table.
// SECURITY: no Debug. It holds a token.
#[derive(Clone)]
pub struct Written {
    pub id: u64,
    pub user_id: u64,
    pub hash: Vec<u8>,
    /// Unix seconds, like the next two; `None` if the column contains no time.
    pub issued_at: Option<u64>,
    pub expires_at: Option<u64>,
    /// `None` or empty: the plugin has not completed the row yet.
    pub refresh_token: Option<Vec<u8>>,
    pub refresh_expires_at: Option<u64>,
    pub blog_id: Option<u64>,
    /// `None` if it is longer than the plugin's can be.
    pub metadata: Option<Vec<u8>>,
    /// Seconds from the database's current time to `issued_at`, when the row was read.
    pub ahead: Option<i64>,
}

impl Written {
    /// Whether the plugin has completed it.
    pub fn is_whole(&self) -> bool {
        self.refresh_token.as_ref().is_some_and(|token| !token.is_empty()) && self.refresh_expires_at.is_some()
    }
}

/// What rows are judged by.
pub struct Expected<'a> {
    pub signer: &'a Signer,
    pub auth_salt: &'a Secret,
    /// The site's setting, in seconds.
    pub jwt_expiration: u64,
    pub refresh_token_expiration: u64,
    /// The home URLs, the most likely first.
    pub issuers: &'a [String],
    /// Whether there may be others.
    pub may_have_other_issuers: bool,
    /// What the site's own code adds.
    pub declared: &'a Declared,
    /// Seconds that PHP's clock may be ahead of the database's, if known.
    pub php_is_ahead: Option<u64>,
    /// Seconds by which two of the clocks that issue tokens differ.
    pub apart: u64,
}

/// The result for a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    pub proof: Proof,
    /// The first thing that the plugin alone would not have written.
    pub fault: Option<Difference>,
    /// Whether only the clocks indicate a difference.
    pub is_ahead: bool,
    /// An oddity that a client may have caused.
    pub note: Option<&'static str>,
    /// The access token's lifetime, in seconds.
    pub lifetime: Option<i64>,
}

/// Judges `row`. `proves`: whether its access token is signed again; otherwise its claims are
/// unknown.
pub fn judge(row: &Written, expected: &Expected<'_>, proves: bool) -> Judged {
    let proof = if proves { proof(row, expected) } else { Proof::Unknown };
    let lifetime = seconds_between(row.issued_at, row.expires_at);
    let mut judged = Judged { proof, fault: None, is_ahead: false, note: None, lifetime };
    // A sidecar has written it, by a different clock.
    if proof == Proof::Ours {
        return judged;
    }
    let metadata = metadata(row.metadata.as_deref());
    judged.note = metadata.as_ref().err().copied();
    judged.fault = (proof == Proof::Foreign)
        .then(|| other_claims(row.id))
        .or_else(|| lifetime_fault("lifetime", lifetime, expected.jwt_expiration, STEP))
        .or_else(|| {
            let lifetime = seconds_between(row.issued_at, row.refresh_expires_at);
            // A sidecar that cannot be distinguished from PHP issues by the slowest clock, while
            // this time is by the database's.
            let late = LATE.saturating_add(i64::try_from(expected.apart).unwrap_or(i64::MAX));
            let setting = expected.refresh_token_expiration;
            let fault = || lifetime_fault("refresh token's lifetime", lifetime, setting, late);
            row.is_whole().then(fault).flatten()
        })
        .or_else(|| (row.blog_id != Some(1)).then(|| Difference::new(Kind::Row, "column blog_id")))
        .or_else(|| metadata.ok().flatten().map(|members| Difference::new(Kind::Row, members)));
    if judged.fault.is_none()
        && let Some((ahead, most)) = row.ahead.zip(expected.php_is_ahead)
        && ahead > i64::try_from(most.saturating_add(AHEAD)).unwrap_or(i64::MAX)
    {
        judged.is_ahead = true;
        judged.fault = Some(Difference::new(Kind::Claim, format!("claim iat {ahead} s ahead of the clocks")));
    }
    judged
}

fn proof(row: &Written, expected: &Expected<'_>) -> Proof {
    let text = |bytes| str::from_utf8(bytes).ok();
    let refresh_token = row.refresh_token.as_deref().and_then(text).unwrap_or_default();
    let proof = match (row.issued_at, row.expires_at, text(&row.hash)) {
        (Some(issued_at), Some(expires_at), Some(hash)) => {
            let declared = &expected.declared.claims_of_row(row.user_id);
            let claims = ClaimsInput { iss: "", issued_at, expires_at, user_id: row.user_id, refresh_token, declared };
            expected.signer.prove(&claims, expected.issuers, hash, expected.auth_salt)
        }
        _ => Proof::Foreign,
    };
    if proof == Proof::Foreign && (expected.may_have_other_issuers || expected.declared.claims_vary()) {
        Proof::Unknown
    } else {
        proof
    }
}

/// `late`: by how many seconds it may be longer.
fn lifetime_fault(of: &str, lifetime: Option<i64>, setting: u64, late: i64) -> Option<Difference> {
    let difference = |said: String| Some(Difference::new(Kind::Lifetime, format!("{of} {said}")));
    let Some(lifetime) = lifetime else { return difference("of no number of seconds".to_owned()) };
    let off = lifetime.saturating_sub(i64::try_from(setting).unwrap_or(i64::MAX));
    if (-STEP..=late).contains(&off) {
        return None;
    }
    difference(format!("{lifetime} s, the setting says {setting} s"))
}

fn seconds_between(from: Option<u64>, to: Option<u64>) -> Option<i64> {
    let (from, to) = (i64::try_from(from?).ok()?, i64::try_from(to?).ok()?);
    to.checked_sub(from)
}

/// Describes the members of `metadata` that are not the plugin's.
///
/// # Errors
/// An oddity: with some User-Agents of clients, PHP writes something else.
fn metadata(metadata: Option<&[u8]>) -> Result<Option<String>, &'static str> {
    const ODD: &str = "column metadata: no JSON object with a user_agent";
    let Some(Ok(Value::Object(members))) = metadata.map(serde_json::from_slice) else { return Err(ODD) };
    let others: Vec<&str> = members.keys().map(String::as_str).filter(|name| *name != "user_agent").collect();
    if others.is_empty() {
        return if members.contains_key("user_agent") { Ok(None) } else { Err(ODD) };
    }
    // SECURITY: a name that the site's code makes of something else is not shown.
    let is_plain = |name: &&&str| {
        name.len() <= 32 && name.bytes().all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'_' | b'-'))
    };
    let named: String = others.iter().filter(is_plain).take(NAMED).map(|name| format!(" +{name}")).collect();
    let named = if named.is_empty() { " +a member".to_owned() } else { named };
    Ok(Some(format!("column metadata{named}")))
}

#[cfg(test)]
mod tests;
