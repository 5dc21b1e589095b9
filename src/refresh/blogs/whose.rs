//! Whose a call is: that of the first site, or of a further one of a network.

use std::sync::Arc;

use http::{Request, header};
use tracing::debug;

use crate::refresh::refresher::{RefreshLog, Refresher};
use crate::wordpress::network::Found;

/// Why a call is left while its site was not looked at yet.
const NOT_LOOKED_AT: &str = "the site of the network is yet to be looked at";

/// Why it is left while many others are.
const MANY_AT_ONCE: &str = "many sites of the network are looked at for the first time";

/// The site that a call may be for.
pub struct Whose {
    pub refresher: Arc<Refresher>,
    /// Why it can only be for the first site of a network: a call for any other is WordPress's for this reason.
    pub only_main: Option<String>,
}

impl From<&Arc<Refresher>> for Whose {
    fn from(refresher: &Arc<Refresher>) -> Self {
        Whose { refresher: Arc::clone(refresher), only_main: None }
    }
}

/// A call that is WordPress's on a network, before anything is known of it but host and path.
pub struct NotOurs {
    pub log: RefreshLog,
    /// The site that it is for, where that is known: its domain and path.
    pub site: Option<String>,
}

impl Refresher {
    /// Who answers this call: on a network, the site that it is for.
    ///
    /// # Errors
    /// It is WordPress's, for the reason that the log says.
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
            Found::Left(why, blog) => left(why, blog.map(|blog| blog.place())),
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
