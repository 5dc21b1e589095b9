//! PHP's literals, decoded from their source text. `None` where a value is computed at run time
//! (interpolation) or is none that we hold (floats).

use tree_sitter::Node;

use super::text;

/// The text of a plain string, by its node.
pub(super) fn text_of(node: Node<'_>, source: &[u8]) -> Option<String> {
    let bytes = matches!(node.kind(), "string" | "encapsed_string").then(|| string(text(node, source)))??;
    String::from_utf8(bytes).ok()
}

/// A quoted string, heredoc or nowdoc, as it stands in the source.
pub(super) fn string(source: &[u8]) -> Option<Vec<u8>> {
    let source = source.strip_prefix(b"b").or_else(|| source.strip_prefix(b"B")).unwrap_or(source);
    match source {
        [b'\'', content @ .., b'\''] => Some(single_quoted(content)),
        [b'"', content @ .., b'"'] => double_quoted(content, true),
        [b'<', b'<', b'<', rest @ ..] => heredoc(rest),
        _ => None,
    }
}

/// An integer literal; those that overflow become floats in PHP.
pub(super) fn integer(source: &[u8]) -> Option<i64> {
    let digits: String = std::str::from_utf8(source).ok()?.chars().filter(|character| *character != '_').collect();
    let lower = digits.to_ascii_lowercase();
    let (digits, radix) = match lower.as_bytes() {
        [b'0', b'x', ..] => (lower.get(2..)?, 16),
        [b'0', b'b', ..] => (lower.get(2..)?, 2),
        [b'0', b'o', ..] => (lower.get(2..)?, 8),
        [b'0', _, ..] => (lower.get(1..)?, 8),
        _ => (lower.as_str(), 10),
    };
    i64::from_str_radix(digits, radix).ok()
}

fn single_quoted(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len());
    let mut rest = content;
    loop {
        rest = match rest {
            [b'\\', escaped @ (b'\\' | b'\''), tail @ ..] => {
                out.push(*escaped);
                tail
            }
            [byte, tail @ ..] => {
                out.push(*byte);
                tail
            }
            [] => return out,
        };
    }
}

/// The content of a double-quoted string or, without `quote`, of a heredoc, where `\"` stays.
fn double_quoted(content: &[u8], quote: bool) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(content.len());
    let mut rest = content;
    loop {
        rest = match rest {
            [b'\\', escape, tail @ ..] => {
                let simple = match escape {
                    b'n' => Some(b'\n'),
                    b't' => Some(b'\t'),
                    b'r' => Some(b'\r'),
                    b'v' => Some(0x0b),
                    b'e' => Some(0x1b),
                    b'f' => Some(0x0c),
                    b'\\' | b'$' => Some(*escape),
                    b'"' if quote => Some(b'"'),
                    _ => None,
                };
                match (simple, escape) {
                    (Some(byte), _) => {
                        out.push(byte);
                        tail
                    }
                    (None, b'0'..=b'7') => numeric(rest.get(1..)?, 8, 3, &mut out)?,
                    (None, b'x') if tail.first().is_some_and(u8::is_ascii_hexdigit) => numeric(tail, 16, 2, &mut out)?,
                    (None, b'u') if tail.first() == Some(&b'{') => unicode(tail, &mut out)?,
                    (None, _) => {
                        // Not an escape: the backslash stays, and what follows it is read again.
                        out.push(b'\\');
                        rest.get(1..)?
                    }
                }
            }
            [b'$', b'{', ..] | [b'{', b'$', ..] => return None,
            [b'$', next, ..] if next.is_ascii_alphabetic() || *next == b'_' || *next >= 0x80 => return None,
            [byte, tail @ ..] => {
                out.push(*byte);
                tail
            }
            [] => return Some(out),
        };
    }
}

/// `\101` or `\x41`; an octal number above 255 loses its high bit.
fn numeric<'s>(source: &'s [u8], radix: u32, max_digits: usize, out: &mut Vec<u8>) -> Option<&'s [u8]> {
    let digits = source.iter().take(max_digits).take_while(|byte| char::from(**byte).is_digit(radix)).count();
    let (digits, rest) = source.split_at_checked(digits)?;
    let number = u32::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok()?;
    out.push(u8::try_from(number & 0xff).ok()?);
    Some(rest)
}

/// `\u{1F600}`. PHP encodes surrogates like any other number; nobody has those in a secret.
fn unicode<'s>(source: &'s [u8], out: &mut Vec<u8>) -> Option<&'s [u8]> {
    let end = source.iter().position(|byte| *byte == b'}')?;
    let digits = std::str::from_utf8(source.get(1..end)?).ok()?;
    let character = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    source.get(end + 1..)
}

/// What follows `<<<`. The indentation of the closing label is taken from every line (PHP 7.3).
fn heredoc(source: &[u8]) -> Option<Vec<u8>> {
    let first_end = source.iter().position(|byte| *byte == b'\n')?;
    let label = source.get(..first_end)?.trim_ascii();
    let body = source.get(first_end + 1..)?;
    let (content, closing) = match body.iter().rposition(|byte| *byte == b'\n') {
        Some(last) => (body.get(..last)?, body.get(last + 1..)?),
        None => (&[][..], body),
    };
    let indentation = closing.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let content = content.strip_suffix(b"\r").unwrap_or(content);
    let mut lines = Vec::new();
    for line in content.split(|byte| *byte == b'\n') {
        let indented = line.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        lines.push(line.get(indentation.min(indented)..)?);
    }
    let content = lines.join(&b'\n');
    if label.starts_with(b"'") { Some(content) } else { double_quoted(&content, false) }
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
        assert_eq!(decoded(r#""a\"b\\c\n\$x\101\x41\u{41}\q\'""#).as_deref(), Some("a\"b\\c\n$xAAA\\q\\'"));
        assert_eq!(string(br#""\400\8\x\u\v\e\f$ $1 {""#).unwrap(), b"\x00\\8\\x\\u\x0b\x1b\x0c$ $1 {");
        assert_eq!(decoded("b'a'").as_deref(), Some("a"));
    }

    #[test]
    fn interpolation_is_not_known() {
        for source in [r#""$a""#, r#""a{$b}""#, r#""${a}""#, r#""\\$é""#] {
            assert_eq!(decoded(source), None, "{source}");
        }
    }

    #[test]
    fn heredocs() {
        assert_eq!(decoded("<<<'EOT'\n  a $b\\n\n   c\n  EOT").as_deref(), Some("a $b\\n\n c"));
        assert_eq!(decoded("<<<EOT\na\\tb \\\" \"\nEOT").as_deref(), Some("a\tb \\\" \""));
        assert_eq!(decoded("<<<\"E\"\nE").as_deref(), Some(""));
        assert_eq!(decoded("<<<E\n$a\nE"), None);
    }

    #[test]
    fn integers() {
        for (source, expected) in
            [("0", 0), ("12", 12), ("1_000", 1000), ("0x1F", 31), ("017", 15), ("0o17", 15), ("0b11", 3)]
        {
            assert_eq!(integer(source.as_bytes()), Some(expected), "{source}");
        }
        assert_eq!(integer(b"9223372036854775808"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = integer(&bytes);
            for (open, close) in [("'", "'"), ("\"", "\""), ("<<<", ""), ("<<<A\n", "\nA")] {
                let _ = string(&[open.as_bytes(), &bytes, close.as_bytes()].concat());
            }
        }
    }
}
