//! How to reach the site's database: by `[wordpress] database_url`, or else by the constants.

use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;

use mysql_async::{Opts, OptsBuilder, SslOpts};

use super::Assembly;
use crate::config::{self, Secret};
use crate::wordpress::db_host::{DatabaseAddress, USUAL_SOCKETS, database_address};
use crate::wordpress::wp_config::{Lookup, Scalar};

impl Assembly<'_> {
    pub(super) fn database(&mut self, config: &config::WordPress) -> Option<(OptsBuilder, String)> {
        if let Some(url) = &config.database_url {
            return self.database_from_url(url);
        }
        let key = "wordpress.database_url";
        let [name, user, password, host] =
            ["DB_NAME", "DB_USER", "DB_PASSWORD", "DB_HOST"].map(|constant| self.needed_text(constant, key));
        let tls = self.database_tls();
        let address = host.and_then(|host| match database_address(host.expose(), &existing_sockets()) {
            Ok(address) => Some(address),
            Err(error) => {
                self.fault("wordpress.config", format!("the constant DB_HOST is not understood: {error}"));
                None
            }
        });
        if name.as_ref().is_some_and(|name| name.expose().is_empty()) {
            self.fault("wordpress.config", "the constant DB_NAME is empty".to_owned());
            return None;
        }
        let (name, user, password, address) = (name?, user?, password?, address?);
        // mysql_async asks a server on loopback for its socket and goes there, unless told not to; PHP does not.
        let options = OptsBuilder::default()
            .prefer_socket(false)
            .user(Some(user.expose()))
            .pass(Some(password.expose()))
            .db_name(Some(name.expose()))
            .ssl_opts(tls?);
        Some(match address {
            DatabaseAddress::Tcp(host, port) => {
                let shown = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                (
                    options.ip_or_hostname(host).tcp_port(port),
                    format!("{}@{shown}:{port}/{}", user.expose(), name.expose()),
                )
            }
            DatabaseAddress::Socket(path) => {
                let path = path.to_string_lossy().into_owned();
                (options.socket(Some(path.as_str())), format!("{}@{path}/{}", user.expose(), name.expose()))
            }
        })
    }

    /// SECURITY: the URL holds the password, so its own error is not shown either.
    fn database_from_url(&mut self, url: &Secret) -> Option<(OptsBuilder, String)> {
        let options =
            Opts::from_url(url.expose()).ok().filter(|options| options.db_name().is_some_and(|name| !name.is_empty()));
        let Some(options) = options else {
            let form =
                "is not of the form mysql://user:password@host:3306/database, with % encoding for special characters";
            self.fault("wordpress.database_url", form.to_owned());
            return None;
        };
        let place = match options.socket() {
            Some(socket) => socket.to_owned(),
            None => format!("{}:{}", options.ip_or_hostname(), options.tcp_port()),
        };
        let label = format!("{}@{place}/{}", options.user().unwrap_or_default(), options.db_name().unwrap_or_default());
        Some((OptsBuilder::from_opts(options).prefer_socket(false), label))
    }

    /// `MYSQL_CLIENT_FLAGS` with `MYSQLI_CLIENT_SSL`. mysqlnd then checks the certificate, unless
    /// told not to by the other flag. `None` if it cannot be known.
    fn database_tls(&mut self) -> Option<Option<SslOpts>> {
        const SSL: i64 = 2048;
        const DONT_VERIFY: i64 = 64;
        let flags = match self.constant("MYSQL_CLIENT_FLAGS") {
            Lookup::NotDefined => 0,
            Lookup::Known(Scalar::Integer(flags), _) => *flags,
            Lookup::Known(_, line) => {
                self.constant_fault(
                    "MYSQL_CLIENT_FLAGS",
                    "wordpress.database_url",
                    &format!("line {line} gives it no number"),
                );
                return None;
            }
            Lookup::Unknown(doubt) => {
                self.constant_fault("MYSQL_CLIENT_FLAGS", "wordpress.database_url", &doubt.to_string());
                return None;
            }
        };
        let unverified = flags & DONT_VERIFY != 0;
        Some((flags & SSL != 0).then(|| {
            SslOpts::default()
                .with_danger_accept_invalid_certs(unverified)
                .with_danger_skip_domain_validation(unverified)
        }))
    }
}

fn existing_sockets() -> Vec<PathBuf> {
    let is_socket = |path: &PathBuf| path.metadata().is_ok_and(|file| file.file_type().is_socket());
    USUAL_SOCKETS.iter().map(PathBuf::from).filter(is_socket).collect()
}
