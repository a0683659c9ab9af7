//! The schema over time.

use super::build::*;
use super::*;

const EXTRA: Migration = Migration {
    version: 1_000,
    name: "extra",
    postgres: "CREATE TABLE extra (id integer PRIMARY KEY); INSERT INTO extra VALUES (1);",
    sqlite: "CREATE TABLE extra (id INTEGER PRIMARY KEY); INSERT INTO extra VALUES (1);",
};

fn with_extra() -> Vec<Migration> {
    [MIGRATIONS, &[EXTRA]].concat()
}

pub(super) async fn two_at_once_are_safe(database: &Database) {
    const PROGRAMS: usize = 5;
    let mut racers = tokio::task::JoinSet::new();
    for _ in 0..PROGRAMS {
        // Opening is part of the race: a new file is made by one of them.
        let store = database.open().await;
        racers.spawn(async move { store.migrate(&with_extra(), SHARDS).await });
    }
    for done in racers.join_all().await {
        done.unwrap();
    }
    let store = database.open().await;
    assert_eq!(store.shards().await.unwrap().len(), SHARDS as usize);
}

pub(super) async fn a_second_time_changes_nothing(database: &Database) {
    let (store, leases) = database.owned().await;
    make(&*store, &leases, Numbered(1)).await;
    let before = everything(&*store, Numbered(1)).await;
    store.migrate(MIGRATIONS, SHARDS).await.unwrap();
    assert_eq!(everything(&*store, Numbered(1)).await, before);
    let shards = store.shards().await.unwrap();
    assert!(shards.iter().all(|row| row.owner.as_deref() == Some(NODE)));
}

pub(super) async fn an_older_database_is_brought_up_to_date(database: &Database) {
    let (store, leases) = database.owned().await;
    make(&*store, &leases, Numbered(1)).await;
    let newer = database.open().await;
    newer.migrate(&with_extra(), SHARDS).await.unwrap();
    assert!(load(&*newer, Numbered(1)).await.is_some());
    let insert = "INSERT INTO extra VALUES (2)";
    database.execute(&*newer, insert, insert).await;
    // The program that was there before goes on.
    let moved = batch(&leases, |batch| Numbered(1).advance(1, batch));
    store.commit(&moved, &NoProjection).await.unwrap();
}

pub(super) async fn a_newer_database_is_refused(database: &Database) {
    let store = database.open().await;
    store.migrate(&with_extra(), SHARDS).await.unwrap();
    let known = MIGRATIONS
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap();
    let error = store.migrate(MIGRATIONS, SHARDS).await.unwrap_err();
    assert!(
        matches!(error, StoreError::TooNew { found: 1_000, known: program } if program == known),
        "{error:?}"
    );
}

pub(super) async fn a_changed_migration_is_refused(database: &Database) {
    let store = database.open().await;
    store.migrate(&with_extra(), SHARDS).await.unwrap();
    let changed = Migration {
        postgres: "CREATE TABLE extra (id bigint PRIMARY KEY);",
        sqlite: "CREATE TABLE extra (id TEXT PRIMARY KEY);",
        ..EXTRA
    };
    let error = store
        .migrate(&[MIGRATIONS, &[changed]].concat(), SHARDS)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, StoreError::Migration { name, .. } if name == "extra"),
        "{error:?}"
    );
}

pub(super) async fn a_failing_migration_is_named_and_undone(database: &Database) {
    let store = database.open().await;
    let broken = Migration {
        postgres: "CREATE TABLE extra (id integer); INSERT INTO nowhere VALUES (1);",
        sqlite: "CREATE TABLE extra (id INTEGER); INSERT INTO nowhere VALUES (1);",
        ..EXTRA
    };
    let error = store
        .migrate(&[MIGRATIONS, &[broken]].concat(), SHARDS)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, StoreError::Migration { name, .. } if name == "extra"),
        "{error:?}"
    );
    // Neither half of it stayed: the mended one runs.
    store.migrate(&with_extra(), SHARDS).await.unwrap();
}

pub(super) async fn the_number_of_shards_is_fixed(database: &Database) {
    let store = database.ready().await;
    store.migrate(MIGRATIONS, SHARDS * 2).await.unwrap();
    assert_eq!(store.shard_count().await.unwrap(), SHARDS);
    assert_eq!(store.shards().await.unwrap().len(), SHARDS as usize);
}

pub(super) async fn shards_have_bounds(database: &Database) {
    let store = database.open().await;
    for shards in [0, SHARDS_MAX + 1] {
        let error = store.migrate(MIGRATIONS, shards).await.unwrap_err();
        assert!(matches!(error, StoreError::Migration { .. }), "{error:?}");
    }
    store.migrate(MIGRATIONS, 1).await.unwrap();
    assert_eq!(store.shards().await.unwrap().len(), 1);
}
