//! Rows in open transactions while the map is filled or extended, and a map that is no longer
//! complete.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Opts, OptsBuilder};
use wp_jwt_sidecar::internals::refresh::live_tokens::LiveTokens;
use wp_jwt_sidecar::internals::refresh::row_cache::{Key, RowCache, RowRef};
use wp_jwt_sidecar::internals::refresh::store::Store;
use wp_jwt_sidecar::internals::wordpress::database::Database as Pool;
use wp_jwt_sidecar::internals::wordpress::site::Columns;
use wp_jwt_sidecar::internals::wordpress::text::ColumnCharset;

use super::{FILLED, insert, log_statements, look_ups, rig as rig_with};
use crate::support::mariadb::{Database, TestDatabase, TokenState, random_hex};
use crate::support::rig::{self, Rig};

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_under_way_when_the_map_is_filled_is_found() {
    for later in [1, 5_000] {
        let server = Database::private();
        let database = rig::site(&server).await;
        let alice = database.insert_user("alice").await;
        database.fill_tokens(5_000).await;
        let mut slow = database.connect().await;
        slow.query_drop("START TRANSACTION").await.unwrap();
        let (token, id) = insert(&mut slow, alice.id).await;
        let (rolled_back, _) = insert(&mut slow, alice.id).await;
        database.fill_tokens(later).await;
        assert!(id < database.insert_token(TokenState::Live, alice.id).await.id);
        let rig = Rig::of(database, alice, &[]);
        rig.sidecar.wait_for_log(FILLED);
        let mut root = server.root().await;
        log_statements(&mut root).await;
        // An uncommitted row does not exist.
        let delete = "DELETE FROM wp_jwt_auth_tokens WHERE refresh_token_hash = ?";
        slow.exec_drop(delete, (&rolled_back,)).await.unwrap();
        assert_eq!(rig.refresh(&rolled_back).status(), 403);
        slow.query_drop("COMMIT").await.unwrap();
        assert_eq!(rig.refresh(&token).status(), 200, "{later} rows later");
        assert_eq!(look_ups(&mut root).await, Vec::<String>::new(), "without a scan");
    }
}

/// As ten minutes later, when the missing ids of a gap are no longer looked for.
#[tokio::test]
async fn a_row_is_looked_for_as_long_as_its_transaction_lasts() {
    let database = Database::shared().create().await;
    let (map, tokens) = map(&database, 100);
    let columns = columns();
    let user = database.insert_user("alice").await.id;
    database.insert_token(TokenState::Live, user).await;
    map.fill(columns).await.unwrap();
    let (mut slow, mut failing) = (database.connect().await, database.connect().await);
    for transaction in [&mut slow, &mut failing] {
        transaction.query_drop("START TRANSACTION").await.unwrap();
    }
    let (token, id) = insert(&mut slow, user).await;
    insert(&mut failing, user).await;
    failing.query_drop("ROLLBACK").await.unwrap();
    let (later, _) = insert(&mut database.connect().await, user).await;
    let key = |token: &str| Key::of(token, true);
    let mut now = Instant::now();
    for _ in 0..3 {
        map.extend(columns, now, false).await.unwrap();
        assert!(tokens.row_of(&key(&later)).is_some() && map.complete().is_some());
        assert_eq!(tokens.row_of(&key(&token)), None, "not committed");
        now += Duration::from_secs(601);
    }
    slow.query_drop("COMMIT").await.unwrap();
    map.extend(columns, now, false).await.unwrap();
    assert_eq!(tokens.row_of(&key(&token)), Some(RowRef::found(id, Some(user))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_that_had_no_room_for_a_while_is_filled_again() {
    let server = Database::private();
    let rig = rig_with(&server, 0, &[("WP_JWT_SIDECAR_REFRESH_KNOWN_TOKENS", "20")]).await;
    rig.sidecar.wait_for_log(FILLED);
    for _ in 0..40 {
        let token = rig.token().await;
        assert_eq!(rig.refresh(&token.refresh_token).status(), 200);
    }
    let mut root = server.root().await;
    log_statements(&mut root).await;
    assert_eq!(rig.refresh(&random_hex::<16>()).status(), 403);
    assert_eq!(look_ups(&mut root).await.len(), 1, "the map is not complete");
    let filled = rig.sidecar.log().len();
    rig.database.execute("DELETE FROM wp_jwt_auth_tokens ORDER BY id LIMIT 70").await;
    let line = rig.sidecar.wait_for_log_after(filled, FILLED);
    assert!(line.contains(r#""complete":true"#), "{line}");
    log_statements(&mut root).await;
    assert_eq!(rig.refresh(&random_hex::<16>()).status(), 403);
    assert_eq!(look_ups(&mut root).await, Vec::<String>::new());
}

/// A map that wrongly counts as complete would refuse tokens that were evicted.
#[tokio::test]
async fn a_map_that_is_filled_again_is_complete_only_at_the_end() {
    let database = Database::shared().create().await;
    let (map, tokens) = map(&database, 20);
    let user = database.insert_user("alice").await.id;
    let live = database.insert_tokens(15, TokenState::Live, user).await;
    database.fill_tokens(30_000).await;
    map.fill(columns()).await.unwrap();
    let first = map.complete();
    assert!(first.is_some());
    // Others that were live and no longer are.
    for id in 0..20_000 {
        tokens.remember(Key::of(&random_hex::<16>(), true), RowRef::found(id, Some(user)));
    }
    tokens.settle();
    assert!(map.is_filled() && map.complete().is_none());
    let mut filling = pin!(map.fill(columns()));
    let mut looks = 0;
    loop {
        tokio::select! {
            biased;
            filled = &mut filling => break filled.unwrap(),
            () = tokio::time::sleep(Duration::from_millis(1)) => assert!(map.complete().is_none()),
        }
        looks += 1;
    }
    assert!(looks > 0 && map.complete().is_some() && map.complete() != first);
    for token in live {
        let place = RowRef::found(token.id, Some(user));
        assert_eq!(tokens.row_of(&Key::of(&token.refresh_token, true)), Some(place));
    }
}

fn map(database: &TestDatabase, room: usize) -> (LiveTokens, Arc<RowCache>) {
    let opts = OptsBuilder::from_opts(Opts::from_url(database.url()).unwrap());
    let store = Arc::new(Store::new(Pool::new(opts), database.prefix(), "wp_users"));
    let tokens = Arc::new(RowCache::new(room, None));
    (LiveTokens::new(store, Arc::clone(&tokens), None), tokens)
}

fn columns() -> Columns {
    Columns { user_agent_length: 500, user_agent_charset: ColumnCharset::Utf8mb4, folds_case: true, indexed: false }
}
