//! A real site to which customizations are applied, one after the other: a site's own code that
//! changes the plugin's responses. With a sidecar in front of it, [`CustomSites::refreshes_by_php`]
//! shows who has answered.

pub mod recording;

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::mariadb::TestDatabase;
use super::raw::{Connection, Message};
use super::secrets;
use super::site::Site;
use recording::Recorded;

/// The filter of the expiry returns a length: tokens expired in 1970.
pub const EXPIRE_IS_A_LENGTH: &str = include_str!("../../fixtures/custom/expire_is_a_length.php");

/// Users whose id is a multiple of 50 get an additional member.
pub const ONE_USER_IN_FIFTY: &str = include_str!("../../fixtures/custom/one_user_in_fifty.php");

/// A plugin that has nothing to do with tokens.
pub const UPDATE_BEFORE: &str = include_str!("../../fixtures/custom/update_before.php");

/// Its next version, which adds a claim.
pub const UPDATE_AFTER: &str = include_str!("../../fixtures/custom/update_after.php");

/// Two apps get their own CORS fields; the option `app_cors` allows one of them.
pub const APP_CORS: &str = include_str!("../../fixtures/custom/app_cors.php");

/// A request with `Origin` also gets the access token as a cookie.
pub const ONLY_WITH_ORIGIN: &str = include_str!("../../fixtures/custom/only_with_origin.php");

/// Since WordPress 6.8 hashing a password takes a quarter of a second by default, at each login.
const CHEAP_PASSWORDS: &str = "<?php add_filter( 'wp_hash_password_options', fn() => array( 'cost' => 4 ) );";

/// Creates the recorded users with their ids, and prints WordPress's version. It first removes the
/// user that each site has.
const MAKE_USERS: &str = r"
    global $wpdb;
    require_once ABSPATH . 'wp-admin/includes/user.php';
    wp_delete_user( get_user_by( 'login', 'ada' )->ID );
    foreach ( json_decode( base64_decode( '{users}' ), true ) as $user ) {
        $meta = $user['usermeta'];
        $hash = wp_hash_password( $user['password'] );
        unset( $user['usermeta'], $user['password'] );
        $wpdb->insert( $wpdb->users, $user + array( 'user_pass' => $hash ) );
        foreach ( $meta as $key => $value ) {
            add_user_meta( $user['ID'], $key, maybe_unserialize( $value ) );
        }
    }
    echo $GLOBALS['wp_version'];
";

/// As many subscribers as needed, with the same password.
const MAKE_CROWD: &str = r"
    global $wpdb;
    $hash = wp_hash_password( 'crowd' );
    for ( $n = 1; $n <= {count}; $n++ ) {
        $wpdb->insert( $wpdb->users, array( 'user_login' => 'crowd' . $n, 'user_nicename' => 'crowd' . $n, 'user_email' => 'crowd' . $n . '@example.test', 'display_name' => 'Crowd', 'user_registered' => gmdate( 'Y-m-d H:i:s' ), 'user_pass' => $hash ) );
        add_user_meta( $wpdb->insert_id, $wpdb->prefix . 'capabilities', array( 'subscriber' => true ) );
    }
";

/// One WordPress with the recorded users `user1`, `user2`, `user3` and `user5`, and no
/// customization until one is installed.
pub struct CustomSites {
    site: Site,
    database: TestDatabase,
    recorded: Recorded,
    installed: Mutex<Vec<PathBuf>>,
    count: AtomicUsize,
}

/// The result of a login.
pub struct Login {
    /// The id of its row.
    pub row_id: u64,
    /// As in the row, whether or not the client saw it.
    pub refresh_token: String,
    /// If the response has one.
    pub access_token: Option<String>,
}

impl CustomSites {
    /// Takes some seconds, and blocks.
    pub fn start() -> CustomSites {
        // As on the recorded site; WP_DEBUG adds a header if a site's own code ends a request
        // early.
        let site = Site::up(&["--config", "define( 'WP_DEBUG', false );"]);
        let database = site.database();
        let must_use = must_use(&site).join("cheap-passwords.php");
        std::fs::write(must_use, CHEAP_PASSWORDS).unwrap();
        let users = STANDARD.encode(recording::users().to_string());
        let version = site.php(&MAKE_USERS.replace("{users}", &users));
        let recorded = Recorded::as_on_wordpress(&version);
        CustomSites { site, database, recorded, installed: Mutex::default(), count: AtomicUsize::new(0) }
    }

    /// The underlying site. Its own user was removed.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// The site's database.
    pub fn database(&self) -> &TestDatabase {
        &self.database
    }

    /// The recording, adapted to this site's version of WordPress.
    pub fn recorded(&self) -> &Recorded {
        &self.recorded
    }

    /// Installs a must-use plugin beside existing ones. From then on every request runs it. Returns
    /// its file.
    pub fn install(&self, php: &str) -> PathBuf {
        // PHP compiles a file of a new name, but checks a known one only every other second.
        self.install_as(&format!("custom-{}.php", self.count.fetch_add(1, Ordering::Relaxed)), php)
    }

    /// Like [`CustomSites::install`], with the name of the file.
    pub fn install_as(&self, name: &str, php: &str) -> PathBuf {
        let file = must_use(&self.site).join(name);
        let unfinished = file.with_extension("unfinished");
        std::fs::write(&unfinished, php).unwrap();
        std::fs::rename(&unfinished, &file).unwrap();
        let mut installed = self.installed.lock().unwrap();
        if !installed.contains(&file) {
            installed.push(file.clone());
        }
        file
    }

    /// Removes everything that was installed.
    pub fn remove(&self) {
        for file in self.installed.lock().unwrap().drain(..) {
            std::fs::remove_file(file).unwrap();
        }
    }

    /// Logs a recorded user in, directly at WordPress, with all customizations.
    pub async fn log_in(&self, user: &str) -> Login {
        self.log_in_with(user, &self.recorded.password(user)).await
    }

    /// Like [`CustomSites::log_in`], with a password.
    pub async fn log_in_with(&self, user: &str, password: &str) -> Login {
        let (last, _) = self.database.last_ids().await;
        let answer = self.post("/wp-json/jwt-auth/v1/token", "", &json!({"username": user, "password": password}));
        // The site's own code may put the tokens anywhere in the response, so they are read from
        // the row.
        let row = self.database.token_rows_after(last).await.pop();
        let row = row.unwrap_or_else(|| panic!("{user} cannot log in: {answer:?}"));
        let refresh_token = row.get("refresh_token_hash").unwrap().to_owned();
        secrets::register(&refresh_token);
        let access_token = access_token_in(&String::from_utf8_lossy(&answer.body));
        Login { row_id: row.get("id").unwrap().parse().unwrap(), refresh_token, access_token }
    }

    /// Creates `count` more users, `crowd1` and so on, with the password `crowd`.
    pub fn make_crowd(&self, count: usize) {
        self.site.php(&MAKE_CROWD.replace("{count}", &count.to_string()));
    }

    /// Posts JSON directly to WordPress. `fields` are further fields, each with its line end.
    pub fn post(&self, target: &str, fields: &str, body: &serde_json::Value) -> Message {
        let body = body.to_string();
        let mut connection = Connection::to(self.site.upstream());
        connection.send(format!(
            "POST {target} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{fields}\r\n{body}",
            self.site.host(),
            body.len()
        ));
        connection.response()
    }

    /// How many refreshes WordPress has answered so far.
    pub fn refreshes_by_php(&self) -> usize {
        let is_refresh = |request: &&String| request.starts_with("POST ") && request.contains("/token/refresh");
        self.site.requests().iter().filter(is_refresh).count()
    }

    /// Starts a new window of WordPress's rate limit for every client.
    pub async fn open_window(&self) {
        self.database.execute("DELETE FROM wp_options WHERE option_name LIKE '%jwt\\_auth\\_rate\\_limit\\_%'").await;
    }

    /// Rebuilds the rewrite rules, like a visit to the permalink settings.
    pub fn flush_rewrite_rules(&self) {
        self.site.php("flush_rewrite_rules( false );");
    }
}

fn must_use(site: &Site) -> PathBuf {
    PathBuf::from(site.said("ROOT")).join("wp-content/mu-plugins")
}

/// The first JWT of a text.
pub fn access_token_in(text: &str) -> Option<String> {
    let begin = text.find("eyJ")?;
    let is_of_jwt = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_');
    let jwt: String = text[begin..].chars().take_while(|letter| is_of_jwt(*letter)).collect();
    secrets::register(&jwt);
    Some(jwt)
}
