//! What comes to a case from outside, in the stored form of the inbox.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::core::definition::Lane;
use crate::core::id::{Actor, CaseId, DefinitionHash, Place, ShardId, StepIndex, Subject};
use crate::core::input::Input;
use crate::core::migration::Mapping;
use crate::core::schedule::{Origin, Spec};
use crate::store::InboxRow;

/// A message. A stored form: variants and fields are only ever added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Message {
    /// Make a case and start it as soon as its subject is free.
    Start(StartCase),
    /// Do something to a case that exists.
    Command {
        case: CaseId,
        /// The version whose steps the command counts; the case must still run it. None for one that names no step.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        definition: Option<DefinitionHash>,
        command: Command,
    },
    /// Do something to a schedule.
    Schedule {
        name: String,
        command: ScheduleCommand,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StartCase {
    /// Chosen by the sender, from what caused it: the same cause makes one case.
    pub case: CaseId,
    /// The workflow's name; the newest known definition of that name is taken.
    pub workflow: String,
    pub subject: Subject,
    #[serde(default)]
    pub generation: u32,
    pub input: Value,
    pub initiator: Actor,
    pub effective_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    Answer {
        place: Place,
        by: Actor,
        approve: bool,
        #[serde(default)]
        note: String,
    },
    TaskDone {
        place: Place,
        by: Actor,
        #[serde(default)]
        proof: String,
        #[serde(default)]
        output: Value,
    },
    Reassign {
        place: Place,
        from: String,
        to: String,
        by: Actor,
        reason: String,
    },
    Signal {
        name: String,
        by: Actor,
        #[serde(default)]
        payload: Value,
    },
    Retry {
        #[serde(default)]
        place: Option<Place>,
        #[serde(default)]
        step: Option<StepIndex>,
        by: Actor,
        #[serde(default)]
        reason: String,
    },
    Skip {
        step: StepIndex,
        #[serde(default)]
        place: Option<Place>,
        by: Actor,
        reason: String,
    },
    Cancel {
        by: Actor,
        reason: String,
    },
    /// Go on under another version of the workflow, which must be stored.
    Migrate {
        from: DefinitionHash,
        to: DefinitionHash,
        #[serde(default)]
        mapping: Mapping,
        by: Actor,
        reason: String,
    },
    Pause {
        by: Actor,
        reason: String,
    },
    Resume {
        by: Actor,
        reason: String,
    },
    Rerun {
        step: StepIndex,
        by: Actor,
        reason: String,
    },
    Undo {
        by: Actor,
        reason: String,
    },
    Terminate {
        by: Actor,
        reason: String,
    },
}

/// What a command is to the core; one that needs another version of the workflow comes back as it is.
impl TryFrom<Command> for Input {
    type Error = Box<Command>;

    fn try_from(command: Command) -> Result<Self, Box<Command>> {
        Ok(match command {
            Command::Answer {
                place,
                by,
                approve,
                note,
            } => Self::Answered {
                place,
                by,
                approve,
                note,
            },
            Command::TaskDone {
                place,
                by,
                proof,
                output,
            } => Self::TaskDone {
                place,
                by,
                proof,
                output,
            },
            Command::Reassign {
                place,
                from,
                to,
                by,
                reason,
            } => Self::Reassign {
                place,
                from,
                to,
                by,
                reason,
            },
            Command::Signal { name, by, payload } => Self::Signal { name, by, payload },
            Command::Retry {
                place,
                step,
                by,
                reason,
            } => Self::Retry {
                place,
                step,
                by,
                reason,
            },
            Command::Skip {
                step,
                place,
                by,
                reason,
            } => Self::Skip {
                step,
                place,
                by,
                reason,
            },
            Command::Cancel { by, reason } => Self::Cancel { by, reason },
            Command::Pause { by, reason } => Self::Pause { by, reason },
            Command::Resume { by, reason } => Self::Resume { by, reason },
            Command::Rerun { step, by, reason } => Self::Rerun { step, by, reason },
            Command::Undo { by, reason } => Self::Undo { by, reason },
            Command::Terminate { by, reason } => Self::Terminate { by, reason },
            Command::Migrate { .. } => return Err(Box::new(command)),
        })
    }
}

/// What people and the configuration do to a schedule. A stored form: variants and fields are only ever added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum ScheduleCommand {
    /// Make it, or change what it says.
    Put {
        spec: Spec,
        origin: Origin,
        by: Actor,
        #[serde(default)]
        reason: String,
    },
    Remove {
        origin: Origin,
        by: Actor,
        #[serde(default)]
        reason: String,
    },
    Pause {
        by: Actor,
        #[serde(default)]
        reason: String,
    },
    Resume {
        by: Actor,
        #[serde(default)]
        reason: String,
    },
    /// A run now.
    Run {
        by: Actor,
        #[serde(default)]
        reason: String,
    },
    /// The fire times from `from` to `to` that have not run.
    Backfill {
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        by: Actor,
        #[serde(default)]
        reason: String,
    },
}

impl Message {
    /// The row that carries the message. `id` names it: the same id sent twice is one message.
    ///
    /// # Errors
    /// Never for messages made of plain data; the type says so because JSON may refuse.
    pub fn into_row(
        self,
        shard: ShardId,
        id: Uuid,
        lane: Lane,
        received_at: DateTime<Utc>,
    ) -> Result<InboxRow, serde_json::Error> {
        Ok(InboxRow {
            shard,
            id,
            lane,
            received_at,
            body: serde_json::to_string(&self)?,
        })
    }
}
