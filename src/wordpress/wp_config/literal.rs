//! Decodes PHP's literals. `None` for values computed at run time (interpolation), and for forms
//! that no configuration uses: numeric escapes, heredocs, numbers that are not decimal.

use super::code::Code;

/// The text of a plain string.
pub(super) fn text_of(code: Code<'_>) -> Option<String> {
    matches!(code.kind(), "string" | "encapsed_string").then(|| String::from_utf8(string(code.bytes())?).ok())?
}

/// A quoted string in source form.
pub(super) fn string(source: &[u8]) -> Option<Vec<u8>> {
    match source {
        [quote @ (b'\'' | b'"'), content @ .., last] if last == quote => decoded(content, *quote == b'"'),
        _ => None,
    }
}

/// A decimal integer. Those that overflow become floats in PHP, and a leading zero means octal.
pub(super) fn integer(source: &str) -> Option<i64> {
    source.parse().ok().filter(|_| source == "0" || !source.starts_with('0'))
}

fn decoded(mut rest: &[u8], is_double: bool) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(rest.len());
    while let [byte, tail @ ..] = rest {
        let (decoded, length) = match (byte, tail.first()) {
            (b'\\', Some(b'\\')) => (b'\\', 2),
            (b'\\', Some(b'\'')) if !is_double => (b'\'', 2),
            (b'\\', Some(escape)) if is_double => match escape {
                b'"' | b'$' => (*escape, 2),
                b'n' => (b'\n', 2),
                b'r' => (b'\r', 2),
                b't' => (b'\t', 2),
                b'v' | b'e' | b'f' | b'x' | b'u' | b'0'..=b'7' => return None,
                // Not an escape: the backslash stays.
                _ => (b'\\', 1),
            },
            (b'{', Some(b'$')) | (b'$', Some(b'{')) if is_double => return None,
            (b'$', Some(next)) if is_double && (next.is_ascii_alphabetic() || *next == b'_' || *next >= 0x80) => {
                return None;
            }
            _ => (*byte, 1),
        };
        out.push(decoded);
        rest = rest.get(length..)?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(source: &str) -> Option<String> {
        string(source.as_bytes()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    #[test]
    fn quotes_and_escapes() {
        assert_eq!(decoded(r"'a\'b\\c\n$x'").as_deref(), Some(r"a'b\c\n$x"));
        assert_eq!(decoded(r#""a\"b\\c\n\r\t\$x\q\'""#).as_deref(), Some("a\"b\\c\n\r\t$x\\q\\'"));
        assert_eq!(decoded(r#""\8 $ $1 { \{$1""#).as_deref(), None);
        assert_eq!(decoded(r#""\8 $ $1 { ' \U""#).as_deref(), Some(r"\8 $ $1 { ' \U"));
    }

    #[test]
    fn what_php_computes_and_rare_escapes_are_not_known() {
        for source in [
            r#""$a""#,
            r#""a{$b}""#,
            r#""${a}""#,
            r#""\\$é""#,
            r#""\x41""#,
            r#""\101""#,
            r#""\u{41}""#,
            r#""\e""#,
            "<<<'E'\na\nE",
            "'",
            "b'a'",
        ] {
            assert_eq!(decoded(source), None, "{source}");
        }
    }

    #[test]
    fn integers() {
        for (source, expected) in [
            ("0", Some(0)),
            ("12", Some(12)),
            ("1_000", None),
            ("0x1F", None),
            ("017", None),
            ("00", None),
            ("9223372036854775808", None),
        ] {
            assert_eq!(integer(source), expected, "{source}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            for quote in ["'", "\""] {
                let _ = string(&[quote.as_bytes(), &bytes, quote.as_bytes()].concat());
            }
        }
    }
}
