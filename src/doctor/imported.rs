//! Whether the import of the site's configuration is still valid.

use crate::finding::{Area, Finding};
use crate::wordpress::installation::{Import, PassedOver};

/// Pure.
pub(super) fn look(import: &Import) -> Finding {
    let id = "wp_config.import";
    let file = import.file.display();
    match &import.stale {
        None => Finding::ok(
            Area::WpConfig,
            id,
            format!("the site is as PHP said, in {file}; its files are as they were then"),
        ),
        Some(change) => Finding::problem(
            Area::WpConfig,
            id,
            format!("{file}, which says what the site is, is older than the files that it was made from: {change}"),
            "Have PHP say it again, with the options of the first time:",
        )
        .with_lines(["wp-jwt-sidecar import", "systemctl reload wp-jwt-sidecar"]),
    }
}

/// Pure.
pub(super) fn passed_over(other: &PassedOver) -> Finding {
    Finding::warning(Area::WpConfig, "wp_config.import_of_another_site", other.problem(), other.fix())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Level;

    #[test]
    fn an_import_that_is_older_than_its_files_is_a_problem() {
        let import = |stale: Option<&str>| Import { file: "/x".into(), host: None, stale: stale.map(str::to_owned) };
        assert_eq!(look(&import(None)).level, Level::Ok);
        let old = look(&import(Some("/srv/.env has changed")));
        assert!(old.level == Level::Problem && old.what.contains("/srv/.env has changed"), "{old:?}");
        let other =
            PassedOver { file: "/x".into(), made_of: "/a/wp-config.php".into(), wanted: "/b/wp-config.php".into() };
        let other = passed_over(&other);
        assert!(other.level == Level::Warning && other.what.contains("made of /a/wp-config.php"), "{other:?}");
    }
}
