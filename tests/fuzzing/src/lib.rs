//! The parsers of the product that strangers reach, built without the rest of it, and what must hold of them for any bytes.
//!
//! All that is taken from the product is named here. It is taken by file and not as a crate: so 50 crates are built for
//! fuzzing and not 400, and what libFuzzer counts as new is nearly always something in a parser.

#![allow(dead_code)]

#[path = "../../../src"]
mod product {
    pub mod client_addr;
    pub mod route;
    pub mod vet;

    pub mod config {
        mod names;
        pub use names::ProxyProtocol;
    }

    pub mod fields {
        pub mod hop_by_hop;
    }

    pub mod http1 {
        pub mod against_hyper;
        pub mod decoder;
        pub mod encoder;
        pub mod error;
        pub mod fields;
        pub mod frame;
        pub mod head;
        pub mod original;
        pub mod output;
        pub mod target;
        pub mod write;
    }

    pub mod net {
        pub mod proxy_protocol;
    }

    pub mod refresh {
        pub mod json;
        pub mod request;
    }
}

// The files name each other by `crate::`.
pub use product::*;

pub mod passed_on;
pub mod proxy_headers;
pub mod refreshes;
