//! Writes the imported file: readable by root and the service's group only, completely or not at
//! all.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use nix::unistd::{Group, Uid};

use super::about;
use crate::wordpress::imported::Imported;

/// The file to write.
pub(super) struct Target<'a> {
    pub(super) path: &'a PathBuf,
    /// The group that may read it.
    pub(super) group: &'a str,
}

impl Target<'_> {
    /// Whether the file already has these contents. Modification times do not count.
    pub(super) fn says(&self, imported: &Imported) -> bool {
        Imported::read(self.path).is_ok_and(|now| now.without_times() == imported.clone().without_times())
    }

    /// SECURITY: the file is created under a unique name and then replaces the existing one; if
    /// that is a symbolic link, it is replaced rather than followed.
    pub(super) fn write(&self, text: &str) -> Result<(), String> {
        let group = Group::from_name(self.group).ok().flatten().map(|group| group.gid.as_raw());
        let group = group.ok_or_else(|| {
            format!(
                "there is no group {} here, the service's: name the one that may read the file by --group",
                self.group
            )
        })?;
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).map_err(|error| format!("no random bytes from the operating system: {error}"))?;
        let suffix: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{suffix}"));
        let temporary = self.path.with_file_name(name);
        let written = fill(&temporary, text, group).and_then(|()| fs::rename(&temporary, self.path));
        written.map_err(|error| {
            // The temporary file may not exist.
            let _ = fs::remove_file(&temporary);
            about(self.path, format!("cannot be written: {error}; --output names another file"))
        })
    }
}

fn fill(path: &Path, text: &str, group: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    // Without root, only one's own groups are possible; otherwise the file stays readable by its
    // owner only.
    match fchown(&file, None, Some(group)) {
        Err(error) if Uid::effective().is_root() => return Err(error),
        Ok(()) => file.set_permissions(Permissions::from_mode(0o640))?,
        Err(_) => {}
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_the_place_of_a_link_and_is_closed_to_others() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("site.toml"), directory.path().join("other"));
        fs::write(&other, "other").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        let group = Group::from_gid(nix::unistd::Gid::effective()).unwrap().unwrap().name;
        let target = Target { path: &path, group: &group };
        target.write("text").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
        assert_eq!(fs::read_to_string(&other).unwrap(), "other");
        let file = fs::symlink_metadata(&path).unwrap();
        assert!(file.is_file() && file.permissions().mode() & 0o7777 == 0o640);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "nothing is left beside it");

        let nowhere = directory.path().join("not/there.toml");
        assert!(Target { path: &nowhere, group: &group }.write("text").unwrap_err().contains("--output"));
        assert!(Target { path: &path, group: "no-such-group" }.write("text").unwrap_err().contains("--group"));
    }
}
