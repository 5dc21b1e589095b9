//! The tokens of a refresh: the access JWT, its hash, and the new refresh token.
//!
//! The plugin's bearer check compares the claims and looks the JWT up by `wp_hash()`, so header and
//! claims are written here as by the plugin, with one more at the end: a `jti`. Without it, a login
//! and a refresh within one second would result in the same JWT, hence the same hash, and the new
//! token would be refused as revoked.
//!
//! HMAC keys are prepared once. With the other algorithms, the time goes into the signature itself,
//! which jsonwebtoken makes.

use std::cell::{LazyCell, RefCell};
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{DecodingKey, EncodingKey, crypto};
use md5::Md5;
use serde::Serialize;
use serde_json::Value;
use sha2::{Sha256, Sha384, Sha512};

use crate::config::{Algorithm, Secret};
use crate::declared;

/// What the key of the `jti` is derived for. Part of the sidecar's promise: a `jti` must be the
/// same after an update, otherwise tokens can no longer be rebuilt from their rows.
const JTI_PURPOSE: &[u8] = b"wp-jwt-sidecar jti v1";

/// Not a refresh token, so that no `jti` equals a fingerprint.
const FINGERPRINT_PURPOSE: &[u8] = b"wp-jwt-sidecar fingerprint v1 ";

/// An algorithm with its keys, ready to sign.
pub struct Signer {
    algorithm: Algorithm,
    key: SigningKey,
    /// `{"typ":"JWT","alg":…}` in base64url, and the dot after it.
    header: String,
    jti: Hmac<Sha256>,
}

enum SigningKey {
    Hs256(Hmac<Sha256>),
    Hs384(Hmac<Sha384>),
    Hs512(Hmac<Sha512>),
    Asymmetric(EncodingKey, jsonwebtoken::Algorithm),
}

/// The claims of an access token.
#[derive(Clone, Copy)]
pub struct ClaimsInput<'a> {
    /// The site's home URL, exactly as WordPress compares it.
    pub iss: &'a str,
    /// Unix seconds.
    pub issued_at: u64,
    /// Unix seconds.
    pub expires_at: u64,
    /// The user's `ID`.
    pub user_id: u64,
    /// The refresh token that is issued with it; the `jti` is derived from it.
    pub refresh_token: &'a str,
    /// The declared claims, each with its path, in order.
    pub declared: &'a [(Vec<String>, Value)],
}

/// Which program made a row's access token, as its hash shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// A sidecar with the same keys.
    Ours,
    /// The plugin, without the influence of any other code.
    Plain,
    /// Something is different: a claim, the issuer, the algorithm, the key or the salt.
    Foreign,
    /// Unknown: the signature cannot be made again.
    Unknown,
}

/// Why there is no signature. Always a fault of the configuration; no variant contains a key.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// HS… without a secret.
    #[error("{0} needs a secret: JWT_AUTH_SECRET_KEY in wp-config.php, or [jwt] secret")]
    NoSecret(Algorithm),
    /// RS…, ES…, EdDSA without a key.
    #[error("{0} needs a private key: [jwt] private_key_file")]
    NoPrivateKey(Algorithm),
    /// The PEM text is not a private key of the algorithm's kind.
    #[error(
        "the private key does not fit {algorithm}: {accepted} is accepted, unencrypted, in PEM \
         (`openssl pkcs8 -topk8 -nocrypt` converts others)"
    )]
    UnfitKey {
        /// The algorithm that the key is for.
        algorithm: Algorithm,
        /// The kind of key that is accepted.
        accepted: &'static str,
        source: jsonwebtoken::errors::Error,
    },
    /// A signature with the key does not verify with its own public half.
    #[error("a signature made with the private key for {0} does not verify")]
    Probe(Algorithm),
    /// The signature could not be made.
    #[error("cannot sign with {0}")]
    Sign(Algorithm, #[source] jsonwebtoken::errors::Error),
    /// The claims could not be written as JSON.
    #[error("cannot write the claims")]
    Claims(#[source] serde_json::Error),
}

impl Signer {
    /// Prepares the keys for `algorithm`: `secret` for HS256, HS384 and HS512, `private_key_pem`
    /// for the others. A private key is tested.
    ///
    /// # Errors
    /// The key that is needed is missing (an empty secret included) or does not fit.
    pub fn new(
        algorithm: Algorithm,
        secret: Option<&Secret>,
        private_key_pem: Option<&Secret>,
    ) -> Result<Self, SignerError> {
        use jsonwebtoken::Algorithm as Jwt;
        let secret = || match secret.map(|secret| secret.expose().as_bytes()) {
            Some(secret) if !secret.is_empty() => Ok(secret),
            _ => Err(SignerError::NoSecret(algorithm)),
        };
        type ReadPem = fn(&[u8]) -> Result<EncodingKey, jsonwebtoken::errors::Error>;
        let asymmetric = |jwt, accepted, read: ReadPem| {
            let pem = private_key_pem.ok_or(SignerError::NoPrivateKey(algorithm))?;
            let pem = pem.expose().as_bytes();
            let unfit = |source| SignerError::UnfitKey { algorithm, accepted, source };
            let key = read(pem).map_err(unfit)?;
            probe(&key, jwt).map_err(unfit)?.then_some(()).ok_or(SignerError::Probe(algorithm))?;
            Ok((jti_key(key.as_bytes()), SigningKey::Asymmetric(key, jwt)))
        };
        let rsa = |jwt| asymmetric(jwt, "an RSA key of 2048 bits or more", EncodingKey::from_rsa_pem);
        let (jti, key) = match algorithm {
            Algorithm::HS256 => (jti_key(secret()?), SigningKey::Hs256(hmac(secret()?))),
            Algorithm::HS384 => (jti_key(secret()?), SigningKey::Hs384(hmac(secret()?))),
            Algorithm::HS512 => (jti_key(secret()?), SigningKey::Hs512(hmac(secret()?))),
            Algorithm::RS256 => rsa(Jwt::RS256)?,
            Algorithm::RS384 => rsa(Jwt::RS384)?,
            Algorithm::RS512 => rsa(Jwt::RS512)?,
            Algorithm::ES256 => asymmetric(Jwt::ES256, "a P-256 key in PKCS#8", EncodingKey::from_ec_pem)?,
            Algorithm::ES384 => asymmetric(Jwt::ES384, "a P-384 key in PKCS#8", EncodingKey::from_ec_pem)?,
            Algorithm::EdDSA => asymmetric(Jwt::EdDSA, "an Ed25519 key in PKCS#8", EncodingKey::from_ed_pem)?,
        };
        let header = format!(r#"{{"typ":"JWT","alg":"{algorithm}"}}"#);
        let header = URL_SAFE_NO_PAD.encode(header) + ".";
        Ok(Self { algorithm, key, header, jti })
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether a signature takes microseconds (HMAC) rather than hundreds of them.
    pub fn is_quick(&self) -> bool {
        !matches!(self.key, SigningKey::Asymmetric(..))
    }

    /// Whether the same claims always get the same signature. ECDSA's is random: jsonwebtoken does
    /// not make the deterministic ones of RFC 6979.
    pub fn is_repeatable(&self) -> bool {
        !matches!(self.algorithm, Algorithm::ES256 | Algorithm::ES384)
    }

    /// A few bits that change with the key, the algorithm or the salt: enough to notice a change,
    /// and too few to confirm a guessed key.
    pub fn fingerprint(&self, auth_salt: &Secret) -> [u8; 3] {
        let mut fingerprint = self.jti.clone();
        fingerprint.update(FINGERPRINT_PURPOSE);
        fingerprint.update(self.header.as_bytes());
        fingerprint.update(auth_salt.expose().as_bytes());
        let [first, second, third, ..] = <[u8; 32]>::from(fingerprint.finalize().into_bytes());
        [first, second, third]
    }

    /// A signed access token with its `jti`.
    ///
    /// # Errors
    /// Signing fails, which [`Signer::new`] has ruled out except for a lack of memory or random
    /// bytes.
    pub fn access_token(&self, claims: &ClaimsInput<'_>) -> Result<String, SignerError> {
        self.signed(claims, Some(&self.jti(claims.refresh_token)))
    }

    /// The access token that was once made of `claims` and stored as `hash`; with `or_phps` also
    /// one without a `jti`, as PHP makes it. `None` if neither has this hash: the claims were
    /// different, or the signature is not repeatable.
    ///
    /// # Errors
    /// As for [`Signer::access_token`].
    pub fn access_token_again(
        &self,
        claims: &ClaimsInput<'_>,
        hash: &str,
        auth_salt: &Secret,
        or_phps: bool,
    ) -> Result<Option<String>, SignerError> {
        if !self.is_repeatable() {
            return Ok(None);
        }
        let phps = or_phps.then_some(None);
        for jti in [Some(Some(self.jti(claims.refresh_token))), phps].into_iter().flatten() {
            let token = self.signed(claims, jti.as_deref())?;
            if wp_hash(&token, auth_salt) == hash {
                return Ok(Some(token));
            }
        }
        Ok(None)
    }

    /// Which program made the access token with this `hash` from `claims`, with one of `issuers`
    /// (`claims.iss` is ignored). For each issuer two tokens are signed, until one matches.
    pub fn prove(
        &self,
        claims: &ClaimsInput<'_>,
        issuers: impl IntoIterator<Item = impl AsRef<str>>,
        hash: &str,
        auth_salt: &Secret,
    ) -> Proof {
        if !self.is_repeatable() {
            return Proof::Unknown;
        }
        let jti = LazyCell::new(|| self.jti(claims.refresh_token));
        for iss in issuers {
            let claims = ClaimsInput { iss: iss.as_ref(), ..*claims };
            for proof in [Proof::Plain, Proof::Ours] {
                let jti = (proof == Proof::Ours).then(|| jti.as_str());
                match self.signed(&claims, jti) {
                    Ok(token) if wp_hash(&token, auth_salt) == hash => return proof,
                    Ok(_) => {}
                    Err(_) => return Proof::Unknown,
                }
            }
        }
        Proof::Foreign
    }

    /// Returns a function that recognises the access token that was once made of `claims` and
    /// stored as `hash`, whatever its signature.
    ///
    /// # Errors
    /// The claims could not be written as JSON.
    pub fn recognize<'a>(
        &self,
        claims: &ClaimsInput<'_>,
        hash: &'a str,
        auth_salt: &'a Secret,
    ) -> Result<impl Fn(&str) -> bool + use<'a>, SignerError> {
        let unsigned = self.unsigned(claims, Some(&self.jti(claims.refresh_token)))?;
        Ok(move |token: &str| {
            let said = token.rsplit_once('.').map(|(said, _)| said);
            said == Some(unsigned.as_str()) && wp_hash(token, auth_salt) == hash
        })
    }

    /// `{"typ":"JWT","alg":…}` in base64url: the beginning of a token.
    pub fn header(&self) -> &str {
        self.header.trim_end_matches('.')
    }

    /// Whether the signature of `token` was made with this key, whatever the claims.
    pub fn verifies(&self, token: &str) -> bool {
        let Some((said, signature)) = token.rsplit_once('.') else { return false };
        match &self.key {
            SigningKey::Hs256(key) => encoded_mac(key, said) == signature,
            SigningKey::Hs384(key) => encoded_mac(key, said) == signature,
            SigningKey::Hs512(key) => encoded_mac(key, said) == signature,
            SigningKey::Asymmetric(key, algorithm) => {
                verifies(said.as_bytes(), signature, key, *algorithm).unwrap_or(false)
            }
        }
    }

    /// A token with `claims`, for tests.
    #[cfg(test)]
    pub fn sign_claims(&self, claims: &[u8]) -> String {
        let said = format!("{}{}", self.header, URL_SAFE_NO_PAD.encode(claims));
        let signature = match &self.key {
            SigningKey::Hs256(key) => encoded_mac(key, &said),
            SigningKey::Hs384(key) => encoded_mac(key, &said),
            SigningKey::Hs512(key) => encoded_mac(key, &said),
            SigningKey::Asymmetric(key, algorithm) => crypto::sign(said.as_bytes(), key, *algorithm).unwrap(),
        };
        format!("{said}.{signature}")
    }

    fn jti(&self, refresh_token: &str) -> String {
        let mut jti = self.jti.clone();
        jti.update(refresh_token.as_bytes());
        HEXLOWER.encode(jti.finalize().into_bytes().get(..16).unwrap_or_default())
    }

    /// Header and claims, ready to be signed.
    fn unsigned(&self, claims: &ClaimsInput<'_>, jti: Option<&str>) -> Result<String, SignerError> {
        let usual = Claims {
            iss: claims.iss,
            iat: claims.issued_at,
            nbf: claims.issued_at,
            exp: claims.expires_at,
            data: Data { user: User { id: &claims.user_id.to_string() } },
        };
        let mut claims = serde_json::to_vec(&usual)
            .and_then(|usual| declared::with_members(usual, &LEVELS, claims.declared))
            .map_err(SignerError::Claims)?;
        match jti {
            // The last claim. It consists of hexadecimal digits.
            Some(jti) => {
                claims.pop();
                claims.extend_from_slice(format!(r#","jti":"{jti}"}}"#).as_bytes());
            }
            None => claims = as_php_writes(claims),
        }
        let mut token = String::with_capacity(self.header.len() + claims.len() * 4 / 3 + 96);
        token.push_str(&self.header);
        URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        Ok(token)
    }

    fn signed(&self, claims: &ClaimsInput<'_>, jti: Option<&str>) -> Result<String, SignerError> {
        let mut token = self.unsigned(claims, jti)?;
        let signature = match &self.key {
            SigningKey::Hs256(key) => encoded_mac(key, &token),
            SigningKey::Hs384(key) => encoded_mac(key, &token),
            SigningKey::Hs512(key) => encoded_mac(key, &token),
            SigningKey::Asymmetric(key, algorithm) => crypto::sign(token.as_bytes(), key, *algorithm)
                .map_err(|source| SignerError::Sign(self.algorithm, source))?,
        };
        token.push('.');
        token.push_str(&signature);
        Ok(token)
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Signer({})", self.algorithm)
    }
}

/// The claims in the plugin's order.
#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    iat: u64,
    nbf: u64,
    exp: u64,
    data: Data<'a>,
}

/// The claims' names, and those within the last.
const LEVELS: [&[&str]; 3] = [&["iss", "iat", "nbf", "exp", "data"], &["user"], &["id"]];

#[derive(Serialize)]
struct Data<'a> {
    user: User<'a>,
}

#[derive(Serialize)]
struct User<'a> {
    /// A string, as `$wpdb` hands it to the plugin.
    id: &'a str,
}

/// Claims as PHP's json_encode() writes them: it escapes the non-ASCII characters of a home URL.
/// The sidecar's own tokens contain them unescaped, which means the same to readers.
fn as_php_writes(claims: Vec<u8>) -> Vec<u8> {
    if claims.is_ascii() {
        return claims;
    }
    let mut escaped = String::with_capacity(2 * claims.len());
    for letter in String::from_utf8_lossy(&claims).chars() {
        if letter.is_ascii() {
            escaped.push(letter);
        } else {
            let units =
                letter.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect::<String>();
            escaped.push_str(&units);
        }
    }
    escaped.into_bytes()
}

/// WordPress's `wp_hash($jwt)`: the value of the column `hash`. `auth_salt` is `wp_salt('auth')`.
pub fn wp_hash(jwt: &str, auth_salt: &Secret) -> String {
    let mut mac: Hmac<Md5> = hmac(auth_salt.expose().as_bytes());
    mac.update(jwt.as_bytes());
    HEXLOWER.encode(&mac.finalize().into_bytes())
}

/// A new refresh token: 128 random bits as 32 lower-case hex digits.
///
/// # Errors
/// The operating system returns no random bytes, so there must be no token.
pub fn new_refresh_token() -> Result<String, getrandom::Error> {
    thread_local! {
        static STOCK: RefCell<Vec<[u8; 16]>> = const { RefCell::new(Vec::new()) };
    }
    // One system call for many tokens: a flood of unknown tokens also gets here.
    STOCK.with_borrow_mut(|stock| {
        if stock.is_empty() {
            let mut fresh = [[0; 16]; 64];
            getrandom::fill(fresh.as_flattened_mut())?;
            stock.extend_from_slice(&fresh);
        }
        // SECURITY: removed from the stock, so that none is given twice. The process does not fork,
        // which would copy the stock.
        stock.pop().map(|bytes| HEXLOWER.encode(&bytes)).ok_or(getrandom::Error::UNEXPECTED)
    })
}

/// Whether a signature with the private key verifies with the public key that belongs to it.
fn probe(key: &EncodingKey, algorithm: jsonwebtoken::Algorithm) -> Result<bool, jsonwebtoken::errors::Error> {
    let message = b"probe";
    verifies(message, &crypto::sign(message, key, algorithm)?, key, algorithm)
}

fn verifies(
    message: &[u8],
    signature: &str,
    key: &EncodingKey,
    algorithm: jsonwebtoken::Algorithm,
) -> Result<bool, jsonwebtoken::errors::Error> {
    let public = DecodingKey::from_jwk(&Jwk::from_encoding_key(key, algorithm)?)?;
    crypto::verify(signature, message, &public, algorithm)
}

fn jti_key(signing_key: &[u8]) -> Hmac<Sha256> {
    let mut derived: Hmac<Sha256> = hmac(signing_key);
    derived.update(JTI_PURPOSE);
    hmac(&derived.finalize().into_bytes())
}

fn hmac<M: KeyInit>(key: &[u8]) -> M {
    #[expect(clippy::expect_used, reason = "no input makes it fail")]
    M::new_from_slice(key).expect("HMAC takes a key of any length (RFC 2104, section 2)")
}

fn encoded_mac<M: Mac + Clone>(key: &M, message: &str) -> String {
    let mut mac = key.clone();
    mac.update(message.as_bytes());
    URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests;
