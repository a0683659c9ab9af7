//! Rows of either database into the types of this module. A value that does not fit names table, column, key.

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::core::Timestamp;
use crate::core::admission::OpenCase;
use crate::core::case::{CaseState, Ending, Pause};
use crate::core::definition::Lane;
use crate::core::id::{
    Actor, CaseId, DefinitionHash, Epoch, InstanceIndex, Place, ShardId, StepIndex, Subject,
};
use crate::core::input::TimerTarget;
use crate::core::schedule::{self, Cause, ChangeRecord, Operation, Run, RunKey, State};

use super::schedules::{ScheduleChangeRow, ScheduleRow, ScheduleRunRow};
use super::{
    Bones, BoxError, CaseSummary, EvidenceRow, GenerationRow, HeadRow, HistoryRow, InboxRow,
    NodeRow, ParkedRow, ReplyRow, ShardLease, ShardRow, StateRow, StepRow, StoreError, TimerRow,
    VersionRow,
};

/// How a database's row gives up its columns: the two differ only in how they keep times and numbers.
pub(super) trait Columns: Sized {
    fn int(&self, column: &str) -> Result<i32, BoxError>;
    fn big(&self, column: &str) -> Result<i64, BoxError>;
    fn flag(&self, column: &str) -> Result<bool, BoxError>;
    fn id(&self, column: &str) -> Result<Uuid, BoxError>;
    fn maybe_id(&self, column: &str) -> Result<Option<Uuid>, BoxError>;
    fn bytes(&self, column: &str) -> Result<Vec<u8>, BoxError>;
    fn text(&self, column: &str) -> Result<String, BoxError>;
    fn maybe_text(&self, column: &str) -> Result<Option<String>, BoxError>;
    fn maybe_time(&self, column: &str) -> Result<Option<Timestamp>, BoxError>;
}

impl Columns for PgRow {
    fn int(&self, column: &str) -> Result<i32, BoxError> {
        Ok(self.try_get(column)?)
    }
    fn big(&self, column: &str) -> Result<i64, BoxError> {
        Ok(self.try_get(column)?)
    }
    fn flag(&self, column: &str) -> Result<bool, BoxError> {
        Ok(self.try_get(column)?)
    }
    fn id(&self, column: &str) -> Result<Uuid, BoxError> {
        Ok(self.try_get(column)?)
    }
    fn maybe_id(&self, column: &str) -> Result<Option<Uuid>, BoxError> {
        Ok(self.try_get(column)?)
    }
    fn bytes(&self, column: &str) -> Result<Vec<u8>, BoxError> {
        Ok(self.try_get(column)?)
    }
    fn text(&self, column: &str) -> Result<String, BoxError> {
        Ok(self.try_get(column)?)
    }
    fn maybe_text(&self, column: &str) -> Result<Option<String>, BoxError> {
        Ok(self.try_get(column)?)
    }
    fn maybe_time(&self, column: &str) -> Result<Option<Timestamp>, BoxError> {
        Ok(self.try_get::<Option<DateTime<Utc>>, _>(column)?)
    }
}

impl Columns for SqliteRow {
    fn int(&self, column: &str) -> Result<i32, BoxError> {
        Ok(i32::try_from(self.try_get::<i64, _>(column)?)?)
    }
    fn big(&self, column: &str) -> Result<i64, BoxError> {
        Ok(self.try_get(column)?)
    }
    fn flag(&self, column: &str) -> Result<bool, BoxError> {
        Ok(self.try_get(column)?)
    }
    fn id(&self, column: &str) -> Result<Uuid, BoxError> {
        Ok(self.try_get(column)?)
    }
    fn maybe_id(&self, column: &str) -> Result<Option<Uuid>, BoxError> {
        Ok(self.try_get(column)?)
    }
    fn bytes(&self, column: &str) -> Result<Vec<u8>, BoxError> {
        Ok(self.try_get(column)?)
    }
    fn text(&self, column: &str) -> Result<String, BoxError> {
        Ok(self.try_get(column)?)
    }
    fn maybe_text(&self, column: &str) -> Result<Option<String>, BoxError> {
        Ok(self.try_get(column)?)
    }
    fn maybe_time(&self, column: &str) -> Result<Option<Timestamp>, BoxError> {
        let micros: Option<i64> = self.try_get(column)?;
        let time = |micros| {
            Timestamp::from_timestamp_micros(micros)
                .ok_or_else(|| BoxError::from(format!("`{micros}` is no time")))
        };
        micros.map(time).transpose()
    }
}

/// A row and the table it is read from, for the error.
pub(super) struct Reader<'r, R> {
    pub table: &'static str,
    pub row: &'r R,
}

impl<'r, R: Columns> Reader<'r, R> {
    pub(super) fn new(table: &'static str, row: &'r R) -> Self {
        Self { table, row }
    }

    fn corrupt(&self, column: &'static str, source: impl Into<BoxError>) -> StoreError {
        // Whatever of the key the row has.
        let int = |column| self.row.int(column).ok().map(|value| value.to_string());
        let big = |column| self.row.big(column).ok().map(|value| value.to_string());
        let id = |column| self.row.id(column).ok().map(|value| value.to_string());
        let text = |column| self.row.text(column).ok();
        let parts = [
            int("shard_id"),
            text("name"),
            text("schedule"),
            id("case_id"),
            id("id"),
            int("step"),
            int("instance"),
            big("version"),
        ];
        let key: Vec<String> = parts.into_iter().flatten().collect();
        StoreError::Corrupt {
            table: self.table,
            column,
            key: key.join("/"),
            source: source.into(),
        }
    }

    fn read<T>(
        &self,
        column: &'static str,
        read: impl FnOnce(&R, &str) -> Result<T, BoxError>,
    ) -> Result<T, StoreError> {
        read(self.row, column).map_err(|error| self.corrupt(column, error))
    }

    fn parse<T>(
        &self,
        column: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, StoreError> {
        let text = self.text(column)?;
        parse(&text).ok_or_else(|| self.corrupt(column, format!("`{text}` is unknown")))
    }

    pub(super) fn int(&self, column: &'static str) -> Result<i32, StoreError> {
        self.read(column, R::int)
    }

    pub(super) fn big(&self, column: &'static str) -> Result<i64, StoreError> {
        self.read(column, R::big)
    }

    pub(super) fn text(&self, column: &'static str) -> Result<String, StoreError> {
        self.read(column, R::text)
    }

    pub(super) fn id(&self, column: &'static str) -> Result<Uuid, StoreError> {
        self.read(column, R::id)
    }

    fn unsigned<T: TryFrom<i64>>(&self, column: &'static str) -> Result<T, StoreError> {
        let number = self.big(column)?;
        T::try_from(number).map_err(|_| self.corrupt(column, format!("`{number}` is out of range")))
    }

    fn counter<T: TryFrom<i32>>(&self, column: &'static str) -> Result<T, StoreError> {
        let number = self.int(column)?;
        T::try_from(number).map_err(|_| self.corrupt(column, format!("`{number}` is out of range")))
    }

    fn maybe_time(&self, column: &'static str) -> Result<Option<Timestamp>, StoreError> {
        self.read(column, R::maybe_time)
    }

    fn time(&self, column: &'static str) -> Result<Timestamp, StoreError> {
        self.maybe_time(column)?
            .ok_or_else(|| self.corrupt(column, "it is null"))
    }

    pub(super) fn shard(&self) -> Result<ShardId, StoreError> {
        Ok(ShardId(self.int("shard_id")?))
    }

    pub(super) fn case(&self) -> Result<CaseId, StoreError> {
        Ok(CaseId(self.id("case_id")?))
    }

    pub(super) fn state_name(&self) -> Result<CaseState, StoreError> {
        self.parse("state", CaseState::parse)
    }

    fn lane(&self) -> Result<Lane, StoreError> {
        self.parse("lane", lane)
    }

    pub(super) fn lease(&self) -> Result<ShardLease, StoreError> {
        Ok(ShardLease {
            shard: self.shard()?,
            epoch: Epoch(self.big("epoch")?),
        })
    }

    pub(super) fn shard_row(&self) -> Result<ShardRow, StoreError> {
        Ok(ShardRow {
            shard: self.shard()?,
            epoch: Epoch(self.big("epoch")?),
            owner: self.read("owner", R::maybe_text)?,
            lease_until: self.maybe_time("lease_until")?,
            lease_left_ms: match self.maybe_time("lease_until")? {
                Some(_) => Some(self.big("lease_left_ms")?),
                None => None,
            },
        })
    }

    pub(super) fn node_row(&self) -> Result<NodeRow, StoreError> {
        Ok(NodeRow {
            owner: self.text("owner")?,
            name: self.text("name")?,
            version: self.text("version")?,
            address: self.read("address", R::maybe_text)?,
            lease_ms: self.big("lease_ms")?,
            draining: self.read("draining", R::flag)?,
            started_at: self.time("started_at")?,
            heartbeat_at: self.time("heartbeat_at")?,
            silent_ms: self.big("silent_ms")?,
        })
    }

    pub(super) fn head(&self) -> Result<HeadRow, StoreError> {
        let input = self.text("input")?;
        let salt = self.read("salt", R::bytes)?;
        Ok(HeadRow {
            shard: self.shard()?,
            case: self.case()?,
            subject: Subject(self.text("subject")?),
            workflow: self.text("workflow")?,
            definition: DefinitionHash(self.text("definition")?),
            lane: self.lane()?,
            generation: self.unsigned("generation")?,
            input: serde_json::from_str(&input).map_err(|error| self.corrupt("input", error))?,
            salt: salt
                .try_into()
                .map_err(|_| self.corrupt("salt", "it has not 16 bytes"))?,
            initiator: Actor(self.text("initiator")?),
            effective_at: self.maybe_time("effective_at")?,
            received_at: self.time("received_at")?,
            created_at: self.time("created_at")?,
        })
    }

    /// `from_version` is the version the row has.
    pub(super) fn state(&self) -> Result<StateRow, StoreError> {
        let version = self.unsigned("version")?;
        let ending = match self.read("ending", R::maybe_text)? {
            None => None,
            Some(name) => Some(
                ending(&name)
                    .ok_or_else(|| self.corrupt("ending", format!("`{name}` is unknown")))?,
            ),
        };
        Ok(StateRow {
            shard: self.shard()?,
            case: self.case()?,
            from_version: Some(version),
            version,
            state: self.state_name()?,
            ending,
            in_flight: self.counter("in_flight")?,
            parked: self.counter("parked")?,
            unfinished: self.counter("unfinished")?,
            unverified: self.counter("unverified")?,
            given_up: self.counter("given_up")?,
            steps_done: self.counter("steps_done")?,
            deadline_at: self.maybe_time("deadline_at")?,
            deadline_passed: self.read("deadline_passed", R::flag)?,
            closed_at: self.maybe_time("closed_at")?,
            changed_at: self.time("changed_at")?,
            paused: self.pause()?,
        })
    }

    fn pause(&self) -> Result<Option<Pause>, StoreError> {
        self.read("paused", R::maybe_text)?
            .map(|body| serde_json::from_str(&body).map_err(|error| self.corrupt("paused", error)))
            .transpose()
    }

    /// Never fails: what cannot be read is left empty.
    pub(super) fn bones(&self) -> Bones {
        let epoch = Timestamp::UNIX_EPOCH;
        let salt = self.read("salt", R::bytes).unwrap_or_default();
        Bones {
            subject: Subject(self.text("subject").unwrap_or_default()),
            workflow: self.text("workflow").unwrap_or_default(),
            definition: DefinitionHash(self.text("definition").unwrap_or_default()),
            generation: self.unsigned("generation").unwrap_or_default(),
            salt: salt.try_into().unwrap_or_default(),
            effective_at: self.maybe_time("effective_at").unwrap_or_default(),
            received_at: self.time("received_at").unwrap_or(epoch),
            created_at: self.time("created_at").unwrap_or(epoch),
            version: self.unsigned("version").unwrap_or_default(),
            closed: self.read("closed", R::flag).unwrap_or_default(),
        }
    }

    /// A joined row; `table` should be `case_state`, whose values are the ones that change.
    pub(super) fn summary(&self) -> Result<CaseSummary, StoreError> {
        Ok(CaseSummary {
            head: Reader::new("case_head", self.row).head()?,
            state: self.state()?,
        })
    }

    pub(super) fn step(&self) -> Result<StepRow, StoreError> {
        let instance = match self.int("instance")? {
            -1 => None,
            _ => Some(self.counter("instance")?),
        };
        Ok(StepRow {
            shard: self.shard()?,
            case: self.case()?,
            step: self.counter("step")?,
            instance,
            state: self.text("state")?,
            attempt: self.counter("attempt")?,
            failures: self.counter("failures")?,
            away: self.counter("away")?,
            planned_version: None,
            body: self.text("body")?,
            changed_at: self.time("changed_at")?,
        })
    }

    /// The error for the key of a step that must have a row and has none.
    pub(super) fn missing_step(&self) -> StoreError {
        self.corrupt("step", "the row is missing")
    }

    pub(super) fn history(&self) -> Result<HistoryRow, StoreError> {
        Ok(HistoryRow {
            shard: self.shard()?,
            case: self.case()?,
            version: self.unsigned("version")?,
            at: self.time("at")?,
            input: self.text("input")?,
            by: self.text("actor")?,
            events: self.text("events")?,
        })
    }

    pub(super) fn evidence(&self) -> Result<EvidenceRow, StoreError> {
        Ok(EvidenceRow {
            shard: self.shard()?,
            case: self.case()?,
            version: self.unsigned("version")?,
            at: self.time("at")?,
            leaf: self.read("leaf", R::bytes)?,
        })
    }

    pub(super) fn timer(&self) -> Result<TimerRow, StoreError> {
        let target = match (self.int("step")?, self.int("instance")?) {
            (-1, -1) => TimerTarget::Case,
            (_, -1) => TimerTarget::Step(StepIndex(self.counter("step")?)),
            _ => TimerTarget::Instance(Place {
                step: StepIndex(self.counter("step")?),
                instance: InstanceIndex(self.counter("instance")?),
            }),
        };
        Ok(TimerRow {
            shard: self.shard()?,
            due: self.time("due_at")?,
            case: self.case()?,
            target,
        })
    }

    pub(super) fn inbox(&self) -> Result<InboxRow, StoreError> {
        let rank = self.int("lane_rank")?;
        Ok(InboxRow {
            shard: self.shard()?,
            id: self.id("id")?,
            lane: lane_of_rank(rank)
                .ok_or_else(|| self.corrupt("lane_rank", format!("`{rank}` is unknown")))?,
            received_at: self.time("received_at")?,
            body: self.text("body")?,
        })
    }

    pub(super) fn reply(&self) -> Result<ReplyRow, StoreError> {
        Ok(ReplyRow {
            shard: self.shard()?,
            id: self.id("id")?,
            at: self.time("at")?,
            accepted: self.read("accepted", R::flag)?,
            message: self.text("message")?,
        })
    }

    pub(super) fn open_case(&self) -> Result<(Subject, OpenCase), StoreError> {
        let open = OpenCase {
            id: self.case()?,
            workflow: self.text("workflow")?,
            // A state this program does not know must not stop everything else of the shard: the case counts as
            // begun, so that others wait until somebody has ended it.
            state: self.state_name().unwrap_or(CaseState::Running),
            lane: self.lane()?,
            generation: self.unsigned("generation").unwrap_or_default(),
            created_at: self.time("created_at")?,
            paused: self.read("paused", R::flag)?,
        };
        Ok((Subject(self.text("subject")?), open))
    }

    pub(super) fn generation(&self) -> Result<GenerationRow, StoreError> {
        Ok(GenerationRow {
            shard: self.shard()?,
            subject: Subject(self.text("subject")?),
            generation: self.unsigned("generation")?,
        })
    }

    pub(super) fn parked(&self) -> Result<ParkedRow, StoreError> {
        let maybe = |number: i32| (number >= 0).then_some(number);
        let step = maybe(self.int("step")?).and_then(|step| u16::try_from(step).ok());
        let instance = maybe(self.int("instance")?).and_then(|number| u32::try_from(number).ok());
        Ok(ParkedRow {
            shard: self.shard()?,
            case: self.case()?,
            at: self.time("at")?,
            step: step.map(StepIndex),
            instance,
        })
    }

    pub(super) fn version_row(&self) -> Result<VersionRow, StoreError> {
        Ok(VersionRow {
            hash: DefinitionHash(self.text("hash")?),
            workflow: self.text("name")?,
            created_at: self.time("created_at")?,
            open: self.unsigned("cases")?,
        })
    }

    /// `from_version` is the version the row has.
    pub(super) fn schedule(&self) -> Result<ScheduleRow, StoreError> {
        let body = self.text("state")?;
        let state: State =
            serde_json::from_str(&body).map_err(|error| self.corrupt("state", error))?;
        Ok(ScheduleRow {
            shard: self.shard()?,
            from_version: Some(self.unsigned("version")?),
            state,
            next_due_at: self.maybe_time("next_due_at")?,
            changed_at: self.time("changed_at")?,
        })
    }

    pub(super) fn schedule_run(&self) -> Result<ScheduleRunRow, StoreError> {
        Ok(ScheduleRunRow {
            shard: self.shard()?,
            schedule: self.text("schedule")?,
            run: Run {
                key: RunKey {
                    fire_at: self.time("fire_at")?,
                    by_hand: self.read("by_hand", R::flag)?,
                },
                cause: self.parse("cause", |name| {
                    Cause::ALL.into_iter().find(|it| it.as_str() == name)
                })?,
                due_at: self.time("due_at")?,
                decided_at: self.time("decided_at")?,
                outcome: self.parse("outcome", |name| {
                    schedule::Outcome::ALL
                        .into_iter()
                        .find(|it| it.as_str() == name)
                })?,
                case: self.read("case_id", R::maybe_id)?.map(CaseId),
                initiator: Actor(self.text("initiator")?),
                reason: self.text("reason")?,
            },
        })
    }

    pub(super) fn schedule_change(&self) -> Result<ScheduleChangeRow, StoreError> {
        Ok(ScheduleChangeRow {
            shard: self.shard()?,
            schedule: self.text("schedule")?,
            change: ChangeRecord {
                version: self.unsigned("version")?,
                at: self.time("at")?,
                by: Actor(self.text("actor")?),
                operation: self.parse("operation", |name| {
                    Operation::ALL.into_iter().find(|it| it.as_str() == name)
                })?,
                reason: self.text("reason")?,
                detail: self.text("detail")?,
            },
            leaf: self.read("leaf", R::bytes)?,
        })
    }

    pub(super) fn count(&self) -> Result<(String, CaseState, u64), StoreError> {
        Ok((
            self.text("workflow")?,
            self.state_name()?,
            self.unsigned("cases")?,
        ))
    }
}

/// Reads every row of a result.
pub(super) fn all<'r, R: Columns, T>(
    table: &'static str,
    rows: &'r [R],
    read: impl Fn(&Reader<'r, R>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    rows.iter()
        .map(|row| read(&Reader::new(table, row)))
        .collect()
}

// --- names in columns -----------------------------------------------------------------------------------

fn lane(name: &str) -> Option<Lane> {
    [Lane::Normal, Lane::Revocation]
        .into_iter()
        .find(|lane| lane.as_str() == name)
}

/// Revocations first.
pub(super) fn lane_rank(lane: Lane) -> i32 {
    match lane {
        Lane::Revocation => 0,
        Lane::Normal => 1,
    }
}

fn lane_of_rank(rank: i32) -> Option<Lane> {
    [Lane::Normal, Lane::Revocation]
        .into_iter()
        .find(|lane| lane_rank(*lane) == rank)
}

pub(super) fn ending_name(ending: Ending) -> &'static str {
    ending.as_str()
}

fn ending(name: &str) -> Option<Ending> {
    Ending::ALL
        .into_iter()
        .find(|ending| ending.as_str() == name)
}
