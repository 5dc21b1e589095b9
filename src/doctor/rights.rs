//! The database user's privileges: with too few, refreshes fail; with too many, a vulnerability of
//! the sidecar affects the database.
//!
//! Required privileges are not derived from SHOW GRANTS, which leaves roles, wildcards and columns
//! to be interpreted like by the server. Instead the server prepares the very statements that a
//! refresh runs: it checks the privileges then, without running anything. SHOW GRANTS is only read
//! for excess privileges.

use mysql_async::Row;

use super::database::Server;
use crate::config::Config;
use crate::declared::Read;
use crate::finding::{Area, Finding};
use crate::refresh::store::{Statement, Store};
use crate::refresh::{analytics, cleanup};
use crate::wordpress::database::{DatabaseError, Session, column};
use crate::wordpress::installation::Installation;

/// The proposed user.
pub const PROPOSED_USER: &str = "wp_jwt_sidecar";

/// A placeholder for the operator's own password; no real one is ever shown.
const PASSWORD_HERE: &str = "A-LONG-RANDOM-PASSWORD";

const TABLE_DENIED: u16 = 1142;
const COLUMN_DENIED: u16 = 1143;

/// Access denied. The statement would have run otherwise.
const DENIED: [u16; 4] = [1044, TABLE_DENIED, COLUMN_DENIED, 1227];

/// One use of a table.
pub struct Need {
    /// As in a GRANT: `SELECT`, `UPDATE (revoked_at)`.
    privileges: Vec<String>,
    /// Without quotes.
    table: String,
    /// What fails without it.
    what_for: &'static str,
    /// Whether refreshes fail without it.
    is_vital: bool,
    statements: Vec<String>,
}

/// Every use of the site's tables under this configuration. The statements are the sidecar's own.
pub fn needs(config: &Config, installation: &Installation, store: &Store, is_mariadb: bool) -> Vec<Need> {
    let prefix = &installation.table_prefix;
    let declared = config.declared();
    let table = |name: &str| format!("{prefix}{name}");
    let quoted = |name: &str| format!("`{prefix}{name}`");
    let of = |statements: &[Statement]| {
        statements.iter().map(|statement| store.text_of(*statement).to_owned()).collect::<Vec<_>>()
    };
    let select_options = format!("SELECT option_name, option_value FROM {} WHERE option_name = ''", quoted("options"));
    // For FOR UPDATE, MySQL requires UPDATE on the table, not only on a column (by its manual; not
    // tested).
    let update = if is_mariadb { "UPDATE (revoked_at)" } else { "UPDATE" };
    let mut tokens = Need {
        privileges: vec!["SELECT".to_owned(), "INSERT".to_owned(), update.to_owned()],
        table: table("jwt_auth_tokens"),
        what_for: "refreshes",
        is_vital: true,
        statements: of(&[Statement::Lock, Statement::Insert, Statement::Revoke]),
    };
    let mut events = Need {
        privileges: Vec::new(),
        table: table("jwt_auth_analytics"),
        what_for: "the plugin's statistics",
        is_vital: false,
        statements: Vec::new(),
    };
    if config.cleanup.tokens_after_days > 0 {
        tokens.privileges.push("DELETE".to_owned());
        let tokens_table = quoted("jwt_auth_tokens");
        tokens.statements.extend([cleanup::old_tokens(&tokens_table), cleanup::delete(&tokens_table)]);
    }
    if config.cleanup.analytics {
        let events_table = quoted("jwt_auth_analytics");
        events.privileges.extend(["SELECT".to_owned(), "DELETE".to_owned()]);
        events.statements.extend([cleanup::old_analytics(&events_table), cleanup::delete(&events_table)]);
    }
    if config.refresh.analytics {
        events.privileges.push("INSERT".to_owned());
        events
            .statements
            .push(analytics::insert(&analytics::Table { prefix: prefix.clone(), blog_id: installation.blog_id }));
    }
    let mut needs = vec![
        Need {
            privileges: vec!["SELECT (option_name, option_value)".to_owned()],
            table: table("options"),
            what_for: "the site's settings",
            is_vital: true,
            statements: vec![select_options],
        },
        Need {
            // SECURITY: not user_pass.
            privileges: vec![format!(
                "SELECT (ID, user_email, user_nicename, display_name{})",
                declared
                    .reads()
                    .iter()
                    .filter_map(Read::user_column)
                    .map(|name| format!(", {name}"))
                    .collect::<String>()
            )],
            table: installation.users_table.clone(),
            what_for: "refreshes",
            is_vital: true,
            statements: of(&[Statement::User]),
        },
        tokens,
    ];
    if let Some(table) = &installation.usermeta_table
        && declared.reads().iter().any(|read| read.user_column().is_none())
    {
        needs.push(Need {
            privileges: vec!["SELECT (umeta_id, user_id, meta_key, meta_value)".to_owned()],
            table: table.clone(),
            what_for: "refreshes, with what is declared of users,",
            is_vital: true,
            statements: of(&[Statement::Declared]),
        });
    }
    if !events.privileges.is_empty() {
        needs.push(events);
    }
    if installation.multisite {
        needs.extend(
            [
                of_network("blogs", "blog_id, site_id, domain, path, archived, spam, deleted", &quoted("blogs")),
                of_network("site", "id, path", &quoted("site")),
            ]
            .map(|need| Need { table: table(&need.table), ..need }),
        );
        needs.push(Need {
            privileges: vec!["SELECT (site_id, meta_key, meta_value)".to_owned()],
            table: table("sitemeta"),
            what_for: "the network's settings",
            is_vital: true,
            statements: vec![format!("SELECT meta_key, meta_value FROM {} WHERE site_id = 1", quoted("sitemeta"))],
        });
    }
    needs
}

/// Without it, only the first site of a network is refreshed natively.
fn of_network(table: &str, columns: &str, quoted: &str) -> Need {
    Need {
        privileges: vec![format!("SELECT ({columns})")],
        table: table.to_owned(),
        what_for: "refreshes of the network's further sites",
        is_vital: false,
        statements: vec![format!("SELECT {columns} FROM {quoted}")],
    }
}

/// A query whose rows are the GRANT statements that extend `needs` to the tables of a network's
/// further sites for `account`. GRANT has no wildcards for tables.
pub fn query_for_sites(database: &str, needs: &[Need], base_prefix: &str, account: &str) -> String {
    let text = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"));
    // The first site may have another id than 1; then its tables have no number in their names.
    let is_id = |id: &str| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
    let numbered = |name: &str| name.split_once('_').filter(|(id, _)| is_id(id)).map(|(_, name)| name.to_owned());
    let mut ids = "[0-9]+_";
    let of_each = needs.iter().filter_map(|need| {
        let name = need.table.strip_prefix(base_prefix)?;
        let name = match numbered(name) {
            Some(name) => {
                ids = "([0-9]+_)?";
                name
            }
            None => name.to_owned(),
        };
        let is_of_each = matches!(&*name, "options" | "jwt_auth_tokens" | "jwt_auth_analytics");
        is_of_each.then(|| (name, need.privileges.join(", ")))
    });
    let arms: String =
        of_each.map(|(name, privileges)| format!(" WHEN {} THEN {}", text(&name), text(&privileges))).collect();
    let quoted = database.replace('`', "``");
    // A prefix contains letters, digits and underscores only.
    let length = base_prefix.len();
    format!(
        "SELECT CONCAT('GRANT ', CASE REGEXP_REPLACE(SUBSTRING(TABLE_NAME, {}), '^[0-9]+_', ''){arms} END, {}, TABLE_NAME, {}) \
         FROM information_schema.TABLES WHERE TABLE_SCHEMA = {} AND LEFT(TABLE_NAME, {length}) = {} AND \
         SUBSTRING(TABLE_NAME, {}) REGEXP '^{ids}(options|jwt_auth_tokens|jwt_auth_analytics)$';",
        length + 1,
        text(&format!(" ON `{quoted}`.`")),
        text(&format!("` TO {account};")),
        text(database),
        text(base_prefix),
        length + 1,
    )
}

/// Lets the server check all `needs`, and looks for excess privileges.
///
/// # Errors
/// The database's, except a refusal, which is a finding.
pub async fn look(session: &mut Session<'_>, server: &Server, needs: &[Need]) -> Result<Vec<Finding>, DatabaseError> {
    let mut missing = Vec::new();
    for need in needs {
        if is_denied(session, need).await? {
            missing.push(need);
        }
    }
    // SECURITY: MariaDB's lines contain the hash of the password; only the names of privileges are
    // shown.
    let grants: Vec<Row> = match session.conn().query("SHOW GRANTS").await {
        Ok(grants) => grants,
        // A proxy in front of the server may not know the statement; excess privileges are then not
        // found.
        Err(mysql_async::Error::Server(_)) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let grants: Vec<String> =
        grants.into_iter().map(|mut row| column(&mut row, 0, "Grants")).collect::<Result<_, _>>()?;
    Ok(judge(server, needs, &missing, &everywhere(&grants)))
}

async fn is_denied(session: &mut Session<'_>, need: &Need) -> Result<bool, DatabaseError> {
    for statement in &need.statements {
        match session.conn().prep(statement.as_str()).await {
            Ok(prepared) => session.conn().close(prepared).await?,
            Err(mysql_async::Error::Server(error)) if DENIED.contains(&error.code) => {
                if !is_of_another_table(&error, &need.table) {
                    return Ok(true);
                }
            }
            // A missing table or column is reported elsewhere.
            Err(mysql_async::Error::Server(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

/// One statement locks rows and reads users, but each table is a need of its own.
fn is_of_another_table(error: &mysql_async::ServerError, table: &str) -> bool {
    let names_one = matches!(error.code, TABLE_DENIED | COLUMN_DENIED);
    // The message ends with the name in quotes of either kind.
    names_one && ![format!("`{table}`"), format!("'{table}'")].iter().any(|name| error.message.ends_with(name))
}

fn judge(server: &Server, needs: &[Need], missing: &[&Need], everywhere: &[String]) -> Vec<Finding> {
    let account = account(&server.account);
    let mut findings: Vec<Finding> = missing
        .iter()
        .map(|need| {
            let what = format!(
                "the database user {} may not do all that {} need with the table {}",
                server.account, need.what_for, need.table
            );
            let fix = "Grant the rights, as an administrator of the database:";
            let finding = if need.is_vital { Finding::problem } else { Finding::warning };
            finding(Area::Rights, "rights.missing", what, fix).with_lines([grant(server, need, &account)])
        })
        .collect();
    let may = format!("{} may do all that the sidecar does", server.account);
    let own_user = "A user of the sidecar's own needs no more than this (then put mysql://…@…/… into wordpress.database_url, by \
                    the configuration file or $WP_JWT_SIDECAR_WORDPRESS_DATABASE_URL):";
    if !everywhere.is_empty() {
        let what = format!("{} has rights on every database of the server: {}", server.account, everywhere.join(", "));
        findings.push(
            Finding::warning(Area::Rights, "rights.everywhere", what, own_user).with_lines(proposal(server, needs)),
        );
    }
    if missing.is_empty() {
        let mut enough = Finding::ok(Area::Rights, "rights.enough", may);
        if everywhere.is_empty() && !server.account.starts_with(PROPOSED_USER) {
            enough = enough.with_hint(own_user).with_lines(proposal(server, needs));
        }
        findings.insert(0, enough);
    }
    findings
}

/// The statements that create a user with the privileges for `needs`, and no others.
pub fn proposal(server: &Server, needs: &[Need]) -> Vec<String> {
    let account = proposed(server);
    let create = format!("CREATE USER {account} IDENTIFIED BY '{PASSWORD_HERE}';");
    std::iter::once(create).chain(needs.iter().map(|need| grant(server, need, &account))).collect()
}

/// The proposed user, quoted.
pub fn proposed(server: &Server) -> String {
    let host = server.account.rsplit_once('@').map_or("localhost", |(_, host)| host);
    format!("`{PROPOSED_USER}`@`{}`", host.replace('`', "``"))
}

/// The additional privileges of `wp-jwt-sidecar index`, while it runs.
pub fn grant_for_index(server: &Server, table_prefix: &str) -> String {
    // MySQL's privileges are by its manual; not tested.
    let privileges = if server.is_mariadb() { "ALTER" } else { "ALTER, CREATE, INSERT" };
    let (database, account) = (server.database.replace('`', "``"), account(&server.account));
    format!("GRANT {privileges} ON `{database}`.`{table_prefix}jwt_auth_tokens` TO {account};")
}

fn grant(server: &Server, need: &Need, account: &str) -> String {
    let database = server.database.replace('`', "``");
    format!("GRANT {} ON `{database}`.`{}` TO {account};", need.privileges.join(", "), need.table)
}

/// `CURRENT_USER()`, quoted.
pub fn account(current_user: &str) -> String {
    let (user, host) = current_user.rsplit_once('@').unwrap_or((current_user, "%"));
    format!("`{}`@`{}`", user.replace('`', "``"), host.replace('`', "``"))
}

/// The privileges on all databases: those of `GRANT … ON *.* TO`, except USAGE, which means none.
fn everywhere(grants: &[String]) -> Vec<String> {
    grants
        .iter()
        .filter_map(|grant| grant.strip_prefix("GRANT ")?.split_once(" ON *.* TO ").map(|(privileges, _)| privileges))
        .flat_map(|privileges| privileges.split(", "))
        .filter(|privilege| *privilege != "USAGE")
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_on_everything_are_seen() {
        let grants = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        assert!(
            everywhere(&grants(&["GRANT USAGE ON *.* TO `a`@`%`", "GRANT SELECT ON `w`.`t` TO `a`@`%`"])).is_empty()
        );
        assert!(everywhere(&grants(&["GRANT `role` TO `a`@`%`", "x"])).is_empty());
        let all = ["GRANT ALL PRIVILEGES ON *.* TO `a`@`localhost` IDENTIFIED BY PASSWORD '*24' WITH GRANT OPTION"];
        assert_eq!(everywhere(&grants(&all)), ["ALL PRIVILEGES"]);
        assert_eq!(everywhere(&grants(&["GRANT SELECT, FILE ON *.* TO `a`@`%`"])), ["SELECT", "FILE"]);
        assert!(everywhere(&grants(&["GRANT ALL PRIVILEGES ON `wordpress`.* TO `a`@`localhost`"])).is_empty());
    }

    #[test]
    fn the_rights_of_further_sites_are_those_of_the_first() {
        let need = |table: &str, privileges: &[&str]| Need {
            privileges: privileges.iter().map(|one| (*one).to_owned()).collect(),
            table: table.to_owned(),
            what_for: "",
            is_vital: true,
            statements: Vec::new(),
        };
        let needs = [
            need("a_options", &["SELECT (option_name)"]),
            need("a_users", &["SELECT"]),
            need("a_jwt_auth_tokens", &["SELECT", "INSERT"]),
        ];
        assert_eq!(
            query_for_sites("w`p", &needs, "a_", "`s`@`h`"),
            "SELECT CONCAT('GRANT ', CASE REGEXP_REPLACE(SUBSTRING(TABLE_NAME, 3), '^[0-9]+_', '') WHEN 'options' THEN \
             'SELECT (option_name)' WHEN 'jwt_auth_tokens' THEN 'SELECT, INSERT' END, ' ON `w``p`.`', TABLE_NAME, '` TO `s`@`h`;') \
             FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'w`p' AND LEFT(TABLE_NAME, 2) = 'a_' AND \
             SUBSTRING(TABLE_NAME, 3) REGEXP '^[0-9]+_(options|jwt_auth_tokens|jwt_auth_analytics)$';"
        );
        // If the first site has the id 5, the one with the id 1 is a further site.
        let of_five = query_for_sites("w", &[need("a_5_options", &["SELECT"])], "a_", "x");
        assert!(of_five.contains(" WHEN 'options' THEN 'SELECT' END"), "{of_five}");
        assert!(of_five.ends_with("REGEXP '^([0-9]+_)?(options|jwt_auth_tokens|jwt_auth_analytics)$';"), "{of_five}");
    }

    #[test]
    fn accounts_are_quoted() {
        assert_eq!(account("wordpress@localhost"), "`wordpress`@`localhost`");
        assert_eq!(account("o`dd@x@10.0.0.%"), "`o``dd@x`@`10.0.0.%`");
    }
}
