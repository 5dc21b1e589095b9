//! Values as PHP has them, as far as we know them.

use std::fmt;

/// A value that a constant can have. Floats and arrays are never known here: nothing we look for is one.
#[derive(Clone, PartialEq, Eq)]
pub enum Scalar {
    /// Bytes, mostly UTF-8.
    Text(Vec<u8>),
    /// A whole number.
    Integer(i64),
    /// True or false.
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

// SECURITY: these are passwords and keys as often as not.
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

/// Why a value is not known. It holds names and lines, no values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    pub(super) place: Place,
    pub(super) why: String,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.place.line)?;
        if let Some(file) = &self.place.file {
            write!(f, " of {file}")?;
        }
        write!(f, " {}", self.why)
    }
}

/// Where something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// From 1; 0 for what is there before the first line.
    pub(super) line: usize,
    /// The included file's name; `None` for the configuration file itself.
    pub(super) file: Option<String>,
}

/// A value in the walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Known(Scalar),
    /// What an environment variable that we do not have is in PHP (false or null), and what
    /// follows from that: good for choosing a default, and for nothing else.
    Assumed(Scalar, Doubt),
    Unknown(Doubt),
}

impl Value {
    pub(super) fn boolean(boolean: bool) -> Self {
        Self::Known(Scalar::Boolean(boolean))
    }

    pub(super) fn known(&self) -> Option<&Scalar> {
        match self {
            Self::Known(scalar) => Some(scalar),
            Self::Assumed(..) | Self::Unknown(_) => None,
        }
    }

    /// The text of a known string.
    pub(super) fn known_text(&self) -> Option<&str> {
        match self {
            Self::Known(Scalar::Text(text)) => std::str::from_utf8(text).ok(),
            _ => None,
        }
    }

    /// The value, if it was known or assumed, as `apply` makes it.
    pub(super) fn map(self, apply: impl FnOnce(Scalar) -> Scalar) -> Self {
        match self {
            Self::Known(scalar) => Self::Known(apply(scalar)),
            Self::Assumed(scalar, doubt) => Self::Assumed(apply(scalar), doubt),
            Self::Unknown(doubt) => Self::Unknown(doubt),
        }
    }

    /// What is left once the value is kept: an assumption is no value.
    pub(super) fn settled(self) -> Self {
        match self {
            Self::Assumed(_, doubt) => Self::Unknown(doubt),
            other => other,
        }
    }
}
