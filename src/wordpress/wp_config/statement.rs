//! Statements: their order, known conditions, and where evaluation ends.

use super::code::Code;
use super::environment::DockerText;
use super::value::Value;
use super::{Flow, Reader, WpConfigError};

impl Reader<'_> {
    /// Runs one file from its first statement to the last relevant one.
    pub(super) fn run_program(&mut self, program: Code<'_>) {
        // An included file must be valid as a whole; in the first file, errors after
        // wp-settings.php do not matter.
        if let Some(line) = program.fault().filter(|_| program.kind() == "ERROR" || self.files.len() > 1) {
            self.flow = Flow::Failed(WpConfigError::Syntax { line });
            return;
        }
        // Functions may be called before they are declared.
        program.all().into_iter().for_each(|code| self.declare(code));
        for statement in program.children() {
            if is_halt(statement) {
                return;
            }
            match statement.fault() {
                Some(line) if self.flow == Flow::On => self.flow = Flow::Failed(WpConfigError::Syntax { line }),
                _ => self.run(statement),
            }
        }
    }

    /// Declarations apply wherever they are; namespaces and conditions can only hide them.
    fn declare(&mut self, code: Code<'_>) {
        match code.kind() {
            "function_definition" => match (DockerText::of(code), code.field("name")) {
                (Some(docker), _) => self.docker = Some(docker),
                (None, Some(name)) => _ = self.functions.insert(name.text().to_ascii_lowercase()),
                (None, None) => {}
            },
            // In a namespace, names have other meanings.
            "namespace_definition" => _ = self.lose(code, "is in a namespace, which is not followed"),
            "namespace_use_declaration" => {
                let words = code.text().to_ascii_lowercase();
                let mut words = words.split(|letter: char| !letter.is_alphanumeric());
                if words.any(|word| word == "function" || word == "const") {
                    self.lose(code, "uses functions or constants of a namespace, which are not followed");
                }
            }
            // PHP ends PHP mode at `?>` even in a line comment; the parser misses `??>`.
            "comment" if !code.bytes().starts_with(b"/*") && code.text().contains("?>") => {
                self.lose(code, "ends PHP mode within a comment");
            }
            // php.ini decides whether `<?` opens PHP; `<?phpx` is such a tag, too.
            "php_tag" => {
                let is_full = code.bytes().len() == 5 && code.rest().first().is_none_or(u8::is_ascii_whitespace);
                if !is_full && code.bytes() != b"<?=" {
                    self.lose(code, "opens PHP by a short tag, which php.ini may have turned off");
                }
            }
            _ => {}
        }
    }

    fn run(&mut self, code: Code<'_>) {
        match self.flow {
            Flow::On => self.nested(code, (), |reader| reader.run_statement(code)),
            Flow::Loaded => self.touch_late(code),
            Flow::Return | Flow::Gone | Flow::Failed(_) => {}
        }
    }

    fn run_statement(&mut self, code: Code<'_>) {
        match code.kind() {
            "if_statement" => self.run_if(code),
            "while_statement" | "do_statement" | "for_statement" | "foreach_statement" | "switch_statement" => {
                self.not_read(code, "is a loop or a switch, which only PHP can run");
            }
            "try_statement" => _ = self.not_read(code, "may throw, which only PHP can tell"),
            "return_statement" | "exit_statement" => {
                code.children().into_iter().for_each(|value| _ = self.evaluate(value));
                match (self.flow, code.kind()) {
                    (Flow::On, "return_statement") if self.files.len() > 1 => self.flow = Flow::Return,
                    // WordPress cannot work without the rest of its configuration.
                    (Flow::On, "return_statement") => _ = self.end(code, "return"),
                    (Flow::On, _) => _ = self.end(code, "exit"),
                    _ => {}
                }
            }
            "const_declaration" => self.run_const(code),
            "unset_statement" | "function_static_declaration" => {
                self.not_read(code, "changes variables in a way that is not followed");
            }
            "global_declaration" => {} // Here, all variables are.
            "compound_statement" | "colon_block" | "declare_statement" | "namespace_definition" => {
                code.children().into_iter().for_each(|statement| self.run(statement));
            }
            _ => _ = self.evaluate(code),
        }
    }

    fn run_if(&mut self, code: Code<'_>) {
        let mut clauses = std::iter::once(code).chain(code.fields("alternative"));
        while let Some(clause) = clauses.next() {
            let is_else = Value::boolean(true);
            let condition = clause.field("condition").map_or(is_else, |condition| self.evaluate(condition));
            match condition.known() {
                _ if self.flow != Flow::On => return,
                Ok(scalar) if !scalar.is_true() => {}
                Ok(_) => return clause.field("body").into_iter().for_each(|body| self.run(body)),
                Err(doubt) => {
                    return clause.field("body").into_iter().chain(clauses).for_each(|code| self.touch(code, doubt));
                }
            }
        }
    }

    /// After wp-settings.php: WordPress is set up by then, but its plugins see the constants when
    /// they serve a request.
    fn touch_late(&mut self, code: Code<'_>) {
        let doubt = self.doubt(code, "comes after wp-settings.php and may define it");
        std::mem::swap(&mut self.scope, &mut self.late);
        self.touch(code, &doubt);
        std::mem::swap(&mut self.scope, &mut self.late);
    }

    /// The rest does not run, in this file and in those that include it.
    pub(super) fn end(&mut self, code: Code<'_>, what: &str) -> Value {
        self.flow = Flow::Gone;
        let why = format!("is where reading ended ({what}): give the path of wp-config.php below WordPress's root");
        self.lose(code, &why)
    }
}

/// `__halt_compiler();`: the rest of the file is data.
fn is_halt(statement: Code<'_>) -> bool {
    let text = statement.text();
    let is_in_name = |letter: &char| letter.is_ascii_alphanumeric() || *letter == '_' || !letter.is_ascii();
    let word: String = text.chars().take_while(is_in_name).collect();
    word.eq_ignore_ascii_case("__halt_compiler")
}
