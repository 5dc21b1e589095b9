//! Measures durations: counts per bucket, without a lock.
//!
//! All measurements share the same bounds, so that a dashboard can overlay them: from half a
//! millisecond, a refresh with a local database, to half a minute, after which no client waits any
//! more.

use std::time::Duration;

use super::counter::Counter;

/// Upper bounds in microseconds; longer durations count in one more bucket.
const BOUNDS: [u64; 15] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000,
];

/// Buckets of a [`Histogram`].
pub const BUCKETS: usize = BOUNDS.len() + 1;

/// Durations, counted.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    microseconds: Counter,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|bound| took <= *bound).unwrap_or(BOUNDS.len());
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.add();
        }
        self.microseconds.add_many(usize::try_from(took).unwrap_or(usize::MAX));
    }

    /// What was counted so far.
    pub fn read(&self) -> Distribution {
        Distribution {
            buckets: self.buckets.each_ref().map(Counter::value),
            seconds: self.microseconds.value() as f64 / 1e6,
        }
    }
}

/// The counts of a [`Histogram`] at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Distribution {
    /// The count of each bucket by itself, not cumulated; for the bounds see
    /// [`Distribution::cumulated`].
    pub buckets: [u64; BUCKETS],
    /// The sum of all durations, in seconds.
    pub seconds: f64,
}

impl Distribution {
    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Each upper bound in seconds, the last one infinite, with the number of durations up to it.
    pub fn cumulated(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = BOUNDS.iter().map(|bound| *bound as f64 / 1e6).chain([f64::INFINITY]);
        bounds.zip(self.buckets).scan(0, |sum, (bound, count)| {
            *sum += count;
            Some((bound, *sum))
        })
    }

    /// The sum of two counts of the same thing.
    pub fn plus(&self, other: &Distribution) -> Distribution {
        let mut sum = *self;
        for (count, more) in sum.buckets.iter_mut().zip(other.buckets) {
            *count += more;
        }
        sum.seconds += other.seconds;
        sum
    }

    /// What was counted since `earlier`.
    pub fn since(&self, earlier: &Distribution) -> Distribution {
        let mut rest = *self;
        for (count, less) in rest.buckets.iter_mut().zip(earlier.buckets) {
            *count = count.saturating_sub(less);
        }
        rest.seconds = (rest.seconds - earlier.seconds).max(0.0);
        rest
    }

    /// The duration in seconds that `share` (from 0 to 1) of all do not exceed, interpolated within
    /// its bucket like Prometheus's `histogram_quantile`. `None` if nothing was counted.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let rank = share * self.count() as f64;
        let mut below = (0.0, 0);
        for (bound, count) in self.cumulated() {
            let (lower, before) = below;
            if count > before && count as f64 >= rank {
                let width = if bound.is_finite() { bound - lower } else { 0.0 };
                return Some(lower + width * ((rank - before as f64) / (count - before) as f64).max(0.0));
            }
            below = (if bound.is_finite() { bound } else { lower }, count);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_go_where_they_belong() {
        let histogram = Histogram::default();
        for micros in [0, 500, 501, 1_000_000, 30_000_000, 30_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        histogram.observe(Duration::from_secs(3600));
        let read = histogram.read();
        assert_eq!(read.count(), 7);
        let cumulated: Vec<(f64, u64)> = read.cumulated().collect();
        assert_eq!(cumulated.first(), Some(&(0.0005, 2)));
        assert_eq!(cumulated.get(1), Some(&(0.001, 3)));
        assert_eq!(cumulated.get(10), Some(&(1.0, 4)));
        assert_eq!(cumulated.get(14), Some(&(30.0, 5)));
        assert_eq!(cumulated.last(), Some(&(f64::INFINITY, 7)));
        assert!((read.seconds - 3_661.001_002).abs() < 1e-6, "{}", read.seconds);
    }

    #[test]
    fn quantiles_are_prometheuss() {
        assert_eq!(Distribution::default().quantile(0.5), None);
        let histogram = Histogram::default();
        for _ in 0..90 {
            histogram.observe(Duration::from_millis(2));
        }
        let earlier = histogram.read();
        for _ in 0..10 {
            histogram.observe(Duration::from_secs(60));
        }
        let read = histogram.read();
        // In the bucket from 1 to 2.5 ms.
        assert!((read.quantile(0.45).unwrap() - 0.00175).abs() < 1e-9);
        // Above the last bound only the bound is known.
        assert_eq!(read.quantile(0.99), Some(30.0));
        assert_eq!(read.since(&earlier).count(), 10);
        assert_eq!(read.since(&earlier).plus(&earlier).buckets, read.buckets);
    }
}
