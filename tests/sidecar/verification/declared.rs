//! Declared customizations behind the sidecar: native, and member by member what the site's own PHP
//! code makes.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::customized::{TRUSTED, difference, in_front_of, left, ready, refresh, view, without_limit};
use crate::support::custom::CustomSites;
use crate::support::raw::Message;
use crate::support::sidecar::PATIENCE;
use crate::support::sidecar::Sidecar;

/// All that can be declared, as a site's own code does it.
const PHP: &str = r"<?php
add_filter( 'jwt_auth_token_before_dispatch', function ( $data, $user ) {
    $data['user_login'] = $user->user_login;
    $data['user'] = array( 'email' => $user->user_email, 'name' => $user->display_name, 'url' => $user->user_url );
    $data['registered'] = $user->user_registered;
    $data['id'] = $user->ID;
    $data['roles'] = $user->roles;
    $data['all_roles'] = implode( ', ', $user->roles );
    $data['first_name'] = get_user_meta( $user->ID, 'first_name', true );
    $data['level'] = (int) get_user_meta( $user->ID, 'shop_level', true );
    $data['vip'] = (bool) get_user_meta( $user->ID, 'vip', true );
    $data['avatar'] = get_avatar_url( $user->ID, array( 'size' => 48 ) );
    $data['app'] = array( 'name' => 'shop', 'api' => 3, 'beta' => false, 'tags' => array( 'a/b', 'ü' ) );
    unset( $data['token_type'] );
    return $data;
}, 10, 2 );
add_filter( 'jwt_auth_token_user_data', function ( $claims, $user ) {
    $claims['role'] = reset( $user->roles );
    $claims['name'] = $user->display_name;
    return $claims;
}, 10, 2 );
add_filter( 'jwt_auth_token_before_sign', function ( $token ) {
    $token['aud'] = 'https://shop.example/ü';
    return $token;
} );
add_filter( 'jwt_auth_expire', function ( $expire, $issued_at ) { return $issued_at + 30 * DAY_IN_SECONDS; }, 10, 2 );
";

/// Users with names in several scripts, with quotes, with several roles, with empty and missing
/// meta.
const MAKE_USERS: &str = r#"
    global $wpdb;
    add_role( 'shop_keeper', 'Shop keeper', array( 'read' => true ) );
    $people = array(
        array( 'łucja', "Łucja \"Ł\" O'Neill", array( 'editor' ), 'Łucja', '7', '1' ),
        array( 'hanako', '山田 花子 💡', array( 'subscriber', 'shop_keeper' ), '花子', '-3', '0' ),
        array( 'omar', 'عمر </b> & co', array( 'shop_keeper' ), "O'mar \\ \"x\"", null, '' ),
        array( 'none', 'Nobody', array( 'subscriber' ), null, '', null ),
        array( 'rare', 'Rare', array( 'subscriber' ), array( 'a' ), '1', '1' ),
        array( 'odd', 'Odd', array( 'subscriber' ), 'Odd', '1.5', '1' ),
        array( 'roleless', 'Roleless', array(), 'R', '1', '1' ),
        array( 'null', 'Null', array( 'subscriber' ), null, '1', '1' ),
    );
    $hash = wp_hash_password( 'crowd' );
    foreach ( $people as $n => list( $login, $name, $roles, $first, $level, $vip ) ) {
        $wpdb->insert( $wpdb->users, array( 'user_login' => "p$n", 'user_nicename' => "p$n", 'user_email' => "P$n@Example.test", 'display_name' => $name, 'user_url' => 'https://x.test/a?b=c&d', 'user_registered' => '2020-01-02 03:04:05', 'user_pass' => $hash ) );
        $id = $wpdb->insert_id;
        add_user_meta( $id, $wpdb->prefix . 'capabilities', array_fill_keys( $roles, true ) );
        foreach ( array( 'first_name' => $first, 'shop_level' => $level, 'vip' => $vip ) as $key => $value ) {
            if ( null !== $value ) {
                add_user_meta( $id, $key, wp_slash( $value ) );
            }
        }
        // Only a key that is the same to the letter counts.
        add_user_meta( $id, 'First_Name', 'another' );
        if ( 'null' === $login ) {
            $wpdb->insert( $wpdb->usermeta, array( 'user_id' => $id, 'meta_key' => 'first_name', 'meta_value' => null ) );
        }
    }
"#;

/// Users of whom all is certain, and users of whom something is not: an array as meta, an invalid
/// number, no role, NULL.
const CERTAIN: [&str; 4] = ["p0", "p1", "p2", "p3"];
const UNCERTAIN: [&str; 4] = ["p4", "p5", "p6", "p7"];

/// `gravatar`: which hash this WordPress makes of an address.
fn declared(gravatar: &str) -> String {
    format!(
        r#"
[jwt]
lifetime = "30d"

[[jwt.claim]]
path = "data.user.role"
value = {{ roles = "first" }}

[[jwt.claim]]
path = "data.user.name"
value = {{ column = "display_name" }}

[[jwt.claim]]
path = "aud"
value = {{ constant = "https://shop.example/ü" }}

[refresh]
omit = ["token_type"]
field = [
    {{ name = "user_login", value = {{ column = "login" }} }},
    {{ name = "user.email", value = {{ column = "email" }} }},
    {{ name = "user.name", value = {{ column = "display_name" }} }},
    {{ name = "user.url", value = {{ column = "url" }} }},
    {{ name = "registered", value = {{ column = "registered" }} }},
    {{ name = "id", value = {{ column = "id" }} }},
    {{ name = "roles", value = {{ roles = "list" }} }},
    {{ name = "all_roles", value = {{ roles = "joined", separator = ", " }} }},
    {{ name = "first_name", value = {{ meta = "first_name" }} }},
    {{ name = "level", value = {{ meta = "shop_level", as = "integer" }} }},
    {{ name = "vip", value = {{ meta = "vip", as = "boolean" }} }},
    {{ name = "avatar", value = {{ gravatar = "{gravatar}", size = 48 }} }},
    {{ name = "app", value = {{ constant = {{ name = "shop", api = 3, beta = false, tags = ["a/b", "ü"] }} }} }},
]
"#
    )
}

struct Lab {
    sites: CustomSites,
    directory: tempfile::TempDir,
}

impl Lab {
    fn start() -> Self {
        let sites = CustomSites::start();
        without_limit(&sites);
        // The avatar's scheme is that of the request on WordPress before 6.8, where `server` is one
        // of three.
        sites.install_as("avatars.php", AVATARS);
        sites.site().php(MAKE_USERS);
        sites.install(PHP);
        Lab { sites, directory: tempfile::tempdir().unwrap() }
    }

    fn file(&self, toml: &str) -> PathBuf {
        let file = self.directory.path().join("declared.toml");
        std::fs::write(&file, toml).unwrap();
        file
    }

    fn hash(&self) -> &'static str {
        let version =
            self.sites.site().php("echo version_compare( $GLOBALS['wp_version'], '6.8', '>=' ) ? 'new' : 'old';");
        if version.trim() == "new" { "sha256" } else { "md5" }
    }

    fn sidecar(&self, toml: &str) -> Sidecar {
        let file = self.file(toml);
        in_front_of(
            &self.sites,
            &[
                "--config",
                file.to_str().unwrap(),
                "--refresh-trusted-hooks",
                TRUSTED,
                "--refresh-response-fields",
                "oauth2",
            ],
        )
    }

    async fn token(&self, user: &str) -> String {
        self.sites.log_in_with(user, "crowd").await.refresh_token
    }

    /// Lets the sidecar see enough responses of WordPress.
    async fn agrees(&self, sidecar: &Sidecar) {
        ready(sidecar).await;
        for user in &CERTAIN[..3] {
            refresh(&self.sites, sidecar, &self.token(user).await, "");
        }
        let view = left(sidecar, "unverified", PATIENCE).await;
        assert_eq!(view["state"], "agrees", "{view}");
    }
}

/// WordPress before 6.8 takes one of three servers, and http where the page is.
pub const AVATARS: &str = r"<?php
add_filter( 'get_avatar_url', function ( $url ) {
    return preg_replace( '#^https?://[a-z0-9]+\.gravatar\.com#', 'https://secure.gravatar.com', $url );
} );
";

/// The answer without what differs by nature, and its access token's claims without their times and
/// `jti`.
fn comparable(answer: &Message) -> [String; 2] {
    assert_eq!(answer.status(), 200, "{answer:?}");
    let Value::Object(mut body) = answer.json() else { panic!("{answer:?}") };
    let jwt = body.shift_remove("access_token").unwrap();
    body.shift_remove("refresh_token").unwrap();
    let payload = jwt.as_str().unwrap().split('.').nth(1).unwrap().to_owned();
    let mut claims: Map<String, Value> = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    let lifetime = claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap();
    for name in ["iat", "nbf", "exp", "jti"] {
        claims.shift_remove(name);
    }
    if let Some(left) = body.get_mut("expires_in") {
        // PHP takes it from the clock again after it has made the token; a busy machine's is late.
        let seconds = left.as_u64().unwrap();
        assert!(seconds <= lifetime && seconds + 5 > lifetime, "{seconds} of {lifetime}");
        *left = lifetime.into();
    }
    claims.insert("lifetime".to_owned(), lifetime.into());
    // As texts, so that the order counts.
    [Value::Object(body).to_string(), Value::Object(claims).to_string()]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_declared_is_native_and_equal() {
    let lab = Lab::start();
    let sidecar = lab.sidecar(&declared(lab.hash()));
    lab.agrees(&sidecar).await;
    for user in CERTAIN {
        let (ours, theirs) = (lab.token(user).await, lab.token(user).await);
        let theirs = lab.sites.post("/wp-json/jwt-auth/v1/token/refresh", "", &json!({"refresh_token": theirs}));
        let before = lab.sites.refreshes_by_php();
        let native = refresh(&lab.sites, &sidecar, &ours, "");
        assert_eq!(lab.sites.refreshes_by_php(), before, "{user}: {:?}", view(&sidecar));
        assert_eq!(comparable(&native), comparable(&theirs), "{user}");

        let bearer = format!("Authorization: Bearer {}\r\n", native.json()["access_token"].as_str().unwrap());
        let accepted = lab.sites.post("/wp-json/jwt-auth/v1/token/validate", &bearer, &json!({}));
        assert_eq!(accepted.status(), 200, "{user}: {accepted:?}");

        // Once more with the used token: the same pair.
        let again = refresh(&lab.sites, &sidecar, &ours, "");
        let pair = |answer: &Message| ["access_token", "refresh_token"].map(|name| answer.json()[name].clone());
        assert_eq!(
            (pair(&again), comparable(&again)[1].clone()),
            (pair(&native), comparable(&native)[1].clone()),
            "{user}"
        );
    }
    for user in UNCERTAIN {
        let token = lab.token(user).await;
        let before = lab.sites.refreshes_by_php();
        assert_eq!(refresh(&lab.sites, &sidecar, &token, "").status(), 200, "{user}");
        assert_eq!(lab.sites.refreshes_by_php(), before + 1, "{user}");
    }
    // Operators see why, each cause once, and the word of no user.
    assert_eq!(view(&sidecar)["state"], "agrees");
    let notes = view(&sidecar)["notes"].to_string();
    for cause in
        ["meta = \\\"first_name\\\" } of the user cannot be declared: it is serialized", "the user has no role"]
    {
        assert_eq!(notes.matches(cause).count(), 1, "{cause}: {notes}");
    }
    assert!(!notes.contains("Odd") && !notes.contains("1.5"), "{notes}");

    // The user has become another: what was signed cannot be signed again, and the token is refused
    // as ever.
    let token = lab.token("p0").await;
    refresh(&lab.sites, &sidecar, &token, "");
    lab.sites.site().php("get_user_by( 'login', 'p0' )->set_role( 'author' );");
    assert_eq!(refresh(&lab.sites, &sidecar, &token, "").status(), 403);
    let fresh = refresh(&lab.sites, &sidecar, &lab.token("p0").await, "");
    assert_eq!(fresh.json()["roles"], json!(["author"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_declaration_is_a_difference() {
    let lab = Lab::start();
    let right = declared(lab.hash());
    for (wrong, with, words) in [
        (r#"meta = "shop_level""#, r#"meta = "vip""#, "body level (another value)"),
        (r#"column = "display_name""#, r#"column = "nicename""#, "claim data.user.name (another value)"),
        // The type is what WordPress sends.
        (r#", as = "integer""#, "", "body level (integer)"),
        (r#"lifetime = "30d""#, r#"lifetime = "29d""#, "lifetime 2592000 s, the setting says 2505600 s"),
        (r#"omit = ["token_type"]"#, "", "body -token_type"),
    ] {
        let sidecar = lab.sidecar(&right.replacen(wrong, with, 1));
        ready(&sidecar).await;
        for user in CERTAIN {
            refresh(&lab.sites, &sidecar, &lab.token(user).await, "");
        }
        let said = difference(&sidecar).await;
        assert_eq!(said, words, "{wrong}");
        let before = lab.sites.refreshes_by_php();
        refresh(&lab.sites, &sidecar, &lab.token("p0").await, "");
        assert_eq!(lab.sites.refreshes_by_php(), before + 1, "{wrong}");
    }
}
