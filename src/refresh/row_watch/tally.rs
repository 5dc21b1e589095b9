//! Combines the results of an epoch's rows. Pure.

use std::collections::VecDeque;

use super::judge::Judged;
use crate::verify::difference::{Difference, Kind};
use crate::wordpress::access_token::Proof;

/// How many of WordPress's last rows are considered.
const LAST: usize = 20;

/// The keys are doubted after at least so many rows, none of which fits.
const DOUBTFUL: usize = 3;

/// So many consecutive tokens must be issued in the future: a single one may come from setting a
/// clock.
const AHEAD: u32 = 3;

/// The rows that WordPress has written in an epoch.
#[derive(Debug, Default)]
pub struct Tally {
    /// Whether the hash of each of the last rows fits.
    proved: VecDeque<bool>,
    ahead: u32,
    /// The lifetime of the last tokens that differ from the setting, and how many in a row have it.
    lifetime: Option<(i64, usize)>,
}

impl Tally {
    /// Counts a row. Returns a difference of the site, once there is one.
    pub fn add(&mut self, judged: &Judged) -> Option<Difference> {
        let is_proved = match judged.proof {
            // Written by a sidecar.
            Proof::Ours => return None,
            Proof::Plain => Some(true),
            Proof::Foreign => Some(false),
            Proof::Unknown => None,
        };
        if let Some(is_proved) = is_proved {
            if self.proved.len() == LAST {
                self.proved.pop_front();
            }
            self.proved.push_back(is_proved);
        }
        self.ahead = if judged.is_ahead { self.ahead.saturating_add(1) } else { 0 };
        let other = judged.lifetime.filter(|_| judged.fault.as_ref().is_some_and(|fault| fault.kind == Kind::Lifetime));
        self.lifetime = match (self.lifetime, other) {
            (Some((seconds, rows)), Some(other)) if seconds == other => Some((other, rows.saturating_add(1))),
            (_, other) => other.map(|other| (other, 1)),
        };
        match &judged.fault {
            Some(_) if judged.is_ahead && self.ahead < AHEAD => None,
            Some(_) if judged.proof == Proof::Foreign && self.doubts_keys() => Some(self.other_keys()),
            fault => fault.clone(),
        }
    }

    /// The lifetime of so many consecutive tokens, if it is not that of the setting. Returned once.
    pub fn constant_lifetime(&self) -> Option<i64> {
        self.lifetime.filter(|(_, rows)| *rows == LAST).map(|(seconds, _)| seconds)
    }

    fn doubts_keys(&self) -> bool {
        self.proved.len() >= DOUBTFUL && !self.proved.contains(&true)
    }

    fn other_keys(&self) -> Difference {
        let what = format!(
            "key, salt or home are not those that PHP uses, or all its tokens have other claims (none of the last {} rows fits)",
            self.proved.len()
        );
        Difference::new(Kind::Keys, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(proof: Proof, fault: Option<Kind>) -> Judged {
        let fault = fault.map(|kind| Difference::new(kind, kind.name()));
        Judged { proof, fault, is_ahead: false, note: None, lifetime: Some(900) }
    }

    fn kind(difference: Option<Difference>) -> Option<Kind> {
        difference.map(|difference| difference.kind)
    }

    #[test]
    fn the_keys_are_doubted_where_no_row_fits() {
        let foreign = judged(Proof::Foreign, Some(Kind::Claim));
        let mut tally = Tally::default();
        let kinds: Vec<_> = (0..4).map(|_| kind(tally.add(&foreign))).collect();
        assert_eq!(kinds, [Some(Kind::Claim), Some(Kind::Claim), Some(Kind::Keys), Some(Kind::Keys)]);
        // One that fits is enough, for as long as it is among the last.
        assert_eq!(tally.add(&judged(Proof::Plain, None)), None);
        for _ in 0..LAST - 1 {
            assert_eq!(kind(tally.add(&foreign)), Some(Kind::Claim));
        }
        assert_eq!(kind(tally.add(&foreign)), Some(Kind::Keys));
        // Rows without a result, and the sidecar's own, do not count.
        let mut tally = Tally::default();
        for proof in [Proof::Unknown, Proof::Ours].into_iter().cycle().take(20) {
            tally.add(&judged(proof, None));
        }
        assert_eq!(kind(tally.add(&foreign)), Some(Kind::Claim));
    }

    #[test]
    fn one_token_of_the_future_decides_nothing() {
        let ahead = Judged { is_ahead: true, ..judged(Proof::Plain, Some(Kind::Claim)) };
        let mut tally = Tally::default();
        assert_eq!((tally.add(&ahead), tally.add(&ahead)), (None, None));
        assert_eq!(tally.add(&judged(Proof::Plain, None)), None);
        let kinds: Vec<_> = (0..4).map(|_| kind(tally.add(&ahead))).collect();
        assert_eq!(kinds, [None, None, Some(Kind::Claim), Some(Kind::Claim)]);
    }

    #[test]
    fn a_constant_lifetime_is_told_once() {
        let other = judged(Proof::Plain, Some(Kind::Lifetime));
        let mut tally = Tally::default();
        let mut reported = 0;
        for _ in 0..50 {
            assert_eq!(kind(tally.add(&other)), Some(Kind::Lifetime));
            reported += usize::from(tally.constant_lifetime() == Some(900));
        }
        assert_eq!(reported, 1);
        for lifetime in (0..60).map(|at| Some(900 + at % 2)) {
            tally.add(&Judged { lifetime, ..other.clone() });
            assert_eq!(tally.constant_lifetime(), None);
        }
    }
}
