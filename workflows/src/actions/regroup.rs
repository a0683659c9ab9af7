//! `identity.regroup`: goes on with a merge of identities, or with taking one back.
//!
//! Everything it does is one transaction on the directory that finds itself done when it is made again, so an attempt
//! whose end is unknown is simply made again.
//!
//! Gives `{moved, second, cases}`: accounts that changed hands, those that stay under the other key, and what was started.

use engine::core::case::{Failure, FailureClass};
use engine::core::id::Actor;
use engine::core::input::AttemptResult;
use engine::store::StoreError;
use serde_json::Value;

use super::context::{Context, database, not_needed, permanent};
use crate::intake::{IntakeError, RegroupInput};

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let intake = context.actions.intake().ok_or_else(|| {
        permanent(
            "configuration",
            "this process takes in no facts, so it cannot merge identities",
        )
    })?;
    let input: RegroupInput = serde_json::from_value(Value::clone(&context.attempt.input))
        .map_err(|error| {
            permanent(
                "parameter",
                format!("this workflow is started by merges of identities alone: {error}"),
            )
        })?;
    let by = Actor(format!("case:{}", context.attempt.case));
    let done = intake
        .go_on_regrouping(
            context.subject(),
            &input,
            &by,
            context.actions.clock().now(),
        )
        .await;
    let report = done.map_err(|error| match error {
        IntakeError::Store(StoreError::Projection(reason)) => Failure {
            kind: "directory".to_owned(),
            message: reason,
            class: FailureClass::Retry,
        },
        IntakeError::Store(error) => database(&error),
        error => permanent("merge", error.to_string()),
    })?;
    let output = serde_json::to_value(&report)
        .map_err(|error| permanent("merge", format!("what was done cannot be told: {error}")))?;
    Ok(not_needed(output))
}
