//! Random lives of cases, taken apart after every transition and put together again from the rows alone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use chrono::TimeDelta;
use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::core::case::{Ask, CaseState, FailureClass, NewCase};
use crate::core::decide::{Decision, Row, decide};
use crate::core::event::Event;
use crate::core::id::{Actor, CaseId, ShardId, Subject};
use crate::core::input::{AttemptResult, Input, Migrate, TimerTarget};
use crate::core::migration::Mapping;
use crate::core::proof::Proof;

/// Fan-out, undo, an approval between, a delay, a signal two steps wait for.
const UNDO: &str = r#"
name: undoes
on_failure: undo
deadline: { after: 1d, escalate_to: "role:security" }
steps:
  - id: create
    uses: make
    for_each: input.accounts
    with: { name: "${{ item.name }}" }
    undo: { uses: unmake, with: { id: "${{ output.id }}" } }
    retry: { first: 2s, factor: 2, max: 5m, attempts: 3 }
  - id: agree
    uses: approval
    with: { ask: [owner, manager], quorum: 2, timeout: 4h, on_timeout: park }
  - id: hand_over
    uses: make
    after: 2h
    undo: { uses: unmake }
  - id: first_word
    uses: wait_for
    needs: [hand_over]
    with: { signal: word, timeout: 1h, on_timeout: continue }
  - id: second_word
    uses: wait_for
    needs: [hand_over]
    with: { signal: word, timeout: 2h }
  - id: last
    uses: make
    needs: [first_word, second_word]
"#;

/// Facts, a condition, a time, an empty list, work by hand; goes forward past what failed.
const FORWARD: &str = r#"
name: goes_forward
on_failure: forward
deadline: { after: 1h }
steps:
  - id: look
    uses: make
    for_each: identity.accounts
  - id: never
    uses: make
    needs: []
    if: input.accounts.size() > 99
  - id: nothing
    uses: make
    needs: [never]
    for_each: input.none
  - id: by_hand
    uses: task
    needs: []
    with: { assignee: owner, title: Do it, timeout: 1h, proof_required: true }
  - id: at_noon
    uses: make
    needs: [by_hand]
    at: input.noon
  - id: with_facts
    uses: make
    needs: [look]
    with: { all: "${{ identity.accounts }}" }
"#;

/// Another version of `UNDO`: a step more, others named and ordered otherwise.
const UNDO_LATER: &str = r#"
name: undoes
on_failure: undo
deadline: { after: 2d }
steps:
  - id: first_word
    uses: wait_for
    needs: [pass_on]
    with: { signal: word, timeout: 1h, on_timeout: continue }
  - id: create
    uses: make
    needs: []
    for_each: input.accounts
    with: { name: "${{ item.name }}" }
    undo: { uses: unmake, with: { id: "${{ output.id }}" } }
    retry: { first: 2s, factor: 2, max: 5m, attempts: 3 }
  - id: look
    uses: make
    needs: [create]
  - id: agree
    uses: approval
    needs: [look]
    with: { ask: [owner, manager], quorum: 2, timeout: 4h, on_timeout: park }
  - id: pass_on
    uses: make
    after: 2h
    undo: { uses: unmake }
  - id: second_word
    uses: wait_for
    needs: [pass_on]
    with: { signal: word, timeout: 2h }
"#;

/// Stops at the first failure.
const PARK: &str = r#"
name: parks
steps:
  - id: one
    uses: make
    for_each: input.accounts
    retry: { attempts: 1 }
  - id: two
    uses: approval
    with: { ask: [owner], timeout: 1h, on_timeout: approve }
  - id: three
    uses: make
    needs: []
"#;

static DEFINITIONS: LazyLock<Vec<Arc<Definition>>> = LazyLock::new(|| {
    let parse = |text: &&str| Definition::parse("test.yaml", text, &["identity"], &|_| true);
    [UNDO, FORWARD, PARK, UNDO_LATER]
        .iter()
        .map(|text| Arc::new(parse(text).unwrap()))
        .collect()
});

fn start() -> Timestamp {
    "2026-03-01T12:00:00.123456Z".parse().unwrap()
}

fn new_case(definition: &Arc<Definition>) -> Case {
    let input = json!({"accounts": [{"name": "a"}, {"name": "b\u{1f600}\""}, {"name": "c"}],
        "none": [], "noon": "2026-03-01T13:00:00.5Z", "share": 0.1});
    Case::new(NewCase {
        id: CaseId(Uuid::from_u128(7)),
        shard: ShardId(3),
        subject: Subject("MMK1532".to_owned()),
        definition: Arc::clone(definition),
        generation: 2,
        input: Arc::new(input),
        salt: [9; 16],
        initiator: Actor("source:hr".to_owned()),
        effective_at: Some(start()),
        received_at: start(),
        created_at: start(),
    })
}

/// What a database would hold after the transitions so far.
struct Kept {
    head: HeadRow,
    state: StateRow,
    steps: BTreeMap<(u16, Option<u32>), StepRow>,
    /// The transition before this one wrote every row anew.
    rebuilt: bool,
}

impl Kept {
    fn new(case: &Case) -> Self {
        let state = state_row(case, None, start());
        Self {
            head: head_row(case),
            state,
            steps: BTreeMap::new(),
            rebuilt: false,
        }
    }

    fn write(&mut self, case: &Case, decision: &Decision, now: Timestamp) {
        let from = self.state.version;
        let migrated = |event: &Event| matches!(event, Event::Migrated { .. });
        if decision.events.iter().any(migrated) {
            self.steps.clear();
            self.head.definition = case.definition.hash.clone();
            self.rebuilt = true;
        } else {
            self.rebuilt = false;
        }
        self.state = state_row(case, Some(from), now);
        for row in &decision.rows {
            let row = step_row(case, *row, now).unwrap();
            let key = (row.step, row.instance);
            let planned_now = row.planned_version.map(|planned| planned >= from);
            let is_new = !self.steps.contains_key(&key);
            if decision
                .rows
                .iter()
                .filter(|other| **other == row_of(key))
                .count()
                == 1
                && !self.rebuilt
                && let Some(planned_now) = planned_now
            {
                assert_eq!(
                    planned_now, is_new,
                    "{row:?}: whether there is a row is foretold wrongly"
                );
            }
            self.steps.insert(key, row);
        }
    }

    fn stored(&self) -> StoredCase {
        StoredCase {
            head: self.head.clone(),
            state: self.state.clone(),
            steps: self.steps.values().cloned().collect(),
        }
    }
}

fn row_of((step, instance): (u16, Option<u32>)) -> Row {
    match instance {
        None => Row::Step(StepIndex(step)),
        Some(instance) => Row::Instance(Place::new(StepIndex(step), instance)),
    }
}

fn actor(number: u8) -> Actor {
    Actor(format!("person-{}", number % 3))
}

/// An input that often fits the case: `choice` and `detail` say which.
fn input(case: &Case, choice: u8, detail: u8) -> Input {
    let places: Vec<Place> = (0..case.steps.len())
        .flat_map(|step| case.places(StepIndex(step as u16)))
        .collect();
    let step = StepIndex(u16::from(detail) % case.steps.len() as u16);
    let place = places
        .get(usize::from(detail) % places.len().max(1))
        .copied();
    let place = place.unwrap_or(Place::new(step, 0));
    let running = |case: &Case, place: &Place| {
        matches!(
            case.instance(*place).unwrap().state,
            InstanceState::Running { .. }
        )
    };
    match choice {
        0..=9 => {
            let running: Vec<&Place> = places.iter().filter(|place| running(case, place)).collect();
            let place = running
                .get(usize::from(detail) % running.len().max(1))
                .copied()
                .unwrap_or(&place);
            let attempt = case.instance(*place).map_or(1, |instance| instance.attempt);
            let result = Box::new(result(choice, detail));
            Input::AttemptFinished {
                place: *place,
                attempt,
                result,
            }
        }
        10..=12 => timer(case, &places, detail),
        13 | 14 => Input::Facts {
            step,
            facts: match detail % 5 {
                0 => Err(failure(FailureClass::Permanent)),
                _ => Ok(json!({"identity": {"accounts": [{"name": "x"}, {"name": "y"}]}})),
            },
        },
        15 | 16 => asked(case, &places, detail),
        17 => Input::Signal {
            name: "word".to_owned(),
            by: actor(detail),
            payload: json!({"n": 0.3}),
        },
        18 => Input::Retry {
            place: None,
            step: None,
            by: actor(detail),
            reason: String::new(),
        },
        19 => Input::Skip {
            step,
            place: (detail.is_multiple_of(2)).then_some(place),
            by: actor(detail),
            reason: "not needed".to_owned(),
        },
        20 => Input::Recovered,
        21 if detail < 40 => Input::Cancel {
            by: actor(detail),
            reason: "enough".to_owned(),
        },
        22 if detail < 20 => Input::Preempt {
            by: CaseId(Uuid::from_u128(8)),
        },
        23 => Input::Pause {
            by: actor(detail),
            reason: "wait".to_owned(),
        },
        24 | 25 => Input::Resume {
            by: actor(detail),
            reason: "go".to_owned(),
        },
        26 | 27 => Input::Rerun {
            step,
            by: actor(detail),
            reason: "again".to_owned(),
        },
        28 if detail < 40 => Input::Undo {
            by: actor(detail),
            reason: "back".to_owned(),
        },
        29 if detail < 10 => Input::Terminate {
            by: actor(detail),
            reason: "enough".to_owned(),
        },
        30 if detail < 10 => Input::Supersede {
            generation: u32::MAX,
        },
        31 => migrate(case),
        _ => Input::Start,
    }
}

/// Back and forth between the two versions there are.
fn migrate(case: &Case) -> Input {
    let named = |old: &str, new: &str| BTreeMap::from([(old.to_owned(), new.to_owned())]);
    let (to, steps) = if case.definition.hash == DEFINITIONS[0].hash {
        (&DEFINITIONS[3], named("hand_over", "pass_on"))
    } else {
        (&DEFINITIONS[0], named("pass_on", "hand_over"))
    };
    Input::Migrate(Box::new(Migrate {
        from: case.definition.hash.clone(),
        to: Arc::clone(to),
        mapping: Mapping {
            steps,
            skip: ["look".to_owned()]
                .into_iter()
                .filter(|skip| to.find(skip).is_some())
                .collect(),
            ..Mapping::default()
        },
        by: actor(1),
        reason: "a better version".to_owned(),
    }))
}

fn failure(class: FailureClass) -> Failure {
    Failure {
        kind: "test".to_owned(),
        message: "no \"luck\"\n\u{1f600}".to_owned(),
        class,
    }
}

fn result(choice: u8, detail: u8) -> AttemptResult {
    let proof = Proof::default();
    match (choice, detail % 8) {
        (0..=3, _) => AttemptResult::Succeeded {
            output: json!({"id": detail, "half": 0.5}),
            verification: match detail % 3 {
                0 => Verification::Verified,
                1 => Verification::Unverified {
                    reason: "cannot look".to_owned(),
                },
                _ => Verification::NotNeeded,
            },
            proof,
        },
        (_, 0) => AttemptResult::Accepted {
            handle: "h".to_owned(),
            poll_after_ms: 500,
            proof,
        },
        (_, 1) => AttemptResult::NeedsHuman {
            title: "t".to_owned(),
            instructions: String::new(),
            assignee: "owner".to_owned(),
            due_after_ms: 1_000,
            proof_required: false,
            output: json!({"ticket": 7}),
        },
        (_, 2) => AttemptResult::AnswerLost {
            reason: "timeout".to_owned(),
            proof,
        },
        (_, 3) => AttemptResult::NotApplied,
        (_, 4) => AttemptResult::NotSent,
        (_, 5) => AttemptResult::Failed {
            failure: failure(FailureClass::Permanent),
            proof,
        },
        (_, 6) => AttemptResult::Failed {
            failure: failure(FailureClass::Retry),
            proof,
        },
        _ => AttemptResult::Failed {
            failure: failure(FailureClass::NotBefore(start())),
            proof,
        },
    }
}

/// A timer that stands, if one does.
fn timer(case: &Case, places: &[Place], detail: u8) -> Input {
    let mut standing: Vec<(TimerTarget, Timestamp)> = Vec::new();
    standing.extend(case.deadline_at.map(|due| (TimerTarget::Case, due)));
    for (step, run) in (0..).zip(&case.steps) {
        if let StepState::Delayed { due } = run.state {
            standing.push((TimerTarget::Step(StepIndex(step)), due));
        }
    }
    for place in places {
        let due = match &case.instance(*place).unwrap().state {
            InstanceState::Waiting { due, .. } => Some(*due),
            InstanceState::Asking { due, .. } => *due,
            _ => None,
        };
        standing.extend(due.map(|due| (TimerTarget::Instance(*place), due)));
    }
    let (target, due) = standing
        .get(usize::from(detail) % standing.len().max(1))
        .copied()
        .unwrap_or((TimerTarget::Case, start()));
    Input::TimerDue { target, due }
}

/// An answer for something that is asked, if anything is.
fn asked(case: &Case, places: &[Place], detail: u8) -> Input {
    let asking = places
        .iter()
        .filter_map(|place| match &case.instance(*place).unwrap().state {
            InstanceState::Asking { ask, .. } => Some((*place, ask)),
            _ => None,
        });
    let asking: Vec<_> = asking.collect();
    match asking.get(usize::from(detail) % asking.len().max(1)) {
        Some((place, Ask::Task { .. })) => Input::TaskDone {
            place: *place,
            by: actor(detail),
            proof: "seen".to_owned(),
            output: json!({"note": "done"}),
        },
        Some((place, _)) => Input::Answered {
            place: *place,
            by: actor(detail),
            approve: !detail.is_multiple_of(7),
            note: String::new(),
        },
        None => Input::Recovered,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn a_case_is_what_its_rows_say(
        which in 0_usize..3,
        inputs in prop::collection::vec((0_u8..31, any::<u8>(), 0_i64..4_000_000_000), 1..120),
    ) {
        let definition = &DEFINITIONS[which];
        let mut case = new_case(definition);
        let mut kept = Kept::new(&case);
        let mut now = start();
        let first = [(255, 0, 1)];
        for (choice, detail, later_us) in first.into_iter().chain(inputs) {
            now += TimeDelta::microseconds(later_us);
            let next = input(&case, choice, detail);
            let Ok(decision) = decide(&mut case, next, now) else {
                continue;
            };
            if decision.events.is_empty() {
                continue;
            }
            kept.write(&case, &decision, now);
            let again = assemble(Arc::clone(&case.definition), kept.stored()).unwrap();
            prop_assert_eq!(&again, &case);
        }
    }
}

/// The random lives above must get somewhere, or they prove little.
#[test]
fn the_test_definitions_reach_every_end() {
    let mut ends = std::collections::BTreeSet::new();
    let mut random = 1_u64;
    for round in 0..4_000 {
        let mut case = new_case(&DEFINITIONS[round % 3]);
        let mut now = start();
        for turn in 0..150 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let choice = if turn == 0 {
                255
            } else {
                (random >> 33) as u8 % 31
            };
            now += TimeDelta::microseconds(((random >> 40) as i64) % 4_000_000);
            let input = input(&case, choice, (random >> 50) as u8);
            let _ = decide(&mut case, input, now);
        }
        ends.insert(case.state);
    }
    // A case is merged only before it begins.
    let ended = |state: &CaseState| state.is_closed() && *state != CaseState::Merged;
    for state in CaseState::ALL.into_iter().filter(ended) {
        assert!(
            ends.contains(&state),
            "{state:?} was never reached, only {ends:?}"
        );
    }
}

#[test]
fn times_with_more_digits_than_are_kept_still_match_their_timers() {
    let mut case = new_case(&DEFINITIONS[2]);
    let now = start() + TimeDelta::nanoseconds(789);
    decide(&mut case, Input::Start, now).unwrap();
    let place = Place::new(StepIndex(0), 0);
    let result = Box::new(AttemptResult::Failed {
        failure: failure(FailureClass::SystemAway),
        proof: Proof::default(),
    });
    let waiting = Input::AttemptFinished {
        place,
        attempt: 1,
        result,
    };
    let decision = decide(&mut case, waiting, now).unwrap();
    let (_, due) = decision.timers_set[0];
    assert_ne!(due, stored_time(due));
    let row = step_row(&case, Row::Instance(place), now).unwrap();
    let body: serde_json::Value = serde_json::from_str(&row.body).unwrap();
    let in_body: Timestamp = body["state"]["due"].as_str().unwrap().parse().unwrap();
    assert_eq!(in_body, stored_time(due));
}

#[test]
fn what_does_not_fit_names_its_row() {
    let definition = &DEFINITIONS[2];
    let mut case = new_case(definition);
    let mut kept = Kept::new(&case);
    let decision = decide(&mut case, Input::Start, start()).unwrap();
    kept.write(&case, &decision, start());
    let stored = kept.stored();

    let check = |change: fn(&mut StoredCase), column: &str, key: &str| {
        let mut stored = stored.clone();
        change(&mut stored);
        match assemble(Arc::clone(definition), stored).unwrap_err() {
            StoreError::Corrupt {
                column: found,
                key: found_key,
                ..
            } => {
                assert_eq!((found, found_key.as_str()), (column, key));
            }
            other => panic!("{other}"),
        }
    };
    let case = "00000000-0000-0000-0000-000000000007";
    check(
        |stored| stored.steps[1].body = "{".to_owned(),
        "body",
        &format!("3/{case}/0/1"),
    );
    check(
        |stored| stored.steps[1].step = 99,
        "step",
        &format!("3/{case}/99/1"),
    );
    check(
        |stored| drop(stored.steps.remove(1)),
        "instance",
        &format!("3/{case}/0/2"),
    );
    check(
        |stored| stored.head.definition.0 = "other".to_owned(),
        "definition",
        &format!("3/{case}"),
    );
}
