//! Calls of the functions that matter in a configuration file. The results of others are unknown,
//! and those that the files declare themselves are not evaluated.

use std::path::Path;

use super::code::Code;
use super::value::{Scalar, Value};
use super::{Flow, Reader};

/// The functions whose arguments are evaluated.
const READ: &str = "define defined getenv getenv_docker eval exit die dirname file_exists is_file is_readable";

impl Reader<'_> {
    pub(super) fn evaluate_call(&mut self, code: Code<'_>) -> Value {
        let Some(name) = code.field("function").and_then(Code::function) else {
            return self.lose(code, "calls a function whose name only PHP knows");
        };
        let Some(arguments) = code.field("arguments").and_then(plain_arguments) else {
            return self.lose(code, "calls a function with arguments that only PHP knows");
        };
        if self.is_other_function(&name) {
            return self.lose(code, &format!("calls {name}(), which is not followed"));
        }
        if let ("isset" | "empty", [argument]) = (name.as_str(), arguments.as_slice()) {
            return self.call_isset(*argument, name == "empty");
        }
        if !READ.split(' ').any(|known| known == name) {
            return self.not_read(code, &format!("depends on {name}(), which only PHP can compute"));
        }
        let values: Vec<Value> = arguments.iter().map(|argument| self.evaluate(*argument)).collect();
        if self.flow != Flow::On {
            return self.unknown(code, "is not read any more");
        }
        match (name.as_str(), values.as_slice()) {
            // Before PHP 8, a third argument could make the name case-insensitive.
            ("define", [name, value]) => self.call_define(code, name, value),
            ("defined", [name]) => self.call_defined(code, name),
            ("getenv", [name] | [name, _]) => self.call_getenv(code, name),
            ("getenv_docker", [name, default]) => self.call_getenv_docker(code, name, default),
            ("eval", [text]) => self.run_text(code, text),
            ("exit" | "die", _) => self.end(code, "exit"),
            ("dirname", [path]) => self.call_dirname(code, path, 1),
            ("dirname", [path, Value::Known(Scalar::Integer(levels))]) => self.call_dirname(code, path, *levels),
            ("file_exists" | "is_file" | "is_readable", [path]) => self.call_file_exists(code, path, &name),
            _ => self.lose(code, &format!("uses {name}() in a way that is not read")),
        }
    }

    /// Whether the name may refer to a function other than PHP's own.
    pub(super) fn is_other_function(&self, name: &str) -> bool {
        self.functions.contains(name) || name.contains('\\') || name == "getenv_docker" && self.docker.is_none()
    }

    /// PHP does not evaluate the argument.
    fn call_isset(&mut self, argument: Code<'_>, asks_for_empty: bool) -> Value {
        let is = |scalar: &Scalar| match asks_for_empty {
            true => Scalar::Boolean(!scalar.is_true()),
            false => Scalar::Boolean(*scalar != Scalar::Null),
        };
        match (argument.kind(), argument.variable()) {
            (_, Some(name)) => match self.scope.variable(name) {
                Some(value) => value.map(is),
                None if name == "table_prefix" => Value::boolean(asks_for_empty),
                None => self.unknown(argument, "asks for a variable that only PHP knows"),
            },
            ("subscript_expression", _) => {
                let value = self.evaluate(argument);
                self.computed(argument, Some(&value))
            }
            _ => self.not_read(argument, "asks for something that only PHP knows"),
        }
    }

    fn call_dirname(&mut self, code: Code<'_>, path: &Value, levels: i64) -> Value {
        let mut directory = path.known_text().filter(|path| path.starts_with('/') && levels > 0);
        for _ in 0..levels.clamp(0, 64) {
            directory = directory.map(parent);
        }
        match directory {
            Some(directory) => Value::Known(Scalar::text(directory)),
            None => self.computed(code, Some(path)),
        }
    }

    fn call_file_exists(&mut self, code: Code<'_>, path: &Value, function: &str) -> Value {
        let Some(path) = path.known_text().map(Path::new).filter(|path| path.is_absolute()) else {
            let doubt = path.known().err().cloned();
            return doubt
                .map_or_else(|| self.unknown(code, "looks for a file whose path only PHP knows"), Value::Unknown);
        };
        match self.resolved(path) {
            Ok(None) => Value::boolean(false),
            // An include then requires that PHP can read it, too.
            Ok(Some(_)) if function == "file_exists" => Value::boolean(true),
            Ok(Some(file)) if (self.surroundings.read_file)(&file).is_ok() => Value::boolean(true),
            Ok(Some(_)) => self.unknown(code, &format!("looks for {}, which PHP may see otherwise", path.display())),
            Err(why) => self.unknown(code, &format!("looks for {}, {why}", path.display())),
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

/// The arguments, unless some are named, unpacked, or missing.
fn plain_arguments(arguments: Code<'_>) -> Option<Vec<Code<'_>>> {
    let mut plain = Vec::new();
    for argument in arguments.children() {
        match argument.children().as_slice() {
            [value] if argument.kind() == "argument" && value.kind() != "variadic_unpacking" => plain.push(*value),
            _ => return None,
        }
    }
    Some(plain)
}
