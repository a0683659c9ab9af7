//! The clock of schedules: fires those whose shard this node owns.
//!
//! # Theory of operation
//!
//! A schedule belongs to the shard of its name, and only the owner of that shard decides about it. The owner keeps
//! every schedule of its shards in memory with the moment at which each needs it next, and the lane sleeps no
//! longer than until the first of them: nothing polls.
//!
//! A decision is written in one transaction with the messages that start and end cases, fenced by the shard's
//! epoch. So a fire time is decided once: a node that lost the shard is refused, and one that takes it over reads
//! how far its predecessor came. And because case and message are named after the fire time, firing one twice
//! would make nothing new.
//!
//! Runs that wait for another to end are woken when its case closes in this lane. A case may live in a shard of
//! another node, so as long as something waits the cases in the way are looked at from time to time, too.

mod draft;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;

use super::definitions::Definitions;
use super::host::Host;
use super::message::ScheduleCommand;
use crate::core::Timestamp;
use crate::core::id::{CaseId, Epoch, ShardId};
use crate::core::schedule::{self, Input, Schedule, Settled, State, decide, start_message_id};
use crate::store::{InboxRow, ScheduleRow, ShardLease, Started, Store, StoreError, Whereabouts};

use draft::Draft;

/// The most schedules one node holds.
const SCHEDULES_MAX: usize = 10_000;
/// The most schedules one transaction decides about; the next goes on.
const TURN_MAX: usize = 200;
/// The pause before the cases of a schedule are looked at, growing from the first to the longest.
const LOOK_MS_FIRST: i64 = 250;
/// While something waits for them to end.
const LOOK_MS_MAX_WAITING: i64 = 2_000;
/// While it is only to be seen that they were made.
const LOOK_MS_MAX: i64 = 60_000;
/// The most rows that are read to find out what a backfill need not do.
const DONE_ROWS_MAX: u32 = 5_000;
/// How many runs of a schedule are kept.
const RUNS_KEPT: u32 = 1_000;

/// The schedules of the shards this node owns.
#[derive(Default)]
pub(super) struct Schedules {
    shard_count: u32,
    owned: BTreeMap<ShardId, Epoch>,
    live: BTreeMap<String, Live>,
    /// When which schedule needs attention.
    times: BTreeSet<(Timestamp, String)>,
    /// The schedules for whose queue these cases are in the way.
    in_the_way: BTreeMap<CaseId, String>,
    /// What people want, not yet decided.
    commands: Vec<(InboxRow, String, ScheduleCommand)>,
}

/// A schedule in memory.
struct Live {
    shard: ShardId,
    state: State,
    /// `None` when its stored form is not understood: it then does nothing.
    schedule: Option<Schedule>,
    /// When it needs attention.
    at: Option<Timestamp>,
    /// How often its cases were looked at in vain.
    looks: u32,
}

impl Schedules {
    pub fn new(shard_count: u32) -> Self {
        Self {
            shard_count,
            ..Self::default()
        }
    }

    /// Takes over the schedules of shards that this node owns from now on.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn gain(
        &mut self,
        store: &dyn Store,
        leases: &[ShardLease],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let shards: Vec<ShardId> = leases.iter().map(|lease| lease.shard).collect();
        let rows = store.schedules().of_shards(Some(&shards)).await?;
        self.owned
            .extend(leases.iter().map(|lease| (lease.shard, lease.epoch)));
        for row in rows {
            self.keep(row.shard, row.state, now);
        }
        Ok(())
    }

    /// Lets go of the schedules of shards that this node does not own any more.
    pub fn lose(&mut self, shards: &BTreeSet<ShardId>) {
        for shard in shards {
            self.owned.remove(shard);
        }
        let owned = &self.owned;
        self.live.retain(|_, live| owned.contains_key(&live.shard));
        let live = &self.live;
        self.times.retain(|(_, name)| live.contains_key(name));
        self.in_the_way.retain(|_, name| live.contains_key(name));
        self.commands
            .retain(|(row, ..)| owned.contains_key(&row.shard));
    }

    /// Takes a message in; it is carried out by the next [`Schedules::work`].
    pub fn take(&mut self, row: InboxRow, name: String, command: ScheduleCommand) {
        self.commands.push((row, name, command));
    }

    /// Says that a case closed.
    pub fn closed(&mut self, case: CaseId) {
        if let Some(name) = self.in_the_way.remove(&case) {
            self.wake(&name, Some(Timestamp::MIN_UTC));
        }
    }

    /// Whether there is something to do.
    pub fn due(&self, now: Timestamp) -> bool {
        !self.commands.is_empty() || self.wake_at().is_some_and(|at| at <= now)
    }

    /// When there is something to do next.
    pub fn wake_at(&self) -> Option<Timestamp> {
        self.times.first().map(|(at, _)| *at)
    }

    /// Carries out what people want and what the clock says, in one transaction. Returns whether there are new
    /// messages to cases.
    ///
    /// # Errors
    /// Any refusal of the store: what is in memory is worth nothing then.
    pub async fn work(
        &mut self,
        store: &dyn Store,
        definitions: &Definitions,
        host: &dyn Host,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut draft = Draft::new(self.shard_count, now);
        let commands = std::mem::take(&mut self.commands);
        // Nobody is told that a run is in the way which has ended.
        let named: BTreeSet<&String> = commands.iter().map(|(_, name, _)| name).collect();
        let named: Vec<String> = named
            .into_iter()
            .filter(|name| self.live.contains_key(*name))
            .cloned()
            .collect();
        let settled = self.look(store, &named).await?;
        for (name, settled) in named.iter().zip(settled) {
            self.go_on(&mut draft, name, Input::Settled(settled));
        }
        for (row, name, command) in commands {
            let told = self
                .obey((store, host), &mut draft, &row, &name, command)
                .await?;
            draft.answer(&row, told);
        }
        let due: Vec<String> = self
            .times
            .iter()
            .take_while(|(at, _)| *at <= now)
            .take(TURN_MAX)
            .map(|(_, name)| name.clone())
            .collect();
        let settled = self.look(store, &due).await?;
        for (name, settled) in due.iter().zip(settled) {
            self.go_on(&mut draft, name, Input::Settled(settled));
            self.go_on(&mut draft, name, Input::Clock);
        }
        let decided: BTreeSet<String> = draft.names().map(str::to_owned).collect();
        let messages = draft.has_messages();
        if !draft.is_empty() {
            let (batch, states) = draft.finish(&self.owned, definitions)?;
            store.schedules().commit(&batch).await?;
            for (shard, state) in states {
                self.keep(shard, state, now);
            }
        }
        for name in due.iter().filter(|name| !decided.contains(*name)) {
            if let Some(live) = self.live.get_mut(name) {
                live.looks = live.looks.saturating_add(1);
                let at = live.next_attention(now);
                self.wake(name, at);
            }
        }
        Ok(messages)
    }

    /// Forgets old runs.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tidy(&self, store: &dyn Store) -> Result<(), StoreError> {
        let mut shards: Vec<ShardId> = self.live.values().map(|live| live.shard).collect();
        shards.dedup();
        if shards.is_empty() {
            return Ok(());
        }
        store.schedules().forget_runs(&shards, RUNS_KEPT).await
    }

    // --- deciding ---------------------------------------------------------------------------------------

    /// Carries out what somebody wants. `Ok(Err(_))` is the refusal to tell them.
    async fn obey(
        &mut self,
        (store, host): (&dyn Store, &dyn Host),
        draft: &mut Draft,
        row: &InboxRow,
        name: &str,
        command: ScheduleCommand,
    ) -> Result<Result<String, String>, StoreError> {
        let shard = schedule::shard(name, self.shard_count);
        if shard != row.shard {
            return Ok(Err(format!(
                "schedule belongs to shard {shard}, not {}",
                row.shard
            )));
        }
        let input = match command {
            ScheduleCommand::Put {
                spec,
                origin,
                by,
                reason,
            } => {
                if spec.name != name {
                    return Ok(Err(format!("the schedule is called `{}`", spec.name)));
                }
                if self.live.len() >= SCHEDULES_MAX && !self.live.contains_key(name) {
                    return Ok(Err(format!("there are {SCHEDULES_MAX} schedules already")));
                }
                Input::Put {
                    spec,
                    origin,
                    salt: host.random(),
                    by,
                    reason,
                }
            }
            ScheduleCommand::Remove { origin, by, reason } => Input::Remove { origin, by, reason },
            ScheduleCommand::Pause { by, reason } => Input::Pause { by, reason },
            ScheduleCommand::Resume { by, reason } => Input::Resume { by, reason },
            ScheduleCommand::Run { by, reason } => Input::Run {
                at: row.received_at,
                by,
                reason,
            },
            ScheduleCommand::Backfill {
                from,
                to,
                by,
                reason,
            } => {
                let before = to.checked_add_signed(TimeDelta::microseconds(1));
                let runs = store
                    .schedules()
                    .runs(shard, name, Some(from), before, DONE_ROWS_MAX)
                    .await?;
                let done = runs
                    .into_iter()
                    .map(|row| row.run)
                    .filter(|run| run.outcome == schedule::Outcome::Started && !run.key.by_hand)
                    .map(|run| run.key.fire_at)
                    .collect();
                Input::Backfill {
                    from,
                    to,
                    done,
                    by,
                    reason,
                }
            }
        };
        Ok(self
            .step(draft, name, input)
            .map_err(|illegal| illegal.to_string()))
    }

    /// An input that nobody sent.
    fn go_on(&self, draft: &mut Draft, name: &str, input: Input) {
        if let Err(illegal) = self.step(draft, name, input) {
            tracing::error!(schedule = %name, %illegal, "a schedule cannot go on");
        }
    }

    /// Lets the core decide over one input.
    fn step(
        &self,
        draft: &mut Draft,
        name: &str,
        input: Input,
    ) -> Result<String, schedule::Illegal> {
        let stored = self.live.get(name).map(|live| &live.state);
        let state = draft.state(name).or(stored);
        let Some(decision) = decide(name, state, input, draft.now())? else {
            return Ok(String::new());
        };
        let from_version = stored.map(|state| state.version);
        let remark = decision.remark.clone();
        draft.add(decision, from_version);
        Ok(remark)
    }

    /// What is to be said of the open runs of each of these schedules.
    async fn look(
        &self,
        store: &dyn Store,
        names: &[String],
    ) -> Result<Vec<Vec<(CaseId, Settled)>>, StoreError> {
        let open = |name: &String| {
            let live = self.live.get(name);
            live.map(|live| live.state.open.as_slice())
                .unwrap_or_default()
        };
        let started: Vec<Started> = names
            .iter()
            .flat_map(open)
            .map(|run| Started {
                shard: run.subject.shard(self.shard_count),
                case: run.case,
                message: start_message_id(run.case),
            })
            .collect();
        let found = if started.is_empty() {
            BTreeMap::new()
        } else {
            store.schedules().whereabouts(&started).await?
        };
        let settled = |case: CaseId| match found.get(&case)? {
            Whereabouts::OnItsWay => None,
            Whereabouts::Made(state) if state.is_closed() => Some((case, Settled::Ended)),
            Whereabouts::Made(_) => Some((case, Settled::Open)),
            Whereabouts::Refused(why) => {
                let why = why.clone().unwrap_or_else(|| {
                    "the case was not made; why is not kept any more".to_owned()
                });
                Some((case, Settled::Refused(why)))
            }
        };
        Ok(names
            .iter()
            .map(|name| {
                open(name)
                    .iter()
                    .filter_map(|run| settled(run.case))
                    .collect()
            })
            .collect())
    }

    // --- memory -----------------------------------------------------------------------------------------

    /// Remembers a state that is stored.
    fn keep(&mut self, shard: ShardId, state: State, now: Timestamp) {
        let name = state.spec.name.clone();
        let schedule = match state.schedule() {
            _ if state.removed => None,
            Ok(schedule) => Some(schedule),
            Err(mistakes) => {
                tracing::error!(schedule = %name, %mistakes, "a stored schedule is not understood; it does not fire");
                None
            }
        };
        if let Some(before) = self.live.get(&name) {
            for open in &before.state.open {
                self.in_the_way.remove(&open.case);
            }
        }
        if !state.queue.is_empty() {
            let cases = state.open.iter().map(|open| (open.case, name.clone()));
            self.in_the_way.extend(cases);
        }
        let live = Live {
            shard,
            state,
            schedule,
            at: None,
            looks: 0,
        };
        let at = live.next_attention(now);
        if let Some(before) = self.live.insert(name.clone(), live)
            && let Some(at) = before.at
        {
            self.times.remove(&(at, name.clone()));
        }
        self.wake(&name, at);
    }

    /// Sets when a schedule needs attention.
    fn wake(&mut self, name: &str, at: Option<Timestamp>) {
        let Some(live) = self.live.get_mut(name) else {
            return;
        };
        if let Some(before) = std::mem::replace(&mut live.at, at) {
            self.times.remove(&(before, name.to_owned()));
        }
        if let Some(at) = at {
            self.times.insert((at, name.to_owned()));
        }
    }
}

impl Live {
    /// When it fires next, or its cases are looked at next, whichever comes first.
    fn next_attention(&self, now: Timestamp) -> Option<Timestamp> {
        let schedule = self.schedule.as_ref()?;
        let fires = self
            .state
            .next_fire(schedule)
            .map(|fire| schedule.due(fire));
        let open = &self.state.open;
        let waits = !self.state.queue.is_empty() && !self.state.is_paused() && !open.is_empty();
        let unseen = open.iter().any(|run| !run.seen);
        let longest = match (waits, unseen) {
            (true, _) => LOOK_MS_MAX_WAITING,
            (false, true) => LOOK_MS_MAX,
            (false, false) => return fires,
        };
        let pause_ms = LOOK_MS_FIRST
            .saturating_mul(1 << self.looks.min(16))
            .min(longest);
        let look = now + TimeDelta::milliseconds(pause_ms);
        Some(fires.map_or(look, |fires| fires.min(look)))
    }
}

/// The row that is written for a state.
fn row_of(shard: ShardId, from_version: Option<u64>, state: State, now: Timestamp) -> ScheduleRow {
    let next_due_at = match state.schedule() {
        Ok(schedule) => state.next_fire(&schedule).map(|fire| schedule.due(fire)),
        Err(_) => None,
    };
    ScheduleRow {
        shard,
        from_version,
        state,
        next_due_at,
        changed_at: now,
    }
}
