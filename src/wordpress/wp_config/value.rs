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
    pub(super) place: SourcePos,
    pub(super) why: String,
}

/// Why a definition counts that PHP comes to after WordPress is loaded.
pub(super) const LATE: &str = "comes after wp-settings.php and may define it: move it before that";

/// The same of code that is not followed.
pub(super) const UNSEEN: &str = "comes after wp-settings.php and may define it";

impl Doubt {
    /// Whether it stands where an import does not come to.
    pub fn is_late(&self) -> bool {
        self.why == LATE
    }

    /// Of what stands in no line.
    pub fn elsewhere(why: impl Into<String>) -> Self {
        Self { place: SourcePos { line: 0, file: None }, why: why.into() }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place.line {
            0 => f.write_str(&self.why),
            _ => write!(f, "{} {}", self.place, self.why),
        }
    }
}

/// Where something stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SourcePos {
    /// From 1; 0 for what is there before the first line.
    pub(super) line: usize,
    /// The included file's name; `None` for the configuration file itself.
    pub(super) file: Option<String>,
}

impl fmt::Display for SourcePos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        match &self.file {
            Some(file) => write!(f, " of {file}"),
            None => Ok(()),
        }
    }
}

/// A value in the walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Known(Scalar),
    /// An environment variable that is not here, by its name: good for choosing the default that the file gives it, and for
    /// nothing else. The scalar is what PHP has where it is not set.
    Unset(Scalar, String, Doubt),
    /// What `$_ENV` holds if PHP fills it at all (`variables_order`; Debian's php.ini does not). A constant can be that, but
    /// nothing is decided by it, or made of it.
    InEnv(Scalar, Doubt),
    Unknown(Doubt),
}

impl Value {
    pub(super) fn boolean(boolean: bool) -> Self {
        Self::Known(Scalar::Boolean(boolean))
    }

    /// What can be decided by it, or why nothing can.
    pub(super) fn known(&self) -> Result<&Scalar, &Doubt> {
        match self {
            Self::Known(scalar) => Ok(scalar),
            Self::Unset(_, _, doubt) | Self::InEnv(_, doubt) | Self::Unknown(doubt) => Err(doubt),
        }
    }

    /// The text of a known string.
    pub(super) fn known_text(&self) -> Option<&str> {
        match self {
            Self::Known(Scalar::Text(text)) => std::str::from_utf8(text).ok(),
            _ => None,
        }
    }

    /// The answer that `apply` gives about it, if it is known.
    pub(super) fn map(&self, apply: impl FnOnce(&Scalar) -> Scalar) -> Self {
        match self.known() {
            Ok(scalar) => Self::Known(apply(scalar)),
            Err(doubt) => Self::Unknown(doubt.clone()),
        }
    }
}
