//! What the native refresh counts about itself. Plain numbers that only grow (but for the queue's depth); who wants to see them
//! reads them here.

pub use crate::metrics::{Counter, Histogram};

/// All numbers.
#[derive(Debug, Default)]
pub struct Counters {
    /// Tokens rotated.
    pub rotated: Counter,
    /// Refused: in no row, or longer than any.
    pub unknown: Counter,
    /// Refused: used or revoked, and not replayed.
    pub used: Counter,
    /// Refused: expired.
    pub expired: Counter,
    /// Refused: the user is gone.
    pub user_not_found: Counter,
    /// The same pair again.
    pub replayed: Counter,
    /// Families revoked because a used token came back.
    pub families_revoked: Counter,
    /// Left to WordPress, because the database failed before anything had begun.
    pub not_begun: Counter,
    /// 503: begun and not finished.
    pub failed: Counter,
    /// 429: the plugin's rate limit.
    pub rate_limited: Counter,
    /// 400: no token, or none that is one.
    pub invalid: Counter,

    /// Left to WordPress: the site's settings, its home URL or its language are not known or not what is needed.
    pub left_for_settings: Counter,
    /// Left to WordPress: for another host than the home URL's.
    pub left_for_host: Counter,
    /// Left to WordPress: an unusual request.
    pub left_for_request: Counter,

    /// Groups taken apart after an error.
    pub taken_apart: Counter,
    /// Rows that another transaction held, so that the item went on alone.
    pub held: Counter,
    /// Another try after a deadlock (1213).
    pub retried_deadlock: Counter,
    /// Another try after a lock wait (1205).
    pub retried_lock_wait: Counter,
    /// Another try after a record that had changed (1020) or a cluster's conflict (1180, 3101).
    pub retried_conflict: Counter,
    /// Another try on another connection.
    pub retried_connection: Counter,
    /// Another try after an error of another number.
    pub retried_other: Counter,

    /// Commits whose answer was lost.
    pub ambiguous: Counter,
    /// Of those: it was stored.
    pub resolved_committed: Counter,
    /// Of those: it was not stored.
    pub resolved_not_committed: Counter,
    /// Of those: the database did not say in time.
    pub unresolved: Counter,

    /// Groups by size: 1, 2, 3–4, 5–8, 9–16, 17–32, 33–64.
    pub groups: [Counter; 7],
    /// Rotations in all groups.
    pub grouped: Counter,
    /// One transaction of a group, from its first statement to the answer to its last.
    pub transactions: Histogram,
    /// Rotations that wait for a group.
    pub queued: Counter,

    /// Look-ups answered by the cache or the map.
    pub found_in_cache: Counter,
    /// Look-ups refused by the negative cache.
    pub known_unknown: Counter,
    /// Tokens looked for by the index.
    pub looked_by_index: Counter,
    /// Tokens looked for in new rows.
    pub looked_in_tail: Counter,
    /// Tokens looked for by reading the whole table.
    pub looked_by_scan: Counter,

    /// Rows deleted by the cleanup.
    pub cleaned: Counter,
}

impl Counters {
    /// A group of `size` was taken from the queue.
    pub fn group(&self, size: usize) {
        self.queued.subtract(size);
        self.grouped.add_many(size);
        let bucket = size.max(1).next_power_of_two().trailing_zeros() as usize;
        if let Some(counter) = self.groups.get(bucket).or(self.groups.last()) {
            counter.add();
        }
    }

    /// A transaction is tried again after the server's error `code`; `None`: after a lost connection.
    pub fn retry(&self, code: Option<u16>) {
        match code {
            Some(1213) => self.retried_deadlock.add(),
            Some(1205) => self.retried_lock_wait.add(),
            Some(1020 | 1180 | 3101) => self.retried_conflict.add(),
            Some(_) => self.retried_other.add(),
            None => self.retried_connection.add(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_go_where_they_belong() {
        let counters = Counters::default();
        counters.queued.add_many(1 + 2 + 3 + 4 + 5 + 33 + 64);
        for size in [1, 2, 3, 4, 5, 33, 64] {
            counters.group(size);
        }
        assert_eq!(counters.groups.each_ref().map(Counter::value), [1, 1, 2, 1, 0, 0, 2]);
        assert_eq!(counters.grouped.value(), 112);
        assert_eq!(counters.queued.value(), 0);
    }
}
