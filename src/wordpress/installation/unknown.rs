//! What `wp-config.php` does not say plainly: one fault for each cause, with the ways out.

use super::Assembly;

pub(super) const NOT_SET: &str = "it is not defined there";

/// All that can be set in place of what the file says.
pub(super) const ALL_KEYS: &str =
    "wordpress.database_url, wordpress.table_prefix, wordpress.auth_key, wordpress.auth_salt and jwt.secret";

/// A constant, or `$table_prefix`.
pub(super) struct Unknown {
    pub(super) what: &'static str,
    /// The keys of the configuration that say it instead.
    pub(super) keys: Vec<&'static str>,
    pub(super) cause: String,
}

impl Assembly<'_> {
    /// One cause makes many constants unknown as a rule: it is named once.
    pub(super) fn tell_unknown(&mut self) {
        let mut rest = std::mem::take(&mut self.unknown);
        while let Some(first) = rest.first() {
            let cause = first.cause.clone();
            let (group, others): (Vec<Unknown>, _) = rest.into_iter().partition(|unknown| unknown.cause == cause);
            rest = others;
            let names: Vec<&str> = group.iter().map(|unknown| unknown.what).collect();
            let mut keys: Vec<&str> = Vec::new();
            for key in group.iter().flat_map(|unknown| &unknown.keys) {
                if !keys.contains(key) {
                    keys.push(key);
                }
            }
            let cause = if cause == NOT_SET && names.len() > 1 { "they are not defined there" } else { &cause };
            let instead = match keys.is_empty() {
                true => "give it a plain value there".to_owned(),
                false => format!("set {}", listed(&keys)),
            };
            let problem = format!(
                "{} cannot be known: {cause}; let PHP read the file (`wp-jwt-sidecar import`), or {instead}",
                listed(&names)
            );
            self.fault("wordpress.config", problem);
        }
    }
}

/// `a`, `a and b`, `a, b and c`.
fn listed(names: &[&str]) -> String {
    match names {
        [names @ .., last] if !names.is_empty() => format!("{} and {last}", names.join(", ")),
        names => names.concat(),
    }
}
