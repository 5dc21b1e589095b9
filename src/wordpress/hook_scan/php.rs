//! Finds where PHP code names one of the hooks in a way that can register a callback.
//!
//! A name counts anywhere in code, as a string or as the name of a function or constant: it may
//! reach `add_filter()` through a constant, an array or a loop. It does not count in comments,
//! outside PHP, or as the hook of a function that only fires, queries or removes. If the parser
//! does not understand the code, every occurrence counts.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use tree_sitter::{Node, ParseOptions, ParseState, Parser, Tree, TreeCursor};

use super::names::{self, Piece};

/// The form of the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A file: text, with code after `<?php`.
    File,
    /// Code only, as snippet plugins store it.
    Code,
}

/// A hook that code names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Named {
    /// Counted from 1.
    pub line: u32,
    /// Its name, or the known beginning and ending: `jwt_auth_*`.
    pub hook: String,
}

/// All places, without duplicates.
pub(super) fn names(source: &[u8], form: Form) -> Vec<Named> {
    if memchr::memmem::find(source, names::NEEDLE.as_bytes()).is_none() {
        return Vec::new();
    }
    let tree = parse(source, form);
    let is_broken = tree.as_ref().is_none_or(|tree| tree.root_node().has_error());
    let mut walk = Walk { source, is_broken, found: Vec::new() };
    if is_broken {
        walk.take_whole(source, 1);
    }
    if let Some(tree) = &tree {
        walk.all(tree.walk());
    }
    let mut found = walk.found;
    found.sort();
    found.dedup();
    if let Some(next) = found.get(MOST) {
        // Further places can only be trusted together with the whole file.
        let more = Named { line: next.line, hook: "more of them".to_owned() };
        found.truncate(MOST);
        found.push(more);
    }
    found
}

/// The most places per file, so that one file cannot fill the log.
const MOST: usize = 50;

/// Strings concatenated from more pieces are not examined as a whole.
const MOST_PIECES: usize = 64;

/// For one file of at most one mebibyte.
const PARSE_TIME_LIMIT: Duration = Duration::from_secs(5);

/// Functions whose first argument is a hook, and which do not register a callback.
const HARMLESS: [&str; 16] = [
    "apply_filters",
    "apply_filters_deprecated",
    "apply_filters_ref_array",
    "did_action",
    "did_filter",
    "do_action",
    "do_action_deprecated",
    "do_action_ref_array",
    "doing_action",
    "doing_filter",
    "has_action",
    "has_filter",
    "remove_action",
    "remove_all_actions",
    "remove_all_filters",
    "remove_filter",
];

/// The nodes that a string may be wrapped in and still be the argument.
const TRANSPARENT: [&str; 5] =
    ["parenthesized_expression", "binary_expression", "conditional_expression", "string", "encapsed_string"];

fn parse(source: &[u8], form: Form) -> Option<Tree> {
    let mut parser = Parser::new();
    let language = match form {
        Form::File => tree_sitter_php::LANGUAGE_PHP,
        Form::Code => tree_sitter_php::LANGUAGE_PHP_ONLY,
    };
    parser.set_language(&language.into()).ok()?;
    let start = Instant::now();
    let mut too_slow = |_: &ParseState| match start.elapsed() > PARSE_TIME_LIMIT {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    let options = ParseOptions::new().progress_callback(&mut too_slow);
    let mut input = |offset: usize, _| source.get(offset..).unwrap_or_default();
    parser.parse_with_options(&mut input, None, Some(options))
}

/// What applies to the children of a node.
#[derive(Clone, Copy, Default)]
struct Inside {
    /// The node is the hook of a function that does not register.
    is_harmless: bool,
    /// The id of the argument that is such a hook.
    hook: Option<usize>,
    /// The concatenated string was examined as a whole.
    is_of_whole: bool,
    is_of_variable: bool,
}

struct Walk<'s> {
    source: &'s [u8],
    is_broken: bool,
    found: Vec<Named>,
}

impl<'s> Walk<'s> {
    /// SECURITY: without recursion, since the file decides how deeply code is nested.
    fn all(&mut self, mut cursor: TreeCursor<'_>) {
        let mut around = vec![Inside::default()];
        loop {
            let inside = around.last().copied().unwrap_or_default();
            let within = self.node(cursor.node(), inside);
            if let Some(within) = within
                && cursor.goto_first_child()
            {
                around.push(within);
                continue;
            }
            while !cursor.goto_next_sibling() {
                around.pop();
                if !cursor.goto_parent() {
                    return;
                }
            }
        }
    }

    /// `None` if its children do not matter.
    fn node(&mut self, node: Node<'_>, around: Inside) -> Option<Inside> {
        let kind = node.kind();
        let mut within = Inside {
            is_harmless: around.hook == Some(node.id()) || (around.is_harmless && TRANSPARENT.contains(&kind)),
            ..Inside::default()
        };
        let is_harmless = within.is_harmless && !self.is_broken;
        match kind {
            "comment" | "text" | "php_tag" => return None,
            "function_call_expression" => within.hook = self.harmless_hook(node).map(|argument| argument.id()),
            "arguments" => within.hook = around.hook,
            "variable_name" => within.is_of_variable = true,
            // An identifier. A variable's name cannot become a hook.
            "name" if !around.is_of_variable && !is_harmless => self.take_whole(self.text(node), line(node)),
            "binary_expression" if is_concatenation(node) => {
                within.is_of_whole = true;
                if !around.is_of_whole && !is_harmless {
                    self.take_built(node);
                }
            }
            "parenthesized_expression" => within.is_of_whole = around.is_of_whole,
            "string" | "encapsed_string" | "heredoc" | "nowdoc" | "shell_command_expression" if !is_harmless => {
                self.take_whole(self.text(node), line(node));
                if !around.is_of_whole {
                    self.take_built(node);
                }
            }
            _ => {}
        }
        Some(within)
    }

    fn take_whole(&mut self, text: &[u8], line: u32) {
        let (mut line, mut from) = (line, 0);
        for (at, name) in names::whole(text) {
            let newlines = text.get(from..at).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count();
            line = line.saturating_add(u32::try_from(newlines).unwrap_or(u32::MAX));
            from = at;
            self.found.push(Named { line, hook: name.to_owned() });
        }
    }

    /// For a string or a concatenation.
    fn take_built(&mut self, node: Node<'_>) {
        let pieces = self.pieces(node);
        let known = match pieces.as_slice() {
            [] => return,
            [Piece::Known(text)] if names::is_beginning(text) => Some(String::from_utf8_lossy(text).into_owned() + "*"),
            [Piece::Known(text)] => names::built(&names::of_format(text)),
            several if several.contains(&Piece::Unknown) => names::built(several),
            // A single string with several lines was examined line by line.
            _ if !is_concatenation(node) => None,
            several => {
                let known = several.iter().filter_map(|piece| match piece {
                    Piece::Known(text) => Some(*text),
                    Piece::Unknown => None,
                });
                let text = known.collect::<Vec<_>>().concat();
                names::whole(&text).next().map(|(_, name)| name.to_owned())
            }
        };
        self.found.extend(known.map(|hook| Named { line: line(node), hook }));
    }

    /// The strings of a concatenation from left to right, at most [`MOST_PIECES`].
    fn pieces<'t>(&self, node: Node<'t>) -> Vec<Piece<'s>> {
        let mut pieces = Vec::new();
        let mut left: Vec<Node<'t>> = vec![node];
        while let Some(node) = left.pop() {
            if pieces.len() >= MOST_PIECES {
                pieces.push(Piece::Unknown);
                break;
            }
            match node.kind() {
                "binary_expression" if is_concatenation(node) => {
                    left.extend(node.child_by_field_name("right"));
                    left.extend(node.child_by_field_name("left"));
                }
                "parenthesized_expression" => left.extend(node.named_child(0)),
                "string" | "encapsed_string" | "heredoc" | "nowdoc" => pieces.extend(self.pieces_of_string(node)),
                _ => pieces.push(Piece::Unknown),
            }
        }
        pieces
    }

    fn pieces_of_string(&self, node: Node<'_>) -> Vec<Piece<'s>> {
        let body = node.child_by_field_name("value").unwrap_or(node);
        let mut cursor = body.walk();
        body.named_children(&mut cursor)
            .take(MOST_PIECES)
            .map(|part| match part.kind() {
                // An escape sequence unchanged: no name contains one.
                "string_content" | "nowdoc_string" | "escape_sequence" => Piece::Known(self.text(part)),
                _ => Piece::Unknown,
            })
            .collect()
    }

    /// The argument that is the hook of a function that does not register.
    fn harmless_hook<'t>(&self, call: Node<'t>) -> Option<Node<'t>> {
        let function = call.child_by_field_name("function")?;
        if !matches!(function.kind(), "name" | "qualified_name") {
            return None;
        }
        let name = std::str::from_utf8(self.text(function)).ok()?.to_ascii_lowercase();
        let name = name.strip_prefix('\\').unwrap_or(&name);
        if !HARMLESS.contains(&name) {
            return None;
        }
        let arguments = call.child_by_field_name("arguments")?;
        let mut cursor = arguments.walk();
        let first = arguments.named_children(&mut cursor).find(|child| child.kind() == "argument")?;
        let label = first.child_by_field_name("name").map(|label| self.text(label));
        label.is_none_or(|label| label == b"hook_name").then_some(first)
    }

    fn text(&self, node: Node<'_>) -> &'s [u8] {
        self.source.get(node.byte_range()).unwrap_or_default()
    }
}

fn is_concatenation(node: Node<'_>) -> bool {
    node.child_by_field_name("operator").is_some_and(|operator| operator.kind() == ".")
}

/// Counted from 1.
fn line(node: Node<'_>) -> u32 {
    u32::try_from(node.start_position().row).unwrap_or(u32::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests;
