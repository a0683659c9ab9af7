//! What authorities wish of the certificates they issued, beside the plan of each.

use connectors::connector::RenewalWindow;
use engine::core::Timestamp;
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde::Serialize;
use serde_json::json;

use super::database::{execute_all, stored_time, stored_time_option, time_text};
use super::rotation_statements::{RENEWABLE, WISH};
use super::rotations::names_of;
use super::{Directory, RotationRow};

/// The answer of an authority about what one rotation made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Wish {
    shard_id: i32,
    name: String,
    /// Of which it is: what was replaced meanwhile has no wish.
    #[serde(with = "stored_time")]
    since: Timestamp,
    #[serde(with = "stored_time")]
    asked_at: Timestamp,
    #[serde(with = "stored_time")]
    next_at: Timestamp,
    #[serde(with = "stored_time_option")]
    renewal_from: Option<Timestamp>,
    #[serde(with = "stored_time_option")]
    renewal_until: Option<Timestamp>,
}

impl Wish {
    /// That `row` is to be replaced within `window`, or that there is no opinion, and when it is asked after again.
    #[must_use]
    pub fn of(
        row: &RotationRow,
        window: Option<RenewalWindow>,
        asked_at: Timestamp,
        next_at: Timestamp,
    ) -> Self {
        Self {
            shard_id: row.shard_id,
            name: row.name.clone(),
            since: row.since,
            asked_at,
            next_at,
            renewal_from: window.map(|window| window.start),
            renewal_until: window.map(|window| window.end),
        }
    }
}

struct Put<'a>(&'a [Wish]);

#[async_trait::async_trait]
impl Work for Put<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        execute_all(transaction, &WISH, self.0).await?;
        Ok(Vec::new())
    }
}

impl Directory {
    /// What `system` issued, is used, and is to be asked after by `by`, in the order of the names.
    ///
    /// # Errors
    /// When the database does not answer, or holds what this program cannot read.
    pub async fn rotations_renewable(
        &self,
        system: &str,
        by: Timestamp,
        limit: u32,
    ) -> Result<Vec<RotationRow>, StoreError> {
        let (after, before) = names_of(Some(system));
        let parameter = json!({
            "after": after,
            "before": before,
            "by": time_text(by),
            "limit": limit,
        });
        self.reader().rows(&RENEWABLE, &parameter).await
    }

    /// Keeps what authorities answered. A wish that is another one than before is planned anew.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn put_wishes(&self, wishes: &[Wish]) -> Result<(), StoreError> {
        self.write(&Put(wishes)).await
    }
}
