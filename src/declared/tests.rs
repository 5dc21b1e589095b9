use serde_json::json;

use super::*;

fn source(toml: &str) -> Result<Source, String> {
    #[derive(serde::Deserialize, Debug)]
    struct Table {
        value: Source,
    }
    toml::from_str::<Table>(&format!("value = {toml}"))
        .map(|table| table.value)
        .map_err(|error| error.message().to_owned())
}

fn value(toml: &str, found: Option<&str>) -> Result<Value, &'static str> {
    let source = source(toml).unwrap();
    let reads: Vec<Read> = source.read().into_iter().collect();
    let found = [found.map(|text| text.as_bytes().to_vec())];
    let roles = ["administrator", "editor", "shop_manager"].map(str::to_owned);
    let person = Person {
        id: 7,
        email: " Ada@Example.org ",
        nicename: "ada",
        display_name: "Ada \"Ł\" 💡",
        reads: &reads,
        found: &found[..reads.len()],
        roles: Some(&roles),
    };
    source.value(&person).map_err(|uncertain| uncertain.problem)
}

#[test]
fn values_are_as_phps_json_has_them() {
    for (toml, found, expected) in [
        (r#"{ constant = "shop" }"#, None, json!("shop")),
        (r#"{ constant = [1, "a", true] }"#, None, json!([1, "a", true])),
        (r#"{ constant = { a = { b = -1 } } }"#, None, json!({"a": {"b": -1}})),
        (r#"{ column = "id" }"#, None, json!(7)),
        (r#"{ column = "id", as = "string" }"#, None, json!("7")),
        (r#"{ column = "email" }"#, None, json!(" Ada@Example.org ")),
        (r#"{ column = "display_name" }"#, None, json!("Ada \"Ł\" 💡")),
        (r#"{ column = "login" }"#, Some("ada"), json!("ada")),
        (r#"{ column = "registered" }"#, Some("2026-11-29 10:00:00"), json!("2026-11-29 10:00:00")),
        (r#"{ meta = "first_name" }"#, Some("Łucja"), json!("Łucja")),
        (r#"{ meta = "first_name" }"#, None, json!("")),
        (r#"{ meta = "n", as = "integer" }"#, Some("-42"), json!(-42)),
        (r#"{ meta = "n", as = "integer" }"#, Some("007"), json!(7)),
        (r#"{ meta = "n", as = "integer" }"#, None, json!(0)),
        (r#"{ meta = "n", as = "boolean" }"#, Some("0"), json!(false)),
        (r#"{ meta = "n", as = "boolean" }"#, Some("false"), json!(true)),
        (r#"{ meta = "n", as = "boolean" }"#, None, json!(false)),
        (
            r#"{ gravatar = "md5", size = 48 }"#,
            None,
            json!("https://secure.gravatar.com/avatar/5bfcf2d8e394674550332640d72db509?s=48&d=mm&r=g"),
        ),
    ] {
        assert_eq!(value(toml, found), Ok(expected), "{toml} {found:?}");
    }
}

#[test]
fn roles_are_those_keys_that_are_roles() {
    let both = r#"a:2:{s:6:"editor";b:1;s:12:"shop_manager";b:1;}"#;
    let extra = r#"a:2:{s:6:"editor";b:1;s:9:"edit_shop";b:1;}"#;
    for (form, found, expected) in [
        ("\"list\"", Some(both), json!(["editor", "shop_manager"])),
        ("\"first\"", Some(both), json!("editor")),
        ("\"joined\"", Some(both), json!("editor,shop_manager")),
        ("\"joined\", separator = \" | \"", Some(both), json!("editor | shop_manager")),
        ("\"list\"", Some(extra), json!(["editor"])),
        ("\"list\"", Some("a:0:{}"), json!([])),
        ("\"list\"", None, json!([])),
    ] {
        assert_eq!(value(&format!("{{ roles = {form} }}"), found), Ok(expected), "{form} {found:?}");
    }
    for found in [
        r#"a:2:{s:9:"edit_shop";b:1;s:6:"editor";b:1;}"#,
        r#"a:1:{s:6:"editor";b:0;}"#,
        r#"a:1:{s:6:"editor";i:1;}"#,
        r#"a:1:{i:0;s:6:"editor";}"#,
        r#"a:2:{s:6:"editor";b:1;}"#,
        r#"a:4000000000:{}"#,
        "editor",
        "O:8:\"stdClass\":0:{}",
    ] {
        assert!(value(r#"{ roles = "list" }"#, Some(found)).is_err(), "{found}");
    }
    assert_eq!(value(r#"{ roles = "first" }"#, Some("a:0:{}")), Err("the user has no role"));
}

#[test]
fn what_is_not_certain_is_wordpresss() {
    let meta = r#"{ meta = "x" }"#;
    for found in ["a:1:{i:0;i:1;}", " s:1:\"a\";", "N;", "b:1;", "O:1:\"a\":0:{}", "i:5;"] {
        assert_eq!(value(meta, Some(found)), Err("it is serialized"), "{found}");
    }
    for found in ["n:1", "a", "", "N", "yes; no", "b"] {
        assert!(value(meta, Some(found)).is_ok(), "{found}");
    }
    let integer = r#"{ meta = "x", as = "integer" }"#;
    for found in ["1.5", "12abc", " 1", "1e3", "+1", "-", "99999999999999999999"] {
        assert!(value(integer, Some(found)).is_err(), "{found}");
    }
    assert_eq!(value(meta, Some(&"x".repeat(LONGEST_META + 1))), Err("it is too long"));
}

#[test]
fn a_source_is_written_as_it_is_read() {
    for toml in [
        r#"{ constant = "a \"b\" \u0001 ä" }"#,
        r#"{ constant = [1, true, { "x.y" = "z" }] }"#,
        r#"{ column = "id" }"#,
        r#"{ column = "id", as = "string" }"#,
        r#"{ column = "registered" }"#,
        r#"{ roles = "joined", separator = ", " }"#,
        r#"{ roles = "first" }"#,
        r#"{ meta = "first \\ name" }"#,
        r#"{ meta = "points", as = "integer" }"#,
        r#"{ gravatar = "sha256", size = 96, default = "mm", rating = "g" }"#,
    ] {
        let read = source(toml).unwrap();
        assert_eq!(source(&read.to_string()).as_ref(), Ok(&read), "{toml}: {read}");
    }
}

#[test]
fn a_wrong_source_says_why() {
    for (toml, problem) in [
        ("{}", "exactly one of"),
        (r#"{ meta = "a", column = "id" }"#, "exactly one of"),
        (r#"{ constant = 1.5 }"#, "whole numbers"),
        (r#"{ constant = 2026-11-29 }"#, "whole numbers"),
        (r#"{ column = "pass" }"#, "unknown variant"),
        (r#"{ meta = "session_tokens" }"#, "hand out sessions"),
        (r#"{ meta = "" }"#, "is empty"),
        (r#"{ roles = "first", separator = "," }"#, "separator goes with"),
        (r#"{ roles = "first", as = "string" }"#, "as goes with"),
        (r#"{ meta = "a", size = 1 }"#, "goes with gravatar"),
        (r#"{ mta = "a" }"#, "unknown field"),
    ] {
        let error = source(toml).unwrap_err();
        assert!(error.contains(problem), "{toml}: {error}");
    }
}

#[test]
fn the_plugins_own_members_stay() {
    let path = |dotted: &str| dotted.split('.').map(str::to_owned).collect::<Vec<_>>();
    for (claim, is_accepted) in [
        ("data.user.role", true),
        ("aud", true),
        ("data.user.id", true),
        ("iss", false),
        ("data", false),
        ("a..b", false),
        ("exp.x", false),
        ("", false),
    ] {
        assert_eq!(check_claim(&path(claim)).is_ok(), is_accepted, "{claim}");
    }
    for (field, is_accepted) in
        [("role", true), ("user.role", true), ("token_type", true), ("token", false), ("token.x", false)]
    {
        assert_eq!(check_field(&path(field)).is_ok(), is_accepted, "{field}");
    }
    assert!(check_omitted("token_type").is_ok() && check_omitted("refresh_token").is_err());
}

#[test]
fn a_member_is_set_as_php_does() {
    let mut map = Map::new();
    map.insert("data".to_owned(), json!({"user": {"id": "7"}}));
    map.insert("text".to_owned(), json!("x"));
    for (dotted, value) in
        [("data.user.role", json!("a")), ("data.user.id", json!(7)), ("text.a", json!(1)), ("b.c", json!([]))]
    {
        let path: Vec<String> = dotted.split('.').map(str::to_owned).collect();
        set(&mut map, &path, value);
    }
    assert_eq!(
        serde_json::to_string(&map).unwrap(),
        r#"{"data":{"user":{"id":7,"role":"a"}},"text":{"a":1},"b":{"c":[]}}"#
    );
}

#[test]
fn the_sites_roles_are_the_keys_of_the_option() {
    let option = br#"a:2:{s:6:"editor";a:2:{s:4:"name";s:6:"Editor";s:12:"capabilities";a:1:{s:4:"read";b:1;}}s:4:"shop";a:0:{}}"#;
    assert_eq!(role_names(option), Some(vec!["editor".to_owned(), "shop".to_owned()]));
    for option in ["", "x", "a:1:{", "a:1:{s:1:\"a\";O:1:\"b\":0:{}}"] {
        assert_eq!(role_names(option.as_bytes()), None, "{option}");
    }
}
