//! Calls of the functions that matter in a configuration file. Others are worth nothing to us, and
//! those that the files declare themselves are code that is not followed.

use std::io;
use std::path::Path;

use tree_sitter::Node;

use super::expression::{operand, printable, variable_name};
use super::function;
use super::scope::Kind;
use super::value::{Scalar, Value};
use super::{Flow, Reader, text};

impl Reader<'_> {
    pub(super) fn evaluate_call(&mut self, node: Node<'_>, source: &[u8]) -> Value {
        let Some(name) = node.child_by_field_name("function").and_then(|function| function_name(function, source))
        else {
            self.evaluate_children(node, source);
            return self.lose_track(node, "calls a function whose name only PHP knows");
        };
        let Some(arguments) = node.child_by_field_name("arguments").and_then(plain_arguments) else {
            self.evaluate_children(node, source);
            return self.lose_track(node, "calls a function with arguments that only PHP knows");
        };
        if let Some(why) = self.other_function(node, &name, source) {
            self.evaluate_children(node, source);
            return self.lose_track(node, &why);
        }
        match name.as_str() {
            "isset" => return self.call_isset(node, &arguments, source),
            "define" => return self.call_define(node, &arguments, source),
            _ => {}
        }
        let values: Vec<Value> = arguments.iter().map(|argument| self.evaluate(*argument, source)).collect();
        if self.flow != Flow::On {
            return self.unknown(node, "is not read any more");
        }
        match (name.as_str(), values.as_slice()) {
            ("defined", [name]) => self.call_defined(node, name),
            ("constant", [name]) => match name.known_text().map(str::to_owned) {
                Some(name) => self.constant_value(node, &name),
                None => self.unknown(node, "uses a constant whose name only PHP knows"),
            },
            ("getenv", [name] | [name, _]) => self.call_getenv(node, name),
            ("getenv_docker", [name, default]) => self.call_getenv_docker(node, name, default),
            ("putenv", [assignment]) => self.call_putenv(node, assignment),
            ("eval", [code]) => self.evaluate_code(node, code),
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
            ("extract" | "parse_str", _) => {
                let doubt = self.doubt(node, "changes variables in a way that is not followed");
                self.forget_assigned(&doubt);
                Value::Unknown(doubt)
            }
            _ => self.call_other(node, &name, &arguments, source),
        }
    }

    /// Why the name may not mean PHP's own function.
    fn other_function(&self, node: Node<'_>, name: &str, source: &[u8]) -> Option<String> {
        if CONSTRUCTS.contains(&name) {
            return None;
        }
        let shown = printable(name);
        let of_namespace = self.in_namespace && !text(node, source).starts_with(b"\\");
        if self.functions.contains(name) || name.contains('\\') {
            Some(format!("calls {shown}(), which is not followed"))
        } else if self.scope.incomplete().is_some() && (of_namespace || name == "getenv_docker") {
            Some(format!("calls {shown}(), which may be that of a file that is not read"))
        } else {
            None
        }
    }

    fn call_define(&mut self, node: Node<'_>, arguments: &[Node<'_>], source: &[u8]) -> Value {
        let values: Vec<Value> = arguments.iter().map(|argument| self.evaluate(*argument, source)).collect();
        if self.flow != Flow::On {
            return self.unknown(node, "is not read any more");
        }
        let [name, value, ..] = values.as_slice() else {
            return self.lose_track(node, "defines a constant in a way that is not read");
        };
        let Some(name) = name.known_text() else {
            let doubt = self.doubt(node, "defines a constant whose name only PHP knows");
            self.scope.set_incomplete(doubt.clone());
            return Value::Unknown(doubt);
        };
        match self.define(node, name, value.clone()) {
            Some(first) => Value::boolean(first),
            None => self.unknown(node, "may define a constant again"),
        }
    }

    fn call_defined(&mut self, node: Node<'_>, name: &Value) -> Value {
        let Some(name) = name.known_text() else {
            return self.unknown(node, "asks for a constant whose name only PHP knows");
        };
        match (self.scope.constant(name), self.scope.incomplete()) {
            (Some(slot), _) if slot.certain => Value::boolean(true),
            (Some(slot), _) => match &slot.value {
                Value::Unknown(doubt) => Value::Unknown(doubt.clone()),
                _ => self.unknown(node, "asks for a constant that may be defined"),
            },
            (None, Some(doubt)) => Value::Unknown(doubt.clone()),
            (None, None) => Value::boolean(false),
        }
    }

    /// PHP does not evaluate what it asks for.
    fn call_isset(&mut self, node: Node<'_>, arguments: &[Node<'_>], source: &[u8]) -> Value {
        let [argument] = arguments else {
            return self.unknown(node, "asks for several variables at once");
        };
        self.assumptions.uses(&shown(text(*argument, source)));
        match argument.kind() {
            "variable_name" => match variable_name(*argument, source)
                .as_deref()
                .map(|name| self.scope.current(Kind::Variables, name))
            {
                Some(Ok(Some(value))) => value.clone().map(|scalar| Scalar::Boolean(scalar != Scalar::Null)),
                Some(Ok(None)) if self.scope.incomplete().is_none() && text(*argument, source) == b"$table_prefix" => {
                    Value::boolean(false)
                }
                _ => self.unknown(node, "asks for a variable that only PHP knows"),
            },
            "subscript_expression" => {
                self.evaluate(*argument, source).map(|scalar| Scalar::Boolean(scalar != Scalar::Null))
            }
            _ => self.unknown(node, "asks for something that only PHP knows"),
        }
    }

    fn call_dirname(&mut self, node: Node<'_>, path: &Value, levels: i64) -> Value {
        let mut directory = path.known_text().filter(|path| path.starts_with('/'));
        for _ in 0..levels.clamp(0, 64) {
            directory = directory.map(parent);
        }
        match directory {
            Some(directory) if levels > 0 => Value::Known(Scalar::text(directory)),
            _ => match path.decided() {
                Err(doubt) => Value::Unknown(doubt.clone()),
                Ok(_) => self.unknown(node, "uses dirname() in a way that is not read"),
            },
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
            value => match value.decided() {
                Err(doubt) => Value::Unknown(doubt.clone()),
                Ok(_) => self.unknown(node, "trims what is no string"),
            },
        }
    }

    /// Secrets in files, as Docker and systemd hand them over.
    fn call_file_get_contents(&mut self, node: Node<'_>, path: &Value) -> Value {
        let Some(path) = path.known_text().map(Path::new).filter(|path| path.is_absolute()) else {
            return self.unknown(node, "reads a file whose path only PHP knows");
        };
        match (self.surroundings.read_file)(path) {
            Ok(content) if content.len() <= 64 * 1024 => Value::Known(Scalar::Text(content)),
            Ok(_) => self.unknown(node, "reads a large file"),
            Err(error) => self.unknown(node, format!("reads {}: {error}", printable(&path.to_string_lossy()))),
        }
    }

    fn call_file_exists(&mut self, node: Node<'_>, path: &Value, function: &str) -> Value {
        let Some(path) = path.known_text().map(Path::new).filter(|path| path.is_absolute()) else {
            return self.unknown(node, "looks for a file whose path only PHP knows");
        };
        match (self.surroundings.canonicalize)(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Value::boolean(false),
            // Whether PHP's user may read it, and whether it is a file, we do not know.
            Ok(_) if function == "file_exists" => Value::boolean(true),
            Ok(path) if (self.surroundings.read_file)(&path).is_ok() && function == "is_file" => Value::boolean(true),
            _ => self.unknown(
                node,
                format!("looks for {}, which PHP may see otherwise", printable(&path.to_string_lossy())),
            ),
        }
    }

    /// SECURITY: a function may run another one that it is handed (a closure, a name, a handler for
    /// later), which may define anything. So only those are passed over that surely run none.
    fn call_other(&mut self, node: Node<'_>, name: &str, arguments: &[Node<'_>], source: &[u8]) -> Value {
        let why = format!("depends on {}(), which only PHP can compute", printable(name));
        if function::has_no_effect(name) {
            return self.unknown(node, why);
        }
        let lost = (!function::changes_arguments_only(name)).then(|| self.lose_track(node, &why));
        for argument in arguments {
            let handed = text(*argument, source);
            let why = format!("hands {} to {}(), which may change it", shown(handed), printable(name));
            let value = self.unknown(node, why);
            match argument.kind() {
                "variable_name" | "subscript_expression" => self.assign(*argument, value, source),
                _ => {}
            }
        }
        lost.unwrap_or_else(|| self.unknown(node, why))
    }
}

/// Names that are part of the language: nothing else can have them.
const CONSTRUCTS: [&str; 5] = ["isset", "empty", "eval", "exit", "die"];

/// PHP's `dirname()`, of an absolute path.
fn parent(path: &str) -> &str {
    let (parent, _) = path.trim_end_matches('/').rsplit_once('/').unwrap_or_default();
    match parent.trim_end_matches('/') {
        "" => "/",
        parent => parent,
    }
}

fn shown(source: &[u8]) -> String {
    printable(&String::from_utf8_lossy(source))
}

/// In lower case, without a leading backslash.
fn function_name(node: Node<'_>, source: &[u8]) -> Option<String> {
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
        if argument.child_by_field_name("name").is_some()
            || argument.child_by_field_name("reference_modifier").is_some()
        {
            return None;
        }
        arguments.push(value);
    }
    Some(arguments)
}
