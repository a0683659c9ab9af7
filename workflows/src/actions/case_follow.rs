//! `case.follow`: starts a case of another workflow for the same person, after this one.
//!
//! Takes `{workflow, input}`. The new case waits until this one is closed, as any second case of a person does, and belongs
//! to the same life. It is named after this one, so starting it twice makes one. Gives `{case}`.

use engine::core::Timestamp;
use engine::core::case::Failure;
use engine::core::definition::Lane;
use engine::core::id::{Actor, CaseId, Subject};
use engine::core::input::AttemptResult;
use engine::runner::{Message, StartCase};
use serde_json::{Value, json};
use uuid::Uuid;

use super::context::{Context, database, not_needed, permanent};

/// Makes identifiers of the cases that follow others.
const NAMESPACE: Uuid = Uuid::from_u128(0x3d0b_6a71_52c8_4e57_a6ac_0b7d_90e4_1f26);

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let workflow = context.required("workflow")?.to_owned();
    let input = context.value("input").cloned().unwrap_or(Value::Null);
    let case = follow(context, &workflow, input, context.attempt.effective_at).await?;
    Ok(not_needed(json!({ "case": case.to_string() })))
}

/// Starts `workflow` for the person of this case.
pub(super) async fn follow(
    context: &Context<'_>,
    workflow: &str,
    mut input: Value,
    effective_at: Option<Timestamp>,
) -> Result<CaseId, Failure> {
    let attempt = context.attempt;
    let case = CaseId::caused(
        &NAMESPACE,
        attempt.received_at,
        &format!("{}\n{workflow}", attempt.case),
    );
    if let Value::Object(fields) = &mut input {
        fields.insert("follows".to_owned(), json!(attempt.case.to_string()));
    }
    let start = StartCase {
        case,
        workflow: workflow.to_owned(),
        subject: Subject(context.subject().to_owned()),
        generation: attempt.generation,
        input,
        initiator: Actor::engine(),
        effective_at,
    };
    let now = context.actions.clock().now();
    let row = Message::Start(start)
        .into_row(attempt.shard, case.0, Lane::Normal, now)
        .map_err(|error| permanent("stored_form", error.to_string()))?;
    let store = context.actions.directory().store();
    store
        .put_inbox(&[row])
        .await
        .map_err(|error| database(&error))?;
    Ok(case)
}
