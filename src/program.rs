//! The program from the command line to the exit code: parses the arguments, loads the
//! configuration, binds, reports readiness, runs.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::assemble::{Parts, Sidecar};
use crate::cli::{self, Cli, Command};
use crate::config::{self, Faults, RefreshMode, Verify};
use crate::doctor::report::{self, Style};
use crate::doctor::{self, How};
use crate::finding::{Level, verdict};
use crate::import::{self, ImportError, Outcome};
use crate::index::{self, Action};
use crate::listen::inherited::Inherited;
use crate::listen::listeners;
use crate::net::dial::Dialer;
use crate::printable::{self, Form, Printer};
use crate::serve::notify;
use crate::serve::{self, Load};
use crate::share::Share;
use crate::tls::Tls;
use crate::tls::certificates::Warning;
use crate::verify::command::{self, VerifyError};
use crate::wordpress::database::Database;
use crate::wordpress::installation::{self, Installation};
use crate::wordpress::network::named::Named;
use crate::{admin, panics, telemetry};
use anyhow::Context as _;
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing::warn;

/// `EX_CONFIG` of sysexits.h: systemd's `RestartPreventExitStatus=78` stops it from restarting the
/// program with an invalid configuration again and again.
const WRONG_CONFIGURATION: u8 = 78;

/// `EX_TEMPFAIL` of sysexits.h: what is missing may be there at the next start, so systemd's
/// `Restart=` may try again.
const NOTHING_TO_SERVE: u8 = 75;

/// How long the start waits for a certificate if nothing can be served without one. Only then does
/// the service manager have to start the program again: at this pace it never reaches the limit of
/// ten starts in a minute (`StartLimitBurst=`) that would end its attempts.
const WAIT_FOR_CERTIFICATE: Duration = Duration::from_secs(7);

/// What `check` says of `verify = "off"`.
const UNVERIFIED: &str = "\"off\" is a risk: what the site's own PHP code does at a refresh (other members or claims, another lifetime, \
                          users whom it refuses) is neither compared nor looked for, and does not happen at native refreshes; set \
                          \"auto\", unless every change to the site is your own";

/// How often the start checks whether the certificate is there.
const LOOK_FOR_CERTIFICATE: Duration = Duration::from_millis(500);

/// Why the program ends with [`NOTHING_TO_SERVE`].
#[derive(Debug, thiserror::Error)]
#[error(
    "there is nothing to listen on: server.listen is empty, and no pair of tls.certificates can be read yet: {}",
    .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
)]
struct NothingToServe(Vec<Warning>);

impl NothingToServe {
    fn of(parts: &Parts) -> Result<(), Self> {
        match parts.can_serve() {
            true => Ok(()),
            false => Err(NothingToServe(parts.tls.as_ref().map(|tls| tls.warnings()).unwrap_or_default())),
        }
    }
}

/// Runs the command of the command line, and returns the exit code.
pub fn main() -> ExitCode {
    panics::install_hook();
    match Cli::parse().command {
        Command::Serve(options) => configured(&options, |parts| serve(parts, options.clone())),
        Command::Check(options) => checked(&options),
        Command::Doctor { json, no_php, with_token, options } => match with_token.map(cli::token).transpose() {
            Ok(token) => doctor(&options, json, &How { runs_php: !no_php, token }),
            Err(error) => ended(Err(error)),
        },
        Command::Import { how, options } => import(&options, &how),
        Command::Verify { again, json, site, options } => verify(&options, command::How { json, again, site }),
        Command::Index { apply, drop, site, options } => {
            let action = match (apply, drop) {
                (true, _) => Action::Apply,
                (_, true) => Action::Drop,
                _ => Action::Show,
            };
            configured(&options, |parts| index(parts.installation, action, site.as_deref()))
        }
        Command::Completions { shell } => ended(cli::completions::write(shell, &mut std::io::stdout())),
        Command::Man => ended(cli::man::write(&mut std::io::stdout())),
    }
}

fn configured(options: &cli::Options, run: impl FnOnce(Parts) -> anyhow::Result<()>) -> ExitCode {
    match load(options) {
        Ok(parts) => ended(run(parts)),
        Err(faults) => {
            complain(faults);
            ExitCode::from(WRONG_CONFIGURATION)
        }
    }
}

/// For `ExecReload=`: an invalid configuration fails the reload, a missing credential does not.
fn checked(options: &cli::Options) -> ExitCode {
    // systemd sets $MAINPID for the commands that it runs beside a running service.
    let credentials = std::env::var_os("MAINPID").and_then(|_| std::env::var_os("CREDENTIALS_DIRECTORY"));
    match (load(options), credentials) {
        (Err(faults), Some(directory)) if faults.are_hidden_credentials(Path::new(&directory)) => {
            eprintln!(
                "wp-jwt-sidecar: systemd shows the service's credentials to the service only, which checks them itself"
            );
            ExitCode::SUCCESS
        }
        _ => configured(options, check),
    }
}

/// Prints an error to standard error. The text may quote a file or a server, so control characters
/// are escaped.
fn complain(what: impl Display) {
    eprintln!("wp-jwt-sidecar: {}", printable::lines(&what.to_string()));
}

fn ended(result: Result<(), impl Into<anyhow::Error>>) -> ExitCode {
    match result.map_err(Into::into) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("{error:#}"));
            match () {
                () if error.is::<Faults>() => ExitCode::from(WRONG_CONFIGURATION),
                () if error.is::<NothingToServe>() => ExitCode::from(NOTHING_TO_SERVE),
                () => ExitCode::FAILURE,
            }
        }
    }
}

/// The exit code is that of the most severe finding.
fn doctor(options: &cli::Options, json: bool, how: &How) -> ExitCode {
    if std::io::stdout().is_terminal() {
        eprintln!("looking; this takes some ten seconds …");
    }
    let shown = doctor::examine(options, std::env::vars_os().collect(), how).and_then(|findings| {
        let mut out = std::io::stdout().lock();
        match json {
            true => report::json(&findings, &mut out)?,
            false => report::text(&findings, Style::of_stdout(), &mut out)?,
        }
        Ok(verdict(&findings))
    });
    match shown {
        Ok(Level::Ok) => ExitCode::SUCCESS,
        Ok(Level::Warning) => ExitCode::from(1),
        Ok(Level::Problem) => ExitCode::from(2),
        Err(error) => {
            complain(error);
            ExitCode::from(2)
        }
    }
}

/// The exit code tells whether refreshes are native.
fn verify(options: &cli::Options, how: command::How) -> ExitCode {
    let again = how.again;
    let shown = cli::load(options, std::env::vars_os()).map_err(VerifyError::from).and_then(|config| {
        let environment = |name: &str| std::env::var_os(name);
        let installation = || installation::installation(&config.wordpress, &config.jwt, &environment);
        command::run(&config, installation, how, &mut std::io::stdout().lock())
    });
    match shown {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) if again => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            complain(&error);
            match error {
                VerifyError::Configuration(_) => ExitCode::from(WRONG_CONFIGURATION),
                VerifyError::Forward => ExitCode::from(1),
                // The command was carried out, but its effect was not observed yet.
                VerifyError::Asleep(..) => ExitCode::SUCCESS,
                _ => ExitCode::from(2),
            }
        }
    }
}

/// With `--check`, the exit code tells whether an import would change the file.
fn import(options: &cli::Options, how: &cli::import::How) -> ExitCode {
    let done = cli::site_files(options, std::env::vars_os()).map_err(ImportError::from).and_then(|files| {
        let mut out = Printer::new(std::io::stdout(), Form::Text);
        import::run(&files, how, &mut out)
    });
    match done {
        Ok(Outcome::Changed) if how.check => ExitCode::from(1),
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            match error {
                ImportError::Configuration(_) => ExitCode::from(WRONG_CONFIGURATION),
                _ => ExitCode::from(2),
            }
        }
    }
}

fn load(options: &cli::Options) -> Result<Parts, Faults> {
    let config = cli::load(options, std::env::vars_os())?;
    let dialer = Dialer::new(&config.upstream);
    let tls = Tls::load(&config.tls);
    let installation = match config.refresh.mode {
        RefreshMode::Native => {
            let environment = |name: &str| std::env::var_os(name);
            installation::installation(&config.wordpress, &config.jwt, &environment).map(Some)
        }
        RefreshMode::Forward => Ok(None),
    };
    match (dialer, tls, installation) {
        (Ok(dialer), Ok(tls), Ok(installation)) => Ok(Parts { config, dialer, tls, installation }),
        (dialer, tls, installation) => {
            let faults = [dialer.err(), tls.err(), installation.err()];
            Err(Faults(faults.into_iter().flatten().flat_map(|Faults(faults)| faults).collect()))
        }
    }
}

fn serve(parts: Parts, options: cli::Options) -> anyhow::Result<()> {
    let parts = with_something_to_serve(parts, &options)?;
    let config = &parts.config;
    let inherited = Inherited::from_environment()?;
    inherited.check(config)?;
    let _telemetry = telemetry::start(&config.log)?;
    if let Err(error) = config::raise_limit() {
        warn!(%error, "the limit of open files stays as it is");
    }
    for warning in &config.warnings {
        warn!("{warning}");
    }
    let bound = listeners::open(config, parts.tls.as_deref(), inherited)
        .map_err(|faults| anyhow::anyhow!(faults.one_line()))?;
    let admin = admin::bind(&config.admin, &config.server.unix).with_context(|| match &config.admin.listen {
        Some(address) => format!("admin.listen: cannot listen on {address}"),
        None => "admin.listen".to_owned(),
    })?;
    let sidecar = Sidecar::assemble(parts).context("cannot start")?;
    let load: Load = Arc::new(move || load(&options));
    serve::serve(sidecar, bound, admin, load, shutdown).context("cannot go on")
}

/// Waits up to [`WAIT_FOR_CERTIFICATE`] if nothing can be served without a certificate.
fn with_something_to_serve(mut parts: Parts, options: &cli::Options) -> anyhow::Result<Parts> {
    let latest = Instant::now() + if notify::is_wanted() { WAIT_FOR_CERTIFICATE } else { Duration::ZERO };
    while let Err(nothing) = NothingToServe::of(&parts) {
        if Instant::now() >= latest {
            return Err(nothing.into());
        }
        notify::status("waiting for a certificate");
        std::thread::sleep(LOOK_FOR_CERTIFICATE);
        // A pair may be half written at this moment; an error that persists is reported at the next
        // start.
        if let Ok(now) = load(options) {
            parts = now;
        }
    }
    Ok(parts)
}

/// From here on the two signals end the program in order. The future completes when one of them
/// arrives.
fn shutdown() -> std::io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn check(parts: Parts) -> anyhow::Result<()> {
    let can_serve = NothingToServe::of(&parts);
    let mut out = Printer::new(std::io::stdout(), Form::Text);
    writeln!(out, "configuration:\n{}", parts.config.effective())?;
    let server = &parts.config.server;
    writeln!(
        out,
        "open files: {}\nrequests in flight: {} in all, {} of one address, {} of one HTTP/2 connection (0: any number)",
        parts.config.open_files,
        server.max_exchanges,
        server.max_exchanges_per_address,
        server.max_exchanges_per_connection
    )?;
    // The last worker has the smallest share.
    let share = Share { worker: server.workers.saturating_sub(1), workers: server.workers };
    writeln!(
        out,
        "at each of {} workers: {} in all, {} of one address",
        server.workers,
        server.exchanges_at(share),
        server.exchanges_of_address_at(share)
    )?;
    for warning in &parts.config.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    if parts.installation.is_some() && parts.config.refresh.verify == Verify::Off {
        writeln!(out, "warning: refresh.verify: {UNVERIFIED}")?;
    }
    if let Some(tls) = &parts.tls {
        for warning in tls.warnings() {
            writeln!(out, "warning: {warning}")?;
        }
        writeln!(out, "certificates:")?;
        for certificate in tls.certificates() {
            writeln!(out, "  {certificate}: {}", certificate.files.chain.display())?;
        }
    }
    if let Some(installation) = &parts.installation {
        if let Some(other) = &installation.passed_over {
            writeln!(out, "warning: {}. {}", other.problem(), other.fix())?;
        }
        writeln!(out, "site: {}", installation.source())?;
        writeln!(out, "database: {}", installation.database_label)?;
        writeln!(out, "tables: {}jwt_auth_tokens and {}", installation.table_prefix, installation.users_table)?;
        for assumption in &installation.assumed {
            writeln!(out, "assumed: {assumption}")?;
        }
    }
    let sidecar = Sidecar::assemble(parts).context("cannot start")?;
    writeln!(out, "\nfound: {}", sidecar.look())?;
    for detail in sidecar.details() {
        writeln!(out, "{detail}")?;
    }
    if let Some(verification) = sidecar.verification() {
        writeln!(out, "verification: {verification}")?;
    }
    if let Some(host) = sidecar.database_host() {
        writeln!(out, "database in use: {host}")?;
    }
    if let Some(node) = sidecar.cluster_node() {
        writeln!(out, "database cluster: {node}")?;
    }
    for host in sidecar.database_tls() {
        writeln!(out, "TLS to the database: {host}")?;
    }
    if let Some(store) = sidecar.shared_store() {
        writeln!(out, "rate limit: {store}")?;
    }
    if let Some(used_tokens) = sidecar.used_tokens() {
        writeln!(out, "used tokens: {used_tokens}")?;
    }
    sidecar.end();
    Ok(can_serve?)
}

fn index(installation: Option<Installation>, action: Action, site: Option<&str>) -> anyhow::Result<()> {
    let installation =
        installation.context("refresh.mode is \"forward\": the sidecar does not use the site's database")?;
    let named = site.map(str::parse::<Named>).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut out = Printer::new(std::io::stdout(), Form::Text);
    runtime.block_on(async {
        let database = Database::new(installation.database.clone());
        let done = async {
            let installation = match named {
                Some(named) => named.find(&database, &installation).await?,
                None => installation,
            };
            anyhow::Ok(index::run(&database, &installation.table_prefix, action, &mut out).await?)
        };
        let done = done.await;
        database.close().await;
        done
    })
}
