//! Whatever happens to a family of tokens and in whatever order: the sidecar responds like a simple
//! model, and the table matches the model.

use std::collections::HashSet;

use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Handle;

use crate::support::mariadb::{Database, Row, TokenState, random_hex};
use crate::support::rig::{self, Rig};

/// `reuse_interval`. Between two steps of [`Op::Advance`], in which only a few seconds really pass.
const INTERVAL: i64 = 60;
const ENVIRONMENT: [(&str, &str); 2] =
    [("WP_JWT_SIDECAR_REFRESH_REUSE_INTERVAL", "60s"), ("WP_JWT_SIDECAR_REFRESH_REUSE_DETECTION", "revoke_family")];
const DAY: i64 = 86_400;

#[derive(Clone, Debug)]
enum Op {
    /// A token issued at any time; also in capitals.
    Present(usize, bool),
    /// A token that never existed.
    Guess,
    LogIn,
    Advance(i64),
    /// The access token that was issued with this refresh token is used.
    Use(usize),
    LogOut(usize),
    RevokeAll,
    RotateAsPhp(usize),
    /// Two calls with one token that PHP answers: it reads, revokes and inserts without locks.
    RaceInPhp(usize),
    Kill,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        12 => (any::<usize>(), any::<bool>()).prop_map(|(token, capitals)| Op::Present(token, capitals)),
        1 => Just(Op::Guess),
        1 => Just(Op::LogIn),
        2 => prop_oneof![Just(35), Just(100), Just(40 * DAY)].prop_map(Op::Advance),
        2 => any::<usize>().prop_map(Op::Use),
        1 => any::<usize>().prop_map(Op::LogOut),
        1 => Just(Op::RevokeAll),
        2 => any::<usize>().prop_map(Op::RotateAsPhp),
        1 => any::<usize>().prop_map(Op::RaceInPhp),
        1 => Just(Op::Kill),
    ];
    proptest::collection::vec(op, 1..40)
}

/// The model's state of a row.
#[derive(Clone, Debug)]
struct Token {
    text: String,
    family: String,
    /// Seconds since it was revoked.
    revoked: Option<i64>,
    /// Seconds until it expires.
    expires: i64,
    /// The access token, if the sidecar made it.
    access: Option<String>,
}

struct World<'a> {
    rig: &'a mut Rig,
    user: u64,
    tokens: Vec<Token>,
    /// Families to which PHP gave two live tokens.
    forked: HashSet<String>,
}

impl World<'_> {
    async fn log_in(&mut self) {
        let token = self.rig.database.insert_token(TokenState::Live, self.user).await;
        self.tokens.push(Token {
            text: token.refresh_token,
            family: token.token_family,
            revoked: None,
            expires: 30 * DAY,
            access: None,
        });
    }

    async fn step(&mut self, op: Op) {
        let place = |token: usize| token % self.tokens.len();
        match op {
            Op::Present(token, capitals) => {
                let token = place(token);
                self.present(token, capitals).await;
            }
            Op::Guess => assert_eq!(self.rig.refresh(&random_hex::<16>()).status(), 403),
            Op::LogIn => self.log_in().await,
            Op::Advance(seconds) => {
                self.execute(&format!(
                    "revoked_at = revoked_at - INTERVAL {seconds} SECOND, \
                     refresh_token_expires_at = refresh_token_expires_at - INTERVAL {seconds} SECOND"
                ))
                .await;
                for token in &mut self.tokens {
                    token.expires -= seconds;
                    token.revoked = token.revoked.map(|age| age + seconds);
                }
            }
            Op::Use(token) => {
                let token = place(token);
                self.use_access_token(token).await;
            }
            Op::LogOut(token) => {
                let token = place(token);
                self.revoke(|other| other == token).await;
            }
            Op::RevokeAll => self.revoke(|_| true).await,
            Op::RotateAsPhp(token) => {
                let token = place(token);
                self.rotate_as_php(token, 1).await;
            }
            Op::RaceInPhp(token) => {
                let token = place(token);
                self.rotate_as_php(token, 2).await;
            }
            Op::Kill => {
                self.rig.sidecar.signal("KILL");
                self.rig.sidecar.wait();
                self.rig.sidecar = rig::sidecar(&self.rig.database, self.rig.upstream.address(), &ENVIRONMENT);
                self.rig.sidecar.wait_for_log("refreshing natively");
            }
        }
    }

    async fn present(&mut self, place: usize, capitals: bool) {
        let token = self.tokens[place].clone();
        let before = self.rows().await;
        let text = if capitals { token.text.to_uppercase() } else { token.text.clone() };
        let answer = self.rig.refresh(&text);
        let given = (answer.status() == 200).then(|| {
            let body = answer.json();
            let text = |name: &str| body[name].as_str().unwrap().to_owned();
            (text("refresh_token"), text("access_token"))
        });
        assert!(matches!(answer.status(), 200 | 403), "{}", answer.status());
        let live: Vec<usize> = (0..self.tokens.len())
            .filter(|at| self.tokens[*at].family == token.family && self.tokens[*at].revoked.is_none())
            .collect();
        match token.revoked {
            None if token.expires > 0 => {
                let (text, access) = given.expect("a live token is never refused");
                self.tokens[place].revoked = Some(0);
                self.tokens.push(Token { text, revoked: None, expires: 30 * DAY, access: Some(access), ..token });
                self.use_access_token(self.tokens.len() - 1).await;
            }
            None => assert_eq!(given, None, "expired"),
            Some(age) if age <= INTERVAL => {
                let expected = match live[..] {
                    [only] if only > place && self.tokens[only].expires > 0 => {
                        let Token { text, access, .. } = &self.tokens[only];
                        access.clone().map(|access| (text.clone(), access))
                    }
                    _ => None,
                };
                assert_eq!(given, expected, "the family's live pair or nothing");
                assert_eq!(self.rows().await, before, "a replay writes nothing");
            }
            Some(_) => {
                assert_eq!(given, None, "used long ago");
                for other in live {
                    // Without an index, an expired token is unknown after a start.
                    if token.expires > 0 {
                        self.tokens[other].revoked = Some(0);
                    } else {
                        let text = self.tokens[other].text.clone();
                        let is_revoked = self.row(&text).await.get("revoked_at").is_some();
                        self.tokens[other].revoked = is_revoked.then_some(0);
                    }
                }
            }
        }
        self.compare().await;
    }

    /// Like the plugin: the first row with the token's hash must not be revoked; then its use is
    /// recorded.
    async fn use_access_token(&self, place: usize) {
        let Token { text, revoked, access: Some(access), .. } = &self.tokens[place] else { return };
        let mut mac: Hmac<Md5> =
            Hmac::new_from_slice(format!("{}{}", rig::AUTH_KEY, rig::AUTH_SALT).as_bytes()).unwrap();
        mac.update(access.as_bytes());
        let hash: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let rows = self.rig.database.rows(&format!("SELECT * FROM wp_jwt_auth_tokens WHERE hash = '{hash}'")).await;
        let found: Vec<_> =
            rows.iter().map(|row| (row.get("refresh_token_hash"), row.get("revoked_at").is_some())).collect();
        assert_eq!(found, [(Some(text.as_str()), revoked.is_some())], "each access token has its own row");
        if revoked.is_none() {
            let change = format!("last_used_at = IF(hash = '{hash}', UTC_TIMESTAMP(), last_used_at)");
            self.execute(&change).await;
        }
    }

    /// One read, after which `calls` calls revoke and insert.
    async fn rotate_as_php(&mut self, place: usize, calls: usize) {
        let parent = self.tokens[place].clone();
        if parent.revoked.is_some() || parent.expires <= 0 {
            return;
        }
        self.revoke(|other| other == place).await;
        for _ in 0..calls {
            let state = TokenState::Live;
            let child = self.rig.database.insert_token_of_family(state, self.user, &parent.family).await;
            let text = child.refresh_token;
            self.tokens.push(Token { text, revoked: None, expires: 30 * DAY, access: None, ..parent.clone() });
        }
        if calls > 1 {
            self.forked.insert(parent.family);
        }
    }

    /// The table matches the model; no family has two live rows, unless PHP gave it two.
    async fn compare(&self) {
        let rows = self.rows().await;
        assert_eq!(rows.len(), self.tokens.len());
        for (row, token) in rows.iter().zip(&self.tokens) {
            assert_eq!(row.get("refresh_token_hash"), Some(token.text.as_str()));
            assert_eq!(row.get("revoked_at").is_some(), token.revoked.is_some(), "{token:?}");
            let live = self.tokens.iter().filter(|other| other.family == token.family && other.revoked.is_none());
            assert!(live.count() <= 1 || self.forked.contains(&token.family));
        }
    }

    async fn revoke(&mut self, which: impl Fn(usize) -> bool) {
        for place in (0..self.tokens.len()).filter(|place| which(*place)) {
            let token = &mut self.tokens[place];
            if token.revoked.is_none() {
                token.revoked = Some(0);
                let row = format!("refresh_token_hash = '{}'", token.text);
                let revoke = format!("UPDATE wp_jwt_auth_tokens SET revoked_at = UTC_TIMESTAMP() WHERE {row}");
                self.rig.database.execute(&revoke).await;
            }
        }
    }

    async fn execute(&self, change: &str) {
        self.rig
            .database
            .execute(&format!("UPDATE wp_jwt_auth_tokens SET {change} WHERE user_id = {}", self.user))
            .await;
    }

    async fn rows(&self) -> Vec<Row> {
        let rows = format!("SELECT * FROM wp_jwt_auth_tokens WHERE user_id = {} ORDER BY id", self.user);
        self.rig.database.rows(&rows).await
    }

    async fn row(&self, token: &str) -> Row {
        let row = format!("SELECT * FROM wp_jwt_auth_tokens WHERE refresh_token_hash = '{token}'");
        self.rig.database.rows(&row).await.remove(0)
    }
}

/// The number of cases; `SIDECAR_TEST_ROUNDS` changes it.
fn cases() -> u32 {
    std::env::var("SIDECAR_TEST_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(12)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sidecar_does_what_the_model_does() {
    let mut rig = Rig::start_on(Database::shared(), &ENVIRONMENT).await;
    let handle = Handle::current();
    tokio::task::block_in_place(|| {
        let config = Config { cases: cases(), failure_persistence: None, max_shrink_iters: 50, ..Config::default() };
        let rig = std::cell::RefCell::new(&mut rig);
        TestRunner::new(config).run(&ops(), |ops| {
            let rig: &mut Rig = &mut rig.borrow_mut();
            handle.block_on(async {
                let user = rig.database.insert_user("carol").await.id;
                let mut world = World { rig, user, tokens: Vec::new(), forked: HashSet::new() };
                world.log_in().await;
                for op in ops {
                    world.step(op).await;
                }
            });
            Ok(())
        })
    })
    .unwrap();
}
