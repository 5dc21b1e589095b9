use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, VARY};
use proptest::prelude::*;

use super::*;

const APP: App<'static> = App { origin: "capacitor://localhost", has_bearer: false };

/// The number of comparisons that an origin needs here.
const ENOUGH: u32 = 3;

fn fields(allowed: &'static str) -> Fields {
    vec![(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static(allowed)), (VARY, HeaderValue::from_static("Origin"))]
}

fn seen(allowed: &'static str, user: u64) -> Seen {
    Seen {
        origin: APP.origin.to_owned(),
        has_bearer: false,
        fields: fields(allowed),
        user: Some(user),
        has_cookies: false,
    }
}

fn refused(allowed: &'static str) -> Seen {
    Seen { user: None, ..seen(allowed, 0) }
}

fn of(origin: &str, user: u64) -> Seen {
    Seen { origin: origin.to_owned(), ..seen("*", user) }
}

fn origins() -> Origins {
    Origins::new(1_000)
}

/// Origins with one that agrees.
fn agreeing() -> Origins {
    let origins = origins();
    let news: Vec<_> = (1..=3).map(|user| origins.observe(&seen("*", user), ENOUGH, 100)).collect();
    assert_eq!(news, [None, None, Some(News::Agrees)]);
    origins
}

fn knows(origins: &Origins, origin: &str) -> bool {
    origins.view().iter().any(|view| view.origin == origin)
}

#[test]
fn native_after_enough_answers_with_the_same_fields() {
    let origins = origins();
    assert!(origins.agreed(APP).is_none());
    assert_eq!(origins.why(APP), "no answer of WordPress to the origin capacitor://localhost was compared yet");
    origins.observe(&seen("*", 1), ENOUGH, 100);
    // With other fields the count begins again.
    origins.observe(&seen("capacitor://localhost", 1), ENOUGH, 101);
    origins.observe(&seen("capacitor://localhost", 1), ENOUGH, 102);
    assert!(origins.agreed(APP).is_none());
    assert_eq!(origins.why(APP), "the origin capacitor://localhost is WordPress's: 2 of 3 answers agree");
    assert_eq!(origins.observe(&seen("capacitor://localhost", 1), ENOUGH, 103), Some(News::Agrees));
    let cors = origins.agreed(APP).unwrap();
    assert!(cors.holds() && cors.fields == fields("capacitor://localhost"));
    // That says nothing about another origin, or the same one with a bearer token.
    assert!(origins.agreed(App { has_bearer: true, ..APP }).is_none());
    assert!(origins.agreed(App { origin: "capacitor://other", ..APP }).is_none());
}

#[test]
fn other_fields_end_it_until_many_answers_are_the_same_again() {
    let origins = agreeing();
    let before = origins.agreed(APP).unwrap();
    let news = origins.observe(&seen("https://app.example", 1), ENOUGH, 200);
    let words = "header access-control-allow-origin";
    assert_eq!(news, Some(News::Differs(words.to_owned())));
    // Calls that were accepted before are no longer native.
    assert!(!before.holds() && origins.agreed(APP).is_none());
    assert_eq!(origins.view()[0].difference.as_deref(), Some(words));
    // A response with the old fields in between restarts the count.
    origins.observe(&seen("*", 2), ENOUGH, 300);
    let back = (0..400).find(|_| origins.observe(&seen("https://app.example", 1), ENOUGH, 900).is_some());
    assert_eq!(back, Some(199));
    assert_eq!(origins.agreed(APP).unwrap().fields, fields("https://app.example"));
    // The next time it takes twice as many comparisons, and ten minutes.
    origins.observe(&seen("*", 2), ENOUGH, 1_000);
    assert!((0..500).all(|_| origins.observe(&seen("*", 2), ENOUGH, 1_599).is_none()));
    assert_eq!(origins.view()[0].needed, 400);
    assert_eq!(origins.observe(&seen("*", 2), ENOUGH, 1_600), Some(News::Agrees));
}

#[test]
fn a_user_with_cookies_alone_does_not_end_it() {
    let origins = agreeing();
    let with_cookies = |user| Seen { has_cookies: true, ..seen("https://other.example", user) };
    for _ in 0..5 {
        assert_eq!(origins.observe(&with_cookies(7), ENOUGH, 200), None);
    }
    assert!(origins.agreed(APP).unwrap().holds());
    assert!(matches!(origins.observe(&with_cookies(8), ENOUGH, 201), Some(News::Differs(_))));
}

#[test]
fn refusals_make_nothing_known_and_end_what_is() {
    let origins = origins();
    for _ in 0..9 {
        assert_eq!(origins.observe(&refused("*"), ENOUGH, 100), None);
    }
    assert!(origins.view().is_empty());
    let origins = agreeing();
    assert!(origins.agreed(APP).unwrap().wants_refusal());
    origins.observe(&refused("*"), ENOUGH, 101);
    assert!(!origins.agreed(APP).unwrap().wants_refusal());
    let with_cookies = Seen { has_cookies: true, ..refused("") };
    assert_eq!(origins.observe(&with_cookies, ENOUGH, 102), None);
    assert!(matches!(origins.observe(&refused(""), ENOUGH, 102), Some(News::Differs(_))));
}

#[test]
fn made_up_origins_do_not_push_out_an_app_that_is_used() {
    let origins = agreeing();
    for number in 0..100 {
        origins.observe(&of(&format!("app://{number}"), 66), ENOUGH, 200 + number);
    }
    assert!(knows(&origins, APP.origin) && origins.view().len() == MOST);
    assert!(knows(&origins, "app://99") && !knows(&origins, "app://0"));
    // Origins with a second user are not displaced until one has not been used for an hour.
    for view in origins.view() {
        origins.observe(&of(&view.origin, 67), ENOUGH, 400);
    }
    origins.observe(&of("app://late", 66), ENOUGH, 401);
    assert!(!knows(&origins, "app://late"));
    assert_eq!(
        origins.why(App { origin: "app://late", has_bearer: false }),
        "the origin app://late is one of more than 16"
    );
    origins.observe(&of("app://late", 66), ENOUGH, 400 + IDLE);
    assert!(knows(&origins, "app://late"));
}

#[test]
fn nothing_is_known_once_the_site_is_another() {
    let origins = agreeing();
    let cors = origins.agreed(APP).unwrap();
    origins.clear();
    assert!(!cors.holds() && origins.view().is_empty());
}

#[test]
fn a_reload_takes_over_what_is_known() {
    let before = agreeing();
    let after = Origins::following(&before, 20);
    assert_eq!(after.view(), before.view());
    assert!(after.agreed(APP).unwrap().holds());
    after.clear();
    assert!(before.agreed(APP).unwrap().holds());
}

#[test]
fn changes_are_named_and_their_values_are_not() {
    let more: Fields =
        [fields("*"), vec![("access-control-max-age".parse().unwrap(), HeaderValue::from_static("6"))]].concat();
    assert_eq!(changed(&fields("a"), &more), "header access-control-allow-origin, +access-control-max-age");
    assert_eq!(changed(&more, &fields("*")), "header -access-control-max-age");
}

proptest! {
    /// A native origin was seen as often as needed in a row; and the number of remembered origins
    /// is always limited.
    #[test]
    fn only_what_was_seen_is_native(steps in proptest::collection::vec((0..20_u8, 0..2_usize, 0..4_u64, any::<bool>()), 0..200)) {
        let origins = origins();
        for (time, (origin, allowed, user, is_refused)) in steps.into_iter().enumerate() {
            let origin = format!("app://{origin}");
            let app = App { origin: &origin, has_bearer: false };
            let before = origins.agreed(app);
            let allowed = ["*", "app://x"][allowed];
            let seen = Seen { origin: origin.clone(), user: (!is_refused).then_some(user), ..seen(allowed, user) };
            origins.observe(&seen, ENOUGH, time as u64);
            prop_assert!(origins.view().len() <= MOST);
            let after = origins.agreed(app);
            if let Some(cors) = &after {
                prop_assert!(cors.holds() && cors.fields == fields(allowed));
            }
            if let Some(before) = before.filter(|before| before.fields != fields(allowed)) {
                prop_assert!(!before.holds() && after.is_none());
            }
        }
    }
}
