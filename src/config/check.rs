//! Turns the merged values into the checked [`Config`]: parses each, and checks whether they agree.
//!
//! The rules for a single value are in the table of keys and in `value`; the rules here need a
//! second value, a file or the whole. Each part of the table has a file.

mod clients;
mod declared;
mod operation;
mod shared;
mod site;
mod site_server;

use super::{
    Config, Effective, Faults, ListenAddress, OpenFiles, Server, SiteFiles, Upstream, Verify,
    keys::{self, Key},
    merged::Merged,
    open_files::{self, Wanted},
};

/// The two files that describe the site, whatever is wrong with the rest.
pub(super) fn site_files(mut read: Merged) -> Result<SiteFiles, Faults> {
    let files = site::files(&mut read);
    if read.complete && !read.is_faulty(keys::WORDPRESS_CONFIG) && !read.is_faulty(keys::WORDPRESS_IMPORT) {
        return Ok(files);
    }
    Err(Faults(read.faults))
}

/// Checks every value and all of them together.
pub(super) fn check(mut read: Merged) -> Result<Config, Faults> {
    let mut server = clients::server(&mut read);
    let tls = clients::tls(&mut read, &server.listen);
    let mut upstream = site_server::upstream(&mut read, &server.listen, &tls.listen);
    let forwarded = site_server::forwarded(&mut read, server.proxy_protocol);
    let refresh = site::refresh(&mut read);
    let wordpress = site::wordpress(&mut read, refresh.mode);
    site_server::check_tls_name(&mut read, upstream.as_ref(), &wordpress, refresh.mode);
    let jwt = site::jwt(&mut read);
    let cleanup = site::cleanup(&read);
    let rate_limit = shared::rate_limit(&mut read);
    let admin = operation::admin(&mut read, &server.listen, &tls.listen);
    let shutdown = operation::shutdown(&read);
    let log = operation::log(&mut read);
    if refresh.verify == Verify::Off && !(refresh.fields.is_empty() && jwt.claims.is_empty()) {
        let problem = "jwt.claim and refresh.field: with refresh.verify = \"off\" nothing shows whether WordPress adds what is declared";
        read.warnings.push(problem.to_owned());
    }
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
                rate_limit,
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

/// How much may be open and in flight at once. Unconfigured limits follow from the limit of open
/// files.
fn limit(read: &mut Merged, server: &mut Server, upstream: Option<&mut Upstream>, listeners: usize) -> OpenFiles {
    let configured = read.get(keys::UPSTREAM_MAX_CONNECTIONS);
    let (workers, clients) = (server.workers, server.max_connections);
    let database = read.get(keys::WORDPRESS_DATABASE_CONNECTIONS);
    let wanted = Wanted { workers, listeners, database, clients, upstream: configured };
    let open_files = OpenFiles::divide(open_files::limit(), wanted);
    read.warnings.extend(open_files.warning(wanted));
    server.max_connections = open_files.clients;
    if let Some(upstream) = upstream {
        upstream.max_connections = open_files.upstream;
    }
    // Twice the number of clients: each can have one request in flight, and HTTP/2 adds as many
    // again.
    server.max_exchanges = match read.get(keys::SERVER_MAX_EXCHANGES) {
        None => server.max_connections.saturating_mul(2),
        Some(limit) => limit,
    };
    read.warnings.extend(open_files.unlimited_warning(server.max_exchanges));
    // Half of all, so that no single address takes everything. The upstream's configured limit does
    // not count: behind an untrusted proxy all clients have one address.
    server.max_exchanges_per_address = match read.get(keys::SERVER_MAX_EXCHANGES_PER_ADDRESS) {
        Some(limit) => limit,
        None => {
            let scarce = [server.max_exchanges, if configured.is_none() { open_files.upstream } else { 0 }];
            scarce.into_iter().filter(|limit| *limit > 0).min().map_or(0, |limit| (limit / 2).max(1))
        }
    };
    open_files
}

/// Two listeners cannot share an address, unless the system chooses the port.
fn refuse_twice<T>(read: &mut Merged, key: Key<T>, addresses: &[ListenAddress], others: &[ListenAddress]) {
    let takes_any_port =
        |address: &ListenAddress| matches!(address, ListenAddress::Tcp(address) if address.port() == 0);
    let twice = addresses.iter().enumerate().find(|(i, address)| {
        !takes_any_port(address) && addresses.iter().take(*i).chain(others).any(|a| a == *address)
    });
    if let Some((_, address)) = twice {
        read.fault(key, format!("{address} is there twice"));
    }
}
