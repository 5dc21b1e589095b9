//! Statements: the order of things, conditions that are known, and where reading ends.

use tree_sitter::Node;

use super::call::function_name;
use super::environment::DockerText;
use super::expression::operand;
use super::scope::Slot;
use super::value::{LATE, Value};
use super::{Flow, Reader, WpConfigError, line, literal, text};

impl Reader<'_> {
    /// One file from its first statement to the last that counts.
    pub(super) fn run_program(&mut self, program: Node<'_>, source: &[u8]) -> Flow {
        // A file that is included counts as a whole; of the first one what follows wp-settings.php does not.
        if program.is_error() || self.files.len() > 1 && program.has_error() {
            self.error = Some(WpConfigError::Syntax { line: first_error(program) });
            return Flow::On;
        }
        self.declare_all(program, source);
        self.run_children(program, source)
    }

    /// All functions of a file, as they may be called before they are declared; wherever they stand,
    /// as namespaces and conditions only ever hide them.
    fn declare_all(&mut self, program: Node<'_>, source: &[u8]) {
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
            "function_definition" => match DockerText::of(node, source) {
                Some(docker) => self.docker = Some(docker),
                None => {
                    if let Some(name) = node.child_by_field_name("name") {
                        self.functions.insert(String::from_utf8_lossy(text(name, source)).to_ascii_lowercase());
                    }
                }
            },
            "function_call_expression" => {
                let name = node.child_by_field_name("function").and_then(|name| function_name(name, source));
                let arguments = node.child_by_field_name("arguments").filter(|_| name.as_deref() == Some("define"));
                if let Some(constant) = arguments.and_then(operand).and_then(operand) {
                    self.defines.extend(literal::text_of(constant, source));
                }
            }
            "const_element" => {
                let name = operand(node).map(|name| String::from_utf8_lossy(text(name, source)).into_owned());
                self.defines.extend(name);
            }
            // `use function a\b as trim;`, `use const a\B;`: every word of it may mean something else from here on.
            "namespace_use_declaration" => {
                let words = String::from_utf8_lossy(text(node, source)).to_ascii_lowercase();
                if words.contains("function") || words.contains("const") {
                    let words = String::from_utf8_lossy(text(node, source)).into_owned();
                    for word in words.split(|character: char| !character.is_alphanumeric() && character != '_') {
                        self.functions.insert(word.to_ascii_lowercase());
                        self.namespaced.insert(word.to_owned());
                    }
                }
            }
            // PHP leaves PHP mode at `?>` even in a comment to the end of the line; the parser overlooks `??>`.
            "comment"
                if !text(node, source).starts_with(b"/*") && text(node, source).windows(2).any(|two| two == b"?>") =>
            {
                let doubt = self.doubt(node, "ends PHP mode within a comment");
                self.scope.lose(&doubt);
            }
            // php.ini says whether `<?` opens PHP; `<?phpx` is such a tag, too.
            "php_tag" => {
                let tag = text(node, source);
                let next = source.get(node.end_byte());
                let is_full = tag == b"<?=" || tag.len() == 5 && next.is_none_or(u8::is_ascii_whitespace);
                if !is_full {
                    let doubt = self.doubt(node, "opens PHP by a short tag, which php.ini may have turned off");
                    self.scope.lose(&doubt);
                }
            }
            _ => {}
        }
    }

    pub(super) fn run(&mut self, node: Node<'_>, source: &[u8]) -> Flow {
        let flow = self.nested(node, Flow::On, |reader| reader.run_statement(node, source));
        if flow == Flow::Gone {
            // The rest is not run, in this file and in those that include it.
            let what = if node.kind() == "return_statement" { "return" } else { "exit" };
            let why = format!("is where reading ended ({what}): give the path of wp-config.php below WordPress's root");
            let doubt = self.doubt(node, why);
            self.scope.lose(&doubt);
        }
        flow
    }

    fn run_statement(&mut self, node: Node<'_>, source: &[u8]) -> Flow {
        self.assumptions.begin();
        match node.kind() {
            "if_statement" => {
                let mut cursor = node.walk();
                let alternatives: Vec<Node<'_>> = node.children_by_field_name("alternative", &mut cursor).collect();
                self.run_condition(node, &alternatives, source)
            }
            "while_statement" | "do_statement" | "for_statement" | "foreach_statement" | "switch_statement" => {
                self.touch_as(node, source, "is a loop or a switch, which only PHP can run")
            }
            "try_statement" => self.touch_as(node, source, "may throw, which only PHP can tell"),
            "return_statement" | "exit_statement" => {
                self.evaluate_children(node, source);
                // WordPress cannot go on without the rest of its configuration.
                let is_included = node.kind() == "return_statement" && self.files.len() > 1;
                self.take_flow(if is_included { Flow::Return } else { Flow::Gone })
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
                self.touch_as(node, source, "changes variables in a way that is not followed")
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
            "compound_statement" | "colon_block" | "declare_statement" => self.run_children(node, source),
            _ => {
                self.evaluate(node, source);
                self.take_flow(Flow::On)
            }
        }
    }

    fn touch_as(&mut self, node: Node<'_>, source: &[u8], why: &str) -> Flow {
        let doubt = self.doubt(node, why);
        self.touch(node, source, &doubt);
        Flow::On
    }

    /// Statements in their order.
    fn run_children(&mut self, node: Node<'_>, source: &[u8]) -> Flow {
        let mut cursor = node.walk();
        let mut result = Flow::On;
        for child in node.children(&mut cursor).filter(|child| child.is_named() || child.has_error()) {
            if is_halt(child, source) {
                return result;
            }
            if result == Flow::Loaded {
                self.touch_late(child, source);
                continue;
            }
            // What follows the loading of WordPress need not be understood.
            if node.kind() == "program" && child.has_error() {
                self.error.get_or_insert(WpConfigError::Syntax { line: first_error(child) });
                return Flow::On;
            }
            result = self.run(child, source);
            if self.error.is_some() || !matches!(result, Flow::On | Flow::Loaded) {
                return result;
            }
        }
        result
    }

    /// After wp-settings.php: WordPress is set up by then, but its plugins see the constants when they serve a request.
    fn touch_late(&mut self, node: Node<'_>, source: &[u8]) {
        let doubt = self.doubt(node, LATE);
        let (lost, prefix) = (self.scope.lost.clone(), self.scope.variable("table_prefix").ok().flatten().cloned());
        self.is_late = true;
        self.touch(node, source, &doubt);
        if let (Some(doubt), None) = (&self.scope.lost.constants, &lost.constants) {
            self.late.get_or_insert_with(|| doubt.clone());
        }
        self.scope.lost = lost;
        if let Some(prefix) = prefix {
            self.scope.set_variable("table_prefix", prefix);
        }
    }

    /// `node` is an `if` or `elseif` with a condition and a body; the rest is what else there is.
    fn run_condition(&mut self, node: Node<'_>, alternatives: &[Node<'_>], source: &[u8]) -> Flow {
        let body = node.child_by_field_name("body");
        let Some(condition) = node.child_by_field_name("condition").map(|node| self.evaluate(node, source)) else {
            return self.touch_as(node, source, "is an if without a condition");
        };
        let flow = self.take_flow(Flow::On);
        if flow != Flow::On {
            return flow;
        }
        match condition.decided() {
            Ok(scalar) => {
                self.assumptions.decide();
                match scalar.is_true() {
                    true => body.map_or(Flow::On, |body| self.run(body, source)),
                    false => self.run_alternatives(alternatives, source),
                }
            }
            Err(doubt) => {
                for code in body.iter().chain(alternatives) {
                    self.touch(*code, source, doubt);
                }
                Flow::On
            }
        }
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
        self.scope.define(name, Slot { value: value.settled(), place, certain: true })
    }

    /// What an expression did to the flow, or else `otherwise`.
    fn take_flow(&mut self, otherwise: Flow) -> Flow {
        match std::mem::replace(&mut self.flow, Flow::On) {
            Flow::On => otherwise,
            flow => flow,
        }
    }
}

/// `__halt_compiler();`: the rest of the file is data.
fn is_halt(statement: Node<'_>, source: &[u8]) -> bool {
    let words = text(statement, source);
    let goes_on = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || !byte.is_ascii();
    words
        .split_at_checked(15)
        .is_some_and(|(word, rest)| word.eq_ignore_ascii_case(b"__halt_compiler") && !rest.first().is_some_and(goes_on))
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
