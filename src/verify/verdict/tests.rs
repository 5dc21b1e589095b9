use proptest::prelude::*;

use super::*;
use crate::verify::difference::Kind;

const FIRST: u32 = 20;

fn agrees(class: Class, user: u64) -> Observation {
    Observation::Agrees { class, user: Some(user) }
}

fn difference() -> Difference {
    Difference::new(Kind::Body, "body +role (string)")
}

/// A site that has agreed since `now`.
fn agreeing(now: u64) -> Verdict {
    let mut verdict = Verdict::new(FIRST, now);
    verdict.enter("one", false, FIRST, now);
    for user in 0..u64::from(FIRST) {
        verdict.observe(agrees(Class::Plain, user), now);
    }
    assert_eq!(verdict.state, State::Agrees);
    verdict
}

#[test]
fn enough_answers_of_enough_users_agree() {
    let mut verdict = Verdict::new(FIRST, 0);
    for number in 1..u64::from(FIRST) {
        assert!(!verdict.observe(agrees(Class::Plain, number), number));
    }
    assert!(verdict.observe(agrees(Class::Plain, 7), 99));
    assert_eq!((&verdict.state, verdict.since, verdict.compared), (&State::Agrees, 99, 20));
}

#[test]
fn one_user_alone_takes_three_times_as_many() {
    let mut verdict = Verdict::new(FIRST, 0);
    let changes = (0..3 * FIRST).filter(|_| verdict.observe(agrees(Class::Plain, 1), 0)).count();
    assert_eq!((changes, verdict.compared), (1, 60));
    let mut two = Verdict::new(FIRST, 0);
    assert!((0..59).all(|number| !two.observe(agrees(Class::Plain, number % 2), 0)));
}

#[test]
fn refusals_do_not_count_for_pairs() {
    let mut verdict = Verdict::new(1, 0);
    for user in 0..100 {
        verdict.observe(agrees(Class::Refusal, user), 0);
    }
    assert_eq!((&verdict.state, verdict.agreed), (&State::Unverified, 0));
}

#[test]
fn each_further_class_has_its_own_comparisons() {
    let mut verdict = agreeing(0);
    assert!(verdict.knows(Class::Plain) && !verdict.knows(Class::Origin) && !verdict.knows(Class::Refusal));
    for user in 0..3 {
        assert!(!verdict.knows(Class::Origin));
        verdict.observe(agrees(Class::Origin, user), 0);
    }
    verdict.observe(agrees(Class::Refusal, 1), 0);
    assert!(verdict.knows(Class::Origin) && verdict.knows(Class::Refusal) && !verdict.knows(Class::OriginAndBearer));
}

#[test]
fn a_difference_decides_at_first_sight() {
    let mut verdict = agreeing(0);
    assert!(verdict.observe(Observation::Differs(difference()), 5));
    assert_eq!((&verdict.state, verdict.since), (&State::Differs(difference()), 5));
    assert!(!verdict.knows(Class::Plain));
    // Repeated, it is not a change.
    assert!(!verdict.observe(Observation::Differs(difference()), 6));
    assert_eq!(verdict.since, 5);
    let other = Difference::new(Kind::Claim, "claim +sub (string)");
    assert!(verdict.observe(Observation::Differs(other.clone()), 7));
    assert_eq!(verdict.state, State::Differs(other));
}

#[test]
fn what_was_proven_of_a_class_is_not_after_a_difference() {
    let mut verdict = agreeing(0);
    for user in 0..3 {
        verdict.observe(agrees(Class::Origin, user), 0);
    }
    verdict.observe(Observation::Differs(difference()), 0);
    for _ in 0..RETURN {
        verdict.observe(agrees(Class::Plain, 1), RETURN_SECONDS);
    }
    assert!(verdict.knows(Class::Plain) && !verdict.knows(Class::Origin));
}

#[test]
fn a_suspicion_of_a_single_user_ends() {
    let mut verdict = agreeing(0);
    verdict.observe(Observation::Suspicious(difference(), 7), 0);
    for user in 0..u64::from(CALM) {
        assert!(verdict.is_suspicious());
        verdict.observe(agrees(Class::Plain, user), 1);
    }
    assert!(!verdict.is_suspicious());
}

#[test]
fn what_one_client_can_bring_about_decides_nothing() {
    let mut verdict = agreeing(0);
    let ended = Difference::new(Kind::Session, "WordPress ends the session (500)");
    for at in 0..1_000 {
        assert!(!verdict.observe(Observation::Suspicious(ended.clone(), 7), at));
        assert!(!verdict.observe(Observation::Void, at));
    }
    assert!(verdict.state == State::Agrees && verdict.is_suspicious() && verdict.knows(Class::Plain));
    // Another kind is another suspicion, and old ones are forgotten.
    let refused = Difference::new(Kind::Refusal, "403 site_code");
    assert!(!verdict.observe(Observation::Suspicious(refused, 8), 1_000));
    assert!(!verdict.observe(Observation::Suspicious(ended.clone(), 8), 1_000 + SUSPICIOUS_FOR));
    assert!(verdict.observe(Observation::Suspicious(ended.clone(), 9), 1_001 + SUSPICIOUS_FOR));
    assert_eq!(verdict.state, State::Differs(ended));
}

#[test]
fn a_site_that_differed_comes_back_late_and_later_each_time() {
    let mut verdict = agreeing(0);
    let mut now = 0;
    for needed in [200, 400, 800] {
        verdict.observe(Observation::Differs(difference()), now);
        let soon = now + RETURN_SECONDS - 1;
        assert!((0..needed).all(|_| !verdict.observe(agrees(Class::Plain, 1), soon)), "{needed}");
        now += RETURN_SECONDS;
        assert!(verdict.observe(agrees(Class::Plain, 1), now));
        assert_eq!(verdict.state, State::Agrees);
    }
    verdict.observe(Observation::Differs(difference()), now);
    for _ in 0..1_599 {
        verdict.observe(agrees(Class::Plain, 1), now + RETURN_SECONDS);
    }
    // A difference in between restarts the count.
    verdict.observe(Observation::Differs(difference()), now + RETURN_SECONDS);
    assert!(!verdict.observe(agrees(Class::Plain, 1), now + RETURN_SECONDS));
}

#[test]
fn a_changed_site_is_verified_again_by_fewer() {
    for (plugin_changed, needed) in [(false, AFTER_CHANGE), (true, FIRST)] {
        for mut verdict in [agreeing(0), {
            let mut differs = agreeing(0);
            differs.observe(Observation::Differs(difference()), 0);
            differs
        }] {
            assert!(!verdict.enter("one", plugin_changed, FIRST, 9));
            assert!(verdict.enter("two", plugin_changed, FIRST, 9));
            assert_eq!((&verdict.state, verdict.needed, verdict.epoch_since), (&State::Unverified, needed, 9));
            assert!(!verdict.knows(Class::Plain));
        }
    }
    // Never more than the first ones.
    let mut short = agreeing(0);
    short.enter("two", false, 2, 0);
    assert_eq!(short.needed, 2);
}

#[test]
fn the_first_epoch_is_no_change() {
    let mut verdict = Verdict::new(FIRST, 0);
    assert!(verdict.enter("one", true, FIRST, 3));
    assert_eq!((verdict.needed, verdict.epoch_since, verdict.since), (FIRST, 3, 0));
}

#[test]
fn a_restart_asks_for_a_few_and_keeps_a_difference() {
    let resumed = agreeing(0).resumed(50);
    assert_eq!((&resumed.state, resumed.needed, resumed.since), (&State::Unverified, AFTER_RESTART, 50));
    let mut differs = agreeing(0);
    differs.observe(Observation::Differs(difference()), 4);
    let resumed = differs.resumed(50);
    assert_eq!((&resumed.state, resumed.since), (&State::Differs(difference()), 4));
}

#[test]
fn again_is_from_the_beginning() {
    let mut verdict = agreeing(0);
    verdict.observe(Observation::Differs(difference()), 0);
    verdict.again(FIRST, 8);
    assert_eq!((&verdict.state, verdict.needed, verdict.agreed), (&State::Unverified, FIRST, 0));
    assert_eq!((verdict.epoch.as_str(), verdict.compared), ("one", 21));
}

#[test]
fn what_is_kept_comes_back() {
    let mut verdict = agreeing(3);
    verdict.observe(Observation::Differs(difference()), 4);
    let kept = serde_json::to_string(&verdict).unwrap();
    assert_eq!(serde_json::from_str::<Verdict>(&kept).unwrap(), Verdict { forgotten: 0, ..verdict });
}

#[test]
fn one_user_alone_raises_suspicions_only() {
    let mut verdict = Verdict::new(3, 0);
    let suspicion = |what: &str, user| Observation::Suspicious(Difference::new(Kind::Refusal, what), user);
    for number in 0..200 {
        assert!(!verdict.observe(suspicion(&number.to_string(), 1), number));
    }
    assert!(verdict.is_suspicious() && verdict.suspicions.len() <= MOST_SUSPICIONS);
    // An hour later the first user's are forgotten.
    assert!(!verdict.observe(suspicion("a", 2), 200 + 2 * SUSPICIOUS_FOR));
    assert!(verdict.observe(suspicion("b", 3), 201 + 2 * SUSPICIOUS_FOR));
    assert!(matches!(&verdict.state, State::Differs(difference) if difference.what == "b"));
}

#[test]
fn a_refusal_counts_for_itself() {
    let mut verdict = Verdict::new(1, 0);
    let agrees = |class, user| Observation::Agrees { class, user };
    assert!(verdict.wants_refusal());
    assert!(!verdict.observe(agrees(Class::Refusal, None), 0));
    assert!(!verdict.wants_refusal() && verdict.agreed == 0);
    assert!(verdict.observe(agrees(Class::Plain, Some(1)), 0));
    assert!(verdict.knows(Class::Refusal) && verdict.knows(Class::Plain) && !verdict.knows(Class::Origin));
    verdict.enter("other", false, 1, 1);
    assert!(verdict.wants_refusal());
}

#[derive(Debug, Clone)]
enum Step {
    Observe(Observation),
    Enter(bool),
    Resume,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let class = (0..Class::ALL.len()).prop_map(|at| Class::ALL[at]);
    let step = prop_oneof![
        20 => (class, 0..5_u64).prop_map(|(class, user)| Step::Observe(agrees(class, user))),
        1 => Just(Step::Observe(Observation::Differs(difference()))),
        2 => (0..3_u64).prop_map(|user| Step::Observe(Observation::Suspicious(difference(), user))),
        2 => Just(Step::Observe(Observation::Void)),
        1 => any::<bool>().prop_map(Step::Enter),
        1 => Just(Step::Resume),
    ];
    proptest::collection::vec(step, 0..200)
}

proptest! {
    #[test]
    fn native_is_only_what_agreed_since(steps in steps()) {
        only_native_if_agreed_since(steps)?;
    }
}

/// A case that proptest has found: a restart, then a change of the site, and a refusal among what agrees.
#[test]
fn a_refusal_after_a_restart_and_a_change_proves_nothing() {
    let plain = [0, 0, 0, 0, 1, 2].map(|user| Step::Observe(agrees(Class::Plain, user)));
    let then = [
        Step::Resume,
        Step::Observe(agrees(Class::Plain, 1)),
        Step::Enter(false),
        Step::Observe(agrees(Class::Refusal, 0)),
        Step::Observe(agrees(Class::Plain, 2)),
        Step::Observe(agrees(Class::Plain, 0)),
    ];
    only_native_if_agreed_since(plain.into_iter().chain(then).collect()).unwrap();
}

/// In every sequence of results, only what has agreed since the last contrary result is native.
fn only_native_if_agreed_since(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut verdict = Verdict::new(6, 0);
    let (mut since, mut epochs) = (0_u32, 0);
    for (now, step) in steps.into_iter().enumerate() {
        let now = now as u64;
        match step {
            Step::Observe(observed) => {
                let before = verdict.state.clone();
                let counts = matches!(&observed, Observation::Agrees { class, .. } if *class != Class::Refusal);
                since = if counts { since + 1 } else { since };
                verdict.observe(observed, now);
                if verdict.state != before && verdict.state != State::Agrees {
                    since = 0;
                }
            }
            Step::Enter(plugin_changed) => {
                epochs += 1;
                verdict.enter(&epochs.to_string(), plugin_changed, 6, now);
                since = 0;
            }
            Step::Resume => {
                let was_native = verdict.state == State::Agrees;
                verdict = verdict.resumed(now);
                since = if was_native { 0 } else { since };
            }
        }
        for class in Class::ALL {
            prop_assert!(!verdict.knows(class) || (verdict.state == State::Agrees && since >= AFTER_RESTART));
        }
    }
    Ok(())
}

#[test]
fn what_was_proven_of_an_origin_ceases_to_count_with_the_site() {
    let mut verdict = agreeing(0);
    assert!(verdict.knows(Class::App) && verdict.further() == 3);
    let mut numbers = vec![verdict.forgotten()];
    verdict.observe(agrees(Class::App, 1), 1);
    assert_eq!(numbers, [verdict.forgotten()]);
    verdict.enter("two", false, FIRST, 2);
    numbers.push(verdict.forgotten());
    assert!(!verdict.knows(Class::App));
    verdict.again(FIRST, 3);
    numbers.push(verdict.forgotten());
    verdict.differ(difference(), 4);
    numbers.push(verdict.forgotten());
    let as_made = numbers.clone();
    numbers.dedup();
    assert_eq!((numbers.len(), numbers), (4, as_made));
}

#[test]
fn calls_of_apps_prove_the_site_and_no_other_kind_of_requests() {
    let mut verdict = Verdict::new(3, 0);
    for user in 1..=3 {
        verdict.observe(agrees(Class::App, user), 0);
    }
    assert!(verdict.knows(Class::App));
    assert!([Class::Plain, Class::Origin, Class::Bearer].iter().all(|class| !verdict.knows(*class)));
}
