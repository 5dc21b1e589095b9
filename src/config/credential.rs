//! Files that systemd passes: `LoadCredential=NAME:/path` in the unit, and `credential:NAME` where
//! a key names a file. The service's user then needs no permission for the file itself
//! (systemd.exec(5), systemd.io/CREDENTIALS).

use std::path::{Path, PathBuf};

/// The prefix of a credential's name in place of a path.
pub(super) const CREDENTIAL: &str = "credential:";

/// The variable with systemd's directory of credentials.
pub(super) const DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// The path that `text` names: of a credential in `directory`, or `text` itself.
pub(super) fn resolve(text: &str, directory: Option<&Path>) -> Result<PathBuf, String> {
    match text.strip_prefix(CREDENTIAL) {
        Some(name) => of_name(name, directory),
        None => Ok(PathBuf::from(text)),
    }
}

/// The path of the credential of this name.
pub(super) fn of_name(name: &str, directory: Option<&Path>) -> Result<PathBuf, String> {
    // SECURITY: a name that leaves the directory would be a path in disguise.
    if name.is_empty() || name.starts_with('.') || name.contains(['/', ':', '\0']) {
        return Err(format!(
            "behind {CREDENTIAL} stands the name of a credential, such as \"{CREDENTIAL}wp-config.php\""
        ));
    }
    match directory {
        Some(directory) => Ok(directory.join(name)),
        None => Err(format!(
            "is a credential, but systemd passed none; add LoadCredential={name}:/PATH to [Service] of the unit \
             (systemctl edit wp-jwt-sidecar), and start it by systemctl"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_files_of_one_directory() {
        let directory = Some(Path::new("/run/credentials/x.service"));
        assert_eq!(resolve("/a", directory), Ok(PathBuf::from("/a")));
        assert_eq!(resolve("credential:a.pem", directory), Ok(PathBuf::from("/run/credentials/x.service/a.pem")));
        for bad in ["credential:", "credential:../a", "credential:/a", "credential:a/b", "credential:."] {
            assert!(resolve(bad, directory).unwrap_err().contains("stands the name of a credential"), "{bad}");
        }
        assert!(resolve("credential:a.pem", None).unwrap_err().contains("add LoadCredential=a.pem:/PATH"));
    }
}
