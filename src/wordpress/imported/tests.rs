use std::os::unix::fs::MetadataExt as _;

use super::*;

/// The import of a file with this content, and of a missing one.
fn imported(directory: &Path) -> Imported {
    let config = directory.join("wp-config.php");
    fs::write(&config, "<?php // hunter2").unwrap();
    let resolved = fs::canonicalize(&config).unwrap();
    let file = fs::metadata(&resolved).unwrap();
    // `printf %s '<?php // hunter2' | sha256sum`
    let sha256 = "babe1ae4756a62ecfd6af78c405a3711dca7925c09478ad953ac3c1de09dde8c".to_owned();
    let read = Seen::Read { path: resolved.clone(), size: file.size(), modified: file.mtime(), sha256 };
    let missing = Seen::Missing { path: directory.join(".env.local") };
    let of = |name: &str, scalar| (name.to_owned(), scalar);
    Imported {
        config,
        resolved,
        host: Some("shop.example".to_owned()),
        table_prefix: Some(Scalar::Text(b"wp_".to_vec())),
        constants: BTreeMap::from([
            of("DB_NAME", Scalar::Text("hunter2 \"'\n\u{1}ä".as_bytes().to_vec())),
            of("DB_PASSWORD", Scalar::Text(b"\xff\x00".to_vec())),
            of("MULTISITE", Scalar::Boolean(true)),
            of("BLOG_ID_CURRENT_SITE", Scalar::Integer(-2)),
            of("WPLANG", Scalar::Null),
        ]),
        undefined: BTreeSet::from(["SUNRISE".to_owned()]),
        varying: BTreeSet::from(["WP_HOME".to_owned()]),
        files: vec![read, missing],
    }
}

#[test]
fn what_is_written_is_what_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let (before, path) = (imported(directory.path()), directory.path().join("site.toml"));
    fs::write(&path, before.to_toml().unwrap()).unwrap();
    let after = Imported::read(&path).unwrap();
    assert!(after == before);
    assert!(matches!(after.constant("DB_PASSWORD"), Lookup::Known(Scalar::Text(bytes), _) if bytes == b"\xff\x00"));
    assert!(matches!(after.constant("SUNRISE"), Lookup::NotDefined));
    assert!(matches!(after.constant("WP_HOME"), Lookup::Unknown(_)));
    assert!(matches!(after.constant("OF_A_LATER_VERSION"), Lookup::Unknown(_)), "what was not asked for is not known");
}

#[test]
fn a_broken_file_is_refused_and_not_quoted() {
    let directory = tempfile::tempdir().unwrap();
    let (text, path) = (imported(directory.path()).to_toml().unwrap(), directory.path().join("site.toml"));
    for (from, to) in [
        ("format = 1", "format = 2"),
        ("MULTISITE = true", "MULTISITE = [\"hunter2\"]"),
        ("MULTISITE = true", "MULTISITE = 1.5"),
        ("MULTISITE = true", "OTHER = \"hunter2\""),
        ("MULTISITE = true", "MULTISITE = hunter2"),
        ("MULTISITE = true", "MULTISITE = { base64 = \"hunter2!\" }"),
        ("[constants]", "more = 1\n[constants]"),
    ] {
        assert!(text.contains(from), "{text}");
        fs::write(&path, text.replace(from, to)).unwrap();
        let problem = Imported::read(&path).err().unwrap();
        assert!(!problem.contains("hunter2") && problem.contains("run `wp-jwt-sidecar import` again"), "{problem}");
    }
    assert!(Imported::read(Path::new("/dev/zero")).is_err());
    assert!(Imported::read(directory.path()).is_err());
}

#[test]
fn a_change_of_the_files_is_seen() {
    let directory = tempfile::tempdir().unwrap();
    let imported = imported(directory.path());
    assert_eq!(imported.stale(), None);
    fs::write(directory.path().join(".env.local"), "").unwrap();
    assert!(imported.stale().unwrap().ends_with(".env.local is there now"));
    fs::write(&imported.resolved, "<?php // another").unwrap();
    let stale = imported.stale().unwrap();
    assert!(stale.contains("wp-config.php has changed, and 1 more"), "{stale}");
    fs::remove_file(&imported.resolved).unwrap();
    assert!(imported.stale().unwrap().contains("wp-config.php is gone"));
}

#[test]
fn a_touched_file_with_the_same_content_is_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let mut imported = imported(directory.path());
    let Some(Seen::Read { path, size, modified, sha256 }) = imported.files.first().cloned() else { panic!("not read") };
    let touched = |sha256: String| Seen::Read { path: path.clone(), size, modified: modified - 10, sha256 };
    imported.files = vec![touched("0".repeat(64))];
    assert!(imported.stale().is_some());
    imported.files = vec![touched(sha256)];
    assert_eq!(imported.stale(), None);
}

#[test]
fn only_so_much_is_read_to_see_a_change() {
    let directory = tempfile::tempdir().unwrap();
    let (large, small) = (directory.path().join("large"), directory.path().join("small"));
    // A sparse file of zeros.
    fs::File::create(&large).unwrap().set_len(8 << 20).unwrap();
    fs::write(&small, "x").unwrap();
    let wrong = |path: &Path, modified: i64| Seen::Read {
        path: path.to_owned(),
        size: fs::metadata(path).unwrap().size(),
        modified: fs::metadata(path).unwrap().mtime() + modified,
        sha256: "0".repeat(64),
    };
    let mut bytes = (8 << 20) + 1;
    assert!(wrong(&large, 0).change(&mut bytes).is_some() && bytes == 1);
    assert_eq!(wrong(&large, 0).change(&mut bytes), None, "by size and time");
    assert!(wrong(&large, 1).change(&mut bytes).is_some() && bytes == 1);
    assert!(wrong(&small, 0).change(&mut bytes).is_some() && bytes == 0);
}

#[test]
fn it_is_of_the_file_that_is_named_or_that_is_meant() {
    let directory = tempfile::tempdir().unwrap();
    let imported = imported(directory.path());
    let link = directory.path().join("link.php");
    std::os::unix::fs::symlink(&imported.resolved, &link).unwrap();
    assert!(imported.is_of(&imported.config, &imported.config) && imported.is_of(&link, &link));
    let other = directory.path().join("other.php");
    fs::write(&other, "").unwrap();
    assert!(!imported.is_of(&other, &other) && !imported.is_of(Path::new("/not/there"), Path::new("/not/there")));
}

/// The constants that the installation uses are those that PHP is asked for.
#[test]
fn all_constants_that_are_looked_at_are_asked_for() {
    let sources = [
        include_str!("../installation.rs"),
        include_str!("../installation/database.rs"),
        include_str!("../installation/own.rs"),
        include_str!("../installation/secrets.rs"),
        include_str!("../installation/layout.rs"),
        include_str!("../installation/tables.rs"),
        include_str!("../installation/folders.rs"),
        include_str!("../installation/tls.rs"),
        include_str!("../salts.rs"),
    ];
    let mut found = 0;
    for quoted in sources.iter().flat_map(|source| source.split('"').skip(1).step_by(2)) {
        let is_name = !quoted.starts_with('_')
            && !quoted.ends_with('_')
            && quoted.len() > 3
            && quoted.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
        if is_name {
            assert!(CONSTANTS.contains(&quoted), "{quoted}");
            found += 1;
        }
    }
    assert!(found > 20, "only {found}: does this test still read the sources?");
}
