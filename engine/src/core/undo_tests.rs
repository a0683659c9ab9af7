//! What is taken back, by example.

#![allow(clippy::indexing_slicing, reason = "tests")]

use serde_json::Value;

use super::case::*;
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
