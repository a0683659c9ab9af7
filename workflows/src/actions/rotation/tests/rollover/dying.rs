//! The node dies at every commit and at every call of a connector, before its effect and after it, one death a rollover. Another
//! node goes on. What must hold is looked at after every change on the way ([`super::world`]); at the end one authority is there, it
//! is another one, and what is served is of it. With `TENURE_LONG` at every moment on both databases; without, on SQLite at every
//! commit and at every third call, on PostgreSQL at a few of each: the transactions are the same.

use std::sync::Arc;
use std::time::Duration;

use super::super::dying::{Death, Dying, LEASE_MS};
use super::{AUTHORITY, Realm, SPEED, TRUSTS};
use crate::directory::DirectoryProjection;
use crate::rotation::Phase;
use crate::testbed::on_both;

/// More deaths than any rollover has moments.
const DEATHS_MAX: u32 = 600;
/// Into how many tests the moments are divided, so that they run beside each other.
const PARTS: u32 = 4;

/// One rollover whose node dies at the moment of a number; gives whether it came to that moment.
async fn replaced(realm: &Realm, death: Death, moment: u32) -> bool {
    let world = &realm.world;
    let last = match death {
        Death::Call { has_effect } => {
            world.die_at(world.calls() + moment, has_effect);
            0
        }
        Death::Commit => moment,
    };
    let dying = Dying::with(last, &world.dies);
    realm.ask(AUTHORITY, false).await;
    let node = realm.company.node_anew(dying, LEASE_MS).await;
    let died = tokio::select! {
        () = world.dies.notified() => true,
        _ = realm.until(&node, AUTHORITY, Phase::Closed) => false,
    };
    drop(node);
    if died {
        let projection = Arc::new(DirectoryProjection);
        let node = realm.company.node_anew(projection, LEASE_MS).await;
        realm.until(&node, AUTHORITY, Phase::Closed).await;
        node.drain(Duration::from_secs(10)).await.unwrap();
    }
    died
}

async fn every(on_postgres: bool, death: Death, part: u32) {
    let realm = Realm::open(on_postgres, SPEED, "every: 90d", "every: 30d").await;
    let stride = match death {
        _ if std::env::var_os("TENURE_LONG").is_some() => 1,
        _ if on_postgres => 7,
        Death::Commit => 1,
        Death::Call { .. } => 3,
    };
    let step = PARTS * stride;
    let mut deaths = 0;
    for moment in (1 + part..DEATHS_MAX).step_by(usize::try_from(step).unwrap()) {
        realm.plan().await;
        let before = realm.world.generations().await;
        let leaf = realm.world.server.shown();
        let died = replaced(&realm, death, moment).await;
        let after = realm.world.generations().await;
        assert_eq!(after.len(), 1, "moment {moment}");
        assert_ne!(after, before, "moment {moment}");
        let shown = realm.world.server.shown();
        assert_ne!(shown, leaf, "moment {moment}");
        let issued = realm.world.issued_to("web").await;
        assert_eq!(issued, Vec::from_iter(shown), "moment {moment}");
        assert_eq!(realm.trusts(), (1, 1), "moment {moment}");
        for place in TRUSTS {
            assert_eq!(realm.world.kept(place).await, 1, "{place}, moment {moment}");
        }
        realm.holds();
        if !died {
            break;
        }
        deaths += 1;
    }
    assert!(deaths >= if on_postgres { 1 } else { 2 }, "{deaths}");
    realm.company.remove().await;
}

/// Tests of each part of the moments.
macro_rules! parts {
    ($($name:ident: $death:expr, $part:expr;)*) => {
        $(async fn $name(on_postgres: bool) {
            every(on_postgres, $death, $part).await;
        })*
        on_both! { $($name,)* }
    };
}

parts! {
    before_every_effect_1: Death::Call { has_effect: false }, 0;
    before_every_effect_2: Death::Call { has_effect: false }, 1;
    before_every_effect_3: Death::Call { has_effect: false }, 2;
    before_every_effect_4: Death::Call { has_effect: false }, 3;
    after_every_effect_1: Death::Call { has_effect: true }, 0;
    after_every_effect_2: Death::Call { has_effect: true }, 1;
    after_every_effect_3: Death::Call { has_effect: true }, 2;
    after_every_effect_4: Death::Call { has_effect: true }, 3;
    at_every_commit_1: Death::Commit, 0;
    at_every_commit_2: Death::Commit, 1;
    at_every_commit_3: Death::Commit, 2;
    at_every_commit_4: Death::Commit, 3;
}
