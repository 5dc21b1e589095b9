//! The command line of `import`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args};

use crate::config::Secret;

/// How `wp-config.php` is run, and what becomes of what PHP says.
#[derive(Debug, Clone, Args)]
#[command(group = ArgGroup::new("purpose").args(["print", "check"]))]
pub struct How {
    /// The user that PHP runs as [not set: as the pool says, else the owner of wp-config.php]
    #[arg(long, value_name = "NAME", help_heading = "PHP")]
    pub user: Option<String>,
    /// The file of PHP-FPM's pool: its user and group, and its env[…] lines
    #[arg(long, value_name = "FILE", help_heading = "PHP")]
    pub fpm_pool: Option<PathBuf>,
    /// The PHP to run [not set: php-cgi where it is installed, else php]
    #[arg(long, value_name = "PROGRAM", help_heading = "PHP")]
    pub php: Option<PathBuf>,
    /// A file of NAME=VALUE lines: environment variables that the web server gives to PHP (repeatable)
    #[arg(long, value_name = "FILE", help_heading = "PHP")]
    pub env_file: Vec<PathBuf>,
    /// An environment variable that the web server gives to PHP (repeatable); other users may see it in the list of processes,
    /// so secrets belong in --env-file
    #[arg(long, value_name = "NAME=VALUE", value_parser = secret, help_heading = "PHP")]
    pub env: Vec<Secret>,
    /// The host that clients send, if wp-config.php serves several sites
    #[arg(long, value_name = "HOST", help_heading = "PHP")]
    pub host: Option<String>,
    /// WordPress's own directory, where wp-load.php is [not set: searched beside wp-config.php and one directory below]
    #[arg(long, value_name = "DIRECTORY", help_heading = "PHP")]
    pub root: Option<PathBuf>,
    /// How long PHP may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds, help_heading = "PHP")]
    pub timeout: Duration,
    /// Accept the result even if a file asks whether the command line runs it
    #[arg(long, help_heading = "PHP")]
    pub accept_cli: bool,
    /// The file to write [not set: as wordpress.import says, else /etc/wp-jwt-sidecar/site.toml]
    #[arg(long, value_name = "FILE", help_heading = "What is written")]
    pub output: Option<PathBuf>,
    /// The group that may read it, the service's
    #[arg(long, value_name = "NAME", default_value = crate::cli::NAME, help_heading = "What is written")]
    pub group: String,
    /// Write nothing; show what was found, without values, and where it is defined
    #[arg(long, help_heading = "What is written")]
    pub print: bool,
    /// Write nothing; say by the exit code whether anything would change
    #[arg(long, help_heading = "What is written")]
    pub check: bool,
}

/// SECURITY: it never fails, so that clap never quotes it.
fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 1..=600) => Ok(Duration::from_secs(seconds)),
        _ => Err("accepted: a whole number of seconds from 1 to 600".to_owned()),
    }
}

/// What stands below the options.
pub const HELP: &str = "\
Runs the site's wp-config.php by PHP, up to the place where it loads WordPress, and writes what it defines to a file that
`serve` takes in its place. For sites whose wp-config.php only PHP understands (Bedrock, Dotenv, switches by host). Run it
as root, after each change of the site's configuration; `doctor` says when that is due:
  wp-jwt-sidecar import --wp-config /srv/site/web/wp-config.php && systemctl reload wp-jwt-sidecar

PHP runs as the site's user, never as root and never as the service, with limits of time, processes, memory and output, and
without network where the system lets it. It has the environment that the options give, and no other.
Secrets are written to the file, which root and the service's group may read, and nowhere else.

Exit codes:
  0 done (with --check: nothing would change), 1 with --check: something would change, 2 not done, 78 wrong configuration.";
