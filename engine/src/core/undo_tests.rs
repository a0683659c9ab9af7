//! What is taken back, by example.

#![allow(clippy::indexing_slicing, reason = "tests")]

use serde_json::Value;

use super::case::*;
use super::id::Actor;
use super::input::{AttemptResult, Input};
use super::proof::Proof;
use super::tests::{case_of, drive, failed, finished, succeeded};

/// Found by simulation: a system that says an effect is gone, and still has it.
#[test]
fn an_undo_that_nobody_could_see_leaves_the_case_incomplete() {
    let mut case = case_of(
        "name: t\non_failure: undo\nsteps:\n  - {id: a, uses: x, undo: {uses: ux}}\n  - {id: b, uses: y}\n",
    );
    let unseen = AttemptResult::Succeeded {
        output: Value::Null,
        verification: Verification::Unverified {
            reason: "said to be done, and is not".into(),
        },
        proof: Proof::default(),
    };
    drive(
        &mut case,
        vec![
            Input::Start,
            finished(0, 0, 1, succeeded()),
            finished(1, 0, 1, failed(FailureClass::Permanent)),
            finished(0, 0, 2, unseen),
        ],
    );
    assert_eq!(case.state, CaseState::Incomplete);
    assert_eq!(case.steps[0].instances[0].state, InstanceState::Unknown);
}

/// Past the point where nobody goes back by themselves: retries that run out wait for a person, who may still take it back.
#[test]
fn a_step_that_parks_is_not_taken_back_by_itself() {
    let text = |parks: &str| {
        format!(
            "name: t\non_failure: undo\nsteps:\n  - {{id: a, uses: x, undo: {{uses: ux}}}}\n  - {{id: b, uses: y, retry: {{attempts: \
             1}}{parks}}}\n"
        )
    };
    for (parks, class, state) in [
        ("", FailureClass::Retry, CaseState::Undoing),
        ("", FailureClass::Permanent, CaseState::Undoing),
        (", on_failure: park", FailureClass::Retry, CaseState::Parked),
        (
            ", on_failure: park",
            FailureClass::Permanent,
            CaseState::Parked,
        ),
    ] {
        let mut case = case_of(&text(parks));
        drive(
            &mut case,
            vec![
                Input::Start,
                finished(0, 0, 1, succeeded()),
                finished(1, 0, 1, failed(class)),
            ],
        );
        assert_eq!(case.state, state, "{parks} {class:?}");
    }
    let mut case = case_of(&text(", if: steps.a.none, on_failure: park"));
    drive(
        &mut case,
        vec![Input::Start, finished(0, 0, 1, succeeded())],
    );
    assert_eq!(case.state, CaseState::Parked, "it cannot be planned");
    drive(
        &mut case,
        vec![Input::Undo {
            by: Actor("user:ann".into()),
            reason: "back".to_owned(),
        }],
    );
    assert_eq!(case.state, CaseState::Undoing);
}
