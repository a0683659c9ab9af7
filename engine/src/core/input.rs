//! What can happen to a case.

use std::sync::Arc;

use serde_json::Value;

use super::Timestamp;
use super::case::{Failure, Verification};
use super::definition::Definition;
use super::id::{Actor, CaseId, DefinitionHash, Place, StepIndex};
use super::migration::Mapping;
use super::proof::Proof;

/// One thing that happened. Everything a case needs to know is in it; the core asks nobody.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// The subject is free for this case.
    Start,
    /// A timer came due. A timer that no longer stands is refused, so firing one twice is harmless.
    TimerDue { target: TimerTarget, due: Timestamp },
    /// The facts that a step's expressions read, by root; or why they could not be had.
    Facts {
        step: StepIndex,
        facts: Result<Value, Failure>,
    },
    /// An attempt is over.
    AttemptFinished {
        place: Place,
        attempt: u32,
        result: Box<AttemptResult>,
    },
    /// The case was loaded by a new owner: whatever was in flight has an unknown outcome.
    Recovered,
    /// Somebody answered an approval.
    Answered {
        place: Place,
        by: Actor,
        approve: bool,
        note: String,
    },
    /// Somebody finished a task.
    TaskDone {
        place: Place,
        by: Actor,
        proof: String,
        output: Value,
    },
    /// A question or a task goes from somebody to somebody else.
    Reassign {
        place: Place,
        /// As it stands in the question.
        from: String,
        to: String,
        by: Actor,
        reason: String,
    },
    /// A named signal came from outside.
    Signal {
        name: String,
        by: Actor,
        payload: Value,
    },
    /// Try parked work again: one instance, or all of the case.
    Retry {
        place: Option<Place>,
        step: Option<StepIndex>,
        by: Actor,
        /// May be empty.
        reason: String,
    },
    /// Give work up, with a reason.
    Skip {
        step: StepIndex,
        place: Option<Place>,
        by: Actor,
        reason: String,
    },
    /// End the case: start nothing, let attempts in flight run out.
    Cancel { by: Actor, reason: String },
    /// A case that pre-empts this one wants to start.
    Preempt { by: CaseId },
    /// Go on under another version of the workflow.
    Migrate(Box<Migrate>),
    /// Hold the case: start nothing until it is resumed.
    Pause { by: Actor, reason: String },
    /// Let a paused case go on; timers that came due meanwhile act now.
    Resume { by: Actor, reason: String },
    /// Plan a step and everything that depends on it anew.
    Rerun {
        step: StepIndex,
        by: Actor,
        reason: String,
    },
    /// Take back what the case did.
    Undo { by: Actor, reason: String },
    /// End the case now, whatever is in flight or broken; what is in flight is left unknown.
    Terminate { by: Actor, reason: String },
    /// The subject has begun a later life.
    Supersede { generation: u32 },
    /// Another case of the same workflow, which waits, does what this one was to do.
    Merge { into: CaseId },
    /// A case of the same workflow is folded into this one.
    Absorb {
        case: CaseId,
        effective_at: Option<Timestamp>,
    },
}

/// What a case is to go on under.
#[derive(Debug, Clone, PartialEq)]
pub struct Migrate {
    /// The version the case must run now.
    pub from: DefinitionHash,
    pub to: Arc<Definition>,
    pub mapping: Mapping,
    pub by: Actor,
    pub reason: String,
}

impl Input {
    /// Whether a person asks for work to be done: it is made again, or goes on.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        matches!(
            self,
            Self::Retry { .. } | Self::Rerun { .. } | Self::Resume { .. }
        )
    }

    /// A short name for evidence and messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::TimerDue { .. } => "timer_due",
            Self::Facts { .. } => "facts",
            Self::AttemptFinished { .. } => "attempt_finished",
            Self::Recovered => "recovered",
            Self::Answered { .. } => "answered",
            Self::TaskDone { .. } => "task_done",
            Self::Reassign { .. } => "reassign",
            Self::Signal { .. } => "signal",
            Self::Retry { .. } => "retry",
            Self::Skip { .. } => "skip",
            Self::Cancel { .. } => "cancel",
            Self::Preempt { .. } => "preempt",
            Self::Migrate(_) => "migrate",
            Self::Pause { .. } => "pause",
            Self::Resume { .. } => "resume",
            Self::Rerun { .. } => "rerun",
            Self::Undo { .. } => "undo",
            Self::Terminate { .. } => "terminate",
            Self::Supersede { .. } => "supersede",
            Self::Merge { .. } => "merge",
            Self::Absorb { .. } => "absorb",
        }
    }
}

/// What a timer belongs to; there is at most one for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimerTarget {
    /// The case's deadline.
    Case,
    /// A delayed step.
    Step(StepIndex),
    /// A waiting or asking instance.
    Instance(Place),
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum AttemptResult {
    /// The effect is there.
    Succeeded {
        output: Value,
        verification: Verification,
        proof: Proof,
    },
    /// The system works on it.
    Accepted {
        handle: String,
        poll_after_ms: u64,
        proof: Proof,
    },
    /// A person has to do it; `output` becomes the step's output when they have.
    NeedsHuman {
        title: String,
        instructions: String,
        assignee: String,
        due_after_ms: u64,
        proof_required: bool,
        output: Value,
    },
    /// No answer came: the effect may or may not be there.
    AnswerLost { reason: String, proof: Proof },
    /// A read-back showed that the effect is not there.
    NotApplied,
    /// It never left: the case is ending and the attempt was still in the queue.
    NotSent,
    /// It failed, and nothing was changed.
    Failed { failure: Failure, proof: Proof },
}

impl AttemptResult {
    #[must_use]
    pub fn proof(&self) -> Option<&Proof> {
        match self {
            Self::Succeeded { proof, .. }
            | Self::Accepted { proof, .. }
            | Self::AnswerLost { proof, .. }
            | Self::Failed { proof, .. } => Some(proof),
            Self::NeedsHuman { .. } | Self::NotApplied | Self::NotSent => None,
        }
    }

    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Succeeded { .. } => "succeeded",
            Self::Accepted { .. } => "accepted",
            Self::NeedsHuman { .. } => "needs_human",
            Self::AnswerLost { .. } => "answer_lost",
            Self::NotApplied => "not_applied",
            Self::NotSent => "not_sent",
            Self::Failed { .. } => "failed",
        }
    }
}
