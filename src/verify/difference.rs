//! Describes a difference between WordPress's refreshes and the sidecar's for an operator.
//!
//! SECURITY: names and types only. The value of a claim, a member, a header or a column may be
//! secret or personal.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest name that is shown.
const LONGEST: usize = 64;

/// With so many digits a name counts as a value: a token, an id or a hash.
const DIGITS: usize = 8;

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Where it is.
    pub kind: Kind,
    /// The exact difference, for people: `body +roles (array of string)`.
    pub what: String,
}

impl Difference {
    /// `what` contains names and types only.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Difference { kind, what: what.into() }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.what)
    }
}

/// A name as shown to people.
// SECURITY: the site's code may use values as names (`{"alice@example.org": …}`).
pub fn shown(name: &str) -> &str {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    let digits = name.bytes().filter(u8::is_ascii_digit).count();
    if is_plain && (1..=LONGEST).contains(&name.len()) && digits < DIGITS { name } else { "…" }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $fix:literal;)+) => {
        /// In what WordPress's refreshes differ.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Kind {
            $($(#[$doc])* $variant,)+
        }

        impl Kind {
            /// In the order of their declaration.
            pub const ALL: &[Kind] = &[$(Kind::$variant,)+];

            /// One word, for metrics and JSON.
            pub fn name(self) -> &'static str {
                match self {
                    $(Kind::$variant => $name,)+
                }
            }

            /// What an operator can do about it.
            pub fn fix(self) -> &'static str {
                match self {
                    $(Kind::$variant => $fix,)+
                }
            }
        }
    };
}

kinds! {
    /// WordPress refuses what the sidecar would serve, or refuses with another message.
    Refusal = "refusal", "Refreshes are WordPress's until its answers agree again. A plugin or the site's own code refuses the \
        call, or words its refusals in its own way.";
    /// A field of the response.
    Header = "header", "If the web server adds the field, name it in refresh.verify_ignore_headers. If the site's own code \
        does, refreshes stay WordPress's.";
    /// The members of the JSON.
    Body = "body", "The site's own code changes the answer (the filter jwt_auth_token_before_dispatch, or one of the REST API). \
        Refreshes stay WordPress's while it does, unless what it adds is declared: `wp-jwt-sidecar verify` prints how, where it \
        can be.";
    /// A claim of the access token.
    Claim = "claim", "The site's own code changes the claims of the token. Refreshes stay WordPress's while it does, \
        unless they are declared: `wp-jwt-sidecar verify` prints how, where they can be.";
    /// How long a token lives.
    Lifetime = "lifetime", "The site's own code changes how long a token lives (the filters jwt_auth_expire and \
        jwt_auth_refresh_token_expiration). Refreshes stay WordPress's while it does; a lifetime of access tokens that is the \
        same for all can be declared ([jwt] lifetime).";
    /// The signature, or all hashes: the keys differ.
    Keys = "keys", "Compare JWT_AUTH_SECRET_KEY, AUTH_KEY, AUTH_SALT and the home URL with those that PHP has: `wp-jwt-sidecar \
        doctor` does. They are the configuration's [jwt] and [wordpress] keys, or wp-config.php's constants.";
    /// A row's columns.
    Row = "row", "The site's own code changes what is stored with a token (the filters that end in _data_before_update). \
        Refreshes stay WordPress's while it does.";
    /// 500, and the token is gone.
    Session = "session", "The site's own code ends sessions at their refresh: WordPress answers 500 and has revoked the token. \
        The PHP error log says where.";
    /// Code on a hook that refuses or acts.
    Hook = "hook", "Read the code at that place. If refreshes need not run it, name it in refresh.trusted_hooks; if they do, \
        refreshes stay WordPress's.";
}
