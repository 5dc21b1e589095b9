//! What `wp-config.php` and the configuration together say about the site: where its database is,
//! the names of its tables, which secrets it uses.
//!
//! A key of the configuration wins over `wp-config.php`, and then need not be known from there.
//! Everything that is missing is reported at once, each with the constant, the line, the reason,
//! and the key to set instead. The database is not connected to here.

mod database;
mod file;
mod folders;
mod import;
pub mod layout;
mod own;
mod secrets;
mod tables;
mod tls;
mod unknown;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use super::database::Hosts;
use super::language::{LanguageConstant, Packs};
use super::salts::SaltConstants;
use super::wp_config::{Doubt, Lookup};
use crate::config::{self, Fault, Faults, Secret};
use file::{ConfigFile, Content};
use layout::{Layout, UnknownMain, prefix_of};
use unknown::Unknown;

pub use file::found;
pub use import::{Import, PassedOver};

/// A site, as its configuration describes it.
#[derive(Clone, PartialEq)]
pub struct Installation {
    /// How to reach the database.
    pub database: Hosts,
    /// The same for logs, without the password: `user@host:port/name` or `user@/path/to.sock/name`;
    /// several are separated by commas.
    pub database_label: String,
    /// The prefix of the site's own tables: `[A-Za-z0-9_]*`
    pub table_prefix: String,
    /// The prefix of the network's tables, likewise; the same on a single site and for a network's
    /// first site.
    pub base_prefix: String,
    /// The site's id in its network; 1 on a single site, and usually for a network's first site.
    pub blog_id: u64,
    /// The users' table, `[A-Za-z0-9_]+`: the constant `CUSTOM_USER_TABLE`, or else `users` with
    /// the prefix.
    pub users_table: String,
    /// The table of user meta, likewise: the constant `CUSTOM_USER_META_TABLE`, or else `usermeta`.
    /// `None` if the constant is unknown: only declared values depend on it.
    pub usermeta_table: Option<String>,
    /// The constants that determine `wp_salt('auth')`.
    pub salts: SaltConstants,
    /// `[jwt] secret`, or else the constant `JWT_AUTH_SECRET_KEY`. `None` only with a private key.
    pub jwt_secret: Option<Secret>,
    /// `[wordpress] home`
    pub home: Option<String>,
    /// The constants that win over the option `home`.
    pub wp_home: WpHome,
    /// Whether one of them is visibly computed from something that only PHP knows, such as the
    /// request's host.
    pub home_is_computed: bool,
    /// Whether it is a network of sites; `true` if only PHP knows.
    pub multisite: bool,
    /// Whether the network's own code may choose the site of a request: `sunrise.php`.
    pub sunrise: bool,
    /// What the constants say of the network. They say nothing on a single site.
    pub network: Result<Layout, UnknownMain>,
    /// The constant `JWT_AUTH_CORS_ENABLE`, which overrides the plugin's setting.
    pub cors_enable: Option<bool>,
    /// The `wp-config.php` that was read, with symbolic links resolved.
    pub config_file: Option<PathBuf>,
    /// The plugins directory, if it is known and exists.
    pub plugins_dir: Option<PathBuf>,
    /// `wp-content`, under the same conditions.
    pub content_dir: Option<PathBuf>,
    /// The directory of must-use plugins. It need not exist; `None` if its path is unknown.
    pub mu_plugins_dir: Option<PathBuf>,
    /// The constant `WPLANG`.
    pub language: LanguageConstant,
    /// Where language packs are, if known.
    pub packs: Option<Packs>,
    /// Assumptions about PHP's environment, in sentences without values.
    pub assumed: Vec<String>,
    /// The import that all this comes from, if any.
    pub import: Option<Import>,
    /// An import in the default place that belongs to another site.
    pub passed_over: Option<PassedOver>,
}

/// What the constants `WP_HOME` and `WP_SITEURL` say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WpHome {
    /// They are not defined: the option `home` decides.
    NotDefined,
    /// `WP_HOME`, without a trailing slash.
    Known(String),
    /// Only PHP can compute them, or an included file may define them: WordPress must be asked.
    Dynamic,
}

impl Installation {
    /// Where all this comes from, for people.
    pub fn source(&self) -> String {
        match (&self.import, &self.config_file) {
            (Some(import), _) => import.source(),
            (None, Some(file)) => format!("as read in {}", file.display()),
            (None, None) => "as the keys say".to_owned(),
        }
    }

    /// The site `blog_id` of the network, with its tables named as by `wpdb::get_blog_prefix()`. It
    /// has its own option for its home URL; if a constant overrides it for all sites, WordPress
    /// reports that when it is asked.
    #[must_use]
    pub fn of_blog(&self, blog_id: u64) -> Self {
        Installation {
            table_prefix: prefix_of(&self.base_prefix, blog_id),
            blog_id,
            home: None,
            wp_home: WpHome::NotDefined,
            ..self.clone()
        }
    }

    /// The network; the default if the constants do not determine it.
    pub fn layout(&self) -> &Layout {
        static USUAL: Layout = Layout { id: 1, main: 1, below: None };
        self.network.as_ref().unwrap_or(&USUAL)
    }

    /// The host of the home URL, if the configuration or a constant names it, so that it is known
    /// without the database.
    pub fn home_host(&self) -> Option<String> {
        let home = match (&self.home, &self.wp_home) {
            (Some(home), _) | (None, WpHome::Known(home)) => home,
            (None, WpHome::NotDefined | WpHome::Dynamic) => return None,
        };
        url::Url::parse(home).ok().and_then(|home| home.host_str().map(str::to_owned))
    }
}

// SECURITY: `OptsBuilder` prints its password.
impl fmt::Debug for Installation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Installation")
            .field("database", &self.database_label)
            .field("table_prefix", &self.table_prefix)
            .field("salts", &self.salts)
            .field("jwt_secret", &self.jwt_secret)
            .field("home", &self.home)
            .field("wp_home", &self.wp_home)
            .field("base_prefix", &self.base_prefix)
            .field("blog_id", &self.blog_id)
            .field("multisite", &self.multisite)
            .field("sunrise", &self.sunrise)
            .field("network", &self.network)
            .field("cors_enable", &self.cors_enable)
            .field("config_file", &self.config_file)
            .field("plugins_dir", &self.plugins_dir)
            .field("content_dir", &self.content_dir)
            .field("mu_plugins_dir", &self.mu_plugins_dir)
            .field("users_table", &self.users_table)
            .field("usermeta_table", &self.usermeta_table)
            .field("language", &self.language)
            .field("packs", &self.packs)
            .field("assumed", &self.assumed)
            .field("import", &self.import)
            .field("passed_over", &self.passed_over)
            .finish()
    }
}

/// Assembles the site's description. `environment` is what `getenv()` in `wp-config.php` sees.
///
/// # Errors
/// Everything that is needed and missing, unknown or invalid, at once.
pub fn installation(
    config: &config::WordPress,
    jwt: &config::Jwt,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Installation, Faults> {
    let mut passed_over = None;
    let made = file::of(config, environment, &mut passed_over)
        .map_err(|fault| vec![fault])
        .and_then(|file| assembled(file.as_ref(), config, jwt));
    match made {
        Ok(installation) => Ok(Installation { passed_over, ..installation }),
        // The user may have followed the errors' advice already, for another site.
        Err(faults) => Err(Faults(faults.into_iter().chain(passed_over.map(not_taken)).collect())),
    }
}

fn not_taken(import: PassedOver) -> Fault {
    let problem = format!("{}. {}", import.problem(), import.fix());
    Fault { key: "wordpress.import".to_owned(), problem, ..Fault::default() }
}

fn assembled(
    file: Option<&ConfigFile>,
    config: &config::WordPress,
    jwt: &config::Jwt,
) -> Result<Installation, Vec<Fault>> {
    let mut assembly = Assembly { file, faults: Vec::new(), unknown: Vec::new() };
    let database = assembly.database(config);
    let table_prefix = assembly.table_prefix(config);
    let users_table = assembly.users_table(table_prefix.as_deref());
    let salts = assembly.salts(config);
    let jwt_secret = assembly.jwt_secret(jwt);
    let cors_enable = assembly.cors_enable();
    match (database, table_prefix, users_table, salts) {
        (Some(database), Some(table_prefix), Some(users_table), Some(salts)) if assembly.wrong() == 0 => {
            let network = assembly.network();
            let blog_id = network.as_ref().map_or(1, |layout| layout.main);
            Ok(Installation {
                database_label: database.labels().join(", "),
                database,
                usermeta_table: assembly.usermeta_table(&table_prefix),
                base_prefix: table_prefix.clone(),
                table_prefix: prefix_of(&table_prefix, blog_id),
                blog_id,
                users_table,
                salts,
                jwt_secret,
                home: config.home.clone(),
                wp_home: assembly.wp_home(),
                home_is_computed: assembly.home_is_computed(),
                multisite: assembly.multisite(),
                sunrise: assembly.sunrise(),
                network,
                cors_enable,
                config_file: assembly.file.map(|file| file.path.clone()),
                plugins_dir: assembly.plugins_dir(),
                content_dir: assembly.content_dir(),
                mu_plugins_dir: assembly.mu_plugins_dir(),
                language: assembly.language(),
                packs: assembly.packs(),
                assumed: assembly.assumed(),
                import: assembly.import(),
                passed_over: None,
            })
        }
        _ => Err(assembly.all_faults()),
    }
}

struct Assembly<'a> {
    file: Option<&'a ConfigFile>,
    faults: Vec<Fault>,
    /// What is needed and unknown.
    unknown: Vec<Unknown>,
}

impl Assembly<'_> {
    fn cors_enable(&mut self) -> Option<bool> {
        match self.constant("JWT_AUTH_CORS_ENABLE") {
            Lookup::NotDefined => None,
            Lookup::Known(scalar, _) => Some(scalar.is_true()),
            Lookup::Unknown(doubt) => {
                self.doubtful("JWT_AUTH_CORS_ENABLE", "", &doubt);
                None
            }
        }
    }

    fn wp_home(&self) -> WpHome {
        if self.file.is_none() {
            return WpHome::Dynamic;
        }
        match (self.constant("WP_HOME"), self.constant("WP_SITEURL")) {
            (Lookup::Known(scalar, _), _) => String::from_utf8(scalar.to_bytes())
                .map_or(WpHome::Dynamic, |home| WpHome::Known(home.trim_end_matches(['/', '\\']).to_owned())), // untrailingslashit()
            (Lookup::Unknown(_), _) | (_, Lookup::Unknown(_)) => WpHome::Dynamic,
            (Lookup::NotDefined, _) if self.incomplete().is_some() => WpHome::Dynamic,
            (Lookup::NotDefined, _) => WpHome::NotDefined,
        }
    }

    fn home_is_computed(&self) -> bool {
        ["WP_HOME", "WP_SITEURL"].iter().any(|name| matches!(self.constant(name), Lookup::Unknown(_)))
    }

    fn sunrise(&self) -> bool {
        self.incomplete().is_some() || !matches!(self.constant("SUNRISE"), Lookup::NotDefined)
    }

    /// Like `is_multisite()`.
    fn multisite(&self) -> bool {
        match self.constant("MULTISITE") {
            Lookup::Known(scalar, _) => scalar.is_true(),
            Lookup::Unknown(_) => true,
            // Code that is not read may define it.
            Lookup::NotDefined if self.incomplete().is_some() => true,
            Lookup::NotDefined => ["SUBDOMAIN_INSTALL", "VHOST", "SUNRISE"]
                .iter()
                .any(|name| !matches!(self.constant(name), Lookup::NotDefined)),
        }
    }

    fn language(&self) -> LanguageConstant {
        match self.constant("WPLANG") {
            Lookup::Known(scalar, _) => {
                String::from_utf8(scalar.to_bytes()).map_or(LanguageConstant::Unknown, LanguageConstant::Known)
            }
            Lookup::NotDefined if self.incomplete().is_none() => LanguageConstant::NotDefined,
            Lookup::NotDefined | Lookup::Unknown(_) => LanguageConstant::Unknown,
        }
    }

    fn assumed(&self) -> Vec<String> {
        let Some(file) = self.file else { return Vec::new() };
        // Hardly any site has them, so they are reported rather than refused.
        let unseen = ["CUSTOM_USER_TABLE", "CUSTOM_USER_META_TABLE", "JWT_AUTH_CORS_ENABLE", "MYSQL_CLIENT_FLAGS"];
        let unseen = unseen.into_iter().filter_map(|name| {
            let doubt = self.incomplete().filter(|_| matches!(file.content.constant(name), Lookup::NotDefined))?;
            Some(format!("{name}: taken as not defined, but {doubt}"))
        });
        file.content.assumed().into_iter().chain(unseen).collect()
    }

    fn constant(&self, name: &str) -> Lookup<'_> {
        self.file.map_or(Lookup::NotDefined, |file| file.content.constant(name))
    }

    fn incomplete(&self) -> Option<Doubt> {
        self.file.and_then(|file| file.content.incomplete()).cloned()
    }

    /// A constant that must be defined, as text; a fault if it is not.
    fn needed_text(&mut self, name: &'static str, instead: &'static str) -> Option<Secret> {
        if self.file.is_none() {
            // One fault is enough for the database's four constants.
            if name == "DB_NAME" {
                self.fault(instead, "is required where there is no wordpress.config".to_owned());
            }
            return None;
        }
        match self.constant(name) {
            Lookup::Known(scalar, line) => match String::from_utf8(scalar.to_bytes()) {
                Ok(text) => return Some(Secret::new(text)),
                Err(_) => {
                    self.constant_fault(name, instead, &format!("{} gives it a value that is not UTF-8", giver(line)))
                }
            },
            Lookup::NotDefined => self.not_there(name, instead),
            Lookup::Unknown(doubt) => self.doubtful(name, instead, &doubt),
        }
        None
    }

    fn constant_fault(&mut self, name: &str, instead: &str, problem: &str) {
        self.fault(
            "wordpress.config",
            format!("the constant {name} cannot be known: {problem}; set {instead} instead"),
        );
    }

    /// A fault; the key names the import if there is one, otherwise the file that was read.
    fn fault(&mut self, key: &str, problem: String) {
        let file = self.file.filter(|_| key == "wordpress.config");
        let fault = match file.map(|file| (file, &file.import)) {
            Some((_, Some(import))) => ("wordpress.import", Some(import)),
            Some((file, None)) => (key, Some(&file.path)),
            None => (key, None),
        };
        let value = fault.1.map(|path| path.display().to_string());
        self.faults.push(Fault { key: fault.0.to_owned(), value, problem, ..Fault::default() });
    }

    fn import(&self) -> Option<Import> {
        let file = self.file?;
        match (&file.content, &file.import) {
            (Content::Imported(imported), Some(file)) => {
                Some(Import { file: file.clone(), host: imported.host.clone(), stale: imported.stale() })
            }
            _ => None,
        }
    }
}

/// What gives a constant its value; an import has no lines.
fn giver(line: usize) -> String {
    if line == 0 { "PHP".to_owned() } else { format!("line {line}") }
}

#[cfg(test)]
mod tests;
