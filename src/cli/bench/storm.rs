//! Leavers in the middle of a storm of joiners, with one system away: how much later their access ends.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::ensure;
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use engine::core::case::Failure;
use engine::core::definition::Lane;
use engine::core::id::{CaseId, Subject};
use engine::core::input::AttemptResult;
use engine::runner::{
    Actions, Attempt, Availability, Clock as _, Definitions, Resource, SystemClock,
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::fleet::{Fleet, definitions, done, quantile};
use super::scratch::Scratch;
use super::{Database, Storm};
use crate::cli::format::{Bar, Listing, Tone, number, time};
use crate::cli::{Context, Exit};

const SYSTEMS: u32 = 10;
/// The one that is away all the time.
const AWAY: &str = "s9";
const CONCURRENCY: usize = 8;
const RESERVED: usize = 2;
/// How long a system takes for one call.
const CALL: Duration = Duration::from_millis(5);
const LEAVER_GRANTS: u32 = 8;
const JOINER_GRANTS: u32 = 5;
/// How long the joiners are at work before the first leaver comes.
const HEAD_START: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(900);

const LEAVER: &str = "name: leaver\nlane: revocation\non_failure: forward\npreempts: [joiner]\nsteps:\n  - { id: remove, uses: noop, for_each: input.grants }\n";
const JOINER: &str = "name: joiner\nsteps:\n  - { id: add, uses: noop, for_each: input.grants }\n";

#[derive(Debug, Serialize)]
struct Report {
    store: &'static str,
    leavers: u32,
    grants_each: u32,
    joiners: u32,
    systems: u32,
    alone: Lag,
    in_the_storm: Lag,
    /// The second over the first.
    p50_ratio: f64,
    p99_ratio: f64,
    /// Joiner steps that were done while leavers were at work.
    joiner_steps_meanwhile: u64,
}

/// From a leaver's message put to its last right on a system that is not away taken.
#[derive(Debug, Serialize)]
struct Lag {
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    took_ms: f64,
}

/// Ten systems that take their time, one of them away.
#[derive(Default)]
struct Systems {
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// When the last right of each leaver went, and how many have gone in all.
    leavers: HashMap<CaseId, DateTime<Utc>>,
    removed: u64,
    added: u64,
}

impl Systems {
    fn with<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Actions for Systems {
    fn exists(&self, uses: &str) -> bool {
        uses == "noop"
    }
    fn fact_roots(&self) -> Vec<&'static str> {
        Vec::new()
    }
    async fn facts(&self, _: &Subject, _: &Value, _: &BTreeSet<String>) -> Result<Value, Failure> {
        Ok(json!({}))
    }
    fn resource(&self, attempt: &Attempt) -> Option<Resource> {
        Some(Resource {
            name: attempt.item.as_str().unwrap_or_default().to_owned(),
            concurrency: CONCURRENCY,
            reserved: RESERVED,
        })
    }
    fn availability(&self, resource: &str) -> Availability {
        if resource == AWAY {
            Availability::HeldUntil(SystemClock.now() + TimeDelta::hours(1))
        } else {
            Availability::Ready
        }
    }
    async fn run(&self, attempt: &Attempt) -> AttemptResult {
        tokio::time::sleep(CALL).await;
        let now = SystemClock.now();
        self.with(|seen| {
            if attempt.lane == Lane::Revocation {
                seen.leavers.insert(attempt.case, now);
                seen.removed += 1;
            } else {
                seen.added += 1;
            }
        });
        done()
    }
}

pub(super) async fn run(context: &Context, options: &Storm) -> anyhow::Result<Exit> {
    let database = Database::meant(context.store.as_deref())?;
    let bar = Bar::new("bench storm", 2, context.output.json);
    bar.say("leavers alone");
    let (alone, _) = leavers(database, options, 0).await?;
    bar.set(1, 2);
    bar.say("leavers in the storm");
    let (in_the_storm, joiner_steps_meanwhile) =
        leavers(database, options, options.joiners).await?;
    bar.end();
    let report = Report {
        store: database.name(),
        leavers: options.leavers,
        grants_each: LEAVER_GRANTS,
        joiners: options.joiners,
        systems: SYSTEMS,
        p50_ratio: in_the_storm.p50_ms / alone.p50_ms.max(1e-9),
        p99_ratio: in_the_storm.p99_ms / alone.p99_ms.max(1e-9),
        alone,
        in_the_storm,
        joiner_steps_meanwhile,
    };
    context.output.result(&report, describe)?;
    Ok(Exit::Good)
}

/// Runs the leavers behind so many joiners, in a database of its own.
async fn leavers(database: Database, options: &Storm, joiners: u32) -> anyhow::Result<(Lag, u64)> {
    let work = async |scratch: &Scratch| measure(scratch, options.leavers, joiners).await;
    Scratch::within(database, options.url.as_deref(), work).await
}

async fn measure(scratch: &Scratch, leavers: u32, joiners: u32) -> anyhow::Result<(Lag, u64)> {
    let systems = Arc::new(Systems::default());
    let definitions: Arc<Definitions> = definitions(&[LEAVER, JOINER])?;
    let actions = Arc::clone(&systems) as Arc<dyn Actions>;
    let fleet = Fleet::start(scratch, 1, actions, &definitions).await?;
    if joiners > 0 {
        let rows = (0..joiners)
            .map(|who| fleet.message("joiner", Lane::Normal, &grants(who, JOINER_GRANTS)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        fleet.put(&rows).await?;
        tokio::time::sleep(HEAD_START).await;
    }
    let added_before = systems.with(|seen| seen.added);
    let mut rows = Vec::new();
    let mut expected = 0;
    for who in 0..leavers {
        rows.push(fleet.message("leaver", Lane::Revocation, &grants(who, LEAVER_GRANTS))?);
        let healthy = systems_of(who, LEAVER_GRANTS).filter(|system| system != AWAY);
        expected += healthy.count() as u64;
    }
    let (began, started) = (SystemClock.now(), Instant::now());
    fleet.put(&rows).await?;
    while systems.with(|seen| seen.removed) < expected {
        ensure!(
            started.elapsed() < LIMIT,
            "{} of {expected} rights were taken within {} s",
            systems.with(|seen| seen.removed),
            LIMIT.as_secs()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took_ms = started.elapsed().as_secs_f64() * 1_000.0;
    let (mut lags, added) = systems.with(|seen| {
        let lags: Vec<f64> = seen
            .leavers
            .values()
            .map(|at| (*at - began).as_seconds_f64() * 1_000.0)
            .collect();
        (lags, seen.added - added_before)
    });
    lags.sort_by(f64::total_cmp);
    // What is left waits for a system that does not come back: it is dropped with the database.
    drop(fleet);
    let lag = Lag {
        p50_ms: quantile(&lags, 0.50),
        p99_ms: quantile(&lags, 0.99),
        max_ms: quantile(&lags, 1.0),
        took_ms,
    };
    Ok((lag, added))
}

fn systems_of(who: u32, count: u32) -> impl Iterator<Item = String> {
    (0..count).map(move |grant| format!("s{}", (who + grant) % SYSTEMS))
}

fn grants(who: u32, count: u32) -> Value {
    json!({ "grants": systems_of(who, count).collect::<Vec<_>>() })
}

fn describe(report: &Report) -> String {
    let mut listing = Listing::new(&["", "P50", "P99", "WORST"]).right(&[1, 2, 3]);
    for (what, lag) in [
        ("leavers alone", &report.alone),
        ("in the storm", &report.in_the_storm),
    ] {
        listing.row([
            (what.to_owned(), Tone::Plain),
            (time::length_ms(lag.p50_ms), Tone::Strong),
            (time::length_ms(lag.p99_ms), Tone::Strong),
            (time::length_ms(lag.max_ms), Tone::Dim),
        ]);
    }
    listing.row([
        ("ratio".to_owned(), Tone::Plain),
        (format!("{:.2}", report.p50_ratio), Tone::Strong),
        (format!("{:.2}", report.p99_ratio), Tone::Strong),
        (String::new(), Tone::Dim),
    ]);
    format!(
        "{} leavers of {} rights on {}, {} joiners queued, one of {} systems away\n{listing}",
        number(report.leavers.into()),
        report.grants_each,
        report.store,
        number(report.joiners.into()),
        report.systems
    )
}
