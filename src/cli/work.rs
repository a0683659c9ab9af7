//! Watching work go on until it is done, or until only people can go on.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use engine::core::case::CaseState;
use engine::core::id::ShardId;
use engine::store::CaseFilter;
use serde::Serialize;
use tokio::time::Instant;
use workflows::directory::SystemState;

use super::Context;
use super::format::{Bar, Tone, counted, number, paint};
use crate::shell::case_view::{WaitKind, view};
use crate::shell::{Database, Running, now};

/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(150);
/// How long nothing must move before it is asked what the rest waits for.
const STILL: Duration = Duration::from_secs(2);
/// How many of the open cases are asked what they wait for.
const SAMPLE_MAX: u32 = 200;
/// Something that happens by itself within this time is worth waiting for.
const SOON: TimeDelta = TimeDelta::minutes(15);

/// A moment on both clocks.
pub struct Started {
    pub at: DateTime<Utc>,
    instant: Instant,
}

impl Started {
    #[must_use]
    pub fn now() -> Self {
        Self {
            at: now(),
            instant: Instant::now(),
        }
    }

    #[must_use]
    pub fn took_ms(&self) -> u64 {
        u64::try_from(self.instant.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Where the cases of a database stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Remaining {
    /// All cases, by state.
    pub cases: BTreeMap<&'static str, u64>,
    /// What the open ones wait for, counted over a sample when there are many.
    pub waits: BTreeMap<WaitKind, u64>,
    /// The time was up before the work was.
    pub timed_out: bool,
}

impl Remaining {
    /// Cases that are not closed.
    #[must_use]
    pub fn open(&self) -> u64 {
        let open = CaseState::ALL
            .into_iter()
            .filter(|state| !state.is_closed());
        open.filter_map(|state| self.cases.get(state.as_str()))
            .sum()
    }

    /// In a few words.
    #[must_use]
    pub fn describe(&self, took: &str) -> String {
        let mut states: Vec<String> = self
            .cases
            .iter()
            .map(|(state, count)| {
                paint(format!("{} {state}", number(*count)), Tone::of_state(state))
            })
            .collect();
        if states.is_empty() {
            states.push("no cases".to_owned());
        }
        let mut text = format!("cases: {}  (after {took})", states.join(", "));
        if self.open() > 0 {
            let waits: Vec<String> = self
                .waits
                .iter()
                .map(|(kind, count)| format!("{} {}", number(*count), kind.told()))
                .collect();
            let why = if self.timed_out {
                "the time was up"
            } else {
                "the rest cannot go on by itself"
            };
            text.push_str(&format!(
                "\n{}: {}; see {}",
                counted(
                    self.open(),
                    "case is open, because",
                    "cases are open, because"
                ),
                if waits.is_empty() {
                    why.to_owned()
                } else {
                    format!("{why} ({})", waits.join(", "))
                },
                paint("tenure case list --open", Tone::Code)
            ));
        }
        text
    }
}

impl WaitKind {
    /// As part of a sentence.
    #[must_use]
    pub fn told(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::Parked => "parked",
            Self::Approval => "waiting for an approval",
            Self::Task => "waiting for a task",
            Self::Signal => "waiting for a signal",
            Self::SystemAway => "waiting for a system",
            Self::Queued => "queued",
            Self::Retry => "waiting for the next attempt",
            Self::Delay => "waiting for their time",
            Self::InFlight => "in flight",
        }
    }
}

/// Where the cases stand now.
///
/// # Errors
/// When the database does not answer.
pub async fn states(database: &Database) -> anyhow::Result<Remaining> {
    let mut remaining = Remaining::default();
    for (_, state, count) in database.store.counts().await? {
        *remaining.cases.entry(state.as_str()).or_default() += count;
    }
    Ok(remaining)
}

/// Watches until every case is closed, only people can go on, or `limit` is over. With `running` the work is done
/// by this process.
///
/// # Errors
/// When the database does not answer.
pub async fn work_off(
    context: &Context,
    database: &Database,
    running: Option<&Running>,
    limit: Duration,
) -> anyhow::Result<Remaining> {
    if let Some(running) = running {
        running.nudge();
    }
    let until = Instant::now() + limit;
    let bar = Bar::new("cases", 0, context.output.json);
    let mut open_most = 0;
    let mut last = (Remaining::default(), Instant::now());
    loop {
        // First the inbox, then the cases: a message leaves it in the transaction that makes its case.
        let unread = unread(database).await?;
        let mut remaining = states(database).await?;
        let open = remaining.open();
        open_most = open_most.max(open);
        bar.set(open_most - open, open_most);
        bar.say(held(database).await?);
        if open == 0 && !unread {
            bar.end();
            return Ok(remaining);
        }
        let moved = remaining.cases != last.0.cases
            || unread
            || running.is_some_and(|running| !running.status().idle);
        if moved {
            last = (remaining.clone(), Instant::now());
        } else if last.1.elapsed() >= STILL {
            let soon = sample(database, &mut remaining).await?;
            if !soon {
                bar.end();
                return Ok(remaining);
            }
            last.1 = Instant::now();
        }
        if Instant::now() >= until {
            sample(database, &mut remaining).await?;
            remaining.timed_out = true;
            bar.end();
            return Ok(remaining);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether messages wait that no node has taken yet.
async fn unread(database: &Database) -> anyhow::Result<bool> {
    let count = i32::try_from(database.store.shard_count().await?)?;
    let shards: Vec<ShardId> = (0..count).map(ShardId).collect();
    Ok(!database.store.inbox(&shards, 1).await?.is_empty())
}

/// The systems that are away, for the bar.
async fn held(database: &Database) -> anyhow::Result<String> {
    let away: Vec<String> = database
        .directory
        .system_states()
        .await?
        .into_iter()
        .filter(|row| row.state == SystemState::Held)
        .map(|row| format!("{} is away", row.system))
        .collect();
    Ok(away.join(", "))
}

/// Counts what open cases wait for; says whether anything will happen by itself soon.
async fn sample(database: &Database, remaining: &mut Remaining) -> anyhow::Result<bool> {
    remaining.waits.clear();
    let filter = CaseFilter {
        open_only: true,
        ..CaseFilter::default()
    };
    let now = now();
    let mut soon = false;
    for summary in database.store.list(&filter, None, SAMPLE_MAX).await? {
        let case = database.case(summary.head.case).await?;
        let surroundings = database.surroundings(&case).await?;
        let waits = view(&case, &surroundings).waits;
        for wait in &waits {
            *remaining.waits.entry(wait.kind).or_default() += 1;
            let by_itself = matches!(wait.kind, WaitKind::InFlight | WaitKind::SystemAway)
                || (!wait.needs_person && wait.next_at.is_some_and(|next| next - now < SOON));
            soon |= by_itself;
        }
        // Nothing to tell means it is just moving on.
        soon |= waits.is_empty();
    }
    Ok(soon)
}
