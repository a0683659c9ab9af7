//! One operation on one system, from intent to proof.
//!
//! | mode | what happens |
//! |---|---|
//! | do, undo | the operation is applied, then its claim is read back |
//! | read back | only the claim is read: it holds, or the operation may be repeated |
//! | poll | the system is asked after something it accepted, then as above |
//!
//! What the answer means:
//!
//! | answer | read back | result |
//! |---|---|---|
//! | done, already so | proven | succeeded, verified |
//! | done, already so | cannot be observed | succeeded, unverified |
//! | done, already so | refuted, a few times in a row | failed, to be tried again; after some attempts succeeded, unverified |
//! | done, already so | the read failed | answer lost: it is read back later |
//! | not found, where absence is the goal | proven | succeeded, verified |
//! | accepted, needs a person, ambiguous, error | | handed on |

use std::time::Duration;

use connectors::connector::{
    Claim, Connector, CredentialId, Error, ErrorKind, Handle, NativeId, NewCredential, Operation,
    OperationKey, OperationName, Outcome, Receipt, RetryClass, StoredCredential, Verdict,
};
use connectors::layer::Guarded;
use engine::core::case::{Failure, FailureClass, Mode, Verification};
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use engine::runner::{Attempt, Clock};
use serde_json::{Map, Value, json};

use crate::systems::System;

/// How often a claim is read before a refusal counts: systems with replicas show a write a little later.
const READS_MAX: u32 = 4;
/// The pause before the second read; each later one is twice as long.
const READ_PAUSE_MS_FIRST: u64 = 100;
/// With this attempt a system that says "done" and shows otherwise is left as unverified, for a person to see.
pub(super) const REFUTED_ATTEMPTS_MAX: u32 = 6;

/// Everything an action has at hand for one attempt.
pub(super) struct Call<'a> {
    pub attempt: &'a Attempt,
    pub system: &'a System,
    /// The connector in the lane of the case.
    pub connector: Guarded,
    pub clock: &'a dyn Clock,
    /// The version of the policy that asked for it.
    pub policy: Option<String>,
}

impl Call<'_> {
    /// The key of the operation; `part` tells apart the operations of one attempt.
    pub fn key(&self, part: &str) -> OperationKey {
        OperationKey {
            idempotency: format!("{}{part}", self.attempt.idempotency_key),
            attempt: self.attempt.attempt,
            epoch: self.attempt.epoch.0,
        }
    }

    fn proof(&self, operation: &Operation) -> Proof {
        Proof {
            system: Some(self.system.name().to_owned()),
            operation: Some(operation.name().as_str().to_owned()),
            object: Some(object(operation)),
            policy: self.policy.clone(),
            ..Proof::default()
        }
    }
}

/// What an operation is about and what it should bring.
pub(super) struct Task {
    pub operation: Operation,
    pub claim: Claim,
    /// What the step gives, beside what is learned on the way.
    pub output: Map<String, Value>,
}

impl Task {
    /// A credential is put into use: a key or an account's generation works, a place shows a version.
    pub fn activate(
        account: NativeId,
        credential: CredentialId,
        output: Map<String, Value>,
    ) -> Self {
        Self {
            operation: Operation::ActivateCredential {
                account: account.clone(),
                credential: credential.clone(),
            },
            claim: Claim::CredentialActive {
                account,
                credential,
            },
            output,
        }
    }
}

/// Carries `task` out in the mode of the attempt.
pub(super) async fn apply_verified(call: &Call<'_>, task: Task) -> AttemptResult {
    let mut proof = call.proof(&task.operation);
    let answer = match &call.attempt.mode {
        Mode::ReadBack | Mode::UndoReadBack => return read_back(call, task, proof).await,
        Mode::Poll { handle } => {
            let handle = Handle {
                token: handle.clone(),
                poll_after_ms: 0,
            };
            call.connector.poll(&handle).await
        }
        Mode::Do | Mode::Undo => {
            proof.sent_at = Some(call.clock.now());
            call.connector.apply(&task.operation, &call.key("")).await
        }
    };
    settle(call, task, proof, answer).await
}

/// What an answer means.
pub(super) async fn settle(
    call: &Call<'_>,
    task: Task,
    mut proof: Proof,
    answer: Result<Outcome, Error>,
) -> AttemptResult {
    proof.acknowledged_at = Some(call.clock.now());
    match answer {
        Ok(Outcome::Done(receipt)) => verified(call, task, proof, receipt, true).await,
        Ok(Outcome::AlreadySo(receipt)) => verified(call, task, proof, receipt, false).await,
        Ok(Outcome::Accepted(handle)) if !call.attempt.mode.is_undo() => AttemptResult::Accepted {
            handle: handle.token,
            poll_after_ms: handle.poll_after_ms,
            proof,
        },
        Ok(Outcome::Accepted(_)) => AttemptResult::AnswerLost {
            reason: format!("system `{}` does it later", call.system.name()),
            proof,
        },
        Ok(Outcome::NeedsHuman(person)) if call.attempt.mode.is_undo() => AttemptResult::Failed {
            failure: Failure {
                kind: "needs_human".to_owned(),
                message: format!(
                    "a person has to take this back on `{}`: {}; do it and skip the step, saying so",
                    call.system.name(),
                    person.title
                ),
                class: FailureClass::Permanent,
            },
            proof,
        },
        Ok(Outcome::NeedsHuman(person)) => AttemptResult::NeedsHuman {
            title: person.title,
            instructions: person.instructions,
            assignee: person.assignee,
            due_after_ms: person.due_after_s.saturating_mul(1_000),
            proof_required: person.proof_required,
            output: Value::Object(with_changed(task.output, true)),
        },
        Ok(Outcome::Ambiguous { reason }) => {
            proof.acknowledged_at = None;
            AttemptResult::AnswerLost { reason, proof }
        }
        Err(error) if error.kind == ErrorKind::NotFound && ends_access(task.operation.name()) => {
            // What is not there is gone. But only a read may say so.
            match call.connector.verify(&task.claim).await {
                Ok(Verdict::Proven(seen)) => {
                    proof.already_so = true;
                    proof.verified_at = Some(call.clock.now());
                    proof.after = Some(seen.seen);
                    AttemptResult::Succeeded {
                        output: Value::Object(with_changed(task.output, false)),
                        verification: Verification::Verified,
                        proof,
                    }
                }
                _ => failed(call, &error, proof),
            }
        }
        Err(error) => failed(call, &error, proof),
    }
}

/// Finds out whether an earlier attempt had its effect.
async fn read_back(call: &Call<'_>, task: Task, mut proof: Proof) -> AttemptResult {
    match call.connector.verify(&task.claim).await {
        Ok(Verdict::Proven(seen)) => {
            proof.verified_at = Some(call.clock.now());
            proof.after = Some(seen.seen);
            AttemptResult::Succeeded {
                output: Value::Object(with_changed(task.output, true)),
                verification: Verification::Verified,
                proof,
            }
        }
        // What cannot be seen is done again: every operation is idempotent and carries the same key.
        Ok(Verdict::Refuted(_) | Verdict::CannotObserve { .. }) => AttemptResult::NotApplied,
        Err(error) => failed(call, &error, proof),
    }
}

/// Reads the claim after the system said it was done.
async fn verified(
    call: &Call<'_>,
    mut task: Task,
    mut proof: Proof,
    receipt: Receipt,
    changed: bool,
) -> AttemptResult {
    proof.already_so = !changed;
    proof.before = receipt.before;
    proof.after = receipt.after;
    proof.request_id = receipt.request_id;
    if let Some(account) = &receipt.account {
        task.output
            .insert("account".to_owned(), json!(account.as_str()));
    }
    if let Some(name) = &receipt.name {
        task.output.insert("name".to_owned(), json!(name));
    }
    let output = Value::Object(with_changed(task.output, changed));
    match read_until_proven(call, &task.claim).await {
        Ok(Verdict::Proven(seen)) => {
            proof.verified_at = Some(call.clock.now());
            proof.after.get_or_insert(seen.seen);
            AttemptResult::Succeeded {
                output,
                verification: Verification::Verified,
                proof,
            }
        }
        Ok(Verdict::CannotObserve { reason }) => AttemptResult::Succeeded {
            output,
            verification: Verification::Unverified { reason },
            proof,
        },
        Ok(Verdict::Refuted(seen)) => {
            let message = format!(
                "system `{}` says `{}` is done, but a read ({}) shows otherwise",
                call.system.name(),
                task.operation.name().as_str(),
                seen.by
            );
            if call.attempt.attempt >= REFUTED_ATTEMPTS_MAX {
                let verification = Verification::Unverified { reason: message };
                return AttemptResult::Succeeded {
                    output,
                    verification,
                    proof,
                };
            }
            AttemptResult::Failed {
                failure: Failure {
                    kind: "refuted".to_owned(),
                    message,
                    class: FailureClass::Retry,
                },
                proof,
            }
        }
        Err(error) => AttemptResult::AnswerLost {
            reason: format!("done, but it could not be read back: {}", error.whole()),
            proof,
        },
    }
}

/// Reads until the claim holds, or long enough.
pub(super) async fn read_until_proven(call: &Call<'_>, claim: &Claim) -> Result<Verdict, Error> {
    let mut pause_ms = READ_PAUSE_MS_FIRST;
    for _ in 1..READS_MAX {
        match call.connector.verify(claim).await? {
            Verdict::Refuted(_) => tokio::time::sleep(Duration::from_millis(pause_ms)).await,
            other => return Ok(other),
        }
        pause_ms *= 2;
    }
    call.connector.verify(claim).await
}

/// What came of one of several operations of an attempt.
pub(super) enum Part {
    /// A read shows it.
    Seen,
    /// No read can, for this reason.
    Unseen(String),
    /// A read, by this, shows otherwise.
    Refuted(String),
    /// The system does it later, or a person does.
    Later,
}

/// Carries out one of several operations of an attempt and reads its claim back; `part` tells its key from those of the others. A
/// credential that is to end and is not there is left to the read.
///
/// # Errors
/// The result of the attempt: the answer is lost, or the operation failed.
pub(super) async fn apply_part(
    call: &Call<'_>,
    operation: &Operation,
    claim: &Claim,
    part: &str,
    proof: &mut Proof,
) -> Result<Part, Box<AttemptResult>> {
    let lost = |reason: String, proof: &Proof| {
        Box::new(AttemptResult::AnswerLost {
            reason,
            proof: proof.clone(),
        })
    };
    let may_be_gone = matches!(
        operation.name(),
        OperationName::DeactivateCredential | OperationName::DestroyCredential
    );
    match call.connector.apply(operation, &call.key(part)).await {
        Ok(Outcome::Done(receipt) | Outcome::AlreadySo(receipt)) => {
            proof.request_id = receipt.request_id.or(proof.request_id.take());
        }
        Ok(Outcome::Ambiguous { reason }) => return Err(lost(reason, proof)),
        Ok(Outcome::Accepted(_) | Outcome::NeedsHuman(_)) => return Ok(Part::Later),
        Err(error) if may_be_gone && error.kind == ErrorKind::NotFound => {}
        Err(error) => return Err(Box::new(failed(call, &error, proof.clone()))),
    }
    match read_until_proven(call, claim).await {
        Ok(Verdict::Proven(_)) => Ok(Part::Seen),
        Ok(Verdict::CannotObserve { reason }) => Ok(Part::Unseen(reason)),
        Ok(Verdict::Refuted(seen)) => Ok(Part::Refuted(seen.by)),
        Err(error) => Err(lost(
            format!("done, but it could not be read back: {}", error.whole()),
            proof,
        )),
    }
}

/// Whether something was changed now; an undo of what was so before does nothing.
pub(super) fn with_changed(mut output: Map<String, Value>, changed: bool) -> Map<String, Value> {
    output.insert("changed".to_owned(), Value::Bool(changed));
    output
}

/// A connector's error as the engine understands it.
pub(super) fn failed(call: &Call<'_>, error: &Error, proof: Proof) -> AttemptResult {
    AttemptResult::Failed {
        failure: failure(call.system.name(), error),
        proof,
    }
}

pub(super) fn failure(system: &str, error: &Error) -> Failure {
    Failure {
        kind: error.kind.as_str().to_owned(),
        message: format!("system `{system}`: {}", error.whole()),
        class: match error.retry_class() {
            RetryClass::Never => FailureClass::Permanent,
            RetryClass::Backoff => FailureClass::Retry,
            RetryClass::SystemDown => FailureClass::SystemAway,
            RetryClass::NotBefore(until) => FailureClass::NotBefore(until),
        },
    }
}

/// Operations whose goal is that something is not there.
fn ends_access(operation: OperationName) -> bool {
    matches!(
        operation,
        OperationName::DisableAccount
            | OperationName::DeleteAccount
            | OperationName::Revoke
            | OperationName::EndSessions
            | OperationName::DeactivateCredential
            | OperationName::DestroyCredential
    )
}

/// What an operation acts on, as the system names it.
fn object(operation: &Operation) -> String {
    let of = |account: &NativeId| account.as_str().to_owned();
    match operation {
        Operation::CreateAccount(new) => new.name.clone(),
        Operation::UpdateAccount { account, .. }
        | Operation::EnableAccount { account }
        | Operation::DisableAccount { account }
        | Operation::DeleteAccount { account }
        | Operation::EndSessions { account }
        | Operation::SetPassword { account, .. }
        | Operation::IssueCredential(NewCredential { account, .. })
        | Operation::StoreCredential(StoredCredential { account, .. })
        | Operation::ActivateCredential { account, .. }
        | Operation::DeactivateCredential { account, .. }
        | Operation::DestroyCredential { account, .. }
        | Operation::TransferOwnership { from: account, .. } => of(account),
        Operation::Grant {
            account,
            entitlement,
        }
        | Operation::Revoke {
            account,
            entitlement,
        } => format!("{account} {entitlement}"),
        Operation::Action { name, .. } => name.clone(),
    }
}
