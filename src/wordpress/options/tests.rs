use proptest::prelude::*;

use super::*;

const STORED: &str = r#"a:4:{s:15:"data_management";a:3:{s:22:"delete_on_deactivation";b:0;s:24:"analytics_retention_days";i:90;s:12:"anonymize_ip";b:0;}s:14:"token_settings";a:4:{s:14:"jwt_expiration";i:604800;s:24:"refresh_token_expiration";i:2592000;s:17:"signing_algorithm";s:5:"HS256";s:11:"enable_cors";b:0;}s:13:"user_settings";a:1:{s:25:"revoke_on_password_change";b:1;}s:19:"rate_limit_settings";a:3:{s:12:"max_requests";i:60;s:14:"window_minutes";i:1;s:7:"enabled";b:1;}}"#;

fn defaults() -> Settings {
    Settings {
        jwt_expiration: 604_800,
        refresh_token_expiration: 2_592_000,
        signing_algorithm: "HS256".to_owned(),
        enable_cors: false,
        rate_limit: Some(RateLimit { max_requests: 60, window_minutes: 1 }),
        anonymize_ip: false,
        analytics_retention_days: Some(90),
    }
}

fn read(text: &str) -> Result<Settings, OptionError> {
    settings(Some(text.as_bytes()))
}

/// An option with one setting, whose serialized value is `value`.
fn with(section: &str, name: &str, value: &str) -> Result<Settings, OptionError> {
    read(&format!(r#"a:1:{{s:{}:"{section}";a:1:{{s:{}:"{name}";{value}}}}}"#, section.len(), name.len()))
}

#[test]
fn what_is_missing_has_its_default() {
    assert_eq!(settings(None), Ok(defaults()));
    assert_eq!(read("a:0:{}"), Ok(defaults()));
    assert_eq!(read(STORED), Ok(defaults()));
    assert_eq!(read(" a:0:{}\n"), Ok(defaults()));
}

#[test]
fn numbers_may_be_strings() {
    assert_eq!(with("token_settings", "jwt_expiration", "i:300;").unwrap().jwt_expiration, 300);
    assert_eq!(with("token_settings", "jwt_expiration", r#"s:3:"300";"#).unwrap().jwt_expiration, 300);
    assert_eq!(with("rate_limit_settings", "max_requests", r#"s:1:"5";"#).unwrap().rate_limit.unwrap().max_requests, 5);
}

#[test]
fn switches_are_loosely_typed() {
    for (value, expected) in
        [("b:1;", true), ("i:1;", true), (r#"s:1:"1";"#, true), ("b:0;", false), ("i:0;", false), (r#"s:0:"";"#, false)]
    {
        assert_eq!(with("data_management", "anonymize_ip", value).unwrap().anonymize_ip, expected, "{value}");
        assert_eq!(with("rate_limit_settings", "enabled", value).unwrap().rate_limit.is_some(), expected, "{value}");
    }
    // A limit that is off need not be valid.
    let off = r#"a:1:{s:19:"rate_limit_settings";a:2:{s:7:"enabled";b:0;s:12:"max_requests";i:0;}}"#;
    assert_eq!(read(off).unwrap().rate_limit, None);
}

#[test]
fn what_cannot_be_interpreted_is_an_error() {
    for value in [
        "i:-1;",
        "i:0;",
        "a:0:{}",
        "N;",
        "d:3.5;",
        "b:1;",
        r#"s:3:"abc";"#,
        r#"s:0:"";"#,
        r#"s:2:"-1";"#,
        "i:99999999999;",
        r#"s:25:"9999999999999999999999999";"#,
        "R:1;",
    ] {
        with("token_settings", "jwt_expiration", value).expect_err(value);
    }
    for value in ["i:2;", r#"s:3:"yes";"#, "a:0:{}", "N;"] {
        with("token_settings", "enable_cors", value).expect_err(value);
    }
    with("token_settings", "signing_algorithm", "i:1;").unwrap_err();
    read(r#"a:1:{s:14:"token_settings";s:0:"";}"#).unwrap_err();
}

#[test]
fn what_is_no_serialized_array_is_an_error() {
    let nested = "a:1:{i:0;".repeat(100_000);
    for text in [
        "",
        "yes",
        "b:0;",
        "i:1;",
        "a:1:{}",
        "a:0:{",
        "a:0:{}x",
        "a:1:{i:0;i:1;i:1;i:2;}",
        "a:4294967295:{}",
        r#"s:99999999999:"x";"#,
        "a:1:{b:1;i:1;}",
        "}",
        &nested,
    ] {
        read(text).expect_err(text.get(..40).unwrap_or(text));
    }
    for end in 0..STORED.len() {
        read(&STORED[..end]).expect_err("a truncated option");
    }
}

#[test]
fn objects_floats_and_mixed_keys_are_read_over() {
    let text = r#"a:5:{i:0;O:8:"stdClass":1:{s:1:"a";d:0.5;}i:-3;d:INF;s:1:"x";N;s:1:"y";R:2;s:14:"token_settings";a:1:{s:14:"jwt_expiration";i:7;}}"#;
    assert_eq!(read(text).unwrap().jwt_expiration, 7);
    let twice = r#"a:1:{s:14:"token_settings";a:2:{s:14:"jwt_expiration";i:7;s:14:"jwt_expiration";i:8;}}"#;
    assert_eq!(read(twice).unwrap().jwt_expiration, 8);
}

#[test]
fn the_plugin_is_found_by_its_file() {
    let list = br#"a:2:{i:0;s:19:"akismet/akismet.php";i:3;s:37:"jwt-auth-pro-premium/jwt-auth-pro.php";}"#;
    assert_eq!(plugin_active(Some(list), None).unwrap().as_deref(), Some("jwt-auth-pro-premium/jwt-auth-pro.php"));
    let network = br#"a:1:{s:29:"jwt-auth-pro/jwt-auth-pro.php";i:1700000000;}"#;
    assert_eq!(
        plugin_active(Some(b"a:0:{}"), Some(network)).unwrap().as_deref(),
        Some("jwt-auth-pro/jwt-auth-pro.php")
    );
    assert_eq!(plugin_active(None, None), Ok(None));
    assert_eq!(plugin_active(Some(b""), Some(b"a:0:{}")), Ok(None));
    assert_eq!(plugin_active(Some(br#"a:1:{i:0;s:19:"akismet/akismet.php";}"#), None), Ok(None));
    for outside in ["../x/jwt-auth-pro.php", "/jwt-auth-pro.php", "/etc/jwt-auth-pro.php", "a/../../b/jwt-auth-pro.php"]
    {
        let list = format!(r#"a:1:{{i:0;s:{}:"{outside}";}}"#, outside.len());
        assert_eq!(plugin_active(Some(list.as_bytes()), None), Ok(None), "{outside}");
    }
    plugin_active(Some(b"x"), None).unwrap_err();
    plugin_active(None, Some(b"b:0;")).unwrap_err();
}

#[test]
fn errors_do_not_show_values() {
    let error = with("token_settings", "jwt_expiration", r#"s:6:"s3cret";"#).unwrap_err().to_string();
    assert_eq!(error, "the option jwt_auth_pro_settings has a token_settings.jwt_expiration that is no whole number");
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = settings(Some(&bytes));
        let _ = plugin_active(Some(&bytes), Some(&bytes));
    }

    #[test]
    fn no_damaged_option_panics(at in 0..STORED.len(), byte in any::<u8>()) {
        let mut bytes = STORED.as_bytes().to_vec();
        bytes[at] = byte;
        let _ = settings(Some(&bytes));
    }
}
