//! What packagers and administrators expect around the program: it shows what it was built from,
//! contains its manual page, and provides completions for real shells.

mod build;
mod manual;
mod shells;
