//! Returns to an earlier host, once it accepts writes again and has everything that the one in use
//! has.
//!
//! The second condition matters as much as the first: a primary that hung while another took its
//! place wakes up believing that it is still the primary. Returning to it would log out every user
//! whose token it lacks. The nodes of a cluster have the same rows.

use std::time::Duration;

use mysql_async::Row;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::hosts::Recovery;
use super::server::Mode;
use super::upkeep::Held;
use super::{Database, DatabaseError, HOST_LIMIT, column};

/// How often to check whether an earlier host is back, and how often in a row it must be.
const LOOK: Duration = Duration::from_secs(2);
const LOOKS: u32 = 5;

/// A row of the token table.
#[derive(PartialEq, Eq)]
struct Newest {
    id: u64,
    /// Never changes.
    hash: Vec<u8>,
}

/// The result of checking the earlier hosts.
#[derive(Default)]
struct Found {
    /// The first that accepts writes and has everything that the one in use has.
    whole: Option<usize>,
    /// The first that accepts writes and lacks something.
    lacking: Option<usize>,
}

impl Database {
    /// Returns to an earlier host once it has accepted writes for a while and has the rows of the
    /// table `tokens` (quoted). Never returns.
    pub async fn return_to_earlier_hosts(&self, tokens: &str) {
        let mut recovery = Recovery::default();
        let mut newest: Option<Option<Newest>> = None;
        let mut warned = None;
        loop {
            sleep(LOOK).await;
            let in_use = self.at().place;
            // From the previous check: it has had time to be replicated.
            let Found { whole, lacking } = match &newest {
                Some(newest) => self.earlier_hosts(in_use, tokens, newest.as_ref()).await,
                None => Found::default(),
            };
            if let Some(place) = lacking.filter(|_| lacking != warned) {
                let host = self.label(place);
                warn!(host, "an earlier host of the database accepts writes, but it lacks what the one in use has");
            }
            warned = lacking;
            if let Some(place) = recovery.saw(whole, LOOKS) {
                self.at().place = place;
                self.distrust();
                self.another_server();
                info!(
                    host = self.label(place),
                    "the database's earlier host accepts writes again and is used from now on"
                );
            }
            let in_use = self.at().place;
            newest = match in_use {
                0 => None,
                _ => timeout(HOST_LIMIT, self.newest(tokens)).await.ok().and_then(Result::ok),
            };
        }
    }

    async fn earlier_hosts(&self, in_use: usize, tokens: &str, newest: Option<&Newest>) -> Found {
        let mut found = Found::default();
        for place in 0..in_use {
            match timeout(HOST_LIMIT, self.has(place, tokens, newest)).await {
                Ok(Ok(Some(true))) if found.whole.is_none() => found.whole = Some(place),
                Ok(Ok(Some(false))) if found.lacking.is_none() => found.lacking = Some(place),
                _ => {}
            }
        }
        found
    }

    async fn newest(&self, tokens: &str) -> Result<Option<Newest>, DatabaseError> {
        let mut session = self.session().await?;
        let asked = format!("SELECT id, hash FROM {tokens} ORDER BY id DESC LIMIT 1");
        let row: Option<Row> = session.conn().query_first(asked).await?;
        session.give_back();
        row.map(|mut row| Ok(Newest { id: column(&mut row, 0, "id")?, hash: column(&mut row, 1, "hash")? })).transpose()
    }

    /// Whether the host at `place` has the row `newest`; `None` if it accepts no writes, or is not
    /// synced with its cluster.
    async fn has(&self, place: usize, tokens: &str, newest: Option<&Newest>) -> Result<Option<bool>, DatabaseError> {
        let _held = Held::new();
        let mut connection = self.connection(place, Mode::Autocommit).await?;
        if !connection.is_fit() {
            return Ok(None);
        }
        let Some(Newest { id, hash }) = newest else { return Ok(Some(true)) };
        let row: Option<Row> =
            connection.conn.query_first(format!("SELECT hash FROM {tokens} WHERE id = {id}")).await?;
        let has = row.map(|mut row| column::<Vec<u8>>(&mut row, 0, "hash")).transpose()?;
        Ok(Some(has.as_ref() == Some(hash)))
    }
}
