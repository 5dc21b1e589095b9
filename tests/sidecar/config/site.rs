//! A directory to load configurations in, with a `wp-config.php` and values for every key.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use wp_jwt_sidecar::internals::config::{
    Config, Flag, Kind, Sources,
    keys::{self, Key},
};

/// A directory with a wp-config.php, and sources that are sufficient for a start.
pub struct Site {
    pub directory: TempDir,
}

impl Site {
    pub fn new() -> Self {
        let site = Self { directory: TempDir::new().unwrap() };
        site.file("wp-config.php", "<?php\n");
        site
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    pub fn wp_config(&self) -> String {
        text(&self.directory.path().join("wp-config.php"))
    }

    pub fn sources(&self) -> Sources {
        let flags = vec![flag("upstream.url", "http://127.0.0.1:8081"), flag("wordpress.config", &self.wp_config())];
        Sources { flags, ..Sources::default() }
    }

    /// The required keys in a file, without this one.
    pub fn sources_without(&self, name: &str) -> Sources {
        let required = [("upstream.url", "http://127.0.0.1:8081".to_owned()), ("wordpress.config", self.wp_config())];
        let lines = required.iter().filter(|(key, _)| *key != name).map(|(key, value)| format!("{key} = {value:?}\n"));
        // tls.listen requires a certificate; alone, a certificate has no effect.
        let certificate = if name == "tls.certificates" { "" } else { "tls.certificates = [\"/a:/b\"]\n" };
        // Likewise server.proxy_protocol requires a trusted proxy.
        let proxy =
            if name == "forwarded.trusted_proxies" { "" } else { "forwarded.trusted_proxies = [\"10.9.9.9\"]\n" };
        // And these require a store.
        let store = match name {
            "rate_limit.store_ca_file" | "rate_limit.store_prefix" => "rate_limit.store = \"rediss://a\"\n",
            _ => "",
        };
        let file = self.file("base.toml", &(lines.collect::<String>() + certificate + proxy + store));
        Sources { file: Some(file), ..Sources::default() }
    }

    pub fn append(&self, sources: &Sources, key: &Key, value: &str) -> PathBuf {
        let base = fs::read_to_string(sources.file.as_ref().unwrap()).unwrap();
        self.file("appended.toml", &format!("{base}{} = {}\n", key.name, key.kind.toml(value)))
    }

    /// Three valid texts for a key, different if possible.
    pub fn samples(&self, key: &Key) -> [String; 3] {
        let three = |texts: [&str; 3]| texts.map(str::to_owned);
        match (key.name, key.kind) {
            ("jwt.algorithm", _) => three(["HS256", "HS384", "HS512"]),
            (_, Kind::Boolean) => three(["false", "true", "false"]),
            (_, Kind::Integer { min, .. }) => [5, 6, 7].map(|more| (min + more).to_string()),
            (_, Kind::Duration { .. }) => three(["5s", "600ms", "7m"]),
            (_, Kind::OneOf(names)) => [0, 1, 2].map(|i| names[(i + 1) % names.len()].to_owned()),
            ("refresh.state_directory", _) => [0, 1, 2].map(|i| {
                let directory = self.directory.path().join(format!("state-{i}"));
                fs::create_dir_all(&directory).unwrap();
                text(&directory)
            }),
            ("refresh.verify_ignore_headers", _) => three(["via", "x-a,x-b", "x-c"]),
            ("refresh.trusted_hooks", _) => three(["a.php", "b.php:1,c", "d/e.php:2"]),
            ("rate_limit.store_file", _) => {
                [0, 1, 2].map(|i| text(&self.file(&format!("store-{i}"), &format!("redis://h/{i}\n"))))
            }
            (name, Kind::Path) => [0, 1, 2].map(|i| text(&self.file(&format!("{name}-{i}"), &format!("{PEM}{i}\n")))),
            ("server.listen", _) => three(["127.0.0.1:1", "127.0.0.1:2,[::1]:2", "unix:/run/x.sock,systemd:http"]),
            ("tls.listen", _) => three(["", "127.0.0.1:4", "unix:/run/y.sock"]),
            ("tls.certificates", _) => three(["/a:/b", "/c", "/d:/e,/f"]),
            ("upstream.url", _) => three(["http://a", "https://b", "unix:/c"]),
            ("admin.listen", _) => three(["127.0.0.1:9", "off", "unix:/run/z.sock"]),
            ("admin.hosts", _) => three(["a.example", "b.example:81,c.example", "d.example"]),
            ("server.unix_mode", _) => three(["0600", "0660", "666"]),
            ("server.unix_owner" | "server.unix_group", _) => three(["0", "1", "2"]),
            ("forwarded.trusted_proxies", _) => three(["10.0.0.1", "10.0.0.2,::1", "10.0.0.3"]),
            ("wordpress.hosts", _) => three(["a.example", "b.example:81,c.example", "d.example"]),
            ("wordpress.database_hosts", _) => three(["a", "b:3307,[::1]:3306", "localhost:/run/x.sock"]),
            ("wordpress.database_url", _) => three(["mysql://a@h/d", "mysql://b@h/d", "mysql://c@h/d"]),
            ("rate_limit.store", _) => three(["redis://a", "rediss://:b@c/1", "redis+cluster://d,e"]),
            ("wordpress.home", _) => three(["https://a", "https://b", "http://c/d"]),
            ("log.level", _) => three(["warn", "error", "info,hyper=debug"]),
            ("jwt.claim", _) => three(["[]", CLAIMS[0], CLAIMS[1]]),
            ("refresh.field", _) => three(["[]", FIELDS[0], FIELDS[1]]),
            ("refresh.omit", _) => three(["token_type", "expires_in", "token_type,expires_in"]),
            (_, Kind::Lifetime) => three(["5s", "6h", "7d"]),
            (_, Kind::Text(_) | Kind::Secret) => three(["a", "b", "c"]),
            (name, Kind::List(_) | Kind::Tables(_)) => panic!("{name} needs samples"),
        }
    }
}

const CLAIMS: [&str; 2] = [
    r#"[{ path = "a", value = { constant = 1 } }]"#,
    r#"[{ path = "data.user.role", value = { roles = "first" } }, { path = "b", value = { meta = "x" } }]"#,
];
const FIELDS: [&str; 2] = [
    r#"[{ name = "a", value = { constant = 1 } }]"#,
    r#"[{ name = "role", value = { roles = "joined", separator = "|" } }]"#,
];

/// Everything that the program uses, including secrets, but without the sources.
pub fn facts(config: &Config) -> String {
    let Config {
        server,
        tls,
        upstream,
        forwarded,
        wordpress,
        jwt,
        refresh,
        cleanup,
        rate_limit,
        admin,
        shutdown,
        log,
        ..
    } = config;
    let admin = (&admin.listen, &admin.hosts);
    let secrets = [
        &rate_limit.store,
        &wordpress.database_url,
        &wordpress.auth_key,
        &wordpress.auth_salt,
        &jwt.secret,
        &jwt.private_key,
    ];
    let exposed = secrets.map(|secret| secret.as_ref().map(|secret| secret.expose().to_owned()));
    format!(
        "{server:?} {tls:?} {upstream:?} {forwarded:?} {wordpress:?} {jwt:?} {refresh:?} {cleanup:?} {rate_limit:?} {admin:?} {shutdown:?} {log:?} {exposed:?}"
    )
}

pub fn flag(name: &str, text: &str) -> Flag {
    Flag { key: keys::find(name).unwrap(), text: Some(text.to_owned()) }
}

pub fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, text)| (name.into(), text.into())).collect()
}

pub fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// The form of a private key; its contents are checked later.
pub const PEM: &str = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
