//! `wp-jwt-sidecar verify`: shows the state of a running sidecar's verification; with `--again` it
//! begins again.
//!
//! The running sidecar is asked on its admin listener, which cannot change anything. So a marker
//! file in the state directory makes it begin again: everyone who may write there may do so.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::runtime::Builder;

use super::ViewState;
use super::kept::{self, Kept};
use super::view::View;
use crate::config::{Config, Faults, RefreshMode, Verify};
use crate::net::own_status::{Silence, ask_status};
use crate::printable::{Form, Printer};
use crate::wordpress::database::Database;
use crate::wordpress::installation::Installation;
use crate::wordpress::network::named::{Named, NamedError};

/// A sidecar looks for the marker every two seconds.
const TAKEN: Duration = Duration::from_secs(10);

/// How often to check whether it has been removed.
const LOOK: Duration = Duration::from_millis(100);

/// How the state is shown.
#[derive(Debug, Clone)]
pub struct How {
    pub json: bool,
    /// Whether the verification is to begin again first.
    pub again: bool,
    /// A further site of a network; `None`: the first site.
    pub site: Option<String>,
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("no sidecar answers at admin.listen: {0}")]
    Silent(#[from] Silence),
    #[error("what answers at admin.listen is not a sidecar that verifies refreshes: {0}")]
    Strange(serde_json::Error),
    /// With `admin.listen = "off"`.
    #[error("admin.listen is \"off\", and no state is kept in {0}: it is in the log only")]
    NothingKept(String),
    #[error("no state of the site {0} is kept in {1}: it had no refresh yet, or refresh.verify is \"off\"")]
    NothingKeptOf(String, String),
    #[error("refresh.mode is \"forward\": WordPress has all refreshes, and nothing is verified")]
    Forward,
    #[error("refresh.verify is \"off\": nothing is verified that could begin again")]
    Off,
    #[error(
        "there is no state directory (refresh.state_directory, or StateDirectory= in the unit), through which a running sidecar could be \
         notified: restart it, or reload it where the state is \"differs\""
    )]
    NoDirectory,
    #[error("cannot write to the state directory: {0}: {1}; run it as the sidecar's user, or as root")]
    Unwritten(PathBuf, io::Error),
    #[error(
        "no sidecar of this configuration has noticed within {TAKEN:?}: the next one that starts with the state directory {0} will"
    )]
    NotTaken(PathBuf),
    /// Only for a further site, which takes the marker while it is in use.
    #[error(
        "no sidecar has noticed within {TAKEN:?}: either the site {0} is not in use (it begins again at its next refresh), or no \
         sidecar runs with the state directory {1}"
    )]
    Asleep(String, PathBuf),
    #[error(transparent)]
    Site(#[from] NamedError),
    #[error(transparent)]
    Configuration(#[from] Faults),
    #[error("cannot write")]
    Output(#[from] io::Error),
}

/// The output. Later versions add members to the JSON, but never remove or change one.
#[derive(Debug, Serialize)]
struct Report {
    /// The version of this format.
    format: u32,
    /// The address of the sidecar that was asked; `None` if the state file was read.
    asked: Option<String>,
    /// The home URL of its site.
    home: Option<String>,
    verification: View,
    /// Why no sidecar was asked, if so.
    #[serde(skip)]
    not_asked: &'static str,
}

/// With `admin.listen = "off"`.
const NO_LISTENER: &str = "since admin.listen is \"off\"";

/// With `--site`.
const ONE_SITE: &str = "as always with --site";

/// The relevant part of `/status.json`.
#[derive(Deserialize)]
struct Status {
    verification: Option<View>,
    site: Option<Site>,
}

#[derive(Deserialize)]
struct Site {
    home: Option<String>,
}

/// Shows the state on `out`. `true`: the verification allows native refreshes. `installation` is
/// only called if the state directory is needed.
///
/// # Errors
/// Nothing could be shown, or the verification could not begin again.
pub fn run(
    config: &Config,
    installation: impl FnOnce() -> Result<Installation, Faults>,
    how: How,
    out: &mut impl Write,
) -> Result<bool, VerifyError> {
    if config.refresh.mode == RefreshMode::Forward {
        return Err(VerifyError::Forward);
    }
    if how.again && config.refresh.verify == Verify::Off {
        return Err(VerifyError::Off);
    }
    let kept = match how.again || how.site.is_some() || config.admin.listen.is_none() {
        true => Some(kept_of(config, installation()?, how.site.as_deref())?),
        false => None,
    };
    let is_further = kept.as_ref().is_some_and(|(_, is_further)| *is_further);
    let kept = kept.map(|(kept, _)| kept);
    if let (true, Some(kept)) = (how.again, &kept) {
        begin_again(kept).map_err(|error| match (error, how.site.clone()) {
            (VerifyError::NotTaken(directory), Some(site)) if is_further => VerifyError::Asleep(site, directory),
            (error, _) => error,
        })?;
    }
    // About further sites the status page shows only whether they are native.
    let listen = config.admin.listen.as_ref().filter(|_| how.site.is_none());
    let report = match (listen, &kept) {
        (Some(listen), _) => {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let answer = runtime.block_on(ask_status(listen))?;
            let status: Status = serde_json::from_slice(&answer).map_err(VerifyError::Strange)?;
            let verification = status.verification.ok_or(VerifyError::Forward)?;
            let home = status.site.and_then(|site| site.home);
            Report { format: 1, asked: Some(listen.to_string()), home, verification, not_asked: "" }
        }
        (None, kept) => {
            let file = kept.as_ref().map(|kept| kept.file());
            let nothing = || {
                let file = file.map(display).unwrap_or_default();
                match &how.site {
                    Some(site) => VerifyError::NothingKeptOf(site.clone(), file),
                    None => VerifyError::NothingKept(file),
                }
            };
            let verdict = kept.as_ref().and_then(|kept| kept.read()).ok_or_else(nothing)?;
            let verification = View { kept_in: file.map(display), ..View::of(&verdict, None, true) };
            let not_asked = if how.site.is_some() { ONE_SITE } else { NO_LISTENER };
            Report { format: 1, asked: None, home: None, verification, not_asked }
        }
    };
    match how.json {
        true => {
            serde_json::to_writer_pretty(Printer::new(&mut *out, Form::Json), &report).map_err(io::Error::from)?;
            writeln!(out)?;
        }
        false => text(&report, &mut Printer::new(out, Form::Text))?,
    }
    Ok(report.verification.state.is_native())
}

/// What is kept of a site, and whether that is a further site. The user who runs this usually has
/// no `$STATE_DIRECTORY`.
fn kept_of(config: &Config, installation: Installation, site: Option<&str>) -> Result<(Arc<Kept>, bool), VerifyError> {
    let named = kept::directory(&config.refresh, |name| std::env::var_os(name));
    let of_package = || Some(PathBuf::from(kept::OF_PACKAGE)).filter(|directory| directory.is_dir());
    let directory = named.or_else(of_package).ok_or(VerifyError::NoDirectory)?;
    let name = kept::name(config, &installation);
    let id = site.map(|site| id_of(&installation, &site.parse()?)).transpose()?;
    Ok(match id.filter(|id| *id != installation.blog_id) {
        Some(further) => (Kept::new(&directory, &kept::name_of_blog(&name, further)), true),
        None => (Kept::new(&directory, &name), false),
    })
}

/// The id of a site of the network.
fn id_of(installation: &Installation, named: &Named) -> Result<u64, VerifyError> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let database = Database::new(installation.database.clone());
        let found = named.find(&database, installation).await;
        database.close().await;
        Ok(found?.blog_id)
    })
}

fn begin_again(kept: &Kept) -> Result<(), VerifyError> {
    let directory = || kept.file().parent().unwrap_or(Path::new("/")).to_owned();
    kept.mark().map_err(|error| VerifyError::Unwritten(directory(), error))?;
    let latest = Instant::now() + TAKEN;
    while kept.is_marked() {
        if Instant::now() >= latest {
            return Err(VerifyError::NotTaken(directory()));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

fn text(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let Report { asked, home, verification: view, not_asked, .. } = report;
    let whose = match view.state.is_native() {
        true => "refreshes are native",
        false => "WordPress has the refreshes",
    };
    let since = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(view.since_unix_seconds));
    match (asked, home) {
        (Some(asked), Some(home)) => writeln!(out, "sidecar:    {asked}, for {home}")?,
        (Some(asked), None) => writeln!(out, "sidecar:    {asked}")?,
        (None, _) => writeln!(out, "sidecar:    not asked, {not_asked}; this is what it has kept last")?,
    }
    writeln!(out, "state:      {}, since {since}: {whose}", view.state)?;
    if let Some(difference) = &view.difference {
        let what = if view.state == ViewState::Closed { "closed:     " } else { "difference: " };
        writeln!(out, "{what}{difference}")?;
    }
    let progress = view.progress().map(|progress| format!("; {progress}")).unwrap_or_default();
    writeln!(out, "compared:   {} responses of WordPress{progress}", view.compared)?;
    if let Some(fix) = &view.fix {
        writeln!(out, "what to do: {fix}")?;
    }
    if let Some(explanation) = &view.explanation {
        writeln!(out, "to declare: {}", explanation.heading())?;
        if let Some(toml) = &explanation.toml {
            writeln!(out, "\n{toml}\n")?;
        }
        for remark in explanation.remarks() {
            writeln!(out, "            {remark}")?;
        }
    }
    for origin in view.origin_lines() {
        writeln!(out, "origin:     {origin}")?;
    }
    for note in &view.notes {
        writeln!(out, "note:       {note}")?;
    }
    writeln!(out, "kept in:    {}", view.kept_in.as_deref().unwrap_or("memory: a restart begins again"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::difference::{Difference, Kind};
    use crate::verify::verdict::Verdict;

    fn shown(view: View) -> String {
        let mut out = Vec::new();
        let asked = Some("127.0.0.1:9151".into());
        let report = Report { format: 1, asked, home: None, verification: view, not_asked: "" };
        text(&report, &mut Printer::new(&mut out, Form::Text)).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn all_that_an_operator_needs_is_said() {
        let mut verdict = Verdict::new(20, 0);
        let view = View::of(&verdict, None, true);
        let expected = "\
sidecar:    127.0.0.1:9151
state:      unverified, since Thu, 01 Jan 1970 00:00:00 GMT: WordPress has the refreshes
compared:   0 responses of WordPress; 0 of 20 responses of WordPress agree
what to do: Nothing has to be done. WordPress gets the refreshes, and each of its answers is compared with what the sidecar would \
have given; they have to be of three users, or three times as many.
kept in:    memory: a restart begins again
";
        assert_eq!(shown(view), expected);
        verdict.differ(Difference::new(Kind::Body, "body +ro\u{1b}les (array of string)"), 60);
        let view = View { notes: vec!["ip".into()], kept_in: Some("/x".into()), ..View::of(&verdict, None, true) };
        let text = shown(view);
        for part in [
            "state:      differs, since Thu, 01 Jan 1970 00:01:00 GMT: WordPress has the refreshes\n",
            "difference: body +ro\\u{1b}les (array of string)\n",
            "what to do: The site's own code changes the answer",
            "note:       ip\nkept in:    /x\n",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        let closed = View::of(&verdict, None, true).closed("WordPress answers 401".into(), 0);
        assert!(shown(closed).contains("closed:     WordPress answers 401\n"));
    }
}
