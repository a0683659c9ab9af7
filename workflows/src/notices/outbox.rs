//! Notices in the database: read by people and by whoever delivers them.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use engine::core::id::Actor;
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::rows::{ChangeRow, DeliveryRow, DeliveryState, NoticeRow, NoticeState, Way};
use super::statements as sql;
use crate::directory::Directory;
use crate::directory::database::{Sql, execute, execute_all, stored_time_option, time_text};

/// The most notices one page of a listing holds.
pub const PAGE_ROWS_MAX: u32 = 1_000;
/// The most messages of one notice that are shown, and changes by people.
const DETAIL_ROWS_MAX: u32 = 200;
/// The most notices that one look forgets.
const FORGET_ROWS_MAX: u32 = 500;

/// The notices in the database of a directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Outbox {
    directory: Directory,
}

/// Which notices a listing wants; all that is `None` does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NoticeFilter {
    pub states: Option<Vec<NoticeState>>,
    pub name: Option<String>,
    pub case_id: Option<String>,
    pub subject: Option<String>,
}

/// Where a listing goes on: after the notice made then, with that identifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoticeCursor {
    pub created_at: DateTime<Utc>,
    pub notice_id: String,
}

/// A notice with what became of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NoticeDetail {
    pub notice: NoticeRow,
    pub deliveries: Vec<DeliveryRow>,
    pub changes: Vec<ChangeRow>,
}

/// How many notices are in a state that is not the end, and since when the oldest is due.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NoticeCount {
    pub state: NoticeState,
    pub count: u64,
    #[serde(with = "stored_time_option")]
    pub oldest: Option<DateTime<Utc>>,
}

/// What was found under the beginning of an identifier.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    None,
    One(Box<NoticeRow>),
    Several,
}

/// What came of sending a message.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Came {
    pub state: DeliveryState,
    pub due_at: DateTime<Utc>,
    pub answer: String,
    /// Whether the attempt counts.
    pub counts: bool,
}

impl Outbox {
    #[must_use]
    pub fn new(directory: Directory) -> Self {
        Self { directory }
    }

    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The newest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn list(
        &self,
        filter: &NoticeFilter,
        after: Option<&NoticeCursor>,
        limit: u32,
    ) -> Result<Vec<NoticeRow>, StoreError> {
        let parameter = json!({
            "at": after.map(|cursor| time_text(cursor.created_at)),
            "id": after.map(|cursor| &cursor.notice_id),
            "states": filter.states,
            "name": filter.name,
            "case_id": filter.case_id,
            "subject": filter.subject,
            "limit": limit.min(PAGE_ROWS_MAX),
        });
        self.directory.reader().rows(&sql::LIST, &parameter).await
    }

    /// By identifier, or by its beginning.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn find(&self, meant: &str) -> Result<Found, StoreError> {
        let meant = meant.to_ascii_lowercase();
        let named = meant.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
        if meant.is_empty() || !named {
            return Ok(Found::None);
        }
        // No identifier has a letter after `f`.
        let parameter = json!({ "from": meant, "to": format!("{meant}g") });
        let rows = self.directory.reader().rows(&sql::FIND, &parameter).await?;
        let mut rows: std::vec::IntoIter<NoticeRow> = rows.into_iter();
        Ok(match (rows.next(), rows.next()) {
            (None, _) => Found::None,
            (Some(row), None) => Found::One(Box::new(row)),
            (Some(_), Some(_)) => Found::Several,
        })
    }

    /// # Errors
    /// When the database does not answer.
    pub async fn detail(&self, notice: NoticeRow) -> Result<NoticeDetail, StoreError> {
        let parameter = json!({
            "shard_id": notice.shard_id,
            "notice_id": notice.notice_id,
            "limit": DETAIL_ROWS_MAX,
        });
        let reader = self.directory.reader();
        Ok(NoticeDetail {
            deliveries: reader.rows(&sql::DELIVERIES, &parameter).await?,
            changes: reader.rows(&sql::CHANGES, &parameter).await?,
            notice,
        })
    }

    /// Lets a notice that parked, or found nobody, be sent again.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn retry(
        &self,
        notice: &NoticeRow,
        by: &Actor,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let change = ChangeRow {
            shard_id: notice.shard_id,
            notice_id: notice.notice_id.clone(),
            at: now,
            actor: by.0.clone(),
            action: "retry".to_owned(),
            reason: reason.to_owned(),
        };
        self.directory.write(&Retry { change }).await
    }

    /// # Errors
    /// When the database does not answer.
    pub async fn counts(&self) -> Result<Vec<NoticeCount>, StoreError> {
        self.directory.reader().rows(&sql::COUNTS, &json!({})).await
    }

    /// The identifiers of those of `notices` that are there.
    pub(super) async fn known(
        &self,
        notices: &[NoticeRow],
    ) -> Result<BTreeSet<String>, StoreError> {
        if notices.is_empty() {
            return Ok(BTreeSet::new());
        }
        let wanted: Vec<Value> = notices
            .iter()
            .map(|row| json!({ "shard_id": row.shard_id, "notice_id": row.notice_id }))
            .collect();
        let rows: Vec<NoticeRow> = self.directory.reader().rows(&sql::NOTICES, &wanted).await?;
        Ok(rows.into_iter().map(|row| row.notice_id).collect())
    }

    /// Puts notices there that no transition is the reason for. Those that are there stay as they are.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn put(&self, notices: &[NoticeRow]) -> Result<(), StoreError> {
        self.directory.write(&Put(notices)).await
    }

    /// Removes what is over since before `before`; gives how many, at most a few hundred.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn forget(&self, shards: &[i32], before: DateTime<Utc>) -> Result<usize, StoreError> {
        let parameter = json!({
            "shards": shards,
            "before": time_text(before),
            "limit": FORGET_ROWS_MAX,
        });
        let over: Vec<Value> = self.directory.reader().rows(&sql::OVER, &parameter).await?;
        if !over.is_empty() {
            self.directory.write(&Forget(&over)).await?;
        }
        Ok(over.len())
    }

    pub(super) async fn due_notices(
        &self,
        shards: &[i32],
        now: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<NoticeRow>, StoreError> {
        let parameter = json!({ "shards": shards, "now": time_text(now), "limit": limit });
        let reader = self.directory.reader();
        reader.rows(&sql::DUE_NOTICES, &parameter).await
    }

    /// Writes what notices became, if they still waited.
    pub(super) async fn routed(&self, routed: &[Routed]) -> Result<(), StoreError> {
        self.directory.write(&Route(routed)).await
    }

    pub(super) async fn due_deliveries(
        &self,
        shards: &[i32],
        way: Way,
        owner: &str,
        now: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<DeliveryRow>, StoreError> {
        let parameter = json!({
            "shards": shards,
            "channel": way,
            "owner": owner,
            "now": time_text(now),
            "limit": limit,
        });
        let reader = self.directory.reader();
        reader.rows(&sql::DUE_DELIVERIES, &parameter).await
    }

    /// What is sent in one message with `first`, itself among it.
    pub(super) async fn together(
        &self,
        first: &DeliveryRow,
        limit: u32,
    ) -> Result<Vec<DeliveryRow>, StoreError> {
        if first.message_id.is_none() && !first.digest {
            return Ok(vec![first.clone()]);
        }
        let parameter = json!({
            "shard_id": first.shard_id,
            "message_id": first.message_id,
            "channel": first.channel,
            "address": first.address,
            "limit": limit,
        });
        let reader = self.directory.reader();
        reader.rows(&sql::TOGETHER, &parameter).await
    }

    pub(super) async fn notices_of(
        &self,
        deliveries: &[DeliveryRow],
    ) -> Result<Vec<NoticeRow>, StoreError> {
        let wanted: Vec<Value> = deliveries
            .iter()
            .map(|delivery| {
                json!({ "shard_id": delivery.notice_shard, "notice_id": delivery.notice_id })
            })
            .collect();
        self.directory.reader().rows(&sql::NOTICES, &wanted).await
    }

    /// Takes messages in hand; false when somebody else was first.
    pub(super) async fn claim(
        &self,
        parts: &[DeliveryRow],
        message_id: &str,
        owner: &str,
        now: DateTime<Utc>,
        hold: TimeDelta,
    ) -> Result<bool, StoreError> {
        let rows = parts
            .iter()
            .map(|part| {
                json!({
                    "shard_id": part.shard_id,
                    "delivery_id": part.delivery_id,
                    "state": part.state,
                    "attempts": part.attempts,
                    "message_id": message_id,
                    "owner": owner,
                    "until": time_text(now + hold),
                    "at": time_text(now),
                })
            })
            .collect();
        match self.directory.write(&Claim(rows)).await {
            Ok(()) => Ok(true),
            Err(StoreError::Projection(reason)) if reason == SECOND => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes what came of a message, for all its parts and their notices.
    pub(super) async fn came_of(
        &self,
        parts: &[DeliveryRow],
        message_id: &str,
        owner: &str,
        came: &Came,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let Some(first) = parts.first() else {
            return Ok(());
        };
        let sent = came.state == DeliveryState::Sent;
        let outcome = json!({
            "shard_id": first.shard_id,
            "message_id": message_id,
            "owner": owner,
            "state": came.state,
            "due_at": time_text(came.due_at),
            "answer": came.answer,
            "uncounted": u8::from(!came.counts),
            "sent_at": sent.then(|| time_text(now)),
            "at": time_text(now),
        });
        let notices = parts
            .iter()
            .map(|part| {
                json!({
                    "shard_id": part.notice_shard,
                    "notice_id": part.notice_id,
                    "at": time_text(now),
                })
            })
            .collect();
        self.directory.write(&CameOfIt { outcome, notices }).await
    }

    /// Parks what has waited for its way since before `since`.
    pub(super) async fn give_up(
        &self,
        shards: &[i32],
        way: Way,
        since: DateTime<Utc>,
        answer: &str,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let parameter = json!({
            "shards": shards,
            "channel": way,
            "since": time_text(since),
            "answer": answer,
            "at": time_text(now),
        });
        self.directory.write(&GiveUp(parameter)).await
    }

    /// When the next notice is due.
    pub(super) async fn next_notice(
        &self,
        shards: &[i32],
    ) -> Result<Option<DateTime<Utc>>, StoreError> {
        self.next(&sql::NEXT_NOTICE, &json!({ "shards": shards }))
            .await
    }

    /// When the next message of a way is due.
    pub(super) async fn next_delivery(
        &self,
        shards: &[i32],
        way: Way,
    ) -> Result<Option<DateTime<Utc>>, StoreError> {
        let parameter = json!({ "shards": shards, "channel": way });
        self.next(&sql::NEXT_DELIVERY, &parameter).await
    }

    async fn next(
        &self,
        sql: &Sql,
        parameter: &Value,
    ) -> Result<Option<DateTime<Utc>>, StoreError> {
        #[derive(Deserialize)]
        #[serde(transparent)]
        struct At(#[serde(with = "stored_time_option")] Option<DateTime<Utc>>);
        let row: Option<At> = self.directory.reader().row(sql, parameter).await?;
        Ok(row.and_then(|At(at)| at))
    }
}

/// What became of a notice when its time had come.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Routed {
    pub shard_id: i32,
    pub notice_id: String,
    pub state: NoticeState,
    pub reason: Option<String>,
    pub at: DateTime<Utc>,
    pub deliveries: Vec<DeliveryRow>,
}

/// Writes notices in an open transaction: that of the transition which is their reason.
pub(crate) async fn put_in(
    transaction: &mut Transaction<'_>,
    notices: &[NoticeRow],
) -> Result<(), StoreError> {
    execute_all(transaction, &sql::PUT_NOTICES, notices).await?;
    Ok(())
}

struct Put<'a>(&'a [NoticeRow]);

#[async_trait::async_trait]
impl Work for Put<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        put_in(transaction, self.0).await?;
        Ok(Vec::new())
    }
}

struct Route<'a>(&'a [Routed]);

#[async_trait::async_trait]
impl Work for Route<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let rows: Vec<Value> = self
            .0
            .iter()
            .map(|routed| {
                // Overdue is what should have left and did not: not what waits for a morning.
                let due = routed.deliveries.iter().map(|row| row.ready_at).min();
                json!({
                    "due_at": due.map(time_text),
                    "shard_id": routed.shard_id,
                    "notice_id": routed.notice_id,
                    "state": routed.state,
                    "reason": routed.reason,
                    "at": time_text(routed.at),
                })
            })
            .collect();
        // Identifiers follow from the notice and the address, so messages that another node made of it stay.
        let deliveries: Vec<&DeliveryRow> = self
            .0
            .iter()
            .flat_map(|routed| &routed.deliveries)
            .collect();
        execute_all(transaction, &sql::PUT_DELIVERIES, &deliveries).await?;
        execute_all(transaction, &sql::ROUTED, &rows).await?;
        Ok(Vec::new())
    }
}

/// Why a claim rolls back.
const SECOND: &str = "another node was first";

struct Claim(Vec<Value>);

#[async_trait::async_trait]
impl Work for Claim {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let touched = execute_all(transaction, &sql::CLAIM, &self.0).await?;
        if touched == self.0.len() as u64 {
            Ok(Vec::new())
        } else {
            Err(StoreError::Projection(SECOND.to_owned()))
        }
    }
}

struct CameOfIt {
    outcome: Value,
    notices: Vec<Value>,
}

#[async_trait::async_trait]
impl Work for CameOfIt {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        execute(transaction, &sql::CAME_OF_IT, &self.outcome).await?;
        execute_all(transaction, &sql::SETTLE, &self.notices).await?;
        Ok(Vec::new())
    }
}

struct GiveUp(Value);

#[async_trait::async_trait]
impl Work for GiveUp {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        if execute(transaction, &sql::GIVE_UP, &self.0).await? > 0 {
            execute(transaction, &sql::SETTLE_PARKED, &self.0).await?;
        }
        Ok(Vec::new())
    }
}

struct Retry {
    change: ChangeRow,
}

#[async_trait::async_trait]
impl Work for Retry {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let parameter =
            json!({ "notice_id": self.change.notice_id, "at": time_text(self.change.at) });
        execute(transaction, &sql::RETRY_DELIVERIES, &parameter).await?;
        execute(transaction, &sql::RETRY_NOTICES, &parameter).await?;
        execute(transaction, &sql::PUT_CHANGE, &[&self.change]).await?;
        Ok(Vec::new())
    }
}

struct Forget<'a>(&'a [Value]);

#[async_trait::async_trait]
impl Work for Forget<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        for sql in [
            &sql::FORGET_DELIVERIES,
            &sql::FORGET_CHANGES,
            &sql::FORGET_NOTICES,
        ] {
            execute_all(transaction, sql, self.0).await?;
        }
        Ok(Vec::new())
    }
}
