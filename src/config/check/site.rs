//! `[wordpress]`, `[jwt]`, `[refresh]`, `[cleanup]`.

use std::path::{Path, PathBuf};

use crate::config::{
    Algorithm, Cleanup, DatabaseTls, Jwt, Refresh, RefreshMode, ResponseFields, ReuseDetection, WordPress, address,
    file, merged::Merged, sources::wrong, value,
};

pub(super) fn wordpress(read: &mut Merged, mode: RefreshMode) -> WordPress {
    let neither = read.is_missing("wordpress.config") && read.is_missing("wordpress.database_url");
    if neither && mode == RefreshMode::Native {
        let problem = "is required: the path of the site's wp-config.php (--wp-config); or, where that cannot be read, \
                       wordpress.database_url; or leave the route to WordPress with refresh.mode = \"forward\"";
        read.faults.push(wrong("wordpress.config", problem));
    }
    let database_hosts = read.each("wordpress.database_hosts", value::database_host);
    if let Some((twice, _)) = database_hosts
        .iter()
        .enumerate()
        .find_map(|(i, host)| database_hosts.iter().take(i).any(|other| other == host).then_some((host.clone(), i)))
    {
        read.fault("wordpress.database_hosts", format!("{twice} is there twice"));
    }
    let database_tls = read.named("wordpress.database_tls").unwrap_or(DatabaseTls::Auto);
    let database_url = read.checked_secret("wordpress.database_url", value::database_url);
    if database_tls == DatabaseTls::Auto && database_url.as_ref().is_some_and(value::ignores_the_name) {
        read.warnings.push(
            "wordpress.database_url: verify_identity=false has no effect: the certificate's name is checked. Give the name that \
             the certificate has to wordpress.database_tls_name, or set wordpress.database_tls = \"encrypt_only\""
                .to_owned(),
        );
    }
    let credentials = read.credentials.clone();
    WordPress {
        config: wp_config(read),
        database_url,
        database_hosts,
        database_tls,
        database_ca_file: read.readable("wordpress.database_ca_file"),
        database_client_certificate: read
            .parsed("wordpress.database_client_certificate", |text| address::certificate(text, credentials.as_deref())),
        database_tls_name: read.parsed("wordpress.database_tls_name", value::tls_name),
        database_connections: read.integer("wordpress.database_connections"),
        table_prefix: read.parsed("wordpress.table_prefix", value::table_prefix),
        home: read.parsed("wordpress.home", value::home_url),
        hosts: read.each("wordpress.hosts", value::host),
        auth_key: read.secret("wordpress.auth_key"),
        auth_salt: read.secret("wordpress.auth_salt"),
    }
}

fn wp_config(read: &mut Merged) -> Option<PathBuf> {
    let path = read.path("wordpress.config")?;
    // wp-load.php looks one directory up where there is no wp-config.php beside it, and so may the one who reads it.
    let one_up = path.parent().and_then(Path::parent).map(|directory| directory.join("wp-config.php"));
    if path.is_dir() {
        read.fault("wordpress.config", "is a directory; name the wp-config.php in it");
    } else if let Err(error) = file::open(&path)
        && !(error.kind() == std::io::ErrorKind::NotFound && one_up.is_some_and(|path| path.is_file()))
    {
        read.fault("wordpress.config", format!("cannot be read: {error}"));
    }
    Some(path)
}

pub(super) fn jwt(read: &mut Merged) -> Jwt {
    let mut secret = read.secret("jwt.secret");
    if let Some(from_file) = read.secret_file("jwt.secret_file", "the secret") {
        if secret.is_some() {
            let other = read.find("jwt.secret").map(|said| said.origin.to_string()).unwrap_or_default();
            read.fault("jwt.secret_file", format!("contradicts jwt.secret ({other}); give one of the two"));
        }
        secret = Some(from_file);
    }
    let private_key = read.secret_file("jwt.private_key_file", "a private key in PEM form");
    if private_key.as_ref().is_some_and(|key| !key.expose().contains("PRIVATE KEY-----")) {
        read.fault("jwt.private_key_file", "has no private key in PEM form in it (-----BEGIN PRIVATE KEY-----)");
    }
    let algorithm = read.named::<Algorithm>("jwt.algorithm");
    match algorithm {
        Some(algorithm) if !algorithm.is_hmac() && read.is_missing("jwt.private_key_file") => {
            read.fault("jwt.algorithm", format!("{algorithm} signs with a private key; give jwt.private_key_file"));
        }
        Some(algorithm) if algorithm.is_hmac() && private_key.is_some() => {
            read.fault(
                "jwt.algorithm",
                format!("contradicts jwt.private_key_file: {algorithm} signs with the shared secret"),
            );
        }
        _ => {}
    }
    Jwt { secret, private_key, algorithm }
}

pub(super) fn refresh(read: &mut Merged) -> Refresh {
    Refresh {
        mode: read.named("refresh.mode").unwrap_or(RefreshMode::Native),
        response_fields: read.named("refresh.response_fields").unwrap_or(ResponseFields::All),
        analytics: read.boolean("refresh.analytics"),
        analytics_refusals: read.integer("refresh.analytics_refusals"),
        reuse_interval: read.duration("refresh.reuse_interval"),
        reuse_detection: read.named("refresh.reuse_detection").unwrap_or(ReuseDetection::Off),
        known_tokens: read.integer("refresh.known_tokens"),
        country_database: read.readable("refresh.country_database"),
    }
}

pub(super) fn cleanup(read: &mut Merged) -> Cleanup {
    Cleanup {
        tokens_after_days: read.integer("cleanup.tokens_after_days"),
        analytics: read.boolean("cleanup.analytics"),
    }
}
