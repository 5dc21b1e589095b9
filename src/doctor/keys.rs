//! Judges the signing key and the salts by their form. Their values are not passed on.

use crate::config::{Algorithm, Secret};
use crate::finding::{Area, Finding};
use crate::wordpress::installation::Installation;

/// Values that documents and examples give to keys, in lower case and reduced to letters: the
/// plugin's own instructions, WordPress's sample configuration, and values that people use
/// temporarily.
const PLACEHOLDERS: [&str; 9] = [
    "putyouruniquephrasehere",
    "yourtopsecretkey",
    "yourtopsecrectkey",
    "yoursecretkey",
    "yoursecretkeyhere",
    "changeme",
    "secret",
    "mysecretkey",
    "password",
];

/// A key with fewer different characters than this, of any length, is a repeated word rather than a
/// random value.
const DISTINCT_CHARACTERS: usize = 8;

const FIX_KEY: &str = "Make a long random one, put it into wp-config.php as JWT_AUTH_SECRET_KEY (or into jwt.secret_file), and \
                        restart the sidecar. Access tokens signed with the old key end with it; refresh tokens stay good.";

/// Judges the key that tokens are signed with. `algorithm` is the site's, if known.
pub fn signing_key(algorithm: Option<Algorithm>, secret: Option<&Secret>, has_private_key: bool) -> Finding {
    let id = "keys.signing";
    if has_private_key && algorithm.is_none_or(|algorithm| !algorithm.is_hmac()) {
        return Finding::ok(Area::Keys, id, "tokens are signed with the private key of jwt.private_key_file");
    }
    let Some(secret) = secret else {
        return Finding::problem(Area::Keys, id, "there is no key to sign tokens with", FIX_KEY).with_lines(make_key());
    };
    let bits = algorithm.unwrap_or(Algorithm::HS256);
    let weakness = weakness(secret.expose(), least_bytes(bits));
    match weakness {
        None => Finding::ok(
            Area::Keys,
            id,
            format!("the signing key has {} bytes, enough for {bits}", secret.expose().len()),
        ),
        Some(Weakness::Placeholder) => Finding::problem(
            Area::Keys,
            id,
            "the signing key is a placeholder from an example: anyone can make tokens for any user of the site",
            FIX_KEY,
        )
        .with_lines(make_key()),
        Some(Weakness::Short(length)) => Finding::warning(
            Area::Keys,
            id,
            format!(
                "the signing key has {length} bytes; {bits} wants {} or more (RFC 7518, section 3.2): a short key can be \
                 found by trying, and with it tokens can be made for any user",
                least_bytes(bits)
            ),
            FIX_KEY,
        )
        .with_lines(make_key()),
        Some(Weakness::Monotonous) => Finding::warning(
            Area::Keys,
            id,
            format!("the signing key is made of fewer than {DISTINCT_CHARACTERS} different characters"),
            FIX_KEY,
        )
        .with_lines(make_key()),
    }
}

/// Whether `wp_salt('auth')` comes from the constants.
pub fn salts(installation: &Installation) -> Finding {
    let id = "keys.salts";
    if installation.salts.are_complete() {
        return Finding::ok(Area::Keys, id, "AUTH_KEY and AUTH_SALT are set and used by no other constant");
    }
    Finding::warning(
        Area::Keys,
        id,
        "AUTH_KEY or AUTH_SALT is missing in wp-config.php, is the placeholder of the sample, or has the value of another \
         key: WordPress uses a random value from its database instead, which everyone who can read the database knows",
        "Put fresh keys into wp-config.php (`wp config shuffle-salts`, or https://api.wordpress.org/secret-key/1.1/salt/) and \
         restart the sidecar at once. All users then have to log in again: sessions and access tokens depend on these keys.",
    )
}

fn make_key() -> [&'static str; 1] {
    ["openssl rand -base64 48"]
}

enum Weakness {
    Placeholder,
    Short(usize),
    Monotonous,
}

fn weakness(key: &str, least: usize) -> Option<Weakness> {
    let letters: String = key.to_ascii_lowercase().chars().filter(char::is_ascii_alphabetic).collect();
    let digits = key.chars().filter(|character| !character.is_ascii_alphabetic()).count();
    // "your-top-secret-key" and the like; a random key that happens to contain a word among other
    // characters does not count.
    if PLACEHOLDERS.contains(&letters.as_str()) && digits <= letters.len() / 2 {
        return Some(Weakness::Placeholder);
    }
    if key.len() < least {
        return Some(Weakness::Short(key.len()));
    }
    let mut characters: Vec<char> = key.chars().collect();
    characters.sort_unstable();
    characters.dedup();
    (characters.len() < DISTINCT_CHARACTERS).then_some(Weakness::Monotonous)
}

/// The size of the hash (RFC 7518, section 3.2).
fn least_bytes(algorithm: Algorithm) -> usize {
    match algorithm {
        Algorithm::HS384 => 48,
        Algorithm::HS512 => 64,
        _ => 32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Level;

    fn level(key: &str, algorithm: Algorithm) -> Level {
        let finding = signing_key(Some(algorithm), Some(&Secret::new(key)), false);
        assert!(key.len() < 6 || !format!("{finding:?}").contains(key), "the key is shown");
        finding.level
    }

    #[test]
    fn keys_are_judged_by_length_and_looks() {
        let random = "q9Zt4LxW2b8vKp7RmN3sYc6HdJf5Gg1T";
        assert_eq!(level(random, Algorithm::HS256), Level::Ok);
        assert_eq!(level(random, Algorithm::HS384), Level::Warning);
        assert_eq!(level(&random.repeat(2), Algorithm::HS512), Level::Ok);
        assert_eq!(level("short-but-random-7Kq", Algorithm::HS256), Level::Warning);
        assert_eq!(level(&"ab".repeat(20), Algorithm::HS256), Level::Warning);
        for placeholder in ["your-top-secret-key", "your-top-secrect-key", "put your unique phrase here", "Secret123"] {
            assert_eq!(level(placeholder, Algorithm::HS256), Level::Problem, "{placeholder}");
        }
        assert_eq!(signing_key(None, None, false).level, Level::Problem);
        assert_eq!(signing_key(Some(Algorithm::RS256), None, true).level, Level::Ok);
    }
}
