//! What refreshes do to the plugin's own writes. A storm of them (log-ins, "log out everywhere", sessions that an admin deletes) runs
//! by itself, beside refreshes of the same users' tokens, and beside as many refreshes in another database of the same server: for
//! how long the server lets somebody wait for a row is more in the one than in the other by what the refreshes hold.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::measure::WARM_UP;
use crate::support::mariadb::{Database, TestDatabase, random_hex};
use crate::support::raw::{Connection, Upstream};
use crate::support::rig;
use crate::support::sidecar::Sidecar;

/// Connections of the storm.
const CONNECTIONS: usize = 4;
/// Users whose tokens both sides are at.
const USERS: usize = 20;
/// Connections that refreshes come by.
const CLIENTS: usize = 4;
/// Refreshes a second. The first is more than PHP can give on this machine, and what a site with 90,000 clients of 15 minutes each
/// has; the second is that of a site twice as large; the third more than any rotation allows, so that they are as many as there is room
/// for beside the storm.
pub const RATES: [u32; 3] = [100, 200, 100_000];

/// What is beside the storm, at which rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    Nothing,
    Refreshes(u32),
    RefreshesElsewhere(u32),
}

struct Site {
    database: TestDatabase,
    users: Vec<u64>,
    sidecar: Sidecar,
    _upstream: Upstream,
}

/// Two databases on one server, a sidecar for each.
pub struct Storm {
    here: Site,
    elsewhere: Site,
    server: Database,
}

/// What one run came to.
#[derive(Default)]
pub struct Report {
    /// Statements of the storm a second.
    pub rate: f64,
    /// Statements that the server refused, whatever for.
    pub refused: u64,
    /// Refreshes a second, with 403s for what the storm had revoked.
    pub refreshes: f64,
    /// The share of the storm's time for which the server let somebody wait for a row. Refreshes may be among those, too.
    pub waited: f64,
}

impl Storm {
    pub async fn start() -> Storm {
        let server = Database::private();
        Storm { here: site(&server).await, elsewhere: site(&server).await, server }
    }

    /// Each run begins with empty tables: "log out everywhere" reads all rows of its user, and the storm leaves more of them with
    /// every second.
    pub async fn run(&self, beside: Beside, length: Duration) -> Report {
        for site in [&self.here, &self.elsewhere] {
            let mut connection = site.database.connect().await;
            for statement in ["SET FOREIGN_KEY_CHECKS = 0", "TRUNCATE wp_jwt_auth_tokens"] {
                connection.query_drop(statement).await.unwrap();
            }
        }
        let from = Instant::now() + WARM_UP;
        let until = from + length;
        let mut root = self.server.root().await;
        let waited_before = waited(&mut root).await;
        let (done, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut tasks = Vec::new();
        for at in 0..CONNECTIONS {
            let mut connection = self.here.database.connect().await;
            let users = self.here.users.clone();
            let (done, refused) = (Arc::clone(&done), Arc::clone(&refused));
            tasks.push(tokio::spawn(async move {
                let mut turn = at;
                while Instant::now() < until {
                    let (user, family) = (users[turn % users.len()], random_hex::<16>());
                    let token = random_hex::<16>();
                    let statements: [(&str, mysql_async::Params); 2] = [
                        (LOG_IN, (&token, user, &token, &family).into()),
                        if turn % 4 == 0 { (REVOKE_ALL, (user,).into()) } else { (DELETE, (&family,).into()) },
                    ];
                    for (statement, values) in statements {
                        let counted = match connection.exec_drop(statement, values).await {
                            Ok(()) => &done,
                            Err(_) => &refused,
                        };
                        if Instant::now() >= from {
                            counted.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    turn += CONNECTIONS;
                }
            }));
        }
        let refreshes = match beside {
            Beside::Nothing => 0,
            Beside::Refreshes(rate) => self.here.refresh(from, until, rate).await,
            Beside::RefreshesElsewhere(rate) => self.elsewhere.refresh(from, until, rate).await,
        };
        for task in tasks {
            task.await.unwrap();
        }
        Report {
            rate: done.load(Ordering::Relaxed) as f64 / length.as_secs_f64(),
            refused: refused.load(Ordering::Relaxed),
            refreshes: refreshes as f64 / length.as_secs_f64(),
            waited: (waited(&mut root).await - waited_before).as_secs_f64()
                / (WARM_UP + length).as_secs_f64()
                / CONNECTIONS as f64,
        }
    }
}

const LOG_IN: &str = "INSERT INTO wp_jwt_auth_tokens (hash, user_id, issued_at, expires_at, refresh_token_hash, \
                      refresh_token_expires_at, token_family) VALUES (?, ?, UTC_TIMESTAMP(), UTC_TIMESTAMP(), ?, \
                      UTC_TIMESTAMP() + INTERVAL 1 DAY, ?)";
const REVOKE_ALL: &str =
    "UPDATE wp_jwt_auth_tokens SET revoked_at = UTC_TIMESTAMP() WHERE user_id = ? AND revoked_at IS NULL";
const DELETE: &str = "DELETE FROM wp_jwt_auth_tokens WHERE token_family = ?";

impl Site {
    /// Refreshes at an even pace, by connections that stay open as long as they may. Returns how many.
    async fn refresh(&self, from: Instant, until: Instant, rate: u32) -> u64 {
        let mut clients = Vec::new();
        for users in self.users.chunks(USERS / CLIENTS) {
            let database = self.database.connect().await;
            let address = self.sidecar.address();
            let pace = Duration::from_secs(1) * u32::try_from(CLIENTS).unwrap() / rate;
            clients.push(tokio::spawn(refresh(database, address, users.to_vec(), pace, (from, until))));
        }
        let mut done = 0;
        for client in clients {
            done += client.await.unwrap();
        }
        done
    }
}

/// How long rows were waited for since the server began.
async fn waited(root: &mut Conn) -> Duration {
    let waited: Option<(String, u64)> =
        root.query_first("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_time'").await.unwrap();
    Duration::from_millis(waited.unwrap().1)
}

/// Who is refused logs in again. Both sides log in now and then, so that they do the same.
async fn refresh(
    mut database: Conn,
    address: SocketAddr,
    users: Vec<u64>,
    pace: Duration,
    (from, until): (Instant, Instant),
) -> u64 {
    let mut tokens = vec![String::new(); users.len()];
    let mut client = Connection::to(address);
    let mut due = Instant::now();
    let mut done = 0;
    let mut turn = 0;
    while Instant::now() < until {
        tokio::time::sleep_until(due.into()).await;
        due += pace;
        let place = turn % users.len();
        turn += 1;
        if tokens[place].is_empty() || turn % (4 * users.len()) < users.len() {
            tokens[place] = random_hex::<16>();
            let (token, family) = (&tokens[place], random_hex::<16>());
            database.exec_drop(LOG_IN, (token, users[place], token, &family)).await.unwrap();
        }
        let call = rig::call(&tokens[place]);
        let answer;
        (client, answer) = tokio::task::spawn_blocking(move || {
            client.send(call);
            let answer = client.response();
            let is_last = answer.value("connection").as_deref() == Some("close");
            (if is_last { Connection::to(address) } else { client }, answer)
        })
        .await
        .unwrap();
        tokens[place] = match answer.status() {
            200 => answer.json()["refresh_token"].as_str().unwrap().to_owned(),
            403 => String::new(),
            status => panic!("{status}"),
        };
        done += u64::from(Instant::now() >= from);
    }
    done
}

async fn site(server: &Database) -> Site {
    let database = rig::site(server).await;
    let mut users = Vec::new();
    for _ in 0..USERS {
        users.push(database.insert_user("storm").await.id);
    }
    let upstream = rig::wordpress();
    let sidecar = rig::sidecar(&database, upstream.address(), &[("WP_JWT_SIDECAR_LOG_LEVEL", "info")]);
    sidecar.wait_for_log("refreshing natively");
    Site { database, users, sidecar, _upstream: upstream }
}
