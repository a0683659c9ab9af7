//! `contract.extend`: moves the end of a contract, as it was asked and approved.
//!
//! Takes `{approved_by}`; whose contract, until when and why stand in what the case was started with. The policy decides once
//! more whether it may be. It is two events, whose names follow from what they say, so making it again changes nothing.
//!
//! Its leaf in the evidence names who asked and who agreed, each by a digest.
//!
//! Gives `{identity_key, contract, from, to, zone, unchanged}`.

use engine::core::case::{Failure, Verification};
use engine::core::id::Actor;
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use serde::Deserialize;
use serde_json::{Value, json};

use super::context::{Context, database, permanent};
use crate::intake::{ExtendError, ExtensionInput, IntakeError};

#[derive(Deserialize)]
struct With {
    approved_by: Vec<String>,
}

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let attempt = context.attempt;
    let intake = context.actions.intake().ok_or_else(|| {
        permanent(
            "configuration",
            "this process takes in no facts, so it cannot move the end of a contract",
        )
    })?;
    let input = ExtensionInput::deserialize(&*attempt.input).map_err(|error| {
        permanent(
            "parameter",
            format!("this workflow is started by whoever asks for an extension alone: {error}"),
        )
    })?;
    let With { approved_by } = With::deserialize(&attempt.with).map_err(|error| {
        permanent(
            "parameter",
            format!("`contract.extend` takes `approved_by`, a list of who did: {error}"),
        )
    })?;
    // Whatever the workflow was made of: nobody moves an end alone.
    if !approved_by.iter().any(|by| *by != input.asked_by) {
        return Err(permanent(
            "not_approved",
            format!(
                "nobody but `{}`, who asked for it, has approved it",
                input.asked_by
            ),
        ));
    }
    let now = context.actions.clock().now();
    let extended = intake.extend_contract(&input, &approved_by, now).await;
    let extended = extended.map_err(|error| match error {
        ExtendError::Intake(IntakeError::Store(error)) => database(&error),
        refused => permanent("refused", refused.to_string()),
    })?;
    let output: Value = serde_json::to_value(&extended)
        .map_err(|error| permanent("contract", format!("what was done cannot be told: {error}")))?;
    let proof = Proof {
        operation: Some("extend_contract".to_owned()),
        object: Some(input.identity),
        before: Some(json!({ "ends": extended.from })),
        after: Some(json!({ "ends": extended.to })),
        policy: Some(context.policy().hash().to_owned()),
        already_so: extended.unchanged,
        by: Some(Actor(input.asked_by)),
        approver: Some(Actor(approved_by.join(", "))),
        reason: Some(input.reason),
        ..Proof::default()
    };
    Ok(AttemptResult::Succeeded {
        output,
        verification: Verification::NotNeeded,
        proof,
    })
}
