//! What this program is: its version, the commit it was built from, and the TLS library in it. `build.rs` finds them out.

/// The version alone.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit, with `-dirty` where the source differed from it; `unknown` for debug builds and tarballs.
pub const COMMIT: &str = env!("WP_JWT_SIDECAR_COMMIT");

/// The TLS library and the crypto provider behind it, each with its version.
pub const TLS: &str = env!("WP_JWT_SIDECAR_TLS");

/// All three, a line each, as `--version` shows them.
pub const LONG: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\ncommit: ",
    env!("WP_JWT_SIDECAR_COMMIT"),
    "\nTLS: ",
    env!("WP_JWT_SIDECAR_TLS")
);
