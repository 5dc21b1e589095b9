//! Looks up the country code of an analytics row, as the plugin does.
//!
//! The plugin's directory contains a country database; the sidecar reads the same file, or a
//! configured one, as a whole (about 9 MB) and keeps it in memory. Nothing is downloaded, and no
//! address leaves the machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use maxminddb::{MaxMindDbError, Reader, path};
use tracing::warn;

/// The database's path in the plugin's directory.
const IN_PLUGIN: &str = "src/Database/Countries/GeoLite2-Country.mmdb";

/// How often to check whether the file was replaced (by an update of the plugin).
const LOOK_EVERY: Duration = Duration::from_secs(60);

const PRIVATE_OR_RESERVED: &str = "--";
const UNKNOWN: &str = "XX";
const NO_DATABASE: &str = "ZZ";

/// The country database, once [`look`](Countries::look) has opened it.
pub struct Countries {
    configured: Option<PathBuf>,
    plugins_dir: Option<PathBuf>,
    looked: Option<Instant>,
    opened: Option<Opened>,
}

struct Opened {
    file: PathBuf,
    modified: Option<SystemTime>,
    /// `None`: the file cannot be read.
    reader: Option<Reader<Vec<u8>>>,
}

/// Why a country database cannot be used.
#[derive(Debug, thiserror::Error)]
enum CountryError {
    #[error("cannot read it: {0}")]
    Read(#[from] std::io::Error),
    #[error("it is not a country database: {0}")]
    Format(#[from] MaxMindDbError),
}

impl Countries {
    /// `configured` is `[refresh] country_database`; without it, the plugin's own file below
    /// `plugins_dir` is used. The file is not opened yet.
    pub fn new(configured: Option<PathBuf>, plugins_dir: Option<PathBuf>) -> Self {
        Self { configured, plugins_dir, looked: None, opened: None }
    }

    /// Opens the database, or opens it again if the file was replaced. Cheap soon after the last
    /// check; called before each batch of [`Countries::code`].
    ///
    /// `plugin` is the plugin's main file, relative to the plugins directory:
    /// `jwt-auth-pro/jwt-auth-pro.php`. A file that cannot be read is logged once.
    pub async fn look(&mut self, plugin: &str) {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK_EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        let Some(file) = self.file(plugin) else {
            self.opened = None;
            return;
        };
        let known = self.opened.as_ref().map(|opened| (opened.file.clone(), opened.modified));
        // The file is too large to be read on the runtime's own thread.
        let opened = tokio::task::spawn_blocking(move || open_if_new(file, known)).await;
        if let Ok(Some(opened)) = opened {
            self.opened = Some(opened);
        }
    }

    /// Two characters: an ISO 3166 code, `--` for what PHP calls private or reserved, `XX` for an
    /// address that the database does not know, `ZZ` without a database.
    pub fn code(&self, address: IpAddr) -> String {
        if is_private_or_reserved(address) {
            return PRIVATE_OR_RESERVED.to_owned();
        }
        let reader = self.opened.as_ref().and_then(|opened| opened.reader.as_ref());
        match reader.map(|reader| iso_code(reader, address)) {
            Some(Ok(Some(code))) => code,
            Some(Ok(None)) => UNKNOWN.to_owned(),
            Some(Err(_)) | None => NO_DATABASE.to_owned(),
        }
    }

    fn file(&self, plugin: &str) -> Option<PathBuf> {
        if let Some(configured) = &self.configured {
            return Some(configured.clone());
        }
        // SECURITY: the directory's name comes from the site's database; it must not lead out of
        // the plugins directory.
        let (folder, _) = plugin.split_once('/')?;
        if matches!(folder, "" | "." | "..") || folder.contains('\0') {
            return None;
        }
        Some(self.plugins_dir.as_ref()?.join(folder).join(IN_PLUGIN))
    }
}

/// `None`: the known file has not changed.
fn open_if_new(file: PathBuf, known: Option<(PathBuf, Option<SystemTime>)>) -> Option<Opened> {
    let modified = std::fs::metadata(&file).and_then(|metadata| metadata.modified()).ok();
    if known.is_some_and(|(known_file, known_modified)| known_file == file && known_modified == modified) {
        return None;
    }
    let reader = match open(&file) {
        Ok(reader) => Some(reader),
        Err(error) => {
            warn!(file = %file.display(), %error, "no country codes in the analytics rows");
            None
        }
    };
    Some(Opened { file, modified, reader })
}

fn open(file: &Path) -> Result<Reader<Vec<u8>>, CountryError> {
    let reader = Reader::from_source(std::fs::read(file)?)?;
    // A file that only looks like a database fails at the first look-up.
    iso_code(&reader, IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8)))?;
    Ok(reader)
}

/// `None`: the database has no entry for the address, or one without a country.
fn iso_code(reader: &Reader<Vec<u8>>, address: IpAddr) -> Result<Option<String>, MaxMindDbError> {
    // A database of IPv4 networks only has no entries for IPv6 addresses.
    if address.is_ipv6() && reader.metadata().ip_version == 4 {
        return Ok(None);
    }
    let code: Option<&str> = reader.lookup(address)?.decode_path(&path!["country", "iso_code"])?;
    // The column is CHAR(2).
    Ok(code.filter(|code| code.len() == 2 && code.is_ascii()).map(str::to_owned))
}

/// The addresses that PHP's `filter_var()` refuses with `FILTER_FLAG_NO_PRIV_RANGE |
/// FILTER_FLAG_NO_RES_RANGE`, as of PHP 8.2. Its list is neither complete nor entirely current.
fn is_private_or_reserved(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_private_or_reserved_v4(address),
        IpAddr::V6(address) => is_private_or_reserved_v6(address),
    }
}

fn is_private_or_reserved_v4(address: Ipv4Addr) -> bool {
    matches!(
        address.octets(),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] // private
        | [0 | 127 | 240..=255, ..] | [169, 254, ..]
    )
}

fn is_private_or_reserved_v6(address: Ipv6Addr) -> bool {
    matches!(
        address.segments(),
        [0xfc00..=0xfdff, ..] // private
        | [0, 0, 0, 0, 0, 0, 0, 0 | 1]
        | [0xfe80..=0xfebf, ..]
        | [0x2001, 0x0010..=0x001f | 0x0db8, ..]
        | [0x005f | 0x3ff3, ..]
    )
}

#[cfg(test)]
mod tests;
