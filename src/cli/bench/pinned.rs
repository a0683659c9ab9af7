//! A reader that keeps an old snapshot open for minutes: does the engine slow down, do its tables grow without end?

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Serialize;
use sqlx::Connection as _;
use tokio::time::Instant;

use super::fleet::{Fleet, Noop, definitions, rate, steps};
use super::limit::{TableSize, table_sizes};
use super::scratch::{Beside, Scratch};
use super::{Database, Pinned};
use crate::cli::format::{Bar, Listing, Tone, number};
use crate::cli::{Context, Exit};

/// How many cases of how many steps one round has.
const CASES: u32 = 1_000;
const STEPS: u32 = 10;

#[derive(Debug, Serialize)]
struct Report {
    store: &'static str,
    minutes: f64,
    /// Without the reader, before it came.
    free_steps_per_s: f64,
    pinned_steps_per_s: f64,
    /// Without it again, after it went: as much is stored then as in the last quarter.
    after_steps_per_s: f64,
    /// The last quarter with the reader over the time after it.
    ratio: f64,
    /// In the first and the last quarter of the time with the reader.
    pinned_first_steps_per_s: f64,
    pinned_last_steps_per_s: f64,
    /// Tables whose size follows what is open, not what was done: before, with the reader at its end, and after it.
    tables: Vec<Growth>,
}

#[derive(Debug, Serialize)]
struct Growth {
    table: String,
    before_bytes: u64,
    pinned_bytes: u64,
    after_bytes: u64,
}

pub(super) async fn run(context: &Context, options: &Pinned) -> anyhow::Result<Exit> {
    let database = Database::meant(context.store.as_deref())?;
    let work = async |scratch: &Scratch| measure(context, database, options, scratch).await;
    let report = Scratch::within(database, options.url.as_deref(), work).await?;
    context.output.result(&report, describe)?;
    Ok(Exit::Good)
}

async fn measure(
    context: &Context,
    database: Database,
    options: &Pinned,
    scratch: &Scratch,
) -> anyhow::Result<Report> {
    let definitions = definitions(&[&steps("steps", "noop", STEPS)])?;
    let fleet = Fleet::start(scratch, 1, Arc::new(Noop), &definitions).await?;
    let mut beside = scratch.beside().await?;
    let minutes = |minutes: f64| Duration::from_secs_f64(minutes * 60.0);
    let (before, span) = (minutes(options.before), minutes(options.minutes));
    let pace = Duration::from_secs(u64::from(CASES * STEPS)) / options.pace;
    let bar = Bar::new("bench pinned", 3, context.output.json);

    bar.say("without a reader");
    let free = rounds(&fleet, before, pace).await?;
    let before = table_sizes(&mut beside).await?;
    bar.set(1, 3);

    bar.say("with a reader that stays");
    let mut reader = scratch.beside().await?;
    pin(&mut reader).await?;
    let pinned = rounds(&fleet, span, pace).await?;
    let during = table_sizes(&mut beside).await?;
    close(reader).await?;
    bar.set(2, 3);

    bar.say("after it");
    let freed = rounds(&fleet, span / 4, pace).await?;
    let after = table_sizes(&mut beside).await?;
    fleet.drain().await?;
    bar.end();

    let quarter = (pinned.len() / 4).max(1);
    let last = speed(pinned.get(pinned.len() - quarter..).unwrap_or_default());
    let after_steps_per_s = speed(&freed);
    Ok(Report {
        store: database.name(),
        minutes: options.minutes,
        free_steps_per_s: speed(&free),
        pinned_steps_per_s: speed(&pinned),
        after_steps_per_s,
        ratio: last / after_steps_per_s,
        pinned_first_steps_per_s: speed(pinned.get(..quarter).unwrap_or_default()),
        pinned_last_steps_per_s: last,
        tables: grown(before, &during, &after),
    })
}

/// How long each round took; one begins every `pace` at most.
async fn rounds(fleet: &Fleet, span: Duration, pace: Duration) -> anyhow::Result<Vec<Duration>> {
    let transitions = fleet.transitions_of_one("steps").await?;
    let started = Instant::now();
    let mut took = Vec::new();
    while took.is_empty() || started.elapsed() < span {
        let next = Instant::now() + pace;
        took.push(fleet.cases_unasked("steps", CASES, transitions).await?);
        tokio::time::sleep_until(next).await;
    }
    Ok(took)
}

fn speed(rounds: &[Duration]) -> f64 {
    let steps = u64::from(CASES) * u64::from(STEPS) * rounds.len() as u64;
    rate(steps, rounds.iter().sum())
}

async fn pin(reader: &mut Beside) -> anyhow::Result<()> {
    let count: i64 = match reader {
        Beside::Sqlite(connection) => {
            sqlx::raw_sql("BEGIN").execute(&mut *connection).await?;
            sqlx::query_scalar("SELECT count(*) FROM case_head")
                .fetch_one(connection)
                .await?
        }
        Beside::Postgres(connection) => {
            sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ")
                .execute(&mut *connection)
                .await?;
            sqlx::query_scalar("SELECT count(*) FROM case_head")
                .fetch_one(connection)
                .await?
        }
    };
    ensure!(count > 0, "there is nothing to read");
    Ok(())
}

async fn close(reader: Beside) -> anyhow::Result<()> {
    match reader {
        Beside::Sqlite(connection) => connection.close().await,
        Beside::Postgres(connection) => connection.close().await,
    }
    .context("cannot end the reader")
}

fn grown(before: Vec<TableSize>, during: &[TableSize], after: &[TableSize]) -> Vec<Growth> {
    let find = |sizes: &[TableSize], table: &str| {
        let size = sizes.iter().find(|size| size.table == table);
        size.map_or(0, |size| size.bytes)
    };
    before
        .into_iter()
        .map(|size| Growth {
            before_bytes: size.bytes,
            pinned_bytes: find(during, &size.table),
            after_bytes: find(after, &size.table),
            table: size.table,
        })
        .collect()
}

fn describe(report: &Report) -> String {
    let mut listing = Listing::new(&["TABLE", "BEFORE", "PINNED", "AFTER"]).right(&[1, 2, 3]);
    let kib = |bytes: u64| format!("{} KiB", number(bytes >> 10));
    for table in &report.tables {
        listing.row([
            (table.table.clone(), Tone::Plain),
            (kib(table.before_bytes), Tone::Plain),
            (kib(table.pinned_bytes), Tone::Strong),
            (kib(table.after_bytes), Tone::Plain),
        ]);
    }
    format!(
        "{} for {} minutes, in steps a second: {:.0} before the reader, {:.0} with it (first {:.0}, last {:.0}), {:.0} after it; last over after {:.2}\n{listing}",
        report.store,
        report.minutes,
        report.free_steps_per_s,
        report.pinned_steps_per_s,
        report.pinned_first_steps_per_s,
        report.pinned_last_steps_per_s,
        report.after_steps_per_s,
        report.ratio,
    )
}
