//! `[upstream]`, `[forwarded]`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use crate::client_addr;
use crate::config::{
    Forwarded, ListenAddress, ProxyProtocol, RefreshMode, TlsName, Upstream, UpstreamUrl, WordPress,
    address::{self, HOST},
    keys,
    merged::Merged,
    sources::wrong,
    value,
};

pub(super) fn upstream(read: &mut Merged, plain: &[ListenAddress], tls: &[ListenAddress]) -> Option<Upstream> {
    if read.is_missing(keys::UPSTREAM_URL) {
        read.faults.push(wrong(
            keys::UPSTREAM_URL.name,
            "is required: the web server of the site, such as http://127.0.0.1:8081 (--upstream)",
        ));
    }
    let url = read.parsed(keys::UPSTREAM_URL, address::upstream_url);
    let own = url.as_ref().and_then(|url| {
        let named = [plain, tls].concat();
        let of = |key, all: &'_ [ListenAddress]| {
            all.iter().find(|address| is_same(url, address, address.is_ipv6_only(&named))).map(|own| (key, own.clone()))
        };
        of(keys::SERVER_LISTEN.name, plain).or_else(|| of(keys::TLS_LISTEN.name, tls))
    });
    if let Some((key, own)) = own {
        let problem =
            format!("is {key}'s own {own}, so that every request would come back here; name the site's web server");
        read.fault(keys::UPSTREAM_URL, problem);
    }
    let ca_file = read.readable(keys::UPSTREAM_CA_FILE);
    if ca_file.is_some() && matches!(url, Some(UpstreamUrl::Http(..) | UpstreamUrl::Unix(_))) {
        read.warnings.push("upstream.ca_file has no use where upstream.url is not https".into());
    }
    let tls_name = tls_name(read, url.as_ref());
    let proxy_protocol = read.get(keys::UPSTREAM_PROXY_PROTOCOL);
    let early_bodies = read.get(keys::UPSTREAM_EARLY_BODIES);
    let connect_timeout = read.get(keys::UPSTREAM_CONNECT_TIMEOUT);
    let response_header_timeout = read.get(keys::UPSTREAM_RESPONSE_HEADER_TIMEOUT);
    let response_body_idle = read.get(keys::UPSTREAM_RESPONSE_BODY_IDLE);
    let keepalive_idle = read.get(keys::UPSTREAM_KEEPALIVE_IDLE);
    let keepalive_max_idle = read.get(keys::UPSTREAM_KEEPALIVE_MAX_IDLE);
    url.map(|url| Upstream {
        url,
        ca_file,
        tls_name,
        proxy_protocol,
        early_bodies,
        connect_timeout,
        response_header_timeout,
        response_body_idle,
        // Set together with the other limits.
        max_connections: 0,
        keepalive_idle,
        keepalive_max_idle,
    })
}

/// Whether a connection to `url` certainly ends at `listen`.
fn is_same(url: &UpstreamUrl, listen: &ListenAddress, ipv6_only: bool) -> bool {
    match (url, listen) {
        (UpstreamUrl::Http(host, port) | UpstreamUrl::Https(host, port), ListenAddress::Tcp(listen)) => {
            *port == listen.port() && is_local(host, listen, ipv6_only)
        }
        (UpstreamUrl::Unix(path), ListenAddress::Unix(listen)) => path == listen,
        _ => false,
    }
}

/// Whether `host` is this machine, and `listen` accepts connections to that address.
fn is_local(host: &str, listen: &SocketAddr, ipv6_only: bool) -> bool {
    let local = match host.parse::<IpAddr>() {
        // Linux connects to the loopback address if the address is unspecified.
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
        // By default a listener on [::] accepts IPv4 as well.
        true => ip.is_loopback() && (own.is_ipv6() && !ipv6_only || ip.is_ipv4() == own.is_ipv4()),
        false => *ip == own,
    })
}

fn tls_name(read: &mut Merged, url: Option<&UpstreamUrl>) -> TlsName {
    let Some(name) = read.parsed(keys::UPSTREAM_TLS_NAME, address::tls_name) else { return TlsName::OfUrl };
    if matches!(url, Some(UpstreamUrl::Http(..) | UpstreamUrl::Unix(_))) {
        read.warnings.push("upstream.tls_name has no use where upstream.url is not https".into());
    }
    if name != HOST {
        return TlsName::Is(name);
    }
    // Faults of these two keys are reported where the keys themselves are read.
    let hosts = read.get(keys::WORDPRESS_HOSTS).into_iter().filter_map(|host| value::host(&host).ok());
    let home = read.get(keys::WORDPRESS_HOME).and_then(|home| url::Url::parse(&home).ok());
    TlsName::OfHost(hosts.chain(home.and_then(|home| home.host_str().map(str::to_owned))).collect())
}

/// With `host`, only the site's own hosts are used as server names, so some must be known.
pub(super) fn check_tls_name(read: &mut Merged, upstream: Option<&Upstream>, wordpress: &WordPress, mode: RefreshMode) {
    let Some(Upstream { url: UpstreamUrl::Https(..), tls_name: TlsName::OfHost(_), .. }) = upstream else { return };
    let are_faulty = read.is_faulty(keys::WORDPRESS_HOSTS) || read.is_faulty(keys::WORDPRESS_HOME);
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

pub(super) fn forwarded(read: &mut Merged, proxy_protocol: ProxyProtocol) -> Forwarded {
    let forwarded = Forwarded {
        trusted_proxies: trusted_proxies(read),
        mode: read.get(keys::FORWARDED_MODE),
        request_id: read.get(keys::FORWARDED_REQUEST_ID),
    };
    if proxy_protocol != ProxyProtocol::Off
        && forwarded.trusted_proxies.is_empty()
        && !read.is_faulty(keys::FORWARDED_TRUSTED_PROXIES)
    {
        let problem = "needs forwarded.trusted_proxies: the header is taken from those only, and every other connection \
                       is refused";
        read.fault(keys::SERVER_PROXY_PROTOCOL, problem);
    }
    forwarded
}

fn trusted_proxies(read: &mut Merged) -> Vec<IpNet> {
    let written = read.each(keys::FORWARDED_TRUSTED_PROXIES, value::network);
    let networks: Vec<IpNet> = written.iter().copied().map(client_addr::canonical_network).collect();
    for (network, canonical) in written.iter().zip(&networks) {
        // SECURITY: a trusted proxy chooses the address that the rate limit counts.
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
