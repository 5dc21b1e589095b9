//! The commands and snippets of the documents, run. A fenced block has a name behind its language;
//! each has its test, here or in `tests/package`, which installs the package on a Debian of its own.
//! The pages themselves are short, their links lead somewhere, and what they name exists.

mod apache;
pub(crate) mod blocks;
mod commands;
mod development;
pub(crate) mod front;
mod nginx;
mod pages;
mod pictures;
mod settings;
mod tables;
mod warnings;
mod web_servers;

use blocks::block;
