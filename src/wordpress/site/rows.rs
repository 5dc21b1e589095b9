//! What is read from the database about the site: some options, and the structure of the token
//! table.

use std::time::Instant;

use mysql_async::Row;

use crate::wordpress::clock::Reading;
use crate::wordpress::database::{Conn, DatabaseError, NO_INDEX, Session, column};
use crate::wordpress::installation::Installation;
use crate::wordpress::text::ColumnCharset;

/// The relevant options of the site, in one query.
const OPTIONS: &str = "'active_plugins', 'jwt_auth_pro_settings', 'home', 'siteurl', 'permalink_structure', 'WPLANG', \
                       'auth_key', 'auth_salt', 'blog_charset', 'jwt_auth_pro_version', 'template', 'stylesheet', \
                       'db_version'";

/// The columns of the token table that a rotation reads or writes.
const USED: [&str; 13] = [
    "id",
    "hash",
    "user_id",
    "issued_at",
    "expires_at",
    "revoked_at",
    "refresh_token_hash",
    "refresh_token_expires_at",
    "token_family",
    "metadata",
    "user_agent",
    "ip_address",
    "blog_id",
];

/// The token column.
const TOKEN: &str = "refresh_token_hash";

/// The limits of the token table's columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Columns {
    /// The length of `user_agent`, in characters.
    pub user_agent_length: usize,
    /// The character set of `user_agent`.
    pub user_agent_charset: ColumnCharset,
    /// Whether `refresh_token_hash` is compared without regard to case.
    pub folds_case: bool,
    /// Whether there is an index whose first column is `refresh_token_hash`.
    pub indexed: bool,
}

/// The rows that describe a site.
pub(super) struct Rows {
    options: Vec<(String, Vec<u8>)>,
    meta: Vec<(String, Vec<u8>)>,
    engine: Option<String>,
    columns: Vec<Column>,
    /// An index whose first column is the token column; of several, the one that covers most of it.
    token_index: Option<String>,
    clock: Option<Reading>,
    /// Whether WordPress's own messages are in English, by the options and by files.
    pub(super) is_english: bool,
}

/// A column of the token table, as `information_schema` describes it.
struct Column {
    name: String,
    length: Option<u64>,
    charset: Option<String>,
    collation: Option<String>,
    needs_value: bool,
}

impl Rows {
    /// Also reads the names of the site's roles, if they are declared.
    pub(super) async fn read(
        session: &mut Session<'_>,
        installation: &Installation,
        with_roles: bool,
    ) -> Result<Self, DatabaseError> {
        let prefix = &installation.table_prefix;
        let table = format!("{prefix}jwt_auth_tokens");
        let conn = session.conn();
        // WP_Roles stores them under the prefix of the site's tables.
        let roles = if with_roles { format!(", '{prefix}user_roles'") } else { String::new() };
        let options: Vec<Row> = conn
            .query(format!(
                "SELECT option_name, option_value FROM `{prefix}options` WHERE option_name IN ({OPTIONS}{roles})"
            ))
            .await?;
        let meta: Vec<Row> = if installation.multisite {
            conn.query(format!(
                "SELECT meta_key, meta_value FROM `{}sitemeta` WHERE site_id = {} AND meta_key IN \
                 ('active_sitewide_plugins', 'auth_key', 'auth_salt', 'WPLANG')",
                installation.base_prefix,
                installation.layout().id
            ))
            .await?
        } else {
            Vec::new()
        };
        let asked = Instant::now();
        let engine: Option<Row> = conn
            .exec_first(
                "SELECT ENGINE, TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) FROM information_schema.TABLES \
                 WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?",
                (&table,),
            )
            .await?;
        let answered = Instant::now();
        // With names that are not constants, the server would open every table of the database:
        // thousands on a network.
        let columns: Vec<Row> = conn
            .exec(
                "SELECT COLUMN_NAME, CHARACTER_MAXIMUM_LENGTH, CHARACTER_SET_NAME, COLLATION_NAME, \
                 IS_NULLABLE = 'NO' AND COLUMN_DEFAULT IS NULL AND EXTRA NOT LIKE '%auto_increment%' \
                 AND EXTRA NOT LIKE '%GENERATED%' \
                 FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?",
                (&table,),
            )
            .await?;
        let columns: Vec<Column> = columns.into_iter().map(described).collect::<Result<_, _>>()?;
        let index: Option<Row> = conn
            .exec_first(
                "SELECT INDEX_NAME FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? \
                 AND COLUMN_NAME = ? AND SEQ_IN_INDEX = 1 AND INDEX_TYPE = 'BTREE' \
                 ORDER BY SUB_PART IS NOT NULL, SUB_PART DESC, INDEX_NAME LIMIT 1",
                (&table, TOKEN),
            )
            .await?;
        let index: Option<String> = index.map(|mut row| column(&mut row, 0, "STATISTICS")).transpose()?;
        let token_index = match index {
            Some(index) if is_used(conn, &table, &index).await? => Some(index),
            _ => None,
        };
        let (engine, time): (Option<String>, Option<i64>) = match engine {
            Some(mut row) => (column(&mut row, 0, "ENGINE")?, column(&mut row, 1, "UTC_TIMESTAMP")?),
            None => (None, None),
        };
        Ok(Rows {
            options: pairs(options)?,
            meta: pairs(meta)?,
            engine,
            columns,
            token_index,
            clock: time.and_then(|time| Reading::of_microseconds(time, asked, answered)),
            is_english: false,
        })
    }

    /// The reading of the database's clock.
    pub(super) fn clock(&self) -> Option<Reading> {
        self.clock
    }

    pub(super) fn option(&self, name: &str) -> Option<&[u8]> {
        find(&self.options, name)
    }

    pub(super) fn meta(&self, name: &str) -> Option<&[u8]> {
        find(&self.meta, name)
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.option(name).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    pub(super) fn meta_text(&self, name: &str) -> Option<String> {
        self.meta(name).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// A secret that is not UTF-8 would be changed by conversion: it counts as missing.
    pub(super) fn secret(&self, name: &str) -> Option<String> {
        self.option(name).and_then(|value| String::from_utf8(value.to_vec()).ok())
    }

    /// Like [`Rows::secret`], from the network's options.
    pub(super) fn meta_secret(&self, name: &str) -> Option<String> {
        self.meta(name).and_then(|value| String::from_utf8(value.to_vec()).ok())
    }

    /// The index on the token column.
    pub(super) fn token_index(&self) -> Option<&str> {
        self.token_index.as_deref()
    }

    /// The limits of the token table's columns, or why rotations cannot use the table.
    pub(super) fn columns(&self) -> Result<Columns, String> {
        let engine = self.engine.as_deref().ok_or("it is not there")?;
        if !engine.eq_ignore_ascii_case("InnoDB") {
            return Err(format!("its engine is {engine}, which has no transactions; InnoDB is needed"));
        }
        let named = |name: &str| self.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name));
        if let Some(missing) = USED.iter().find(|name| named(name).is_none()) {
            return Err(format!("it has no column {missing}"));
        }
        let is_used = |column: &Column| USED.iter().any(|name| column.name.eq_ignore_ascii_case(name));
        if let Some(column) = self.columns.iter().find(|column| column.needs_value && !is_used(column)) {
            return Err(format!("its column {} needs a value that only the plugin knows", column.name));
        }
        let (Some(agent), Some(token)) = (named("user_agent"), named("refresh_token_hash")) else {
            return Err("it has no column user_agent".to_owned());
        };
        Ok(Columns {
            user_agent_length: usize::try_from(agent.length.unwrap_or(0)).unwrap_or(usize::MAX),
            user_agent_charset: match agent.charset.as_deref() {
                Some("utf8mb4") => ColumnCharset::Utf8mb4,
                Some("utf8" | "utf8mb3") => ColumnCharset::Utf8mb3,
                _ => ColumnCharset::Ascii,
            },
            folds_case: token.collation.as_ref().is_some_and(|collation| collation.ends_with("_ci")),
            indexed: self.token_index.is_some(),
        })
    }
}

/// Whether the server uses `index` when it is named in a hint. It does not if the index is IGNORED
/// (MariaDB) or INVISIBLE (MySQL), or was just dropped; each server keeps that in a differently
/// named column.
// SECURITY: the index's name becomes part of the SQL, quoted as in MySQL's manual (9.2, Schema
// Object Names).
async fn is_used(conn: &mut Conn, table: &str, index: &str) -> Result<bool, DatabaseError> {
    let index = index.replace('`', "``");
    let explained =
        conn.query_drop(format!("EXPLAIN SELECT id FROM `{table}` FORCE INDEX (`{index}`) WHERE {TOKEN} = ''"));
    match explained.await {
        Ok(()) => Ok(true),
        Err(mysql_async::Error::Server(error)) if error.code == NO_INDEX => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn find<'a>(pairs: &'a [(String, Vec<u8>)], name: &str) -> Option<&'a [u8]> {
    pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_slice())
}

fn pairs(rows: Vec<Row>) -> Result<Vec<(String, Vec<u8>)>, DatabaseError> {
    rows.into_iter()
        .map(|mut row| Ok((column(&mut row, 0, "option_name")?, column(&mut row, 1, "option_value")?)))
        .collect()
}

fn described(mut row: Row) -> Result<Column, DatabaseError> {
    Ok(Column {
        name: column(&mut row, 0, "COLUMN_NAME")?,
        length: column(&mut row, 1, "CHARACTER_MAXIMUM_LENGTH")?,
        charset: column(&mut row, 2, "CHARACTER_SET_NAME")?,
        collation: column(&mut row, 3, "COLLATION_NAME")?,
        needs_value: column(&mut row, 4, "IS_NULLABLE")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(change: impl Fn(&mut Vec<Column>)) -> Result<Columns, String> {
        let mut columns: Vec<Column> = USED
            .iter()
            .map(|name| Column {
                name: (*name).to_owned(),
                length: Some(255),
                charset: Some("utf8mb4".to_owned()),
                collation: Some("utf8mb4_unicode_520_ci".to_owned()),
                needs_value: *name == "hash",
            })
            .collect();
        change(&mut columns);
        Rows {
            options: Vec::new(),
            meta: Vec::new(),
            engine: Some("InnoDB".to_owned()),
            columns,
            token_index: None,
            clock: None,
            is_english: true,
        }
        .columns()
    }

    #[test]
    fn the_plugins_own_table_can_be_used() {
        let columns = table(|_| ()).unwrap();
        assert_eq!((columns.user_agent_length, columns.folds_case, columns.indexed), (255, true, false));
    }

    #[test]
    fn a_table_that_a_rotation_would_fail_on_is_left_to_wordpress() {
        assert_eq!(
            table(|columns| columns.retain(|column| column.name != "metadata")).unwrap_err(),
            "it has no column metadata"
        );
        let needed = table(|columns| {
            columns.push(Column {
                name: "device".to_owned(),
                length: None,
                charset: None,
                collation: None,
                needs_value: true,
            });
        });
        assert_eq!(needed.unwrap_err(), "its column device needs a value that only the plugin knows");
        let engine = Some("Aria".to_owned());
        let aria = Rows {
            options: vec![],
            meta: vec![],
            engine,
            columns: vec![],
            token_index: None,
            clock: None,
            is_english: true,
        }
        .columns();
        assert!(aria.unwrap_err().contains("has no transactions"));
    }
}
