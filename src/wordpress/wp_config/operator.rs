//! Operators: what they make of two values, and which of their operands PHP evaluates at all.

use tree_sitter::Node;

use super::value::{Assumed, Doubt, Scalar, Value};
use super::{Flow, Reader, text};

impl Reader<'_> {
    pub(super) fn evaluate_binary(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let (Some(left), Some(operator), Some(right)) =
            (node.child_by_field_name("left"), node.child_by_field_name("operator"), node.child_by_field_name("right"))
        else {
            return self.unknown(node, "has a value that only PHP can compute");
        };
        let operator = String::from_utf8_lossy(text(operator, source)).to_ascii_lowercase();
        let first = self.evaluate(left, source);
        match operator.as_str() {
            "&&" | "and" => self.short_circuit(first, false, right, source),
            "||" | "or" => self.short_circuit(first, true, right, source),
            "??" => self.coalesce(node, first, right, source),
            _ => {
                let second = self.evaluate(right, source);
                self.combine(node, &operator, first, second)
            }
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
                let mut default = None;
                let (layer, _) = self.branch(|reader| {
                    default = Some(reader.evaluate(right, source));
                    reader.take_flow(Flow::On)
                });
                self.scope.merge_perhaps(layer, doubt);
                let doubt = doubt.clone();
                default.and_then(|default| first.common(default)).unwrap_or(Value::Unknown(doubt))
            }
        }
    }

    /// `decisive` is the truth of the left side that spares the right one.
    fn short_circuit(&mut self, first: Value, decisive: bool, right: Node<'_>, source: &[u8]) -> Value {
        if first.decided().is_ok() {
            self.assumptions.decide();
        }
        match first {
            Value::Known(scalar) if scalar.is_true() == decisive => Value::boolean(decisive),
            Value::Known(_) => self.evaluate(right, source).map(|scalar| Scalar::Boolean(scalar.is_true())),
            Value::Assumed(Assumed { doubt, .. }) | Value::FromEnv(_, doubt) | Value::Unknown(doubt) => {
                let taken = self.branch(|reader| {
                    reader.evaluate(right, source);
                    reader.take_flow(Flow::On)
                });
                let not_taken = self.branch(|_| Flow::On);
                self.flow = self.join([taken, not_taken], &doubt);
                Value::Unknown(doubt)
            }
        }
    }

    /// Evaluates what may or may not be evaluated in PHP.
    pub(super) fn evaluate_perhaps(&mut self, node: Node<'_>, source: &[u8], doubt: &Doubt) {
        let (layer, _) = self.branch(|reader| {
            reader.evaluate_children(node, source);
            reader.take_flow(Flow::On)
        });
        self.scope.merge_perhaps(layer, doubt);
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
            (first, second) => {
                let doubt = first.decided().err().or(second.decided().err()).cloned();
                return doubt
                    .map_or_else(|| self.unknown(node, "has a value that only PHP can compute"), Value::Unknown);
            }
        };
        let result = match (operator, &left, &right) {
            ("===", ..) => Some(Scalar::Boolean(left == right)),
            ("!==", ..) => Some(Scalar::Boolean(left != right)),
            ("==", ..) => loosely_equal(&left, &right).map(Scalar::Boolean),
            ("!=" | "<>", ..) => loosely_equal(&left, &right).map(|equal| Scalar::Boolean(!equal)),
            ("xor", ..) => Some(Scalar::Boolean(left.is_true() != right.is_true())),
            ("|", Scalar::Integer(a), Scalar::Integer(b)) => Some(Scalar::Integer(a | b)),
            ("&", Scalar::Integer(a), Scalar::Integer(b)) => Some(Scalar::Integer(a & b)),
            ("+", Scalar::Integer(a), Scalar::Integer(b)) => a.checked_add(*b).map(Scalar::Integer),
            ("-", Scalar::Integer(a), Scalar::Integer(b)) => a.checked_sub(*b).map(Scalar::Integer),
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
        let doubt = match (&first, &second) {
            (Value::FromEnv(_, doubt), _) | (_, Value::FromEnv(_, doubt)) => Some(doubt.clone()),
            _ => None,
        };
        match (first, second) {
            (Value::Known(left) | Value::FromEnv(left, _), Value::Known(right) | Value::FromEnv(right, _)) => {
                match (self.limited(node, [left.to_bytes(), right.to_bytes()].concat()), doubt) {
                    (Value::Known(scalar), Some(doubt)) => Value::FromEnv(scalar, doubt),
                    (value, _) => value,
                }
            }
            (Value::Unknown(doubt) | Value::Assumed(Assumed { doubt, .. }), _)
            | (_, Value::Unknown(doubt) | Value::Assumed(Assumed { doubt, .. })) => Value::Unknown(doubt),
        }
    }

    pub(super) fn evaluate_ternary(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let (Some(condition), Some(otherwise)) =
            (node.child_by_field_name("condition"), node.child_by_field_name("alternative"))
        else {
            return self.unknown(node, "has a value that only PHP can compute");
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
        let [(one, first), (other, second)] = [then, Some(otherwise)].map(|chosen| {
            let mut value = tested.clone();
            let branch = self.branch(|reader| {
                if let Some(chosen) = chosen {
                    value = reader.evaluate(chosen, source);
                }
                reader.take_flow(Flow::On)
            });
            (value, branch)
        });
        let value = match (first.1, second.1) {
            // `defined('X') ? X : exit`: the request goes on with the one that does not end it.
            (Flow::Gone, _) => other,
            (_, Flow::Gone) => one,
            _ => self.one_of(node, &tested, [one, other], &doubt),
        };
        self.flow = self.join([first, second], &doubt);
        value
    }

    /// Which of the two values it is depends on `tested`. An absent variable decides only between
    /// itself and its default: `isset($_ENV['X']) ? $_ENV['X'] : 'd'`.
    fn one_of(&mut self, node: Node<'_>, tested: &Value, [one, other]: [Value; 2], doubt: &Doubt) -> Value {
        if let Value::Assumed(about) = tested {
            let (chosen, avoided) = if about.scalar.is_true() { (&one, &other) } else { (&other, &one) };
            if let Value::Assumed(avoided) = avoided
                && avoided.itself
                && avoided.variable == about.variable
            {
                self.assumptions.took_default(self.place(node), &about.variable);
                return chosen.clone();
            }
        }
        one.common(other).unwrap_or_else(|| Value::Unknown(doubt.clone()))
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
