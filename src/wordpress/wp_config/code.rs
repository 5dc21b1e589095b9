//! A piece of PHP: a node of the syntax tree with its source.

use std::time::{Duration, Instant};

use tree_sitter::{Node, ParseOptions, Parser, Tree};

use super::WpConfigError;

const PARSE_TIME_LIMIT: Duration = Duration::from_secs(20);

#[derive(Clone, Copy)]
pub(super) struct Code<'t> {
    node: Node<'t>,
    source: &'t [u8],
}

impl<'t> Code<'t> {
    pub(super) fn of(tree: &'t Tree, source: &'t [u8]) -> Self {
        Self { node: tree.root_node(), source }
    }

    fn at(self, node: Node<'t>) -> Self {
        Self { node, ..self }
    }

    pub(super) fn kind(self) -> &'t str {
        self.node.kind()
    }

    /// `include`, `require`, and the same with `_once`.
    pub(super) fn is_include(self) -> bool {
        self.kind().starts_with("include") || self.kind().starts_with("require")
    }

    /// Calls of methods in all their forms, and `new`.
    pub(super) fn runs_class(self) -> bool {
        self.kind() != "function_call_expression" && self.kind().ends_with("call_expression")
            || self.kind() == "object_creation_expression"
    }

    pub(super) fn bytes(self) -> &'t [u8] {
        self.source.get(self.node.byte_range()).unwrap_or_default()
    }

    pub(super) fn text(self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    /// The source after it, to the end of the file.
    pub(super) fn rest(self) -> &'t [u8] {
        self.source.get(self.node.end_byte()..).unwrap_or_default()
    }

    /// Counted from 1.
    pub(super) fn line(self) -> usize {
        self.node.start_position().row + 1
    }

    pub(super) fn field(self, name: &str) -> Option<Self> {
        self.node.child_by_field_name(name).map(|node| self.at(node))
    }

    pub(super) fn fields(self, name: &str) -> Vec<Self> {
        self.node.children_by_field_name(name, &mut self.node.walk()).map(|node| self.at(node)).collect()
    }

    /// Its parts, without punctuation and comments.
    pub(super) fn children(self) -> Vec<Self> {
        let is_part = |node: &Node<'_>| (node.is_named() || node.has_error()) && node.kind() != "comment";
        self.node.children(&mut self.node.walk()).filter(is_part).map(|node| self.at(node)).collect()
    }

    /// The single operand in parentheses, in an argument, or after `@`.
    pub(super) fn operand(self) -> Option<Self> {
        self.children().into_iter().next()
    }

    /// The node and all nodes below it, without recursion.
    pub(super) fn all(self) -> Vec<Self> {
        let mut found = vec![self];
        let mut cursor = self.node.walk();
        loop {
            if !cursor.goto_first_child() {
                while !cursor.goto_next_sibling() {
                    if !cursor.goto_parent() {
                        return found;
                    }
                }
            }
            found.push(self.at(cursor.node()));
        }
    }

    /// The name of a plain `$name`.
    pub(super) fn variable(self) -> Option<&'t str> {
        let name = (self.kind() == "variable_name").then(|| str::from_utf8(self.bytes()).ok());
        name.flatten()?.strip_prefix('$')
    }

    /// The name of a plain `name`, in lower case, without a leading backslash.
    pub(super) fn function(self) -> Option<String> {
        let is_name = matches!(self.kind(), "name" | "qualified_name" | "relative_name");
        let name = is_name.then(|| str::from_utf8(self.bytes()).ok()).flatten()?.to_ascii_lowercase();
        Some(name.strip_prefix('\\').unwrap_or(&name).to_owned())
    }

    /// Whether it is a statement of its own or a whole condition: within other expressions, it
    /// matters when PHP evaluates it.
    pub(super) fn stands_alone(self) -> bool {
        let mut node = self.node;
        while let Some(parent) = node.parent() {
            match parent.kind() {
                "parenthesized_expression" | "assignment_expression" => node = parent,
                kind => return matches!(kind, "expression_statement" | "if_statement" | "else_if_clause"),
            }
        }
        false
    }

    /// The line of the first syntax error in it.
    pub(super) fn fault(self) -> Option<usize> {
        let is_faulty = |node: &Node<'_>| node.has_error() || node.is_missing();
        let mut at = Some(self.node).filter(is_faulty)?;
        while let Some(child) = at.children(&mut at.walk()).find(is_faulty) {
            at = child;
        }
        Some(self.at(at).line())
    }
}

/// SECURITY: limited in time, whatever the file contains.
pub(super) fn parse(source: &[u8]) -> Result<Tree, WpConfigError> {
    let mut parser = Parser::new();
    // This fails only if the grammar has another ABI version than the library, which is a fault of
    // the build.
    parser.set_language(&tree_sitter_php::LANGUAGE_PHP.into()).map_err(|_| WpConfigError::TooSlow)?;
    let start = Instant::now();
    let mut too_slow = |_: &tree_sitter::ParseState| match start.elapsed() > PARSE_TIME_LIMIT {
        true => std::ops::ControlFlow::Break(()),
        false => std::ops::ControlFlow::Continue(()),
    };
    let options = ParseOptions::new().progress_callback(&mut too_slow);
    let mut input = |offset: usize, _| source.get(offset..).unwrap_or_default();
    parser.parse_with_options(&mut input, None, Some(options)).ok_or(WpConfigError::TooSlow)
}
