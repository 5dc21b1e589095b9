//! The file of `wp-jwt-sidecar import`, and which site it belongs to.

use std::path::{Path, PathBuf};

/// An import in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    pub file: PathBuf,
    /// The host that PHP ran for.
    pub host: Option<String>,
    /// What has changed in the files that it was made from. `None` if nothing has.
    pub stale: Option<String>,
}

impl Import {
    /// For people.
    pub(super) fn source(&self) -> String {
        let host = self.host.as_ref().map(|host| format!(", for the host {host}")).unwrap_or_default();
        let stale = self.stale.as_ref().map(|change| format!("; older than its files: {change}")).unwrap_or_default();
        format!("as PHP said{host}, in {}{stale}", self.file.display())
    }
}

/// An import in the default place that was not made from the configured `wp-config.php`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    pub file: PathBuf,
    /// The `wp-config.php` that PHP ran.
    pub made_of: PathBuf,
    /// The one that is configured.
    pub wanted: PathBuf,
}

impl PassedOver {
    /// What is wrong.
    pub fn problem(&self) -> String {
        format!("{} is not used: it {}", self.file.display(), self.difference())
    }

    /// How to fix it.
    pub fn fix(&self) -> String {
        let file = self.file.display();
        match is_copy(&self.wanted) {
            true => format!(
                "If it is of this site, take wordpress.config out and set wordpress.import = \"{file}\"; else have `wp-jwt-sidecar \
                 import --output` write it to a file that the other site's sidecar names by wordpress.import"
            ),
            false => format!(
                "Run `wp-jwt-sidecar import` for this site, with an --output of its own that wordpress.import names; and have the \
                 other site's in another place than {file}, too"
            ),
        }
    }

    /// For an import that was named explicitly, and is therefore not skipped.
    pub(super) fn contradiction(&self) -> String {
        match is_copy(&self.wanted) {
            true => format!("{}: take wordpress.config out", self.difference()),
            false => {
                format!("{}: run `wp-jwt-sidecar import` again, or take one of the two keys out", self.difference())
            }
        }
    }

    fn difference(&self) -> String {
        let copy =
            if is_copy(&self.wanted) { ", a credential, of which only systemd knows where it is from" } else { "" };
        format!("was made of {}, and wordpress.config is {}{copy}", self.made_of.display(), self.wanted.display())
    }
}

/// systemd passes copies (`credential:`).
fn is_copy(path: &Path) -> bool {
    path.starts_with("/run/credentials")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_may_be_of_this_site() {
        let of =
            |wanted: &str| PassedOver { file: "/e/site.toml".into(), made_of: "/a.php".into(), wanted: wanted.into() };
        let (copy, other) = (of("/run/credentials/x.service/wp-config.php"), of("/b.php"));
        assert!(
            copy.problem()
                .starts_with("/e/site.toml is not used: it was made of /a.php, and wordpress.config is /run/")
        );
        assert!(copy.problem().contains("a credential") && !other.problem().contains("a credential"));
        assert!(copy.fix().contains("take wordpress.config out and set wordpress.import = \"/e/site.toml\""));
        assert!(other.fix().contains("--output") && !other.fix().contains("wordpress.config out"));
        assert!(copy.contradiction().ends_with("take wordpress.config out"));
        assert!(other.contradiction().contains("run `wp-jwt-sidecar import` again"));
    }
}
