//! What a rotation stores, and its outcome.
//!
//! The new refresh token is made once, before the first attempt, so that an attempt with an unknown
//! outcome can be recognised.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

use super::recent::Recent;
use super::store::{Child, LockedRow};
use super::user_cache::UserCache;
use crate::declared::{User, Values};
use crate::verify::Verification;
use crate::verify::origins::Cors;
use crate::verify::verdict::Class;
use crate::wordpress::access_token::{ClaimsInput, SignerError, wp_hash};
use crate::wordpress::home::Home;
use crate::wordpress::site::{Site, Sites};
use crate::wordpress::text;

/// The most issuers that a token is made for to find a pair again: with RSA each takes up to a
/// millisecond.
const MOST_ISSUERS: usize = 16;

/// Everything that is to be stored, except what depends on the row.
pub struct Plan {
    pub token: String,
    /// The new refresh token.
    pub refresh_token: String,
    /// Unix seconds.
    pub issued_at: u64,
    /// The site's home URL on the call's host.
    pub home: Arc<Home>,
    /// Provides the home URLs on other hosts: see [`Plan::issuers`].
    pub sites: Arc<Sites>,
    /// Whether calls of this class are native.
    pub verification: Arc<Verification>,
    pub class: Class,
    /// The response's fields for an app's origin.
    pub agreed: Option<Arc<Cors>>,
    /// Which replays are native whatever the verdict.
    pub replays: Replays,
    /// Whether a refusal is sent to the client. If not, WordPress answers, and writes the analytics
    /// row itself.
    pub refuses: bool,
    /// Settings, keys and columns.
    pub site: Arc<Site>,
    /// As stored in the column.
    pub user_agent: String,
    pub client: IpAddr,
    /// The access token, signed by [`Plan::sign_early`] or by the first attempt.
    pub signed: OnceLock<Signed>,
    /// Where the access token is kept for a while; `None` if it can be made again, or is never
    /// given twice.
    pub recent: Option<Arc<Recent>>,
    pub user_cache: Arc<UserCache>,
}

/// Which pairs a used token may get although calls are not native.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Replays {
    /// Nothing.
    None,
    /// A pair that the sidecar itself has issued before the verdict changed: WordPress would refuse
    /// the token and end the session.
    Own,
    /// Also WordPress's pair that another call has just got, and which equals the sidecar's.
    Any,
}

/// Declared claims: their paths and values.
type Claims = Vec<(Vec<String>, Value)>;

/// An access token for a user, and its hash.
// SECURITY: no Debug. It is the token.
pub struct Signed {
    user_id: u64,
    /// The claims declared for the user at that time.
    claims: Claims,
    access_token: String,
    hash: String,
}

impl Plan {
    /// Signs the access token early if that takes microseconds, before the rows of a group are
    /// locked. If the row turns out to belong to another user, or the user's claims are not those
    /// of the last token, it is signed again; if nothing is rotated, it is unused.
    pub fn sign_early(&self, user_id: u64) {
        if self.site.signer.is_quick()
            && let Some(claims) = self.probable_claims(user_id)
            // An error here also occurs under the lock, and is reported there.
            && let Ok(signed) = self.sign(user_id, claims)
        {
            // After a second look-up it already has one.
            let _ = self.signed.set(signed);
        }
    }

    /// The claims that the user will probably have: declared ones are read with the locked row, but
    /// seldom change. `None` if they are unknown.
    fn probable_claims(&self, user_id: u64) -> Option<Claims> {
        let declared = &self.site.declared;
        if !declared.claims_vary() {
            return Some(declared.claims_of_row(user_id));
        }
        let values = self.user_cache.claims(user_id)?;
        Some(declared.claims.iter().map(|claim| claim.path.clone()).zip(values).collect())
    }

    /// The possible issuers of this site's tokens, the current one first: with another host or
    /// scheme, the home URL may differ.
    pub fn issuers(&self) -> Vec<Arc<Home>> {
        let others = self.sites.homes().issuers().into_iter().filter(|home| home.url != self.home.url);
        [Arc::clone(&self.home)].into_iter().chain(others).take(MOST_ISSUERS).collect()
    }

    /// Whether the call is still native. Checked again when the response is decided.
    pub fn is_native(&self) -> bool {
        let Plan { verification, site, .. } = self;
        let is_proven = verification.is_of(site.makeup.tag()) && verification.is_native(self.class);
        !verification.is_on() || is_proven && self.agreed.as_ref().is_none_or(|cors| cors.holds())
    }

    /// The access token and the row that the rotation of `parent` adds. `values` are those declared
    /// for its user.
    ///
    /// # Errors
    /// The access token cannot be signed.
    pub fn child<'a>(&'a self, parent: &'a LockedRow, values: &Values) -> Result<(String, Child<'a>), SignerError> {
        let (access_token, hash) = self.signed(parent.user_id, &values.claims)?;
        if let Some((recent, family)) = self.recent.as_ref().zip(parent.family.as_deref()) {
            recent.put(family, &access_token);
        }
        let child = Child {
            parent: parent.id,
            hash,
            user_id: parent.user_id,
            issued_at: self.issued_at,
            expires_at: self.expires_at(),
            refresh_token: &self.refresh_token,
            refresh_token_lifetime: self.site.settings.refresh_token_expiration,
            family: parent.family.as_deref(),
            metadata: format!(r#"{{"user_agent":{}}}"#, text::json_ascii(&self.user_agent)),
            user_agent: &self.user_agent,
            ip_address: self.client.to_string(),
        };
        Ok((access_token, child))
    }

    /// The access token and its hash: the same for all attempts, unless the row's user or the
    /// declared values change between two of them.
    fn signed(&self, user_id: u64, claims: &Claims) -> Result<(String, String), SignerError> {
        let of = |signed: &Signed| (signed.access_token.clone(), signed.hash.clone());
        if let Some(signed) = self.signed.get().filter(|early| early.user_id == user_id && early.claims == *claims) {
            return Ok(of(signed));
        }
        if self.site.signer.is_quick() && self.site.declared.claims_vary() {
            let values: Vec<&Value> = claims.iter().map(|(_, value)| value).collect();
            self.user_cache.note_claims(user_id, &values);
        }
        let signed = self.sign(user_id, claims.clone())?;
        let both = of(&signed);
        // An early one stays in place.
        let _ = self.signed.set(signed);
        Ok(both)
    }

    fn sign(&self, user_id: u64, declared: Claims) -> Result<Signed, SignerError> {
        let claims = ClaimsInput {
            iss: &self.home.url,
            issued_at: self.issued_at,
            expires_at: self.expires_at(),
            user_id,
            refresh_token: &self.refresh_token,
            declared: &declared,
        };
        let access_token = self.site.signer.access_token(&claims)?;
        let hash = wp_hash(&access_token, &self.site.auth_salt);
        Ok(Signed { user_id, claims: declared, access_token, hash })
    }

    fn expires_at(&self) -> u64 {
        self.issued_at.saturating_add(self.site.settings.jwt_expiration)
    }
}

/// The outcome of a rotation.
pub enum Outcome {
    Rotated(Rotated),
    /// The row's token was used or revoked.
    Used(Used),
    /// The row's token has expired.
    Expired,
    /// The row's user does not exist.
    UserNotFound,
    /// The row does not contain the token (any more).
    NotThisRow,
    /// It is not verified that WordPress would do the same, for this reason. Nothing was written.
    Unverified(String),
}

/// A stored rotation.
pub struct Rotated {
    pub access_token: String,
    pub user: User,
    /// The declared fields of the response.
    pub fields: Vec<(Vec<String>, Value)>,
    pub family: Option<String>,
    /// The row that was revoked.
    pub parent: u64,
    /// The new row, if its id is known.
    pub child: Option<u64>,
}

/// A token that was found revoked. The table does not distinguish an exchanged token from one that
/// was logged out.
pub struct Used {
    pub id: u64,
    pub user_id: u64,
    pub family: Option<String>,
    /// Seconds since then; `None` if the table has no date.
    pub revoked_for: Option<i64>,
    /// The token itself has expired.
    pub expired: bool,
}
