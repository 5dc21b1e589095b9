//! Assignments: to variables, to `$_ENV`, and to what is not followed.

use tree_sitter::Node;

use super::environment::Store;
use super::expression::{printable, subscript, variable_name};
use super::scope::Kind;
use super::value::{Doubt, Value};
use super::{Reader, text};

impl Reader<'_> {
    pub(super) fn evaluate_assignment(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let (Some(left), Some(right)) = (node.child_by_field_name("left"), node.child_by_field_name("right")) else {
            return self.unknown(node, "has an assignment that is not read");
        };
        let value = self.evaluate(right, source);
        self.assign(left, value.clone(), source);
        value
    }

    pub(super) fn assign(&mut self, target: Node<'_>, value: Value, source: &[u8]) {
        match target.kind() {
            "variable_name" => {
                let Some(name) = variable_name(target, source) else { return };
                let value = match name.as_str() {
                    "_ENV" => self.unknown(target, "replaces $_ENV"),
                    _ => value,
                };
                self.assign_variable(&name, value);
            }
            "subscript_expression" => self.assign_element(target, value, source),
            "member_access_expression" | "nullsafe_member_access_expression" | "scoped_property_access_expression" => {}
            _ => {
                let doubt = self.doubt(target, "changes variables in a way that is not followed");
                self.forget_assigned(&doubt);
            }
        }
    }

    pub(super) fn assign_element(&mut self, target: Node<'_>, value: Value, source: &[u8]) {
        let (base, key) = subscript(target);
        let key = key.map(|key| self.evaluate(key, source));
        match base.filter(|base| base.kind() == "variable_name").and_then(|base| variable_name(base, source)).as_deref()
        {
            Some("_ENV") => {
                let doubt = self.doubt(target, "changes $_ENV in a way that is not followed");
                match key.as_ref().and_then(Value::known_text) {
                    Some(name) => self.set_environment(Store::Array, name, value),
                    None => self.scope.forget(Kind::Environment, &doubt),
                }
            }
            Some("_SERVER" | "_GET" | "_POST" | "_COOKIE" | "_REQUEST" | "_FILES" | "_SESSION") => {}
            Some(name) if name != "GLOBALS" => {
                let doubt = self.doubt(target, format!("depends on an array, ${}", printable(name)));
                self.assign_variable(name, Value::Unknown(doubt));
            }
            _ => {
                let doubt = self.doubt(target, "changes variables in a way that is not followed");
                self.forget_assigned(&doubt);
            }
        }
    }

    pub(super) fn evaluate_augmented(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let (Some(left), Some(operator), Some(right)) =
            (node.child_by_field_name("left"), node.child_by_field_name("operator"), node.child_by_field_name("right"))
        else {
            return self.unknown(node, "has an assignment that is not read");
        };
        let operator = String::from_utf8_lossy(text(operator, source)).into_owned();
        let operator = operator.strip_suffix('=').unwrap_or(&operator);
        if operator == "??" {
            let doubt = self.doubt(node, "assigns to a variable only where it is not set");
            self.evaluate_perhaps(right, source, &doubt);
            self.assign(left, Value::Unknown(doubt.clone()), source);
            return Value::Unknown(doubt);
        }
        let before = self.evaluate(left, source);
        let operand = self.evaluate(right, source);
        let value = self.combine(node, operator, before, operand);
        self.assign(left, value.clone(), source);
        value
    }

    pub(super) fn assign_variable(&mut self, name: &str, value: Value) {
        if let ("_ENV", Err(doubt)) = (name, value.decided()) {
            self.scope.forget(Kind::Environment, doubt);
        }
        self.assumptions.bind(&format!("${name}"));
        let value = self.assigned(value);
        self.scope.bind(Kind::Variables, name, value);
    }

    /// After a `return` that may have ended the file, nothing is assigned for sure.
    pub(super) fn assigned(&self, value: Value) -> Value {
        match &self.may_have_returned {
            Some(doubt) => Value::Unknown(doubt.clone()),
            None => value,
        }
    }

    /// Any variable may have been assigned to, `$table_prefix` and those of the environment too.
    pub(super) fn forget_assigned(&mut self, doubt: &Doubt) {
        self.scope.forget(Kind::Variables, doubt);
        self.scope.bind(Kind::Variables, "table_prefix", Value::Unknown(doubt.clone()));
        self.scope.forget(Kind::Environment, doubt);
    }
}
