//! Connects to the store: one server, Sentinels, or a cluster.

use std::fs;
use std::path::PathBuf;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisFuture, RedisResult, TlsCertificates, TlsMode, Value};

use super::trouble::Trouble;
use super::{CONNECT_LIMIT, LIMIT, NODE_LIMIT};
use crate::config::RateLimit;
use crate::config::store_url::{self, Servers, StoreUrl};

/// The store's address and authorities.
pub(super) struct Client {
    url: StoreUrl,
    ca_file: Option<PathBuf>,
}

/// A connection; a clone is the same one. Concurrent requests share it.
#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Client {
    pub(super) fn of(configured: &RateLimit) -> Option<Self> {
        // The configuration has checked the URL.
        let url = store_url::parse(configured.store.as_ref()?.expose()).ok()?;
        Some(Client { url, ca_file: configured.store_ca_file.clone() })
    }

    pub(super) fn label(&self) -> &str {
        &self.url.label
    }

    /// Reads the authorities each time, so that renewed ones need no reload.
    pub(super) async fn connect(&self) -> Result<Connection, Trouble> {
        let authorities =
            self.ca_file.as_ref().map(fs::read).transpose().map_err(|error| Trouble::Authorities(error.to_string()))?;
        self.connect_trusting(authorities).await.map_err(|error| Trouble::of(&error))
    }

    async fn connect_trusting(&self, authorities: Option<Vec<u8>>) -> RedisResult<Connection> {
        // The caller applies its own timeout.
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_LIMIT)).set_response_timeout(None);
        let certificates = |root_cert| TlsCertificates { client_tls: None, root_cert };
        match &self.url.servers {
            Servers::One(info) => {
                let client = if self.url.is_encrypted() {
                    redis::Client::build_with_tls(info.clone(), certificates(authorities))?
                } else {
                    redis::Client::open(info.clone())?
                };
                client.get_multiplexed_async_connection_with_config(&config).await.map(Connection::One)
            }
            Servers::Sentinels { sentinels, service, primary, own, is_encrypted } => {
                let mut builder = SentinelClientBuilder::new(sentinels.clone(), service, SentinelServerType::Master)?
                    .set_client_to_redis_db(primary.db());
                if let Some(user) = primary.username() {
                    builder = builder.set_client_to_redis_username(user);
                }
                if let Some(password) = primary.password() {
                    builder = builder.set_client_to_redis_password(password);
                }
                if let Some(user) = own.username() {
                    builder = builder.set_client_to_sentinel_username(user);
                }
                if let Some(password) = own.password() {
                    builder = builder.set_client_to_sentinel_password(password);
                }
                if *is_encrypted {
                    builder = builder
                        .set_client_to_redis_tls_mode(TlsMode::Secure)
                        .set_client_to_redis_certificates(certificates(authorities.clone()))
                        .set_client_to_sentinel_certificates(certificates(authorities));
                }
                builder.build()?.get_async_connection_with_config(&config).await.map(Connection::One)
            }
            Servers::Cluster(nodes) => {
                let mut builder = ClusterClient::builder(nodes.clone())
                    .connection_timeout(NODE_LIMIT)
                    .response_timeout(LIMIT)
                    // A moved slot needs one retry at its new server; more do not fit into LIMIT.
                    .retries(1);
                if self.url.is_encrypted() {
                    builder = builder.certs(certificates(authorities));
                }
                builder.build()?.get_async_connection().await.map(Connection::Cluster)
            }
        }
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Connection::One(connection) => connection.req_packed_command(cmd),
            Connection::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Connection::One(connection) => connection.req_packed_commands(pipeline, offset, count),
            Connection::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Connection::One(connection) => connection.get_db(),
            Connection::Cluster(connection) => connection.get_db(),
        }
    }
}
