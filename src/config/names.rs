//! The closed sets of names that keys accept, as enums that the rest of the program uses.
//!
//! Spelling is exact, including case: `Algorithm` also parses the site's own setting, where a
//! similar name is invalid.

use std::{fmt, str::FromStr};

/// The text is not one of the accepted names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not one of the known names")]
pub struct UnknownName;

/// Implemented by the values of keys that accept a set of names.
pub(super) trait Names: FromStr {
    /// All of them.
    const NAMES: &'static [&'static str];
}

/// Defines a closed set of names: the enum, `NAMES`, `FromStr` and `Display` from one list.
macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// The names as written, in the order of the variants.
            pub const NAMES: &'static [&'static str] = &[$($text),+];
        }

        impl Names for $name {
            const NAMES: &'static [&'static str] = $name::NAMES;
        }

        impl FromStr for $name {
            type Err = UnknownName;

            fn from_str(text: &str) -> Result<Self, UnknownName> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(UnknownName),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $text,)+ })
            }
        }
    };
}

names! {
    /// A signing algorithm that the sidecar can sign with, by its JWT name (RFC 7518, section 3.1;
    /// RFC 8037).
    Algorithm {
        /// HMAC with SHA-256.
        HS256 = "HS256",
        /// HMAC with SHA-384.
        HS384 = "HS384",
        /// HMAC with SHA-512.
        HS512 = "HS512",
        /// RSASSA-PKCS1-v1_5 with SHA-256.
        RS256 = "RS256",
        /// RSASSA-PKCS1-v1_5 with SHA-384.
        RS384 = "RS384",
        /// RSASSA-PKCS1-v1_5 with SHA-512.
        RS512 = "RS512",
        /// ECDSA on P-256 with SHA-256.
        ES256 = "ES256",
        /// ECDSA on P-384 with SHA-384.
        ES384 = "ES384",
        /// Ed25519.
        EdDSA = "EdDSA",
    }
}

impl Algorithm {
    /// Whether it signs with the site's shared secret; the others sign with a private key.
    pub fn is_hmac(self) -> bool {
        matches!(self, Self::HS256 | Self::HS384 | Self::HS512)
    }
}

names! {
    /// Whether clients' connections begin with a PROXY header.
    #[derive(Default)]
    ProxyProtocol {
        /// They do not.
        #[default]
        Off = "off",
        /// Each with one of version 1, a line of text.
        V1 = "v1",
        /// Each with one of version 2, binary.
        V2 = "v2",
        /// Each with one of either version.
        Any = "any",
    }
}

names! {
    /// Whether connections to the upstream begin with a PROXY header.
    #[derive(Default)]
    UpstreamProxyProtocol {
        /// They do not.
        #[default]
        Off = "off",
        /// Each with one of version 2.
        V2 = "v2",
    }
}

names! {
    /// How the fields are handled that tell the upstream the client's address.
    #[derive(Default)]
    ForwardedMode {
        /// An untrusted peer's are replaced, a trusted one's are appended to.
        #[default]
        Auto = "auto",
        /// They are passed on unchanged, and nothing is added.
        Preserve = "preserve",
    }
}

names! {
    /// When the body of a request is sent to the upstream.
    #[derive(Default)]
    EarlyBodies {
        /// When its start has been read.
        Never = "never",
        /// If the client waits to be asked for it, when the upstream asks. Otherwise as `Never`.
        #[default]
        Expect = "expect",
        /// As `Expect`, and a body without a length at once.
        Always = "always",
    }
}

names! {
    /// How `X-Request-Id` is passed to the upstream.
    #[derive(Default)]
    RequestIdMode {
        /// A trusted peer's is passed on, any other is replaced by the sidecar's own.
        #[default]
        Auto = "auto",
        /// It is passed on unchanged, and none is added.
        Preserve = "preserve",
    }
}

names! {
    /// Whether connections to the database are encrypted, and whether the server's certificate is
    /// verified.
    #[derive(Default)]
    DatabaseTls {
        /// As `database_url` or `wp-config.php` says.
        #[default]
        Auto = "auto",
        /// Encrypted, by a certificate that is verified.
        Verify = "verify",
        /// Encrypted, with any certificate of the server.
        EncryptOnly = "encrypt_only",
        /// Not encrypted.
        Off = "off",
    }
}

names! {
    /// Who answers the refresh route.
    #[derive(Default)]
    RefreshMode {
        /// The sidecar, if it knows the response for certain.
        #[default]
        Native = "native",
        /// WordPress, always.
        Forward = "forward",
    }
}

names! {
    /// Whether native refreshes are verified to match WordPress's.
    #[derive(Default)]
    Verify {
        /// First several calls, then a small sample.
        #[default]
        Auto = "auto",
        /// One call in twenty, permanently.
        Always = "always",
        /// Never.
        Off = "off",
    }
}

names! {
    /// What happens when a used refresh token comes back.
    #[derive(Default)]
    ReuseDetection {
        /// It is refused.
        #[default]
        Off = "off",
        /// Its family is revoked, too.
        RevokeFamily = "revoke_family",
    }
}

names! {
    /// Which fields the body of a successful refresh has.
    #[derive(Default)]
    ResponseFields {
        /// Those of the plugin's API document and those that version 0.2.1 sends.
        #[default]
        All = "all",
        /// Those of the plugin's API document.
        Documented = "documented",
        /// Those that version 0.2.1 sends, with the names of RFC 6749.
        OAuth2 = "oauth2",
    }
}

names! {
    /// The format of a log line.
    #[derive(Default)]
    LogFormat {
        /// To journald if standard error leads there, otherwise text.
        #[default]
        Auto = "auto",
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
        /// Datagrams with fields, to journald.
        Journald = "journald",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_standards() {
        for name in Algorithm::NAMES {
            assert_eq!(name.parse::<Algorithm>().unwrap().to_string(), *name);
        }
        assert_eq!("ES256K".parse::<Algorithm>(), Err(UnknownName));
        assert_eq!("hs256".parse::<Algorithm>(), Err(UnknownName));
    }
}
