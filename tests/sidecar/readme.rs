//! What the README tells people to type and to paste is run here. A fenced block says behind its
//! language what it is called; each has its test, here or in `tests/package`, which installs the
//! package on a Debian of its own.

mod apache;
mod blocks;
mod commands;
pub(crate) mod front;
mod nginx;
mod warnings;

use blocks::block;
