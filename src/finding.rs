//! What the doctor and the status page say of the installation: a finding is good, to be looked at, or a problem, and
//! says how to fix it.

use serde::Serialize;

/// How bad it is. Ordered: the worst of several is their maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    /// It works, but an operator should know.
    Warning,
    /// Something does not work, or not as WordPress does it.
    Problem,
}

/// Which part of the installation it is about, in the order of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Area {
    /// Flags, environment, file.
    Configuration,
    /// The site's `wp-config.php`.
    WpConfig,
    /// The server, the connection to it, its clock.
    Database,
    /// What the database user may do.
    Rights,
    /// The plugin's tables and their indexes.
    Tables,
    /// The plugin and its settings.
    Plugin,
    /// Signing key and salts.
    Keys,
    Upstream,
    /// Whom WordPress takes for the client.
    ClientAddress,
    /// What the site's own code changes.
    Customized,
    /// WordPress's answers beside the sidecar's.
    Parity,
    Tls,
    Requests,
    Process,
    /// The rows that the plugin's analytics counts.
    Analytics,
}

impl Area {
    /// For people.
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
        }
    }
}

/// One thing that was found. SECURITY: no text of it may hold a token, a key, a salt or a password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub level: Level,
    pub area: Area,
    /// Names what was looked at, `rights.missing` for instance. For programs; it stays the same from version to version.
    pub id: &'static str,
    /// What was found, as a sentence or two.
    pub what: String,
    pub fix: Option<String>,
    /// Lines to be copied as they are: commands, SQL, configuration.
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

    /// With lines to be copied.
    #[must_use]
    pub fn with_lines<L: Into<String>>(mut self, lines: impl IntoIterator<Item = L>) -> Self {
        self.lines = lines.into_iter().map(Into::into).collect();
        self
    }

    /// With what could be done, though nothing has to be.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.fix = Some(hint.into());
        self
    }
}

/// The worst of all; good where there is nothing.
pub fn verdict(findings: &[Finding]) -> Level {
    findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
}

/// An error with its source.
pub fn in_full(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    format!("{error}{source}")
}
