//! `tenure bench`: how fast this machine and this database let the engine go.

mod engine;
mod limit;
mod scratch;

use anyhow::bail;
use clap::{Args, Subcommand};

use super::{Context, Exit};

/// Measure how fast the engine goes on this machine and this database
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tenure bench engine --store sqlite
  tenure bench engine --store postgres --url postgres://localhost/postgres --json")]
pub struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Engine(Engine),
}

/// Durable no-op steps through the real node, beside the bare writes of the same database
#[derive(Debug, Clone, Args)]
#[command(after_long_help = "\
Examples:
  tenure bench engine --store sqlite --cases 2000
  tenure bench engine --store postgres --url postgres://localhost/postgres --cases 20000 --json

Here --store takes `sqlite` (as without it) or `postgres`.

Every run works in a database of its own, which it makes and removes: a file in the temporary folder, or a
scratch database beside the one that --url names (its user must be allowed to create databases).

What is measured:
  steps_per_s       finished steps, each durable with its history and evidence, from the first message put
                    to the last case closed
  limit_rows_per_s  bare inserts of as many rows, as wide as what the engine stores for a step, in
                    batches as large as the engine's mean batch, in the same run on the same database
  ratio             the first over the second
  p50_ms, p99_ms    one case alone, from its message put to closed")]
pub struct Engine {
    /// A PostgreSQL server where a scratch database can be made
    #[arg(long, value_name = "URL", env = "TENURE_BENCH_URL")]
    url: Option<String>,
    /// How many cases run at once
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    cases: u32,
    /// Steps of each case
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=500))]
    steps: u16,
    /// Instances of the fan-out that is compared with those steps
    #[arg(long, value_name = "M", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    for_each: u32,
    /// How many cases run alone, one after another
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    alone: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Database {
    Sqlite,
    Postgres,
}

impl Database {
    /// What the global `--store` means here: a kind of database, never one that is in use.
    fn meant(store: Option<&str>) -> anyhow::Result<Self> {
        match store {
            None | Some("sqlite") => Ok(Self::Sqlite),
            Some("postgres") => Ok(Self::Postgres),
            Some(other) => bail!(
                "`bench` measures in a database of its own: give `--store sqlite` or `--store postgres`, not `{}`",
                other.split(':').next().unwrap_or_default()
            ),
        }
    }
}

/// Runs the benchmark.
///
/// # Errors
/// When the database cannot be used, or a case did not end as it had to.
pub async fn run(context: &Context, bench: Bench) -> anyhow::Result<Exit> {
    match bench.what {
        What::Engine(options) => engine::run(context, &options).await,
    }
}
