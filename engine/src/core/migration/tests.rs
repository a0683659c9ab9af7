//! Moves between versions: by example, and in the middle of random lives.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::core::case::FailureClass;
use crate::core::decide::{Decision, Effect, decide};
use crate::core::id::{Actor, DefinitionHash};
use crate::core::input::Input;
use crate::core::tests::*;

fn version(text: &str) -> Arc<Definition> {
    Arc::new(Definition::parse("t.yaml", text, &["identity"], &|_| true).unwrap())
}

fn mapping(steps: &[(&str, &str)], drop: &[&str], skip: &[&str]) -> Mapping {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Mapping {
        steps: steps
            .iter()
            .map(|(old, new)| ((*old).to_owned(), (*new).to_owned()))
            .collect(),
        drop: names(drop),
        skip: names(skip),
    }
}

fn to(case: &Case, to: &Arc<Definition>, mapping: Mapping) -> Migrate {
    Migrate {
        from: case.definition.hash.clone(),
        to: Arc::clone(to),
        mapping,
        by: Actor("user:op".into()),
        reason: "because".into(),
    }
}

fn input(migrate: Migrate) -> Input {
    Input::Migrate(Box::new(migrate))
}

/// The obstacles, one a line.
#[track_caller]
fn refused(case: &Case, new: &str, mapping: Mapping) -> String {
    let new = version(new);
    let obstacles = plan(case, &to(case, &new, mapping), now()).unwrap_err();
    let lines: Vec<String> = obstacles.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[track_caller]
fn moved(case: &mut Case, new: &str, mapping: Mapping) -> Decision {
    let new = version(new);
    let migrate = to(case, &new, mapping);
    let decision = decide(case, input(migrate), now()).unwrap();
    is_legal(case).unwrap();
    decision
}

const TWO: &str = "name: t\nsteps:\n  - {id: a, uses: x}\n  - {id: b, uses: y}\n";

/// `a` is done, `b` waits for its next attempt.
fn half_way() -> Case {
    let mut case = case_of(TWO);
    drive(
        &mut case,
        vec![
            Input::Start,
            finished(0, 0, 1, succeeded()),
            finished(1, 0, 1, failed(FailureClass::SystemAway)),
        ],
    );
    case
}

#[test]
fn finished_and_waiting_work_goes_on_at_its_new_place() {
    let mut case = half_way();
    let key = case.idempotency_key(Place::new(StepIndex(1), 0), false);
    let waits = case.steps[1].clone();
    let new = "name: t\nsteps:\n  - {id: c, uses: z}\n  - {id: a, uses: x, needs: []}\n  - {id: bb, uses: y}\n";
    let decision = moved(&mut case, new, mapping(&[("b", "bb")], &[], &[]));
    assert_eq!(case.steps[1].state, StepState::Done);
    assert_eq!(case.steps[2].instances, waits.instances);
    // Its timer moved with it, and the new step began.
    let InstanceState::Waiting { due, .. } = waits.instances[0].state else {
        panic!("not waiting")
    };
    let target = |step| TimerTarget::Instance(Place::new(StepIndex(step), 0));
    assert_eq!(decision.timers_cleared, [(target(1), due)]);
    assert_eq!(decision.timers_set, [(target(2), due)]);
    let starts = Effect::Attempt {
        place: Place::new(StepIndex(0), 0),
        attempt: 1,
        mode: crate::core::case::Mode::Do,
    };
    assert_eq!(decision.effects, [starts]);
    assert_eq!(case.undo_stack, [Place::new(StepIndex(1), 0)]);
    // The system knows the effect by the name the step had.
    assert_eq!(
        case.idempotency_key(Place::new(StepIndex(2), 0), false),
        key
    );
    assert!(key.ends_with("/b/0"));
    // And when the step has that name again, nothing needs to be remembered.
    let named_again = "name: t\nsteps:\n  - {id: c, uses: z}\n  - {id: b, uses: y, needs: []}\n  - {id: a, uses: x, needs: []}\n";
    moved(&mut case, named_again, mapping(&[("bb", "b")], &[], &[]));
    assert_eq!(case.steps[1].known_as, None);
    assert_eq!(
        case.idempotency_key(Place::new(StepIndex(1), 0), false),
        key
    );
}

#[test]
fn a_step_that_began_cannot_be_lost_or_become_other_work() {
    let case = half_way();
    let check = |new: &str, mapping: Mapping, expected: &str| {
        assert_eq!(refused(&case, new, mapping), expected);
    };
    check(
        "name: t\nsteps:\n  - {id: b, uses: y}\n",
        Mapping::default(),
        "step `a` is done, and nothing in the new version continues it; map it to a step",
    );
    check(
        "name: t\nsteps:\n  - {id: a, uses: x}\n  - {id: b, uses: other}\n",
        Mapping::default(),
        "step `b` uses `y`, and `b` uses `other`",
    );
    check(
        "name: t\nsteps:\n  - {id: a, uses: x}\n  - {id: b, uses: y, for_each: input.items}\n",
        Mapping::default(),
        "step `b` and `b` differ in `for_each`, and its instances exist",
    );
    check(
        "name: t\nsteps:\n  - {id: a, uses: x}\n  - {id: c, uses: z}\n  - {id: b, uses: y}\n",
        Mapping::default(),
        "step `b` is open, and in the new version it needs `c`, which is not finished; \
         map a finished step to `c`, or say that cases past it skip it",
    );
    check(
        "name: t\nsteps:\n  - {id: a, uses: x}\n  - {id: b, uses: y}\n  - {id: c, uses: z}\n",
        mapping(&[("nobody", "a"), ("a", "nowhere")], &["b"], &[]),
        "the mapping names step `nobody`, which the old version does not have\n\
         the mapping names step `nowhere`, which the new version does not have\n\
         step `a` is done, and nothing in the new version continues it; map it to a step\n\
         step `b` is open; only a step that has not begun can be dropped",
    );
    check(
        "name: t\nsteps:\n  - {id: b, uses: y}\n  - {id: c, uses: z}\n",
        mapping(&[("a", "b")], &[], &[]),
        "steps `a` and `b` would both become `b`\n\
         step `a` uses `x`, and `b` uses `y`",
    );
    check(
        "name: other\nsteps:\n  - {id: a, uses: x}\n",
        Mapping::default(),
        "it runs workflow `t`, and the new version is one of `other`",
    );
    check(TWO, Mapping::default(), "it runs that version already");
}

#[test]
fn another_version_than_the_one_named_is_refused() {
    let case = half_way();
    let new = version("name: t\nsteps:\n  - {id: a, uses: x}\n  - {id: b, uses: y, timeout: 5s}\n");
    let mut migrate = to(&case, &new, Mapping::default());
    migrate.from = DefinitionHash("0123456789abcdef".into());
    let obstacles = plan(&case, &migrate, now()).unwrap_err();
    assert!(
        matches!(&obstacles[..], [Obstacle::OtherVersion { expected, .. }] if expected == "0123456789ab")
    );
    let mut without = to(&case, &new, Mapping::default());
    without.reason = " ".into();
    let mut moved = case.clone();
    assert_eq!(
        decide(&mut moved, input(without), now()),
        Err(Illegal::ReasonRequired)
    );
    assert_eq!(moved, case);
}

#[test]
fn an_attempt_in_flight_keeps_its_place_or_the_case_waits() {
    let mut case = case_of(TWO);
    drive(&mut case, vec![Input::Start]);
    let first = "name: t\nsteps:\n  - {id: c, uses: z}\n  - {id: a, uses: x, needs: []}\n  - {id: b, uses: y}\n";
    assert_eq!(
        refused(&case, first, Mapping::default()),
        "step `a` has an attempt in flight and would change its place; wait until it is back"
    );
    let last =
        "name: t\nsteps:\n  - {id: a, uses: x}\n  - {id: b, uses: y}\n  - {id: c, uses: z}\n";
    moved(&mut case, last, Mapping::default());
    drive(
        &mut case,
        vec![
            finished(0, 0, 1, succeeded()),
            finished(1, 0, 1, succeeded()),
            finished(2, 0, 1, succeeded()),
        ],
    );
    assert!(case.state.is_closed());
}

#[test]
fn a_step_that_only_waits_to_begin_waits_again_for_what_it_needs_now() {
    let mut case =
        case_of("name: t\nsteps:\n  - {id: a, uses: x}\n  - {id: b, uses: y, after: 30d}\n");
    drive(
        &mut case,
        vec![Input::Start, finished(0, 0, 1, succeeded())],
    );
    assert!(matches!(case.steps[1].state, StepState::Delayed { .. }));
    let new = "name: t\nsteps:\n  - {id: a, uses: x}\n  - {id: ask, uses: z}\n  - {id: b, uses: y, after: 30d}\n";
    let decision = moved(&mut case, new, Mapping::default());
    assert_eq!(decision.timers_cleared.len(), 1);
    assert_eq!(decision.timers_set, []);
    assert_eq!(case.steps[1].state, StepState::Open);
    assert_eq!(case.steps[2].state, StepState::Pending);
    drive(&mut case, vec![finished(1, 0, 1, succeeded())]);
    assert!(matches!(case.steps[2].state, StepState::Delayed { .. }));
}

#[test]
fn a_case_past_a_new_step_skips_it_when_told_and_nothing_reads_it() {
    let new = "name: t\nsteps:\n  - {id: a, uses: x}\n  - {id: c, uses: z}\n  - {id: b, uses: y}\n  - {id: d, uses: y, READS}\n";
    let skip = || mapping(&[], &[], &["c"]);
    let mut case = half_way();
    assert_eq!(
        refused(&case, &new.replace("READS", "if: steps.c.good"), skip()),
        "step `d` reads `steps.c`, which this case would skip"
    );
    let decision = moved(&mut case, &new.replace("READS", "timeout: 5s"), skip());
    let names: Vec<_> = decision.events.iter().map(Event::name).collect();
    assert_eq!(names, ["migrated", "step_skipped"]);
    // One that is not past it does it.
    let mut early = case_of(TWO);
    drive(&mut early, vec![Input::Start]);
    moved(&mut early, &new.replace("READS", "timeout: 5s"), skip());
    drive(&mut early, vec![finished(0, 0, 1, succeeded())]);
    assert_eq!(early.steps[1].state, StepState::Open);
}

#[test]
fn what_was_stuck_is_mended_by_a_version_that_plans_it() {
    let mut case = case_of("name: t\nsteps:\n  - {id: a, uses: x, if: input.nothing.there}\n");
    drive(&mut case, vec![Input::Start]);
    assert_eq!(case.state, CaseState::Parked);
    let decision = moved(
        &mut case,
        "name: t\nsteps:\n  - {id: a, uses: x}\n",
        Mapping::default(),
    );
    assert_eq!(
        decision.events.len(),
        1,
        "a person parked it, a person resumes it"
    );
    let by = Actor("user:op".into());
    let retry = Input::Retry {
        place: None,
        step: None,
        by,
        reason: String::new(),
    };
    drive(&mut case, vec![retry, finished(0, 0, 1, succeeded())]);
    assert_eq!(case.state, CaseState::Succeeded);
}

#[test]
fn a_case_with_nothing_left_to_do_closes() {
    let mut case =
        case_of("name: t\nsteps:\n  - {id: a, uses: x}\n  - {id: b, uses: y, after: 30d}\n");
    drive(
        &mut case,
        vec![Input::Start, finished(0, 0, 1, succeeded())],
    );
    moved(
        &mut case,
        "name: t\nsteps:\n  - {id: a, uses: x}\n",
        Mapping::default(),
    );
    assert_eq!(case.state, CaseState::Succeeded);
}

#[test]
fn what_can_be_taken_back_stays_so() {
    const OLD: &str = "name: t\non_failure: undo\nsteps:\n  - {id: a, uses: x, undo: {uses: ux}}\n  - {id: c, uses: z, after: 1h}\n";
    let mut case = case_of(OLD);
    drive(
        &mut case,
        vec![Input::Start, finished(0, 0, 1, succeeded())],
    );
    assert_eq!(
        refused(
            &case,
            "name: t\non_failure: undo\nsteps:\n  - {id: a, uses: x}\n  - {id: c, uses: z}\n",
            Mapping::default()
        ),
        "step `a` is done and can be taken back, and `a` says no way to"
    );
    // While it undoes, the way must stay the same.
    let mut undoing = case_of(&OLD.replace(", after: 1h", ""));
    drive(
        &mut undoing,
        vec![
            Input::Start,
            finished(0, 0, 1, succeeded()),
            finished(1, 0, 1, failed(FailureClass::Permanent)),
            finished(0, 0, 2, failed(FailureClass::SystemAway)),
        ],
    );
    assert_eq!(undoing.state, CaseState::Undoing);
    let other = "name: t\non_failure: undo\nsteps:\n  - {id: a, uses: x, undo: {uses: other}}\n  - {id: c, uses: z}\n";
    assert_eq!(
        refused(&undoing, other, Mapping::default()),
        "it takes back what it did, and the new version never does or does so otherwise (step `a`)"
    );
    let new = "name: t\non_failure: undo\nsteps:\n  - {id: n, uses: n}\n  - {id: a, uses: x, needs: [], undo: {uses: ux}}\n  - {id: c, uses: z}\n";
    moved(&mut undoing, new, Mapping::default());
    let InstanceState::Waiting { due, .. } = undoing.steps[1].instances[0].state else {
        panic!("not waiting")
    };
    let target = TimerTarget::Instance(Place::new(StepIndex(1), 0));
    drive(
        &mut undoing,
        vec![
            Input::TimerDue { target, due },
            finished(1, 0, 3, succeeded()),
        ],
    );
    assert_eq!(undoing.state, CaseState::Undone);
}

#[test]
fn a_queued_case_moves_and_a_closed_one_does_not() {
    let mut case = case_of(TWO);
    let new = "name: t\nsteps:\n  - {id: z, uses: z}\n";
    moved(&mut case, new, Mapping::default());
    assert_eq!(case.state, CaseState::Queued);
    drive(
        &mut case,
        vec![Input::Start, finished(0, 0, 1, succeeded())],
    );
    assert_eq!(case.state, CaseState::Succeeded);
    let migrate = to(&case, &version(TWO), Mapping::default());
    assert_eq!(
        decide(&mut case, input(migrate), now()),
        Err(Illegal::State(CaseState::Succeeded, "migrate"))
    );
}

#[test]
fn a_deadline_is_counted_as_if_the_case_had_begun_so() {
    let with = |deadline: &str| format!("name: t\n{deadline}\nsteps:\n  - {{id: a, uses: x}}\n");
    let minutes = chrono::TimeDelta::minutes;
    for (old, new, expected) in [
        ("deadline: {after: 10m}", "deadline: {after: 1h}", Some(60)),
        ("deadline: {after: 10m}", "", None),
        ("", "deadline: {after: 1h}", Some(90)),
        (
            "deadline: {after: 10m}",
            "deadline: {after: 10m}\nlane: revocation",
            Some(10),
        ),
    ] {
        let mut case = case_of(&with(old));
        drive(&mut case, vec![Input::Start]);
        let new = version(&with(new));
        let migrate = to(&case, &new, Mapping::default());
        decide(&mut case, input(migrate), now() + minutes(30)).unwrap();
        assert_eq!(
            case.deadline_at,
            expected.map(|after| now() + minutes(after))
        );
    }
}

/// The workflow of the random lives with a step more, and others named, ordered and bound otherwise.
const LATER: &str = r"
name: all
on_failure: FAILURE
deadline: { after: 2h }
steps:
  - {id: check, uses: noop}
  - {id: go, uses: wait_for, needs: [], with: {signal: go, timeout: 20m, on_timeout: continue}}
  - {id: make_it, uses: make, needs: [check], UNDO}
  - {id: each, uses: apply, for_each: input.items, needs: [make_it], with: {id: '${{ item }}'}, retry: {attempts: 2, first: 1s}}
  - {id: later, uses: noop, needs: [each, go], after: 5m, if: size(steps.each.outputs) > 0}
  - {id: ask, uses: approval, needs: [make_it], with: {ask: [owner], quorum: 2, timeout: 10m}}
  - {id: facts, uses: noop, needs: [go], if: identity.active}
  - {id: hand, uses: task, needs: [ask], with: {assignee: role:ops, title: do it, timeout: 1h, proof_required: true}}
";

fn later(on_failure: &str) -> Arc<Definition> {
    let undo = if on_failure == "undo" {
        "undo: {uses: unmake, with: {was: '${{ output.id }}'}}"
    } else {
        "timeout: 5s"
    };
    version(&LATER.replace("FAILURE", on_failure).replace("UNDO", undo))
}

/// Whatever has begun had what its version says it needs.
fn needs_hold(case: &Case) -> Result<(), String> {
    for (step, run) in case.definition.steps.iter().zip(&case.steps) {
        if matches!(run.state, StepState::Pending | StepState::Cancelled) {
            continue;
        }
        for need in &step.needs {
            if !case.steps[usize::from(need.0)].state.is_finished() {
                return Err(format!("`{}` began before what it needs", step.id));
            }
        }
    }
    Ok(())
}

/// What systems were told, and what they said: it must survive every move.
fn effects(case: &Case) -> BTreeSet<(String, String)> {
    (0..)
        .map(StepIndex)
        .take(case.steps.len())
        .flat_map(|step| case.places(step))
        .map(|place| {
            let instance = case.instance(place).unwrap();
            (
                case.idempotency_key(place, false),
                format!(
                    "{:?} {} {:?}",
                    instance.state, instance.output, instance.with
                ),
            )
        })
        .collect()
}

/// How many of the random moves were made, so that the test cannot pass by refusing all of them.
static MOVED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

fn life(policy: usize, inputs: Vec<(u8, u8, i64)>) -> Result<(), TestCaseError> {
    let on_failure = ["forward", "undo", "park"][policy];
    let mut case = all_kinds(on_failure);
    let versions = [Arc::clone(&case.definition), later(on_failure)];
    let mut replayed = case.clone();
    let mut timers = BTreeSet::new();
    let mut at = now();
    let inputs = std::iter::once((0, 0, 0)).chain(inputs);
    for (choice, detail, later_ms) in inputs {
        let before = case.clone();
        let next = if choice >= 200 {
            let other = usize::from(case.definition.hash == versions[0].hash);
            let (names, skip): (_, &[&str]) = match (other, detail % 2) {
                (1, 0) => ([("create", "make_it")], &["check"]),
                (1, _) => ([("create", "make_it")], &[]),
                _ => ([("make_it", "create")], &[]),
            };
            input(to(&case, &versions[other], mapping(&names, &[], skip)))
        } else {
            random_input(&case, choice, detail, later_ms, &mut at)
        };
        let migrates = matches!(next, Input::Migrate(_));
        let Ok(decision) = decide(&mut case, next.clone(), at) else {
            prop_assert_eq!(
                &before,
                &case,
                "a refused input changed the case: {:?}",
                next
            );
            continue;
        };
        for event in &decision.events {
            let stored = serde_json::to_string(event).unwrap();
            let read: Event = serde_json::from_str(&stored).unwrap();
            prop_assert_eq!(&read, event);
            if let Event::Migrated { to, .. } = &read {
                let version = versions.iter().find(|version| version.hash == *to);
                replayed.definition = Arc::clone(version.unwrap());
            }
            replayed.apply(&read, at);
        }
        replayed.version += u64::from(!decision.events.is_empty());
        prop_assert_eq!(&replayed, &case);
        for timer in decision.timers_cleared {
            let standing = decision.timers_set.contains(&timer) || timers.remove(&timer);
            prop_assert!(standing, "cleared a timer that does not stand: {:?}", timer);
        }
        timers.extend(decision.timers_set);
        if migrates {
            MOVED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let kept = effects(&case);
            for effect in effects(&before) {
                prop_assert!(kept.contains(&effect), "lost {:?}", effect);
            }
            if let Err(what) = needs_hold(&case) {
                prop_assert!(false, "{}", what);
            }
            let undone = |case: &Case| case.undo_stack.len();
            prop_assert_eq!(undone(&before), undone(&case));
        }
        if let Err(what) = is_legal(&case) {
            prop_assert!(false, "{} after {:?}", what, next);
        }
        if case.state.is_closed() {
            prop_assert!(timers.is_empty(), "timers left: {:?}", timers);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_life_with_moves_in_it_stays_legal_and_replays_the_same(
        policy in 0..3_usize,
        inputs in proptest::collection::vec((any::<u8>(), any::<u8>(), 0..200_000_i64), 1..120),
    ) {
        life(policy, inputs)?;
    }
}

/// The random lives above must move at many stages, or they prove little.
#[test]
fn random_lives_do_move() {
    let mut random = 1_u64;
    let mut next = || {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as u8
    };
    let before = MOVED.load(std::sync::atomic::Ordering::Relaxed);
    for round in 0..200 {
        let inputs = (0..100).map(|_| (next(), next(), i64::from(next()) * 500));
        life(round % 3, inputs.collect()).unwrap();
    }
    let moves = MOVED.load(std::sync::atomic::Ordering::Relaxed) - before;
    assert!(moves > 150, "only {moves} moves");
}
