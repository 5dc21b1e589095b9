//! The data of one user.

use super::source::Column;

/// The most bytes of a meta value. A longer one is left to WordPress.
pub const LONGEST_META: usize = 16_384;

/// What is read of a user besides the data that every refresh reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// `user_login`
    Login,
    /// `user_url`
    Url,
    /// `user_registered`
    Registered,
    /// The meta value of this key.
    Meta(String),
    /// The meta value with the user's roles on this site.
    Capabilities,
}

impl Read {
    /// The column of the users' table, if it is one.
    pub fn user_column(&self) -> Option<&'static str> {
        match self {
            Read::Login => Some("user_login"),
            Read::Url => Some("user_url"),
            Read::Registered => Some("user_registered"),
            Read::Meta(_) | Read::Capabilities => None,
        }
    }
}

/// One user.
// SECURITY: no Debug. It is the user's data.
#[derive(Clone, Copy)]
pub struct Person<'a> {
    pub id: u64,
    pub email: &'a str,
    pub nicename: &'a str,
    pub display_name: &'a str,
    /// What was read, and what was found, in the same order.
    pub reads: &'a [Read],
    pub found: &'a [Option<Vec<u8>>],
    /// The names of the site's roles; `None` if they cannot be read.
    pub roles: Option<&'a [String]>,
}

impl<'a> Person<'a> {
    /// What was found for `read`; `None` if nothing was.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(super) fn text(&self, read: &Read) -> Result<Option<&'a str>, &'static str> {
        let place = self.reads.iter().position(|other| other == read).ok_or("it was not read")?;
        match self.found.get(place) {
            Some(Some(bytes)) if bytes.len() > LONGEST_META => Err("it is too long"),
            Some(Some(bytes)) => str::from_utf8(bytes).map(Some).map_err(|_| "it is not UTF-8"),
            Some(None) => Ok(None),
            None => Err("it was not read"),
        }
    }

    /// # Errors
    /// Why it cannot be used.
    pub(super) fn column(&self, column: Column) -> Result<String, &'static str> {
        let read = |read| self.text(&read).map(|text| text.unwrap_or_default().to_owned());
        match column {
            Column::Id => Ok(self.id.to_string()),
            Column::Login => read(Read::Login),
            Column::Email => Ok(self.email.to_owned()),
            Column::Nicename => Ok(self.nicename.to_owned()),
            Column::DisplayName => Ok(self.display_name.to_owned()),
            Column::Url => read(Read::Url),
            Column::Registered => read(Read::Registered),
        }
    }
}
