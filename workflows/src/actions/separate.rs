//! `identity.separate`: that somebody decided that a key is nobody who was known.
//!
//! Does nothing: the decision was written with the question. The leaf of this step is its evidence, with a digest of who
//! decided and of why.

use engine::core::case::{Failure, Verification};
use engine::core::id::Actor;
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::context::{Context, permanent};
use crate::intake::SeparationInput;

pub(super) fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let input = SeparationInput::deserialize(&*context.attempt.input).map_err(|error| {
        permanent(
            "parameter",
            format!("this workflow is started by decisions about who somebody is alone: {error}"),
        )
    })?;
    let proof = Proof {
        operation: Some("separate".to_owned()),
        object: Some(input.record_key.clone()),
        after: Some(json!({ "review": input.review, "is_none_of": input.candidates })),
        by: Some(Actor(input.decided_by)),
        reason: Some(input.reason),
        ..Proof::default()
    };
    Ok(AttemptResult::Succeeded {
        output: Value::Null,
        verification: Verification::NotNeeded,
        proof,
    })
}
