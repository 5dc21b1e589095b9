//! The site's options as WordPress stores them: PHP-serialized, loosely typed.
//!
//! An option that cannot be read, or a setting that cannot be interpreted as the plugin would, is
//! an error, and the caller then forwards; a default in its place could contradict the plugin. This
//! module builds no PHP objects and follows no references.

use phpserz::{PhpParser, PhpToken};

/// The plugin's settings (option `jwt_auth_pro_settings`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Lifetime of an access token, in seconds; not zero.
    pub jwt_expiration: u64,
    /// Lifetime of a refresh token, in seconds; not zero.
    pub refresh_token_expiration: u64,
    /// As stored, `HS256` for instance; the sidecar may not support it.
    pub signing_algorithm: String,
    /// Whether the plugin sends its own CORS headers. The constant `JWT_AUTH_CORS_ENABLE` overrides
    /// it.
    pub enable_cors: bool,
    /// `None` if the site has switched it off.
    pub rate_limit: Option<RateLimit>,
    /// Whether analytics rows contain shortened addresses.
    pub anonymize_ip: bool,
    /// Days after which the plugin deletes its analytics; `None` if the value is invalid, since
    /// only the cleanup uses it.
    pub analytics_retention_days: Option<u32>,
}

/// How many requests a client address may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests in one window; not zero.
    pub max_requests: u32,
    /// Length of the window, in minutes; not zero.
    pub window_minutes: u32,
}

/// Why an option cannot be used. The fault is in the database's contents; the value is never shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// Not the output of PHP's `serialize()`, or more than is read here.
    #[error("the option {option} is not a PHP-serialized array: {problem}")]
    Unreadable { option: &'static str, problem: String },
    /// An invalid setting in a readable option.
    #[error("the option {option} has a {setting} that is {problem}")]
    Setting {
        option: &'static str,
        /// The setting's name, with the name of the array that contains it.
        setting: String,
        problem: &'static str,
    },
}

const SETTINGS: &str = "jwt_auth_pro_settings";

/// Reads the option `jwt_auth_pro_settings`; `None` if the site has no such option, which means the
/// plugin's defaults, as a missing setting does.
///
/// # Errors
/// The option is not a serialized array, or a setting has a value that cannot be interpreted.
pub fn settings(option_value: Option<&[u8]>) -> Result<Settings, OptionError> {
    let sections = option_value.map_or(Ok(Vec::new()), |value| read_array(SETTINGS, value))?;
    let tokens = Section::of(&sections, "token_settings")?;
    let rate_limit = Section::of(&sections, "rate_limit_settings")?;
    let data = Section::of(&sections, "data_management")?;
    Ok(Settings {
        jwt_expiration: tokens.number("jwt_expiration", 604_800, MAX_LIFE_TIME)?,
        refresh_token_expiration: tokens.number("refresh_token_expiration", 2_592_000, MAX_LIFE_TIME)?,
        signing_algorithm: tokens.text("signing_algorithm", "HS256")?,
        enable_cors: tokens.switch("enable_cors", false)?,
        rate_limit: if rate_limit.switch("enabled", true)? {
            Some(RateLimit {
                max_requests: rate_limit.count("max_requests", 60)?,
                window_minutes: rate_limit.count("window_minutes", 1)?,
            })
        } else {
            None
        },
        anonymize_ip: data.switch("anonymize_ip", false)?,
        analytics_retention_days: data.count("analytics_retention_days", 90).ok(),
    })
}

/// The plugin's entry, `folder/jwt-auth-pro.php`, if it is active: on the site (option
/// `active_plugins`, a list) or on the whole network (`active_sitewide_plugins` of a multisite
/// network, whose keys count).
///
/// # Errors
/// One of the options exists and is not a serialized array.
pub fn plugin_active(
    active_plugins: Option<&[u8]>,
    active_sitewide: Option<&[u8]>,
) -> Result<Option<String>, OptionError> {
    let found = entries(active_plugins, active_sitewide)?.into_iter().find(|entry| names_the_plugin(entry));
    Ok(found.map(|entry| String::from_utf8_lossy(&entry).into_owned()))
}

/// All active plugins, as `folder/file.php`: those of the network first.
///
/// # Errors
/// As for [`plugin_active`].
pub fn active_plugins(
    active_plugins: Option<&[u8]>,
    active_sitewide: Option<&[u8]>,
) -> Result<Vec<String>, OptionError> {
    let entries = entries(active_plugins, active_sitewide)?;
    Ok(entries.into_iter().map(|entry| String::from_utf8_lossy(&entry).into_owned()).collect())
}

fn entries(active_plugins: Option<&[u8]>, active_sitewide: Option<&[u8]>) -> Result<Vec<Vec<u8>>, OptionError> {
    let mut entries = active(active_sitewide, "active_sitewide_plugins", |(key, _)| match key {
        Key::Text(text) => Some(*text),
        Key::Number(_) => None,
    })?;
    entries.extend(active(active_plugins, "active_plugins", |(_, value)| match value {
        Value::Text(text) => Some(*text),
        _ => None,
    })?);
    Ok(entries)
}

fn active<'a>(
    option_value: Option<&'a [u8]>,
    option: &'static str,
    entry: fn(&(Key<'a>, Value<'a>)) -> Option<&'a [u8]>,
) -> Result<Vec<Vec<u8>>, OptionError> {
    // WordPress casts the empty string to an array without plugins.
    let Some(value) = option_value.filter(|value| !value.is_empty()) else {
        return Ok(Vec::new());
    };
    Ok(read_array(option, value)?.iter().filter_map(entry).map(<[u8]>::to_vec).collect())
}

// SECURITY: the directory is accessed later (country database). WordPress refuses entries that
// leave the plugins directory (`validate_file`), so such an entry is not an active plugin.
fn names_the_plugin(entry: &[u8]) -> bool {
    let Some(folder) = std::str::from_utf8(entry).ok().and_then(|entry| entry.strip_suffix("/jwt-auth-pro.php")) else {
        return false;
    };
    !folder.is_empty()
        && !folder.starts_with('/')
        && !folder.split('/').any(|part| part == "..")
        && !folder.contains(['\\', '\0', ':'])
}

/// A hundred years: longer ones do not fit the dates of MySQL and of JWT libraries.
const MAX_LIFE_TIME: u64 = 100 * 366 * 86_400;

/// One array of settings within the option.
struct Section<'a> {
    name: &'static str,
    entries: &'a [(Key<'a>, Value<'a>)],
}

impl<'a> Section<'a> {
    fn of(sections: &'a [(Key<'a>, Value<'a>)], name: &'static str) -> Result<Self, OptionError> {
        match find(sections, name) {
            None => Ok(Self { name, entries: &[] }),
            Some(Value::Array(entries)) => Ok(Self { name, entries }),
            Some(_) => {
                Err(OptionError::Setting { option: SETTINGS, setting: name.to_owned(), problem: "not an array" })
            }
        }
    }

    /// An integer or a string of digits, from 1 to `max`.
    fn number(&self, name: &str, default: u64, max: u64) -> Result<u64, OptionError> {
        let number = match find(self.entries, name) {
            None => return Ok(default),
            Some(Value::Integer(number)) => u64::try_from(*number).map_err(|_| self.fault(name, "negative"))?,
            Some(Value::Text(digits)) if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
                std::str::from_utf8(digits)
                    .ok()
                    .and_then(|digits| digits.parse().ok())
                    .ok_or_else(|| self.fault(name, "too large"))?
            }
            Some(_) => return Err(self.fault(name, "no whole number")),
        };
        match number {
            0 => Err(self.fault(name, "zero")),
            _ if number > max => Err(self.fault(name, "too large")),
            _ => Ok(number),
        }
    }

    fn count(&self, name: &str, default: u32) -> Result<u32, OptionError> {
        let number = self.number(name, default.into(), u32::MAX.into())?;
        u32::try_from(number).map_err(|_| self.fault(name, "too large"))
    }

    /// The values that a checkbox stores: `b:1`, `i:1`, `s:1:"1"` and their opposites, including
    /// `s:0:""`.
    fn switch(&self, name: &str, default: bool) -> Result<bool, OptionError> {
        match find(self.entries, name) {
            None => Ok(default),
            Some(Value::Boolean(on)) => Ok(*on),
            Some(Value::Integer(1) | Value::Text(b"1")) => Ok(true),
            Some(Value::Integer(0) | Value::Text(b"0" | b"")) => Ok(false),
            Some(_) => Err(self.fault(name, "neither true nor false")),
        }
    }

    fn text(&self, name: &str, default: &str) -> Result<String, OptionError> {
        match find(self.entries, name) {
            None => Ok(default.to_owned()),
            Some(Value::Text(text)) => {
                std::str::from_utf8(text).map(str::to_owned).map_err(|_| self.fault(name, "not UTF-8"))
            }
            Some(_) => Err(self.fault(name, "no string")),
        }
    }

    fn fault(&self, name: &str, problem: &'static str) -> OptionError {
        OptionError::Setting { option: SETTINGS, setting: format!("{}.{name}", self.name), problem }
    }
}

/// The last of several, as in PHP.
fn find<'a>(entries: &'a [(Key<'a>, Value<'a>)], name: &str) -> Option<&'a Value<'a>> {
    entries.iter().rev().find(|(key, _)| *key == Key::Text(name.as_bytes())).map(|(_, value)| value)
}

#[derive(PartialEq)]
enum Key<'a> {
    Number(i64),
    Text(&'a [u8]),
}

enum Value<'a> {
    Boolean(bool),
    Integer(i64),
    Text(&'a [u8]),
    Array(Vec<(Key<'a>, Value<'a>)>),
    /// Null, a float, an object or a reference: no setting has such a value.
    Other,
}

/// WordPress trims an option before it unserializes it (`maybe_unserialize`).
fn read_array<'a>(option: &'static str, value: &'a [u8]) -> Result<Vec<(Key<'a>, Value<'a>)>, OptionError> {
    let unreadable = |problem: String| OptionError::Unreadable { option, problem };
    let mut parser = PhpParser::new(value.trim_ascii());
    match read_value(&mut parser, 0) {
        Ok(Value::Array(entries)) => match parser.next_token() {
            Ok(None) => Ok(entries),
            _ => Err(unreadable("something follows it".to_owned())),
        },
        Ok(_) => Err(unreadable("it is a single value".to_owned())),
        Err(problem) => Err(unreadable(problem)),
    }
}

// SECURITY: without it, anyone who can write options could exhaust the stack by nesting.
const MAX_DEPTH: usize = 64;

fn read_value<'a>(parser: &mut PhpParser<'a>, depth: usize) -> Result<Value<'a>, String> {
    let token = parser.read_token().map_err(|error| error.to_string())?;
    match token {
        PhpToken::Boolean(on) => Ok(Value::Boolean(on)),
        PhpToken::Integer(number) => Ok(Value::Integer(number)),
        PhpToken::String(text) => Ok(Value::Text(text.as_bytes())),
        PhpToken::Array { elements } => Ok(Value::Array(read_entries(parser, elements, depth)?)),
        PhpToken::Object { properties, .. } => read_entries(parser, properties, depth).map(|_| Value::Other),
        PhpToken::Null | PhpToken::Float(_) | PhpToken::CustomObject { .. } | PhpToken::Reference { .. } => {
            Ok(Value::Other)
        }
        PhpToken::End => Err("an array is closed that was not opened".to_owned()),
    }
}

/// The pairs of an array or object. `count` is only trusted once as many pairs have been read.
fn read_entries<'a>(parser: &mut PhpParser<'a>, count: u32, depth: usize) -> Result<Vec<(Key<'a>, Value<'a>)>, String> {
    if depth >= MAX_DEPTH {
        return Err(format!("arrays are nested deeper than {MAX_DEPTH}"));
    }
    let mut entries = Vec::new();
    for _ in 0..count {
        let key = match parser.read_token().map_err(|error| error.to_string())? {
            PhpToken::Integer(number) => Key::Number(number),
            PhpToken::String(text) => Key::Text(text.as_bytes()),
            _ => return Err("an array has a key that is neither a number nor a string".to_owned()),
        };
        entries.push((key, read_value(parser, depth + 1)?));
    }
    match parser.read_token() {
        Ok(PhpToken::End) => Ok(entries),
        _ => Err("an array has more entries than it says".to_owned()),
    }
}

#[cfg(test)]
mod tests;
