//! A real MariaDB for the tests: one server for the whole test binary, separate servers for tests
//! that stop theirs, and in them databases with WordPress's and the plugin's tables.
//!
//! It is Debian's mariadbd, started by `tests/site/database`. That script holds the other end of a
//! pipe, so that the server and its files are removed however the test binary ends.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder};

use super::secrets;

const SCHEMA: &str = include_str!("../../fixtures/schema.sql");
const USER: &str = "sidecar";
/// ER_ACCESS_DENIED_ERROR.
const ACCESS_DENIED: u16 = 1045;
/// How often a started server is asked whether it knows the account, which a test may not have made.
const ACCOUNT_LOOKS: usize = 20;
/// The password of every test database's user. Contains characters that a URL must escape.
pub const PASSWORD: &str = "p@ss:w/rd 1";
/// The same, escaped.
pub const PASSWORD_IN_URL: &str = "p%40ss%3Aw%2Frd%201";

/// A server. On drop it is stopped and its files are removed.
pub struct Database {
    dir: PathBuf,
    script: Arc<Mutex<Script>>,
}

impl Database {
    /// The server that all tests share. It must not be stopped.
    pub fn shared() -> &'static Database {
        static SHARED: OnceLock<Database> = OnceLock::new();
        SHARED.get_or_init(|| Database::launch(None, &[]))
    }

    /// A server for the caller alone, which may stop, start and kill it.
    pub fn private() -> Database {
        Database::private_with(&[])
    }

    /// The same with these options of mariadbd.
    pub fn private_with(options: &[&str]) -> Database {
        Database::launch(Some(&Database::shared().template()), options)
    }

    /// A data directory before a server's first start, for copying. Only the shared server has one.
    pub fn template(&self) -> PathBuf {
        self.dir.join("template")
    }

    /// A new database with the tables of `fixtures/schema.sql`, all empty, under the prefix `wp_`.
    pub async fn create(&self) -> TestDatabase {
        self.create_with_prefix("wp_").await
    }

    /// The same under another prefix.
    pub async fn create_with_prefix(&self, prefix: &str) -> TestDatabase {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let mut root = self.root().await;
        for statement in [
            format!("CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_520_ci"),
            format!("CREATE USER IF NOT EXISTS {USER}@localhost IDENTIFIED BY '{PASSWORD}'"),
            format!("GRANT ALL ON {name}.* TO {USER}@localhost"),
            format!("USE {name}"),
        ] {
            root.query_drop(statement).await.unwrap();
        }
        let schema = SCHEMA.replace("`wp_", &format!("`{prefix}"));
        for statement in schema.split(";\n").filter(|statement| !statement.trim().is_empty()) {
            root.query_drop(statement).await.unwrap();
        }
        root.disconnect().await.unwrap();
        let url = format!(
            "mysql://{USER}:{PASSWORD_IN_URL}@localhost/{name}?socket={}",
            self.socket().display().to_string().replace('/', "%2F")
        );
        TestDatabase::open(&url, prefix)
    }

    /// A connection with all privileges, to inspect locks or to kill other connections.
    pub async fn root(&self) -> Conn {
        Conn::new(OptsBuilder::default().user(Some("root")).socket(Some(self.socket().display().to_string())))
            .await
            .unwrap()
    }

    /// The server's address in a form for DB_HOST.
    pub fn host(&self) -> String {
        format!("localhost:{}", self.socket().display())
    }

    /// The same database as `database`, on this server.
    pub fn same(&self, database: &TestDatabase) -> TestDatabase {
        let (before, _) = database.url().split_once("?socket=").unwrap();
        let socket = self.socket().display().to_string().replace('/', "%2F");
        TestDatabase::open(&format!("{before}?socket={socket}"), database.prefix())
    }

    /// The server's socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("mysql.sock")
    }

    /// Stops the server like an operator. Returns when it has ended.
    pub async fn stop(&self) {
        self.order("stop").await;
    }

    /// Kills the server like a crash. Returns when it has ended.
    pub async fn kill(&self) {
        self.order("kill").await;
    }

    /// Starts a server that was stopped or killed. Returns when it responds, and knows its accounts:
    /// MySQL 9.7 was seen to refuse one for a moment.
    pub async fn start(&self) {
        self.order("start").await;
        for _ in 0..ACCOUNT_LOOKS {
            let account = OptsBuilder::default().user(Some(USER)).pass(Some(PASSWORD));
            match Conn::new(account.socket(Some(self.socket().display().to_string()))).await {
                Ok(connection) => return connection.disconnect().await.unwrap(),
                Err(mysql_async::Error::Server(error)) if error.code == ACCESS_DENIED => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(_) => return,
            }
        }
    }

    /// Suspends the server's process: connections stay open and can be made, but get no response.
    pub async fn freeze(&self) {
        self.order("freeze").await;
    }

    /// Resumes a suspended server.
    pub async fn thaw(&self) {
        self.order("thaw").await;
    }

    async fn order(&self, command: &'static str) {
        let script = Arc::clone(&self.script);
        // Waiting for the script would block the test's other tasks on its thread.
        tokio::task::spawn_blocking(move || script.lock().unwrap().order(command)).await.unwrap();
    }

    fn launch(template: Option<&Path>, options: &[&str]) -> Database {
        let dir = std::env::temp_dir().join(format!("wp-jwt-sidecar.{}", random_hex::<8>()));
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/site/database"));
        command.arg(&dir).args(template).args(options).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("tests/site/database can be started");
        let mut script =
            Script { input: child.stdin.take(), output: BufReader::new(child.stdout.take().unwrap()), child };
        script.order("start");
        Database { dir, script: Arc::new(Mutex::new(script)) }
    }
}

struct Script {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Script {
    fn order(&mut self, command: &str) {
        writeln!(self.input.as_mut().unwrap(), "{command}").expect("tests/site/database lives");
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        assert_eq!(answer, "done\n", "tests/site/database says above why it could not {command}");
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        drop(self.input.take());
        // A failure cannot be handled here; the script has reported it on standard error.
        let _ = self.child.wait();
    }
}

/// One database for a test.
pub struct TestDatabase {
    url: String,
    prefix: String,
    opts: Opts,
}

/// The state of a refresh token that is inserted, in the terms of the recorded exchanges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// Valid for another 30 days.
    Live,
    /// Exchanged for a new one two hours ago. The table does not distinguish it from a revoked one.
    Used,
    /// Revoked two hours ago.
    Revoked,
    /// Expired an hour ago.
    Expired,
    /// Live, but its user does not exist.
    Orphan,
}

/// A row that a test has inserted into the token table.
#[derive(Clone, Debug)]
pub struct Token {
    pub id: u64,
    pub user_id: u64,
    pub refresh_token: String,
    pub token_family: String,
    /// The hash of its access token. That token was never made, so no JWT has this hash.
    pub hash: String,
}

/// The table of user meta as WordPress creates it.
pub const USERMETA: &str = "CREATE TABLE wp_usermeta (umeta_id bigint unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY, \
    user_id bigint unsigned NOT NULL DEFAULT 0, meta_key varchar(255) DEFAULT NULL, meta_value longtext, \
    KEY user_id (user_id), KEY meta_key (meta_key(191))) DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_unicode_520_ci";

/// A row of `wp_users`.
#[derive(Clone, Debug)]
pub struct User {
    pub id: u64,
    pub login: String,
    pub email: String,
    pub nicename: String,
    pub display_name: String,
}

/// An id that no user has.
const NO_USER: u64 = 4_000_000_000;

impl TestDatabase {
    /// An existing database, such as that of a WordPress site.
    pub fn open(url: &str, prefix: &str) -> TestDatabase {
        TestDatabase { url: url.to_owned(), prefix: prefix.to_owned(), opts: Opts::from_url(url).unwrap() }
    }

    /// For `[wordpress] database_url`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The tables' prefix.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A new connection, in the server's own time zone, which is not UTC.
    pub async fn connect(&self) -> Conn {
        Conn::new(self.opts.clone()).await.unwrap()
    }

    /// A new user. `wp_users` allows two with the same login.
    pub async fn insert_user(&self, login: &str) -> User {
        let user = User {
            id: 0,
            login: login.to_owned(),
            email: format!("{login}@example.org"),
            nicename: format!("{login}-nicename"),
            display_name: format!("{login} Müller"),
        };
        let mut connection = self.connect().await;
        connection
            .exec_drop(
                self.sql(
                    "INSERT INTO {p}users (user_login, user_nicename, user_email, display_name, user_registered) \
                     VALUES (?, ?, ?, ?, UTC_TIMESTAMP())",
                ),
                (&user.login, &user.nicename, &user.email, &user.display_name),
            )
            .await
            .unwrap();
        User { id: connection.last_insert_id().unwrap(), ..user }
    }

    /// Deletes a user like WordPress: the tokens stay.
    pub async fn delete_user(&self, id: u64) {
        self.execute(&format!("DELETE FROM {}users WHERE ID = {id}", self.prefix)).await;
    }

    /// Sets an option; the value is written unchanged (the caller serializes arrays).
    pub async fn set_option(&self, name: &str, value: impl AsRef<[u8]>) {
        self.connect()
            .await
            .exec_drop(
                self.sql("REPLACE INTO {p}options (option_name, option_value) VALUES (?, ?)"),
                (name, value.as_ref()),
            )
            .await
            .unwrap();
    }

    /// The value of an option, if it exists.
    pub async fn option(&self, name: &str) -> Option<String> {
        self.connect()
            .await
            .exec_first(self.sql("SELECT option_value FROM {p}options WHERE option_name = ?"), (name,))
            .await
            .unwrap()
    }

    /// Removes an option.
    pub async fn delete_option(&self, name: &str) {
        self.connect()
            .await
            .exec_drop(self.sql("DELETE FROM {p}options WHERE option_name = ?"), (name,))
            .await
            .unwrap();
    }

    /// A new token of this user (an orphan has none) in its own family.
    pub async fn insert_token(&self, state: TokenState, user_id: u64) -> Token {
        let family = random_hex::<16>();
        self.insert_token_of_family(state, user_id, &family).await
    }

    /// A new token in this family.
    pub async fn insert_token_of_family(&self, state: TokenState, user_id: u64, token_family: &str) -> Token {
        self.insert_token_by(&mut self.connect().await, state, user_id, token_family).await
    }

    /// So many new tokens of this user, each in its own family.
    pub async fn insert_tokens(&self, count: usize, state: TokenState, user_id: u64) -> Vec<Token> {
        let mut connection = self.connect().await;
        connection.query_drop("START TRANSACTION").await.unwrap();
        let mut tokens = Vec::new();
        for _ in 0..count {
            tokens.push(self.insert_token_by(&mut connection, state, user_id, &random_hex::<16>()).await);
        }
        connection.query_drop("COMMIT").await.unwrap();
        tokens
    }

    async fn insert_token_by(
        &self,
        connection: &mut Conn,
        state: TokenState,
        user_id: u64,
        token_family: &str,
    ) -> Token {
        let user_id = if state == TokenState::Orphan { NO_USER } else { user_id };
        let mut token = Token {
            id: 0,
            user_id,
            refresh_token: random_hex::<16>(),
            token_family: token_family.to_owned(),
            hash: random_hex::<16>(),
        };
        secrets::register(&token.refresh_token);
        secrets::register(&token.hash);
        let revoked = match state {
            TokenState::Used | TokenState::Revoked => "UTC_TIMESTAMP() - INTERVAL 2 HOUR",
            TokenState::Live | TokenState::Expired | TokenState::Orphan => "NULL",
        };
        let expires = match state {
            TokenState::Expired => "UTC_TIMESTAMP() - INTERVAL 1 HOUR",
            _ => "UTC_TIMESTAMP() + INTERVAL 30 DAY",
        };
        connection
            .exec_drop(
                self.sql(&format!(
                    "INSERT INTO {{p}}jwt_auth_tokens (hash, user_id, issued_at, expires_at, revoked_at, refresh_token_hash, \
                     refresh_token_expires_at, token_family, metadata, user_agent, ip_address, blog_id) \
                     VALUES (?, ?, UTC_TIMESTAMP() - INTERVAL 3 HOUR, UTC_TIMESTAMP() + INTERVAL 7 DAY, {revoked}, ?, {expires}, \
                     ?, '{{\"user_agent\":\"\"}}', '', '127.0.0.1', 1)"
                )),
                (&token.hash, token.user_id, &token.refresh_token, &token.token_family),
            )
            .await
            .unwrap();
        token.id = connection.last_insert_id().unwrap();
        token
    }

    /// Adds rows that no test uses, so that a scan of the table takes time.
    pub async fn fill_tokens(&self, rows: u32) {
        self.execute(&self.sql(&format!(
            "INSERT INTO {{p}}jwt_auth_tokens (hash, user_id, issued_at, expires_at, refresh_token_hash, \
             refresh_token_expires_at, token_family) \
             SELECT MD5(RAND()), {NO_USER}, UTC_TIMESTAMP(), UTC_TIMESTAMP(), MD5(RAND()), UTC_TIMESTAMP(), MD5(RAND()) \
             FROM seq_1_to_{rows}"
        )))
        .await;
    }

    /// Revokes a token like a logout.
    pub async fn revoke(&self, id: u64) {
        self.execute(
            &self.sql(&format!("UPDATE {{p}}jwt_auth_tokens SET revoked_at = UTC_TIMESTAMP() WHERE id = {id}")),
        )
        .await;
    }

    /// One token's row.
    pub async fn token_row(&self, id: u64) -> Option<Row> {
        self.rows(&self.sql(&format!("SELECT * FROM {{p}}jwt_auth_tokens WHERE id = {id}"))).await.pop()
    }

    /// The rows of one login and all its refreshes, oldest first.
    pub async fn family_rows(&self, token_family: &str) -> Vec<Row> {
        assert!(token_family.bytes().all(|byte| byte.is_ascii_hexdigit()));
        self.rows(
            &self.sql(&format!("SELECT * FROM {{p}}jwt_auth_tokens WHERE token_family = '{token_family}' ORDER BY id")),
        )
        .await
    }

    /// The rows of tokens with greater ids, oldest first.
    pub async fn token_rows_after(&self, id: u64) -> Vec<Row> {
        self.rows(&self.sql(&format!("SELECT * FROM {{p}}jwt_auth_tokens WHERE id > {id} ORDER BY id"))).await
    }

    /// The rows of analytics with greater ids, oldest first.
    pub async fn analytics_rows_after(&self, id: u64) -> Vec<Row> {
        self.rows(&self.sql(&format!("SELECT * FROM {{p}}jwt_auth_analytics WHERE id > {id} ORDER BY id"))).await
    }

    /// The greatest id in `jwt_auth_tokens` and in `jwt_auth_analytics`; 0 in an empty table.
    pub async fn last_ids(&self) -> (u64, u64) {
        let sql = self.sql(
            "SELECT (SELECT COALESCE(MAX(id), 0) FROM {p}jwt_auth_tokens), (SELECT COALESCE(MAX(id), 0) FROM {p}jwt_auth_analytics)",
        );
        self.connect().await.query_first(sql).await.unwrap().unwrap()
    }

    /// The rows of a query.
    pub async fn rows(&self, sql: &str) -> Vec<Row> {
        let rows: Vec<mysql_async::Row> = self.connect().await.query(sql).await.unwrap();
        rows.into_iter().map(Row::from).collect()
    }

    /// A statement without rows.
    pub async fn execute(&self, sql: &str) {
        self.connect().await.query_drop(sql).await.unwrap();
    }

    fn sql(&self, sql: &str) -> String {
        sql.replace("{p}", &self.prefix)
    }
}

/// A row as text, with the columns in the table's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row(Vec<(String, Option<String>)>);

impl Row {
    /// The value in a column; `None` is NULL. Panics if there is no such column.
    pub fn get(&self, column: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(name, _)| name == column).unwrap_or_else(|| panic!("no column {column}"));
        value.as_deref()
    }

    /// The names of the columns.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }
}

impl From<mysql_async::Row> for Row {
    fn from(row: mysql_async::Row) -> Row {
        let names: Vec<String> = row.columns_ref().iter().map(|column| column.name_str().into_owned()).collect();
        let values = row.unwrap().into_iter().map(|value| match value {
            mysql_async::Value::NULL => None,
            // A query without parameters uses the text protocol, where all values are text.
            mysql_async::Value::Bytes(bytes) => Some(String::from_utf8(bytes).unwrap()),
            other => panic!("no text: {other:?}"),
        });
        Row(names.into_iter().zip(values).collect())
    }
}

/// `BYTES` random bytes, as hex.
pub fn random_hex<const BYTES: usize>() -> String {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).unwrap();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
