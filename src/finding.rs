//! A finding of the doctor or the status page: good, a warning or a problem, with how to fix it.

use serde::Serialize;

/// The severity. Ordered: the severity of several is their maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    /// It works, but an operator should know.
    Warning,
    /// Something does not work, or differs from WordPress.
    Problem,
}

/// The part of the installation, in the order of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Area {
    /// Command line, environment, file.
    Configuration,
    /// The site's `wp-config.php`.
    WpConfig,
    /// The server, the connection to it, and its clock.
    Database,
    /// The database user's privileges.
    Rights,
    /// The plugin's tables and their indexes.
    Tables,
    /// The plugin and its settings.
    Plugin,
    /// Signing key and salts.
    Keys,
    Upstream,
    /// The address that WordPress sees as the client's.
    ClientAddress,
    /// Changes by the site's own code.
    Customized,
    /// WordPress's responses compared with the sidecar's.
    Parity,
    Tls,
    Requests,
    Process,
    /// The rows that the plugin's analytics counts.
    Analytics,
    /// What several sidecars share besides the database.
    Store,
}

impl Area {
    /// The heading in the report.
    pub fn title(self) -> &'static str {
        match self {
            Area::Configuration => "Configuration",
            Area::WpConfig => "wp-config.php",
            Area::Database => "Database",
            Area::Rights => "Database rights",
            Area::Tables => "Tables",
            Area::Plugin => "Plugin",
            Area::Keys => "Keys and salts",
            Area::Upstream => "Web server of the site",
            Area::ClientAddress => "The client's address",
            Area::Customized => "Code of the site's own",
            Area::Parity => "Answers compared",
            Area::Tls => "TLS",
            Area::Requests => "Requests",
            Area::Process => "Process",
            Area::Analytics => "Analytics",
            Area::Store => "Store that sidecars share",
        }
    }
}

/// One result of a check. SECURITY: no text of it may contain a token, a key, a salt or a password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub level: Level,
    pub area: Area,
    /// Names the check, `rights.missing` for instance. For programs; it never changes between
    /// versions.
    pub id: &'static str,
    /// What was found, in a sentence or two.
    pub what: String,
    pub fix: Option<String>,
    /// Lines to be copied unchanged: commands, SQL, configuration.
    pub lines: Vec<String>,
}

impl Finding {
    pub fn ok(area: Area, id: &'static str, what: impl Into<String>) -> Self {
        Finding { level: Level::Ok, area, id, what: what.into(), fix: None, lines: Vec::new() }
    }

    pub fn warning(area: Area, id: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Finding { level: Level::Warning, fix: Some(fix.into()), ..Finding::ok(area, id, what) }
    }

    pub fn problem(area: Area, id: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Finding { level: Level::Problem, fix: Some(fix.into()), ..Finding::ok(area, id, what) }
    }

    /// With lines to copy.
    #[must_use]
    pub fn with_lines<L: Into<String>>(mut self, lines: impl IntoIterator<Item = L>) -> Self {
        self.lines = lines.into_iter().map(Into::into).collect();
        self
    }

    /// With an optional improvement.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.fix = Some(hint.into());
        self
    }
}

/// The worst severity of all; good if there are no findings.
pub fn verdict(findings: &[Finding]) -> Level {
    findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
}

/// An error with its chain of sources.
pub fn in_full(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    format!("{error}{source}")
}
