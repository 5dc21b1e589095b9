//! One statement for each of a few numbers of rows, so that a connection keeps few of them
//! prepared.

use std::iter;

use mysql_async::Value;

use super::LARGEST_GROUP;
use crate::wordpress::database::SqlText;

/// How many ids a statement takes, besides [`LARGEST_GROUP`]. Fewer ids are padded with the last: a
/// row that is named twice counts once.
const ID_COUNTS: [usize; 12] = [1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48];

/// How many rows an INSERT has, besides [`LARGEST_GROUP`]. These cannot be padded; with these
/// sizes, the groups of a usual load take one statement, and no group takes more than two. Once
/// used, each takes 7 KB of the server's memory per row, so that all of them take 4 MB per
/// connection.
const ROW_COUNTS: [usize; 26] =
    [48, 40, 32, 28, 24, 22, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1];

/// Statements that differ in their number of rows.
pub struct Statements {
    /// The statement for [`LARGEST_GROUP`] rows.
    largest: SqlText,
    others: Vec<(usize, SqlText)>,
}

impl Statements {
    /// Statements with ids between `head` and `tail`.
    pub fn of_ids(head: &str, tail: &str) -> Self {
        Statements::of_id_counts(|count| format!("{head}{}{tail}", list("?", count)))
    }

    /// Statements for as many rows as those [of ids](Statements::of_ids).
    pub fn of_id_counts(text: impl Fn(usize) -> String) -> Self {
        Statements::of(&ID_COUNTS, text)
    }

    /// Statements with rows, each written as `row`, after `head`.
    pub fn of_rows(head: &str, row: &str) -> Self {
        Statements::of(&ROW_COUNTS, |count| format!("{head}{}", list(row, count)))
    }

    fn of(counts: &[usize], text: impl Fn(usize) -> String) -> Self {
        let text = |count| SqlText::new(text(count));
        Statements { largest: text(LARGEST_GROUP), others: counts.iter().map(|count| (*count, text(*count))).collect() }
    }

    /// The statement for the fewest rows.
    pub fn smallest(&self) -> &SqlText {
        self.by_size().min_by_key(|(rows, _)| *rows).map_or(&self.largest, |(_, text)| text)
    }

    /// All statements with their number of rows, the largest first for those [of
    /// rows](Statements::of_rows).
    pub fn by_size(&self) -> impl Iterator<Item = (usize, &SqlText)> {
        iter::once((LARGEST_GROUP, &self.largest)).chain(self.others.iter().map(|(count, text)| (*count, text)))
    }

    /// The smallest statement for `ids` (at most [`LARGEST_GROUP`]), with as many values as it
    /// takes.
    pub fn padded(&self, ids: &[u64]) -> (&SqlText, Vec<Value>) {
        let (count, text) = self.fitting(ids.len());
        let last = ids.last().copied();
        (text, (0..count).map(|place| ids.get(place).copied().or(last).map_or(Value::NULL, Value::from)).collect())
    }

    /// The smallest statement for so many rows, and for how many it is.
    pub fn fitting(&self, rows: usize) -> (usize, &SqlText) {
        let fitting = self.others.iter().find(|(count, _)| *count >= rows);
        fitting.map_or((LARGEST_GROUP, &self.largest), |(count, text)| (*count, text))
    }
}

pub fn list(item: &str, count: usize) -> String {
    vec![item; count].join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wordpress::database::STATEMENTS;

    #[test]
    fn every_group_fits_few_statements() {
        let (of_ids, of_rows) = (Statements::of_ids("(", ")"), Statements::of_rows("", "(?)"));
        assert_eq!((of_ids.smallest().as_str(), of_rows.smallest().as_str()), ("(?)", "(?)"));
        for count in 1..=LARGEST_GROUP {
            let group: Vec<u64> = (1..=count as u64).collect();
            let (text, values) = of_ids.padded(&group);
            assert_eq!(text.as_str().matches('?').count(), values.len());
            assert!(values.len() >= count && values.len() < 2 * count.max(2), "{count}");
            assert_eq!(values.last(), Some(&Value::from(count as u64)));
            let mut rest = count;
            let mut statements = 0;
            for (size, text) in of_rows.by_size() {
                assert_eq!(text.as_str().matches('?').count(), size);
                statements += rest / size;
                rest %= size;
            }
            assert!(rest == 0 && statements <= 2, "{count}: {statements}");
        }
    }

    /// Otherwise mysql_async would close one to prepare another, which would then be used all the
    /// same.
    #[test]
    fn a_connection_keeps_all_statements_prepared() {
        let of_ids = Statements::of_ids("", "").by_size().count();
        let of_rows = Statements::of_rows("", "").by_size().count();
        // A group's rows are locked in one way, which has two forms, single rows or a family's in
        // another; and revoked in one. The rest is for other statements.
        assert!(4 * of_ids + of_rows + 20 <= STATEMENTS);
    }
}
