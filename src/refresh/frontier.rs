//! Which ids of the token table have been seen. Pure.
//!
//! Ids are handed out in order and committed out of order: a row may appear below one that was seen before. So the ids that
//! were passed over are kept as gaps and looked at again, until they were looked at when no transaction can be as old as they are.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a gap is looked at again. A row is inserted in a transaction of milliseconds; what is missing for longer was rolled
/// back or deleted.
const KEPT: Duration = Duration::from_secs(600);

/// Gaps beyond these are given up: each look costs as many, and a table whose ids do not grow by one has no end of them.
const MOST: usize = 4_096;

/// What has been seen.
#[derive(Debug)]
pub struct Frontier {
    /// Every id from here on is unseen; those below are seen or in a gap.
    next: u64,
    /// First id to last id, and since when.
    gaps: BTreeMap<u64, (u64, Instant)>,
    /// Gaps were given up unseen.
    has_lost: bool,
}

impl Frontier {
    /// Nothing from `next` on was seen. What is below is somebody else's business.
    pub fn at(next: u64) -> Self {
        Frontier { next, gaps: BTreeMap::new(), has_lost: false }
    }

    /// The first id of those that were never seen nor passed over.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The ids from `first` to `last` were seen.
    pub fn seen(&mut self, first: u64, last: u64, now: Instant) {
        if first > self.next {
            self.gaps.insert(self.next, (first - 1, now));
        }
        if last >= self.next {
            self.next = last.saturating_add(1);
        }
        // What was a gap and is none any more: at most one gap begins before `first`.
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
        while self.gaps.len() > MOST {
            self.gaps.pop_first();
            self.has_lost = true;
        }
    }

    /// The gaps, ascending, ends included.
    pub fn gaps(&self) -> Vec<(u64, u64)> {
        self.gaps.iter().map(|(first, (last, _))| (*first, *last)).collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.gaps.len()
    }

    /// All gaps of `then` were looked at since. What was still missing in those that were old by then, stays so.
    // SECURITY: one that nobody has looked at since may hold a live token, however old it is.
    pub fn looked_at(&mut self, then: Instant) {
        self.gaps.retain(|_, (_, since)| then.saturating_duration_since(*since) < KEPT);
    }

    /// Whether rows may be there that were never seen and are not looked for any more.
    pub fn has_lost(&self) -> bool {
        self.has_lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_is_passed_over_is_looked_at_again_for_a_while() {
        let now = Instant::now();
        let mut frontier = Frontier::at(10);
        frontier.seen(13, 15, now);
        assert_eq!((frontier.gaps(), frontier.next()), (vec![(10, 12)], 16));
        frontier.seen(11, 11, now);
        assert_eq!(frontier.gaps(), [(10, 10), (12, 12)]);
        frontier.seen(3, 3, now);
        frontier.looked_at(now + KEPT / 2);
        assert_eq!(frontier.gaps(), [(10, 10), (12, 12)]);
        frontier.looked_at(now + KEPT);
        assert_eq!((frontier.gaps(), frontier.next()), (vec![], 16));
        assert!(!frontier.has_lost());
    }

    #[test]
    fn one_that_was_never_looked_at_is_kept_however_old_it_is() {
        let now = Instant::now();
        let mut frontier = Frontier::at(10);
        frontier.seen(11, 11, now);
        frontier.seen(13, 13, now + 2 * KEPT);
        assert_eq!(frontier.gaps(), [(10, 10), (12, 12)]);
        frontier.looked_at(now + 2 * KEPT);
        assert_eq!(frontier.gaps(), [(12, 12)]);
    }

    #[test]
    fn too_many_are_given_up_and_that_is_told() {
        let now = Instant::now();
        let mut frontier = Frontier::at(1);
        (1..=MOST as u64).for_each(|place| frontier.seen(2 * place, 2 * place, now));
        assert!(!frontier.has_lost());
        let more = 2 * MOST as u64 + 2;
        frontier.seen(more, more, now);
        assert!(frontier.has_lost());
        assert_eq!((frontier.count(), frontier.gaps()[0]), (MOST, (3, 3)));
    }

    proptest! {
        #[test]
        fn every_id_is_seen_or_in_a_gap_or_ahead(ranges in proptest::collection::vec((1_u64..60, 0_u64..6), 0..20)) {
            let now = Instant::now();
            let mut frontier = Frontier::at(20);
            let mut seen = BTreeSet::new();
            for (first, more) in ranges {
                frontier.seen(first, first + more, now);
                seen.extend(first..=first + more);
            }
            let gaps = frontier.gaps();
            for id in 20..80 {
                let in_gap = gaps.iter().any(|(first, last)| (*first..=*last).contains(&id));
                let ahead = id >= frontier.next();
                prop_assert_eq!(u8::from(in_gap) + u8::from(ahead) + u8::from(seen.contains(&id)), 1, "{}", id);
            }
        }
    }
}
