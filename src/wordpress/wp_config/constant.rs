//! Constants: those of the site, WordPress's, and the few of PHP's own that configurations use.

use super::Reader;
use super::code::Code;
use super::value::{Scalar, Value};

/// Constants that WordPress reads, or defines after wp-config.php or in requests that do not come
/// from the web. PHP itself has none of them, so `defined()` is false if the files have not defined
/// them yet.
const OF_WORDPRESS: &str = "\
    ABSPATH AUTH_KEY SECURE_AUTH_KEY LOGGED_IN_KEY NONCE_KEY AUTH_SALT SECURE_AUTH_SALT LOGGED_IN_SALT NONCE_SALT \
    SECRET_KEY SECRET_SALT MULTISITE SUBDOMAIN_INSTALL VHOST SUNRISE DOMAIN_CURRENT_SITE PATH_CURRENT_SITE \
    SITE_ID_CURRENT_SITE BLOG_ID_CURRENT_SITE NOBLOGREDIRECT CUSTOM_USER_TABLE CUSTOM_USER_META_TABLE \
    MYSQL_CLIENT_FLAGS COOKIE_DOMAIN COOKIEPATH SITECOOKIEPATH ADMIN_COOKIE_PATH COOKIEHASH FORCE_SSL_ADMIN \
    FORCE_SSL_LOGIN DISALLOW_FILE_EDIT DISALLOW_FILE_MODS DISABLE_WP_CRON ALTERNATE_WP_CRON SCRIPT_DEBUG SAVEQUERIES \
    AUTOSAVE_INTERVAL EMPTY_TRASH_DAYS FS_METHOD FS_CHMOD_DIR FS_CHMOD_FILE AUTOMATIC_UPDATER_DISABLED WPLANG WPINC \
    XMLRPC_REQUEST REST_REQUEST";

/// index.php defines `WP_USE_THEMES` in a request from the web; other entry points of WordPress do
/// not.
fn is_left_to_site(name: &str) -> bool {
    OF_WORDPRESS.split(' ').any(|known| known == name)
        || ["WP_", "WPMU_", "DB_", "JWT_", "DOING_"].iter().any(|start| name.starts_with(start))
            && name != "WP_USE_THEMES"
}

impl Reader<'_> {
    /// Evaluates a bare word.
    pub(super) fn evaluate_name(&mut self, code: Code<'_>) -> Value {
        let name = code.text();
        match name.to_ascii_lowercase().as_str() {
            "exit" | "die" => return self.end(code, "exit"),
            "__file__" => return self.own_path(code, false),
            "__dir__" => return self.own_path(code, true),
            _ => {}
        }
        let name = name.strip_prefix('\\').unwrap_or(&name);
        if let Some((value, _)) = self.scope.constant(name) {
            return value.clone();
        }
        match name {
            "PHP_EOL" => Value::Known(Scalar::text("\n")),
            "DIRECTORY_SEPARATOR" => Value::Known(Scalar::text("/")),
            "MYSQLI_CLIENT_COMPRESS" | "MYSQL_CLIENT_COMPRESS" => Value::Known(Scalar::Integer(32)),
            "MYSQLI_CLIENT_SSL" | "MYSQL_CLIENT_SSL" => Value::Known(Scalar::Integer(2048)),
            "MYSQLI_CLIENT_SSL_DONT_VERIFY_SERVER_CERT" => Value::Known(Scalar::Integer(64)),
            _ => self.unknown(code, &format!("uses the constant {name}, which is not known there")),
        }
    }

    fn own_path(&self, code: Code<'_>, is_directory: bool) -> Value {
        let path = self.files.last().and_then(|file| if is_directory { file.parent() } else { Some(file) });
        match path.and_then(|path| path.to_str()) {
            // systemd passes a copy (`credential:`): PHP's path of the file is unknown.
            Some(path) if path.starts_with("/run/credentials/") => {
                self.unknown(code, "uses the path of the file, of which this is a copy")
            }
            Some(path) => Value::Known(Scalar::text(path)),
            None => self.unknown(code, "uses a path that is not UTF-8"),
        }
    }

    pub(super) fn call_define(&mut self, code: Code<'_>, name: &Value, value: &Value) -> Value {
        let Some(name) = name.known_text() else {
            return self.lose(code, "defines a constant whose name only PHP knows");
        };
        self.scope.define(name, value.clone(), code.line());
        self.unknown(code, "uses what define() returns")
    }

    pub(super) fn call_defined(&mut self, code: Code<'_>, name: &Value) -> Value {
        let Some(name) = name.known_text() else {
            return self.unknown(code, "asks for a constant whose name only PHP knows");
        };
        match (self.scope.constant(name), &self.scope.lost) {
            (Some((Value::Unknown(doubt), _)), _) | (None, Some(doubt)) => Value::Unknown(doubt.clone()),
            (Some(_), _) => Value::boolean(true),
            (None, None) if is_left_to_site(name) => Value::boolean(false),
            (None, None) => self.unknown(code, &format!("asks for {name}, which may be PHP's own")),
        }
    }

    /// `const A = …, B = …;`
    pub(super) fn run_const(&mut self, code: Code<'_>) {
        for element in code.children() {
            if let [name, value] = element.children().as_slice() {
                let value = self.evaluate(*value);
                self.scope.define(&name.text(), value, code.line());
            }
        }
    }
}
