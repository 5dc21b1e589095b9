//! The names of the relevant hooks, and which strings of PHP code can become one of them. Pure.

/// A part of every name. A file without it is not parsed.
pub(super) const NEEDLE: &str = "jwt_auth";

/// Hooks whose callbacks can refuse a refresh or act on one without the comparison noticing: it
/// sees WordPress's responses to some successful refreshes, and the rows that they leave.
///
/// Not listed are hooks whose effect the comparison or the row shows (claims, lifetimes, issuer,
/// algorithm, key, CORS, the names of `X-RateLimit-*`), those that only WordPress's login runs
/// (`jwt_auth_token_generated`), and those that change only the address or country in a row.
const HOOKS: [&str; 15] = [
    // Refuses users. Other users' refreshes do not show it, and a refresh that it refuses ends the
    // session (500).
    "jwt_auth_before_authenticate",
    // Can change each user's response: 500 equal ones show nothing about a user for whom it returns
    // a WP_Error.
    "jwt_auth_token_before_dispatch",
    // An action. The response shows its cookies and headers, but not what else it does.
    "jwt_auth_token_refreshed",
    // Run before the two rows are written. Their other effects are not visible, and columns that
    // depend on the request (metadata, user agent, address) are no reason to forward if they
    // differ.
    "jwt_auth_refresh_token_data_before_update",
    "jwt_auth_jwt_token_data_before_update",
    // Change whom the plugin's rate limit refuses: a comparison ignores 429s and the values of
    // limits.
    "jwt_auth_rate_limit_enabled",
    "jwt_auth_rate_limit_max_requests",
    "jwt_auth_rate_limit_window_minutes",
    // The same by the filter of each single setting (`jwt_auth_{group}_{key}`), and by the option's
    // own.
    "jwt_auth_rate_limit_settings_enabled",
    "jwt_auth_rate_limit_settings_max_requests",
    "jwt_auth_rate_limit_settings_window_minutes",
    "option_jwt_auth_pro_settings",
    "pre_option_jwt_auth_pro_settings",
    // The messages of refusals. Only successful refreshes are compared.
    "jwt_auth_error_messages",
    "jwt_auth_error_status",
];

/// A piece of a concatenated string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'s> {
    Known(&'s [u8]),
    /// Only PHP knows its value.
    Unknown,
}

/// The names that occur in `text` as whole words, each with its position.
pub(super) fn whole(text: &[u8]) -> impl Iterator<Item = (usize, &'static str)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        loop {
            let found = from + memchr::memmem::find(text.get(from..)?, NEEDLE.as_bytes())?;
            let before = text.get(..found)?.iter().rev().take_while(|byte| is_of_word(**byte)).count();
            let after = text.get(found..)?.iter().take_while(|byte| is_of_word(**byte)).count();
            from = found + after;
            let start = found - before;
            let word = text.get(start..from)?;
            if let Some(name) = HOOKS.iter().find(|name| name.as_bytes() == word) {
                return Some((start, *name));
            }
        }
    })
}

/// Whether a string of these pieces can be one of the names. Returns a pattern for it:
/// `jwt_auth_*`.
pub(super) fn built(pieces: &[Piece<'_>]) -> Option<String> {
    let mut pattern: Vec<Option<u8>> = Vec::new();
    let mut is_evident = false;
    let mut known: Vec<u8> = Vec::new();
    let pieces = || pieces.iter().copied().filter(|piece| *piece != Piece::Known(b""));
    for piece in pieces().chain([Piece::Unknown]) {
        match piece {
            Piece::Known(text) if pattern.len() + known.len() + text.len() > LONGEST => return None,
            Piece::Known(text) => known.extend_from_slice(text),
            Piece::Unknown => {
                is_evident |= is_evidence(&known);
                pattern.extend(known.drain(..).map(Some));
                if pattern.last() != Some(&None) {
                    pattern.push(None);
                }
            }
        }
    }
    // The part that ended the loop, unless that was one of the pieces, too.
    if pieces().next_back() != Some(Piece::Unknown) {
        pattern.pop();
    }
    if !is_evident || !pattern.contains(&None) || !HOOKS.iter().any(|name| matches(&pattern, name.as_bytes())) {
        return None;
    }
    let shown: Vec<u8> = pattern.into_iter().map(|byte| byte.unwrap_or(b'*')).collect();
    Some(String::from_utf8_lossy(&shown).into_owned())
}

/// Whether `text` is the beginning of names to be concatenated: `jwt_auth_`, `jwt_auth_token_`.
pub(super) fn is_beginning(text: &[u8]) -> bool {
    text.starts_with(NEEDLE.as_bytes())
        && text.ends_with(b"_")
        && HOOKS.iter().any(|name| name.as_bytes().starts_with(text))
}

/// The pieces of a `sprintf()` format.
pub(super) fn of_format(text: &[u8]) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut from, mut at) = (0, 0);
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let length = match rest {
            [b'%', directive @ ..] => {
                let digits = directive.iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'$').count();
                matches!(directive.get(digits), Some(b's' | b'd' | b'u')).then_some(digits + 2)
            }
            _ => None,
        };
        match length {
            Some(length) => {
                pieces.extend(text.get(from..at).filter(|known| !known.is_empty()).map(Piece::Known));
                pieces.push(Piece::Unknown);
                at += length;
                from = at;
            }
            None => at += 1,
        }
    }
    pieces.extend(text.get(from..).filter(|known| !known.is_empty()).map(Piece::Known));
    pieces
}

/// None of the names is longer.
const LONGEST: usize = 64;

/// Shorter endings could belong to any name.
const SHORTEST_ENDING: usize = 10;

/// Whether a piece indicates these names: it has the plugin's prefix, or is a distinctive ending.
fn is_evidence(known: &[u8]) -> bool {
    memchr::memmem::find(known, NEEDLE.as_bytes()).is_some()
        || (known.len() >= SHORTEST_ENDING && HOOKS.iter().any(|name| name.as_bytes().ends_with(known)))
}

/// In `pattern`, `None` stands for any number of bytes.
fn matches(pattern: &[Option<u8>], name: &[u8]) -> bool {
    // For each beginning of `name`, whether the pattern so far matches it.
    let mut lengths = vec![false; name.len() + 1];
    if let Some(first) = lengths.first_mut() {
        *first = true;
    }
    for wanted in pattern {
        lengths = match wanted {
            None => lengths
                .iter()
                .scan(false, |any, is| {
                    *any |= is;
                    Some(*any)
                })
                .collect(),
            Some(byte) => {
                let next = lengths.iter().zip(name).map(|(is, letter)| *is && letter == byte);
                std::iter::once(false).chain(next).collect()
            }
        };
    }
    lengths.last() == Some(&true)
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::Piece::{Known, Unknown};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_words() {
        let names = |text: &str| whole(text.as_bytes()).map(|(at, name)| format!("{at} {name}")).collect::<Vec<_>>();
        assert_eq!(names("jwt_auth_token_refreshed"), ["0 jwt_auth_token_refreshed"]);
        assert_eq!(
            names("x jwt_auth_token_refreshed,jwt_auth_error_status:"),
            ["2 jwt_auth_token_refreshed", "27 jwt_auth_error_status"]
        );
        assert_eq!(names("'pre_option_jwt_auth_pro_settings'"), ["1 pre_option_jwt_auth_pro_settings"]);
        for other in [
            "graphql_jwt_auth_before_authenticate",
            "jwt_auth_token_refreshed_twice",
            "my_jwt_auth_token_refreshed",
            "jwt_auth_pro_settings jwt_auth_expire jwt_auth",
            "",
        ] {
            assert_eq!(names(other), [""; 0], "{other}");
        }
        assert!(HOOKS.iter().all(|hook| hook.contains(NEEDLE) && hook.len() <= LONGEST));
    }

    #[test]
    fn what_strings_can_become() {
        let of = |pieces: &[Piece<'_>]| built(pieces);
        assert_eq!(of(&[Known(b"jwt_auth_"), Unknown]).as_deref(), Some("jwt_auth_*"));
        assert_eq!(of(&[Known(b"jwt_auth"), Unknown, Known(b"_dispatch")]).as_deref(), Some("jwt_auth*_dispatch"));
        assert_eq!(of(&[Unknown, Known(b"_token_refreshed")]).as_deref(), Some("*_token_refreshed"));
        assert_eq!(of(&[Known(b"jwt_"), Known(b"auth_token_"), Unknown]).as_deref(), Some("jwt_auth_token_*"));
        assert_eq!(of(&[Known(b"jwt_auth_token_refreshed"), Unknown]).as_deref(), Some("jwt_auth_token_refreshed*"));
        assert_eq!(of(&[Unknown, Unknown, Known(b"token_before_dispatch")]).as_deref(), Some("*token_before_dispatch"));
        for other in [
            &[Unknown][..],
            &[Unknown, Known(b"_enabled")],
            &[Unknown, Known(b"jwt_auth_tokens")],
            &[Known(b"jwt_auth_token_refreshed"), Known(b"")],
            &[Known(b"jwt_auth_pro_"), Unknown],
            &[Known(b"see jwt_auth_"), Unknown],
            &[Known(b"jwt_auth_"), Unknown, Known(b" is missing")],
            &[Known(b"jwt_auth_token_refreshed")],
            &[],
        ] {
            assert_eq!(of(other), None, "{other:?}");
        }
        assert!(is_beginning(b"jwt_auth_") && is_beginning(b"jwt_auth_token_before_"));
        assert!(!is_beginning(b"jwt_auth") && !is_beginning(b"jwt_auth_pro_") && !is_beginning(b"_"));
    }

    #[test]
    fn formats() {
        assert_eq!(of_format(b"jwt_auth_%s_x%1$s"), [Known(b"jwt_auth_"), Unknown, Known(b"_x"), Unknown]);
        assert_eq!(of_format(b"a%b 50% %"), [Known(b"a%b 50% %")]);
        assert_eq!(of_format(b"%"), [Known(b"%")]);
        assert_eq!(of_format(b""), []);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(texts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..5)) {
            for text in &texts {
                let _ = (whole(text).count(), is_beginning(text));
                let _ = built(&of_format(text));
            }
            let pieces: Vec<Piece<'_>> = texts.iter().flat_map(|text| [Known(text), Unknown]).collect();
            let _ = built(&pieces);
        }

        #[test]
        fn a_name_with_a_hole_is_one(name in proptest::sample::select(HOOKS.to_vec()), from in 0_usize..60, to in 0_usize..60) {
            let (from, to) = (from.min(to).min(name.len()), from.max(to).min(name.len()));
            let pieces = [Known(&name.as_bytes()[..from]), Unknown, Known(&name.as_bytes()[to..])];
            let evident = name[..from].contains(NEEDLE) || name[to..].len() >= SHORTEST_ENDING;
            prop_assert!(!evident || built(&pieces).is_some(), "{} {}", from, to);
        }
    }
}
