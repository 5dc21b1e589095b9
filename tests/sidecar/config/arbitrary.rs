//! Whatever is written, nothing panics and no secret is shown.

use proptest::prelude::*;
use wp_jwt_sidecar::internals::config::{
    Config, Faults, Sources,
    keys::{KEYS, Key, SECTIONS},
};

use super::site::Site;

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics_as_a_file(text in any_file()) {
        let site = Site::new();
        let file = Some(site.file("any.toml", &text));
        // Once without other sources, once with only the file at fault.
        let alone = Config::load(&Sources { file: file.clone(), ..Sources::default() });
        let beside = Config::load(&Sources { file, ..site.sources() });
        for result in [alone, beside] {
            match result {
                Ok(config) => prop_assert_eq!(config.effective().lines().count(), KEYS.len()),
                Err(Faults(faults)) => prop_assert!(!faults.is_empty() && faults.iter().all(|fault| !fault.problem.is_empty())),
            }
        }
    }

    #[test]
    fn no_secret_is_ever_shown(secret in "Zq[a-zA-Z0-9]{14}", key in secret_keys(), form in 0..8usize, noise in any_file()) {
        let site = Site::new();
        let (section, leaf) = (key.section(), key.leaf());
        let value = match key.name {
            "wordpress.database_url" => format!("mysql://u:{secret}@127.0.0.1/wp"),
            _ => secret.clone(),
        };
        let text = match form {
            0 => format!("[{section}]\n{leaf} = \"{value}\"\n"),
            1 => format!("[{section}]\n{leaf} = [\"{value}\"]\n"),
            2 => format!("[{section}]\n{leaf}x = \"{value}\"\n"),
            3 => format!("[{section}]\n{leaf} = \"{value}\n"),
            4 => format!("[{section}]\n{leaf} = {value}\n"),
            5 => format!("[{section}]\n{leaf}.x = \"{value}\"\n{noise}"),
            6 => format!("{leaf} = \"{value}\"\n{noise}"),
            _ => noise,
        };
        let mut sources = Sources { file: Some(site.file("secret.toml", &text)), ..site.sources() };
        if form == 7 {
            sources.environment.push((key.variable().into(), value.clone().into()));
            sources.environment.push((format!("{}X", key.variable()).into(), value.clone().into()));
            sources.environment.push(("WP_JWT_SIDECAR_JWT_SECRET_FILE".into(), value.clone().into()));
            sources.environment.push(("WP_JWT_SIDECAR_UPSTREAM_URL".into(), format!("http://u:{secret}@h").into()));
        }
        let debug = format!("{sources:?}");
        prop_assert!(!debug.contains(&secret), "{debug}");
        let all = match Config::load(&sources) {
            Ok(config) => format!("{config:?} {config:#?} {}", config.effective()),
            Err(faults) => format!("{faults:?} {faults}"),
        };
        prop_assert!(!all.contains(&secret), "{all}");
    }
}

fn secret_keys() -> impl Strategy<Value = &'static Key> {
    let keys: Vec<&'static Key> = KEYS.iter().filter(|key| key.kind.is_secret()).collect();
    prop::sample::select(keys)
}

/// Texts from pure noise to nearly valid files.
fn any_file() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        4 => prop::sample::select(KEYS).prop_map(|key| key.name.to_owned()),
        1 => prop::sample::select(SECTIONS).prop_map(|(name, _)| (*name).to_owned()),
        1 => "[a-z_.]{1,8}|\"\\PC{0,5}\"",
    ];
    let value = prop_oneof![
        "\"[a-z0-9:/.@,=-]{0,12}\"",
        "\"(http|mysql|https)://[a-z0-9:/.@\\[\\]]{0,12}\"",
        "\"[0-9]{1,25}(ms|s|m|h|d)?\"",
        "-?[0-9]{1,25}|0x[0-9a-f]{1,20}|[0-9]\\.[0-9]|true|false|1979-05-27",
        "\\[(\"[0-9.:/]{0,9}\",? ?){0,4}\\]|\\{[a-z]{0,3}\\}|\\{ a = 1 \\}|\"\"\"\n\\PC{0,9}\"\"\"",
        "\\PC{0,10}",
    ];
    let line = (name, value).prop_map(|(name, value)| format!("{name} = {value}\n"));
    prop_oneof![
        3 => prop::collection::vec(line, 0..6).prop_map(|lines| lines.concat()),
        1 => "(?s).{0,60}",
        1 => "[\\[\\]{}=\"'\n#.a ]{0,40}",
    ]
}
