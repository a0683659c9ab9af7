//! The transition function: by example, and by random inputs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::sync::Arc;

use chrono::TimeDelta;
use proptest::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Timestamp;
use super::case::*;
use super::decide::{Decision, Effect, Illegal, decide};
use super::definition::Definition;
use super::event::Event;
use super::id::{Actor, CaseId, Place, ShardId, StepIndex, Subject};
use super::input::{AttemptResult, Input, TimerTarget};
use super::proof::Proof;

const ALL_KINDS: &str = r"
name: all
on_failure: FAILURE
deadline: { after: 1h, escalate_to: role:security }
steps:
  - {id: create, uses: make, UNDO}
  - {id: each, uses: apply, for_each: input.items, with: {id: '${{ item }}'}, retry: {attempts: 2, first: 1s}}
  - {id: ask, uses: approval, needs: [create], with: {ask: [owner], quorum: 2, timeout: 10m}}
  - {id: later, uses: noop, needs: [each], after: 5m, if: size(steps.each.outputs) > 0}
  - {id: hand, uses: task, needs: [ask], with: {assignee: role:ops, title: do it, timeout: 1h, proof_required: true}}
  - {id: go, uses: wait_for, needs: [], with: {signal: go, timeout: 20m, on_timeout: continue}}
  - {id: facts, uses: noop, needs: [go], if: identity.active}
";

pub(super) fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

pub(super) fn case_of(text: &str) -> Case {
    let definition = Definition::parse("t.yaml", text, &["identity"], &|_| true).unwrap();
    Case::new(NewCase {
        id: CaseId(Uuid::from_u128(7)),
        shard: ShardId(1),
        subject: Subject("ada".into()),
        definition: Arc::new(definition),
        generation: 0,
        input: Arc::new(json!({"items": ["a", "b", "c"]})),
        salt: [0; 16],
        initiator: Actor::engine(),
        effective_at: None,
        received_at: now(),
        created_at: now(),
    })
}

pub(super) fn all_kinds(on_failure: &str) -> Case {
    let undo = if on_failure == "undo" {
        "undo: {uses: unmake, with: {was: '${{ output.id }}'}}"
    } else {
        "timeout: 5s"
    };
    case_of(
        &ALL_KINDS
            .replace("FAILURE", on_failure)
            .replace("UNDO", undo),
    )
}

pub(super) fn finished(step: u16, instance: u32, attempt: u32, result: AttemptResult) -> Input {
    Input::AttemptFinished {
        place: Place::new(StepIndex(step), instance),
        attempt,
        result: Box::new(result),
    }
}

pub(super) fn succeeded() -> AttemptResult {
    AttemptResult::Succeeded {
        output: json!({"id": "x"}),
        verification: Verification::Verified,
        proof: Proof::default(),
    }
}

pub(super) fn failed(class: FailureClass) -> AttemptResult {
    let failure = Failure {
        kind: "test".into(),
        message: "no".into(),
        class,
    };
    AttemptResult::Failed {
        failure,
        proof: Proof::default(),
    }
}

/// Drives a case through inputs and returns the names of all events.
#[track_caller]
pub(super) fn drive(case: &mut Case, inputs: Vec<Input>) -> Vec<&'static str> {
    let mut names = Vec::new();
    for input in inputs {
        let decision = decide(case, input, now()).unwrap();
        names.extend(decision.events.iter().map(Event::name));
    }
    names
}

#[test]
fn a_case_starts_every_step_that_needs_nothing() {
    let mut case = all_kinds("forward");
    let decision = decide(&mut case, Input::Start, now()).unwrap();
    assert_eq!(
        decision.events.iter().map(Event::name).collect::<Vec<_>>(),
        ["started", "step_planned", "step_planned"]
    );
    assert_eq!(
        decision.effects.len(),
        1,
        "the signal step asks, it has no attempt"
    );
    assert_eq!(
        decision.timers_set.len(),
        2,
        "the deadline and the signal's time limit"
    );
}

#[test]
fn a_fan_out_has_an_attempt_for_each_item_and_finishes_with_the_last() {
    let mut case = case_of(
        "name: t\nsteps:\n  - {id: e, uses: x, for_each: input.items}\n  - {id: f, uses: y}\n",
    );
    drive(
        &mut case,
        vec![
            Input::Start,
            finished(0, 2, 1, succeeded()),
            finished(0, 0, 1, succeeded()),
        ],
    );
    assert_eq!(case.steps[1].state, StepState::Pending);
    drive(&mut case, vec![finished(0, 1, 1, succeeded())]);
    assert_eq!(case.steps[1].state, StepState::Open);
    drive(&mut case, vec![finished(1, 0, 1, succeeded())]);
    assert_eq!(case.state, CaseState::Succeeded);
}

#[test]
fn counted_failures_spend_the_budget_and_an_absent_system_does_not() {
    let mut case = case_of("name: t\nsteps: [{id: a, uses: x, retry: {attempts: 2, first: 1s}}]\n");
    drive(&mut case, vec![Input::Start]);
    let mut attempt = 1;
    for _ in 0..50 {
        drive(
            &mut case,
            vec![finished(0, 0, attempt, failed(FailureClass::SystemAway))],
        );
        let InstanceState::Waiting { due, .. } = case.steps[0].instances[0].state else {
            panic!("not waiting")
        };
        let target = TimerTarget::Instance(Place::new(StepIndex(0), 0));
        drive(&mut case, vec![Input::TimerDue { target, due }]);
        attempt += 1;
    }
    assert_eq!(case.steps[0].instances[0].failures, 0);
    let names = drive(
        &mut case,
        vec![finished(0, 0, attempt, failed(FailureClass::Retry))],
    );
    assert_eq!(names, ["waiting"]);
    let InstanceState::Waiting { due, .. } = case.steps[0].instances[0].state else {
        panic!("not waiting")
    };
    let target = TimerTarget::Instance(Place::new(StepIndex(0), 0));
    drive(&mut case, vec![Input::TimerDue { target, due }]);
    let names = drive(
        &mut case,
        vec![finished(0, 0, attempt + 1, failed(FailureClass::Retry))],
    );
    assert_eq!(names, ["parked"]);
    assert_eq!(case.state, CaseState::Parked);
    let names = drive(
        &mut case,
        vec![Input::Retry {
            place: None,
            step: None,
            by: Actor("user:op".into()),
            reason: String::new(),
        }],
    );
    assert_eq!(names, ["attempted"]);
    assert_eq!(case.state, CaseState::Running);
}

#[test]
fn a_failure_undoes_what_was_done_last_first() {
    let mut case = case_of(
        "name: t\non_failure: undo\nsteps:\n  - {id: a, uses: x, undo: {uses: ux}}\n  - {id: b, uses: y, undo: {uses: uy}}\n  - {id: c, uses: z}\n",
    );
    drive(
        &mut case,
        vec![
            Input::Start,
            finished(0, 0, 1, succeeded()),
            finished(1, 0, 1, succeeded()),
        ],
    );
    let decision = decide(
        &mut case,
        finished(2, 0, 1, failed(FailureClass::Permanent)),
        now(),
    )
    .unwrap();
    assert_eq!(
        decision.events.iter().map(Event::name).collect::<Vec<_>>(),
        ["failed", "ending", "undo_started", "attempted"]
    );
    let undo = |step| Effect::Attempt {
        place: Place::new(StepIndex(step), 0),
        attempt: 2,
        mode: Mode::Undo,
    };
    assert_eq!(decision.effects, [undo(1)]);
    let decision = decide(&mut case, finished(1, 0, 2, succeeded()), now()).unwrap();
    assert_eq!(decision.effects, [undo(0)]);
    drive(&mut case, vec![finished(0, 0, 2, succeeded())]);
    assert_eq!(case.state, CaseState::Undone);
}

#[test]
fn a_case_that_undoes_starts_nothing_when_a_timer_comes_due() {
    let mut case = case_of(
        "name: t\non_failure: undo\nsteps:\n  - {id: a, uses: x, undo: {uses: ux}}\n  - {id: later, uses: y, needs: [a], after: 1m}\n  - {id: c, uses: z, needs: [a]}\n",
    );
    drive(
        &mut case,
        vec![Input::Start, finished(0, 0, 1, succeeded())],
    );
    let StepState::Delayed { due } = case.steps[1].state else {
        panic!("not delayed")
    };
    drive(
        &mut case,
        vec![finished(2, 0, 1, failed(FailureClass::Permanent))],
    );
    assert_eq!(case.state, CaseState::Undoing);
    let target = TimerTarget::Step(StepIndex(1));
    assert_eq!(
        decide(&mut case, Input::TimerDue { target, due }, now()),
        Err(Illegal::StaleTimer)
    );
}

#[test]
fn a_failed_undo_leaves_the_case_visibly_stuck() {
    let mut case = case_of(
        "name: t\non_failure: undo\nsteps:\n  - {id: a, uses: x, undo: {uses: ux}}\n  - {id: c, uses: z}\n",
    );
    drive(
        &mut case,
        vec![
            Input::Start,
            finished(0, 0, 1, succeeded()),
            finished(1, 0, 1, failed(FailureClass::Permanent)),
            finished(0, 0, 2, failed(FailureClass::Permanent)),
        ],
    );
    assert_eq!(case.parked, 1);
    assert!(!case.state.is_closed());
    let by = Actor("user:op".into());
    let skip = Input::Skip {
        step: StepIndex(0),
        place: None,
        by,
        reason: "gone by hand".into(),
    };
    drive(&mut case, vec![skip]);
    assert_eq!(case.state, CaseState::Incomplete);
}

#[test]
fn a_leaver_goes_forward_past_a_failed_step() {
    let mut case = case_of(
        "name: t\non_failure: forward\nsteps:\n  - {id: a, uses: x}\n  - {id: b, uses: y, needs: []}\n  - {id: c, uses: z, needs: [b]}\n",
    );
    drive(
        &mut case,
        vec![
            Input::Start,
            finished(0, 0, 1, failed(FailureClass::Permanent)),
        ],
    );
    assert_eq!(case.state, CaseState::Parked);
    let names = drive(
        &mut case,
        vec![
            finished(1, 0, 1, succeeded()),
            finished(2, 0, 1, succeeded()),
        ],
    );
    assert_eq!(names, ["done", "step_planned", "done"]);
}

#[test]
fn after_a_take_over_every_attempt_in_flight_is_read_back() {
    let mut case = all_kinds("forward");
    drive(&mut case, vec![Input::Start]);
    let decision = decide(&mut case, Input::Recovered, now()).unwrap();
    let place = Place::new(StepIndex(0), 0);
    assert_eq!(
        decision.effects,
        [Effect::Attempt {
            place,
            attempt: 2,
            mode: Mode::ReadBack
        }]
    );
    let stale = decide(&mut case, finished(0, 0, 1, succeeded()), now());
    assert_eq!(
        stale,
        Err(Illegal::StaleAttempt {
            attempt: 1,
            current: 2
        })
    );
    let decision = decide(
        &mut case,
        finished(0, 0, 2, AttemptResult::NotApplied),
        now(),
    )
    .unwrap();
    assert_eq!(
        decision.effects,
        [Effect::Attempt {
            place,
            attempt: 3,
            mode: Mode::Do
        }]
    );
}

#[test]
fn a_case_that_ends_before_a_read_back_left_does_not_know_its_effect() {
    let mut case = case_of("name: t\nsteps:\n  - {id: a, uses: x}\n");
    drive(&mut case, vec![Input::Start, Input::Recovered]);
    let cancel = Input::Cancel {
        by: Actor("user:x".into()),
        reason: "no".into(),
    };
    let names = drive(
        &mut case,
        vec![cancel, finished(0, 0, 2, AttemptResult::NotSent)],
    );
    assert_eq!(names, ["ending", "unknown", "closed"]);
}

#[test]
fn what_a_system_accepted_is_not_failed_because_it_cannot_be_asked() {
    let text = "name: t\non_failure: undo\nsteps:\n  - {id: a, uses: x, retry: {attempts: 1}}\n";
    let accepted = || AttemptResult::Accepted {
        handle: "h".into(),
        poll_after_ms: 0,
        proof: Proof::default(),
    };
    for (class, expected) in [
        (FailureClass::Retry, vec!["parked"]),
        (
            FailureClass::Permanent,
            vec!["failed", "ending", "undo_started", "closed"],
        ),
    ] {
        let mut case = case_of(text);
        let begin = vec![Input::Start, finished(0, 0, 1, accepted())];
        drive(&mut case, begin);
        let target = TimerTarget::Instance(Place::new(StepIndex(0), 0));
        let due = Input::TimerDue { target, due: now() };
        drive(&mut case, vec![due]);
        let names = drive(&mut case, vec![finished(0, 0, 2, failed(class))]);
        assert_eq!(names, expected);
    }
}

#[test]
fn an_approval_needs_its_quorum_of_different_people() {
    let mut case = all_kinds("forward");
    drive(
        &mut case,
        vec![Input::Start, finished(0, 0, 1, succeeded())],
    );
    let place = Place::new(StepIndex(2), 0);
    let answer = |by: &str| Input::Answered {
        place,
        by: Actor(by.into()),
        approve: true,
        note: String::new(),
    };
    drive(&mut case, vec![answer("user:a")]);
    assert_eq!(
        decide(&mut case, answer("user:a"), now()),
        Err(Illegal::AlreadyApproved("user:a".into()))
    );
    let names = drive(&mut case, vec![answer("user:b")]);
    assert_eq!(names, ["approved", "done", "step_planned"]);
    let done = Input::TaskDone {
        place: Place::new(StepIndex(4), 0),
        by: Actor("user:c".into()),
        proof: " ".into(),
        output: Value::Null,
    };
    assert_eq!(decide(&mut case, done, now()), Err(Illegal::ProofRequired));
}

#[test]
fn a_preempted_case_waits_only_for_what_has_left() {
    let mut case = all_kinds("undo");
    drive(&mut case, vec![Input::Start]);
    let decision = decide(
        &mut case,
        Input::Preempt {
            by: CaseId(Uuid::nil()),
        },
        now(),
    )
    .unwrap();
    assert!(decision.effects.contains(&Effect::Abort {
        place: Place::new(StepIndex(0), 0),
        attempt: 1
    }));
    assert_eq!(case.state, CaseState::Ending);
    drive(&mut case, vec![finished(0, 0, 1, AttemptResult::NotSent)]);
    assert_eq!(case.state, CaseState::Preempted);
}

/// One random thing that may or may not fit.
pub(super) fn random_input(
    case: &Case,
    choice: u8,
    detail: u8,
    later_ms: i64,
    at: &mut Timestamp,
) -> Input {
    let step = StepIndex(u16::from(detail % 7));
    let count = case
        .step_run(step)
        .map_or(0, |run| run.instances.len())
        .max(1);
    let place = Place::new(
        step,
        u32::try_from(usize::from(detail / 7) % count).unwrap(),
    );
    let attempt = case.instance(place).map_or(1, |instance| instance.attempt);
    let by = Actor(format!("user:{}", detail % 3));
    let result = match choice % 13 {
        0..=2 => succeeded(),
        3 => failed(FailureClass::Permanent),
        4 => failed(FailureClass::Retry),
        5 => failed(FailureClass::SystemAway),
        6 => failed(FailureClass::NotBefore(*at + TimeDelta::seconds(3))),
        7 => AttemptResult::NotApplied,
        8 => AttemptResult::NotSent,
        9 => AttemptResult::AnswerLost {
            reason: "cut".into(),
            proof: Proof::default(),
        },
        10 => AttemptResult::Accepted {
            handle: "h".into(),
            poll_after_ms: 500,
            proof: Proof::default(),
        },
        _ => AttemptResult::NeedsHuman {
            title: "t".into(),
            instructions: String::new(),
            assignee: "ops".into(),
            due_after_ms: 1_000,
            proof_required: detail.is_multiple_of(2),
            output: json!({"account": "a"}),
        },
    };
    *at += TimeDelta::milliseconds(later_ms);
    match choice % 30 {
        0 => Input::Start,
        1..=9 => Input::AttemptFinished {
            place,
            attempt,
            result: Box::new(result),
        },
        10 => Input::Facts {
            step,
            facts: Ok(json!({"identity": {"active": detail.is_multiple_of(2)}})),
        },
        11 => Input::Facts {
            step,
            facts: Err(Failure {
                kind: "x".into(),
                message: "x".into(),
                class: FailureClass::Permanent,
            }),
        },
        12 => Input::Answered {
            place,
            by,
            approve: !detail.is_multiple_of(4),
            note: String::new(),
        },
        13 => Input::TaskDone {
            place,
            by,
            proof: "seen".into(),
            output: Value::Null,
        },
        14 => Input::Signal {
            name: "go".into(),
            by,
            payload: Value::Null,
        },
        15 if detail.is_multiple_of(3) => Input::Reassign {
            place,
            from: "ops".into(),
            to: "role:other".into(),
            by,
            reason: "away".into(),
        },
        15 => Input::Retry {
            place: None,
            step: detail.is_multiple_of(2).then_some(step),
            by,
            reason: String::new(),
        },
        16 => Input::Skip {
            step,
            place: None,
            by,
            reason: "enough".into(),
        },
        17 if detail.is_multiple_of(16) => Input::Cancel {
            by,
            reason: "stop".into(),
        },
        18 if detail.is_multiple_of(16) => Input::Preempt {
            by: CaseId(Uuid::nil()),
        },
        19 => Input::Recovered,
        20 => Input::Pause {
            by,
            reason: "hold on".into(),
        },
        21 | 22 => Input::Resume {
            by,
            reason: "go on".into(),
        },
        23 | 24 => Input::Rerun {
            step,
            by,
            reason: "again".into(),
        },
        25 if detail.is_multiple_of(4) => Input::Undo {
            by,
            reason: "back".into(),
        },
        26 if detail.is_multiple_of(32) => Input::Terminate {
            by,
            reason: "enough".into(),
        },
        27 if detail.is_multiple_of(32) => Input::Supersede { generation: 1 },
        28 if detail.is_multiple_of(4) => Input::Absorb {
            case: CaseId(Uuid::from_u128(9)),
            effective_at: None,
        },
        28 => Input::Merge {
            into: CaseId(Uuid::from_u128(9)),
        },
        _ => {
            let target = match detail % 3 {
                0 => TimerTarget::Case,
                1 => TimerTarget::Step(step),
                _ => TimerTarget::Instance(place),
            };
            let due = match target {
                TimerTarget::Case => case.deadline_at,
                TimerTarget::Step(step) => match case.step_run(step).map(|run| run.state) {
                    Some(StepState::Delayed { due }) => Some(due),
                    _ => None,
                },
                TimerTarget::Instance(place) => {
                    match case.instance(place).map(|instance| &instance.state) {
                        Some(InstanceState::Waiting { due, .. }) => Some(*due),
                        Some(InstanceState::Asking { due, .. }) => *due,
                        _ => None,
                    }
                }
            };
            Input::TimerDue {
                target,
                due: due.unwrap_or(*at),
            }
        }
    }
}

/// Every timer that has to stand, from the state alone.
fn standing(case: &Case) -> std::collections::BTreeSet<(TimerTarget, Timestamp)> {
    let mut timers = std::collections::BTreeSet::new();
    if case.state.is_closed() {
        return timers;
    }
    if let (Some(due), false) = (case.deadline_at, case.deadline_passed) {
        timers.insert((TimerTarget::Case, due));
    }
    if case.paused.is_some() {
        return timers;
    }
    for (step, run) in (0..).map(StepIndex).zip(&case.steps) {
        // A step that waits in a case that ends waits for nothing; its timer is refused and goes.
        if let StepState::Delayed { due } = run.state {
            timers.insert((TimerTarget::Step(step), due));
        }
        for (instance, it) in (0..).zip(&run.instances) {
            let due = match &it.state {
                InstanceState::Waiting { due, .. } => Some(*due),
                InstanceState::Asking { due, .. } => *due,
                _ => None,
            };
            timers.extend(due.map(|due| (TimerTarget::Instance(Place::new(step, instance)), due)));
        }
    }
    timers
}

/// What must hold of every case, whatever happened.
pub(super) fn is_legal(case: &Case) -> Result<(), String> {
    let instances: Vec<&Instance> = case.steps.iter().flat_map(|run| &run.instances).collect();
    let count =
        |wanted: fn(&InstanceState) -> bool| instances.iter().filter(|i| wanted(&i.state)).count();
    let running = count(|state| matches!(state, InstanceState::Running { .. }));
    let planning = case
        .steps
        .iter()
        .filter(|run| run.state == StepState::Planning)
        .count();
    let expect = |what: &str, found: usize, kept: u32| {
        if found == usize::try_from(kept).unwrap() {
            Ok(())
        } else {
            Err(format!("{what}: {found}, kept {kept}"))
        }
    };
    expect("in flight", running + planning, case.in_flight)?;
    let parked = count(|state| matches!(state, InstanceState::Parked { .. }));
    let stuck = case
        .steps
        .iter()
        .filter(|run| run.state == StepState::Stuck)
        .count();
    if !case.state.is_closed() {
        expect("parked", parked + stuck, case.parked)?;
    }
    if case.state.is_closed() && (running + planning + parked > 0 || case.closed_at.is_none()) {
        return Err("closed with work left".into());
    }
    if case.state == CaseState::Succeeded
        && instances.iter().any(|i| i.state != InstanceState::Done)
    {
        return Err("succeeded with something not done".into());
    }
    if case.state == CaseState::Succeeded && case.unverified > 0 {
        return Err("succeeded without proof".into());
    }
    if case.paused.is_some() && case.state.is_closed() {
        return Err("closed and paused".into());
    }
    for run in &case.steps {
        let first = usize::try_from(run.first).unwrap();
        if run.instances[..first]
            .iter()
            .any(|i| !i.state.is_finished() && !i.state.is_undo())
        {
            return Err("an earlier run has work left".into());
        }
    }
    let open = count(|state| !state.is_finished());
    if case.state == CaseState::Running && case.paused.is_none() && case.in_flight == 0 && open == 0
    {
        let waits = case
            .steps
            .iter()
            .any(|run| matches!(run.state, StepState::Delayed { .. }));
        if !waits {
            return Err("running with nothing that could ever happen".into());
        }
    }
    Ok(())
}

/// The end of the pause sets the timer of a step that waits, and closes the case.
#[test]
fn a_timer_that_a_decision_sets_and_needs_no_more_never_stands() {
    let mut case = all_kinds("undo");
    let mut at = now();
    decide(&mut case, Input::Start, at).unwrap();
    let mut last = Decision::default();
    for (choice, detail) in [(44, 0), (20, 0), (250, 34), (3, 63), (171, 0)] {
        let input = random_input(&case, choice, detail, 0, &mut at);
        last = decide(&mut case, input, at).unwrap();
    }
    let resumed = |event: &Event| matches!(event, Event::Resumed { .. });
    assert!(last.events.iter().any(resumed));
    assert_eq!(last.timers_set, []);
    let deadline = (TimerTarget::Case, case.deadline_at.unwrap());
    assert_eq!(last.timers_cleared, [deadline]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_inputs_leaves_a_legal_state_and_replays_the_same(
        policy in 0..3_usize,
        inputs in proptest::collection::vec((any::<u8>(), any::<u8>(), 0..200_000_i64), 1..120),
    ) {
        let on_failure = ["forward", "undo", "park"][policy];
        let mut case = all_kinds(on_failure);
        let mut replayed = case.clone();
        let mut at = now();
        decide(&mut case, Input::Start, at).unwrap();
        for event in decide(&mut replayed.clone(), Input::Start, at).unwrap().events {
            replayed.apply(&event, at);
        }
        replayed.version += 1;
        let mut timers: std::collections::BTreeSet<_> = decide(&mut all_kinds(on_failure), Input::Start, at).unwrap().timers_set.into_iter().collect();
        let mut keys: std::collections::BTreeSet<String> = std::collections::BTreeSet::new();
        for (choice, detail, later_ms) in inputs {
            let before = case.clone();
            let input = random_input(&case, choice, detail, later_ms, &mut at);
            match decide(&mut case, input.clone(), at) {
                Err(_) => prop_assert_eq!(&before, &case, "an illegal input changed the case: {:?}", input),
                Ok(Decision { events, timers_set, timers_cleared, effects, pause_changed, .. }) => {
                    prop_assert_eq!(pause_changed, before.paused.is_some() != case.paused.is_some());
                    if case.paused.is_some() {
                        let starts = effects.iter().any(|effect| match effect {
                            Effect::Attempt { mode, .. } => matches!(mode, Mode::Do | Mode::Undo),
                            Effect::Facts { .. } => input != Input::Recovered,
                            _ => false,
                        });
                        prop_assert!(!starts, "a paused case started something: {:?}", effects);
                    }
                    for event in &events {
                        if let Event::StepPlanned { step, instances } = event {
                            let first = case.steps[usize::from(step.0)].first;
                            for instance in (first..).take(instances.len()) {
                                let key = case.idempotency_key(Place::new(*step, instance), false);
                                prop_assert!(keys.insert(key), "a key was used twice");
                            }
                        }
                    }
                    for event in &events {
                        let stored = serde_json::to_string(event).unwrap();
                        let read: Event = serde_json::from_str(&stored).unwrap();
                        prop_assert_eq!(&read, event);
                        replayed.apply(&read, at);
                    }
                    if !events.is_empty() {
                        replayed.version += 1;
                    }
                    for timer in timers_cleared {
                        if !timers_set.contains(&timer) {
                            prop_assert!(timers.remove(&timer), "cleared a timer that does not stand: {:?}", timer);
                        }
                    }
                    timers.extend(timers_set);
                }
            }
            prop_assert_eq!(&replayed, &case);
            if let Err(what) = is_legal(&case) {
                prop_assert!(false, "{} after {:?}", what, input);
            }
            prop_assert_eq!(&timers, &standing(&case), "after {:?}", input);
        }
    }
}
