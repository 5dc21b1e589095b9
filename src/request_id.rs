//! A name for each request, shown to the client when something goes wrong and written to the log with the reason.

use std::cell::Cell;
use std::fmt;

/// The name of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId(u64);

/// One worker's source of names. The upper half is random for each worker and start, the lower half counts: unique
/// enough to be found in a log, and for free until it is shown.
pub struct RequestIds {
    next: Cell<u64>,
}

impl RequestIds {
    /// A new source. Without randomness from the system the names of two workers may be alike.
    pub fn new() -> Self {
        let start = getrandom::u32().unwrap_or_default();
        RequestIds { next: Cell::new(u64::from(start) << 32) }
    }

    /// The next name.
    pub fn next(&self) -> RequestId {
        let id = self.next.get();
        self.next.set(id.wrapping_add(1));
        RequestId(id)
    }
}

impl Default for RequestIds {
    fn default() -> Self {
        RequestIds::new()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_of_one_length_and_differ() {
        let ids = RequestIds::new();
        let (first, second) = (ids.next(), ids.next());
        assert_ne!(first, second);
        assert_eq!(first.to_string().len(), 16);
    }
}
