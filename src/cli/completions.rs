//! What a shell completes after `wp-jwt-sidecar`: commands, flags, and values that have names.

use std::io::{self, Write};

use clap::{Arg, Command, CommandFactory as _, ValueEnum, ValueHint};
use clap_complete::aot::{self, Generator as _};

use super::{Cli, KEYS, Kind};

/// The shells that completions are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU Bash, with the package bash-completion
    Bash,
    /// Z shell
    Zsh,
    /// The friendly interactive shell
    Fish,
}

/// Writes the completions for `shell`.
///
/// # Errors
/// What writing to `out` gives.
pub fn write(shell: Shell, out: &mut impl Write) -> io::Result<()> {
    // clap_complete 4.6 writes two spellings of a name with dashes into its script for bash, which
    // then completes no flags. So it gets a name without dashes, and only the line that registers
    // the completion has the real one.
    let name = if shell == Shell::Bash { super::NAME.replace('-', "_") } else { super::NAME.to_owned() };
    let mut command = for_shells(&Cli::command());
    command.set_bin_name(&name);
    command.build();
    let mut text = Vec::new();
    match shell {
        Shell::Bash => aot::Bash.try_generate(&command, &mut text),
        Shell::Zsh => aot::Zsh.try_generate(&command, &mut text),
        Shell::Fish => aot::Fish.try_generate(&command, &mut text),
    }?;
    let text = String::from_utf8_lossy(&text).replace(&format!(" {name}\n"), &format!(" {}\n", super::NAME));
    out.write_all(text.as_bytes())
}

/// The command as shells should know it: without hidden flags, which the generators would include,
/// and with the values that clap does not know because they are checked later together with the
/// file's.
fn for_shells(command: &Command) -> Command {
    let shown = command.get_subcommands().filter(|command| !command.is_hide_set()).map(|command| {
        let about = command.get_about().cloned().unwrap_or_default();
        Command::new(command.get_name().to_owned())
            .about(about)
            .args(command.get_arguments().filter(|arg| !arg.is_hide_set()).cloned().map(with_values))
    });
    Command::new(super::NAME).version(super::version::VERSION).subcommands(shown)
}

fn with_values(arg: Arg) -> Arg {
    match KEYS.iter().find(|key| arg.get_id() == key.name).map(|key| key.kind) {
        Some(Kind::OneOf(names)) => arg.value_parser(names.to_vec()),
        Some(Kind::Boolean) => arg.value_parser(["true", "false"]),
        Some(Kind::Path) => arg.value_hint(ValueHint::FilePath),
        Some(_) => arg.value_hint(ValueHint::Other),
        None => arg,
    }
}
