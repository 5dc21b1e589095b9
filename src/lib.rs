//! A reverse proxy for WordPress that answers one route itself: the token refresh of the plugin
//! JWT Auth Pro. Everything else is forwarded unchanged.
//!
//! # Layers
//!
//! The modules are declared below in the order of their layers, from the running program down to
//! the leaves. A module imports only modules of the layers below its own;
//! `tests/sidecar/layers.rs` enforces this.
//!
//! # The way of a request
//!
//! 1. [`listen`] accepts a connection and hands it to a [`worker`]: one thread with one runtime and
//!    its own upstream connections.
//! 2. [`connection`] reads requests from it, by [`http1`] or, with [`tls`], also by HTTP/2, and
//!    calls [`exchange`] for each. [`net`] holds the streams beneath, and [`time::pace`] decides
//!    when a client or an upstream is too slow.
//! 3. [`exchange`] has [`vet`] refuse what must not pass, finds the client's address by
//!    [`client_addr`], and asks [`route`] whether the request is a refresh.
//! 4. Nearly every request goes to [`forward`]: the rules of [`fields`] make its header fit for the
//!    next hop, the request is sent, and the response is passed on as it arrives.
//! 5. A refresh goes to [`refresh`]: body, rate limit, row, and the rotation in one transaction, on
//!    the runtime of the database side. [`wordpress`] supplies the site's settings; [`verify`]
//!    says whether native refreshes are proven to match WordPress's own. In any doubt the refresh
//!    is left to [`forward`].
//! 6. [`exchange::respond`] writes the sidecar's own responses, also for each [`exchange::error`].
//!
//! [`shared_store`] is what several sidecars of a site share besides its database.
//!
//! # Beside the request
//!
//! [`metrics`] counts and [`telemetry`] logs what happens, under the id that [`request_id`] gives
//! to each request. [`admin`] shows it to operators, together with the state of database and
//! upstream that [`last_seen`] keeps. [`doctor`] examines a whole installation without serving.
//! Both report [`finding`]s.
//!
//! Where only PHP can evaluate the site's configuration, [`import`] runs PHP once to read it.
//!
//! # The program
//!
//! [`program`] reads and checks the [`config`] first; [`assemble`] then puts the parts together;
//! [`serve`] handles signals, reloads and the service manager; [`drain`] ends everything in order.

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
mod shared_store;
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

/// What the tests in `tests/` use. Not a public interface.
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
            pub use crate::refresh::store::{Child, LockedRow, Store};
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
