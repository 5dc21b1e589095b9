//! How to reach the site's database: by `[wordpress] database_url`, or else by the constants; on
//! `database_hosts` if that is set, whatever the other two say about the host.

use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;

use mysql_async::{Opts, OptsBuilder};

use super::Assembly;
use super::tls::Said;
use crate::config::db_host::{DatabaseAddress, USUAL_SOCKETS, database_address};
use crate::config::{self, Secret};
use crate::wordpress::database::Hosts;

impl Assembly<'_> {
    pub(super) fn database(&mut self, config: &config::WordPress) -> Option<Hosts> {
        let hosts = self.hosts(config)?;
        let site = self.sites_connection(&existing_sockets());
        let is_sites_own = hosts.opts().iter().any(|ours| site.may_be(ours));
        Some(hosts.with_sites_own(is_sites_own))
    }

    fn hosts(&mut self, config: &config::WordPress) -> Option<Hosts> {
        let before = self.wrong();
        let (options, said) = match &config.database_url {
            Some(url) => self.database_from_url(url).map(|(options, said)| (options, Some(said))).unzip(),
            None => (self.database_from_constants(config), None),
        };
        let mut hosts: Vec<Opts> = Vec::new();
        if let Some(options) = options {
            hosts = self.at_hosts(config, options);
        }
        // Called even if the rest is invalid: all faults are reported at once.
        let hosts = self.with_tls(config, hosts, said.flatten());
        hosts.filter(|_| self.wrong() == before).map(Hosts::new)
    }

    fn at_hosts(&mut self, config: &config::WordPress, options: OptsBuilder) -> Vec<Opts> {
        if config.database_hosts.is_empty() {
            return vec![options.into()];
        }
        let sockets = existing_sockets();
        let mut hosts: Vec<Opts> = Vec::new();
        for host in &config.database_hosts {
            match database_address(host, &sockets) {
                Ok(address) => hosts.push(at(options.clone(), address).into()),
                // Already found when the key was read.
                Err(error) => self.fault("wordpress.database_hosts", format!("{host}: {error}")),
            }
        }
        hosts
    }

    fn database_from_constants(&mut self, config: &config::WordPress) -> Option<OptsBuilder> {
        let key = "wordpress.database_url";
        let [name, user, password] =
            ["DB_NAME", "DB_USER", "DB_PASSWORD"].map(|constant| self.needed_text(constant, key));
        // Not needed if other hosts take its place.
        let address = match config.database_hosts.is_empty() {
            true => self.db_host(key).map(Some),
            false => Some(None),
        };
        if name.as_ref().is_some_and(|name| name.expose().is_empty()) {
            self.constant_fault("DB_NAME", key, "it is empty");
            return None;
        }
        let (name, user, password, address) = (name?, user?, password?, address?);
        // mysql_async asks a server on loopback for its socket and switches to it, unless
        // configured otherwise; PHP does not.
        let options = OptsBuilder::default()
            .prefer_socket(false)
            .user(Some(user.expose()))
            .pass(Some(password.expose()))
            .db_name(Some(name.expose()));
        Some(match address {
            Some(address) => at(options, address),
            None => options,
        })
    }

    fn db_host(&mut self, key: &'static str) -> Option<DatabaseAddress> {
        let host = self.needed_text("DB_HOST", key)?;
        match database_address(host.expose(), &existing_sockets()) {
            Ok(address) => Some(address),
            Err(error) => {
                self.fault("wordpress.config", format!("the constant DB_HOST is not understood: {error}"));
                None
            }
        }
    }

    /// SECURITY: the URL contains the password, so its own error is not shown either.
    fn database_from_url(&mut self, url: &Secret) -> Option<(OptsBuilder, Said)> {
        let options =
            Opts::from_url(url.expose()).ok().filter(|options| options.db_name().is_some_and(|name| !name.is_empty()));
        let Some(options) = options else {
            let form =
                "is not of the form mysql://user:password@host:3306/database, with % encoding for special characters";
            self.fault("wordpress.database_url", form.to_owned());
            return None;
        };
        let said = Said::by_url(&options);
        // The brackets of an IPv6 address belong to the URL; name resolution and certificates do
        // not use them.
        let host = options.ip_or_hostname().trim_start_matches('[').trim_end_matches(']').to_owned();
        Some((OptsBuilder::from_opts(options).prefer_socket(false).ip_or_hostname(host), said))
    }
}

/// The same database at another address.
fn at(options: OptsBuilder, address: DatabaseAddress) -> OptsBuilder {
    match address {
        DatabaseAddress::Tcp(host, port) => options.socket(None::<String>).ip_or_hostname(host).tcp_port(port),
        DatabaseAddress::Socket(path) => options.socket(Some(path.to_string_lossy().into_owned())),
    }
}

fn existing_sockets() -> Vec<PathBuf> {
    let is_socket = |path: &PathBuf| path.metadata().is_ok_and(|file| file.file_type().is_socket());
    USUAL_SOCKETS.iter().map(PathBuf::from).filter(is_socket).collect()
}
