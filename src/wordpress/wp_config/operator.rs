//! Operators: what they make of two values, and which of their operands PHP evaluates at all.

use tree_sitter::Node;

use super::call::function_name;
use super::expression::operand;
use super::function;
use super::value::{Assumed, Doubt, Scalar, Value};
use super::{Reader, text};

impl Reader<'_> {
    pub(super) fn evaluate_binary(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let (Some(left), Some(operator), Some(right)) =
            (node.child_by_field_name("left"), node.child_by_field_name("operator"), node.child_by_field_name("right"))
        else {
            return self.not_read(node, source, "has a value that only PHP can compute");
        };
        let operator = String::from_utf8_lossy(text(operator, source)).to_ascii_lowercase();
        let first = self.evaluate(left, source);
        match operator.as_str() {
            "&&" | "and" => self.short_circuit(first, false, right, source),
            "||" | "or" => self.short_circuit(first, true, right, source),
            "??" => self.coalesce(node, first, right, source),
            _ => {
                let is_late = self.is_read_late(left, right, source);
                let second = self.evaluate(right, source);
                match is_late {
                    true => self.unknown(node, READ_LATE),
                    false => self.combine(node, &operator, first, second),
                }
            }
        }
    }

    /// PHP reads a plain variable on the left only after the right side: `$a . ($a = 'x')` is `xx`.
    pub(super) fn is_read_late(&self, mut left: Node<'_>, right: Node<'_>, source: &[u8]) -> bool {
        while let ("parenthesized_expression", Some(inner)) = (left.kind(), operand(left)) {
            left = inner;
        }
        left.kind() == "variable_name" && !every_node(right, |node| !self.may_assign(node, source))
    }

    /// Whether the node itself, leaving those below it aside, can change a variable.
    fn may_assign(&self, node: Node<'_>, source: &[u8]) -> bool {
        match node.kind() {
            "function_call_expression" => {
                let name = node.child_by_field_name("function").and_then(|name| function_name(name, source));
                let is_harmless = |name: &str, arguments: Node<'_>| {
                    matches!(name, "isset" | "empty" | "getenv_docker" | "define")
                        || function::has_no_effect(name, arguments, source)
                };
                match (name, node.child_by_field_name("arguments")) {
                    (Some(name), Some(arguments)) => {
                        self.other_function(node, &name, source).is_some() || !is_harmless(&name, arguments)
                    }
                    _ => true,
                }
            }
            "update_expression" | "object_creation_expression" => true,
            kind => [
                "assignment_expression",
                "call_expression",
                "include_expression",
                "require_expression",
                "once_expression",
            ]
            .iter()
            .any(|end| kind.ends_with(end)),
        }
    }

    fn coalesce(&mut self, node: Node<'_>, first: Value, right: Node<'_>, source: &[u8]) -> Value {
        match first {
            Value::Known(Scalar::Null) => self.evaluate(right, source),
            Value::Assumed(Assumed { scalar: Scalar::Null, itself: true, variable, .. }) => {
                self.assumptions.took_default(self.place(node), &variable);
                self.evaluate(right, source)
            }
            Value::Known(_) | Value::Assumed(Assumed { scalar: Scalar::Boolean(_), .. }) => first,
            Value::Assumed(Assumed { ref doubt, .. }) | Value::FromEnv(_, ref doubt) | Value::Unknown(ref doubt) => {
                let doubt = doubt.clone();
                let default = self.either(right, source, &doubt);
                first.common(default).unwrap_or(Value::Unknown(doubt))
            }
        }
    }

    /// `decisive` is the truth of the left side that spares the right one.
    fn short_circuit(&mut self, first: Value, decisive: bool, right: Node<'_>, source: &[u8]) -> Value {
        match first {
            Value::Known(scalar) => {
                self.assumptions.decide();
                match scalar.is_true() == decisive {
                    true => Value::boolean(decisive),
                    false => self.evaluate(right, source).map(|scalar| Scalar::Boolean(scalar.is_true())),
                }
            }
            Value::Assumed(Assumed { doubt, .. }) | Value::FromEnv(_, doubt) | Value::Unknown(doubt) => {
                self.touch(right, source, &doubt);
                Value::Unknown(doubt)
            }
        }
    }

    /// What something is worth that may or may not be evaluated. Only what changes nothing can be asked that.
    fn either(&mut self, node: Node<'_>, source: &[u8], doubt: &Doubt) -> Value {
        if is_pure(node, source) {
            self.evaluate(node, source)
        } else {
            self.touch(node, source, doubt);
            Value::Unknown(doubt.clone())
        }
    }

    pub(super) fn combine(&mut self, node: Node<'_>, operator: &str, first: Value, second: Value) -> Value {
        if operator == "." {
            return self.concatenate(node, first, second);
        }
        let (left, right, assumed) = match (first, second) {
            (Value::Known(left), Value::Known(right)) => (left, right, None),
            // Is it set at all? That may be asked of an absent variable; anything else needs its value.
            (Value::Assumed(left), Value::Known(right @ (Scalar::Boolean(false) | Scalar::Null)))
            | (Value::Known(right @ (Scalar::Boolean(false) | Scalar::Null)), Value::Assumed(left)) => {
                (left.scalar.clone(), right, Some(left))
            }
            (Value::Known(_), value) | (value, _) => return self.computed(node, value),
        };
        let result = match (operator, &left, &right) {
            ("===", ..) => Some(Scalar::Boolean(left == right)),
            ("!==", ..) => Some(Scalar::Boolean(left != right)),
            ("==", ..) => loosely_equal(&left, &right).map(Scalar::Boolean),
            ("!=" | "<>", ..) => loosely_equal(&left, &right).map(|equal| Scalar::Boolean(!equal)),
            ("|", Scalar::Integer(a), Scalar::Integer(b)) => Some(Scalar::Integer(a | b)),
            ("+", Scalar::Integer(a), Scalar::Integer(b)) => a.checked_add(*b).map(Scalar::Integer),
            ("*", Scalar::Integer(a), Scalar::Integer(b)) => a.checked_mul(*b).map(Scalar::Integer),
            _ => None,
        };
        match (result, assumed) {
            (Some(scalar), None) => Value::Known(scalar),
            (Some(scalar), Some(assumed)) => Value::Assumed(Assumed { scalar, itself: false, ..assumed }),
            (None, _) => self.unknown(node, "has a value that only PHP can compute"),
        }
    }

    fn concatenate(&mut self, node: Node<'_>, first: Value, second: Value) -> Value {
        let joined = |left: Scalar, right: Scalar| self.limited(node, [left.to_bytes(), right.to_bytes()].concat());
        match (first, second) {
            (Value::Known(left), Value::Known(right)) => joined(left, right),
            (Value::FromEnv(left, doubt), Value::Known(right) | Value::FromEnv(right, _))
            | (Value::Known(left), Value::FromEnv(right, doubt)) => match joined(left, right) {
                Value::Known(scalar) => Value::FromEnv(scalar, doubt),
                value => value,
            },
            (Value::Known(_) | Value::FromEnv(..), value) | (value, _) => self.computed(node, value),
        }
    }

    pub(super) fn evaluate_ternary(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let (Some(condition), Some(otherwise)) =
            (node.child_by_field_name("condition"), node.child_by_field_name("alternative"))
        else {
            return self.not_read(node, source, "has a value that only PHP can compute");
        };
        let then = node.child_by_field_name("body"); // none in `?:`
        let tested = self.evaluate(condition, source);
        let doubt = match (tested.decided(), &tested, then) {
            (Ok(scalar), ..) => {
                let chosen = if scalar.is_true() { then } else { Some(otherwise) };
                return chosen.map_or(tested, |chosen| self.evaluate(chosen, source));
            }
            (_, Value::Assumed(assumed), None) if assumed.itself => {
                self.assumptions.took_default(self.place(node), &assumed.variable);
                return self.evaluate(otherwise, source);
            }
            (Err(doubt), ..) => doubt.clone(),
        };
        let one = then.map_or_else(|| tested.clone(), |then| self.either(then, source, &doubt));
        let other = self.either(otherwise, source, &doubt);
        // An absent variable decides only between itself and its default: `isset($_ENV['X']) ? $_ENV['X'] : 'd'`.
        if let Value::Assumed(about) = &tested {
            let (chosen, avoided) = if about.scalar.is_true() { (&one, &other) } else { (&other, &one) };
            if let Value::Assumed(avoided) = avoided
                && avoided.itself
                && avoided.variable == about.variable
            {
                self.assumptions.took_default(self.place(node), &about.variable);
                return chosen.clone();
            }
        }
        one.common(other).unwrap_or(Value::Unknown(doubt))
    }
}

/// Of a value for which the order of evaluation matters.
pub(super) const READ_LATE: &str = "uses a variable that the same expression may change";

/// Whether an expression changes nothing, so that it may be evaluated where PHP perhaps does not.
fn is_pure(node: Node<'_>, source: &[u8]) -> bool {
    every_node(node, |node| match node.kind() {
        "string" | "string_content" | "escape_sequence" | "integer" | "boolean" | "null" | "variable_name"
        | "comment" => true,
        "name" => !matches!(text(node, source).to_ascii_lowercase().as_slice(), b"exit" | b"die"),
        "encapsed_string" => super::literal::string(text(node, source)).is_some(),
        "function_call_expression" => {
            let name = node.child_by_field_name("function").and_then(|name| function_name(name, source));
            name.is_some_and(|name| matches!(name.as_str(), "getenv" | "getenv_docker"))
        }
        kind => {
            matches!(kind, "parenthesized_expression" | "subscript_expression" | "binary_expression" | "arguments")
                || kind == "argument"
        }
    })
}

/// Whether all named nodes of a tree are such, its root included. It does not recurse: nothing bounds how deep the tree is.
fn every_node<'t>(root: Node<'t>, is_such: impl Fn(Node<'t>) -> bool) -> bool {
    let mut cursor = root.walk();
    loop {
        if cursor.node().is_named() && !is_such(cursor.node()) {
            return false;
        }
        if cursor.goto_first_child() {
            continue;
        }
        while !cursor.goto_next_sibling() {
            if !cursor.goto_parent() {
                return true;
            }
        }
    }
}

/// PHP's `==`, where it is plain.
fn loosely_equal(left: &Scalar, right: &Scalar) -> Option<bool> {
    match (left, right) {
        (Scalar::Text(a), Scalar::Text(b)) if a == b => Some(true),
        // Numeric strings compare as numbers.
        (Scalar::Text(a), Scalar::Text(b)) => (!may_be_numeric(a) || !may_be_numeric(b)).then_some(false),
        (Scalar::Integer(a), Scalar::Integer(b)) => Some(a == b),
        (Scalar::Boolean(_), _) | (_, Scalar::Boolean(_)) => Some(left.is_true() == right.is_true()),
        (Scalar::Null, Scalar::Null) => Some(true),
        (Scalar::Null, Scalar::Text(text)) | (Scalar::Text(text), Scalar::Null) => Some(text.is_empty()),
        (Scalar::Null, Scalar::Integer(number)) | (Scalar::Integer(number), Scalar::Null) => Some(*number == 0),
        _ => None,
    }
}

fn may_be_numeric(text: &[u8]) -> bool {
    text.iter().any(u8::is_ascii_digit)
}
