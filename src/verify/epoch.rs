//! Distinguishes epochs: periods in which the site and the configuration do not change.

use std::fmt::Debug;

use sha2::{Digest as _, Sha256};

use crate::version;
use crate::wordpress::site::Makeup;

/// A digest of the site and the sidecar that is the same after a restart: of the database's
/// settings, the state of the files, and the configuration that responses depend on.
// SECURITY: `configuration` is written by Debug, which shows no secret.
pub fn epoch(makeup: &Makeup, files: &[u8], configuration: &impl Debug) -> String {
    let mut hasher = Sha256::new();
    for part in [&makeup.digest, files, version::VERSION.as_bytes(), format!("{configuration:?}").as_bytes()] {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let digest: [u8; 32] = hasher.finalize().into();
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}
