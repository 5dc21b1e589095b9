//! All that was not as recorded.

/// One text for each difference.
#[derive(Default)]
pub struct Complaints(pub Vec<String>);

impl Complaints {
    /// Complains where the two are not the same.
    pub fn same<T: PartialEq + std::fmt::Debug + ?Sized>(&mut self, what: &str, actual: &T, expected: &T) {
        self.demand(actual == expected, || format!("{what}\n    is       {actual:?}\n    recorded {expected:?}"));
    }

    /// Complains where it does not hold.
    pub fn demand(&mut self, holds: bool, complaint: impl FnOnce() -> String) {
        if !holds {
            self.0.push(complaint());
        }
    }
}
