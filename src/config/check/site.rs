//! `[wordpress]`, `[jwt]`, `[refresh]`, `[cleanup]`.

use std::path::{Path, PathBuf};

use crate::config::{
    Cleanup, DEFAULT_IMPORT, DatabaseTls, ImportFile, Jwt, Refresh, RefreshMode, SiteFiles, WordPress, address, file,
    keys, merged::Merged, sources::wrong, value,
};

use super::declared::members;

pub(super) fn wordpress(read: &mut Merged, mode: RefreshMode) -> WordPress {
    let import = import(read);
    let neither = read.is_missing(keys::WORDPRESS_CONFIG) && read.is_missing(keys::WORDPRESS_DATABASE_URL);
    if neither && import.is_none() && mode == RefreshMode::Native && read.is_missing(keys::WORDPRESS_IMPORT) {
        let problem = "is required: the path of the site's wp-config.php (--wp-config); or, where that cannot be read, \
                       what `wp-jwt-sidecar import` makes of it (wordpress.import), or wordpress.database_url; or leave the route to WordPress with refresh.mode = \"forward\"";
        read.faults.push(wrong(keys::WORDPRESS_CONFIG.name, problem));
    }
    let database_hosts = read.each(keys::WORDPRESS_DATABASE_HOSTS, value::database_host);
    if let Some((twice, _)) = database_hosts
        .iter()
        .enumerate()
        .find_map(|(i, host)| database_hosts.iter().take(i).any(|other| other == host).then_some((host.clone(), i)))
    {
        read.fault(keys::WORDPRESS_DATABASE_HOSTS, format!("{twice} is there twice"));
    }
    let database_tls = read.get(keys::WORDPRESS_DATABASE_TLS);
    let database_url = read.checked_secret(keys::WORDPRESS_DATABASE_URL, value::database_url);
    if database_tls == DatabaseTls::Auto && database_url.as_ref().is_some_and(value::ignores_the_name) {
        read.warnings.push(
            "wordpress.database_url: verify_identity=false has no effect: the certificate's name is checked. Give the name that \
             the certificate has to wordpress.database_tls_name, or set wordpress.database_tls = \"encrypt_only\""
                .to_owned(),
        );
    }
    let credentials = read.credentials.clone();
    WordPress {
        config: wp_config(read, import.is_some()),
        import,
        database_url,
        database_hosts,
        database_tls,
        database_ca_file: read.readable(keys::WORDPRESS_DATABASE_CA_FILE),
        database_client_certificate: read.parsed(keys::WORDPRESS_DATABASE_CLIENT_CERTIFICATE, |text| {
            address::certificate(text, credentials.as_deref())
        }),
        database_tls_name: read.parsed(keys::WORDPRESS_DATABASE_TLS_NAME, value::tls_name),
        database_connections: read.get(keys::WORDPRESS_DATABASE_CONNECTIONS),
        table_prefix: read.parsed(keys::WORDPRESS_TABLE_PREFIX, value::table_prefix),
        home: read.parsed(keys::WORDPRESS_HOME, value::home_url),
        hosts: read.each(keys::WORDPRESS_HOSTS, value::host),
        auth_key: read.get(keys::WORDPRESS_AUTH_KEY),
        auth_salt: read.get(keys::WORDPRESS_AUTH_SALT),
    }
}

/// A file in the default place is used only if it exists.
fn import(read: &mut Merged) -> Option<ImportFile> {
    if read.is_given(keys::WORDPRESS_IMPORT) {
        return Some(ImportFile { path: read.readable(keys::WORDPRESS_IMPORT)?, is_named: true });
    }
    let path = PathBuf::from(DEFAULT_IMPORT);
    let may_be_this_sites =
        read.find(keys::WORDPRESS_CONFIG).is_some() || read.is_missing(keys::WORDPRESS_DATABASE_URL);
    (may_be_this_sites && path.is_file()).then_some(ImportFile { path, is_named: false })
}

pub(super) fn files(read: &mut Merged) -> SiteFiles {
    let import = read.path(keys::WORDPRESS_IMPORT).unwrap_or_else(|| PathBuf::from(DEFAULT_IMPORT));
    SiteFiles { config: read.path(keys::WORDPRESS_CONFIG), import }
}

/// With an import it need not be readable: that is checked where it is needed.
fn wp_config(read: &mut Merged, has_import: bool) -> Option<PathBuf> {
    let path = read.path(keys::WORDPRESS_CONFIG)?;
    if has_import {
        return Some(path);
    }
    // wp-load.php looks one directory up if there is no wp-config.php beside it, and the reader may
    // do so as well.
    let one_up = path.parent().and_then(Path::parent).map(|directory| directory.join("wp-config.php"));
    if path.is_dir() {
        read.fault(keys::WORDPRESS_CONFIG, "is a directory; name the wp-config.php in it");
    } else if let Err(error) = file::open(&path)
        && !(error.kind() == std::io::ErrorKind::NotFound && one_up.is_some_and(|path| path.is_file()))
    {
        read.fault(keys::WORDPRESS_CONFIG, format!("cannot be read: {error}"));
    }
    Some(path)
}

pub(super) fn jwt(read: &mut Merged) -> Jwt {
    let mut secret = read.get(keys::JWT_SECRET);
    if let Some(from_file) = read.secret_file(keys::JWT_SECRET_FILE, "the secret") {
        if secret.is_some() {
            let other = read.find(keys::JWT_SECRET).map(|said| said.origin.to_string()).unwrap_or_default();
            read.fault(keys::JWT_SECRET_FILE, format!("contradicts jwt.secret ({other}); give one of the two"));
        }
        secret = Some(from_file);
    }
    let private_key = read.secret_file(keys::JWT_PRIVATE_KEY_FILE, "a private key in PEM form");
    if private_key.as_ref().is_some_and(|key| !key.expose().contains("PRIVATE KEY-----")) {
        read.fault(keys::JWT_PRIVATE_KEY_FILE, "has no private key in PEM form in it (-----BEGIN PRIVATE KEY-----)");
    }
    let algorithm = read.get(keys::JWT_ALGORITHM);
    match algorithm {
        Some(algorithm) if !algorithm.is_hmac() && read.is_missing(keys::JWT_PRIVATE_KEY_FILE) => {
            read.fault(keys::JWT_ALGORITHM, format!("{algorithm} signs with a private key; give jwt.private_key_file"));
        }
        Some(algorithm) if algorithm.is_hmac() && private_key.is_some() => {
            read.fault(
                keys::JWT_ALGORITHM,
                format!("contradicts jwt.private_key_file: {algorithm} signs with the shared secret"),
            );
        }
        _ => {}
    }
    let lifetime = read.get(keys::JWT_LIFETIME);
    let claims = members(read, keys::JWT_CLAIM, "path", crate::declared::check_claim);
    Jwt { secret, private_key, algorithm, lifetime, claims }
}

pub(super) fn refresh(read: &mut Merged) -> Refresh {
    Refresh {
        mode: read.get(keys::REFRESH_MODE),
        verify: read.get(keys::REFRESH_VERIFY),
        verify_first: read.get(keys::REFRESH_VERIFY_FIRST),
        verify_every: read.get(keys::REFRESH_VERIFY_EVERY),
        verify_ignore_headers: read.each(keys::REFRESH_VERIFY_IGNORE_HEADERS, value::field_name),
        trusted_hooks: read.get(keys::REFRESH_TRUSTED_HOOKS),
        state_directory: state_directory(read),
        response_fields: read.get(keys::REFRESH_RESPONSE_FIELDS),
        fields: members(read, keys::REFRESH_FIELD, "name", crate::declared::check_field),
        omit: read.each(keys::REFRESH_OMIT, |name| crate::declared::check_omitted(name).map(|()| name.to_owned())),
        analytics: read.get(keys::REFRESH_ANALYTICS),
        analytics_refusals: read.get(keys::REFRESH_ANALYTICS_REFUSALS),
        reuse_interval: read.get(keys::REFRESH_REUSE_INTERVAL),
        reuse_detection: read.get(keys::REFRESH_REUSE_DETECTION),
        known_tokens: read.get(keys::REFRESH_KNOWN_TOKENS),
        country_database: read.readable(keys::REFRESH_COUNTRY_DATABASE),
    }
}

/// Whether it can be written is only found out on writing: a failure costs no more than a restart
/// of the verification.
fn state_directory(read: &mut Merged) -> Option<PathBuf> {
    let path = read.path(keys::REFRESH_STATE_DIRECTORY)?;
    match path.metadata() {
        Ok(metadata) if !metadata.is_dir() => read.fault(keys::REFRESH_STATE_DIRECTORY, "is not a directory"),
        Ok(_) => {}
        Err(error) => read.fault(keys::REFRESH_STATE_DIRECTORY, format!("cannot be looked at: {error}")),
    }
    Some(path)
}

pub(super) fn cleanup(read: &Merged) -> Cleanup {
    Cleanup {
        tokens_after_days: read.get(keys::CLEANUP_TOKENS_AFTER_DAYS),
        analytics: read.get(keys::CLEANUP_ANALYTICS),
    }
}
