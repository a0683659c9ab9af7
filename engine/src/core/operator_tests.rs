//! What people ask of a case, by example.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use super::admission::{Admission, OpenCase, admit, is_free, newest_life, next};
use super::case::*;
use super::decide::{Effect, Illegal, decide};
use super::definition::Lane;
use super::id::{Actor, CaseId, Place, StepIndex};
use super::input::{AttemptResult, Input, TimerTarget};
use super::tests::{all_kinds, case_of, drive, failed, finished, now, succeeded};

const TWO: &str = "name: t\nsteps:\n  - {id: a, uses: x, retry: {attempts: 3, first: 1s}}\n  - {id: b, uses: y}\n";
const JOINER: &str = "name: j\non_failure: undo\nsteps:\n  - {id: a, uses: x, for_each: input.items, undo: {uses: ux}}\n  - {id: b, uses: y, undo: {uses: uy}}\n";
const LEAVER: &str = "name: l\non_failure: forward\nsteps:\n  - {id: a, uses: x}\n  - {id: later, uses: y, after: 30d}\n";

fn by() -> Actor {
    Actor("user:op".into())
}

fn pause() -> Input {
    Input::Pause {
        by: by(),
        reason: "the system is being moved".into(),
    }
}

fn resume() -> Input {
    Input::Resume {
        by: by(),
        reason: "moved".into(),
    }
}

fn rerun(step: u16) -> Input {
    Input::Rerun {
        step: StepIndex(step),
        by: by(),
        reason: "the list was wrong".into(),
    }
}

fn undo() -> Input {
    Input::Undo {
        by: by(),
        reason: "not this person".into(),
    }
}

fn terminate() -> Input {
    Input::Terminate {
        by: by(),
        reason: "it never comes back".into(),
    }
}

fn place(step: u16, instance: u32) -> Place {
    Place::new(StepIndex(step), instance)
}

/// Every input a person can send, each with a reason where one is needed.
fn asked() -> Vec<Input> {
    vec![
        pause(),
        resume(),
        rerun(0),
        undo(),
        terminate(),
        Input::Retry {
            place: None,
            step: None,
            by: by(),
            reason: String::new(),
        },
        Input::Skip {
            step: StepIndex(0),
            place: None,
            by: by(),
            reason: "r".into(),
        },
        Input::Cancel {
            by: by(),
            reason: "r".into(),
        },
        Input::Preempt {
            by: CaseId(uuid::Uuid::nil()),
        },
        Input::Supersede { generation: 1 },
    ]
}

/// The names of the inputs that a case takes, in the order of [`asked`].
fn takes(case: &Case) -> Vec<&'static str> {
    asked()
        .into_iter()
        .filter(|input| decide(&mut case.clone(), input.clone(), now()).is_ok())
        .map(|input| input.name())
        .collect()
}

#[test]
fn each_state_takes_what_the_table_says() {
    let queued = case_of(JOINER);
    assert_eq!(
        takes(&queued),
        ["pause", "terminate", "cancel", "preempt", "supersede"]
    );

    let mut running = case_of(TWO);
    drive(
        &mut running,
        vec![Input::Start, finished(0, 0, 1, failed(FailureClass::Retry))],
    );
    assert_eq!(
        takes(&running),
        [
            "pause",
            "rerun",
            "undo",
            "terminate",
            "skip",
            "cancel",
            "preempt",
            "supersede"
        ]
    );
    drive(&mut running, vec![pause()]);
    assert_eq!(
        takes(&running),
        [
            "resume",
            "terminate",
            "skip",
            "cancel",
            "preempt",
            "supersede"
        ]
    );

    let mut parked = case_of(TWO);
    drive(
        &mut parked,
        vec![
            Input::Start,
            finished(0, 0, 1, failed(FailureClass::Permanent)),
        ],
    );
    assert_eq!(
        takes(&parked),
        [
            "pause",
            "rerun",
            "undo",
            "terminate",
            "retry",
            "skip",
            "cancel",
            "preempt",
            "supersede"
        ]
    );

    let mut undoing = case_of(JOINER);
    drive(&mut undoing, vec![Input::Start]);
    drive(
        &mut undoing,
        (0..3).map(|i| finished(0, i, 1, succeeded())).collect(),
    );
    drive(
        &mut undoing,
        vec![
            finished(1, 0, 1, failed(FailureClass::Permanent)),
            finished(0, 0, 2, failed(FailureClass::Permanent)),
        ],
    );
    assert_eq!(undoing.state, CaseState::Undoing);
    assert_eq!(
        takes(&undoing),
        [
            "pause",
            "terminate",
            "retry",
            "skip",
            "preempt",
            "supersede"
        ]
    );

    let mut ending = case_of(TWO);
    let cancel = Input::Cancel {
        by: by(),
        reason: "r".into(),
    };
    drive(&mut ending, vec![Input::Start, cancel]);
    assert_eq!(ending.state, CaseState::Ending);
    assert_eq!(takes(&ending), ["terminate"]);

    drive(&mut ending, vec![terminate()]);
    assert_eq!(ending.state, CaseState::Cancelled);
    assert_eq!(takes(&ending), Vec::<&str>::new());
}

#[test]
fn a_reason_is_needed_for_all_that_changes_a_cases_way() {
    let mut case = case_of(TWO);
    drive(
        &mut case,
        vec![Input::Start, finished(0, 0, 1, failed(FailureClass::Retry))],
    );
    let (by, reason) = (by(), " ".to_owned());
    for input in [
        Input::Pause {
            by: by.clone(),
            reason: reason.clone(),
        },
        Input::Rerun {
            step: StepIndex(0),
            by: by.clone(),
            reason: reason.clone(),
        },
        Input::Undo {
            by: by.clone(),
            reason: reason.clone(),
        },
        Input::Terminate { by, reason },
    ] {
        let name = input.name();
        assert_eq!(
            decide(&mut case, input, now()),
            Err(Illegal::ReasonRequired),
            "{name}"
        );
    }
}

#[test]
fn a_paused_case_records_what_comes_back_and_starts_nothing() {
    let mut case = case_of(TWO);
    drive(&mut case, vec![Input::Start]);
    let decision = decide(&mut case, pause(), now()).unwrap();
    let abort = Effect::Abort {
        place: place(0, 0),
        attempt: 1,
    };
    assert_eq!(
        decision.effects,
        [abort],
        "what waits in a queue is taken out"
    );
    let names = drive(&mut case, vec![finished(0, 0, 1, succeeded())]);
    assert_eq!(names, ["done"]);
    assert_eq!(case.steps[1].state, StepState::Pending);
    let names = drive(&mut case, vec![resume()]);
    assert_eq!(names, ["resumed", "step_planned"]);
}

#[test]
fn a_timer_that_comes_due_while_paused_acts_at_resume() {
    let mut case = case_of(LEAVER);
    drive(
        &mut case,
        vec![Input::Start, finished(0, 0, 1, succeeded())],
    );
    let StepState::Delayed { due } = case.steps[1].state else {
        panic!("not delayed")
    };
    let target = TimerTarget::Step(StepIndex(1));
    let decision = decide(&mut case, pause(), now()).unwrap();
    assert_eq!(decision.timers_cleared, [(target, due)]);
    assert_eq!(
        decide(&mut case, Input::TimerDue { target, due }, due),
        Err(Illegal::StaleTimer)
    );
    let decision = decide(&mut case, resume(), due).unwrap();
    assert_eq!(decision.timers_set, [(target, due)], "due at once");
    let decision = decide(&mut case, Input::TimerDue { target, due }, due).unwrap();
    assert_eq!(decision.effects.len(), 1);
}

#[test]
fn an_attempt_that_did_not_leave_is_made_after_resume() {
    let mut case = case_of(TWO);
    drive(
        &mut case,
        vec![
            Input::Start,
            pause(),
            finished(0, 0, 1, AttemptResult::NotSent),
        ],
    );
    assert_eq!(case.in_flight, 0);
    let decision = decide(&mut case, resume(), now()).unwrap();
    let (target, due) = decision.timers_set[0];
    let decision = decide(&mut case, Input::TimerDue { target, due }, now()).unwrap();
    let attempt = Effect::Attempt {
        place: place(0, 0),
        attempt: 2,
        mode: Mode::Do,
    };
    assert_eq!(decision.effects, [attempt]);
}

#[test]
fn a_paused_undo_goes_on_at_resume() {
    let mut case = case_of(JOINER);
    drive(&mut case, vec![Input::Start]);
    drive(
        &mut case,
        (0..3).map(|i| finished(0, i, 1, succeeded())).collect(),
    );
    drive(
        &mut case,
        vec![pause(), finished(1, 0, 1, failed(FailureClass::Permanent))],
    );
    assert_eq!(case.state, CaseState::Undoing);
    let decision = decide(&mut case, resume(), now()).unwrap();
    assert_eq!(decision.effects.len(), 3);
}

#[test]
fn a_paused_case_in_the_queue_lets_others_go_first() {
    let open = |number: u128, state, paused| OpenCase {
        id: CaseId(uuid::Uuid::from_u128(number)),
        workflow: "t".into(),
        state,
        lane: Lane::Normal,
        generation: 1,
        created_at: now(),
        paused,
    };
    let held = open(1, CaseState::Queued, true);
    let other = open(2, CaseState::Queued, false);
    assert_eq!(next(&[held.clone(), other.clone()]), Some(other.id));
    assert_eq!(next(std::slice::from_ref(&held)), None);
    assert!(is_free(std::slice::from_ref(&held)));
    assert!(!is_free(&[held, other]));
    let running = open(3, CaseState::Running, true);
    assert!(!is_free(&[running]));

    let mut case = case_of(TWO);
    drive(&mut case, vec![pause()]);
    assert_eq!(decide(&mut case, Input::Start, now()), Err(Illegal::Paused));
    drive(&mut case, vec![resume(), Input::Start]);
    assert_eq!(case.state, CaseState::Running);
}

#[test]
fn a_step_that_runs_again_has_new_keys_and_an_undo_takes_both_back() {
    let mut case = case_of(JOINER);
    drive(&mut case, vec![Input::Start]);
    drive(
        &mut case,
        (0..3).map(|i| finished(0, i, 1, succeeded())).collect(),
    );
    assert_eq!(
        decide(&mut case, rerun(0), now()),
        Err(Illegal::InFlight("b".into()))
    );
    // A task asks in its place, so that nothing is in flight.
    let text = JOINER.replace(
        "uses: y, undo: {uses: uy}",
        "uses: task, with: {assignee: x, title: t, timeout: 1h}",
    );
    let mut case = case_of(&text);
    drive(&mut case, vec![Input::Start]);
    drive(
        &mut case,
        (0..3).map(|i| finished(0, i, 1, succeeded())).collect(),
    );
    let names = drive(&mut case, vec![rerun(0)]);
    assert_eq!(
        names,
        ["step_rerun", "cancelled", "step_rerun", "step_planned"]
    );
    assert_eq!((case.steps[0].first, case.steps[0].instances.len()), (3, 6));
    assert_eq!(case.steps[1].state, StepState::Pending);
    assert_ne!(
        case.idempotency_key(place(0, 0), false),
        case.idempotency_key(place(0, 3), false)
    );
    drive(
        &mut case,
        (3..6).map(|i| finished(0, i, 1, succeeded())).collect(),
    );
    assert_eq!(case.steps[1].state, StepState::Open);
    let decision = decide(&mut case, undo(), now()).unwrap();
    assert_eq!(decision.effects.len(), 6, "both runs are taken back");
}

#[test]
fn a_step_that_has_not_begun_is_not_run_again() {
    let mut case = case_of(LEAVER);
    drive(&mut case, vec![Input::Start]);
    assert_eq!(
        decide(&mut case, rerun(1), now()),
        Err(Illegal::NotBegun("later".into()))
    );
    assert_eq!(
        decide(&mut case, rerun(9), now()),
        Err(Illegal::NoSuchPlace)
    );
}

#[test]
fn a_leaver_is_never_undone() {
    let mut case = case_of(LEAVER);
    drive(&mut case, vec![Input::Start]);
    assert_eq!(decide(&mut case, undo(), now()), Err(Illegal::NeverUndone));
}

#[test]
fn an_end_by_force_waits_for_nothing() {
    let mut case = case_of(
        "name: t\nsteps:\n  - {id: a, uses: x}\n  - {id: b, uses: y, needs: []}\n  - {id: c, uses: z, needs: [], if: identity.active}\n",
    );
    drive(
        &mut case,
        vec![
            Input::Start,
            finished(1, 0, 1, failed(FailureClass::Permanent)),
        ],
    );
    assert_eq!(case.steps[2].state, StepState::Planning);
    let decision = decide(&mut case, terminate(), now()).unwrap();
    assert_eq!(case.state, CaseState::Cancelled);
    assert_eq!(case.steps[0].instances[0].state, InstanceState::Unknown);
    assert_eq!(case.steps[1].instances[0].state, InstanceState::Cancelled);
    assert_eq!(decision.outcomes, [place(0, 0)], "the directory is told");
    assert!(matches!(
        decide(&mut case, finished(0, 0, 1, succeeded()), now()),
        Err(Illegal::State(CaseState::Cancelled, _))
    ));
}

#[test]
fn a_case_that_undoes_makes_way_and_keeps_what_is_still_there() {
    let mut case = case_of(JOINER);
    drive(&mut case, vec![Input::Start]);
    drive(
        &mut case,
        (0..3).map(|i| finished(0, i, 1, succeeded())).collect(),
    );
    drive(
        &mut case,
        vec![
            finished(1, 0, 1, failed(FailureClass::Permanent)),
            finished(0, 0, 2, failed(FailureClass::Permanent)),
            finished(0, 1, 2, succeeded()),
            Input::Preempt {
                by: CaseId(uuid::Uuid::nil()),
            },
        ],
    );
    assert_eq!(case.state, CaseState::Ending);
    drive(&mut case, vec![finished(0, 2, 2, AttemptResult::NotSent)]);
    assert_eq!(case.state, CaseState::Preempted);
    let states: Vec<_> = case.steps[0]
        .instances
        .iter()
        .map(|instance| instance.state.as_str())
        .collect();
    assert_eq!(states, ["done", "undone", "done"]);
}

#[test]
fn a_new_case_meets_open_ones_by_the_rules_of_its_workflow() {
    let text = "name: t\nconflicts:\n  - {with: t, then: merge}\n  - {with: low, then: preempt}\n  - {with: audit, then: reject}\nsteps:\n  - {id: a, uses: x, after: 1h}\n  - {id: b, uses: y}\n";
    let definition = case_of(text).definition;
    let open = |number: u128, workflow: &str, state| OpenCase {
        id: CaseId(uuid::Uuid::from_u128(number)),
        workflow: workflow.into(),
        state,
        lane: Lane::Normal,
        generation: 1,
        created_at: now() + chrono::TimeDelta::seconds(i64::try_from(number).unwrap()),
        paused: false,
    };
    let (running, first, last) = (
        open(3, "t", CaseState::Running),
        open(1, "t", CaseState::Queued),
        open(2, "t", CaseState::Queued),
    );
    let low = open(4, "low", CaseState::Running);
    let ids = |cases: &[&OpenCase]| cases.iter().map(|case| case.id).collect::<Vec<_>>();
    let all = [running.clone(), first.clone(), last.clone(), low.clone()];
    let entered = |supersede: &[&OpenCase], preempt: &[&OpenCase], merge: &[&OpenCase]| {
        let (supersede, preempt, merge) = (ids(supersede), ids(preempt), ids(merge));
        Admission::Enter {
            supersede,
            preempt,
            merge,
        }
    };
    assert_eq!(
        admit(&definition, 1, 1, &all),
        entered(&[], &[&low], &[&last, &first, &running])
    );
    let audit = open(5, "audit", CaseState::Parked);
    let beside = [low.clone(), audit.clone()];
    let refused = Admission::Reject {
        id: audit.id,
        workflow: "audit".into(),
    };
    assert_eq!(admit(&definition, 1, 1, &beside), refused);
    // As long as it is open, also while it is ending.
    let ending = open(5, "audit", CaseState::Ending);
    assert_eq!(admit(&definition, 1, 1, &[ending]), refused);
    // No rule is asked about another life.
    assert_eq!(newest_life(0, &[]), 1);
    assert_eq!(newest_life(0, &beside), 1);
    assert_eq!(newest_life(3, &beside), 3);
    assert_eq!(
        admit(
            &definition,
            2,
            1,
            &[audit.clone(), low.clone(), last.clone()]
        ),
        entered(&[&audit, &low, &last], &[], &[])
    );
    assert_eq!(admit(&definition, 1, 2, &beside), Admission::Late);
    let uncounted = OpenCase {
        generation: 0,
        ..low.clone()
    };
    assert_eq!(
        admit(&definition, 1, 1, &[uncounted]),
        entered(&[], &[&low], &[])
    );
}

#[test]
fn a_case_that_has_not_begun_takes_another_in_and_one_that_has_does_not() {
    let absorb_at = |effective_at| Input::Absorb {
        case: CaseId(uuid::Uuid::from_u128(9)),
        effective_at,
    };
    let absorb = || absorb_at(None);
    let mut waits =
        case_of("name: t\nsteps:\n  - {id: a, uses: x, after: 1h}\n  - {id: b, uses: y}\n");
    assert_eq!(drive(&mut waits, vec![absorb()]), ["absorbed"]);
    drive(&mut waits, vec![Input::Start]);
    assert_eq!(drive(&mut waits, vec![absorb()]), ["absorbed"]);
    // What takes effect later, or what this one would put off, is not its work.
    let second = chrono::TimeDelta::seconds(1);
    let (past, later) = (now() - second, now() + second);
    assert_eq!(drive(&mut waits, vec![absorb_at(Some(past))]), ["absorbed"]);
    let other_time = Err(Illegal::OtherTime);
    assert_eq!(
        decide(&mut waits, absorb_at(Some(later)), now()),
        other_time
    );
    waits.effective_at = Some(later);
    assert_eq!(decide(&mut waits, absorb(), now()), other_time);
    assert_eq!(
        drive(&mut waits, vec![absorb_at(Some(later))]),
        ["absorbed"]
    );
    // Somebody holds it, and not the other.
    drive(&mut waits, vec![pause()]);
    assert_eq!(
        decide(&mut waits, absorb_at(Some(later)), now()),
        Err(Illegal::Paused)
    );
    let mut begun = case_of(TWO);
    drive(&mut begun, vec![Input::Start]);
    assert_eq!(decide(&mut begun, absorb(), now()), Err(Illegal::Begun));
    let into = CaseId(uuid::Uuid::from_u128(9));
    assert!(decide(&mut begun, Input::Merge { into }, now()).is_err());
    let mut merged = case_of(TWO);
    assert_eq!(
        drive(&mut merged, vec![Input::Merge { into }]),
        ["merged_into", "closed"]
    );
    assert_eq!(merged.state, CaseState::Merged);
}

#[test]
fn only_a_case_of_an_earlier_life_is_superseded() {
    let mut case = case_of(LEAVER);
    drive(
        &mut case,
        vec![Input::Start, finished(0, 0, 1, succeeded())],
    );
    let same = decide(&mut case, Input::Supersede { generation: 0 }, now());
    assert_eq!(
        same,
        Err(Illegal::OfEarlierLife {
            case: 0,
            subject: 0
        })
    );
    let decision = decide(&mut case, Input::Supersede { generation: 1 }, now()).unwrap();
    assert_eq!(case.state, CaseState::Superseded);
    assert_eq!(decision.timers_set, [], "its delayed step never fires");
}

/// Found by simulation: a leaver waited for the whole undo of a joiner, and for a person when that undo parked.
#[test]
fn a_case_that_is_about_to_undo_makes_way_too() {
    let text = "name: t\non_failure: undo\nsteps:\n  - {id: a, uses: x, undo: {uses: y}}\n  - {id: b, uses: x, needs: [a]}\n  - {id: c, uses: x, needs: [a]}\n";
    for input in [
        Input::Preempt {
            by: CaseId(uuid::Uuid::from_u128(9)),
        },
        Input::Supersede { generation: 1 },
    ] {
        let mut case = case_of(text);
        drive(
            &mut case,
            vec![
                Input::Start,
                finished(0, 0, 1, succeeded()),
                finished(1, 0, 1, failed(FailureClass::Permanent)),
            ],
        );
        assert_eq!(
            (case.state, case.ending),
            (CaseState::Ending, Some(Ending::Undoing))
        );
        drive(&mut case, vec![input.clone()]);
        assert_eq!(case.state, CaseState::Ending, "an attempt is out");
        assert!(decide(&mut case, input, now()).is_err(), "once is enough");
        drive(&mut case, vec![finished(2, 0, 1, succeeded())]);
        assert!(case.state.is_closed());
        assert_eq!(case.steps[0].instances[0].state, InstanceState::Done);
    }
}

/// What waits for a moment is tried at once when its step is named, and never otherwise.
#[test]
fn a_step_that_is_named_need_not_wait_for_its_moment() {
    let retry = |step: Option<u16>| Input::Retry {
        place: None,
        step: step.map(StepIndex),
        by: by(),
        reason: String::new(),
    };
    let later = now() + chrono::TimeDelta::days(1);
    for class in [FailureClass::Retry, FailureClass::NotBefore(later)] {
        let mut case = case_of(TWO);
        drive(
            &mut case,
            vec![Input::Start, finished(0, 0, 1, failed(class))],
        );
        let refused = decide(&mut case, retry(None), now());
        assert_eq!(refused, Err(Illegal::NothingParked));
        let refused = decide(&mut case, retry(Some(1)), now());
        assert_eq!(refused, Err(Illegal::NothingParked));
        let decision = decide(&mut case, retry(Some(0)), now()).unwrap();
        assert_eq!(decision.timers_cleared.len(), 1, "its moment is gone");
        assert!(decision.timers_set.is_empty());
        let attempt = Effect::Attempt {
            place: place(0, 0),
            attempt: 2,
            mode: Mode::Do,
        };
        assert!(decision.effects.contains(&attempt));
    }
    // What may have had its effect is read back when that can be seen, not before.
    let mut case = case_of(TWO);
    let lost = AttemptResult::AnswerLost {
        reason: "lost".into(),
        proof: super::proof::Proof::default(),
    };
    drive(&mut case, vec![Input::Start, finished(0, 0, 1, lost)]);
    let refused = decide(&mut case, retry(Some(0)), now());
    assert_eq!(refused, Err(Illegal::NothingParked));
}

#[test]
fn a_question_goes_to_somebody_else_and_keeps_who_approved() {
    let mut case = all_kinds("forward");
    drive(
        &mut case,
        vec![Input::Start, finished(0, 0, 1, succeeded())],
    );
    let asked = |case: &Case, step: u16| {
        let place = Place::new(StepIndex(step), 0);
        match &case.instance(place).unwrap().state {
            InstanceState::Asking {
                ask: Ask::Approval { ask, .. },
                due,
                approvals,
            } => (ask.clone(), due.is_some(), approvals.len()),
            InstanceState::Asking {
                ask: Ask::Task { assignee, .. },
                due,
                ..
            } => (vec![assignee.clone()], due.is_some(), 0),
            other => panic!("{other:?}"),
        }
    };
    let place = Place::new(StepIndex(2), 0);
    let reassign = |place: Place, from: &str, to: &str, reason: &str| Input::Reassign {
        place,
        from: from.into(),
        to: to.into(),
        by: Actor("user:op".into()),
        reason: reason.into(),
    };
    drive(
        &mut case,
        vec![Input::Answered {
            place,
            by: Actor("user:a".into()),
            approve: true,
            note: String::new(),
        }],
    );
    let (before, had_due, _) = asked(&case, 2);
    let first = before[0].clone();
    let names = drive(
        &mut case,
        vec![reassign(place, &first, "person:x", "leaves")],
    );
    assert_eq!(names, ["reassigned"]);
    let (after, has_due, approvals) = asked(&case, 2);
    assert_eq!(after[0], "person:x");
    assert_eq!(after.len(), before.len());
    assert_eq!(
        (has_due, approvals),
        (had_due, 1),
        "the time and the answers stay"
    );
    for (input, illegal) in [
        (
            reassign(place, &first, "person:y", "leaves"),
            Illegal::NotPutTo(first.clone()),
        ),
        (
            reassign(place, "person:x", "person:y", " "),
            Illegal::ReasonRequired,
        ),
        (
            reassign(Place::new(StepIndex(0), 0), "person:x", "person:y", "r"),
            Illegal::NotAsking,
        ),
    ] {
        assert_eq!(decide(&mut case, input, now()), Err(illegal));
    }
    let second = Input::Answered {
        place,
        by: Actor("user:b".into()),
        approve: true,
        note: String::new(),
    };
    drive(&mut case, vec![second]);
    let task = Place::new(StepIndex(4), 0);
    let (who, ..) = asked(&case, 4);
    drive(
        &mut case,
        vec![reassign(task, &who[0], "role:other", "away")],
    );
    assert_eq!(asked(&case, 4).0, ["role:other"]);
}

/// Of several questions each no counts for its own item, whether somebody says it or nobody says anything.
#[test]
fn a_no_may_be_an_answer_that_what_follows_reads() {
    let text = "name: t\nsteps:\n  - {id: ask, uses: approval, for_each: input.items, with: {ask: [manager], timeout: 1d, on_timeout: reject, on_reject: continue}}\n  - {id: take, uses: x, for_each: 'steps.ask.outputs.filter(o, !o.approved).map(o, o.item)'}\n";
    let mut case = case_of(text);
    drive(&mut case, vec![Input::Start]);
    let answer = |instance: u32, approve: bool| Input::Answered {
        place: place(0, instance),
        by: by(),
        approve,
        note: String::new(),
    };
    drive(&mut case, vec![answer(0, true), answer(1, false)]);
    let due = now() + chrono::TimeDelta::days(1);
    let silence = Input::TimerDue {
        target: TimerTarget::Instance(place(0, 2)),
        due,
    };
    drive(&mut case, vec![silence]);
    let taken: Vec<String> = case
        .places(StepIndex(1))
        .map(|place| case.instance(place).unwrap().item.to_string())
        .collect();
    assert_eq!(taken, ["\"b\"", "\"c\""]);
}
