//! The results of comparisons, counted for `/metrics`.

use super::difference::Kind;
use super::verdict::Observation;
use crate::metrics::Counter;

/// Counters that only grow.
#[derive(Debug, Default)]
pub struct Counts {
    agrees: Counter,
    void: Counter,
    differs: [Counter; Kind::ALL.len()],
    suspicious: [Counter; Kind::ALL.len()],
    origin_differs: Counter,
}

impl Counts {
    pub fn observed(&self, observed: &Observation) {
        match observed {
            Observation::Agrees { .. } => self.agrees.add(),
            Observation::Void => self.void(),
            Observation::Differs(difference) => self.differs(difference.kind),
            Observation::Suspicious(difference, _) => add(&self.suspicious, difference.kind),
        }
    }

    /// Counts a difference that no comparison found.
    pub fn differs(&self, kind: Kind) {
        add(&self.differs, kind);
    }

    /// Counts a comparison without a result.
    pub fn void(&self) {
        self.void.add();
    }

    /// Counts a response to an app's origin with other fields than before. The comparison itself
    /// agrees.
    pub fn origin_differs(&self) {
        self.origin_differs.add();
    }

    /// The result, [`Kind::name`] or `none`, and the count.
    pub fn table(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let of = |result, counters: &'_ [Counter; Kind::ALL.len()]| {
            let values = Kind::ALL.iter().zip(counters).map(|(kind, counter)| (result, kind.name(), counter.value()));
            values.collect::<Vec<_>>()
        };
        let (differs, suspicious) = (of("differs", &self.differs), of("suspicious", &self.suspicious));
        let others = [
            ("agrees", "none", self.agrees.value()),
            ("void", "none", self.void.value()),
            ("origin_differs", Kind::Header.name(), self.origin_differs.value()),
        ];
        others.into_iter().chain(differs).chain(suspicious)
    }
}

fn add(counters: &[Counter], kind: Kind) {
    if let Some(counter) = counters.get(kind as usize) {
        counter.add();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::difference::Difference;
    use crate::verify::verdict::Class;

    #[test]
    fn each_observation_is_counted_once_under_its_own_name() {
        let counts = Counts::default();
        for observed in [
            Observation::Agrees { class: Class::Plain, user: None },
            Observation::Void,
            Observation::Differs(Difference::new(Kind::Body, "body +roles (array of string)")),
            Observation::Suspicious(Difference::new(Kind::Session, "500"), 7),
        ] {
            counts.observed(&observed);
        }
        counts.differs(Kind::Body);
        counts.origin_differs();
        let counted: Vec<_> = counts.table().filter(|(.., value)| *value > 0).collect();
        let expected = [
            ("agrees", "none", 1),
            ("void", "none", 1),
            ("origin_differs", "header", 1),
            ("differs", "body", 2),
            ("suspicious", "session", 1),
        ];
        assert_eq!(counted, expected);
        assert_eq!(counts.table().count(), 3 + 2 * Kind::ALL.len());
        for (place, kind) in Kind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, place);
        }
    }
}
