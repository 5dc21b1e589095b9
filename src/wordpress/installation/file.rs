//! Finds and opens `wp-config.php`, or an import that replaces it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::PassedOver;
use crate::config::{self, Fault};
use crate::wordpress::imported::Imported;
use crate::wordpress::wp_config::{self, Doubt, Lookup, SIZE_LIMIT, Surroundings, WpConfig, WpConfigError};

/// A configuration file with its contents.
pub(super) struct ConfigFile {
    /// With symbolic links resolved.
    pub(super) path: PathBuf,
    pub(super) content: Content,
    /// The import that the contents come from, if any.
    pub(super) import: Option<PathBuf>,
}

/// The definitions of a configuration file.
pub(super) enum Content {
    /// Read by the sidecar.
    Read(Box<WpConfig>),
    /// Evaluated by PHP.
    Imported(Box<Imported>),
}

impl Content {
    /// See [`WpConfig::constant`].
    pub(super) fn constant(&self, name: &str) -> Lookup<'_> {
        match self {
            Self::Read(read) => read.constant(name),
            Self::Imported(imported) => imported.constant(name),
        }
    }

    /// See [`WpConfig::table_prefix`].
    pub(super) fn table_prefix(&self) -> Lookup<'_> {
        match self {
            Self::Read(read) => read.table_prefix(),
            Self::Imported(imported) => imported.table_prefix(),
        }
    }

    /// See [`WpConfig::assumed`]. PHP assumes nothing.
    pub(super) fn assumed(&self) -> Vec<String> {
        match self {
            Self::Read(read) => read.assumed(),
            Self::Imported(_) => Vec::new(),
        }
    }

    /// See [`WpConfig::incomplete`]. PHP runs all code.
    pub(super) fn incomplete(&self) -> Option<&Doubt> {
        match self {
            Self::Read(read) => read.incomplete(),
            Self::Imported(_) => None,
        }
    }
}

/// The site's definitions: the import, if there is one of this site, otherwise `wp-config.php`. An
/// import of another site goes into `passed_over`.
pub(super) fn of(
    config: &config::WordPress,
    environment: &dyn Fn(&str) -> Option<OsString>,
    passed_over: &mut Option<PassedOver>,
) -> Result<Option<ConfigFile>, Fault> {
    match config.import.as_ref().map(|import| imported(import, config.config.as_deref())).transpose()? {
        Some(Ok(file)) => return Ok(Some(file)),
        Some(Err(other)) => *passed_over = Some(other),
        None => {}
    }
    config.config.as_deref().map(|path| read(path, environment)).transpose()
}

/// `Err` if the file is in the default place and belongs to another site.
fn imported(import: &config::ImportFile, wanted: Option<&Path>) -> Result<Result<ConfigFile, PassedOver>, Fault> {
    let fault = |problem: String| Fault {
        key: "wordpress.import".to_owned(),
        value: Some(import.path.display().to_string()),
        problem,
        ..Fault::default()
    };
    let imported = Imported::read(&import.path).map_err(fault)?;
    let wanted = wanted.map(file_in);
    let wanted = wanted.as_deref();
    if let Some(wanted) = wanted.filter(|wanted| !imported.is_of(wanted, &found(wanted))) {
        let (file, made_of, wanted) = (import.path.clone(), imported.config.clone(), wanted.to_owned());
        let other = PassedOver { file, made_of, wanted };
        return if import.is_named { Err(fault(other.contradiction())) } else { Ok(Err(other)) };
    }
    Ok(Ok(ConfigFile {
        path: imported.resolved.clone(),
        content: Content::Imported(Box::new(imported)),
        import: Some(import.path.clone()),
    }))
}

/// A directory stands for the `wp-config.php` in it.
fn file_in(path: &Path) -> PathBuf {
    if path.is_dir() { path.join("wp-config.php") } else { path.to_owned() }
}

/// Reads `path`, or if it does not exist, the file that WordPress would use.
fn read(path: &Path, environment: &dyn Fn(&str) -> Option<OsString>) -> Result<ConfigFile, Fault> {
    let wanted = file_in(path);
    let found = found(&wanted);
    let source = read_limited(&found).map_err(|error| fault(&found, unreadable(&found, &error)))?;
    let resolved = fs::canonicalize(&found).map_err(|error| fault(&found, unreadable(&found, &error)))?;
    // wp-load.php takes its own directory, with links resolved, as WordPress's root.
    let root = wanted.parent().and_then(|directory| fs::canonicalize(directory.join("wp-load.php")).ok());
    let surroundings =
        Surroundings { environment, read_file: &read_limited, canonicalize: &|path| fs::canonicalize(path) };
    let content = wp_config::read(&resolved, &source, root.as_deref().and_then(Path::parent), &surroundings)
        .map_err(|error| fault(&found, unread(&error)))?;
    Ok(ConfigFile { path: resolved, content: Content::Read(Box::new(content)), import: None })
}

/// What to do about a file that exists but cannot be evaluated at all.
fn unread(error: &WpConfigError) -> String {
    let check = if matches!(error, WpConfigError::Syntax { .. }) { "see what `php -l` says of it, " } else { "" };
    format!(
        "{error}; {check}run `wp-jwt-sidecar import`, which has PHP say it, or leave wordpress.config out and set \
         wordpress.database_url, wordpress.table_prefix, wordpress.auth_key, wordpress.auth_salt and jwt.secret"
    )
}

/// WordPress also looks one level above its root, unless another WordPress is there (wp-load.php).
pub fn found(wanted: &Path) -> PathBuf {
    let directory = if wanted.parent() == Some(Path::new("")) { Some(Path::new(".")) } else { wanted.parent() };
    let above = directory
        .and_then(|directory| fs::canonicalize(directory).ok())
        .and_then(|directory| directory.parent().map(Path::to_owned));
    match (wanted.file_name(), above) {
        (Some(name), Some(above)) if name == "wp-config.php" && is_absent(wanted) => {
            let candidate = above.join(name);
            if candidate.is_file() && is_absent(&above.join("wp-settings.php")) { candidate } else { wanted.to_owned() }
        }
        _ => wanted.to_owned(),
    }
}

fn is_absent(path: &Path) -> bool {
    path.metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Reads one byte more than the limit, so that the reader notices a file that is too large.
fn read_limited(path: &Path) -> io::Result<Vec<u8>> {
    // SECURITY: a file that the kernel generates does not belong to the site: PHP sees another one
    // there.
    let resolved = fs::canonicalize(path)?;
    if ["/proc", "/sys", "/dev"].iter().any(|system| resolved.starts_with(system)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not read: it is a file of the system"));
    }
    // SECURITY: a FIFO or a device named in a configuration would block (even in open) or never
    // end.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let file = File::open(path)?;
    let mut content = Vec::new();
    file.take(SIZE_LIMIT as u64 + 1).read_to_end(&mut content)?;
    Ok(content)
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => {
            let owner = path.metadata().ok().map(|file| (file.uid(), file.gid(), file.mode()));
            permission_problem(path, &current_user(), owner)
        }
        _ => error.to_string(),
    }
}

/// Which user may not read it, and how to fix that.
fn permission_problem(path: &Path, user: &str, owner: Option<(u32, u32, u32)>) -> String {
    let rights = owner.map(|(uid, gid, mode)| {
        let name = |id: u32, database: &str| name_of(id, database).unwrap_or_else(|| id.to_string());
        format!(" (it belongs to {}:{}, mode {:04o})", name(uid, "/etc/passwd"), name(gid, "/etc/group"), mode & 0o7777)
    });
    format!(
        "the user {user}, who runs this program, may not read it{}; allow it with `setfacl -m u:{user}:r {}`, add {user} to the file's group, run `wp-jwt-sidecar import`, or set \
         wordpress.database_url, table_prefix, auth_key, auth_salt and jwt.secret instead",
        rights.unwrap_or_default(),
        path.display(),
    )
}

fn current_user() -> String {
    // The owner of /proc/self is the effective user of the process (proc(5)).
    match fs::metadata("/proc/self") {
        Ok(process) => name_of(process.uid(), "/etc/passwd").unwrap_or_else(|| process.uid().to_string()),
        Err(_) => "of this process".to_owned(),
    }
}

/// From `name:password:id:…`; `None` if the database is elsewhere (LDAP).
fn name_of(id: u32, database: &str) -> Option<String> {
    let content = fs::read_to_string(database).ok()?;
    content.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    })
}

fn fault(path: &Path, problem: String) -> Fault {
    Fault { key: "wordpress.config".to_owned(), value: Some(path.display().to_string()), problem, ..Fault::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_user_and_the_fix() {
        let problem = permission_problem(Path::new("/srv/wp-config.php"), "sidecar", Some((0, 0, 0o100_640)));
        assert!(
            problem.starts_with(
                "the user sidecar, who runs this program, may not read it (it belongs to root:root, mode 0640)"
            ),
            "{problem}"
        );
        assert!(problem.contains("setfacl -m u:sidecar:r /srv/wp-config.php"));
    }

    #[test]
    fn one_level_above_counts_unless_another_wordpress_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let above = fs::canonicalize(directory.path()).unwrap();
        let root = above.join("public");
        fs::create_dir(&root).unwrap();
        fs::write(above.join("wp-config.php"), "<?php define('X', __DIR__);").unwrap();
        fs::write(root.join("wp-load.php"), "").unwrap();
        let read_it = || read(&root.join("wp-config.php"), &|_| None);
        let file = read_it().unwrap();
        assert_eq!(file.path, above.join("wp-config.php"));
        let wp_config::Lookup::Known(abspath, _) = file.content.constant("ABSPATH") else {
            panic!("ABSPATH is not known")
        };
        assert_eq!(abspath.to_bytes(), format!("{}/", root.display()).into_bytes());
        assert_eq!(read(&root, &|_| None).unwrap().path, file.path);

        fs::write(above.join("wp-settings.php"), "").unwrap();
        assert_eq!(read_it().err().unwrap().problem, "there is no such file");
    }

    #[test]
    fn what_is_no_file_or_too_large_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wp-config.php");
        fs::write(&path, vec![b' '; SIZE_LIMIT + 1]).unwrap();
        assert!(read(&path, &|_| None).err().unwrap().problem.starts_with("it is larger than 1024 KiB"));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        fs::create_dir(path.join("wp-config.php")).unwrap();
        assert!(read(&path, &|_| None).is_err());
        let fifo = directory.path().join("fifo.php");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        assert_eq!(read(&fifo, &|_| None).err().unwrap().problem, "not a regular file");
    }
}
