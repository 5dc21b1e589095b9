//! Where a declared value comes from: its form in TOML, and its value as in PHP's JSON.

use std::fmt;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::person::{Person, Read};
use super::{Uncertain, gravatar, roles};

/// A claim or a member of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// From the outermost name to the innermost.
    pub path: Vec<String>,
    pub value: Source,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The same for all users. Numbers are integers.
    Constant(Value),
    /// A column of the users' table.
    Column(Column, Cast),
    /// The user's roles on this site.
    Roles {
        form: RolesForm,
        /// The separator for [`RolesForm::Joined`].
        separator: String,
    },
    /// `get_user_meta( $user->ID, $key, true )`.
    Meta { key: String, cast: Cast },
    /// `get_avatar_url( $user->ID )`.
    Gravatar(Gravatar),
}

/// A column, by its name in WordPress's own objects, without the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Column {
    Id,
    Login,
    Email,
    Nicename,
    DisplayName,
    Url,
    Registered,
}

/// The type that PHP casts a text to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cast {
    String,
    Integer,
    Boolean,
}

/// The form of roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolesForm {
    /// `$user->roles`
    List,
    /// `reset( $user->roles )`
    First,
    /// `implode( ',', $user->roles )`
    Joined,
}

/// An avatar's URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gravatar {
    pub hash: GravatarHash,
    /// In pixels.
    pub size: u16,
    /// The option `avatar_default`, as in the URL.
    pub default: String,
    /// The option `avatar_rating`, as in the URL.
    pub rating: String,
}

/// The hash that identifies an avatar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GravatarHash {
    /// WordPress 6.8 and later.
    Sha256,
    /// WordPress before 6.8.
    Md5,
}

impl Column {
    pub const ALL: [Column; 7] = [
        Column::Id,
        Column::Login,
        Column::Email,
        Column::Nicename,
        Column::DisplayName,
        Column::Url,
        Column::Registered,
    ];

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Column::Id => "id",
            Column::Login => "login",
            Column::Email => "email",
            Column::Nicename => "nicename",
            Column::DisplayName => "display_name",
            Column::Url => "url",
            Column::Registered => "registered",
        }
    }

    /// The type without a declared cast: `$user->ID` is a number, the others are texts.
    pub fn usual_cast(self) -> Cast {
        if self == Column::Id { Cast::Integer } else { Cast::String }
    }
}

impl Source {
    /// What has to be read for it besides the data that every refresh reads.
    pub fn read(&self) -> Option<Read> {
        match self {
            Source::Column(Column::Login, _) => Some(Read::Login),
            Source::Column(Column::Url, _) => Some(Read::Url),
            Source::Column(Column::Registered, _) => Some(Read::Registered),
            Source::Roles { .. } => Some(Read::Capabilities),
            Source::Meta { key, .. } => Some(Read::Meta(key.clone())),
            Source::Constant(_) | Source::Column(..) | Source::Gravatar(_) => None,
        }
    }

    /// The value for `person`.
    ///
    /// # Errors
    /// It is uncertain.
    pub fn value(&self, person: &Person<'_>) -> Result<Value, Uncertain> {
        let uncertain = |problem| Uncertain { of: self.to_string(), problem };
        match self {
            Source::Constant(value) => Ok(value.clone()),
            Source::Column(Column::Id, Cast::Integer) => Ok(person.id.into()),
            Source::Column(column, cast) => {
                let text = person.column(*column).map_err(uncertain)?;
                cast.of(&text).ok_or_else(|| uncertain("PHP's cast of the text is not plain"))
            }
            Source::Roles { form, separator } => {
                let capabilities = person.text(&Read::Capabilities).map_err(uncertain)?;
                let known = person.roles.ok_or_else(|| uncertain("the site's roles cannot be read"))?;
                let roles = roles::of(capabilities.unwrap_or_default(), known).map_err(uncertain)?;
                match (form, roles.first()) {
                    (RolesForm::List, _) => Ok(roles.into_iter().map(Value::from).collect()),
                    (RolesForm::Joined, _) => Ok(roles.join(separator).into()),
                    (RolesForm::First, Some(first)) => Ok(first.as_str().into()),
                    // `reset()` returns false, `[0] ?? ''` a text.
                    (RolesForm::First, None) => Err(uncertain("the user has no role")),
                }
            }
            Source::Meta { key, cast } => {
                let text = person.text(&Read::Meta(key.clone())).map_err(uncertain)?.unwrap_or_default();
                if is_serialized(text) {
                    return Err(uncertain("it is serialized"));
                }
                cast.of(text).ok_or_else(|| uncertain("PHP's cast of the text is not plain"))
            }
            Source::Gravatar(avatar) => match person.email.trim() {
                "" => Err(uncertain("the user has no email address")),
                email => Ok(gravatar::url(avatar, email).into()),
            },
        }
    }
}

impl Cast {
    /// `None` if the result of PHP's cast is not obvious.
    fn of(self, text: &str) -> Option<Value> {
        match self {
            Cast::String => Some(text.into()),
            Cast::Integer if text.is_empty() => Some(0.into()),
            Cast::Integer => {
                let digits = text.strip_prefix('-').unwrap_or(text);
                let is_plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
                text.parse::<i64>().ok().filter(|_| is_plain).map(Value::from)
            }
            Cast::Boolean => Some((!matches!(text, "" | "0")).into()),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Cast::String => "string",
            Cast::Integer => "integer",
            Cast::Boolean => "boolean",
        }
    }
}

/// Whether WordPress's `is_serialized()` may take it as serialized (wp-includes/functions.php).
pub fn is_serialized(text: &str) -> bool {
    let text = text.trim();
    let mut letters = text.bytes();
    matches!(
        (letters.next(), letters.next()),
        (Some(b'N'), Some(b';')) | (Some(b's' | b'a' | b'O' | b'E' | b'b' | b'i' | b'd' | b'C'), Some(b':'))
    )
}

/// As in the configuration.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Constant(value) => write!(f, "{{ constant = {} }}", Toml(value)),
            Source::Column(column, cast) => {
                write!(f, "{{ column = \"{}\"", column.name())?;
                if *cast != column.usual_cast() {
                    write!(f, ", as = \"{}\"", cast.name())?;
                }
                f.write_str(" }")
            }
            Source::Roles { form, separator } => match form {
                RolesForm::List => f.write_str("{ roles = \"list\" }"),
                RolesForm::First => f.write_str("{ roles = \"first\" }"),
                RolesForm::Joined if separator == "," => f.write_str("{ roles = \"joined\" }"),
                RolesForm::Joined => write!(f, "{{ roles = \"joined\", separator = {} }}", quoted(separator)),
            },
            Source::Meta { key, cast: Cast::String } => write!(f, "{{ meta = {} }}", quoted(key)),
            Source::Meta { key, cast } => write!(f, "{{ meta = {}, as = \"{}\" }}", quoted(key), cast.name()),
            Source::Gravatar(Gravatar { hash, size, default, rating }) => {
                let hash = if *hash == GravatarHash::Sha256 { "sha256" } else { "md5" };
                let (default, rating) = (quoted(default), quoted(rating));
                write!(f, "{{ gravatar = \"{hash}\", size = {size}, default = {default}, rating = {rating} }}")
            }
        }
    }
}

/// A value written as TOML on one line.
struct Toml<'a>(&'a Value);

impl fmt::Display for Toml<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::String(text) => f.write_str(&quoted(text)),
            Value::Array(values) => {
                let values: Vec<String> = values.iter().map(|value| Toml(value).to_string()).collect();
                write!(f, "[{}]", values.join(", "))
            }
            Value::Object(members) => {
                let members: Vec<String> =
                    members.iter().map(|(name, value)| format!("{} = {}", quoted(name), Toml(value))).collect();
                write!(f, "{{ {} }}", members.join(", "))
            }
            other => write!(f, "{other}"),
        }
    }
}

/// A basic string of TOML: JSON's escapes are a subset of TOML's.
pub fn quoted(text: &str) -> String {
    // JSON does not escape the control character DEL.
    Value::from(text).to_string().replace('\u{7f}', "\\u007F")
}

/// The form in TOML: one of the keys that name a source, and its options.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { meta = \"first_name\" }")]
struct Written {
    constant: Option<Value>,
    column: Option<Column>,
    roles: Option<RolesForm>,
    meta: Option<String>,
    gravatar: Option<GravatarHash>,
    #[serde(rename = "as")]
    cast: Option<Cast>,
    separator: Option<String>,
    size: Option<u16>,
    default: Option<String>,
    rating: Option<String>,
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Written::deserialize(deserializer)?.source().map_err(serde::de::Error::custom)
    }
}

const ONE_OF: &str = "value needs exactly one of constant, column, roles, meta and gravatar";

impl Written {
    fn source(self) -> Result<Source, String> {
        let Written { constant, column, roles, meta, gravatar, cast, separator, size, default, rating } = self;
        let of_avatar = size.is_some() || default.is_some() || rating.is_some();
        let stray = |is_there: bool, name: &str, of: &str| match is_there {
            true => Err(format!("{name} goes with {of} only")),
            false => Ok(()),
        };
        stray(of_avatar && gravatar.is_none(), "size, default or rating", "gravatar")?;
        stray(separator.is_some() && roles != Some(RolesForm::Joined), "separator", "roles = \"joined\"")?;
        stray(cast.is_some() && column.is_none() && meta.is_none(), "as", "column and meta")?;
        match (constant, column, roles, meta, gravatar) {
            (Some(value), None, None, None, None) if is_plain(&value) => Ok(Source::Constant(value)),
            (Some(_), None, None, None, None) => {
                Err("constant may hold texts, whole numbers, booleans, lists and tables of them".to_owned())
            }
            (None, Some(column), None, None, None) => {
                Ok(Source::Column(column, cast.unwrap_or_else(|| column.usual_cast())))
            }
            (None, None, Some(form), None, None) => {
                Ok(Source::Roles { form, separator: separator.unwrap_or_else(|| ",".to_owned()) })
            }
            (None, None, None, Some(key), None) if key.is_empty() => Err("meta is empty".to_owned()),
            // SECURITY: these contain sessions, and the means to reset a password.
            (None, None, None, Some(key), None) if key == "session_tokens" => {
                Err("meta = \"session_tokens\" would hand out sessions".to_owned())
            }
            (None, None, None, Some(key), None) => Ok(Source::Meta { key, cast: cast.unwrap_or(Cast::String) }),
            (None, None, None, None, Some(hash)) => Ok(Source::Gravatar(Gravatar {
                hash,
                size: size.unwrap_or(96),
                default: default.unwrap_or_else(|| "mm".to_owned()),
                rating: rating.unwrap_or_else(|| "g".to_owned()),
            })),
            _ => Err(ONE_OF.to_owned()),
        }
    }
}

/// No fractions, whose digits PHP may write differently, and no dates.
pub fn is_plain(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Number(number) => number.is_i64(),
        Value::Bool(_) | Value::String(_) => true,
        Value::Array(values) => values.iter().all(is_plain),
        Value::Object(members) => {
            members.iter().all(|(name, value)| !name.starts_with("$__toml_private") && is_plain(value))
        }
    }
}
