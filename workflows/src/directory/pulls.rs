//! What is known of sources that are pulled: up to where they were asked, and whom hints are about.

use engine::core::Timestamp;
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Directory;
use super::database::{Sql, execute, execute_all, stored_time, time_text};

/// Up to where a source was asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PullMarkRow {
    pub shard_id: i32,
    pub source: String,
    /// In the words of whoever asks.
    pub mark: Value,
    #[serde(with = "stored_time")]
    pub asked_at: Timestamp,
}

/// That somebody changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HintRow {
    pub shard_id: i32,
    pub source: String,
    pub hint_id: String,
    /// Of the newest hint.
    #[serde(with = "stored_time")]
    pub hinted_at: Timestamp,
    /// Of the first one that was not followed.
    #[serde(with = "stored_time")]
    pub first_at: Timestamp,
}

impl Directory {
    /// Up to where a source was asked; `None` when it never was, or that was lost.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn pull_mark(&self, source: &str) -> Result<Option<PullMarkRow>, StoreError> {
        let parameter = json!({ "shard_id": self.shard(source), "source": source });
        self.reader().row(&MARK, &parameter).await
    }

    /// Up to where every source was asked.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn pull_marks(&self) -> Result<Vec<PullMarkRow>, StoreError> {
        self.reader().rows(&MARKS, &Value::Null).await
    }

    /// # Errors
    /// When the database does not answer.
    pub async fn put_pull_mark(
        &self,
        source: &str,
        mark: Value,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let row = PullMarkRow {
            shard_id: self.shard(source),
            source: source.to_owned(),
            mark,
            asked_at: at,
        };
        let rows = [serde_json::to_value(row).unwrap_or_default()];
        self.write(&Rows {
            sql: &PUT_MARK,
            rows: &rows,
        })
        .await
    }

    /// Notes that people changed. Hints about one person are one.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn put_hints(
        &self,
        source: &str,
        ids: &[String],
        at: Timestamp,
    ) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let shard_id = self.shard(source);
        let rows: Vec<Value> = ids
            .iter()
            .map(|id| {
                json!({
                    "shard_id": shard_id, "source": source, "hint_id": id, "hinted_at": time_text(at),
                    "first_at": time_text(at),
                })
            })
            .collect();
        self.write(&Rows {
            sql: &PUT_HINTS,
            rows: &rows,
        })
        .await
    }

    /// Whom hints of before `until` are about, the oldest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn hints_due(
        &self,
        source: &str,
        until: Timestamp,
        limit: u32,
    ) -> Result<Vec<HintRow>, StoreError> {
        let parameter = json!({
            "shard_id": self.shard(source), "source": source, "until": time_text(until), "limit": limit,
        });
        self.reader().rows(&HINTS, &parameter).await
    }

    /// Forgets hints that were followed; newer ones about the same people stay.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn hints_done(&self, done: &[HintRow]) -> Result<(), StoreError> {
        let rows: Vec<Value> = done
            .iter()
            .map(|row| serde_json::to_value(row).unwrap_or_default())
            .collect();
        self.write(&Rows {
            sql: &DONE,
            rows: &rows,
        })
        .await
    }
}

struct Rows<'a> {
    sql: &'a Sql,
    rows: &'a [Value],
}

#[async_trait::async_trait]
impl Work for Rows<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        if let [row] = self.rows {
            execute(transaction, self.sql, &[row]).await?;
        } else {
            execute_all(transaction, self.sql, self.rows).await?;
        }
        Ok(Vec::new())
    }
}

const MARK: Sql = Sql {
    table: "pull_mark",
    postgres: "
        SELECT to_jsonb(m)::text FROM pull_mark AS m
        WHERE m.shard_id = ($1::jsonb->>'shard_id')::int AND m.source = $1::jsonb->>'source'",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'source', source, 'mark', json(mark), 'asked_at', asked_at)
        FROM pull_mark WHERE shard_id = ?1 ->> 'shard_id' AND source = ?1 ->> 'source'",
};

const MARKS: Sql = Sql {
    table: "pull_mark",
    postgres: "SELECT to_jsonb(m)::text FROM pull_mark AS m WHERE $1::jsonb IS NOT NULL ORDER BY m.source",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'source', source, 'mark', json(mark), 'asked_at', asked_at)
        FROM pull_mark WHERE ?1 IS NOT NULL ORDER BY source",
};

const PUT_MARK: Sql = Sql {
    table: "pull_mark",
    postgres: "
        INSERT INTO pull_mark (shard_id, source, mark, asked_at)
        SELECT shard_id, source, mark, asked_at FROM jsonb_populate_recordset(NULL::pull_mark, $1::jsonb)
        ON CONFLICT (shard_id, source) DO UPDATE SET mark = excluded.mark, asked_at = excluded.asked_at",
    sqlite: "
        INSERT INTO pull_mark (shard_id, source, mark, asked_at)
        SELECT value ->> 'shard_id', value ->> 'source', value -> 'mark', value ->> 'asked_at'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, source) DO UPDATE SET mark = excluded.mark, asked_at = excluded.asked_at",
};

const PUT_HINTS: Sql = Sql {
    table: "pull_hint",
    postgres: "
        INSERT INTO pull_hint (shard_id, source, hint_id, hinted_at, first_at)
        SELECT shard_id, source, hint_id, hinted_at, first_at FROM jsonb_populate_recordset(NULL::pull_hint, $1::jsonb)
        ORDER BY shard_id, source, hint_id
        ON CONFLICT (shard_id, source, hint_id) DO UPDATE SET hinted_at = excluded.hinted_at",
    sqlite: "
        INSERT INTO pull_hint (shard_id, source, hint_id, hinted_at, first_at)
        SELECT value ->> 'shard_id', value ->> 'source', value ->> 'hint_id', value ->> 'hinted_at',
            value ->> 'first_at'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, source, hint_id) DO UPDATE SET hinted_at = excluded.hinted_at",
};

const HINTS: Sql = Sql {
    table: "pull_hint",
    postgres: "
        SELECT to_jsonb(h)::text FROM pull_hint AS h
        WHERE h.shard_id = ($1::jsonb->>'shard_id')::int AND h.source = $1::jsonb->>'source'
          AND h.first_at <= ($1::jsonb->>'until')::timestamptz
        ORDER BY h.first_at, h.hint_id LIMIT ($1::jsonb->>'limit')::bigint",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'source', source, 'hint_id', hint_id, 'hinted_at', hinted_at,
            'first_at', first_at)
        FROM pull_hint
        WHERE shard_id = ?1 ->> 'shard_id' AND source = ?1 ->> 'source' AND first_at <= ?1 ->> 'until'
        ORDER BY first_at, hint_id LIMIT ?1 ->> 'limit'",
};

const DONE: Sql = Sql {
    table: "pull_hint",
    postgres: "
        DELETE FROM pull_hint AS h
        USING jsonb_to_recordset($1::jsonb) AS done(shard_id int, source text, hint_id text, hinted_at timestamptz)
        WHERE h.shard_id = done.shard_id AND h.source = done.source AND h.hint_id = done.hint_id
          AND h.hinted_at <= done.hinted_at",
    sqlite: "
        DELETE FROM pull_hint WHERE EXISTS (
            SELECT 1 FROM json_each(?1) AS done
            WHERE pull_hint.shard_id = done.value ->> 'shard_id' AND pull_hint.source = done.value ->> 'source'
              AND pull_hint.hint_id = done.value ->> 'hint_id' AND pull_hint.hinted_at <= done.value ->> 'hinted_at')",
};
