//! A worker's part of a limit that all workers share.

/// One of several workers that share a limit.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// From 0.
    pub worker: usize,
    pub workers: usize,
}

impl Share {
    /// The shares of all come to `limit`, but that each is at least one: a worker without would answer nobody.
    pub fn of(self, limit: usize) -> usize {
        let workers = self.workers.max(1);
        (limit / workers + usize::from(self.worker < limit % workers)).max(1)
    }

    /// As [`Share::of`], where zero is any number.
    pub fn of_any(self, limit: usize) -> usize {
        if limit == 0 { 0 } else { self.of(limit) }
    }

    /// As [`Share::of`], for a limit of what clients have in flight, of which one connection may have `one`: all of a
    /// connection is at one worker, and a browser's own page must not be too much for that while the others have room. So
    /// the shares may come to more than `limit`, by at most `one` for each worker.
    pub fn of_clients(self, limit: usize, one: usize) -> usize {
        self.of(limit).max(one.min(limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_of_a_limit_come_to_it() {
        for (workers, limit) in [(1, 1), (2, 3), (8, 9), (8, 8), (32, 40), (3, 1_000_000)] {
            let shares = (0..workers).map(|worker| Share { worker, workers }.of(limit));
            assert_eq!(shares.sum::<usize>(), limit, "{workers} workers");
        }
        assert_eq!(Share { worker: 3, workers: 4 }.of(1), 1);
    }

    #[test]
    fn one_connection_has_room_at_any_worker() {
        let of = |limit, one| Share { worker: 31, workers: 32 }.of_clients(limit, one);
        assert_eq!(of(274, 32), 32, "a page with 32 pictures, of one address");
        assert_eq!(of(8_192, 32), 256, "where the share is more, that holds");
        assert_eq!(of(10, 32), 10, "never more than the limit itself");
    }
}
