//! Bringing everybody under a policy that came into force, on both databases.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use engine::core::case::CaseState;

use super::*;
use crate::policies::Proposed;
use crate::testbed::{Company, ROLES, actor, now, on_both_databases, policy, schema};

/// Everybody is in the group of the house; those in Sales are sellers.
pub(super) const HOUSE: &str = r#"
roles:
  - { name: staff, when: "true", accounts: [ldap, scim], grants: [{ system: ldap, entitlement: house }] }
  - name: sellers
    when: has(identity.department) && identity.department == "Sales"
    grants: [{ system: ldap, entitlement: sellers }]
accounts:
  - { system: ldap, name: lower(identity.key) + suffix(n), attributes: { title: "has(identity.department) ? identity.department : 'none'" } }
  - { system: scim, name: lower(identity.key) }
"#;

pub(super) struct World<'a> {
    company: &'a Company,
    policies: Policies,
    pub rollouts: Rollouts,
}

impl<'a> World<'a> {
    pub fn of(company: &'a Company) -> Self {
        let directory = company.directory.clone();
        let policies = Policies::new(directory.clone(), schema(&["ldap", "scim"]));
        let rollouts = Rollouts::new(
            directory,
            policies.clone(),
            Arc::clone(&company.definitions),
            company.actions.systems_shared(),
        );
        Self {
            company,
            policies,
            rollouts,
        }
    }

    /// Puts a policy into force, as a node does that starts with it; says whether it is.
    pub async fn propose(&self, text: &str) -> bool {
        let proposed = Proposed {
            policy: policy(text),
            files: vec![("roles.yaml".to_owned(), text.to_owned())],
        };
        let decides = self
            .policies
            .propose(&proposed, &actor("node:a"), now())
            .await
            .unwrap();
        let is_in_force = decides.hash() == proposed.policy.hash();
        if is_in_force {
            self.company.policy.set(Arc::clone(&decides));
            self.company.actions.set_policy(decides);
        }
        is_in_force
    }

    /// Approves a policy that waits.
    pub async fn approve_policy(&self, text: &str) {
        let hash = policy(text).hash().to_owned();
        let rows = self.company.directory.policies().await.unwrap();
        let waiting = rows.iter().find(|row| row.policy_hash == hash).unwrap();
        self.policies
            .approve(&waiting.difference_id, &actor("eve"), Some("yes"), now())
            .await
            .unwrap();
        self.company.actions.set_policy(policy(text));
    }

    pub async fn advance(&self, text: &str) -> Advance {
        self.rollouts.advance(&policy(text), now()).await.unwrap()
    }

    pub async fn row(&self) -> RolloutRow {
        self.company.directory.rollouts().await.unwrap().remove(0)
    }

    /// Goes on until there is nothing to do; gives how many cases were started.
    pub async fn finished(&self, text: &str) -> u64 {
        let mut started = 0;
        for _ in 0..100 {
            let advance = self.advance(text).await;
            started += advance.started;
            if !advance.more {
                return started;
            }
        }
        panic!("{:?}", self.row().await);
    }
}

pub(super) fn people(count: usize, department: &str) -> Vec<String> {
    (0..count)
        .map(|number| format!("E{number:04},Name {number},{department}"))
        .collect()
}

pub(super) async fn import(company: &Company, day: &str, rows: &[String]) {
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    company.import(day, &rows).await;
}

/// The cases of a rollout.
async fn moved(company: &Company) -> Vec<(String, CaseState, String)> {
    let mut cases = Vec::new();
    for case in company.cases().await {
        if case.head.input.get("rollout").is_some() {
            let (subject, by) = (case.head.subject.0, case.head.initiator.0);
            cases.push((subject, case.state.state, by));
        }
    }
    cases.sort_by(|a, b| a.0.cmp(&b.0));
    cases
}

async fn everybody_comes_under_a_new_policy(company: &Company) {
    let world = World::of(company);
    assert!(world.propose(ROLES).await);
    // The first policy of all changes nobody.
    assert_eq!(company.directory.rollouts().await.unwrap(), []);
    let node = company.node().await;
    let mut rows = people(3, "Sales");
    rows.push("E0009,Name 9,Engineering".to_owned());
    import(company, "2026-03-01", &rows).await;
    company.settled(&node).await;
    assert_eq!(company.ldap.shown()[0], "e0000: on sellers staff");
    assert!(world.propose(HOUSE).await);
    assert_eq!(world.row().await.status, RolloutStatus::Pending);
    // A node that does not decide by it yet does nothing.
    assert_eq!(world.advance(ROLES).await, Advance::default());
    assert_eq!(world.finished(HOUSE).await, 4);
    let row = world.row().await;
    assert_eq!(
        (row.status, row.people, row.looked, row.started),
        (RolloutStatus::Done, 4, 4, 4)
    );
    company.settled(&node).await;
    assert_eq!(
        company.ldap.shown(),
        [
            "e0000: on house sellers",
            "e0001: on house sellers",
            "e0002: on house sellers",
            "e0009: on house",
        ]
    );
    let cases = moved(company).await;
    assert!(
        cases
            .iter()
            .all(|(_, state, by)| *state == CaseState::Succeeded && by == "node:a"),
        "{cases:?}"
    );
    // Everybody is in line.
    assert!(world.propose(ROLES).await);
    assert_eq!(world.finished(ROLES).await, 4);
    company.settled(&node).await;
    assert!(world.propose(HOUSE).await);
    assert!(world.propose(ROLES).await);
    let rows = company.directory.rollouts().await.unwrap();
    assert_eq!(rows[1].status, RolloutStatus::Superseded);
    assert_eq!(world.finished(ROLES).await, 0);
    assert_eq!(company.cases().await.len(), 12);
    node.drain(std::time::Duration::from_secs(5)).await.unwrap();
}

/// Two nodes that look at the same page, and one that ends between two pages.
async fn nobody_is_started_twice_and_nobody_is_left_out(company: &Company) {
    let world = World::of(company);
    assert!(world.propose(ROLES).await);
    let count = 2 * usize::try_from(ROLLOUT_PAGE).unwrap() + 50;
    import(company, "2026-03-01", &people(count, "Sales")).await;
    // As after their joiners.
    company
        .run_sql("UPDATE identity SET status = 'active'; DELETE FROM inbox")
        .await;
    // Too much for the guard, twice: what policy wants otherwise, and then what nobody holds yet.
    assert!(!world.propose(HOUSE).await);
    world.approve_policy(HOUSE).await;
    assert_eq!(world.advance(HOUSE).await, Advance::default());
    let waiting = world.row().await;
    assert_eq!(waiting.status, RolloutStatus::Waiting);
    let before = world
        .rollouts
        .approve(&waiting.rollout_id, &actor("eve"), "they begin", now())
        .await
        .unwrap();
    let other = World::of(company);
    let mut started = 0;
    loop {
        let (a, b) = tokio::join!(world.advance(HOUSE), other.advance(HOUSE));
        started += a.started + b.started;
        if !a.more && !b.more {
            break;
        }
    }
    assert_eq!(started, count as u64);
    let row = world.row().await;
    assert_eq!(
        (row.status, row.looked, row.started),
        (RolloutStatus::Done, count as u64, count as u64)
    );
    let shards: Vec<ShardId> = (0..256).map(ShardId).collect();
    let inbox = company.store.inbox(&shards, 1_000).await.unwrap();
    assert_eq!(inbox.len(), count);
    // Whoever read it long ago writes nothing.
    let late = RolloutRow {
        revision: before.revision + 1,
        ..before
    };
    let moved = company
        .directory
        .move_rollout(&late, None, inbox, Remainder::default())
        .await;
    assert!(!moved.unwrap());
    assert_eq!(world.row().await, row);
}

/// A policy that changed before anybody was looked at: what people hold is far from what the next one wants.
async fn what_is_too_much_waits_for_a_person(company: &Company) {
    let world = World::of(company);
    let node = company.node().await;
    import(company, "2026-03-01", &people(60, "Sales")).await;
    company.settled(&node).await;
    assert!(world.propose(HOUSE).await);
    let small = HOUSE.replace(
        "accounts:\n",
        "  - { name: nobody, when: \"false\", accounts: [scim] }\naccounts:\n",
    );
    assert!(world.propose(&small).await);
    assert_eq!(world.finished(&small).await, 0);
    let row = world.row().await;
    assert_eq!(row.status, RolloutStatus::Waiting);
    let told = row.stopped_by.clone().unwrap();
    assert!(
        told.contains(&"60 of 60 people would lose a right; the limit is 30.0 %".to_owned()),
        "{told:?}"
    );
    let shown = row.difference_id.clone().unwrap();
    assert!(matches!(
        world
            .rollouts
            .approve(&shown, &actor("eve"), "  ", now())
            .await,
        Err(RolloutError::Reason)
    ));
    // Somebody left meanwhile: what was shown is not what would be done.
    import(company, "2026-03-02", &people(59, "Sales")).await;
    let error = world
        .rollouts
        .approve(&shown, &actor("eve"), "yes", now())
        .await;
    let RolloutError::Changed { now: asked } = error.unwrap_err() else {
        panic!("{shown}");
    };
    assert_eq!(world.finished(&small).await, 0);
    let approved = world
        .rollouts
        .approve(&asked, &actor("eve"), "we know", now())
        .await
        .unwrap();
    assert_eq!(approved.approved_by.as_deref(), Some("eve"));
    // Held in the middle, and going on: what was approved is not asked about again.
    let id = approved.rollout_id;
    let pause = world
        .rollouts
        .pause(&id, &actor("bob"), "busy", now())
        .await;
    assert_eq!(pause.unwrap().paused_by.as_deref(), Some("bob"));
    assert_eq!(world.finished(&small).await, 0);
    assert!(matches!(
        world
            .rollouts
            .pause(&id, &actor("bob"), "busy", now())
            .await,
        Err(RolloutError::NotSo { .. })
    ));
    world
        .rollouts
        .resume(&id, &actor("bob"), "quiet", now())
        .await
        .unwrap();
    assert_eq!(world.finished(&small).await, 59);
    let changes = company.directory.rollout_changes(&id).await.unwrap();
    let changes: Vec<String> = changes
        .iter()
        .map(|change| format!("{} {} {}", change.change, change.actor, change.reason))
        .collect();
    assert_eq!(
        changes,
        ["approve eve we know", "pause bob busy", "resume bob quiet"]
    );
    company.settled(&node).await;
    assert_eq!(company.ldap.shown()[0], "e0000: on house sellers");
    let cases = moved(company).await;
    assert!(cases.iter().all(|(_, _, by)| by == "eve"), "{cases:?}");
    assert!(matches!(
        world
            .rollouts
            .reject(&id, &actor("eve"), "late", now())
            .await,
        Err(RolloutError::NotSo { .. })
    ));
    node.drain(std::time::Duration::from_secs(5)).await.unwrap();
}

/// What a person approved with the policy, and what nobody approved about somebody who is protected.
async fn what_was_approved_with_the_policy_is_not_asked_about_again(company: &Company) {
    let world = World::of(company);
    let protected = "guard:\n  protected: [{ key: E0001 }]\n";
    let (old, new) = (format!("{ROLES}{protected}"), format!("{HOUSE}{protected}"));
    assert!(world.propose(&old).await);
    let node = company.node().await;
    import(company, "2026-03-01", &people(3, "Sales")).await;
    company.settled(&node).await;
    assert!(!world.propose(&new).await);
    world.approve_policy(&new).await;
    assert_eq!(world.finished(&new).await, 3);
    company.settled(&node).await;
    assert_eq!(company.ldap.shown()[1], "e0001: on house sellers");
    // Rejected, everybody keeps what they have.
    assert!(!world.propose(&old).await);
    world.approve_policy(&old).await;
    let id = world.row().await.rollout_id;
    world
        .rollouts
        .reject(&id, &actor("eve"), "not yet", now())
        .await
        .unwrap();
    assert_eq!(world.finished(&old).await, 0);
    assert_eq!(world.row().await.status, RolloutStatus::Rejected);
    assert_eq!(company.cases().await.len(), 6);
    node.drain(std::time::Duration::from_secs(5)).await.unwrap();
}

on_both_databases! {
    everybody_comes_under_a_new_policy,
    nobody_is_started_twice_and_nobody_is_left_out,
    what_is_too_much_waits_for_a_person,
    what_was_approved_with_the_policy_is_not_asked_about_again,
}
