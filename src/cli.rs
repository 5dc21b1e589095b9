//! The command line: its syntax, and how it leads to a checked [`Config`].
//!
//! The keys' flags are generated from the table of keys, so that each key has one and `--help` is
//! always complete. Their values are taken as text here and checked together with those of the
//! environment and the file, so that one error reports all faults; clap itself ends the program
//! (exit code 2) only for a command line that it cannot parse.

use std::convert::Infallible;
use std::io::{self, Read as _};
use std::{ffi::OsString, path::PathBuf};

use clap::{
    Arg, ArgAction, ArgMatches, Args, Command as ClapCommand, FromArgMatches, Parser, Subcommand, value_parser,
};

use crate::config::{
    CONFIG_VARIABLE, Config, Faults, Flag, Kind, Secret, SiteFiles, Sources,
    keys::{self, Fallback, KEYS, Key},
};
use crate::version;

pub mod completions;
pub mod import;
pub mod man;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = NAME, version = version::VERSION, long_version = version::LONG, about, long_about = LONG_ABOUT, after_help = AFTER_HELP, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve: forward everything, answer refreshes
    #[command(after_help = AFTER_HELP)]
    Serve(Options),
    /// Check everything that serve checks before it listens, and print what was found
    #[command(after_help = AFTER_HELP)]
    Check(Options),
    /// Check the whole installation: what is ok, what is not, and how to fix it
    #[command(after_help = DOCTOR_HELP)]
    Doctor {
        /// Print JSON for programs in place of text
        #[arg(long)]
        json: bool,
        /// Do not run the site's own PHP code; what it changes is then not seen
        #[arg(long)]
        no_php: bool,
        /// Let WordPress refresh this token, which uses it up, and compare its response with the
        /// sidecar's; "-" reads the token from standard input, where no process list shows it
        #[arg(long, value_name = "TOKEN", allow_hyphen_values = true, value_parser = secret)]
        with_token: Option<Secret>,
        /// As for serve.
        #[command(flatten)]
        options: Options,
    },
    /// Let PHP run the site's wp-config.php once, and write what it defines to a file that serve
    /// uses instead
    #[command(after_help = import::HELP)]
    Import {
        /// How.
        #[command(flatten)]
        how: Box<import::How>,
        /// Where the site is.
        #[command(flatten)]
        options: Options,
    },
    /// Show whether the running sidecar's refreshes are proven to be WordPress's, and what differs;
    /// begin again
    #[command(after_help = VERIFY_HELP)]
    Verify {
        /// Let the running sidecar begin again, as if it knew nothing about the site
        #[arg(long)]
        again: bool,
        /// Print JSON for programs in place of text
        #[arg(long)]
        json: bool,
        /// On a network: a further site, by its id or its URL [default: the first site]
        #[arg(long, value_name = "ID|URL")]
        site: Option<String>,
        /// As for serve.
        #[command(flatten)]
        options: Options,
    },
    /// Show what an index on the refresh tokens would do for the site's own look-ups; add it or
    /// remove it
    #[command(after_help = AFTER_HELP)]
    Index {
        /// Add it, while the table stays in use
        #[arg(long, conflicts_with = "drop")]
        apply: bool,
        /// Remove it, if it is the one that --apply added
        #[arg(long)]
        drop: bool,
        /// On a network: a further site, by its id or its URL [default: the first site]
        #[arg(long, value_name = "ID|URL")]
        site: Option<String>,
        /// Where the database is.
        #[command(flatten)]
        options: Options,
    },
    /// Print the completions of commands and flags for a shell
    #[command(after_help = COMPLETIONS_HELP)]
    Completions {
        /// Which shell
        shell: completions::Shell,
    },
    /// Print the manual page: wp-jwt-sidecar man | man -l -
    Man,
}

/// The options of every command: a file and a flag for each key.
#[derive(Debug, Clone)]
pub struct Options {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// The keys that were given as flags.
    pub flags: Vec<Flag>,
}

/// Reads flags, environment, file and defaults, and checks them together.
///
/// # Errors
/// All faults of all sources at once; see [`Config::load`].
pub fn load(options: &Options, environment: impl Iterator<Item = (OsString, OsString)>) -> Result<Config, Faults> {
    Config::load(&sources(options, environment))
}

/// Reads the same for the two files that describe the site, whatever else is wrong.
///
/// # Errors
/// What is wrong with these.
pub fn site_files(
    options: &Options,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<SiteFiles, Faults> {
    Config::site_files(&sources(options, environment))
}

fn sources(options: &Options, environment: impl Iterator<Item = (OsString, OsString)>) -> Sources {
    Sources {
        flags: options.flags.clone(),
        environment: environment.collect(),
        file: options.config.clone(),
        default_file: Some(PathBuf::from(DEFAULT_FILE)),
    }
}

/// SECURITY: it never fails, so clap never quotes the value.
fn secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text))
}

/// In bytes: far longer than any token.
const LONGEST_TOKEN: u64 = 4096;

/// The token of `--with-token`: the argument itself, or the contents of standard input.
///
/// # Errors
/// Standard input cannot be read.
pub fn token(given: Secret) -> io::Result<Secret> {
    if given.expose() != "-" {
        return Ok(given);
    }
    let mut text = String::new();
    io::stdin().lock().take(LONGEST_TOKEN).read_to_string(&mut text)?;
    Ok(Secret::new(text.trim()))
}

/// The program's name.
pub const NAME: &str = "wp-jwt-sidecar";

/// Read if no other file is named, and if it exists.
pub const DEFAULT_FILE: &str = "/etc/wp-jwt-sidecar/config.toml";

const LONG_ABOUT: &str = "\
Stands in front of a WordPress site and forwards every request to it unchanged, save one: calls of the
token refresh route of the plugin JWT Auth Pro, which it answers itself from the site's database.";

const AFTER_HELP: &str = "\
Example:
  wp-jwt-sidecar serve --listen 127.0.0.1:8080 --upstream http://127.0.0.1:8081 \\
      --wp-config /var/www/html/wp-config.php

Configuration:
  A flag wins over its environment variable, that over the file, that over the default.
  The file is --config, else $WP_JWT_SIDECAR_CONFIG, else /etc/wp-jwt-sidecar/config.toml if it exists.
  Every key has a variable: upstream.url is $WP_JWT_SIDECAR_UPSTREAM_URL (lists: separated by commas).
  Secrets have no flag. config.example.toml explains every key.

Exit codes:
  0 done, 2 wrong usage, 75 nothing to listen on yet (no certificate can be read), 78 wrong configuration.";

const COMPLETIONS_HELP: &str = "\
The Debian package installs them. Else, where each shell looks for them:
  bash  wp-jwt-sidecar completions bash > /usr/share/bash-completion/completions/wp-jwt-sidecar
  zsh   wp-jwt-sidecar completions zsh  > /usr/local/share/zsh/site-functions/_wp-jwt-sidecar
  fish  wp-jwt-sidecar completions fish > /usr/share/fish/vendor_completions.d/wp-jwt-sidecar.fish";

const DOCTOR_HELP: &str = "\
Run it with the options of serve, as the user that the sidecar runs as:
  sudo -u wp-jwt-sidecar wp-jwt-sidecar doctor

Without --with-token it changes nothing. It takes about ten seconds, longer where something hangs. It asks the database and the
web server, sends refused refreshes to WordPress to compare its responses (two of them appear in the plugin's statistics), and, if
there is a PHP command line, starts WordPress with a read-only database to see which code of the site hooks into the plugin: as the
owner of the site's files if root runs it, otherwise as its own user.

With --with-token WordPress makes one real refresh, and the output says, member by member, claim by claim and field by field, how
the response differs from the sidecar's. Values that are secret or personal are not shown, and the token only as the
first 8 digits of its SHA-256. The new pair is shown and kept nowhere: the client that the token belongs to has to log in again,
so take the refresh token of a login made for this:
  wp-jwt-sidecar doctor --with-token - </path/to/a/file/with/the/token

Exit codes: 0 all well, 1 warnings, 2 problems (a wrong configuration is one).";

const VERIFY_HELP: &str = "\
Run it with the options of serve, as the user that the sidecar runs as:
  sudo -u wp-jwt-sidecar wp-jwt-sidecar verify

It asks the sidecar that listens for operators at admin.listen; if that is \"off\", it shows what the sidecar last stored in
its state directory. States:
  unverified  WordPress has the refreshes, until enough of its responses equal what the sidecar would have given
  agrees      refreshes are native, except for a thin sample that is compared
  differs     WordPress has the refreshes, since it does them differently: what differs is shown, names and types only
  closed      WordPress has the refreshes, since it refuses its REST API
  trusted     refreshes are native, and nothing is verified: refresh.verify is \"off\"

--again puts a marker into the state directory (refresh.state_directory, else $STATE_DIRECTORY, else /var/lib/wp-jwt-sidecar), which the
running sidecar sees within seconds.

--site shows what that directory has about a further site of a network, and --again then lets that site alone begin again: within
seconds if it is in use, else at its next refresh.

Exit codes: 0 agrees or trusted, 1 any other state, 2 not known (no sidecar responds) or not begun again, 78 wrong configuration.";

impl Args for Options {
    fn augment_args(command: ClapCommand) -> ClapCommand {
        let file =
            Arg::new(CONFIG).long(CONFIG).value_name("FILE").value_parser(value_parser!(PathBuf)).help(format!(
                "The configuration file [env: {CONFIG_VARIABLE}] [default: {DEFAULT_FILE}, if it exists]"
            ));
        command.arg(file).args(KEYS.iter().map(argument))
    }

    fn augment_args_for_update(command: ClapCommand) -> ClapCommand {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Options {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = KEYS.iter().flat_map(|key| {
            let texts = matches.get_many::<String>(key.name).unwrap_or_default();
            // SECURITY: the text of a secret stays within clap; the flag is refused later.
            texts.map(move |text| Flag { key, text: (key.kind != Kind::Secret).then(|| text.clone()) })
        });
        Ok(Self { config: matches.get_one::<PathBuf>(CONFIG).cloned(), flags: given.collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

const CONFIG: &str = "config";

fn argument(key: &'static Key) -> Arg {
    let default = match key.default {
        Fallback::Is(text) if !text.is_empty() => format!(" [default: {text}]"),
        Fallback::Is(_) => String::new(),
        Fallback::Required { .. } => " [required]".into(),
        Fallback::Unset { means, .. } => format!(" [not set: {means}]"),
    };
    let repeated = matches!(key.kind, Kind::List(_));
    Arg::new(key.name)
        .long(key.flag())
        .value_name(key.kind.placeholder())
        .action(if repeated { ArgAction::Append } else { ArgAction::Set })
        .help(format!("{}{default}{}", key.about.trim_end_matches('.'), if repeated { " (repeatable)" } else { "" }))
        .help_heading(heading(key))
        .hide(key.kind.is_secret())
}

/// The section as in the file, where its keys are explained.
fn heading(key: &Key) -> &'static str {
    keys::SECTIONS.iter().map(|(section, _)| *section).find(|section| *section == key.section()).unwrap_or("Options")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn clap_finds_no_fault() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_reach_the_options() {
        let cli =
            Cli::try_parse_from(["x", "serve", "--listen", "a", "--listen", "b", "--upstream", "u", "--config", "c"])
                .unwrap();
        let Command::Serve(options) = cli.command else { panic!("not serve") };
        assert_eq!(options.config, Some(PathBuf::from("c")));
        let flags: Vec<_> = options.flags.iter().map(|flag| (flag.key.name, flag.text.as_deref())).collect();
        assert_eq!(flags, [("server.listen", Some("a")), ("server.listen", Some("b")), ("upstream.url", Some("u"))]);
    }

    #[test]
    fn a_secret_on_the_command_line_goes_nowhere() {
        let cli = Cli::try_parse_from(["x", "check", "--jwt-secret", "hunter2"]).unwrap();
        assert!(!format!("{cli:?}").contains("hunter2"));
        let Command::Check(options) = cli.command else { panic!("not check") };
        assert_eq!(options.flags.first().and_then(|flag| flag.text.clone()), None);
    }

    #[test]
    fn a_token_to_refresh_is_never_shown() {
        for given in ["0123456789abcdef0123456789abcdef", "-x y\u{1b}"] {
            let cli = Cli::try_parse_from(["x", "doctor", "--with-token", given]).unwrap();
            assert!(!format!("{cli:?}").contains(given), "{cli:?}");
            let Command::Doctor { with_token: Some(token), .. } = cli.command else { panic!("no token") };
            assert_eq!(super::token(token).unwrap().expose(), given);
        }
    }

    #[test]
    fn help_shows_every_flag_but_those_of_secrets() {
        let mut command = Cli::command();
        let help = command.find_subcommand_mut("serve").map(|serve| serve.render_help().to_string()).unwrap();
        for key in KEYS {
            assert_eq!(help.contains(&format!("--{} <", key.flag())), !key.kind.is_secret(), "{}", key.name);
        }
    }
}
