//! Operators: what they make of two values, and which of their operands PHP evaluates at all.

use tree_sitter::Node;

use super::value::{Scalar, Value};
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
            "??" => self.coalesce(first, right, source),
            // PHP reads a plain variable on the left only after the right side. What is read of the right side changes none.
            _ => {
                let second = self.evaluate(right, source);
                self.combine(node, &operator, &first, &second)
            }
        }
    }

    fn coalesce(&mut self, first: Value, right: Node<'_>, source: &[u8]) -> Value {
        match first {
            Value::Known(Scalar::Null) => self.evaluate(right, source),
            Value::Known(_) => first,
            Value::Unset(Scalar::Null, variable, _) => {
                self.take_default(&variable);
                self.evaluate(right, source)
            }
            Value::Unset(_, _, doubt) | Value::InEnv(_, doubt) | Value::Unknown(doubt) => {
                self.touch(right, source, &doubt);
                Value::Unknown(doubt)
            }
        }
    }

    /// `decisive` is the truth of the left side that spares the right one.
    fn short_circuit(&mut self, first: Value, decisive: bool, right: Node<'_>, source: &[u8]) -> Value {
        match first.known() {
            Ok(scalar) if scalar.is_true() == decisive => Value::boolean(decisive),
            Ok(_) => self.evaluate(right, source).map(|scalar| Scalar::Boolean(scalar.is_true())),
            Err(doubt) => {
                self.touch(right, source, doubt);
                Value::Unknown(doubt.clone())
            }
        }
    }

    fn combine(&mut self, node: Node<'_>, operator: &str, first: &Value, second: &Value) -> Value {
        let (left, right) = match (first.known(), second.known()) {
            (Ok(left), Ok(right)) => (left, right),
            (Err(doubt), _) | (_, Err(doubt)) => return Value::Unknown(doubt.clone()),
        };
        let result = match (operator, left, right) {
            (".", ..) => return self.limited(node, [left.to_bytes(), right.to_bytes()].concat()),
            ("===", ..) => Some(Scalar::Boolean(left == right)),
            ("!==", ..) => Some(Scalar::Boolean(left != right)),
            ("==", ..) => loosely_equal(left, right).map(Scalar::Boolean),
            ("!=" | "<>", ..) => loosely_equal(left, right).map(|equal| Scalar::Boolean(!equal)),
            ("|", Scalar::Integer(a), Scalar::Integer(b)) => Some(Scalar::Integer(a | b)),
            _ => None,
        };
        result.map_or_else(|| self.unknown(node, "has a value that only PHP can compute"), Value::Known)
    }

    pub(super) fn evaluate_ternary(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let (Some(condition), Some(otherwise)) =
            (node.child_by_field_name("condition"), node.child_by_field_name("alternative"))
        else {
            return self.not_read(node, source, "has a value that only PHP can compute");
        };
        let then = node.child_by_field_name("body"); // none in `?:`
        let tested = self.evaluate(condition, source);
        match (&tested, then) {
            (Value::Known(scalar), _) => {
                let chosen = if scalar.is_true() { then } else { Some(otherwise) };
                chosen.map_or(tested, |chosen| self.evaluate(chosen, source))
            }
            (Value::Unset(_, variable, _), None) => {
                self.take_default(variable);
                self.evaluate(otherwise, source)
            }
            (Value::Unset(_, _, doubt) | Value::InEnv(_, doubt) | Value::Unknown(doubt), _) => {
                for code in then.into_iter().chain([otherwise]) {
                    self.touch(code, source, doubt);
                }
                Value::Unknown(doubt.clone())
            }
        }
    }
}

/// PHP's `==`, where it is plain.
fn loosely_equal(left: &Scalar, right: &Scalar) -> Option<bool> {
    // Numeric strings compare as numbers.
    let may_be_numeric = |text: &[u8]| text.iter().any(u8::is_ascii_digit);
    match (left, right) {
        (Scalar::Text(a), Scalar::Text(b)) => (a == b || !may_be_numeric(a) || !may_be_numeric(b)).then_some(a == b),
        (Scalar::Boolean(_), _) | (_, Scalar::Boolean(_)) => Some(left.is_true() == right.is_true()),
        (Scalar::Integer(a), Scalar::Integer(b)) => Some(a == b),
        _ => None,
    }
}
