//! From a case and a place to an attempt that an action can make, and making it.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::oneshot;

use super::host::Host;
use super::port::{Actions, Attempt};
use crate::core::case::{Case, Failure, FailureClass, Mode};
use crate::core::definition::Work;
use crate::core::id::{Epoch, Place};
use crate::core::input::AttemptResult;
use crate::core::proof::Proof;

/// What the action needs to know, or why the attempt cannot even be described.
pub(super) fn build(
    case: &Case,
    place: Place,
    attempt: u32,
    mode: Mode,
    epoch: Epoch,
) -> Result<Attempt, Failure> {
    let missing = || Failure {
        kind: "bug".to_owned(),
        message: "the case has no such step or instance".to_owned(),
        class: FailureClass::Permanent,
    };
    let step = case.step(place.step).ok_or_else(missing)?;
    let instance = case.instance(place).ok_or_else(missing)?;
    let undo = mode.is_undo();
    let (uses, with) = match (&step.work, &step.undo, undo) {
        (_, Some(undo), true) => (undo.uses.clone(), case.undo_with(place)?),
        (Work::Action { uses, .. }, _, false) => (uses.clone(), instance.with.clone()),
        _ => return Err(missing()),
    };
    Ok(Attempt {
        case: case.id,
        shard: case.shard,
        subject: case.subject.clone(),
        workflow: case.definition.name.clone(),
        lane: case.definition.lane,
        generation: case.generation,
        input: Arc::clone(&case.input),
        effective_at: case.effective_at,
        received_at: case.received_at,
        step: step.id.clone(),
        place,
        uses,
        with,
        item: instance.item.clone(),
        output: if undo {
            instance.output.clone()
        } else {
            Value::Null
        },
        mode,
        attempt,
        epoch,
        idempotency_key: case.idempotency_key(place, undo),
        timeout: step.timeout,
    })
}

/// Makes the attempt within its time. No answer in time, or a panic, is a lost answer when something may have
/// been changed.
pub(super) async fn make(
    host: &dyn Host,
    actions: Arc<dyn Actions>,
    attempt: Attempt,
) -> AttemptResult {
    let mode = attempt.mode.clone();
    let limit = attempt.timeout.std();
    let span = attempt.timeout;
    // A task of its own: a panic ends it, and with it the sender.
    let (answer, answered) = oneshot::channel();
    host.spawn(Box::pin(async move {
        let _ = answer.send(tokio::time::timeout(limit, actions.run(&attempt)).await);
    }));
    let reason = match answered.await {
        Ok(Ok(result)) => return result,
        Ok(Err(_)) => format!("no answer within {span}"),
        Err(_) => "the action broke off; see the log".to_owned(),
    };
    match mode {
        Mode::Do | Mode::Undo => AttemptResult::AnswerLost {
            reason,
            proof: Proof::default(),
        },
        Mode::ReadBack | Mode::UndoReadBack | Mode::Poll { .. } => AttemptResult::Failed {
            failure: Failure {
                kind: "timeout".to_owned(),
                message: reason,
                class: FailureClass::Retry,
            },
            proof: Proof::default(),
        },
    }
}
