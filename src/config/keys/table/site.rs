//! The keys of the site itself: `[wordpress]`, `[jwt]`, `[refresh]`, `[cleanup]`.

use std::time::Duration;

use super::super::{Key, boolean, duration, integer, lifetime, list, one_of, path, secret, tables, text};
use crate::config::{
    Algorithm, DatabaseTls, RefreshMode, ResponseFields, ReuseDetection, Secret, Verify,
    kind::{FileName, Tables},
};

keys! {
    WORDPRESS_CONFIG: Option<FileName> = path("wordpress.config").flag_as("wp-config")
        .unset("database_url says where the database is", "/var/www/html/wp-config.php")
        .about("The site's wp-config.php, which is read, never run.")
        .change("One of this, import and database_url is needed, unless [refresh] mode is \"forward\". Here and in \
            every key that names a file, credential:NAME is the copy that systemd makes at each start for \
            LoadCredential=NAME:/PATH of the unit.");
    WORDPRESS_IMPORT: Option<FileName> = path("wordpress.import")
        .unset("/etc/wp-jwt-sidecar/site.toml, if it is there and of this wordpress.config", "/etc/wp-jwt-sidecar/site.toml")
        .about("The file that `wp-jwt-sidecar import` wrote about the site with PHP's help; it is used in place of \
            reading wp-config.php.")
        .change("For sites whose wp-config.php only PHP understands: Bedrock, Dotenv, switches by host. Set it if \
            several sidecars have a site each.");
    WORDPRESS_DATABASE_URL: Option<Secret> = secret("wordpress.database_url")
        .unset("as wp-config.php says", "mysql://USER:PASSWORD@127.0.0.1:3306/wordpress")
        .about("The site's database, as mysql://USER:PASSWORD@HOST:PORT/DATABASE (?socket=/PATH for a local socket).")
        .change("For sites whose wp-config.php cannot be read, or a database user of the sidecar's own.");
    WORDPRESS_DATABASE_HOSTS: Vec<String> = list("wordpress.database_hosts", "HOST")
        .about("Hosts of the database in place of DB_HOST (and of the one in database_url), each in a form that \
            DB_HOST may have: the primary, then the replicas that may become primary, with the same user and \
            password.")
        .change("If the first cannot be reached or is read-only, the sidecar uses the next one that accepts writes. It \
            returns to an earlier one once that has taken writes for ten seconds and has the other's data. Never let \
            two of them take writes, unless they are one cluster. Leave it empty if one address always leads to the \
            primary.");
    WORDPRESS_DATABASE_CONNECTIONS: usize = integer("wordpress.database_connections", 4..=1_000, "connections").is("16")
        .about("The most connections to the database, waiting ones included.")
        .change("Two of them do most of the work: rotations share transactions. More are taken only while rows are \
            locked or the server is slow. Keep it two below the account's max_user_connections, and the sum of all its \
            users below max_connections; a reload may take twice as many for a moment.");
    WORDPRESS_DATABASE_TLS: DatabaseTls = one_of("wordpress.database_tls").is("auto")
        .about("TLS to the database: as MYSQL_CLIENT_FLAGS in wp-config.php or ?require_ssl=true in database_url says \
            (\"auto\"), with a certificate that is verified (\"verify\") or not verified (\"encrypt_only\"), or none \
            (\"off\").")
        .change("With \"auto\" the server's certificate is verified, unless MYSQLI_CLIENT_SSL_DONT_VERIFY_SERVER_CERT \
            or ?verify_ca=false says otherwise; PHP does not verify it. \"encrypt_only\" is for a server whose \
            certificate cannot be verified: it protects against eavesdropping, not against impersonation of the \
            server. Connections by a local socket never have TLS.");
    WORDPRESS_DATABASE_CA_FILE: Option<FileName> = path("wordpress.database_ca_file")
        .unset("only authorities that the system trusts", "/etc/ssl/certs/database-ca.pem")
        .about("Certificates, in PEM form, of authorities that may sign the database's, besides those that the system \
            trusts.")
        .change("For an authority of your own, or of the hosting company. Read at the start and on SIGHUP.");
    WORDPRESS_DATABASE_CLIENT_CERTIFICATE: Option<String> = text("wordpress.database_client_certificate", "CHAIN:KEY")
        .unset("none is presented", "/etc/wp-jwt-sidecar/db.pem:/etc/wp-jwt-sidecar/db.key")
        .about("The certificate that the sidecar presents to the database, with its private key, as CHAIN:KEY, two \
            files in PEM form; or one file with both.")
        .change("For accounts with REQUIRE X509, SUBJECT or ISSUER. Read at the start and on SIGHUP; \
            credential:CHAIN:KEY works as for tls.certificates.");
    WORDPRESS_DATABASE_TLS_NAME: Option<String> = text("wordpress.database_tls_name", "NAME")
        .unset("the host that is connected to", "db.example.com")
        .about("The name that the database's certificate must have, where that is not the host's.")
        .change("For a database that is reached by an address, a tunnel or a proxy. It holds for all of \
            database_hosts.");
    WORDPRESS_TABLE_PREFIX: Option<String> = text("wordpress.table_prefix", "PREFIX")
        .unset("as wp-config.php says", "wp_")
        .about("What the names of the site's tables begin with.");
    WORDPRESS_HOME: Option<String> = text("wordpress.home", "URL")
        .unset("WordPress itself is asked", "https://example.com")
        .about("The site's home URL, the issuer of every token.")
        .change("It must equal WordPress's, to the letter: the plugin refuses tokens with another issuer. It is the \
            issuer on all hosts, and WordPress is not asked: a closed REST API and WordPress's clock do not count \
            then.");
    WORDPRESS_HOSTS: Vec<String> = list("wordpress.hosts", "HOST")
        .about("Further hosts (host or host:port) under which clients reach this site, besides that of its home URL.")
        .change("The sidecar asks WordPress for its home URL on each, which is the issuer there. Any other host may \
            be another site of the same web server: there, only live tokens of this site are refreshed, and \
            everything else is left to WordPress.");
    WORDPRESS_AUTH_KEY: Option<Secret> = secret("wordpress.auth_key")
        .unset("as wp-config.php or the database says", "the value of AUTH_KEY")
        .about("The constant AUTH_KEY.");
    WORDPRESS_AUTH_SALT: Option<Secret> = secret("wordpress.auth_salt")
        .unset("as wp-config.php or the database says", "the value of AUTH_SALT")
        .about("The constant AUTH_SALT.");
    JWT_SECRET: Option<Secret> = secret("jwt.secret").unset("as wp-config.php says", "the value of JWT_AUTH_SECRET_KEY")
        .about("The constant JWT_AUTH_SECRET_KEY, for HS256, HS384 and HS512.");
    JWT_SECRET_FILE: Option<FileName> = path("jwt.secret_file")
        .unset("as wp-config.php says", "/etc/wp-jwt-sidecar/jwt-secret")
        .about("A file that holds JWT_AUTH_SECRET_KEY, instead of `secret`; a line break at its end does not count.");
    JWT_PRIVATE_KEY_FILE: Option<FileName> = path("jwt.private_key_file")
        .unset("the shared secret signs", "/etc/wp-jwt-sidecar/private.pem")
        .about("The private key in PEM form, for RS256, RS384, RS512, ES256, ES384 and EdDSA.")
        .change("For sites whose own code gives the plugin a key pair.");
    JWT_ALGORITHM: Option<Algorithm> = one_of("jwt.algorithm").unset("the site's setting", "HS256")
        .about("The algorithm that signs access tokens.")
        .change("Only if the site's own code overrides the plugin's setting.");
    JWT_LIFETIME: Option<Duration> = lifetime("jwt.lifetime").unset("the site's setting", "30d")
        .about("How long access tokens live, `exp` less `iat`.")
        .change("Only if the site's own code overrides the plugin's setting (the filter jwt_auth_expire).");
    JWT_CLAIM: Option<Tables> = tables("jwt.claim", "{ path = \"data.user.role\", value = { roles = \"first\" } }")
        .unset("the plugin's claims only", "[{ path = \"data.user.role\", value = { roles = \"first\" } }]")
        .about("Claims that the site's own code adds to access tokens, in its order.")
        .change("Declare only what its code adds already: the comparison with WordPress's responses holds the sidecar \
            to it, and prints what would explain a difference. A value is one of { constant = \"shop\" }, { column = \
            \"login\" } (id, login, email, nicename, display_name, url, registered), { roles = \"first\" } (list, \
            first, joined), { meta = \"first_name\" } (as = \"string\", \"integer\" or \"boolean\") and { gravatar = \
            \"sha256\" } (\"md5\" before WordPress 6.8; size, default, rating). Also written as tables, \
            [[jwt.claim]].");
    REFRESH_MODE: RefreshMode = one_of("refresh.mode").is("native")
        .about("Who answers the refresh route: the sidecar (\"native\") or WordPress (\"forward\").")
        .change("Set \"forward\" if the site's own PHP code must run at each refresh. The verification finds what \
            that code changes in the response.");
    REFRESH_VERIFY: Verify = one_of("refresh.verify").is("auto")
        .about("Whether the sidecar proves that its refreshes are WordPress's: at first and after each change of the \
            site, then by a thin sample (\"auto\"); for one call of twenty for good (\"always\"); or not at all \
            (\"off\").")
        .change("The site's own PHP code does not run at a native refresh. So WordPress answers until verify_first of \
            its responses equal what the sidecar would have given, and the first difference leaves all refreshes to \
            WordPress again. Refreshes with the origin of an app (capacitor://localhost) are native once the sidecar \
            has seen WordPress's responses to that origin, with the same CORS fields. `wp-jwt-sidecar verify` shows \
            the state. With \"off\" nothing is compared and nothing is scanned, and refreshes with apps' origins are \
            forwarded: set it only if you know of each change of the site.");
    REFRESH_VERIFY_FIRST: usize = integer("refresh.verify_first", 1..=10_000, "answers").is("20")
        .about("Responses of WordPress that must agree before refreshes are native, for three users at least (for \
            fewer users: three times as many responses).")
        .change("20 that agree rule out code that acts on 14 of 100 refreshes or more (95 %), 60 rule out 5 of 100.");
    REFRESH_VERIFY_EVERY: usize = integer("refresh.verify_every", 1..=1_000_000, "refreshes").is("1000")
        .about("One of this many native refreshes goes to WordPress and is compared; at most one a second, at least \
            one in ten minutes. The refreshes of each app's origin count by themselves.");
    REFRESH_VERIFY_IGNORE_HEADERS: Vec<String> = list("refresh.verify_ignore_headers", "NAME")
        .about("Header fields of WordPress's responses that are not compared.")
        .change("For fields that a web server or a CDN adds to responses of PHP only. The CORS fields of responses to \
            apps' origins are compared all the same.");
    REFRESH_TRUSTED_HOOKS: Vec<String> = list("refresh.trusted_hooks", "PLACE")
        .about("Code of the site that refreshes need not run, by its place as the log names it \
            (\"my-plugin/inc/auth.php:12\", or without the line), or by the name of its hook.")
        .change("The sidecar reads the PHP files of active plugins, the theme and the like. Code on a hook that may \
            refuse a user or act at a refresh leaves all refreshes to WordPress until it is listed here.");
    REFRESH_STATE_DIRECTORY: Option<FileName> = path("refresh.state_directory")
        .unset("STATE_DIRECTORY, which systemd sets; without it the state is kept in memory", "/var/lib/wp-jwt-sidecar")
        .about("The directory in which the state of the verification is kept, so that a restart does not begin again.")
        .change("It must exist, and the sidecar's user must be able to write to it; the package's unit makes one. \
            Several sidecars may share a directory, unless they have the same database, tables and addresses to \
            listen on: then give each its own.");
    REFRESH_RESPONSE_FIELDS: ResponseFields = one_of("refresh.response_fields").is("all")
        .about("The members of a successful response: those of the plugin's API document, those that it really sends \
            (\"oauth2\"), or all.");
    REFRESH_FIELD: Option<Tables> = tables("refresh.field", "{ name = \"role\", value = { roles = \"first\" } }")
        .unset("the plugin's members only", "[{ name = \"role\", value = { roles = \"first\" } }]")
        .about("Members that the site's own code adds to a successful response, in its order; a dot leads into an \
            object.")
        .change("As jwt.claim, with the same values; or [[refresh.field]].");
    REFRESH_OMIT: Vec<String> = list("refresh.omit", "NAME")
        .about("Members that the site's own code removes from a successful response: token_type, expires_in.");
    REFRESH_ANALYTICS: bool = boolean("refresh.analytics").is("true")
        .about("Whether refreshes are written to the plugin's analytics table.");
    REFRESH_ANALYTICS_REFUSALS: usize = integer("refresh.analytics_refusals", 0..=1_000_000, "rows a second").is("1000")
        .about("The most rows that refused refreshes add to the analytics in a second; 0: no rows.")
        .change("A client that guesses tokens would fill the table, and the disk, far faster than WordPress could \
            write it. Refusals beyond it are answered the same; their rows are left out, counted (the metric \
            analytics_rows_skipped_total) and logged. Rows of successful refreshes are not limited.");
    REFRESH_REUSE_INTERVAL: Duration = duration("refresh.reuse_interval").or_zero().is("10s")
        .about("How long a used refresh token gets its successor's pair again; \"0s\": it is refused at once.")
        .change("Apps send a token twice: two tabs, two requests that meet an expired access token, a lost response. \
            With the plugin both of two calls at the same instant succeed, so a refusal would log out users that \
            WordPress keeps. All calls get the one pair; nothing new is made, and after a logout, a revocation or a \
            password change the token is refused. Raise it to \"30s\" if clients are slow to retry. With ES256 and \
            ES384, whose signatures cannot be repeated, only the process that made a pair can give it again.");
    REFRESH_REUSE_DETECTION: ReuseDetection = one_of("refresh.reuse_detection").is("off")
        .about("What happens when a used refresh token comes back after reuse_interval: it is refused (\"off\"), or \
            its family's live tokens are revoked, too (\"revoke_family\").")
        .change("\"revoke_family\" is recommended (RFC 9700, section 4.14.2), unless apps retry later than \
            reuse_interval: a used token that comes back late may have been copied, and nothing shows which of the \
            two clients is honest. With a reuse_interval of \"0s\" it logs out every client that sends a call twice.");
    REFRESH_KNOWN_TOKENS: usize = integer("refresh.known_tokens", 1..=100_000_000, "tokens").is("1000000")
        .about("Tokens whose rows are kept in memory, about 200 bytes each, those of all sites of a network together; \
            twice that while a table with more of them is read again.")
        .change("If the table has no index on refresh_token_hash (see `wp-jwt-sidecar index`), keep it above the \
            number of live sessions, with room for a day of new ones: the sidecar then never has to read the whole \
            table for one token.");
    REFRESH_COUNTRY_DATABASE: Option<FileName> = path("refresh.country_database")
        .unset("the one in the plugin's folder", "/usr/share/GeoIP/GeoLite2-Country.mmdb")
        .about("A MaxMind country database for the analytics' country codes.");
    CLEANUP_TOKENS_AFTER_DAYS: usize = integer("cleanup.tokens_after_days", 0..=36_500, "days").is("0")
        .about("Token rows that were revoked or expired this long ago are deleted, a few at a time; those of a \
            network's further sites while they have refreshes. 0: no deletion.")
        .change("With rotation every refresh leaves a row behind; 30 days keeps a month of history. A family's newest \
            row stays.");
    CLEANUP_ANALYTICS: bool = boolean("cleanup.analytics").is("false")
        .about("Whether analytics rows older than the plugin's own setting (analytics_retention_days) are deleted.");
}
