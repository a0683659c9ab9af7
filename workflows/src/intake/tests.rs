//! Files and events on an embedded store.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use chrono::TimeDelta;
use serde_json::json;

use super::*;
use crate::directory::{EventStatus, IdentityStatus};
use crate::sources::EventType;
use crate::testbed::{Company, actor, now, on_both_databases};

pub(super) const FOUR: [&str; 4] = [
    "A1,Ann,Sales",
    "B2,Bob,Sales",
    "C3,Cid,Sales",
    "D4,Dot,Sales",
];

pub(super) fn event(
    id: &str,
    event_type: EventType,
    subject: &str,
    version: i64,
    days: i64,
) -> BusinessEvent {
    BusinessEvent {
        id: id.to_owned(),
        source: "vms".to_owned(),
        event_type,
        subject: Key::new(subject),
        occurred_at: now(),
        effective_at: now() + TimeDelta::days(days),
        zone: "UTC".to_owned(),
        version,
        supersedes: None,
        data: json!({ "attributes": { "name": subject, "department": "Sales" } }),
    }
}

async fn status(company: &Company, key: &str) -> IdentityStatus {
    company
        .directory
        .identity(key)
        .await
        .unwrap()
        .unwrap()
        .identity
        .status
}

async fn the_same_file_twice_changes_nothing(company: &Company) {
    let first = company.import("2026-01-01", &FOUR).await;
    assert_eq!(first.status, ImportStatus::Applied);
    assert_eq!(
        (first.created, first.events["hire"], first.cases["joiner"]),
        (4, 4, 4)
    );
    let _node = company.node().await;
    company.closed(4).await;
    let again = company.import("2026-01-01", &FOUR).await;
    assert_eq!(again.status, ImportStatus::Unchanged);
    assert_eq!(again.cases.len(), 0);
    // The same people a month later: another day, nothing to do.
    let later = company.import("2026-02-01", &FOUR).await;
    assert_eq!(later.status, ImportStatus::Unchanged);
    assert_eq!(company.cases().await.len(), 4);
    assert_eq!(
        company
            .directory
            .snapshots(Some("hr"), false, 10)
            .await
            .unwrap()
            .len(),
        2
    );
}

async fn one_person_gets_one_case_however_much_changed(company: &Company) {
    company.import("2026-01-01", &FOUR).await;
    let report = company
        .import(
            "2026-02-01",
            &["A1,Ann Lee,Engineering", "B2,Bob,Sales", "C3,Cid,Sales"],
        )
        .await;
    assert_eq!((report.created, report.changed, report.removed), (0, 1, 1));
    assert_eq!(
        report.cases,
        BTreeMap::from([("leaver".to_owned(), 1), ("mover".to_owned(), 1)])
    );
}

async fn what_happens_again_on_one_day_counts_again(company: &Company) {
    let three = &FOUR[..3];
    company.import("2026-01-01", &FOUR).await;
    let moved = ["A1,Ann,Engineering", FOUR[1], FOUR[2]];
    for _ in 0..3 {
        let left = company.import("2026-01-01", three).await;
        assert_eq!(
            (left.removed, left.cases.get("leaver")),
            (1, Some(&1)),
            "{left:?}"
        );
        let back = company.import("2026-01-01", &FOUR).await;
        assert_eq!(
            (back.created, back.cases.get("joiner")),
            (1, Some(&1)),
            "{back:?}"
        );
    }
    company.import("2026-01-01", three).await;
    for _ in 0..3 {
        for (people, department) in [
            (&moved, "Engineering"),
            (&[FOUR[0], FOUR[1], FOUR[2]], "Sales"),
        ] {
            let report = company.import("2026-01-01", people).await;
            assert_eq!(
                (report.changed, report.cases.get("mover")),
                (1, Some(&1)),
                "{report:?}"
            );
            let person = company.directory.identity("A1").await.unwrap().unwrap();
            assert_eq!(person.identity.attributes["department"], department);
        }
    }
}

async fn an_older_file_is_refused(company: &Company) {
    company.import("2026-02-01", &FOUR).await;
    let error = company.try_import("2026-01-01", &FOUR).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the file is of 2026-01-01, and `hr` is at 2026-02-01 already"),
        "{error}"
    );
    let error = company
        .try_import("2026-03-01", &["A1,,Sales"])
        .await
        .unwrap_err();
    assert!(matches!(error, IntakeError::Refused(_)), "{error}");
    assert_eq!(
        company
            .directory
            .snapshots(None, false, 10)
            .await
            .unwrap()
            .len(),
        1
    );
}

async fn a_mass_of_leavers_waits_for_a_person(company: &Company) {
    company.import("2026-01-01", &FOUR).await;
    let stopped = company.import("2026-02-01", &FOUR[..1]).await;
    let ImportStatus::WaitingForApproval {
        reasons,
        population,
        examples,
    } = &stopped.status
    else {
        panic!("{:?}", stopped.status);
    };
    assert!(
        reasons[0].contains("3 of 4 people (75.0 %) would leave"),
        "{reasons:?}"
    );
    assert_eq!(
        (*population, examples.values().map(Vec::len).sum::<usize>()),
        (4, 3)
    );
    assert_eq!(stopped.removed, 3);
    // Nothing was done, and asking again asks the same.
    assert_eq!(company.directory.identity_counts().await.unwrap().len(), 1);
    let again = company.import("2026-02-01", &FOUR[..1]).await;
    assert_eq!(again.difference_id, stopped.difference_id);
    let waiting = company.directory.snapshots(None, true, 10).await.unwrap();
    assert_eq!(waiting.len(), 1);
    let pending = company
        .directory
        .pending(&waiting[0])
        .await
        .unwrap()
        .unwrap();
    assert_eq!(pending.gone.len(), 3);

    let difference = stopped.difference_id.unwrap();
    let report = company
        .intake
        .approve(&difference, &actor("eve"), now())
        .await
        .unwrap();
    assert_eq!(report.cases, BTreeMap::from([("leaver".to_owned(), 3)]));
    let error = company
        .intake
        .approve(&difference, &actor("eve"), now())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("difference `{difference}` was decided already by `eve`")
    );
    // What was approved is applied: the same file has nothing more to say.
    let again = company.import("2026-02-01", &FOUR[..1]).await;
    assert_eq!(again.status, ImportStatus::Unchanged);
}

async fn a_rejected_or_outdated_difference_is_not_applied(company: &Company) {
    company.import("2026-01-01", &FOUR).await;
    let difference = company
        .import("2026-02-01", &FOUR[..1])
        .await
        .difference_id
        .unwrap();
    // Another file came between.
    company.import("2026-01-15", &FOUR[..3]).await;
    let error = company
        .intake
        .approve(&difference, &actor("eve"), now())
        .await
        .unwrap_err();
    assert!(matches!(error, IntakeError::MovedOn { .. }), "{error}");
    assert_eq!(status(company, "B2").await, IdentityStatus::Expected);
    company
        .intake
        .reject(&difference, &actor("eve"), "half a file", now())
        .await
        .unwrap();
    let error = company
        .intake
        .approve(&difference, &actor("eve"), now())
        .await
        .unwrap_err();
    assert!(matches!(error, IntakeError::Decided { .. }), "{error}");
    let error = company
        .intake
        .reject("dif_x", &actor("eve"), "", now())
        .await
        .unwrap_err();
    assert!(matches!(error, IntakeError::NoSuchDifference(_)), "{error}");
}

async fn an_event_is_taken_in_once(company: &Company) {
    let hire = event("e1", EventType::Hire, "X1", 1, 0);
    let first = company
        .intake
        .event(&hire, &actor("api"), now())
        .await
        .unwrap();
    assert!(first.new && first.cases.len() == 1);
    let second = company
        .intake
        .event(&hire, &actor("api"), now())
        .await
        .unwrap();
    assert!(!second.new && second.cases.is_empty());
    let stranger = event("e2", EventType::AccessRevokeNow, "X2", 1, 0);
    let error = company
        .intake
        .event(&stranger, &actor("api"), now())
        .await
        .unwrap_err();
    assert!(
        matches!(&error, IntakeError::UnknownSubject(subject) if subject == "X2"),
        "{error}"
    );
    assert!(company.directory.identity("X2").await.unwrap().is_none());
}

/// Takes all of them in at once, each on a task of its own.
pub(super) async fn at_once(
    company: &Company,
    events: Vec<BusinessEvent>,
) -> Vec<Result<EventReport, IntakeError>> {
    let mut deliveries = tokio::task::JoinSet::new();
    for event in events {
        let intake = company.intake.clone();
        deliveries.spawn(async move { intake.event(&event, &actor("api"), now()).await });
    }
    deliveries.join_all().await
}

async fn one_event_delivered_many_times_at_once_is_new_once(company: &Company) {
    let _node = company.node().await;
    for round in 0..5 {
        let hire = event(
            &format!("e{round}"),
            EventType::Hire,
            &format!("X{round}"),
            1,
            0,
        );
        let reports = at_once(company, vec![hire; 8]).await;
        let reports = reports.into_iter().map(Result::unwrap);
        let new: Vec<_> = reports.filter(|report| report.new).collect();
        assert_eq!((new.len(), new[0].cases.len()), (1, 1));
    }
    company.closed(5).await;
    assert_eq!(company.cases().await.len(), 5);
}

async fn what_is_said_at_once_about_somebody_new_is_put_in_order(company: &Company) {
    for round in 0..10 {
        let subject = format!("X{round}");
        let said = (1..=4).map(|version| {
            let id = format!("e{round}.{version}");
            let mut hire = event(&id, EventType::Hire, &subject, version, 30);
            hire.data = json!({ "attributes": { "name": "X", "department": version.to_string() } });
            hire
        });
        for report in at_once(company, said.collect()).await {
            assert!(report.unwrap().new);
        }
        let person = company.directory.identity(&subject).await.unwrap().unwrap();
        let standing: Vec<_> = person
            .events
            .iter()
            .filter(|event| event.status == EventStatus::Waiting)
            .map(|event| event.version)
            .collect();
        assert_eq!(standing, [4], "{:?}", person.events);
    }
    let due = company
        .intake
        .start_due(now() + TimeDelta::days(31))
        .await
        .unwrap();
    assert_eq!(due.cases, BTreeMap::from([("joiner".to_owned(), 10)]));
    for round in 0..10 {
        let person = company
            .directory
            .identity(&format!("X{round}"))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(person.identity.attributes["department"], "4");
    }
}

async fn what_changed_alone_changes_access(company: &Company) {
    let _node = company.node().await;
    let take = async |event_type: EventType, version: i64, days: i64, data: serde_json::Value| {
        let mut said = event(&format!("e{version}"), event_type, "X1", version, days);
        said.data = data;
        let report = company.intake.event(&said, &actor("api"), now()).await;
        report.unwrap().status
    };
    let attributes = json!({ "attributes": { "name": "X", "department": "Sales" } });
    take(EventType::Hire, 1, 0, attributes).await;
    company.closed(1).await;
    let to = |department: &str| json!({ "changes": { "department": { "to": department } } });
    // Known before what comes next, and holds later.
    let waits = take(EventType::Transfer, 3, 30, to("Support")).await;
    assert_eq!(waits, Some(EventStatus::Waiting));
    let manager = json!({ "to": { "key": "M1" } });
    take(EventType::ManagerChanged, 4, 0, manager).await;
    // Said before all of that, and late.
    take(EventType::Transfer, 2, 0, to("Engineering")).await;
    company.closed(3).await;
    let person = async || {
        company
            .directory
            .identity("X1")
            .await
            .unwrap()
            .unwrap()
            .identity
    };
    let then = person().await;
    assert_eq!(
        json!(then.attributes),
        json!({ "name": "X", "department": "Engineering", "manager": "M1" })
    );
    assert_eq!(company.ldap.shown(), ["x1: on engineers staff"]);
    company
        .intake
        .start_due(now() + TimeDelta::days(31))
        .await
        .unwrap();
    assert_eq!(person().await.attributes["department"], "Support");
    // Statements of all attributes are newer when their version is.
    let all = json!({ "attributes": { "name": "X", "department": "Sales" } });
    take(EventType::Transfer, 5, 40, all.clone()).await;
    assert_eq!(person().await.attributes["department"], "Support");
    company
        .intake
        .start_due(now() + TimeDelta::days(41))
        .await
        .unwrap();
    assert_eq!(json!(person().await.attributes), all["attributes"]);
    take(
        EventType::ProjectStart,
        6,
        0,
        json!({ "project": "apollo" }),
    )
    .await;
    assert_eq!(
        json!(person().await.attributes["projects"]),
        json!(["apollo"])
    );
}

async fn what_is_not_effective_yet_waits_and_holds_nothing_up(company: &Company) {
    let take = async |event: BusinessEvent| {
        company
            .intake
            .event(&event, &actor("api"), now())
            .await
            .unwrap()
    };
    take(event("e1", EventType::Hire, "X1", 1, 0)).await;
    let end = take(event("e2", EventType::TerminationScheduled, "X1", 2, 30)).await;
    assert_eq!(end.status, Some(EventStatus::Waiting));
    assert_eq!(end.cases, []);
    let soon = company
        .intake
        .start_due(now() + TimeDelta::days(29))
        .await
        .unwrap();
    assert_eq!(soon.cases.len(), 0);
    assert!(soon.next.is_some());
    // A transfer meanwhile starts at once.
    assert_eq!(
        take(event("e3", EventType::Transfer, "X1", 3, 0))
            .await
            .cases
            .len(),
        1
    );
    let due = company
        .intake
        .start_due(now() + TimeDelta::days(31))
        .await
        .unwrap();
    assert_eq!(due.cases, BTreeMap::from([("leaver".to_owned(), 1)]));
    assert_eq!(due.next, None);
    let again = company
        .intake
        .start_due(now() + TimeDelta::days(31))
        .await
        .unwrap();
    assert_eq!(again.cases.len(), 0);
}

async fn a_cancelled_end_never_starts(company: &Company) {
    let take = async |event: BusinessEvent| {
        company
            .intake
            .event(&event, &actor("api"), now())
            .await
            .unwrap()
    };
    take(event("e1", EventType::Hire, "X1", 1, 0)).await;
    take(event("e2", EventType::TerminationScheduled, "X1", 2, 30)).await;
    take(event("e3", EventType::TerminationCancelled, "X1", 3, 0)).await;
    let due = company
        .intake
        .start_due(now() + TimeDelta::days(60))
        .await
        .unwrap();
    assert_eq!(due, Due::default());
    let person = company.directory.identity("X1").await.unwrap().unwrap();
    let scheduled = person
        .events
        .iter()
        .find(|event| event.event_id == "e2")
        .unwrap();
    assert_eq!(scheduled.status, EventStatus::Superseded);
}

async fn an_older_statement_does_not_overwrite_a_newer_one(company: &Company) {
    let take = async |event: BusinessEvent| {
        company
            .intake
            .event(&event, &actor("api"), now())
            .await
            .unwrap()
    };
    take(event("e1", EventType::Hire, "X1", 1, 0)).await;
    let mut newer = event("e3", EventType::Transfer, "X1", 3, 0);
    newer.data = json!({ "attributes": { "name": "X1", "department": "Engineering" } });
    take(newer).await;
    take(event("e2", EventType::Transfer, "X1", 2, 0)).await;
    let person = company.directory.identity("X1").await.unwrap().unwrap();
    assert_eq!(person.identity.attributes["department"], "Engineering");
    assert_eq!(person.identity.attributes_version, 3);
}

async fn the_clock_starts_what_waits(company: &Company) {
    let hire = event("e1", EventType::Hire, "X1", 1, 0);
    company
        .intake
        .event(&hire, &actor("api"), now())
        .await
        .unwrap();
    let (node, news) = (
        Arc::new(tokio::sync::Notify::new()),
        Arc::new(tokio::sync::Notify::new()),
    );
    let intake = company.intake.clone();
    let (clock, woken, told) = (
        Arc::new(engine::runner::SystemClock),
        Arc::clone(&node),
        Arc::clone(&news),
    );
    let keeper = tokio::spawn(async move { intake.keep_starting(clock, woken, told).await });
    let mut soon = event("e2", EventType::Transfer, "X1", 2, 0);
    soon.effective_at = now() + TimeDelta::milliseconds(300);
    let report = company
        .intake
        .event(&soon, &actor("api"), now())
        .await
        .unwrap();
    assert_eq!(report.status, Some(EventStatus::Waiting));
    news.notify_one();
    tokio::time::timeout(std::time::Duration::from_secs(20), node.notified())
        .await
        .unwrap();
    assert!(now() >= soon.effective_at);
    assert_eq!(company.directory.waiting_events(9).await.unwrap(), []);
    keeper.abort();
}

/// Twelve months of a real company, every file twice.
async fn a_real_feed_is_taken_in(company: &Company) {
    let root = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let data = std::env::var_os("TENURE_DATA")
        .map_or_else(|| root.join("../shared/data"), std::path::PathBuf::from);
    let Ok(folder) = std::fs::read_dir(data.join("cert-r5.2")) else {
        assert!(
            std::env::var_os("TENURE_DATA").is_none(),
            "TENURE_DATA names no data"
        );
        return;
    };
    let mut files: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let text = std::fs::read_to_string(root.join("tests/cert/config/sources/hr.yaml")).unwrap();
    let source = Source::load("hr.yaml", &text).unwrap();
    let (mut joiners, mut leavers, mut movers) = (0, 0, 0);
    for file in &files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let bytes = std::fs::read(file).unwrap();
        let input = SnapshotInput {
            file: &name,
            ..SnapshotInput::default()
        };
        let import = async || {
            company
                .intake
                .import(&source, bytes.as_slice(), &input, &actor("ann"), now())
                .await
                .unwrap()
        };
        let report = import().await;
        assert_eq!(report.status, ImportStatus::Applied, "{name}");
        let cases = |workflow: &str| report.cases.get(workflow).copied().unwrap_or(0);
        assert_eq!(
            cases("joiner") + cases("mover") + cases("leaver"),
            report.created + report.changed + report.removed
        );
        joiners += cases("joiner");
        leavers += cases("leaver");
        movers += cases("mover");
        assert_eq!(import().await.status, ImportStatus::Unchanged, "{name}");
    }
    assert_eq!((files.len(), joiners, leavers), (12, 2_000, 142));
    assert!(movers > 1_000, "{movers}");
}

on_both_databases! {
    the_clock_starts_what_waits,
    a_real_feed_is_taken_in,
    the_same_file_twice_changes_nothing,
    one_person_gets_one_case_however_much_changed,
    what_happens_again_on_one_day_counts_again,
    an_older_file_is_refused,
    a_mass_of_leavers_waits_for_a_person,
    a_rejected_or_outdated_difference_is_not_applied,
    an_event_is_taken_in_once,
    one_event_delivered_many_times_at_once_is_new_once,
    what_is_said_at_once_about_somebody_new_is_put_in_order,
    what_changed_alone_changes_access,
    what_is_not_effective_yet_waits_and_holds_nothing_up,
    a_cancelled_end_never_starts,
    an_older_statement_does_not_overwrite_a_newer_one,
}
