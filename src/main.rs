//! Parse, load, bind, announce, run, exit code.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing::warn;
use wp_jwt_sidecar::cli::{self, Cli, Command};
use wp_jwt_sidecar::config::{Config, Faults, RefreshMode};
use wp_jwt_sidecar::index::{self, Action};
use wp_jwt_sidecar::run::Sidecar;
use wp_jwt_sidecar::wordpress::database::Database;
use wp_jwt_sidecar::wordpress::installation::{self, Installation};
use wp_jwt_sidecar::{listen, telemetry};

/// Measured ahead of the system's allocator on the forwarding path, where every exchange allocates its fields.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `EX_CONFIG` of sysexits.h: systemd's `RestartPreventExitStatus=78` keeps a wrong configuration from being tried again and again.
const WRONG_CONFIGURATION: u8 = 78;

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let options = match &command {
        Command::Serve(options) | Command::Check(options) | Command::Index { options, .. } => options,
    };
    let (config, installation) = match load(options) {
        Ok(loaded) => loaded,
        Err(faults) => {
            eprintln!("wp-jwt-sidecar: {faults}");
            return ExitCode::from(WRONG_CONFIGURATION);
        }
    };
    let done = match command {
        Command::Serve(_) => serve(config, installation),
        Command::Check(_) => check(config, installation),
        Command::Index { apply: true, .. } => index(installation, Action::Apply),
        Command::Index { drop: true, .. } => index(installation, Action::Drop),
        Command::Index { .. } => index(installation, Action::Show),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wp-jwt-sidecar: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn load(options: &cli::Options) -> Result<(Config, Option<Installation>), Faults> {
    let config = cli::load(options, std::env::vars_os())?;
    let installation = match config.refresh.mode {
        RefreshMode::Native => {
            let environment = |name: &str| std::env::var(name).ok();
            Some(installation::installation(&config.wordpress, &config.jwt, &environment)?)
        }
        RefreshMode::Forward => None,
    };
    Ok((config, installation))
}

fn serve(config: Config, installation: Option<Installation>) -> anyhow::Result<()> {
    telemetry::start(&config.log)?;
    for warning in &config.warnings {
        warn!("{warning}");
    }
    let listeners = config
        .server
        .listen
        .iter()
        .map(|address| listen::bind(*address).with_context(|| format!("server.listen: cannot listen on {address}")))
        .collect::<Result<Vec<_>, _>>()?;
    let sidecar = Sidecar::assemble(config, installation).context("cannot start")?;
    sidecar.serve(listeners, shutdown()).context("cannot go on")
}

async fn shutdown() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        warn!("signals cannot be waited for; the program ends without draining");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn check(config: Config, installation: Option<Installation>) -> anyhow::Result<()> {
    println!("configuration:\n{}", config.effective());
    for warning in &config.warnings {
        println!("warning: {warning}");
    }
    if let Some(installation) = &installation {
        println!("\ndatabase: {}", installation.database_label);
        println!("tables: {}jwt_auth_tokens and others", installation.table_prefix);
    }
    let sidecar = Sidecar::assemble(config, installation).context("cannot start")?;
    println!("\nthe sidecar would be {}", sidecar.look());
    Ok(())
}

fn index(installation: Option<Installation>, action: Action) -> anyhow::Result<()> {
    let installation =
        installation.context("refresh.mode is \"forward\": the sidecar does not use the site's database")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let database = Database::new(installation.database);
        let done = index::run(&database, &installation.table_prefix, action, &mut std::io::stdout()).await;
        database.close().await;
        Ok(done?)
    })
}
