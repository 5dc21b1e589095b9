//! What packagers and administrators expect around the program: it shows what it was built from,
//! contains its manual page, and provides completions for real shells.

mod build;
mod manual;
mod shells;

/// The package is called after the program's version, and its changelog begins with it.
#[test]
fn the_changelog_is_of_this_version() {
    let changelog = include_str!("../../packaging/changelog");
    let first = concat!("wp-jwt-sidecar (", env!("CARGO_PKG_VERSION"), "-1) ");
    assert!(changelog.starts_with(first), "packaging/changelog does not begin with {first}");
    let readme = crate::readme::blocks::read("README.md");
    assert!(
        readme.contains(concat!("wp-jwt-sidecar_", env!("CARGO_PKG_VERSION"), "-1_amd64.deb")),
        "the README's package"
    );
    for line in changelog.lines() {
        assert!(line.len() <= 80 || line.starts_with(" -- "), "a changelog is read on a terminal: {line}");
    }
}
