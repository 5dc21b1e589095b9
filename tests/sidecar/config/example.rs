//! `config.example.toml` is generated from the table of keys: complete, valid, and correct about
//! the defaults.

use std::{fs, path::Path};

use wp_jwt_sidecar::internals::config::{
    Config, Sources,
    keys::{Fallback, KEYS, SECTIONS},
};

use super::site::{Site, facts, flag};

#[test]
fn the_example_file_is_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.toml");
    let rendered = example();
    if std::env::var_os("UPDATE_EXAMPLE").is_some() {
        // Atomically, since other tests read it meanwhile.
        let new = path.with_extension("new");
        fs::write(&new, &rendered).unwrap();
        fs::rename(&new, &path).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap();
    let differs = written.lines().zip(rendered.lines()).find(|(a, b)| a != b);
    assert!(
        written == rendered,
        "config.example.toml is behind the table of keys, first at {differs:?}; UPDATE_EXAMPLE=1 regenerates it"
    );
}

#[test]
fn the_example_file_holds_as_it_stands_and_states_the_real_defaults() {
    let site = Site::new();
    // The file's contents, see above, even while it is regenerated.
    let text = example();
    let minimal = Config::load(&site.sources()).unwrap();
    let load = |text: String| {
        let mut sources = Sources { file: Some(site.file("example.toml", &text)), ..Sources::default() };
        sources.flags =
            vec![flag("upstream.url", "http://127.0.0.1:8081"), flag("wordpress.config", &site.wp_config())];
        Config::load(&sources).unwrap()
    };
    assert_eq!(facts(&load(text.clone())), facts(&minimal));

    // With every default uncommented, only the sources of the values change.
    let uncommented: Vec<String> = KEYS
        .iter()
        .filter_map(|key| match key.default {
            Fallback::Is(text) => Some(format!("{} = {}", key.leaf(), key.kind.toml(text))),
            _ => None,
        })
        .collect();
    let lines = text.lines().map(|line| match line.strip_prefix('#') {
        Some(bare) if uncommented.iter().any(|default| default == bare) => bare,
        _ => line,
    });
    let all: String = lines.flat_map(|line| [line, "\n"]).collect();
    let config = load(all);
    assert_eq!(facts(&config), facts(&minimal));
    let from_file = config.effective().lines().filter(|(_, _, from)| from.starts_with("from file")).count();
    assert_eq!(from_file, uncommented.len());
}

/// The expected example file. The table is the source; the file is for people.
fn example() -> String {
    let mut out = String::from(
        "# The configuration of wp-jwt-sidecar: every key there is.\n\
         #\n\
         # Copy this file to /etc/wp-jwt-sidecar/config.toml, or name it with --config. A line that is commented out\n\
         # shows the default, or an example where it says \"not set\". Every key is also an environment variable\n\
         # (upstream.url is WP_JWT_SIDECAR_UPSTREAM_URL, lists with commas) and, unless it is secret, a flag. A flag wins\n\
         # over the variable, that over this file, that over the default. `wp-jwt-sidecar check` shows what is in effect\n\
         # and where each value comes from.\n\
         #\n\
         # Changes take effect on SIGHUP (systemctl reload wp-jwt-sidecar), all together or, where anything is wrong, none;\n\
         # a request in flight keeps the configuration it began with. Keys that say \"Takes a restart\" wait for the next start.\n",
    );
    for (section, about) in SECTIONS {
        out.push_str(&format!("\n{}[{section}]\n", comment(about)));
        for key in KEYS.iter().filter(|key| key.section() == *section) {
            out.push('\n');
            out.push_str(&comment(&format!("{} {}", key.about, key.change)));
            let secret = if key.kind.is_secret() { " Secret." } else { "" };
            let flag = if key.kind.is_secret() { String::new() } else { format!(" Flag --{}.", key.flag()) };
            let (value, commented, unset) = match key.default {
                Fallback::Is(text) => (text, "#", String::new()),
                Fallback::Required { example } => (example, "", " Required.".into()),
                Fallback::Unset { means, example } => (example, "#", format!(" Not set: {means}.")),
            };
            let accepts = key.kind.accepts();
            let capital =
                accepts.chars().take(1).flat_map(char::to_uppercase).chain(accepts.chars().skip(1)).collect::<String>();
            let restart = if key.takes_a_restart() { " Takes a restart." } else { "" };
            out.push_str(&comment(&format!("{capital}.{unset}{secret}{flag}{restart}")));
            out.push_str(&format!("{commented}{} = {}\n", key.leaf(), key.kind.toml(value)));
        }
    }
    out
}

fn comment(text: &str) -> String {
    let mut lines = vec![String::from("#")];
    for word in text.split_whitespace() {
        if lines.last().is_some_and(|line| line.chars().count() + word.chars().count() > 110) {
            lines.push(String::from("#"));
        }
        lines.last_mut().unwrap().push_str(&format!(" {word}"));
    }
    lines.join("\n") + "\n"
}
