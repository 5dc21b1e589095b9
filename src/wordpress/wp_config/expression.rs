//! Expressions: what they are worth, and what they change on the way.

use std::path::Path;

use tree_sitter::Node;

use super::scope::Kind;
use super::value::{Scalar, Value};
use super::{Flow, Reader, literal, text};

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
                None => {
                    self.evaluate_children(node, source);
                    self.unknown(node, "has a string with variables in it")
                }
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
            "parenthesized_expression" | "argument" => match operand(node) {
                Some(inner) => self.evaluate(inner, source),
                None => self.unknown(node, "has nothing in parentheses"),
            },
            "error_suppression_expression" => {
                self.silent += 1;
                let value = operand(node).map(|inner| self.evaluate(inner, source));
                self.silent -= 1;
                value.unwrap_or_else(|| self.unknown(node, "has nothing after @"))
            }
            "binary_expression" => self.evaluate_binary(node, source),
            "unary_op_expression" => self.evaluate_unary(node, source),
            "cast_expression" => self.evaluate_cast(node, source),
            "conditional_expression" => self.evaluate_ternary(node, source),
            "assignment_expression" => self.evaluate_assignment(node, source),
            "augmented_assignment_expression" => self.evaluate_augmented(node, source),
            "reference_assignment_expression" | "by_ref" | "update_expression" => {
                self.evaluate_children(node, source);
                let doubt = self.doubt(node, "changes a variable in a way that is not followed");
                self.forget_assigned(&doubt);
                Value::Unknown(doubt)
            }
            "function_call_expression" => self.evaluate_call(node, source),
            "include_expression" | "include_once_expression" | "require_expression" | "require_once_expression" => {
                self.include(node, source)
            }
            "member_call_expression"
            | "nullsafe_member_call_expression"
            | "scoped_call_expression"
            | "object_creation_expression" => {
                self.evaluate_children(node, source);
                self.lose_track(node, "runs code of a class, which is not followed")
            }
            "anonymous_function" | "arrow_function" | "comment" => self.unknown(node, "is a function"),
            "match_expression" => {
                let doubt = self.doubt(node, "has a match, which only PHP can compute");
                self.evaluate_perhaps(node, source, &doubt);
                Value::Unknown(doubt)
            }
            "throw_expression" => {
                self.evaluate_children(node, source);
                self.flow = Flow::Gone;
                self.unknown(node, "throws")
            }
            _ => {
                self.evaluate_children(node, source);
                self.unknown(node, "has a value that only PHP can compute")
            }
        }
    }

    /// For what they do, not for what they are worth.
    pub(super) fn evaluate_children(&mut self, node: Node<'_>, source: &[u8]) {
        let mut cursor = node.walk();
        for child in node.named_children(&mut cursor) {
            self.evaluate(child, source);
        }
    }

    /// Any code may have run that we have not seen: it may define constants, and change variables
    /// and the environment.
    pub(super) fn lose_track(&mut self, node: Node<'_>, why: &str) -> Value {
        let doubt = self.doubt(node, why);
        self.scope.set_incomplete(doubt.clone());
        self.scope.forget(Kind::Variables, &doubt);
        self.scope.forget(Kind::Environment, &doubt);
        Value::Unknown(doubt)
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
        if let Some(slot) = self.scope.constant(name) {
            return slot.value.clone();
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
        match self.files.last().and_then(|file| part(file)).and_then(Path::to_str) {
            Some(path) => Value::Known(Scalar::text(path)),
            None => self.unknown(node, "uses a path that is not UTF-8"),
        }
    }

    fn evaluate_variable(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let Some(name) = variable_name(node, source) else {
            return self.unknown(node, "uses a variable that is not read");
        };
        self.assumptions.uses(&format!("${name}"));
        match self.scope.current(Kind::Variables, &name) {
            Ok(Some(value)) => value.clone(),
            Ok(None) => self.unknown(node, format!("depends on ${}, which only PHP knows", printable(&name))),
            Err(doubt) => Value::Unknown(doubt.clone()),
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
            return self.unknown(node, "has a value that only PHP can compute");
        };
        let value = self.evaluate(argument, source);
        match (operator, value) {
            (b"!", value) => value.map(|scalar| Scalar::Boolean(!scalar.is_true())),
            (b"-", Value::Known(Scalar::Integer(number))) if number != i64::MIN => {
                Value::Known(Scalar::Integer(-number))
            }
            (b"+", Value::Known(Scalar::Integer(number))) => Value::Known(Scalar::Integer(number)),
            (_, Value::Unknown(doubt)) => Value::Unknown(doubt),
            _ => self.unknown(node, "has a value that only PHP can compute"),
        }
    }

    fn evaluate_cast(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let cast =
            node.child_by_field_name("type").map(|cast| text(cast, source).to_ascii_lowercase()).unwrap_or_default();
        let Some(value) = node.child_by_field_name("value") else {
            return self.unknown(node, "has a value that only PHP can compute");
        };
        let value = self.evaluate(value, source);
        match (cast.as_slice(), value) {
            (b"bool" | b"boolean", value) => value.map(|scalar| Scalar::Boolean(scalar.is_true())),
            (b"string", Value::Known(scalar)) => Value::Known(Scalar::Text(scalar.to_bytes())),
            (b"string", Value::FromEnv(scalar, doubt)) => Value::FromEnv(scalar, doubt),
            (b"int" | b"integer", Value::Known(Scalar::Integer(number))) => Value::Known(Scalar::Integer(number)),
            (_, value) => match value.decided() {
                Err(doubt) => Value::Unknown(doubt.clone()),
                Ok(_) => self.unknown(node, "has a value that only PHP can compute"),
            },
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
    name.chars().filter(|character| !character.is_control()).take(80).collect()
}
