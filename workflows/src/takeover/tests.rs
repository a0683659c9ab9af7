//! Accounts that were there before, with real cases on both databases.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::time::Duration;

use super::*;
use crate::correlation::Correlation;
use crate::directory::{AccountStatus, GrantStatus};
use crate::intake::IntakeError;
use crate::policy::HeldBy;
use crate::policy::guard::Operation;
use crate::testbed::{Company, ROLES, actor, now, on_both_databases, policy};

const FOUR: [&str; 4] = [
    "A1,Ann Ox,Sales",
    "B2,Bob Lamb,Engineering",
    "C3,Cid,Sales",
    "D4,Dot,Sales",
];

fn rules() -> Correlation {
    let text = "
link_at: 100
ask_at: 60
owner: role:hr
rules:
  - { name: name, attributes: [name, cn], compare: name, agrees: 60, close: 60, differs: -50 }
  - { name: key, attributes: [employee, number], compare: identifier, agrees: 50 }
";
    Correlation::load("correlation.yaml", text).unwrap()
}

async fn accounts_are_adopted_in_waves_as_they_were_shown(company: &Company) {
    company.ldap.put_account("ann.ox", Some("A1"));
    company.ldap.give("ann.ox", "staff");
    company.ldap.give("ann.ox", "admins");
    company.ldap.put_account("bob", None);
    company.ldap.set_attribute("bob", "cn", "Lamb, Robert");
    company.ldap.put_account("cid", Some("C3"));
    company.ldap.put_account("printer", None);
    // Nobody works yet: whoever has no account would be given one.
    company.import("2026-01-01", &FOUR).await;
    let systems = company.actions.systems_shared();
    let system = systems.get("ldap").unwrap();
    let rules = rules();
    let look = async |filter: &WaveFilter| {
        let found = wave(&company.directory, system, Some(&rules), filter).await;
        found.unwrap()
    };
    let sales = WaveFilter {
        with: [("department".to_owned(), "Sales".to_owned())].into(),
        left: false,
    };
    let shown = look(&sales).await;
    let names: Vec<&str> = shown.adoptable.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(
        (names, shown.accounts, shown.managed),
        (vec!["ann.ox", "cid"], 4, 0)
    );
    assert_eq!(shown.nobodys, ["printer"]);
    let doubtful: Vec<(&str, &str)> = shown
        .doubtful
        .iter()
        .map(|it| (it.name.as_str(), it.candidates[0].key.as_str()))
        .collect();
    assert_eq!(doubtful, [("bob", "B2")], "a name alone is a guess");
    assert_eq!(shown.id, look(&sales).await.id);
    let first = look(&sales).await.first(1);
    assert!(first.adoptable.len() == 1 && first.id != shown.id);
    assert_eq!(company.ldap.effects(), Vec::<String>::new());

    let by = actor("ann");
    let report = company
        .intake
        .adopt(&shown, &by, "cut-over", now())
        .await
        .unwrap();
    assert_eq!((report.adopted, report.skipped.len()), (2, 0));
    let again = company
        .intake
        .adopt(&shown, &by, "cut-over", now())
        .await
        .unwrap();
    assert_eq!((again.adopted, again.skipped.len()), (0, 2));
    let node = company.node().await;
    company.settled(&node).await;
    let ann = company.directory.holdings("A1").await.unwrap().unwrap();
    let account = ann.accounts.iter().find(|it| it.system == "ldap").unwrap();
    assert_eq!(
        (account.name.as_str(), account.status),
        ("ann.ox", AccountStatus::Active)
    );
    let grant = |name: &str| {
        let mut grants = ann.grants.iter();
        grants
            .find(|it| it.system == "ldap" && it.entitlement == name)
            .map(|it| (it.status, it.held_by))
    };
    assert_eq!(
        grant("admins"),
        Some((GrantStatus::Active, HeldBy::Unmanaged)),
        "policy takes nothing it did not give"
    );
    assert_eq!(
        grant("sellers"),
        Some((GrantStatus::Active, HeldBy::Policy))
    );
    let mut made: Vec<String> = company
        .ldap
        .effects()
        .into_iter()
        .filter(|it| it.starts_with("create"))
        .collect();
    made.sort();
    assert_eq!(
        made,
        ["create b2", "create d4"],
        "whoever has an account gets no second"
    );
    let rest = look(&WaveFilter::default()).await;
    assert_eq!((rest.managed, rest.adoptable.len()), (4, 0));
    // Whose account it was nobody knew: it is told, now that there are two.
    assert_eq!(rest.doubtful.len() + rest.nobodys.len(), 2);
    node.drain(Duration::from_secs(5)).await.unwrap();
}

async fn accounts_of_people_who_left_are_closed_when_they_are_adopted(company: &Company) {
    let node = company.node().await;
    company.import("2026-01-01", &FOUR).await;
    company.settled(&node).await;
    company.import("2026-02-01", &FOUR[1..]).await;
    company.settled(&node).await;
    company
        .run_sql("DELETE FROM account WHERE identity_key = 'A1' AND system = 'ldap'")
        .await;
    company.ldap.open("a1");
    let systems = company.actions.systems_shared();
    let system = systems.get("ldap").unwrap();
    let here = wave(&company.directory, system, None, &WaveFilter::default())
        .await
        .unwrap();
    assert_eq!((here.adoptable.len(), here.left_out), (0, 1));
    let filter = WaveFilter {
        left: true,
        ..WaveFilter::default()
    };
    let all = wave(&company.directory, system, None, &filter)
        .await
        .unwrap();
    assert_eq!((all.adoptable.len(), all.adoptable[0].stays), (1, false));
    company
        .intake
        .adopt(&all, &actor("ann"), "orphans", now())
        .await
        .unwrap();
    company.settled(&node).await;
    assert!(
        company.ldap.shown().contains(&"a1: off".to_owned()),
        "{:?}",
        company.ldap.shown()
    );
    node.drain(Duration::from_secs(5)).await.unwrap();
}

/// One more seller by adoption, and no more.
const ONE_SELLER: &str = "
guard:
  limits: [{ operation: grant.give, by: entitlement, count_max: 1, sources: [adoption] }]
  protected: [{ key: D4 }]
";

async fn a_wave_that_is_too_much_waits_for_a_person(company: &Company) {
    for (name, owner) in [("ann.ox", "A1"), ("cid", "C3"), ("dot", "D4")] {
        company.ldap.put_account(name, Some(owner));
    }
    company.import("2026-01-01", &FOUR).await;
    company.policy.set(policy(&format!("{ROLES}{ONE_SELLER}")));
    let systems = company.actions.systems_shared();
    let system = systems.get("ldap").unwrap();
    let look = async |most: usize| {
        let found = wave(&company.directory, system, None, &WaveFilter::default()).await;
        found.unwrap().first(most)
    };
    let (ann, eve) = (actor("ann"), actor("eve"));
    let intake = &company.intake;
    let all = look(9).await;
    let shown = intake.wave_effects(&all, now()).await.unwrap();
    let told = "3 of 4 people would get a right, `ldap/sellers`; the limit is 1".to_owned();
    assert!(shown.stopped_by.contains(&told), "{:?}", shown.stopped_by);
    assert_eq!(shown.blast.count(Operation::IdentityChange, "all", ""), 3);
    // One at a time is two at once.
    let first = look(1).await;
    assert_eq!(
        intake
            .wave_effects(&first, now())
            .await
            .unwrap()
            .stopped_by
            .len(),
        0
    );
    let report = intake.adopt(&first, &ann, "one", now()).await.unwrap();
    assert_eq!((report.adopted, report.difference_id), (1, None));
    let rest = look(9).await;
    assert_eq!(rest.adoptable.len(), 2);
    let report = intake.adopt(&rest, &ann, "the rest", now()).await.unwrap();
    assert_eq!(report.adopted, 0);
    let told = "3 of 4 people would get a right, `ldap/sellers`, 1 of them by what came within the window before; the limit is 1";
    assert!(
        report.stopped_by.contains(&told.to_owned()),
        "{:?}",
        report.stopped_by
    );
    let shown = report.difference_id.unwrap();
    let waiting = company
        .directory
        .snapshots(Some("adoption:ldap"), true, 9)
        .await;
    let waiting = waiting.unwrap();
    assert_eq!((waiting.len(), waiting[0].row_count), (1, 2));
    // Rejected, it may be asked for again; under another policy it would do something else.
    intake.reject(&shown, &eve, "not yet", now()).await.unwrap();
    let again = intake.adopt(&rest, &ann, "the rest", now()).await.unwrap();
    assert_eq!(again.difference_id.as_ref(), Some(&shown));
    let more = ROLES.replace("entitlement: sellers }", "entitlement: sales }");
    company.policy.set(policy(&format!("{more}{ONE_SELLER}")));
    let error = intake.approve(&shown, &eve, now()).await.unwrap_err();
    let IntakeError::PlanChanged { now: asked, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(look(9).await.id, rest.id, "nothing was adopted");
    let report = intake.approve(&asked, &eve, now()).await.unwrap();
    assert_eq!(report.events["account.adopted"], 2);
    assert_eq!(look(9).await.adoptable.len(), 0);
    assert!(matches!(
        intake.approve(&asked, &eve, now()).await,
        Err(IntakeError::Decided { .. })
    ));
    let adopted = company.directory.holdings("D4").await.unwrap().unwrap();
    assert_eq!(adopted.accounts.len(), 1);
}

/// Of accounts that are adopted many would be closed.
async fn a_wave_that_would_close_too_many_accounts_waits(company: &Company) {
    let people: Vec<String> = (0..60)
        .map(|number| format!("L{number:02},Name {number},Sales"))
        .collect();
    let rows: Vec<&str> = people.iter().map(String::as_str).collect();
    company.import("2026-01-01", &rows).await;
    company
        .run_sql(
            "UPDATE identity SET status = 'departed' WHERE identity_key < 'L20'; DELETE FROM inbox",
        )
        .await;
    for number in 0..60 {
        let key = format!("L{number:02}");
        company.ldap.put_account(&format!("x{number}"), Some(&key));
    }
    let systems = company.actions.systems_shared();
    let filter = WaveFilter {
        left: true,
        ..WaveFilter::default()
    };
    let found = wave(
        &company.directory,
        systems.get("ldap").unwrap(),
        None,
        &filter,
    )
    .await;
    let report = company
        .intake
        .adopt(&found.unwrap(), &actor("ann"), "orphans", now())
        .await
        .unwrap();
    assert_eq!(
        report.stopped_by,
        ["20 of 60 people would lose an account on `ldap`; the limit is 20.0 %"]
    );
    assert_eq!(report.adopted, 0);
}

on_both_databases! {
    a_wave_that_is_too_much_waits_for_a_person,
    a_wave_that_would_close_too_many_accounts_waits,
    accounts_are_adopted_in_waves_as_they_were_shown,
    accounts_of_people_who_left_are_closed_when_they_are_adopted,
}
