//! Statements: the order of things, conditions that are known, and where reading ends.

use tree_sitter::Node;

use super::environment::DockerText;
use super::value::{Doubt, LATE, UNSEEN};
use super::{Flow, Reader, WpConfigError, line, text};

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
            // What a word means is another thing from here on.
            "namespace_definition" => self.lose_all(node, "is in a namespace, which is not followed"),
            "namespace_use_declaration" => {
                let words = String::from_utf8_lossy(text(node, source)).to_ascii_lowercase();
                if words
                    .split(|letter: char| !letter.is_alphanumeric())
                    .any(|word| word == "function" || word == "const")
                {
                    self.lose_all(node, "uses functions or constants of a namespace, which are not followed");
                }
            }
            // PHP leaves PHP mode at `?>` even in a comment to the end of the line; the parser overlooks `??>`.
            "comment"
                if !text(node, source).starts_with(b"/*") && text(node, source).windows(2).any(|two| two == b"?>") =>
            {
                self.lose_all(node, "ends PHP mode within a comment");
            }
            // php.ini says whether `<?` opens PHP; `<?phpx` is such a tag, too.
            "php_tag" => {
                let tag = text(node, source);
                let next = source.get(node.end_byte());
                let is_full = tag == b"<?=" || tag.len() == 5 && next.is_none_or(u8::is_ascii_whitespace);
                if !is_full {
                    self.lose_all(node, "opens PHP by a short tag, which php.ini may have turned off");
                }
            }
            _ => {}
        }
    }

    fn lose_all(&mut self, node: Node<'_>, why: &str) {
        let doubt = self.doubt(node, why);
        self.scope.lose(&doubt);
    }

    pub(super) fn run(&mut self, node: Node<'_>, source: &[u8]) -> Flow {
        let flow = self.nested(node, Flow::On, |reader| reader.run_statement(node, source));
        if flow == Flow::Gone {
            // The rest is not run, in this file and in those that include it.
            let what = if node.kind() == "return_statement" { "return" } else { "exit" };
            let why = format!("is where reading ended ({what}): give the path of wp-config.php below WordPress's root");
            self.lose_all(node, &why);
        }
        flow
    }

    fn run_statement(&mut self, node: Node<'_>, source: &[u8]) -> Flow {
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
                let mut cursor = node.walk();
                for child in node.named_children(&mut cursor) {
                    self.evaluate(child, source);
                }
                // WordPress cannot go on without the rest of its configuration.
                let is_included = node.kind() == "return_statement" && self.files.len() > 1;
                self.take_flow(if is_included { Flow::Return } else { Flow::Gone })
            }
            "goto_statement" => {
                self.error.get_or_insert(WpConfigError::Goto { line: line(node) });
                Flow::On
            }
            "const_declaration" => {
                self.run_const(node, source);
                Flow::On
            }
            "namespace_definition" => node.child_by_field_name("body").map_or(Flow::On, |body| self.run(body, source)),
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
        let before = self.scope.clone();
        self.is_late = true;
        self.touch(node, source, &doubt);
        if let (Some(doubt), None) = (&self.scope.lost, &before.lost) {
            // PHP may know what it is.
            self.late.get_or_insert_with(|| Doubt { why: UNSEEN.to_owned(), ..doubt.clone() });
        }
        self.scope.back_to(before);
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
        match condition.known() {
            Ok(scalar) if scalar.is_true() => body.map_or(Flow::On, |body| self.run(body, source)),
            Ok(_) => self.run_alternatives(alternatives, source),
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
