//! What the program counts about itself, for `/metrics` and the status page.
//!
//! On the way of a request every worker has a [`Shard`] of its own, which no other thread writes to: to count costs one
//! relaxed addition that no other core waits for. They are added up when they are read.
//!
//! Nothing here leaves the process by itself, and no number tells of a single client.

pub mod counter;
pub mod histogram;
pub mod table;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

pub use counter::Counter;
pub use histogram::{Distribution, Histogram};
pub use table::{Event, Level, Series, Timing};

/// Everything that is counted, for those who read.
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

    /// A place to count in, for one thread. It counts for as long as the program runs.
    pub fn shard(&self) -> Arc<Shard> {
        let shard = Arc::new(Shard::default());
        self.shards.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&shard));
        shard
    }

    /// How often that has happened.
    pub fn count(&self, event: Event) -> u64 {
        self.sum(|shard| shard.events.get(event as usize))
    }

    /// How much is open.
    pub fn level(&self, level: Level) -> u64 {
        // A worker's own may be read a moment apart from another's, so that what moved between them is missed.
        self.sum(|shard| shard.levels.get(level as usize))
    }

    /// How long that took, each time.
    pub fn timing(&self, timing: Timing) -> Distribution {
        let each = self.shards().into_iter();
        let each = each.filter_map(|shard| shard.timings.get(timing as usize).map(Histogram::read));
        each.fold(Distribution::default(), |sum, one| sum.plus(&one))
    }

    /// Requests whose head was read and which have not ended: with an answer's head, by an error, or by the client's leaving.
    pub fn in_flight(&self) -> u64 {
        // What ended is read first: what begins in between is then not taken for less than nothing.
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

/// One thread's share of the numbers.
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
    /// It has happened once more.
    pub fn add(&self, event: Event) {
        if let Some(counter) = self.events.get(event as usize) {
            counter.add();
        }
    }

    /// It took this long.
    pub fn observe(&self, timing: Timing, took: Duration) {
        if let Some(histogram) = self.timings.get(timing as usize) {
            histogram.observe(took);
        }
    }

    /// Of this level one owner had `before` and has `now`. All owners of a shard are on its thread.
    pub fn replace(&self, level: Level, before: usize, now: usize) {
        if let Some(counter) = self.levels.get(level as usize) {
            counter.replace(before, now);
        }
    }

    /// One more is open, until what is returned is dropped.
    pub fn open(self: &Arc<Self>, level: Level) -> Open {
        if let Some(counter) = self.levels.get(level as usize) {
            counter.add();
        }
        Open { shard: Arc::clone(self), level }
    }
}

/// Something that is open, as the metrics see it.
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
