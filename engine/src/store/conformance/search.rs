//! Searching in open work, over rows as real cases write them; and cases that came to another version.

use std::collections::BTreeSet;

use serde_json::json;

use super::build::*;
use super::reads::page_through;
use super::*;
use crate::core::case::{Case, Failure, FailureClass, NewCase};
use crate::core::decide::{Row, decide};
use crate::core::definition::Definition;
use crate::core::id::{DefinitionHash, StepIndex};
use crate::core::input::{AttemptResult, Input};
use crate::core::proof::Proof;

/// One step of each kind, of which the input chooses one.
const KINDS: &str = r#"
name: kinds
on_failure: forward
steps:
  - {id: act, uses: make, needs: [], if: input.kind == "act", with: {system: "${{ input.system }}", note: "${{ input.note }}"}, retry: {attempts: 3}}
  - {id: agree, uses: approval, needs: [], if: input.kind == "agree", with: {ask: [owner], timeout: 1h}}
  - {id: hand, uses: task, needs: [], if: input.kind == "hand", with: {assignee: owner, title: Do it, timeout: 1h}}
  - {id: word, uses: wait_for, needs: [], if: input.kind == "word", with: {signal: go, timeout: 1h}}
  - {id: broken, uses: make, needs: [], if: input.kind == "broken" && input.nothing.there}
"#;
const LATER: &str = "name: later\nsteps:\n  - {id: first, uses: make, needs: [], after: 1h}\n  - {id: act, uses: make}\n";

fn version(text: &str) -> Arc<Definition> {
    Arc::new(Definition::parse("x.yaml", text, &[], &|_| true).unwrap())
}

/// A case and the rows it has so far.
struct Life {
    case: Case,
    rows: BTreeSet<Row>,
}

impl Life {
    fn new(number: u32, definition: &Arc<Definition>, input: serde_json::Value) -> Self {
        let of = Numbered(number);
        let case = Case::new(NewCase {
            id: of.case(),
            shard: of.shard(),
            subject: of.subject(),
            definition: Arc::clone(definition),
            generation: 0,
            input: Arc::new(input),
            salt: [1; 16],
            initiator: Actor::engine(),
            effective_at: None,
            received_at: at(0),
            created_at: at(i64::from(number)),
        });
        Self {
            case,
            rows: BTreeSet::new(),
        }
    }

    fn take(mut self, input: Input) -> Self {
        let decision = decide(&mut self.case, input, at(1_000)).unwrap();
        self.rows.extend(decision.rows);
        self
    }

    /// Started, and what came of its only attempt, if it makes one.
    fn started(self, result: Option<AttemptResult>) -> Self {
        let started = self.take(Input::Start);
        match result {
            None => started,
            Some(result) => started.take(Input::AttemptFinished {
                place: Place::new(StepIndex(0), 0),
                attempt: 1,
                result: Box::new(result),
            }),
        }
    }

    fn write(&self, batch: &mut Batch) {
        let rows = self.rows.iter();
        batch.heads.push(head_row(&self.case));
        batch.states.push(state_row(&self.case, None, at(1_000)));
        batch
            .steps
            .extend(rows.map(|row| step_row(&self.case, *row, at(1_000)).unwrap()));
    }
}

fn failed(kind: &str, class: FailureClass) -> Option<AttemptResult> {
    Some(AttemptResult::Failed {
        failure: Failure {
            kind: kind.to_owned(),
            message: "\"why\":\"retry\" \"failure\":{\"kind\":\"other\" \"system\":\"ldap\""
                .to_owned(),
            class,
        },
        proof: Proof::default(),
    })
}

fn act(system: &str) -> serde_json::Value {
    // No database's JSON functions may choke on what a system once said.
    json!({"kind": "act", "system": system, "note": "a\u{0}b \"system\":\"ldap\""})
}

#[track_caller]
fn same(found: Vec<CaseId>, numbers: &[u32], filter: &CaseFilter) {
    let expected: Vec<CaseId> = numbers.iter().map(|it| Numbered(*it).case()).collect();
    assert_eq!(found, expected, "{filter:?}");
}

async fn all_kinds(store: &dyn Store, leases: &[ShardLease]) -> (Arc<Definition>, Arc<Definition>) {
    let (kinds, later) = (version(KINDS), version(LATER));
    let of = |number, input| Life::new(number, &kinds, input);
    let lost = Some(AttemptResult::AnswerLost {
        reason: "cut".to_owned(),
        proof: Proof::default(),
    });
    let accepted = Some(AttemptResult::Accepted {
        handle: "\"why\":\"retry\"".to_owned(),
        poll_after_ms: 500,
        proof: Proof::default(),
    });
    let lives = [
        of(0, act("crm")).started(failed("timeout", FailureClass::Retry)),
        of(1, act("crm")).started(failed("unavailable", FailureClass::SystemAway)),
        of(2, act("erp")).started(failed("denied", FailureClass::Permanent)),
        of(3, act("erp")).started(lost),
        of(4, act("crm")).started(accepted),
        of(5, act("cloud")).started(None),
        of(6, json!({"kind": "agree"})).started(None),
        of(7, json!({"kind": "hand"})).started(None),
        of(8, json!({"kind": "word"})).started(None),
        of(9, json!({"kind": "broken"})).started(None),
        of(10, json!({"kind": "none"})),
        Life::new(11, &later, json!({})).started(None),
        // Closed at once: every step is skipped.
        of(12, json!({"kind": "none"})).started(None),
    ];
    let written = batch(leases, |batch| {
        for life in &lives {
            life.write(batch);
        }
    });
    store.commit(&written, &NoProjection).await.unwrap();
    (kinds, later)
}

pub(super) async fn open_work_is_found_by_what_it_waits_for(database: &Database) {
    let (store, leases) = database.owned().await;
    all_kinds(&*store, &leases).await;
    let waits = |waits: &[Waiting]| WorkFilter {
        waits: waits.to_vec(),
        ..WorkFilter::default()
    };
    let held = WorkFilter {
        held: vec!["erp".to_owned(), "cloud".to_owned()],
        ..waits(&[Waiting::SystemAway])
    };
    for (work, numbers) in [
        (waits(&[Waiting::Person]), vec![7, 6]),
        (waits(&[Waiting::Signal]), vec![8]),
        (waits(&[Waiting::Timer]), vec![11]),
        (waits(&[Waiting::SystemAway]), vec![1]),
        // What is in flight to a system that is away has not left.
        (held, vec![5, 1]),
        (waits(&[Waiting::Retry]), vec![0]),
        (waits(&[Waiting::Accepted]), vec![4]),
        (waits(&[Waiting::AnswerLost]), vec![3]),
        (waits(&[Waiting::Queued]), vec![10]),
        (waits(&[Waiting::Parked]), vec![9, 2]),
        (
            waits(&[Waiting::Queued, Waiting::Timer, Waiting::Parked]),
            vec![11, 10, 9, 2],
        ),
    ] {
        let filter = CaseFilter {
            work,
            ..CaseFilter::default()
        };
        same(page_through(&*store, &filter, 1).await, &numbers, &filter);
        same(page_through(&*store, &filter, 9).await, &numbers, &filter);
    }
}

pub(super) async fn open_work_is_found_by_system_step_and_error(database: &Database) {
    let (store, leases) = database.owned().await;
    let (kinds, later) = all_kinds(&*store, &leases).await;
    let work = WorkFilter::default;
    let system = |name: &str| Some(name.to_owned());
    let step =
        |definition: &Definition, id: &str| (definition.hash.clone(), definition.find(id).unwrap());
    let act = Some(vec![step(&kinds, "act"), step(&later, "act")]);
    for (work, numbers) in [
        (
            WorkFilter {
                system: system("crm"),
                ..work()
            },
            vec![4, 1, 0],
        ),
        // A text that looks like the name of a system is none.
        (
            WorkFilter {
                system: system("ldap"),
                ..work()
            },
            vec![],
        ),
        (
            WorkFilter {
                system: system("cr"),
                ..work()
            },
            vec![],
        ),
        (
            WorkFilter {
                error: system("denied"),
                ..work()
            },
            vec![2],
        ),
        (
            WorkFilter {
                error: system("other"),
                ..work()
            },
            vec![],
        ),
        (
            WorkFilter {
                error: system("expression"),
                ..work()
            },
            vec![9],
        ),
        (
            WorkFilter {
                steps: act.clone(),
                ..work()
            },
            vec![5, 4, 3, 2, 1, 0],
        ),
        (
            WorkFilter {
                steps: Some(vec![step(&later, "first")]),
                ..work()
            },
            vec![11],
        ),
        (
            WorkFilter {
                steps: Some(Vec::new()),
                ..work()
            },
            vec![],
        ),
        // Everything has to hold of the same work.
        (
            WorkFilter {
                steps: act,
                system: system("erp"),
                waits: vec![Waiting::Parked, Waiting::Retry],
                ..work()
            },
            vec![2],
        ),
    ] {
        let filter = CaseFilter {
            work,
            ..CaseFilter::default()
        };
        same(page_through(&*store, &filter, 2).await, &numbers, &filter);
    }
}

pub(super) async fn searches_combine_with_what_never_changes(database: &Database) {
    let (store, leases) = database.owned().await;
    let (kinds, later) = all_kinds(&*store, &leases).await;
    let all = CaseFilter::default;
    let crm = WorkFilter {
        system: Some("crm".to_owned()),
        ..WorkFilter::default()
    };
    for (filter, numbers) in [
        (
            CaseFilter {
                definition: Some(later.hash.clone()),
                ..all()
            },
            vec![11],
        ),
        (
            CaseFilter {
                definition: Some(kinds.hash.clone()),
                open_only: true,
                created_from: Some(at(9)),
                ..all()
            },
            vec![10, 9],
        ),
        (
            CaseFilter {
                created_from: Some(at(11)),
                ..all()
            },
            vec![12, 11],
        ),
        (
            CaseFilter {
                created_before: Some(at(2)),
                ..all()
            },
            vec![1, 0],
        ),
        (
            CaseFilter {
                created_from: Some(at(2)),
                created_before: Some(at(4)),
                ..all()
            },
            vec![3, 2],
        ),
        (
            CaseFilter {
                work: crm.clone(),
                created_before: Some(at(4)),
                ..all()
            },
            vec![1, 0],
        ),
        (
            CaseFilter {
                work: crm.clone(),
                subject: Some(Numbered(1).subject()),
                ..all()
            },
            vec![1],
        ),
        (
            CaseFilter {
                work: crm.clone(),
                workflow: Some("later".to_owned()),
                ..all()
            },
            vec![],
        ),
        (
            CaseFilter {
                work: crm,
                states: vec![CaseState::Parked],
                ..all()
            },
            vec![],
        ),
        (
            CaseFilter {
                subject: Some(Numbered(12).subject()),
                created_before: Some(at(12)),
                ..all()
            },
            vec![],
        ),
    ] {
        same(page_through(&*store, &filter, 1).await, &numbers, &filter);
    }
}

pub(super) async fn versions_are_listed_with_their_open_cases(database: &Database) {
    let (store, leases) = database.owned().await;
    assert_eq!(store.versions().await.unwrap(), []);
    let (kinds, later) = all_kinds(&*store, &leases).await;
    for (definition, seen) in [(&kinds, 1), (&later, 2)] {
        store
            .put_definition(
                &definition.hash,
                &definition.name,
                &definition.source,
                at(seen),
            )
            .await
            .unwrap();
    }
    let unused = DefinitionHash("unused".to_owned());
    store
        .put_definition(&unused, "kinds", "name: kinds", at(3))
        .await
        .unwrap();
    let found = store.versions().await.unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|row| (row.workflow.as_str(), &row.hash, row.created_at, row.open))
        .collect();
    assert_eq!(
        found,
        [
            ("kinds", &unused, at(3), 0),
            ("kinds", &kinds.hash, at(1), 11),
            ("later", &later.hash, at(2), 1),
        ]
    );
}

pub(super) async fn a_case_is_rebuilt_under_another_version(database: &Database) {
    let (store, leases) = database.owned().await;
    let (case, other) = (Numbered(1), Numbered(2));
    for it in [case, other] {
        make(&*store, &leases, it).await;
        let second = batch(&leases, |batch| it.advance(1, batch));
        store.commit(&second, &NoProjection).await.unwrap();
    }
    let before = everything(&*store, other).await;
    let rebuilt = RebuiltRow {
        shard: case.shard(),
        case: case.case(),
        definition: DefinitionHash("newer".to_owned()),
        lane: Lane::Revocation,
    };
    let moved = |leases: &[ShardLease], from: u64| {
        batch(leases, |batch| {
            batch.states.push(case.state(Some(from), from + 1));
            batch.history.push(case.history(from + 1));
            batch.evidence.push(case.evidence(from + 1));
            batch.rebuilt.push(rebuilt.clone());
            batch.steps.push(case.step(5, Some(0), "running"));
        })
    };
    // What does not fit takes the rebuilding back with it.
    let untouched = everything(&*store, case).await;
    let error = store
        .commit(&moved(&leases, 7), &NoProjection)
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Stale { .. }), "{error:?}");
    let error = store
        .commit(&moved(&older(&leases), 2), &NoProjection)
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Fenced { .. }), "{error:?}");
    assert_eq!(everything(&*store, case).await, untouched);

    store
        .commit(&moved(&leases, 2), &NoProjection)
        .await
        .unwrap();
    let stored = load(&*store, case).await.unwrap();
    assert_eq!(
        stored.head,
        HeadRow {
            definition: DefinitionHash("newer".to_owned()),
            lane: Lane::Revocation,
            ..case.head()
        }
    );
    let rows: Vec<_> = stored
        .steps
        .iter()
        .map(|row| (row.step, row.instance))
        .collect();
    assert_eq!(rows, [(5, Some(0))]);
    let open = store
        .open_cases(&[(case.shard(), case.subject())])
        .await
        .unwrap();
    assert_eq!(open[0].1.lane, Lane::Revocation);
    let after = everything(&*store, other).await;
    assert_eq!((after.0, after.1, after.2), (before.0, before.1, before.2));
}
