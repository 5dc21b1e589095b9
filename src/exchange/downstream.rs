//! The client's connection as its exchanges see it.

use std::rc::Rc;
use std::sync::Arc;

use http::HeaderValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::context::{Context, LatestContext};
use crate::admission::per_address::Admitted;
use crate::admission::places::{NoPlace, Places};
use crate::client_addr::{self, Peer};
use crate::forward::request;
use crate::metrics::{Level, Open};

/// A client's connection under one version of the settings. It lives as long as the connection,
/// also as a tunnel.
pub struct Downstream {
    pub context: Rc<Context>,
    pub peer: Peer,
    /// The peer's address, for `X-Forwarded-For`.
    pub peer_field: HeaderValue,
    /// Whether the peer [is believed](Peer::is_trusted).
    pub peer_is_trusted: bool,
    /// Whether the peer is a proxy, whose connection carries the requests of many clients, even if
    /// it does not name them.
    pub peer_is_proxy: bool,
    /// Free permits for exchanges of its address; `None` if unlimited.
    address_exchanges: Option<Arc<Semaphore>>,
    /// Free permits for bodies of its address that are sent without waiting for their start; `None`
    /// if unlimited.
    pub early_bodies: Option<Arc<Semaphore>>,
    latest: Rc<LatestContext>,
    admission: Rc<Admission>,
}

/// The permits and counts that a connection holds.
struct Admission {
    /// Counts it among the open connections.
    _open: Open,
    /// Its permit of `[server] max_connections`.
    _permit: OwnedSemaphorePermit,
    /// Its permit among the connections of its address; `None` for a proxy.
    place: Option<Admitted>,
}

/// Too many connections are open from one address.
pub struct TooMany;

impl Downstream {
    /// The connection of `peer`, which holds `permit` until it is closed.
    ///
    /// # Errors
    /// Its address has `[server] max_connections_per_address` open.
    pub fn admit(latest: Rc<LatestContext>, peer: Peer, permit: OwnedSemaphorePermit) -> Result<Rc<Self>, TooMany> {
        let context = latest.context();
        let place = match is_proxy(peer, &context) {
            true => None,
            false => Some(context.per_address.admit(peer.address.ip()).ok_or(TooMany)?),
        };
        let admission = Admission { _open: context.metrics.open(Level::Connections), _permit: permit, place };
        let field = request::address(peer.address.ip());
        Ok(Rc::new(Downstream::of(context, latest, peer, field, Rc::new(admission))))
    }

    /// The same connection under the settings in effect, if they have changed.
    pub fn changed(&self) -> Option<Rc<Downstream>> {
        if self.latest.is(&self.context) {
            return None;
        }
        let (latest, admission) = (Rc::clone(&self.latest), Rc::clone(&self.admission));
        let changed = Downstream::of(latest.context(), latest, self.peer, self.peer_field.clone(), admission);
        Some(Rc::new(changed))
    }

    fn of(
        context: Rc<Context>,
        latest: Rc<LatestContext>,
        peer: Peer,
        peer_field: HeaderValue,
        admission: Rc<Admission>,
    ) -> Self {
        let peer_is_proxy = is_proxy(peer, &context);
        let place = admission.place.as_ref().filter(|_| !peer_is_proxy);
        Downstream {
            peer_is_trusted: peer.is_trusted(&context.config.forwarded.trusted_proxies),
            address_exchanges: place.and_then(|place| place.exchanges(&context.per_address, context.share)),
            early_bodies: place.and_then(|place| place.early_bodies(&context.per_address)),
            peer_is_proxy,
            context,
            peer,
            peer_field,
            latest,
            admission,
        }
    }

    /// Waits for the permits that an exchange needs.
    ///
    /// # Errors
    /// There were none in time.
    pub async fn places(&self) -> Result<Places, NoPlace> {
        let context = &self.context;
        // The wait for a permit is as long as that for a connection to the upstream.
        let wait = context.config.upstream.connect_timeout;
        Places::take(self.address_exchanges.as_ref(), context.exchanges.as_ref(), wait).await
    }
}

fn is_proxy(peer: Peer, context: &Context) -> bool {
    client_addr::is_trusted(peer.address.ip(), &context.config.forwarded.trusted_proxies)
}
