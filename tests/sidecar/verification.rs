//! WordPress answers refreshes until its answers have equalled the sidecar's, and again from the
//! first answer that differs.

mod customized;
mod declared;
mod differences;
mod explained;
mod operator;
mod origins;
mod plugin;
mod rows;
mod shared;
mod site;
mod way;

use crate::support::mariadb::{Database, TestDatabase, Token, TokenState, User};
use crate::support::raw::Message;
use crate::support::rig::{refresh_at, sidecar, site};
use crate::support::sidecar::Sidecar;
use plugin::{Code, WordPress};

/// The log's text when the sidecar starts to answer refreshes itself.
const AGREES: &str = "agree with the sidecar's: refreshing natively";
const DIFFERS: &str = "WordPress refreshes differently than the sidecar would";

/// Settings with which three equal answers suffice.
const THREE: [(&str, &str); 3] = [
    ("WP_JWT_SIDECAR_REFRESH_VERIFY", "auto"),
    ("WP_JWT_SIDECAR_REFRESH_VERIFY_FIRST", "3"),
    ("WP_JWT_SIDECAR_REFRESH_VERIFY_EVERY", "1000000"),
];

/// A site with three users.
struct Lab {
    database: TestDatabase,
    users: [User; 3],
    wordpress: WordPress,
}

impl Lab {
    async fn of(code: Code) -> Lab {
        Lab::held(code, || ()).await
    }

    async fn held(code: Code, hold: impl Fn() + Send + Sync + 'static) -> Lab {
        let database = site(Database::shared()).await;
        // Without the index nothing is compared before the table was read.
        let index = format!("CREATE INDEX by_token ON {}jwt_auth_tokens (refresh_token_hash)", database.prefix());
        database.execute(&index).await;
        let users = [
            database.insert_user("alice").await,
            database.insert_user("bob").await,
            database.insert_user("carol").await,
        ];
        let wordpress = WordPress::held(&database, code, hold);
        Lab { database, users, wordpress }
    }

    /// A sidecar in front of the site, with additional environment.
    fn sidecar(&self, environment: &[(&str, &str)]) -> Sidecar {
        let sidecar = sidecar(&self.database, self.wordpress.address(), &[&THREE[..], environment].concat());
        sidecar.wait_for_log("natively once that is verified: home");
        sidecar.wait_for_log("hook scan: the site's files are read");
        sidecar
    }

    async fn token(&self, user: usize) -> Token {
        self.database.insert_token(TokenState::Live, self.users[user].id).await
    }

    /// Refreshes a token of this user.
    async fn refresh(&self, sidecar: &Sidecar, user: usize) -> Message {
        refresh_at(sidecar.address(), &self.token(user).await.refresh_token)
    }

    /// A sidecar that refreshes natively already.
    async fn agreeing(&self, environment: &[(&str, &str)]) -> Sidecar {
        let sidecar = self.sidecar(environment);
        for user in 0..3 {
            assert_eq!(self.refresh(&sidecar, user).await.status(), 200);
        }
        sidecar.wait_for_log(AGREES);
        sidecar
    }
}

/// Whether the sidecar made this pair: PHP's access tokens have no `jti`.
fn is_native(answer: &Message) -> bool {
    use base64::Engine as _;
    let body = answer.json();
    let token = body["access_token"].as_str().unwrap();
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice::<serde_json::Value>(&claims).unwrap().get("jti").is_some()
}
