//! The sites of a network: read from its tables every few seconds while refreshes come, and found
//! by host and path.
//!
//! If anything about the network is uncertain, its first site is refreshed like a single site, and
//! all other sites are left to WordPress: see [`Unusable`]. A first site whose id is not 1 is left,
//! too.

pub mod blog;
pub mod named;
mod rows;

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use moka::future::Cache;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::debug;

use super::database::{Database, DatabaseError};
use super::installation::Installation;
use super::installation::layout::UnknownMain;
use blog::{Blog, Blogs, Picked, Place};
use rows::Reader;

/// The longest that the sites are used without another reading, so an archived site is left to
/// WordPress after this time.
const FRESH: Duration = Duration::from_secs(3);

/// How long the last reading is used while the database does not answer, which would refuse
/// refreshes, too.
const STALE: Duration = Duration::from_secs(60);

/// How long a request waits for the tables to be read.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long reading them may take.
const READ_LIMIT: Duration = Duration::from_secs(3);

/// The most sites that are read together. In a larger network the database is queried for each
/// address.
pub const MOST: usize = 10_000;

/// One of so many connections may look up addresses in a larger network at once; calls for
/// others are left to WordPress meanwhile.
// SECURITY: clients choose these addresses, and rotations need connections, too.
const OF_CONNECTIONS: usize = 4;

/// Why calls go to WordPress whose address could not be looked up.
const UNREAD: &str = "the network's sites cannot be read";
const MANY_AT_ONCE: &str = "many sites of the network are being looked up";

/// Why calls go to WordPress for which the table `blogs` has no site, if the first site's id is not
/// 1.
const UNLISTED: &str =
    "the network's main site is not the one with the id 1, and the table of its sites has none for this host";

/// How many addresses in a larger network are remembered, for [`FRESH`].
// SECURITY: clients choose these.
const PLACES: u64 = 10_000;

/// Why only the first site of a network can be refreshed natively, and only if its id is 1.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unusable {
    #[error("the network's tables cannot be read: {0}")]
    Unread(DatabaseError),
    #[error("there are several networks in the table {0}site, or none with the id {1}")]
    Networks(String, u64),
    #[error("the network is at the path {0}, and the constants in wp-config.php do not say so")]
    Path(String),
    #[error("the site {0} has a domain or a path that databases compare in different ways")]
    Odd(u64),
    #[error("there is a db.php in wp-content, which may keep sites in other databases")]
    DropIn,
    #[error("the place of wp-content is unknown, and a db.php there may keep sites in other databases")]
    NoContent,
    #[error("the network's main site is unknown: {0}")]
    MainBlog(UnknownMain),
}

/// The sites, as last read.
#[derive(Debug, Clone)]
pub enum Known {
    All(Arc<Blogs>),
    /// There are more than [`MOST`].
    Many,
    Unusable(Unusable),
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Known::All(all) if all.closed == 0 => write!(f, "{} sites", all.count),
            Known::All(all) => {
                write!(f, "{} sites, {} of them archived, deleted, spam or not activated", all.count, all.closed)
            }
            Known::Many => write!(f, "more than {MOST} sites, each looked for when it has a refresh"),
            Known::Unusable(unusable) => {
                write!(f, "only its first site is refreshed natively, if its id is 1: {unusable}")
            }
        }
    }
}

/// The site that a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The first site, as far as can be determined; treated like a single site.
    Main,
    /// The first site, or one that the sidecar does not know; any site but the first is left to
    /// WordPress for this reason.
    OnlyMain(String),
    Blog(Arc<Blog>),
    /// Left to WordPress for this reason; with the site, if known.
    Left(Cow<'static, str>, Option<Arc<Blog>>),
}

/// Reads a network's sites and keeps them.
pub struct Network {
    installation: Installation,
    database: Arc<Database>,
    reader: Reader,
    tasks: Handle,
    cache: Cache<(), Known>,
    places: Cache<Place, Picked>,
    look_ups: Semaphore,
    last: Mutex<Option<(Instant, Known)>>,
}

impl Network {
    /// Reads nothing yet. Later readings run in the runtime `tasks`.
    pub fn new(installation: &Installation, database: Arc<Database>, tasks: Handle) -> Arc<Self> {
        Arc::new(Network {
            reader: Reader::new(&installation.base_prefix, installation.layout().most_segments()),
            installation: installation.clone(),
            look_ups: Semaphore::new((database.pool().limit / OF_CONNECTIONS).max(1)),
            database,
            tasks,
            cache: Cache::builder().max_capacity(1).time_to_live(FRESH).build(),
            places: Cache::builder().max_capacity(PLACES).time_to_live(FRESH).build(),
            last: Mutex::default(),
        })
    }

    /// The site of a request for `host` and `path`.
    pub async fn find(self: &Arc<Self>, host: &str, path: &str) -> Found {
        let layout = self.installation.layout();
        // WordPress selects the site by the table `blogs` and ignores `BLOG_ID_CURRENT_SITE`, which
        // may be out of date. Another site than 1 is the first only if its row says so: otherwise
        // WordPress may use other tables than `wp_2_…` for the call.
        let is_usual = layout.main == 1;
        let unlisted = || if is_usual { Found::Main } else { left(UNLISTED) };
        let Some(place) = Place::of(host, path, layout) else { return unlisted() };
        let picked = match self.current().await {
            Known::All(blogs) => blogs.at(&place),
            Known::Many => match self.ask(place).await {
                Ok(picked) => picked,
                Err(why) => return left(why),
            },
            Known::Unusable(unusable) if is_usual => return Found::OnlyMain(unusable.to_string()),
            Known::Unusable(unusable) => return Found::Left(unusable.to_string().into(), None),
        };
        match picked {
            Picked::None => unlisted(),
            Picked::Unsure => left("the site of the network is ambiguous"),
            Picked::Blog(blog) => match (blog.closed, blog.network) {
                // `ms_site_check()` makes no exception for the first site.
                (Some(closed), _) => Found::Left(closed_words(closed).into(), Some(blog)),
                // For the rest it is treated like a single site.
                (None, _) if blog.id == 0 || blog.id == layout.main => Found::Main,
                (None, network) if network == layout.id => Found::Blog(blog),
                (None, _) => Found::Left("the site is of another network".into(), Some(blog)),
            },
        }
    }

    /// Why no call is native: another first site than 1 needs its row.
    pub async fn unproven_main(self: &Arc<Self>) -> Option<String> {
        match self.current().await {
            Known::Unusable(unusable) if self.installation.layout().main != 1 => Some(unusable.to_string()),
            _ => None,
        }
    }

    /// The sites; at most [`FRESH`] old if the database answers.
    pub async fn current(self: &Arc<Self>) -> Known {
        if let Some(known) = self.cache.get(&()).await {
            return known;
        }
        // In a task of its own: if the first caller stops waiting, moka would start over with the
        // next.
        let network = Arc::clone(self);
        let reading = self.tasks.spawn(async move {
            let reader = Arc::clone(&network);
            network.cache.get_with((), async move { reader.read().await }).await
        });
        match timeout(PATIENCE, reading).await {
            Ok(Ok(known)) => known,
            _ => self.fallback(DatabaseError::TimedOut),
        }
    }

    /// The last reading; `None` before the first. Reads nothing.
    pub fn last_read(&self) -> Option<Known> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(_, known)| known.clone())
    }

    /// The network as the configuration describes it.
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    async fn read(&self) -> Known {
        let known = match self.unusable().await {
            Some(unusable) => Known::Unusable(unusable),
            None => match self.read_tables().await {
                Ok(known) => known,
                Err(error) => {
                    debug!(%error, "the network's tables cannot be read");
                    match self.fallback(error) {
                        unusable @ Known::Unusable(_) => unusable,
                        known => return known,
                    }
                }
            },
        };
        let now = Some((Instant::now(), known.clone()));
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = now;
        known
    }

    async fn unusable(&self) -> Option<Unusable> {
        if let Err(why) = self.installation.network {
            return Some(Unusable::MainBlog(why));
        }
        let Some(content) = &self.installation.content_dir else { return Some(Unusable::NoContent) };
        match tokio::fs::symlink_metadata(content.join("db.php")).await {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            // It exists, or cannot be seen.
            _ => Some(Unusable::DropIn),
        }
    }

    async fn read_tables(&self) -> Result<Known, DatabaseError> {
        let read = async {
            let mut session = self.database.session().await?;
            let read = match self.reader.all(&mut session).await {
                Err(error) if error.code().is_none() => {
                    // A connection that was idle may be dead: one more try on a new one.
                    drop(session);
                    session = self.database.fresh_session().await?;
                    self.reader.all(&mut session).await
                }
                read => read,
            }
            .inspect_err(|error| self.database.heed(error))?;
            session.give_back();
            Ok(read)
        };
        let (networks, blogs) = self.database.within(READ_LIMIT, read).await?;
        let layout = self.installation.layout();
        let network = match networks.as_slice() {
            [(id, path)] if *id == layout.id => Some(path),
            _ => None,
        };
        Ok(match (network, blogs) {
            (Some(path), _) if *path != layout.path() => Known::Unusable(Unusable::Path(path.clone())),
            (Some(_), None) => Known::Many,
            (Some(_), Some(blogs)) => match Blogs::of(blogs) {
                Ok(blogs) => Known::All(Arc::new(blogs)),
                Err(odd) => Known::Unusable(Unusable::Odd(odd)),
            },
            (None, _) => Known::Unusable(Unusable::Networks(self.installation.base_prefix.clone(), layout.id)),
        })
    }

    /// The last reading while it may be used; otherwise why it may not.
    fn fallback(&self, error: DatabaseError) -> Known {
        // The database is not down but refuses each time: no right to read the table.
        let is_refused = error.refusal().is_some();
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = last.as_ref().filter(|(at, _)| !is_refused && at.elapsed() < STALE);
        recent.map_or(Known::Unusable(Unusable::Unread(error)), |(_, known)| known.clone())
    }

    /// The site at `place` in a network that is too large to be read as a whole.
    ///
    /// # Errors
    /// The database does not answer, or too many others are looked up.
    async fn ask(self: &Arc<Self>, place: Place) -> Result<Picked, &'static str> {
        if let Some(picked) = self.places.get(&place).await {
            return Ok(picked);
        }
        let network = Arc::clone(self);
        let asking = self.tasks.spawn(async move {
            let (reader, sought) = (Arc::clone(&network), place.clone());
            let look_up = async move {
                // Held until the look-up ends, also if its callers do not wait so long.
                let _permit = reader.look_ups.try_acquire().map_err(|_| MANY_AT_ONCE)?;
                reader.look_up(&sought).await.ok_or(UNREAD)
            };
            // Simultaneous calls for one address share a look-up.
            network.places.try_get_with(place, look_up).await.map_err(|why| *why)
        });
        timeout(PATIENCE, asking).await.ok().and_then(Result::ok).unwrap_or(Err(UNREAD))
    }

    async fn look_up(&self, place: &Place) -> Option<Picked> {
        let read = async {
            let mut session = self.database.session().await?;
            let rows = self.reader.at(&mut session, place).await;
            let rows = rows.inspect_err(|error| self.database.heed(error))?;
            session.give_back();
            Ok(rows)
        };
        let rows = self.database.within(READ_LIMIT, read).await;
        let rows = rows.inspect_err(|error| debug!(%error, "a site of the network could not be looked up")).ok()?;
        let rows: Vec<Arc<Blog>> = rows.into_iter().map(Arc::new).collect();
        Some(place.pick(&rows))
    }
}

fn left(why: &'static str) -> Found {
    Found::Left(why.into(), None)
}

fn closed_words(closed: &str) -> &'static str {
    match closed {
        "archived" => "the site of the network is archived",
        "deleted" => "the site of the network is deleted",
        "marked as spam" => "the site of the network is marked as spam",
        _ => "the site of the network is not activated yet",
    }
}

#[cfg(test)]
mod tests;
