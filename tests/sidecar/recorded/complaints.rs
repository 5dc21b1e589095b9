//! Collects everything that differs from the recording.

/// One text for each difference.
#[derive(Default)]
pub struct Complaints(pub Vec<String>);

impl Complaints {
    /// Complains if the two differ.
    pub fn same<T: PartialEq + std::fmt::Debug + ?Sized>(&mut self, what: &str, actual: &T, expected: &T) {
        self.demand(actual == expected, || format!("{what}\n    is       {actual:?}\n    recorded {expected:?}"));
    }

    /// Complains if it does not hold.
    pub fn demand(&mut self, holds: bool, complaint: impl FnOnce() -> String) {
        if !holds {
            self.0.push(complaint());
        }
    }
}
