//! Expressions that are plain. What any other does on the way becomes unknown, and so does what it is worth.

use std::path::Path;

use tree_sitter::Node;

use super::operator::READ_LATE;
use super::scope::Slot;
use super::value::{Assumed, Scalar, Value};
use super::{Flow, Reader, literal, text};
use crate::printable::is_harmful;

/// Longer strings are not kept: `$a .= $a` in a row would double them without end.
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
            "name" | "qualified_name" => self.evaluate_constant(node, source),
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
            "cast_expression" => self.evaluate_cast(node, source),
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
            "reference_assignment_expression" | "update_expression" => {
                self.not_read(node, source, "changes a variable in a way that is not followed")
            }
            "augmented_assignment_expression" => self.evaluate_augmented(node, source),
            // Made, not run: a call of it loses track. What it refers to may be changed then.
            "anonymous_function" | "arrow_function" => {
                let mut cursor = node.walk();
                let uses =
                    node.named_children(&mut cursor).find(|child| child.kind() == "anonymous_function_use_clause");
                let doubt = self.doubt(node, "has a function");
                if let Some(uses) = uses {
                    self.touch(uses, source, &doubt);
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

    pub(super) fn evaluate_children(&mut self, node: Node<'_>, source: &[u8]) {
        let mut cursor = node.walk();
        for child in node.named_children(&mut cursor) {
            self.evaluate(child, source);
        }
    }

    fn evaluate_constant(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let name = String::from_utf8_lossy(text(node, source)).into_owned();
        let qualified = name.starts_with('\\');
        let name = name.strip_prefix('\\').unwrap_or(&name);
        match name.to_ascii_lowercase().as_str() {
            "true" => return Value::boolean(true),
            "false" => return Value::boolean(false),
            "null" => return Value::Known(Scalar::Null),
            "exit" | "die" => {
                self.flow = Flow::Gone;
                return self.unknown(node, "ends the request");
            }
            "__file__" => return self.path_value(node, |file| Some(file)),
            "__dir__" => return self.path_value(node, Path::parent),
            _ => {}
        }
        if self.namespaced.contains(name) && !qualified {
            return self.unknown(node, format!("uses {}, which may be that of a namespace", printable(name)));
        }
        self.constant_value(node, name)
    }

    pub(super) fn constant_value(&mut self, node: Node<'_>, name: &str) -> Value {
        self.assumptions.uses(name);
        if let Some(Slot { value, .. }) = self.scope.constant(name) {
            return value.clone();
        }
        match name {
            "PHP_EOL" => Value::Known(Scalar::text("\n")),
            "DIRECTORY_SEPARATOR" => Value::Known(Scalar::text("/")),
            "MYSQLI_CLIENT_COMPRESS" | "MYSQL_CLIENT_COMPRESS" => Value::Known(Scalar::Integer(32)),
            "MYSQLI_CLIENT_SSL" | "MYSQL_CLIENT_SSL" => Value::Known(Scalar::Integer(2048)),
            "MYSQLI_CLIENT_SSL_DONT_VERIFY_SERVER_CERT" => Value::Known(Scalar::Integer(64)),
            _ => self.unknown(node, format!("uses the constant {}, which is not known there", printable(name))),
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
        self.assumptions.uses(&format!("${name}"));
        match self.scope.variable(&name) {
            Ok(Some(value)) => value.clone(),
            Ok(None) => self.unknown(node, format!("depends on ${}, which only PHP knows", printable(&name))),
            Err(doubt) => Value::Unknown(doubt.clone()),
        }
    }

    fn evaluate_assignment(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let (Some(left), Some(right)) = (node.child_by_field_name("left"), node.child_by_field_name("right")) else {
            return self.not_read(node, source, "has an assignment that is not read");
        };
        let value = self.evaluate(right, source);
        let doubt = self.doubt(left, "assigns by a name that only PHP knows");
        self.touch_children(left, source, &doubt);
        self.assign(left, value.clone(), source);
        value
    }

    fn evaluate_augmented(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let fields = ["left", "operator", "right"].map(|field| node.child_by_field_name(field));
        match fields {
            [Some(left), Some(operator), Some(right)]
                if left.kind() == "variable_name" && text(operator, source) == b".=" =>
            {
                let before = self.evaluate(left, source);
                let is_late = self.is_read_late(left, right, source);
                let more = self.evaluate(right, source);
                let value = match is_late {
                    true => self.unknown(node, READ_LATE),
                    false => self.combine(node, ".", before, more),
                };
                self.assign(left, value.clone(), source);
                value
            }
            _ => self.not_read(node, source, "assigns to a variable in a way that is not followed"),
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
        let Some(argument) = node.child_by_field_name("argument") else {
            return self.not_read(node, source, "has a value that only PHP can compute");
        };
        match (operator, self.evaluate(argument, source)) {
            (b"!", value) => value.map(|scalar| Scalar::Boolean(!scalar.is_true())),
            // `@` hides a warning only.
            (b"@", value) => value,
            (b"-", Value::Known(Scalar::Integer(number))) if number != i64::MIN => {
                Value::Known(Scalar::Integer(-number))
            }
            (b"+", Value::Known(Scalar::Integer(number))) => Value::Known(Scalar::Integer(number)),
            (_, value) => self.computed(node, value),
        }
    }

    fn evaluate_cast(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let cast =
            node.child_by_field_name("type").map(|cast| text(cast, source).to_ascii_lowercase()).unwrap_or_default();
        let Some(value) = node.child_by_field_name("value") else {
            return self.not_read(node, source, "has a value that only PHP can compute");
        };
        match (cast.as_slice(), self.evaluate(value, source)) {
            (b"bool" | b"boolean", value) => value.map(|scalar| Scalar::Boolean(scalar.is_true())),
            (b"string", Value::Known(scalar)) => Value::Known(Scalar::Text(scalar.to_bytes())),
            (b"string", Value::FromEnv(scalar, doubt)) => Value::FromEnv(scalar, doubt),
            (b"int" | b"integer", Value::Known(Scalar::Integer(number))) => Value::Known(Scalar::Integer(number)),
            (_, value) => self.computed(node, value),
        }
    }

    /// Something that only PHP makes of a value: unknown for the value's own reason, if it has one.
    pub(super) fn computed(&self, node: Node<'_>, value: Value) -> Value {
        match value {
            Value::Unknown(doubt) | Value::FromEnv(_, doubt) | Value::Assumed(Assumed { doubt, .. }) => {
                Value::Unknown(doubt)
            }
            Value::Known(_) => self.unknown(node, "has a value that only PHP can compute"),
        }
    }
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

pub(super) fn subscript(node: Node<'_>) -> (Option<Node<'_>>, Option<Node<'_>>) {
    let mut cursor = node.walk();
    let mut parts = node.named_children(&mut cursor).filter(|child| child.kind() != "comment");
    (parts.next(), parts.next())
}

/// Names come from the file, and go into one line of an error.
pub(super) fn printable(name: &str) -> String {
    name.chars().filter(|character| !is_harmful(*character)).take(80).collect()
}
