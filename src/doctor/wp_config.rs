//! Who can read `wp-config.php`: the service must, and others should not.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{Gid, Group, Uid, User};

use crate::finding::{Area, Finding};

/// The user of the systemd unit.
pub const SERVICE_USER: &str = "wp-jwt-sidecar";

/// The right of all other users, in a file's mode.
const OTHERS_READ: u32 = 0o004;
const OTHERS_ENTER: u32 = 0o001;

/// The findings about a file that could be read.
pub fn look(path: &Path) -> Vec<Finding> {
    let mut findings = vec![readers(path)];
    if Uid::effective().is_root() {
        findings.push(service(path, User::from_name(SERVICE_USER).ok().flatten().as_ref()));
    }
    findings
}

fn readers(path: &Path) -> Finding {
    let id = "wp_config.readers";
    let file = match fs::metadata(path) {
        Ok(file) => file,
        Err(error) => {
            let what = format!("{}: cannot be looked at: {error}", path.display());
            return Finding::warning(Area::WpConfig, id, what, "Look at it with `ls -l`.");
        }
    };
    let owner =
        User::from_uid(Uid::from_raw(file.uid())).ok().flatten().map_or(file.uid().to_string(), |user| user.name);
    let group =
        Group::from_gid(Gid::from_raw(file.gid())).ok().flatten().map_or(file.gid().to_string(), |group| group.name);
    let what = format!("{} was read; it belongs to {owner}:{group}, mode {:04o}", path.display(), file.mode() & 0o7777);
    let is_open = file.mode() & OTHERS_READ != 0 && path.ancestors().skip(1).all(lets_others_in);
    if !is_open {
        return Finding::ok(Area::WpConfig, id, what);
    }
    let what = format!("{what}: every user of this machine can read the database's password and the keys in it");
    let fix = "Take that right away; PHP's and the sidecar's users must still be able to read it:";
    let path = path.display();
    Finding::warning(Area::WpConfig, id, what, fix)
        .with_lines([format!("chmod o-r {path}"), format!("setfacl -m u:{SERVICE_USER}:r {path}")])
}

fn lets_others_in(directory: &Path) -> bool {
    fs::metadata(directory).is_ok_and(|directory| directory.mode() & OTHERS_ENTER != 0)
}

/// Root reads everything, but the service is not root.
fn service(path: &Path, user: Option<&User>) -> Finding {
    let id = "wp_config.service";
    let Some(user) = user else {
        let what = format!(
            "this is run as root, who may read every file, and there is no user {SERVICE_USER} here: whether a service of \
             another user can read the file is not known"
        );
        let hint = "Run the doctor as the user that the sidecar runs as: `sudo -u USER wp-jwt-sidecar doctor`.";
        return Finding::ok(Area::WpConfig, id, what).with_hint(hint);
    };
    match may_read(path, user) {
        Some(true) => Finding::ok(Area::WpConfig, id, format!("the service's user {SERVICE_USER} may read it, too")),
        Some(false) => {
            let what = format!("root read it, but the service runs as {SERVICE_USER}, who may not");
            let fix = "Allow it (and the folders above, if they are closed):";
            Finding::problem(Area::WpConfig, id, what, fix)
                .with_lines([format!("setfacl -m u:{SERVICE_USER}:r {}", path.display())])
        }
        None => {
            let what =
                format!("this is run as root; whether the service's user {SERVICE_USER} may read it is not known");
            Finding::ok(Area::WpConfig, id, what)
                .with_hint(format!("Run `sudo -u {SERVICE_USER} wp-jwt-sidecar doctor`."))
        }
    }
}

/// Tries to read it like the service: with the user's groups, under the ACLs of files and
/// directories. `None`: this cannot be tested.
fn may_read(path: &Path, user: &User) -> Option<bool> {
    let tried = Command::new("setpriv")
        .args([&format!("--reuid={}", user.uid), &format!("--regid={}", user.gid), "--init-groups", "test", "-r"])
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .ok()?;
    match tried.code() {
        Some(0) => Some(true),
        Some(1) => Some(false),
        // setpriv itself failed, or a signal ended it.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Level;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_file_that_all_can_read_is_told_of() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wp-config.php");
        fs::write(&path, "<?php").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(readers(&path).level, Level::Ok, "the folder is closed");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let open_above = directory.path().ancestors().skip(1).all(lets_others_in);
        let expected = if open_above { Level::Warning } else { Level::Ok };
        assert_eq!(readers(&path).level, expected);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(readers(&path).level, Level::Ok);
    }

    #[test]
    fn the_services_user_is_tried_and_not_guessed() {
        if !Uid::effective().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = directory.path().join("wp-config.php");
        fs::write(&path, "<?php").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let nobody = User::from_name("nobody").unwrap().unwrap();
        assert_eq!(may_read(&path, &nobody), Some(false));
        assert_eq!(service(&path, Some(&nobody)).level, Level::Problem);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
        assert_eq!(may_read(&path, &nobody), Some(true));
        assert_eq!(service(&path, None).level, Level::Ok);
    }
}
