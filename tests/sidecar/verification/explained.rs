//! The sidecar writes the configuration itself: what the answers to a few users differ in, as TOML
//! that an operator copies.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::customized::{TRUSTED, by_php, in_front_of, left, ready, refresh, view, without_limit};
use super::declared::AVATARS;
use crate::admin::{admin, get};
use crate::support::custom::CustomSites;
use crate::support::sidecar::{PATIENCE, Sidecar};

/// Of different roles, one of them without, and with different dates and meta values.
const USERS: [&str; 4] = ["user1", "user2", "user3", "user5"];

/// A recorded site, what explains its answers, and what nothing does.
struct Case {
    site: &'static str,
    toml: &'static str,
    open: &'static [&'static str],
    /// Whose answers cannot be declared: they stay WordPress's.
    uncertain: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        site: "role_member",
        toml: r#"[[refresh.field]]
name = "role"
value = { roles = "first" }

[[refresh.field]]
name = "roles"
value = { roles = "list" }"#,
        open: &[],
        uncertain: &["user3"],
    },
    Case {
        site: "meta_and_columns",
        toml: r#"[[refresh.field]]
name = "user_login"
# The users seen do not tell it from { column = "nicename" }.
value = { column = "login" }

[[refresh.field]]
name = "email"
value = { column = "email" }

[[refresh.field]]
name = "display_name"
value = { column = "display_name" }

[[refresh.field]]
name = "registered"
value = { column = "registered" }

[[refresh.field]]
name = "first_name"
value = { meta = "first_name" }

[[refresh.field]]
name = "phone"
value = { meta = "phone" }

[[refresh.field]]
name = "city"
value = { meta = "city" }

[[refresh.field]]
name = "level"
value = { meta = "level", as = "integer" }

[[refresh.field]]
name = "interests"
value = { meta = "interests" }"#,
        open: &[],
        // Has an array, which is serialized.
        uncertain: &["user1"],
    },
    Case {
        site: "avatar",
        toml: r#"[[refresh.field]]
name = "avatar"
value = { gravatar = "{hash}", size = 96, default = "mm", rating = "g" }"#,
        open: &[],
        uncertain: &[],
    },
    Case {
        site: "claim_user_data",
        toml: r#"[[jwt.claim]]
path = "data.user.role"
value = { roles = "first" }

[[jwt.claim]]
path = "data.user.display_name"
value = { column = "display_name" }

[[jwt.claim]]
path = "data.user.email"
value = { column = "email" }"#,
        open: &[],
        uncertain: &["user3"],
    },
    Case {
        site: "lifetime_constant",
        toml: "# Below [jwt], in the place of a lifetime there:\nlifetime = \"30d\"",
        open: &[],
        uncertain: &[],
    },
    Case {
        site: "members_removed",
        toml: "# Below [refresh], in the place of an omit there:\nomit = [\"expires_in\", \"token_type\"]",
        // The time of the answer.
        open: &["nothing known explains body +expires_at"],
        uncertain: &[],
    },
];

/// What its answers differ in is declared below `[refresh]`.
const OMITTING: &str = "<?php
add_filter( 'jwt_auth_token_before_dispatch', function ( $data ) {
    unset( $data['token_type'] );
    return $data;
} );
";

/// Has all users log in and refresh until the sidecar needs no more of their answers.
async fn explanation(sites: &CustomSites, sidecar: &Sidecar) -> Value {
    let deadline = Instant::now() + PATIENCE;
    let mut users = Value::Null;
    loop {
        for user in USERS {
            refresh(sites, sidecar, &sites.log_in(user).await.refresh_token, "");
        }
        let looked = Instant::now();
        loop {
            let explanation = view(sidecar)["explanation"].clone();
            if explanation["users"] == USERS.len() || explanation["is_complete"] == true {
                return explanation;
            }
            if looked.elapsed() > Duration::from_secs(1) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let explanation = view(sidecar)["explanation"].clone();
        let before = std::mem::replace(&mut users, explanation["users"].clone());
        // Three may be enough: then a round with all four changes nothing.
        if (users.as_u64() >= Some(3) && users == before) || Instant::now() > deadline {
            return explanation;
        }
    }
}

/// The hash of an address that this WordPress makes avatars of.
fn avatar_hash(sites: &CustomSites) -> &'static str {
    let is_new = sites.site().php("echo (int) version_compare( $GLOBALS['wp_version'], '6.8', '>=' );");
    if is_new.trim() == "1" { "sha256" } else { "md5" }
}

fn install(sites: &CustomSites, name: &str) {
    let site = sites.recorded().sites.iter().find(|site| site.name == name).unwrap();
    sites.install(AVATARS);
    sites.install(site.php.as_ref().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_explains_a_difference_is_printed() {
    let sites = CustomSites::start();
    without_limit(&sites);
    for Case { site, toml, open, .. } in CASES {
        install(&sites, site);
        let sidecar = in_front_of(&sites, &["--refresh-trusted-hooks", TRUSTED]);
        ready(&sidecar).await;
        let explanation = explanation(&sites, &sidecar).await;
        let toml = toml.replace("{hash}", avatar_hash(&sites));
        assert_eq!(explanation["toml"], *toml, "{site}: {explanation:#}");
        let said: Vec<&str> =
            explanation["open"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
        assert_eq!((said, &explanation["is_complete"]), (open.to_vec(), &Value::from(open.is_empty())), "{site}");

        let page = String::from_utf8(get(admin(&sidecar), "/").body).unwrap();
        let escaped = toml.replace('"', "&quot;");
        assert!(page.contains(&format!("<pre tabindex=\"0\">{escaped}</pre>")), "{site}: {page}");
        sidecar.wait_for_log(match open.is_empty() {
            true => "can be declared",
            false => "no configuration is known that would explain all",
        });
        // What users have of their own is shown nowhere.
        for value in ["Lovelace", "user1@example.test", "Zürich", "+49 30"] {
            assert!(!page.contains(value), "{site}: {value}");
        }
        sites.remove();
    }
}

fn trusted() -> String {
    let hooks: Vec<String> = TRUSTED.split(',').map(|hook| format!("{:?}", hook.trim())).collect();
    format!("[refresh]\ntrusted_hooks = [{}]\n", hooks.join(", "))
}

/// As the comments of what is printed tell: plain keys below the header that they name, all else at
/// the end.
fn put_into(file: &str, printed: &str) -> String {
    let mut file = file.to_owned();
    for paragraph in printed.split("\n\n") {
        let Some((comment, key)) = paragraph.strip_prefix("# Below ").and_then(|below| below.split_once('\n')) else {
            file.push_str(&format!("\n{paragraph}\n"));
            continue;
        };
        let header = comment.split(',').next().unwrap();
        if !file.contains(header) {
            file.push_str(&format!("\n{header}\n"));
        }
        file = file.replacen(header, &format!("{header}\n{key}"), 1);
    }
    file
}

/// An operator copies what is printed, reloads, and sees that it agrees.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_printed_makes_it_agree() {
    let sites = CustomSites::start();
    without_limit(&sites);
    let directory = tempfile::tempdir().unwrap();
    let recorded = CASES.iter().filter(|case| case.open.is_empty()).map(|case| (case.site, case.uncertain));
    for (site, uncertain) in recorded.chain([("omitting", &[][..])]) {
        match site {
            "omitting" => drop(sites.install(OMITTING)),
            recorded => install(&sites, recorded),
        }
        let file = directory.path().join(format!("{site}.toml"));
        // A site with such code has trusted hooks, so that its file has this header already.
        let before = trusted();
        std::fs::write(&file, &before).unwrap();
        let sidecar = in_front_of(&sites, &["--config", file.to_str().unwrap()]);
        ready(&sidecar).await;
        let explanation = explanation(&sites, &sidecar).await;
        std::fs::write(&file, put_into(&before, explanation["toml"].as_str().unwrap())).unwrap();
        sidecar.signal("HUP");
        sidecar.wait_for_log("reloaded");
        ready(&sidecar).await;
        for user in USERS {
            refresh(&sites, &sidecar, &sites.log_in(user).await.refresh_token, "");
        }
        let came = left(&sidecar, "unverified", PATIENCE).await;
        assert_eq!((&came["state"], &came["explanation"]), (&"agrees".into(), &Value::Null), "{site}: {came:#}");
        for user in USERS {
            let token = sites.log_in(user).await.refresh_token;
            let expected = usize::from(uncertain.contains(&user));
            assert_eq!(by_php(&sites, &sidecar, &[token]), expected, "{site}: {user}");
        }
        assert_eq!(view(&sidecar)["state"], "agrees", "{site}");
        sites.remove();
    }
}

/// Another value than the declared one is what the operator has to hear of.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_declared_wrong_is_named() {
    let sites = CustomSites::start();
    without_limit(&sites);
    let directory = tempfile::tempdir().unwrap();
    for (name, part) in [("meta_and_columns", "body display_name"), ("claim_user_data", "claim data.user.display_name")]
    {
        let Case { site, toml, .. } = CASES.iter().find(|case| case.site == name).unwrap();
        install(&sites, site);
        let file = directory.path().join(format!("{site}.toml"));
        let (right, wrong) = (r#"{ column = "display_name" }"#, r#"{ column = "nicename" }"#);
        std::fs::write(&file, put_into(&trusted(), &toml.replace(right, wrong))).unwrap();
        let sidecar = in_front_of(&sites, &["--config", file.to_str().unwrap()]);
        ready(&sidecar).await;
        let explanation = explanation(&sites, &sidecar).await;
        let said = format!("{part} is declared as {wrong}, and WordPress's answers say otherwise");
        assert_eq!(explanation["wrong"], serde_json::json!([said]), "{site}: {explanation:#}");
        // All else that is declared stays.
        let without_comments: Vec<&str> = toml.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(explanation["toml"], without_comments.join("\n"), "{site}");
        assert_eq!(explanation["is_complete"], true, "{site}");
        sites.remove();
    }
}
