//! The node dies at every commit and at every call of a connector, before its effect and after it, one death a rotation. Another
//! node goes on. What must hold is looked at after every change on the way ([`super::world`]); at the end one login works, the other
//! is out of use without a secret, and the place keeps one version.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use engine::store::{Outcome, OutcomeKind, Projection, StoreError, Transaction};
use tokio::sync::Notify;

use super::Shop;
use crate::directory::DirectoryProjection;
use crate::rotation::{Exposed, Phase};
use crate::testbed::on_both;

/// The shortest lease: the next node waits for it to end.
pub(super) const LEASE_MS: u32 = 1_000;
/// More deaths than any rotation has moments.
pub(super) const DEATHS_MAX: u32 = 200;

/// Where the node dies.
#[derive(Clone, Copy)]
pub(super) enum Death {
    /// At a call of a connector, before its effect or after it.
    Call { has_effect: bool },
    /// While a batch is written: it is not.
    Commit,
}

/// Dies with the batch of a number.
pub(super) struct Dying {
    batches: AtomicU32,
    last: u32,
    dies: Arc<Notify>,
}

impl Dying {
    /// In the batch of the number `last`; in none, with 0.
    pub(super) fn with(last: u32, dies: &Arc<Notify>) -> Arc<Self> {
        Arc::new(Self {
            batches: AtomicU32::new(0),
            last,
            dies: Arc::clone(dies),
        })
    }
}

#[async_trait]
impl Projection for Dying {
    fn wants(&self, _: &OutcomeKind) -> bool {
        true
    }

    async fn project(
        &self,
        transaction: &mut Transaction<'_>,
        outcomes: &[Outcome],
    ) -> Result<(), StoreError> {
        if self.batches.fetch_add(1, Ordering::SeqCst) + 1 == self.last {
            self.dies.notify_one();
            std::future::pending::<()>().await;
        }
        DirectoryProjection.project(transaction, outcomes).await
    }
}

/// One rotation whose node dies at the moment of a number; gives whether it came to that moment.
pub(super) async fn rotated(shop: &Shop, death: Death, moment: u32) -> bool {
    rotated_because(shop, None, death, moment).await
}

/// As above, perhaps because strangers know one of two.
pub(super) async fn rotated_because(
    shop: &Shop,
    exposed: Option<Exposed>,
    death: Death,
    moment: u32,
) -> bool {
    let last = match death {
        Death::Call { has_effect } => {
            shop.world.die_at(shop.world.calls() + moment, has_effect);
            0
        }
        Death::Commit => moment,
    };
    let dying = Dying::with(last, &shop.world.dies);
    shop.say(exposed).await.unwrap();
    let node = shop.company.node_anew(dying, LEASE_MS).await;
    let died = tokio::select! {
        () = shop.world.dies.notified() => true,
        _ = shop.until(&node, Phase::Closed) => false,
    };
    drop(node);
    shop.world.gone.notify_waiters();
    if died {
        let projection = Arc::new(DirectoryProjection);
        let node = shop.company.node_anew(projection, LEASE_MS).await;
        shop.until(&node, Phase::Closed).await;
        node.drain(Duration::from_secs(10)).await.unwrap();
    }
    died
}

async fn every(on_postgres: bool, mode: &str, death: Death, step: usize) {
    let shop = Shop::open(on_postgres, mode, "every: 30d").await;
    let directory = &shop.company.directory;
    let mut deaths = 0;
    for moment in (1..DEATHS_MAX).step_by(step) {
        directory.start_rotations(super::start()).await.unwrap();
        let before = shop.world.shown("password");
        let died = rotated(&shop, death, moment).await;
        let (user, other) = match shop.world.shown("user").as_str() {
            _ if mode == "two_slot" => ("app: 1 of 1 keys", None),
            "app_a" => ("app_a: on secret", Some("app_b: off none")),
            "app_b" => ("app_b: on secret", Some("app_a: off none")),
            _ => ("app: on secret", None),
        };
        let mut expected: Vec<&str> = other.into_iter().chain([user]).collect();
        expected.sort_unstable();
        expected.push("kept: 1");
        assert_eq!(shop.world.told(), expected, "moment {moment}");
        assert_ne!(shop.world.shown("password"), before, "moment {moment}");
        if !died {
            break;
        }
        deaths += 1;
    }
    assert!(deaths >= if step == 1 { 4 } else { 2 }, "{deaths}");
    shop.company.remove().await;
}

/// On PostgreSQL a few moments; the transactions are the same.
pub(super) fn step(on_postgres: bool) -> usize {
    if on_postgres { 7 } else { 1 }
}

async fn alternating_before_every_effect(on_postgres: bool) {
    let death = Death::Call { has_effect: false };
    every(on_postgres, "alternating", death, step(on_postgres)).await;
}

async fn alternating_after_every_effect(on_postgres: bool) {
    let death = Death::Call { has_effect: true };
    every(on_postgres, "alternating", death, step(on_postgres)).await;
}

async fn alternating_at_every_commit(on_postgres: bool) {
    every(on_postgres, "alternating", Death::Commit, 1).await;
}

async fn one_slot_before_every_effect(on_postgres: bool) {
    let death = Death::Call { has_effect: false };
    every(on_postgres, "single_slot", death, step(on_postgres)).await;
}

async fn one_slot_after_every_effect(on_postgres: bool) {
    let death = Death::Call { has_effect: true };
    every(on_postgres, "single_slot", death, step(on_postgres)).await;
}

async fn one_slot_at_every_commit(on_postgres: bool) {
    every(on_postgres, "single_slot", Death::Commit, 1).await;
}

async fn two_slots_before_every_effect(on_postgres: bool) {
    let death = Death::Call { has_effect: false };
    every(on_postgres, "two_slot", death, step(on_postgres)).await;
}

async fn two_slots_after_every_effect(on_postgres: bool) {
    let death = Death::Call { has_effect: true };
    every(on_postgres, "two_slot", death, step(on_postgres)).await;
}

async fn two_slots_at_every_commit(on_postgres: bool) {
    every(on_postgres, "two_slot", Death::Commit, 1).await;
}

on_both! {
    two_slots_before_every_effect,
    two_slots_after_every_effect,
    two_slots_at_every_commit,
    alternating_before_every_effect,
    alternating_after_every_effect,
    alternating_at_every_commit,
    one_slot_before_every_effect,
    one_slot_after_every_effect,
    one_slot_at_every_commit,
}
