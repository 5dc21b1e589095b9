mod declared;

use serde_json::json;

use super::*;
use crate::declared::{Cast, Column, RolesForm, Source};

/// A user, with meta values.
fn user(id: u64, roles: &[&str], meta: &[(&str, &str)]) -> Facts {
    let granted: String = roles.iter().map(|role| format!("s:{}:\"{role}\";b:1;", role.len())).collect();
    Facts {
        id,
        email: format!("User{id}@example.org"),
        nicename: format!("user{id}"),
        display_name: format!("Łucja {id} 💡"),
        login: Some(format!("login{id}")),
        url: Some(String::new()),
        registered: Some(format!("2026-11-{:02} 10:00:00", id % 28 + 1)),
        roles: Some(["administrator", "editor", "subscriber"].map(str::to_owned).into()),
        capabilities: Some(format!("a:{}:{{{granted}}}", roles.len()).into_bytes()),
        meta: meta.iter().map(|(key, value)| ((*key).to_owned(), Some(value.as_bytes().to_vec()))).collect(),
        is_whole: true,
        is_meta_denied: false,
        denied_columns: Vec::new(),
    }
}

/// Three users, whose roles and meta values differ.
fn users() -> Vec<Facts> {
    vec![
        user(2, &["subscriber"], &[("city", "Zürich \"<b>\""), ("level", "3"), ("locked", "")]),
        user(3, &["editor", "subscriber"], &[("city", "דימונה"), ("level", "3"), ("locked", "1")]),
        user(5, &["administrator"], &[("city", "上海"), ("level", "40"), ("locked", "0")]),
    ]
}

fn places(values: Value) -> Vec<(Place, Value)> {
    let Value::Object(values) = values else { panic!("an object") };
    values.into_iter().map(|(path, value)| (path.split('.').map(str::to_owned).collect(), value)).collect()
}

fn fields(values: Value) -> Deviation {
    Deviation { fields: places(values), ..Deviation::default() }
}

fn claims(values: Value) -> Deviation {
    Deviation { claims: places(values), ..Deviation::default() }
}

fn explaining(users: Vec<Facts>, declared: Declared, answer: impl Fn(&Facts) -> Deviation) -> Explaining {
    let declared = Arc::new(declared);
    let mut explaining = Explaining::default();
    for (facts, now) in users.into_iter().zip(100..) {
        let deviation = answer(&facts);
        add(&mut explaining, Sample { facts, deviation, declared: Arc::clone(&declared) }, now);
    }
    explaining
}

/// The explanation, if the search has just ended.
fn add(explaining: &mut Explaining, sample: Sample, now: u64) -> Option<Explanation> {
    let samples = explaining.add(sample, now)?;
    explaining.found(&samples, search(&samples, now)).cloned()
}

fn explained(users: Vec<Facts>, answer: impl Fn(&Facts) -> Deviation) -> Explanation {
    explaining(users, Declared::default(), answer).explanation().unwrap().clone()
}

fn text(facts: &Facts, key: &str) -> String {
    String::from_utf8(facts.meta[key].clone().unwrap()).unwrap()
}

fn said(explanation: &Explanation) -> Vec<&str> {
    explanation.remarks().collect()
}

#[test]
fn each_source_is_found_and_the_order_is_wordpresss() {
    let explanation = explained(users(), |facts| {
        let mut deviation = fields(json!({
            "level": text(facts, "level").parse::<i64>().unwrap(),
            "city": text(facts, "city"),
            "app.name": "shop",
            "app.flags": [1, "a", true],
            "mail": facts.email,
            "who": facts.display_name,
            "uid": facts.id,
            "since": facts.registered,
            "locked": text(facts, "locked") == "1",
            "roles": match facts.id { 2 => json!(["subscriber"]), 3 => json!(["editor", "subscriber"]), _ => json!(["administrator"]) },
            "joined": match facts.id { 2 => "subscriber", 3 => "editor | subscriber".split(" | ").next().unwrap(), _ => "administrator" },
        }));
        deviation.claims = places(json!({"data.user.id": facts.id, "sub": facts.login}));
        deviation.lifetime = Some(2_592_000 + u64::from(facts.id == 3));
        deviation.missing_fields = vec![vec!["token_type".to_owned()], vec!["expires_in".to_owned()]];
        deviation
    });
    let expected = r#"# Below [jwt], in the place of a lifetime there:
lifetime = "30d"

# Below [refresh], in the place of an omit there:
omit = ["expires_in", "token_type"]

[[jwt.claim]]
path = "data.user.id"
value = { column = "id" }

[[jwt.claim]]
path = "sub"
value = { column = "login" }

[[refresh.field]]
name = "level"
value = { meta = "level", as = "integer" }

[[refresh.field]]
name = "city"
value = { meta = "city" }

[[refresh.field]]
name = "app.name"
value = { constant = "shop" }

[[refresh.field]]
name = "app.flags"
value = { constant = [1, "a", true] }

[[refresh.field]]
name = "mail"
value = { column = "email" }

[[refresh.field]]
name = "who"
value = { column = "display_name" }

[[refresh.field]]
name = "uid"
value = { column = "id" }

[[refresh.field]]
name = "since"
value = { column = "registered" }

[[refresh.field]]
name = "locked"
value = { meta = "locked", as = "boolean" }

[[refresh.field]]
name = "roles"
value = { roles = "list" }

[[refresh.field]]
name = "joined"
value = { roles = "first" }"#;
    assert_eq!(explanation.toml.as_deref(), Some(expected), "{:?}", explanation.open);
    assert!(explanation.is_complete);
    assert_eq!(
        explanation.heading(),
        "this would explain it; put it into the configuration, each plain key below the header that its comment names, and \
         reload:"
    );
}

#[test]
fn an_avatar_is_found_by_its_url() {
    for name in ["md5", "sha256"] {
        let explanation = explained(users(), |facts| {
            let source: Source = toml::from_str::<std::collections::BTreeMap<String, Source>>(&format!(
                "v = {{ gravatar = \"{name}\", size = 48, default = \"identicon\" }}"
            ))
            .unwrap()
            .remove("v")
            .unwrap();
            fields(json!({"avatar": facts.value(&source).unwrap()}))
        });
        let toml = explanation.toml.unwrap();
        let expected =
            format!("value = {{ gravatar = \"{name}\", size = 48, default = \"identicon\", rating = \"g\" }}");
        assert!(toml.ends_with(&expected), "{toml}");
    }
}

#[test]
fn three_users_are_needed_and_no_user_counts_twice() {
    let mut both = users();
    both.truncate(2);
    let mut explaining = explaining(both, Declared::default(), |facts| fields(json!({"mail": facts.email})));
    let explanation = explaining.explanation().unwrap();
    assert_eq!((explanation.users, &explanation.toml, explanation.is_complete), (2, &None, false));
    assert!(explanation.heading().contains("so far there are those to 2") && said(explanation).is_empty());
    assert!(!explaining.wants(3, 200) && explaining.wants(5, 200));
    let again = Sample { facts: users().remove(1), deviation: fields(json!({"mail": "x"})), declared: Arc::default() };
    assert!(add(&mut explaining, again, 200).is_none());
    // A time may be the same in all responses of one second.
    assert!(!explaining.wants(5, 101) && explaining.wants(5, 102));
    let facts = users().remove(2);
    let deviation = fields(json!({"mail": facts.email}));
    assert!(add(&mut explaining, Sample { facts, deviation, declared: Arc::default() }, 200).unwrap().is_complete);
    assert!(!explaining.wants(9, 200));
}

#[test]
fn what_users_do_not_tell_apart_is_said_and_settles_with_one_who_does() {
    let subscribers = || (2..5).map(|id| user(id, &["subscriber"], &[])).collect::<Vec<_>>();
    let role = |facts: &Facts| {
        let first = facts.value(&Source::Roles { form: RolesForm::First, separator: ",".to_owned() });
        fields(json!({"role": first}))
    };
    let mut explaining = explaining(subscribers(), Declared::default(), role);
    let explanation = explaining.explanation().unwrap();
    assert_eq!((&explanation.toml, explanation.is_complete), (&None, false));
    assert_eq!(
        said(explanation),
        ["body +role is a constant or { roles = \"first\" } or { roles = \"joined\" }: all users seen so far have \
         the same value in each of them; a user with different values decides it"]
    );
    assert!(explaining.wants(9, 200));
    let facts = user(9, &["editor"], &[]);
    let deviation = role(&facts);
    let explanation = add(&mut explaining, Sample { facts, deviation, declared: Arc::default() }, 200).unwrap();
    assert!(explanation.is_complete, "{explanation:?}");
    let toml = explanation.toml.as_deref().unwrap();
    assert!(toml.ends_with("do not tell it from { roles = \"joined\" }.\nvalue = { roles = \"first\" }"), "{toml}");
}

#[test]
fn the_search_ends_with_so_many_users() {
    let many = (2..30).map(|id| user(id, &["subscriber"], &[])).collect();
    let explaining = explaining(many, Declared::default(), |_| fields(json!({"role": "subscriber"})));
    assert_eq!(explaining.explanation().unwrap().users, MOST_USERS);
    assert!(!explaining.wants(99, 200));
}

#[test]
fn a_user_of_whom_nothing_is_certain_says_nothing() {
    // `reset()` of no roles is false, and such a user's calls are left to WordPress.
    let mut four = users();
    four.insert(0, user(7, &[], &[]));
    let answer = |facts: &Facts| {
        let first = facts.value(&Source::Roles { form: RolesForm::First, separator: ",".to_owned() });
        fields(json!({"role": first.unwrap_or(json!(false))}))
    };
    let explanation = explained(four.clone(), answer);
    assert!(explanation.toml.unwrap().ends_with("{ roles = \"first\" }"));
    four.pop();
    let explanation = explained(four, answer);
    assert_eq!(said(&explanation), ["body +role: too few users so far"]);
}

#[test]
fn what_nothing_known_explains_is_named() {
    let explanation = explained(users(), |facts| {
        let mut deviation = fields(json!({
            "nonce": format!("n{}", facts.id * 7),
            "price": 1.5,
            "none": null,
            "token": "x",
            "alice@example": true,
            "a.0123456789": true,
            "mail": facts.email,
        }));
        if facts.id == 3 {
            deviation.fields.extend(places(json!({"vip": true})));
        }
        deviation.claims = places(json!({"iss": "https://other.example"}));
        deviation.missing_fields = vec![vec!["refresh_token".to_owned()]];
        deviation.missing_claims = vec![["data", "user", "id"].map(str::to_owned).into()];
        deviation.lifetime = Some(facts.id * 100);
        deviation.others = vec!["header +set-cookie".to_owned()];
        deviation
    });
    assert!(!explanation.is_complete);
    assert_eq!(explanation.toml.as_deref(), Some("[[refresh.field]]\nname = \"mail\"\nvalue = { column = \"email\" }"));
    assert_eq!(
        said(&explanation),
        [
            "nothing known explains the lifetime of access tokens: it is not the same for all users",
            "claim iss cannot be declared: iss is the plugin's own claim, without which WordPress refuses the token",
            "nothing known explains body +nonce",
            "nothing known explains body +price",
            "nothing known explains body +none",
            "body +token cannot be declared: token is a member that the sidecar itself fills in",
            "body +… cannot be declared: its name may be a value, and is not shown",
            "body +a.… cannot be declared: its name may be a value, and is not shown",
            "nothing known explains body +vip: only some users' answers have it",
            "nothing known explains body -refresh_token",
            "nothing known explains claim -data.user.id",
            "nothing known explains header +set-cookie",
        ]
    );
    assert!(explanation.heading().contains("a part of it"));
    let none = explained(users(), |facts| fields(json!({"n": format!("{}", facts.id * 7)})));
    assert!(none.toml.is_none() && none.heading().contains("no configuration is known"));
}

#[test]
fn secrets_and_users_values_are_not_shown() {
    let secret = "sk_live_4eC39HqLyjWDarjtT1zdp7dc";
    let explanation = explained(users(), |_| {
        claims(json!({"key": secret, "support": "help@example.org", "digest": "5f0c1e2d3a4b5c6d7e8f5f0c1e2d3a4b"}))
    });
    assert_eq!((&explanation.toml, explanation.open.len()), (&None, 3));
    let shown = format!("{explanation:?} {}", explanation.heading());
    for value in [secret, "help@", "5f0c1e"] {
        assert!(!shown.contains(value), "{shown}");
    }
    // A city that all users share may be a constant of the code, or theirs.
    let of_one_city = (2..5).map(|id| user(id, &[], &[("town", "Dimona")])).collect();
    let explanation = explained(of_one_city, |_| fields(json!({"town": "Dimona"})));
    let shown = format!("{explanation:?}");
    assert!(shown.contains("a constant") && shown.contains("town") && !shown.contains("Dimona"), "{shown}");
    // Nor is a key shown that may be a value.
    let keyed = (2..5).map(|id| user(id, &[], &[("order_0123456789", &format!("x{id}"))])).collect();
    let explanation = explained(keyed, |facts| fields(json!({"last": format!("x{}", facts.id)})));
    assert_eq!(said(&explanation), ["nothing known explains body +last"]);
}

#[test]
fn coincidences_count_little() {
    let usual = [("rich_editing", "true"), ("locale", ""), ("wp_user_level", "0")];
    let plain = || (2..5).map(|id| user(id, &["subscriber"], &usual)).collect::<Vec<_>>();
    let explanation = explained(plain(), |_| fields(json!({"active": true, "count": 0, "note": ""})));
    let toml = explanation.toml.unwrap();
    for part in ["constant = true", "constant = 0", "constant = \"\""] {
        assert!(toml.contains(part), "{toml}");
    }
    // Not if the names are equal.
    let explanation = explained(plain(), |_| fields(json!({"locale": ""})));
    assert!(said(&explanation)[0].contains("{ meta = \"locale\" }"), "{explanation:?}");
    // A boolean that varies may come from anything.
    let varying = [(2, "1"), (3, "0"), (5, "1")].map(|(id, vip)| user(id, &["subscriber"], &[("tier", vip)]));
    let explanation = explained(varying.into(), |facts| fields(json!({"premium": facts.id != 3})));
    assert_eq!(said(&explanation), ["body +premium: too few users so far"]);
}

#[test]
fn an_account_that_may_not_read_the_meta_is_told_so() {
    let denied = users().into_iter().map(|facts| Facts {
        meta: Default::default(),
        capabilities: None,
        is_whole: false,
        is_meta_denied: true,
        ..facts
    });
    let explanation =
        explained(denied.clone().collect(), |facts| fields(json!({"mail": facts.email, "city": facts.id * 3})));
    assert!(explanation.toml.as_deref().unwrap().contains("column = \"email\""));
    let remarks = said(&explanation);
    assert!(remarks.iter().any(|remark| remark.contains("may not read the user meta")), "{remarks:?}");
    assert!(explained(denied.collect(), |facts| fields(json!({"mail": facts.email}))).is_complete);
}

#[test]
fn a_lifetime_has_its_largest_whole_unit() {
    for (seconds, text) in [(900, "15m"), (3_600, "1h"), (86_400, "1d"), (90_000, "25h"), (61, "61s")] {
        let explanation = explained(users(), |_| Deviation { lifetime: Some(seconds), ..Deviation::default() });
        let expected = format!("# Below [jwt], in the place of a lifetime there:\nlifetime = \"{text}\"");
        assert_eq!(explanation.toml, Some(expected));
    }
    for seconds in [0, 4_000 * 86_400] {
        let explanation = explained(users(), |_| Deviation { lifetime: Some(seconds), ..Deviation::default() });
        assert!(said(&explanation)[0].contains("from a second to ten years"), "{explanation:?}");
    }
}

#[test]
fn what_users_lack_speaks_for_no_meta_value() {
    // An array is always uncertain, and a name is not a number.
    let of = |id, name: &str, level: &str| user(id, &["subscriber"], &[("name", name), ("level", level)]);
    let mut four = vec![of(2, "Ada", "3"), of(3, "", ""), of(4, "", ""), of(5, "", "")];
    four[0].meta.insert("interests".to_owned(), None);
    let explanation = explained(four.clone(), |facts| match facts.id {
        2 => fields(json!({"level": 3, "interests": ["math"]})),
        _ => fields(json!({"level": 0, "interests": ""})),
    });
    // The key's name is the member's: users with an array are left to WordPress.
    let expected = "[[refresh.field]]\nname = \"level\"\nvalue = { meta = \"level\", as = \"integer\" }\n\n\
                    [[refresh.field]]\nname = \"interests\"\nvalue = { meta = \"interests\" }";
    assert_eq!(explanation.toml.as_deref(), Some(expected));
    let explanation = explained(four, |facts| match facts.id {
        2 => fields(json!({"hobbies": ["math"]})),
        _ => fields(json!({"hobbies": ""})),
    });
    assert_eq!(said(&explanation), ["nothing known explains body +hobbies"]);
}

#[test]
fn what_is_the_same_today_only_is_no_constant() {
    let explanation =
        explained(users(), |_| fields(json!({"nonce": "ab12cd34ef", "seen_from": "192.0.2.7", "app": "shop"})));
    assert!(!explanation.is_complete);
    let because = "it is the same for all users seen, and looks like a nonce, a date of today or an IP address";
    let of = |name: &str| format!("nothing known explains body +{name}: {because}");
    assert_eq!(said(&explanation), [of("nonce"), of("seen_from")]);
    let shown = format!("{explanation:?}");
    assert!(!shown.contains("ab12cd34ef") && !shown.contains("192.0.2.7") && shown.contains("shop"), "{shown}");
}

#[test]
fn a_search_counts_unless_a_later_one_ended_or_all_was_begun_again() {
    let mut explaining = Explaining::default();
    let mut searches = Vec::new();
    for (facts, now) in (2..6).map(|id| user(id, &["subscriber"], &[])).zip(100..) {
        let sample = Sample { facts, deviation: fields(json!({"role": "subscriber"})), declared: Arc::default() };
        searches.push(explaining.add(sample, now + 10).unwrap());
    }
    let (third, fourth) = (&searches[2], &searches[3]);
    explaining.found(fourth, search(fourth, 200));
    explaining.found(third, search(third, 200));
    assert_eq!(explaining.explanation().unwrap().users, 4);
    let mut again = Explaining::default();
    assert!(again.found(third, search(third, 200)).is_none() && again.explanation().is_none());
}

#[test]
fn columns_that_may_not_be_read_are_named() {
    let denied = || {
        let mut denied = users();
        denied.iter_mut().for_each(|facts| {
            (facts.login, facts.url, facts.denied_columns) = (None, None, vec!["user_login", "user_url"]);
        });
        denied
    };
    let explanation = explained(denied(), |facts| fields(json!({"login": format!("login{}", facts.id)})));
    let words = "the database user may not read of the users' table: user_login, user_url; they were not looked at";
    assert_eq!(said(&explanation), ["nothing known explains body +login", words]);
    assert!(explained(denied(), |facts| fields(json!({"mail": facts.email}))).is_complete);
}
