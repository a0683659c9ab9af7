//! The guard, on both databases: what is stopped, what passes, and what a person decides about it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]
use chrono::NaiveDate;

use super::tests::event;
use super::*;
use crate::directory::{EventStatus, IdentityStatus};
use crate::policies::{Policies, PolicyError, Proposed};
use crate::policy::guard::Operation;
use crate::sources::{EventType, Limits};
use crate::testbed::{Company, actor, now, on_both_databases, policy, schema};

/// People with keys from `from` on, each as a row of the source.
fn people(from: usize, count: usize, department: &str) -> Vec<String> {
    (from..from + count)
        .map(|number| format!("E{number:04},Name {number},{department}"))
        .collect()
}

async fn import(company: &Company, day: &str, rows: &[String]) -> ImportReport {
    try_import(company, day, rows).await.unwrap()
}

async fn try_import(
    company: &Company,
    day: &str,
    rows: &[String],
) -> Result<ImportReport, IntakeError> {
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    company.try_import(day, &rows).await
}

fn reasons(report: &ImportReport) -> Vec<String> {
    match &report.status {
        ImportStatus::WaitingForApproval { reasons, .. }
        | ImportStatus::Previewed { reasons, .. } => reasons.clone(),
        ImportStatus::Applied | ImportStatus::Unchanged => Vec::new(),
    }
}

async fn employed(company: &Company) -> usize {
    let counts = company.directory.identity_counts().await.unwrap();
    let here = counts
        .into_iter()
        .filter(|(status, _)| matches!(status, IdentityStatus::Active | IdentityStatus::Expected));
    here.map(|(_, count)| usize::try_from(count).unwrap()).sum()
}

/// HR answered with success and an empty list.
async fn success_returned_with_an_empty_list_read_as_everyone_left(company: &Company) {
    import(company, "2026-03-01", &people(0, 60, "Sales")).await;
    let error = try_import(company, "2026-03-02", &[]).await.unwrap_err();
    assert!(
        error.to_string().contains("the file holds nobody"),
        "{error}"
    );
    assert_eq!(employed(company).await, 60);
    // The next good file is believed.
    assert_eq!(
        import(company, "2026-03-02", &people(0, 61, "Sales"))
            .await
            .status,
        ImportStatus::Applied
    );
    assert_eq!(company.directory.doubts().await.unwrap(), []);
}

async fn a_mass_hire_of_300_under_the_limit_passes(company: &Company) {
    import(company, "2026-03-01", &people(0, 100, "Sales")).await;
    let report = import(company, "2026-03-02", &people(0, 400, "Sales")).await;
    assert_eq!(report.status, ImportStatus::Applied);
    assert_eq!(report.created, 300);
    let blast = report.blast.unwrap();
    assert_eq!(blast.count(Operation::IdentityCreate, "all", ""), 300);
    assert_eq!(
        blast.count(Operation::GrantGive, "entitlement", "ldap/sellers"),
        300
    );
}

async fn one_bad_file_in_pieces_is_stopped_like_the_whole(company: &Company) {
    import(company, "2026-03-01", &people(0, 100, "Sales")).await;
    // Three tenths may lose rights at once: in pieces, too.
    for (left, passes) in [(85, true), (70, true), (60, false)] {
        let report = import(company, "2026-03-01", &people(0, left, "Sales")).await;
        assert_eq!(
            report.status == ImportStatus::Applied,
            passes,
            "{left}: {report:?}"
        );
    }
    assert_eq!(employed(company).await, 70);
    let report = import(company, "2026-03-01", &people(0, 45, "Sales")).await;
    assert!(
        reasons(&report).iter().any(|reason| {
            reason.starts_with(
                "55 of 100 people would leave, 30 of them by what came within the window before",
            )
        }),
        "{report:?}"
    );
    // What a person looked at does not count against what comes next.
    let difference = report.difference_id.unwrap();
    company
        .intake
        .approve(&difference, &actor("eve"), now())
        .await
        .unwrap();
    assert_eq!(
        import(company, "2026-03-01", &people(0, 40, "Sales"))
            .await
            .status,
        ImportStatus::Applied
    );
}

/// Everybody becomes an administrator because of one column.
const ADMINS: &str = r#"
roles:
  - { name: staff, when: "true", accounts: [ldap], grants: [{ system: ldap, entitlement: staff }] }
  - name: admins
    when: has(identity.department) && identity.department == "IT"
    grants: [{ system: ldap, entitlement: Domain Admins }]
"#;

async fn a_feed_that_makes_everybody_an_administrator_is_stopped(company: &Company) {
    company.policy.set(policy(ADMINS));
    import(company, "2026-03-01", &people(0, 60, "Sales")).await;
    // A few are fine.
    let mut rows = people(0, 50, "Sales");
    rows.extend(people(50, 10, "IT"));
    assert_eq!(
        import(company, "2026-03-02", &rows).await.status,
        ImportStatus::Applied
    );
    let report = import(company, "2026-03-03", &people(0, 60, "IT")).await;
    assert!(
        reasons(&report).contains(
            &"50 of 60 people would get a right that is privileged; the limit is 10".to_owned()
        ),
        "{report:?}"
    );
}

async fn what_was_shown_is_what_is_done(company: &Company) {
    import(company, "2026-03-01", &people(0, 40, "Sales")).await;
    let report = import(company, "2026-03-02", &people(0, 10, "Sales")).await;
    let shown = report.difference_id.clone().unwrap();
    // Meanwhile another policy is in force, under which more would be taken.
    company.policy.set(policy(ADMINS));
    let error = company
        .intake
        .approve(&shown, &actor("eve"), now())
        .await
        .unwrap_err();
    let IntakeError::PlanChanged {
        shown: old,
        now: asked,
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!(old, shown);
    assert!(matches!(
        company.intake.approve(&shown, &actor("eve"), now()).await,
        Err(IntakeError::NoSuchDifference(_))
    ));
    assert_eq!(employed(company).await, 40);
    company
        .intake
        .approve(&asked, &actor("eve"), now())
        .await
        .unwrap();
    assert_eq!(employed(company).await, 10);
}

async fn a_preview_changes_nothing_and_names_what_an_import_does(company: &Company) {
    import(company, "2026-03-01", &people(0, 40, "Sales")).await;
    let text = format!(
        "id,name,department\n{}\n",
        people(0, 10, "Sales").join("\n")
    );
    let input = SnapshotInput {
        file: "hr.csv",
        as_of: Some("2026-03-02".parse::<NaiveDate>().unwrap()),
        limits: Limits::default(),
        ..SnapshotInput::default()
    };
    let snapshot = read_snapshot(&company.source, text.as_bytes(), &input).unwrap();
    let preview = company
        .intake
        .preview(&company.source, &snapshot, &actor("ann"), now())
        .await
        .unwrap();
    assert!(!reasons(&preview).is_empty());
    assert_eq!(
        company.directory.snapshots(None, true, 10).await.unwrap(),
        []
    );
    let blast = preview.blast.as_ref().unwrap();
    assert_eq!(blast.count(Operation::AccountClose, "system", "ldap"), 30);
    let report = import(company, "2026-03-02", &people(0, 10, "Sales")).await;
    assert_eq!(report.difference_id, preview.difference_id);
}

async fn a_source_that_shrinks_or_says_an_old_thing_is_not_believed(company: &Company) {
    // A guard that would let half leave, so that only the doubt speaks.
    import(company, "2026-03-01", &people(0, 100, "Sales")).await;
    let report = import(company, "2026-03-02", &people(0, 70, "Sales")).await;
    assert!(
        reasons(&report)[0].starts_with(
            "the file has 70 rows and claims to be complete; that of 2026-03-01 had 100"
        ),
        "{report:?}"
    );
    let doubt = company.directory.doubts().await.unwrap();
    assert_eq!(doubt.len(), 1);
    assert!(
        doubt[0].reason.contains("Ask whoever delivers it"),
        "{doubt:?}"
    );
    import(company, "2026-03-03", &people(0, 110, "Sales")).await;
    assert_eq!(company.directory.doubts().await.unwrap(), []);
    let report = import(company, "2026-03-04", &people(0, 100, "Sales")).await;
    assert!(
        reasons(&report)[0].starts_with("the file says word for word what that of 2026-03-01 said"),
        "{report:?}"
    );
    // The same again for weeks: does its export still run?
    for day in ["2026-03-10", "2026-03-31"] {
        let report = import(company, day, &people(0, 110, "Sales")).await;
        assert_eq!(reasons(&report), Vec::<String>::new());
    }
    let report = import(company, "2026-04-01", &people(0, 110, "Sales")).await;
    assert!(
        reasons(&report)[0].starts_with("the source has said exactly the same since 2026-03-03"),
        "{report:?}"
    );
    let difference = report.difference_id.unwrap();
    company
        .intake
        .approve(&difference, &actor("eve"), now())
        .await
        .unwrap();
    let report = import(company, "2026-04-02", &people(0, 110, "Sales")).await;
    assert_eq!(reasons(&report), Vec::<String>::new());
}

const PROTECTED: &str = r#"
guard:
  protected:
    - { key: E0001 }
    - { when: 'has(identity.department) && identity.department == "Board"' }
"#;

async fn protected_people_are_never_stripped_without_a_name(company: &Company) {
    company.policy.set(policy(&format!("{ADMINS}{PROTECTED}")));
    let mut rows = people(0, 30, "Sales");
    rows.push("E0099,Chair,Board".to_owned());
    import(company, "2026-03-01", &rows).await;
    rows.remove(1);
    rows.pop();
    let report = import(company, "2026-03-02", &rows).await;
    assert!(
        reasons(&report)[0]
            .starts_with("`E0001`, `E0099` would lose access and are protected by the policy"),
        "{report:?}"
    );
    // Not by an event either, and not even at once.
    for (id, event_type) in [
        ("p1", EventType::TerminationEffective),
        ("p2", EventType::AccessRevokeNow),
    ] {
        let said = event(id, event_type, "E0001", 9_000_000_000, 0);
        let report = company
            .intake
            .event(&said, &actor("api"), now())
            .await
            .unwrap();
        assert_eq!(report.status, Some(EventStatus::Held));
    }
    assert_eq!(employed(company).await, 31);
    let waiting = company
        .directory
        .snapshots(Some("hr"), true, 10)
        .await
        .unwrap();
    let difference = &waiting
        .iter()
        .find(|row| row.as_of.to_string() == "2026-03-02")
        .unwrap()
        .difference_id;
    company
        .intake
        .approve(difference, &actor("eve"), now())
        .await
        .unwrap();
    assert_eq!(employed(company).await, 29);
}

async fn events_count_together_and_a_revoke_never_waits(company: &Company) {
    let source = "vms";
    let say = async |id: String, event_type, subject: &str, version| {
        let mut said = event(&id, event_type, subject, version, 0);
        said.source = source.to_owned();
        company
            .intake
            .event(&said, &actor("api"), now())
            .await
            .unwrap()
    };
    for number in 0..40 {
        let report = say(
            format!("h{number}"),
            EventType::Hire,
            &format!("X{number}"),
            1,
        )
        .await;
        assert_ne!(report.status, Some(EventStatus::Held));
    }
    // A tenth of forty may leave.
    let mut held = 0;
    for number in 0..10 {
        let report = say(
            format!("t{number}"),
            EventType::TerminationEffective,
            &format!("X{number}"),
            2,
        )
        .await;
        held += usize::from(report.status == Some(EventStatus::Held));
    }
    assert_eq!(held, 6);
    assert_eq!(employed(company).await, 36);
    // The same again is the same, and another one under its name is refused.
    let last = event("t10", EventType::TerminationEffective, "X10", 2, 0);
    for new in [true, false] {
        let report = company
            .intake
            .event(&last, &actor("api"), now())
            .await
            .unwrap();
        assert_eq!(report.new, new);
    }
    let mut other = last.clone();
    other.version = 3;
    assert!(matches!(
        company.intake.event(&other, &actor("api"), now()).await,
        Err(IntakeError::OtherEvent { .. })
    ));
    // One person, said outright, at once.
    let revoked = say("r1".to_owned(), EventType::AccessRevokeNow, "X20", 2).await;
    assert_eq!(revoked.cases.len(), 1);
    let waiting = company
        .directory
        .snapshots(Some(source), true, 10)
        .await
        .unwrap();
    assert_eq!(waiting.len(), 1);
    assert!(
        waiting[0].stopped_by.as_ref().unwrap()[0]
            .starts_with("7 changes are held back: 5 of 40 people would leave"),
        "{waiting:?}"
    );
    let pending = company
        .directory
        .pending(&waiting[0])
        .await
        .unwrap()
        .unwrap();
    assert_eq!(pending.difference.changes.len(), 7);
    let report = company
        .intake
        .approve(&waiting[0].difference_id, &actor("eve"), now())
        .await
        .unwrap();
    assert_eq!(report.events["termination.effective"], 7);
    assert_eq!(employed(company).await, 28);
    assert_eq!(
        company
            .directory
            .snapshots(Some(source), true, 10)
            .await
            .unwrap(),
        []
    );
}

async fn events_that_are_rejected_change_nothing(company: &Company) {
    company.policy.set(policy(&format!("{ADMINS}{PROTECTED}")));
    let hire = event("h1", EventType::Hire, "E0001", 1, 0);
    company
        .intake
        .event(&hire, &actor("api"), now())
        .await
        .unwrap();
    let end = event("t1", EventType::TerminationEffective, "E0001", 2, 0);
    company
        .intake
        .event(&end, &actor("api"), now())
        .await
        .unwrap();
    let waiting = company.directory.snapshots(None, true, 10).await.unwrap();
    company
        .intake
        .reject(&waiting[0].difference_id, &actor("eve"), "a slip", now())
        .await
        .unwrap();
    assert_eq!(employed(company).await, 1);
    // Said again, it is known and was decided.
    let again = company
        .intake
        .event(&end, &actor("api"), now())
        .await
        .unwrap();
    assert!(!again.new);
    assert_eq!(employed(company).await, 1);
}

fn proposed(text: &str) -> Proposed {
    Proposed {
        policy: policy(text),
        files: vec![("roles.yaml".to_owned(), text.to_owned())],
    }
}

/// The condition of the administrators was lost in an edit.
async fn a_bad_rule_would_grant_a_privileged_group_to_everybody(company: &Company) {
    company.policy.set(policy(ADMINS));
    import(company, "2026-03-01", &people(0, 60, "Sales")).await;
    let policies = Policies::new(company.directory.clone(), schema(&["ldap", "scim"]));
    let by = actor("node:a");
    let good = proposed(ADMINS);
    assert_eq!(
        policies.propose(&good, &by, now()).await.unwrap().hash(),
        good.policy.hash()
    );
    let bad = proposed(&ADMINS.replace(
        "has(identity.department) && identity.department == \"IT\"",
        "\"true\"",
    ));
    let decides = policies.propose(&bad, &by, now()).await.unwrap();
    assert_eq!(decides.hash(), good.policy.hash());
    let rows = company.directory.policies().await.unwrap();
    let waiting = rows
        .iter()
        .find(|row| row.policy_hash == bad.policy.hash())
        .unwrap();
    let told = waiting.stopped_by.as_ref().unwrap();
    assert!(
        told.contains(
            &"60 of 60 people would get a right that is privileged; the limit is 10".to_owned()
        ),
        "{told:?}"
    );
    assert!(
        told.contains(
            &"60 of 60 people would get a right, `ldap/Domain Admins`; the limit is 25.0 %"
                .to_owned()
        ),
        "{told:?}"
    );
    // Somebody more came: what was shown is not what would be done.
    let mut rows = people(0, 60, "Sales");
    rows.push("E0100,New,Sales".to_owned());
    import(company, "2026-03-02", &rows).await;
    let error = policies
        .approve(&waiting.difference_id, &actor("eve"), None, now())
        .await
        .unwrap_err();
    let PolicyError::Changed { now: asked, .. } = error else {
        panic!("{error}");
    };
    policies
        .reject(&asked, &actor("eve"), "a slip", now())
        .await
        .unwrap();
    // It is not asked about again, and goes on deciding nothing.
    let decides = policies.propose(&bad, &by, now()).await.unwrap();
    assert_eq!(decides.hash(), good.policy.hash());
    // A person may still want it.
    policies
        .approve(&asked, &actor("eve"), Some("after all"), now())
        .await
        .unwrap();
    let (row, decides) = policies.in_force().await.unwrap().unwrap();
    assert_eq!(decides.hash(), bad.policy.hash());
    assert_eq!(row.decided_by.as_deref(), Some("eve"));
    // Back again takes it from everybody.
    let decides = policies.propose(&good, &by, now()).await.unwrap();
    assert_eq!(decides.hash(), bad.policy.hash());
    // A small change comes into force by itself.
    let small = proposed(&format!(
        "{}  - {{ name: none, when: \"false\", accounts: [scim] }}\n",
        ADMINS.replace(
            "has(identity.department) && identity.department == \"IT\"",
            "\"true\""
        )
    ));
    let decides = policies.propose(&small, &by, now()).await.unwrap();
    assert_eq!(decides.hash(), small.policy.hash());
}

on_both_databases! {
    success_returned_with_an_empty_list_read_as_everyone_left,
    a_mass_hire_of_300_under_the_limit_passes,
    one_bad_file_in_pieces_is_stopped_like_the_whole,
    a_feed_that_makes_everybody_an_administrator_is_stopped,
    what_was_shown_is_what_is_done,
    a_preview_changes_nothing_and_names_what_an_import_does,
    a_source_that_shrinks_or_says_an_old_thing_is_not_believed,
    protected_people_are_never_stripped_without_a_name,
    events_count_together_and_a_revoke_never_waits,
    events_that_are_rejected_change_nothing,
    a_bad_rule_would_grant_a_privileged_group_to_everybody,
}
