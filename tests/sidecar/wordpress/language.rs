//! The site's language: WordPress writes a request's error messages in it if its language pack is
//! installed, and in English otherwise.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::Client;
use crate::support::rig::eventually;
use crate::support::sidecar::Sidecar;
use crate::support::site::Site;

const ENGLISH: &str = "Missing parameter(s): refresh_token";
const GERMAN: &str = "Fehlende Parameter: refresh_token";

/// Installs a core language pack `de_DE` with this one string.
fn install(site: &Site, string: &str, translation: &str) -> PathBuf {
    let packs = PathBuf::from(site.said("ROOT")).join("wp-content/languages");
    fs::create_dir_all(&packs).unwrap();
    let pack = packs.join("de_DE.mo");
    fs::write(&pack, mo(string, translation)).unwrap();
    pack
}

/// A GNU gettext file (its manual, "The Format of GNU MO Files") with one string and no hash table.
fn mo(string: &str, translation: &str) -> Vec<u8> {
    const STRINGS: u32 = 28 + 2 * 8;
    let (first, second) = (u32::try_from(string.len()).unwrap(), u32::try_from(translation.len()).unwrap());
    let header = [0x9504_12de, 0, 1, 28, 28 + 8, 0, STRINGS];
    let numbers = header.into_iter().chain([first, STRINGS, second, STRINGS + first + 1]);
    let mut file: Vec<u8> = numbers.flat_map(u32::to_le_bytes).collect();
    file.extend_from_slice(format!("{string}\0{translation}\0").as_bytes());
    file
}

/// The message for a call without a token, and whether WordPress answered it.
fn fault(site: &Site, sidecar: &Sidecar) -> (Value, bool) {
    let refreshes = || site.requests().iter().filter(|line| line.starts_with("POST ")).count();
    let before = refreshes();
    let answer = Client::of(site, sidecar.address()).post("/jwt-auth/v1/token/refresh", &json!({}));
    assert_eq!(answer.status(), 400, "{answer:?}");
    (answer.json(), refreshes() > before)
}

async fn becomes(what: &str, site: &Site, sidecar: &Sidecar, message: &str, is_by_wordpress: bool) {
    eventually(what, || async {
        let (answer, by_wordpress) = fault(site, sidecar);
        answer["message"] == message && by_wordpress == is_by_wordpress
    })
    .await;
    // This is WordPress's message.
    let of_wordpress = Client::of(site, site.upstream()).post("/jwt-auth/v1/token/refresh", &json!({}));
    assert_eq!(fault(site, sidecar), (of_wordpress.json(), is_by_wordpress), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_are_worded_as_wordpress_words_them() {
    let site = Site::up(&[]);
    let sidecar = Sidecar::of_site(site.upstream(), site.wp_config(), &[]);
    becomes("an English site", &site, &sidecar, ENGLISH, false).await;

    let pack = install(&site, "Missing parameter(s): %s", "Fehlende Parameter: %s");
    site.database().set_option("WPLANG", "de_DE").await;
    becomes("a German site", &site, &sidecar, GERMAN, true).await;
    fs::remove_file(&pack).unwrap();
    becomes("the pack is removed", &site, &sidecar, ENGLISH, false).await;
    let pack = install(&site, "Hello", "Hallo");
    becomes("a pack without the string", &site, &sidecar, ENGLISH, true).await;
    fs::remove_file(&pack).unwrap();
    becomes("it is removed", &site, &sidecar, ENGLISH, false).await;
    install(&site, "Missing parameter(s): %s", "Fehlende Parameter: %s");
    becomes("the pack is installed while the sidecar runs", &site, &sidecar, GERMAN, true).await;
    site.database().set_option("WPLANG", "fr_FR").await;
    becomes("a language without a pack", &site, &sidecar, ENGLISH, false).await;
    drop(sidecar);

    // From the start; without a row in the options, the constant counts.
    let sidecar = Sidecar::of_site(site.upstream(), site.wp_config(), &[]);
    assert!(!fault(&site, &sidecar).1);
    becomes("at the start", &site, &sidecar, ENGLISH, false).await;
    drop(sidecar);
    let config = fs::read_to_string(site.wp_config()).unwrap();
    fs::write(site.wp_config(), config.replacen("<?php", "<?php define( 'WPLANG', 'de_DE' );", 1)).unwrap();
    site.database().delete_option("WPLANG").await;
    let sidecar = Sidecar::of_site(site.upstream(), site.wp_config(), &[]);
    becomes("by the constant", &site, &sidecar, GERMAN, true).await;
}
