//! The avatar's URL as `get_avatar_data()` makes it (wp-includes/link-template.php).

use data_encoding::HEXLOWER;
use md5::Md5;
use sha2::{Digest as _, Sha256};

use super::source::{Gravatar, GravatarHash};

/// `email` is trimmed.
pub fn url(avatar: &Gravatar, email: &str) -> String {
    let email = email.to_ascii_lowercase();
    let hash = match avatar.hash {
        GravatarHash::Sha256 => HEXLOWER.encode(&Sha256::digest(email.as_bytes())),
        GravatarHash::Md5 => HEXLOWER.encode(&Md5::digest(email.as_bytes())),
    };
    let Gravatar { size, default, rating, .. } = avatar;
    format!("https://secure.gravatar.com/avatar/{hash}?s={size}&d={default}&r={rating}")
}
