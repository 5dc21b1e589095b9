//! The parts of the native refresh, made and put together.

use std::io;
use std::sync::Arc;

use tokio::runtime::Builder;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::lasting::{Lasting, rules};
use super::{AnalyticsWriter, MadeOf, Native, OwnRuntime};
use crate::config::{Config, ReuseDetection};
use crate::net::dial::Dialer;
use crate::refresh::Refresher;
use crate::refresh::analytics::{self, Analytics, Table};
use crate::refresh::blogs::{self, Blogs, Tally};
use crate::refresh::comparison::Comparisons;
use crate::refresh::country::Countries;
use crate::refresh::elsewhere;
use crate::refresh::epochs::Epochs;
use crate::refresh::group::Groups;
use crate::refresh::live_tokens::LiveTokens;
use crate::refresh::lookup::LookUps;
use crate::refresh::replay::Reuse;
use crate::refresh::row_cache::{Budget, RowCache};
use crate::refresh::row_watch::RowWatch;
use crate::refresh::shared::{Shared, SiteKey};
use crate::refresh::standing::Standing;
use crate::refresh::store::Store;
use crate::shared_store::SharedStore;
use crate::verify::kept;
use crate::wordpress::clock::Clocks;
use crate::wordpress::database::Database;
use crate::wordpress::home::Homes;
use crate::wordpress::hook_scan::Scanner;
use crate::wordpress::installation::Installation;
use crate::wordpress::network::Network;
use crate::wordpress::site::{Configured, Sites};

/// Threads of the database side. While one waits for the disk, the other prepares the next
/// statement.
const DATABASE_THREADS: usize = 2;

impl Native {
    /// Assembles the native refresh. Nothing is connected yet.
    ///
    /// # Errors
    /// If the system cannot start threads.
    pub fn assemble(
        config: &Config,
        dialer: Dialer,
        installation: Installation,
        lasting: &Lasting,
    ) -> io::Result<Self> {
        let made_of = MadeOf::of(config, &dialer, &installation);
        let directory = kept::directory(&config.refresh, |name| std::env::var_os(name));
        let file = directory.map(|directory| (directory, kept::name(config, &installation)));
        let (verification, kept) = lasting.verification(rules(&config.refresh), file.clone());
        let runtime = Builder::new_multi_thread()
            .worker_threads(DATABASE_THREADS)
            .thread_name("database")
            .enable_all()
            .build()?;
        let tasks = runtime.handle().clone();
        let (table_prefix, blog_id) = (installation.table_prefix.clone(), installation.blog_id);
        let declared = config.declared();
        let store = Arc::new(Store::declaring(
            Database::new(installation.database.clone())
                .at_most(config.wordpress.database_connections)
                .for_many_sites(installation.multisite),
            &table_prefix,
            &installation.users_table,
            declared.reads(),
            installation.usermeta_table.as_deref(),
        ));
        let clocks = Arc::<Clocks>::default();
        let scanner = Arc::<Scanner>::default();
        let configuration = Arc::new((config.jwt.clone(), config.refresh.clone()));
        let network =
            installation.multisite.then(|| Network::new(&installation, Arc::clone(&store.database), tasks.clone()));
        let parts = blogs::Parts {
            rules: rules(&config.refresh),
            configuration: Arc::clone(&configuration),
            kept: file,
            verdicts: Arc::clone(&lasting.verdicts),
            tallies: Arc::clone(&lasting.tallies),
            // The first site's scans do not wait for those of other sites.
            scanner: Arc::default(),
            dialer: dialer.clone(),
        };
        let comparisons = Comparisons::new(dialer.clone(), &config.refresh.verify_ignore_headers);
        let homes = Homes::new(dialer, tasks.clone(), Arc::clone(&clocks));
        let key = SiteKey::of(&installation, &config.jwt);
        let shared = SharedStore::new(&config.rate_limit, &key.prefix(), Arc::clone(&lasting.store));
        let shared = shared.map(|store| Shared::new(store, key));
        let countries = Countries::new(config.refresh.country_database.clone(), installation.plugins_dir.clone());
        let sites = Sites::new(
            installation,
            Configured { jwt: config.jwt.clone(), declared, hosts: config.wordpress.hosts.clone() },
            Arc::clone(&store.database),
            homes,
            clocks,
            tasks.clone(),
        );
        let (analytics, writer) = if config.refresh.analytics {
            let table = || Table { prefix: table_prefix.clone(), blog_id };
            let (analytics, events) = Analytics::new(table(), countries, config.refresh.analytics_refusals);
            let (stop, database) = (CancellationToken::new(), Arc::clone(&store.database));
            let task = runtime.spawn(analytics::write_behind(events, database, Arc::new(table()), stop.clone()));
            (Some(analytics), Some(AnalyticsWriter { task, stop }))
        } else {
            (None, None)
        };
        let reuse = Reuse {
            interval: config.refresh.reuse_interval,
            revoke_family: config.refresh.reuse_detection == ReuseDetection::RevokeFamily,
        };
        let counters = Arc::clone(&lasting.refreshes);
        let row_cache = Arc::new(RowCache::new(config.refresh.known_tokens, reuse.used_for()));
        let live_tokens = Arc::new(LiveTokens::new(Arc::clone(&store), Arc::clone(&row_cache), reuse.used_for()));
        let blogs = network.map(|network| {
            Blogs::new(network, Budget::new(config.refresh.known_tokens, Arc::clone(&row_cache)), parts)
        });
        let within = runtime.enter();
        let look_ups = LookUps::start(Arc::clone(&store), row_cache, live_tokens, Arc::clone(&counters));
        let standing = Arc::new(Standing::new(Arc::clone(&store)));
        let row_watch = RowWatch::new(&store.tokens);
        let groups = Groups::start(Arc::clone(&store), Arc::clone(&standing), Arc::clone(&counters));
        drop(within);
        let refresher = Refresher {
            fields: config.refresh.response_fields,
            sites,
            verification,
            comparisons,
            store,
            look_ups,
            row_watch,
            groups,
            standing,
            reuse,
            recent: lasting.recent(reuse.interval),
            counters,
            // Its id need not be 1, which may be a further site.
            rate_limiter: lasting.rate_limiter.of_blog(blog_id).sharing(shared),
            analytics,
            tasks,
            elsewhere: Arc::new(Semaphore::new(elsewhere::at_once(config.wordpress.database_connections))),
            rotations: TaskTracker::new(),
            tally: Arc::<Tally>::default(),
            blogs,
        };
        Ok(Native {
            refresher: Arc::new(refresher),
            epochs: Epochs::new(configuration, scanner, lasting.verdicts.shared(blog_id)).into(),
            made_of,
            runtime: OwnRuntime(Some(runtime)),
            analytics: writer,
            table_prefix,
            kept,
            stop: CancellationToken::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::sync::Mutex;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::config;
    use crate::refresh::blogs::Cleaned;
    use crate::refresh::cleanup::Cleanup;
    use crate::verify::ViewState;
    use crate::verify::difference::{Difference, Kind};
    use crate::wordpress::installation::installation;
    use crate::wordpress::network::blog::Blog;

    /// A network without a database: nothing listens at its address.
    const WP_CONFIG: &str = "<?php define('DB_NAME', 'n'); define('DB_USER', 'u'); define('DB_PASSWORD', 'p');
        define('DB_HOST', '127.0.0.1:1'); define('AUTH_KEY', 'k'); define('AUTH_SALT', 's');
        define('JWT_AUTH_SECRET_KEY', 'not-a-secret-not-a-secret-not-a-secret'); define('MULTISITE', true);
        $table_prefix = 'wp_'; require_once ABSPATH . 'wp-settings.php';";

    fn network(directory: &std::path::Path, lasting: &Lasting) -> Native {
        let file = directory.join("wp-config.php");
        std::fs::write(&file, WP_CONFIG).unwrap();
        let variable = |name: &str, value: OsString| (OsString::from(format!("WP_JWT_SIDECAR_{name}")), value);
        let environment = vec![
            variable("UPSTREAM_URL", "http://127.0.0.1:1".into()),
            variable("WORDPRESS_CONFIG", file.into()),
            variable("REFRESH_VERIFY", "auto".into()),
            variable("REFRESH_STATE_DIRECTORY", directory.into()),
        ];
        let config = Config::load(&config::Sources { environment, ..config::Sources::default() }).unwrap();
        let installation = installation(&config.wordpress, &config.jwt, &|_| None).unwrap();
        Native::assemble(&config, Dialer::new(&config.upstream).unwrap(), installation, lasting).unwrap()
    }

    /// A further site.
    fn blog(id: u64) -> Arc<Blog> {
        Arc::new(Blog { id, network: 1, domain: "net.test".to_owned(), path: format!("/s{id}/"), closed: None })
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_further_site_is_dropped_when_it_idles_and_wakes_with_what_is_known_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let lasting = Lasting::new();
        let native = network(directory.path(), &lasting);
        let main = &native.refresher;
        let blogs = main.blogs.clone().unwrap();
        let blog = blog(2);

        let first = blogs.used(main, &blog).await;
        // The database refuses the connection, which completes the first check.
        assert!(first.is_awake() && first.is_looked_at().await);
        first.refresher.verification.differs(Difference::new(Kind::Body, "body +roles (array of string)"));

        let at = |seconds: u64| Instant::now() + Duration::from_secs(seconds);
        blogs.sweep(at(14));
        assert!(first.is_awake());
        blogs.sweep(at(16));
        assert!(!first.is_awake() && blogs.in_use().len() == 1, "it sleeps");
        let woken = blogs.used(main, &blog).await;
        assert!(Arc::ptr_eq(&first, &woken) && woken.is_awake() && woken.is_looked_at().await);

        blogs.sweep(at(599));
        assert_eq!(blogs.in_use().len(), 1);
        blogs.sweep(at(601));
        assert!(blogs.in_use().is_empty() && !woken.is_awake(), "ten minutes after its last call it is gone");

        let second = blogs.used(main, &blog).await;
        assert!(!Arc::ptr_eq(&first, &second) && second.is_awake() && second.is_looked_at().await);
        assert_eq!(second.refresher.verification.view().state, ViewState::Differs, "its verdict has stayed");
        // A call that had found the site before its removal does not wake it.
        first.used(&lasting.verdicts);
        assert!(!first.is_awake() && second.is_awake());

        // In a process without a verdict, from its file.
        let kept = directory
            .path()
            .join(kept::name_of_blog(&native.kept.as_ref().unwrap().file().file_name().unwrap().to_string_lossy(), 2));
        for _ in 0..100 {
            if std::fs::read_to_string(&kept).is_ok_and(|text| text.contains("differs")) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        blogs.stop();
        let other = network(directory.path(), &Lasting::new());
        let third = other.refresher.blogs.clone().unwrap().used(&other.refresher, &blog).await;
        assert_eq!(third.refresher.verification.view().state, ViewState::Differs);
    }

    /// A marker says to begin again, also where this process knows the verdict.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_further_site_that_is_gone_begins_again_if_it_is_marked() {
        let directory = tempfile::tempdir().unwrap();
        let native = network(directory.path(), &Lasting::new());
        let (main, blogs) = (&native.refresher, native.refresher.blogs.clone().unwrap());
        let blog = blog(2);
        let name = native.kept.as_ref().unwrap().file().file_name().unwrap().to_string_lossy().into_owned();
        let kept = kept::Kept::new(directory.path(), &kept::name_of_blog(&name, 2));
        let first = blogs.used(main, &blog).await;
        first.refresher.verification.differs(Difference::new(Kind::Body, "body +roles (array of string)"));
        for (is_marked, state) in [(false, ViewState::Differs), (true, ViewState::Unverified)] {
            // The background work has looked for a marker, and will not look again until it ends.
            tokio::time::sleep(Duration::from_millis(500)).await;
            blogs.stop();
            if is_marked {
                kept.mark().unwrap();
            }
            let again = blogs.used(main, &blog).await;
            // Before its background work can take the marker.
            assert_eq!(again.refresher.verification.view().state, state, "marked: {is_marked}");
        }
    }

    /// Nothing to delete.
    const NOTHING: Cleanup = Cleanup { tokens_after_days: None, analytics_after_days: None };

    #[tokio::test(flavor = "multi_thread")]
    async fn a_site_is_cleaned_up_while_it_is_awake_and_once_an_hour_at_most() {
        let directory = tempfile::tempdir().unwrap();
        let native = network(directory.path(), &Lasting::new());
        let (main, blogs) = (&native.refresher, native.refresher.blogs.clone().unwrap());
        let mut cleaned = Cleaned::default();
        let mut clean = async |now: Instant, known: Option<Cleanup>| {
            let asked = Mutex::new(Vec::new());
            let cleanup = |refresher: Arc<Refresher>| {
                asked.lock().unwrap().push(refresher.sites.blog().unwrap().id);
                async move { known }
            };
            blogs.clean_those_due(&mut cleaned, now, &cleanup).await;
            asked.into_inner().unwrap()
        };
        let now = Instant::now();
        for id in [2, 3] {
            blogs.used(main, &blog(id)).await;
        }
        blogs.sweep(now + Duration::from_secs(20));
        blogs.used(main, &blog(2)).await;
        assert_eq!(clean(now, None).await, [2], "the site 3 sleeps");
        assert_eq!(clean(now, Some(NOTHING)).await, [2], "it was not known what to delete");
        blogs.used(main, &blog(3)).await;
        assert_eq!(clean(now + Duration::from_secs(1), Some(NOTHING)).await, [3]);
        assert_eq!(clean(now + Duration::from_secs(3599), Some(NOTHING)).await, [0; 0]);
        assert_eq!(clean(now + Duration::from_secs(3600), Some(NOTHING)).await, [2]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_cleanup_holds_only_the_site_whose_turn_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let native = network(directory.path(), &Lasting::new());
        let (main, blogs) = (&native.refresher, native.refresher.blogs.clone().unwrap());
        let mut sites = Vec::new();
        for id in [2, 3, 4] {
            sites.push(Arc::downgrade(&blogs.used(main, &blog(id)).await));
        }
        let asked = Mutex::new(Vec::new());
        let cleanup = |refresher: Arc<Refresher>| {
            asked.lock().unwrap().push(refresher.sites.blog().unwrap().id);
            blogs.sweep(Instant::now() + Duration::from_secs(601));
            let held = sites.iter().filter(|site| site.upgrade().is_some()).count();
            assert_eq!(held, 0, "they were removed during the cleanup of the first of them");
            async { Some(NOTHING) }
        };
        blogs.clean_those_due(&mut Cleaned::default(), Instant::now(), &cleanup).await;
        assert_eq!(asked.into_inner().unwrap(), [4], "the others are gone by their turn");
    }

    /// Simultaneous calls for one site set it up once, whatever verdict each of them has read.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_site_is_set_up_once() {
        let directory = tempfile::tempdir().unwrap();
        let native = network(directory.path(), &Lasting::new());
        let blogs = native.refresher.blogs.clone().unwrap();
        let blog = blog(2);
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..32 {
            let (blogs, blog, main) = (Arc::clone(&blogs), Arc::clone(&blog), Arc::clone(&native.refresher));
            calls.spawn(async move { blogs.used(&main, &blog).await });
        }
        let all = calls.join_all().await;
        assert!(all.iter().all(|one| Arc::ptr_eq(one, &all[0])) && blogs.in_use().len() == 1);
    }
}
