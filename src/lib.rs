//! A reverse proxy for WordPress that answers one route itself: the token refresh of the plugin JWT Auth Pro.
//!
//! The way of a request, in the order of the modules:
//!
//! 1. [`listen`] accepts a connection and hands it to a [`worker`]: one thread, one runtime, its own upstream connections.
//! 2. [`connection`] makes HTTP of it, [`http1`] or with [`tls`] also HTTP/2, and calls [`exchange`] for each request; [`net`]
//!    has the streams below, and [`time::pace`] says which side is too slow.
//! 3. [`exchange`] lets [`vet`] refuse what must not pass, asks [`client_addr`] who the client is and [`route`] what the request is.
//! 4. Nearly every request takes [`forward`]: made fit for the next hop (by the rules of [`fields`]), sent, its answer passed
//!    on as it arrives.
//! 5. A refresh takes [`refresh`]: body, rate limit, row, rotation in one transaction on the database side's own runtime,
//!    with what [`wordpress`] says about itself. Whatever is not certain there goes on to [`forward`].
//! 6. [`exchange::respond`] makes the answers that are ours, and turns every [`exchange::error`] into one.
//!
//! What happens on the way is counted in [`metrics`] and told by [`telemetry`], under the name that [`request_id`] gave to it;
//! [`admin`] shows it to operators, with what [`last_seen`] remembers of database and upstream. [`doctor`] looks at a whole
//! installation without serving; both say what they find in [`finding`]s.
//!
//! [`config`] is read and checked before all that, [`assemble`] puts the parts together, [`serve`] takes signals, reloads
//! and tells the service manager, and [`drain`] ends everything in order.
//!
//! A module imports only modules of the lines below its own; `tests/sidecar/layers.rs` holds this.

pub mod serve;

pub mod admin;

pub mod listen;

pub mod worker;

pub mod connection;
pub mod doctor;

pub mod assemble;
pub mod exchange;

pub mod forward;
pub mod refresh;

pub mod body;

pub mod fields;
pub mod index;
pub mod vet;

pub mod http1;
pub mod tls;
pub mod wordpress;

pub mod cli;
pub mod net;
pub mod telemetry;

pub mod access_log;
pub mod admission;
pub mod config;

pub mod byte_order_mark;
pub mod client_addr;
pub mod drain;
pub mod finding;
pub mod last_seen;
pub mod metrics;
pub mod panics;
pub mod printable;
pub mod request_id;
pub mod route;
pub mod share;
pub mod time;
pub mod version;
