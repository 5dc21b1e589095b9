//! The counters of the native refresh. They only grow, except the depth of the queue.

use crate::metrics::table::Series;
pub use crate::metrics::{Counter, Histogram};

/// Declares [`Counters`]: each counter's field with its series, grouped by family. A new counter
/// needs one line here and one `add` where it happens.
macro_rules! counters {
    ($($family:literal $help:literal { $($(#[$doc:meta])* $field:ident $({ $label:ident = $value:literal })?),+ $(,)? })+) => {
        /// All counters.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[doc = $help] $(#[$doc])* pub $field: Counter,)+)+
            /// Groups by size: 1, 2, 3–4, 5–8, 9–16, 17–32, 33–64.
            pub groups: [Counter; 7],
            pub grouped: Counter,
            /// The duration of a group's transaction, from its first statement to the result of its
            /// last.
            pub transactions: Histogram,
            /// Rotations waiting for a group.
            pub queued: Counter,
        }

        impl Counters {
            /// All counters except queue and buckets, grouped by family.
            pub fn table(&self) -> impl Iterator<Item = (Series, u64)> {
                [$($((
                    Series { family: $family, help: $help, labels: &[$((stringify!($label), $value))?] },
                    self.$field.value(),
                ),)+)+]
                .into_iter()
            }
        }
    };
}

counters! {
    "refreshes" "Refresh calls that were decided here, by outcome." {
        rotated { outcome = "rotated" },
        /// The same pair was returned again.
        replayed { outcome = "replayed" },
        /// Refused: the token is in no row, or longer than the column.
        unknown { outcome = "unknown" },
        /// Refused: the token is used or revoked, and was not replayed.
        used { outcome = "used" },
        expired { outcome = "expired" },
        user_not_found { outcome = "user_not_found" },
        /// 400: no token, or an invalid one.
        invalid { outcome = "invalid" },
        /// 429: the plugin's rate limit.
        rate_limited { outcome = "rate_limited" },
        /// 503: begun and not completed.
        failed { outcome = "failed" },
    }
    "refreshes_left" "Refresh calls that were left to WordPress, by reason." {
        /// The site's settings, its home URL or its language are unknown or not as needed.
        left_for_settings { reason = "settings" },
        /// The request is for a host other than the home URL's.
        left_for_host { reason = "host" },
        /// An unusual request.
        left_for_request { reason = "request" },
        /// It is not verified that WordPress would do the same, or WordPress would not.
        left_unverified { reason = "verification" },
        /// The database failed before the rotation had begun.
        not_begun { reason = "database" },
    }
    "rotation_retries" "Rotations tried again, by what went wrong before." {
        /// 1213.
        retried_deadlock { cause = "deadlock" },
        /// 1205.
        retried_lock_wait { cause = "lock_wait" },
        /// A changed record (1020) or a cluster's conflict (1180, 3101).
        retried_conflict { cause = "conflict" },
        retried_connection { cause = "connection" },
        retried_other { cause = "other" },
    }
    "ambiguous_commits" "Commits whose answer was lost." { ambiguous }
    "ambiguous_commits_resolved" "What was found out about commits whose answer was lost." {
        resolved_committed { result = "committed" },
        resolved_not_committed { result = "not_committed" },
        /// The database did not respond in time.
        unresolved { result = "unknown" },
    }
    "token_lookups" "Tokens looked up, by where their row was found." {
        /// Or in the map of live tokens.
        found_in_cache { by = "cache" },
        known_unknown { by = "negative_cache" },
        looked_by_index { by = "index" },
        looked_in_tail { by = "new_rows" },
        looked_by_scan { by = "table" },
    }
    "causal_look_ups" "Tokens that a node of a cluster did not have and was asked for once more, with all that the others had committed, by result." {
        /// The node had been behind.
        was_behind { result = "found" },
        is_absent { result = "absent" },
        /// Not in time: 503.
        not_caught_up { result = "failed" },
    }
    "families_revoked" "Token families revoked because a used token came back." { families_revoked }
    "groups_taken_apart" "Transactions of several rotations that failed and were taken apart." { taken_apart }
    "rows_held" "Rotations that met a row that another transaction held." { held }
    "rows_cleaned" "Old rows deleted." { cleaned }
}

impl Counters {
    /// Counts a group of `size`.
    pub fn group(&self, size: usize) {
        self.queued.subtract(size);
        self.grouped.add_many(size);
        let bucket = size.max(1).next_power_of_two().trailing_zeros() as usize;
        if let Some(counter) = self.groups.get(bucket).or(self.groups.last()) {
            counter.add();
        }
    }

    /// Counts a retry after the server's error `code`, or (`None`) after a lost connection.
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
