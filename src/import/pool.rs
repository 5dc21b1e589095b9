//! Parses the configuration of a PHP-FPM pool: its user, and the variables that it passes to PHP.
//!
//! FPM reads the file like `php.ini`, where unquoted words and some characters have a meaning;
//! values that are not plain are refused.

use std::path::Path;

use super::environment::{Environment, is_name};
use super::{INSTEAD, about};
use crate::config::Secret;

#[derive(Default)]
pub(super) struct Pool {
    pub(super) user: Option<String>,
    pub(super) group: Option<String>,
    /// `env[NAME] = VALUE`
    pub(super) environment: Vec<(String, Secret)>,
    /// `clear_env = no`: PHP also gets FPM's own variables.
    pub(super) inherits: bool,
    /// The `php_value[…]` and similar settings that affect what a file reads, as `NAME=VALUE`.
    pub(super) settings: Vec<String>,
}

/// Settings that may change a value: where bare includes are looked for, and whether there is
/// `$_ENV`.
const SETTINGS: [&str; 2] = ["include_path", "variables_order"];

/// Code that PHP runs before the file, and that may define anything.
const RUN_BEFORE: &str = "auto_prepend_file";

impl Pool {
    /// `given` contains the variables that `env[NAME] = $OTHER` refers to.
    pub(super) fn read(file: &Path, given: &Environment) -> Result<Self, String> {
        parse(&super::read_text(file, "--fpm-pool")?, given).map_err(|problem| about(file, problem))
    }
}

fn parse(text: &str, given: &Environment) -> Result<Pool, String> {
    let (mut pool, mut name) = (Pool::default(), None::<String>);
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with([';', '#']) {
            continue;
        }
        if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            match &name {
                Some(other) if other != section && section != "global" => {
                    return Err(format!(
                        "has several pools ({other} and {section}); give --user and --env-file instead"
                    ));
                }
                _ if section != "global" => name = Some(section.to_owned()),
                _ => {}
            }
            continue;
        }
        let Some((key, value)) = line.split_once('=').map(|(key, value)| (key.trim(), value.trim())) else { continue };
        let within = |kind: &str| key.strip_prefix(kind)?.strip_prefix('[')?.strip_suffix(']');
        let variable = within("env");
        let setting = within("php_value").or_else(|| within("php_admin_value"));
        let setting = setting.filter(|name| SETTINGS.contains(name) || *name == RUN_BEFORE);
        if variable.is_none() && setting.is_none() && !["user", "group", "clear_env"].contains(&key) {
            continue;
        }
        let problem = |problem: String| format!("line {}: {key}: {problem}", at + 1);
        let value = unquoted(value).map_err(problem)?.replace("$pool", name.as_deref().unwrap_or_default());
        match (setting, key, variable) {
            (Some(RUN_BEFORE), ..) if value.is_empty() => {}
            (Some(RUN_BEFORE), ..) => {
                return Err(problem(format!(
                    "PHP runs that file before wp-config.php, and it is not run here: if it defines nothing, give --user in \
                     place of --fpm-pool; else {INSTEAD}"
                )));
            }
            (Some(name), ..) => pool.settings.push(format!("{name}={value}")),
            (_, "clear_env", _) => pool.inherits = matches!(&*value, "" | "0"),
            (_, "user", _) => pool.user = Some(value),
            (_, "group", _) => pool.group = Some(value),
            (_, _, Some(variable)) if is_name(variable) => {
                let value = match value.strip_prefix('$') {
                    None => Secret::new(value),
                    Some(other) => given.get(other).cloned().ok_or_else(|| {
                        problem(format!(
                            "is FPM's own variable {other}; give it by --env-file, or by --env {other}=VALUE"
                        ))
                    })?,
                };
                pool.environment.push((variable.to_owned(), value));
            }
            _ => {}
        }
    }
    Ok(pool)
}

/// SECURITY: nothing of a value is quoted.
fn unquoted(value: &str) -> Result<String, String> {
    let refused =
        || "has signs with a meaning in such files; put it into double quotes, or give it by --env-file".to_owned();
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote) {
            let (inner, rest) = rest.split_once(quote).ok_or_else(refused)?;
            let is_plain = !inner.contains('\\') && !inner.contains("${");
            let ends = rest.trim_start();
            return if is_plain && (ends.is_empty() || ends.starts_with(';')) {
                Ok(inner.to_owned())
            } else {
                Err(refused())
            };
        }
    }
    let value = value.split(';').next().unwrap_or_default().trim();
    if value.contains(['"', '\'', '\\', '|', '&', '^', '~', '!', '(', ')', '{', '}', '=']) {
        return Err(refused());
    }
    Ok(match value.to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" => "1".to_owned(),
        "false" | "off" | "no" | "none" | "null" => String::new(),
        _ => value.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(text: &str) -> Result<Pool, String> {
        let given = Environment::given(&[], &[Secret::new("FROM_FPM=x")]).unwrap();
        parse(text, &given)
    }

    #[test]
    fn user_group_and_variables() {
        let read = pool(
            "; a comment\n[global]\nuser = nobody\n[www]\nuser = $pool-data\ngroup=site ; theirs\nenv[A] = b\nenv[B] = \"c ; d\"\n\
             env[C] = $FROM_FPM\nenv[D] = true\nenv[E] = off\nlisten = /run/x\nphp_admin_value[x] = (\n",
        )
        .unwrap();
        assert_eq!((read.user.as_deref(), read.group.as_deref()), (Some("www-data"), Some("site")));
        let variables: Vec<_> = read.environment.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
        assert_eq!(variables, [("A", "b"), ("B", "c ; d"), ("C", "x"), ("D", "1"), ("E", "")]);
    }

    #[test]
    fn what_changes_values_is_taken_or_refused() {
        let read = pool("[www]\nclear_env = no\nphp_admin_value[variables_order] = EGPCS\nphp_value[include_path] = \".:/srv\"\nphp_value[memory_limit] = 1G\n").unwrap();
        assert!(read.inherits);
        assert_eq!(read.settings, ["variables_order=EGPCS", "include_path=.:/srv"]);
        assert!(!pool("[www]\nclear_env = yes").unwrap().inherits && !pool("[www]").unwrap().inherits);
        let problem = pool("php_admin_value[auto_prepend_file] = /srv/waf.php").err().unwrap();
        assert!(problem.contains("auto_prepend_file") && problem.contains("--user"), "{problem}");
    }

    #[test]
    fn what_is_not_plain_is_refused_without_its_value() {
        for (text, says) in [
            ("[a]\nuser = a\n[b]\nuser = b", "several pools (a and b)"),
            ("env[A] = $NOT_HERE", "--env NOT_HERE=VALUE"),
            ("env[A] = hunter2(x", "line 1: env[A]: has signs"),
            ("env[A] = \"hunter2\\\"x\"", "line 1: env[A]: has signs"),
            ("env[A] = \"${HOME}\"", "line 1: env[A]: has signs"),
        ] {
            let problem = pool(text).err().unwrap();
            assert!(problem.contains(says) && !problem.contains("hunter2"), "{problem}");
        }
    }
}
