//! Damage, a database that goes away, a full disk.

use super::build::*;
use super::*;

const CASE: Numbered = Numbered(1);

pub(super) async fn a_damaged_row_is_named(database: &Database) {
    let (store, leases) = database.owned().await;
    make(&*store, &leases, CASE).await;
    let key = format!("{}/{}", CASE.shard(), CASE.case());
    let statements = [
        ("UPDATE case_head SET input = '{'", "case_head", "input"),
        (
            "UPDATE case_head SET input = '{}', lane = 'fast'",
            "case_head",
            "lane",
        ),
        (
            "UPDATE case_head SET lane = 'normal', generation = -1",
            "case_head",
            "generation",
        ),
        (
            "UPDATE case_state SET state = 'asleep'",
            "case_state",
            "state",
        ),
        (
            "UPDATE case_state SET state = 'running', ending = 'badly'",
            "case_state",
            "ending",
        ),
        (
            "UPDATE case_state SET ending = NULL, parked = -1",
            "case_state",
            "parked",
        ),
        (
            "UPDATE case_state SET parked = 0; UPDATE case_step SET attempt = -2",
            "case_step",
            "attempt",
        ),
    ];
    for (sql, table, column) in statements {
        // The head is read first, so what was damaged before is mended as it goes.
        let mend = "UPDATE case_head SET generation = 0 WHERE generation < 0";
        if table != "case_head" {
            database.execute(&*store, mend, mend).await;
        }
        database.execute(&*store, sql, sql).await;
        let error = store.load(CASE.shard(), CASE.case()).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::Corrupt { table: found, column: at, key: of, .. }
                if *found == table && *at == column && of.starts_with(&key)),
            "{sql}: {error:?}"
        );
    }
}

pub(super) async fn a_closed_store_is_unavailable(database: &Database) {
    let (store, leases) = database.owned().await;
    make(&*store, &leases, CASE).await;
    match database {
        Database::Sqlite { .. } => {
            // Without its file's folder nothing can be opened.
            let gone = SqliteStore::open(std::path::Path::new("/nowhere/at/all.sqlite")).await;
            assert!(matches!(gone.err(), Some(StoreError::Unavailable(_))));
        }
        Database::Postgres { .. } => {
            let options = PostgresOptions {
                acquire_timeout: std::time::Duration::from_millis(500),
                ..PostgresOptions::default()
            };
            // Nobody listens on the port of "discard".
            let gone = PostgresStore::connect("postgres://x@127.0.0.1:9/x", options).await;
            assert!(matches!(gone.err(), Some(StoreError::Unavailable(_))));
        }
        Database::Other(_) => panic!("this test is on a server or a file"),
    }
}

/// The server ends our sessions, as it does when it is stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_the_server_ends_is_unavailable_and_then_replaced() {
    struct EndsSessions;
    #[async_trait]
    impl Projection for EndsSessions {
        async fn project(
            &self,
            transaction: &mut Transaction<'_>,
            _: &[Outcome],
        ) -> Result<(), StoreError> {
            let Transaction::Postgres(connection) = transaction else {
                panic!("this test is on PostgreSQL");
            };
            let end = "SELECT pg_terminate_backend(pg_backend_pid())";
            let ended = sqlx::query(end).execute(&mut **connection).await;
            assert!(ended.is_err());
            Ok(())
        }
    }
    let database = Database::postgres().await;
    let (store, leases) = database.owned().await;
    prepare_everything(&*store, &leases, CASE).await;
    let before = everything(&*store, CASE).await;
    let batch = touch_everything(&leases, CASE, Numbered(2));
    let error = store.commit(&batch, &EndsSessions).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    assert_eq!(everything(&*store, CASE).await, before);
    store.commit(&batch, &NoProjection).await.unwrap();
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_file_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let database = Database::sqlite();
    let (store, leases) = database.owned().await;
    make(&*store, &leases, CASE).await;
    let Database::Sqlite { directory } = &database else {
        panic!("this test is on SQLite");
    };
    let mut files = 0;
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", entry.path().display());
        files += 1;
    }
    // The database, its log and the log's index.
    assert_eq!(files, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_takes_nothing_and_passes() {
    let database = Database::sqlite();
    let (store, leases) = database.owned().await;
    make(&*store, &leases, CASE).await;
    // As small as it is: the next page does not fit.
    database
        .execute(&*store, "", "PRAGMA max_page_count = 1")
        .await;
    let before = everything(&*store, CASE).await;
    let large = batch(&leases, |batch| {
        (10..2_000).for_each(|number| Numbered(number).birth(batch))
    });
    let error = store.commit(&large, &NoProjection).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    assert_eq!(everything(&*store, CASE).await, before);
    assert_eq!(load(&*store, Numbered(10)).await, None);
    database
        .execute(&*store, "", "PRAGMA max_page_count = 1000000")
        .await;
    store.commit(&large, &NoProjection).await.unwrap();
    assert!(load(&*store, Numbered(1_999)).await.is_some());
}

/// The command line writes beside a server that writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_programs_write_one_file() {
    const MESSAGES: u32 = 200;
    let database = Database::sqlite();
    let (store, leases) = database.owned().await;
    make(&*store, &leases, CASE).await;
    let other = database.open().await;
    let messages = tokio::spawn(async move {
        for number in 0..MESSAGES {
            other
                .put_inbox(&[message(number, Lane::Normal, 0)])
                .await
                .unwrap();
        }
    });
    for from in 1..200 {
        let moved = batch(&leases, |batch| CASE.advance(from, batch));
        store.commit(&moved, &NoProjection).await.unwrap();
    }
    messages.await.unwrap();
    assert_eq!(
        store.inbox(&all_shards(), 1_000).await.unwrap().len(),
        MESSAGES as usize
    );
    assert_eq!(load(&*store, CASE).await.unwrap().state.version, 200);
}
