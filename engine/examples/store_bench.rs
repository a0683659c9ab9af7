//! How fast a store commits batches of single-step transitions, beside bare batched inserts of as many rows.
//!
//! ```text
//! cargo run --release -p engine --example store_bench -- sqlite:bench.sqlite [cases] [steps] [batch]
//! cargo run --release -p engine --example store_bench -- postgres://user@host/empty_database
//! ```
//!
//! One step is one update of `case_state`, one update and one insert of `case_step`, one history row and one
//! evidence row. All cases are started first and advance in turn, so no batch meets a case twice.

#![expect(clippy::print_stdout, reason = "a measurement prints what it measured")]

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use engine::core::Timestamp;
use engine::core::case::CaseState;
use engine::core::definition::Lane;
use engine::core::id::{Actor, CaseId, DefinitionHash, ShardId, Subject};
use engine::store::postgres::{PostgresOptions, PostgresStore};
use engine::store::sqlite::SqliteStore;
use engine::store::{
    Acquire, Batch, EvidenceRow, HeadRow, HistoryRow, MIGRATIONS, NoProjection, SHARDS_DEFAULT,
    ShardLease, StateRow, StepRow, Store,
};
use serde_json::json;
use sqlx::Connection;
use tokio::time::Instant;
use uuid::Uuid;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const NODE: &str = "bench";
const LEASE_MS: u32 = 3_600_000;
const ALONE_STEPS: usize = 200;
const BARE_COMMITS: usize = 50;
const ROWS_A_STEP: usize = 5;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let url = arguments
        .get(1)
        .map(String::as_str)
        .ok_or("say `sqlite:PATH` or `postgres://...`")?;
    let number = |index: usize, otherwise: usize| match arguments.get(index) {
        Some(text) => text.parse(),
        None => Ok(otherwise),
    };
    let run = Run {
        cases: number(2, 10_000)?,
        steps: number(3, 10)?,
        batch: number(4, 1_000)?,
    };
    match url.strip_prefix("sqlite:") {
        Some(path) => {
            let store = SqliteStore::open(Path::new(path)).await?;
            run.measure(&store).await?;
            store.close().await;
            run.print_bare(bare_sqlite(path, run.batch).await?);
        }
        None => {
            let store = PostgresStore::connect(url, PostgresOptions::default()).await?;
            run.measure(&store).await?;
            store.close().await;
            run.print_bare(bare_postgres(url, run.batch).await?);
        }
    }
    Ok(())
}

struct Run {
    cases: usize,
    steps: usize,
    batch: usize,
}

impl Run {
    async fn measure(&self, store: &dyn Store) -> Result<()> {
        store.migrate(MIGRATIONS, SHARDS_DEFAULT).await?;
        let leases = store
            .acquire(&Acquire {
                node: NODE,
                lease_ms: LEASE_MS,
                replaces: &[NODE.to_owned()],
                holding: &[],
                shards_max: SHARDS_DEFAULT,
            })
            .await?;
        let cases: Vec<(ShardId, CaseId)> = (0..self.cases)
            .map(|index| {
                let subject = Subject(format!("person-{index}"));
                (subject.shard(SHARDS_DEFAULT), CaseId(Uuid::now_v7()))
            })
            .collect();
        let mut starts = Vec::new();
        for chunk in cases.chunks(self.batch) {
            starts.push(start(&leases, chunk, self.steps));
        }
        let took = commit_all(store, &starts).await?;
        println!(
            "started {} cases: {:.0} cases/s",
            self.cases,
            self.cases as f64 / took.as_secs_f64()
        );
        let mut total = Duration::ZERO;
        let mut slowest = Duration::ZERO;
        for step in 1..=self.steps {
            let batches: Vec<Batch> = cases
                .chunks(self.batch)
                .map(|chunk| advance(&leases, chunk, step, self.steps))
                .collect();
            let took = commit_all(store, &batches).await?;
            slowest = slowest.max(took);
            total += took;
        }
        let steps = (self.cases * self.steps) as f64;
        let rate = steps / total.as_secs_f64();
        println!(
            "steps: {rate:.0} steps/s, {:.0} rows/s, batches of {}",
            rate * ROWS_A_STEP as f64,
            self.batch
        );
        println!(
            "slowest round: {:.0} steps/s",
            self.cases as f64 / slowest.as_secs_f64()
        );
        let one = [(ShardId(0), CaseId(Uuid::now_v7()))];
        store
            .commit(&start(&leases, &one, usize::MAX), &NoProjection)
            .await?;
        let mut alone = Vec::new();
        for step in 1..=ALONE_STEPS {
            let batch = advance(&leases, &one, step, usize::MAX);
            let before = Instant::now();
            store.commit(&batch, &NoProjection).await?;
            alone.push(before.elapsed());
        }
        alone.sort_unstable();
        println!(
            "one step alone: p50 {:?}",
            alone.get(alone.len() / 2).copied().unwrap_or_default()
        );
        store.release(NODE, &leases).await?;
        Ok(())
    }

    fn print_bare(&self, took: Duration) {
        let rows = (BARE_COMMITS * self.batch * ROWS_A_STEP) as f64;
        println!("bare inserts: {:.0} rows/s", rows / took.as_secs_f64());
    }
}

async fn commit_all(store: &dyn Store, batches: &[Batch]) -> Result<Duration> {
    let before = Instant::now();
    for batch in batches {
        store.commit(batch, &NoProjection).await?;
    }
    Ok(before.elapsed())
}

fn now() -> Timestamp {
    Timestamp::from_timestamp_micros(1_764_000_000_123_456).unwrap_or_default()
}

fn start(leases: &[ShardLease], cases: &[(ShardId, CaseId)], steps: usize) -> Batch {
    let mut batch = advance(leases, cases, 0, steps);
    for state in &mut batch.states {
        state.from_version = None;
    }
    batch.heads = cases
        .iter()
        .map(|(shard, case)| HeadRow {
            shard: *shard,
            case: *case,
            subject: Subject(case.to_string()),
            workflow: "leaver".to_owned(),
            definition: DefinitionHash("0123456789abcdef".repeat(4)),
            lane: Lane::Normal,
            generation: 1,
            input: json!({"identity": {"id": case.to_string(), "name": "Somebody", "department": "Somewhere"}}),
            salt: [7; 16],
            initiator: Actor("source:hr".to_owned()),
            effective_at: Some(now()),
            received_at: now(),
            created_at: now(),
        })
        .collect();
    batch
}

/// Finishes step `step - 1` and starts step `step` of each case; the last step starts nothing.
fn advance(leases: &[ShardLease], cases: &[(ShardId, CaseId)], step: usize, steps: usize) -> Batch {
    let version = step as u64 + 1;
    let touched = |lease: &&ShardLease| cases.iter().any(|(shard, _)| *shard == lease.shard);
    let leases = leases.iter().filter(touched).copied().collect();
    let mut batch = Batch {
        leases,
        ..Batch::default()
    };
    for (shard, case) in cases {
        let (shard, case) = (*shard, *case);
        let closes = step >= steps;
        batch.states.push(StateRow {
            shard,
            case,
            from_version: Some(version - 1),
            version,
            state: if closes {
                CaseState::Succeeded
            } else {
                CaseState::Running
            },
            ending: None,
            in_flight: 1,
            parked: 0,
            unfinished: 1,
            unverified: 0,
            given_up: 0,
            steps_done: u32::try_from(step).unwrap_or(u32::MAX),
            deadline_at: Some(now()),
            deadline_passed: false,
            closed_at: closes.then(now),
            changed_at: now(),
            paused: None,
        });
        if step > 0 {
            let body = json!({"state": {"state": "done"}, "with": {"account": "somebody", "system": "directory"},
                "output": {"id": "uid=somebody,ou=people", "n": step}, "verification": {"how": "verified"},
                "finished_version": step, "run": {"version": version}});
            batch
                .steps
                .push(step_row(shard, case, step - 1, "done", body.to_string()));
        }
        if !closes {
            let body = json!({"state": {"state": "running", "mode": "do"},
                "with": {"account": "somebody", "system": "directory"},
                "run": {"version": version, "remaining": 1}});
            batch
                .steps
                .push(step_row(shard, case, step, "running", body.to_string()));
        }
        let place = json!({"step": step, "instance": 0});
        let events = json!([
            {"event": "done", "place": place, "output": {"id": "uid=somebody,ou=people", "n": step},
             "verification": {"how": "verified"}},
            {"event": "attempted", "place": place, "attempt": 1, "mode": "do"}]);
        let (input, by) = ("attempt_finished".to_owned(), "engine".to_owned());
        batch.history.push(HistoryRow {
            shard,
            case,
            version,
            at: now(),
            input,
            by,
            events: events.to_string(),
        });
        let digest = "0123456789abcdef".repeat(4);
        let leaf = json!({"v": 1, "case": case.to_string(), "subject": digest, "version": version,
            "workflow": "leaver", "definition": digest, "step": "disable", "instance": 0, "operation": "disable",
            "system": "directory", "initiator": "source:hr", "before": digest, "after": digest,
            "decided_at": "2026-01-01T00:00:00.123456Z", "sent_at": "2026-01-01T00:00:00.123456Z",
            "verified_at": "2026-01-01T00:00:00.123456Z", "outcome": "done"});
        batch.evidence.push(EvidenceRow {
            shard,
            case,
            version,
            at: now(),
            leaf: leaf.to_string().into_bytes(),
        });
    }
    batch
}

fn step_row(shard: ShardId, case: CaseId, step: usize, state: &str, body: String) -> StepRow {
    StepRow {
        shard,
        case,
        step: u16::try_from(step).unwrap_or(u16::MAX),
        instance: Some(0),
        state: state.to_owned(),
        attempt: 1,
        failures: 0,
        away: 0,
        planned_version: Some(step as u64),
        body,
        changed_at: now(),
    }
}

/// As wide as the mean row of a step.
fn bare_body() -> String {
    "x".repeat(280)
}

async fn bare_postgres(url: &str, batch: usize) -> Result<Duration> {
    let mut connection = sqlx::PgConnection::connect(url).await?;
    sqlx::raw_sql("DROP TABLE IF EXISTS bare; CREATE TABLE bare (shard_id int, id uuid, body text, PRIMARY KEY (shard_id, id))")
        .execute(&mut connection)
        .await?;
    let mut took = Duration::ZERO;
    for _ in 0..BARE_COMMITS {
        let rows = batch * ROWS_A_STEP;
        let shards: Vec<i32> = (0..rows).map(|row| (row % 256) as i32).collect();
        let ids: Vec<Uuid> = (0..rows).map(|_| Uuid::now_v7()).collect();
        let bodies = vec![bare_body(); rows];
        let before = Instant::now();
        sqlx::query("INSERT INTO bare SELECT * FROM unnest($1::int[], $2::uuid[], $3::text[])")
            .bind(shards)
            .bind(ids)
            .bind(bodies)
            .execute(&mut connection)
            .await?;
        took += before.elapsed();
    }
    sqlx::raw_sql("DROP TABLE bare")
        .execute(&mut connection)
        .await?;
    Ok(took)
}

async fn bare_sqlite(path: &str, batch: usize) -> Result<Duration> {
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(path)
        .synchronous(sqlx::sqlite::SqliteSynchronous::Full);
    let mut connection = sqlx::SqliteConnection::connect_with(&options).await?;
    sqlx::raw_sql("DROP TABLE IF EXISTS bare; CREATE TABLE bare (shard_id INTEGER, id BLOB, body TEXT, PRIMARY KEY (shard_id, id))")
        .execute(&mut connection)
        .await?;
    let mut took = Duration::ZERO;
    for _ in 0..BARE_COMMITS {
        let body = bare_body();
        let rows: Vec<_> = (0..batch * ROWS_A_STEP)
            .map(|row| json!([row % 256, Uuid::now_v7().simple().to_string(), body]))
            .collect();
        let before = Instant::now();
        let rows = serde_json::Value::from(rows).to_string();
        sqlx::query("INSERT INTO bare SELECT value ->> 0, unhex(value ->> 1), value ->> 2 FROM json_each(?1)")
            .bind(rows)
            .execute(&mut connection)
            .await?;
        took += before.elapsed();
    }
    sqlx::raw_sql("DROP TABLE bare")
        .execute(&mut connection)
        .await?;
    Ok(took)
}
