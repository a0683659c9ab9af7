//! A case: where one execution of a workflow stands.
//!
//! The state a case is in is the truth; the history is beside it. A case is changed only by
//! [`Case::apply`](super::event), one event at a time, and every change touches only what the event names,
//! so a step of a case with 5,000 instances costs what it costs in a case with five.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Timestamp;
use super::definition::{Definition, Step};
use super::id::{Actor, CaseId, InstanceIndex, Place, ShardId, StepIndex, Subject};

/// One execution of a workflow for one subject.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    pub id: CaseId,
    pub shard: ShardId,
    pub subject: Subject,
    pub definition: Arc<Definition>,
    /// The subject's generation when the case was made: a timer of an older generation can never fire.
    pub generation: u32,
    /// The number of transitions so far. Guards every write.
    pub version: u64,
    pub state: CaseState,
    /// What the case was started with: the business event, or whatever a person gave.
    pub input: Arc<Value>,
    /// Makes digests of personal data in the evidence unguessable; erased together with the data.
    pub salt: [u8; 16],
    pub initiator: Actor,
    pub effective_at: Option<Timestamp>,
    pub received_at: Timestamp,
    pub created_at: Timestamp,
    pub closed_at: Option<Timestamp>,
    pub deadline_at: Option<Timestamp>,
    pub deadline_passed: bool,
    pub steps: Vec<StepRun>,
    /// How many instances have an attempt in flight.
    pub in_flight: u32,
    /// How many instances wait for a person because they failed for good.
    pub parked: u32,
    /// How many instances are not finished, over all planned steps.
    pub unfinished: u32,
    /// How many steps are finished.
    pub steps_done: u32,
    /// Whether anything finished without proof.
    pub unverified: u32,
    /// Instances finished with an effect that an undo could take back, in the order they finished.
    pub undo_stack: Vec<Place>,
    /// How many instances were given up by a person.
    pub given_up: u32,
    /// The end the case is on its way to while attempts in flight run out.
    pub ending: Option<Ending>,
    /// Set while a person holds the case: it starts nothing, and has no timer but its deadline. Beside the state
    /// and not one of its values, because a paused case is still queued, running, parked or undoing, and goes on
    /// as that. Only an open case is paused.
    pub paused: Option<Pause>,
}

/// Who holds a case, since when, and why. A stored form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub at: Timestamp,
    pub by: Actor,
    pub reason: String,
}

/// Where a case as a whole stands. The states exclude one another and share one column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaseState {
    /// Waits for another case of the same subject.
    Queued,
    Running,
    /// A person has to decide before it can go on.
    Parked,
    /// Takes back what it did.
    Undoing,
    /// Starts nothing any more; waits for attempts in flight.
    Ending,
    Succeeded,
    /// Everything was done, but something could not be proven.
    Unverified,
    /// Something was given up by a person and the rest was done.
    Incomplete,
    Undone,
    Cancelled,
    /// Ended because a case that pre-empts it started.
    Preempted,
    /// Ended because it belongs to an earlier life of its subject.
    Superseded,
    /// Never begun, because a case of the same workflow that waits does its work.
    Merged,
}

impl CaseState {
    pub const ALL: [Self; 13] = [
        Self::Queued,
        Self::Running,
        Self::Parked,
        Self::Undoing,
        Self::Ending,
        Self::Succeeded,
        Self::Unverified,
        Self::Incomplete,
        Self::Undone,
        Self::Cancelled,
        Self::Preempted,
        Self::Superseded,
        Self::Merged,
    ];

    #[must_use]
    pub fn is_closed(self) -> bool {
        match self {
            Self::Queued | Self::Running | Self::Parked | Self::Undoing | Self::Ending => false,
            Self::Succeeded
            | Self::Unverified
            | Self::Incomplete
            | Self::Undone
            | Self::Cancelled
            | Self::Preempted
            | Self::Superseded
            | Self::Merged => true,
        }
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Parked => "parked",
            Self::Undoing => "undoing",
            Self::Ending => "ending",
            Self::Succeeded => "succeeded",
            Self::Unverified => "unverified",
            Self::Incomplete => "incomplete",
            Self::Undone => "undone",
            Self::Cancelled => "cancelled",
            Self::Preempted => "preempted",
            Self::Superseded => "superseded",
            Self::Merged => "merged",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// Why a case is ending early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    Cancelled,
    Preempted,
    /// Undo starts when the attempts in flight are over.
    Undoing,
    /// The subject has begun a later life.
    Superseded,
}

impl Ending {
    pub const ALL: [Self; 4] = [
        Self::Cancelled,
        Self::Preempted,
        Self::Undoing,
        Self::Superseded,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Preempted => "preempted",
            Self::Undoing => "undoing",
            Self::Superseded => "superseded",
        }
    }
}

/// One step of a case.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepRun {
    pub state: StepState,
    /// Every instance ever planned: a step that was run again has those of its earlier runs first.
    pub instances: Vec<Instance>,
    /// The first instance of the present run; those before it are history, finished for good.
    pub first: u32,
    /// Instances not finished yet.
    pub remaining: u32,
    /// Instances that finished without proof, or were given up.
    pub unverified: u32,
    pub given_up: u32,
    /// Why planning failed, or why the step was skipped.
    pub failure: Option<Failure>,
    /// The id it had when its instances were planned, where a migration gave it another: systems know its effects
    /// by that one.
    pub known_as: Option<String>,
}

/// Where a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum StepState {
    /// Waits for the steps it needs.
    #[default]
    Pending,
    /// Ready, but not before `due`.
    Delayed { due: Timestamp },
    /// Facts for its expressions are being fetched.
    Planning,
    /// Planning failed; waits for a person.
    Stuck,
    /// Its instances are at work.
    Open,
    /// Every instance is finished.
    Done,
    /// Its condition was false, or nothing was there to do.
    Skipped,
    /// The case ended before it started.
    Cancelled,
}

impl StepState {
    /// Whether steps that need this one may start.
    #[must_use]
    pub fn is_finished(self) -> bool {
        matches!(self, Self::Done | Self::Skipped)
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delayed { .. } => "delayed",
            Self::Planning => "planning",
            Self::Stuck => "stuck",
            Self::Open => "open",
            Self::Done => "done",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
        }
    }
}

/// One instance of a step: a row of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    pub item: Value,
    /// `with:`, evaluated when the step was planned.
    pub with: Value,
    pub state: InstanceState,
    /// Counts every attempt ever made; names the attempt an outcome belongs to.
    pub attempt: u32,
    /// Counted failures: what the retry budget is spent on.
    pub failures: u32,
    /// Answers in a row that said the system is away.
    pub away: u32,
    pub output: Value,
    pub failure: Option<Failure>,
    pub verification: Option<Verification>,
    /// The case version at which it finished: the order an undo follows backwards.
    pub finished_version: Option<u64>,
    /// The case version at which it was planned: tells a store whether it has a row yet.
    pub planned_version: u64,
    pub changed_at: Timestamp,
}

/// What a case is made from.
#[derive(Debug, Clone, PartialEq)]
pub struct NewCase {
    pub id: CaseId,
    pub shard: ShardId,
    pub subject: Subject,
    pub definition: Arc<Definition>,
    pub generation: u32,
    pub input: Arc<Value>,
    pub salt: [u8; 16],
    pub initiator: Actor,
    pub effective_at: Option<Timestamp>,
    pub received_at: Timestamp,
    pub created_at: Timestamp,
}

/// Where an instance stands. The states exclude one another and share one column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum InstanceState {
    /// An attempt is in flight.
    Running {
        mode: Mode,
    },
    /// The next attempt is made at `due`.
    Waiting {
        due: Timestamp,
        mode: Mode,
        why: WaitReason,
    },
    /// A person or a signal has to answer.
    Asking {
        ask: Ask,
        due: Option<Timestamp>,
        approvals: BTreeSet<String>,
    },
    /// Failed for good; waits for a person.
    Parked {
        mode: Mode,
    },
    /// Finished; [`Instance::verification`] says how well that is known.
    Done,
    /// Failed for good in a case that takes back what it did.
    Failed,
    /// Given up by a person, with a reason.
    GivenUp,
    /// The case ended before it was finished.
    Cancelled,
    /// The case ended while the outcome of an attempt was unknown.
    Unknown,
    Undone,
}

impl InstanceState {
    #[must_use]
    pub fn is_finished(&self) -> bool {
        match self {
            Self::Running { .. }
            | Self::Waiting { .. }
            | Self::Asking { .. }
            | Self::Parked { .. } => false,
            Self::Done
            | Self::Failed
            | Self::GivenUp
            | Self::Cancelled
            | Self::Unknown
            | Self::Undone => true,
        }
    }

    /// Whether an effect is being taken back.
    #[must_use]
    pub fn is_undo(&self) -> bool {
        match self {
            Self::Running { mode } | Self::Waiting { mode, .. } | Self::Parked { mode } => {
                mode.is_undo()
            }
            _ => false,
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Running { .. } => "running",
            Self::Waiting { .. } => "waiting",
            Self::Asking { .. } => "asking",
            Self::Parked { .. } => "parked",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::GivenUp => "given_up",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
            Self::Undone => "undone",
        }
    }
}

/// What an attempt is made for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Carry the step out.
    Do,
    /// Find out whether an attempt whose answer is lost had its effect.
    ReadBack,
    /// Ask after something the system accepted for later.
    Poll { handle: String },
    /// Take the step back.
    Undo,
    /// Find out whether an undo whose answer is lost had its effect.
    UndoReadBack,
}

impl Mode {
    #[must_use]
    pub fn is_undo(&self) -> bool {
        matches!(self, Self::Undo | Self::UndoReadBack)
    }
    /// The mode in which an attempt of this mode is repeated when its outcome is unknown.
    #[must_use]
    pub fn read_back(&self) -> Self {
        match self {
            Self::Do | Self::ReadBack => Self::ReadBack,
            Self::Poll { handle } => Self::Poll {
                handle: handle.clone(),
            },
            Self::Undo | Self::UndoReadBack => Self::UndoReadBack,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// A counted failure; the policy's pause runs.
    Retry,
    /// The system is away.
    SystemAway,
    /// The system named the time.
    NotBefore,
    /// The system works on it.
    Accepted,
    /// The answer was lost; it will be read back.
    AnswerLost,
    /// It did not leave, because the case was paused.
    Paused,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Ask {
    Approval {
        ask: Vec<String>,
        quorum: u32,
        question: Option<String>,
        /// Whoever started the case may not approve.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        four_eyes: bool,
    },
    Task {
        title: String,
        instructions: String,
        assignee: String,
        proof_required: bool,
    },
    Signal {
        name: String,
    },
}

/// How well a finished instance is known to be finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "how")]
pub enum Verification {
    /// An independent read showed it.
    Verified,
    /// A person said so.
    Attested { by: String },
    /// Nothing outside was touched.
    NotNeeded,
    /// It could not be seen, or was seen to be otherwise.
    Unverified { reason: String },
}

/// Why an attempt failed, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A short name of the kind, for lists.
    pub kind: String,
    /// The whole error, with the chain of its causes. No secrets, no personal data.
    pub message: String,
    pub class: FailureClass,
}

/// What a failure means for the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The same attempt will fail again.
    Permanent,
    /// Worth another try, and counted.
    Retry,
    /// The whole system is away: not counted.
    SystemAway,
    /// Not before this time: not counted.
    NotBefore(Timestamp),
}

impl StepRun {
    /// The instances of the present run.
    #[must_use]
    pub fn present(&self) -> &[Instance] {
        let first = usize::try_from(self.first).unwrap_or(usize::MAX);
        self.instances.get(first..).unwrap_or_default()
    }
}

impl Case {
    /// Whether nothing of it will be begun any more, nor taken back.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        let undoes = self.ending == Some(Ending::Undoing);
        self.state.is_closed() || (self.state == CaseState::Ending && !undoes)
    }

    /// A case that waits to be started.
    #[must_use]
    pub fn new(new: NewCase) -> Self {
        let steps = vec![StepRun::default(); new.definition.steps.len()];
        Self {
            id: new.id,
            shard: new.shard,
            subject: new.subject,
            definition: new.definition,
            generation: new.generation,
            version: 0,
            state: CaseState::Queued,
            input: new.input,
            salt: new.salt,
            initiator: new.initiator,
            effective_at: new.effective_at,
            received_at: new.received_at,
            created_at: new.created_at,
            closed_at: None,
            deadline_at: None,
            deadline_passed: false,
            steps,
            in_flight: 0,
            parked: 0,
            unfinished: 0,
            steps_done: 0,
            unverified: 0,
            given_up: 0,
            undo_stack: Vec::new(),
            ending: None,
            paused: None,
        }
    }

    #[must_use]
    pub fn instance(&self, place: Place) -> Option<&Instance> {
        self.steps
            .get(usize::from(place.step.0))?
            .instances
            .get(usize::try_from(place.instance.0).ok()?)
    }

    pub(crate) fn instance_mut(&mut self, place: Place) -> Option<&mut Instance> {
        self.steps
            .get_mut(usize::from(place.step.0))?
            .instances
            .get_mut(usize::try_from(place.instance.0).ok()?)
    }

    #[must_use]
    pub fn step_run(&self, index: StepIndex) -> Option<&StepRun> {
        self.steps.get(usize::from(index.0))
    }

    pub(crate) fn step_run_mut(&mut self, index: StepIndex) -> Option<&mut StepRun> {
        self.steps.get_mut(usize::from(index.0))
    }

    #[must_use]
    pub fn step(&self, index: StepIndex) -> Option<&Step> {
        self.definition.step(index)
    }

    /// The places of every instance of a step, those of its earlier runs too.
    pub fn places(&self, index: StepIndex) -> impl Iterator<Item = Place> + use<> {
        let count = self.step_run(index).map_or(0, |run| run.instances.len());
        (0..u32::try_from(count).unwrap_or(u32::MAX)).map(move |instance| Place {
            step: index,
            instance: InstanceIndex(instance),
        })
    }

    /// The `with:` of an instance's undo, filled in from what the step was given and gave.
    ///
    /// # Errors
    /// When an expression of it fails.
    pub fn undo_with(&self, place: Place) -> Result<Value, Failure> {
        let (Some(step), Some(instance)) = (self.step(place.step), self.instance(place)) else {
            return Ok(Value::Null);
        };
        let Some(undo) = &step.undo else {
            return Ok(Value::Null);
        };
        super::scope::Scope::new(self, &Value::Null)
            .with_item(&instance.item)
            .with_output(&instance.output)
            .fill(&undo.with)
            .map_err(|error| Failure {
                kind: "expression".to_owned(),
                message: error.to_string(),
                class: FailureClass::Permanent,
            })
    }

    /// The key that stays the same over every attempt of one effect. Undo is another effect, and so is the same
    /// work in a later run of the step: its instances have numbers of their own.
    #[must_use]
    pub fn idempotency_key(&self, place: Place, undo: bool) -> String {
        let step = self
            .step_run(place.step)
            .and_then(|run| run.known_as.as_deref())
            .or_else(|| self.step(place.step).map(|step| step.id.as_str()))
            .unwrap_or_default();
        let kind = if undo { "/undo" } else { "" };
        format!("{}/{step}/{}{kind}", self.id, place.instance.0)
    }
}
