//! The configuration: the same order of sources for every key, every fault reported at once, a line
//! that helps for every slip.

#![allow(clippy::unwrap_used, reason = "a fixture that fails should fail the test")]

mod arbitrary;
mod example;
pub mod site;

use std::{
    ffi::OsString,
    fs,
    os::unix::{ffi::OsStringExt as _, fs::PermissionsExt as _},
    process::Command,
};

use wp_jwt_sidecar::internals::config::{
    CONFIG_VARIABLE, Config, Flag, Sources,
    keys::{self, Fallback, KEYS, Key},
};

use site::{PEM, Site, facts, flag, text, variables};

#[test]
fn flag_beats_environment_beats_file_beats_default_for_every_key() {
    let site = Site::new();
    for key in KEYS {
        let [file, variable, flag] = site.samples(key);
        let mut sources = site.sources_without(key.name);

        if key.default != (Fallback::Required { example: "http://127.0.0.1:8081" }) && key.name != "wordpress.config" {
            assert_eq!(origin(&sources, key), "default");
        }
        sources.file = Some(site.append(&sources, key, &file));
        assert_eq!(origin(&sources, key), format!("from file {}", last_line(&sources)), "{}", key.name);
        assert_eq!(shown(&sources, key), expected(key, &file));

        sources.environment.push((key.variable().into(), variable.clone().into()));
        assert_eq!(origin(&sources, key), format!("from environment {}", key.variable()));
        assert_eq!(shown(&sources, key), expected(key, &variable));

        sources.flags.push(Flag { key, text: Some(flag.clone()) });
        if key.kind.is_secret() {
            let faults = Config::load(&sources).unwrap_err();
            assert!(faults.to_string().contains(&format!("--{}): not taken from the command line", key.flag())));
        } else {
            assert_eq!(origin(&sources, key), format!("from flag --{}", key.flag()));
            assert_eq!(shown(&sources, key), expected(key, &flag));
        }
    }
}

#[test]
fn every_key_reaches_the_checked_configuration() {
    let site = Site::new();
    for key in KEYS {
        let [one, other, _] = site.samples(key);
        let with = |text: &str| {
            let mut sources = site.sources_without(key.name);
            sources.environment.push((key.variable().into(), text.into()));
            facts(&Config::load(&sources).unwrap())
        };
        assert_ne!(with(&one), with(&other), "{} changes nothing", key.name);
    }
}

#[test]
fn all_faults_are_told_at_once() {
    let site = Site::new();
    let file = site.file(
        "bad.toml",
        "[server]\nlisten = [\"localhost:80\", \"127.0.0.1:8081\"]\nworker = 3\nrequest_header_timeout = 30\n\
         [upstream]\nurl = \"http://127.0.0.1:8081\"\nconnect_timeout = \"0s\"\n\
         [jwt]\nalgorithm = \"RS256\"\nsecret_file = \"/does/not/exist\"\n[refresh]\nmode = \"nativ\"\n",
    );
    let environment = variables(&[("WP_JWT_SIDECAR_LOG_LEVEL", "inof"), ("WP_JWT_SIDECAR_UPSTREM_URL", "x")]);
    let flags = vec![flag("server.max_connections", "0")];
    let faults = Config::load(&Sources { file: Some(file), environment, flags, default_file: None }).unwrap_err();
    let keys: Vec<&str> = faults.0.iter().map(|fault| fault.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "server.worker",
            "server.request_header_timeout",
            "upstream.connect_timeout",
            "refresh.mode",
            "WP_JWT_SIDECAR_UPSTREM_URL",
            "server.max_connections",
            "server.listen",
            "upstream.url",
            "wordpress.config",
            "jwt.secret_file",
            "jwt.algorithm",
            "log.level",
        ],
        "{faults}"
    );
    let listen = &faults.0[6];
    assert_eq!(listen.value.as_deref(), Some("[\"localhost:80\", \"127.0.0.1:8081\"]"));
    assert!(listen.place.as_deref().unwrap().ends_with("bad.toml:2"));
    assert_eq!(listen.problem, "entry 1: is a name; write \"127.0.0.1:80\" or \"[::1]:80\"");
}

#[test]
fn slips_get_a_line_that_helps() {
    let site = Site::new();
    let public = site.file("public.pem", "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n");
    let private = site.file("private.pem", PEM);
    let directory = site.directory.path().display().to_string();
    let empty = site.file("empty", "\n");
    let (public, private, empty) = (text(&public), text(&private), text(&empty));
    let cases: &[(Set, &str, &str)] = &[
        (&[("upstream.url", "")], "upstream.url", "is empty"),
        (&[("upstream.url", "ftp://127.0.0.1")], "upstream.url", "not an http or https URL"),
        (
            &[("upstream.url", "unix:/x"), ("server.listen", "unix:/x")],
            "upstream.url",
            "is server.listen's own unix:/x",
        ),
        (&[("server.listen", "unix:/x,unix:/x")], "server.listen", "unix:/x is there twice"),
        (&[("tls.listen", "127.0.0.1:4"), ("tls.certificates", "a:b:c")], "tls.certificates", "not two files"),
        (&[("tls.listen", "127.0.0.1:4")], "tls.certificates", "is required where tls.listen is set"),
        (&[("tls.listen", "127.0.0.1:8080"), ("tls.certificates", "a")], "tls.listen", "127.0.0.1:8080 is there twice"),
        (&[("tls.listen", "127.0.0.1:8081"), ("tls.certificates", "a")], "upstream.url", "is tls.listen's own"),
        (&[("server.proxy_protocol", "any")], "server.proxy_protocol", "needs forwarded.trusted_proxies"),
        (&[("server.unix_mode", "rw")], "server.unix_mode", "not a file mode"),
        (&[("server.unix_owner", "no-such-user")], "server.unix_owner", "there is no such user"),
        (&[("upstream.ca_file", "/does/not/exist")], "upstream.ca_file", "cannot be read: No such file"),
        (&[("upstream.url", "http://127.0.0.1:8080")], "upstream.url", "is server.listen's own 127.0.0.1:8080"),
        (&[("upstream.url", "http://localhost:8080")], "upstream.url", "is server.listen's own 127.0.0.1:8080"),
        (&[("upstream.url", "http://0.0.0.0:8080")], "upstream.url", "is server.listen's own 127.0.0.1:8080"),
        (
            &[("upstream.url", "http://[::ffff:127.0.0.1]:8080")],
            "upstream.url",
            "is server.listen's own 127.0.0.1:8080",
        ),
        (&[("server.listen", "[::]:8081")], "upstream.url", "is server.listen's own [::]:8081"),
        (&[("server.listen", "0.0.0.0:8081")], "upstream.url", "is server.listen's own 0.0.0.0:8081"),
        (&[("server.listen", "")], "server.listen", "at least one address is needed"),
        (&[("server.listen", "[::1]:1,[::1]:1")], "server.listen", "[::1]:1 is there twice"),
        (&[("server.listen", "127.0.0.1")], "server.listen", "the port is missing"),
        (
            &[("forwarded.trusted_proxies", "10.0.0.0/8,lo")],
            "forwarded.trusted_proxies",
            "entry 2: not an address or network",
        ),
        (&[("wordpress.config", &directory)], "wordpress.config", "is a directory"),
        (&[("wordpress.config", "/does/not/exist.php")], "wordpress.config", "cannot be read: No such file"),
        (&[("wordpress.database_url", "postgres://a@b/c")], "wordpress.database_url", "must begin with mysql://"),
        (&[("wordpress.table_prefix", "wp_; --")], "wordpress.table_prefix", "accepted: letters"),
        (&[("wordpress.home", "example.com")], "wordpress.home", "not a URL"),
        (&[("jwt.secret", "a"), ("jwt.secret_file", &private)], "jwt.secret_file", "contradicts jwt.secret (WP_JWT"),
        (&[("rate_limit.store", "http://a:b@c")], "rate_limit.store", "is no URL of a store"),
        (&[("rate_limit.store_file", &private)], "rate_limit.store_file", "what it holds is no URL of a store"),
        (
            &[("rate_limit.store", "redis://a"), ("rate_limit.store_file", &private)],
            "rate_limit.store_file",
            "contradicts",
        ),
        (
            &[("rate_limit.store", "redis://a"), ("rate_limit.store_ca_file", &public)],
            "rate_limit.store_ca_file",
            "has no use: the store's URL is without TLS",
        ),
        (
            &[("rate_limit.store", "redis://a"), ("rate_limit.store_prefix", "{a}")],
            "rate_limit.store_prefix",
            "accepted: 1 to 64",
        ),
        (&[("rate_limit.store_prefix", "a")], "rate_limit.store_prefix", "has no use without rate_limit.store"),
        (&[("rate_limit.store_ca_file", &public)], "rate_limit.store_ca_file", "has no use without rate_limit.store"),
        (&[("jwt.secret_file", &empty)], "jwt.secret_file", "is empty"),
        (&[("jwt.private_key_file", &public)], "jwt.private_key_file", "has no private key in PEM form"),
        (&[("jwt.algorithm", "ES256")], "jwt.algorithm", "ES256 signs with a private key"),
        (&[("jwt.algorithm", "HS256"), ("jwt.private_key_file", &private)], "jwt.algorithm", "contradicts jwt.private"),
        (
            &[("refresh.country_database", "/does/not/exist")],
            "refresh.country_database",
            "cannot be read: No such file",
        ),
        (&[("log.level", "loud")], "log.level", "no such level"),
    ];
    for (set, key, problem) in cases {
        let mut sources = site.sources();
        sources.flags.retain(|flag| set.iter().all(|(name, _)| *name != flag.key.name));
        let named = set.iter().map(|(name, text)| (keys::find(name).unwrap().variable().into(), (*text).into()));
        sources.environment.extend(named);
        let faults = Config::load(&sources).unwrap_err();
        assert_eq!(faults.0.len(), 1, "{set:?}: {faults}");
        assert!(faults.0[0].key == *key && faults.0[0].problem.starts_with(problem), "{set:?}: {faults}");
    }
}

#[test]
fn what_is_no_slip_is_accepted() {
    let site = Site::new();
    let private = text(&site.file("private.pem", PEM));
    let cases: &[Set] = &[
        &[("server.listen", "127.0.0.1:0, 127.0.0.1:0, [::]:80")],
        &[("server.listen", "127.0.0.2:8081")],
        &[("server.listen", ""), ("tls.listen", "127.0.0.1:4"), ("tls.certificates", "a:b")],
        &[("server.listen", "0.0.0.0:8081"), ("upstream.url", "http://[::1]:8081")],
        &[("upstream.keepalive_idle", "0s"), ("upstream.keepalive_max_idle", "0"), ("shutdown.drain_timeout", "0s")],
        &[("forwarded.trusted_proxies", "")],
        &[("jwt.algorithm", "EdDSA"), ("jwt.private_key_file", &private)],
        // Kubernetes' variables for a service with the program's name.
        &[("port", "tcp://10.0.0.1:80"), ("port.80_tcp_addr", "10.0.0.1"), ("service.host", "10.0.0.1")],
    ];
    for set in cases {
        let mut sources = site.sources();
        sources.flags.retain(|flag| set.iter().all(|(name, _)| *name != flag.key.name));
        let variable = |name: &str| format!("WP_JWT_SIDECAR_{}", name.replace('.', "_").to_uppercase());
        sources.environment.extend(set.iter().map(|(name, text)| (variable(name).into(), (*text).into())));
        if let Err(faults) = Config::load(&sources) {
            panic!("{set:?}: {faults}");
        }
    }
}

#[test]
fn a_database_url_or_the_forward_mode_does_without_wp_config() {
    let site = Site::new();
    let mut sources = site.sources_without("wordpress.config");
    let faults = Config::load(&sources).unwrap_err();
    assert!(
        faults.to_string().contains("wordpress.database_url") && faults.to_string().contains("--wp-config"),
        "{faults}"
    );
    sources.environment = variables(&[("WP_JWT_SIDECAR_WORDPRESS_DATABASE_URL", "mysql://u:p@127.0.0.1/wp")]);
    assert!(Config::load(&sources).is_ok());
    sources.environment = variables(&[("WP_JWT_SIDECAR_REFRESH_MODE", "forward")]);
    assert!(Config::load(&sources).is_ok());
}

#[test]
fn values_come_out_as_what_they_mean() {
    let site = Site::new();
    let mut sources = site.sources();
    sources.environment = variables(&[
        ("WP_JWT_SIDECAR_SERVER_LISTEN", "127.0.0.1:1, [::1]:2"),
        ("WP_JWT_SIDECAR_UPSTREAM_CONNECT_TIMEOUT", "1500ms"),
        ("WP_JWT_SIDECAR_FORWARDED_TRUSTED_PROXIES", "10.1.2.3/8,::1"),
        ("WP_JWT_SIDECAR_WORDPRESS_HOME", "https://example.com/blog/"),
    ]);
    sources.environment.push(("WP_JWT_SIDECAR_JWT_SECRET_FILE".into(), site.file("secret", " s\u{fc}\n\r\n").into()));
    let config = Config::load(&sources).unwrap();
    assert_eq!(format!("{:?}", config.server.listen), "[Tcp(127.0.0.1:1), Tcp([::1]:2)]");
    assert_eq!(config.upstream.connect_timeout.as_millis(), 1500);
    assert_eq!(format!("{:?}", config.forwarded.trusted_proxies), "[10.0.0.0/8, ::1/128]");
    assert_eq!(config.wordpress.home.as_deref(), Some("https://example.com/blog"));
    assert_eq!(config.jwt.secret.unwrap().expose(), " s\u{fc}\n");
    assert!(config.server.workers >= 1);
    assert!(config.warnings.iter().any(|warning| warning.contains("10.1.2.3/8 is taken as 10.0.0.0/8")));
}

#[test]
fn files_with_secrets_that_all_can_read_are_warned_of() {
    let site = Site::new();
    let secret = site.file("secret", "s");
    let file = site.file("config.toml", &format!("[jwt]\nsecret_file = {secret:?}\n[wordpress]\nauth_key = \"k\"\n"));
    let warnings = |mode| {
        for path in [&secret, &file] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        Config::load(&Sources { file: Some(file.clone()), ..site.sources() }).unwrap().warnings
    };
    assert_eq!(warnings(0o640), Vec::<String>::new());
    let warnings = warnings(0o644);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[0].starts_with("jwt.secret_file: ") && warnings[1].starts_with("wordpress.auth_key: "),
        "{warnings:?}"
    );
}

#[test]
fn the_file_is_looked_for_in_one_order() {
    let site = Site::new();
    let workers = |n: u32| site.file(&format!("{n}.toml"), &format!("[server]\nworkers = {n}\n"));
    let mut sources = Sources { default_file: Some(site.directory.path().join("absent.toml")), ..site.sources() };
    assert!(Config::load(&sources).is_ok());
    sources.default_file = Some(workers(3));
    assert_eq!(Config::load(&sources).unwrap().server.workers, 3);
    sources.environment = vec![(CONFIG_VARIABLE.into(), workers(2).into())];
    assert_eq!(Config::load(&sources).unwrap().server.workers, 2);
    sources.file = Some(workers(1));
    assert_eq!(Config::load(&sources).unwrap().server.workers, 1);

    // A named file must exist; an existing default file must be readable (a directory is not).
    sources.file = Some("/does/not/exist.toml".into());
    let faults = Config::load(&sources).unwrap_err();
    assert_eq!(faults.0.len(), 1, "{faults}");
    assert!(faults.to_string().contains("/does/not/exist.toml (--config): cannot be read: No such file"), "{faults}");
    let sources = Sources { default_file: Some(site.directory.path().into()), ..site.sources() };
    assert!(Config::load(&sources).unwrap_err().to_string().contains("cannot be read: Is a directory"));
}

#[test]
fn a_broken_file_does_not_make_its_keys_missing() {
    let site = Site::new();
    for bytes in [b"[upstream\n".as_slice(), b"[upstream]\nurl = \"\xff\"\n"] {
        let path = site.directory.path().join("broken.toml");
        fs::write(&path, bytes).unwrap();
        let faults = Config::load(&Sources { file: Some(path), ..Sources::default() }).unwrap_err();
        assert_eq!(faults.0.len(), 1, "{faults}");
    }
}

#[test]
fn a_variable_that_is_not_text_is_a_fault_only_when_it_is_ours() {
    let site = Site::new();
    let garbage = || OsString::from_vec(vec![b'x', 0xff]);
    let mut sources = site.sources();
    sources.environment = vec![("PATH".into(), garbage()), (garbage(), garbage())];
    assert!(Config::load(&sources).is_ok());
    sources.environment.push(("WP_JWT_SIDECAR_LOG_LEVEL".into(), garbage()));
    assert!(Config::load(&sources).unwrap_err().to_string().contains("is not UTF-8 text"));
}

#[test]
fn the_program_ends_with_78_and_tells_all() {
    for command in ["serve", "check"] {
        let output = Command::new(env!("CARGO_BIN_EXE_wp-jwt-sidecar"))
            .env_clear()
            .args([command, "--config", "/does/not/exist.toml", "--upstream", "ftp://x", "--log-level", "loud"])
            .args(["--jwt-secret", "hunter2"])
            .output()
            .unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{error}");
        assert!(
            ["exist.toml", "upstream.url", "log.level", "--jwt-secret"].iter().all(|part| error.contains(part)),
            "{error}"
        );
        assert!(!error.contains("hunter2") && output.stdout.is_empty(), "{error}");
    }
}

/// The names and contents of files may come from others than the reader of the message.
#[test]
fn commands_print_no_control_characters() {
    let directory = tempfile::TempDir::new().unwrap();
    let nasty = "a\u{1b}[2J\u{9b}31m\u{202e}.toml";
    let file = directory.path().join(nasty);
    fs::write(&file, "[upstream]\nurl = \"http://127.0.0.1:1\"\n[refresh]\nmode = \"forward\"\n").unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_wp-jwt-sidecar")).env_clear().args(arguments).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!said.replace('\n', "").contains(wp_jwt_sidecar::internals::printable::is_harmful), "{said:?}");
        let name = ["a\\u{1b}[2J\\u{9b}31m\\u{202e}.toml", "a\\u001b[2J\\u009b31m\\u202e.toml"];
        assert!(name.iter().any(|name| said.contains(name)), "{said}");
        output.status.code()
    };
    let path = file.to_str().unwrap();
    assert_eq!(run(&["check", "--config", path]), Some(0));
    for command in ["check", "serve", "index"] {
        assert_eq!(run(&[command, "--config", &path.replace("a\u{1b}", "/missing/a\u{1b}")]), Some(78), "{command}");
    }
    let missing = path.replace("a\u{1b}", "/missing/a\u{1b}");
    assert_eq!(run(&["doctor", "--config", &missing]), Some(2));
    assert_eq!(run(&["doctor", "--json", "--config", &missing]), Some(2));
}

/// Keys and the texts that their variables have.
type Set<'a> = &'a [(&'a str, &'a str)];

fn origin(sources: &Sources, key: &Key) -> String {
    line(sources, key).1
}

fn shown(sources: &Sources, key: &Key) -> String {
    line(sources, key).0
}

fn line(sources: &Sources, key: &Key) -> (String, String) {
    let config = Config::load(sources).unwrap_or_else(|faults| panic!("{}: {faults}", key.name));
    let mut lines = config.effective().lines().filter(|(name, _, _)| *name == key.name);
    lines.next().map(|(_, value, from)| (value.to_owned(), from.to_owned())).unwrap()
}

fn expected(key: &Key, text: &str) -> String {
    match key.kind.is_secret() {
        true => "(set)".into(),
        false => key.kind.toml(text),
    }
}

fn last_line(sources: &Sources) -> String {
    let path = sources.file.as_ref().unwrap();
    format!("{}:{}", path.display(), fs::read_to_string(path).unwrap().lines().count())
}

#[test]
fn credentials_of_systemd_stand_where_files_could() {
    let site = Site::new();
    site.file("secret", "not-a-secret\n");
    let flags = ["wordpress.config", "jwt.secret_file"].map(|key| (key, "credential:secret"));
    let flags = [("upstream.url", "http://127.0.0.1:8081")].into_iter().chain(flags);
    let flags = flags.map(|(key, text)| flag(key, text)).collect();
    let mut sources = Sources { flags, ..Sources::default() };
    let faults = Config::load(&sources).unwrap_err().to_string();
    assert_eq!(faults.matches("add LoadCredential=secret:/PATH to [Service] of the unit").count(), 2, "{faults}");
    sources.environment = variables(&[("CREDENTIALS_DIRECTORY", &text(site.directory.path()))]);
    let config = Config::load(&sources).unwrap();
    assert_eq!(config.wordpress.config, Some(site.directory.path().join("secret")));
    assert_eq!(config.jwt.secret.unwrap().expose(), "not-a-secret");
}
