//! Constants, variables and the environment, in layers: a branch that may or may not be taken writes into a layer of
//! its own, and its end merges the layers. So a merge costs what the branch wrote, not what is known.

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

impl Slot {
    pub(super) fn line(&self) -> usize {
        self.place.line
    }
}

/// Values by name, as one layer has them.
#[derive(Debug, Default)]
pub(super) struct Bindings {
    values: BTreeMap<String, Value>,
    /// Why those of the layers below cannot be known any more.
    forgotten: Option<Doubt>,
    /// Why they are not known within this layer: it may run after itself.
    hidden: Option<Doubt>,
}

/// What a branch has written.
#[derive(Debug, Default)]
pub(super) struct Layer {
    constants: BTreeMap<String, Slot>,
    kinds: [Bindings; 3],
}

/// What is bound by name, besides constants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Variables,
    /// Environment variables that the file itself has set.
    Environment,
    /// Files that were included, by their resolved path.
    Files,
}

const KINDS: [Kind; 3] = [Kind::Variables, Kind::Environment, Kind::Files];

impl Layer {
    fn of(&self, kind: Kind) -> &Bindings {
        let [variables, environment, files] = &self.kinds;
        match kind {
            Kind::Variables => variables,
            Kind::Environment => environment,
            Kind::Files => files,
        }
    }

    fn of_mut(&mut self, kind: Kind) -> &mut Bindings {
        let [variables, environment, files] = &mut self.kinds;
        match kind {
            Kind::Variables => variables,
            Kind::Environment => environment,
            Kind::Files => files,
        }
    }
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

    /// What was bound last, even if it may have changed since. `None` where nothing was.
    pub(super) fn last(&self, kind: Kind, name: &str) -> Option<&Value> {
        self.layers().find_map(|layer| layer.of(kind).values.get(name))
    }

    /// What is bound now: `Err` says why nothing is known.
    pub(super) fn current(&self, kind: Kind, name: &str) -> Result<Option<&Value>, &Doubt> {
        for bindings in self.layers().map(|layer| layer.of(kind)) {
            if let Some(value) = bindings.values.get(name) {
                return Ok(Some(value));
            }
            if let Some(doubt) = bindings.forgotten.as_ref().or(bindings.hidden.as_ref()) {
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

    pub(super) fn bind(&mut self, kind: Kind, name: &str, value: Value) {
        self.top().of_mut(kind).values.insert(name.to_owned(), value);
    }

    /// From here on none of this kind is known. `$table_prefix` stays where it is: a site whose
    /// included files change it would find no tables with what we know, and an error is all that
    /// comes of it.
    pub(super) fn forget(&mut self, kind: Kind, doubt: &Doubt) {
        let prefix = match kind {
            Kind::Variables => self.current(kind, "table_prefix").ok().flatten().cloned(),
            Kind::Environment | Kind::Files => None,
        };
        let top = self.top().of_mut(kind);
        top.values.clear();
        top.forgotten = Some(doubt.clone());
        if let Some(prefix) = prefix {
            top.values.insert("table_prefix".to_owned(), prefix);
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

    /// A branch that may run many times: what there was before it says nothing.
    pub(super) fn enter_loop(&mut self, doubt: &Doubt) {
        let hidden = || Bindings { hidden: Some(doubt.clone()), ..Bindings::default() };
        self.branches.push(Layer { kinds: KINDS.map(|_| hidden()), ..Layer::default() });
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
        self.top().constants.extend(constants);
        for kind in KINDS {
            let bindings: Vec<&Bindings> = branches.iter().map(|branch| branch.of(kind)).collect();
            self.merge_bindings(kind, &bindings, doubt);
        }
    }

    fn merge_bindings(&mut self, kind: Kind, branches: &[&Bindings], doubt: &Doubt) {
        let names: BTreeSet<&String> = branches.iter().flat_map(|branch| branch.values.keys()).collect();
        let mut merged = Vec::new();
        for name in names {
            let below = self.current(kind, name).ok().flatten();
            let values = branches.iter().map(|branch| match (branch.values.get(name), &branch.forgotten) {
                (Some(value), _) => Some(value),
                (None, Some(_)) => None,
                (None, None) => below,
            });
            merged.push((name.clone(), merge_values(values, doubt)));
        }
        if let Some(forgotten) = branches.iter().find_map(|branch| branch.forgotten.as_ref()) {
            self.forget(kind, forgotten);
        }
        self.top().of_mut(kind).values.extend(merged);
    }

    /// The branch was taken in part, or not at all, or many times: nothing it wrote is sure.
    pub(super) fn merge_perhaps(&mut self, branch: Layer, doubt: &Doubt) {
        let unknown = Value::Unknown(doubt.clone());
        for (name, slot) in branch.constants {
            let slot = Slot { value: unknown.clone(), place: slot.place, certain: false };
            self.top().constants.insert(name, slot);
        }
        for (kind, bindings) in KINDS.into_iter().zip(branch.kinds) {
            if let Some(forgotten) = &bindings.forgotten {
                self.forget(kind, forgotten);
            }
            let names = bindings.values.into_keys().map(|name| (name, unknown.clone()));
            self.top().of_mut(kind).values.extend(names);
        }
    }

    /// The branch was taken.
    pub(super) fn apply(&mut self, branch: &Layer) {
        self.top().constants.extend(branch.constants.clone());
        for kind in KINDS {
            let bindings = branch.of(kind);
            if let Some(forgotten) = &bindings.forgotten {
                self.forget(kind, forgotten);
            }
            self.top().of_mut(kind).values.extend(bindings.values.clone());
        }
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
