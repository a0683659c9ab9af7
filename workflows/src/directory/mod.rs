//! The directory: who is known, what they hold and why, what the sources said, how long corrections took.
//!
//! It is written in two ways only, both transactional: by the [intake](crate::intake), together with the
//! messages that start cases, and by the [`DirectoryProjection`], together with the transitions of cases. So
//! it can never say something that no event and no step stands behind.
//!
//! Reading is for people (command line, API) and for planning; it never takes part in a transition.

mod asked;
mod beliefs;
mod credentials;
pub(crate) mod database;
mod events;
mod found;
pub(crate) mod guard;
mod heard;
mod holds;
mod identities;
mod lag;
mod left_out;
mod merges;
mod nhi_owners;
mod nhi_statements;
mod nhis;
mod observations;
mod planned;
mod policies;
mod projection;
mod pulls;
pub mod resources;
mod reviews;
mod rollouts;
mod rotation_asks;
mod rotation_moves;
mod rotation_plans;
mod rotation_renewals;
mod rotation_statements;
mod rotations;
mod rows;
mod snapshots;
mod statements;
mod systems;

#[cfg(test)]
mod nhi_tests;
#[cfg(test)]
mod rotation_list_tests;
#[cfg(test)]
mod rotation_renewal_tests;
#[cfg(test)]
mod rotation_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use engine::core::id::Subject;
use engine::store::postgres::PostgresStore;
use engine::store::sqlite::SqliteStore;
use engine::store::{Migration, Store, StoreError, Work};

use database::Reader;

pub use events::Decided;
pub(crate) use events::{Claim, claim, events_in, events_named, mark, put_events, waiting_due};
pub(crate) use heard::{Expect, Hear};
pub(crate) use identities::{
    for_update, holdings_in, in_transaction as identities_in, introduce, put as put_identities,
};
pub(crate) use left_out::Remainder;
pub(crate) use merges::{
    holders, merges_in, put_adopted, put_holdings, put_merges, split_pairs, take_holdings,
    under_way,
};
pub(crate) use nhis::{DECLARED, Declaring, nhi_changes_in, nhi_in};
pub(crate) use planned::{drop_planned, planned_due, planned_in, put_planned};
pub(crate) use reviews::{
    BlockRow, put_blocks, put_indexed, put_reviews, review_in, reviews_about, with_blocks,
};
pub(crate) use snapshots::{
    Position, RecordRow, decide as decide_snapshot, mark_gone, move_on, put_records, put_snapshot,
};

pub use asked::{ANSWERING, Asked, PERSON};
pub use beliefs::{Believed, BelievedSpell, KnownEvent};
pub use credentials::CredentialRow;
pub use found::{Decide, FoundFilter};
pub use guard::DoubtRow;
pub use heard::{HEARD_EVERY_S, HeardRow};
pub use holds::{HOLD_NAME_BYTES_MAX, HOLD_REASON_BYTES_MAX, HoldRow, NewHold};
pub use identities::{
    EVENTS_SHOWN_MAX, Holdings, IdentityDetail, IdentityFilter, PAGE_ROWS_MAX, SEARCH_BYTES_MAX,
    facts_of,
};
pub use lag::LagSummary;
pub use left_out::{LEFT_OUT_SHOWN_MAX, LeftOutCounts, LeftOutReason, LeftOutRow};
pub use merges::{AdoptedRow, MergeRow, MergeState, Moved};
pub use nhi_owners::{HandOver, Quiet};
pub use nhis::{
    DeclareReport, NODES_MAX, NhiChange, NhiCredentialRow, NhiFilter, NhiRow, NhiStatus,
};
pub use observations::ObserveReport;
pub use planned::{PlannedRow, PlannedStatus};
pub use policies::{PolicyRow, PolicyStatus};
pub use projection::{DirectoryProjection, LagKind};
pub use pulls::{HintRow, PullMarkRow};
pub use reviews::{ReviewFilter, ReviewRow, ReviewStatus};
pub use rollouts::{LoadedRow, RolloutChange, RolloutRow, RolloutStatus};
pub use rotation_asks::{Granted, NotBegun};
pub use rotation_renewals::Wish;
pub(crate) use rotations::IRREVOCABLE_DUE;
pub use rotations::{Begun, RotationFilter, RotationRow, subject as rotation_subject};
pub use rows::{
    AccountRow, AccountStatus, EventRow, EventStatus, GrantReason, GrantRow, GrantStatus,
    IdentityRow, IdentityStatus, SnapshotRow, SnapshotStatus, SystemState, SystemStateRow,
};
pub use snapshots::PendingSnapshot;
pub use systems::AccountCount;

/// The directory's schema, to be given to [`Store::migrate`] after the engine's own.
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 2,
        name: "directory",
        postgres: include_str!("../../../migrations/postgres/0002_directory.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0002_directory.sql"),
    },
    Migration {
        version: 10,
        name: "event_subject",
        postgres: include_str!("../../../migrations/postgres/0010_event_subject.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0010_event_subject.sql"),
    },
    Migration {
        version: 12,
        name: "source_heard",
        postgres: include_str!("../../../migrations/postgres/0012_source_heard.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0012_source_heard.sql"),
    },
    Migration {
        version: 13,
        name: "scim",
        postgres: include_str!("../../../migrations/postgres/0013_scim.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0013_scim.sql"),
    },
    Migration {
        version: 15,
        name: "guard",
        postgres: include_str!("../../../migrations/postgres/0015_guard.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0015_guard.sql"),
    },
    Migration {
        version: 16,
        name: "legal_hold",
        postgres: include_str!("../../../migrations/postgres/0016_legal_hold.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0016_legal_hold.sql"),
    },
    Migration {
        version: 17,
        name: "correlation",
        postgres: include_str!("../../../migrations/postgres/0017_correlation.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0017_correlation.sql"),
    },
    Migration {
        version: 19,
        name: "planned_start",
        postgres: include_str!("../../../migrations/postgres/0019_planned_start.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0019_planned_start.sql"),
    },
    Migration {
        version: 20,
        name: "pull",
        postgres: include_str!("../../../migrations/postgres/0020_pull.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0020_pull.sql"),
    },
    Migration {
        version: 23,
        name: "nhi",
        postgres: include_str!("../../../migrations/postgres/0023_nhi.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0023_nhi.sql"),
    },
    Migration {
        version: 24,
        name: "nhi_found",
        postgres: include_str!("../../../migrations/postgres/0024_nhi_found.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0024_nhi_found.sql"),
    },
    Migration {
        version: 25,
        name: "rotation",
        postgres: include_str!("../../../migrations/postgres/0025_rotation.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0025_rotation.sql"),
    },
    Migration {
        version: 26,
        name: "policy_rollout",
        postgres: include_str!("../../../migrations/postgres/0026_policy_rollout.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0026_policy_rollout.sql"),
    },
    Migration {
        version: 27,
        name: "rotation_renewal",
        postgres: include_str!("../../../migrations/postgres/0027_rotation_renewal.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0027_rotation_renewal.sql"),
    },
    Migration {
        version: 28,
        name: "rotation_look",
        postgres: include_str!("../../../migrations/postgres/0028_rotation_look.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0028_rotation_look.sql"),
    },
    Migration {
        version: 29,
        name: "case_asked",
        postgres: include_str!("../../../migrations/postgres/0029_case_asked.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0029_case_asked.sql"),
    },
    Migration {
        version: 30,
        name: "exception_end",
        postgres: include_str!("../../../migrations/postgres/0030_exception_end.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0030_exception_end.sql"),
    },
    Migration {
        version: 31,
        name: "rotation_name",
        postgres: include_str!("../../../migrations/postgres/0031_rotation_name.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0031_rotation_name.sql"),
    },
    Migration {
        version: 32,
        name: "policy_left_out",
        postgres: include_str!("../../../migrations/postgres/0032_policy_left_out.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0032_policy_left_out.sql"),
    },
    Migration {
        version: 33,
        name: "rotation_exposed",
        postgres: include_str!("../../../migrations/postgres/0033_rotation_exposed.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0033_rotation_exposed.sql"),
    },
];

/// The directory in the database of a store. Cheap to clone.
#[derive(Clone)]
pub struct Directory {
    store: Arc<dyn Store>,
    reader: Reader,
    shards: u32,
}

impl Directory {
    /// The directory of a store on SQLite whose schema is up to date.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn on_sqlite(store: Arc<SqliteStore>) -> Result<Self, StoreError> {
        let reader = Reader::Sqlite(store.readers().clone());
        let shards = store.shard_count().await?;
        Ok(Self {
            store,
            reader,
            shards,
        })
    }

    /// The directory of a store on PostgreSQL whose schema is up to date.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn on_postgres(store: Arc<PostgresStore>) -> Result<Self, StoreError> {
        let reader = Reader::Postgres(store.readers().clone());
        let shards = store.shard_count().await?;
        Ok(Self {
            store,
            reader,
            shards,
        })
    }

    /// The store it lies in.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The shard of a subject, a source or a system, by its name.
    pub(crate) fn shard(&self, name: &str) -> i32 {
        Subject(name.to_owned()).shard(self.shards).0
    }

    pub(crate) fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Writes in a transaction of its own.
    pub(crate) async fn write(&self, work: &dyn Work) -> Result<(), StoreError> {
        self.store.write(work).await
    }
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directory")
            .field("shards", &self.shards)
            .finish_non_exhaustive()
    }
}
