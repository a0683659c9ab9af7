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
    assert_eq!(second.acquire(OTHER, LEASE_MS, &[]).await.unwrap(), []);
    // Nor does a node take its own again.
    assert_eq!(store.acquire(NODE, LEASE_MS, &[]).await.unwrap(), []);
    let rows = store.shards().await.unwrap();
    assert_eq!(rows.len(), SHARDS as usize);
    for row in rows {
        assert_eq!((row.epoch, row.owner.as_deref()), (Epoch(1), Some(NODE)));
        assert!(row.lease_until.is_some());
    }
}

pub(super) async fn shards_are_never_shared_by_nodes_that_come_at_once(database: &Database) {
    const NODES: usize = 6;
    database.ready().await;
    let mut racers = tokio::task::JoinSet::new();
    for number in 0..NODES {
        let store = database.open().await;
        racers.spawn(async move {
            store
                .acquire(&format!("node-{number}"), LEASE_MS, &[])
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
    let leases = store.acquire(NODE, 0, &[]).await.unwrap();
    // Nobody took them: they can still be extended, and then they are not free any more.
    store.renew(NODE, &leases, LEASE_MS).await.unwrap();
    assert_eq!(store.acquire(OTHER, LEASE_MS, &[]).await.unwrap(), []);
    store.renew(NODE, &leases, 0).await.unwrap();
    let taken = store.acquire(OTHER, LEASE_MS, &[]).await.unwrap();
    assert_eq!(taken.len(), SHARDS as usize);
    assert!(taken.iter().all(|lease| lease.epoch == Epoch(2)));
    let error = store.renew(NODE, &leases, LEASE_MS).await.unwrap_err();
    assert!(matches!(error, StoreError::Fenced { .. }), "{error:?}");
}

pub(super) async fn a_dead_node_is_replaced_at_once(database: &Database) {
    let (store, _) = database.owned().await;
    let nobody = ["somebody else".to_owned()];
    assert_eq!(store.acquire(OTHER, LEASE_MS, &nobody).await.unwrap(), []);
    let replaces = ["somebody else".to_owned(), NODE.to_owned()];
    let taken = store.acquire(OTHER, LEASE_MS, &replaces).await.unwrap();
    assert_eq!(taken.len(), SHARDS as usize);
    assert!(taken.iter().all(|lease| lease.epoch == Epoch(2)));
}

pub(super) async fn a_renewal_is_for_all_or_none(database: &Database) {
    let store = database.ready().await;
    let leases = store.acquire(NODE, 0, &[]).await.unwrap();
    let mut wrong = leases.clone();
    wrong[3].epoch = Epoch(0);
    let error = store.renew(NODE, &wrong, LEASE_MS).await.unwrap_err();
    assert!(
        matches!(error, StoreError::Fenced { shard } if shard == leases[3].shard),
        "{error:?}"
    );
    let error = store.renew(OTHER, &leases, LEASE_MS).await.unwrap_err();
    assert!(matches!(error, StoreError::Fenced { .. }), "{error:?}");
    store.renew(NODE, &[], LEASE_MS).await.unwrap();
    // None was extended: all are still free.
    let taken = store.acquire(OTHER, LEASE_MS, &[]).await.unwrap();
    assert_eq!(taken.len(), SHARDS as usize);
}

pub(super) async fn released_shards_are_free_at_once(database: &Database) {
    let (store, leases) = database.owned().await;
    // Neither another node nor an older epoch can give them away.
    store.release(OTHER, &leases).await.unwrap();
    store.release(NODE, &older(&leases)).await.unwrap();
    assert_eq!(store.acquire(OTHER, LEASE_MS, &[]).await.unwrap(), []);
    store.release(NODE, &leases[..5]).await.unwrap();
    let rows = store.shards().await.unwrap();
    assert_eq!(rows.iter().filter(|row| row.owner.is_none()).count(), 5);
    assert_eq!(
        rows.iter().filter(|row| row.lease_until.is_none()).count(),
        5
    );
    let taken = store.acquire(OTHER, LEASE_MS, &[]).await.unwrap();
    let shards: Vec<ShardId> = taken.iter().map(|lease| lease.shard).collect();
    assert_eq!(shards, all_shards()[..5]);
}
