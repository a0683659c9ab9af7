//! Strangers know the old authority, the new one or both, said at every stage of a rollover between systems that are real. What
//! must hold is looked at after every change on the way ([`super::world`]): everybody accepts what is served, and never more than
//! two are trusted.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use engine::runner::Clock as _;

use super::super::dying::{Death, Dying, LEASE_MS};
use super::{AUTHORITY, LEAF, Realm, TRUSTS};
use crate::directory::DirectoryProjection;
use crate::nhi::declare::ReplaceMode;
use crate::rotation::{Because, Exposed, Follows, Found, Phase, follows};
use crate::testbed::on_both;

on_both! {
    while_everybody_learns_to_trust_the_new_one,
    while_everything_is_issued_anew,
    while_nobody_trusts_the_old_one_any_more,
    said_through_deaths,
}

const TERMS: &str =
    "overlap: { reload: 1h, derived: 3h }\n          soak: 7d\n          every: 900d";

/// A rollover that has come to a phase, and what follows when that is said.
async fn said_at(realm: &Realm, phase: Phase, said: Exposed) {
    let told = format!("{phase:?} {said:?}");
    let node = realm.company.node().await;
    realm.plan().await;
    let before = realm.world.generations().await;
    assert_eq!(before.len(), 1, "{told}");
    realm.ask(AUTHORITY, false).await;
    realm.until(&node, AUTHORITY, Phase::Staged).await;
    if phase != Phase::Staged {
        realm.jump(&node, realm.clock.now() + TimeDelta::hours(1));
        realm.until(&node, AUTHORITY, Phase::Overlap).await;
        realm.until(&node, LEAF, Phase::Closed).await;
    }
    if phase == Phase::OldDisabled {
        realm.jump(&node, realm.clock.now() + TimeDelta::hours(3));
        realm.until(&node, AUTHORITY, Phase::OldDisabled).await;
    }
    let made = realm.world.generations().await;
    assert_eq!((made.len(), &made[0]), (2, &before[0]), "{told}");

    assert!(realm.say(AUTHORITY, Some(said)).await, "{told}");
    let row = realm.until(&node, AUTHORITY, Phase::Closed).await;
    let found = if phase == Phase::Staged {
        Found::Made
    } else {
        Found::InUse
    };
    let after = realm.world.generations().await;
    match follows(ReplaceMode::FourPhase, found, said) {
        Follows::TakenUp => {
            assert_eq!(after, made[1..], "{told}");
            assert_eq!(row.exposed_at, None, "{told}");
        }
        Follows::Another => {
            assert!(!made.contains(&after[0]), "{told}");
            assert_eq!(row.exposed_at, None, "{told}");
        }
        Follows::TakenUpThenAnother => {
            assert_eq!(after, made[1..], "{told}");
            assert!(row.exposed_at.is_some(), "{told}");
            let begun = realm.look().await;
            assert_eq!(begun, 1, "{told}");
            let row = realm.row(AUTHORITY).await;
            assert_eq!(row.because, Some(Because::Compromised), "{told}");
            let row = realm.until(&node, AUTHORITY, Phase::Closed).await;
            assert_eq!(row.exposed_at, None, "{told}");
            let after = realm.world.generations().await;
            assert!(!made.contains(&after[0]), "{told}");
        }
    }
    realm.until(&node, LEAF, Phase::Closed).await;
    is_tidy(realm, &told).await;
    node.drain(Duration::from_secs(10)).await.unwrap();
}

/// One authority, trusted everywhere, and what is served is of it.
async fn is_tidy(realm: &Realm, told: &str) {
    realm.holds();
    assert_eq!(realm.world.generations().await.len(), 1, "{told}");
    assert_eq!(realm.trusts(), (1, 1), "{told}");
    for place in TRUSTS {
        assert_eq!(realm.world.kept(place).await, 1, "{place}, {told}");
    }
    let shown = realm.world.server.shown();
    let issued = realm.world.issued_to("web").await;
    assert_eq!(issued, Vec::from_iter(shown), "{told}");
    assert_eq!(realm.row(LEAF).await.exposed_at, None, "{told}");
    assert_eq!(realm.look().await, 0, "{told}");
}

impl Realm {
    /// Plans and begins what is due, as a node does by itself; gives how many begin.
    async fn look(&self) -> usize {
        let directory = &self.company.directory;
        let begun = directory.start_rotations(self.clock.now()).await;
        begun.unwrap().cases.len()
    }
}

/// On PostgreSQL the one that asks most: the transactions are the same.
async fn all_said_at(on_postgres: bool, phase: Phase) {
    let realm = Realm::open(on_postgres, 100, TERMS, "every: 900d").await;
    let sayings: &[Exposed] = if on_postgres {
        &[Exposed::New]
    } else {
        &Exposed::ALL
    };
    for said in sayings {
        said_at(&realm, phase, *said).await;
    }
    realm.company.remove().await;
}

async fn while_everybody_learns_to_trust_the_new_one(on_postgres: bool) {
    all_said_at(on_postgres, Phase::Staged).await;
}

async fn while_everything_is_issued_anew(on_postgres: bool) {
    all_said_at(on_postgres, Phase::Overlap).await;
}

async fn while_nobody_trusts_the_old_one_any_more(on_postgres: bool) {
    let realm = Realm::open(on_postgres, 100, TERMS, "every: 900d").await;
    said_at(&realm, Phase::OldDisabled, Exposed::Both).await;
    realm.company.remove().await;
}

/// The node dies while the new one that strangers know ends before another is made.
async fn said_through_deaths(on_postgres: bool) {
    let realm = Realm::open(on_postgres, 100, TERMS, "every: 900d").await;
    let deaths = [
        Death::Commit,
        Death::Call { has_effect: true },
        Death::Call { has_effect: false },
    ];
    let moments: &[u32] = if on_postgres { &[4] } else { &[4, 16] };
    for (death, moment) in deaths
        .into_iter()
        .flat_map(|death| moments.iter().map(move |moment| (death, *moment)))
    {
        let told = format!("moment {moment}");
        realm.plan().await;
        let node = realm.company.node().await;
        realm.ask(AUTHORITY, false).await;
        realm.until(&node, AUTHORITY, Phase::Staged).await;
        node.drain(Duration::from_secs(10)).await.unwrap();
        let made = realm.world.generations().await;
        let world = &realm.world;
        let last = match death {
            Death::Call { has_effect } => {
                world.die_at(world.calls() + moment, has_effect);
                0
            }
            Death::Commit => moment,
        };
        let dying = Dying::with(last, &world.dies);
        realm.say(AUTHORITY, Some(Exposed::New)).await;
        let node = realm.company.node_anew(dying, LEASE_MS).await;
        let died = tokio::select! {
            () = world.dies.notified() => true,
            _ = realm.until(&node, AUTHORITY, Phase::Closed) => false,
        };
        assert!(died, "{told}");
        drop(node);
        let projection = Arc::new(DirectoryProjection);
        let node = realm.company.node_anew(projection, LEASE_MS).await;
        realm.until(&node, AUTHORITY, Phase::Closed).await;
        realm.until(&node, LEAF, Phase::Closed).await;
        node.drain(Duration::from_secs(10)).await.unwrap();
        let after = realm.world.generations().await;
        assert!(!made.contains(&after[0]), "{told}");
        is_tidy(&realm, &told).await;
    }
    realm.company.remove().await;
}
