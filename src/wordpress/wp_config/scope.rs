//! The constants and variables known at one point of the evaluation.
//!
//! There is one state, not one per branch. Code that may or may not run is skipped: what it may
//! change becomes unknown ([`super::touched`]), and stays so, since references and handlers may
//! change it again at any time.

use std::collections::BTreeMap;

use super::value::{Doubt, Value};

#[derive(Debug, Default)]
pub(super) struct Scope {
    /// With the line of the definition.
    constants: BTreeMap<String, (Value, usize)>,
    pub(super) variables: BTreeMap<String, Value>,
    /// Why everything else is unknown.
    pub(super) lost: Option<Doubt>,
}

impl Scope {
    pub(super) fn constant(&self, name: &str) -> Option<&(Value, usize)> {
        self.constants.get(name)
    }

    /// The first definition wins. One that may or may not happen has an unknown value.
    pub(super) fn define(&mut self, name: &str, value: Value, line: usize) {
        let value = self.lost.clone().map_or(value, Value::Unknown);
        self.constants.entry(name.to_owned()).or_insert((value, line));
    }

    /// `None` if it was never set.
    pub(super) fn variable(&self, name: &str) -> Option<Value> {
        self.lost.clone().map(Value::Unknown).or_else(|| self.variables.get(name).cloned())
    }

    pub(super) fn assign(&mut self, name: &str, value: Value) {
        if !matches!(self.variables.get(name), Some(Value::Unknown(_))) {
            self.variables.insert(name.to_owned(), value);
        }
    }

    /// Code that is not read has run, or may have: it can define any constant and change everything
    /// else.
    pub(super) fn lose(&mut self, doubt: &Doubt) {
        self.lost.get_or_insert_with(|| doubt.clone());
    }
}
