//! Reads the rows of a network's tables.

use mysql_async::{Row, Value};

use super::MOST;
use super::blog::{Blog, Place};
use crate::wordpress::database::{DatabaseError, Session, column};

const COLUMNS: &str = "blog_id, site_id, domain, path, archived, spam, deleted";

/// The statements for one network's tables.
pub(super) struct Reader {
    /// The largest number of paths for a place.
    paths: usize,
    networks: String,
    all: String,
    at: String,
}

/// The ids and paths of the networks. More than one is too many.
type Networks = Vec<(u64, String)>;

impl Reader {
    /// `segments`: the most segments that a place may have.
    // SECURITY: `base_prefix` is pasted into SQL; `installation()` lets only `[A-Za-z0-9_]` pass.
    pub(super) fn new(base_prefix: &str, segments: usize) -> Self {
        // One more for the path `/`.
        let paths = segments + 1;
        Reader {
            paths,
            networks: format!("SELECT id, path FROM `{base_prefix}site` ORDER BY id LIMIT 2"),
            all: format!("SELECT {COLUMNS} FROM `{base_prefix}blogs` ORDER BY blog_id LIMIT {}", MOST + 1),
            // Like WP_Site_Query: the columns' collation decides what is equal.
            at: format!(
                "SELECT {COLUMNS} FROM `{base_prefix}blogs` WHERE domain IN (?, ?) AND path IN ({}) ORDER BY blog_id LIMIT 16",
                vec!["?"; paths].join(", ")
            ),
        }
    }

    /// The networks, and all sites unless there are more than [`MOST`].
    pub(super) async fn all(&self, session: &mut Session<'_>) -> Result<(Networks, Option<Vec<Blog>>), DatabaseError> {
        let networks: Vec<Row> = session.conn().query(&self.networks).await?;
        let networks = networks.into_iter().map(|mut row| Ok((column(&mut row, 0, "id")?, text(&mut row, 1, "path")?)));
        let networks = networks.collect::<Result<Networks, DatabaseError>>()?;
        let rows: Vec<Row> = session.conn().query(&self.all).await?;
        if rows.len() > MOST {
            return Ok((networks, None));
        }
        let blogs = rows.into_iter().map(blog).collect::<Result<_, _>>()?;
        Ok((networks, Some(blogs)))
    }

    /// The rows that the database finds for `place`.
    pub(super) async fn at(&self, session: &mut Session<'_>, place: &Place) -> Result<Vec<Blog>, DatabaseError> {
        let mut values: Vec<Value> = so_many(2, place.domains().map(Value::from));
        values.extend(so_many(self.paths, place.paths().map(Value::from)));
        let rows: Vec<Row> = session.conn().exec(&self.at, values).await?;
        rows.into_iter().map(blog).collect()
    }
}

/// Exactly `count` values: the last one is repeated as often as needed.
fn so_many(count: usize, values: impl Iterator<Item = Value>) -> Vec<Value> {
    let mut values: Vec<Value> = values.collect();
    values.resize(count, values.last().cloned().unwrap_or(Value::NULL));
    values
}

fn blog(mut row: Row) -> Result<Blog, DatabaseError> {
    let closed =
        Blog::closed(column(&mut row, 4, "archived")?, column(&mut row, 5, "spam")?, column(&mut row, 6, "deleted")?);
    Ok(Blog {
        id: column(&mut row, 0, "blog_id")?,
        network: column(&mut row, 1, "site_id")?,
        domain: text(&mut row, 2, "domain")?,
        path: text(&mut row, 3, "path")?,
        closed,
    })
}

/// Invalid UTF-8 cannot come from a client; the replacement character marks the row as odd.
fn text(row: &mut Row, index: usize, name: &'static str) -> Result<String, DatabaseError> {
    let bytes: Vec<u8> = column(row, index, name)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
