//! Tracks which ids of the token table have been seen. Pure.
//!
//! Ids are assigned in order and committed out of order: a row may appear below one that was seen
//! before. So the skipped ids are kept as gaps and read again, until they are old and no
//! transaction has a row in them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a gap is read again before its ids are checked for uncommitted rows. An INSERT writes
/// its row as soon as it has the id; an id without even that was rolled back or deleted.
const KEPT: Duration = Duration::from_secs(600);

/// The most gaps kept: each one makes every look slower, and ids that do not grow by one would make
/// any number of them.
const MOST: usize = 4_096;

/// The ids seen so far.
#[derive(Debug)]
pub struct SeenIds {
    /// Every id from here on is unseen; smaller ones are seen or in a gap.
    next: u64,
    /// The first id to the last id, and since when.
    gaps: BTreeMap<u64, (u64, Instant)>,
    /// Whether gaps were dropped unseen.
    has_lost: bool,
}

impl SeenIds {
    /// Ids below `next` are ignored; none from there on was seen.
    pub fn at(next: u64) -> Self {
        SeenIds { next, gaps: BTreeMap::new(), has_lost: false }
    }

    /// The first id that was neither seen nor skipped.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The ids from `first` to `last` were seen.
    pub fn add(&mut self, first: u64, last: u64, now: Instant) {
        if first > self.next {
            self.gaps.insert(self.next, (first - 1, now));
        }
        if last >= self.next {
            self.next = last.saturating_add(1);
        }
        // Gaps that are closed, wholly or in part: at most one begins before `first`.
        let touched: Vec<u64> =
            self.gaps.range(..=last).rev().take_while(|(_, (end, _))| *end >= first).map(|(start, _)| *start).collect();
        for start in touched {
            if let Some((end, since)) = self.gaps.remove(&start) {
                if start < first {
                    self.gaps.insert(start, (first - 1, since));
                }
                if end > last {
                    self.gaps.insert(last + 1, (end, since));
                }
            }
        }
        self.give_up();
    }

    /// The gaps, ascending, ends included.
    pub fn gaps(&self) -> Vec<(u64, u64)> {
        self.gaps.iter().map(|(first, (last, _))| (*first, *last)).collect()
    }

    pub fn count(&self) -> usize {
        self.gaps.len()
    }

    /// The rows `ids` (ascending, none of them seen or in a gap) exist, but are not committed.
    pub fn under_way(&mut self, ids: &[u64], now: Instant) {
        for run in ids.chunk_by(|one, next| one.checked_add(1) == Some(*next)) {
            if let (Some(first), Some(last)) = (run.first(), run.last()) {
                self.gaps.insert(*first, (*last, now));
            }
        }
        self.give_up();
    }

    /// The gaps that were old at `then`.
    pub fn old(&self, then: Instant) -> Vec<(u64, u64)> {
        let old = self.gaps.iter().filter(|(_, (_, since))| is_old(*since, then));
        old.map(|(first, (last, _))| (*first, *last)).collect()
    }

    /// The gaps that were old at `then` have been checked since: of their ids only `under_way`
    /// (ascending) have a row.
    // SECURITY: a gap that was not checked since may hide a live token, however old it is.
    pub fn looked_at(&mut self, then: Instant, under_way: &[u64]) {
        for (first, last) in self.old(then) {
            self.gaps.remove(&first);
            let (from, to) = (under_way.partition_point(|id| *id < first), under_way.partition_point(|id| *id <= last));
            self.under_way(&under_way[from..to], then);
        }
    }

    /// Whether there may be unseen rows that are no longer looked for.
    pub fn has_lost(&self) -> bool {
        self.has_lost
    }

    fn give_up(&mut self) {
        while self.gaps.len() > MOST {
            self.gaps.pop_first();
            self.has_lost = true;
        }
    }
}

fn is_old(since: Instant, then: Instant) -> bool {
    then.saturating_duration_since(since) >= KEPT
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_is_passed_over_is_looked_at_again_for_a_while() {
        let now = Instant::now();
        let mut ids = SeenIds::at(10);
        ids.add(13, 15, now);
        assert_eq!((ids.gaps(), ids.next()), (vec![(10, 12)], 16));
        ids.add(11, 11, now);
        assert_eq!(ids.gaps(), [(10, 10), (12, 12)]);
        ids.add(3, 3, now);
        ids.looked_at(now + KEPT / 2, &[]);
        assert_eq!((ids.gaps(), ids.old(now + KEPT / 2)), (vec![(10, 10), (12, 12)], vec![]));
        ids.looked_at(now + KEPT, &[]);
        assert_eq!((ids.gaps(), ids.next()), (vec![], 16));
        assert!(!ids.has_lost());
    }

    #[test]
    fn one_that_was_never_looked_at_is_kept_however_old_it_is() {
        let now = Instant::now();
        let mut ids = SeenIds::at(10);
        ids.add(11, 11, now);
        ids.add(13, 13, now + 2 * KEPT);
        assert_eq!(ids.gaps(), [(10, 10), (12, 12)]);
        ids.looked_at(now + 2 * KEPT, &[]);
        assert_eq!(ids.gaps(), [(12, 12)]);
    }

    #[test]
    fn what_is_under_way_is_kept_until_it_is_seen() {
        let now = Instant::now();
        let mut ids = SeenIds::at(1_000);
        ids.under_way(&[5, 6, 7, 20], now);
        ids.add(1_003, 1_003, now);
        assert_eq!(ids.gaps(), [(5, 7), (20, 20), (1_000, 1_002)]);
        ids.add(6, 6, now);
        let old = now + KEPT;
        assert_eq!(ids.old(old), [(5, 5), (7, 7), (20, 20), (1_000, 1_002)]);
        ids.looked_at(old, &[5, 1_001, 1_002]);
        assert_eq!((ids.gaps(), ids.old(old)), (vec![(5, 5), (1_001, 1_002)], vec![]));
        ids.looked_at(old + KEPT, &[]);
        assert_eq!((ids.gaps(), ids.next()), (vec![], 1_004));
    }

    #[test]
    fn too_many_are_given_up_and_that_is_told() {
        let now = Instant::now();
        let mut ids = SeenIds::at(1);
        (1..=MOST as u64).for_each(|place| ids.add(2 * place, 2 * place, now));
        assert!(!ids.has_lost());
        let more = 2 * MOST as u64 + 2;
        ids.add(more, more, now);
        assert!(ids.has_lost());
        assert_eq!((ids.count(), ids.gaps()[0]), (MOST, (3, 3)));
    }

    proptest! {
        #[test]
        fn every_id_is_seen_or_in_a_gap_or_ahead(ranges in proptest::collection::vec((1_u64..60, 0_u64..6), 0..20)) {
            let now = Instant::now();
            let mut ids = SeenIds::at(20);
            let mut seen = BTreeSet::new();
            for (first, more) in ranges {
                ids.add(first, first + more, now);
                seen.extend(first..=first + more);
            }
            let gaps = ids.gaps();
            for id in 20..80 {
                let in_gap = gaps.iter().any(|(first, last)| (*first..=*last).contains(&id));
                let ahead = id >= ids.next();
                prop_assert_eq!(u8::from(in_gap) + u8::from(ahead) + u8::from(seen.contains(&id)), 1, "{}", id);
            }
        }
    }
}
