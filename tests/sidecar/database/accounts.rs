//! Accounts that log in by plugins, on a real server.

use mysql_async::prelude::Queryable;
use mysql_async::{Opts, OptsBuilder};
use wp_jwt_sidecar::internals::wordpress::database::{Database as Pool, Hosts};

use crate::support::mariadb::{Database, PASSWORD};

/// `None` if the login succeeds.
async fn refusal(user: &str, password: &str) -> Option<String> {
    let opts = OptsBuilder::default()
        .user(Some(user))
        .pass(Some(password))
        .socket(Some(Database::shared().socket().display().to_string()));
    let pool = Pool::new(Hosts::new(vec![Opts::from(opts)]));
    let refused = pool.session().await.err().map(|error| error.to_string());
    pool.close().await;
    assert_eq!(pool.panics(), 0);
    refused
}

/// Each plugin, how an account gets it with a password, and what the server needs for it.
#[tokio::test]
async fn accounts_with_plugins_can_be_used() {
    let server = Database::shared();
    let mut root = server.root().await;
    for (name, library, made_by) in [
        ("ed25519", Some("auth_ed25519"), "VIA ed25519 USING PASSWORD"),
        // MariaDB from 11.6.
        ("parsec", Some("auth_parsec"), "VIA parsec USING PASSWORD"),
        ("mysql_native_password", None, "VIA mysql_native_password USING PASSWORD"),
        // MySQL.
        ("caching_sha2_password", None, "WITH caching_sha2_password BY"),
    ] {
        if let Some(library) = library {
            // An error if it is already installed.
            let _ = root.query_drop(format!("INSTALL SONAME '{library}'")).await;
        }
        let password = match made_by.strip_suffix(" BY") {
            Some(_) => format!(" '{PASSWORD}'"),
            None => format!("('{PASSWORD}')"),
        };
        let user = format!("with_{name}");
        let made = format!("CREATE USER {user}@localhost IDENTIFIED {made_by}{password}");
        match root.query_drop(made).await {
            Ok(()) => {
                assert_eq!(refusal(&user, PASSWORD).await, None, "{name}");
                let refused = refusal(&user, "wrong").await.expect("a wrong password");
                assert!(refused.contains("ERROR 1045 ("), "{name}: {refused}");
            }
            Err(error) => println!("skipped: this server has no {name}: {error}"),
        }
    }
}

/// An account of another system user.
#[tokio::test]
async fn an_account_of_another_system_user_is_refused_with_a_reason() {
    let mut root = Database::shared().root().await;
    if let Err(error) = root.query_drop("CREATE USER nobody_here@localhost IDENTIFIED VIA unix_socket").await {
        println!("skipped: this server has no unix_socket: {error}");
        return;
    }
    let refused = refusal("nobody_here", PASSWORD).await.expect("we are not nobody_here");
    assert!(refused.contains("ERROR 1698 ("), "{refused}");
}
