//! A count-min sketch of the windows that were evicted: it has a fixed number of cells.
//!
//! Each client has one cell in each row, which it shares with others. A count raises only the cells
//! below it, and the smallest cell is read: sharing can only make it larger (Cormode and
//! Muthukrishnan 2005; Estan and Varghese 2002 for raising no more than is needed).

use std::hash::{BuildHasher as _, RandomState};

use super::Who;

/// Cells in a row: twice the number of exact windows.
const CELLS: usize = 1 << 17;
const ROWS: usize = 4;

/// Keeps counts for at least one and at most two windows, which take 2 MiB each once something was
/// recorded.
#[derive(Debug)]
pub struct Sketch {
    /// SECURITY: random, so that clients cannot choose with which others they share a cell.
    hashers: [RandomState; ROWS],
    current: Generation,
    previous: Generation,
    /// Unix seconds at which `current` began.
    began: u64,
}

/// Empty until something is recorded.
#[derive(Debug, Default)]
struct Generation(Vec<u32>);

impl Sketch {
    /// An empty sketch at `now` (Unix seconds).
    pub fn new(now: u64) -> Self {
        let hashers = std::array::from_fn(|_| RandomState::new());
        Sketch { hashers, current: Generation::default(), previous: Generation::default(), began: now }
    }

    /// Records that `client` had `count` requests in a window of `length` seconds that is still
    /// open at `now`.
    pub fn record(&mut self, client: &Who, count: u32, length: u64, now: u64) {
        self.age(length, now);
        let cells = self.cells(client);
        self.current.raise(cells, count);
    }

    /// How many requests `client` had, or more.
    pub fn count(&mut self, client: &Who, length: u64, now: u64) -> u32 {
        self.age(length, now);
        let cells = self.cells(client);
        self.current.least(cells).max(self.previous.least(cells))
    }

    /// Whether no count is left.
    pub fn is_empty(&self) -> bool {
        self.current.0.is_empty() && self.previous.0.is_empty()
    }

    /// Starts the next window if the current one is over. A recorded window ends within `length`;
    /// its count is kept until the second change after it, which is longer.
    fn age(&mut self, length: u64, now: u64) {
        let age = now.saturating_sub(self.began);
        if age < length {
            // A clock that was set back starts over: counts are kept for longer.
            self.began = self.began.min(now);
            return;
        }
        let current = std::mem::take(&mut self.current);
        self.previous = if age < length.saturating_mul(2) { current } else { Generation::default() };
        self.began = now;
    }

    fn cells(&self, client: &Who) -> [usize; ROWS] {
        let mut row = 0;
        self.hashers.each_ref().map(|hasher| {
            let cell = row * CELLS + usize::try_from(hasher.hash_one(client) % CELLS as u64).unwrap_or(0);
            row += 1;
            cell
        })
    }
}

impl Generation {
    fn raise(&mut self, cells: [usize; ROWS], count: u32) {
        if self.0.is_empty() {
            self.0 = vec![0; ROWS * CELLS];
        }
        for cell in cells {
            if let Some(cell) = self.0.get_mut(cell) {
                *cell = (*cell).max(count);
            }
        }
    }

    fn least(&self, cells: [usize; ROWS]) -> u32 {
        cells.into_iter().map(|cell| self.0.get(cell).copied().unwrap_or(0)).min().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn client(number: u32) -> Who {
        Who { blog: 1, address: std::net::IpAddr::V4(number.into()) }
    }

    #[test]
    fn a_count_lasts_for_a_window_and_not_for_ever() {
        let mut sketch = Sketch::new(1_000);
        sketch.record(&client(1), 5, 60, 1_059);
        for (now, count) in [(1_059, 5), (1_060, 5), (1_119, 5)] {
            assert_eq!(sketch.count(&client(1), 60, now), count, "{now}");
        }
        assert_eq!(sketch.count(&client(1), 60, 1_120), 0);
        assert!(sketch.is_empty());
        sketch.record(&client(1), 5, 60, 1_130);
        assert_eq!(sketch.count(&client(1), 60, 1_250), 0, "after a long silence nothing is left");
    }

    proptest! {
        // Whatever else was recorded, and however much time passes.
        #[test]
        fn it_never_counts_too_little(
            records in proptest::collection::vec((0_u32..50, 1_u32..9, 0_u64..40), 1..80),
        ) {
            let (mut sketch, mut now) = (Sketch::new(5_000), 5_000);
            let mut recorded = Vec::new();
            for (number, count, step) in records {
                now += step;
                sketch.record(&client(number), count, 60, now);
                recorded.push((number, count, now));
                for (number, count, at) in &recorded {
                    if now < at + 60 {
                        prop_assert!(sketch.count(&client(*number), 60, now) >= *count);
                    }
                }
            }
        }
    }
}
