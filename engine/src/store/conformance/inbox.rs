//! What comes from outside.

use super::build::*;
use super::*;

pub(super) async fn a_message_is_put_once(database: &Database) {
    let store = database.ready().await;
    let first = message(1, Lane::Normal, 5);
    let changed = InboxRow {
        body: "{}".to_owned(),
        received_at: at(9),
        ..first.clone()
    };
    store
        .put_inbox(&[first.clone(), changed.clone()])
        .await
        .unwrap();
    store.put_inbox(&[changed]).await.unwrap();
    store.put_inbox(&[]).await.unwrap();
    assert_eq!(store.inbox(&all_shards(), 10).await.unwrap(), [first]);
}

pub(super) async fn revocations_come_first_then_the_oldest(database: &Database) {
    let store = database.ready().await;
    let messages = [
        message(1, Lane::Revocation, 30),
        message(2, Lane::Revocation, 40),
        message(3, Lane::Normal, 10),
        message(4, Lane::Normal, 20),
        message(5, Lane::Normal, 20),
    ];
    let shuffled = [4, 0, 3, 1, 2].map(|index| messages[index].clone());
    store.put_inbox(&shuffled).await.unwrap();
    let shards = all_shards();
    assert_eq!(store.inbox(&shards, 10).await.unwrap(), messages);
    assert_eq!(store.inbox(&shards, 3).await.unwrap(), messages[..3]);
    assert_eq!(
        store.inbox(&[ShardId(4), ShardId(2)], 10).await.unwrap(),
        [messages[1].clone(), messages[3].clone()]
    );
    assert_eq!(store.inbox(&[], 10).await.unwrap(), []);
}

pub(super) async fn a_batch_takes_messages_out_and_answers_them(database: &Database) {
    let (store, leases) = database.owned().await;
    let (used, kept) = (message(1, Lane::Normal, 1), message(2, Lane::Normal, 2));
    store
        .put_inbox(&[used.clone(), kept.clone()])
        .await
        .unwrap();
    let reply = |accepted, message: &str| ReplyRow {
        shard: used.shard,
        id: used.id,
        at: at(3),
        accepted,
        message: message.to_owned(),
    };
    let answers = batch(&leases, |batch| {
        batch.inbox_done.push((used.shard, used.id));
        batch.replies.push(reply(true, "done 'well' \u{1f600}"));
    });
    store.commit(&answers, &NoProjection).await.unwrap();
    assert_eq!(store.inbox(&all_shards(), 10).await.unwrap(), [kept]);
    let found = store.reply(used.shard, used.id).await.unwrap();
    assert_eq!(found, Some(reply(true, "done 'well' \u{1f600}")));
    // The first answer stays, and taking out what is not there is no error.
    let again = batch(&leases, |batch| {
        batch.inbox_done.push((used.shard, used.id));
        batch.replies.push(reply(false, "no"));
    });
    store.commit(&again, &NoProjection).await.unwrap();
    assert_eq!(store.reply(used.shard, used.id).await.unwrap(), found);
    assert_eq!(
        store.reply(used.shard, Uuid::from_u128(99)).await.unwrap(),
        None
    );
}

pub(super) async fn old_answers_are_forgotten(database: &Database) {
    let (store, leases) = database.owned().await;
    let reply = |number: u128, micros| ReplyRow {
        shard: ShardId(1),
        id: Uuid::from_u128(number),
        at: at(micros),
        accepted: false,
        message: String::new(),
    };
    let replies = [reply(1, 10), reply(2, 20)];
    let answers = batch(&leases, |batch| batch.replies.extend(replies.clone()));
    store.commit(&answers, &NoProjection).await.unwrap();
    store.forget_replies(at(20)).await.unwrap();
    assert_eq!(store.reply(ShardId(1), replies[0].id).await.unwrap(), None);
    assert_eq!(
        store.reply(ShardId(1), replies[1].id).await.unwrap(),
        Some(replies[1].clone())
    );
}

/// Puts a mark into the database and a message into the inbox, then fails if it is told to.
struct Marks {
    message: InboxRow,
    fails: bool,
}

#[async_trait]
impl Work for Marks {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let mark = Execute {
            postgres: "INSERT INTO engine_meta (name, value) VALUES ('mark', 'x')",
            sqlite: "INSERT INTO engine_meta (name, value) VALUES ('mark', 'x')",
        };
        mark.on(transaction).await;
        match self.fails {
            true => Err(StoreError::Projection("no".to_owned())),
            false => Ok(vec![self.message.clone()]),
        }
    }
}

pub(super) async fn work_and_its_messages_are_one(database: &Database) {
    let store = database.ready().await;
    let message = message(1, Lane::Normal, 1);
    store
        .write(&Marks {
            message: message.clone(),
            fails: false,
        })
        .await
        .unwrap();
    assert_eq!(store.inbox(&all_shards(), 10).await.unwrap(), [message]);
    // The mark is there: it can be taken away, and then put again.
    let delete = "DELETE FROM engine_meta WHERE name = 'mark'";
    database.execute(&*store, delete, delete).await;
}

pub(super) async fn failed_work_leaves_nothing(database: &Database) {
    let store = database.ready().await;
    let message = message(1, Lane::Normal, 1);
    for _ in 0..2 {
        // The second time would fail otherwise if the mark of the first had stayed.
        let work = Marks {
            message: message.clone(),
            fails: true,
        };
        let error = store.write(&work).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::Projection(why) if why == "no"),
            "{error:?}"
        );
    }
    let bad = InboxRow {
        body: "a\u{0}".to_owned(),
        ..message.clone()
    };
    let error = store
        .write(&Marks {
            message: bad,
            fails: false,
        })
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Unstorable { .. }), "{error:?}");
    assert_eq!(store.inbox(&all_shards(), 10).await.unwrap(), []);
    store
        .write(&Marks {
            message,
            fails: false,
        })
        .await
        .unwrap();
}

pub(super) async fn a_message_that_no_database_keeps_is_refused(database: &Database) {
    let store = database.ready().await;
    let good = message(1, Lane::Normal, 1);
    for body in [
        "a\u{0}b",
        r#"{"subject":"a\u0000b"}"#,
        r#"{"subject":"\\\u0000"}"#,
    ] {
        let bad = InboxRow {
            body: body.to_owned(),
            ..message(2, Lane::Normal, 1)
        };
        let error = store.put_inbox(&[good.clone(), bad]).await.unwrap_err();
        assert!(
            matches!(
                error,
                StoreError::Unstorable {
                    column: "inbox.body",
                    ..
                }
            ),
            "{body}: {error:?}"
        );
        assert_eq!(store.inbox(&all_shards(), 10).await.unwrap(), []);
    }
    // A backslash before the letters is no escape.
    let fine = InboxRow {
        body: r#"{"path":"C:\\u0000"}"#.to_owned(),
        ..good
    };
    store.put_inbox(std::slice::from_ref(&fine)).await.unwrap();
    assert_eq!(store.inbox(&all_shards(), 10).await.unwrap(), [fine]);
}

pub(super) async fn the_rest_of_the_inbox_can_be_left_out(database: &Database) {
    let store = database.ready().await;
    let messages = [
        message(1, Lane::Revocation, 10),
        message(2, Lane::Revocation, 30),
        message(3, Lane::Normal, 20),
        message(3, Lane::Normal, 40),
    ];
    let messages = messages.map(|row| InboxRow {
        id: Uuid::from_u128(row.received_at.timestamp_subsec_micros().into()),
        ..row
    });
    store.put_inbox(&messages).await.unwrap();
    let shards = all_shards();
    let since = |seconds| store.inbox_since(&shards, Some(at(seconds)), 10);
    assert_eq!(since(0).await.unwrap(), messages);
    assert_eq!(
        since(20).await.unwrap(),
        messages[1..],
        "the moment itself counts"
    );
    assert_eq!(since(31).await.unwrap(), messages[3..]);
    assert_eq!(since(41).await.unwrap(), []);
}

/// Whoever is given fewer than were asked for may rely on it that nothing is left.
pub(super) async fn fewer_than_the_limit_are_all(database: &Database) {
    let store = database.ready().await;
    let mut messages = Vec::new();
    for number in 0..90 {
        messages.push(InboxRow {
            id: Uuid::from_u128(number),
            ..message(1, Lane::Normal, 5)
        });
    }
    store.put_inbox(&messages).await.unwrap();
    let shards = all_shards();
    assert_eq!(store.inbox(&shards, 91).await.unwrap(), messages);
    assert_eq!(store.inbox(&shards, 90).await.unwrap(), messages);
    assert_eq!(store.inbox(&shards, 80).await.unwrap().len(), 80);
}
