//! From a case and a place to an attempt that an action can make, and making it.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use serde_json::Value;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::hold::Hold;
use super::host::Host;
use super::port::{Actions, Attempt};
use crate::core::case::{Case, Failure, FailureClass, Mode};
use crate::core::definition::Work;
use crate::core::id::{Epoch, Place};
use crate::core::input::AttemptResult;
use crate::core::proof::Proof;

/// Nobody reads it here: the next owner of the shard finds out what became of the attempt.
const LET_GO: &str = "this node let the shard go";

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
///
/// It goes on only as long as its shard is held here, and looks before each step it makes: a process that was stopped
/// for longer than its leases sends nothing more when it goes on.
pub(super) async fn make(
    host: &dyn Host,
    actions: Arc<dyn Actions>,
    attempt: Attempt,
    hold: Arc<Hold>,
    cut: CancellationToken,
) -> AttemptResult {
    let mode = attempt.mode.clone();
    let limit = attempt.timeout.std();
    let span = attempt.timeout;
    // A task of its own: a panic ends it, and with it the sender.
    let (answer, answered) = oneshot::channel();
    let ends = cut.clone();
    let task = host.spawn(Box::pin(async move {
        let mut work = pin!(tokio::time::timeout(limit, actions.run(&attempt)));
        let done = poll_fn(|context| {
            if hold.is_over() || cut.is_cancelled() {
                return Poll::Ready(None);
            }
            work.as_mut().poll(context).map(Some)
        });
        let _ = answer.send(done.await);
    }));
    let done = tokio::select! {
        biased; // the same order in every run
        done = answered => done,
        () = ends.cancelled() => {
            task.abort();
            let _ = task.await;
            Ok(None)
        }
    };
    let reason = match done {
        Ok(Some(Ok(result))) => return result,
        Ok(Some(Err(_))) => format!("no answer within {span}"),
        Ok(None) => LET_GO.to_owned(),
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
