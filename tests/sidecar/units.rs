//! The unit files: systemd accepts them, and the restrictions that they put on the service hold.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::support::sidecar;

/// Ten times the highest exposure that `systemd-analyze security` may report.
const SERVICE: &str = "12";
const ISOLATED: &str = "7";

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name)
}

/// The units in a directory of their own, with the path of the binary under test instead of the
/// installed one.
fn installed(isolated: bool) -> TempDir {
    let directory = TempDir::new().unwrap();
    let binary = sidecar::command().get_program().to_str().unwrap().to_owned();
    for name in ["wp-jwt-sidecar.service", "wp-jwt-sidecar.socket"] {
        let text = fs::read_to_string(source(name)).unwrap();
        assert!(name.ends_with(".socket") || text.contains("=/usr/bin/wp-jwt-sidecar "), "{text}");
        fs::write(directory.path().join(name), text.replace("/usr/bin/wp-jwt-sidecar", &binary)).unwrap();
    }
    if isolated {
        let drop_ins = directory.path().join("wp-jwt-sidecar.service.d");
        fs::create_dir(&drop_ins).unwrap();
        fs::copy(source("isolated.conf"), drop_ins.join("isolated.conf")).unwrap();
    }
    directory
}

fn analyze(units: &TempDir, arguments: &[&str], unit: &str) -> Output {
    let mut command = Command::new("systemd-analyze");
    // The trailing colon adds the machine's own units, for the targets.
    command.env("SYSTEMD_UNIT_PATH", format!("{}:", units.path().display()));
    command.args(arguments).arg(units.path().join(unit)).output().expect("systemd-analyze runs (package systemd)")
}

#[test]
fn systemd_takes_the_units() {
    for isolated in [false, true] {
        let units = installed(isolated);
        for unit in ["wp-jwt-sidecar.service", "wp-jwt-sidecar.socket"] {
            let output = analyze(&units, &["verify", "--man=no"], unit);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() && !said.contains("wp-jwt-sidecar"), "{unit}: {said}");
        }
    }
    let units = installed(false);
    let path = units.path().join("wp-jwt-sidecar.service");
    let broken = fs::read_to_string(&path).unwrap().replace("WatchdogSec=30s", "WatchdogSec=often");
    fs::write(&path, broken).unwrap();
    let output = analyze(&units, &["verify", "--man=no"], "wp-jwt-sidecar.service");
    assert!(String::from_utf8_lossy(&output.stderr).contains("wp-jwt-sidecar.service:"), "the check finds nothing");
}

#[test]
fn the_service_can_do_little_else() {
    for (isolated, threshold) in [(false, SERVICE), (true, ISOLATED)] {
        let units = installed(isolated);
        let arguments = ["security", "--offline=true", "--no-pager", "--threshold", threshold];
        let output = analyze(&units, &arguments, "wp-jwt-sidecar.service");
        let found = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "isolated: {isolated}\n{found}{}", String::from_utf8_lossy(&output.stderr));
    }
    let units = installed(false);
    let arguments = ["security", "--offline=true", "--no-pager", "--threshold", "3"];
    assert!(!analyze(&units, &arguments, "wp-jwt-sidecar.service").status.success(), "the threshold is not looked at");
}

#[test]
fn the_service_waits_longer_than_a_drain() {
    let service = fs::read_to_string(source("wp-jwt-sidecar.service")).unwrap();
    assert!(service.contains("\nTimeoutStopSec=45s\n"));
    let drain = wp_jwt_sidecar::internals::config::keys::find("shutdown.drain_timeout").unwrap();
    assert_eq!(drain.default, wp_jwt_sidecar::internals::config::keys::Fallback::Is("30s"));
}
