//! Expressions: what they are worth, and what they change on the way.

use std::path::Path;

use tree_sitter::Node;

use super::value::{Doubt, Scalar, Value};
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
            "parenthesized_expression" | "error_suppression_expression" | "argument" => match operand(node) {
                Some(inner) => self.evaluate(inner, source),
                None => self.unknown(node, "has nothing in parentheses"),
            },
            "binary_expression" => self.evaluate_binary(node, source),
            "unary_op_expression" => self.evaluate_unary(node, source),
            "cast_expression" => self.evaluate_cast(node, source),
            "conditional_expression" => self.evaluate_ternary(node, source),
            "assignment_expression" => self.evaluate_assignment(node, source),
            "augmented_assignment_expression" => self.evaluate_augmented(node, source),
            "reference_assignment_expression" | "by_ref" | "update_expression" => {
                self.evaluate_children(node, source);
                let doubt = self.doubt(node, "changes a variable in a way that is not followed");
                self.scope.forget_variables(&doubt);
                self.scope.assign("table_prefix", Value::Unknown(doubt.clone()));
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

    /// Any code may have run that we have not seen: it may define constants and change variables.
    pub(super) fn lose_track(&mut self, node: Node<'_>, why: &str) -> Value {
        let doubt = self.doubt(node, why);
        self.scope.set_incomplete(doubt.clone());
        self.scope.forget_variables(&doubt);
        Value::Unknown(doubt)
    }

    fn evaluate_constant(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let name = String::from_utf8_lossy(text(node, source)).into_owned();
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
        self.constant_value(node, name)
    }

    pub(super) fn constant_value(&mut self, node: Node<'_>, name: &str) -> Value {
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
        match self.scope.current_variable(&name) {
            Ok(Some(value)) => value.clone(),
            Ok(None) => self.unknown(node, format!("depends on ${}, which only PHP knows", printable(&name))),
            Err(doubt) => Value::Unknown(doubt.clone()),
        }
    }

    fn evaluate_subscript(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let (base, key) = subscript(node);
        let base = base.filter(|base| base.kind() == "variable_name").and_then(|base| variable_name(base, source));
        let key = key.map(|key| self.evaluate(key, source));
        match (base.as_deref(), key.as_ref().and_then(Value::known_text)) {
            (Some("_ENV"), Some(name)) => {
                let name = name.to_owned();
                self.environment_value(node, &name, Scalar::Null, "$_ENV")
            }
            (Some(base), _) => {
                let base = printable(base);
                self.unknown(node, format!("depends on ${base}[…], which only PHP knows"))
            }
            _ => self.unknown(node, "has a value that only PHP can compute"),
        }
    }

    /// `absent` is what PHP makes of a variable that is not set.
    pub(super) fn environment_value(&self, node: Node<'_>, name: &str, absent: Scalar, how: &str) -> Value {
        match self.environment_variable(name) {
            Ok(Some(value)) => Value::Known(Scalar::text(value)),
            Ok(None) => {
                let why = format!("takes it from {how}, and the environment here has no {}", printable(name));
                Value::Assumed(absent, self.doubt(node, why))
            }
            Err(()) => {
                self.unknown(node, format!("takes {} from an environment that was changed before", printable(name)))
            }
        }
    }

    /// `Err` where the file itself has set it to something that is not known.
    pub(super) fn environment_variable(&self, name: &str) -> Result<Option<String>, ()> {
        match self.environment.iter().rev().find(|(changed, _)| changed == name || changed.is_empty()) {
            Some((_, value)) => value.clone().map(Some).ok_or(()),
            None => Ok((self.surroundings.environment)(name)),
        }
    }

    fn evaluate_binary(&mut self, node: Node<'_>, source: &[u8]) -> Value {
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
            "??" => match first {
                Value::Known(Scalar::Null) | Value::Assumed(Scalar::Null, _) => self.evaluate(right, source),
                Value::Known(_) | Value::Assumed(..) => first,
                Value::Unknown(doubt) => {
                    self.evaluate_perhaps(right, source, &doubt);
                    Value::Unknown(doubt)
                }
            },
            _ => {
                let second = self.evaluate(right, source);
                self.combine(node, &operator, first, second)
            }
        }
    }

    /// `decisive` is the truth of the left side that spares the right one.
    fn short_circuit(&mut self, first: Value, decisive: bool, right: Node<'_>, source: &[u8]) -> Value {
        match first {
            Value::Known(scalar) if scalar.is_true() == decisive => Value::boolean(decisive),
            Value::Known(_) => self.evaluate(right, source).map(|scalar| Scalar::Boolean(scalar.is_true())),
            Value::Assumed(_, doubt) | Value::Unknown(doubt) => {
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
    fn evaluate_perhaps(&mut self, node: Node<'_>, source: &[u8], doubt: &Doubt) {
        let (layer, _) = self.branch(|reader| {
            reader.evaluate_children(node, source);
            reader.take_flow(Flow::On)
        });
        self.scope.merge_perhaps(layer, doubt);
    }

    pub(super) fn combine(&mut self, node: Node<'_>, operator: &str, first: Value, second: Value) -> Value {
        let (left, right, assumed) = match (first, second) {
            (Value::Known(left), Value::Known(right)) => (left, right, None),
            // Is it set at all? That may be asked of an absent variable; anything else needs its value.
            (Value::Assumed(left, doubt), Value::Known(right @ (Scalar::Boolean(false) | Scalar::Null)))
            | (Value::Known(right @ (Scalar::Boolean(false) | Scalar::Null)), Value::Assumed(left, doubt)) => {
                (left, right, Some(doubt))
            }
            (Value::Unknown(doubt) | Value::Assumed(_, doubt), _)
            | (_, Value::Unknown(doubt) | Value::Assumed(_, doubt)) => {
                return Value::Unknown(doubt);
            }
        };
        let result = match (operator, &left, &right) {
            (".", ..) if assumed.is_none() => return self.limited(node, [left.to_bytes(), right.to_bytes()].concat()),
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
            (Some(scalar), Some(doubt)) => Value::Assumed(scalar, doubt),
            (None, _) => self.unknown(node, "has a value that only PHP can compute"),
        }
    }

    fn limited(&self, node: Node<'_>, bytes: Vec<u8>) -> Value {
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
            (b"int" | b"integer", Value::Known(Scalar::Integer(number))) => Value::Known(Scalar::Integer(number)),
            (_, Value::Unknown(doubt) | Value::Assumed(_, doubt)) => Value::Unknown(doubt),
            _ => self.unknown(node, "has a value that only PHP can compute"),
        }
    }

    fn evaluate_ternary(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let (Some(condition), Some(otherwise)) =
            (node.child_by_field_name("condition"), node.child_by_field_name("alternative"))
        else {
            return self.unknown(node, "has a value that only PHP can compute");
        };
        let then = node.child_by_field_name("body");
        let tested = self.evaluate(condition, source);
        let doubt = match &tested {
            Value::Known(scalar) | Value::Assumed(scalar, _) => {
                let chosen = if scalar.is_true() { then } else { Some(otherwise) };
                return match chosen {
                    Some(chosen) => self.evaluate(chosen, source),
                    None => tested, // `?:`
                };
            }
            Value::Unknown(doubt) => doubt.clone(),
        };
        let mut values = Vec::new();
        let mut branches = [then, Some(otherwise)].map(|chosen| {
            self.branch(|reader| {
                values.push(chosen.map(|chosen| reader.evaluate(chosen, source)));
                reader.take_flow(Flow::On)
            })
        });
        if let [(_, Flow::Gone), (_, Flow::On)] | [(_, Flow::On), (_, Flow::Gone)] = &mut branches {
            // `defined('X') ? X : exit`: the value is that of the branch that goes on.
            values.retain(|value| !matches!(value, Some(Value::Unknown(_))));
        }
        self.flow = self.join(branches, &doubt);
        match values.as_slice() {
            [Some(one), Some(other)] if one == other && one.known().is_some() => one.clone(),
            _ => Value::Unknown(doubt),
        }
    }

    fn evaluate_assignment(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let (Some(left), Some(right)) = (node.child_by_field_name("left"), node.child_by_field_name("right")) else {
            return self.unknown(node, "has an assignment that is not read");
        };
        let value = self.evaluate(right, source);
        self.assign(left, value.clone(), source);
        value
    }

    fn assign(&mut self, target: Node<'_>, value: Value, source: &[u8]) {
        match target.kind() {
            "variable_name" => {
                if let Some(name) = variable_name(target, source) {
                    self.scope.assign(&name, value);
                }
            }
            "subscript_expression" => self.assign_element(target, value, source),
            "member_access_expression" | "nullsafe_member_access_expression" | "scoped_property_access_expression" => {}
            _ => {
                let doubt = self.doubt(target, "changes variables in a way that is not followed");
                self.scope.forget_variables(&doubt);
                self.scope.assign("table_prefix", Value::Unknown(doubt));
            }
        }
    }

    fn assign_element(&mut self, target: Node<'_>, value: Value, source: &[u8]) {
        let (base, key) = subscript(target);
        let key = key.map(|key| self.evaluate(key, source));
        match base.filter(|base| base.kind() == "variable_name").and_then(|base| variable_name(base, source)).as_deref()
        {
            Some("_ENV") => {
                let value = value.known().and_then(|scalar| String::from_utf8(scalar.to_bytes()).ok());
                let name = key.as_ref().and_then(Value::known_text).unwrap_or_default().to_owned();
                self.environment.push((name, value));
            }
            Some("_SERVER" | "_GET" | "_POST" | "_COOKIE" | "_REQUEST" | "_FILES" | "_SESSION") => {}
            Some(name) if name != "GLOBALS" => {
                let doubt = self.doubt(target, format!("depends on an array, ${}", printable(name)));
                self.scope.assign(name, Value::Unknown(doubt));
            }
            _ => {
                let doubt = self.doubt(target, "changes variables in a way that is not followed");
                self.scope.forget_variables(&doubt);
                self.scope.assign("table_prefix", Value::Unknown(doubt));
            }
        }
    }

    fn evaluate_augmented(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let (Some(left), Some(operator), Some(right)) =
            (node.child_by_field_name("left"), node.child_by_field_name("operator"), node.child_by_field_name("right"))
        else {
            return self.unknown(node, "has an assignment that is not read");
        };
        let operator = String::from_utf8_lossy(text(operator, source)).into_owned();
        let operator = operator.strip_suffix('=').unwrap_or(&operator);
        if operator == "??" {
            let doubt = self.doubt(node, "assigns to a variable only where it is not set");
            self.evaluate_perhaps(node, source, &doubt);
            self.assign(left, Value::Unknown(doubt.clone()), source);
            return Value::Unknown(doubt);
        }
        let before = self.evaluate(left, source);
        let operand = self.evaluate(right, source);
        let value = self.combine(node, operator, before, operand);
        self.assign(left, value.clone(), source);
        value
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

fn subscript(node: Node<'_>) -> (Option<Node<'_>>, Option<Node<'_>>) {
    let mut cursor = node.walk();
    let mut parts = node.named_children(&mut cursor).filter(|child| child.kind() != "comment");
    (parts.next(), parts.next())
}

/// Names come from the file, and go into one line of an error.
pub(super) fn printable(name: &str) -> String {
    name.chars().filter(|character| !character.is_control()).take(80).collect()
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
