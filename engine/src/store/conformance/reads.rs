//! Lists, look-ups, counts.

use std::collections::BTreeSet;

use super::build::*;
use super::*;

pub(super) async fn existing_cases_are_told_from_others(database: &Database) {
    let (store, leases) = database.owned().await;
    make(&*store, &leases, Numbered(1)).await;
    make(&*store, &leases, Numbered(2)).await;
    let key = |number: u32| (Numbered(number).shard(), Numbered(number).case());
    let found = store
        .existing(&[key(1), key(3), key(2), key(1)])
        .await
        .unwrap();
    assert_eq!(found, [Numbered(1).case(), Numbered(2).case()].into());
    assert_eq!(store.existing(&[key(3)]).await.unwrap().len(), 0);
    assert_eq!(store.existing(&[]).await.unwrap().len(), 0);
}

pub(super) async fn restless_cases_are_queued_or_in_flight(database: &Database) {
    let (store, leases) = database.owned().await;
    let make = |number: u32, state: CaseState, in_flight: u32| {
        let case = Numbered(number);
        (
            case,
            StateRow {
                state,
                in_flight,
                ..case.state(None, 1)
            },
        )
    };
    let cases = [
        make(1, CaseState::Queued, 0),
        make(2, CaseState::Running, 1),
        make(3, CaseState::Running, 0),
        make(4, CaseState::Parked, 0),
        make(5, CaseState::Ending, 2),
        make(6, CaseState::Succeeded, 0),
    ];
    let written = batch(&leases, |batch| {
        for (case, state) in &cases {
            batch.heads.push(case.head());
            batch.states.push(state.clone());
        }
    });
    store.commit(&written, &NoProjection).await.unwrap();
    let key = |number: u32| (Numbered(number).shard(), Numbered(number).case());
    let found = store.restless(&all_shards()).await.unwrap();
    assert_eq!(found, [key(1), key(2), key(5)]);
    let shard = Numbered(2).shard();
    let found = store.restless(&[shard]).await.unwrap();
    assert_eq!(
        found,
        [1, 2, 5]
            .map(key)
            .into_iter()
            .filter(|(of, _)| *of == shard)
            .collect::<Vec<_>>()
    );
    assert_eq!(store.restless(&[]).await.unwrap(), []);
}

pub(super) async fn open_cases_are_those_of_the_subject(database: &Database) {
    let (store, leases) = database.owned().await;
    let subject = Numbered(1).subject();
    let of_subject = |number: u32, lane: Lane| {
        let case = Numbered(number);
        let shard = subject.shard(SHARDS);
        let head = HeadRow {
            shard,
            subject: subject.clone(),
            lane,
            ..case.head()
        };
        (
            head,
            StateRow {
                shard,
                ..case.state(None, 1)
            },
        )
    };
    let rows = [of_subject(3, Lane::Revocation), of_subject(2, Lane::Normal)];
    let written = batch(&leases, |batch| {
        for (head, state) in rows.iter().cloned() {
            batch.heads.push(head);
            batch.states.push(state);
        }
        Numbered(9).birth(batch);
    });
    store.commit(&written, &NoProjection).await.unwrap();
    let asked = [
        (subject.shard(SHARDS), subject.clone()),
        (Numbered(9).shard(), Numbered(9).subject()),
        (Numbered(8).shard(), Numbered(8).subject()),
    ];
    let open = store.open_cases(&asked).await.unwrap();
    let expected = |number: u32, lane: Lane, subject: &Subject| {
        let open = OpenCase {
            id: Numbered(number).case(),
            workflow: "joiner".to_owned(),
            state: CaseState::Running,
            lane,
            generation: 3,
            created_at: at(i64::from(number)),
            paused: false,
        };
        (subject.clone(), open)
    };
    assert_eq!(
        open,
        [
            expected(2, Lane::Normal, &subject),
            expected(3, Lane::Revocation, &subject),
            expected(9, Lane::Normal, &Numbered(9).subject()),
        ]
    );
    assert_eq!(store.open_cases(&[]).await.unwrap(), []);
}

pub(super) async fn a_case_is_located(database: &Database) {
    let (store, leases) = database.owned().await;
    for number in 0..10 {
        make(&*store, &leases, Numbered(number)).await;
    }
    for number in 0..10 {
        let case = Numbered(number);
        assert_eq!(store.locate(case.case()).await.unwrap(), Some(case.shard()));
    }
    assert_eq!(store.locate(CaseId(Uuid::nil())).await.unwrap(), None);
}

pub(super) async fn page_through(
    store: &dyn Store,
    filter: &CaseFilter,
    limit: u32,
) -> Vec<CaseId> {
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = store.list(filter, after, limit).await.unwrap();
        assert!(page.len() <= limit as usize);
        found.extend(page.iter().map(|row| row.head.case));
        match page.last() {
            None => return found,
            Some(last) => {
                after = Some(CaseCursor {
                    created_at: last.head.created_at,
                    case: last.head.case,
                });
            }
        }
    }
}

pub(super) async fn pages_of_equal_age_lose_and_repeat_nothing(database: &Database) {
    const CASES: u32 = 50;
    let (store, leases) = database.owned().await;
    let written = batch(&leases, |batch| {
        for number in 0..CASES {
            Numbered(number).birth(batch);
            // Three ages only.
            batch.heads[number as usize].created_at = at(i64::from(number % 3));
        }
    });
    store.commit(&written, &NoProjection).await.unwrap();
    let mut expected: Vec<CaseId> = (0..CASES).map(|number| Numbered(number).case()).collect();
    let number = |case: &CaseId| (case.0.as_u128() - 0x1000) as i64;
    expected.sort_by_key(|case| std::cmp::Reverse((number(case) % 3, *case)));
    let open = CaseFilter {
        open_only: true,
        ..CaseFilter::default()
    };
    for filter in [CaseFilter::default(), open] {
        for limit in [1, 7, 100] {
            assert_eq!(page_through(&*store, &filter, limit).await, expected);
        }
    }
    let page = store.list(&CaseFilter::default(), None, 1).await.unwrap();
    let newest = Numbered(number(&expected[0]) as u32);
    assert_eq!(
        page[0].head,
        HeadRow {
            created_at: at(2),
            ..newest.head()
        }
    );
    assert_eq!(
        page[0].state,
        StateRow {
            from_version: Some(1),
            ..newest.state(None, 1)
        }
    );
}

pub(super) async fn filters_choose(database: &Database) {
    let (store, leases) = database.owned().await;
    let states = [
        CaseState::Running,
        CaseState::Parked,
        CaseState::Succeeded,
        CaseState::Undone,
        CaseState::Queued,
    ];
    let written = batch(&leases, |batch| {
        for (number, state) in (0..).zip(states) {
            let case = Numbered(number);
            let mut head = case.head();
            if number % 2 == 1 {
                head.workflow = "leaver".to_owned();
            }
            batch.heads.push(head);
            batch.states.push(StateRow {
                state,
                parked: u32::from(state == CaseState::Parked),
                closed_at: state.is_closed().then(|| at(1)),
                ..case.state(None, 1)
            });
        }
    });
    store.commit(&written, &NoProjection).await.unwrap();
    let all = CaseFilter::default;
    let subject = |number| Some(Numbered(number).subject());
    let checks = [
        (all(), vec![4, 3, 2, 1, 0]),
        (
            CaseFilter {
                workflow: Some("leaver".to_owned()),
                ..all()
            },
            vec![3, 1],
        ),
        (
            CaseFilter {
                open_only: true,
                ..all()
            },
            vec![4, 1, 0],
        ),
        (
            CaseFilter {
                parked_only: true,
                ..all()
            },
            vec![1],
        ),
        (
            CaseFilter {
                states: vec![CaseState::Undone, CaseState::Queued],
                ..all()
            },
            vec![4, 3],
        ),
        (
            CaseFilter {
                states: vec![CaseState::Queued, CaseState::Running],
                ..all()
            },
            vec![4, 0],
        ),
        (
            CaseFilter {
                states: vec![CaseState::Undone],
                open_only: true,
                ..all()
            },
            vec![],
        ),
        (
            CaseFilter {
                subject: subject(2),
                ..all()
            },
            vec![2],
        ),
        (
            CaseFilter {
                subject: subject(2),
                open_only: true,
                ..all()
            },
            vec![],
        ),
        (
            CaseFilter {
                subject: subject(1),
                parked_only: true,
                ..all()
            },
            vec![1],
        ),
        (
            CaseFilter {
                subject: subject(0),
                parked_only: true,
                ..all()
            },
            vec![],
        ),
        (
            CaseFilter {
                subject: subject(77),
                ..all()
            },
            vec![],
        ),
        (
            CaseFilter {
                workflow: Some("'".to_owned()),
                ..all()
            },
            vec![],
        ),
    ];
    for (filter, numbers) in checks {
        let expected: Vec<CaseId> = numbers
            .into_iter()
            .map(|number| Numbered(number).case())
            .collect();
        assert_eq!(
            page_through(&*store, &filter, 2).await,
            expected,
            "{filter:?}"
        );
    }
}

pub(super) async fn a_page_has_a_limit(database: &Database) {
    let (store, leases) = database.owned().await;
    let births = batch(&leases, |batch| {
        (0..PAGE_ROWS_MAX + 1).for_each(|number| Numbered(number).birth(batch))
    });
    store.commit(&births, &NoProjection).await.unwrap();
    let page = store
        .list(&CaseFilter::default(), None, u32::MAX)
        .await
        .unwrap();
    assert_eq!(page.len(), PAGE_ROWS_MAX as usize);
    assert_eq!(
        store
            .list(&CaseFilter::default(), None, 0)
            .await
            .unwrap()
            .len(),
        0
    );
}

pub(super) async fn cases_are_counted_by_workflow_and_state(database: &Database) {
    let (store, leases) = database.owned().await;
    assert_eq!(store.counts().await.unwrap(), []);
    let written = batch(&leases, |batch| {
        for number in 0..9 {
            let case = Numbered(number);
            let workflow = if number < 4 { "joiner" } else { "leaver" }.to_owned();
            let state = CaseState::ALL[number as usize % 3];
            batch.heads.push(HeadRow {
                workflow,
                ..case.head()
            });
            batch.states.push(StateRow {
                state,
                ..case.state(None, 1)
            });
        }
    });
    store.commit(&written, &NoProjection).await.unwrap();
    let counts: BTreeSet<_> = store.counts().await.unwrap().into_iter().collect();
    let of = |workflow: &str, state, count| (workflow.to_owned(), state, count);
    let expected = [
        of("joiner", CaseState::Queued, 2),
        of("joiner", CaseState::Running, 1),
        of("joiner", CaseState::Parked, 1),
        of("leaver", CaseState::Queued, 1),
        of("leaver", CaseState::Running, 2),
        of("leaver", CaseState::Parked, 2),
    ];
    assert_eq!(counts, expected.into());

    // Three close, one of another workflow; two are closed as they are made.
    let closed = batch(&leases, |batch| {
        for (number, state) in [
            (0, CaseState::Succeeded),
            (1, CaseState::Succeeded),
            (4, CaseState::Undone),
        ] {
            let row = Numbered(number).state(Some(1), 2);
            batch.states.push(StateRow { state, ..row });
        }
        for (number, state) in [(20, CaseState::Superseded), (21, CaseState::Merged)] {
            batch.heads.push(Numbered(number).head());
            let row = Numbered(number).state(None, 1);
            batch.states.push(StateRow { state, ..row });
        }
    });
    store.commit(&closed, &NoProjection).await.unwrap();
    // What is refused is not counted.
    assert!(store.commit(&closed, &NoProjection).await.is_err());
    let again = batch(&leases, |batch| {
        let state = CaseState::Succeeded;
        let row = Numbered(2).state(Some(1), 2);
        batch.states.push(StateRow { state, ..row });
    });
    store.commit(&again, &NoProjection).await.unwrap();
    let counts: BTreeSet<_> = store.counts().await.unwrap().into_iter().collect();
    let expected = [
        of("joiner", CaseState::Queued, 1),
        of("joiner", CaseState::Succeeded, 3),
        of("joiner", CaseState::Superseded, 1),
        of("joiner", CaseState::Merged, 1),
        of("leaver", CaseState::Queued, 1),
        of("leaver", CaseState::Running, 1),
        of("leaver", CaseState::Parked, 2),
        of("leaver", CaseState::Undone, 1),
    ];
    assert_eq!(counts, expected.into());
}

pub(super) async fn history_and_evidence_are_in_order(database: &Database) {
    let (store, leases) = database.owned().await;
    let case = Numbered(1);
    make(&*store, &leases, case).await;
    make(&*store, &leases, Numbered(2)).await;
    // More than nine, so that an order of texts would be another.
    for from in 1..12 {
        let moved = batch(&leases, |batch| case.advance(from, batch));
        store.commit(&moved, &NoProjection).await.unwrap();
    }
    let history: Vec<HistoryRow> = (1..=12).map(|version| case.history(version)).collect();
    let evidence: Vec<EvidenceRow> = (1..=12).map(|version| case.evidence(version)).collect();
    assert_eq!(
        store.history(case.shard(), case.case()).await.unwrap(),
        history
    );
    assert_eq!(
        store.evidence(case.shard(), case.case()).await.unwrap(),
        evidence
    );
    let nobody = CaseId(Uuid::nil());
    assert_eq!(store.history(case.shard(), nobody).await.unwrap(), []);
    assert_eq!(store.evidence(case.shard(), nobody).await.unwrap(), []);
}

pub(super) async fn definitions_are_kept_by_hash(database: &Database) {
    let store = database.ready().await;
    let hash = DefinitionHash("a'b".to_owned());
    assert_eq!(store.definition(&hash).await.unwrap(), None);
    store
        .put_definition(&hash, "leaver", "name: leaver # \u{1f600}", at(0))
        .await
        .unwrap();
    store
        .put_definition(&hash, "other", "other", at(1))
        .await
        .unwrap();
    assert_eq!(
        store.definition(&hash).await.unwrap().as_deref(),
        Some("name: leaver # \u{1f600}")
    );
}

pub(super) async fn a_reader_never_sees_half_a_commit(database: &Database) {
    const MOVES: u64 = 150;
    let (store, leases) = database.owned().await;
    let case = Numbered(1);
    make(&*store, &leases, case).await;
    let writer = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for from in 1..MOVES {
                let moved = batch(&leases, |batch| case.advance(from, batch));
                store.commit(&moved, &NoProjection).await.unwrap();
            }
        })
    };
    let mut seen = BTreeSet::new();
    while !writer.is_finished() {
        let stored = load(&*store, case).await.unwrap();
        // The case of version n has n steps, all done but the last.
        assert_eq!(stored.steps.len() as u64, stored.state.version);
        let running = stored
            .steps
            .iter()
            .filter(|row| row.state == "running")
            .count();
        assert_eq!(running, 1);
        seen.insert(stored.state.version);
    }
    writer.await.unwrap();
    assert!(seen.len() > 1, "the reader saw only {seen:?}");
}
