//! The YAML form, where each part remembers its line, and the problems found in it.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use super::super::conflict::OnConflict;
use super::super::duration::Span;
use super::super::retry::RetryPolicy;
use super::{Approval, Deadline, Lane, OnFailure, Task, WaitFor};

/// A value and the line it stands on.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    pub value: T,
    pub line: u64,
    pub column: u64,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = serde_saphyr::Spanned::<T>::deserialize(deserializer)?;
        Ok(Self {
            value: spanned.value,
            line: spanned.referenced.line(),
            column: spanned.referenced.column(),
        })
    }
}

impl<T: schemars::JsonSchema> schemars::JsonSchema for At<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        generator.subschema_for::<T>()
    }
}

/// A workflow: a graph of steps that Tenure drives to a verified end.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Tenure workflow", rename = "Workflow")]
pub(super) struct WorkflowSource {
    /// The workflow's name, unique in the configuration.
    pub name: At<String>,
    #[serde(default)]
    pub description: String,
    /// The types of business event that start it, for example `hire` or `termination.effective`.
    #[serde(default)]
    pub on: Vec<String>,
    /// Starts so long before the event that starts it takes effect, as far as it is known by then.
    #[serde(default)]
    pub ahead: Option<At<Span>>,
    /// Starts so long after the event that starts it took effect, unless that holds no more.
    #[serde(default)]
    pub after: Option<At<Span>>,
    #[serde(default)]
    pub lane: Lane,
    /// How often its work gets a turn where workflows compete for one system, beside the weights of the others:
    /// 1 to 1000, and 10 without it.
    #[serde(default)]
    pub weight: Option<At<u32>>,
    #[serde(default)]
    pub on_failure: OnFailure,
    #[serde(default)]
    pub deadline: Option<Deadline>,
    /// Workflows whose open cases for the same subject end before a case of this one starts: short for rules with
    /// `then: preempt`.
    #[serde(default)]
    pub preempts: Vec<At<String>>,
    /// What a new case does about open ones of the same subject; without a rule it waits for them.
    #[serde(default)]
    pub conflicts: Vec<ConflictSource>,
    pub steps: Vec<StepSource>,
}

/// One rule about cases of another workflow.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Conflict")]
pub(super) struct ConflictSource {
    /// The other workflow, or its own name, or `any`: every other workflow that has no rule.
    pub with: At<String>,
    pub then: OnConflict,
}

#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Step")]
pub(super) struct StepSource {
    /// Unique in the workflow; letters, digits and `_`, so that expressions can say `steps.<id>`.
    pub id: At<String>,
    /// An action, or `approval`, `task`, `wait_for`.
    pub uses: At<String>,
    /// The input of the action. Strings may hold `${{ expression }}`.
    #[serde(default)]
    pub with: Option<At<Value>>,
    /// Steps that must be finished first. Without it: the step before. `[]`: none.
    #[serde(default)]
    pub needs: Option<Vec<At<String>>>,
    /// A CEL expression; when false the step is skipped.
    #[serde(default, rename = "if")]
    pub condition: Option<At<Scalar>>,
    /// A CEL expression giving a list: one instance of the step for each `item`.
    #[serde(default)]
    pub for_each: Option<At<String>>,
    /// Start so long after the steps it needs.
    #[serde(default)]
    pub after: Option<At<Span>>,
    /// Start at the time this CEL expression gives.
    #[serde(default)]
    pub at: Option<At<String>>,
    #[serde(default)]
    pub retry: Option<RetryPolicy>,
    /// The longest one attempt may take; 60s without it.
    #[serde(default)]
    pub timeout: Option<At<Span>>,
    /// How to take the step back.
    #[serde(default)]
    pub undo: Option<UndoSource>,
    /// `park`: when it fails for good it waits for a person, though the workflow undoes. Past this step nobody goes back by
    /// themselves.
    #[serde(default)]
    pub on_failure: Option<At<OnFailure>>,
}

/// A CEL expression, or plainly `true` or `false`.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
pub(super) enum Scalar {
    Bool(bool),
    Text(String),
}

#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Undo")]
pub(super) struct UndoSource {
    pub uses: At<String>,
    #[serde(default)]
    pub with: Option<At<Value>>,
}

/// One thing wrong with a definition, with the place and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub file: String,
    pub line: u64,
    pub column: u64,
    pub what: String,
    pub fix: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}: {}",
            self.file, self.line, self.column, self.what
        )?;
        if !self.fix.is_empty() {
            write!(f, "\n  fix: {}", self.fix)?;
        }
        Ok(())
    }
}

/// Everything found wrong in one file; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, problem) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// The JSON Schema of the YAML form, for editors.
#[must_use]
pub fn schema() -> Value {
    let mut generator = schemars::SchemaGenerator::default();
    // The shapes of `with:` for the built-in kinds stand among the definitions, for whoever reads the schema.
    generator.subschema_for::<Approval>();
    generator.subschema_for::<Task>();
    generator.subschema_for::<WaitFor>();
    generator
        .into_root_schema_for::<WorkflowSource>()
        .to_value()
}

/// The lines of every top-level mapping are only known to the parser; a whole-file problem stands at 1:1.
pub(super) fn whole_file(file: &str, what: impl Into<String>, fix: impl Into<String>) -> Problem {
    Problem {
        file: file.to_owned(),
        line: 1,
        column: 1,
        what: what.into(),
        fix: fix.into(),
    }
}
