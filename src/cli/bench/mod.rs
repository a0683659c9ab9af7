//! `tenure bench`: how fast this machine and this database let the engine go.

mod engine;
mod fleet;
mod growth;
mod import;
mod inventory;
mod limit;
mod pinned;
mod rotations;
mod scratch;
mod storm;

use anyhow::bail;
use clap::{Args, Subcommand};

use super::format::{Listing, Tone, number};
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
    Growth(Growth),
    Import(Import),
    Inventory(Inventory),
    Rotations(Rotations),
    Storm(Storm),
    Pinned(Pinned),
}

/// What a database full of cases costs: speed, memory, start-up, and how late timers fire
#[derive(Debug, Clone, Args)]
#[command(after_long_help = "\
Examples:
  tenure bench growth --store sqlite --stored 1000 --waiting 0
  tenure bench growth --store postgres --url postgres://localhost/postgres --stored 1000000 --waiting 1000000 --json

The cases are made first, by the engine itself, which takes a minute for some hundred thousand. Then a process of
its own starts a node on them and measures.")]
pub struct Growth {
    /// A PostgreSQL server where a scratch database can be made
    #[arg(long, value_name = "URL", env = "TENURE_BENCH_URL")]
    url: Option<String>,
    /// Cases that are over
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(0..=20_000_000))]
    stored: u32,
    /// Cases that wait for a timer a month away
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(0..=20_000_000))]
    waiting: u32,
    /// How many timers come due in a second
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    timers_per_s: u32,
    /// For how many seconds
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
}

/// Years of what was said about a company's people, taken in at once, and the cases that follow
#[derive(Debug, Clone, Args)]
#[command(after_long_help = "\
Examples:
  tenure bench import --store sqlite --identities 10000
  tenure bench import --store postgres --url postgres://localhost/postgres --json

People and their years are made up out of the seed: hired, moved, on leave, announced to leave, that moved or taken
back, hired again. What was said about them goes into a file, late, out of order and some of it twice, which is taken in
as `tenure import events` does. Then the cases run against a directory in memory. At the end everybody is compared with how
they lived; exit code 1 when anything differs.")]
pub struct Import {
    /// A PostgreSQL server where a scratch database can be made
    #[arg(long, value_name = "URL", env = "TENURE_BENCH_URL")]
    url: Option<String>,
    /// How many people
    #[arg(long, value_name = "N", default_value_t = 300_000, value_parser = clap::value_parser!(u32).range(1..=5_000_000))]
    identities: u32,
    /// How many years of each
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    years: u32,
    /// Another seed is another company
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// A large inventory of non-human identities: declared, searched, held against policy
#[derive(Debug, Clone, Args)]
#[command(after_long_help = "\
Examples:
  tenure bench inventory --store sqlite
  tenure bench inventory --store postgres --url postgres://localhost/postgres --json

Ten credentials to an identity, two hundred owners, ends over the next two years. Each question is asked twenty times, and
the median is told.")]
pub struct Inventory {
    /// A PostgreSQL server where a scratch database can be made
    #[arg(long, value_name = "URL", env = "TENURE_BENCH_URL")]
    url: Option<String>,
    /// How many credentials
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(10..=10_000_000))]
    credentials: u32,
}

/// Rotations of a large inventory: planned, listed, and begun in one window without a burst
#[derive(Debug, Clone, Args)]
#[command(after_long_help = "\
Examples:
  tenure bench rotations --store sqlite
  tenure bench rotations --store postgres --url postgres://localhost/postgres --json

Most credentials have a greatest age, a jitter and an end within two years. Those of --together became due at the same moment and
may be replaced in the same four hours. All of them are planned by what `tenure rotation plan` and a node plan with, beside
bare reads and writes of the same rows. Then the clock of the window is gone through minute by minute, and what would begin
is begun; no case runs.")]
pub struct Rotations {
    /// A PostgreSQL server where a scratch database can be made
    #[arg(long, value_name = "URL", env = "TENURE_BENCH_URL")]
    url: Option<String>,
    /// How many credentials
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(10..=10_000_000))]
    credentials: u32,
    /// How many of them are due in the same window
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    together: u32,
}

/// Leavers in the middle of a storm of joiners, with one of ten systems away
#[derive(Debug, Clone, Args)]
#[command(after_long_help = "\
Examples:
  tenure bench storm --store sqlite --leavers 1000 --joiners 5000
  tenure bench storm --store postgres --url postgres://localhost/postgres --json

The leavers run twice, each time in a database of its own: alone, and with the joiners queued before them. Each system
takes eight calls at once, of which two are reserved for revocations, and five milliseconds for a call. The lag is that
of a leaver's last right on a system that is not away.")]
pub struct Storm {
    /// A PostgreSQL server where a scratch database can be made
    #[arg(long, value_name = "URL", env = "TENURE_BENCH_URL")]
    url: Option<String>,
    /// How many leave, each with eight rights
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    leavers: u32,
    /// How many join at the same time, each with five rights
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    joiners: u32,
}

/// A reader that keeps an old snapshot open: speed and growth of the tables with it and without
#[derive(Debug, Clone, Args)]
#[command(after_long_help = "\
Examples:
  tenure bench pinned --store postgres --url postgres://localhost/postgres --minutes 15 --json

Cases come in rounds of ten thousand steps, as fast as they go, with a rest after each, so that the database grows by
--pace steps a second on average: at full speed a long run would need a disk of its own. A speed is that of the
rounds without the rests.")]
pub struct Pinned {
    /// A PostgreSQL server where a scratch database can be made
    #[arg(long, value_name = "URL", env = "TENURE_BENCH_URL")]
    url: Option<String>,
    /// How many minutes the reader stays
    #[arg(long, value_name = "M", default_value_t = 1.0, value_parser = minutes)]
    minutes: f64,
    /// How many minutes the engine runs without it before
    #[arg(long, value_name = "M", default_value_t = 1.0, value_parser = minutes)]
    before: f64,
    /// How many steps a second are done on average
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pace: u32,
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(minutes) if minutes > 0.0 && minutes <= 600.0 => Ok(minutes),
        _ => Err("give a number of minutes above 0 and up to 600".to_owned()),
    }
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
                    to the last case closed; they ask nobody, so a case runs on as far as its batch has room
  calls             the same with steps that leave: the intent of each is durable before, its result after
  limit_rows_per_s  bare inserts of as many rows, as wide as what the engine stores for a step, in
                    batches as large as the engine's mean batch, in the same run on the same database
  ratio             the first over the second
  commits_per_step, wal_bytes_per_step
                    what a step costs the database; the log is counted on PostgreSQL
  p50_ms, p99_ms    one case alone, from its message put to closed
  loaded_p50_ms, loaded_p99_ms
                    one case of many that come in at half the full speed")]
pub struct Engine {
    /// A PostgreSQL server where a scratch database can be made
    #[arg(long, value_name = "URL", env = "TENURE_BENCH_URL")]
    url: Option<String>,
    /// How many nodes share the work, all in this process
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    nodes: u32,
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
    fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }

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
        What::Growth(options) => growth::run(context, &options).await,
        What::Import(options) => import::run(context, &options).await,
        What::Inventory(options) => inventory::run(context, &options).await,
        What::Rotations(options) => rotations::run(context, &options).await,
        What::Storm(options) => storm::run(context, &options).await,
        What::Pinned(options) => pinned::run(context, &options).await,
    }
}

/// The figures of a report: what, how much, and what has to be known about it.
struct Figures(Listing);

impl Figures {
    fn new() -> Self {
        Self(Listing::new(&["", "", ""]).right(&[1]))
    }

    fn row(&mut self, what: &str, value: String, remark: String) {
        self.0.row([
            (what.to_owned(), Tone::Plain),
            (value, Tone::Strong),
            (remark, Tone::Dim),
        ]);
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", number(bytes >> 20))
}
