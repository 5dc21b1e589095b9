use super::*;
use crate::config::{self, Config};
use crate::wordpress::installation::installation;

const REST: &str = "/wp-json/jwt-auth/v1/token/refresh";

/// A network whose main site has the id `main`, with a database at `address`.
fn network(main: u64, address: &str) -> Arc<Network> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("wp-config.php");
    let text = format!(
        "<?php define('DB_NAME', 'n'); define('DB_USER', 'u'); define('DB_PASSWORD', 'p'); define('DB_HOST', '{address}');
        define('AUTH_KEY', 'k'); define('AUTH_SALT', 's');
        define('JWT_AUTH_SECRET_KEY', 'not-a-secret-not-a-secret-not-a-secret'); define('MULTISITE', true);
        define('BLOG_ID_CURRENT_SITE', {main}); $table_prefix = 'wp_'; require_once ABSPATH . 'wp-settings.php';"
    );
    std::fs::write(&file, text).unwrap();
    let environment = [("UPSTREAM_URL", "http://127.0.0.1:1".into()), ("WORDPRESS_CONFIG", file.into_os_string())];
    let environment = environment.map(|(name, value)| (format!("WP_JWT_SIDECAR_{name}").into(), value)).to_vec();
    let config = Config::load(&config::Sources { environment, ..config::Sources::default() }).unwrap();
    let installation = installation(&config.wordpress, &config.jwt, &|_| None).unwrap();
    let database = Arc::new(Database::new(installation.database.clone()));
    Network::new(&installation, database, Handle::current())
}

/// What is found in a network of which `known` was read.
async fn found(main: u64, known: Known, host: &str, path: &str) -> Found {
    let network = network(main, "127.0.0.1:1");
    network.cache.insert((), known).await;
    network.find(host, &format!("{path}{REST}")).await
}

fn blog(id: u64, path: &str) -> Blog {
    Blog { id, network: 1, domain: "net.test".to_owned(), path: path.to_owned(), closed: None }
}

fn sites(rows: Vec<Blog>) -> Known {
    Known::All(Arc::new(Blogs::of(rows).unwrap()))
}

#[tokio::test]
async fn a_main_site_with_another_id_than_1_is_confirmed_by_its_row() {
    let unusable = || Known::Unusable(Unusable::DropIn);
    let reason = Unusable::DropIn.to_string();
    assert_eq!(found(1, unusable(), "net.test", "").await, Found::OnlyMain(reason.clone()));
    assert_eq!(found(2, unusable(), "net.test", "").await, Found::Left(reason.into(), None));

    let swapped = || sites(vec![blog(1, "/old/"), blog(2, "/")]);
    assert_eq!(found(2, swapped(), "net.test", "").await, Found::Main);
    // The constant is out of date.
    let usual = || sites(vec![blog(1, "/"), blog(2, "/two/")]);
    assert_eq!(found(2, usual(), "net.test", "").await, Found::Blog(blog(1, "/").into()));
    for (host, path) in [("other.test", ""), ("net.test.", ""), ("net.test", "/t%77o")] {
        assert_eq!(found(2, usual(), host, path).await, left(UNLISTED), "{host}{path}");
        assert_eq!(found(1, usual(), host, path).await, Found::Main, "{host}{path}");
    }
}

#[tokio::test]
async fn a_site_that_wordpress_does_not_serve_is_left_also_if_it_is_the_first() {
    for id in [1, 2] {
        let closed = Blog { closed: Some("archived"), ..blog(id, "/") };
        let left = Found::Left(closed_words("archived").into(), Some(closed.clone().into()));
        assert_eq!(found(1, sites(vec![closed]), "net.test", "").await, left);
    }
    // The first site's network does not count.
    let other = |id| sites(vec![Blog { network: 7, ..blog(id, "/") }]);
    assert_eq!(found(1, other(1), "net.test", "").await, Found::Main);
    assert!(matches!(found(1, other(2), "net.test", "").await, Found::Left(..)));
}

/// Calls for these hosts in a large network whose database accepts connections and never answers:
/// how many of them waited for it, how many look-ups are running then, and the most that may.
async fn flood(hosts: impl Iterator<Item = String>) -> (usize, usize, usize) {
    let database = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let network = network(1, &database.local_addr().unwrap().to_string());
    network.cache.insert((), Known::Many).await;
    let most = network.look_ups.available_permits();
    let mut calls = tokio::task::JoinSet::new();
    for host in hosts {
        let network = Arc::clone(&network);
        calls.spawn(async move {
            let began = Instant::now();
            let found = network.find(&host, REST).await;
            let has_waited = began.elapsed() >= PATIENCE;
            assert_eq!(found, left(if has_waited { UNREAD } else { MANY_AT_ONCE }));
            has_waited
        });
    }
    let waited = calls.join_all().await.into_iter().filter(|waited| *waited).count();
    (waited, most - network.look_ups.available_permits(), most)
}

#[tokio::test]
async fn few_addresses_of_a_large_network_are_looked_up_at_once() {
    assert_eq!(flood((0..100).map(|number| format!("s{number}.net.test"))).await, (4, 4, 4));
    assert_eq!(flood((0..100).map(|_| "net.test".to_owned())).await, (100, 1, 4), "of one address");
}
