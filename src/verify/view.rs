//! The state of the verification, as operators see it: status page, `/status.json`, `verify`,
//! `doctor`.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::difference::{Difference, Kind};
use super::explain::Explanation;
use super::origins::{OriginState, OriginView};
use super::verdict::{State, Verdict};

/// Who answers refreshes, by the verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ViewState {
    /// WordPress, until enough of its responses agree.
    Unverified,
    /// The sidecar.
    Agrees,
    /// WordPress, whose refreshes differ.
    Differs,
    /// WordPress, which refuses its REST API.
    Closed,
    /// The sidecar: `verify = "off"`.
    Trusted,
}

impl ViewState {
    pub const ALL: [ViewState; 5] =
        [ViewState::Unverified, ViewState::Agrees, ViewState::Differs, ViewState::Closed, ViewState::Trusted];

    /// One word, for metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            ViewState::Unverified => "unverified",
            ViewState::Agrees => "agrees",
            ViewState::Differs => "differs",
            ViewState::Closed => "closed",
            ViewState::Trusted => "trusted",
        }
    }

    /// Whether refreshes are native.
    pub fn is_native(self) -> bool {
        matches!(self, ViewState::Agrees | ViewState::Trusted)
    }
}

impl fmt::Display for ViewState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The state for operators. SECURITY: names and types only, no values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    pub state: ViewState,
    /// When the state began.
    pub since_unix_seconds: u64,
    /// All comparisons with a result.
    pub compared: u64,
    /// Comparisons that agreed in this state, and how many are needed to leave it.
    pub agreed: u32,
    pub needed: u32,
    /// What differs, or how WordPress refuses.
    pub difference: Option<String>,
    pub kind: Option<Kind>,
    /// What can be done.
    pub fix: Option<String>,
    /// A configuration that would explain the difference, as far as known.
    #[serde(default)]
    pub explanation: Option<Explanation>,
    /// Whether the site's files were scanned for code on hooks that may refuse or act. Nothing is
    /// native before.
    #[serde(default)]
    pub files_scanned: bool,
    /// Differences that decide nothing.
    pub notes: Vec<String>,
    /// The file that keeps it across restarts; `None` if it is kept in memory.
    pub kept_in: Option<String>,
    /// The apps' origins for which WordPress's responses were compared.
    #[serde(default)]
    pub origins: Vec<OriginView>,
}

impl View {
    /// The view of a verdict, and of untrusted code on a `hook`. `is_on`: whether anything is
    /// verified.
    pub fn of(verdict: &Verdict, hook: Option<&Difference>, is_on: bool) -> Self {
        let (state, difference) = match (&verdict.state, hook) {
            _ if !is_on => (ViewState::Trusted, None),
            (_, Some(difference)) | (State::Differs(difference), None) => (ViewState::Differs, Some(difference)),
            (State::Agrees, None) => (ViewState::Agrees, None),
            (State::Unverified, None) => (ViewState::Unverified, None),
        };
        let fix = difference.map(|difference| difference.kind.fix()).or_else(|| fix_of(state));
        View {
            state,
            since_unix_seconds: verdict.since,
            compared: verdict.compared,
            agreed: verdict.agreed,
            needed: verdict.needed,
            difference: difference.map(ToString::to_string),
            kind: difference.map(|difference| difference.kind),
            fix: fix.map(str::to_owned),
            explanation: None,
            files_scanned: false,
            notes: Vec::new(),
            kept_in: None,
            origins: Vec::new(),
        }
    }

    /// WordPress has closed its REST API, as described by `obstacle`: that decides, whatever was
    /// compared before.
    #[must_use]
    pub fn closed(self, obstacle: String, since_unix_seconds: u64) -> Self {
        let (state, fix) = (ViewState::Closed, Some(CLOSED.to_owned()));
        View { state, since_unix_seconds, difference: Some(obstacle), kind: None, fix, ..self }
    }

    /// Each app's origin with its state, one per line.
    pub fn origin_lines(&self) -> impl Iterator<Item = String> {
        let is_native = self.state.is_native();
        self.origins.iter().map(move |origin| format!("{}: {}", origin.name(), origin.words(is_native)))
    }

    /// The origins whose responses have changed, if that is the only obstacle to native refreshes.
    pub fn changed_origins(&self) -> Option<String> {
        let changed = self.origins.iter().filter(|origin| origin.state == OriginState::Differs);
        let changed: Vec<String> = changed
            .map(|origin| format!("{} ({})", origin.name(), origin.difference.as_deref().unwrap_or_default()))
            .collect();
        (self.state.is_native() && !changed.is_empty()).then(|| {
            format!(
                "WordPress answers origins of apps differently than before, and gets their refreshes: {}",
                changed.join(", ")
            )
        })
    }

    /// The progress, if it is meaningful.
    pub fn progress(&self) -> Option<String> {
        let View { agreed, needed, .. } = self;
        match self.state {
            ViewState::Unverified => Some(format!("{agreed} of {needed} responses of WordPress agree")),
            // A row or a hook may be the obstacle as well.
            ViewState::Differs => Some(format!("{agreed} of {needed} responses of WordPress agree since")),
            ViewState::Agrees | ViewState::Closed | ViewState::Trusted => None,
        }
    }
}

/// What to do if WordPress refuses its REST API.
pub const CLOSED: &str = "Something closes the REST API: a security plugin, code of the site's own, or the state of the site. If that is \
                          wanted, nothing has to be done. Else let GET …/wp-json/ through for the sidecar, which comes with the \
                          User-Agent wp-jwt-sidecar, or set wordpress.home to the site's home URL, to the letter.";

/// What to do about [`View::changed_origins`].
pub const ORIGIN_CHANGED: &str = "Nothing has to be done where the site's CORS code was changed: the origin's refreshes are native \
                                  again after 200 answers that are the same, over ten minutes at least, or after `wp-jwt-sidecar \
                                  verify --again`. Code that answers one origin now so and now otherwise keeps them WordPress's.";

/// What can be done in a state without a difference.
fn fix_of(state: ViewState) -> Option<&'static str> {
    match state {
        ViewState::Unverified => Some(
            "Nothing has to be done. WordPress gets the refreshes, and each of its answers is compared with what the sidecar \
             would have given; they have to be of three users, or three times as many.",
        ),
        ViewState::Trusted => Some(
            "refresh.verify is \"off\": what the site's own code does at a refresh is neither compared nor looked for. With \
             \"auto\" refreshes are native once they are proven.",
        ),
        ViewState::Agrees | ViewState::Differs | ViewState::Closed => None,
    }
}
