//! Who owns which shard.

use super::build::*;
use super::*;
use crate::core::id::Epoch;

const OTHER: &str = "node-b";

pub(super) async fn a_shard_has_one_owner(database: &Database) {
    let (store, leases) = database.owned().await;
    assert!(leases.iter().all(|lease| lease.epoch == Epoch(1)));
    let shards: Vec<ShardId> = leases.iter().map(|lease| lease.shard).collect();
    assert_eq!(shards, all_shards());
    let second = database.open().await;
    assert_eq!(take(&*second, OTHER, LEASE_MS, &[]).await.unwrap(), []);
    // Nor does a node take its own again.
    assert_eq!(take(&*store, NODE, LEASE_MS, &[]).await.unwrap(), []);
    let rows = store.shards().await.unwrap();
    assert_eq!(rows.len(), SHARDS as usize);
    for row in rows {
        assert_eq!((row.epoch, row.owner.as_deref()), (Epoch(1), Some(NODE)));
        assert!(row.lease_until.is_some());
        let left = row.lease_left_ms.unwrap();
        assert!(
            row.is_held() && left > 0 && left <= i64::from(LEASE_MS),
            "{left}"
        );
    }
}

pub(super) async fn shards_are_never_shared_by_nodes_that_come_at_once(database: &Database) {
    const NODES: usize = 6;
    database.ready().await;
    let mut racers = tokio::task::JoinSet::new();
    for number in 0..NODES {
        let store = database.open().await;
        racers.spawn(async move {
            take(&*store, &format!("node-{number}"), LEASE_MS, &[])
                .await
                .unwrap()
        });
    }
    let mut taken: Vec<ShardLease> = racers.join_all().await.concat();
    taken.sort_by_key(|lease| lease.shard);
    let shards: Vec<ShardId> = taken.iter().map(|lease| lease.shard).collect();
    assert_eq!(shards, all_shards());
    assert!(taken.iter().all(|lease| lease.epoch == Epoch(1)));
}

pub(super) async fn a_lease_that_ran_out_is_free(database: &Database) {
    let store = database.ready().await;
    let leases = take(&*store, NODE, 0, &[]).await.unwrap();
    // Nobody took them: they can still be extended, and then they are not free any more.
    assert_eq!(store.renew(NODE, &leases, LEASE_MS).await.unwrap(), []);
    assert_eq!(take(&*store, OTHER, LEASE_MS, &[]).await.unwrap(), []);
    assert_eq!(store.renew(NODE, &leases, 0).await.unwrap(), []);
    let taken = take(&*store, OTHER, LEASE_MS, &[]).await.unwrap();
    assert_eq!(taken.len(), SHARDS as usize);
    assert!(taken.iter().all(|lease| lease.epoch == Epoch(2)));
    // The loser is told, and changes nothing.
    let lost = store.renew(NODE, &leases, LEASE_MS).await.unwrap();
    assert_eq!(lost, all_shards());
    let rows = store.shards().await.unwrap();
    assert!(rows.iter().all(|row| row.owner.as_deref() == Some(OTHER)));
}

/// Who takes some of a node's shards ends its time: the node may not go on with the others either.
pub(super) async fn a_node_whose_time_is_over_renews_nothing(database: &Database) {
    let store = database.ready().await;
    let leases = take(&*store, NODE, 0, &[]).await.unwrap();
    let wanted = Acquire {
        node: OTHER,
        lease_ms: LEASE_MS,
        replaces: &[],
        holding: &[],
        shards_max: 1,
    };
    assert_eq!(store.acquire(&wanted).await.unwrap().len(), 1);
    let lost = store.renew(NODE, &leases, LEASE_MS).await.unwrap();
    assert_eq!(lost, all_shards());
    let free = take(&*store, OTHER, LEASE_MS, &[]).await.unwrap();
    assert_eq!(free.len(), SHARDS as usize - 1);
    // Its next life begins with what it takes then.
    assert_eq!(take(&*store, NODE, LEASE_MS, &[]).await.unwrap(), []);
}

/// Renewals and takings at the same moments: a shard that another has taken is never renewed by its last owner.
pub(super) async fn a_renewal_and_a_taking_at_once_agree(database: &Database) {
    let store = database.ready().await;
    let mut leases = take(&*store, NODE, 0, &[]).await.unwrap();
    for round in 0..40 {
        assert_eq!(store.renew(NODE, &leases, 0).await.unwrap(), []);
        let other = database.open().await;
        let (lost, taken) = tokio::join!(
            store.renew(NODE, &leases, LEASE_MS),
            take(&*other, OTHER, LEASE_MS, &[])
        );
        let (lost, taken) = (lost.unwrap(), taken.unwrap());
        assert!(
            taken.is_empty() || lost.len() == SHARDS as usize,
            "round {round}: {} taken, {} of them lost",
            taken.len(),
            lost.len()
        );
        if !taken.is_empty() {
            store.release(OTHER, &taken).await.unwrap();
            leases = take(&*store, NODE, 0, &[]).await.unwrap();
        }
    }
}

pub(super) async fn a_dead_node_is_replaced_at_once(database: &Database) {
    let (store, _) = database.owned().await;
    let nobody = ["somebody else".to_owned()];
    assert_eq!(take(&*store, OTHER, LEASE_MS, &nobody).await.unwrap(), []);
    let replaces = ["somebody else".to_owned(), NODE.to_owned()];
    let taken = take(&*store, OTHER, LEASE_MS, &replaces).await.unwrap();
    assert_eq!(taken.len(), SHARDS as usize);
    assert!(taken.iter().all(|lease| lease.epoch == Epoch(2)));
}

pub(super) async fn a_renewal_extends_what_is_held_and_names_the_rest(database: &Database) {
    let store = database.ready().await;
    let leases = take(&*store, NODE, 0, &[]).await.unwrap();
    assert_eq!(
        store.renew(OTHER, &leases, LEASE_MS).await.unwrap(),
        all_shards()
    );
    assert_eq!(store.renew(NODE, &[], LEASE_MS).await.unwrap(), []);
    let mut wrong = leases.clone();
    wrong[3].epoch = Epoch(0);
    wrong[9].epoch = Epoch(2);
    let lost = store.renew(NODE, &wrong, LEASE_MS).await.unwrap();
    assert_eq!(lost, [leases[3].shard, leases[9].shard]);
    // Those two are free: nobody knows that they are held.
    let taken = take(&*store, OTHER, LEASE_MS, &[]).await.unwrap();
    let shards: Vec<ShardId> = taken.iter().map(|lease| lease.shard).collect();
    assert_eq!(shards, lost);
}

/// A node takes its share and no more, and never what it works on already.
pub(super) async fn no_more_is_taken_than_wanted(database: &Database) {
    let store = database.ready().await;
    let wanted = |shards_max| Acquire {
        node: NODE,
        lease_ms: 0,
        replaces: &[],
        holding: &[],
        shards_max,
    };
    assert_eq!(store.acquire(&wanted(0)).await.unwrap(), []);
    let first = store.acquire(&wanted(5)).await.unwrap();
    assert_eq!(first.len(), 5);
    // They have run out, and it is the owner itself that asks: what it holds stays as it is.
    let holding: Vec<ShardId> = first.iter().map(|lease| lease.shard).collect();
    let own = [NODE.to_owned()];
    let more = Acquire {
        replaces: &own,
        holding: &holding,
        ..wanted(SHARDS)
    };
    let second = store.acquire(&more).await.unwrap();
    assert_eq!(second.len(), SHARDS as usize - 5);
    assert!(second.iter().all(|lease| lease.epoch == Epoch(1)));
    assert_eq!(store.renew(NODE, &first, LEASE_MS).await.unwrap(), []);
    // What it does not know of, after an answer that was lost, it may take again.
    let forgotten = Acquire {
        replaces: &own,
        holding: &holding[1..],
        ..wanted(1)
    };
    let again = store.acquire(&forgotten).await.unwrap();
    assert_eq!((again[0].shard, again[0].epoch), (holding[0], Epoch(2)));
}

fn beat(owner: &str, lease_ms: u32) -> Heartbeat {
    Heartbeat {
        owner: owner.to_owned(),
        name: "a name".to_owned(),
        version: "1.2.3".to_owned(),
        address: Some("http://127.0.0.1:1".to_owned()),
        lease_ms,
        draining: false,
    }
}

pub(super) async fn a_node_is_known_by_its_heartbeat(database: &Database) {
    let store = database.ready().await;
    assert_eq!(store.nodes().await.unwrap(), []);
    store.beat(&beat(NODE, LEASE_MS)).await.unwrap();
    let first = store.nodes().await.unwrap();
    let row = &first[0];
    assert_eq!(
        (row.owner.as_str(), row.name.as_str(), row.version.as_str()),
        (NODE, "a name", "1.2.3")
    );
    assert_eq!(row.address.as_deref(), Some("http://127.0.0.1:1"));
    assert_eq!((row.lease_ms, row.draining), (i64::from(LEASE_MS), false));
    assert!(!row.is_silent() && row.silent_ms < 60_000, "{row:?}");
    let changed = Heartbeat {
        draining: true,
        address: None,
        ..beat(NODE, LEASE_MS)
    };
    store.beat(&changed).await.unwrap();
    store.beat(&beat(OTHER, 0)).await.unwrap();
    let second = database.open().await.nodes().await.unwrap();
    assert_eq!(second.len(), 2);
    assert_eq!(second[0].started_at, first[0].started_at);
    assert!(second[0].heartbeat_at >= first[0].heartbeat_at);
    assert_eq!((second[0].draining, &second[0].address), (true, &None));
    assert!(second[1].is_silent(), "its lease is nothing");
}

pub(super) async fn a_node_that_ended_or_died_is_forgotten(database: &Database) {
    let store = database.ready().await;
    for owner in [NODE, OTHER, "node-c"] {
        store.beat(&beat(owner, LEASE_MS)).await.unwrap();
    }
    store.forget_node(OTHER).await.unwrap();
    store.forget_silent_nodes(LEASE_MS).await.unwrap();
    let owners =
        |nodes: Vec<NodeRow>| -> Vec<String> { nodes.into_iter().map(|node| node.owner).collect() };
    let mut left = owners(store.nodes().await.unwrap());
    left.sort_unstable();
    assert_eq!(left, [NODE, "node-c"]);
    // As if they had been silent for long: one statement later than their heartbeat.
    store.forget_silent_nodes(0).await.unwrap();
    while !store.nodes().await.unwrap().is_empty() {
        store.forget_silent_nodes(0).await.unwrap();
    }
}

pub(super) async fn released_shards_are_free_at_once(database: &Database) {
    let (store, leases) = database.owned().await;
    // Neither another node nor an older epoch can give them away.
    store.release(OTHER, &leases).await.unwrap();
    store.release(NODE, &older(&leases)).await.unwrap();
    assert_eq!(take(&*store, OTHER, LEASE_MS, &[]).await.unwrap(), []);
    store.release(NODE, &leases[..5]).await.unwrap();
    let rows = store.shards().await.unwrap();
    assert_eq!(rows.iter().filter(|row| row.owner.is_none()).count(), 5);
    assert_eq!(
        rows.iter().filter(|row| row.lease_until.is_none()).count(),
        5
    );
    let taken = take(&*store, OTHER, LEASE_MS, &[]).await.unwrap();
    let shards: Vec<ShardId> = taken.iter().map(|lease| lease.shard).collect();
    assert_eq!(shards, all_shards()[..5]);
}
