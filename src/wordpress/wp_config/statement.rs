//! Statements: the order of things, branches, and where reading ends.

use tree_sitter::Node;

use super::environment::is_official_getenv_docker;
use super::expression::variable_name;
use super::scope::{Kind, Layer, Slot};
use super::value::{Doubt, Value};
use super::{Flow, Reader, WpConfigError, line, text};

impl Reader<'_> {
    /// One file from its first statement to the last that counts.
    pub(super) fn run_program(&mut self, program: Node<'_>, source: &[u8]) -> Flow {
        if program.is_error() {
            self.error = Some(WpConfigError::Syntax { line: first_error(program) });
            return Flow::On;
        }
        self.declare_functions(program, source);
        let mut cursor = program.walk();
        for statement in program.children(&mut cursor) {
            // What follows the loading of WordPress, or `__halt_compiler();`, need not be PHP.
            if statement.has_error() {
                self.error = Some(WpConfigError::Syntax { line: first_error(statement) });
                return Flow::On;
            }
            if is_halt(statement, source) {
                return Flow::On;
            }
            let flow = self.run(statement, source);
            if flow != Flow::On || self.error.is_some() {
                return flow;
            }
        }
        Flow::On
    }

    /// All functions of a file, as they may be called before they are declared; wherever they stand,
    /// as namespaces and conditions only ever hide them.
    fn declare_functions(&mut self, program: Node<'_>, source: &[u8]) {
        let mut cursor = program.walk();
        loop {
            self.declare(cursor.node(), source);
            if cursor.goto_first_child() {
                continue;
            }
            while !cursor.goto_next_sibling() {
                if !cursor.goto_parent() {
                    return;
                }
            }
        }
    }

    fn declare(&mut self, node: Node<'_>, source: &[u8]) {
        match node.kind() {
            "function_definition" if !is_official_getenv_docker(node, source) => {
                if let Some(name) = node.child_by_field_name("name") {
                    self.functions.insert(String::from_utf8_lossy(text(name, source)).to_ascii_lowercase());
                }
            }
            // `use function a\b as trim;`, `use const a\B;`: every word of it may mean something else from here on.
            "namespace_use_declaration" => {
                let words = String::from_utf8_lossy(text(node, source)).into_owned();
                let of_classes = !words.contains("function") && !words.contains("const");
                let words = if of_classes { "" } else { words.as_str() };
                for word in words.split(|character: char| !character.is_alphanumeric() && character != '_') {
                    self.functions.insert(word.to_ascii_lowercase());
                    self.namespaced.insert(word.to_owned());
                }
            }
            _ => {}
        }
    }

    pub(super) fn run(&mut self, node: Node<'_>, source: &[u8]) -> Flow {
        self.nested(node, Flow::On, |reader| reader.run_statement(node, source))
    }

    fn run_statement(&mut self, node: Node<'_>, source: &[u8]) -> Flow {
        self.assumptions.begin();
        match node.kind() {
            "if_statement" => self.run_if(node, source),
            "while_statement" | "do_statement" | "for_statement" | "foreach_statement" | "switch_statement" => {
                let doubt = self.doubt(node, "is a loop or a switch, which only PHP can run");
                self.run_perhaps(node, source, &doubt)
            }
            "try_statement" => {
                let doubt = self.doubt(node, "may throw, which only PHP can tell");
                self.run_perhaps(node, source, &doubt)
            }
            "return_statement" => {
                self.evaluate_children(node, source);
                // WordPress cannot go on without the rest of its configuration.
                self.take_flow(if self.files.len() > 1 { Flow::Return } else { Flow::Gone })
            }
            "exit_statement" => {
                self.evaluate_children(node, source);
                self.take_flow(Flow::Gone)
            }
            "goto_statement" => {
                self.error.get_or_insert(WpConfigError::Goto { line: line(node) });
                Flow::On
            }
            "const_declaration" => self.run_const(node, source),
            "namespace_definition" => {
                self.in_namespace = node.child_by_field_name("name").is_some();
                node.child_by_field_name("body").map_or(Flow::On, |body| self.run(body, source))
            }
            "unset_statement" | "function_static_declaration" => {
                let doubt = self.doubt(node, "changes variables in a way that is not followed");
                self.scope.forget(Kind::Variables, &doubt);
                self.scope.forget(Kind::Environment, &doubt); // `unset($_ENV['X'])`
                Flow::On
            }
            "function_definition"
            | "class_declaration"
            | "interface_declaration"
            | "trait_declaration"
            | "enum_declaration"
            | "comment"
            | "text"
            | "text_interpolation"
            | "php_tag"
            | "php_end_tag"
            | "empty_statement"
            | "global_declaration"
            | "named_label_statement"
            | "namespace_use_declaration"
            | "declare_directive"
            | "break_statement"
            | "continue_statement" => Flow::On,
            "catch_clause" => {
                if let Some(name) = node.child_by_field_name("name").and_then(|name| variable_name(name, source)) {
                    let doubt = self.doubt(node, "catches what only PHP can throw");
                    self.assign_variable(&name, Value::Unknown(doubt));
                }
                self.run_children(node, source)
            }
            "compound_statement" | "colon_block" | "switch_block" | "case_statement" | "default_statement"
            | "finally_clause" | "declare_statement" => self.run_children(node, source),
            _ => {
                self.evaluate(node, source);
                self.take_flow(Flow::On)
            }
        }
    }

    fn run_children(&mut self, node: Node<'_>, source: &[u8]) -> Flow {
        let mut cursor = node.walk();
        for child in node.named_children(&mut cursor) {
            let flow = self.run(child, source);
            if flow != Flow::On {
                return flow;
            }
        }
        Flow::On
    }

    fn run_if(&mut self, node: Node<'_>, source: &[u8]) -> Flow {
        let mut cursor = node.walk();
        let alternatives: Vec<Node<'_>> = node.children_by_field_name("alternative", &mut cursor).collect();
        self.run_condition(node, &alternatives, source)
    }

    /// `node` is an `if` or `elseif` with a condition and a body; the rest is what else there is.
    fn run_condition(&mut self, node: Node<'_>, alternatives: &[Node<'_>], source: &[u8]) -> Flow {
        let body = node.child_by_field_name("body");
        let condition = node.child_by_field_name("condition").map(|condition| self.evaluate(condition, source));
        let flow = self.take_flow(Flow::On);
        if flow != Flow::On {
            return flow;
        }
        if condition.as_ref().is_some_and(|condition| condition.decided().is_ok()) {
            self.assumptions.decide();
        }
        let doubt = match condition.as_ref().map(Value::decided) {
            Some(Ok(scalar)) if scalar.is_true() => return body.map_or(Flow::On, |body| self.run(body, source)),
            Some(Ok(_)) => return self.run_alternatives(alternatives, source),
            Some(Err(doubt)) => doubt.clone(),
            None => self.doubt(node, "is an if without a condition"),
        };
        let taken = self.branch(|reader| body.map_or(Flow::On, |body| reader.run(body, source)));
        let not_taken = self.branch(|reader| reader.run_alternatives(alternatives, source));
        self.join([taken, not_taken], &doubt)
    }

    fn run_alternatives(&mut self, alternatives: &[Node<'_>], source: &[u8]) -> Flow {
        let Some((first, others)) = alternatives.split_first() else {
            return Flow::On;
        };
        self.nested(*first, Flow::On, |reader| match first.kind() {
            "else_if_clause" => reader.run_condition(*first, others, source),
            _ => first.child_by_field_name("body").map_or(Flow::On, |body| reader.run(body, source)),
        })
    }

    /// Runs something in a layer of its own.
    pub(super) fn branch(&mut self, run: impl FnOnce(&mut Self) -> Flow) -> (Layer, Flow) {
        self.scope.enter_branch();
        let flow = run(self);
        (self.scope.leave_branch(), flow)
    }

    /// One of two branches was taken. One that ends the request leaves nothing behind.
    pub(super) fn join(&mut self, branches: [(Layer, Flow); 2], doubt: &Doubt) -> Flow {
        let mut alive = Vec::new();
        let mut flows = Vec::new();
        for (layer, flow) in branches {
            if flow != Flow::Gone {
                alive.push(layer);
                flows.push(flow);
            }
        }
        if alive.is_empty() {
            return Flow::Gone;
        }
        self.scope.merge_one_of(&alive, doubt);
        match flows.as_slice() {
            [one] => *one,
            [one, other] if one == other => *one,
            // WordPress is loaded in one of them; what the other does is not the usual request.
            flows if flows.contains(&Flow::Loaded) => Flow::Loaded,
            _ => {
                self.may_have_returned.get_or_insert_with(|| doubt.clone());
                Flow::On
            }
        }
    }

    /// Runs the children of something that may run them never, once, or many times.
    fn run_perhaps(&mut self, node: Node<'_>, source: &[u8], doubt: &Doubt) -> Flow {
        self.scope.enter_loop(doubt);
        let mut flow = Flow::On;
        let mut cursor = node.walk();
        for child in node.named_children(&mut cursor) {
            if node.kind() == "foreach_statement" && !is_block(child) {
                self.assign_all_in(child, doubt, source);
            }
            // Another case, or the catch clause, may run where the one before it ended.
            let ended = self.run(child, source);
            if ended != Flow::On && ended != Flow::Gone {
                flow = ended;
            }
        }
        let layer = self.scope.leave_branch();
        self.scope.merge_perhaps(layer, doubt);
        if flow == Flow::Return {
            self.may_have_returned.get_or_insert_with(|| doubt.clone());
            return Flow::On;
        }
        flow
    }

    /// `foreach (… as $k => [$a, $b])` assigns to what stands there.
    fn assign_all_in(&mut self, header: Node<'_>, doubt: &Doubt, source: &[u8]) {
        self.nested(header, (), |reader| {
            if let Some(name) = variable_name(header, source).filter(|_| header.kind() == "variable_name") {
                reader.assign_variable(&name, Value::Unknown(doubt.clone()));
            }
            let mut cursor = header.walk();
            for child in header.named_children(&mut cursor) {
                reader.assign_all_in(child, doubt, source);
            }
        });
    }

    fn run_const(&mut self, node: Node<'_>, source: &[u8]) -> Flow {
        let mut cursor = node.walk();
        for element in node.named_children(&mut cursor).filter(|child| child.kind() == "const_element") {
            let mut children = element.walk();
            let mut parts = element.named_children(&mut children).filter(|child| child.kind() != "comment");
            if let (Some(name), Some(value)) = (parts.next(), parts.next()) {
                let value = self.evaluate(value, source);
                let name = String::from_utf8_lossy(text(name, source)).into_owned();
                if self.in_namespace {
                    self.namespaced.insert(name);
                } else {
                    self.define(node, &name, value);
                }
            }
        }
        Flow::On
    }

    pub(super) fn define(&mut self, node: Node<'_>, name: &str, value: Value) -> Option<bool> {
        if let Some((_, name)) = name.rsplit_once('\\') {
            self.namespaced.insert(name.to_owned());
        }
        self.assumptions.bind(name);
        let place = self.place(node);
        let slot = match (&self.may_have_returned, self.scope.incomplete()) {
            (Some(doubt), _) => Slot { value: Value::Unknown(doubt.clone()), place, certain: false },
            // `@define()`: nobody would have seen that it is the second definition.
            (None, Some(doubt)) if self.silent > 0 => {
                Slot { value: Value::Unknown(doubt.clone()), place, certain: true }
            }
            (None, _) => Slot { value: value.settled(), place, certain: true },
        };
        self.scope.define(name, slot)
    }

    /// What an expression did to the flow, or else `otherwise`.
    pub(super) fn take_flow(&mut self, otherwise: Flow) -> Flow {
        match std::mem::replace(&mut self.flow, Flow::On) {
            Flow::On => otherwise,
            flow => flow,
        }
    }
}

fn is_block(node: Node<'_>) -> bool {
    node.kind() == "colon_block" || node.kind().ends_with("_statement")
}

/// `__halt_compiler();`: the rest of the file is data.
fn is_halt(statement: Node<'_>, source: &[u8]) -> bool {
    let words = text(statement, source);
    words.get(..15).is_some_and(|start| start.eq_ignore_ascii_case(b"__halt_compiler"))
}

/// The line of the first node that the parser could make nothing of.
fn first_error(node: Node<'_>) -> usize {
    let mut at = node;
    'down: loop {
        if at.is_missing() {
            return line(at);
        }
        let mut cursor = at.walk();
        for child in at.children(&mut cursor) {
            if child.has_error() || child.is_missing() {
                at = child;
                continue 'down;
            }
        }
        return line(at);
    }
}
