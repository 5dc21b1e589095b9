//! How refreshes affect the plugin's own writes. A storm of them (logins, "log out everywhere",
//! sessions that an admin deletes) runs continuously. Beside it, slices of one second with
//! different rates of refreshes of the same users' tokens alternate, so that variations of the
//! machine affect all rates alike. The server reports for how long rows are waited for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::measure::WARM_UP;
use crate::support::mariadb::{Database, random_hex};
use crate::support::raw::Connection;
use crate::support::rig;

/// Connections of the storm.
const CONNECTIONS: usize = 4;
/// The users whose tokens both sides work on.
const USERS: usize = 20;
/// Connections of the refreshes.
const CLIENTS: usize = 4;
/// The length of a slice.
const SLICE: Duration = Duration::from_secs(1);
/// Refreshes a second. The first is zero. The second is the rate of a site with 90,000 clients of
/// 15 minutes each, nearly what PHP can do with two cores to itself; the third is that of a site
/// twice as large. The last is more than any rotation allows, so the rate is as high as the storm
/// leaves room for.
const RATES: [u32; 4] = [0, 100, 200, 100_000];

/// The counts at one rate of refreshes.
#[derive(Default)]
struct Count {
    /// The storm's statements, without the logins of users whom it logged out.
    statements: AtomicU64,
    /// Those that the server refused, for any reason.
    failed: AtomicU64,
    rotations: AtomicU64,
    /// Those whose token the storm had revoked.
    revoked: AtomicU64,
    /// In milliseconds.
    lasted: AtomicU64,
    /// For how long statements waited for a row, in milliseconds.
    waited: AtomicU64,
}

impl Count {
    /// The rate of these per second.
    fn a_second(&self, of: &AtomicU64) -> f64 {
        1e3 * of.load(Ordering::Relaxed) as f64 / self.lasted.load(Ordering::Relaxed) as f64
    }

    /// The share of the storm's time in which rows were waited for; refreshes may be among the
    /// waiting statements.
    fn waits(&self) -> f64 {
        self.a_second(&self.waited) / 1e3 / CONNECTIONS as f64
    }
}

/// The server's error code.
const DEADLOCK: u16 = 1213;

/// The index after those of [`RATES`]: not counted.
const WARMING_UP: usize = RATES.len();

/// The current state.
#[derive(Default)]
struct Weather {
    /// An index of [`RATES`], or [`WARMING_UP`].
    now: AtomicUsize,
    counts: [Count; WARMING_UP + 1],
    is_over: AtomicBool,
}

impl Weather {
    fn count(&self) -> &Count {
        &self.counts[self.now.load(Ordering::Relaxed)]
    }

    fn rate(&self) -> u32 {
        RATES.get(self.now.load(Ordering::Relaxed)).copied().unwrap_or(RATES[1])
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn ended(&self, statement: &mysql_async::Result<()>) {
        let count = self.count();
        let counted = if statement.is_ok() { &count.statements } else { &count.failed };
        counted.fetch_add(1, Ordering::Relaxed);
    }
}

/// Prints what a storm of `seconds` seconds beside each rate counts.
pub async fn print(seconds: u64) {
    let counts = run(seconds).await;
    println!(
        "\n{:66} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "a storm of the plugin's writes", "per s", "failed", "waits", "to alone", "goal"
    );
    let mut alone = 0.0;
    for (rate, count) in RATES.iter().zip(&counts) {
        let (speed, rotations) = (count.a_second(&count.statements), count.a_second(&count.rotations));
        let revoked = count.a_second(&count.revoked);
        let (failed, waits) = (count.failed.load(Ordering::Relaxed), 100.0 * count.waits());
        let what = match rate {
            0 => "alone".to_owned(),
            _ => format!("beside {rotations:.0} refreshes a second, and {revoked:.0} of revoked tokens"),
        };
        if *rate == 0 {
            alone = speed;
        }
        // At the highest rate they use all processor time that is left.
        let goal = if (1..1_000).contains(rate) { ">= 0.9" } else { "" };
        println!("{what:66} {speed:8.0} {failed:8} {waits:6.1} % {:8.2} {goal:>8}", speed / alone);
    }
}

/// Runs `slices` with each of [`RATES`]. The counts are in the same order.
async fn run(slices: u64) -> Vec<Count> {
    let server = Database::private();
    let database = rig::site(&server).await;
    let mut users = Vec::new();
    for _ in 0..USERS {
        users.push(database.insert_user("storm").await.id);
    }
    let upstream = rig::wordpress();
    let sidecar = rig::sidecar(&database, upstream.address(), &[("WP_JWT_SIDECAR_LOG_LEVEL", "info")]);
    sidecar.wait_for_log("refreshing natively");
    let weather = Arc::new(Weather { now: AtomicUsize::new(WARMING_UP), ..Weather::default() });
    let mut tasks = Vec::new();
    for first in 0..CONNECTIONS {
        let (connection, users) = (database.connect().await, users.clone());
        tasks.push(tokio::spawn(storm(connection, users, first, Arc::clone(&weather))));
    }
    for (place, users) in users.chunks(USERS / CLIENTS).enumerate() {
        let (database, address) = (database.connect().await, sidecar.address());
        tasks.push(tokio::spawn(refresh(database, address, users.to_vec(), place, Arc::clone(&weather))));
    }
    blow(&weather, slices, &mut server.root().await).await;
    for task in tasks {
        task.await.unwrap();
    }
    Arc::into_inner(weather).unwrap().counts.into_iter().take(RATES.len()).collect()
}

/// Changes the rate until the end.
async fn blow(weather: &Weather, slices: u64, root: &mut Conn) {
    tokio::time::sleep(WARM_UP).await;
    for slice in 0..slices {
        for place in 0..RATES.len() {
            // In four rounds, each rate follows each of the others once (a Williams design).
            let place = ([0, 1, 3, 2][place] + slice as usize) % RATES.len();
            weather.now.store(place, Ordering::Relaxed);
            let (begun, waited_before) = (Instant::now(), waited(root).await);
            tokio::time::sleep(SLICE).await;
            let count = weather.count();
            count.waited.fetch_add(waited(root).await - waited_before, Ordering::Relaxed);
            count.lasted.fetch_add(begun.elapsed().as_millis() as u64, Ordering::Relaxed);
        }
    }
    weather.is_over.store(true, Ordering::Relaxed);
}

const LOG_IN: &str = "INSERT INTO wp_jwt_auth_tokens (hash, user_id, issued_at, expires_at, refresh_token_hash, \
                      refresh_token_expires_at, token_family) VALUES (?, ?, UTC_TIMESTAMP(), UTC_TIMESTAMP(), ?, \
                      UTC_TIMESTAMP() + INTERVAL 1 DAY, ?)";
const REVOKE_ALL: &str =
    "UPDATE wp_jwt_auth_tokens SET revoked_at = UTC_TIMESTAMP() WHERE user_id = ? AND revoked_at IS NULL";
const DELETE: &str = "DELETE FROM wp_jwt_auth_tokens WHERE token_family = ?";

/// One statement after the other. The row of a login is deleted again, so that the table keeps its
/// size.
async fn storm(mut connection: Conn, users: Vec<u64>, first: usize, weather: Arc<Weather>) {
    let mut turn = first * users.len() / CONNECTIONS;
    while !weather.is_over() {
        let (user, family, token) = (users[turn % users.len()], random_hex::<16>(), random_hex::<16>());
        weather.ended(&connection.exec_drop(LOG_IN, (&token, user, &token, &family)).await);
        // About fifty a second: with many more, there would be more logins than refreshes. The
        // users differ from round to round.
        if (turn + turn / users.len()).is_multiple_of(64) {
            weather.ended(&connection.exec_drop(REVOKE_ALL, (user,)).await);
        }
        weather.ended(&connection.exec_drop(DELETE, (&family,)).await);
        turn += 1;
    }
}

/// At an even rate, on a persistent connection. A refused client logs in again.
async fn refresh(mut database: Conn, address: SocketAddr, users: Vec<u64>, place: usize, weather: Arc<Weather>) {
    let own_part = place as f64 / CLIENTS as f64;
    // The token and family of each user.
    let mut sessions = vec![(String::new(), String::new()); users.len()];
    let mut client = Connection::to(address);
    let (mut rate, mut due) = (0, Instant::now());
    let mut turn = 0;
    while !weather.is_over() {
        if rate != weather.rate() {
            rate = weather.rate();
            due = Instant::now() + pace(rate).mul_f64(own_part);
        }
        if rate == 0 || due > Instant::now() {
            // Not longer, since the rate may change meanwhile.
            tokio::time::sleep(Duration::from_millis(2)).await;
            continue;
        }
        due += pace(rate);
        let user = turn % users.len();
        turn += 1;
        let (token, family) = &mut sessions[user];
        if token.is_empty() {
            let ended = std::mem::replace(family, random_hex::<16>());
            *token = random_hex::<16>();
            let statements: [(&str, mysql_async::Params); 2] =
                [(DELETE, (ended,).into()), (LOG_IN, (&*token, users[user], &*token, &*family).into())];
            for (statement, values) in statements {
                while let Err(error) = database.exec_drop(statement, values.clone()).await {
                    // A deadlock with the storm. The sidecar's part shows in its responses.
                    assert!(matches!(&error, mysql_async::Error::Server(error) if error.code == DEADLOCK), "{error}");
                }
            }
        }
        let call = rig::call(token);
        let answer;
        (client, answer) = tokio::task::spawn_blocking(move || {
            client.send(call);
            let answer = client.response();
            let is_last = answer.value("connection").as_deref() == Some("close");
            (if is_last { Connection::to(address) } else { client }, answer)
        })
        .await
        .unwrap();
        let count = weather.count();
        let (counted, next) = match answer.status() {
            200 => (&count.rotations, answer.json()["refresh_token"].as_str().unwrap().to_owned()),
            403 => (&count.revoked, String::new()),
            status => panic!("{status}"),
        };
        counted.fetch_add(1, Ordering::Relaxed);
        *token = next;
    }
}

/// The time from one refresh of a client to its next.
fn pace(rate: u32) -> Duration {
    Duration::from_secs(1) * u32::try_from(CLIENTS).unwrap() / rate.max(1)
}

/// How long rows were waited for since the server started, in milliseconds.
async fn waited(root: &mut Conn) -> u64 {
    let waited: Option<(String, u64)> =
        root.query_first("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_time'").await.unwrap();
    waited.unwrap().1
}
