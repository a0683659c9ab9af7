//! Somebody leaves who owns identities and knows a secret, in the middle of its replacement, or before.

use std::fmt::Write as _;

use serde_json::json;

use super::*;
use crate::sources::{BusinessEvent, EventType, Key};

on_both! {
    somebody_with_twelve_identities_leaves_in_the_middle_of_a_rotation,
    what_a_leaver_knows_is_replaced_because_they_leave,
    who_may_use_it_against_us_waits_for_no_overlap,
    what_somebody_knows_who_is_locked_out_is_replaced_and_nobody_is_asked,
}

/// The step of `leaver.yaml` that sees to what hangs on somebody.
const SETTLE: u16 = 9;

impl Shop {
    async fn leaves(&self, node: &NodeHandle, key: &str) {
        self.hears(node, key, EventType::TerminationEffective).await;
    }

    async fn hears(&self, node: &NodeHandle, key: &str, event_type: EventType) {
        let now = self.clock.now();
        let event = BusinessEvent {
            id: format!("{key}-leaves"),
            source: "hr".to_owned(),
            event_type,
            subject: Key::new(key),
            occurred_at: now,
            effective_at: now,
            zone: "UTC".to_owned(),
            version: now.timestamp_micros(),
            supersedes: None,
            data: json!({}),
        };
        let taken = self.company.intake.event(&event, &actor("hr"), now).await;
        taken.unwrap();
        node.nudge();
    }

    /// What the pieces of work of a leaver gave, until all of them are done.
    async fn settled(&self, node: &NodeHandle, pieces: usize) -> Vec<serde_json::Value> {
        for _ in 0..1_000 {
            let case = self.company.case("leaver", "B2").await;
            let outputs = self.company.outputs(case.head.case, SETTLE).await;
            let done: Vec<_> = outputs
                .into_iter()
                .filter(|it| it["do"].is_string())
                .collect();
            if done.len() == pieces {
                return done;
            }
            node.nudge();
            // sleeps: between two looks at the case
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{}", self.company.failures().await);
    }

    async fn owned_by(&self, key: &str) -> usize {
        let filter = crate::directory::NhiFilter::default();
        let rows = self
            .company
            .directory
            .nhis(&filter, None, 100)
            .await
            .unwrap();
        rows.iter().filter(|row| row.owner == key).count()
    }
}

async fn somebody_with_twelve_identities_leaves_in_the_middle_of_a_rotation(on_postgres: bool) {
    let shop = Shop::open(on_postgres, "alternating", IN_TIME).await;
    let mut file = String::from("nhis:\n");
    for number in 0..12 {
        let _ = writeln!(
            file,
            "  - {{key: svc-{number}, kind: bot, environment: production, purpose: works, team: shop, owner: B2, backup: A1, \
             review: 2027-01-31}}"
        );
    }
    shop.declare(&file).await;
    let node = shop.company.node().await;
    shop.ask(false).await.unwrap();
    shop.until(&node, Phase::Overlap).await;
    let old = shop.world.told();
    shop.leaves(&node, "B2").await;
    // Ownership moves at once; the secret is waited for, while both work.
    for _ in 0..1_000 {
        if shop.owned_by("A1").await == 13 {
            break;
        }
        // sleeps: between two looks at the directory
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        (shop.owned_by("A1").await, shop.owned_by("B2").await),
        (13, 0)
    );
    assert_eq!(shop.world.told(), old, "nothing is taken from production");
    // The overlap is over: the secret that they knew lets nobody in.
    shop.jump(&node, start() + TimeDelta::hours(2));
    shop.until(&node, Phase::OldDisabled).await;
    shop.jump(&node, start() + TimeDelta::hours(3));
    let done = shop.settled(&node, 2).await;
    let replaced = done.iter().find(|it| it["do"] == "rotate").unwrap();
    assert_eq!(replaced["replaced"], NAMED, "{done:?}");
    assert!(replaced["by_case"].is_string());
    let app = shop.company.directory.nhi("app").await.unwrap().unwrap();
    assert!(app.declared.credentials[0].known_by.is_empty(), "{app:?}");
    shop.close(node).await;
}

async fn what_a_leaver_knows_is_replaced_because_they_leave(on_postgres: bool) {
    let shop = Shop::open(on_postgres, "alternating", IN_TIME).await;
    let node = shop.company.node().await;
    assert_eq!(shop.row().await.phase, Phase::Scheduled);
    shop.leaves(&node, "B2").await;
    let overlap = shop.until(&node, Phase::Overlap).await;
    assert_eq!(overlap.turn.as_deref(), Some("app_b"));
    shop.jump(&node, start() + TimeDelta::hours(2));
    shop.until(&node, Phase::OldDisabled).await;
    shop.jump(&node, start() + TimeDelta::hours(3));
    let done = shop.settled(&node, 2).await;
    assert!(done.iter().any(|it| it["replaced"] == NAMED), "{done:?}");
    shop.close(node).await;
}

/// The passwords that open the database.
fn opens(shop: &Shop) -> Vec<String> {
    let mut found = Vec::new();
    for user in ["app_a", "app_b"] {
        shop.world.login(user, |login| {
            found.extend(login.password.clone().filter(|_| login.enabled));
        });
    }
    found
}

async fn who_may_use_it_against_us_waits_for_no_overlap(on_postgres: bool) {
    let shop = Shop::open(on_postgres, "alternating", IN_TIME).await;
    let node = shop.company.node().await;
    shop.ask(false).await.unwrap();
    shop.until(&node, Phase::Overlap).await;
    let new = shop.world.shown("password");
    assert_eq!(opens(&shop).len(), 2);
    // It is under way already, and takes its time; now it does not. What they cannot know goes on.
    shop.hears(&node, "B2", EventType::AccessRevokeNow).await;
    let row = shop.until(&node, Phase::Closed).await;
    assert_eq!(opens(&shop), [new]);
    assert_eq!((row.compromised, row.exposed_at), (false, None), "{row:?}");
    shop.close(node).await;
}

async fn what_somebody_knows_who_is_locked_out_is_replaced_and_nobody_is_asked(on_postgres: bool) {
    let shop = Shop::open(on_postgres, "alternating", IN_TIME).await;
    let node = shop.company.node().await;
    let old = shop.world.shown("password");
    shop.hears(&node, "B2", EventType::AccessRevokeNow).await;
    shop.until(&node, Phase::Closed).await;
    let new = shop.world.shown("password");
    assert_ne!(new, old);
    assert_eq!(opens(&shop), [new]);
    let told = shop.company.failures().await;
    let is_asked = told
        .lines()
        .any(|line| line.starts_with("lockout 11 asking"));
    assert!(!is_asked, "{told}");
    shop.close(node).await;
}
