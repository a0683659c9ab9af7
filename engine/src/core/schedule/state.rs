//! Where a schedule stands, and what is written down of its runs. Stored forms: fields are only ever added.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{Mistakes, Schedule, Spec};
use crate::core::Timestamp;
use crate::core::id::{Actor, CaseId};

/// Everything that is known of a schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The number of writes so far. Guards every write.
    pub version: u64,
    pub spec: Spec,
    pub origin: Origin,
    /// Makes digests of names in the evidence unguessable. Drawn once, when it is made.
    pub salt: [u8; 16],
    /// Taken away; the row stays, so that its history does and a new one of that name goes on counting.
    #[serde(default)]
    pub removed: bool,
    /// Paused by somebody.
    #[serde(default)]
    pub paused: Option<Pause>,
    /// Fire times up to here have been dealt with.
    pub seen: Timestamp,
    /// The latest fire time that was dealt with, and what became of it.
    #[serde(default)]
    pub last: Option<(Timestamp, Outcome)>,
    /// The moment that names the latest run by hand.
    #[serde(default)]
    pub last_by_hand: Option<Timestamp>,
    /// Runs whose case is not known to have ended, oldest first.
    #[serde(default)]
    pub open: Vec<OpenRun>,
    /// Runs that wait for the open one to end, oldest first.
    #[serde(default)]
    pub queue: VecDeque<Waiting>,
}

/// Who wrote a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A file of the configuration folder: only the file changes it.
    Configuration,
    /// Somebody, by command line or API.
    Person,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub by: Actor,
    pub reason: String,
    pub at: Timestamp,
}

/// Names a run of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RunKey {
    /// The fire time; of a run by hand the moment it was asked for.
    pub fire_at: Timestamp,
    pub by_hand: bool,
}

/// A run that was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRun {
    #[serde(flatten)]
    pub key: RunKey,
    pub case: CaseId,
    pub cause: Cause,
    pub initiator: Actor,
    /// Its subject decides where the case lives; the schedule may have another one by now.
    pub subject: crate::core::id::Subject,
    /// The case was seen.
    #[serde(default)]
    pub seen: bool,
    /// It was asked to end.
    #[serde(default)]
    pub ending: bool,
}

/// A run that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    #[serde(flatten)]
    pub key: RunKey,
    pub cause: Cause,
    pub initiator: Actor,
    #[serde(default)]
    pub reason: Option<String>,
}

/// Why there is a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Its time came.
    Clock,
    /// Somebody asked for one now.
    ByHand,
    /// Somebody asked for the fire times of a period.
    Backfill,
}

impl Cause {
    pub const ALL: [Self; 3] = [Self::Clock, Self::ByHand, Self::Backfill];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Clock => "clock",
            Self::ByHand => "by_hand",
            Self::Backfill => "backfill",
        }
    }
}

/// What became of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The message that starts its case is written.
    Started,
    /// Waits for the open run to end.
    Queued,
    /// Left out, because an earlier run was open.
    SkippedOverlap,
    /// Its time passed longer ago than the catch-up window.
    Missed,
    /// The case could not be made.
    Refused,
    /// It waited, and the schedule was removed.
    Dropped,
}

impl Outcome {
    pub const ALL: [Self; 6] = [
        Self::Started,
        Self::Queued,
        Self::SkippedOverlap,
        Self::Missed,
        Self::Refused,
        Self::Dropped,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Queued => "queued",
            Self::SkippedOverlap => "skipped_overlap",
            Self::Missed => "missed",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
        }
    }
}

/// What is written down of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub key: RunKey,
    pub cause: Cause,
    /// The fire time with its jitter.
    pub due_at: Timestamp,
    pub decided_at: Timestamp,
    pub outcome: Outcome,
    pub case: Option<CaseId>,
    pub initiator: Actor,
    /// Why it was left out or refused, or what whoever asked for it said.
    pub reason: String,
}

/// What somebody did to a schedule: what becomes its history and its evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeRecord {
    /// The version of the schedule after it.
    pub version: u64,
    pub at: Timestamp,
    pub by: Actor,
    pub operation: Operation,
    pub reason: String,
    /// What exactly: the period of a backfill, the case of a run.
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    Create,
    Change,
    Remove,
    Pause,
    Resume,
    Run,
    Backfill,
}

impl Operation {
    pub const ALL: [Self; 7] = [
        Self::Create,
        Self::Change,
        Self::Remove,
        Self::Pause,
        Self::Resume,
        Self::Run,
        Self::Backfill,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Change => "change",
            Self::Remove => "remove",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Run => "run",
            Self::Backfill => "backfill",
        }
    }
}

impl State {
    /// Whether it does not fire by itself, by file or by a person.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused.is_some() || self.spec.paused
    }

    /// Its spec, checked.
    ///
    /// # Errors
    /// When it was written by a program that allowed more.
    pub fn schedule(&self) -> Result<Schedule, Mistakes> {
        Schedule::new(self.spec.clone())
    }

    /// The next fire time, if it fires by itself at all.
    #[must_use]
    pub fn next_fire(&self, schedule: &Schedule) -> Option<Timestamp> {
        if self.removed || self.is_paused() {
            return None;
        }
        schedule.next(self.seen)
    }
}
