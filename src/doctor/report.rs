//! Shows findings: as text for people, as JSON for programs.

use std::io::{self, Write};

use serde::Serialize;

use crate::printable::{self, Form, Printer};

use crate::finding::{Area, Finding, Level, verdict};

/// Lines are wrapped at this width, or at the terminal's if that is narrower: longer ones are hard
/// to read.
const WIDTH: usize = 100;

/// The indent of the lines below a finding's text.
const INDENT: &str = "          ";

/// How text is shown.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// Whether levels are coloured.
    pub colours: bool,
    /// The terminal's columns.
    pub width: usize,
}

impl Style {
    /// The style for standard output: colours only on a terminal, and not if NO_COLOR is set
    /// (no-color.org).
    pub fn of_stdout() -> Self {
        use std::io::IsTerminal as _;
        let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).unwrap_or(WIDTH);
        Style { colours, width: columns.clamp(40, WIDTH) }
    }
}

/// Writes `findings`, which are sorted by area, and their number.
///
/// # Errors
/// When `out` cannot be written.
pub fn text(findings: &[Finding], style: Style, out: &mut impl Write) -> io::Result<()> {
    let mut area: Option<Area> = None;
    for finding in findings {
        if area != Some(finding.area) {
            writeln!(out, "{}{}", if area.is_some() { "\n" } else { "" }, bold(finding.area.title(), style))?;
            area = Some(finding.area);
        }
        let mut lines = wrapped(&finding.what, style.width.saturating_sub(INDENT.len())).into_iter();
        writeln!(out, "  {} {}", badge(finding.level, style), lines.next().unwrap_or_default())?;
        let fix =
            finding.fix.iter().flat_map(|fix| wrapped(&format!("→ {fix}"), style.width.saturating_sub(INDENT.len())));
        for line in lines.chain(fix) {
            writeln!(out, "{INDENT}{line}")?;
        }
        for line in &finding.lines {
            writeln!(out, "{INDENT}    {}", printable::one_line(line))?;
        }
    }
    let Counts { ok, warning, problem } = counts(findings);
    writeln!(
        out,
        "\n{}",
        bold(&format!("{ok} ok, {}, {}", counted(warning, "warning"), counted(problem, "problem")), style)
    )
}

/// Writes `findings` as one JSON object: see [`Report`].
///
/// # Errors
/// When `out` cannot be written.
pub fn json(findings: &[Finding], out: &mut impl Write) -> io::Result<()> {
    let report = Report {
        format: 1,
        program: concat!("wp-jwt-sidecar ", env!("CARGO_PKG_VERSION")),
        verdict: verdict(findings),
        counts: counts(findings),
        findings,
    };
    serde_json::to_writer_pretty(Printer::new(&mut *out, Form::Json), &report)?;
    writeln!(out)
}

/// The JSON. Later versions add members, but never remove or change one.
#[derive(Serialize)]
struct Report<'a> {
    /// The version of this format.
    format: u32,
    program: &'static str,
    /// The worst level; the exit code is 0, 1 or 2 for ok, warning and problem.
    verdict: Level,
    counts: Counts,
    findings: &'a [Finding],
}

#[derive(Serialize)]
struct Counts {
    ok: usize,
    warning: usize,
    problem: usize,
}

fn counts(findings: &[Finding]) -> Counts {
    let of = |level| findings.iter().filter(|finding| finding.level == level).count();
    Counts { ok: of(Level::Ok), warning: of(Level::Warning), problem: of(Level::Problem) }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn badge(level: Level, style: Style) -> String {
    let (word, colour) = match level {
        Level::Ok => ("ok     ", "32"),
        Level::Warning => ("warning", "33"),
        Level::Problem => ("PROBLEM", "31;1"),
    };
    if style.colours { format!("\x1b[{colour}m{word}\x1b[0m") } else { word.to_owned() }
}

fn bold(text: &str, style: Style) -> String {
    if style.colours { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
}

/// Lines of at most `width` characters, broken at spaces if possible.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let word = printable::one_line(word).into_owned();
        let Some(line) = lines.last_mut() else { break };
        if line.is_empty() {
            *line = word;
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(&word);
        } else {
            lines.push(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style { colours: false, width: 50 };

    fn findings() -> Vec<Finding> {
        vec![
            Finding::ok(Area::Configuration, "configuration.read", "it is as it should be"),
            Finding::problem(
                Area::Rights,
                "rights.missing",
                "the database user may not do all that a refresh does\x1b[2J\u{9b}",
                "Give it the rights.",
            )
            .with_lines(["GRANT SELECT ON `wordpress`.`wp_jwt_auth_tokens` TO `somebody\x7f`@`localhost`;"]),
        ]
    }

    #[test]
    fn text_is_wrapped_and_lines_to_copy_are_not() {
        let mut out = Vec::new();
        text(&findings(), PLAIN, &mut out).unwrap();
        let expected = "\
Configuration
  ok      it is as it should be

Database rights
  PROBLEM the database user may not do all that a
          refresh does\\u{1b}[2J\\u{9b}
          → Give it the rights.
              GRANT SELECT ON `wordpress`.`wp_jwt_auth_tokens` TO `somebody\\u{7f}`@`localhost`;

1 ok, 0 warnings, 1 problem
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn json_has_a_shape_that_stays() {
        let mut out = Vec::new();
        json(&findings(), &mut out).unwrap();
        let printed = String::from_utf8(out).unwrap();
        assert!(!printed.contains(|c| printable::is_harmful(c) && c != '\n'), "{printed}");
        let report: serde_json::Value = serde_json::from_str(&printed).unwrap();
        assert_eq!(
            report,
            serde_json::json!({
                "format": 1,
                "program": concat!("wp-jwt-sidecar ", env!("CARGO_PKG_VERSION")),
                "verdict": "problem",
                "counts": {"ok": 1, "warning": 0, "problem": 1},
                "findings": [
                    {"level": "ok", "area": "configuration", "id": "configuration.read", "what": "it is as it should be",
                     "fix": null, "lines": []},
                    {"level": "problem", "area": "rights", "id": "rights.missing",
                     "what": "the database user may not do all that a refresh does\u{1b}[2J\u{9b}", "fix": "Give it the rights.",
                     "lines": ["GRANT SELECT ON `wordpress`.`wp_jwt_auth_tokens` TO `somebody\u{7f}`@`localhost`;"]},
                ],
            })
        );
    }

    #[test]
    fn colours_are_for_those_who_want_them() {
        let mut out = Vec::new();
        text(&findings(), Style { colours: true, width: 80 }, &mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("\x1b[31;1mPROBLEM\x1b[0m"));
    }
}
