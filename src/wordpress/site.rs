//! What a refresh needs to know about the site, read from its database every few seconds and shared
//! by all workers.
//!
//! A deactivated plugin or a changed setting shows within [`FRESH`]. While the database is down,
//! the last good values are used: the rotation itself then decides, which needs the database
//! anyway.

mod build;
mod fresh;
mod hosts;
mod language;
mod makeup;
mod obstacle;
mod rows;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::access_token::Signer;
use super::clock::{Apart, Clocks};
use super::database::{Database, DatabaseError};
use super::home::{Home, Homes, Question};
use super::installation::Installation;
use super::network::blog::Blog;
use super::options::{self, Settings};
use crate::client_addr::Scheme;
use crate::config::{Algorithm, Jwt, Secret};
use crate::declared::{Declared, Person, Uncertain, User, Values};
use crate::last_seen::{LastSeen, Sight};
use crate::route::RouteForms;
use build::plugin;
use fresh::Fresh;
pub use hosts::{Called, NamedHost};
use hosts::{Questions, without_scheme};
pub use makeup::Makeup;
pub use obstacle::NotNative;
use obstacle::usable;
pub use rows::Columns;
use rows::Rows;

/// How old the site's values may be.
const FRESH: Duration = Duration::from_secs(3);

/// How long a request waits for them to be read again, before it uses the last ones. A database
/// that does not respond must not delay forwarded requests.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long reading them may take: three small queries.
const READ_LIMIT: Duration = Duration::from_secs(3);

/// A site that refreshes natively.
pub struct Site {
    /// The plugin's settings.
    pub settings: Settings,
    /// The forms of the route on this site.
    pub forms: RouteForms,
    /// Signs access tokens as the site does.
    pub signer: Arc<Signer>,
    /// `wp_salt('auth')`.
    pub auth_salt: Secret,
    /// Whether WordPress's own messages are in English.
    pub is_english: bool,
    /// The limits of the token table's columns.
    pub columns: Columns,
    /// The index on the token column, if there is one.
    pub token_index: Option<String>,
    /// The plugin's main file, relative to the plugins directory.
    pub plugin: Arc<str>,
    /// The code that the site runs.
    pub makeup: Makeup,
    /// What the site's own code adds to a refresh.
    pub declared: Arc<Declared>,
    /// The names of its roles, if they are declared; `None` if they cannot be read.
    roles: Option<Vec<String>>,
    home: StoredHome,
}

impl Site {
    /// The declared values for `user`.
    ///
    /// # Errors
    /// They are uncertain, so WordPress must answer.
    pub fn values(&self, user: &User) -> Result<Values, Uncertain> {
        if self.declared.is_empty() {
            return Ok(Values::default());
        }
        self.declared.values(&Person {
            id: user.id,
            email: &user.email,
            nicename: &user.nicename,
            display_name: &user.display_name,
            reads: self.declared.reads(),
            found: &user.found,
            roles: self.roles.as_deref(),
        })
    }

    /// The home URL by configuration, constants and options, without a trailing slash.
    pub fn stored_home(&self) -> &str {
        match &self.home {
            StoredHome::Given(home) => &home.url,
            StoredHome::Stored(questions) => questions.own.stored_home(),
        }
    }

    /// The question to WordPress about its home URL for requests with `scheme`; `None` if the
    /// configuration names it.
    pub fn question(&self, scheme: Scheme) -> Option<&Question> {
        match &self.home {
            StoredHome::Given(_) => None,
            StoredHome::Stored(questions) => Some(questions.own.by(scheme)),
        }
    }

    /// The home URL's own scheme, for questions that no request causes.
    pub fn usual_scheme(&self) -> Scheme {
        if self.stored_home().starts_with("https:") { Scheme::Https } else { Scheme::Http }
    }
}

enum StoredHome {
    /// `[wordpress] home`: used unchanged.
    Given(Arc<Home>),
    /// From the option or the constant; WordPress is asked.
    Stored(Questions),
}

/// The result of examining the site's rows: see [`Sites::examine`].
pub struct Examined {
    /// The site, if it can refresh natively.
    pub site: Option<Arc<Site>>,
    /// All obstacles to native refreshes.
    pub obstacles: Vec<NotNative>,
    /// The plugin's file, if it is active.
    pub plugin: Option<String>,
    /// The option `jwt_auth_pro_version`.
    pub plugin_version: Option<String>,
    /// All active plugins, as `folder/file.php`.
    pub active_plugins: Vec<String>,
    /// The plugin's settings, if they are valid.
    pub settings: Option<Settings>,
}

/// A site that refreshes natively, or why it does not.
pub type Known = Result<Arc<Site>, Arc<NotNative>>;

/// What the configuration says about the site.
pub struct Configured {
    pub jwt: Jwt,
    /// What the site's own code adds to a refresh.
    pub declared: Declared,
    /// `[wordpress] hosts`.
    pub hosts: Vec<String>,
}

/// Reads and keeps what is known of the site.
pub struct Sites {
    installation: Installation,
    jwt: Jwt,
    declared: Arc<Declared>,
    database: Arc<Database>,
    homes: Arc<Homes>,
    /// `[wordpress] hosts`.
    hosts: Vec<String>,
    /// Where the network has it, if it is a further site of a network.
    blog: Option<Arc<Blog>>,
    clocks: Arc<Clocks>,
    tasks: Handle,
    cache: Fresh<Known>,
    last_good: Mutex<LastGood>,
    last_seen: LastSeen,
    signers: Mutex<Option<(Algorithm, Arc<Signer>)>>,
}

#[derive(Default)]
struct LastGood {
    site: Option<Known>,
    /// Known even if the site does not refresh natively.
    home_host: Option<String>,
    database_is_away: bool,
    /// A hash of the options that list the active plugins.
    plugins: Option<u64>,
}

impl Sites {
    /// Reads nothing yet. Reading happens in the runtime of `homes`' tasks; readings of the
    /// database's clock go to `clocks`.
    pub fn new(
        installation: Installation,
        configured: Configured,
        database: Arc<Database>,
        homes: Arc<Homes>,
        clocks: Arc<Clocks>,
        tasks: Handle,
    ) -> Arc<Self> {
        let cache = Fresh::new(FRESH);
        let (last_good, last_seen, signers) = (Mutex::default(), LastSeen::default(), Mutex::new(None));
        let Configured { jwt, declared, hosts } = configured;
        let declared = Arc::new(declared);
        Arc::new(Sites {
            installation,
            jwt,
            declared,
            database,
            homes,
            hosts,
            blog: None,
            clocks,
            tasks,
            cache,
            last_good,
            last_seen,
            signers,
        })
    }

    /// The same for `blog`, a further site of the network.
    #[must_use]
    pub fn of_blog(&self, blog: Arc<Blog>) -> Arc<Self> {
        Arc::new(Sites {
            installation: self.installation.of_blog(blog.id),
            jwt: self.jwt.clone(),
            declared: Arc::clone(&self.declared),
            database: Arc::clone(&self.database),
            homes: Arc::clone(&self.homes),
            hosts: Vec::new(),
            blog: Some(blog),
            clocks: Arc::clone(&self.clocks),
            tasks: self.tasks.clone(),
            cache: Fresh::new(FRESH),
            last_good: Mutex::default(),
            last_seen: LastSeen::default(),
            signers: Mutex::new(self.signers.lock().unwrap_or_else(PoisonError::into_inner).clone()),
        })
    }

    /// The site, at most [`FRESH`] old; the last good one while the database is down or slow.
    pub async fn current(self: &Arc<Self>) -> Known {
        if let Some(known) = self.cache.get() {
            return known;
        }
        timeout(PATIENCE, self.read_or_known())
            .await
            .unwrap_or_else(|_| self.last_known("the database does not answer"))
    }

    /// Like [`Sites::current`], for callers without a waiting request: waits as long as reading may
    /// take.
    pub async fn read_or_known(self: &Arc<Self>) -> Known {
        // In its own task: if the first caller stops waiting, the next would start over.
        let sites = Arc::clone(self);
        let reading = self.tasks.spawn(async move { sites.cache.get_or_read(sites.read()).await });
        reading.await.unwrap_or_else(|_| self.last_known("reading them failed"))
    }

    /// The home URL for a request with `scheme` to its host, or why it is unknown.
    pub fn home(&self, site: &Site, scheme: Scheme) -> Result<Arc<Home>, NotNative> {
        if let Some(blog) = &self.blog {
            return self.home_of_blog(site, &blog.domain, scheme);
        }
        match &site.home {
            StoredHome::Given(home) => Ok(Arc::clone(home)),
            StoredHome::Stored(questions) => {
                let question = questions.own.by(scheme);
                usable(self.homes.known(question), question)
            }
        }
    }

    /// Like [`Sites::home`], but waits for WordPress's answer.
    pub async fn ask_home(&self, site: &Site, scheme: Scheme) -> Result<Arc<Home>, NotNative> {
        match site.question(scheme) {
            Some(question) => usable(self.homes.ask(question).await, question),
            None => self.home(site, scheme),
        }
    }

    /// WordPress's answers.
    pub fn homes(&self) -> &Arc<Homes> {
        &self.homes
    }

    /// The time to issue a token at, in Unix seconds.
    ///
    /// # Errors
    /// The clocks differ by too much. WordPress is then asked again, which reads its clock: after
    /// the machine was suspended, the monotonic clock, which advances a reading, lacks that time.
    pub fn issuing_time(&self, site: &Site) -> Result<u64, NotNative> {
        self.clocks.issuing_time().map_err(|apart| {
            if let Some(question) = site.question(site.usual_scheme()) {
                self.homes.ask_again(question);
            }
            NotNative::Clocks(apart)
        })
    }

    /// The clocks that differ noticeably.
    pub fn clocks_apart(&self) -> Option<Apart> {
        self.clocks.apart()
    }

    /// How far WordPress's clock may be ahead of the database's; `None` if unknown.
    pub fn wordpress_ahead_of_database(&self) -> Option<Duration> {
        self.clocks.wordpress_ahead_of_database()
    }

    /// The declarations about the site's own code.
    pub fn declared(&self) -> &Arc<Declared> {
        &self.declared
    }

    /// The site's description.
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// The last values read; `None` before the first time. Reads nothing itself.
    pub fn last_read(&self) -> Option<Known> {
        self.last_good.lock().unwrap_or_else(PoisonError::into_inner).site.clone()
    }

    /// The host of the home URL by configuration, constants and options. If it is an option, `None`
    /// before the first reading.
    pub fn home_host(&self) -> Option<String> {
        let read = self.last_good.lock().unwrap_or_else(PoisonError::into_inner).home_host.clone();
        read.or_else(|| self.installation.home_host())
    }

    /// Whether the database was down when it was last read.
    pub fn is_database_away(&self) -> bool {
        self.last_good.lock().unwrap_or_else(PoisonError::into_inner).database_is_away
    }

    /// The further site of a network that this is, if any.
    pub fn blog(&self) -> Option<&Arc<Blog>> {
        self.blog.as_ref()
    }

    /// Domain and path of a site that is part of a network: its name in log lines. Reads nothing.
    pub fn place(&self) -> Option<String> {
        if let Some(blog) = &self.blog {
            return Some(blog.place());
        }
        if !self.installation.multisite {
            return None;
        }
        let site = self.last_read()?.ok()?;
        Some(format!("{}/", without_scheme(site.stored_home())))
    }

    /// Why WordPress's home URL is unknown, as far as it was asked. Asks no question.
    pub fn home_obstacle(&self, site: &Site) -> Option<NotNative> {
        [Scheme::Http, Scheme::Https].into_iter().find_map(|scheme| {
            let question = site.question(scheme)?;
            usable(Some(self.homes.last(question)?), question).err()
        })
    }

    /// Reads the site again, and returns all obstacles to native refreshes and the active plugins.
    /// From then on, [`Sites::current`] returns these values.
    ///
    /// # Errors
    /// The database's.
    pub async fn examine(&self) -> Result<Examined, DatabaseError> {
        let rows = self.database.within(READ_LIMIT, self.rows()).await?;
        let known = self.site(&rows).map(Arc::new).map_err(Arc::new);
        self.last_good.lock().unwrap_or_else(PoisonError::into_inner).site = Some(known.clone());
        self.cache.put(known.clone());
        let active_plugins =
            options::active_plugins(rows.option("active_plugins"), rows.meta("active_sitewide_plugins"));
        Ok(Examined {
            site: known.ok(),
            obstacles: self.obstacles(&rows),
            plugin: plugin(&rows).ok(),
            plugin_version: rows.text("jwt_auth_pro_version"),
            // If they cannot be read, that is among the obstacles.
            active_plugins: active_plugins.unwrap_or_default(),
            settings: self.settings(&rows).ok(),
        })
    }

    /// How reading the site went, which shows the state of the database.
    pub fn database(&self) -> Sight {
        self.last_seen.look()
    }

    async fn read(&self) -> Known {
        let read = self.read_now().await;
        let mut last = self.last_good.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(site) => {
                self.last_seen.seen();
                if std::mem::take(&mut last.database_is_away) && self.blog.is_none() {
                    info!("the site's settings can be read again");
                }
                let site = site.map(Arc::new).map_err(Arc::new);
                last.site = Some(site.clone());
                site
            }
            Err(error) => {
                self.last_seen.failed(error.to_string());
                if self.blog.is_some() {
                    // If the database is down, the first site logs it; a table that must not be
                    // read shows on the status page.
                    debug!(%error, table_prefix = self.installation.table_prefix, "the settings of a site of the network cannot be read");
                } else if !std::mem::replace(&mut last.database_is_away, true) {
                    warn!(%error, "the site's settings cannot be read; the sidecar retries and forwards meanwhile");
                }
                drop(last);
                self.last_known(&error.to_string())
            }
        }
    }

    fn last_known(&self, why: &str) -> Known {
        let last = self.last_good.lock().unwrap_or_else(PoisonError::into_inner);
        last.site.clone().unwrap_or_else(|| Err(Arc::new(NotNative::Unknown(why.to_owned()))))
    }

    async fn read_now(&self) -> Result<Result<Site, NotNative>, DatabaseError> {
        let rows = self.database.within(READ_LIMIT, self.rows()).await?;
        self.note_plugins(&rows);
        Ok(self.site(&rows))
    }

    /// Any plugin may close the REST API, or change the home URL.
    fn note_plugins(&self, rows: &Rows) {
        let mut hasher = DefaultHasher::new();
        (rows.option("active_plugins"), rows.meta("active_sitewide_plugins")).hash(&mut hasher);
        let plugins = hasher.finish();
        let before = self.last_good.lock().unwrap_or_else(PoisonError::into_inner).plugins.replace(plugins);
        if before.is_some_and(|before| before != plugins) {
            self.homes.site_changed();
        }
    }

    async fn rows(&self) -> Result<Rows, DatabaseError> {
        let mut session = self.database.session().await?;
        let with_roles = self.declared.has_roles();
        let mut rows = match Rows::read(&mut session, &self.installation, with_roles).await {
            Err(error) if error.code().is_none() => {
                // An idle connection may be dead: one more attempt on a new one.
                drop(session);
                session = self.database.fresh_session().await?;
                Rows::read(&mut session, &self.installation, with_roles).await
            }
            rows => rows,
        }
        .inspect_err(|error| self.database.heed(error))?;
        session.give_back();
        rows.is_english = self.is_english(&rows).await;
        if let Some(reading) = rows.clock() {
            self.clocks.database_shows(reading);
        }
        Ok(rows)
    }
}
