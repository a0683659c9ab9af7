//! One writing about schedules while it is gathered: several decisions, each row once.

use std::collections::BTreeMap;

use super::row_of;
use crate::core::Timestamp;
use crate::core::definition::Lane;
use crate::core::id::{Epoch, ShardId};
use crate::core::schedule::{
    self, Decision, End, Run, RunKey, Start, State, actor, end_message_id, start_message_id,
};
use crate::evidence::schedule_leaf;
use crate::runner::definitions::Definitions;
use crate::runner::message::{Command, Message, StartCase};
use crate::store::{
    InboxRow, ReplyRow, ScheduleBatch, ScheduleChangeRow, ScheduleRunRow, ShardLease, StoreError,
};

pub(super) struct Draft {
    shard_count: u32,
    now: Timestamp,
    /// The version in the database, and the state after the last decision.
    states: BTreeMap<String, (Option<u64>, State)>,
    runs: BTreeMap<(String, RunKey), Run>,
    changes: Vec<ScheduleChangeRow>,
    /// What is to be sent, with the schedule as it stood when it was decided.
    sends: Vec<(State, Vec<Start>, Vec<End>)>,
    inbox_done: Vec<(ShardId, uuid::Uuid)>,
    replies: Vec<ReplyRow>,
}

impl Draft {
    pub fn new(shard_count: u32, now: Timestamp) -> Self {
        Self {
            shard_count,
            now,
            states: BTreeMap::new(),
            runs: BTreeMap::new(),
            changes: Vec::new(),
            sends: Vec::new(),
            inbox_done: Vec::new(),
            replies: Vec::new(),
        }
    }

    pub fn now(&self) -> Timestamp {
        self.now
    }

    pub fn is_empty(&self) -> bool {
        self.states.is_empty() && self.replies.is_empty()
    }

    pub fn has_messages(&self) -> bool {
        !self.sends.is_empty()
    }

    /// The schedules it decided about.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.states.keys().map(String::as_str)
    }

    /// The state after the last decision.
    pub fn state(&self, name: &str) -> Option<&State> {
        self.states.get(name).map(|(_, state)| state)
    }

    /// `from_version` is the version in the database.
    pub fn add(&mut self, decision: Decision, from_version: Option<u64>) {
        let state = decision.state;
        let name = state.spec.name.clone();
        let shard = schedule::shard(&name, self.shard_count);
        if let Some(change) = decision.change {
            let leaf = schedule_leaf(&state, &change);
            self.changes.push(ScheduleChangeRow {
                shard,
                schedule: name.clone(),
                change,
                leaf,
            });
        }
        for run in decision.runs {
            self.runs.insert((name.clone(), run.key), run);
        }
        if !decision.starts.is_empty() || !decision.ends.is_empty() {
            self.sends
                .push((state.clone(), decision.starts, decision.ends));
        }
        match self.states.get_mut(&name) {
            Some((_, last)) => *last = state,
            None => {
                self.states.insert(name, (from_version, state));
            }
        }
    }

    /// The message is taken; this is the answer to it.
    pub fn answer(&mut self, row: &InboxRow, told: Result<String, String>) {
        let (accepted, message) = match told {
            Ok(message) => (true, message),
            Err(message) => {
                tracing::warn!(message = %row.id, reason = %message, "a message to a schedule was refused");
                (false, message)
            }
        };
        self.inbox_done.push((row.shard, row.id));
        self.replies.push(ReplyRow {
            shard: row.shard,
            id: row.id,
            at: self.now,
            accepted,
            message,
        });
    }

    /// The batch to write, and the states that hold once it is.
    ///
    /// # Errors
    /// Never for what is made of plain data.
    pub fn finish(
        self,
        owned: &BTreeMap<ShardId, Epoch>,
        definitions: &Definitions,
    ) -> Result<(ScheduleBatch, Vec<(ShardId, State)>), StoreError> {
        let shard_of = |name: &str| schedule::shard(name, self.shard_count);
        let mut messages = Vec::new();
        for (state, starts, ends) in &self.sends {
            for end in ends {
                messages.push(self.end_message(state, end)?);
            }
            for start in starts {
                messages.push(self.start_message(state, start, definitions)?);
            }
        }
        let runs = self
            .runs
            .into_iter()
            .map(|((schedule, _), run)| ScheduleRunRow {
                shard: shard_of(&schedule),
                schedule,
                run,
            });
        let mut batch = ScheduleBatch {
            runs: runs.collect(),
            changes: self.changes,
            messages,
            inbox_done: self.inbox_done,
            replies: self.replies,
            ..ScheduleBatch::default()
        };
        let mut states = Vec::with_capacity(self.states.len());
        for (name, (from_version, state)) in self.states {
            let shard = shard_of(&name);
            states.push((shard, state.clone()));
            batch
                .schedules
                .push(row_of(shard, from_version, state, self.now));
        }
        let shards: std::collections::BTreeSet<ShardId> = states
            .iter()
            .map(|(shard, _)| *shard)
            .chain(batch.inbox_done.iter().map(|(shard, _)| *shard))
            .collect();
        // A shard that is not ours has no lease here, and the store refuses the batch.
        batch.leases = shards
            .into_iter()
            .filter_map(|shard| {
                let epoch = *owned.get(&shard)?;
                Some(ShardLease { shard, epoch })
            })
            .collect();
        Ok((batch, states))
    }

    fn start_message(
        &self,
        state: &State,
        start: &Start,
        definitions: &Definitions,
    ) -> Result<InboxRow, StoreError> {
        let spec = &state.spec;
        let schedule = state
            .schedule()
            .map_err(|mistakes| StoreError::Projection(mistakes.to_string()))?;
        let lane = definitions
            .by_name(&spec.workflow)
            .map_or(Lane::Normal, |definition| definition.lane);
        let case = StartCase {
            case: start.case,
            workflow: spec.workflow.clone(),
            subject: spec.subject.clone(),
            generation: 0,
            input: schedule.input(start.key, start.cause, start.reason.as_deref()),
            initiator: start.initiator.clone(),
            effective_at: Some(start.key.fire_at),
        };
        tracing::info!(
            schedule = %spec.name,
            case = %start.case,
            fire_at = %start.key.fire_at,
            cause = start.cause.as_str(),
            "a schedule starts a case"
        );
        let shard = spec.subject.shard(self.shard_count);
        Message::Start(case)
            .into_row(shard, start_message_id(start.case), lane, self.now)
            .map_err(unwritable)
    }

    fn end_message(&self, state: &State, end: &End) -> Result<InboxRow, StoreError> {
        let by = actor(&state.spec.name);
        let reason = format!("the next run of schedule `{}` is due", state.spec.name);
        let command = if end.force {
            Command::Terminate { by, reason }
        } else {
            Command::Cancel { by, reason }
        };
        let message = Message::Command {
            case: end.case,
            definition: None,
            command,
        };
        let shard = end.subject.shard(self.shard_count);
        // Before the case that takes its place.
        message
            .into_row(
                shard,
                end_message_id(end.case, end.for_case),
                Lane::Revocation,
                self.now,
            )
            .map_err(unwritable)
    }
}

fn unwritable(error: serde_json::Error) -> StoreError {
    StoreError::Projection(format!("a message does not serialise: {error}"))
}
