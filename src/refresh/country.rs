//! The country code of an analytics row, as the plugin finds it.
//!
//! The plugin brings a country database along in its folder; the sidecar reads the same file, or one that is
//! configured. It reads it whole and keeps it: some 9 MB. Nothing is downloaded, and no address leaves the machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use maxminddb::{MaxMindDbError, Reader, path};
use tracing::warn;

/// The database's place in the plugin's folder.
const IN_PLUGIN: &str = "src/Database/Countries/GeoLite2-Country.mmdb";

/// How often it is looked whether the file was replaced (an update of the plugin brings a new one).
const LOOK_EVERY: Duration = Duration::from_secs(60);

const PRIVATE_OR_RESERVED: &str = "--";
const UNKNOWN: &str = "XX";
const NO_DATABASE: &str = "ZZ";

/// The country database, once it has been looked for.
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
    #[error("it is no country database: {0}")]
    Format(#[from] MaxMindDbError),
}

impl Countries {
    /// `configured` is `[refresh] country_database`; without it the plugin's own file below `plugins_dir` is used.
    /// Opens nothing yet.
    pub fn new(configured: Option<PathBuf>, plugins_dir: Option<PathBuf>) -> Self {
        Self { configured, plugins_dir, looked: None, opened: None }
    }

    /// Opens the database, or opens it again when the file was replaced. Cheap when it was done a moment ago; meant to
    /// be called before every batch of [`Countries::code`].
    ///
    /// `plugin` is the plugin's main file below the plugins' folder: `jwt-auth-pro/jwt-auth-pro.php`. A file that cannot
    /// be read is said once in the log.
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
        // The file is larger than what may be read between two awaits.
        let opened = tokio::task::spawn_blocking(move || open_if_new(file, known)).await;
        if let Ok(Some(opened)) = opened {
            self.opened = Some(opened);
        }
    }

    /// Two characters: an ISO 3166 code, `--` for what PHP calls private or reserved, `XX` for an address that the
    /// database does not know, `ZZ` without a database.
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
        // SECURITY: the folder's name comes from the site's database; it must not lead out of the plugins' folder.
        let (folder, _) = plugin.split_once('/')?;
        if matches!(folder, "" | "." | "..") || folder.contains('\0') {
            return None;
        }
        Some(self.plugins_dir.as_ref()?.join(folder).join(IN_PLUGIN))
    }
}

/// `None`: the file is the one that is known.
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
    // A file that only looks like a database shows it at the first look-up.
    iso_code(&reader, IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8)))?;
    Ok(reader)
}

/// `None`: the database has no entry for the address, or one without a country.
fn iso_code(reader: &Reader<Vec<u8>>, address: IpAddr) -> Result<Option<String>, MaxMindDbError> {
    // A database of IPv4 networks only has no entry for an IPv6 address.
    if address.is_ipv6() && reader.metadata().ip_version == 4 {
        return Ok(None);
    }
    let code: Option<&str> = reader.lookup(address)?.decode_path(&path!["country", "iso_code"])?;
    // The column is CHAR(2).
    Ok(code.filter(|code| code.len() == 2 && code.is_ascii()).map(str::to_owned))
}

/// What PHP's `filter_var()` refuses with `FILTER_FLAG_NO_PRIV_RANGE | FILTER_FLAG_NO_RES_RANGE`, as of PHP 8.2: its own
/// list, which is neither complete nor all of it current.
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
