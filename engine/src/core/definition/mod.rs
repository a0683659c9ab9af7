//! Workflow definitions: what a person writes (YAML), and the checked form the engine runs.
//!
//! [`Definition::parse`] is the only way to a `Definition`: whatever it returns has known step names, no
//! cycles, compiled expressions that only read steps that come before, and no way to wait for ever.

mod check;
mod diff;
mod source;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::conflict::Conflicts;
use super::duration::Span;
use super::expression::Expression;
use super::id::{DefinitionHash, StepIndex};
use super::retry::RetryPolicy;

pub use diff::{Change, Difference, StepDifference, diff};
pub use source::{Problem, Problems, schema};

/// The most steps a definition may have.
pub const STEPS_MAX: usize = 500;
/// The most instances one `for_each` may make.
pub const INSTANCES_MAX: usize = 10_000;
/// The weight of a workflow that names none, and the most one may have.
pub const WEIGHT_DEFAULT: u32 = 10;
pub const WEIGHT_MAX: u32 = 1_000;
/// The largest definition file, in bytes.
pub const DEFINITION_BYTES_MAX: usize = 1024 * 1024;

/// A checked workflow.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    pub name: String,
    pub description: String,
    /// The types of business event that start it.
    pub on: Vec<String>,
    /// How long before the event takes effect it starts, or how long after; at most one of them is given.
    pub ahead: Option<Span>,
    pub after: Option<Span>,
    pub lane: Lane,
    /// How often its work gets a turn where workflows compete for one system, beside the weights of the others.
    pub weight: u32,
    pub on_failure: OnFailure,
    pub deadline: Option<Deadline>,
    /// What a new case does about open ones of the same subject.
    pub conflicts: Conflicts,
    pub steps: Vec<Step>,
    /// The content hash of the source: this version's name.
    pub hash: DefinitionHash,
    /// The YAML it was read from, kept so that a case can always find its own version.
    pub source: String,
    /// For each step the steps that need it, in order.
    pub(crate) dependents: Vec<Vec<StepIndex>>,
}

impl Definition {
    /// Whether it starts at another moment than the one at which its event takes effect.
    #[must_use]
    pub fn is_offset(&self) -> bool {
        self.ahead.is_some() || self.after.is_some()
    }

    /// What starts it, for people: `hire, rehire`, `7d before hire`.
    #[must_use]
    pub fn started_by(&self) -> String {
        let events = self.on.join(", ");
        match (self.ahead, self.after) {
            (Some(ahead), _) => format!("{ahead} before {events}"),
            (None, Some(after)) => format!("{after} after {events}"),
            (None, None) => events,
        }
    }
}

/// Which queue a case's work goes through.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    #[default]
    Normal,
    /// Has reserved capacity and never waits behind the normal lane.
    Revocation,
}

impl Lane {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Revocation => "revocation",
        }
    }
}

/// What a case does when one of its steps has failed for good.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Stop starting steps and wait for a person.
    #[default]
    Park,
    /// Take back what was done, last first.
    Undo,
    /// Park the failed step and go on with every step that does not need it.
    Forward,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Deadline {
    /// Counted from the start of the case.
    pub after: Span,
    /// Who is told when it passes.
    #[serde(default)]
    pub escalate_to: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub id: String,
    pub work: Work,
    pub needs: Vec<StepIndex>,
    pub condition: Option<Expression>,
    pub for_each: Option<Expression>,
    pub start: Start,
    pub retry: RetryPolicy,
    /// The longest one attempt may take before its outcome counts as unknown.
    pub timeout: Span,
    pub undo: Option<Undo>,
    /// Failed for good, it waits for a person even where the workflow undoes.
    pub parks: bool,
    /// What a question says, as it is written: its expressions are filled in when it is put.
    pub(crate) words: Template,
    /// Facts that its expressions read, fetched when the step becomes ready.
    pub(crate) facts: BTreeSet<String>,
}

/// What a step is.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// An action the layer above registered.
    Action { uses: String, with: Template },
    /// A question put to people.
    Approval(Approval),
    /// Work a person does by hand.
    Task(Task),
    /// Waits for a named signal.
    WaitFor(WaitFor),
}

impl Work {
    /// The name after `uses:`.
    #[must_use]
    pub fn uses(&self) -> &str {
        match self {
            Self::Action { uses, .. } => uses,
            Self::Approval(_) => "approval",
            Self::Task(_) => "task",
            Self::WaitFor(_) => "wait_for",
        }
    }
}

/// When a ready step starts.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Start {
    #[default]
    AtOnce,
    /// So long after the steps it needs are finished.
    After(Span),
    /// At the time the expression gives (RFC 3339), at once when that is past.
    At(Expression),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Undo {
    pub uses: String,
    pub with: Template,
}

/// Shape of `with:` for `uses: approval`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// Who may answer: roles, `owner`, `manager` or names.
    pub ask: Vec<String>,
    /// How many must approve.
    #[serde(default = "one")]
    pub quorum: u32,
    #[serde(default)]
    pub question: Option<String>,
    /// Whoever started the case may reject, and not approve.
    #[serde(default)]
    pub four_eyes: bool,
    pub timeout: Option<Span>,
    /// What no answer means.
    #[serde(default)]
    pub on_timeout: OnTimeout,
    /// What a no means, said by somebody or by silence.
    #[serde(default)]
    pub on_reject: OnReject,
}

fn one() -> u32 {
    1
}

#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum OnTimeout {
    Approve,
    Reject,
    /// The step parks.
    #[default]
    Park,
}

#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum OnReject {
    /// The step has failed.
    #[default]
    Fail,
    /// The step is done, with `approved: false` in its output, and what follows reads that.
    Continue,
}

/// Shape of `with:` for `uses: task`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Task {
    pub assignee: String,
    pub title: String,
    #[serde(default)]
    pub instructions: String,
    pub timeout: Option<Span>,
    #[serde(default)]
    pub proof_required: bool,
}

/// Shape of `with:` for `uses: wait_for`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WaitFor {
    pub signal: String,
    pub timeout: Option<Span>,
    #[serde(default)]
    pub on_timeout: OnSilence,
}

#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum OnSilence {
    /// The step counts as done, with `timed_out: true` in its output.
    Continue,
    #[default]
    Park,
}

/// A value with `${{ expression }}` in its strings. A string that is one expression gives that
/// expression's value; inside a longer string the value is written out.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Template {
    pub(crate) value: Value,
    /// The compiled expressions by their source text.
    pub(crate) expressions: BTreeMap<String, Expression>,
}

impl Template {
    /// As it is written, its expressions among it.
    #[must_use]
    pub fn written(&self) -> &Value {
        &self.value
    }

    #[must_use]
    pub fn is_constant(&self) -> bool {
        self.expressions.is_empty()
    }
}

impl Definition {
    /// The step called `id`.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<StepIndex> {
        let position = self.steps.iter().position(|step| step.id == id)?;
        Some(StepIndex(u16::try_from(position).ok()?))
    }

    #[must_use]
    pub fn step(&self, index: StepIndex) -> Option<&Step> {
        self.steps.get(usize::from(index.0))
    }

    /// Every action the definition uses, with the step that uses it.
    pub fn actions(&self) -> impl Iterator<Item = (&str, &str)> {
        self.steps.iter().flat_map(|step| {
            let work = match &step.work {
                Work::Action { uses, .. } => Some((step.id.as_str(), uses.as_str())),
                Work::Approval(_) | Work::Task(_) | Work::WaitFor(_) => None,
            };
            work.into_iter().chain(
                step.undo
                    .iter()
                    .map(|undo| (step.id.as_str(), undo.uses.as_str())),
            )
        })
    }
}
