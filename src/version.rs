//! The version of this program, the commit that it was built from, and its TLS library, as found by
//! `packaging/build.rs`.

/// The version alone.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit, with `-dirty` if the source differed from it; `unknown` for debug builds and
/// tarballs.
pub const COMMIT: &str = env!("WP_JWT_SIDECAR_COMMIT");

/// The TLS library and its crypto provider, each with its version.
pub const TLS: &str = env!("WP_JWT_SIDECAR_TLS");

/// All three, one per line, for `--version`.
pub const LONG: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\ncommit: ",
    env!("WP_JWT_SIDECAR_COMMIT"),
    "\nTLS: ",
    env!("WP_JWT_SIDECAR_TLS")
);
