//! The types of keys, and how each is read from a TOML value or from the text of a flag or
//! variable.
//!
//! Both result in the same [`Value`], so that a rule (a range, a set of names) is written once and
//! applies to every source. The meaning of a text (an address, a URL) is determined later, when the
//! checked configuration is assembled.

use std::time::Duration;

use serde::Deserialize as _;
use toml::Spanned;
use toml::de::{DeValue, ValueDeserializer};

use super::{Secret, fault::nearest, names::Names, value};

/// The type of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text; the word is its placeholder in `--help` (`URL`).
    Text(&'static str),
    /// Text that is never shown, and is refused on the command line.
    Secret,
    /// The path of a file.
    Path,
    /// `true` or `false`.
    Boolean,
    /// An integer from `min` to `max`, in `unit`s.
    Integer {
        /// The least value.
        min: u64,
        /// The greatest value.
        max: u64,
        /// What is counted, in the plural.
        unit: &'static str,
    },
    /// A duration with its unit, at most 24 hours; zero only where it has a meaning.
    Duration {
        /// Whether `"0s"` is accepted.
        zero: bool,
    },
    /// One of these names.
    OneOf(&'static [&'static str]),
    /// A list of texts, separated by commas in flags and variables; the word is the placeholder of
    /// one in `--help`.
    List(&'static str),
    /// A lifetime, whose largest unit is a day.
    Lifetime,
    /// A list of tables, each with these keys; in flags and variables as TOML.
    Tables(&'static str),
}

/// A value of the right type. No `Debug`: it may be a secret.
#[derive(Clone)]
pub(super) enum Value {
    Text(String),
    Secret(Secret),
    Boolean(bool),
    Integer(u64),
    Duration(Duration),
    List(Vec<String>),
    Tables(toml::Value),
}

/// The path of a file as written, which may also name a credential.
pub(super) struct FileName(pub String);

/// A list of tables as written.
pub(super) struct Tables(pub toml::Value);

impl Default for Tables {
    fn default() -> Self {
        Tables(toml::Value::Array(Vec::new()))
    }
}

/// The types that keys return their values as.
pub(super) trait FromValue: Sized {
    /// `None` for a value of another type.
    fn from_value(value: &Value) -> Option<Self>;
}

macro_rules! from_value {
    ($($type:ty: $variant:ident($value:ident) => $is:expr,)+) => {
        $(impl FromValue for $type {
            fn from_value(value: &Value) -> Option<Self> {
                if let Value::$variant($value) = value { Some($is) } else { None }
            }
        })+
    };
}

from_value! {
    String: Text(text) => text.clone(),
    FileName: Text(text) => FileName(text.clone()),
    Secret: Secret(secret) => secret.clone(),
    bool: Boolean(is_so) => *is_so,
    usize: Integer(number) => usize::try_from(*number).unwrap_or(usize::MAX),
    Duration: Duration(duration) => *duration,
    Vec<String>: List(texts) => texts.clone(),
    Tables: Tables(tables) => Tables(tables.clone()),
}

impl<T: Names> FromValue for T {
    fn from_value(value: &Value) -> Option<Self> {
        String::from_value(value)?.parse().ok()
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: &Value) -> Option<Self> {
        T::from_value(value).map(Some)
    }
}

impl Kind {
    /// Whether values of this type must never be shown.
    pub fn is_secret(self) -> bool {
        self == Self::Secret
    }

    /// What is accepted, as text that follows "accepted: ".
    pub fn accepts(self) -> String {
        match self {
            Self::Text(_) | Self::Secret => "a text".into(),
            Self::Path => "the path of a file".into(),
            Self::Boolean => "true or false".into(),
            Self::Integer { min, max, unit } => format!("a whole number of {unit} from {min} to {max}"),
            Self::Duration { zero: true } => "a duration from \"0s\" to \"24h\", with ms, s, m or h".into(),
            Self::Duration { zero: false } => "a duration from \"1ms\" to \"24h\", with ms, s, m or h".into(),
            Self::OneOf(names) => names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", "),
            Self::List(_) => "a list of texts, such as [\"a\", \"b\"]".into(),
            Self::Lifetime => "a duration from \"1s\" to \"3650d\", with s, m, h or d".into(),
            Self::Tables(form) => format!("a list of tables, each as {form}"),
        }
    }

    /// The placeholder of a value in `--help`.
    pub fn placeholder(self) -> &'static str {
        match self {
            Self::Text(word) | Self::List(word) => word,
            Self::Secret => "SECRET",
            Self::Path => "FILE",
            Self::Boolean => "true|false",
            Self::Integer { .. } => "NUMBER",
            Self::Duration { .. } | Self::Lifetime => "DURATION",
            Self::Tables(_) => "TABLES",
            Self::OneOf(_) => "NAME",
        }
    }

    /// The text of a flag, a variable or a default as it would be written in the file.
    pub fn toml(self, text: &str) -> String {
        match self {
            Self::Boolean | Self::Integer { .. } if self.read_text(text).is_ok() => text.to_owned(),
            Self::List(_) => format!("[{}]", items(text).map(quoted).collect::<Vec<_>>().join(", ")),
            Self::Tables(_) if self.read_text(text).is_ok() => text.to_owned(),
            _ => quoted(text),
        }
    }

    /// Reads the text of a flag or a variable.
    pub(super) fn read_text(self, text: &str) -> Result<Value, String> {
        match self {
            Self::Boolean => match text {
                "true" => Ok(Value::Boolean(true)),
                "false" => Ok(Value::Boolean(false)),
                _ => Err(format!("accepted: {}", self.accepts())),
            },
            Self::Integer { .. } => self.integer(text.parse().ok()),
            Self::List(_) => Ok(Value::List(items(text).map(str::to_owned).collect())),
            Self::Tables(_) => match DeValue::parse(text) {
                Ok(value) => self.read_toml(value.get_ref()),
                Err(_) => Err(format!("is not TOML; accepted: {}", self.accepts())),
            },
            _ => self.text(text),
        }
    }

    /// Reads a value of the file.
    pub(super) fn read_toml(self, value: &DeValue<'_>) -> Result<Value, String> {
        match (self, value) {
            (Self::Boolean, DeValue::Boolean(value)) => Ok(Value::Boolean(*value)),
            (Self::Integer { .. }, DeValue::Integer(value)) => {
                self.integer(u64::from_str_radix(value.as_str(), value.radix()).ok())
            }
            (Self::List(_), DeValue::Array(values)) => {
                let texts = values.iter().map(|value| value.get_ref().as_str().map(str::to_owned));
                match texts.collect::<Option<Vec<_>>>() {
                    Some(texts) => Ok(Value::List(texts)),
                    None => Err(format!("one of its entries is not a text; accepted: {}", self.accepts())),
                }
            }
            (Self::Tables(_), DeValue::Array(values)) if values.iter().all(|value| value.get_ref().is_table()) => {
                let tables = DeValue::Array(values.clone());
                let read = toml::Value::deserialize(ValueDeserializer::from(Spanned::new(0..0, tables)));
                read.map(Value::Tables).map_err(|error| error.message().to_owned())
            }
            (Self::Tables(_), _) => Err(self.wrong_type(value)),
            (Self::Boolean | Self::Integer { .. } | Self::List(_), _) | (_, DeValue::Array(_) | DeValue::Table(_)) => {
                Err(self.wrong_type(value))
            }
            (_, DeValue::String(text)) => self.text(text),
            _ => Err(self.wrong_type(value)),
        }
    }

    fn text(self, text: &str) -> Result<Value, String> {
        if text.is_empty() {
            return Err(format!("is empty; leave it out, or give a value; accepted: {}", self.accepts()));
        }
        match self {
            Self::Secret => Ok(Value::Secret(Secret::new(text))),
            Self::Duration { zero } => match value::duration(text)? {
                Duration::ZERO if !zero => Err(format!("zero would mean no time at all; accepted: {}", self.accepts())),
                duration => Ok(Value::Duration(duration)),
            },
            Self::Lifetime => value::lifetime(text).map(Value::Duration),
            Self::OneOf(names) if !names.contains(&text) => Err(match nearest(text, names.iter().copied()) {
                Some(name) => format!("perhaps \"{name}\"; accepted: {}", self.accepts()),
                None => format!("accepted: {}", self.accepts()),
            }),
            _ => Ok(Value::Text(text.to_owned())),
        }
    }

    fn integer(self, number: Option<u64>) -> Result<Value, String> {
        match (self, number) {
            (Self::Integer { min, max, .. }, Some(number)) if (min..=max).contains(&number) => {
                Ok(Value::Integer(number))
            }
            _ => Err(format!("accepted: {}", self.accepts())),
        }
    }

    fn wrong_type(self, value: &DeValue<'_>) -> String {
        let found = match value {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        let hint = match (self, value) {
            (Self::Duration { .. } | Self::Lifetime, DeValue::Integer(number)) => {
                format!(" (\"{}s\"?)", number.as_str())
            }
            (Self::List(_), DeValue::String(_)) => " (put it in brackets)".into(),
            (Self::Boolean | Self::Integer { .. }, DeValue::String(_)) => " (without quotes)".into(),
            _ => String::new(),
        };
        format!("is {found}; accepted: {}{hint}", self.accepts())
    }
}

/// A text in double quotes, always on one line.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.escape_debug().to_string().replace("\\'", "'"))
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::keys::{Fallback, KEYS, SECTIONS, find};
    use super::*;

    #[test]
    fn the_table_agrees_with_itself() {
        for (i, key) in KEYS.iter().enumerate() {
            assert_eq!(find(key.name), Some(key), "{} is there twice", key.name);
            assert!(SECTIONS.iter().any(|(section, _)| *section == key.section()), "{} has no section", key.name);
            assert!(key.about.ends_with('.') && (key.change.is_empty() || key.change.ends_with('.')), "{}", key.name);
            for other in KEYS.iter().take(i) {
                assert!(
                    key.flag() != other.flag() && key.variable() != other.variable(),
                    "{} and {}",
                    key.name,
                    other.name
                );
            }
            let (Fallback::Is(text) | Fallback::Required { example: text } | Fallback::Unset { example: text, .. }) =
                key.default;
            if let Err(problem) = key.kind.read_text(text) {
                panic!("{} = {text}: {problem}", key.name);
            }
        }
    }

    #[test]
    fn a_text_means_the_same_as_the_toml_that_is_made_of_it() {
        for key in KEYS {
            let (Fallback::Is(text) | Fallback::Required { example: text } | Fallback::Unset { example: text, .. }) =
                key.default;
            let toml = key.kind.toml(text);
            let value = DeValue::parse(&toml).unwrap();
            assert!(
                same(&key.kind.read_text(text).unwrap(), &key.kind.read_toml(value.get_ref()).unwrap()),
                "{}",
                key.name
            );
        }
    }

    #[test]
    fn ranges_and_names_hold() {
        let workers = Kind::Integer { min: 1, max: 8, unit: "threads" };
        assert!(workers.read_text("8").is_ok());
        for text in ["0", "9", "-1", "1.0", "", " 1", "99999999999999999999"] {
            assert_eq!(
                workers.read_text(text).err().as_deref(),
                Some("accepted: a whole number of threads from 1 to 8")
            );
        }
        assert!(Kind::Duration { zero: true }.read_text("0s").is_ok());
        assert!(
            Kind::Duration { zero: false }.read_text("0s").err().unwrap().starts_with("zero would mean no time at all")
        );
        assert!(Kind::Boolean.read_text("yes").is_err());
        let names = Kind::OneOf(&["native", "forward"]);
        assert_eq!(names.read_text("nativ").err().unwrap(), "perhaps \"native\"; accepted: \"native\", \"forward\"");
        assert!(Kind::Secret.read_text("").err().unwrap().starts_with("is empty"));
        assert!(matches!(Kind::List("X").read_text(" a, ,b ").ok(), Some(Value::List(items)) if items == ["a", "b"]));
    }

    fn same(a: &Value, b: &Value) -> bool {
        match (a, b) {
            (Value::Text(a), Value::Text(b)) => a == b,
            (Value::Secret(a), Value::Secret(b)) => a.expose() == b.expose(),
            (Value::Boolean(a), Value::Boolean(b)) => a == b,
            (Value::Integer(a), Value::Integer(b)) => a == b,
            (Value::Duration(a), Value::Duration(b)) => a == b,
            (Value::List(a), Value::List(b)) => a == b,
            (Value::Tables(a), Value::Tables(b)) => a == b,
            _ => false,
        }
    }
}
