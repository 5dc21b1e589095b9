//! What `--version` says beyond the version: the commit, and which TLS library is compiled in. Works without network, without
//! git and outside a repository, where the commit is "unknown".

use std::{env, fs, path::Path, process::Command};

/// For packagers who build from a tarball and know what is in it.
const COMMIT_VARIABLE: &str = "WP_JWT_SIDECAR_COMMIT";

const UNKNOWN: &str = "unknown";

fn main() {
    let directory = env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| ".".into());
    let directory = Path::new(&directory);
    println!("cargo::rerun-if-changed=packaging/build.rs");
    println!("cargo::rerun-if-env-changed={COMMIT_VARIABLE}");
    println!("cargo::rustc-env={COMMIT_VARIABLE}={}", commit(directory));
    println!("cargo::rerun-if-changed=Cargo.lock");
    let version = |library| locked(directory, library).unwrap_or_else(|| UNKNOWN.into());
    println!(
        "cargo::rustc-env=WP_JWT_SIDECAR_TLS=rustls {} with aws-lc-rs {}",
        version("rustls"),
        version("aws-lc-rs")
    );
}

fn commit(directory: &Path) -> String {
    if let Some(named) = env::var(COMMIT_VARIABLE).ok().filter(|named| !named.is_empty()) {
        return named;
    }
    // `cargo package` writes this file.
    let packaged = directory.join(".cargo_vcs_info.json");
    if let Ok(text) = fs::read_to_string(packaged) {
        return quoted_after(&text, "\"sha1\"").unwrap_or(UNKNOWN).chars().take(SHORT).collect();
    }
    // Otherwise each commit would rebuild a developer's debug build.
    if env::var("PROFILE").as_deref() != Ok("release") {
        return UNKNOWN.into();
    }
    described(directory).unwrap_or_else(|| UNKNOWN.into())
}

/// So many hex digits tell commits apart in projects much larger than this one.
const SHORT: usize = 12;

/// The commit that git has checked out here, with `-dirty` behind it if files differ from it.
fn described(directory: &Path) -> Option<String> {
    // A tarball may be unpacked inside another repository, whose commit is not its own.
    let top = git(directory, &["rev-parse", "--show-toplevel"])?;
    if fs::canonicalize(top).ok()? != fs::canonicalize(directory).ok()? {
        return None;
    }
    // HEAD changes with a checkout, its log with a commit as well; the index with `git add`.
    for name in ["HEAD", "logs/HEAD", "index"] {
        println!("cargo::rerun-if-changed={}", git(directory, &["rev-parse", "--git-path", name])?);
    }
    println!("cargo::rerun-if-changed=src");
    git(directory, &["describe", "--always", "--dirty", "--exclude=*", &format!("--abbrev={SHORT}")])
}

fn git(directory: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(directory).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

/// The version of a package in `Cargo.lock`.
fn locked(directory: &Path, package: &str) -> Option<String> {
    let text = fs::read_to_string(directory.join("Cargo.lock")).ok()?;
    let (_, behind) = text.split_once(&format!("name = \"{package}\"\n"))?;
    quoted_after(behind, "version").map(str::to_owned)
}

/// The text in quotes that follows `name` first.
fn quoted_after<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.split_once(name)?.1.split('"').nth(1)
}
