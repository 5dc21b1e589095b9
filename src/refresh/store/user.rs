//! What statements read of a user, and the user that their rows contain.
//!
//! Meta values are joined rather than read by a subquery each: a server plans a subquery again for
//! each statement, which takes 40 µs per meta key (MariaDB 10.11.19). Either all meta rows of a user
//! are joined, and a result has one row for each value of a declared key; or one row for each key,
//! by its id.

use data_encoding::HEXLOWER;
use mysql_async::Row;

use crate::declared::{LONGEST_META, Read, User};
use crate::wordpress::database::{DatabaseError, column};

/// Looks like a serialized value, which is left to WordPress.
const UNCERTAIN: &str = "N;";

/// The columns of a meta value in a site's statements: its row, its user, its key, its value.
const META: &str = "m.umeta_id, m.owner, m.meta_key, m.found";

/// The columns of a user in a site's statements.
pub struct UserColumns {
    /// For the columns after the first four: the index in [`User::found`].
    columns: Vec<usize>,
    keys: Vec<Key>,
    /// The table of the users' meta; `None` if none is read.
    usermeta: Option<String>,
    /// The values of a user of whom nothing was found.
    nothing: Vec<Option<Vec<u8>>>,
    /// The select list, without meta.
    list: String,
    plain: String,
    users: String,
}

/// A meta key that is read.
struct Key {
    name: String,
    /// The indices in [`User::found`] of what it is read for: roles are meta, too.
    places: Vec<usize>,
}

impl Key {
    fn set(&self, user: &mut User, value: &[u8]) {
        self.places.iter().for_each(|place| user.found[*place] = Some(value.to_owned()));
    }
}

impl UserColumns {
    /// Reads `reads` of each user, from the table `users` (quoted) and from `usermeta_table`. If
    /// that table is unknown, its values are uncertain.
    pub fn new(users: &str, table_prefix: &str, reads: &[Read], usermeta_table: Option<&str>) -> Self {
        let plain = "ID, user_email, user_nicename, display_name";
        let (mut plain, mut list) = (plain.to_owned(), format!("u.{plain}"));
        let (mut columns, mut keys) = (Vec::new(), Vec::<Key>::new());
        for (place, read) in reads.iter().enumerate() {
            let key = match (read, read.user_column()) {
                (_, Some(name)) => {
                    columns.push(place);
                    plain += &format!(", {name}");
                    // As text, whatever its type.
                    list += &format!(", CAST({name} AS CHAR)");
                    continue;
                }
                (Read::Meta(key), None) => key.clone(),
                (_, None) => format!("{table_prefix}capabilities"),
            };
            match keys.iter_mut().find(|known| known.name == key) {
                Some(known) => known.places.push(place),
                None => keys.push(Key { name: key, places: vec![place] }),
            }
        }
        let mut nothing = vec![None; reads.len()];
        let usermeta = usermeta_table.filter(|_| !keys.is_empty()).map(|table| format!("`{table}`"));
        if usermeta.is_none() {
            keys.iter().flat_map(|key| &key.places).for_each(|place| nothing[*place] = Some(UNCERTAIN.into()));
            keys.clear();
        }
        UserColumns { columns, keys, usermeta, nothing, list, plain, users: users.to_owned() }
    }

    /// The select list of a user, without meta.
    pub fn list(&self) -> &str {
        &self.list
    }

    /// How many columns that are.
    pub fn count(&self) -> usize {
        4 + self.columns.len()
    }

    /// The select list of a meta value, if any is read.
    pub fn meta_list(&self) -> Option<&str> {
        self.usermeta.is_some().then_some(META)
    }

    /// How many meta keys are read.
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// The join of the user whose id is `owner`. SECURITY: as a derived table, so that FOR UPDATE
    /// does not lock users: a locked user would make a password change wait.
    pub fn joined_to(&self, owner: &str) -> String {
        // Without the hint, a small table is scanned.
        let (plain, users) = (&self.plain, &self.users);
        format!("LEFT JOIN (SELECT {plain} FROM {users} FORCE INDEX (PRIMARY)) u ON u.ID = {owner}")
    }

    /// The join of the meta values of user `u`; empty if none are read. A derived table, too.
    pub fn joined_meta(&self) -> String {
        let Some(table) = &self.usermeta else { return String::new() };
        // SECURITY: keys come from the configuration, but a quote in one must not end the string.
        // Hexadecimal digits contain none.
        let keys: Vec<String> =
            self.keys.iter().map(|key| format!("_utf8mb4 X'{}'", HEXLOWER.encode(key.name.as_bytes()))).collect();
        // This collation is the cheapest to compare with. It ignores trailing spaces, which
        // `meta()` checks. Without the hint, a table with few rows is scanned.
        format!(
            " LEFT JOIN (SELECT {} FROM {table} FORCE INDEX (user_id) WHERE CONVERT(meta_key USING utf8mb4) \
             COLLATE utf8mb4_bin IN ({})) m ON m.owner = u.ID",
            meta_columns(),
            keys.join(", ")
        )
    }

    /// The select list of the meta values that [`UserColumns::joined_rows`] joins.
    pub fn rows_list(&self) -> String {
        (0..self.keys.len()).map(|key| format!(", m{key}.meta_key, m{key}.found")).collect()
    }

    /// The joins of one meta row for each key, for `count` rows of tokens `t` and their users `u`.
    /// For each key, the parameters are pairs of a token's row and the user's `umeta_id`.
    pub fn joined_rows(&self, count: usize) -> String {
        let Some(table) = &self.usermeta else { return String::new() };
        let (columns, pairs) = (meta_columns(), " WHEN ? THEN ?".repeat(count));
        let join = |key| {
            format!(
                " LEFT JOIN (SELECT {columns} FROM {table} FORCE INDEX (PRIMARY)) m{key} \
                 ON m{key}.umeta_id = CASE t.id{pairs} END AND m{key}.owner = u.ID"
            )
        };
        (0..self.keys.len()).map(join).collect()
    }

    /// The statement that reads one user, whose id is bound as `?`.
    pub fn of_one(&self) -> String {
        let meta = self.meta_list().map_or_else(String::new, |list| format!(", {list}"));
        format!("SELECT {}{meta} FROM {} u{} WHERE u.ID = ?", self.list, self.users, self.joined_meta())
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

    /// The meta value in the columns of `row` from `first` on, if it is one of a key that is read.
    pub fn meta(&self, row: &mut Row, first: usize) -> Result<Option<Meta>, DatabaseError> {
        if self.usermeta.is_none() {
            return Ok(None);
        }
        let Some(umeta_id) = column(row, first, "umeta_id")? else { return Ok(None) };
        // The column takes NULL.
        let Some(key) = column::<Option<Vec<u8>>>(row, first + 2, "meta_key")? else { return Ok(None) };
        // Compared exactly, as PHP does.
        let Some(key) = self.keys.iter().position(|known| known.name.as_bytes() == key) else { return Ok(None) };
        let user_id = column(row, first + 1, "user_id")?;
        Ok(Some(Meta { user_id, umeta_id, key, value: column(row, first + 3, "meta_value")? }))
    }

    /// Adds the values of `meta` (sorted) that are the user's. Of several values of one key the
    /// first counts (`get_metadata_raw()` in wp-includes/meta.php). Returns the rows that contain
    /// the values, if there is one for each key.
    pub fn add_meta(&self, user: &mut User, meta: &[Meta]) -> Option<Box<[u64]>> {
        let id = user.id;
        let first = meta.partition_point(|meta| meta.user_id < id);
        let mut rows = vec![None; self.keys.len()];
        for meta in meta[first..].iter().take_while(|meta| meta.user_id == id) {
            if rows[meta.key].is_none() {
                rows[meta.key] = Some(meta.umeta_id);
                self.keys[meta.key].set(user, &meta.value);
            }
        }
        rows.into_iter().collect()
    }

    /// Adds the values in the columns of `row` from `first` on, those of [`UserColumns::rows_list`].
    /// Returns whether each is in its row.
    pub fn add_rows(&self, user: &mut User, row: &mut Row, first: usize) -> Result<bool, DatabaseError> {
        for (place, key) in self.keys.iter().enumerate() {
            let found: Option<Vec<u8>> = column(row, first + 2 * place, "meta_key")?;
            if found.as_deref() != Some(key.name.as_bytes()) {
                return Ok(false);
            }
            let value: Vec<u8> = column(row, first + 2 * place + 1, "meta_value")?;
            key.set(user, &value);
        }
        Ok(true)
    }
}

/// One value of a user's meta, ordered by its user, and the values of a user by their ids.
// SECURITY: no Debug. It is the user's data.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub struct Meta {
    user_id: u64,
    umeta_id: u64,
    /// The index among the keys.
    key: usize,
    value: Vec<u8>,
}

/// One byte more than what is used is read, so that an overlong value shows. PHP treats NULL as
/// null, not as text.
fn meta_columns() -> String {
    let found = format!("IFNULL(LEFT(meta_value, {}), '{UNCERTAIN}')", LONGEST_META + 1);
    format!("umeta_id, user_id AS owner, meta_key, {found} AS found")
}

/// The connection uses utf8mb4, so nothing is lost; if a server does otherwise, that must not cost
/// the session.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
