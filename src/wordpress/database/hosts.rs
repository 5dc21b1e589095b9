//! The hosts that the site's database may be on, and the order in which they are tried.
//!
//! Only one is used at a time: the one that accepts writes. Replicas are never read, since they may
//! not yet have a token that a client already has.

use std::fmt;

use mysql_async::{Opts, OptsBuilder};

/// The possible hosts of the database, the usual one first. They are one database: its primary, and
/// servers that may take its place.
#[derive(Clone, PartialEq)]
pub struct Hosts {
    opts: Vec<Opts>,
    is_sites_own: bool,
}

impl Hosts {
    /// In the order of attempts.
    pub fn new(opts: Vec<Opts>) -> Self {
        Hosts { opts, is_sites_own: true }
    }

    /// The same, with whether WordPress connects as the sidecar does.
    pub fn with_sites_own(self, is_sites_own: bool) -> Self {
        Hosts { is_sites_own, ..self }
    }

    /// Whether WordPress connects to one of them as the same user, as far as known. Then everything
    /// that the database refuses to the sidecar it also refuses to WordPress.
    pub fn is_sites_own(&self) -> bool {
        self.is_sites_own
    }

    /// The connection options of each.
    pub fn opts(&self) -> &[Opts] {
        &self.opts
    }

    /// The [`label`] of each, for people.
    pub fn labels(&self) -> Vec<String> {
        self.opts.iter().map(label).collect()
    }
}

impl From<OptsBuilder> for Hosts {
    fn from(opts: OptsBuilder) -> Self {
        Hosts::new(vec![opts.into()])
    }
}

// SECURITY: `Opts` prints its password.
impl fmt::Debug for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.labels()).finish()
    }
}

/// `user@host:port/name` or `user@/path/to.sock/name`, for logs: without the password.
pub fn label(opts: &Opts) -> String {
    let (host, port) = (opts.ip_or_hostname(), opts.tcp_port());
    // A URL has the brackets of an IPv6 address, wp-config.php's host does not.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let place = match opts.socket() {
        Some(socket) => socket.to_owned(),
        None if host.contains(':') => format!("[{host}]:{port}"),
        None => format!("{host}:{port}"),
    };
    format!("{}@{place}/{}", opts.user().unwrap_or_default(), opts.db_name().unwrap_or_default())
}

/// The indices of `count` hosts in the order of attempts: the one in use, then the others in their
/// order. Pure.
pub(super) fn order(in_use: usize, count: usize) -> impl Iterator<Item = usize> {
    std::iter::once(in_use).chain((0..count).filter(move |place| *place != in_use)).take(count)
}

/// Counts how often in a row an earlier host was found to accept writes, so that connections do not
/// return to one that comes and goes. Pure.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    place: usize,
    looks: u32,
}

impl Recovery {
    /// `found` is the first earlier host that accepts writes. Returns the host to return to, if it
    /// is time.
    pub(super) fn saw(&mut self, found: Option<usize>, looks: u32) -> Option<usize> {
        let Some(place) = found else {
            self.looks = 0;
            return None;
        };
        self.looks = if place == self.place { self.looks + 1 } else { 1 };
        self.place = place;
        if self.looks < looks {
            return None;
        }
        self.looks = 0;
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_in_use_comes_first_and_each_comes_once() {
        let order = |in_use, count| super::order(in_use, count).collect::<Vec<_>>();
        assert_eq!(order(0, 1), [0]);
        assert_eq!(order(0, 3), [0, 1, 2]);
        assert_eq!(order(2, 3), [2, 0, 1]);
        assert_eq!(order(1, 3), [1, 0, 2]);
        assert_eq!(order(0, 0), [0; 0]);
    }

    #[test]
    fn a_host_that_comes_and_goes_is_not_gone_back_to() {
        let mut recovery = Recovery::default();
        for found in [Some(0), Some(0), None, Some(0), Some(1), Some(0), Some(0)] {
            assert_eq!(recovery.saw(found, 3), None);
        }
        assert_eq!(recovery.saw(Some(0), 3), Some(0));
        assert_eq!(recovery.saw(Some(0), 3), None, "counted again");
    }

    #[test]
    fn labels_hold_no_password() {
        for (url, shown) in [
            ("mysql://u:secret@db:3307/d", "u@db:3307/d"),
            ("mysql://u:secret@[::1]/d", "u@[::1]:3306/d"),
            ("mysql://u:secret@localhost/d?socket=%2Frun%2Fx.sock", "u@/run/x.sock/d"),
        ] {
            let hosts = Hosts::new(vec![Opts::from_url(url).unwrap()]);
            assert_eq!(hosts.labels(), [shown]);
            assert_eq!(format!("{hosts:?}"), format!("[{shown:?}]"));
        }
    }
}
