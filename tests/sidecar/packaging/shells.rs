//! The completions, in the shells that they are for.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tempfile::{NamedTempFile, TempDir};
use wp_jwt_sidecar::internals::config::keys::KEYS;

use crate::support::sidecar::{PATIENCE, command};

/// What every shell offers after these words.
const OFFERS: &[(&str, &[&str])] = &[
    ("", &["serve", "check", "verify", "index", "completions", "man"]),
    ("serve --forwarded-mode ", &["auto", "preserve"]),
    ("index --ap", &["--apply"]),
    ("verify --ag", &["--again"]),
    ("serve --refresh-verify ", &["auto", "always", "off"]),
    ("check --wp-c", &["--wp-config"]),
];

#[test]
fn bash_completes() {
    let file = completions("bash");
    for (words, wanted) in OFFERS {
        let script = format!(
            "source {}; line='wp-jwt-sidecar {words}'; read -ra COMP_WORDS <<<\"$line\"; [[ $line == *' ' ]] && COMP_WORDS+=(''); \
             COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMP_LINE=$line COMP_POINT=${{#line}}; \
             read -r _ _ _ _ _ _ _ _ function _ <<<\"$(complete -p wp-jwt-sidecar)\"; \
             $function wp-jwt-sidecar \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            file.path().display()
        );
        let offered = said(Command::new("bash").args(["--norc", "-c", &script]));
        assert_offers(words, &offered, wanted);
    }
}

#[test]
fn fish_completes() {
    let file = completions("fish");
    for (words, wanted) in OFFERS {
        let script = format!("source {}; complete -C 'wp-jwt-sidecar {words}'", file.path().display());
        let home = TempDir::new().unwrap();
        let offered = said(Command::new("fish").args(["--no-config", "-c", &script]).env("HOME", home.path()));
        // The text after a tab describes the option.
        let offered: String = offered.lines().flat_map(|line| [line.split('\t').next().unwrap(), "\n"]).collect();
        assert_offers(words, &offered, wanted);
    }
}

/// zsh completes only in its line editor: keys are typed into one on a terminal.
#[test]
fn zsh_completes() {
    let home = TempDir::new().unwrap();
    let functions = home.path().join("functions");
    std::fs::create_dir(&functions).unwrap();
    std::fs::copy(completions("zsh").path(), functions.join("_wp-jwt-sidecar")).unwrap();
    let mut zsh = Typed::start(
        Command::new("script")
            .args(["-qec", "stty cols 200; exec zsh -f -i", "/dev/null"])
            .env("HOME", home.path())
            .env("TERM", "dumb"),
    );
    // As with Debian's own fpath: found by name, loaded on its first use.
    zsh.type_in(&format!(
        "PS1=; fpath=({} $fpath); autoload -Uz compinit; compinit -u -D; echo loa''ded $_comps[wp-jwt-sidecar]\n",
        functions.display()
    ));
    zsh.wait_for("loaded _wp-jwt-sidecar");
    for (words, wanted) in OFFERS {
        // ^U empties the line; an ambiguous word is shown as a list.
        zsh.type_in(&format!("\u{15}wp-jwt-sidecar {words}\t\t"));
        for wanted in *wanted {
            zsh.wait_for(wanted.trim_start_matches(words.rsplit(' ').next().unwrap()));
        }
        zsh.type_in("\u{15}echo the ne''xt\n");
        zsh.wait_for("the next");
    }
    zsh.type_in("exit\n");
}

#[test]
fn no_shell_offers_the_flag_of_a_secret() {
    for shell in ["bash", "zsh", "fish"] {
        let text = std::fs::read_to_string(completions(shell).path()).unwrap();
        for key in KEYS.iter().filter(|key| key.kind.is_secret()) {
            let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-');
            assert!(
                !words.map(|word| word.trim_start_matches('-')).any(|word| word == key.flag()),
                "{shell}: {}",
                key.flag()
            );
        }
        assert!(text.contains("wp-config"), "{shell}");
    }
}

fn completions(shell: &str) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    let written = command().args(["completions", shell]).stdout(file.reopen().unwrap()).status().unwrap();
    assert!(written.success());
    file
}

fn assert_offers(words: &str, offered: &str, wanted: &[&str]) {
    for wanted in wanted {
        assert!(offered.lines().any(|line| line == *wanted), "behind {words:?} no {wanted} but {offered}");
    }
}

fn said(command: &mut Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; tests/run installs it"));
    let [said, faults] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(faults.is_empty(), "{command:?}: {faults}");
    said
}

/// A program on a terminal, with its output since the last input.
struct Typed {
    child: std::process::Child,
    output: mpsc::Receiver<Vec<u8>>,
    written: String,
}

impl Typed {
    fn start(command: &mut Command) -> Typed {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let (sender, output) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = stdout.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Typed { child, output, written: String::new() }
    }

    fn type_in(&mut self, keys: &str) {
        self.written.clear();
        self.child.stdin.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.written.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.written.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("no {text:?} in {:?}", self.written),
            }
        }
    }
}

impl Drop for Typed {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
