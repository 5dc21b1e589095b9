//! Values as in PHP, as far as they are known.

use std::fmt;

use crate::printable::is_harmful;

/// A value that a constant can have. Floats and arrays are never known here: no relevant constant
/// has one.
#[derive(Clone, PartialEq, Eq)]
pub enum Scalar {
    /// Bytes, mostly UTF-8.
    Text(Vec<u8>),
    /// An integer.
    Integer(i64),
    /// A boolean.
    Boolean(bool),
    /// Null.
    Null,
}

impl Scalar {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into().into_bytes())
    }

    /// PHP's `(bool)`.
    pub fn is_true(&self) -> bool {
        match self {
            Self::Text(text) => !matches!(text.as_slice(), b"" | b"0"),
            Self::Integer(number) => *number != 0,
            Self::Boolean(boolean) => *boolean,
            Self::Null => false,
        }
    }

    /// PHP's `(string)`.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.clone(),
            Self::Integer(number) => number.to_string().into_bytes(),
            Self::Boolean(true) => b"1".to_vec(),
            Self::Boolean(false) | Self::Null => Vec::new(),
        }
    }
}

// SECURITY: these are often passwords and keys.
impl fmt::Debug for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text(_) => "Text(…)",
            Self::Integer(_) => "Integer(…)",
            Self::Boolean(_) => "Boolean(…)",
            Self::Null => "Null",
        })
    }
}

/// Why a value is unknown. Contains names and lines, but no values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// Empty if there is no line.
    place: String,
    pub(super) why: String,
}

impl Doubt {
    pub(super) fn at(place: &str, why: &str) -> Self {
        // SECURITY: names come from the file, and become part of a one-line error.
        let printable = |text: &str| text.chars().filter(|character| !is_harmful(*character)).take(400).collect();
        Self { place: printable(place), why: printable(why) }
    }

    /// A doubt without a line.
    pub fn elsewhere(why: &str) -> Self {
        Self::at("", why)
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let space = if self.place.is_empty() { "" } else { " " };
        write!(f, "{}{space}{}", self.place, self.why)
    }
}

/// A value during evaluation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Known(Scalar),
    /// A missing environment variable, by its name: it only selects the file's own default. The
    /// scalar is PHP's value if it is not set.
    Unset(Scalar, String, Doubt),
    /// The value of `$_ENV` if PHP fills it at all (`variables_order`; Debian's php.ini does not).
    /// A constant can have this value, but no condition or other value can depend on it.
    InEnv(Scalar, Doubt),
    Unknown(Doubt),
}

impl Value {
    pub(super) fn boolean(boolean: bool) -> Self {
        Self::Known(Scalar::Boolean(boolean))
    }

    /// The value for decisions, or the reason why it is unknown.
    pub(super) fn known(&self) -> Result<&Scalar, &Doubt> {
        match self {
            Self::Known(scalar) => Ok(scalar),
            Self::Unset(_, _, doubt) | Self::InEnv(_, doubt) | Self::Unknown(doubt) => Err(doubt),
        }
    }

    /// The text, if it is a known string.
    pub(super) fn known_text(&self) -> Option<&str> {
        match self {
            Self::Known(Scalar::Text(text)) => str::from_utf8(text).ok(),
            _ => None,
        }
    }

    /// The result of `apply` to the value, if it is known.
    pub(super) fn map(&self, apply: impl FnOnce(&Scalar) -> Scalar) -> Self {
        self.known().map_or_else(|doubt| Self::Unknown(doubt.clone()), |scalar| Self::Known(apply(scalar)))
    }
}
