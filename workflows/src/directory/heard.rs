//! When each source was last heard.

use engine::core::Timestamp;
use engine::core::duration::Span;
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Directory;
use super::database::{Sql, execute, stored_time, stored_time_option, time_text};

/// How far what is stored may be behind: a source that is heard all the time is written no more often.
pub const HEARD_EVERY_S: i64 = 5;

/// What is known of a source's voice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeardRow {
    pub shard_id: i32,
    pub source: String,
    /// Since when it is expected to be heard.
    #[serde(with = "stored_time")]
    pub known_since: Timestamp,
    /// When something good last came from it, at most [`HEARD_EVERY_S`] late.
    #[serde(with = "stored_time_option", default)]
    pub heard_at: Option<Timestamp>,
    /// When something new last came from it.
    #[serde(with = "stored_time_option", default)]
    pub news_at: Option<Timestamp>,
}

impl HeardRow {
    /// From when on it counts as silent, if nothing more is heard.
    #[must_use]
    pub fn silent_from(&self, silent_after: Span) -> Timestamp {
        self.expected_since() + silent_after.delta()
    }

    /// When it was last heard; before that happens, since when it should be.
    #[must_use]
    pub fn expected_since(&self) -> Timestamp {
        self.heard_at.unwrap_or(self.known_since)
    }
}

/// That sources are expected from `at` on, those that are not known yet.
pub(crate) struct Expect<'a> {
    pub sources: &'a [(i32, String)],
    pub at: Timestamp,
}

#[async_trait::async_trait]
impl Work for Expect<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let rows: Vec<Value> = self
            .sources
            .iter()
            .map(|(shard_id, source)| {
                json!({ "shard_id": shard_id, "source": source, "at": time_text(self.at) })
            })
            .collect();
        execute(transaction, &EXPECT, &rows).await?;
        Ok(Vec::new())
    }
}

/// That a source was heard at `at`.
pub(crate) struct Hear<'a> {
    pub shard_id: i32,
    pub source: &'a str,
    pub at: Timestamp,
    /// Whether it said something new.
    pub news: bool,
}

#[async_trait::async_trait]
impl Work for Hear<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let row =
            json!({ "shard_id": self.shard_id, "source": self.source, "at": time_text(self.at) });
        // It is there unless no node ever started with this source.
        execute(transaction, &EXPECT, &[&row]).await?;
        let lately = self.at - chrono::TimeDelta::seconds(HEARD_EVERY_S);
        let parameter = json!({
            "shard_id": self.shard_id,
            "source": self.source,
            "at": time_text(self.at),
            "lately": time_text(lately),
            "news": self.news,
        });
        execute(transaction, &HEAR, &parameter).await?;
        Ok(Vec::new())
    }
}

impl Directory {
    /// All sources that were expected or heard once, those too that are configured no more.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn heard(&self) -> Result<Vec<HeardRow>, StoreError> {
        self.reader().rows(&HEARD, &Value::Null).await
    }
}

const HEARD: Sql = Sql {
    table: "source_heard",
    postgres: "
        SELECT to_jsonb(h)::text FROM source_heard AS h WHERE $1::jsonb IS NOT NULL ORDER BY h.source",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'source', source, 'known_since', known_since, 'heard_at', heard_at,
            'news_at', news_at)
        FROM source_heard WHERE ?1 IS NOT NULL ORDER BY source",
};

const EXPECT: Sql = Sql {
    table: "source_heard",
    postgres: "
        INSERT INTO source_heard (shard_id, source, known_since)
        SELECT new.shard_id, new.source, new.at
        FROM jsonb_to_recordset($1::jsonb) AS new(shard_id int, source text, at timestamptz)
        ORDER BY new.shard_id, new.source
        ON CONFLICT (shard_id, source) DO NOTHING",
    sqlite: "
        INSERT INTO source_heard (shard_id, source, known_since)
        SELECT value ->> 'shard_id', value ->> 'source', value ->> 'at' FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, source) DO NOTHING",
};

/// Nothing goes back, whichever node writes last.
const HEAR: Sql = Sql {
    table: "source_heard",
    postgres: "
        UPDATE source_heard AS h SET
            heard_at = GREATEST(h.heard_at, now.at),
            news_at = CASE WHEN now.news THEN GREATEST(h.news_at, now.at) ELSE h.news_at END
        FROM jsonb_to_record($1::jsonb) AS now(shard_id int, source text, at timestamptz, lately timestamptz, news boolean)
        WHERE h.shard_id = now.shard_id AND h.source = now.source
          AND (h.heard_at IS NULL OR h.heard_at <= now.lately
               OR now.news AND (h.news_at IS NULL OR h.news_at <= now.lately))",
    sqlite: "
        UPDATE source_heard SET
            heard_at = max(coalesce(heard_at, ''), ?1 ->> 'at'),
            news_at = CASE WHEN ?1 ->> 'news' THEN max(coalesce(news_at, ''), ?1 ->> 'at') ELSE news_at END
        WHERE shard_id = ?1 ->> 'shard_id' AND source = ?1 ->> 'source'
          AND (heard_at IS NULL OR heard_at <= ?1 ->> 'lately'
               OR ?1 ->> 'news' AND (news_at IS NULL OR news_at <= ?1 ->> 'lately'))",
};
