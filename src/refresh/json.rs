//! JSON as PHP reads it.
//!
//! WordPress answers a body that `json_decode()` refuses with PHP's own error number, so a native
//! response must find the same first error in the same text. [`check`] reads a text in the order of
//! PHP's scanner and parser (`ext/json/json_scanner.re`, `json_parser.y`): token by token, the
//! scanner's errors before the parser's, the nesting counted when a bracket opens.
//! [`refresh_token`] then lets serde_json read the one member that matters.
//!
//! Nothing is guessed. These texts are [`Unsure`](Fault::Unsure): one with a closing bracket of the
//! wrong kind (PHP's error 2), one with a literal in capitals (which PHP's versions treat
//! differently), and one that PHP can read but serde_json cannot (`1e999`).

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

/// Levels of nesting that WordPress's call of `json_decode()` accepts: its `$depth` is 512, and the
/// scalars count as a level.
const MAX_DEPTH: usize = 511;

/// PHP's `json_last_error()` for a text that does not parse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonError {
    /// `JSON_ERROR_DEPTH`
    Depth,
    /// `JSON_ERROR_CTRL_CHAR`; also for an unterminated string, whose end PHP sees as a NUL.
    ControlCharacter,
    /// `JSON_ERROR_SYNTAX`
    Syntax,
    /// `JSON_ERROR_UTF8`
    Utf8,
    /// `JSON_ERROR_UTF16`
    Utf16,
}

impl JsonError {
    /// The number, as in `json_last_error()`.
    pub fn code(self) -> u8 {
        match self {
            Self::Depth => 1,
            Self::ControlCharacter => 3,
            Self::Syntax => 4,
            Self::Utf8 => 5,
            Self::Utf16 => 10,
        }
    }

    /// The words, as in `json_last_error_msg()`.
    pub fn message(self) -> &'static str {
        match self {
            Self::Depth => "Maximum stack depth exceeded",
            Self::ControlCharacter => "Control character error, possibly incorrectly encoded",
            Self::Syntax => "Syntax error",
            Self::Utf8 => "Malformed UTF-8 characters, possibly incorrectly encoded",
            Self::Utf16 => "Single unpaired UTF-16 surrogate in unicode escape",
        }
    }
}

/// Why a text has no usable result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// PHP refuses it with this error.
    Refused(JsonError),
    /// How PHP reads it is uncertain.
    Unsure,
}

/// What a JSON body says about the refresh token.
#[derive(Clone, PartialEq, Eq)]
pub enum Body {
    /// The text is not an object, so it has no members.
    NotAnObject,
    /// An object with this member; of several members of one name the last counts.
    Object {
        /// The member `refresh_token`.
        refresh_token: Member,
        /// Whether a name begins with `_` or is `rest_route`, which have a meaning in WordPress.
        has_special_name: bool,
    },
}

/// The member `refresh_token` of an object.
#[derive(Clone, PartialEq, Eq)]
pub enum Member {
    /// There is no such member.
    Absent,
    /// It is `null`.
    Null,
    /// It is a string, here decoded.
    Text(String),
    /// It is a number, a boolean, an array or an object.
    Other,
}

/// Reads a body that is neither empty nor `0` (WordPress does not parse those at all).
///
/// # Errors
/// PHP refuses the text, or might read it differently.
pub fn refresh_token(text: &[u8]) -> Result<Body, Fault> {
    check(text)?;
    if !text.trim_ascii_start().starts_with(b"{") {
        return Ok(Body::NotAnObject);
    }
    let members: Members = serde_json::from_slice(text).map_err(|_| Fault::Unsure)?;
    Ok(Body::Object { refresh_token: members.refresh_token, has_special_name: members.has_special_name })
}

/// Whether `json_decode($text, true)` accepts a text, and if not, why.
///
/// # Errors
/// The first fault in PHP's order.
pub fn check(text: &[u8]) -> Result<(), Fault> {
    let mut scanner = Scanner { rest: text };
    let mut open = Vec::new();
    let mut expected = Expected::Value;
    loop {
        let token = scanner.token()?;
        expected = match (expected, token) {
            (Expected::End, Token::End) => return Ok(()),
            (Expected::Value | Expected::ValueOrEnd, Token::Open(bracket)) => {
                if open.len() >= MAX_DEPTH {
                    return Err(Fault::Refused(JsonError::Depth));
                }
                open.push(bracket);
                match bracket {
                    Bracket::Square => Expected::ValueOrEnd,
                    Bracket::Curly => Expected::NameOrEnd,
                }
            }
            (Expected::Value | Expected::ValueOrEnd, Token::Text | Token::Scalar) => after_value(&open),
            (Expected::Name | Expected::NameOrEnd, Token::Text) => Expected::Colon,
            (Expected::Colon, Token::Colon) => Expected::Value,
            (Expected::CommaOrEnd, Token::Comma) => match open.last() {
                Some(Bracket::Curly) => Expected::Name,
                Some(Bracket::Square) | None => Expected::Value,
            },
            (Expected::ValueOrEnd | Expected::NameOrEnd | Expected::CommaOrEnd, Token::Close(bracket)) => {
                // PHP's parser has its own error for this (JSON_ERROR_STATE_MISMATCH), which is too
                // rare to be sure of.
                if open.pop() != Some(bracket) {
                    return Err(Fault::Unsure);
                }
                after_value(&open)
            }
            _ => return Err(Fault::Refused(JsonError::Syntax)),
        };
    }
}

/// What the grammar allows next.
#[derive(Clone, Copy)]
enum Expected {
    Value,
    /// After `[`.
    ValueOrEnd,
    /// After a comma in an object.
    Name,
    /// After `{`.
    NameOrEnd,
    Colon,
    CommaOrEnd,
    End,
}

fn after_value(open: &[Bracket]) -> Expected {
    if open.is_empty() { Expected::End } else { Expected::CommaOrEnd }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bracket {
    Square,
    Curly,
}

#[derive(Clone, Copy)]
enum Token {
    Open(Bracket),
    Close(Bracket),
    Comma,
    Colon,
    Text,
    /// A number, `true`, `false` or `null`.
    Scalar,
    End,
}

struct Scanner<'a> {
    rest: &'a [u8],
}

impl Scanner<'_> {
    fn token(&mut self) -> Result<Token, Fault> {
        loop {
            let Some((&first, after)) = self.rest.split_first() else {
                return Ok(Token::End);
            };
            let token = match first {
                b' ' | b'\t' | b'\r' | b'\n' => {
                    self.rest = after;
                    continue;
                }
                b'{' => Token::Open(Bracket::Curly),
                b'[' => Token::Open(Bracket::Square),
                b'}' => Token::Close(Bracket::Curly),
                b']' => Token::Close(Bracket::Square),
                b',' => Token::Comma,
                b':' => Token::Colon,
                b'"' => {
                    self.rest = after;
                    return self.text().map_err(Fault::Refused);
                }
                b'-' | b'0'..=b'9' => return self.number().map_err(Fault::Refused),
                b't' | b'T' => return self.word(b"true"),
                b'f' | b'F' => return self.word(b"false"),
                b'n' | b'N' => return self.word(b"null"),
                0..0x20 => return Err(Fault::Refused(JsonError::ControlCharacter)),
                // A byte order mark, too, begins no token.
                _ => {
                    return Err(Fault::Refused(match utf8_character(self.rest) {
                        Some(_) => JsonError::Syntax,
                        None => JsonError::Utf8,
                    }));
                }
            };
            self.rest = after;
            return Ok(token);
        }
    }

    /// The rest of a string after its opening quote.
    fn text(&mut self) -> Result<Token, JsonError> {
        loop {
            match self.rest {
                [b'"', after @ ..] => {
                    self.rest = after;
                    return Ok(Token::Text);
                }
                // To PHP the end of the text is a NUL, a control character like any other.
                [] | [0..0x20, ..] => return Err(JsonError::ControlCharacter),
                [b'\\', b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', after @ ..] => {
                    self.rest = after;
                }
                [b'\\', b'u', after @ ..] => self.rest = utf16_escape(after)?,
                [b'\\', ..] => return Err(JsonError::Syntax),
                rest => {
                    let length = utf8_character(rest).ok_or(JsonError::Utf8)?;
                    self.rest = rest.get(length..).ok_or(JsonError::Utf8)?;
                }
            }
        }
    }

    /// The longest number. What follows it is another token, so `01` is two.
    fn number(&mut self) -> Result<Token, JsonError> {
        let rest = self.rest.strip_prefix(b"-").unwrap_or(self.rest);
        self.rest = match rest {
            [b'0', after @ ..] => after,
            [b'1'..=b'9', ..] => without_digits(rest),
            // A lone minus.
            _ => return Err(JsonError::Syntax),
        };
        if let [b'.', b'0'..=b'9', fraction @ ..] = self.rest {
            self.rest = without_digits(fraction);
        }
        if let [b'e' | b'E', b'+' | b'-', b'0'..=b'9', digits @ ..] | [b'e' | b'E', b'0'..=b'9', digits @ ..] =
            self.rest
        {
            self.rest = without_digits(digits);
        }
        Ok(Token::Scalar)
    }

    fn word(&mut self, word: &[u8]) -> Result<Token, Fault> {
        match self.rest.split_at_checked(word.len()) {
            Some((start, after)) if start == word => {
                self.rest = after;
                Ok(Token::Scalar)
            }
            Some((start, _)) if start.eq_ignore_ascii_case(word) => Err(Fault::Unsure),
            _ => Err(Fault::Refused(JsonError::Syntax)),
        }
    }
}

/// The text after a `\u` escape, or after the second half of a surrogate pair.
fn utf16_escape(rest: &[u8]) -> Result<&[u8], JsonError> {
    let (unit, after) = utf16_unit(rest).ok_or(JsonError::Syntax)?;
    match unit {
        0xD800..0xDC00 => match after {
            [b'\\', b'u', low @ ..] => match utf16_unit(low) {
                Some((0xDC00..0xE000, after)) => Ok(after),
                _ => Err(JsonError::Utf16),
            },
            _ => Err(JsonError::Utf16),
        },
        0xDC00..0xE000 => Err(JsonError::Utf16),
        _ => Ok(after),
    }
}

fn utf16_unit(rest: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, after) = rest.split_at_checked(4)?;
    let mut unit = 0;
    for digit in digits {
        unit = unit * 16 + char::from(*digit).to_digit(16)?;
    }
    Some((unit, after))
}

fn without_digits(text: &[u8]) -> &[u8] {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    text.get(digits..).unwrap_or_default()
}

/// The length of the first character of a text, if its bytes are valid UTF-8.
fn utf8_character(text: &[u8]) -> Option<usize> {
    let length = match text.first()? {
        0..0x80 => return Some(1),
        0xC2..0xE0 => 2,
        0xE0..0xF0 => 3,
        0xF0..0xF5 => 4,
        _ => return None,
    };
    std::str::from_utf8(text.get(..length)?).is_ok().then_some(length)
}

/// The members of an object that matter; the others are skipped.
struct Members {
    refresh_token: Member,
    has_special_name: bool,
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut refresh_token = Member::Absent;
                let mut has_special_name = false;
                while let Some(name) = map.next_key::<String>()? {
                    if name == "refresh_token" {
                        refresh_token = match map.next_value()? {
                            Value::Null => Member::Null,
                            Value::String(text) => Member::Text(text),
                            _ => Member::Other,
                        };
                    } else {
                        has_special_name |= name.starts_with('_') || name == "rest_route";
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Members { refresh_token, has_special_name })
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests;
