//! `ownership.transfer`: hands what the person's account on `system` owns to somebody who stays.
//!
//! Takes `{system}` and optionally `{account}`. Who gets it stands in the system's file, `ownership.heirs`: names of
//! attributes whose value is the key of a person (`manager`, `backup`) and `person:KEY`, tried in order; the first who is
//! active and has an open account there. Then come the named actions of `ownership.actions`, with
//! `{from, to, from_person, to_person}`.
//!
//! Gives `{system, account, to, to_account, changed}`. Where nobody can take it, somebody is asked: the step becomes a
//! task for `ownership.assignee`, due after `ownership.due`. Nothing else of the case waits for that, but deleting.

use connectors::connector::{
    Claim, ClaimName, Connector, NativeId, Observation, Operation, OperationName, Outcome, Verdict,
};
use engine::core::case::{Failure, Mode, Verification};
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use serde_json::{Value, json};

use super::apply::{Call, Task, apply_verified, failed, failure, with_changed};
use super::context::{Context, database, not_needed, unverified};
use crate::directory::{AccountStatus, Holdings, IdentityStatus};
use crate::systems::Ownership;

/// How a heir is named that is no attribute.
const PERSON: &str = "person:";

/// Somebody who can take it.
struct Heir {
    key: String,
    account: NativeId,
}

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let call = context.call()?;
    let ownership = call.system.ownership();
    let can = call.system.capabilities();
    let hands_over = call.system.can(OperationName::TransferOwnership);
    let acts = call.system.can(OperationName::Action) && !ownership.actions.is_empty();
    // What a person looks after, a person is asked about only where the system's file says so.
    if !(hands_over || acts) || (can.by_hand && !ownership.stated) {
        return Ok(not_needed(
            json!({"system": call.system.name(), "skipped": true}),
        ));
    }
    let Some(account) = context.account(&call).await? else {
        let mut output = context.output(&call, None);
        output.insert("absent".to_owned(), Value::Bool(true));
        return Ok(not_needed(Value::Object(output)));
    };
    let sees = can.claims.contains(&ClaimName::OwnsNothing);
    let mut output = context.output(&call, Some(&account));
    let owned = match sees {
        true => match owned(&call, &account).await? {
            Some(seen) => Some(seen),
            None if !acts => return Ok(nothing_owned(&call, output)),
            None => None,
        },
        false => None,
    };
    let holdings = context.holdings().await?;
    let heir = match heir(context, &call, ownership, &holdings).await? {
        Ok(heir) => heir,
        Err(nobody) if owned.is_some() || (can.by_hand && hands_over) => {
            return Ok(ask(&call, ownership, &holdings, owned.as_ref(), &nobody));
        }
        Err(nobody) => {
            let gap = format!(
                "nobody can take what the account on `{}` may own: {nobody}",
                call.system.name()
            );
            output.insert("gap".to_owned(), json!(gap));
            return Ok(unverified(Value::Object(output), gap));
        }
    };
    output.insert("to".to_owned(), json!(heir.key));
    output.insert("to_account".to_owned(), json!(heir.account));
    if hands_over && (owned.is_some() || !sees) {
        let task = Task {
            operation: Operation::TransferOwnership {
                from: account.clone(),
                to: heir.account.clone(),
            },
            claim: Claim::OwnsNothing {
                account: account.clone(),
            },
            output: output.clone(),
        };
        let result = apply_verified(&call, task).await;
        if !acts || !matches!(result, AttemptResult::Succeeded { .. }) {
            return Ok(result);
        }
    }
    actions(context, &call, ownership, &account, &heir, output).await
}

/// What is seen of it, if the account owns anything.
async fn owned(call: &Call<'_>, account: &NativeId) -> Result<Option<Observation>, Failure> {
    let claim = Claim::OwnsNothing {
        account: account.clone(),
    };
    match call.connector.verify(&claim).await {
        Ok(Verdict::Refuted(seen)) => Ok(Some(seen)),
        Ok(Verdict::Proven(_) | Verdict::CannotObserve { .. }) => Ok(None),
        Err(error) => Err(failure(call.system.name(), &error)),
    }
}

fn nothing_owned(call: &Call<'_>, output: serde_json::Map<String, Value>) -> AttemptResult {
    AttemptResult::Succeeded {
        output: Value::Object(with_changed(output, false)),
        verification: Verification::Verified,
        proof: Proof {
            system: Some(call.system.name().to_owned()),
            operation: Some(OperationName::TransferOwnership.as_str().to_owned()),
            already_so: true,
            verified_at: Some(call.clock.now()),
            ..Proof::default()
        },
    }
}

/// The first who can take it; else why nobody can, one reason for each who was thought of.
async fn heir(
    context: &Context<'_>,
    call: &Call<'_>,
    ownership: &Ownership,
    leaver: &Holdings,
) -> Result<Result<Heir, String>, Failure> {
    let system = call.system.name();
    let mut reasons = Vec::new();
    for wanted in &ownership.heirs {
        let key = match wanted.strip_prefix(PERSON) {
            Some(key) => Some(key.to_owned()),
            None => leaver
                .identity
                .attributes
                .get(wanted)
                .and_then(Value::as_str)
                .filter(|key| !key.is_empty())
                .map(str::to_owned),
        };
        let Some(key) = key else {
            reasons.push(format!("`{wanted}` is not known of them"));
            continue;
        };
        if key == leaver.identity.identity_key {
            reasons.push(format!("`{wanted}` is the person who leaves"));
            continue;
        }
        let found = context
            .actions
            .directory()
            .holdings(&key)
            .await
            .map_err(|error| database(&error))?;
        let Some(found) = found else {
            reasons.push(format!(
                "`{wanted}` is `{key}`, and nobody of that key is known"
            ));
            continue;
        };
        if found.identity.status != IdentityStatus::Active {
            let status = found.identity.status.as_str();
            reasons.push(format!("`{wanted}` is `{key}`, who is {status}"));
            continue;
        }
        let account = found.accounts.into_iter().find(|account| {
            account.system == system
                && account.status == AccountStatus::Active
                && !account.native_id.is_empty()
        });
        match account {
            Some(account) => {
                return Ok(Ok(Heir {
                    key,
                    account: NativeId::new(account.native_id),
                }));
            }
            None => reasons.push(format!(
                "`{wanted}` is `{key}`, who has no open account on `{system}`"
            )),
        }
    }
    Ok(Err(reasons.join("; ")))
}

/// Nobody can take it by rule: somebody has to say who does, and see to it.
fn ask(
    call: &Call<'_>,
    ownership: &Ownership,
    leaver: &Holdings,
    owned: Option<&Observation>,
    nobody: &str,
) -> AttemptResult {
    // A read-back knows that nothing was handed over.
    if call.attempt.mode == Mode::ReadBack {
        return AttemptResult::NotApplied;
    }
    let system = call.system.name();
    let who = &leaver.identity.display_name;
    let key = &leaver.identity.identity_key;
    let seen = owned.map_or_else(String::new, |seen| {
        format!("\nWhat was seen there: {}", seen.seen)
    });
    let due_ms = u64::try_from(ownership.due.ms()).unwrap_or(0);
    AttemptResult::NeedsHuman {
        title: format!("Say who takes over what {who} ({key}) owns in {system}"),
        instructions: format!(
            "{who} has left and still owns something in {system}. Nobody could be given it by rule: {nobody}.{seen}\n\
             1. Find somebody who answers for it from now on.\n\
             2. Hand it over in {system}.\n\
             It is done when the account owns nothing any more. Write into the note who took what. The person's access \
             has ended already; their account is not deleted before this is done."
        ),
        assignee: ownership.assignee.clone(),
        due_after_ms: due_ms,
        proof_required: true,
        output: json!({"system": system, "by_hand": true}),
    }
}

/// The named actions of this system, one after the other. Each is repeated if a later one fails: they have to bear that.
async fn actions(
    context: &Context<'_>,
    call: &Call<'_>,
    ownership: &Ownership,
    from: &NativeId,
    to: &Heir,
    mut output: serde_json::Map<String, Value>,
) -> Result<AttemptResult, Failure> {
    let mut proof = Proof {
        system: Some(call.system.name().to_owned()),
        operation: Some(OperationName::Action.as_str().to_owned()),
        object: Some(from.as_str().to_owned()),
        sent_at: Some(call.clock.now()),
        ..Proof::default()
    };
    let with = json!({
        "from": from,
        "to": to.account,
        "from_person": context.subject(),
        "to_person": to.key,
    });
    let mut done = Vec::new();
    for name in &ownership.actions {
        let operation = Operation::Action {
            name: name.clone(),
            with: with.clone(),
        };
        let key = call.key(&format!(" {name}"));
        match call.connector.apply(&operation, &key).await {
            Ok(Outcome::Done(receipt) | Outcome::AlreadySo(receipt)) => {
                proof.request_id = receipt.request_id.or(proof.request_id.take());
                done.push(json!({"action": name, "after": receipt.after}));
            }
            Ok(Outcome::Ambiguous { reason }) => {
                return Ok(AttemptResult::AnswerLost { reason, proof });
            }
            Ok(Outcome::Accepted(_) | Outcome::NeedsHuman(_)) => {
                done.push(json!({"action": name, "later": true}));
            }
            Err(error) => return Ok(failed(call, &error, proof)),
        }
    }
    proof.acknowledged_at = Some(call.clock.now());
    proof.after = Some(json!(done));
    output.insert("actions".to_owned(), json!(done));
    Ok(AttemptResult::Succeeded {
        output: Value::Object(with_changed(output, true)),
        verification: Verification::Unverified {
            reason: format!(
                "`{}` carried out {}; nobody can read back what an action of its own did",
                call.system.name(),
                ownership.actions.join(", ")
            ),
        },
        proof,
    })
}
