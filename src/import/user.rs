//! Whom PHP runs as.

use std::fs;
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
    /// Whether whoever runs this is that user already.
    pub(super) is_caller: bool,
}

impl Runner {
    /// As named, else as the pool says, else the owner of the file.
    pub(super) fn choose(named: Option<&str>, pool: Option<&Pool>, file: &Path) -> Result<Self, String> {
        let (user, why) = match (named, pool.and_then(|pool| pool.user.as_deref())) {
            (Some(name), _) => (user_of(name)?, "--user names it".to_owned()),
            (None, Some(name)) => (user_of(name)?, "the pool of --fpm-pool runs as it".to_owned()),
            (None, None) => {
                let uid = fs::metadata(file).map_err(|error| about(file, error))?.uid();
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

/// SECURITY: the site's code is not to have root's rights, nor to reach what the service keeps.
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
    use super::*;

    #[test]
    fn neither_root_nor_the_service_runs_php() {
        let root = User::from_uid(Uid::from_raw(0)).unwrap().unwrap();
        assert!(allowed(&root, "x").unwrap_err().contains("--user www-data"));
        let service = User { name: cli::NAME.to_owned(), uid: Uid::from_raw(999), ..root.clone() };
        assert!(allowed(&service, "x").unwrap_err().contains("the service's own user"));
        assert!(allowed(&User { name: "www-data".to_owned(), uid: Uid::from_raw(33), ..root }, "x").is_ok());
    }
}
