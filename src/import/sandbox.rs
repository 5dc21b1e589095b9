//! Runs PHP in a sandbox: as the site's user, without network, with limits, and ended together with
//! everything that it has started.
//!
//! util-linux's programs do what Rust cannot do without unsafe code: `setsid` (session), `unshare`
//! (namespaces), `prlimit` (limits), `setpriv` (user and supplementary groups, which
//! [`std::os::unix::process::CommandExt::uid`] would lose).

mod limits;
mod reading;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::json;

use super::answer::Answer;
use super::environment::Environment;
use super::place::Place;
use super::user::Runner;
use super::{INSTEAD, about, program};
use crate::wordpress::imported::CONSTANTS;
use reading::Heard;

/// The PHP code of the driver.
const DRIVER: &str = concat!(
    include_str!("driver/files.php"),
    include_str!("driver/questions.php"),
    include_str!("driver/errors.php"),
    include_str!("driver/run.php")
);

/// PHP's settings. They switch off everything that prints, writes or hides, and what PHP in web
/// servers cannot do either.
const SETTINGS: [&str; 13] = [
    "opcache.enable=0",
    "opcache.enable_cli=0",
    "opcache.preload=",
    "ffi.enable=0",
    "display_errors=0",
    "display_startup_errors=0",
    "log_errors=0",
    "html_errors=0",
    "auto_prepend_file=",
    "auto_append_file=",
    "sendmail_path=/bin/true",
    "session.auto_start=0",
    "xdebug.mode=off",
];

/// PHP's memory limit, in MiB.
const MEMORY: u64 = 256;

/// How long PHP may take to exit after its output has ended.
const TO_END: Duration = Duration::from_secs(1);

/// A sandbox to run PHP in.
pub(super) struct Sandbox {
    php: PathBuf,
    /// The pool's settings, as `NAME=VALUE`.
    settings: Vec<String>,
    /// The programs that start PHP, with their arguments.
    shell: Vec<OsString>,
    lacks: Vec<&'static str>,
    timeout: Duration,
    home: String,
    user: String,
}

impl Sandbox {
    /// Finds out what the system supports.
    pub(super) fn new(
        php: Option<&Path>,
        settings: &[String],
        runner: &Runner,
        place: &Place,
        timeout: Duration,
    ) -> Result<Self, String> {
        let php = match php {
            Some(php) => named(php)?,
            None => ["php-cgi", "php"].into_iter().find_map(program).ok_or_else(|| {
                "there is no PHP command line here: install the one of the web server's version (Debian: php-cgi, or php-cli), \
                 or name it by --php"
                    .to_owned()
            })?,
        };
        let (shell, lacks) = shell(runner, place, timeout)?;
        let settings = settings.to_vec();
        Ok(Self { php, settings, shell, lacks, timeout, home: runner.home.clone(), user: runner.name.clone() })
    }

    /// What the system does not support, for people.
    pub(super) fn lacks(&self) -> &[&'static str] {
        &self.lacks
    }

    /// Runs the site's file for the request described by `server`, with limits raised by `more`.
    pub(super) fn run(
        &self,
        place: &Place,
        environment: &Environment,
        server: &BTreeMap<&str, &str>,
        more: u64,
    ) -> Result<Answer, String> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|error| format!("no random bytes from the operating system: {error}"))?;
        let nonce: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let script = self.script(place, environment, server, &nonce);
        let mut command = command(&self.shell, place);
        command.arg(&self.php).arg("-d").arg(format!("max_execution_time={}", self.timeout.as_secs() + more));
        command.arg("-d").arg(format!("memory_limit={}M", MEMORY + more));
        for setting in SETTINGS.into_iter().chain(self.settings.iter().map(String::as_str)) {
            command.args(["-d", setting]);
        }
        // SECURITY: PHP's messages can quote passwords.
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut running = Running(child.map_err(|error| about(&self.php, error))?);
        let (input, output) = (running.0.stdin.take(), running.0.stdout.take());
        // PHP may read it late or never.
        std::thread::spawn(move || input.map(|mut input| input.write_all(&script)));
        let heard = match output {
            Some(output) => reading::wait(output, nonce.into_bytes(), self.timeout),
            None => Heard::Ended,
        };
        let file = place.resolved.display();
        let seconds = self.timeout.as_secs();
        match heard {
            Heard::Line(line) => Answer::parse(&line).ok_or_else(|| {
                format!(
                    "{file}: what PHP answered is not what the driver sends; does the file end PHP's output itself?"
                )
            }),
            Heard::TooMuch => {
                Err(format!("{file}: it writes without end to PHP's standard output; take that out, or {INSTEAD}"))
            }
            Heard::Late => Err(format!(
                "{file}: PHP was not done within {seconds} s: something in it waits, for the network perhaps, which it does not \
                 have here; --timeout gives it longer"
            )),
            Heard::Ended => {
                let how = running.end();
                Err(format!(
                    "{file}: PHP ended without an answer ({how}): a limit of time ({seconds} s, --timeout), memory (1 GiB) or size \
                     of files (256 MiB) may have been reached; does {} run by itself (`{} --version`)?",
                    self.php.display(),
                    self.php.display()
                ))
            }
        }
    }

    /// SECURITY: the values of the environment are passed on standard input, where neither the
    /// process list nor the programs that start PHP, which run as root, see them.
    fn script(&self, place: &Place, environment: &Environment, server: &BTreeMap<&str, &str>, nonce: &str) -> Vec<u8> {
        let path = |path: &Path| STANDARD.encode(path.as_os_str().as_encoded_bytes());
        let user = [("USER", self.user.as_str()), ("HOME", self.home.as_str())];
        let pairs: Vec<[String; 2]> = user
            .into_iter()
            .filter(|(name, _)| environment.get(name).is_none())
            .chain(environment.iter())
            .map(|(name, value)| [STANDARD.encode(name), STANDARD.encode(value)])
            .collect();
        let task = json!({
            "nonce": nonce,
            "file": path(&place.resolved),
            "abspath": place.root.as_ref().map(|root| format!("{}/", root.display())),
            "environment": pairs,
            "server": server,
            "constants": CONSTANTS,
        });
        format!("<?php $wp_jwt_import = '{}';\n{DRIVER}", STANDARD.encode(task.to_string())).into_bytes()
    }
}

fn named(php: &Path) -> Result<PathBuf, String> {
    let is_bare = php.components().count() == 1 && !php.has_root();
    let found = if is_bare { php.to_str().and_then(program) } else { Some(php.to_owned()) };
    found.filter(|php| php.is_file()).ok_or_else(|| about(php, "there is no such program (--php)"))
}

/// The programs that start PHP, and what the system does not support.
fn shell(runner: &Runner, place: &Place, timeout: Duration) -> Result<(Vec<OsString>, Vec<&'static str>), String> {
    let tool = |name: &str| {
        program(name).ok_or_else(|| format!("there is no {name} here: install it (Debian: apt install util-linux)"))
    };
    let within = limits::within(&tool("prlimit")?, &tool("setpriv")?, runner, timeout);
    let (setsid, unshare) = (tool("setsid")?, tool("unshare")?);
    // Without root, namespaces require a user namespace.
    let users: &[&str] = if runner.is_caller { &["--user", "--map-current-user"] } else { &[] };
    let ways: [(&[&str], &[&'static str]); 3] = [
        (&["--net", "--pid", "--fork", "--kill-child"], &[]),
        (&["--pid", "--fork", "--kill-child"], &[NO_NET]),
        (&[], &[NO_NET, NO_PID]),
    ];
    let mut refusal = String::new();
    for (flags, lacks) in ways {
        // SECURITY: with the terminal of root's shell, the site's code could type into it (TIOCSTI,
        // ioctl_tty(2)).
        let mut shell: Vec<OsString> = vec![setsid.clone().into()];
        if !flags.is_empty() {
            shell.push(unshare.clone().into());
            shell.extend(users.iter().chain(flags).map(OsString::from));
            shell.push("--".into());
        }
        shell.extend(within.iter().cloned());
        match tried(&shell, place) {
            Ok(()) => return Ok((shell, lacks.to_vec())),
            Err(error) => refusal = error,
        }
    }
    Err(format!(
        "PHP cannot be shut in: {refusal}; run this as root, on the machine itself or in a container that may change users"
    ))
}

const NO_NET: &str =
    "the system does not let PHP be cut off from the network (unshare --net): code in wp-config.php can reach it";
const NO_PID: &str =
    "the system gives no processes of its own (unshare --pid): what wp-config.php starts and detaches may outlive this";

/// Tests the sandbox without PHP; no message here can quote anything of the site's.
fn tried(shell: &[OsString], place: &Place) -> Result<(), String> {
    let output =
        command(shell, place).arg(program("true").unwrap_or_else(|| "true".into())).stdin(Stdio::null()).output();
    let output = output.map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false => Err(said.lines().next().map_or_else(|| output.status.to_string(), str::to_owned)),
    }
}

fn command(shell: &[OsString], place: &Place) -> Command {
    let mut command = match shell.split_first() {
        Some((first, rest)) => {
            let mut command = Command::new(first);
            command.args(rest);
            command
        }
        None => Command::new("false"),
    };
    // SECURITY: the site's configuration must not affect programs that run as root (LD_PRELOAD).
    command.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("LC_ALL", "C");
    // A new process leads no group, so `setsid` makes it the leader of a session without forking:
    // its id is that of the group.
    command.current_dir(&place.directory);
    command
}

/// Kills the process and everything that it has started when dropped.
struct Running(Child);

impl Running {
    /// How it ended by itself; a process that has only closed its output may still run.
    fn end(&mut self) -> String {
        let until = Instant::now() + TO_END;
        loop {
            match self.0.try_wait() {
                Ok(Some(status)) => return status.to_string(),
                Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
                Ok(None) => return "it closed its output and went on".to_owned(),
                Err(error) => return error.to_string(),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A child that was not waited for keeps its id; once `unshare` is gone, the kernel kills
        // PHP and everything below it.
        if let (Ok(None), Ok(id)) = (self.0.try_wait(), i32::try_from(self.0.id())) {
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
            // The group does not exist if `setsid` has not run yet.
            let _ = self.0.kill();
        }
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_closes_its_output_and_goes_on_is_ended() {
        let mut running = Running(Command::new("sleep").arg("600").spawn().unwrap());
        let began = Instant::now();
        assert_eq!(running.end(), "it closed its output and went on");
        drop(running);
        assert!(began.elapsed() < Duration::from_secs(60));
        let mut ended = Running(Command::new("true").spawn().unwrap());
        assert_eq!(ended.end(), "exit status: 0");
    }
}
