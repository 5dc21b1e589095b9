//! Reads from the database which theme is active, and the code that snippet plugins keep there.

use mysql_async::Row;

use super::Hit;
use super::php::{self, Form};
use crate::wordpress::database::{DatabaseError, Refusal, Session, column};
use crate::wordpress::installation::Installation;

/// The active theme's directories.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Themes {
    /// The theme's.
    pub stylesheet: String,
    /// Its parent's, or its own.
    pub template: String,
}

/// Which theme is active.
///
/// # Errors
/// The database's.
pub async fn themes(session: &mut Session<'_>, installation: &Installation) -> Result<Themes, DatabaseError> {
    let prefix = &installation.table_prefix;
    let query = format!(
        "SELECT option_name, option_value FROM `{prefix}options` WHERE option_name IN ('stylesheet', 'template')"
    );
    let rows: Vec<Row> = session.conn().query(query).await?;
    let mut themes = Themes::default();
    for mut row in rows {
        let (name, value) = (column::<String>(&mut row, 0, "option_name")?, column(&mut row, 1, "option_value")?);
        match name.as_str() {
            "stylesheet" => themes.stylesheet = value,
            _ => themes.template = value,
        }
    }
    Ok(themes)
}

/// The snippets that name a hook.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snippets {
    /// Their places are `snippet 12`, and `snippet post 12` for WPCode's.
    pub hits: Vec<Hit>,
    /// Whether a snippet plugin is active whose snippets this user may not read.
    pub is_unread: bool,
}

/// The active snippets of Code Snippets and WPCode. Missing tables are skipped.
///
/// # Errors
/// The database's, if the connection fails.
pub async fn snippets(
    session: &mut Session<'_>,
    installation: &Installation,
    plugins: &[String],
) -> Result<Snippets, DatabaseError> {
    let prefix = &installation.table_prefix;
    let from_table = |prefix: &str, table: &str, active: &str| {
        format!(
            "SELECT id, LEFT(code, {LONGEST}) FROM `{prefix}{table}` WHERE {active} AND INSTR(code, 'jwt_auth') > 0 \
             ORDER BY id LIMIT {MOST}"
        )
    };
    let mut queries = vec![
        ("snippet", from_table(prefix, "snippets", "active = 1")),
        (
            "snippet post",
            format!(
                "SELECT ID, LEFT(post_content, {LONGEST}) FROM `{prefix}posts` WHERE post_type = 'wpcode' AND \
                 post_status = 'publish' AND INSTR(post_content, 'jwt_auth') > 0 ORDER BY ID LIMIT {MOST}"
            ),
        ),
    ];
    if installation.multisite {
        // The network's. Each blog's options say which shared ones are active there.
        queries.push(("network snippet", from_table(&installation.base_prefix, "ms_snippets", "active >= 0")));
    }
    let mut found = Vec::new();
    let mut is_denied = false;
    for (name, query) in queries {
        let rows: Result<Vec<Row>, DatabaseError> = session.conn().query(query).await.map_err(DatabaseError::from);
        match rows {
            Ok(rows) => {
                for mut row in rows {
                    let id: u64 = column(&mut row, 0, "id")?;
                    found.push((format!("{name} {id}"), column::<Vec<u8>>(&mut row, 1, "code")?));
                }
            }
            Err(error) if error.refusal() == Some(Refusal::Absent) => {}
            Err(error) if error.code().is_some() => is_denied = true,
            Err(error) => return Err(error),
        }
    }
    // Parsing takes too long for the runtime's own thread.
    let hits = tokio::task::spawn_blocking(move || {
        found.iter().flat_map(|(place, code)| hits(place, code)).collect::<Vec<_>>()
    });
    let is_unread = is_denied && plugins.iter().any(|plugin| keeps_snippets(plugin));
    Ok(match hits.await {
        Ok(hits) => Snippets { hits, is_unread },
        Err(_) => Snippets { hits: Vec::new(), is_unread: true },
    })
}

/// The most snippets that are read.
const MOST: usize = 500;

/// The most bytes that are read of one.
const LONGEST: usize = 1 << 20;

fn hits(place: &str, code: &[u8]) -> Vec<Hit> {
    // Some begin with the tag, and some with HTML.
    let form = if memchr::memmem::find(code, b"<?").is_some() { Form::File } else { Form::Code };
    let mut hits: Vec<Hit> =
        php::names(code, form).into_iter().map(|named| Hit { place: place.to_owned(), hook: named.hook }).collect();
    hits.sort();
    hits.dedup();
    hits
}

/// Such plugins are recognised by their directory. Without one, missing tables do not matter.
fn keeps_snippets(plugin: &str) -> bool {
    let folder = plugin.split('/').next().unwrap_or_default();
    folder.contains("snippet") || folder.starts_with("wpcode") || folder == "insert-headers-and-footers"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snippets_are_code_with_or_without_a_tag() {
        let hooks = |code: &str| {
            let hits = hits("snippet 12", code.as_bytes());
            assert!(hits.iter().all(|hit| hit.place == "snippet 12"));
            hits.into_iter().map(|hit| hit.hook).collect::<Vec<_>>()
        };
        let adds = "add_filter( 'jwt_auth_before_authenticate', fn( $user ) => $user );";
        for code in [adds.to_owned(), format!("<?php\n{adds}\n{adds}"), format!("<b>x</b><?php {adds} ?>")] {
            assert_eq!(hooks(&code), ["jwt_auth_before_authenticate"], "{code}");
        }
        // As code it would not parse.
        assert_eq!(hooks("<b>jwt_auth_before_authenticate</b>"), ["jwt_auth_before_authenticate"]);
        assert_eq!(hooks("// jwt_auth_before_authenticate\necho 1;"), [""; 0]);
        assert_eq!(hooks("do_action( 'jwt_auth_token_refreshed', $user );"), [""; 0]);
    }

    #[test]
    fn plugins_that_keep_snippets() {
        for plugin in ["code-snippets/code-snippets.php", "insert-headers-and-footers/ihaf.php", "wpcode-premium/x.php"]
        {
            assert!(keeps_snippets(plugin), "{plugin}");
        }
        assert!(!keeps_snippets("woocommerce/woocommerce.php"));
    }
}
