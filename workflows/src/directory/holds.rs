//! Legal holds: while one stands, nothing of a person is destroyed. What ends their access does not wait for it.
//!
//! A hold is placed and released by somebody, with a reason, and its row stays for ever: it is the record of both.

use engine::core::Timestamp;
use engine::core::id::Actor;
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Directory;
use super::database::{Sql, execute, stored_time, stored_time_option, time_text};

/// The longest reason of a hold or a release, in bytes.
pub const HOLD_REASON_BYTES_MAX: usize = 2_000;
/// The longest name of a hold, in bytes.
pub const HOLD_NAME_BYTES_MAX: usize = 100;
/// The most holds of one person that are shown.
const HOLDS_MAX: u32 = 500;

/// That nothing of a person may be destroyed, and who says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldRow {
    pub shard_id: i32,
    pub identity_key: String,
    /// Names the hold among those of the person: a matter, a file number.
    pub hold: String,
    pub reason: String,
    pub placed_by: String,
    #[serde(with = "stored_time")]
    pub placed_at: Timestamp,
    /// Ends by itself at this moment.
    #[serde(with = "stored_time_option", default)]
    pub until: Option<Timestamp>,
    #[serde(with = "stored_time_option", default)]
    pub released_at: Option<Timestamp>,
    #[serde(default)]
    pub released_by: Option<String>,
    #[serde(default)]
    pub released_because: Option<String>,
}

impl HoldRow {
    /// Whether it stands at a moment.
    #[must_use]
    pub fn stands(&self, now: Timestamp) -> bool {
        self.released_at.is_none() && self.until.is_none_or(|until| until > now)
    }
}

/// A hold that is to be placed.
#[derive(Debug, Clone)]
pub struct NewHold {
    pub key: String,
    pub hold: String,
    pub reason: String,
    pub until: Option<Timestamp>,
}

struct Write {
    sql: &'static Sql,
    row: serde_json::Value,
    touched: std::sync::Mutex<u64>,
}

#[async_trait::async_trait]
impl Work for Write {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let touched = execute(transaction, self.sql, &self.row).await?;
        *self
            .touched
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = touched;
        Ok(Vec::new())
    }
}

impl Directory {
    /// Places a hold; false when one of that name stands or stood already: it keeps what it says.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn hold(
        &self,
        new: &NewHold,
        by: &Actor,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let row = json!({
            "shard_id": self.shard(&new.key),
            "identity_key": new.key,
            "hold": new.hold,
            "reason": new.reason,
            "placed_by": by.0,
            "placed_at": time_text(now),
            "until": new.until.map(time_text),
        });
        self.write_hold(&PLACE, row).await
    }

    /// Releases a hold; false when none of that name stands.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn release(
        &self,
        key: &str,
        hold: &str,
        because: &str,
        by: &Actor,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let row = json!({
            "shard_id": self.shard(key),
            "identity_key": key,
            "hold": hold,
            "released_at": time_text(now),
            "released_by": by.0,
            "released_because": because,
        });
        self.write_hold(&RELEASE, row).await
    }

    async fn write_hold(
        &self,
        sql: &'static Sql,
        row: serde_json::Value,
    ) -> Result<bool, StoreError> {
        let work = Write {
            sql,
            row,
            touched: std::sync::Mutex::new(0),
        };
        self.write(&work).await?;
        let touched = work
            .touched
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(touched > 0)
    }

    /// The holds on a person, those too that are released, newest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn holds_of(&self, key: &str) -> Result<Vec<HoldRow>, StoreError> {
        let parameter = json!({ "shard_id": self.shard(key), "key": key, "limit": HOLDS_MAX });
        self.reader().rows(&OF_PERSON, &parameter).await
    }

    /// The holds on a person that stand at a moment.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn active_holds(
        &self,
        key: &str,
        now: Timestamp,
    ) -> Result<Vec<HoldRow>, StoreError> {
        let mut holds = self.holds_of(key).await?;
        holds.retain(|hold| hold.stands(now));
        Ok(holds)
    }
}

const OF_PERSON: Sql = Sql {
    table: "legal_hold",
    postgres: "
        SELECT to_jsonb(h)::text FROM legal_hold AS h
        WHERE h.shard_id = ($1::jsonb->>'shard_id')::int AND h.identity_key = $1::jsonb->>'key'
        -- Those that are not released first: no number of old ones may hide one that stands.
        ORDER BY h.released_at IS NOT NULL, h.placed_at DESC, h.hold LIMIT ($1::jsonb->>'limit')::bigint",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'identity_key', identity_key, 'hold', hold, 'reason', reason,
            'placed_by', placed_by, 'placed_at', placed_at, 'until', until, 'released_at', released_at,
            'released_by', released_by, 'released_because', released_because)
        FROM legal_hold
        WHERE shard_id = ?1 ->> 'shard_id' AND identity_key = ?1 ->> 'key'
        -- Those that are not released first: no number of old ones may hide one that stands.
        ORDER BY released_at IS NOT NULL, placed_at DESC, hold LIMIT ?1 ->> 'limit'",
};

/// Only for a person who is known.
const PLACE: Sql = Sql {
    table: "legal_hold",
    postgres: "
        INSERT INTO legal_hold (shard_id, identity_key, hold, reason, placed_by, placed_at, until)
        SELECT new.shard_id, new.identity_key, new.hold, new.reason, new.placed_by, new.placed_at, new.until
        FROM jsonb_to_record($1::jsonb) AS new(shard_id int, identity_key text, hold text, reason text,
            placed_by text, placed_at timestamptz, until timestamptz)
        JOIN identity AS i ON i.shard_id = new.shard_id AND i.identity_key = new.identity_key
        ON CONFLICT (shard_id, identity_key, hold) DO NOTHING",
    sqlite: "
        INSERT INTO legal_hold (shard_id, identity_key, hold, reason, placed_by, placed_at, until)
        SELECT i.shard_id, i.identity_key, ?1 ->> 'hold', ?1 ->> 'reason', ?1 ->> 'placed_by', ?1 ->> 'placed_at',
            ?1 ->> 'until'
        FROM identity AS i
        WHERE i.shard_id = ?1 ->> 'shard_id' AND i.identity_key = ?1 ->> 'identity_key'
        ON CONFLICT (shard_id, identity_key, hold) DO NOTHING",
};

const RELEASE: Sql = Sql {
    table: "legal_hold",
    postgres: "
        UPDATE legal_hold AS h SET released_at = now.released_at, released_by = now.released_by,
            released_because = now.released_because
        FROM jsonb_to_record($1::jsonb) AS now(shard_id int, identity_key text, hold text, released_at timestamptz,
            released_by text, released_because text)
        WHERE h.shard_id = now.shard_id AND h.identity_key = now.identity_key AND h.hold = now.hold
          AND h.released_at IS NULL",
    sqlite: "
        UPDATE legal_hold SET released_at = ?1 ->> 'released_at', released_by = ?1 ->> 'released_by',
            released_because = ?1 ->> 'released_because'
        WHERE shard_id = ?1 ->> 'shard_id' AND identity_key = ?1 ->> 'identity_key' AND hold = ?1 ->> 'hold'
          AND released_at IS NULL",
};
