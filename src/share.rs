//! A worker's part of a limit that all workers share.

/// One of several workers that share a limit.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// The worker's number, from 0.
    pub worker: usize,
    pub workers: usize,
}

impl Share {
    /// This worker's share. The shares add up to `limit`, except that each is at least one: a
    /// worker without any could not serve.
    pub fn of(self, limit: usize) -> usize {
        let workers = self.workers.max(1);
        (limit / workers + usize::from(self.worker < limit % workers)).max(1)
    }

    /// Like [`Share::of`], with zero as unlimited.
    pub fn of_any(self, limit: usize) -> usize {
        if limit == 0 { 0 } else { self.of(limit) }
    }

    /// Like [`Share::of`], for a limit on what clients have in flight, of which one connection may
    /// have `one`. A connection stays on one worker, and the page of one browser must not exceed
    /// that worker's share while others have room. So the shares may add up to more than `limit`,
    /// by at most `one` per worker.
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
