//! Finds the site of a network that an operator names by its id or its address.

use std::str::FromStr;

use mysql_async::{Row, Value};

use crate::wordpress::database::{Database, DatabaseError, column};
use crate::wordpress::installation::Installation;

/// A site, as an operator named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    Id(u64),
    At {
        /// In lower case.
        domain: String,
        /// With a slash at both ends.
        path: String,
    },
}

/// Why a named site was not found.
#[derive(Debug, thiserror::Error)]
pub enum NamedError {
    #[error("--site takes the id of a site of the network, or its URL, not \"{0}\"")]
    Invalid(String),
    #[error("--site is for networks, and wp-config.php does not set one up")]
    NoNetwork,
    #[error("the network has no site {0}")]
    NoSite(String),
    #[error(
        "several sites of the network, or one that is spelled otherwise, are {0} to the database: name the site by one of the ids {1}"
    )]
    Ambiguous(String, String),
    #[error("the network's sites cannot be read: {0}")]
    Unread(#[from] DatabaseError),
}

impl FromStr for Named {
    type Err = NamedError;

    fn from_str(text: &str) -> Result<Self, NamedError> {
        let invalid = || NamedError::Invalid(text.to_owned());
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().ok().filter(|id| *id > 0).map(Named::Id).ok_or_else(invalid);
        }
        let place = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
        let (domain, path) = place.split_at(place.find('/').unwrap_or(place.len()));
        if domain.is_empty() || !place.bytes().all(|byte| byte.is_ascii_graphic()) || place.contains(['?', '#']) {
            return Err(invalid());
        }
        Ok(Named::At { domain: domain.to_ascii_lowercase(), path: format!("{}/", path.trim_end_matches('/')) })
    }
}

impl Named {
    /// Looks the site up in the table `blogs` and returns its installation.
    ///
    /// # Errors
    /// The network has no such site, or the table cannot be read.
    pub async fn find(&self, database: &Database, installation: &Installation) -> Result<Installation, NamedError> {
        if !installation.multisite {
            return Err(NamedError::NoNetwork);
        }
        let (condition, values) = match self {
            Named::Id(id) => ("blog_id = ?", vec![Value::from(*id)]),
            Named::At { domain, path } => ("domain = ? AND path = ?", vec![Value::from(domain), Value::from(path)]),
        };
        // SECURITY: `installation()` lets only `[A-Za-z0-9_]` pass in a prefix.
        let query = format!(
            "SELECT blog_id, domain, path FROM `{}blogs` WHERE {condition} ORDER BY blog_id LIMIT 16",
            installation.base_prefix
        );
        let mut session = database.session().await?;
        let rows: Vec<Row> = session.conn().exec(query, values).await.map_err(DatabaseError::from)?;
        session.give_back();
        let rows = rows.into_iter().map(|mut row| {
            Ok((column(&mut row, 0, "blog_id")?, column(&mut row, 1, "domain")?, column(&mut row, 2, "path")?))
        });
        let id = self.only(&rows.collect::<Result<Vec<_>, DatabaseError>>()?)?;
        Ok(if id == installation.blog_id { installation.clone() } else { installation.of_blog(id) })
    }

    /// The id of the site among those that the database finds: their columns' collation takes more
    /// for equal than the case of ASCII letters, such as accents and spaces at the end.
    fn only(&self, rows: &[(u64, Vec<u8>, Vec<u8>)]) -> Result<u64, NamedError> {
        let is_it = |domain: &[u8], path: &[u8]| match self {
            Named::Id(_) => true,
            Named::At { domain: named, path: at } => {
                domain.eq_ignore_ascii_case(named.as_bytes()) && path.eq_ignore_ascii_case(at.as_bytes())
            }
        };
        let mut equal = rows.iter().filter(|(_, domain, path)| is_it(domain, path));
        match (equal.next(), equal.next()) {
            (Some((id, ..)), None) => Ok(*id),
            _ if rows.is_empty() => Err(NamedError::NoSite(self.to_string())),
            _ => {
                let ids: Vec<String> = rows.iter().map(|(id, ..)| id.to_string()).collect();
                Err(NamedError::Ambiguous(self.to_string(), ids.join(", ")))
            }
        }
    }
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Named::Id(id) => write!(f, "{id}"),
            Named::At { domain, path } => write!(f, "{domain}{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_named_by_its_id_or_by_its_address() {
        let at = |domain: &str, path: &str| Named::At { domain: domain.to_owned(), path: path.to_owned() };
        for (text, named) in [
            ("7", Named::Id(7)),
            ("net.test", at("net.test", "/")),
            ("https://Net.test/two/", at("net.test", "/two/")),
            ("http://net.test/a/b", at("net.test", "/a/b/")),
            ("port.test:8080/", at("port.test:8080", "/")),
        ] {
            assert_eq!(text.parse::<Named>().unwrap(), named, "{text}");
        }
        for text in
            ["", "0", "99999999999999999999999", "https://", "/two/", "net test", "net.test/?p=1", "net.test/#x"]
        {
            assert!(matches!(text.parse::<Named>(), Err(NamedError::Invalid(_))), "{text}");
        }
    }

    #[test]
    fn a_site_that_only_the_database_takes_for_the_named_one_is_not_it() {
        let only = |text: &str, rows: &[(u64, &str, &str)]| {
            let rows: Vec<_> = rows.iter().map(|(id, domain, path)| (*id, (*domain).into(), (*path).into())).collect();
            text.parse::<Named>().unwrap().only(&rows).map_err(|error| error.to_string())
        };
        let two = (2, "net.test", "/two/");
        assert_eq!(only("net.test/two", &[two]), Ok(2));
        assert_eq!(only("NET.test/Two", &[(1, "net.test", "/twö/"), two]), Ok(2));
        assert_eq!(only("7", &[(7, "net.test", "/twö/")]), Ok(7));
        assert_eq!(only("net.test/two", &[]), Err("the network has no site net.test/two/".to_owned()));
        for (rows, ids) in [
            (vec![(1, "net.test", "/twö/")], "1"),
            (vec![(3, "net.test", "/two/ ")], "3"),
            (vec![two, (5, "net.test", "/TWO/")], "2, 5"),
        ] {
            let error = only("net.test/two", &rows).unwrap_err();
            assert!(
                error.contains("are net.test/two/ to the database")
                    && error.ends_with(&format!("one of the ids {ids}")),
                "{error}"
            );
        }
    }
}
