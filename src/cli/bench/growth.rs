//! What a database full of cases costs: speed, memory, start-up, and how late timers fire.
//!
//! The cases are made by one process and measured in another, so that the memory of the making is not counted.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use engine::core::case::Failure;
use engine::core::definition::Lane;
use engine::core::id::Subject;
use engine::core::input::AttemptResult;
use engine::runner::{Actions, Attempt, Clock as _, Definitions, Resource, SystemClock};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::fleet::{Fleet, Noop, definitions, done, quantile, rate, steps};
use super::scratch::Scratch;
use super::{Database, Figures, Growth, mib};
use crate::cli::format::{Bar, number, time};
use crate::cli::{Context, Exit};

/// Names the made database to the process that measures. An address may hold a password, so it is no argument.
const SCRATCH: &str = "TENURE_BENCH_SCRATCH";
/// How many cases are put and finished before the next are put.
const PART: u32 = 10_000;
/// Cases and steps of the run that measures speed.
const CASES: u32 = 2_000;
const STEPS: u32 = 10;
/// How long before the first timer is due all of them are set.
const AHEAD: TimeDelta = TimeDelta::seconds(15);

const SHORT: &str = "name: short\nsteps:\n  - { id: only, uses: noop }\n";
const SLEEPER: &str = "name: sleeper\nsteps:\n  - { id: wake, uses: noop, after: 30d }\n";
const DUE: &str = "name: due\nsteps:\n  - { id: fire, uses: noop, at: input.due }\n";

/// What the measuring process found.
#[derive(Debug, Serialize, Deserialize)]
struct Measured {
    /// From the start of the node to the first moment it has nothing to do.
    start_ms: f64,
    /// Resident memory after that.
    memory_idle_bytes: u64,
    cases_hot: usize,
    steps_per_s: f64,
    memory_busy_bytes: u64,
    timers: u32,
    timers_per_s: u32,
    /// From due to fired.
    late_p50_ms: f64,
    late_p99_ms: f64,
    late_max_ms: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    store: &'static str,
    stored: u32,
    waiting: u32,
    database_bytes: u64,
    #[serde(flatten)]
    measured: Measured,
}

/// Notes how late each case of `due` is.
#[derive(Default)]
struct Late(Mutex<Vec<f64>>);

#[async_trait]
impl Actions for Late {
    fn exists(&self, uses: &str) -> bool {
        uses == "noop"
    }
    fn fact_roots(&self) -> Vec<&'static str> {
        Vec::new()
    }
    async fn facts(&self, _: &Subject, _: &Value, _: &BTreeSet<String>) -> Result<Value, Failure> {
        Ok(json!({}))
    }
    fn resource(&self, _: &Attempt) -> Option<Resource> {
        None
    }
    fn at_once(&self, attempt: &Attempt) -> Option<AttemptResult> {
        let due = attempt.input.get("due").and_then(Value::as_str);
        if let Some(due) = due.and_then(|due| due.parse::<DateTime<Utc>>().ok()) {
            let late = (SystemClock.now() - due).as_seconds_f64() * 1_000.0;
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(late);
        }
        Some(done())
    }
    async fn run(&self, _: &Attempt) -> AttemptResult {
        done()
    }
}

fn workflows() -> anyhow::Result<Arc<Definitions>> {
    definitions(&[SHORT, SLEEPER, DUE, &steps("steps", "noop", STEPS)])
}

pub(super) async fn run(context: &Context, options: &Growth) -> anyhow::Result<Exit> {
    if let Ok(address) = std::env::var(SCRATCH) {
        let scratch = Scratch::named(&address).await?;
        println_json(&measure(&scratch, options).await?)?;
        return Ok(Exit::Good);
    }
    let database = Database::meant(context.store.as_deref())?;
    let work =
        async |scratch: &Scratch| fill_and_measure(context, database, options, scratch).await;
    let report = Scratch::within(database, options.url.as_deref(), work).await?;
    context.output.result(&report, describe)?;
    Ok(Exit::Good)
}

#[expect(clippy::print_stdout, reason = "one process speaking to another")]
fn println_json(measured: &Measured) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(measured)?);
    Ok(())
}

async fn fill_and_measure(
    context: &Context,
    database: Database,
    options: &Growth,
    scratch: &Scratch,
) -> anyhow::Result<Report> {
    let bar = Bar::new("bench growth", 3, context.output.json);
    let fleet = Fleet::start(scratch, 1, Arc::new(Noop), &workflows()?).await?;
    bar.say("cases that are over");
    for first in (0..options.stored).step_by(PART as usize) {
        fleet
            .cases("short", PART.min(options.stored - first), &Value::Null)
            .await?;
    }
    bar.set(1, 3);
    bar.say("cases that wait");
    for first in (0..options.waiting).step_by(PART as usize) {
        fleet
            .cases("sleeper", PART.min(options.waiting - first), &Value::Null)
            .await?;
    }
    fleet.drain().await?;
    bar.set(2, 3);
    bar.say("measuring");
    let mut child = tokio::process::Command::new(std::env::current_exe()?);
    child
        .args(["bench", "growth", "--timers-per-s"])
        .arg(options.timers_per_s.to_string())
        .arg("--seconds")
        .arg(options.seconds.to_string())
        .env(SCRATCH, scratch.address())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let output = child
        .output()
        .await
        .context("cannot start another process")?;
    ensure!(
        output.status.success(),
        "the measuring process ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let measured = serde_json::from_slice(&output.stdout)
        .context("the measuring process said something else than what it measured")?;
    bar.end();
    Ok(Report {
        store: database.name(),
        stored: options.stored,
        waiting: options.waiting,
        database_bytes: super::limit::database_bytes(&mut scratch.beside().await?).await?,
        measured,
    })
}

async fn measure(scratch: &Scratch, options: &Growth) -> anyhow::Result<Measured> {
    let late = Arc::new(Late::default());
    let started = Instant::now();
    let actions = Arc::clone(&late) as Arc<dyn Actions>;
    let fleet = Fleet::start(scratch, 1, actions, &workflows()?).await?;
    fleet.idle().await?;
    let start_ms = started.elapsed().as_secs_f64() * 1_000.0;
    let (memory_idle_bytes, cases_hot) = (memory_bytes()?, fleet.cases_hot());
    let took = fleet.cases("steps", CASES, &Value::Null).await?;
    let memory_busy_bytes = memory_bytes()?;
    let timers = options.timers_per_s * options.seconds;
    set_timers(&fleet, options, timers).await?;
    let limit = AHEAD.to_std()? + Duration::from_secs(u64::from(options.seconds) * 2 + 30);
    let started = Instant::now();
    let fired = || late.0.lock().unwrap_or_else(PoisonError::into_inner).len();
    while fired() < usize::try_from(timers)? {
        ensure!(
            started.elapsed() < limit,
            "{} of {timers} timers fired within {} s",
            fired(),
            limit.as_secs()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    fleet.idle().await?;
    fleet.drain().await?;
    let mut lateness = std::mem::take(&mut *late.0.lock().unwrap_or_else(PoisonError::into_inner));
    lateness.sort_by(f64::total_cmp);
    Ok(Measured {
        start_ms,
        memory_idle_bytes,
        cases_hot,
        steps_per_s: rate(u64::from(CASES) * u64::from(STEPS), took),
        memory_busy_bytes,
        timers,
        timers_per_s: options.timers_per_s,
        late_p50_ms: quantile(&lateness, 0.50),
        late_p99_ms: quantile(&lateness, 0.99),
        late_max_ms: quantile(&lateness, 1.0),
    })
}

/// Sets all timers before the first of them is due.
async fn set_timers(fleet: &Fleet, options: &Growth, timers: u32) -> anyhow::Result<()> {
    let first = SystemClock.now() + AHEAD;
    let apart = TimeDelta::microseconds(1_000_000 / i64::from(options.timers_per_s.max(1)));
    let rows = (0..timers)
        .map(|index| {
            let due = first + apart * i32::try_from(index)?;
            let due = due.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
            fleet.message("due", Lane::Normal, &json!({ "due": due }))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    fleet.put(&rows).await?;
    fleet.idle().await?;
    ensure!(
        SystemClock.now() < first,
        "setting {timers} timers took longer than {} s; give fewer with --timers-per-s or --seconds",
        AHEAD.num_seconds()
    );
    Ok(())
}

/// The resident memory of this process.
fn memory_bytes() -> anyhow::Result<u64> {
    status_bytes("VmRSS:")
}

/// A size that the kernel tells about this process.
pub(super) fn status_bytes(name: &str) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status").context("cannot read memory use")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|rest| rest.trim().strip_suffix("kB"));
    let kib: u64 = kib
        .with_context(|| format!("no `{name}` in /proc/self/status"))?
        .trim()
        .parse()?;
    Ok(kib * 1024)
}

fn describe(report: &Report) -> String {
    let measured = &report.measured;
    let mut figures = Figures::new();
    figures.row(
        "start-up",
        time::length_ms(measured.start_ms),
        "to the first idle moment".to_owned(),
    );
    figures.row(
        "memory at rest",
        mib(measured.memory_idle_bytes),
        format!("{} cases in memory", measured.cases_hot),
    );
    figures.row(
        "memory at work",
        mib(measured.memory_busy_bytes),
        String::new(),
    );
    figures.row(
        "steps a second",
        format!("{:.0}", measured.steps_per_s),
        format!("{CASES} cases of {STEPS} steps"),
    );
    figures.row(
        "timers, p50 late",
        time::length_ms(measured.late_p50_ms),
        format!("{} a second", measured.timers_per_s),
    );
    figures.row(
        "timers, p99 late",
        time::length_ms(measured.late_p99_ms),
        format!("worst {}", time::length_ms(measured.late_max_ms)),
    );
    figures.row("database", mib(report.database_bytes), String::new());
    format!(
        "{} with {} cases that are over and {} that wait\n{figures}",
        report.store,
        number(report.stored.into()),
        number(report.waiting.into())
    )
}
