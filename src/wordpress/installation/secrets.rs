//! The site's signing secrets.

use std::collections::HashMap;

use super::{Assembly, giver};
use crate::config::{self, Secret};
use crate::wordpress::salts::{SALT_CONSTANTS, SaltConstants};
use crate::wordpress::wp_config::Lookup;

impl Assembly<'_> {
    pub(super) fn salts(&mut self, config: &config::WordPress) -> Option<SaltConstants> {
        if let (Some(key), Some(salt)) = (&config.auth_key, &config.auth_salt) {
            return Some(SaltConstants::explicit(key.clone(), salt.clone()));
        }
        if self.file.is_none() {
            for (key, value) in [("wordpress.auth_key", &config.auth_key), ("wordpress.auth_salt", &config.auth_salt)] {
                if value.is_none() {
                    self.fault(key, "is required where there is no wordpress.config".to_owned());
                }
            }
            return None;
        }
        let keys = "wordpress.auth_key and wordpress.auth_salt";
        let before = self.wrong();
        let mut defined = HashMap::new();
        for name in SALT_CONSTANTS {
            match self.constant(name) {
                Lookup::Known(scalar, line) => match String::from_utf8(scalar.to_bytes()) {
                    Ok(text) => {
                        defined.insert(name, Secret::new(text));
                    }
                    Err(_) => {
                        self.constant_fault(name, keys, &format!("{} gives it a value that is not UTF-8", giver(line)))
                    }
                },
                // Even a constant that is not used itself counts: WordPress ignores values that two
                // of them share.
                Lookup::Unknown(doubt) => self.doubtful(name, keys, &doubt),
                Lookup::NotDefined => {
                    let explicit = if name.ends_with("_KEY") { &config.auth_key } else { &config.auth_salt };
                    let decides = name.starts_with("AUTH_") && explicit.is_none();
                    if decides && self.incomplete().is_some() {
                        self.not_there(name, keys);
                    }
                }
            }
        }
        (self.wrong() == before)
            .then(|| SaltConstants::from_constants(&defined, config.auth_key.clone(), config.auth_salt.clone()))
    }

    pub(super) fn jwt_secret(&mut self, jwt: &config::Jwt) -> Option<Secret> {
        if jwt.secret.is_some() {
            return jwt.secret.clone();
        }
        if jwt.private_key.is_some() {
            return match self.constant("JWT_AUTH_SECRET_KEY") {
                Lookup::Known(scalar, _) => {
                    String::from_utf8(scalar.to_bytes()).ok().filter(|text| !text.is_empty()).map(Secret::new)
                }
                Lookup::NotDefined | Lookup::Unknown(_) => None,
            };
        }
        if self.file.is_none() {
            self.fault(
                "jwt.secret",
                "is required (or jwt.secret_file, jwt.private_key_file) where there is no wordpress.config".to_owned(),
            );
            return None;
        }
        let secret = self.needed_text("JWT_AUTH_SECRET_KEY", "jwt.secret or jwt.secret_file")?;
        if secret.expose().is_empty() {
            self.constant_fault("JWT_AUTH_SECRET_KEY", "jwt.secret or jwt.secret_file", "it is empty");
            return None;
        }
        Some(secret)
    }
}
