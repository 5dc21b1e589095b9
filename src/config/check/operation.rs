//! `[admin]`, `[shutdown]`, `[log]`.

use super::refuse_twice;
use crate::config::{Admin, ListenAddress, Log, LogFormat, Shutdown, address, merged::Merged, value};

pub(super) fn admin(read: &mut Merged, plain: &[ListenAddress], tls: &[ListenAddress]) -> Admin {
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

pub(super) fn shutdown(read: &mut Merged) -> Shutdown {
    Shutdown { drain_timeout: read.duration("shutdown.drain_timeout") }
}

pub(super) fn log(read: &mut Merged) -> Log {
    Log {
        format: read.named::<LogFormat>("log.format").unwrap_or(LogFormat::Auto),
        level: read.parsed("log.level", value::log_level).unwrap_or_default(),
        refreshes: read.boolean("log.refreshes"),
        access: read.boolean("log.access"),
    }
}
