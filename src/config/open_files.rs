//! Divides the limit of open files: each connection takes one, to a client as well as to the
//! upstream. Pure except [`limit`] and [`raise_limit`].

use std::fmt;
use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What a worker's runtime keeps open (measured: `/proc/PID/fd` of one with 1, 2 and 8 workers).
const PER_WORKER: u64 = 4;

/// What the program keeps open otherwise: the other runtimes, standard streams, the log (19
/// measured, without listeners).
const PROGRAM: u64 = 24;

/// The admin listener's connections, and one more that it accepts before it closes another.
const ADMIN: u64 = 17;

/// Connections to the database beyond `wordpress.database_connections`: one that checks whether the
/// server responds, or another host, and one that probes a certificate.
const DATABASE: u64 = 2;

/// What is open briefly: a connection that was accepted but not counted yet, the home question, a
/// name resolution, wp-config.php and certificates during a reload.
const MOMENTS: u64 = 32;

/// More connections than any machine can have, so that sums stay small without a limit.
const PLENTY: u64 = 10_000_000;

/// How open files are divided. Shown by `check`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    /// RLIMIT_NOFILE, the hard one.
    pub limit: u64,
    /// Kept for the program itself, its listeners, the database and operators.
    pub own: u64,
    /// Client connections, at most.
    pub clients: usize,
    /// Connections to the upstream, at most. Zero: not limited, by configuration.
    pub upstream: usize,
}

/// The configured numbers.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// `[server] workers`, resolved.
    pub workers: usize,
    pub listeners: usize,
    /// `[wordpress] database_connections`.
    pub database: usize,
    /// `[server] max_connections`.
    pub clients: usize,
    /// `[upstream] max_connections`, if set. Zero: unlimited.
    pub upstream: Option<usize>,
}

/// The limit for `serve`. A shell's soft limit is often 1,024, for programs that use select(2); so
/// `check` and `doctor`, which run in a shell, use the hard limit like the service.
pub fn limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(PLENTY, |(_, hard)| hard.min(PLENTY))
}

/// Raises this process's limit to the hard limit.
///
/// # Errors
/// The system's error.
pub fn raise_limit() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}

impl OpenFiles {
    /// Divides the limit. Clients get the configured number, but at most half if the upstream needs
    /// the other half: a request in flight takes one of each.
    pub fn divide(limit: u64, wanted: Wanted) -> Self {
        let count = |number: usize| u64::try_from(number).unwrap_or(PLENTY);
        let database = count(wanted.database) + DATABASE;
        let own = PROGRAM + PER_WORKER * count(wanted.workers) + count(wanted.listeners) + ADMIN + database + MOMENTS;
        let left = limit.saturating_sub(own);
        let for_clients = match wanted.upstream {
            None => left / 2,
            Some(0) => left,
            Some(upstream) => left.saturating_sub(count(upstream)).max(left / 2),
        };
        let clients = for_clients.min(count(wanted.clients)).max(1);
        let upstream = match wanted.upstream {
            None => usize::try_from(left.saturating_sub(clients).max(1)).unwrap_or(usize::MAX),
            Some(upstream) => upstream,
        };
        OpenFiles { limit, own, clients: usize::try_from(clients).unwrap_or(usize::MAX), upstream }
    }

    /// What an operator should check: the configured numbers do not fit.
    pub fn warning(&self, wanted: Wanted) -> Option<String> {
        let raise = "raise it (LimitNOFILE= in the unit, or ulimit -Hn)";
        let OpenFiles { limit, own, clients, upstream } = self;
        if *clients < wanted.clients {
            return Some(format!(
                "server.max_connections: {} client connections do not fit the limit of open files, which is {limit}: {clients} \
                 are accepted at once; {raise}, or lower the key",
                wanted.clients
            ));
        }
        let all = own.saturating_add(u64::try_from(clients.saturating_add(*upstream)).unwrap_or(PLENTY));
        (wanted.upstream.is_some_and(|upstream| upstream > 0) && all > *limit).then(|| {
            format!(
                "upstream.max_connections: {upstream} connections to the upstream and {clients} of clients do not fit the limit \
                 of open files, which is {limit}, {own} of them for the program itself; {raise}, or lower one of the keys"
            )
        })
    }

    /// Like [`OpenFiles::warning`], if connections to the upstream are only limited by the requests
    /// in flight.
    pub fn unlimited_warning(&self, exchanges: usize) -> Option<String> {
        let OpenFiles { limit, own, clients, upstream } = self;
        let exchanges = if exchanges == 0 { PLENTY } else { u64::try_from(exchanges).unwrap_or(PLENTY) };
        let all = own.saturating_add(u64::try_from(*clients).unwrap_or(PLENTY)).saturating_add(exchanges);
        (*upstream == 0 && all > *limit).then(|| {
            format!(
                "upstream.max_connections = 0 sets no limit, and {clients} client connections with as many to the upstream as \
                 there are requests in flight do not fit the limit of open files, which is {limit}; leave the key out, and it \
                 follows from that limit"
            )
        })
    }
}

impl fmt::Display for OpenFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OpenFiles { limit, own, clients, upstream } = self;
        write!(f, "limit {limit}: {clients} client connections, ")?;
        match upstream {
            0 => f.write_str("any number of connections to the upstream")?,
            _ => write!(f, "{upstream} connections to the upstream")?,
        }
        write!(f, ", {own} for the database, operators and the program itself")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(clients: usize, upstream: Option<usize>) -> Wanted {
        Wanted { workers: 2, listeners: 2, database: 16, clients, upstream }
    }

    fn divided(limit: u64, clients: usize, upstream: Option<usize>) -> (usize, usize, bool) {
        let wanted = wanted(clients, upstream);
        let divided = OpenFiles::divide(limit, wanted);
        (divided.clients, divided.upstream, divided.warning(wanted).is_some())
    }

    #[test]
    fn what_fits_stays_and_what_does_not_is_halved_with_a_warning() {
        // 101 are for the program itself.
        assert_eq!(divided(65_536, 4_096, None), (4_096, 61_339, false), "the unit's");
        assert_eq!(divided(1_200, 4_096, None), (549, 550, true));
        assert_eq!(divided(1_024, 400, None), (400, 523, false));
        assert_eq!(divided(1_024, 4_096, Some(50)), (873, 50, true));
        assert_eq!(divided(1_024, 400, Some(50)), (400, 50, false));
        assert_eq!(divided(1_024, 400, Some(800)), (400, 800, true));
        assert_eq!(divided(1_024, 400, Some(0)), (400, 0, false));
        assert_eq!(divided(1_024, 4_096, Some(0)), (923, 0, true));
        assert_eq!(divided(10, 4_096, None), (1, 1, true), "too few for anything, but it starts");
    }

    #[test]
    fn without_a_limit_for_the_upstream_the_requests_in_flight_count() {
        let warns = |limit, upstream, exchanges| {
            OpenFiles::divide(limit, wanted(400, upstream)).unlimited_warning(exchanges).is_some()
        };
        assert!(!warns(65_536, Some(0), 800));
        assert!(warns(1_200, Some(0), 800));
        assert!(warns(65_536, Some(0), 0), "none in flight is limited either");
        assert!(!warns(1_200, Some(50), 800) && !warns(1_200, None, 0));
    }

    #[test]
    fn by_default_all_that_may_be_open_fits() {
        for limit in (200..20_000).step_by(100) {
            let divided = OpenFiles::divide(limit, wanted(4_096, None));
            assert!(divided.own + (divided.clients + divided.upstream) as u64 <= limit, "{divided:?}");
        }
    }
}
