//! Hints to other processes through NOTIFY: what is new, told once, after it was committed.
//!
//! A hint is never part of a commit and nothing depends on it. One task of its own gathers what there is to tell and
//! sends it in one statement, so that a flood of messages is a trickle of notifications; whoever misses one finds
//! the same at its next look. Behind a pooler that hands sessions around, hints are lost and all else works.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::{Mutex as AsyncMutex, Notify, OnceCell};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::core::id::ShardId;
use crate::store::Hint;

/// The pause between two notifications: what gathers meanwhile is one.
const GATHER: Duration = Duration::from_millis(10);
/// The pause before another attempt to listen.
const LISTEN_PAUSE: Duration = Duration::from_secs(2);
/// How long ending waits for the last notification.
const FLUSH_LIMIT: Duration = Duration::from_millis(500);
/// More shards than this are told as "look everywhere": a notification holds 8,000 bytes.
const SHARDS_MAX: usize = 1_000;

/// Channels are shared by a whole database, schemas are not: the name says which one is meant.
const CHANNEL: &str = "SELECT 'tenure_' || left(md5(current_schema()), 16)";
const SEND: &str = "SELECT pg_notify('tenure_' || left(md5(current_schema()), 16), $1)";

pub(super) struct Hints {
    sender: Arc<Sender>,
    listener: AsyncMutex<Option<PgListener>>,
}

struct Sender {
    pool: PgPool,
    /// Tells our own notifications from those of others.
    id: String,
    news: Mutex<News>,
    wake: Notify,
    /// Whether there is anybody to tell.
    others: AtomicBool,
    task: OnceCell<Task>,
}

#[derive(Default)]
struct News {
    inbox: BTreeSet<ShardId>,
    ownership: bool,
}

/// Ends with its owner.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Hints {
    pub(super) fn new(pool: PgPool) -> Self {
        Self {
            sender: Arc::new(Sender {
                pool,
                id: Uuid::new_v4().simple().to_string(),
                news: Mutex::default(),
                wake: Notify::new(),
                others: AtomicBool::new(true),
                task: OnceCell::new(),
            }),
            listener: AsyncMutex::new(None),
        }
    }

    /// Says whether other nodes are alive; without any there is nobody to tell.
    pub(super) fn others(&self, any: bool) {
        self.sender.others.store(any, Ordering::Relaxed);
    }

    /// Messages were committed to the inbox of these shards.
    pub(super) fn inbox(&self, shards: impl Iterator<Item = ShardId>) {
        if self.sender.others.load(Ordering::Relaxed) {
            self.tell(|news| news.inbox.extend(shards));
        }
    }

    pub(super) fn ownership(&self) {
        self.tell(|news| news.ownership = true);
    }

    fn tell(&self, add: impl FnOnce(&mut News)) {
        add(&mut self.sender.news());
        self.sender.wake.notify_one();
        if self.sender.task.get().is_none() {
            let sender = Arc::downgrade(&self.sender);
            let task = tokio::spawn(async move {
                while let Some(sender) = sender.upgrade() {
                    let woken = tokio::time::timeout(LISTEN_PAUSE, sender.wake.notified()).await;
                    if woken.is_ok() {
                        sender.send().await;
                        tokio::time::sleep(GATHER).await;
                    }
                }
            });
            // Another one was quicker: this one ends as it is dropped.
            let _ = self.sender.task.set(Task(task));
        }
    }

    /// Sends what has gathered, if that is quick.
    pub(super) async fn flush(&self) {
        let _ = tokio::time::timeout(FLUSH_LIMIT, self.sender.send()).await;
    }

    /// Waits for a hint of another process.
    pub(super) async fn next(&self) -> Hint {
        let mut place = self.listener.lock().await;
        loop {
            let Some(listener) = place.as_mut() else {
                match self.sender.listen().await {
                    Ok(listener) => {
                        *place = Some(listener);
                        return Hint::Everything;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "cannot listen for hints");
                        tokio::time::sleep(LISTEN_PAUSE).await;
                        continue;
                    }
                }
            };
            match listener.try_recv().await {
                Ok(Some(notification)) => {
                    if let Some(hint) = read(notification.payload(), &self.sender.id) {
                        return hint;
                    }
                }
                // The connection was lost: what was told meanwhile is gone.
                Ok(None) => return Hint::Everything,
                Err(error) => {
                    tracing::debug!(%error, "cannot listen for hints any more");
                    *place = None;
                    tokio::time::sleep(LISTEN_PAUSE).await;
                }
            }
        }
    }

    /// Stops listening: a listener keeps its connection.
    pub(super) async fn close(&self) {
        self.flush().await;
        // Somebody who listens right now holds the place, and ends with the store.
        if let Ok(mut place) = self.listener.try_lock() {
            *place = None;
        }
    }
}

impl Sender {
    fn news(&self) -> std::sync::MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self) {
        let news = std::mem::take(&mut *self.news());
        for payload in payloads(&news, &self.id) {
            let sent = sqlx::query(SEND).bind(payload).execute(&self.pool).await;
            if let Err(error) = sent {
                tracing::debug!(%error, "a hint is lost");
            }
        }
    }

    async fn listen(&self) -> Result<PgListener, sqlx::Error> {
        let channel: String = sqlx::query_scalar(CHANNEL).fetch_one(&self.pool).await?;
        // A connection of its own: it is never given back.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .connect_lazy_with(self.pool.connect_options().as_ref().clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(&channel).await?;
        Ok(listener)
    }
}

fn payloads(news: &News, id: &str) -> Vec<String> {
    let mut payloads = Vec::new();
    if news.ownership {
        payloads.push(format!("{id} ownership"));
    }
    if news.inbox.len() > SHARDS_MAX {
        payloads.push(format!("{id} everything"));
    } else if !news.inbox.is_empty() {
        let shards: Vec<String> = news.inbox.iter().map(ShardId::to_string).collect();
        payloads.push(format!("{id} inbox {}", shards.join(" ")));
    }
    payloads
}

/// `None` for our own. What is not understood comes from another version, and is worth a look.
fn read(payload: &str, own: &str) -> Option<Hint> {
    let mut words = payload.split(' ');
    if words.next() == Some(own) {
        return None;
    }
    Some(match words.next() {
        Some("ownership") => Hint::Ownership,
        Some("inbox") => words
            .map(|word| word.parse().map(ShardId))
            .collect::<Result<_, _>>()
            .map_or(Hint::Everything, Hint::Inbox),
        _ => Hint::Everything,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests")]
    use super::*;

    #[test]
    fn what_is_told_is_what_is_read() {
        let news = |inbox: &[i32], ownership| News {
            inbox: inbox.iter().copied().map(ShardId).collect(),
            ownership,
        };
        let told = |news: &News| -> Vec<Hint> {
            payloads(news, "a")
                .iter()
                .filter_map(|payload| read(payload, "b"))
                .collect()
        };
        assert_eq!(told(&news(&[], false)), []);
        assert_eq!(
            told(&news(&[7, 3], true)),
            [Hint::Ownership, Hint::Inbox(vec![ShardId(3), ShardId(7)])]
        );
        let many: Vec<i32> = (0..2_000).collect();
        assert_eq!(told(&news(&many, false)), [Hint::Everything]);
        assert!(payloads(&news(&many[..SHARDS_MAX], false), &"x".repeat(32))[0].len() < 8_000);
        assert_eq!(read("a inbox 1", "a"), None);
        assert_eq!(read("", "a"), Some(Hint::Everything));
        assert_eq!(read("b inbox one", "a"), Some(Hint::Everything));
    }
}
