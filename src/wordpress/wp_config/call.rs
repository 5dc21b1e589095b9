//! Calls of the functions that matter in a configuration file. Others are worth nothing here, and
//! those that the files declare themselves are code that is not followed.

use std::io;
use std::path::Path;

use tree_sitter::Node;

use super::expression::{operand, printable, variable_name};
use super::include::MAY_DIFFER;
use super::value::{Scalar, Value};
use super::{Flow, Reader, constant, text};

impl Reader<'_> {
    pub(super) fn evaluate_call(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let Some(name) = node.child_by_field_name("function").and_then(|function| function_name(function, source))
        else {
            return self.lose_track(node, source, "calls a function whose name only PHP knows");
        };
        let Some(arguments) = node.child_by_field_name("arguments").and_then(plain_arguments) else {
            return self.lose_track(node, source, "calls a function with arguments that only PHP knows");
        };
        if let Some(why) = self.other_function(node, &name, source) {
            return self.lose_track(node, source, &why);
        }
        // `empty()` of a variable asks whether it is set, too.
        if let ("empty", [argument]) = (name.as_str(), arguments.as_slice())
            && text(*argument, source) == b"$table_prefix"
            && matches!(self.scope.variable("table_prefix"), Ok(None))
        {
            return Value::boolean(true);
        }
        if name == "isset" {
            return self.call_isset(node, &arguments, source);
        }
        if !READ.contains(&name.as_str()) {
            return self.not_read(
                node,
                source,
                format!("depends on {}(), which only PHP can compute", printable(&name)),
            );
        }
        let values: Vec<Value> = arguments.iter().map(|argument| self.evaluate(*argument, source)).collect();
        if self.flow != Flow::On {
            return self.unknown(node, "is not read any more");
        }
        match (name.as_str(), values.as_slice()) {
            ("define", [name, value, rest @ ..]) => self.call_define(node, name, value, rest),
            ("defined", [name]) => self.call_defined(node, name),
            ("constant", [name]) => match name.known_text().map(str::to_owned) {
                Some(name) => self.constant_value(node, &name),
                None => self.computed(node, name.clone()),
            },
            ("getenv", [name] | [name, _]) => self.call_getenv(node, name),
            ("getenv_docker", [name, default]) => self.call_getenv_docker(node, name, default),
            ("putenv", [assignment]) => self.call_putenv(node, assignment),
            ("eval", [code]) => self.evaluate_code(node, source, code),
            ("exit" | "die", _) => {
                self.flow = Flow::Gone;
                self.unknown(node, "ends the request")
            }
            ("empty", [value]) => value.clone().map(|scalar| Scalar::Boolean(!scalar.is_true())),
            ("dirname", [path]) => self.call_dirname(node, path, 1),
            ("dirname", [path, Value::Known(Scalar::Integer(levels))]) => self.call_dirname(node, path, *levels),
            ("trim", [value]) => self.call_trim(node, value, true),
            ("rtrim" | "chop", [value]) => self.call_trim(node, value, false),
            ("file_get_contents", [path]) => self.call_file_get_contents(node, path),
            ("file_exists" | "is_file" | "is_readable", [path]) => self.call_file_exists(node, path, &name),
            _ => self.lose_track(node, source, &format!("uses {}() in a way that is not read", printable(&name))),
        }
    }

    /// Any code may have run that is not read.
    pub(super) fn lose_track(&mut self, node: Node<'_>, source: &[u8], why: &str) -> Value {
        let doubt = self.doubt(node, why);
        self.touch_children(node, source, &doubt);
        self.scope.lose(&doubt);
        Value::Unknown(doubt)
    }

    /// Why the name may not mean PHP's own function.
    pub(super) fn other_function(&self, node: Node<'_>, name: &str, source: &[u8]) -> Option<String> {
        let is_construct = matches!(name, "isset" | "empty" | "eval" | "exit" | "die");
        let of_namespace = self.in_namespace && !text(node, source).starts_with(b"\\");
        let is_other = self.functions.contains(name)
            || name.contains('\\')
            || of_namespace && self.scope.lost.constants.is_some()
            || name == "getenv_docker" && self.docker.is_none();
        (is_other && !is_construct).then(|| format!("calls {}(), which is not followed", printable(name)))
    }

    fn call_define(&mut self, node: Node<'_>, name: &Value, value: &Value, rest: &[Value]) -> Value {
        let Some(name) = name.known_text() else {
            let doubt = self.doubt(node, "defines a constant whose name only PHP knows");
            self.scope.lost.constants.get_or_insert_with(|| doubt.clone());
            return Value::Unknown(doubt);
        };
        // Before PHP 8 a third argument made the name count in any case.
        let upper = name.to_ascii_uppercase();
        if !rest.iter().all(|value| matches!(value, Value::Known(scalar) if !scalar.is_true())) && upper != name {
            let doubt = self.doubt(node, format!("may define {}, too: the third argument", printable(&upper)));
            self.scope.may_define(&upper, self.place(node), &doubt);
        }
        match self.define(node, name, value.clone()) {
            Some(first) => Value::boolean(first),
            None => self.unknown(node, "may define a constant again"),
        }
    }

    fn call_defined(&mut self, node: Node<'_>, name: &Value) -> Value {
        let Some(name) = name.known_text() else {
            return self.unknown(node, "asks for a constant whose name only PHP knows");
        };
        match (self.scope.constant(name), &self.scope.lost.constants) {
            (Some(slot), _) if slot.certain => Value::boolean(true),
            (Some(slot), _) => self.computed(node, slot.value.clone()),
            (None, Some(doubt)) => Value::Unknown(doubt.clone()),
            // index.php defines it in a request from the web, other ways into WordPress do not.
            (None, None) if name == "WP_USE_THEMES" => {
                self.unknown(node, "asks for WP_USE_THEMES, which depends on the request")
            }
            (None, None) if constant::is_left_to_site(name, self.defines.contains(name)) => Value::boolean(false),
            (None, None) => self.unknown(node, format!("asks for {}, which may be PHP's own", printable(name))),
        }
    }

    /// PHP does not evaluate what it asks for.
    fn call_isset(&mut self, node: Node<'_>, arguments: &[Node<'_>], source: &[u8]) -> Value {
        let [argument] = arguments else {
            return self.unknown(node, "asks for several variables at once");
        };
        let is_set = |value: Value| value.map(|scalar| Scalar::Boolean(scalar != Scalar::Null));
        match (argument.kind(), variable_name(*argument, source)) {
            ("variable_name", Some(name)) => {
                self.assumptions.uses(&format!("${name}"));
                match self.scope.variable(&name) {
                    Ok(Some(value)) => is_set(value.clone()),
                    Ok(None) if name == "table_prefix" => Value::boolean(false),
                    _ => self.unknown(node, "asks for a variable that only PHP knows"),
                }
            }
            ("subscript_expression", _) => is_set(self.evaluate(*argument, source)),
            _ => self.not_read(*argument, source, "asks for something that only PHP knows"),
        }
    }

    fn call_dirname(&mut self, node: Node<'_>, path: &Value, levels: i64) -> Value {
        let mut directory = path.known_text().filter(|path| path.starts_with('/') && levels > 0);
        for _ in 0..levels.clamp(0, 64) {
            directory = directory.map(parent);
        }
        match directory {
            Some(directory) => Value::Known(Scalar::text(directory)),
            None => self.computed(node, path.clone()),
        }
    }

    fn call_trim(&mut self, node: Node<'_>, value: &Value, both: bool) -> Value {
        let space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0);
        match value {
            Value::Known(Scalar::Text(text)) => {
                let end = text.iter().rposition(|byte| !space(byte)).map_or(0, |last| last + 1);
                let start = if both { text.iter().position(|byte| !space(byte)).unwrap_or(0) } else { 0 };
                Value::Known(Scalar::Text(text.get(start..end).unwrap_or_default().to_vec()))
            }
            value => self.computed(node, value.clone()),
        }
    }

    /// Secrets in files, as Docker and systemd hand them over.
    fn call_file_get_contents(&mut self, node: Node<'_>, path: &Value) -> Value {
        let Some(path) = path.known_text().map(Path::new).filter(|path| path.is_absolute()) else {
            return self.unknown(node, "reads a file whose path only PHP knows");
        };
        match self.small_file(path) {
            Ok(content) => Value::Known(Scalar::Text(content)),
            Err(error) => self.unknown(node, format!("reads {}: {error}", printable(&path.to_string_lossy()))),
        }
    }

    fn call_file_exists(&mut self, node: Node<'_>, path: &Value, function: &str) -> Value {
        let Some(path) = path.known_text().map(Path::new).filter(|path| path.is_absolute()) else {
            return match path.decided() {
                Err(doubt) => Value::Unknown(doubt.clone()),
                Ok(_) => self.unknown(node, "looks for a file whose path only PHP knows"),
            };
        };
        let resolved = (self.surroundings.canonicalize)(path);
        if [Some(path), resolved.as_deref().ok()].into_iter().flatten().any(|path| self.may_differ(path)) {
            let shown = printable(&path.to_string_lossy());
            return self.unknown(node, format!("looks for {shown}, {MAY_DIFFER}"));
        }
        match resolved {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Value::boolean(false),
            // What is included then must be readable for PHP, too.
            Ok(_) if function == "file_exists" => Value::boolean(true),
            Ok(path) if (self.surroundings.read_file)(&path).is_ok() => Value::boolean(true),
            _ => {
                let shown = printable(&path.to_string_lossy());
                self.unknown(node, format!("looks for {shown}, which PHP may see otherwise"))
            }
        }
    }
}

/// The functions whose arguments are evaluated.
const READ: [&str; 18] = [
    "define",
    "defined",
    "constant",
    "getenv",
    "getenv_docker",
    "putenv",
    "eval",
    "exit",
    "die",
    "empty",
    "dirname",
    "trim",
    "rtrim",
    "chop",
    "file_get_contents",
    "file_exists",
    "is_file",
    "is_readable",
];

/// PHP's `dirname()`, of an absolute path.
fn parent(path: &str) -> &str {
    let (parent, _) = path.trim_end_matches('/').rsplit_once('/').unwrap_or_default();
    match parent.trim_end_matches('/') {
        "" => "/",
        parent => parent,
    }
}

/// In lower case, without a leading backslash.
pub(super) fn function_name(node: Node<'_>, source: &[u8]) -> Option<String> {
    if !matches!(node.kind(), "name" | "qualified_name" | "relative_name") {
        return None;
    }
    let name = std::str::from_utf8(text(node, source)).ok()?.to_ascii_lowercase();
    Some(name.strip_prefix('\\').unwrap_or(&name).to_owned())
}

/// The expressions handed over, unless some are named, unpacked, or missing.
fn plain_arguments(node: Node<'_>) -> Option<Vec<Node<'_>>> {
    let mut cursor = node.walk();
    let mut arguments = Vec::new();
    for argument in node.named_children(&mut cursor).filter(|child| child.kind() != "comment") {
        let value =
            operand(argument).filter(|value| argument.kind() == "argument" && value.kind() != "variadic_unpacking")?;
        if ["name", "reference_modifier"].iter().any(|field| argument.child_by_field_name(field).is_some()) {
            return None;
        }
        arguments.push(value);
    }
    Some(arguments)
}
