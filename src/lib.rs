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
//!    with what [`wordpress`] says about itself, where [`verify`] says that it is proven to be what WordPress would do. Whatever
//!    is not certain there goes on to [`forward`].
//! 6. [`exchange::respond`] makes the answers that are ours, and turns every [`exchange::error`] into one.
//!
//! What happens on the way is counted in [`metrics`] and told by [`telemetry`], under the name that [`request_id`] gave to it;
//! [`admin`] shows it to operators, with what [`last_seen`] remembers of database and upstream. [`doctor`] looks at a whole
//! installation without serving; both say what they find in [`finding`]s.
//!
//! Where only PHP understands the site's configuration, [`import`] has PHP say it beforehand.
//!
//! [`config`] is read and checked before all that, [`assemble`] puts the parts together, [`serve`] takes signals, reloads
//! and tells the service manager, and [`drain`] ends everything in order.
//!
//! A module imports only modules of the lines below its own; `tests/sidecar/layers.rs` holds this.

pub mod program;

mod serve;

mod admin;

mod listen;

mod worker;

mod connection;
mod doctor;

mod assemble;
mod exchange;

mod forward;
mod refresh;

mod body;

mod fields;
mod import;
mod index;
mod verify;
mod vet;

mod http1;
mod tls;
mod wordpress;

mod cli;
mod net;
mod telemetry;

mod access_log;
mod admission;
mod config;

mod byte_order_mark;
mod client_addr;
mod declared;
mod drain;
mod finding;
mod last_seen;
mod metrics;
mod panics;
mod printable;
mod request_id;
mod route;
mod share;
mod time;
mod version;

/// What the tests in `tests/` look at. No interface.
#[doc(hidden)]
pub mod internals {
    pub mod admin {
        pub mod exposition {
            pub use crate::admin::exposition::Exposed;
        }
    }
    pub mod assemble {
        pub use crate::assemble::{Parts, Sidecar};
    }
    pub mod config {
        pub use crate::config::{
            CONFIG_VARIABLE, CertificateFiles, Config, DatabaseTls, Faults, Flag, ImportFile, Jwt, Kind, ListenAddress,
            Secret, Sources, WordPress,
        };
        pub mod keys {
            pub use crate::config::keys::{Fallback, KEYS, Key, SECTIONS, find};
        }
    }
    pub mod listen {
        pub mod inherited {
            pub use crate::listen::inherited::Inherited;
        }
        pub mod listeners {
            pub use crate::listen::listeners::open;
        }
    }
    pub mod metrics {
        pub use crate::metrics::{Event, Level, Metrics, Timing};
    }
    pub mod net {
        pub mod dial {
            pub use crate::net::dial::Dialer;
        }
    }
    pub mod printable {
        pub use crate::printable::is_harmful;
    }
    pub mod declared {
        pub use crate::declared::Read;
    }
    pub mod refresh {
        pub use crate::refresh::Refresher;
        pub mod analytics {
            pub use crate::refresh::analytics::{Analytics, Event, EventResult, Failure, Table, write_behind};
        }
        pub mod country {
            pub use crate::refresh::country::Countries;
        }
        pub mod json {
            pub use crate::refresh::json::{Body, Fault, Member, refresh_token};
        }
        pub mod live_tokens {
            pub use crate::refresh::live_tokens::LiveTokens;
        }
        pub mod lookup {
            pub use crate::refresh::lookup::LookUps;
        }
        pub mod row_cache {
            pub use crate::refresh::row_cache::{Key, RowCache, RowRef};
        }
        pub mod store {
            pub use crate::refresh::store::{Child, Store};
        }
    }
    pub mod serve {
        pub use crate::serve::{Load, serve};
    }
    pub mod tls {
        pub use crate::tls::Tls;
    }
    pub mod verify {
        pub use crate::verify::{Gate, Verification};
        pub mod difference {
            pub use crate::verify::difference::{Difference, Kind};
        }
        pub mod verdict {
            pub use crate::verify::verdict::{Class, Observation};
        }
    }
    pub mod wordpress {
        pub mod database {
            pub use crate::wordpress::database::{Database, DatabaseError, Hosts, Session};
        }
        pub mod imported {
            pub use crate::wordpress::imported::CONSTANTS;
        }
        pub mod installation {
            pub use crate::wordpress::installation::installation;
        }
        pub mod site {
            pub use crate::wordpress::site::Columns;
        }
        pub mod text {
            pub use crate::wordpress::text::{ColumnCharset, esc_url_raw, json_ascii, sanitize_text_field, wp_slash};
        }
        pub mod wp_config {
            pub use crate::wordpress::wp_config::{Lookup, Scalar, Surroundings, read};
        }
    }
}
