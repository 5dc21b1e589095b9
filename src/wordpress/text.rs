//! WordPress's changes to text before it stores it: `sanitize_text_field`, `wp_slash`,
//! `esc_url_raw`, `wp_json_encode`, and the cut to a column's width. The stored rows must be those
//! that the plugin would have written, so each function returns what PHP returns, byte for byte
//! (compared with PHP itself in `tests/sidecar/php_parity.rs`).
//!
//! Assumed, as on nearly every site: the option `blog_charset` is UTF-8, and no code hooks into the
//! filters `sanitize_text_field`, `esc_html` and `clean_url`. Not copied: PCRE's backtrack limit,
//! which makes PHP return an empty string for kilobytes of `<script` without an end.
//!
//! [`esc_url_raw`] is meant for a request's target. It is exact for targets that begin with a `/`,
//! except those that begin with `//` and contain a square bracket (PHP's `parse_url` would then
//! keep brackets in the authority). Anything else results in the empty string, where WordPress
//! might put `http://` in front.

mod html_entities;
mod strip_tags;

use strip_tags::strip_tags;

/// How a column stores text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnCharset {
    /// All of Unicode.
    Utf8mb4,
    /// The Basic Multilingual Plane (MySQL's `utf8`).
    Utf8mb3,
    /// `ascii`, and every other charset that is not supported here.
    Ascii,
}

/// WordPress's `sanitize_text_field()`: rejects invalid UTF-8 (the result is empty), removes tags,
/// line breaks, repeated spaces and percent-encoded octets, and trims.
pub fn sanitize_text_field(input: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(input) else {
        return String::new(); // wp_check_invalid_utf8
    };
    let mut text = text.as_bytes().to_vec();
    if text.contains(&b'<') {
        let escaped = pre_kses_less_than(&text);
        let stripped = strip_tags(&without_script_and_style(&escaped));
        text = replace(php_trim(&stripped), b"<\n", b"&lt;\n");
    }
    let text = fold(&text, |byte| matches!(byte, b'\r' | b'\n' | b'\t' | b' '));
    let trimmed = php_trim(&text);
    let without_octets = without_octets(trimmed);
    if without_octets.len() == trimmed.len() {
        return into_string(without_octets);
    }
    let folded = fold(&without_octets, |byte| byte == b' ');
    into_string(php_trim(&folded).to_vec())
}

/// WordPress's `wp_slash()`, which is PHP's `addslashes()`.
pub fn wp_slash(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '\'' | '"' | '\\' => {
                out.push('\\');
                out.push(character);
            }
            '\0' => out.push_str("\\0"),
            _ => out.push(character),
        }
    }
    out
}

/// WordPress's `esc_url_raw()` for a request's target, which begins with a `/`; for other inputs
/// see the module's documentation.
pub fn esc_url_raw(target: &str) -> String {
    let spaced = replace(php_trim_start(target.as_bytes()), b" ", b"%20");
    let mut url: Vec<u8> = spaced.into_iter().filter(|&byte| url_byte(byte)).collect();
    if url.first() != Some(&b'/') {
        return String::new();
    }
    url = without_line_break_octets(&url);
    url = replace(&url, b";//", b"://");
    if url.contains(&b'[') || url.contains(&b']') {
        url = escape_brackets(&url);
    }
    into_string(url)
}

/// PHP's `json_encode()` of one string with its default flags, quotes included: `/` escaped,
/// non-ASCII as `\uXXXX`.
pub fn json_ascii(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '/' => out.push_str("\\/"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' '..='\u{7f}' => out.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    out.push('"');
    out
}

/// `text` as a column of `max_chars` characters stores it. Characters that the charset lacks become
/// U+FFFD, or `?` if it lacks that too: a session is worth more than a letter of its user agent.
pub fn cut_to_column(text: &str, max_chars: usize, charset: ColumnCharset) -> String {
    text.chars()
        .take(max_chars)
        .map(|character| match charset {
            ColumnCharset::Utf8mb4 => character,
            ColumnCharset::Utf8mb3 if character > '\u{ffff}' => '\u{fffd}',
            ColumnCharset::Utf8mb3 => character,
            ColumnCharset::Ascii if character.is_ascii() => character,
            ColumnCharset::Ascii => '?',
        })
        .collect()
}

/// `wp_pre_kses_less_than()`: a `<` without a `>` before the next `<` or the end is escaped,
/// together with the text after it. Its pattern `<[^>]*?((?=<)|>|$)` also accepts the place before
/// a final line feed as an end.
fn pre_kses_less_than(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(start) = rest.iter().position(|&byte| byte == b'<') {
        let (before, tail) = rest.split_at(start);
        out.extend_from_slice(before);
        let after = tail.get(1..).unwrap_or_default();
        match after.iter().position(|&byte| byte == b'<' || byte == b'>') {
            Some(end) if after.get(end) == Some(&b'>') => {
                let (tag, following) = tail.split_at(end + 2);
                out.extend_from_slice(tag);
                rest = following;
            }
            Some(end) => {
                let (fragment, following) = tail.split_at(end + 1);
                out.extend(esc_html(fragment));
                rest = following;
            }
            None => {
                let fragment = tail.strip_suffix(b"\n").unwrap_or(tail);
                out.extend(esc_html(fragment));
                rest = tail.get(fragment.len()..).unwrap_or_default();
            }
        }
    }
    out.extend_from_slice(rest);
    out
}

/// `esc_html()` of a fragment without `>`: invalid references are escaped
/// (`wp_kses_normalize_entities`), then `htmlspecialchars(ENT_QUOTES)` without double encoding.
fn esc_html(fragment: &[u8]) -> Vec<u8> {
    let disarmed = replace(fragment, b"&", b"&amp;");
    let named = map_references(&disarmed, named_reference);
    let decimal = map_references(&named, decimal_reference);
    let normal = map_references(&decimal, hexadecimal_reference);
    let mut out = Vec::with_capacity(normal.len() + 8);
    for byte in normal {
        match byte {
            b'<' => out.extend_from_slice(b"&lt;"),
            b'"' => out.extend_from_slice(b"&quot;"),
            b'\'' => out.extend_from_slice(b"&#039;"),
            _ => out.push(byte),
        }
    }
    out
}

/// Passes the text between each `&amp;` and the next `;` to `reference`, which returns the
/// replacement of the whole, or `None` if its pattern does not match.
fn map_references(text: &[u8], reference: fn(&[u8]) -> Option<Vec<u8>>) -> Vec<u8> {
    const AMPERSAND: &[u8] = b"&amp;";
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, following)) = rest.split_first() {
        let replaced = rest.strip_prefix(AMPERSAND).and_then(|tail| {
            // A reference is a run of letters, digits and `#`: the search stops there, so the cost
            // is not quadratic.
            let end = tail.iter().position(|byte| !byte.is_ascii_alphanumeric() && *byte != b'#')?;
            let (body, after) = tail.split_at(end);
            Some((reference(body)?, after.strip_prefix(b";")?))
        });
        if let Some((replacement, after)) = replaced {
            out.extend(replacement);
            rest = after;
        } else {
            out.push(first);
            rest = following;
        }
    }
    out
}

/// `/&amp;([A-Za-z]{2,8}[0-9]{0,2});/`
fn named_reference(body: &[u8]) -> Option<Vec<u8>> {
    let letters = body.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    let digits = body.get(letters..)?;
    if !(2..=8).contains(&letters) || digits.len() > 2 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let prefix: &[u8] = if html_entities::survives(body) { b"&" } else { b"&amp;" };
    Some([prefix, body, b";"].concat())
}

/// `/&amp;#(0*[0-9]{1,7});/`; PHP's `empty('0')` is true, so the result is then empty.
fn decimal_reference(body: &[u8]) -> Option<Vec<u8>> {
    let digits = body.strip_prefix(b"#")?;
    let (value, significant) = number(digits, 10, 7)?;
    if digits == b"0" {
        return Some(Vec::new());
    }
    if !valid_unicode(value) {
        return Some([b"&amp;#", digits, b";"].concat());
    }
    Some(format!("&#{:0>3};", String::from_utf8_lossy(significant)).into_bytes())
}

/// `/&amp;#[Xx](0*[0-9A-Fa-f]{1,6});/`
fn hexadecimal_reference(body: &[u8]) -> Option<Vec<u8>> {
    let digits = body.strip_prefix(b"#x").or_else(|| body.strip_prefix(b"#X"))?;
    let (value, significant) = number(digits, 16, 6)?;
    if digits == b"0" {
        return Some(Vec::new());
    }
    if !valid_unicode(value) {
        return Some([b"&amp;#x", digits, b";"].concat());
    }
    Some([b"&#x", significant, b";"].concat())
}

/// Digits with any number of zeros before at most `max_digits` others: the value, and the digits
/// without the zeros.
fn number(digits: &[u8], radix: u32, max_digits: usize) -> Option<(u32, &[u8])> {
    let zeros = digits.iter().take_while(|&&byte| byte == b'0').count();
    let significant = digits.get(zeros..)?;
    if digits.is_empty() || significant.len() > max_digits {
        return None;
    }
    let mut value = 0_u32;
    for &digit in significant {
        value = value * radix + char::from(digit).to_digit(radix)?;
    }
    Some((value, significant))
}

/// WordPress's `valid_unicode()`.
fn valid_unicode(code: u32) -> bool {
    matches!(code, 0x9 | 0xa | 0xd | 0x20..=0xd7ff | 0xe000..=0xfffd | 0x1_0000..=0x10_ffff)
}

/// `preg_replace('@<(script|style)[^>]*?>.*?</\1>@si', '', …)`. If an element has no end tag, no
/// later one of its name has: this is remembered, so that many of them cost no more than one.
fn without_script_and_style(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    let mut unclosed = [false; 2];
    while let Some((&first, following)) = rest.split_first() {
        let mut end = None;
        if first == b'<' {
            for (name, unclosed) in [&b"script"[..], b"style"].into_iter().zip(&mut unclosed) {
                if *unclosed || !starts_with_ignoring_case(following, name) {
                    continue;
                }
                end = element_end(following, name);
                *unclosed = end.is_none();
            }
        }
        if let Some(after) = end {
            rest = after;
        } else {
            out.push(first);
            rest = following;
        }
    }
    out
}

/// The text after `</name>`, in text that begins with `name`.
fn element_end<'a>(text: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let open = text.iter().position(|&byte| byte == b'>')?;
    let content = text.get(open + 1..)?;
    let tag = [b"</", name, b">"].concat();
    let close = content.windows(tag.len()).position(|window| window.eq_ignore_ascii_case(&tag))?;
    content.get(close + tag.len()..)
}

fn starts_with_ignoring_case(text: &[u8], prefix: &[u8]) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Removes `%` with two hex digits until none is left. WordPress loops with `str_replace`; since
/// octets do not overlap, the order does not matter and one pass with a stack has the same result.
fn without_octets(text: &[u8]) -> Vec<u8> {
    remove_octets(text, |high, low| high.is_ascii_hexdigit() && low.is_ascii_hexdigit())
}

/// `_deep_replace( array( '%0d', '%0a', '%0D', '%0A' ), … )`
fn without_line_break_octets(text: &[u8]) -> Vec<u8> {
    remove_octets(text, |high, low| high == b'0' && matches!(low, b'd' | b'a' | b'D' | b'A'))
}

fn remove_octets(text: &[u8], removed: fn(u8, u8) -> bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for &byte in text {
        out.push(byte);
        if let [.., b'%', high, low] = out.as_slice()
            && removed(*high, *low)
        {
            out.truncate(out.len() - 3);
        }
    }
    out
}

/// The end of `esc_url()`: without a scheme and with a `/` in front, it takes `//` as the part
/// before the path, removes that everywhere from a copy, and escapes the brackets of whatever part
/// of the URL equals the copy: usually none, if there was a `//`.
fn escape_brackets(url: &[u8]) -> Vec<u8> {
    let dirty = if url.starts_with(b"//") { url.to_vec() } else { replace(url, b"//", b"") };
    let clean = replace(&replace(&dirty, b"[", b"%5B"), b"]", b"%5D");
    replace(url, &dirty, &clean)
}

fn url_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80 || b"-~+_.?#=!&;,/:%@$|*'()[]".contains(&byte)
}

/// PHP's `str_replace()` of one string.
fn replace(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, following)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(from) {
            out.extend_from_slice(to);
            rest = after;
        } else {
            out.push(first);
            rest = following;
        }
    }
    out
}

/// Each run of bytes that `folds` becomes one space.
fn fold(text: &[u8], folds: fn(u8) -> bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut in_run = false;
    for &byte in text {
        if !folds(byte) {
            out.push(byte);
        } else if !in_run {
            out.push(b' ');
        }
        in_run = folds(byte);
    }
    out
}

/// PHP's `trim()`: space, tab, line feed, carriage return, vertical tab, NUL.
fn php_trim(text: &[u8]) -> &[u8] {
    let text = php_trim_start(text);
    let kept = text.iter().rposition(|&byte| !php_space(byte)).map_or(0, |last| last + 1);
    text.get(..kept).unwrap_or_default()
}

fn php_trim_start(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|&byte| !php_space(byte)).unwrap_or(text.len());
    text.get(start..).unwrap_or_default()
}

fn php_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0)
}

/// All functions here cut valid UTF-8 only at ASCII bytes; if one were wrong, a replacement
/// character is better than a panic.
fn into_string(text: Vec<u8>) -> String {
    String::from_utf8(text).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests;
