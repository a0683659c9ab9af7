//! Hints between processes, which only PostgreSQL has.

use std::time::Duration;

use super::build::*;
use super::*;

async fn next(store: &dyn Store) -> Hint {
    // Far longer than a hint takes, and only a limit for the test.
    tokio::time::timeout(Duration::from_secs(20), store.hinted())
        .await
        .expect("a hint comes")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_is_told_what_was_put() {
    let database = Database::postgres().await;
    let store = database.ready().await;
    let other = database.open().await;
    // Listening begins; whatever was told before is not known.
    assert_eq!(next(&*other).await, Hint::Everything);
    store
        .put_inbox(&[message(7, Lane::Normal, 0)])
        .await
        .unwrap();
    assert_eq!(next(&*other).await, Hint::Inbox(vec![ShardId(7)]));
    store.hint_ownership();
    assert_eq!(next(&*other).await, Hint::Ownership);
    struct Messages;
    #[async_trait]
    impl Work for Messages {
        async fn run(&self, _: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
            Ok(vec![
                message(3, Lane::Normal, 0),
                message(19, Lane::Normal, 0),
            ])
        }
    }
    store.write(&Messages).await.unwrap();
    assert_eq!(next(&*other).await, Hint::Inbox(vec![ShardId(3)]));
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_told_by_itself_or_when_alone() {
    let database = Database::postgres().await;
    let store = database.ready().await;
    let other = database.open().await;
    assert_eq!(next(&*store).await, Hint::Everything);
    assert_eq!(next(&*other).await, Hint::Everything);
    let beat = |owner: &str| Heartbeat {
        owner: owner.to_owned(),
        name: String::new(),
        version: String::new(),
        address: None,
        lease_ms: LEASE_MS,
        draining: false,
    };
    // Alone, it tells nobody of its messages; only `other`'s own are seen after that.
    store.beat(&beat("a")).await.unwrap();
    store
        .put_inbox(&[message(1, Lane::Normal, 0)])
        .await
        .unwrap();
    store.beat(&beat("b")).await.unwrap();
    store
        .put_inbox(&[message(2, Lane::Normal, 0)])
        .await
        .unwrap();
    assert_eq!(next(&*other).await, Hint::Inbox(vec![ShardId(2)]));
    other
        .put_inbox(&[message(4, Lane::Normal, 0)])
        .await
        .unwrap();
    assert_eq!(next(&*store).await, Hint::Inbox(vec![ShardId(4)]));
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_was_cut_off_looks_at_everything() {
    let database = Database::postgres().await;
    let store = database.ready().await;
    let other = database.open().await;
    assert_eq!(next(&*other).await, Hint::Everything);
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE query LIKE 'LISTEN \"tenure_' || left(md5(current_schema()), 16) || '\"%'";
    database.execute(&*store, end, "").await;
    assert_eq!(next(&*other).await, Hint::Everything);
    store
        .put_inbox(&[message(5, Lane::Normal, 0)])
        .await
        .unwrap();
    assert_eq!(next(&*other).await, Hint::Inbox(vec![ShardId(5)]));
    database.drop().await;
}
