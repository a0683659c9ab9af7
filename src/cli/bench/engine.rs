//! The engine's own speed: cases of steps that do nothing, through the node that does real work too.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use engine::core::case::{CaseState, Failure, Verification};
use engine::core::definition::{Definition, Lane};
use engine::core::id::{Actor, CaseId, Subject};
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use engine::runner::{
    Actions, Attempt, Clock as _, Definitions, Message, Node, NodeConfig, NodeHandle, Resource,
    StartCase, SystemClock,
};
use engine::store::{InboxRow, NoProjection, Store};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::limit::{bare_writes, bytes_of_steps, per_second};
use super::scratch::Scratch;
use super::{Database, Engine};
use crate::cli::format::{Bar, Listing, Tone, number, time};
use crate::cli::{Context, Exit};

/// How many messages go into one write of the inbox.
const MESSAGES_PER_WRITE: usize = 1_000;
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// The most fan-out cases that are run for comparison.
const FAN_OUTS_MAX: u64 = 100;

/// What a run found.
#[derive(Debug, Serialize)]
struct Report {
    store: &'static str,
    cases: u32,
    steps: u16,
    steps_per_s: f64,
    cases_per_s: f64,
    limit_rows_per_s: f64,
    /// `steps_per_s / limit_rows_per_s`.
    ratio: f64,
    bytes_per_step: u64,
    steps_per_batch: u64,
    p50_ms: f64,
    p99_ms: f64,
    us_per_step: f64,
    for_each: FanOut,
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

/// The one action: done before it is asked.
struct Noop;

#[async_trait]
impl Actions for Noop {
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
    fn at_once(&self, _: &Attempt) -> Option<AttemptResult> {
        Some(done())
    }
    async fn run(&self, _: &Attempt) -> AttemptResult {
        done()
    }
}

fn done() -> AttemptResult {
    AttemptResult::Succeeded {
        output: Value::Null,
        verification: Verification::NotNeeded,
        proof: Proof::default(),
    }
}

pub(super) async fn run(context: &Context, options: &Engine) -> anyhow::Result<Exit> {
    let database = Database::meant(context.store.as_deref())?;
    let scratch = Scratch::make(database, options).await?;
    let measured = measure(context, database, options, &scratch).await;
    let removed = scratch.remove().await;
    let report = measured?;
    removed?;
    context.output.result(&report, describe)?;
    Ok(Exit::Good)
}

async fn measure(
    context: &Context,
    database: Database,
    options: &Engine,
    scratch: &Scratch,
) -> anyhow::Result<Report> {
    let store = scratch.store();
    let node = start(Arc::clone(&store), options).await?;
    let bench = Run {
        store,
        node,
        shards: scratch.store().shard_count().await?,
    };
    let bar = Bar::new("bench engine", 4, context.output.json);

    bar.say("one case alone");
    let mut alone = Vec::new();
    for _ in 0..options.alone {
        alone.push(bench.cases("steps", 1, &Value::Null).await?.as_secs_f64() * 1_000.0);
    }
    bar.set(1, 4);
    alone.sort_by(f64::total_cmp);

    let mut beside = scratch.beside().await?;
    let bytes_before = bytes_of_steps(&mut beside).await?;
    bar.say("many cases at once");
    let before = bench.node.status();
    let steps_total = u64::from(options.cases) * u64::from(options.steps);
    let took = bench.cases("steps", options.cases, &Value::Null).await?;
    let steps_per_s = rate(steps_total, took);
    let batches = bench
        .node
        .status()
        .batches
        .saturating_sub(before.batches)
        .max(1);
    let bytes_per_step = (bytes_of_steps(&mut beside).await? - bytes_before) / steps_total;
    bar.set(2, 4);

    bar.say("fan-out");
    let instances = options.for_each;
    let fan_outs = (steps_total / u64::from(instances)).clamp(1, FAN_OUTS_MAX);
    let items: Vec<u32> = (0..instances).collect();
    let fan_took = bench
        .cases(
            "fan_out",
            u32::try_from(fan_outs)?,
            &json!({ "items": items }),
        )
        .await?;
    let fan_steps = fan_outs * u64::from(instances);
    bar.set(3, 4);

    let succeeded = bench.succeeded().await?;
    let expected = u64::from(options.alone) + u64::from(options.cases) + fan_outs;
    ensure!(
        succeeded == expected,
        "{succeeded} of {expected} cases succeeded; the engine lost some"
    );
    bench.node.drain(DRAIN_LIMIT).await?;

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
        store: match database {
            Database::Sqlite => "sqlite",
            Database::Postgres => "postgres",
        },
        cases: options.cases,
        steps: options.steps,
        steps_per_s,
        cases_per_s: rate(u64::from(options.cases), took),
        limit_rows_per_s,
        ratio: steps_per_s / limit_rows_per_s,
        bytes_per_step,
        steps_per_batch,
        p50_ms: quantile(&alone, 0.50),
        p99_ms: quantile(&alone, 0.99),
        us_per_step,
        for_each: FanOut {
            instances,
            cases: fan_outs,
            steps_per_s: rate(fan_steps, fan_took),
            us_per_step: fan_us_per_step,
            ratio_to_steps: fan_us_per_step / us_per_step,
        },
    })
}

async fn start(store: Arc<dyn Store>, options: &Engine) -> anyhow::Result<NodeHandle> {
    let mut steps = String::from("name: steps\nsteps:\n");
    for step in 0..options.steps {
        steps.push_str(&format!("  - {{ id: s{step}, uses: noop }}\n"));
    }
    let fan_out = "name: fan_out\nsteps:\n  - { id: each, uses: noop, for_each: input.items }\n";
    let definitions = Definitions::new();
    for (name, text) in [("steps", steps.as_str()), ("fan_out", fan_out)] {
        definitions.add(Definition::parse(name, text, &[], &|uses| uses == "noop")?);
    }
    let config = NodeConfig {
        name: "bench".to_owned(),
        ..NodeConfig::default()
    };
    let node = Node::start(
        config,
        store,
        Arc::new(Noop),
        Arc::new(NoProjection),
        Arc::new(definitions),
        Arc::new(SystemClock),
    );
    node.await
        .context("cannot start a node on the scratch database")
}

struct Run {
    store: Arc<dyn Store>,
    node: NodeHandle,
    shards: u32,
}

impl Run {
    /// Starts `count` cases and waits until they are closed.
    async fn cases(&self, workflow: &str, count: u32, input: &Value) -> anyhow::Result<Duration> {
        let rows = (0..count)
            .map(|_| self.message(workflow, input))
            .collect::<Result<Vec<_>, _>>()?;
        let started = Instant::now();
        for part in rows.chunks(MESSAGES_PER_WRITE) {
            self.store.put_inbox(part).await?;
            self.node.nudge();
        }
        ensure!(
            self.node.idle().await,
            "the node ended in the middle of the run"
        );
        Ok(started.elapsed())
    }

    fn message(&self, workflow: &str, input: &Value) -> anyhow::Result<InboxRow> {
        let id = Uuid::new_v4();
        let subject = Subject(id.simple().to_string());
        let shard = subject.shard(self.shards);
        let start = StartCase {
            case: CaseId(id),
            workflow: workflow.to_owned(),
            subject,
            generation: 0,
            input: input.clone(),
            initiator: Actor("bench".to_owned()),
            effective_at: None,
        };
        Ok(Message::Start(start).into_row(shard, id, Lane::Normal, SystemClock.now())?)
    }

    async fn succeeded(&self) -> anyhow::Result<u64> {
        let counts = self.store.counts().await?;
        Ok(counts
            .iter()
            .filter(|(_, state, _)| *state == CaseState::Succeeded)
            .map(|(_, _, count)| count)
            .sum())
    }
}

fn rate(count: u64, took: Duration) -> f64 {
    let now = Instant::now();
    now.checked_sub(took)
        .map_or(0.0, |started| per_second(count, started))
}

#[expect(clippy::cast_precision_loss, reason = "a mean for people")]
fn microseconds(took: Duration, steps: u64) -> f64 {
    took.as_secs_f64() * 1e6 / steps.max(1) as f64
}

/// The value below which `share` of the sorted values lie.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index into a list that fits into memory"
)]
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
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
    let mut listing = Listing::new(&["", "", ""]).right(&[1]);
    let mut row = |what: &str, value: String, remark: String| {
        listing.row([
            (what.to_owned(), Tone::Plain),
            (value, Tone::Strong),
            (remark, Tone::Dim),
        ]);
    };
    row(
        "steps a second",
        whole(report.steps_per_s),
        format!(
            "{} cases of {} steps, each step durable",
            number(report.cases.into()),
            report.steps
        ),
    );
    row("cases a second", whole(report.cases_per_s), String::new());
    row(
        "bare rows a second",
        whole(report.limit_rows_per_s),
        format!(
            "{} bytes each, {} a commit",
            report.bytes_per_step,
            number(report.steps_per_batch)
        ),
    );
    row(
        "ratio",
        format!("{:.2}", report.ratio),
        "steps over bare rows".to_owned(),
    );
    row(
        "one case alone, p50",
        time::length_ms(report.p50_ms),
        format!("{} steps", report.steps),
    );
    row(
        "one case alone, p99",
        time::length_ms(report.p99_ms),
        String::new(),
    );
    row(
        "a step of a case with few",
        format!("{:.1} µs", report.us_per_step),
        String::new(),
    );
    row(
        "a step of a fan-out",
        format!("{:.1} µs", report.for_each.us_per_step),
        format!(
            "{} instances; {:.2} times the above",
            number(report.for_each.instances.into()),
            report.for_each.ratio_to_steps
        ),
    );
    format!("Engine on {}\n{listing}", report.store)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]
    use super::*;

    #[test]
    #[expect(clippy::float_cmp, reason = "the values are copied, not computed")]
    fn a_quantile_is_a_value_that_was_seen() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&values, 0.50), 50.0);
        assert_eq!(quantile(&values, 0.99), 99.0);
        assert_eq!(quantile(&[3.0], 0.99), 3.0);
        assert_eq!(quantile(&[], 0.99), 0.0);
    }
}
