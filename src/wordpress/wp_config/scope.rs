//! Constants and variables, in layers: a branch that may or may not be taken writes into a layer of
//! its own, and its end merges the layers. So a merge costs what the branch wrote, not what is known.

use std::collections::{BTreeMap, BTreeSet};

use super::value::{Doubt, Place, Value};

/// A constant.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) value: Value,
    pub(super) place: Place,
    /// Whether it is defined for sure; if not, its value is `Value::Unknown`.
    pub(super) certain: bool,
}

impl Slot {
    pub(super) fn line(&self) -> usize {
        self.place.line
    }
}

/// What a branch has written.
#[derive(Debug, Default)]
pub(super) struct Layer {
    constants: BTreeMap<String, Slot>,
    variables: BTreeMap<String, Value>,
    /// Why the variables of the layers below cannot be known any more.
    forgotten: Option<Doubt>,
    /// Why they are not known within this layer: it may run after itself.
    hidden: Option<Doubt>,
}

/// All layers, the innermost branch last; the first is that of the file.
#[derive(Debug, Default)]
pub(super) struct Scope {
    base: Layer,
    branches: Vec<Layer>,
    incomplete: Option<Doubt>,
}

impl Scope {
    pub(super) fn constant(&self, name: &str) -> Option<&Slot> {
        self.layers().find_map(|layer| layer.constants.get(name))
    }

    /// `None` for a variable that nothing has set.
    pub(super) fn variable(&self, name: &str) -> Option<&Value> {
        self.layers().find_map(|layer| layer.variables.get(name))
    }

    /// As [`Scope::variable`], but aware of forgotten ones: `Err` says why nothing is known.
    pub(super) fn current_variable(&self, name: &str) -> Result<Option<&Value>, &Doubt> {
        for layer in self.layers() {
            if let Some(value) = layer.variables.get(name) {
                return Ok(Some(value));
            }
            if let Some(doubt) = layer.forgotten.as_ref().or(layer.hidden.as_ref()) {
                return Err(doubt);
            }
        }
        Ok(None)
    }

    /// The first definition of a constant wins. Returns whether this was the first, if that is certain.
    pub(super) fn define(&mut self, name: &str, slot: Slot) -> Option<bool> {
        let (slot, first) = match self.constant(name) {
            Some(there) if there.certain => return Some(false),
            Some(there) => (Slot { value: there.value.clone(), ..slot }, None),
            None => (slot, Some(true)),
        };
        self.top().constants.insert(name.to_owned(), slot);
        first
    }

    pub(super) fn assign(&mut self, name: &str, value: Value) {
        self.top().variables.insert(name.to_owned(), value);
    }

    /// From here on no variable is known. `$table_prefix` stays where it is: a site whose included
    /// files change it would find no tables with what we know, and an error is all that comes of it.
    pub(super) fn forget_variables(&mut self, doubt: &Doubt) {
        let prefix = self.current_variable("table_prefix").ok().flatten().cloned();
        let top = self.top();
        top.variables.clear();
        top.forgotten = Some(doubt.clone());
        if let Some(prefix) = prefix {
            top.variables.insert("table_prefix".to_owned(), prefix);
        }
    }

    /// From here on any constant may be defined.
    pub(super) fn set_incomplete(&mut self, doubt: Doubt) {
        self.incomplete.get_or_insert(doubt);
    }

    pub(super) fn incomplete(&self) -> Option<&Doubt> {
        self.incomplete.as_ref()
    }

    pub(super) fn enter_branch(&mut self) {
        self.branches.push(Layer::default());
    }

    /// A branch that may run many times: what a variable was before it says nothing.
    pub(super) fn enter_loop(&mut self, doubt: &Doubt) {
        self.branches.push(Layer { hidden: Some(doubt.clone()), ..Layer::default() });
    }

    pub(super) fn leave_branch(&mut self) -> Layer {
        self.branches.pop().unwrap_or_default()
    }

    /// One of the branches was taken, it is not known which.
    pub(super) fn merge_one_of(&mut self, branches: &[Layer], doubt: &Doubt) {
        if let [only] = branches {
            self.apply(only);
            return;
        }
        let names: BTreeSet<&String> = branches.iter().flat_map(|branch| branch.constants.keys()).collect();
        let mut constants = Vec::new();
        for name in names {
            let below = self.constant(name);
            let slots: Vec<Option<&Slot>> =
                branches.iter().map(|branch| branch.constants.get(name).or(below)).collect();
            constants.push((name.clone(), merge_slots(&slots, doubt)));
        }
        let names: BTreeSet<&String> = branches.iter().flat_map(|branch| branch.variables.keys()).collect();
        let mut variables = Vec::new();
        for name in names {
            let below = self.current_variable(name).ok().flatten();
            let values = branches.iter().map(|branch| match (branch.variables.get(name), &branch.forgotten) {
                (Some(value), _) => Some(value),
                (None, Some(_)) => None,
                (None, None) => below,
            });
            variables.push((name.clone(), merge_values(values, doubt)));
        }
        if let Some(forgotten) = branches.iter().find_map(|branch| branch.forgotten.as_ref()) {
            self.forget_variables(forgotten);
        }
        let top = self.top();
        top.constants.extend(constants);
        top.variables.extend(variables);
    }

    /// The branch was taken in part, or not at all, or many times: nothing it wrote is sure.
    pub(super) fn merge_perhaps(&mut self, branch: Layer, doubt: &Doubt) {
        let unknown = Value::Unknown(doubt.clone());
        if let Some(forgotten) = &branch.forgotten {
            self.forget_variables(forgotten);
        }
        let top = self.top();
        for (name, slot) in branch.constants {
            top.constants.insert(name, Slot { value: unknown.clone(), place: slot.place, certain: false });
        }
        for name in branch.variables.into_keys() {
            top.variables.insert(name, unknown.clone());
        }
    }

    /// The branch was taken.
    pub(super) fn apply(&mut self, branch: &Layer) {
        if let Some(forgotten) = &branch.forgotten {
            self.forget_variables(forgotten);
        }
        let top = self.top();
        top.constants.extend(branch.constants.clone());
        top.variables.extend(branch.variables.clone());
    }

    fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.branches.iter().rev().chain([&self.base])
    }

    fn top(&mut self) -> &mut Layer {
        self.branches.last_mut().unwrap_or(&mut self.base)
    }
}

fn merge_slots(slots: &[Option<&Slot>], doubt: &Doubt) -> Slot {
    let certain = slots.iter().all(|slot| slot.is_some_and(|slot| slot.certain));
    let place = slots.iter().flatten().next().map_or_else(|| doubt.place.clone(), |slot| slot.place.clone());
    let value = if certain {
        merge_values(slots.iter().map(|slot| slot.map(|slot| &slot.value)), doubt)
    } else {
        Value::Unknown(doubt.clone())
    };
    Slot { value, place, certain }
}

fn merge_values<'v>(mut values: impl Iterator<Item = Option<&'v Value>>, doubt: &Doubt) -> Value {
    let Some(Some(first)) = values.next() else {
        return Value::Unknown(doubt.clone());
    };
    if values.all(|value| value == Some(first)) { first.clone() } else { Value::Unknown(doubt.clone()) }
}
