//! The program; see [`wp_jwt_sidecar::program`].

use std::process::ExitCode;

/// Every exchange allocates its fields: many small blocks that live for a moment, on each worker's own thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    wp_jwt_sidecar::program::main()
}
