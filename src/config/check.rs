//! From the merged values to the checked [`Config`]: what each means, and whether they agree.
//!
//! What a single value may be is said in the table of keys and in `value`; this file has the rules
//! that need a second value, a file or the whole.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZero,
    path::{Path, PathBuf},
};

use ipnet::IpNet;

use super::{
    Admin, Algorithm, Cleanup, Config, DatabaseTls, Effective, Faults, Forwarded, ForwardedMode, Jwt, ListenAddress,
    Log, LogFormat, OpenFiles, ProxyProtocol, Refresh, RefreshMode, RequestIdMode, ResponseFields, ReuseDetection,
    Server, Shutdown, Tls, TlsName, UnixSockets, Upstream, UpstreamProxyProtocol, UpstreamUrl, WordPress,
    address::{self, HOST},
    file,
    kind::Value,
    merged::Merged,
    open_files::{self, Wanted},
    sources::wrong,
    value,
};
use crate::client_addr;

/// Checks every value and all of them together.
pub(super) fn check(mut read: Merged) -> Result<Config, Faults> {
    let mut server = Server {
        listen: listen(&mut read),
        unix: UnixSockets {
            mode: read.parsed("server.unix_mode", value::octal_mode).unwrap_or_default(),
            owner: read.parsed("server.unix_owner", value::user),
            group: read.parsed("server.unix_group", value::group),
        },
        proxy_protocol: read.named("server.proxy_protocol").unwrap_or(ProxyProtocol::Off),
        workers: match read.integer("server.workers") {
            0 => std::thread::available_parallelism().map_or(1, NonZero::get),
            workers => workers,
        },
        max_connections: read.integer("server.max_connections"),
        max_connections_per_address: read.integer("server.max_connections_per_address"),
        max_exchanges_per_connection: read.integer("server.max_exchanges_per_connection"),
        max_exchanges_per_address: 0,
        max_exchanges: 0,
        first_byte_timeout: read.duration("server.first_byte_timeout"),
        request_header_timeout: read.duration("server.request_header_timeout"),
        keepalive_idle: read.duration("server.keepalive_idle"),
        request_body_idle: read.duration("server.request_body_idle"),
        response_write_idle: read.duration("server.response_write_idle"),
        min_rate: read.integer("server.min_rate"),
        ignore_client_abort: read.boolean("server.ignore_client_abort"),
        tunnel_idle: read.duration("server.tunnel_idle"),
        max_header_bytes: read.integer("server.max_header_bytes"),
        max_header_fields: read.integer("server.max_header_fields"),
        max_request_body: read.integer("server.max_request_body"),
        max_requests_per_connection: read.integer("server.max_requests_per_connection"),
    };
    let tls = tls(&mut read, &server.listen);
    let mut upstream = upstream(&mut read, &server.listen, &tls.listen);
    let forwarded = Forwarded {
        trusted_proxies: trusted_proxies(&mut read),
        mode: read.named("forwarded.mode").unwrap_or(ForwardedMode::Auto),
        request_id: read.named("forwarded.request_id").unwrap_or(RequestIdMode::Auto),
    };
    if server.proxy_protocol != ProxyProtocol::Off
        && forwarded.trusted_proxies.is_empty()
        && !read.is_faulty("forwarded.trusted_proxies")
    {
        let problem = "needs forwarded.trusted_proxies: the header is taken from those only, and every other connection \
                       is refused";
        read.fault("server.proxy_protocol", problem);
    }
    let refresh = Refresh {
        mode: read.named("refresh.mode").unwrap_or(RefreshMode::Native),
        response_fields: read.named("refresh.response_fields").unwrap_or(ResponseFields::All),
        analytics: read.boolean("refresh.analytics"),
        analytics_refusals: read.integer("refresh.analytics_refusals"),
        reuse_interval: read.duration("refresh.reuse_interval"),
        reuse_detection: read.named("refresh.reuse_detection").unwrap_or(ReuseDetection::Off),
        known_tokens: read.integer("refresh.known_tokens"),
        country_database: read.readable("refresh.country_database"),
    };
    let wordpress = wordpress(&mut read, refresh.mode);
    check_tls_name(&mut read, upstream.as_ref(), &wordpress, refresh.mode);
    let jwt = jwt(&mut read);
    let cleanup = Cleanup {
        tokens_after_days: read.integer("cleanup.tokens_after_days"),
        analytics: read.boolean("cleanup.analytics"),
    };
    let admin = admin(&mut read, &server.listen, &tls.listen);
    let shutdown = Shutdown { drain_timeout: read.duration("shutdown.drain_timeout") };
    let log = Log {
        format: read.named::<LogFormat>("log.format").unwrap_or(LogFormat::Auto),
        level: read.parsed("log.level", value::log_level).unwrap_or_default(),
        refreshes: read.boolean("log.refreshes"),
        access: read.boolean("log.access"),
    };
    read.warn_of_open_files();
    let listeners = server.listen.len() + tls.listen.len() + usize::from(admin.listen.is_some());
    let open_files = limit(&mut read, &mut server, upstream.as_mut(), listeners);

    match upstream {
        Some(upstream) if read.faults.is_empty() => {
            let effective = Effective::new(&read.said);
            let warnings = read.warnings;
            Ok(Config {
                server,
                tls,
                upstream,
                forwarded,
                wordpress,
                jwt,
                refresh,
                cleanup,
                admin,
                shutdown,
                log,
                open_files,
                warnings,
                effective,
            })
        }
        _ => Err(Faults(read.faults)),
    }
}

/// How much may be open and in flight at once. What is not configured follows from the limit of open files.
fn limit(read: &mut Merged, server: &mut Server, upstream: Option<&mut Upstream>, listeners: usize) -> OpenFiles {
    let configured = read.optional_integer("upstream.max_connections");
    let (workers, clients) = (server.workers, server.max_connections);
    let database = read.integer("wordpress.database_connections");
    let wanted = Wanted { workers, listeners, database, clients, upstream: configured };
    let open_files = OpenFiles::divide(open_files::limit(), wanted);
    read.warnings.extend(open_files.warning(wanted));
    server.max_connections = open_files.clients;
    if let Some(upstream) = upstream {
        upstream.max_connections = open_files.upstream;
    }
    // Twice the clients: each can have one in flight, and as many again come by HTTP/2.
    server.max_exchanges = match read.optional_integer("server.max_exchanges") {
        None => server.max_connections.saturating_mul(2),
        Some(limit) => limit,
    };
    read.warnings.extend(open_files.unlimited_warning(server.max_exchanges));
    // Half of what there is, so that no single address takes it all. What the upstream was configured to take does not count:
    // behind a proxy that is not trusted all clients are one.
    server.max_exchanges_per_address = match read.optional_integer("server.max_exchanges_per_address") {
        Some(limit) => limit,
        None => {
            let scarce = [server.max_exchanges, if configured.is_none() { open_files.upstream } else { 0 }];
            scarce.into_iter().filter(|limit| *limit > 0).min().map_or(0, |limit| (limit / 2).max(1))
        }
    };
    open_files
}

fn listen(read: &mut Merged) -> Vec<ListenAddress> {
    let addresses = read.each("server.listen", address::listen_address);
    if addresses.is_empty() && !read.is_faulty("server.listen") && !read.has_entries("tls.listen") {
        read.fault("server.listen", "at least one address is needed, such as \"127.0.0.1:8080\"");
    }
    refuse_twice(read, "server.listen", &addresses, &[]);
    addresses
}

fn tls(read: &mut Merged, plain: &[ListenAddress]) -> Tls {
    let listen = read.each("tls.listen", address::listen_address);
    refuse_twice(read, "tls.listen", &listen, plain);
    let credentials = read.credentials.clone();
    let certificates = read.each("tls.certificates", |text| address::certificate(text, credentials.as_deref()));
    if certificates.is_empty() && !listen.is_empty() && !read.is_faulty("tls.certificates") {
        read.faults.push(wrong("tls.certificates", "is required where tls.listen is set, as CHAIN:KEY"));
    }
    if !certificates.is_empty() && listen.is_empty() && !read.is_faulty("tls.listen") {
        read.warnings.push("tls.certificates has no use where tls.listen is empty".into());
    }
    Tls { listen, certificates, handshake_timeout: read.duration("tls.handshake_timeout") }
}

/// Two listeners cannot share an address, unless the system picks the port.
fn refuse_twice(read: &mut Merged, key: &str, addresses: &[ListenAddress], others: &[ListenAddress]) {
    let takes_any_port =
        |address: &ListenAddress| matches!(address, ListenAddress::Tcp(address) if address.port() == 0);
    let twice = addresses.iter().enumerate().find(|(i, address)| {
        !takes_any_port(address) && addresses.iter().take(*i).chain(others).any(|a| a == *address)
    });
    if let Some((_, address)) = twice {
        read.fault(key, format!("{address} is there twice"));
    }
}

fn upstream(read: &mut Merged, plain: &[ListenAddress], tls: &[ListenAddress]) -> Option<Upstream> {
    if read.is_missing("upstream.url") {
        read.faults.push(wrong(
            "upstream.url",
            "is required: the web server of the site, such as http://127.0.0.1:8081 (--upstream)",
        ));
    }
    let url = read.parsed("upstream.url", address::upstream_url);
    let own = url.as_ref().and_then(|url| {
        let named = [plain, tls].concat();
        let of = |key, all: &'_ [ListenAddress]| {
            all.iter().find(|address| is_same(url, address, address.is_ipv6_only(&named))).map(|own| (key, own.clone()))
        };
        of("server.listen", plain).or_else(|| of("tls.listen", tls))
    });
    if let Some((key, own)) = own {
        let problem =
            format!("is {key}'s own {own}, so that every request would come back here; name the site's web server");
        read.fault("upstream.url", problem);
    }
    let ca_file = read.readable("upstream.ca_file");
    if ca_file.is_some() && matches!(url, Some(UpstreamUrl::Http(..) | UpstreamUrl::Unix(_))) {
        read.warnings.push("upstream.ca_file has no use where upstream.url is not https".into());
    }
    let tls_name = tls_name(read, url.as_ref());
    let proxy_protocol = read.named("upstream.proxy_protocol").unwrap_or(UpstreamProxyProtocol::Off);
    let connect_timeout = read.duration("upstream.connect_timeout");
    let response_header_timeout = read.duration("upstream.response_header_timeout");
    let response_body_idle = read.duration("upstream.response_body_idle");
    let keepalive_idle = read.duration("upstream.keepalive_idle");
    let keepalive_max_idle = read.integer("upstream.keepalive_max_idle");
    url.map(|url| Upstream {
        url,
        ca_file,
        tls_name,
        proxy_protocol,
        connect_timeout,
        response_header_timeout,
        response_body_idle,
        // Set where all limits are.
        max_connections: 0,
        keepalive_idle,
        keepalive_max_idle,
    })
}

fn tls_name(read: &mut Merged, url: Option<&UpstreamUrl>) -> TlsName {
    let Some(name) = read.parsed("upstream.tls_name", address::tls_name) else { return TlsName::OfUrl };
    if matches!(url, Some(UpstreamUrl::Http(..) | UpstreamUrl::Unix(_))) {
        read.warnings.push("upstream.tls_name has no use where upstream.url is not https".into());
    }
    if name != HOST {
        return TlsName::Is(name);
    }
    // What is wrong with these two is said where they are read for their own sake.
    let hosts = match read.find("wordpress.hosts").map(|said| &said.value) {
        Some(Value::List(hosts)) => hosts.iter().filter_map(|host| value::host(host).ok()).collect(),
        _ => Vec::new(),
    };
    let home = match read.find("wordpress.home").map(|said| &said.value) {
        Some(Value::Text(home)) => url::Url::parse(home).ok().and_then(|home| home.host_str().map(str::to_owned)),
        _ => None,
    };
    TlsName::OfHost(hosts.into_iter().chain(home).collect())
}

/// With `host` only the site's own hosts are asked for by their names: some have to be known.
fn check_tls_name(read: &mut Merged, upstream: Option<&Upstream>, wordpress: &WordPress, mode: RefreshMode) {
    let Some(Upstream { url: UpstreamUrl::Https(..), tls_name: TlsName::OfHost(_), .. }) = upstream else { return };
    let are_faulty = ["wordpress.hosts", "wordpress.home"].iter().any(|key| read.is_faulty(key));
    if are_faulty || wordpress.home.is_some() || !wordpress.hosts.is_empty() {
        return;
    }
    let problem = match mode {
        RefreshMode::Forward => {
            "with refresh.mode = \"forward\" nothing else says which hosts are the site's, and every request goes by the host \
             in upstream.url; name them in wordpress.hosts"
        }
        RefreshMode::Native => {
            "where WP_HOME does not say it, the site's host is not known until the database has answered, and requests go by \
             the host in upstream.url; name it in wordpress.hosts"
        }
    };
    read.warnings.push(format!("upstream.tls_name: {problem}"));
}

fn admin(read: &mut Merged, plain: &[ListenAddress], tls: &[ListenAddress]) -> Admin {
    let listen = read.parsed("admin.listen", address::optional_listen_address).flatten();
    let listen_is_given = read.is_given("admin.listen");
    if let Some(address) = &listen
        && listen_is_given
    {
        refuse_twice(read, "admin.listen", std::slice::from_ref(address), &[plain, tls].concat());
    }
    if let Some(ListenAddress::Tcp(address)) = &listen
        && !address.ip().to_canonical().is_loopback()
    {
        read.warnings.push(format!(
            "admin.listen: {address} can be reached from other machines; everybody who can connect can read the status \
             page and the metrics"
        ));
    }
    Admin { listen, listen_is_given, hosts: read.each("admin.hosts", value::host) }
}

/// Whether a connection to `url` surely ends at `listen`.
fn is_same(url: &UpstreamUrl, listen: &ListenAddress, ipv6_only: bool) -> bool {
    match (url, listen) {
        (UpstreamUrl::Http(host, port) | UpstreamUrl::Https(host, port), ListenAddress::Tcp(listen)) => {
            *port == listen.port() && is_local(host, listen, ipv6_only)
        }
        (UpstreamUrl::Unix(path), ListenAddress::Unix(listen)) => path == listen,
        _ => false,
    }
}

/// Whether `host` is this machine, as far as `listen` takes connections to it.
fn is_local(host: &str, listen: &SocketAddr, ipv6_only: bool) -> bool {
    let local = match host.parse::<IpAddr>() {
        // Linux connects to the unspecified address as to the loopback.
        Ok(IpAddr::V4(ip)) if ip.is_unspecified() => vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        Ok(IpAddr::V6(ip)) if ip.is_unspecified() => vec![IpAddr::V6(Ipv6Addr::LOCALHOST)],
        Ok(ip) => vec![ip.to_canonical()],
        Err(_) if host.eq_ignore_ascii_case("localhost") => {
            vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
        }
        Err(_) => return false,
    };
    let own = listen.ip().to_canonical();
    local.iter().any(|ip| match own.is_unspecified() {
        // A listener on [::] takes IPv4 as well, where the system does not say otherwise.
        true => ip.is_loopback() && (own.is_ipv6() && !ipv6_only || ip.is_ipv4() == own.is_ipv4()),
        false => *ip == own,
    })
}

fn trusted_proxies(read: &mut Merged) -> Vec<IpNet> {
    let written = read.each("forwarded.trusted_proxies", value::network);
    let networks: Vec<IpNet> = written.iter().copied().map(client_addr::canonical_network).collect();
    for (network, canonical) in written.iter().zip(&networks) {
        // SECURITY: whoever is trusted chooses the address that the rate limit counts.
        if canonical.prefix_len() == 0 {
            read.warnings.push(format!(
                "forwarded.trusted_proxies: {network} is everyone, so that every client can choose its address"
            ));
        } else if network.trunc() != *network {
            read.warnings.push(format!("forwarded.trusted_proxies: {network} is taken as {canonical}"));
        }
    }
    networks
}

fn wordpress(read: &mut Merged, mode: RefreshMode) -> WordPress {
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

fn jwt(read: &mut Merged) -> Jwt {
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
