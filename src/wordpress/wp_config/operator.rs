//! Operators: their results, and which operands PHP evaluates at all.

use super::Reader;
use super::code::Code;
use super::expression::COMPUTED;
use super::value::{Scalar, Value};

impl Reader<'_> {
    pub(super) fn evaluate_binary(&mut self, code: Code<'_>) -> Value {
        let (Some(left), Some(operator), Some(right)) =
            (code.field("left"), code.field("operator"), code.field("right"))
        else {
            return self.not_read(code, COMPUTED);
        };
        let first = self.evaluate(left);
        match operator.text().to_ascii_lowercase().as_str() {
            "&&" | "and" => self.short_circuit(&first, false, right),
            "||" | "or" => self.short_circuit(&first, true, right),
            "??" => self.coalesce(first, right),
            // PHP reads a plain variable on the left only after the right side, but no supported
            // right side changes one.
            operator => {
                let second = self.evaluate(right);
                self.combine(code, operator, &first, &second)
            }
        }
    }

    fn coalesce(&mut self, first: Value, right: Code<'_>) -> Value {
        match &first {
            Value::Known(Scalar::Null) => self.evaluate(right),
            Value::Known(_) => first,
            Value::Unset(Scalar::Null, variable, _) => {
                self.taken.defaults.insert(variable.clone());
                self.evaluate(right)
            }
            Value::Unset(_, _, doubt) | Value::InEnv(_, doubt) | Value::Unknown(doubt) => self.open(&[right], doubt),
        }
    }

    /// `decisive` is the truth value of the left side with which PHP skips the right side.
    fn short_circuit(&mut self, first: &Value, decisive: bool, right: Code<'_>) -> Value {
        match first.known() {
            Ok(scalar) if scalar.is_true() == decisive => Value::boolean(decisive),
            Ok(_) => self.evaluate(right).map(|scalar| Scalar::Boolean(scalar.is_true())),
            Err(doubt) => self.open(&[right], doubt),
        }
    }

    pub(super) fn evaluate_ternary(&mut self, code: Code<'_>) -> Value {
        let (Some(condition), Some(otherwise)) = (code.field("condition"), code.field("alternative")) else {
            return self.not_read(code, COMPUTED);
        };
        let tested = self.evaluate(condition);
        match (&tested, code.field("body")) {
            (Value::Known(scalar), _) if !scalar.is_true() => self.evaluate(otherwise),
            (Value::Known(_), Some(then)) => self.evaluate(then),
            (Value::Known(_), None) => tested, // `?:`
            (Value::Unset(_, variable, _), None) => {
                self.taken.defaults.insert(variable.clone());
                self.evaluate(otherwise)
            }
            (Value::Unset(_, _, doubt) | Value::InEnv(_, doubt) | Value::Unknown(doubt), then) => {
                self.open(&[then.unwrap_or(otherwise), otherwise], doubt)
            }
        }
    }

    /// It is unknown which operands PHP evaluates.
    fn open(&mut self, operands: &[Code<'_>], doubt: &super::Doubt) -> Value {
        operands.iter().for_each(|operand| self.touch(*operand, doubt));
        Value::Unknown(doubt.clone())
    }

    fn combine(&mut self, code: Code<'_>, operator: &str, first: &Value, second: &Value) -> Value {
        let (left, right) = match (first.known(), second.known()) {
            (Ok(left), Ok(right)) => (left, right),
            (Err(doubt), _) | (_, Err(doubt)) => return Value::Unknown(doubt.clone()),
        };
        let result = match (operator, left, right) {
            (".", ..) => return self.limited(code, [left.to_bytes(), right.to_bytes()].concat()),
            ("===", ..) => Some(Scalar::Boolean(left == right)),
            ("!==", ..) => Some(Scalar::Boolean(left != right)),
            ("==", ..) => loosely_equal(left, right).map(Scalar::Boolean),
            ("!=" | "<>", ..) => loosely_equal(left, right).map(|equal| Scalar::Boolean(!equal)),
            ("|", Scalar::Integer(a), Scalar::Integer(b)) => Some(Scalar::Integer(a | b)),
            _ => None,
        };
        result.map_or_else(|| self.unknown(code, COMPUTED), Value::Known)
    }
}

/// PHP's `==`, for plain cases.
fn loosely_equal(left: &Scalar, right: &Scalar) -> Option<bool> {
    // Numeric strings are compared as numbers.
    let may_be_numeric = |text: &[u8]| text.iter().any(u8::is_ascii_digit);
    match (left, right) {
        (Scalar::Text(a), Scalar::Text(b)) => (a == b || !may_be_numeric(a) || !may_be_numeric(b)).then_some(a == b),
        (Scalar::Boolean(_), _) | (_, Scalar::Boolean(_)) => Some(left.is_true() == right.is_true()),
        (Scalar::Integer(a), Scalar::Integer(b)) => Some(a == b),
        _ => None,
    }
}
