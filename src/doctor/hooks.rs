//! Code on the plugin's hooks by which it can refuse a refresh or act on one, found by reading the
//! site's files and snippets. Needs no PHP. See [`crate::wordpress::hook_scan`].

use std::sync::Arc;

use crate::finding::{Area, Finding};
use crate::wordpress::database::Database;
use crate::wordpress::hook_scan::{self, Active, Found, Hit, HookScan, Snippets, Themes};
use crate::wordpress::installation::Installation;
use crate::wordpress::site::Examined;

/// Reads them. `trusted` is `[refresh] trusted_hooks`.
pub async fn look(
    installation: &Installation,
    database: &Database,
    examined: &Examined,
    trusted: &[String],
) -> Vec<Finding> {
    let Some(plugin) = &examined.plugin else { return Vec::new() };
    // A database error is reported by the database's own check.
    let stored = async {
        let mut session = database.session().await?;
        let themes = hook_scan::themes(&mut session, installation).await?;
        let snippets = hook_scan::snippets(&mut session, installation, &examined.active_plugins).await?;
        session.give_back();
        Ok::<_, crate::wordpress::database::DatabaseError>((themes, snippets))
    };
    let (themes, snippets) =
        stored.await.unwrap_or_else(|_| (Themes::default(), Snippets { is_unread: true, ..Snippets::default() }));
    let active = Active::of(installation, examined.active_plugins.clone(), plugin, themes);
    let (_, found) = HookScan::new().look(Arc::new(active)).await;
    judge(found, snippets, trusted)
}

/// Pure.
fn judge(found: Found, snippets: Snippets, trusted: &[String]) -> Vec<Finding> {
    let files = found.files;
    let mut unread = found.unread.sentences();
    if snippets.is_unread {
        unread.push("what snippet plugins keep in the database cannot be read".to_owned());
    }
    let hits = found.hits.into_iter().chain(snippets.hits);
    let (known, new): (Vec<Hit>, Vec<Hit>) = hits.partition(|hit| hook_scan::is_trusted(hit, trusted));
    let mut findings = Vec::new();
    if !new.is_empty() {
        findings.push(warning(&new));
    } else if known.is_empty() {
        let what = format!(
            "read: {files} PHP files of active plugins, must-use plugins and the theme, and active snippets. None of it names \
             a hook of the plugin by which code can refuse a refresh or act at one"
        );
        findings.push(Finding::ok(Area::Customized, HOOKS, what).with_hint(UNSEEN));
    }
    if !known.is_empty() {
        let what = "code of the site's own names hooks of the plugin by which it can refuse a refresh or act at one, and is \
                    trusted (refresh.trusted_hooks)";
        findings
            .push(Finding::ok(Area::Customized, "customized.hooks_trusted", what).with_lines(known.iter().map(line)));
    }
    if !unread.is_empty() {
        let what = format!("not all of the site's code was looked at for hooks: {}", unread.join("; "));
        let hint = "Code there may refuse refreshes or act at them unseen. Give the sidecar's user the right to read it \
                    (`setfacl -R -m u:wp-jwt-sidecar:rX …/wp-content`), or look yourself for add_filter( 'jwt_auth…' ).";
        findings.push(Finding::ok(Area::Customized, "customized.hooks_unread", what).with_hint(hint));
    }
    findings
}

const HOOKS: &str = "customized.hooks";

const UNSEEN: &str = "Not seen this way: a hook whose name is put together in more than one file, and code that is kept \
                      elsewhere than in plugins, theme and snippets.";

fn warning(hits: &[Hit]) -> Finding {
    let what = "code of the site's own names hooks of the plugin by which it can refuse a refresh (a user, a role) or act at \
                one; it does not run for refreshes that the sidecar answers";
    let mut places: Vec<String> = hits.iter().map(|hit| format!("{:?}", hit.place)).collect();
    places.dedup();
    let fix = format!(
        "Look at what it does. Where a refresh may go without it, trust it: refresh.trusted_hooks = [{}]. A place without its \
         line means the whole file, and the name of a hook all its places. Otherwise set refresh.mode to \"forward\".",
        places.join(", ")
    );
    Finding::warning(Area::Customized, HOOKS, what, fix).with_lines(hits.iter().map(line))
}

fn line(hit: &Hit) -> String {
    format!("{} in {}", hit.hook, hit.place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Level;
    use crate::wordpress::hook_scan::Unread;

    fn hit(place: &str) -> Hit {
        Hit { place: place.to_owned(), hook: "jwt_auth_before_authenticate".to_owned() }
    }

    fn found(places: &[&str], unread: Unread) -> Found {
        Found { hits: places.iter().map(|place| hit(place)).collect(), unread, files: 41 }
    }

    fn levels(found: Found, snippets: Snippets, trusted: &[&str]) -> Vec<(&'static str, Level)> {
        let trusted: Vec<String> = trusted.iter().map(|trusted| (*trusted).to_owned()).collect();
        judge(found, snippets, &trusted).iter().map(|finding| (finding.id, finding.level)).collect()
    }

    #[test]
    fn hits_are_warned_of_unless_they_are_trusted() {
        let none = || found(&[], Unread::default());
        assert_eq!(levels(none(), Snippets::default(), &[]), [(HOOKS, Level::Ok)]);
        let two = || found(&["shop/auth.php:3", "mu-plugins/x.php:4"], Unread::default());
        assert_eq!(levels(two(), Snippets::default(), &[]), [(HOOKS, Level::Warning)]);
        let trusted = ("customized.hooks_trusted", Level::Ok);
        assert_eq!(levels(two(), Snippets::default(), &["shop/auth.php"]), [(HOOKS, Level::Warning), trusted]);
        assert_eq!(levels(two(), Snippets::default(), &["jwt_auth_before_authenticate"]), [trusted]);
        let snippet = || Snippets { hits: vec![hit("snippet 12")], is_unread: false };
        assert_eq!(levels(none(), snippet(), &[]), [(HOOKS, Level::Warning)]);
        assert_eq!(levels(none(), snippet(), &["snippet 12"]), [trusted]);

        let warned = &judge(two(), Snippets::default(), &[])[0];
        assert_eq!(
            warned.lines,
            ["jwt_auth_before_authenticate in shop/auth.php:3", "jwt_auth_before_authenticate in mu-plugins/x.php:4"]
        );
        let key = r#"refresh.trusted_hooks = ["shop/auth.php:3", "mu-plugins/x.php:4"]"#;
        assert!(warned.fix.as_ref().is_some_and(|fix| fix.contains(key)), "{warned:?}");
    }

    #[test]
    fn what_was_not_read_is_a_note() {
        let unread = Unread { parts: vec!["shop".to_owned()], of: 3, ..Unread::default() };
        let note = ("customized.hooks_unread", Level::Ok);
        assert_eq!(levels(found(&[], unread.clone()), Snippets::default(), &[]), [(HOOKS, Level::Ok), note]);
        let findings = judge(found(&[], unread), Snippets { is_unread: true, ..Snippets::default() }, &[]);
        let what = "not all of the site's code was looked at for hooks: 1 of 3 plugins, themes and other code cannot be read by \
                    this user (shop); what snippet plugins keep in the database cannot be read";
        assert_eq!(findings[1].what, what);
    }
}
