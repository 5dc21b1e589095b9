//! Chooses the user that PHP runs as.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::unistd::{Gid, Group, Uid, User};

use super::about;
use super::pool::Pool;
use crate::cli;

/// A user who is neither root nor the service.
pub(super) struct Runner {
    pub(super) name: String,
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    pub(super) home: String,
    /// Whether the caller already is that user.
    pub(super) is_caller: bool,
}

impl Runner {
    /// The user named by the option, otherwise the pool's, otherwise the file's owner. `file` has
    /// no symbolic links in its path.
    pub(super) fn choose(named: Option<&str>, pool: Option<&Pool>, file: &Path) -> Result<Self, String> {
        let (user, why) = match (named, pool.and_then(|pool| pool.user.as_deref())) {
            (Some(name), _) => (user_of(name)?, "--user names it".to_owned()),
            (None, Some(name)) => (user_of(name)?, "the pool of --fpm-pool runs as it".to_owned()),
            (None, None) if pool.is_some() => {
                return Err(
                    "the pool of --fpm-pool has no line `user = NAME`: name PHP's user, for example --user www-data"
                        .to_owned(),
                );
            }
            (None, None) => {
                let uid = owner(file)?;
                let user = User::from_uid(Uid::from_raw(uid)).ok().flatten().ok_or_else(|| {
                    about(
                        file,
                        format!("it belongs to the user {uid}, who has no name here; name PHP's by --user www-data"),
                    )
                })?;
                (user, format!("{} belongs to it", file.display()))
            }
        };
        let group = match (named, pool.and_then(|pool| pool.group.as_deref())) {
            (None, Some(name)) => group_of(name)?,
            _ => user.gid,
        };
        allowed(&user, &why)?;
        allowed_group(group, Group::from_name(cli::NAME).ok().flatten().map(|group| group.gid))?;
        let caller = Uid::effective();
        if !caller.is_root() && caller != user.uid {
            return Err(format!(
                "PHP has to run as {} ({why}), which only root can bring about: run this as root (sudo), or as {}",
                user.name, user.name
            ));
        }
        let home = user.dir.to_string_lossy().into_owned();
        Ok(Self { name: user.name, uid: user.uid, gid: group, home, is_caller: caller == user.uid })
    }
}

/// SECURITY: a user who can replace this file by another user's, or by a link to it, would choose
/// the user that PHP runs as.
fn owner(file: &Path) -> Result<u32, String> {
    let look = |path: &Path| fs::symlink_metadata(path).map_err(|error| about(path, error));
    let seen = look(file)?;
    if !seen.is_file() {
        return Err(about(file, "is no longer a file; name PHP's user by --user"));
    }
    if seen.uid() == 0 {
        // Root is refused wherever the file is.
        return Ok(0);
    }
    // From the root down: each directory that was checked protects the next.
    let mut directories: Vec<&Path> = file.ancestors().skip(1).collect();
    directories.reverse();
    for (at, directory) in directories.iter().enumerate() {
        let is_last = at + 1 == directories.len();
        if !is_kept(&look(directory)?, seen.uid(), is_last) {
            return Err(format!(
                "{} belongs to the user {}, but others than that user and root may put another file in its place, since {} is \
                 another user's or can be written by its group or by all: name PHP's user, for example --user www-data",
                file.display(),
                seen.uid(),
                directory.display()
            ));
        }
    }
    // The file may have been replaced before its directories were checked.
    match look(file)? {
        now if now.is_file() && now.uid() == seen.uid() => Ok(seen.uid()),
        _ => Err(about(file, "changes hands just now; name PHP's user by --user")),
    }
}

/// Whether only root and this user can change the directory's contents. In a directory like `/tmp`,
/// other users cannot move a subdirectory that belongs to this one (the sticky bit, inode(7)).
fn is_kept(directory: &Metadata, uid: u32, is_last: bool) -> bool {
    let is_theirs = directory.uid() == 0 || directory.uid() == uid;
    let is_sticky = directory.mode() & 0o1000 != 0 && !is_last;
    directory.is_dir() && is_theirs && (directory.mode() & 0o022 == 0 || is_sticky)
}

/// SECURITY: root's group and the service's may read files that the site's code must not.
fn allowed_group(group: Gid, service: Option<Gid>) -> Result<(), String> {
    if group.as_raw() == 0 || service == Some(group) {
        return Err(format!(
            "PHP would run with the group {group}, which is root's or the service's own, and must not; correct the group of the \
             pool or of the user, or name another user by --user"
        ));
    }
    Ok(())
}

/// SECURITY: the site's code must have neither root's rights nor access to the service's files.
fn allowed(user: &User, why: &str) -> Result<(), String> {
    let fix = "name the user that PHP runs as, for example --user www-data";
    if user.uid.is_root() {
        return Err(format!("PHP would run as root ({why}), and the site's code must not; {fix}"));
    }
    if user.name == cli::NAME {
        return Err(format!("PHP would run as {}, the service's own user ({why}), and must not; {fix}", user.name));
    }
    Ok(())
}

fn user_of(name: &str) -> Result<User, String> {
    let by_name = User::from_name(name).ok().flatten();
    let found = by_name.or_else(|| User::from_uid(Uid::from_raw(name.parse().ok()?)).ok().flatten());
    found.ok_or_else(|| format!("there is no user {name} here; --user names the one that PHP runs as"))
}

fn group_of(name: &str) -> Result<Gid, String> {
    let by_name = Group::from_name(name).ok().flatten().map(|group| group.gid);
    let found = by_name.or_else(|| name.parse().ok().map(Gid::from_raw));
    found.ok_or_else(|| format!("there is no group {name} here, which the pool of --fpm-pool names; give --user"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn who_could_put_another_file_there_does_not_choose_the_user() {
        let directory = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(directory.path()).unwrap();
        let (inner, mode) = (root.join("inner"), |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        });
        fs::create_dir(&inner).unwrap();
        mode(&inner, 0o755);
        let (file, link) = (inner.join("wp-config.php"), inner.join("link.php"));
        fs::write(&file, "").unwrap();
        if Uid::effective().is_root() {
            for path in [&inner, &file] {
                std::os::unix::fs::chown(path, Some(33), None).unwrap();
            }
        }
        symlink(&file, &link).unwrap();
        assert_eq!(owner(&file), Ok(fs::metadata(&file).unwrap().uid()));
        assert!(owner(&link).unwrap_err().contains("--user"));
        for bits in [0o775, 0o757, 0o1777] {
            mode(&inner, bits);
            assert!(owner(&file).unwrap_err().contains("--user www-data"), "{bits:o}");
        }
        mode(&inner, 0o755);
        mode(&root, 0o777);
        assert!(owner(&file).unwrap_err().contains("--user www-data"), "a directory above counts too");
        mode(&root, 0o1777);
        assert!(owner(&file).is_ok());
    }

    #[test]
    fn neither_roots_nor_the_services_group_runs_php() {
        let (site, service) = (Gid::from_raw(33), Gid::from_raw(999));
        assert!(allowed_group(site, Some(service)).is_ok() && allowed_group(site, None).is_ok());
        for group in [service, Gid::from_raw(0)] {
            assert!(allowed_group(group, Some(service)).unwrap_err().contains("--user"));
        }
    }

    #[test]
    fn neither_root_nor_the_service_runs_php() {
        let root = User::from_uid(Uid::from_raw(0)).unwrap().unwrap();
        assert!(allowed(&root, "x").unwrap_err().contains("--user www-data"));
        let service = User { name: cli::NAME.to_owned(), uid: Uid::from_raw(999), ..root.clone() };
        assert!(allowed(&service, "x").unwrap_err().contains("the service's own user"));
        assert!(allowed(&User { name: "www-data".to_owned(), uid: Uid::from_raw(33), ..root }, "x").is_ok());
    }
}
