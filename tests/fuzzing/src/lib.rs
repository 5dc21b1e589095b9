//! The product's parsers of untrusted bytes, built without the rest of it, and properties that must
//! hold for any bytes.
//!
//! Everything that is taken from the product is listed here, by file and not as a crate: so 50
//! crates are built for fuzzing instead of 400, and what libFuzzer reports as new is nearly always
//! in a parser.

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

// The files refer to each other by `crate::`.
pub use product::*;

pub mod passed_on;
pub mod proxy_headers;
pub mod refreshes;
