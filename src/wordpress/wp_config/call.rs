//! Calls of the functions that matter in a configuration file. Others are worth nothing here, and those that the files declare
//! themselves are code that is not followed.

use std::io;
use std::path::Path;

use tree_sitter::Node;

use super::expression::{operand, printable, variable_name};
use super::include::MAY_DIFFER;
use super::value::{Scalar, Value};
use super::{Flow, Reader, text};

/// The functions whose arguments are evaluated.
const READ: &str = "define defined getenv getenv_docker eval exit die dirname file_exists is_file is_readable";

impl Reader<'_> {
    pub(super) fn evaluate_call(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let Some(name) = node.child_by_field_name("function").and_then(|function| function_name(function, source))
        else {
            return self.lose_track(node, source, "calls a function whose name only PHP knows");
        };
        let Some(arguments) = node.child_by_field_name("arguments").and_then(plain_arguments) else {
            return self.lose_track(node, source, "calls a function with arguments that only PHP knows");
        };
        if self.is_other_function(&name) {
            return self.lose_track(node, source, &format!("calls {}(), which is not followed", printable(&name)));
        }
        if let ("isset" | "empty", [argument]) = (name.as_str(), arguments.as_slice()) {
            return self.call_isset(*argument, name == "empty", source);
        }
        if !READ.split(' ').any(|known| known == name) {
            let why = format!("depends on {}(), which only PHP can compute", printable(&name));
            return self.not_read(node, source, why);
        }
        let values: Vec<Value> = arguments.iter().map(|argument| self.evaluate(*argument, source)).collect();
        if self.flow != Flow::On {
            return self.unknown(node, "is not read any more");
        }
        match (name.as_str(), values.as_slice()) {
            // Before PHP 8 a third argument could make the name count in any case.
            ("define", [name, value]) => self.call_define(node, name, value),
            ("defined", [name]) => self.call_defined(node, name),
            ("getenv", [name] | [name, _]) => self.call_getenv(node, name),
            ("getenv_docker", [name, default]) => self.call_getenv_docker(node, name, default),
            ("eval", [code]) => self.evaluate_code(node, source, code),
            ("exit" | "die", _) => {
                self.flow = Flow::Gone;
                self.unknown(node, "ends the request")
            }
            ("dirname", [path]) => self.call_dirname(node, path, 1),
            ("dirname", [path, Value::Known(Scalar::Integer(levels))]) => self.call_dirname(node, path, *levels),
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

    /// Whether the name may not mean PHP's own function.
    pub(super) fn is_other_function(&self, name: &str) -> bool {
        self.functions.contains(name) || name.contains('\\') || name == "getenv_docker" && self.docker.is_none()
    }

    /// PHP does not evaluate what it asks for.
    fn call_isset(&mut self, argument: Node<'_>, asks_for_empty: bool, source: &[u8]) -> Value {
        let is = |scalar: &Scalar| match asks_for_empty {
            true => Value::boolean(!scalar.is_true()),
            false => Value::boolean(*scalar != Scalar::Null),
        };
        match (argument.kind(), variable_name(argument, source)) {
            ("variable_name", Some(name)) => match self.scope.variable(&name) {
                Ok(Some(value)) => value.known().map_or_else(|doubt| Value::Unknown(doubt.clone()), is),
                Ok(None) if name == "table_prefix" => Value::boolean(asks_for_empty),
                _ => self.unknown(argument, "asks for a variable that only PHP knows"),
            },
            ("subscript_expression", _) => {
                let value = self.evaluate(argument, source);
                self.computed(argument, &value)
            }
            _ => self.not_read(argument, source, "asks for something that only PHP knows"),
        }
    }

    fn call_dirname(&mut self, node: Node<'_>, path: &Value, levels: i64) -> Value {
        let mut directory = path.known_text().filter(|path| path.starts_with('/') && levels > 0);
        for _ in 0..levels.clamp(0, 64) {
            directory = directory.map(parent);
        }
        match directory {
            Some(directory) => Value::Known(Scalar::text(directory)),
            None => self.computed(node, path),
        }
    }

    fn call_file_exists(&mut self, node: Node<'_>, path: &Value, function: &str) -> Value {
        let Some(path) = path.known_text().map(Path::new).filter(|path| path.is_absolute()) else {
            return match path.known() {
                Err(doubt) => Value::Unknown(doubt.clone()),
                Ok(_) => self.unknown(node, "looks for a file whose path only PHP knows"),
            };
        };
        let resolved = (self.surroundings.canonicalize)(path);
        let shown = printable(&path.to_string_lossy());
        if [Some(path), resolved.as_deref().ok()].into_iter().flatten().any(|path| self.may_differ(path)) {
            return self.unknown(node, format!("looks for {shown}, {MAY_DIFFER}"));
        }
        match resolved {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Value::boolean(false),
            // What is included then must be readable for PHP, too.
            Ok(_) if function == "file_exists" => Value::boolean(true),
            Ok(path) if (self.surroundings.read_file)(&path).is_ok() => Value::boolean(true),
            _ => self.unknown(node, format!("looks for {shown}, which PHP may see otherwise")),
        }
    }
}

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
