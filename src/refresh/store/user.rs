//! What statements read of a user, and the user that their rows contain.
//!
//! Meta values are joined rather than read by a subquery each: a server plans a subquery again for
//! each statement, which takes 40 µs per meta key (MariaDB 10.11.19). So a user has as many rows as
//! meta values of these keys, or one.

use data_encoding::HEXLOWER;
use mysql_async::Row;

use crate::declared::{LONGEST_META, Read, User};
use crate::wordpress::database::{DatabaseError, column};

/// Looks like a serialized value, which is left to WordPress.
const UNCERTAIN: &str = "N;";

/// The columns of a user in a site's statements.
pub struct UserColumns {
    /// For the columns after the first four: the index in [`User::found`].
    columns: Vec<usize>,
    /// The meta keys, and their indices in [`User::found`].
    keys: Vec<(String, usize)>,
    /// The table of the users' meta; `None` if none is read.
    usermeta: Option<String>,
    /// The values of a user of whom nothing was found.
    nothing: Vec<Option<Vec<u8>>>,
    list: String,
    plain: String,
    joined_meta: String,
    users: String,
}

impl UserColumns {
    /// Reads `reads` of each user, from the table `users` (quoted) and from `usermeta_table`. If
    /// that table is unknown, its values are uncertain.
    pub fn new(users: &str, table_prefix: &str, reads: &[Read], usermeta_table: Option<&str>) -> Self {
        let mut list = String::new();
        let mut plain = "ID, user_email, user_nicename, display_name".to_owned();
        let (mut columns, mut keys) = (Vec::new(), Vec::new());
        for (place, read) in reads.iter().enumerate() {
            match (read, read.user_column()) {
                (_, Some(name)) => {
                    columns.push(place);
                    plain += &format!(", {name}");
                    // As text, whatever its type.
                    list += &format!(", CAST({name} AS CHAR)");
                }
                (Read::Meta(key), None) => keys.push((key.clone(), place)),
                (_, None) => keys.push((format!("{table_prefix}capabilities"), place)),
            }
        }
        let mut nothing = vec![None; reads.len()];
        let usermeta = usermeta_table.filter(|_| !keys.is_empty()).map(|table| format!("`{table}`"));
        if usermeta.is_none() {
            keys.iter().for_each(|(_, place)| nothing[*place] = Some(UNCERTAIN.into()));
        }
        let joined_meta = usermeta.as_ref().map_or_else(String::new, |table| joined_meta(table, &keys));
        if usermeta.is_some() {
            list += ", m.umeta_id, m.meta_key, m.found";
        }
        UserColumns { columns, keys, usermeta, nothing, list, plain, joined_meta, users: users.to_owned() }
    }

    /// The select list.
    pub fn list(&self) -> String {
        format!("u.ID, user_email, user_nicename, display_name{}", self.list)
    }

    /// The join of the user whose id is `owner`. SECURITY: as a derived table, so that FOR UPDATE
    /// does not lock users and meta: a locked user would make a password change wait.
    pub fn joined_to(&self, owner: &str) -> String {
        // Without the hint, a small table is scanned.
        format!(
            "LEFT JOIN (SELECT {} FROM {} FORCE INDEX (PRIMARY)) u ON u.ID = {owner}{}",
            self.plain, self.users, self.joined_meta
        )
    }

    /// The statement that reads one user, whose id is bound as `?`.
    pub fn of_one(&self) -> String {
        format!("SELECT {} FROM {} u{} WHERE u.ID = ?", self.list(), self.users, self.joined_meta)
    }

    /// The same without meta.
    pub fn of_one_without_meta(&self) -> String {
        format!("SELECT {} FROM {} WHERE ID = ?", self.plain, self.users)
    }

    /// The table of the users' meta, quoted, if it is read.
    pub fn usermeta(&self) -> Option<&str> {
        self.usermeta.as_deref()
    }

    /// The user in the columns of `row` from `first` on, without meta; `None` if they are NULL.
    pub fn user(&self, row: &mut Row, first: usize) -> Result<Option<User>, DatabaseError> {
        let Some(id) = column(row, first, "ID")? else { return Ok(None) };
        let mut field = |place, name| column::<Vec<u8>>(row, first + place, name).map(|bytes| text(&bytes));
        let (email, nicename, display_name) =
            (field(1, "user_email")?, field(2, "user_nicename")?, field(3, "display_name")?);
        let mut found = self.nothing.clone();
        for (column_place, place) in self.columns.iter().enumerate() {
            found[*place] = column(row, first + 4 + column_place, "a declared column")?;
        }
        Ok(Some(User { id, email, nicename, display_name, found }))
    }

    /// The meta value in the columns of `row`, for the user whose columns begin with `first`.
    pub fn meta(&self, row: &mut Row, first: usize) -> Result<Option<Meta>, DatabaseError> {
        if self.usermeta.is_none() {
            return Ok(None);
        }
        let first = first + 4 + self.columns.len();
        let Some(umeta_id) = column(row, first, "umeta_id")? else { return Ok(None) };
        let key: Vec<u8> = column(row, first + 1, "meta_key")?;
        // Compared exactly, as PHP does.
        let Some((_, place)) = self.keys.iter().find(|(name, _)| name.as_bytes() == key) else { return Ok(None) };
        Ok(Some(Meta { umeta_id, place: *place, value: column(row, first + 2, "meta_value")? }))
    }
}

/// One value of a user's meta.
// SECURITY: no Debug. It is the user's data.
pub struct Meta {
    umeta_id: u64,
    place: usize,
    value: Vec<u8>,
}

/// Adds the meta values to `user`. Of several values of one key the first counts
/// (`get_metadata_raw()` in wp-includes/meta.php).
pub fn add_meta(user: &mut User, mut meta: Vec<Meta>) {
    meta.sort_unstable_by_key(|meta| meta.umeta_id);
    for meta in meta {
        user.found[meta.place].get_or_insert(meta.value);
    }
}

fn joined_meta(table: &str, keys: &[(String, usize)]) -> String {
    // SECURITY: keys come from the configuration, but a quote in one must not end the string.
    // Hexadecimal digits contain none.
    let keys: Vec<String> =
        keys.iter().map(|(key, _)| format!("_utf8mb4 X'{}'", HEXLOWER.encode(key.as_bytes()))).collect();
    // This collation is the cheapest to compare with. It ignores trailing spaces, which `meta()`
    // checks. Without the hint, a table with few rows is scanned. One byte more than what is used
    // is read, so that an overlong value shows. PHP treats NULL as null, not as text.
    format!(
        " LEFT JOIN (SELECT umeta_id, user_id AS owner, meta_key, IFNULL(LEFT(meta_value, {}), '{UNCERTAIN}') AS found \
         FROM {table} FORCE INDEX (user_id) WHERE CONVERT(meta_key USING utf8mb4) COLLATE utf8mb4_bin IN ({})) m \
         ON m.owner = u.ID",
        LONGEST_META + 1,
        keys.join(", ")
    )
}

/// The connection uses utf8mb4, so nothing is lost; if a server does otherwise, that must not cost
/// the session.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
