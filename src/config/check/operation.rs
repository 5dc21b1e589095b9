//! `[admin]`, `[shutdown]`, `[log]`.

use super::refuse_twice;
use crate::config::{Admin, ListenAddress, Log, Shutdown, address, keys, merged::Merged, value};

pub(super) fn admin(read: &mut Merged, plain: &[ListenAddress], tls: &[ListenAddress]) -> Admin {
    let listen = read.parsed(keys::ADMIN_LISTEN, address::optional_listen_address).flatten();
    let listen_is_given = read.is_given(keys::ADMIN_LISTEN);
    if let Some(address) = &listen
        && listen_is_given
    {
        refuse_twice(read, keys::ADMIN_LISTEN, std::slice::from_ref(address), &[plain, tls].concat());
    }
    if let Some(ListenAddress::Tcp(address)) = &listen
        && !address.ip().to_canonical().is_loopback()
    {
        read.warnings.push(format!(
            "admin.listen: {address} can be reached from other machines; everybody who can connect can read the status \
             page and the metrics"
        ));
    }
    Admin { listen, listen_is_given, hosts: read.each(keys::ADMIN_HOSTS, value::host) }
}

pub(super) fn shutdown(read: &Merged) -> Shutdown {
    Shutdown { drain_timeout: read.get(keys::SHUTDOWN_DRAIN_TIMEOUT) }
}

pub(super) fn log(read: &mut Merged) -> Log {
    Log {
        format: read.get(keys::LOG_FORMAT),
        level: read.parsed(keys::LOG_LEVEL, value::log_level).unwrap_or_default(),
        refreshes: read.get(keys::LOG_REFRESHES),
        access: read.get(keys::LOG_ACCESS),
    }
}
