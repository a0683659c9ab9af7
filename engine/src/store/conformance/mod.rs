//! One suite that both stores pass, on a real file and a real server, and that a store of another crate can be put to.
//!
//! Each test is a function over a [`Database`]; `suite!` makes of it a test on SQLite and one on PostgreSQL. Those
//! that are about what every store does, and not about a schema or a server, are in [`TESTS`] too.
//! Every test has a database of its own, so they run side by side. A missing server is a failure: a suite
//! that skips proves nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod batches;
mod build;
mod ending;
mod fences;
#[cfg(test)]
mod hints;
mod inbox;
mod leases;
#[cfg(test)]
mod migrations;
mod reads;
#[cfg(test)]
mod retention;
#[cfg(test)]
mod schedules;
#[cfg(test)]
mod search;
#[cfg(test)]
mod trouble;

#[cfg(test)]
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
#[cfg(test)]
use sqlx::Connection;
#[cfg(test)]
use tempfile::TempDir;
use uuid::Uuid;

#[cfg(test)]
use super::postgres::{PostgresOptions, PostgresStore};
#[cfg(test)]
use super::sqlite::SqliteStore;
use super::*;

#[cfg(test)]
const STORE_URL: &str = "TENURE_LAB_POSTGRES_STORE_URL";
const SHARDS: u32 = 16;
const NODE: &str = "node-a";
/// Long enough for every test.
const LEASE_MS: u32 = 600_000;

/// An empty database that can be opened more than once.
pub enum Database {
    #[cfg(test)]
    Sqlite { directory: TempDir },
    #[cfg(test)]
    Postgres { url: String, schema: String },
    /// Of another crate: gives the same database each time it is opened.
    Other(Box<dyn Fn() -> Arc<dyn Store> + Send + Sync>),
}

#[cfg(test)]
impl Database {
    fn sqlite() -> Self {
        Self::Sqlite {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    async fn postgres() -> Self {
        let url = std::env::var(STORE_URL).unwrap_or_else(|_| {
            panic!(
                "`{STORE_URL}` is not set: run `tests/lab/postgres.sh start DIR`, then `. DIR/env`; \
                 it starts the PostgreSQL server that these tests need"
            )
        });
        let schema = format!("test_{}", Uuid::new_v4().simple());
        let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
        let create = sqlx::AssertSqlSafe(format!("CREATE SCHEMA {schema}"));
        sqlx::raw_sql(create)
            .execute(&mut connection)
            .await
            .unwrap();
        Self::Postgres {
            url: format!("{url}?options=-csearch_path%3D{schema}"),
            schema,
        }
    }

    async fn drop(self) {
        if let Self::Postgres { url, schema } = self {
            let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
            let drop = sqlx::AssertSqlSafe(format!("DROP SCHEMA {schema} CASCADE"));
            sqlx::raw_sql(drop).execute(&mut connection).await.unwrap();
        }
    }
}

impl Database {
    /// As another process would open it.
    async fn open(&self) -> Arc<dyn Store> {
        match self {
            #[cfg(test)]
            Self::Sqlite { directory } => {
                Arc::new(SqliteStore::open(&file(directory)).await.unwrap())
            }
            #[cfg(test)]
            Self::Postgres { url, .. } => Arc::new(
                PostgresStore::connect(url, PostgresOptions::default())
                    .await
                    .unwrap(),
            ),
            Self::Other(open) => open(),
        }
    }

    /// Opened, with the engine's schema.
    async fn ready(&self) -> Arc<dyn Store> {
        let store = self.open().await;
        store.migrate(MIGRATIONS, SHARDS).await.unwrap();
        store
    }

    /// Opened, with the schema, all shards taken.
    async fn owned(&self) -> (Arc<dyn Store>, Vec<ShardLease>) {
        let store = self.ready().await;
        let leases = build::take(&*store, NODE, LEASE_MS, &[]).await.unwrap();
        assert_eq!(leases.len(), SHARDS as usize);
        (store, leases)
    }

    /// Runs the statement that fits the database.
    async fn execute(&self, store: &dyn Store, postgres: &'static str, sqlite: &'static str) {
        store.write(&Execute { postgres, sqlite }).await.unwrap();
    }
}

#[cfg(test)]
fn file(directory: &TempDir) -> PathBuf {
    directory.path().join("tenure.sqlite")
}

/// Work that only runs a statement.
struct Execute {
    postgres: &'static str,
    sqlite: &'static str,
}

impl Execute {
    async fn on(&self, transaction: &mut Transaction<'_>) {
        match transaction {
            Transaction::Postgres(connection) => {
                sqlx::raw_sql(self.postgres)
                    .execute(&mut **connection)
                    .await
                    .unwrap();
            }
            Transaction::Sqlite(connection) => {
                sqlx::raw_sql(self.sqlite)
                    .execute(&mut **connection)
                    .await
                    .unwrap();
            }
        }
    }
}

#[async_trait]
impl Work for Execute {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        self.on(transaction).await;
        Ok(Vec::new())
    }
}

/// A test over a database, which it wants empty.
pub type Test = for<'a> fn(&'a Database) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// The tests that every store has to pass, by name.
macro_rules! tests {
    ($($module:ident: $($test:ident),+;)+) => {
        pub const TESTS: &[(&str, Test)] = &[
            $($((stringify!($test), |database| Box::pin($module::$test(database))),)+)+
        ];

        suite! { $($module: $($test),+;)+ }
    };
}

/// Two tests for each function.
macro_rules! suite {
    ($($module:ident: $($test:ident),+;)+) => {
        #[cfg(test)]
        mod on_sqlite {
            use super::*;
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let database = Database::sqlite();
                    $module::$test(&database).await;
                    database.drop().await;
                }
            )+)+
        }

        #[cfg(test)]
        mod on_postgres {
            use super::*;
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let database = Database::postgres().await;
                    $module::$test(&database).await;
                    database.drop().await;
                }
            )+)+
        }
    };
}

tests! {
    batches:
        an_empty_batch_is_written,
        a_new_case_is_read_back_as_it_was_written,
        a_case_moves_and_its_rows_follow,
        rows_are_written_whether_or_not_they_are_known,
        transitions_of_one_case_fold_into_one,
        a_large_batch_is_written_whole,
        times_keep_their_microseconds,
        a_closed_case_is_not_open_any_more,
        timers_come_in_order_and_go,
        a_timer_set_and_cleared_in_one_batch_ends_as_it_began,
        hostile_text_comes_back_unchanged,
        text_that_cannot_be_kept_is_refused_before_anything_is_written;
    ending:
        a_pause_is_kept_and_lifted,
        a_pause_of_a_lost_shard_is_not_kept,
        an_end_by_a_node_that_lost_its_shard_writes_nothing,
        what_waits_for_people_comes_in_pages_the_oldest_first,
        a_life_is_kept_and_never_goes_back,
        lives_of_cases_of_before_are_known,
        what_is_left_out_of_a_batch_leaves_nothing;
    fences:
        a_stale_version_writes_nothing,
        the_case_that_does_not_fit_is_the_one_named,
        a_missing_case_is_stale,
        transitions_that_do_not_follow_are_stale,
        a_case_is_made_once,
        a_lost_shard_writes_nothing,
        a_shard_without_a_lease_is_fenced,
        a_known_step_without_a_row_writes_nothing,
        a_failing_projection_takes_everything_back,
        a_projection_writes_in_the_same_transaction,
        a_dropped_commit_leaves_nothing_behind,
        a_takeover_never_splits_a_batch,
        two_owners_in_turn_lose_no_transition;
    leases:
        a_shard_has_one_owner,
        shards_are_never_shared_by_nodes_that_come_at_once,
        a_lease_that_ran_out_is_free,
        a_node_whose_time_is_over_renews_nothing,
        a_renewal_and_a_taking_at_once_agree,
        a_dead_node_is_replaced_at_once,
        a_renewal_extends_what_is_held_and_names_the_rest,
        no_more_is_taken_than_wanted,
        a_node_is_known_by_its_heartbeat,
        a_node_that_ended_or_died_is_forgotten,
        released_shards_are_free_at_once;
    inbox:
        a_message_is_put_once,
        revocations_come_first_then_the_oldest,
        a_batch_takes_messages_out_and_answers_them,
        old_answers_are_forgotten,
        work_and_its_messages_are_one,
        failed_work_leaves_nothing,
        the_rest_of_the_inbox_can_be_left_out,
        fewer_than_the_limit_are_all,
        a_message_that_no_database_keeps_is_refused;
    reads:
        restless_cases_are_queued_or_in_flight,
        open_cases_are_those_of_the_subject,
        a_case_is_located,
        existing_cases_are_told_from_others,
        pages_of_equal_age_lose_and_repeat_nothing,
        filters_choose,
        a_page_has_a_limit,
        cases_are_counted_by_workflow_and_state,
        history_and_evidence_are_in_order,
        definitions_are_kept_by_hash,
        a_reader_never_sees_half_a_commit;
}

#[cfg(test)]
mod of_a_schema {
    use super::*;

    suite! {
    search:
        open_work_is_found_by_what_it_waits_for,
        open_work_is_found_by_system_step_and_error,
        searches_combine_with_what_never_changes,
        versions_are_listed_with_their_open_cases,
        a_case_is_rebuilt_under_another_version;
    migrations:
        two_at_once_are_safe,
        a_second_time_changes_nothing,
        an_older_database_is_brought_up_to_date,
        a_newer_database_is_refused,
        a_changed_migration_is_refused,
        a_failing_migration_is_named_and_undone,
        the_number_of_shards_is_fixed,
        shards_have_bounds;
    ending:
        a_case_that_cannot_be_read_can_be_ended;
    retention:
        history_is_forgotten_and_that_of_open_cases_is_not,
        evidence_goes_only_when_asked,
        closed_cases_go_in_pieces,
        every_case_may_go_and_its_evidence_stays_its_own,
        a_transition_is_recorded_once_whatever_its_time,
        room_is_made_again_and_again_and_by_many,
        an_older_database_gets_its_partitions;
    schedules:
        a_schedule_is_read_back_as_it_was_written,
        schedules_are_found_by_shard,
        a_lost_shard_writes_nothing_of_a_schedule,
        a_stale_schedule_writes_nothing,
        runs_are_listed_from_the_latest_and_the_oldest_are_forgotten,
        the_cases_of_a_schedule_are_followed,
        text_that_cannot_be_kept_is_refused_in_schedules_too,
        a_schedule_is_written_by_the_owner_of_its_shard;
    trouble:
        a_damaged_row_is_named,
        a_closed_store_is_unavailable;
    }
}
