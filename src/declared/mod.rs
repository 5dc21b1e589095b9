//! What the site's own PHP code adds to a refresh, as declared in the configuration: claims,
//! members of the response, members that are left out.
//!
//! A declaration is a promise about PHP code that the sidecar does not run. The comparison with
//! WordPress's own responses verifies that promise.

mod gravatar;
mod person;
mod roles;
mod source;
mod written;

use serde_json::{Map, Value};

pub use person::{LONGEST_META, Person, Read};
pub use roles::role_names;
pub use source::{Cast, Column, Gravatar, GravatarHash, Member, RolesForm, Source, is_plain, is_serialized, quoted};
pub use written::with_members;

/// Claims that the plugin and WordPress rely on. `data.user.id` is not listed: the plugin also
/// accepts a number there.
const RESERVED_CLAIMS: [&str; 7] = ["iss", "iat", "nbf", "exp", "jti", "data", "data.user"];

/// Members of a response that every client needs.
const RESERVED_FIELDS: [&str; 4] = ["access_token", "refresh_token", "token", "expires_in"];

/// Members that may be left out.
const OMITTABLE: [&str; 2] = ["token_type", "expires_in"];

/// All declarations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Declared {
    /// `[[jwt.claim]]`, in order.
    pub claims: Vec<Member>,
    /// `[[refresh.field]]`, in order.
    pub fields: Vec<Member>,
    /// `[refresh] omit`.
    pub omit: Vec<String>,
    reads: Vec<Read>,
}

/// The data of a refresh's user.
// SECURITY: no Debug. It is the user's data.
#[derive(Clone)]
pub struct User {
    /// `ID`
    pub id: u64,
    /// `user_email`
    pub email: String,
    /// `user_nicename`
    pub nicename: String,
    /// `display_name`
    pub display_name: String,
    /// The values found for [`Declared::reads`], in the same order.
    pub found: Vec<Option<Vec<u8>>>,
}

impl User {
    /// A copy for the response, without the values found for reads.
    pub fn without_found(&self) -> User {
        User {
            id: self.id,
            email: self.email.clone(),
            nicename: self.nicename.clone(),
            display_name: self.display_name.clone(),
            found: Vec::new(),
        }
    }
}

/// The values for one user.
// SECURITY: no Debug. They are the user's data.
#[derive(Clone, Default, PartialEq)]
pub struct Values {
    pub claims: Vec<(Vec<String>, Value)>,
    pub fields: Vec<(Vec<String>, Value)>,
}

/// Why a value is uncertain, so that WordPress must answer. Names the source, never the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{of} of the user cannot be declared: {problem}")]
pub struct Uncertain {
    pub of: String,
    pub problem: &'static str,
}

impl Declared {
    pub fn new(claims: Vec<Member>, fields: Vec<Member>, omit: Vec<String>) -> Self {
        let mut reads = Vec::new();
        for read in claims.iter().chain(&fields).filter_map(|member| member.value.read()) {
            if !reads.contains(&read) {
                reads.push(read);
            }
        }
        Declared { claims, fields, omit, reads }
    }

    /// Whether no declaration depends on the user.
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty() && self.fields.is_empty()
    }

    /// What has to be read for each user.
    pub fn reads(&self) -> &[Read] {
        &self.reads
    }

    /// Whether the names of the site's roles are needed.
    pub fn has_roles(&self) -> bool {
        self.members().any(|member| matches!(member.value, Source::Roles { .. }))
    }

    /// Whether the claims of a token depend on more than its row: then they may have changed since.
    pub fn claims_vary(&self) -> bool {
        self.claims.iter().any(|claim| !matches!(claim.value, Source::Constant(_) | Source::Column(Column::Id, _)))
    }

    /// The claims that a row determines, for user `user_id`: all declared ones if [none
    /// vary](Declared::claims_vary).
    pub fn claims_of_row(&self, user_id: u64) -> Vec<(Vec<String>, Value)> {
        let known = self.claims.iter().filter_map(|claim| {
            let value = match &claim.value {
                Source::Constant(value) => value.clone(),
                Source::Column(Column::Id, Cast::Integer) => user_id.into(),
                Source::Column(Column::Id, Cast::String) => user_id.to_string().into(),
                _ => return None,
            };
            Some((claim.path.clone(), value))
        });
        known.collect()
    }

    /// The values for `person`.
    ///
    /// # Errors
    /// One of them is uncertain.
    pub fn values(&self, person: &Person<'_>) -> Result<Values, Uncertain> {
        let each = |members: &[Member]| {
            let values = members.iter().map(|member| Ok((member.path.clone(), member.value.value(person)?)));
            values.collect::<Result<Vec<_>, Uncertain>>()
        };
        Ok(Values { claims: each(&self.claims)?, fields: each(&self.fields)? })
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        self.claims.iter().chain(&self.fields)
    }
}

/// Sets the member at `path` like PHP's `$array['a']['b'] = …`: existing members keep their place.
pub fn set(map: &mut Map<String, Value>, path: &[String], value: Value) {
    let Some((name, below)) = path.split_first() else { return };
    if below.is_empty() {
        map.insert(name.clone(), value);
        return;
    }
    let inner = map.entry(name.clone()).or_insert_with(|| Value::Object(Map::new()));
    if !inner.is_object() {
        *inner = Value::Object(Map::new());
    }
    if let Value::Object(inner) = inner {
        set(inner, below, value);
    }
}

/// Whether a claim may be declared at `path`.
///
/// # Errors
/// Why not.
pub fn check_claim(path: &[String]) -> Result<(), String> {
    reserved(path, &RESERVED_CLAIMS, "the plugin's own claim, without which WordPress refuses the token")
}

/// Whether a member of the response may be declared at `path`.
///
/// # Errors
/// Why not.
pub fn check_field(path: &[String]) -> Result<(), String> {
    reserved(path, &RESERVED_FIELDS, "a member that the sidecar itself fills in")
}

/// Whether the member `name` may be left out.
///
/// # Errors
/// Why not.
pub fn check_omitted(name: &str) -> Result<(), String> {
    match OMITTABLE.contains(&name) {
        true => Ok(()),
        false => Err(format!("accepted: {}", OMITTABLE.map(|name| format!("\"{name}\"")).join(", "))),
    }
}

fn reserved(path: &[String], reserved: &[&str], what: &str) -> Result<(), String> {
    if path.is_empty() || path.iter().any(String::is_empty) {
        return Err("is empty, or has an empty part between two dots".to_owned());
    }
    let dotted = path.join(".");
    if dotted.starts_with("data.user.id.") {
        return Err("data.user.id is the user's id, and has no members".to_owned());
    }
    // A member below a text would replace the text.
    let is_below = |name: &&&str| dotted.starts_with(&format!("{name}.")) && !name.starts_with("data");
    match reserved.iter().find(|name| **name == dotted).or_else(|| reserved.iter().find(is_below)) {
        Some(name) => Err(format!("{name} is {what}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
