//! The executable; all of it is in [`wp_jwt_sidecar::program`].

use std::process::ExitCode;

/// Each exchange allocates its header fields: many small, short-lived blocks, freed by the worker's
/// thread that allocated them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    wp_jwt_sidecar::program::main()
}
