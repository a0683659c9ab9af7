//! `account.create`: an account for the person on `system`, found again by its owner and never made twice.
//!
//! The name comes from the system's account template; when it is taken, the template's next one is tried. An
//! account of this owner that exists already is brought up to date and opened instead.
//!
//! Gives `{system, account, name, enabled, attributes_digest, changed}`.

use std::collections::BTreeMap;

use connectors::connector::{
    Account, Claim, Connector, ErrorKind, NativeId, NewAccount, Object, ObjectRef, Operation,
    OperationName, Outcome, Verdict,
};
use engine::core::case::{Failure, Mode, Verification};
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use secrecy::SecretString;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::apply::{
    Call, Task, apply_verified, failed, failure, read_until_proven, settle, with_changed,
};
use super::context::{Context, identity_facts, permanent};
use super::recent::Happened;
use crate::policy::IdentityFacts;
use crate::systems::{InitialPassword, attributes_digest};

/// What the account should be like.
struct Wanted {
    names: Vec<String>,
    attributes: BTreeMap<String, Value>,
    enabled: bool,
    password: InitialPassword,
    owner: String,
    output: Map<String, Value>,
}

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let call = context.call()?;
    let policy = context.policy();
    let holdings = context.holdings().await?;
    let facts: IdentityFacts = identity_facts(&holdings);
    let bad = |error: Box<crate::policy::TemplateError>| {
        context.undecided(&holdings.identity, &error.message, &error.to_string())
    };
    let attributes = call.system.attributes(&policy, &facts).map_err(bad)?;
    let enabled = call.system.creates_enabled(&policy);
    let mut output = context.output(&call, None);
    output.insert("enabled".to_owned(), json!(enabled));
    output.insert(
        "attributes_digest".to_owned(),
        json!(attributes_digest(&attributes)),
    );
    let wanted = Wanted {
        names: call.system.candidates(&policy, &facts).map_err(bad)?,
        attributes,
        enabled,
        password: call.system.initial_password(),
        owner: facts.key,
        output,
    };
    let result = match call.attempt.mode {
        Mode::ReadBack => read_back(&call, wanted).await,
        Mode::Do | Mode::Poll { .. } | Mode::Undo | Mode::UndoReadBack => {
            create(&call, wanted).await
        }
    };
    if let AttemptResult::Succeeded { output, .. } = &result
        && let Some(account) = output.get("account").and_then(Value::as_str)
        && enabled
    {
        context.actions.recent().note(
            call.attempt.case,
            call.system.name(),
            Happened::AccountOpen,
            account,
        );
    }
    Ok(result)
}

async fn create(call: &Call<'_>, mut wanted: Wanted) -> AttemptResult {
    let names = std::mem::take(&mut wanted.names);
    for name in &names {
        let operation = Operation::CreateAccount(NewAccount {
            name: name.clone(),
            owner: wanted.owner.clone(),
            attributes: wanted.attributes.clone(),
            enabled: wanted.enabled,
            password: password(wanted.password),
        });
        let mut proof = Proof {
            system: Some(call.system.name().to_owned()),
            operation: Some(operation.name().as_str().to_owned()),
            object: Some(name.clone()),
            policy: call.policy.clone(),
            sent_at: Some(call.clock.now()),
            ..Proof::default()
        };
        let answer = match &call.attempt.mode {
            Mode::Poll { handle } => {
                let handle = connectors::connector::Handle {
                    token: handle.clone(),
                    poll_after_ms: 0,
                };
                call.connector.poll(&handle).await
            }
            _ => {
                // Each name is an operation of its own: a system that keeps keys must not answer the second
                // with what it said to the first.
                call.connector
                    .apply(&operation, &call.key(&format!("/{name}")))
                    .await
            }
        };
        wanted.output.insert("name".to_owned(), json!(name));
        match answer {
            Err(error) if error.kind == ErrorKind::Conflict => {}
            Ok(Outcome::AlreadySo(receipt)) => {
                proof.acknowledged_at = Some(call.clock.now());
                proof.already_so = true;
                proof.before = receipt.before;
                proof.request_id = receipt.request_id;
                return adopt(call, wanted, proof).await;
            }
            Ok(Outcome::Done(ref receipt)) if receipt.account.is_none() => {
                proof.acknowledged_at = Some(call.clock.now());
                return adopt(call, wanted, proof).await;
            }
            answer => {
                let account = match &answer {
                    Ok(Outcome::Done(receipt)) => receipt.account.clone(),
                    _ => None,
                };
                // A person names the account by its name; there is no other identifier.
                if matches!(answer, Ok(Outcome::NeedsHuman(_))) {
                    wanted.output.insert("account".to_owned(), json!(name));
                }
                let claim = claim(&wanted, account);
                let task = Task {
                    operation,
                    claim,
                    output: wanted.output,
                };
                return settle(call, task, proof, answer).await;
            }
        }
    }
    AttemptResult::Failed {
        failure: permanent(
            "no_free_name",
            format!(
                "all {} names that the template gives on `{}` are taken; give the template more, with `suffix(n)`",
                names.len(),
                call.system.name()
            ),
        ),
        proof: Proof::default(),
    }
}

fn claim(wanted: &Wanted, account: Option<NativeId>) -> Claim {
    match account {
        Some(account) if wanted.enabled => Claim::AccountEnabled { account },
        _ => Claim::AccountExists {
            owner: wanted.owner.clone(),
        },
    }
}

/// The account of this owner exists: brings it to the wanted state.
async fn adopt(call: &Call<'_>, mut wanted: Wanted, mut proof: Proof) -> AttemptResult {
    let account = match find(call, &wanted.owner).await {
        Ok(Some(account)) => account,
        Ok(None) => {
            return AttemptResult::AnswerLost {
                reason: "the system says the account is there, but it cannot be found by its owner"
                    .to_owned(),
                proof,
            };
        }
        Err(error) => return failed(call, &error, proof),
    };
    wanted
        .output
        .insert("account".to_owned(), json!(account.id));
    wanted.output.insert("name".to_owned(), json!(account.name));
    let mut operations = Vec::new();
    if !wanted.attributes.is_empty() && call.system.can(OperationName::UpdateAccount) {
        operations.push(Operation::UpdateAccount {
            account: account.id.clone(),
            attributes: wanted.attributes.clone(),
        });
    }
    if wanted.enabled && account.enabled != Some(true) {
        operations.push(Operation::EnableAccount {
            account: account.id.clone(),
        });
    }
    let changed = operations
        .iter()
        .any(|operation| operation.name() == OperationName::EnableAccount);
    for operation in operations {
        let key = call.key(&format!("/{}", operation.name().as_str()));
        match call.connector.apply(&operation, &key).await {
            Ok(Outcome::Done(_) | Outcome::AlreadySo(_)) => {}
            Ok(Outcome::Accepted(_) | Outcome::NeedsHuman(_)) => {
                return AttemptResult::AnswerLost {
                    reason: format!("the system does `{}` later", operation.name().as_str()),
                    proof,
                };
            }
            Ok(Outcome::Ambiguous { reason }) => {
                return AttemptResult::AnswerLost { reason, proof };
            }
            Err(error) => return failed(call, &error, proof),
        }
    }
    let claim = claim(&wanted, Some(account.id.clone()));
    match read_until_proven(call, &claim).await {
        Ok(Verdict::Proven(seen)) => {
            proof.verified_at = Some(call.clock.now());
            proof.object = Some(account.name);
            proof.after = Some(seen.seen);
            AttemptResult::Succeeded {
                output: Value::Object(with_changed(wanted.output, changed)),
                verification: Verification::Verified,
                proof,
            }
        }
        Ok(Verdict::CannotObserve { reason }) => AttemptResult::Succeeded {
            output: Value::Object(with_changed(wanted.output, changed)),
            verification: Verification::Unverified { reason },
            proof,
        },
        Ok(Verdict::Refuted(_)) => AttemptResult::Failed {
            failure: Failure {
                kind: "refuted".to_owned(),
                message: format!(
                    "the account is on system `{}`, but a read shows it cannot be used",
                    call.system.name()
                ),
                class: engine::core::case::FailureClass::Retry,
            },
            proof,
        },
        Err(error) => AttemptResult::AnswerLost {
            reason: format!("done, but it could not be read back: {}", error.whole()),
            proof,
        },
    }
}

/// Finds out whether an earlier attempt made the account. One that is there and not as wanted is not done:
/// the next attempt adopts it.
async fn read_back(call: &Call<'_>, mut wanted: Wanted) -> AttemptResult {
    if !call.system.capabilities().finds_by_owner {
        let name = wanted.names.first().cloned().unwrap_or_default();
        let claim = Claim::AccountExists {
            owner: wanted.owner.clone(),
        };
        let operation = Operation::CreateAccount(NewAccount {
            name,
            owner: wanted.owner,
            attributes: BTreeMap::new(),
            enabled: wanted.enabled,
            password: None,
        });
        let task = Task {
            operation,
            claim,
            output: wanted.output,
        };
        return apply_verified(call, task).await;
    }
    match find(call, &wanted.owner).await {
        Ok(Some(account)) if !wanted.enabled || account.enabled == Some(true) => {
            wanted
                .output
                .insert("account".to_owned(), json!(account.id));
            wanted.output.insert("name".to_owned(), json!(account.name));
            AttemptResult::Succeeded {
                output: Value::Object(with_changed(wanted.output, true)),
                verification: Verification::Verified,
                proof: Proof {
                    system: Some(call.system.name().to_owned()),
                    operation: Some(OperationName::CreateAccount.as_str().to_owned()),
                    object: Some(account.name),
                    policy: call.policy.clone(),
                    verified_at: Some(call.clock.now()),
                    ..Proof::default()
                },
            }
        }
        Ok(_) => AttemptResult::NotApplied,
        Err(error) => AttemptResult::Failed {
            failure: failure(call.system.name(), &error),
            proof: Proof::default(),
        },
    }
}

async fn find(
    call: &Call<'_>,
    owner: &str,
) -> Result<Option<Account>, connectors::connector::Error> {
    let owner = ObjectRef::AccountOwnedBy(owner.to_owned());
    Ok(call
        .connector
        .get(&owner)
        .await?
        .and_then(Object::into_account))
}

/// 244 random bits and every class of character that a password rule may ask for.
fn password(wanted: InitialPassword) -> Option<SecretString> {
    match wanted {
        InitialPassword::None => None,
        InitialPassword::Random => {
            let (first, second) = (Uuid::new_v4().simple(), Uuid::new_v4().simple());
            Some(SecretString::from(format!("{first}-{second}-Aa1!")))
        }
    }
}
