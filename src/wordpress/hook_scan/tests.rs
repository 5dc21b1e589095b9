use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::task::Poll;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const BLOCKS: &str = "<?php\nadd_filter( 'jwt_auth_before_authenticate', 'shop_block' );\n";
const ACTS: &str = "<?php add_action( 'jwt_auth_token_refreshed', 'shop_log' );";
const OWN: &str = "jwt-auth-pro/jwt-auth-pro.php";

/// A directory with the files of a site, and its active code.
struct Site {
    root: TempDir,
    active: Active,
}

impl Site {
    fn new(plugins: &[&str]) -> Site {
        let root = tempfile::tempdir().unwrap();
        let content = root.path().join("wp-content");
        let active = Active {
            plugins_dir: Some(content.join("plugins")),
            mu_plugins: Some(content.join("mu-plugins")),
            content: Some(content),
            config_file: None,
            plugins: [OWN].iter().chain(plugins).map(|plugin| (*plugin).to_owned()).collect(),
            stylesheet: "child".to_owned(),
            template: "parent".to_owned(),
            own_plugin: OWN.to_owned(),
        };
        let site = Site { root, active };
        site.put("plugins/jwt-auth-pro/jwt-auth-pro.php", BLOCKS);
        site.put("themes/child/style.css", "");
        site.put("themes/parent/style.css", "");
        site
    }

    fn path(&self, file: &str) -> PathBuf {
        self.root.path().join("wp-content").join(file)
    }

    fn put(&self, file: &str, content: impl AsRef<[u8]>) {
        let path = self.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn scan(&self) -> Found {
        HookScan::new().scan(&self.active)
    }

    /// The hits of a new scan that could read everything.
    #[track_caller]
    fn places(&self) -> Vec<String> {
        let found = self.scan();
        assert_eq!(found.unread.sentences(), [""; 0]);
        places(&found)
    }
}

fn places(found: &Found) -> Vec<String> {
    found.hits.iter().map(|hit| hit.place.clone()).collect()
}

#[test]
fn all_that_is_active_is_read() {
    let site = Site::new(&["shop/shop.php", "single.php", "nested/sub/main.php"]);
    for file in [
        "plugins/shop/inc/auth.php",
        "plugins/shop/shop.php",
        "plugins/single.php",
        "plugins/nested/other/x.inc",
        "mu-plugins/always.php",
        "mu-plugins/loaded/deep/er.php",
        "object-cache.php",
        "db.php",
        "themes/child/functions.php",
        "themes/parent/inc/hooks.php",
        "fluent-snippet-storage/1-block.php",
    ] {
        site.put(file, BLOCKS);
    }
    for file in [
        "plugins/inactive/inactive.php",
        "plugins/single-helper.php",
        "plugins/shop/readme.txt",
        "plugins/shop/node_modules/x/x.php",
        "plugins/shop/vendor/composer/autoload_static.php",
        "themes/twentyten/functions.php",
        "uploads/x.php",
        "other.php",
    ] {
        site.put(file, BLOCKS);
    }
    site.put("plugins/shop/clean.php", "<?php echo 1;");
    let found = site.scan();
    let expected = [
        "mu-plugins/always.php:2",
        "mu-plugins/loaded/deep/er.php:2",
        "nested/other/x.inc:2",
        "shop/inc/auth.php:2",
        "shop/shop.php:2",
        "single.php:2",
        "themes/child/functions.php:2",
        "themes/parent/inc/hooks.php:2",
        "wp-content/db.php:2",
        "wp-content/fluent-snippet-storage/1-block.php:2",
        "wp-content/object-cache.php:2",
    ];
    assert_eq!(places(&found), expected);
    assert!(found.hits.iter().all(|hit| hit.hook == "jwt_auth_before_authenticate"));
    assert_eq!((found.files, found.unread.sentences()), (12, vec![]));
}

#[test]
fn code_after_the_settings_counts() {
    let mut site = Site::new(&[]);
    let config = site.root.path().join("wp-config.php");
    let content = format!("<?php\ndefine( 'JWT_AUTH_SECRET_KEY', 'x' );\nrequire 'wp-settings.php'; ?>{ACTS}");
    fs::write(&config, content).unwrap();
    site.active.config_file = Some(config);
    assert_eq!(site.places(), ["wp-config.php:3"]);
}

#[test]
fn a_site_without_such_code_has_no_hits() {
    let site = Site::new(&["wp-api-jwt-auth/jwt-auth.php"]);
    let fires = "<?php return apply_filters( 'jwt_auth_token_before_dispatch', $data, $user );";
    site.put("plugins/wp-api-jwt-auth/public/class-jwt-auth-public.php", fires);
    site.put("mu-plugins/claims.php", "<?php add_filter( 'jwt_auth_token_user_data', 'x' );");
    let found = site.scan();
    assert_eq!((found.hits, found.files, found.unread.sentences()), (vec![], 2, vec![]));
}

#[test]
fn entries_that_leave_their_folder_are_not_followed() {
    let mut site = Site::new(&["../outside/x.php", "/etc/x.php", "", "./shop/x.php", "gone/gone.php"]);
    fs::create_dir(site.root.path().join("outside")).unwrap();
    fs::write(site.root.path().join("outside/x.php"), BLOCKS).unwrap();
    (site.active.stylesheet, site.active.template) = ("../../outside".to_owned(), "parent".to_owned());
    assert_eq!(site.places(), [""; 0]);
}

#[test]
fn links_are_followed_within_the_sites_folders_alone() {
    let site = Site::new(&["shop/shop.php", "linked/linked.php"]);
    site.put("plugins/shop/shop.php", "<?php");
    site.put("shared/auth.php", BLOCKS);
    symlink(site.path("shared"), site.path("plugins/shop/shared")).unwrap();
    symlink(site.path("shared/auth.php"), site.path("plugins/shop/file.php")).unwrap();
    // Links in circles, to nothing, and to a file that is not PHP.
    symlink(site.path("plugins/shop"), site.path("plugins/shop/again")).unwrap();
    symlink(site.path("gone.php"), site.path("plugins/shop/gone.php")).unwrap();
    symlink("/etc/hostname", site.path("plugins/shop/hostname.txt")).unwrap();
    assert_eq!(site.places(), ["shop/file.php:2", "shop/shared/auth.php:2"]);

    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("linked.php"), BLOCKS).unwrap();
    symlink(outside.path().join("linked.php"), site.path("plugins/shop/out.php")).unwrap();
    symlink(outside.path(), site.path("plugins/linked")).unwrap();
    let found = site.scan();
    assert_eq!(places(&found), ["shop/file.php:2", "shop/shared/auth.php:2"]);
    assert_eq!(
        (found.unread.parts.as_slice(), found.unread.links),
        (["shop", "linked"].map(str::to_owned).as_slice(), 2)
    );
    let said = found.unread.sentences();
    assert_eq!(said[0], "2 of 4 plugins, themes and other code cannot be read by this user (shop, linked)");
    assert_eq!(said[1], "links out of the site's folders are not followed: 2");
}

/// `wp-content` itself may be a link, as with deployments by releases.
#[test]
fn a_folder_that_is_a_link_is_the_folder() {
    let site = Site::new(&["shop/shop.php"]);
    site.put("plugins/shop/shop.php", BLOCKS);
    let current = site.root.path().join("current");
    symlink(site.path(""), &current).unwrap();
    let active = Active {
        content: Some(current.clone()),
        plugins_dir: Some(current.join("plugins")),
        mu_plugins: Some(current.join("mu-plugins")),
        ..site.active.clone()
    };
    let found = HookScan::new().scan(&active);
    assert_eq!((places(&found), found.unread.sentences()), (vec!["shop/shop.php:2".to_owned()], vec![]));
}

#[test]
fn what_this_user_cannot_read_is_told() {
    let site = Site::new(&["shop/shop.php", "closed/closed.php"]);
    site.put("plugins/shop/shop.php", BLOCKS);
    site.put("plugins/closed/closed.php", BLOCKS);
    let closed = site.path("plugins/closed");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    let is_root = fs::read_dir(&closed).is_ok();
    let found = site.scan();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
    if is_root {
        // Root can read everything, except the target of a broken link.
        fs::remove_dir_all(&closed).unwrap();
        fs::create_dir(&closed).unwrap();
        symlink("loop", closed.join("loop")).unwrap();
        symlink("loop", closed.join("x.php")).unwrap();
        assert_eq!(site.scan().unread.parts, ["closed"], "too many levels of links");
        return;
    }
    assert_eq!(places(&found), ["shop/shop.php:2"]);
    assert_eq!(found.unread.parts, ["closed"]);
}

#[test]
fn folders_that_are_not_the_sites_are_told() {
    let mut site = Site::new(&["shop/shop.php"]);
    fs::remove_dir_all(site.path("plugins/jwt-auth-pro")).unwrap();
    assert!(site.scan().unread.is_elsewhere, "the plugin is active, so this is another site's folder");
    site.put("plugins/jwt-auth-pro/jwt-auth-pro.php", "<?php");
    assert!(!site.scan().unread.is_elsewhere);
    fs::remove_dir_all(site.path("themes/child")).unwrap();
    assert_eq!(site.scan().unread.parts, ["child"]);
    site.active.mu_plugins = None;
    assert!(site.scan().unread.is_elsewhere);
    let nowhere = Active { plugins: vec![OWN.to_owned()], own_plugin: OWN.to_owned(), ..Active::default() };
    let found = HookScan::new().scan(&nowhere);
    assert!(found.unread.is_elsewhere && found.files == 0);
    assert!(found.unread.sentences()[0].starts_with("it is not known where"), "{found:?}");
}

#[test]
fn large_files_and_what_is_no_file_are_left_out() {
    let site = Site::new(&["shop/shop.php"]);
    let large = [BLOCKS.as_bytes(), &vec![b' '; 1 << 20]].concat();
    site.put("plugins/shop/large.php", &large);
    site.put("plugins/shop/small.php", &large[..1 << 20]);
    let fifo = site.path("plugins/shop/fifo.php");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    fs::create_dir(site.path("plugins/shop/folder.php")).unwrap();
    let found = site.scan();
    assert_eq!(places(&found), ["shop/small.php:2"]);
    assert_eq!(found.unread.sentences(), ["files above 1 MiB are left out: 1"]);
}

#[test]
fn one_scan_is_bounded_and_the_next_goes_on() {
    let site = Site::new(&["a/a.php", "b/b.php"]);
    for plugin in ["a", "b"] {
        site.put(&format!("plugins/{plugin}/{plugin}.php"), BLOCKS);
    }
    let mut scan = at_once();
    scan.limits.bytes = 1;
    let found = scan.scan(&site.active);
    assert_eq!((places(&found), found.unread.is_cut), (vec!["a/a.php:2".to_owned()], true));
    assert!(found.unread.sentences()[0].contains("the next scan continues"), "{found:?}");
    let found = scan.scan(&site.active);
    assert_eq!((places(&found), found.unread.is_cut), (vec!["a/a.php:2".to_owned(), "b/b.php:2".to_owned()], false));
    scan.limits.files = 1;
    let found = scan.scan(&site.active);
    assert_eq!((found.files, found.unread.is_cut), (1, true));
}

/// A scan that treats recently changed files as settled.
fn at_once() -> HookScan {
    let mut scan = HookScan::new();
    scan.limits.settled = Duration::ZERO;
    scan
}

#[test]
fn only_what_changed_is_read_again() {
    let site = Site::new(&["shop/shop.php"]);
    for number in 0..5 {
        site.put(&format!("plugins/shop/{number}.php"), "<?php echo 1;");
    }
    site.put("plugins/shop/auth.php", BLOCKS);
    let mut scan = at_once();
    let reads = |scan: &mut HookScan| {
        let before = scan.read;
        let found = scan.scan(&site.active);
        (scan.read - before, places(&found))
    };
    let hit = vec!["shop/auth.php:2".to_owned()];
    assert_eq!(reads(&mut scan), (6, hit.clone()));
    assert_eq!(reads(&mut scan), (0, hit.clone()));
    site.put("plugins/shop/3.php", ACTS);
    assert_eq!(reads(&mut scan), (1, vec!["shop/3.php:1".to_owned(), "shop/auth.php:2".to_owned()]));
    // With the same size and the old time.
    let metadata = fs::metadata(site.path("plugins/shop/auth.php")).unwrap();
    let (before, stamp) = (metadata.modified().unwrap(), Stamp::of(&metadata));
    site.put("plugins/shop/auth.php", BLOCKS.replace("before_authenticate", "after_authenticate "));
    let file = File::options().write(true).open(site.path("plugins/shop/auth.php")).unwrap();
    file.set_modified(before).unwrap();
    // The inode's clock has a resolution of some milliseconds.
    while Stamp::of(&file.metadata().unwrap()) == stamp {
        std::thread::yield_now();
        file.set_modified(before).unwrap();
    }
    assert_eq!(reads(&mut scan), (1, vec!["shop/3.php:1".to_owned()]));
    fs::remove_file(site.path("plugins/shop/3.php")).unwrap();
    assert_eq!(reads(&mut scan), (0, vec![]));
    assert_eq!(scan.seen.len(), 5, "what is gone is forgotten");
    // The plugin is deactivated.
    let none = Active { plugins: vec![OWN.to_owned()], ..site.active.clone() };
    assert_eq!(scan.scan(&none).files, 0);
    assert!(scan.seen.is_empty());
}

#[test]
fn a_file_that_has_just_changed_is_read_once_more() {
    let site = Site::new(&["shop/shop.php"]);
    site.put("plugins/shop/shop.php", BLOCKS);
    let mut scan = HookScan::new();
    scan.scan(&site.active);
    scan.scan(&site.active);
    assert_eq!(scan.read, 2, "it may change again within one tick of the clock");
}

#[tokio::test]
async fn a_look_is_a_scan_elsewhere_and_ends_with_who_waits() {
    let site = Site::new(&["shop/shop.php"]);
    site.put("plugins/shop/shop.php", BLOCKS);
    let active = Arc::new(site.active.clone());
    let (scan, found) = HookScan::in_background().look(Arc::clone(&active)).await;
    assert_eq!(places(&found), ["shop/shop.php:2"]);
    assert!(!found.unread.is_cut && scan.is_gentle);
    let (scan, again) = scan.look(Arc::clone(&active)).await;
    assert_eq!(again, found);

    let stopped = Arc::clone(&scan.is_stopped);
    let mut look = Box::pin(scan.look(active));
    // It begins, and its caller stops waiting.
    let is_done = std::future::poll_fn(|context| Poll::Ready(look.as_mut().poll(context).is_ready())).await;
    drop(look);
    assert!(is_done || stopped.load(Ordering::Relaxed));
    let mut scan = HookScan { is_stopped: Arc::new(AtomicBool::new(true)), ..HookScan::new() };
    let found = scan.scan(&site.active);
    assert_eq!((found.files, found.unread.is_cut), (0, true));
}

#[test]
fn the_state_of_files_changes_with_them() {
    let site = Site::new(&[]);
    site.put("mu-plugins/a.php", "<?php");
    site.put("themes/child/functions.php", "<?php");
    let mut states = vec![files_state(&site.active)];
    assert_eq!(files_state(&site.active), states[0], "it is the same as long as they are");
    let mut step = |what: &str, change: &dyn Fn()| {
        change();
        let state = files_state(&site.active);
        assert!(states.iter().all(|before| before.here != state.here), "{what}");
        // Machines with the same code have it from different days.
        let is_same = states.last().is_some_and(|before| before.anywhere == state.anywhere);
        assert_eq!(is_same, what == "another time", "{what}");
        states.push(state);
    };
    step("a must-use plugin more", &|| site.put("mu-plugins/b.php", "<?php"));
    step("another size", &|| site.put("mu-plugins/a.php", "<?php echo 1;"));
    step("another time", &|| {
        let file = File::options().write(true).open(site.path("mu-plugins/b.php")).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(1_700_000_000)).unwrap();
    });
    step("a drop-in", &|| site.put("object-cache.php", "<?php"));
    step("the theme's functions.php", &|| site.put("themes/child/functions.php", "<?php echo 1;"));
    step("the parent's", &|| site.put("themes/parent/functions.php", "<?php"));
    step("one less", &|| fs::remove_file(site.path("mu-plugins/a.php")).unwrap());

    let before = files_state(&site.active);
    site.put("mu-plugins/notes.txt", "x");
    site.put("plugins/shop/shop.php", "<?php");
    assert_eq!(files_state(&site.active), before, "of other files it says nothing");
    let other = Active { stylesheet: "parent".to_owned(), ..site.active.clone() };
    assert_ne!(files_state(&other), before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_content_panics(content in proptest::collection::vec(any::<u8>(), 0..300), starts in any::<bool>()) {
        let site = Site::new(&["shop/shop.php"]);
        let start: &[u8] = if starts { b"<?php 'jwt_auth_token_refreshed'; " } else { b"jwt_auth_token_refreshed" };
        site.put("plugins/shop/shop.php", [start, &content].concat());
        let found = site.scan();
        prop_assert_eq!(found.files, 1);
        prop_assert!(!starts || !found.hits.is_empty());
    }
}
