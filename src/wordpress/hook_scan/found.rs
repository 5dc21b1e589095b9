//! The result of a scan, and which hits the operator trusts.

/// A place that names one of the hooks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hit {
    /// `my-plugin/inc/auth.php:12` of a plugin, `mu-plugins/x.php:3`, `themes/x/functions.php:9`,
    /// `snippet 12`.
    pub place: String,
    /// The hook, or the known part of its name: `jwt_auth_*`.
    pub hook: String,
}

/// What a scan found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Sorted by place.
    pub hits: Vec<Hit>,
    /// What was not scanned.
    pub unread: Unread,
    /// PHP files that were read, or had not changed.
    pub files: usize,
}

/// What could not be scanned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unread {
    /// Plugins, must-use plugins and themes of which this user cannot read something.
    pub parts: Vec<String>,
    /// How many of them exist in all.
    pub of: usize,
    /// Links that leave the site's directories, which are not followed.
    pub links: usize,
    /// Files above the size limit.
    pub too_large: usize,
    /// Whether the scan stopped before the end, because of its limit or because it was cancelled.
    pub is_cut: bool,
    /// Whether it is unknown where the site's files are on this machine.
    pub is_elsewhere: bool,
}

impl Unread {
    /// Sentences for people; none if everything was read.
    pub fn sentences(&self) -> Vec<String> {
        let mut said = Vec::new();
        if self.is_elsewhere {
            said.push("it is not known where the site's plugins and must-use plugins are on this machine".to_owned());
        }
        if !self.parts.is_empty() {
            let shown = self.parts.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
            let more = if self.parts.len() > SHOWN { ", …" } else { "" };
            let (parts, of) = (self.parts.len(), self.of);
            said.push(format!(
                "{parts} of {of} plugins, themes and other code cannot be read by this user ({shown}{more})"
            ));
        }
        let counted = [
            (self.links, "links out of the site's folders are not followed"),
            (self.too_large, "files above 1 MiB are left out"),
        ];
        said.extend(counted.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{what}: {count}")));
        if self.is_cut {
            said.push("there is more code than one scan reads; the next scan continues with the rest".to_owned());
        }
        said
    }
}

/// Whether the operator trusts a hit: `trusted` (`[refresh] trusted_hooks`) names its place, its
/// place without the line, or the hook.
pub fn is_trusted(hit: &Hit, trusted: &[String]) -> bool {
    let file = hit.place.rsplit_once(':').filter(|(_, line)| line.bytes().all(|byte| byte.is_ascii_digit()));
    trusted
        .iter()
        .any(|trusted| *trusted == hit.place || *trusted == hit.hook || file.is_some_and(|(file, _)| *trusted == file))
}

/// How many entries of a list are shown.
const SHOWN: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_trusted() {
        let hit = |place: &str| Hit { place: place.to_owned(), hook: "jwt_auth_token_refreshed".to_owned() };
        let trusts = |trusted: &str, place: &str| is_trusted(&hit(place), &["x".to_owned(), trusted.to_owned()]);
        let place = "my-plugin/inc/auth.php:12";
        for trusted in [place, "my-plugin/inc/auth.php", "jwt_auth_token_refreshed"] {
            assert!(trusts(trusted, place), "{trusted}");
        }
        for other in
            ["my-plugin/inc/auth.php:1", "my-plugin", "my-plugin/inc", "auth.php", "jwt_auth_token_*", ":12", ""]
        {
            assert!(!trusts(other, place), "{other}");
        }
        assert!(
            trusts("snippet 12", "snippet 12")
                && !trusts("snippet 1", "snippet 12")
                && !trusts("snippet", "snippet 12")
        );
        assert!(!is_trusted(&hit(place), &[]));
    }
}
