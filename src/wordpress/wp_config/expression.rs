//! Expressions that are plain. What any other does on the way becomes unknown, and so does what it is worth.

use std::path::Path;

use tree_sitter::Node;

use super::value::{Scalar, Value};
use super::{Flow, Reader, literal, text};
use crate::printable::is_harmful;

/// Longer strings are not kept: `$a = $a . $a` in a row would double them without end.
const TEXT_LIMIT: usize = 64 * 1024;

impl Reader<'_> {
    pub(super) fn evaluate(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let stopped = self.unknown(node, "is not read any more");
        // After `exit` within an expression nothing of it is run.
        if self.flow != Flow::On {
            return stopped;
        }
        self.nested(node, stopped, |reader| reader.evaluate_expression(node, source))
    }

    fn evaluate_expression(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        match node.kind() {
            "string" | "encapsed_string" | "heredoc" | "nowdoc" => match literal::string(text(node, source)) {
                Some(bytes) => self.limited(node, bytes),
                None => self.not_read(node, source, "has a string with variables in it"),
            },
            "integer" => match literal::integer(text(node, source)) {
                Some(integer) => Value::Known(Scalar::Integer(integer)),
                None => self.unknown(node, "has a number that is not read"),
            },
            "boolean" => Value::boolean(text(node, source).eq_ignore_ascii_case(b"true")),
            "null" => Value::Known(Scalar::Null),
            "name" | "qualified_name" => self.evaluate_name(node, source),
            "variable_name" => self.evaluate_variable(node, source),
            "subscript_expression" => self.evaluate_subscript(node, source),
            "parenthesized_expression" | "argument" | "error_suppression_expression" | "expression_statement" => {
                match operand(node) {
                    Some(inner) => self.evaluate(inner, source),
                    None => self.unknown(node, "has nothing in it"),
                }
            }
            "binary_expression" => self.evaluate_binary(node, source),
            "unary_op_expression" => self.evaluate_unary(node, source),
            "conditional_expression" => self.evaluate_ternary(node, source),
            "assignment_expression" => self.evaluate_assignment(node, source),
            "function_call_expression" => self.evaluate_call(node, source),
            "include_expression" | "include_once_expression" | "require_expression" | "require_once_expression" => {
                self.include(node, source)
            }
            "member_call_expression"
            | "nullsafe_member_call_expression"
            | "scoped_call_expression"
            | "object_creation_expression" => {
                self.not_read(node, source, "runs code of a class, which is not followed")
            }
            "reference_assignment_expression" | "update_expression" | "augmented_assignment_expression" => {
                self.not_read(node, source, "changes a variable in a way that is not followed")
            }
            // Made, not run: a call of it loses track. What it refers to may be changed then.
            "anonymous_function" | "arrow_function" => {
                let doubt = self.doubt(node, "has a function");
                let mut cursor = node.walk();
                for child in node.named_children(&mut cursor) {
                    if child.kind() == "anonymous_function_use_clause" {
                        self.touch(child, source, &doubt);
                    }
                }
                Value::Unknown(doubt)
            }
            "throw_expression" => {
                self.flow = Flow::Gone;
                self.unknown(node, "throws")
            }
            _ => self.not_read(node, source, "has a value that only PHP can compute"),
        }
    }

    /// Unknown, like all that it touches.
    pub(super) fn not_read(&mut self, node: Node<'_>, source: &[u8], why: impl Into<String>) -> Value {
        let doubt = self.doubt(node, why);
        self.touch(node, source, &doubt);
        Value::Unknown(doubt)
    }

    fn evaluate_name(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        match text(node, source)
            .to_ascii_lowercase()
            .strip_prefix(b"\\")
            .unwrap_or(&text(node, source).to_ascii_lowercase())
        {
            b"true" => Value::boolean(true),
            b"false" => Value::boolean(false),
            b"null" => Value::Known(Scalar::Null),
            b"exit" | b"die" => {
                self.flow = Flow::Gone;
                self.unknown(node, "ends the request")
            }
            b"__file__" => self.path_value(node, |file| Some(file)),
            b"__dir__" => self.path_value(node, Path::parent),
            _ => self.evaluate_constant(node, source),
        }
    }

    fn path_value(&self, node: Node<'_>, part: impl Fn(&Path) -> Option<&Path>) -> Value {
        let path = self.files.last().and_then(|file| part(file)).and_then(Path::to_str);
        match path {
            // systemd hands over a copy (`credential:`): where the file is for PHP is not known.
            Some(path) if path.starts_with("/run/credentials/") => {
                self.unknown(node, "uses the path of the file, of which this is a copy")
            }
            Some(path) => Value::Known(Scalar::text(path)),
            None => self.unknown(node, "uses a path that is not UTF-8"),
        }
    }

    fn evaluate_variable(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let Some(name) = variable_name(node, source) else {
            return self.unknown(node, "uses a variable that is not read");
        };
        match self.scope.variable(&name) {
            Ok(Some(value)) => value.clone(),
            Ok(None) => self.unknown(node, format!("depends on ${}, which only PHP knows", printable(&name))),
            Err(doubt) => Value::Unknown(doubt.clone()),
        }
    }

    fn evaluate_subscript(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let mut cursor = node.walk();
        let mut parts = node.named_children(&mut cursor).filter(|child| child.kind() != "comment");
        let (base, key) = (parts.next(), parts.next());
        let name = base.filter(|base| base.kind() == "variable_name").and_then(|base| variable_name(base, source));
        let (Some(base), Some(key)) = (name, key) else {
            return self.not_read(node, source, "has a value that only PHP can compute");
        };
        let key = self.evaluate(key, source);
        match (base.as_str(), key.known_text()) {
            ("_ENV", Some(name)) => self.variable_of_environment(node, name, true),
            (base, key) => {
                let key = key.map_or_else(|| "…".to_owned(), |key| format!("'{}'", printable(key)));
                self.unknown(node, format!("depends on ${}[{key}], which only PHP knows", printable(base)))
            }
        }
    }

    /// One that stands by itself, or is a whole condition: within other expressions it matters when PHP comes to it.
    fn evaluate_assignment(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let (left, right) = (node.child_by_field_name("left"), node.child_by_field_name("right"));
        let name = left.filter(|left| left.kind() == "variable_name").and_then(|left| variable_name(left, source));
        match (name, right) {
            (Some(name), Some(right)) if stands_alone(node) && name != "GLOBALS" && name != "_ENV" => {
                let value = self.evaluate(right, source);
                self.scope.set_variable(&name, value.clone());
                value
            }
            _ => self.not_read(node, source, "changes variables in a way that is not followed"),
        }
    }

    pub(super) fn limited(&self, node: Node<'_>, bytes: Vec<u8>) -> Value {
        if bytes.len() > TEXT_LIMIT {
            self.unknown(node, "has a very long string")
        } else {
            Value::Known(Scalar::Text(bytes))
        }
    }

    fn evaluate_unary(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let operator = node.child_by_field_name("operator").map(|operator| text(operator, source)).unwrap_or_default();
        match (operator, node.child_by_field_name("argument").map(|argument| self.evaluate(argument, source))) {
            (b"!", Some(value)) => value.map(|scalar| Scalar::Boolean(!scalar.is_true())),
            // `@` hides a warning only.
            (b"@", Some(value)) => value,
            (_, Some(value)) => self.computed(node, &value),
            (_, None) => self.unknown(node, "has a value that only PHP can compute"),
        }
    }

    /// Something that only PHP makes of a value: unknown for the value's own reason, if it has one.
    pub(super) fn computed(&self, node: Node<'_>, value: &Value) -> Value {
        match value.known() {
            Err(doubt) => Value::Unknown(doubt.clone()),
            Ok(_) => self.unknown(node, "has a value that only PHP can compute"),
        }
    }
}

fn stands_alone(mut node: Node<'_>) -> bool {
    while let Some(parent) = node.parent() {
        match parent.kind() {
            "parenthesized_expression" | "assignment_expression" => node = parent,
            "expression_statement" | "if_statement" | "else_if_clause" => return true,
            _ => return false,
        }
    }
    false
}

/// The one thing in parentheses, or after `@`.
pub(super) fn operand(node: Node<'_>) -> Option<Node<'_>> {
    let mut cursor = node.walk();
    node.named_children(&mut cursor).find(|child| child.kind() != "comment")
}

/// Of a plain `$name`.
pub(super) fn variable_name(node: Node<'_>, source: &[u8]) -> Option<String> {
    std::str::from_utf8(text(node, source)).ok()?.strip_prefix('$').map(str::to_owned)
}

/// Names come from the file, and go into one line of an error.
pub(super) fn printable(name: &str) -> String {
    name.chars().filter(|character| !is_harmful(*character)).take(80).collect()
}
