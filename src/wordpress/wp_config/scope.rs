//! What is known at one point of the walk: constants and variables.
//!
//! There is one state, not one for each branch. Code that may or may not run is not run: what it may touch becomes
//! unknown ([`super::touched`]), and stays so, since references and handlers may change it again at any time.

use std::collections::{BTreeMap, BTreeSet};

use super::value::{Doubt, SourcePos, Value};

/// A constant.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) value: Value,
    pub(super) place: SourcePos,
    /// Whether it is defined for sure; if not, its value is `Value::Unknown`.
    pub(super) certain: bool,
}

#[derive(Debug, Default, Clone)]
pub(super) struct Scope {
    constants: BTreeMap<String, Slot>,
    variables: BTreeMap<String, Value>,
    /// Variables that are unknown for good.
    hidden: BTreeSet<String>,
    /// Why nothing more can be known.
    pub(super) lost: Option<Doubt>,
}

impl Scope {
    pub(super) fn constant(&self, name: &str) -> Option<&Slot> {
        self.constants.get(name)
    }

    /// The first definition wins. Returns whether this was the first, if that is certain.
    pub(super) fn define(&mut self, name: &str, value: Value, place: SourcePos) -> Option<bool> {
        let (value, first) = match (self.constants.get(name), &self.lost) {
            (Some(there), _) if there.certain => return Some(false),
            (Some(there), _) => (there.value.clone(), None),
            (None, Some(doubt)) => (Value::Unknown(doubt.clone()), None),
            (None, None) => (value, Some(true)),
        };
        self.constants.insert(name.to_owned(), Slot { value, place, certain: true });
        first
    }

    /// Code that may run would define it.
    pub(super) fn may_define(&mut self, name: &str, place: SourcePos, doubt: &Doubt) {
        let slot = || Slot { value: Value::Unknown(doubt.clone()), place, certain: false };
        self.constants.entry(name.to_owned()).or_insert_with(slot);
    }

    /// `None` where nothing has set it, `Err` says why nothing is known.
    pub(super) fn variable(&self, name: &str) -> Result<Option<&Value>, &Doubt> {
        self.lost.as_ref().map_or_else(|| Ok(self.variables.get(name)), Err)
    }

    pub(super) fn set_variable(&mut self, name: &str, value: Value) {
        if !self.hidden.contains(name) {
            self.variables.insert(name.to_owned(), value);
        }
    }

    /// From here on it may change without being named.
    pub(super) fn hide(&mut self, name: &str, doubt: &Doubt) {
        self.set_variable(name, Value::Unknown(doubt.clone()));
        self.hidden.insert(name.to_owned());
    }

    /// All but the constants is as it was.
    pub(super) fn back_to(&mut self, before: Self) {
        *self = Self { constants: std::mem::take(&mut self.constants), ..before };
    }

    /// Code has run, or may have, that was not read: it can define any constant and change anything else.
    pub(super) fn lose(&mut self, doubt: &Doubt) {
        self.lost.get_or_insert_with(|| doubt.clone());
    }
}
