//! What packagers and admins rely on around the program: it tells what it was built from, brings its own manual page, and makes
//! real shells complete.

mod build;
mod manual;
mod shells;
