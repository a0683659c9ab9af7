//! What was believed about a person: on any day, knowing what was known on any other.

use chrono::{DateTime, Utc};
use engine::store::StoreError;
use serde::Serialize;
use serde_json::json;

use super::Directory;
use super::database::Sql;
use super::rows::EventRow;
use crate::sources::BusinessEvent;
use crate::timeline::{Belief, Precedence, Timeline};

/// The picture of a person on a day, as it was on another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Believed {
    pub identity_key: String,
    pub as_of: DateTime<Utc>,
    pub known_at: DateTime<Utc>,
    #[serde(flatten)]
    pub belief: Belief,
    pub spells: Vec<BelievedSpell>,
    /// Everything that was known, in the order in which it came.
    pub events: Vec<KnownEvent>,
}

/// One employment or contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BelievedSpell {
    /// The key under which it was told.
    pub key: String,
    pub contract: Option<String>,
    pub start: DateTime<Utc>,
    pub begun_by: String,
    pub end: Option<DateTime<Utc>>,
    pub ended_by: Option<String>,
}

/// An event, and what had taken its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KnownEvent {
    pub id: String,
    /// The key under which it was told.
    pub key: String,
    #[serde(rename = "type")]
    pub event_type: String,
    pub source: String,
    pub occurred_at: DateTime<Utc>,
    pub effective_at: DateTime<Utc>,
    pub received_at: DateTime<Utc>,
    pub version: i64,
    pub superseded_by: Option<String>,
}

impl Directory {
    /// What was believed about the person of `key` to hold at `as_of`, from what had come in by `known_at`, each source
    /// believed as `precedence` says. `None` when
    /// nothing had.
    ///
    /// # Errors
    /// When the database does not answer, or holds what this program cannot read.
    pub async fn believed(
        &self,
        key: &str,
        as_of: DateTime<Utc>,
        known_at: DateTime<Utc>,
        precedence: &Precedence,
    ) -> Result<Option<Believed>, StoreError> {
        let mut rows: Vec<EventRow> = Vec::new();
        for key in self.keys_at(key, known_at).await? {
            let parameter = json!({ "shard_id": self.shard(&key), "key": key });
            rows.extend(self.reader().rows::<EventRow>(&ALL_OF, &parameter).await?);
        }
        rows.sort_by(|a, b| (a.received_at, &a.event_id).cmp(&(b.received_at, &b.event_id)));
        rows.retain(|row| row.received_at <= known_at);
        if rows.is_empty() {
            return Ok(None);
        }
        let events: Vec<BusinessEvent> = rows.iter().map(EventRow::event).collect();
        let came = rows.iter().map(|row| row.received_at);
        let timeline = Timeline::of(came.zip(&events)).preferring(precedence);
        let spells = timeline.spells().iter().map(|spell| BelievedSpell {
            key: spell.subject.to_owned(),
            contract: spell.contract.map(str::to_owned),
            start: spell.start,
            begun_by: spell.begun_by.to_owned(),
            end: spell.end.map(|(end, _)| end),
            ended_by: spell.end.map(|(_, by)| by.to_owned()),
        });
        let known = rows.iter().map(|row| KnownEvent {
            id: row.event_id.clone(),
            key: row.subject.clone(),
            event_type: row.event_type.to_string(),
            source: row.source.clone(),
            occurred_at: row.occurred_at,
            effective_at: row.effective_at,
            received_at: row.received_at,
            version: row.version,
            superseded_by: timeline.superseded_by(&row.event_id).map(str::to_owned),
        });
        Ok(Some(Believed {
            identity_key: key.to_owned(),
            as_of,
            known_at,
            belief: timeline.at(as_of),
            spells: spells.collect(),
            events: known.collect(),
        }))
    }
}

impl Directory {
    /// The keys that were known at `at` to be the person of `key`, that one first.
    async fn keys_at(&self, key: &str, at: DateTime<Utc>) -> Result<Vec<String>, StoreError> {
        let mut keys = vec![key.to_owned()];
        let mut place = 0;
        while let Some(key) = keys.get(place).cloned() {
            let merges = self.merges(&key).await?;
            for merge in merges.into_iter().filter(|merge| merge.survivor == key) {
                if merge.held_at(at) && !keys.contains(&merge.absorbed) {
                    keys.push(merge.absorbed);
                }
            }
            place += 1;
        }
        Ok(keys)
    }
}

const ALL_OF: Sql = Sql {
    table: "business_event",
    postgres: "
        SELECT to_jsonb(e)::text FROM business_event AS e
        WHERE e.shard_id = ($1::jsonb->>'shard_id')::int AND e.subject = $1::jsonb->>'key'
        ORDER BY e.received_at, e.event_id",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'event_id', event_id, 'subject', subject, 'source', source,
            'event_type', event_type, 'version', version, 'occurred_at', occurred_at, 'effective_at', effective_at,
            'zone', zone, 'received_at', received_at, 'supersedes', supersedes, 'status', status,
            'data', json(data), 'cases', json(cases), 'initiator', initiator)
        FROM business_event
        WHERE shard_id = ?1 ->> 'shard_id' AND subject = ?1 ->> 'key'
        ORDER BY received_at, event_id",
};
