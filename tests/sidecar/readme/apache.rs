//! The README's snippet for Apache, in Debian's Apache with PHP-FPM.

use super::block;
use super::front::{Front, daemon};

/// What Debian's package has switched on, and `php-fpm` with its `a2enconf`; `rewrite` for
/// WordPress's own `.htaccess`.
const BEFORE: &[&str] = &[
    "access_compat",
    "alias",
    "auth_basic",
    "authn_core",
    "authn_file",
    "authz_core",
    "authz_host",
    "authz_user",
    "autoindex",
    "deflate",
    "dir",
    "env",
    "filter",
    "mime",
    "mpm_event",
    "negotiation",
    "reqtimeout",
    "setenvif",
    "status",
    "proxy",
    "proxy_fcgi",
    "rewrite",
];

/// What `a2enmod ssl` switches on besides.
const WITH_SSL: &str = "socache_shmcb";

/// What WordPress writes there with permalinks like these.
const HTACCESS: &str = "RewriteEngine On\nRewriteRule .* - [E=HTTP_AUTHORIZATION:%{HTTP:Authorization}]\nRewriteBase /\n\
    RewriteRule ^index\\.php$ - [L]\nRewriteCond %{REQUEST_FILENAME} !-f\nRewriteCond %{REQUEST_FILENAME} !-d\n\
    RewriteRule . /index.php [L]\n";

#[test]
fn apache_in_front() {
    let mut front = Front::new();
    let root = front.site.said("ROOT").to_owned();
    std::fs::write(format!("{root}/.htaccess"), HTACCESS).unwrap();

    let command = block("apache-modules");
    let named = command.trim().strip_prefix("sudo a2enmod ").expect("a line for a2enmod").split(' ');
    let mut modules: Vec<&str> = BEFORE.iter().copied().chain(named).chain([WITH_SSL]).collect();
    modules.sort_unstable();
    modules.dedup();
    let loaded: String = modules
        .iter()
        .map(|module| format!("LoadModule {module}_module /usr/lib/apache2/modules/mod_{module}.so\n"))
        .collect();

    let here = front.directory.path().display().to_string();
    let text = format!(
        "ServerRoot {here}\nDefaultRuntimeDir {here}\nPidFile {here}/apache.pid\nErrorLog {here}/error.log\n{loaded}\
         User www-data\nGroup www-data\nServerName localhost\nMutex file:{here} default\nTypesConfig /etc/mime.types\n\
         DirectoryIndex index.html index.php\nListen 127.0.0.1:{}\n\
         <Directory />\nAllowOverride None\nRequire all denied\n</Directory>\n\
         <Directory {root}>\nAllowOverride None\nRequire all granted\n</Directory>\n\
         SetEnvIfNoCase ^Authorization$ \"(.+)\" HTTP_AUTHORIZATION=$1\n\
         <FilesMatch \".+\\.ph(?:ar|p|tml)$\">\nSetHandler \"proxy:unix:{}|fcgi://localhost\"\n</FilesMatch>\n{}",
        front.public(),
        front.site.said("PHP_SOCKET"),
        front.here(&block("apache"))
    );
    let file = format!("{here}/apache.conf");
    std::fs::write(&file, text).unwrap();
    front.start(daemon("/usr/sbin/apache2").args(["-D", "FOREGROUND", "-f", &file]));
    front.assert_nothing_shows();
    front.assert_goes_round();
}
