//! Access lag: how long a change in the business took to be true on a system.
//!
//! It runs from the moment the change was effective *and* known: nobody can act on a fact before hearing it.
//! How late the source was is a number of its own.

use serde::{Deserialize, Serialize};
use serde_json::json;

use engine::core::Timestamp;
use engine::store::StoreError;

use super::Directory;
use super::database::{Sql, time_text};
use super::projection::LagKind;

/// The lag on one system in one direction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LagSummary {
    pub system: String,
    pub kind: LagKind,
    /// Cases that finished something on the system.
    pub cases: u64,
    /// Cases with at least one step that nothing proved; they are in no percentile.
    pub unverified: u64,
    /// From effective and known to verified.
    pub p50_ms: Option<u64>,
    pub p99_ms: Option<u64>,
    pub max_ms: Option<u64>,
}

impl Directory {
    /// The lag by system and direction, over cases that finished something since `since`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn lag(&self, since: Option<Timestamp>) -> Result<Vec<LagSummary>, StoreError> {
        let parameter = json!({ "since": since.map(time_text) });
        self.reader().rows(&LAG, &parameter).await
    }
}

// Nearest-rank percentiles, so that every number shown is one that happened.
const LAG: Sql = Sql {
    table: "access_lag",
    postgres: "
        WITH measured AS (
            SELECT system, kind, unverified_count,
                GREATEST(0, (EXTRACT(EPOCH FROM finished_at - GREATEST(effective_at, received_at)) * 1000)::bigint) AS lag_ms
            FROM access_lag
            WHERE ($1::jsonb->>'since') IS NULL OR finished_at >= ($1::jsonb->>'since')::timestamptz
        )
        SELECT jsonb_build_object('system', system, 'kind', kind, 'cases', count(*),
            'unverified', count(*) FILTER (WHERE unverified_count > 0),
            'p50_ms', percentile_disc(0.5) WITHIN GROUP (ORDER BY lag_ms) FILTER (WHERE unverified_count = 0),
            'p99_ms', percentile_disc(0.99) WITHIN GROUP (ORDER BY lag_ms) FILTER (WHERE unverified_count = 0),
            'max_ms', max(lag_ms) FILTER (WHERE unverified_count = 0))::text
        FROM measured GROUP BY system, kind ORDER BY system, kind",
    sqlite: "
        WITH measured AS (
            SELECT system, kind, unverified_count,
                max(0, CAST(round((unixepoch(finished_at, 'subsec') - unixepoch(max(effective_at, received_at), 'subsec')) * 1000)
                    AS INTEGER)) AS lag_ms
            FROM access_lag
            WHERE ?1 ->> 'since' IS NULL OR finished_at >= ?1 ->> 'since'
        ),
        ranked AS (
            SELECT system, kind, lag_ms,
                row_number() OVER (PARTITION BY system, kind ORDER BY lag_ms) AS place,
                count(*) OVER (PARTITION BY system, kind) AS proven
            FROM measured WHERE unverified_count = 0
        )
        SELECT json_object('system', m.system, 'kind', m.kind, 'cases', count(*),
            'unverified', count(*) FILTER (WHERE m.unverified_count > 0),
            'p50_ms', (SELECT min(lag_ms) FROM ranked AS r
                WHERE r.system = m.system AND r.kind = m.kind AND r.place >= 0.5 * r.proven),
            'p99_ms', (SELECT min(lag_ms) FROM ranked AS r
                WHERE r.system = m.system AND r.kind = m.kind AND r.place >= 0.99 * r.proven),
            'max_ms', max(m.lag_ms) FILTER (WHERE m.unverified_count = 0))
        FROM measured AS m GROUP BY m.system, m.kind ORDER BY m.system, m.kind",
};
