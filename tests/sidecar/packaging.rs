//! What packagers rely on: the program tells what it was built from.

mod build;
