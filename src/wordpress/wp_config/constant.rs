//! Constants: those of the site, WordPress's, and the few of PHP's own that configurations use.

use tree_sitter::Node;

use super::expression::printable;
use super::value::{Scalar, Value};
use super::{Reader, literal, text};

/// Constants that WordPress reads, or defines after wp-config.php or for other requests than those from the web: PHP has none of
/// them, so that `defined()` is false where the files have not defined it yet.
const OF_WORDPRESS: &str = "\
    ABSPATH AUTH_KEY SECURE_AUTH_KEY LOGGED_IN_KEY NONCE_KEY AUTH_SALT SECURE_AUTH_SALT LOGGED_IN_SALT NONCE_SALT \
    SECRET_KEY SECRET_SALT MULTISITE SUBDOMAIN_INSTALL VHOST SUNRISE DOMAIN_CURRENT_SITE PATH_CURRENT_SITE \
    SITE_ID_CURRENT_SITE BLOG_ID_CURRENT_SITE NOBLOGREDIRECT CUSTOM_USER_TABLE CUSTOM_USER_META_TABLE \
    MYSQL_CLIENT_FLAGS COOKIE_DOMAIN COOKIEPATH SITECOOKIEPATH ADMIN_COOKIE_PATH COOKIEHASH FORCE_SSL_ADMIN \
    FORCE_SSL_LOGIN DISALLOW_FILE_EDIT DISALLOW_FILE_MODS DISABLE_WP_CRON ALTERNATE_WP_CRON SCRIPT_DEBUG SAVEQUERIES \
    AUTOSAVE_INTERVAL EMPTY_TRASH_DAYS FS_METHOD FS_CHMOD_DIR FS_CHMOD_FILE AUTOMATIC_UPDATER_DISABLED WPLANG WPINC \
    XMLRPC_REQUEST REST_REQUEST";

fn is_left_to_site(name: &str) -> bool {
    OF_WORDPRESS.split(' ').any(|known| known == name)
        || ["WP_", "WPMU_", "DB_", "JWT_", "DOING_"].iter().any(|start| name.starts_with(start))
}

impl Reader<'_> {
    pub(super) fn evaluate_constant(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let name = String::from_utf8_lossy(text(node, source)).into_owned();
        let name = name.strip_prefix('\\').unwrap_or(&name);
        if let Some(slot) = self.scope.constant(name) {
            return slot.value.clone();
        }
        let integer = |number| Value::Known(Scalar::Integer(number));
        match name {
            "PHP_EOL" => Value::Known(Scalar::text("\n")),
            "DIRECTORY_SEPARATOR" => Value::Known(Scalar::text("/")),
            "MYSQLI_CLIENT_COMPRESS" | "MYSQL_CLIENT_COMPRESS" => integer(32),
            "MYSQLI_CLIENT_SSL" | "MYSQL_CLIENT_SSL" => integer(2048),
            "MYSQLI_CLIENT_SSL_DONT_VERIFY_SERVER_CERT" => integer(64),
            _ => self.unknown(node, format!("uses the constant {}, which is not known there", printable(name))),
        }
    }

    pub(super) fn call_define(&mut self, node: Node<'_>, name: &Value, value: &Value) -> Value {
        let Some(name) = name.known_text() else {
            let doubt = self.doubt(node, "defines a constant whose name only PHP knows");
            self.scope.lose(&doubt);
            return Value::Unknown(doubt);
        };
        match self.scope.define(name, value.clone(), self.place(node)) {
            Some(first) => Value::boolean(first),
            None => self.unknown(node, "may define a constant again"),
        }
    }

    pub(super) fn call_defined(&mut self, node: Node<'_>, name: &Value) -> Value {
        let Some(name) = name.known_text() else {
            return self.unknown(node, "asks for a constant whose name only PHP knows");
        };
        match (self.scope.constant(name), &self.scope.lost) {
            (Some(slot), _) if slot.certain => Value::boolean(true),
            (Some(slot), _) => self.computed(node, &slot.value),
            (None, Some(doubt)) => Value::Unknown(doubt.clone()),
            // index.php defines it in a request from the web, other ways into WordPress do not.
            (None, None) if name == "WP_USE_THEMES" => {
                self.unknown(node, "asks for WP_USE_THEMES, which depends on the request")
            }
            (None, None) if is_left_to_site(name) => Value::boolean(false),
            (None, None) => self.unknown(node, format!("asks for {}, which may be PHP's own", printable(name))),
        }
    }

    /// `const A = …, B = …;`
    pub(super) fn run_const(&mut self, node: Node<'_>, source: &[u8]) {
        let mut cursor = node.walk();
        for element in node.named_children(&mut cursor).filter(|child| child.kind() == "const_element") {
            let mut children = element.walk();
            let mut parts = element.named_children(&mut children).filter(|child| child.kind() != "comment");
            if let (Some(name), Some(value)) = (parts.next(), parts.next()) {
                let name = String::from_utf8_lossy(text(name, source)).into_owned();
                let value = self.evaluate(value, source);
                self.scope.define(&name, value, self.place(node));
            }
        }
    }

    /// A call of `define()` that may or may not be made.
    pub(super) fn touch_define(&mut self, node: Node<'_>, name: Option<Node<'_>>, source: &[u8], doubt: &super::Doubt) {
        match name.and_then(|name| literal::text_of(name, source)) {
            Some(name) => self.scope.may_define(&name, self.place(node), doubt),
            None => self.scope.lose(doubt),
        }
    }
}
