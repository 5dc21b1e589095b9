//! What code may touch that may or may not run, or that is not understood: all of that becomes unknown.

use tree_sitter::Node;

use super::call::function_name;
use super::environment::Store;
use super::expression::{operand, subscript, variable_name};
use super::function;
use super::value::{Doubt, Scalar, Value};
use super::{Reader, WpConfigError, line, literal, text};

/// PHP changes these by itself, and nothing that is read depends on them.
const SUPERGLOBALS: [&str; 8] = ["_SERVER", "_GET", "_POST", "_COOKIE", "_REQUEST", "_FILES", "_SESSION", "this"];

impl Reader<'_> {
    pub(super) fn touch(&mut self, node: Node<'_>, source: &[u8], doubt: &Doubt) {
        self.nested(node, (), |reader| reader.touch_node(node, source, doubt));
    }

    pub(super) fn touch_children(&mut self, node: Node<'_>, source: &[u8], doubt: &Doubt) {
        let mut cursor = node.walk();
        for child in node.named_children(&mut cursor) {
            self.touch(child, source, doubt);
        }
    }

    fn touch_node(&mut self, node: Node<'_>, source: &[u8], doubt: &Doubt) {
        let unknown = || Value::Unknown(doubt.clone());
        match node.kind() {
            // Declared, not run. A call of one loses track.
            "function_definition"
            | "class_declaration"
            | "interface_declaration"
            | "trait_declaration"
            | "enum_declaration"
            | "comment"
            | "string" => return,
            "function_call_expression" => self.touch_call(node, source, doubt),
            "include_expression"
            | "include_once_expression"
            | "require_expression"
            | "require_once_expression"
            | "member_call_expression"
            | "nullsafe_member_call_expression"
            | "scoped_call_expression"
            | "object_creation_expression"
            | "clone_expression"
            | "yield_expression" => self.scope.lose(doubt),
            // What follows in an included file may not be run.
            "return_statement" if self.files.len() > 1 => self.scope.lose(doubt),
            "assignment_expression" | "augmented_assignment_expression" => {
                if let Some(left) = node.child_by_field_name("left") {
                    self.assign(left, unknown(), source);
                }
            }
            "reference_assignment_expression" | "by_ref" | "reference_modifier" => self.alias(node, source, doubt),
            "anonymous_function_use_clause" if text(node, source).contains(&b'&') => self.alias(node, source, doubt),
            "array_element_initializer" if text(node, source).starts_with(b"&") => self.alias(node, source, doubt),
            "update_expression" | "unset_statement" | "function_static_declaration" | "catch_clause" => {
                self.assign_header(node, source, doubt);
            }
            "foreach_statement" => {
                if text(node, source).contains(&b'&') {
                    self.alias_header(node, source, doubt);
                }
                self.assign_header(node, source, doubt);
            }
            "const_element" => {
                if let Some(name) = operand(node) {
                    let name = String::from_utf8_lossy(text(name, source)).into_owned();
                    self.scope.may_define(&name, self.place(node), doubt);
                }
            }
            "goto_statement" => {
                self.error.get_or_insert(WpConfigError::Goto { line: line(node) });
            }
            "ERROR" => self.scope.lose(doubt),
            _ => {}
        }
        self.touch_children(node, source, doubt);
    }

    fn touch_call(&mut self, node: Node<'_>, source: &[u8], doubt: &Doubt) {
        let name = node.child_by_field_name("function").and_then(|name| function_name(name, source));
        let Some(name) = name.filter(|name| self.other_function(node, name, source).is_none()) else {
            return self.scope.lose(doubt);
        };
        let Some(arguments) = node.child_by_field_name("arguments") else { return self.scope.lose(doubt) };
        match name.as_str() {
            "define" => match operand(arguments).and_then(operand).and_then(|name| literal::text_of(name, source)) {
                Some(name) => self.scope.may_define(&name, self.place(node), doubt),
                None => _ = self.scope.lost.constants.get_or_insert_with(|| doubt.clone()),
            },
            "putenv" => _ = self.scope.lost.environment.get_or_insert_with(|| doubt.clone()),
            "isset" | "empty" | "exit" | "die" | "getenv_docker" | "constant" => {}
            name if function::changes_arguments_only(name) => self.assign_all(arguments, source, doubt),
            name if function::has_no_effect(name, arguments, source) => {}
            // WordPress's own, once it is loaded. What is handed over is looked into like all else.
            "add_action" | "add_filter" | "remove_action" | "remove_filter" if self.is_late => {}
            _ => self.scope.lose(doubt),
        }
    }

    /// Assigns to what stands left of `=`, or at its like.
    pub(super) fn assign(&mut self, target: Node<'_>, value: Value, source: &[u8]) {
        let doubt = self.doubt(target, "changes variables in a way that is not followed");
        match target.kind() {
            "variable_name" => match variable_name(target, source) {
                Some(name) => self.set_variable(&name, value),
                None => _ = self.scope.lost.variables.get_or_insert(doubt),
            },
            "subscript_expression" => {
                let (base, key) = subscript(target);
                let key = key.and_then(|key| literal::text_of(key, source));
                let name = base.filter(|base| base.kind() == "variable_name");
                match (base, name.and_then(|base| variable_name(base, source)).as_deref(), key) {
                    (_, Some("_ENV"), Some(key)) => self.set_environment(Store::Array, &key, value),
                    (_, Some("_ENV"), None) => _ = self.scope.lost.environment.get_or_insert(doubt),
                    (_, Some("GLOBALS"), Some(key)) => self.set_variable(&key, Value::Unknown(doubt)),
                    (_, Some("GLOBALS"), None) => _ = self.scope.lost.variables.get_or_insert(doubt),
                    (_, Some(name), _) => self.set_variable(name, Value::Unknown(doubt)),
                    (Some(base), None, _) => self.assign(base, Value::Unknown(doubt), source),
                    (None, ..) => {}
                }
            }
            "list_literal" | "array_creation_expression" => self.assign_all(target, source, &doubt),
            // An object comes from `new`, after which nothing is known any more.
            "member_access_expression" | "nullsafe_member_access_expression" | "scoped_property_access_expression" => {}
            "function_call_expression" => {}
            _ => _ = self.scope.lost.variables.get_or_insert(doubt),
        }
    }

    /// All variables that are named in it are assigned to.
    fn assign_all(&mut self, node: Node<'_>, source: &[u8], doubt: &Doubt) {
        self.nested(node, (), |reader| {
            if matches!(node.kind(), "variable_name" | "dynamic_variable_name" | "subscript_expression") {
                reader.assign(node, Value::Unknown(doubt.clone()), source);
            }
            let mut cursor = node.walk();
            for child in node.named_children(&mut cursor) {
                reader.assign_all(child, source, doubt);
            }
        });
    }

    /// The same for what stands before the body.
    fn assign_header(&mut self, node: Node<'_>, source: &[u8], doubt: &Doubt) {
        let mut cursor = node.walk();
        for child in node.named_children(&mut cursor).filter(|child| !is_block(*child)) {
            self.assign_all(child, source, doubt);
        }
    }

    fn alias_header(&mut self, node: Node<'_>, source: &[u8], doubt: &Doubt) {
        let mut cursor = node.walk();
        for child in node.named_children(&mut cursor).filter(|child| !is_block(*child)) {
            self.alias(child, source, doubt);
        }
    }

    /// From here on each variable that is named in it may have another name.
    fn alias(&mut self, node: Node<'_>, source: &[u8], doubt: &Doubt) {
        self.nested(node, (), |reader| {
            match (node.kind(), variable_name(node, source)) {
                ("variable_name", Some(name)) if name != "GLOBALS" => reader.scope.alias(&name, doubt),
                ("variable_name" | "dynamic_variable_name", _) => {
                    reader.scope.lost.variables.get_or_insert_with(|| doubt.clone());
                }
                _ => {}
            }
            let mut cursor = node.walk();
            for child in node.named_children(&mut cursor) {
                reader.alias(child, source, doubt);
            }
        });
    }

    fn set_variable(&mut self, name: &str, value: Value) {
        match name {
            "_ENV" => {
                let doubt = match value.decided() {
                    Err(doubt) => doubt.clone(),
                    Ok(_) => Doubt::elsewhere("the file assigns to $_ENV as a whole"),
                };
                self.scope.lost.environment.get_or_insert(doubt);
            }
            name if SUPERGLOBALS.contains(&name) => {}
            name => {
                self.assumptions.bind(&format!("${name}"));
                self.scope.set_variable(name, value);
            }
        }
    }

    pub(super) fn set_environment(&mut self, store: Store, name: &str, value: Value) {
        self.scope.set_environment(store.key(name), value.settled());
    }

    /// Sets what `putenv()` is handed.
    pub(super) fn call_putenv(&mut self, node: Node<'_>, assignment: &Value) -> Value {
        match assignment.known_text() {
            Some(assignment) => {
                let (name, value) = assignment.split_once('=').unwrap_or((assignment, ""));
                // Without `=` the variable is removed.
                let value = if assignment.contains('=') { Scalar::text(value) } else { Store::Process.absent() };
                self.set_environment(Store::Process, name, Value::Known(value));
            }
            None => {
                let doubt = self.doubt(node, "changes the environment in a way that only PHP knows");
                self.scope.lost.environment.get_or_insert(doubt);
            }
        }
        Value::boolean(true)
    }
}

fn is_block(node: Node<'_>) -> bool {
    node.kind() == "colon_block" || node.kind().ends_with("_statement")
}
