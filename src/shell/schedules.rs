//! Schedules around a database: those of the configuration made known to it, commands sent, and how they look.

use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, SecondsFormat, Utc};
use engine::core::definition::Lane;
use engine::core::id::{Actor, CaseId, ShardId};
use engine::core::schedule::{self, Origin, Outcome, Schedule, Spec, start_message_id};
use engine::runner::{Message, ScheduleCommand};
use engine::store::{
    ReplyRow, ScheduleRow, ScheduleRunRow, Started, Store, StoreError, Whereabouts,
};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;
use uuid::Uuid;
use workflows::config::Configuration;

use super::{Database, now};

/// Who does what the files say.
pub const CONFIGURATION: &str = "configuration";
/// How many fire times ahead are shown of one schedule.
pub const UPCOMING_SHOWN: usize = 5;
/// How many runs are shown of one schedule.
pub const RUNS_SHOWN: u32 = 10;
/// How often an answer is looked for.
const LOOK: Duration = Duration::from_millis(50);
/// Makes the identifier of what a file says out of it: nodes that start together send it once.
const NAMESPACE: Uuid = Uuid::from_u128(0x5d0c_1a77_40b2_4c1e_9f36_2be8_71d5_0a4c);

/// Makes the schedules of the configuration known to the owners of their shards: new and changed ones are put, those
/// that stand there no more are removed. Returns how many messages that took.
///
/// # Errors
/// When the database does not answer.
pub async fn declare(database: &Database, configuration: &Configuration) -> anyhow::Result<usize> {
    let store = &database.store;
    let shards = store.shard_count().await?;
    let stored = store.schedules().of_shards(None).await?;
    let mut messages = Vec::new();
    let mut say = |name: &str, version: u64, command: ScheduleCommand| -> anyhow::Result<()> {
        let message = Message::Schedule {
            name: name.to_owned(),
            command,
        };
        let text = format!("{version}\n{}", serde_json::to_string(&message)?);
        let id = Uuid::new_v5(&NAMESPACE, text.as_bytes());
        messages.push(message.into_row(schedule::shard(name, shards), id, Lane::Normal, now())?);
        Ok(())
    };
    let by = || Actor(CONFIGURATION.to_owned());
    for spec in configuration.schedules.values() {
        let before = stored.iter().find(|row| row.state.spec.name == spec.name);
        let same = before.is_some_and(|row| {
            let state = &row.state;
            !state.removed && state.origin == Origin::Configuration && state.spec == *spec
        });
        if !same {
            let command = ScheduleCommand::Put {
                spec: spec.clone(),
                origin: Origin::Configuration,
                by: by(),
                reason: "it stands in the configuration".to_owned(),
            };
            say(&spec.name, version_of(before), command)?;
        }
    }
    for row in &stored {
        let state = &row.state;
        let name = &state.spec.name;
        if state.origin == Origin::Configuration
            && !state.removed
            && !configuration.schedules.contains_key(name)
        {
            let command = ScheduleCommand::Remove {
                origin: Origin::Configuration,
                by: by(),
                reason: "it stands in the configuration no more".to_owned(),
            };
            say(name, version_of(Some(row)), command)?;
        }
    }
    store
        .put_inbox(&messages)
        .await
        .context("cannot make the schedules known")?;
    Ok(messages.len())
}

fn version_of(row: Option<&ScheduleRow>) -> u64 {
    row.map_or(0, |row| row.state.version)
}

/// A schedule that is there.
///
/// # Errors
/// When the database does not answer.
pub async fn find(store: &dyn Store, name: &str) -> Result<Option<ScheduleRow>, StoreError> {
    let shard = schedule::shard(name, store.shard_count().await?);
    let rows = store.schedules().of_shards(Some(&[shard])).await?;
    Ok(rows
        .into_iter()
        .find(|row| row.state.spec.name == name && !row.state.removed))
}

/// All schedules that are there, by name.
///
/// # Errors
/// When the database does not answer.
pub async fn all(store: &dyn Store) -> Result<Vec<ScheduleRow>, StoreError> {
    let mut rows = store.schedules().of_shards(None).await?;
    rows.retain(|row| !row.state.removed);
    rows.sort_by(|a, b| a.state.spec.name.cmp(&b.state.spec.name));
    Ok(rows)
}

/// Sends a command to a schedule and waits for its answer as long as `wait` allows.
///
/// # Errors
/// When the database does not answer.
pub async fn send(
    database: &Database,
    name: &str,
    command: ScheduleCommand,
    wait: Duration,
) -> anyhow::Result<Option<ReplyRow>> {
    let store = &database.store;
    let shard = schedule::shard(name, store.shard_count().await?);
    let id = Uuid::new_v4();
    let message = Message::Schedule {
        name: name.to_owned(),
        command,
    };
    // A person waits for the answer.
    let row = message.into_row(shard, id, Lane::Revocation, now())?;
    store.put_inbox(&[row]).await?;
    let until = Instant::now() + wait;
    loop {
        let reply = store.reply(shard, id).await?;
        if reply.is_some() || Instant::now() >= until {
            return Ok(reply);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What a backfill of a period would do.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct BackfillView {
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    /// The fire times of the period that have not run: these would.
    pub runs: Vec<FireView>,
    /// How many have run already.
    pub ran: usize,
}

/// Looks at a period without doing anything.
///
/// # Errors
/// When the database does not answer; `Ok(None)` when the period has more fire times than one backfill takes.
pub async fn preview(
    store: &dyn Store,
    row: &ScheduleRow,
    schedule: &Schedule,
    (from, to): (DateTime<Utc>, DateTime<Utc>),
) -> Result<Option<BackfillView>, StoreError> {
    let Some(fires) = schedule.between(from, to, schedule::BACKFILL_MAX) else {
        return Ok(None);
    };
    let before = to.checked_add_signed(chrono::TimeDelta::microseconds(1));
    let runs = store
        .schedules()
        .runs(row.shard, schedule.name(), Some(from), before, 5_000)
        .await?;
    let done = |fire: &DateTime<Utc>| {
        let ran = runs.iter().any(|row| {
            let run = &row.run;
            run.key.fire_at == *fire && !run.key.by_hand && run.outcome == Outcome::Started
        });
        let key = schedule::RunKey {
            fire_at: *fire,
            by_hand: false,
        };
        ran || row.state.open.iter().any(|open| open.key == key)
            || row.state.queue.iter().any(|waiting| waiting.key == key)
    };
    let (ran, wanted): (Vec<_>, Vec<_>) = fires.into_iter().partition(done);
    Ok(Some(BackfillView {
        from,
        to,
        runs: wanted
            .into_iter()
            .map(|fire| FireView::of(schedule, fire))
            .collect(),
        ran: ran.len(),
    }))
}

// --- how it looks ---------------------------------------------------------------------------------------

/// A fire time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FireView {
    pub fire_at: DateTime<Utc>,
    /// The same on the clock of the schedule's zone, with its offset.
    pub local: String,
    /// With its jitter: when the run starts.
    pub due_at: DateTime<Utc>,
}

impl FireView {
    #[must_use]
    pub fn of(schedule: &Schedule, fire_at: DateTime<Utc>) -> Self {
        let local = fire_at.with_timezone(&schedule.zone());
        Self {
            fire_at,
            local: local.to_rfc3339_opts(SecondsFormat::Secs, false),
            due_at: schedule.due(fire_at),
        }
    }
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ScheduleView {
    pub name: String,
    pub workflow: String,
    pub subject: String,
    pub cron: String,
    pub zone: String,
    /// `skip`, `queue_one`, `queue_all`, `cancel_running`, `terminate_running` or `allow`.
    pub overlap: &'static str,
    pub jitter: String,
    pub catch_up: String,
    #[schema(value_type = Object)]
    pub input: serde_json::Value,
    pub description: String,
    /// `configuration` or `person`.
    pub origin: &'static str,
    /// `active`, `paused` or `paused_in_file`.
    pub state: &'static str,
    /// Who paused it, why and when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<PauseView>,
    pub next: Option<FireView>,
    pub last: Option<RunView>,
    /// The cases it started that are not known to have ended.
    pub open: Vec<Uuid>,
    /// How many runs wait for one of them to end.
    pub waiting: usize,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PauseView {
    pub by: String,
    pub reason: String,
    pub at: DateTime<Utc>,
}

/// A run of a schedule.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct RunView {
    pub fire_at: DateTime<Utc>,
    pub local: String,
    /// `clock`, `by_hand` or `backfill`.
    pub cause: &'static str,
    pub due_at: DateTime<Utc>,
    pub decided_at: DateTime<Utc>,
    /// `started`, `queued`, `skipped_overlap`, `missed`, `refused` or `dropped`.
    pub outcome: &'static str,
    pub case: Option<Uuid>,
    /// How the case stands, if it is known.
    pub case_state: Option<&'static str>,
    pub initiator: String,
    pub reason: String,
}

/// One schedule with its runs and what was done to it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ScheduleDetail {
    #[serde(flatten)]
    pub schedule: ScheduleView,
    /// The next fire times, if it fires.
    pub upcoming: Vec<FireView>,
    /// The latest first.
    pub runs: Vec<RunView>,
    /// What people and the configuration did to it, the latest first.
    pub changes: Vec<ChangeView>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ChangeView {
    pub at: DateTime<Utc>,
    pub by: String,
    /// `create`, `change`, `remove`, `pause`, `resume`, `run` or `backfill`.
    pub operation: &'static str,
    pub reason: String,
    pub detail: String,
}

/// How schedules look now.
///
/// # Errors
/// When the database does not answer, or a stored schedule is not understood.
pub async fn views(database: &Database, rows: &[ScheduleRow]) -> anyhow::Result<Vec<ScheduleView>> {
    let store = &*database.store;
    let keys: Vec<(ShardId, String)> = rows
        .iter()
        .map(|row| (row.shard, row.state.spec.name.clone()))
        .collect();
    let last = store.schedules().last_runs(&keys).await?;
    let mut views = Vec::with_capacity(rows.len());
    for row in rows {
        let schedule = compiled(row)?;
        let last: Vec<ScheduleRunRow> = last
            .iter()
            .filter(|run| run.schedule == row.state.spec.name)
            .cloned()
            .collect();
        let last = run_views(store, &schedule, &last).await?.pop();
        views.push(view(row, &schedule, last));
    }
    Ok(views)
}

/// How one schedule looks, with its latest runs.
///
/// # Errors
/// As [`views`].
pub async fn detail(
    database: &Database,
    row: &ScheduleRow,
    runs: u32,
) -> anyhow::Result<ScheduleDetail> {
    let store = &*database.store;
    let schedule = compiled(row)?;
    let name = &row.state.spec.name;
    let listed = store
        .schedules()
        .runs(row.shard, name, None, None, runs)
        .await?;
    let runs = run_views(store, &schedule, &listed).await?;
    let changes = store
        .schedules()
        .changes(row.shard, name, RUNS_SHOWN)
        .await?;
    let view = view(row, &schedule, runs.first().cloned());
    let upcoming = match &view.next {
        None => Vec::new(),
        Some(_) => schedule
            .upcoming(row.state.seen.max(now()), UPCOMING_SHOWN)
            .into_iter()
            .map(|fire| FireView::of(&schedule, fire))
            .collect(),
    };
    let changes = changes.into_iter().map(|row| row.change);
    Ok(ScheduleDetail {
        schedule: view,
        upcoming,
        runs,
        changes: changes
            .map(|change| ChangeView {
                at: change.at,
                by: change.by.0,
                operation: change.operation.as_str(),
                reason: change.reason,
                detail: change.detail,
            })
            .collect(),
    })
}

/// The schedule of a row, ready to be asked.
///
/// # Errors
/// When it was written by a program that allowed more.
pub fn compiled(row: &ScheduleRow) -> anyhow::Result<Schedule> {
    row.state
        .schedule()
        .with_context(|| format!("schedule `{}` is not understood", row.state.spec.name))
}

fn view(row: &ScheduleRow, schedule: &Schedule, last: Option<RunView>) -> ScheduleView {
    let state = &row.state;
    let Spec {
        name,
        workflow,
        cron,
        zone,
        subject,
        input,
        jitter,
        overlap,
        catch_up,
        paused,
        description,
    } = state.spec.clone();
    let next = if state.is_paused() {
        None
    } else {
        schedule.next(state.seen.max(now()))
    };
    ScheduleView {
        name,
        workflow,
        subject: subject.0,
        cron,
        zone,
        overlap: overlap.as_str(),
        jitter: jitter.to_string(),
        catch_up: catch_up.to_string(),
        input,
        description,
        origin: match state.origin {
            Origin::Configuration => "configuration",
            Origin::Person => "person",
        },
        state: match (&state.paused, paused) {
            (_, true) => "paused_in_file",
            (Some(_), false) => "paused",
            (None, false) => "active",
        },
        paused: state.paused.as_ref().map(|pause| PauseView {
            by: pause.by.0.clone(),
            reason: pause.reason.clone(),
            at: pause.at,
        }),
        next: next.map(|fire| FireView::of(schedule, fire)),
        last,
        open: state.open.iter().map(|open| open.case.0).collect(),
        waiting: state.queue.len(),
    }
}

async fn run_views(
    store: &dyn Store,
    schedule: &Schedule,
    rows: &[ScheduleRunRow],
) -> anyhow::Result<Vec<RunView>> {
    let shards = store.shard_count().await?;
    let shard = schedule.spec().subject.shard(shards);
    let started: Vec<Started> = rows
        .iter()
        .filter_map(|row| row.run.case)
        .map(|case| Started {
            shard,
            case,
            message: start_message_id(case),
        })
        .collect();
    let found = store.schedules().whereabouts(&started).await?;
    let state = |case: CaseId| match found.get(&case) {
        Some(Whereabouts::Made(state)) => Some(state.as_str()),
        // Another subject than now may have had it.
        Some(Whereabouts::OnItsWay | Whereabouts::Refused(_)) | None => None,
    };
    Ok(rows
        .iter()
        .map(|row| {
            let run = &row.run;
            let local = run.key.fire_at.with_timezone(&schedule.zone());
            RunView {
                fire_at: run.key.fire_at,
                local: local.to_rfc3339_opts(SecondsFormat::Secs, false),
                cause: run.cause.as_str(),
                due_at: run.due_at,
                decided_at: run.decided_at,
                outcome: run.outcome.as_str(),
                case: run.case.map(|case| case.0),
                case_state: run.case.and_then(state),
                initiator: run.initiator.0.clone(),
                reason: run.reason.clone(),
            }
        })
        .collect())
}
