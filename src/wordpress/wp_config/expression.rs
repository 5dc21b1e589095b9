//! Plain expressions. The results of all others are unknown, and so are the values that they may
//! change.

use super::code::Code;
use super::value::{Scalar, Value};
use super::{Flow, Reader, literal};

/// Longer strings are not kept: repeated `$a = $a . $a` would double them without end.
const TEXT_LIMIT: usize = 64 * 1024;

pub(super) const COMPUTED: &str = "has a value that only PHP can compute";

impl Reader<'_> {
    pub(super) fn evaluate(&mut self, code: Code<'_>) -> Value {
        let stopped = self.unknown(code, "is not read any more");
        // After `exit` within an expression, the rest of it does not run.
        if self.flow != Flow::On {
            return stopped;
        }
        self.nested(code, stopped, |reader| reader.evaluate_expression(code))
    }

    fn evaluate_expression(&mut self, code: Code<'_>) -> Value {
        match code.kind() {
            "string" | "encapsed_string" => match literal::string(code.bytes()) {
                Some(bytes) => self.limited(code, bytes),
                None => self.not_read(code, "has a string with variables in it, or an escape that is not read"),
            },
            "integer" => match literal::integer(&code.text()) {
                Some(integer) => Value::Known(Scalar::Integer(integer)),
                None => self.unknown(code, "has a number that is not read"),
            },
            "boolean" => Value::boolean(code.text().eq_ignore_ascii_case("true")),
            "null" => Value::Known(Scalar::Null),
            "name" | "qualified_name" => self.evaluate_name(code),
            "variable_name" => self.evaluate_variable(code),
            "subscript_expression" => self.evaluate_subscript(code),
            "parenthesized_expression" | "error_suppression_expression" | "expression_statement" => {
                match code.operand() {
                    Some(inner) => self.evaluate(inner),
                    None => self.not_read(code, COMPUTED),
                }
            }
            "binary_expression" => self.evaluate_binary(code),
            "unary_op_expression" => self.evaluate_unary(code),
            "conditional_expression" => self.evaluate_ternary(code),
            "assignment_expression" => self.evaluate_assignment(code),
            "function_call_expression" => self.evaluate_call(code),
            _ if code.is_include() => self.include(code),
            _ if code.runs_class() => self.not_read(code, "runs code of a class, which is not followed"),
            "reference_assignment_expression" | "update_expression" | "augmented_assignment_expression" => {
                self.not_read(code, "changes a variable in a way that is not followed")
            }
            "throw_expression" => self.end(code, "exit"),
            _ => self.not_read(code, COMPUTED),
        }
    }

    fn evaluate_variable(&mut self, code: Code<'_>) -> Value {
        let known = code.variable().and_then(|name| self.scope.variable(name));
        known.unwrap_or_else(|| self.unknown(code, &format!("depends on {}, which only PHP knows", code.text())))
    }

    fn evaluate_subscript(&mut self, code: Code<'_>) -> Value {
        let (base, key) = match code.children().as_slice() {
            [base, key] if base.variable().is_some() => (base.text(), self.evaluate(*key)),
            _ => return self.not_read(code, COMPUTED),
        };
        match (base.as_str(), key.known_text()) {
            ("$_ENV", Some(name)) => self.variable_of_environment(code, name, true),
            (base, Some(key)) => self.unknown(code, &format!("depends on {base}['{key}'], which only PHP knows")),
            (base, None) => self.unknown(code, &format!("depends on {base}[…], which only PHP knows")),
        }
    }

    fn evaluate_assignment(&mut self, code: Code<'_>) -> Value {
        match (code.field("left").and_then(Code::variable), code.field("right")) {
            (Some(name), Some(right)) if code.stands_alone() && name != "GLOBALS" && name != "_ENV" => {
                let value = self.evaluate(right);
                self.scope.assign(name, value.clone());
                value
            }
            _ => self.not_read(code, "changes variables in a way that is not followed"),
        }
    }

    pub(super) fn limited(&self, code: Code<'_>, bytes: Vec<u8>) -> Value {
        match bytes.len() > TEXT_LIMIT {
            true => self.unknown(code, "has a very long string"),
            false => Value::Known(Scalar::Text(bytes)),
        }
    }

    fn evaluate_unary(&mut self, code: Code<'_>) -> Value {
        let operand = code.field("argument").map(|argument| self.evaluate(argument));
        match (code.bytes().first(), operand) {
            (Some(b'!'), Some(value)) => value.map(|scalar| Scalar::Boolean(!scalar.is_true())),
            // `@` only hides a warning.
            (Some(b'@'), Some(value)) => value,
            (_, value) => self.computed(code, value.as_ref()),
        }
    }

    /// A value that only PHP can compute from another: unknown for that one's own reason, if it is
    /// unknown.
    pub(super) fn computed(&self, code: Code<'_>, value: Option<&Value>) -> Value {
        match value.map(Value::known) {
            Some(Err(doubt)) => Value::Unknown(doubt.clone()),
            _ => self.unknown(code, COMPUTED),
        }
    }
}
