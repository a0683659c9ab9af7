//! The engine's own speed: cases of steps that do nothing, through the node that does real work too.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use engine::core::definition::Lane;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::fleet::{Fleet, Noop, definitions, quantile, rate, steps};
use super::limit::{Written, bare_writes, bytes_of_steps, lengths_ms};
use super::scratch::Scratch;
use super::{Database, Engine, Figures};
use crate::cli::format::{Bar, number, time};
use crate::cli::{Context, Exit};

/// The most fan-out cases that are run for comparison.
const FAN_OUTS_MAX: u64 = 100;
/// How long cases come in at a steady pace, and at what part of the full speed.
const PACED_S: f64 = 5.0;
const PACED_SHARE: f64 = 0.5;
const PACE: Duration = Duration::from_millis(5);
/// How many parts a run has.
const PARTS: u64 = 6;

/// What a run found.
#[derive(Debug, Serialize)]
struct Report {
    store: &'static str,
    nodes: u32,
    cases: u32,
    steps: u16,
    steps_per_s: f64,
    cases_per_s: f64,
    limit_rows_per_s: f64,
    /// `steps_per_s / limit_rows_per_s`.
    ratio: f64,
    bytes_per_step: u64,
    steps_per_batch: u64,
    commits_per_step: f64,
    /// What the database wrote to its log for a step; `null` where it does not tell.
    wal_bytes_per_step: Option<u64>,
    /// One case alone.
    p50_ms: f64,
    p99_ms: f64,
    /// One case of many that come in at half of `cases_per_s`.
    loaded_p50_ms: f64,
    loaded_p99_ms: f64,
    us_per_step: f64,
    calls: Calls,
    for_each: FanOut,
}

/// The same with steps that leave, each after its intent is durable.
#[derive(Debug, Serialize)]
struct Calls {
    steps_per_s: f64,
    /// `steps_per_s / limit_rows_per_s`.
    ratio: f64,
    commits_per_step: f64,
    /// One case alone.
    p50_ms: f64,
    p99_ms: f64,
}

#[derive(Debug, Serialize)]
struct FanOut {
    instances: u32,
    cases: u64,
    steps_per_s: f64,
    us_per_step: f64,
    /// What a step of the fan-out costs beside a step of the case with few steps.
    ratio_to_steps: f64,
}

pub(super) async fn run(context: &Context, options: &Engine) -> anyhow::Result<Exit> {
    let database = Database::meant(context.store.as_deref())?;
    let work = async |scratch: &Scratch| measure(context, database, options, scratch).await;
    let report = Scratch::within(database, options.url.as_deref(), work).await?;
    context.output.result(&report, describe)?;
    Ok(Exit::Good)
}

async fn measure(
    context: &Context,
    database: Database,
    options: &Engine,
    scratch: &Scratch,
) -> anyhow::Result<Report> {
    let fleet = start(scratch, options).await?;
    let bar = Bar::new("bench engine", PARTS, context.output.json);

    bar.say("one case alone");
    let alone = alone(&fleet, "steps", options.alone).await?;
    let calls_alone = self::alone(&fleet, "calls", options.alone).await?;
    bar.set(1, PARTS);

    let mut beside = scratch.beside().await?;
    let bytes_before = bytes_of_steps(&mut beside).await?;
    bar.say("many cases at once");
    let (batches_before, written_before) = (fleet.batches(), Written::read(&mut beside).await?);
    let steps_total = u64::from(options.cases) * u64::from(options.steps);
    let took = fleet.cases("steps", options.cases, &Value::Null).await?;
    fleet.closed().await?;
    let steps_per_s = rate(steps_total, took);
    let cases_per_s = rate(u64::from(options.cases), took);
    let batches = fleet.batches().saturating_sub(batches_before).max(1);
    let wal_bytes = Written::read(&mut beside).await?.since(&written_before);
    let bytes_per_step = (bytes_of_steps(&mut beside).await? - bytes_before) / steps_total;
    bar.set(2, PARTS);

    bar.say("many cases of calls");
    let calls_before = fleet.batches();
    let calls_took = fleet.cases("calls", options.cases, &Value::Null).await?;
    fleet.closed().await?;
    let call_batches = fleet.batches() - calls_before;
    let calls_per_s = rate(steps_total, calls_took);
    bar.set(3, PARTS);

    bar.say("cases at a steady pace");
    let (paced, loaded) = at_a_pace(&fleet, &mut beside, cases_per_s * PACED_SHARE).await?;
    bar.set(4, PARTS);

    bar.say("fan-out");
    let instances = options.for_each;
    let fan_outs = (steps_total / u64::from(instances)).clamp(1, FAN_OUTS_MAX);
    let items: Vec<u32> = (0..instances).collect();
    let count = u32::try_from(fan_outs)?;
    let fan_took = fleet
        .cases("fan_out", count, &json!({ "items": items }))
        .await?;
    fleet.closed().await?;
    let fan_steps = fan_outs * u64::from(instances);
    bar.set(5, PARTS);

    let succeeded = fleet.succeeded().await?;
    let expected = 2 * (u64::from(options.alone) + u64::from(options.cases)) + paced + fan_outs;
    ensure!(
        succeeded == expected,
        "{succeeded} of {expected} cases succeeded; the engine lost some"
    );
    fleet.drain().await?;

    bar.say("bare writes");
    let steps_per_batch = steps_total.div_ceil(batches);
    let limit_rows_per_s =
        bare_writes(&mut beside, steps_total, bytes_per_step, steps_per_batch).await?;
    bar.end();

    let (us_per_step, fan_us_per_step) = (
        microseconds(took, steps_total),
        microseconds(fan_took, fan_steps),
    );
    Ok(Report {
        store: database.name(),
        nodes: options.nodes,
        cases: options.cases,
        steps: options.steps,
        steps_per_s,
        cases_per_s,
        limit_rows_per_s,
        ratio: steps_per_s / limit_rows_per_s,
        bytes_per_step,
        steps_per_batch,
        commits_per_step: rate(batches, Duration::from_secs(steps_total)),
        wal_bytes_per_step: wal_bytes.map(|bytes| bytes / steps_total),
        p50_ms: quantile(&alone, 0.50),
        p99_ms: quantile(&alone, 0.99),
        loaded_p50_ms: quantile(&loaded, 0.50),
        loaded_p99_ms: quantile(&loaded, 0.99),
        us_per_step,
        calls: Calls {
            steps_per_s: calls_per_s,
            ratio: calls_per_s / limit_rows_per_s,
            commits_per_step: rate(call_batches, Duration::from_secs(steps_total)),
            p50_ms: quantile(&calls_alone, 0.50),
            p99_ms: quantile(&calls_alone, 0.99),
        },
        for_each: FanOut {
            instances,
            cases: fan_outs,
            steps_per_s: rate(fan_steps, fan_took),
            us_per_step: fan_us_per_step,
            ratio_to_steps: fan_us_per_step / us_per_step,
        },
    })
}

async fn start(scratch: &Scratch, options: &Engine) -> anyhow::Result<Fleet> {
    let fan_out = "name: fan_out\nsteps:\n  - { id: each, uses: noop, for_each: input.items }\n";
    let [steps, calls] = [("steps", "noop"), ("calls", "call")]
        .map(|(name, uses)| steps(name, uses, options.steps.into()));
    let definitions = definitions(&[&steps, &calls, fan_out])?;
    Fleet::start(scratch, options.nodes, Arc::new(Noop), &definitions).await
}

/// How long each of `count` cases takes that run one after another, in milliseconds, sorted.
async fn alone(fleet: &Fleet, workflow: &str, count: u32) -> anyhow::Result<Vec<f64>> {
    let mut lengths = Vec::new();
    for _ in 0..count {
        let took = fleet.cases(workflow, 1, &Value::Null).await?;
        lengths.push(took.as_secs_f64() * 1_000.0);
    }
    lengths.sort_by(f64::total_cmp);
    Ok(lengths)
}

/// Starts `per_s` cases a second; gives how many there were, and how long each took from received to closed.
async fn at_a_pace(
    fleet: &Fleet,
    beside: &mut super::scratch::Beside,
    per_s: f64,
) -> anyhow::Result<(u64, Vec<f64>)> {
    let from = engine::runner::Clock::now(&engine::runner::SystemClock);
    let started = Instant::now();
    let mut put = 0_u64;
    loop {
        let elapsed = started.elapsed().as_secs_f64();
        if elapsed >= PACED_S {
            break;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small positive count"
        )]
        let due = (elapsed * per_s) as u64;
        let rows = (put..due)
            .map(|_| fleet.message("steps", Lane::Normal, &Value::Null))
            .collect::<Result<Vec<_>, _>>()?;
        fleet.put(&rows).await?;
        put = put.max(due);
        tokio::time::sleep(PACE).await;
    }
    fleet.closed().await?;
    Ok((put, lengths_ms(beside, from).await?))
}

#[expect(clippy::cast_precision_loss, reason = "a mean for people")]
fn microseconds(took: Duration, steps: u64) -> f64 {
    took.as_secs_f64() * 1e6 / steps.max(1) as f64
}

fn describe(report: &Report) -> String {
    let whole = |value: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate, rounded for people"
        )]
        number(value.round() as u64)
    };
    let mut figures = Figures::new();
    figures.row(
        "steps a second",
        whole(report.steps_per_s),
        format!(
            "{} cases of {} steps, each step durable",
            number(report.cases.into()),
            report.steps
        ),
    );
    figures.row("cases a second", whole(report.cases_per_s), String::new());
    figures.row(
        "bare rows a second",
        whole(report.limit_rows_per_s),
        format!(
            "{} bytes each, {} a commit",
            report.bytes_per_step,
            number(report.steps_per_batch)
        ),
    );
    figures.row(
        "ratio",
        format!("{:.2}", report.ratio),
        "steps over bare rows".to_owned(),
    );
    figures.row(
        "commits a step",
        format!("{:.4}", report.commits_per_step),
        String::new(),
    );
    if let Some(bytes) = report.wal_bytes_per_step {
        figures.row(
            "log a step",
            format!("{} bytes", number(bytes)),
            "what the database wrote ahead".to_owned(),
        );
    }
    figures.row(
        "one case alone, p50",
        time::length_ms(report.p50_ms),
        format!("{} steps", report.steps),
    );
    figures.row(
        "one case alone, p99",
        time::length_ms(report.p99_ms),
        String::new(),
    );
    figures.row(
        "one case under load, p50",
        time::length_ms(report.loaded_p50_ms),
        "cases at half the full speed".to_owned(),
    );
    figures.row(
        "one case under load, p99",
        time::length_ms(report.loaded_p99_ms),
        String::new(),
    );
    figures.row(
        "calls a second",
        whole(report.calls.steps_per_s),
        format!(
            "steps that leave, each once its intent is durable; ratio {:.2}, {:.4} commits a step",
            report.calls.ratio, report.calls.commits_per_step
        ),
    );
    figures.row(
        "one case of calls alone, p50",
        time::length_ms(report.calls.p50_ms),
        format!("{} steps", report.steps),
    );
    figures.row(
        "one case of calls alone, p99",
        time::length_ms(report.calls.p99_ms),
        String::new(),
    );
    figures.row(
        "a step of a case with few",
        format!("{:.1} µs", report.us_per_step),
        String::new(),
    );
    figures.row(
        "a step of a fan-out",
        format!("{:.1} µs", report.for_each.us_per_step),
        format!(
            "{} instances; {:.2} times the above",
            number(report.for_each.instances.into()),
            report.for_each.ratio_to_steps
        ),
    );
    format!(
        "Engine on {}, {} node{}\n{figures}",
        report.store,
        report.nodes,
        if report.nodes == 1 { "" } else { "s" }
    )
}
