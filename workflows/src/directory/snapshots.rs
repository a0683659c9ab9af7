//! What the files of each source said, and which of them were applied.

use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDate;
use engine::store::{StoreError, Transaction};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Directory;
use super::database::{Sql, execute, execute_all};
use super::resources::{HELD_PREFIX, HeldRow, held_of};
use super::rows::SnapshotRow;
use crate::intake::StagedWave;
use crate::sources::{Change, Difference, Key, Record, Records};

/// Where a source stands: its last applied snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    pub shard_id: i32,
    pub source: String,
    pub snapshot_id: String,
    pub as_of: NaiveDate,
    pub digest: String,
}

/// A person of the last applied snapshot, or of an earlier one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RecordRow {
    pub shard_id: i32,
    pub source: String,
    pub record_key: String,
    pub digest: String,
    /// `present` or `gone`.
    pub status: String,
    pub attributes: BTreeMap<String, Value>,
}

/// Everything that applying a snapshot takes, kept while a person decides about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PendingSnapshot {
    pub difference: Difference,
    /// People who are new or changed.
    pub records: Vec<Record>,
    /// People who are in the snapshot no more.
    pub gone: Vec<Key>,
    /// Accounts that are to be adopted, in place of all that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<StagedWave>,
}

impl Directory {
    /// The files of a source, or of all, newest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn snapshots(
        &self,
        source: Option<&str>,
        waiting_only: bool,
        limit: u32,
    ) -> Result<Vec<SnapshotRow>, StoreError> {
        let parameter = json!({
            "source": source,
            "waiting": if waiting_only { Some("waiting") } else { None },
            "difference": Value::Null,
            "limit": limit.min(super::PAGE_ROWS_MAX),
        });
        self.reader().rows(&SNAPSHOTS, &parameter).await
    }

    /// The newest file with this difference.
    pub(crate) async fn snapshot_of(
        &self,
        difference_id: &str,
    ) -> Result<Option<SnapshotRow>, StoreError> {
        let parameter = json!({
            "source": Value::Null,
            "waiting": Value::Null,
            "difference": difference_id,
            "limit": 1,
        });
        self.reader().row(&SNAPSHOTS, &parameter).await
    }

    /// What an approval of a waiting file would apply.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn pending(&self, row: &SnapshotRow) -> Result<Option<PendingSnapshot>, StoreError> {
        if row.snapshot_id.starts_with(HELD_PREFIX) {
            return Ok(Some(self.held(row).await?));
        }
        let parameter = json!({
            "shard_id": row.shard_id,
            "source": row.source,
            "snapshot_id": row.snapshot_id,
        });
        self.reader().row(&PENDING, &parameter).await
    }

    /// The day that each source is at: that of its last applied file.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn source_days(&self) -> Result<BTreeMap<String, NaiveDate>, StoreError> {
        let positions: Vec<Position> = self.reader().rows(&POSITIONS, &Value::Null).await?;
        let days = positions.into_iter();
        Ok(days
            .map(|position| (position.source, position.as_of))
            .collect())
    }

    /// What the guard holds back of pushes, in the form of a file that waits.
    async fn held(&self, row: &SnapshotRow) -> Result<PendingSnapshot, StoreError> {
        let held = held_of(self, row.shard_id, &row.source).await?;
        let said = self.held_events(&row.source).await?;
        let said = said.into_iter().map(|held| Change {
            kind: crate::timeline::kind(held.event.event_type),
            event: held.event,
        });
        let gone = |held: &&HeldRow| held.record.is_none();
        Ok(PendingSnapshot {
            difference: Difference {
                id: row.difference_id.clone(),
                source: row.source.clone(),
                as_of: row.as_of,
                changes: held
                    .iter()
                    .flat_map(|held| held.changes.clone())
                    .chain(said)
                    .collect(),
                missing: Vec::new(),
            },
            records: held.iter().filter_map(|held| held.record.clone()).collect(),
            gone: held
                .iter()
                .filter(gone)
                .map(|held| Key::new(held.record_key.clone()))
                .collect(),
            wave: None,
        })
    }

    /// Where a source stands, the people it has, and those it had.
    pub(crate) async fn source_state(
        &self,
        source: &str,
    ) -> Result<(Option<Position>, Records, BTreeSet<Key>), StoreError> {
        let parameter = json!({ "shard_id": self.shard(source), "source": source });
        let position = self.reader().row(&POSITION, &parameter).await?;
        let rows: Vec<RecordRow> = self.reader().rows(&RECORDS, &parameter).await?;
        let mut records = Records::new();
        let mut gone = BTreeSet::new();
        for row in rows {
            let key = Key::new(row.record_key);
            if row.status == "gone" {
                gone.insert(key);
            } else {
                let record = Record {
                    key: key.clone(),
                    attributes: row.attributes,
                    digest: row.digest,
                };
                records.insert(key, record);
            }
        }
        Ok((position, records, gone))
    }
}

/// Moves a source on to `next` if it still stands at `base`; says whether it did.
pub(crate) async fn move_on(
    transaction: &mut Transaction<'_>,
    base: Option<&str>,
    next: &Position,
) -> Result<bool, StoreError> {
    let moved = match base {
        None => execute(transaction, &FIRST_POSITION, next).await?,
        Some(base) => {
            let parameter = json!({
                "shard_id": next.shard_id,
                "source": next.source,
                "snapshot_id": next.snapshot_id,
                "as_of": next.as_of,
                "digest": next.digest,
                "base": base,
            });
            execute(transaction, &NEXT_POSITION, &parameter).await?
        }
    };
    Ok(moved == 1)
}

pub(crate) async fn put_records(
    transaction: &mut Transaction<'_>,
    rows: &[RecordRow],
) -> Result<(), StoreError> {
    execute_all(transaction, &PUT_RECORDS, rows)
        .await
        .map(|_| ())
}

/// Notes that people of a source are in its file no more.
pub(crate) async fn mark_gone(
    transaction: &mut Transaction<'_>,
    shard_id: i32,
    source: &str,
    keys: &[Key],
) -> Result<(), StoreError> {
    let rows: Vec<Value> = keys
        .iter()
        .map(|key| json!({ "shard_id": shard_id, "source": source, "record_key": key }))
        .collect();
    execute_all(transaction, &GONE, &rows).await.map(|_| ())
}

/// Keeps a file, with what it would apply when it waits. The same file again replaces its row.
pub(crate) async fn put_snapshot(
    transaction: &mut Transaction<'_>,
    row: &SnapshotRow,
    pending: Option<&PendingSnapshot>,
) -> Result<(), StoreError> {
    #[derive(Serialize)]
    struct Stored<'a> {
        #[serde(flatten)]
        row: &'a SnapshotRow,
        pending: Option<&'a PendingSnapshot>,
    }
    execute(transaction, &PUT_SNAPSHOT, &[Stored { row, pending }])
        .await
        .map(|_| ())
}

/// Decides about a waiting file; says whether it was waiting.
pub(crate) async fn decide(
    transaction: &mut Transaction<'_>,
    row: &SnapshotRow,
) -> Result<bool, StoreError> {
    Ok(execute(transaction, &DECIDE, row).await? == 1)
}

const SNAPSHOTS: Sql = Sql {
    table: "source_snapshot",
    postgres: "
        SELECT (to_jsonb(s) - 'pending')::text FROM source_snapshot AS s
        WHERE (($1::jsonb->>'source') IS NULL OR s.source = $1::jsonb->>'source')
          AND (($1::jsonb->>'waiting') IS NULL OR s.status = $1::jsonb->>'waiting')
          AND (($1::jsonb->>'difference') IS NULL OR s.difference_id = $1::jsonb->>'difference')
        ORDER BY s.imported_at DESC, s.snapshot_id LIMIT ($1::jsonb->>'limit')::bigint",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'source', source, 'snapshot_id', snapshot_id, 'file', file,
            'as_of', as_of, 'file_sha256', file_sha256, 'digest', digest, 'row_count', row_count,
            'complete', complete, 'status', status, 'difference_id', difference_id, 'summary', json(summary),
            'stopped_by', json(stopped_by), 'base_id', base_id, 'imported_at', imported_at,
            'imported_by', imported_by, 'decided_at', decided_at, 'decided_by', decided_by,
            'decided_note', decided_note)
        FROM source_snapshot
        WHERE (?1 ->> 'source' IS NULL OR source = ?1 ->> 'source')
          AND (?1 ->> 'waiting' IS NULL OR status = ?1 ->> 'waiting')
          AND (?1 ->> 'difference' IS NULL OR difference_id = ?1 ->> 'difference')
        ORDER BY imported_at DESC, snapshot_id LIMIT ?1 ->> 'limit'",
};

const PENDING: Sql = Sql {
    table: "source_snapshot",
    postgres: "
        SELECT pending::text FROM source_snapshot
        WHERE shard_id = ($1::jsonb->>'shard_id')::int AND source = $1::jsonb->>'source'
          AND snapshot_id = $1::jsonb->>'snapshot_id' AND pending IS NOT NULL",
    sqlite: "
        SELECT pending FROM source_snapshot
        WHERE shard_id = ?1 ->> 'shard_id' AND source = ?1 ->> 'source'
          AND snapshot_id = ?1 ->> 'snapshot_id' AND pending IS NOT NULL",
};

const POSITION: Sql = Sql {
    table: "source_state",
    postgres: "
        SELECT to_jsonb(s)::text FROM source_state AS s
        WHERE s.shard_id = ($1::jsonb->>'shard_id')::int AND s.source = $1::jsonb->>'source'",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'source', source, 'snapshot_id', snapshot_id, 'as_of', as_of,
            'digest', digest)
        FROM source_state WHERE shard_id = ?1 ->> 'shard_id' AND source = ?1 ->> 'source'",
};

const POSITIONS: Sql = Sql {
    table: "source_state",
    postgres: "SELECT to_jsonb(s)::text FROM source_state AS s WHERE $1::jsonb IS NOT NULL",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'source', source, 'snapshot_id', snapshot_id, 'as_of', as_of,
            'digest', digest)
        FROM source_state WHERE ?1 IS NOT NULL",
};

const FIRST_POSITION: Sql = Sql {
    table: "source_state",
    postgres: "
        INSERT INTO source_state (shard_id, source, snapshot_id, as_of, digest)
        SELECT shard_id, source, snapshot_id, as_of, digest FROM jsonb_populate_record(NULL::source_state, $1::jsonb)
        ON CONFLICT (shard_id, source) DO NOTHING",
    sqlite: "
        INSERT INTO source_state (shard_id, source, snapshot_id, as_of, digest)
        VALUES (?1 ->> 'shard_id', ?1 ->> 'source', ?1 ->> 'snapshot_id', ?1 ->> 'as_of', ?1 ->> 'digest')
        ON CONFLICT (shard_id, source) DO NOTHING",
};

const NEXT_POSITION: Sql = Sql {
    table: "source_state",
    postgres: "
        UPDATE source_state SET snapshot_id = $1::jsonb->>'snapshot_id', as_of = ($1::jsonb->>'as_of')::date,
            digest = $1::jsonb->>'digest'
        WHERE shard_id = ($1::jsonb->>'shard_id')::int AND source = $1::jsonb->>'source'
          AND snapshot_id = $1::jsonb->>'base'",
    sqlite: "
        UPDATE source_state SET snapshot_id = ?1 ->> 'snapshot_id', as_of = ?1 ->> 'as_of', digest = ?1 ->> 'digest'
        WHERE shard_id = ?1 ->> 'shard_id' AND source = ?1 ->> 'source' AND snapshot_id = ?1 ->> 'base'",
};

const RECORDS: Sql = Sql {
    table: "source_record",
    postgres: "
        SELECT to_jsonb(r)::text FROM source_record AS r
        WHERE r.shard_id = ($1::jsonb->>'shard_id')::int AND r.source = $1::jsonb->>'source'",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'source', source, 'record_key', record_key, 'digest', digest,
            'status', status, 'attributes', json(attributes))
        FROM source_record WHERE shard_id = ?1 ->> 'shard_id' AND source = ?1 ->> 'source'",
};

const PUT_RECORDS: Sql = Sql {
    table: "source_record",
    postgres: "
        INSERT INTO source_record (shard_id, source, record_key, digest, status, attributes)
        SELECT shard_id, source, record_key, digest, status, attributes
        FROM jsonb_populate_recordset(NULL::source_record, $1::jsonb)
        ON CONFLICT (shard_id, source, record_key) DO UPDATE SET
            digest = excluded.digest, status = excluded.status, attributes = excluded.attributes",
    sqlite: "
        INSERT INTO source_record (shard_id, source, record_key, digest, status, attributes)
        SELECT value ->> 'shard_id', value ->> 'source', value ->> 'record_key', value ->> 'digest',
            value ->> 'status', value -> 'attributes'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, source, record_key) DO UPDATE SET
            digest = excluded.digest, status = excluded.status, attributes = excluded.attributes",
};

const GONE: Sql = Sql {
    table: "source_record",
    postgres: "
        UPDATE source_record AS r SET status = 'gone'
        FROM jsonb_to_recordset($1::jsonb) AS gone(shard_id int, source text, record_key text)
        WHERE r.shard_id = gone.shard_id AND r.source = gone.source AND r.record_key = gone.record_key",
    sqlite: "
        UPDATE source_record SET status = 'gone'
        FROM json_each(?1) AS gone
        WHERE source_record.shard_id = gone.value ->> 'shard_id' AND source_record.source = gone.value ->> 'source'
          AND source_record.record_key = gone.value ->> 'record_key'",
};

const PUT_SNAPSHOT: Sql = Sql {
    table: "source_snapshot",
    postgres: "
        INSERT INTO source_snapshot (shard_id, source, snapshot_id, file, as_of, file_sha256, digest, row_count, complete,
            status, difference_id, summary, stopped_by, pending, base_id, imported_at, imported_by)
        SELECT shard_id, source, snapshot_id, file, as_of, file_sha256, digest, row_count, complete,
            status, difference_id, summary, stopped_by, pending, base_id, imported_at, imported_by
        FROM jsonb_populate_recordset(NULL::source_snapshot, $1::jsonb)
        ON CONFLICT (shard_id, source, snapshot_id) DO UPDATE SET
            file = excluded.file, file_sha256 = excluded.file_sha256, row_count = excluded.row_count,
            complete = excluded.complete, status = excluded.status, difference_id = excluded.difference_id,
            summary = excluded.summary, stopped_by = excluded.stopped_by, pending = excluded.pending,
            base_id = excluded.base_id, imported_at = excluded.imported_at, imported_by = excluded.imported_by,
            decided_at = NULL, decided_by = NULL, decided_note = NULL",
    sqlite: "
        INSERT INTO source_snapshot (shard_id, source, snapshot_id, file, as_of, file_sha256, digest, row_count, complete,
            status, difference_id, summary, stopped_by, pending, base_id, imported_at, imported_by)
        SELECT value ->> 'shard_id', value ->> 'source', value ->> 'snapshot_id', value ->> 'file', value ->> 'as_of',
            value ->> 'file_sha256', value ->> 'digest', value ->> 'row_count', value ->> 'complete',
            value ->> 'status', value ->> 'difference_id', value -> 'summary', value ->> 'stopped_by',
            value ->> 'pending', value ->> 'base_id', value ->> 'imported_at', value ->> 'imported_by'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, source, snapshot_id) DO UPDATE SET
            file = excluded.file, file_sha256 = excluded.file_sha256, row_count = excluded.row_count,
            complete = excluded.complete, status = excluded.status, difference_id = excluded.difference_id,
            summary = excluded.summary, stopped_by = excluded.stopped_by, pending = excluded.pending,
            base_id = excluded.base_id, imported_at = excluded.imported_at, imported_by = excluded.imported_by,
            decided_at = NULL, decided_by = NULL, decided_note = NULL",
};

const DECIDE: Sql = Sql {
    table: "source_snapshot",
    postgres: "
        UPDATE source_snapshot SET status = $1::jsonb->>'status', pending = NULL,
            decided_at = ($1::jsonb->>'decided_at')::timestamptz, decided_by = $1::jsonb->>'decided_by',
            decided_note = $1::jsonb->>'decided_note'
        WHERE shard_id = ($1::jsonb->>'shard_id')::int AND source = $1::jsonb->>'source'
          AND snapshot_id = $1::jsonb->>'snapshot_id' AND status = 'waiting'
          -- What is held back of pushes grows while people look at it.
          AND difference_id = $1::jsonb->>'difference_id'",
    sqlite: "
        UPDATE source_snapshot SET status = ?1 ->> 'status', pending = NULL, decided_at = ?1 ->> 'decided_at',
            decided_by = ?1 ->> 'decided_by', decided_note = ?1 ->> 'decided_note'
        WHERE shard_id = ?1 ->> 'shard_id' AND source = ?1 ->> 'source'
          AND snapshot_id = ?1 ->> 'snapshot_id' AND status = 'waiting'
          AND difference_id = ?1 ->> 'difference_id'",
};
