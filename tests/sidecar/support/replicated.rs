//! A site on three database servers that replicate to each other, and a sidecar at each.

use std::net::SocketAddr;

use super::mariadb::{Database, TestDatabase, TokenState};
use super::raw::Upstream;
use super::rig::{self, eventually};
use super::sidecar::Sidecar;

/// The site on the servers of `S`.
pub struct Replicated<S> {
    pub servers: S,
    pub databases: [TestDatabase; 3],
    pub user: u64,
    pub sidecars: Vec<Sidecar>,
    pub upstream: Upstream,
}

impl<S> Replicated<S> {
    /// Makes the site at the first of the servers and waits until all have it.
    pub async fn start(
        servers: S,
        each: impl Fn(&S) -> [&Database; 3],
        has_index: bool,
        environment: &[(&str, &str)],
    ) -> Self {
        let database = rig::site(each(&servers)[0]).await;
        let user = database.insert_user("alice").await.id;
        if has_index {
            let index = "CREATE INDEX refresh_token ON wp_jwt_auth_tokens (refresh_token_hash)";
            database.execute(index).await;
        }
        let databases = each(&servers).map(|server| server.same(&database));
        for database in &databases {
            eventually("the server has the site", async || {
                !database.rows("SHOW TABLES LIKE 'wp_jwt_auth_tokens'").await.is_empty()
            })
            .await;
            eventually("the server has the user", async || !database.rows("SELECT ID FROM wp_users").await.is_empty())
                .await;
        }
        let upstream = rig::wordpress();
        let sidecars: Vec<Sidecar> =
            databases.iter().map(|database| rig::sidecar(database, upstream.address(), environment)).collect();
        for sidecar in &sidecars {
            sidecar.wait_for_log("refreshing natively");
        }
        Replicated { servers, databases, user, sidecars, upstream }
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sidecars.iter().map(Sidecar::address).collect()
    }

    /// A new live token of the user.
    pub async fn token(&self) -> String {
        self.databases[0].insert_token(TokenState::Live, self.user).await.refresh_token
    }

    /// Presents `token` at the sidecar of server `at`: the status, and the new refresh token.
    pub async fn refresh(&self, at: usize, token: &str) -> (u16, Option<String>) {
        refresh(self.sidecars[at].address(), token).await
    }

    /// The number of refreshes that WordPress got.
    pub fn forwarded(&self) -> usize {
        self.upstream.requests().iter().filter(|request| request.start_line().contains("token/refresh")).count()
    }
}

/// The status, and the new refresh token.
pub fn refresh(address: SocketAddr, token: &str) -> impl Future<Output = (u16, Option<String>)> + use<> {
    let token = token.to_owned();
    let called = tokio::task::spawn_blocking(move || rig::refresh_at(address, &token));
    async move {
        let answer = called.await.unwrap();
        let body: Option<serde_json::Value> = serde_json::from_slice(&answer.body).ok();
        let next = body.and_then(|body| body["refresh_token"].as_str().map(str::to_owned));
        (answer.status(), next)
    }
}
