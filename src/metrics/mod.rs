//! Counts what the program does, for `/metrics` and the status page.
//!
//! Each worker counts requests in its own [`Shard`], which no other thread writes: a count costs
//! one relaxed addition that no other core waits for. The shards are added up when they are read.
//!
//! The counts are only sent when they are asked for, and no number is about a single client.

pub mod counter;
pub mod histogram;
pub mod table;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

pub use counter::Counter;
pub use histogram::{Distribution, Histogram};
pub use table::{Event, Level, Series, Timing};

/// All counts, for reading.
#[derive(Debug)]
pub struct Metrics {
    /// When the program started.
    pub started: SystemTime,
    shards: Mutex<Vec<Arc<Shard>>>,
}

impl Metrics {
    /// Nothing has happened yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Metrics { started: SystemTime::now(), shards: Mutex::default() })
    }

    /// A new shard for one thread. It counts for as long as the program runs.
    pub fn shard(&self) -> Arc<Shard> {
        let shard = Arc::new(Shard::default());
        self.shards.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&shard));
        shard
    }

    /// How often the event has happened.
    pub fn count(&self, event: Event) -> u64 {
        self.sum(|shard| shard.events.get(event as usize))
    }

    /// The current level.
    pub fn level(&self, level: Level) -> u64 {
        // Shards are read one after the other, so a change that moves between two of them may be
        // missed.
        self.sum(|shard| shard.levels.get(level as usize))
    }

    /// The durations so far.
    pub fn timing(&self, timing: Timing) -> Distribution {
        let each = self.shards().into_iter();
        let each = each.filter_map(|shard| shard.timings.get(timing as usize).map(Histogram::read));
        each.fold(Distribution::default(), |sum, one| sum.plus(&one))
    }

    /// Requests whose head was read and which have not ended: by a response's head, an error, or
    /// the client's disconnect.
    pub fn in_flight(&self) -> u64 {
        // Ended requests are read first, so that those that begin in between cannot make the result
        // negative.
        let ended: u64 = Event::ALL
            .iter()
            .filter(|event| event.series().family == Event::Refresh2xx.series().family)
            .map(|event| self.count(*event))
            .sum();
        self.count(Event::Begun).saturating_sub(ended)
    }

    fn sum(&self, counter: impl Fn(&Shard) -> Option<&Counter>) -> u64 {
        self.shards().iter().filter_map(|shard| counter(shard).map(Counter::value)).fold(0, u64::wrapping_add)
    }

    fn shards(&self) -> Vec<Arc<Shard>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One thread's part of the counts.
#[derive(Debug)]
pub struct Shard {
    events: [Counter; Event::ALL.len()],
    levels: [Counter; Level::ALL.len()],
    timings: [Histogram; Timing::ALL.len()],
}

impl Default for Shard {
    fn default() -> Self {
        Shard {
            events: std::array::from_fn(|_| Counter::default()),
            levels: std::array::from_fn(|_| Counter::default()),
            timings: std::array::from_fn(|_| Histogram::default()),
        }
    }
}

impl Shard {
    /// Counts the event.
    pub fn add(&self, event: Event) {
        if let Some(counter) = self.events.get(event as usize) {
            counter.add();
        }
    }

    /// Counts a duration.
    pub fn observe(&self, timing: Timing, took: Duration) {
        if let Some(histogram) = self.timings.get(timing as usize) {
            histogram.observe(took);
        }
    }

    /// Replaces one owner's part of a level. All owners of a shard are on its thread.
    pub fn replace(&self, level: Level, before: usize, now: usize) {
        if let Some(counter) = self.levels.get(level as usize) {
            counter.replace(before, now);
        }
    }

    /// Counts one more as open until the returned value is dropped.
    pub fn open(self: &Arc<Self>, level: Level) -> Open {
        if let Some(counter) = self.levels.get(level as usize) {
            counter.add();
        }
        Open { shard: Arc::clone(self), level }
    }
}

/// Something open that the metrics count.
#[derive(Debug)]
pub struct Open {
    shard: Arc<Shard>,
    level: Level,
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(counter) = self.shard.levels.get(self.level as usize) {
            counter.subtract(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_added_up() {
        let metrics = Metrics::new();
        let (one, other) = (metrics.shard(), metrics.shard());
        one.add(Event::Begun);
        other.add(Event::Begun);
        other.add(Event::Begun);
        other.add(Event::Forward2xx);
        assert_eq!((metrics.count(Event::Begun), metrics.in_flight()), (3, 2));
        one.observe(Timing::Forward, Duration::from_millis(1));
        other.observe(Timing::Forward, Duration::from_millis(1));
        assert_eq!(metrics.timing(Timing::Forward).count(), 2);
        let open = one.open(Level::Tunnels);
        let second = other.open(Level::Tunnels);
        one.replace(Level::UpstreamIdle, 0, 7);
        one.replace(Level::UpstreamIdle, 0, 2);
        assert_eq!((metrics.level(Level::Tunnels), metrics.level(Level::UpstreamIdle)), (2, 9), "both owners'");
        one.replace(Level::UpstreamIdle, 7, 0);
        assert_eq!(metrics.level(Level::UpstreamIdle), 2);
        drop((open, second));
        assert_eq!(metrics.level(Level::Tunnels), 0);
    }
}
