//! Finds the site of a network that a call is for.

use std::sync::Arc;

use http::{Request, header};
use tracing::debug;

use crate::refresh::refresher::{RefreshLog, Refresher};
use crate::wordpress::network::Found;

/// The reason in the log while the first check of the call's site is not done.
const NOT_LOOKED_AT: &str = "the settings of the network's site have not been read yet";

/// The reason in the log while too many other sites are being set up.
const MANY_AT_ONCE: &str = "the settings of many sites of the network are being read";

/// The site that a call may be for.
pub struct Whose {
    pub refresher: Arc<Refresher>,
    /// Why only the first site of the network can be native. Calls for other sites are left to
    /// WordPress for this reason.
    pub only_main: Option<String>,
}

impl From<&Arc<Refresher>> for Whose {
    fn from(refresher: &Arc<Refresher>) -> Self {
        Whose { refresher: Arc::clone(refresher), only_main: None }
    }
}

/// A call that is left to WordPress because of its host and path.
pub struct NotOurs {
    pub log: RefreshLog,
    /// Domain and path of the call's site, if known.
    pub site: Option<String>,
}

impl Refresher {
    /// Finds the site that answers this call. On a single site, that is always this one.
    ///
    /// # Errors
    /// The call is left to WordPress; the log line has the reason.
    pub async fn at<B>(self: &Arc<Self>, request: &Request<B>) -> Result<Whose, NotOurs> {
        let Some(blogs) = &self.blogs else { return Ok(self.into()) };
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let left = |why: &str, site: Option<String>| {
            self.counters.left_for_settings.add();
            debug!(reason = why, site, "the call goes to WordPress");
            Err(NotOurs { log: RefreshLog::left(why.to_owned()), site })
        };
        match blogs.network.find(host, request.uri().path()).await {
            Found::Main => Ok(self.into()),
            Found::OnlyMain(why) => Ok(Whose { only_main: Some(why), ..self.into() }),
            Found::Left(why, blog) => left(&why, blog.map(|blog| blog.place())),
            Found::Blog(blog) => {
                if let Some(refresher) = blogs.looked_at(&blog) {
                    return Ok(Whose { refresher, only_main: None });
                }
                let site = || Some(blog.place());
                let Ok(_place) = blogs.at_once.try_acquire() else { return left(MANY_AT_ONCE, site()) };
                let in_use = blogs.used(self, &blog).await;
                if in_use.is_looked_at().await { Ok((&in_use.refresher).into()) } else { left(NOT_LOOKED_AT, site()) }
            }
        }
    }
}
