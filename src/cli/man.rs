//! The manual page, generated from the same definitions as `--help`: one page for all commands,
//! since they share their flags.

use std::io::{self, Write};

use clap::{Arg, Command, CommandFactory as _};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

use super::{CONFIG, Cli, KEYS, Key, version};

/// Writes the page in the form that man(1) reads.
///
/// # Errors
/// What writing to `out` gives.
pub fn write(out: &mut impl Write) -> io::Result<()> {
    let mut command = Cli::command();
    command.build();
    // Not with clap_mangen, which would put the current date on the page, so that every build
    // differed.
    let name = super::NAME.to_uppercase();
    writeln!(out, ".TH {name} 1 \"\" \"{} {}\" \"System administration\"", super::NAME, version::VERSION)?;
    let head = Man::new(command.clone());
    head.render_name_section(out)?;
    synopsis(&command).to_writer(out)?;
    head.render_description_section(out)?;
    commands(&command).to_writer(out)?;
    if let Some(serve) = command.find_subcommand("serve") {
        Man::new(explained(serve.clone())).render_options_section(out)?;
    }
    secrets().to_writer(out)?;
    endings(&command).to_writer(out)
}

fn synopsis(command: &Command) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([bold(super::NAME), roman(" "), italic("COMMAND"), roman(" ["), italic("OPTIONS"), roman("]")]);
    roff.control("br", []);
    let names: Vec<&str> = shown(command).map(Command::get_name).collect();
    roff.text([roman("Commands: "), bold(names.join(", "))]);
    roff
}

/// Each command with its arguments other than the keys.
fn commands(command: &Command) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    for command in shown(command) {
        roff.control("TP", []);
        let positionals = command.get_positionals().map(|arg| format!(" <{}>", name_of_value(arg)));
        roff.text([bold(command.get_name()), italic(positionals.collect::<String>())]);
        roff.text([roman(command.get_about().map(ToString::to_string).unwrap_or_default())]);
        let own = command.get_arguments().filter(|arg| !is_common(arg) && !arg.is_hide_set());
        for arg in own {
            roff.control("RS", []);
            roff.control("TP", []);
            match arg.get_long() {
                Some(long) => roff.text([bold(format!("--{long}"))]),
                None => roff.text([italic(format!("<{}>", name_of_value(arg)))]),
            };
            roff.text([roman(arg.get_help().map(ToString::to_string).unwrap_or_default())]);
            let values: Vec<String> = arg.get_possible_values().iter().map(|value| value.get_name().into()).collect();
            if !values.is_empty() && arg.get_action().takes_values() {
                roff.text([roman("One of "), italic(values.join(", ")), roman(".")]);
            }
            roff.control("RE", []);
        }
    }
    roff
}

fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help")
}

fn name_of_value(arg: &Arg) -> String {
    arg.get_value_names().and_then(|names| names.first()).map_or_else(|| arg.get_id().to_string(), ToString::to_string)
}

/// Whether every command that reads the configuration has it.
fn is_common(arg: &Arg) -> bool {
    arg.get_id() == CONFIG || arg.get_id() == "help" || key(arg).is_some()
}

fn key(arg: &Arg) -> Option<&'static Key> {
    KEYS.iter().find(|key| arg.get_id() == key.name)
}

/// With the advice of the example file and the other names of each key, which `--help` has no room
/// for.
fn explained(command: Command) -> Command {
    command.mut_args(|arg| match (key(&arg), arg.get_help()) {
        (Some(key), Some(help)) => {
            let mut text = format!("{}.", help.to_string().trim_end_matches('.'));
            if !key.change.is_empty() {
                text = format!("{text} {}", key.change);
            }
            arg.long_help(format!("{text} Key {}, variable {}.", key.name, key.variable()))
        }
        _ => arg,
    })
}

fn secrets() -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["SECRETS"]);
    roff.text([roman("Keys without a flag, since everybody on the machine can read command lines:")]);
    for key in KEYS.iter().filter(|key| key.kind.is_secret()) {
        roff.control("TP", []);
        roff.text([bold(key.name), roman(", variable "), bold(key.variable())]);
        roff.text([roman(key.about), roman(" "), roman(key.change)]);
    }
    roff
}

/// The paragraphs below `--help`, each of which begins with its heading and a colon.
fn endings(command: &Command) -> Roff {
    let mut roff = Roff::new();
    let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    for paragraph in text.split("\n\n") {
        let (heading, text) = paragraph.split_once(':').unwrap_or(("Notes", paragraph));
        let text = text.trim_start_matches(['\n', ' ']);
        roff.control("SH", [heading.to_uppercase().as_str()]);
        roff.control("nf", []);
        for line in text.lines().map(|line| line.strip_prefix("  ").unwrap_or(line)) {
            roff.text([roman(line.trim_end())]);
        }
        roff.control("fi", []);
    }
    roff
}
