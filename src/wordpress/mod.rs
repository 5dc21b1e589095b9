//! Everything that is known of WordPress: from `wp-config.php`, from its options, from asking it;
//! and what its plugin signs.

pub mod access_token;
pub mod clock;
pub mod database;
pub mod home;
pub mod hook_scan;
pub mod imported;
pub mod installation;
pub mod language;
pub mod network;
pub mod options;
pub mod salts;
pub mod site;
pub mod text;
pub mod wp_config;
