//! The names of the site's tables.

use super::{Assembly, giver};
use crate::config;
use crate::wordpress::wp_config::Lookup;

impl Assembly<'_> {
    pub(super) fn table_prefix(&mut self, config: &config::WordPress) -> Option<String> {
        let key = "wordpress.table_prefix";
        let prefix = match (&config.table_prefix, self.file) {
            (Some(prefix), _) => prefix.clone(),
            (None, None) => {
                self.fault(key, "is required where there is no wordpress.config".to_owned());
                return None;
            }
            (None, Some(file)) => match file.content.table_prefix() {
                Lookup::Known(scalar, _) => String::from_utf8_lossy(&scalar.to_bytes()).into_owned(),
                Lookup::NotDefined => {
                    self.not_there("$table_prefix", key);
                    return None;
                }
                Lookup::Unknown(doubt) => {
                    self.doubtful("$table_prefix", key, &doubt);
                    return None;
                }
            },
        };
        // SECURITY: it becomes part of the SQL. WordPress refuses other characters too
        // (`wpdb::set_prefix`).
        if !is_plain(&prefix) {
            let key = if config.table_prefix.is_some() { key } else { "wordpress.config" };
            self.fault(key, "the table prefix may hold letters, digits and underscores only".to_owned());
            return None;
        }
        Some(prefix)
    }

    /// `wpdb::tables()` replaces `users`, including the prefix, by `CUSTOM_USER_TABLE`.
    pub(super) fn users_table(&mut self, prefix: Option<&str>) -> Option<String> {
        const NAME: &str = "CUSTOM_USER_TABLE";
        let problem = match self.constant(NAME) {
            Lookup::Known(scalar, line) => match String::from_utf8(scalar.to_bytes()) {
                // SECURITY: it becomes part of the SQL.
                Ok(table) if !table.is_empty() && is_plain(&table) => return Some(table),
                _ => format!("{} gives it more than letters, digits and underscores, or nothing", giver(line)),
            },
            Lookup::Unknown(doubt) => {
                self.doubtful(NAME, "", &doubt);
                return None;
            }
            // Code that is not read could define it, but hardly any site shares its users: `check`
            // reports it, without refusing.
            Lookup::NotDefined => return prefix.map(|prefix| format!("{prefix}users")),
        };
        let fix = "define it there as a plain text";
        self.fault("wordpress.config", format!("the constant {NAME} cannot be known: {problem}; {fix}"));
        None
    }

    /// Like [`Assembly::users_table`].
    pub(super) fn usermeta_table(&self, prefix: &str) -> Option<String> {
        match self.constant("CUSTOM_USER_META_TABLE") {
            // SECURITY: it becomes part of the SQL.
            Lookup::Known(scalar, _) => {
                String::from_utf8(scalar.to_bytes()).ok().filter(|table| !table.is_empty() && is_plain(table))
            }
            Lookup::Unknown(_) => None,
            Lookup::NotDefined => Some(format!("{prefix}usermeta")),
        }
    }
}

fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
