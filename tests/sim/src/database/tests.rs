//! The suite of the real stores, on this one.

use engine::runner::SystemClock;
use engine::store::conformance::{Database as Given, TESTS};
use sqlx::{Connection, SqliteConnection};

use super::*;

const META: &str = "CREATE TABLE engine_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)";

async fn database() -> Given {
    let mut side = SqliteConnection::connect("sqlite::memory:").await.unwrap();
    sqlx::raw_sql(META).execute(&mut side).await.unwrap();
    let database = Arc::new(Database::new(Arc::new(SystemClock)).beside(side));
    Given::Other(Box::new(move || Arc::clone(&database) as Arc<dyn Store>))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_as_strict_as_the_real_ones() {
    assert!(TESTS.len() > 40);
    for (name, test) in TESTS {
        // A commit takes no time here, so a reader that must see some of them while they are written sees none.
        if *name == "a_reader_never_sees_half_a_commit" {
            continue;
        }
        println!("{name}");
        let database = database().await;
        test(&database).await;
    }
}

/// The suite notices what is left unchecked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[should_panic(expected = "called `Result::unwrap_err()` on an `Ok` value")]
async fn a_fence_that_is_gone_is_noticed() {
    let unchecked = Unchecked {
        epochs: true,
        versions: false,
    };
    let database = Arc::new(Database::new(Arc::new(SystemClock)).unchecked(unchecked));
    let given = Given::Other(Box::new(move || Arc::clone(&database) as Arc<dyn Store>));
    let (_, test) = TESTS
        .iter()
        .find(|(name, _)| *name == "a_lost_shard_writes_nothing")
        .unwrap();
    test(&given).await;
}
