//! What a rotation is to store, and how it ended.
//!
//! The new refresh token is made once, before the first attempt, so that an attempt whose outcome is unknown can be recognized.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

use super::recent::Recent;
use super::store::{Child, LockedRow};
use crate::declared::{User, Values};
use crate::verify::Verification;
use crate::verify::origins::Cors;
use crate::verify::verdict::Class;
use crate::wordpress::access_token::{ClaimsInput, SignerError, wp_hash};
use crate::wordpress::home::Home;
use crate::wordpress::site::{Site, Sites};
use crate::wordpress::text;

/// A token is made for each of them where a pair is to be found again, which takes up to a millisecond with RSA.
const MOST_ISSUERS: usize = 16;

/// What is to be stored, save what only the row tells.
pub struct Plan {
    pub token: String,
    /// The one it gets in its place.
    pub refresh_token: String,
    /// Unix seconds.
    pub issued_at: u64,
    /// The site's home on the call's host.
    pub home: Arc<Home>,
    /// What WordPress has said of its home elsewhere is asked of them: see [`Plan::issuers`].
    pub sites: Arc<Sites>,
    /// Whether calls of this kind are answered here at all.
    pub verification: Arc<Verification>,
    pub class: Class,
    /// What the answer says to an app's origin.
    pub agreed: Option<Arc<Cors>>,
    /// What is native whatever the verdict.
    pub replays: Replays,
    /// Whether a refusal is the client's answer. Where it is not, WordPress answers, and notes the call itself.
    pub refuses: bool,
    /// Settings, keys and columns.
    pub site: Arc<Site>,
    /// As it is stored in the column.
    pub user_agent: String,
    pub client: IpAddr,
    /// What it was signed as: by [`Plan::sign_early`], or by the first attempt.
    pub signed: OnceLock<Signed>,
    /// Where its access token is kept for a while; `None` where it can be made again, or is never given twice.
    pub recent: Option<Arc<Recent>>,
}

/// What a used token may get although calls are not native.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Replays {
    /// Nothing.
    None,
    /// The pair that the sidecar has given before it was in doubt: WordPress would refuse the token, and end its session.
    Own,
    /// Also WordPress's pair, which another call has just got: it was what the sidecar would have given.
    Any,
}

/// An access token for a user, and its hash.
// SECURITY: no Debug. It is the token.
#[derive(Clone)]
pub struct Signed {
    user_id: u64,
    /// What was declared of the user then.
    claims: Vec<(Vec<String>, Value)>,
    access_token: String,
    hash: String,
}

impl Plan {
    /// Signs the access token where that takes microseconds, so that it is done before the rows of a group are locked. Should the row
    /// turn out to be another user's, it is signed again; should nothing be rotated, it was in vain. Declared claims are read with
    /// the locked row.
    pub fn sign_early(&self, user_id: u64) {
        if self.site.signer.is_quick()
            && self.site.declared.claims.is_empty()
            // What fails here fails under the lock, too, and is told there.
            && let Ok(signed) = self.sign(user_id, &[])
        {
            // Looked up for a second time, it has one already.
            let _ = self.signed.set(signed);
        }
    }

    /// Who may have issued a token of this site's, the one that would now first: on another host, or by another scheme, the home
    /// URL may be another.
    pub fn issuers(&self) -> Vec<Arc<Home>> {
        let others = self.sites.homes().issuers().into_iter().filter(|home| home.url != self.home.url);
        [Arc::clone(&self.home)].into_iter().chain(others).take(MOST_ISSUERS).collect()
    }

    /// Whether the call is still answered here. Asked again where the answer is decided.
    pub fn is_native(&self) -> bool {
        let Plan { verification, site, .. } = self;
        let is_proven = verification.is_of(site.makeup.tag()) && verification.is_native(self.class);
        !verification.is_on() || is_proven && self.agreed.as_ref().is_none_or(|cors| cors.holds())
    }

    /// The access token and the row that the rotation of `parent` adds. `values`: what is declared of its user.
    ///
    /// # Errors
    /// The access token cannot be signed.
    pub fn child<'a>(&'a self, parent: &'a LockedRow, values: &Values) -> Result<(String, Child<'a>), SignerError> {
        let Signed { access_token, hash, .. } = self.signed(parent.user_id, &values.claims)?;
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

    /// The same for all attempts, unless the row becomes another user's between two of them, or what is declared of the user
    /// changes.
    fn signed(&self, user_id: u64, claims: &[(Vec<String>, Value)]) -> Result<Signed, SignerError> {
        match self.signed.get() {
            Some(signed) if signed.user_id == user_id && signed.claims == claims => Ok(signed.clone()),
            _ => {
                let signed = self.sign(user_id, claims)?;
                // It may have one for another user, which stays.
                let _ = self.signed.set(signed.clone());
                Ok(signed)
            }
        }
    }

    fn sign(&self, user_id: u64, declared: &[(Vec<String>, Value)]) -> Result<Signed, SignerError> {
        let claims = ClaimsInput {
            iss: &self.home.url,
            issued_at: self.issued_at,
            expires_at: self.expires_at(),
            user_id,
            refresh_token: &self.refresh_token,
            declared,
        };
        let access_token = self.site.signer.access_token(&claims)?;
        let hash = wp_hash(&access_token, &self.site.auth_salt);
        Ok(Signed { user_id, claims: declared.to_vec(), access_token, hash })
    }

    fn expires_at(&self) -> u64 {
        self.issued_at.saturating_add(self.site.settings.jwt_expiration)
    }
}

/// How a rotation ended.
pub enum Outcome {
    Rotated(Rotated),
    /// The row's token was used or revoked.
    Used(Used),
    /// The row's token has expired.
    Expired,
    /// The row's user does not exist.
    UserNotFound,
    /// The row does not hold the token (any more).
    NotThisRow,
    /// It is not verified that WordPress would do the same, for this reason; nothing was written.
    Unverified(String),
}

/// A stored rotation.
pub struct Rotated {
    pub access_token: String,
    pub user: User,
    /// What is declared of the answer.
    pub fields: Vec<(Vec<String>, Value)>,
    pub family: Option<String>,
    /// The row that was revoked.
    pub parent: u64,
    /// The new row, where its id is known.
    pub child: Option<u64>,
}

/// A token that was found revoked. The table does not tell one that was exchanged from one that was logged out.
pub struct Used {
    pub id: u64,
    pub user_id: u64,
    pub family: Option<String>,
    /// Seconds since then; `None` where the table holds no date.
    pub revoked_for: Option<i64>,
    /// The token's own time is over.
    pub expired: bool,
}
