//! Differences in what is declared already.

use super::*;

#[test]
fn what_is_declared_stays_or_is_said_to_be_wrong() {
    let member = |name: &str, value| Member { path: vec![name.to_owned()], value };
    let declared = || {
        let fields = vec![
            member("handle", Source::Column(Column::Nicename, Cast::String)),
            member("mail", Source::Column(Column::Login, Cast::String)),
            member("gone", Source::Constant(json!(1))),
        ];
        Declared::new(Vec::new(), fields, vec!["token_type".to_owned()])
    };
    let same = || {
        let mut same = users();
        same.iter_mut().for_each(|facts| facts.login = Some(facts.nicename.clone()));
        same
    };
    let answer = |facts: &Facts| fields(json!({"handle": facts.nicename, "mail": facts.email}));
    let explanation = explaining(same(), declared(), answer).explanation().unwrap().clone();
    // Otherwise it could not be distinguished from the login.
    assert!(
        explanation
            .toml
            .as_deref()
            .unwrap()
            .starts_with("[[refresh.field]]\nname = \"handle\"\nvalue = { column = \"nicename\" }")
    );
    assert!(explanation.is_complete && explanation.heading().contains("in the place of the claims, the fields"));
    assert_eq!(
        said(&explanation),
        [
            "body gone is declared, and WordPress's answers do not have it",
            "body mail is declared as { column = \"login\" }, and WordPress's answers say otherwise",
            "refresh.omit names token_type, and WordPress's answers have it",
        ]
    );
    let explanation = explained(same(), answer);
    assert!(said(&explanation)[0].contains("{ column = \"login\" } or { column = \"nicename\" }"), "{explanation:?}");
}

/// Otherwise the same member would be declared twice.
#[test]
fn what_is_declared_right_is_replaced_too() {
    let fields_of = |facts: &Facts| fields(json!({"handle": facts.nicename, "mail": facts.email}));
    let handle = Member { path: vec!["handle".to_owned()], value: Source::Column(Column::Nicename, Cast::String) };
    let declared = Declared::new(Vec::new(), vec![handle], Vec::new());
    let explanation = explaining(users(), declared, fields_of).explanation().unwrap().clone();
    assert!(explanation.wrong.is_empty() && explanation.toml.as_deref().unwrap().contains("handle"));
    assert_eq!(
        explanation.heading(),
        "this would explain it; put it in the place of the claims, the fields and refresh.omit that are declared, and reload:"
    );
    let explanation = explained(users(), |facts| fields(json!({"mail": facts.email})));
    assert_eq!(explanation.heading(), "this would explain it; put it into the configuration, and reload:");
}

#[test]
fn a_declared_secret_is_not_shown() {
    let secrets = ["sk_live_4eC39HqLyjWDarjtT1zdp7dc", "help@example.org"];
    let member =
        |name: &str, value: &str| Member { path: vec![name.to_owned()], value: Source::Constant(json!(value)) };
    let declared = Declared::new(Vec::new(), vec![member("key", secrets[0]), member("mail", secrets[1])], Vec::new());
    let answer = |facts: &Facts| fields(json!({"key": secrets[0], "mail": facts.email}));
    let explanation = explaining(users(), declared, answer).explanation().unwrap().clone();
    let toml = explanation.toml.as_deref().unwrap();
    assert!(
        toml.contains("name = \"key\"\n# As it is declared: it looks like a secret, and is not shown.\nvalue = {"),
        "{toml}"
    );
    assert!(toml::from_str::<toml::Table>(toml).is_err());
    assert_eq!(
        said(&explanation),
        ["body mail is declared as { constant = … }, and WordPress's answers say otherwise"]
    );
    let shown = format!("{explanation:?}");
    assert!(secrets.iter().all(|secret| !shown.contains(secret)), "{shown}");
}
