//! `packaging/build.rs`, run like by cargo, in each kind of source tree: a clone, a tarball, a published
//! crate.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::sidecar::command;

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn the_commit_is_found_where_there_is_one_and_unknown_elsewhere() {
    let script = Script::compile();
    let release = [("PROFILE", "release")];

    let tarball = tempfile::tempdir().unwrap();
    assert_eq!(script.commit(tarball.path(), &release), "unknown");
    let variables = [("PROFILE", "release"), ("WP_JWT_SIDECAR_COMMIT", "0.1.0-7 of the packager")];
    assert_eq!(script.commit(tarball.path(), &variables), "0.1.0-7 of the packager");

    let clone = tempfile::tempdir().unwrap();
    git(clone.path(), &["init", "-q"]);
    fs::write(clone.path().join("file"), "1").unwrap();
    git(clone.path(), &["add", "file"]);
    git(clone.path(), &["commit", "-q", "-m", "x"]);
    let head = git(clone.path(), &["rev-parse", "--short=12", "HEAD"]);
    assert_eq!(script.commit(clone.path(), &release), head);
    assert_eq!(script.commit(clone.path(), &[("PROFILE", "debug")]), "unknown");
    fs::write(clone.path().join("file"), "2").unwrap();
    assert_eq!(script.commit(clone.path(), &release), format!("{head}-dirty"));

    let inside = clone.path().join("tarball");
    fs::create_dir(&inside).unwrap();
    assert_eq!(script.commit(&inside, &release), "unknown", "the commit of a repository around a tarball is another's");
    let packaged = r#"{"git": {"sha1": "0123456789abcdef0123456789abcdef01234567"}, "path_in_vcs": ""}"#;
    fs::write(inside.join(".cargo_vcs_info.json"), packaged).unwrap();
    assert_eq!(script.commit(&inside, &release), "0123456789ab");

    let without_git = [("PROFILE", "release"), ("PATH", "/nowhere")];
    assert_eq!(script.commit(clone.path(), &without_git), "unknown");
}

#[test]
fn the_version_names_commit_and_tls_library() {
    let output = command().arg("--version").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let [version, commit, tls] = said.lines().collect::<Vec<_>>()[..] else { panic!("not three lines: {said}") };
    assert_eq!(version, concat!("wp-jwt-sidecar ", env!("CARGO_PKG_VERSION")));
    assert!(commit.strip_prefix("commit: ").is_some_and(|commit| !commit.is_empty()), "{commit}");
    // The version that cargo reports is in the program.
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--edges", "normal", "--prefix", "none", "--manifest-path"])
        .arg(Path::new(PROJECT).join("Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let version_of = |package: &str| {
        let line = tree.lines().find_map(|line| line.strip_prefix(package)?.strip_prefix(" v"));
        line.and_then(|rest| rest.split(' ').next()).unwrap_or_else(|| panic!("no {package} in the program"))
    };
    assert_eq!(tls, format!("TLS: rustls {} with aws-lc-rs {}", version_of("rustls"), version_of("aws-lc-rs")));
    assert!(!tree.lines().any(|line| line.starts_with("ring ")), "a second crypto provider");
}

/// The compiled build script.
struct Script {
    program: PathBuf,
    _directory: TempDir,
}

impl Script {
    fn compile() -> Script {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("build-script");
        let compiled = Command::new("rustc")
            .args(["--edition", "2024", "-o"])
            .arg(&program)
            .arg(Path::new(PROJECT).join("packaging/build.rs"))
            .status()
            .unwrap();
        assert!(compiled.success());
        Script { program, _directory: directory }
    }

    /// The commit that it reports for a package in `directory`.
    fn commit(&self, directory: &Path, environment: &[(&str, &str)]) -> String {
        let output = Command::new(&self.program)
            .env_remove("WP_JWT_SIDECAR_COMMIT")
            .env("CARGO_MANIFEST_DIR", directory)
            .envs(environment.iter().copied())
            .current_dir(directory)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout).unwrap();
        let line = said.lines().find_map(|line| line.strip_prefix("cargo::rustc-env=WP_JWT_SIDECAR_COMMIT="));
        line.unwrap_or_else(|| panic!("no commit in {said}")).to_owned()
    }
}

/// git, without the settings of the user who runs the tests.
fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=x", "-c", "user.email=x@example.org", "-C"])
        .arg(directory)
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
