//! What a question says, and who may answer it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use serde_json::json;

use super::case::{Ask, CaseState, InstanceState};
use super::decide::{Illegal, decide};
use super::definition::Definition;
use super::id::{Actor, Place, StepIndex};
use super::input::Input;
use super::tests::{case_of, drive, now};

#[test]
fn whoever_asked_does_not_approve_and_a_question_says_what_it_is_about() {
    let mut case = case_of(
        "
name: two
on_failure: undo
steps:
  - id: ask
    uses: approval
    with:
      ask: ['${{ input.items }}', 'role:${{ case.workflow }}', owner]
      question: 'for ${{ case.subject }}?'
      four_eyes: true
      timeout: 1h
",
    );
    case.initiator = Actor("user:a".into());
    drive(&mut case, vec![Input::Start]);
    let place = Place::new(StepIndex(0), 0);
    let InstanceState::Asking { ask, .. } = &case.instance(place).unwrap().state else {
        panic!("nothing is asked");
    };
    let expected = Ask::Approval {
        ask: ["a", "b", "c", "role:two", "owner"]
            .map(String::from)
            .into(),
        quorum: 1,
        question: Some("for ada?".into()),
        four_eyes: true,
    };
    assert_eq!(*ask, expected);
    let answer = |by: &str, approve| Input::Answered {
        place,
        by: Actor(by.into()),
        approve,
        note: String::new(),
    };
    assert_eq!(
        decide(&mut case, answer("user:a", true), now()),
        Err(Illegal::OwnRequest("user:a".into()))
    );
    let mut other = case.clone();
    drive(&mut other, vec![answer("user:b", true)]);
    assert_eq!(other.state, CaseState::Succeeded);
    // What one asked for oneself one may take back.
    drive(&mut case, vec![answer("user:a", false)]);
    assert!(case.state.is_closed() && case.state != CaseState::Succeeded);
    // Rows from before know nothing of it.
    let old = json!({ "kind": "approval", "ask": ["owner"], "quorum": 1, "question": null });
    let old: Ask = serde_json::from_value(old).unwrap();
    assert!(matches!(
        old,
        Ask::Approval {
            four_eyes: false,
            ..
        }
    ));
}

#[test]
fn a_question_reads_no_facts() {
    let text = "
name: t
steps:
  - {id: ask, uses: approval, with: {ask: ['${{ identity.manager }}'], timeout: 1h}}
";
    let error = Definition::parse("t.yaml", text, &["identity"], &|_| true).unwrap_err();
    assert!(
        error.to_string().contains("reads facts in what it asks"),
        "{error}"
    );
}
