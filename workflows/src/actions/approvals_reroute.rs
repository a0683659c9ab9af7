//! `approvals.reroute`: questions and tasks that wait for the person go to somebody who can answer them.
//!
//! Takes optionally `{to}`, a list of words tried in order: names of attributes of the person whose value is somebody's
//! key, `person:KEY`, or a role (`role:identity`). Without it: the person's `delegate`, `manager`, `backup`, then
//! `role:identity`. Somebody who is not active is passed over, and a question never goes to the one it is about.
//!
//! Gives `{rerouted: [{case, step, instance, about, from, to}]}`. Each is a command to the case that asks, so it stands in
//! the history and the evidence of that case as well. What is asked of the person *in their own cases* ends with those:
//! the workflow that makes them leave ends them.

use std::collections::BTreeMap;
use std::time::Duration;

use engine::core::case::{Failure, FailureClass, Mode, Verification};
use engine::core::definition::Lane;
use engine::core::id::Actor;
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use engine::runner::{Command, Message};
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::context::{Context, database, not_needed};
use crate::directory::{Asked, Directory, IdentityRow, IdentityStatus, PERSON};

/// Where questions go when the step does not say.
const TO: [&str; 4] = ["delegate", "manager", "backup", "role:identity"];
/// How long an attempt waits for the cases that ask to take it over.
const WAIT_MS_MAX: u64 = 5_000;
const LOOK_EVERY_MS: u64 = 50;
/// Makes identifiers of the commands: the same one is sent once.
const NAMESPACE: Uuid = Uuid::from_u128(0x5b1c_9be2_41d7_4a0e_9d86_77c2_30f4_e8a5);

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let directory = context.actions.directory();
    let key = context.subject();
    let open = asked(directory, key).await?;
    if open.is_empty() {
        return Ok(not_needed(json!({"rerouted": []})));
    }
    if context.attempt.mode == Mode::ReadBack {
        return Ok(AttemptResult::NotApplied);
    }
    let clock = context.actions.clock();
    let person = context.holdings().await?.identity;
    let mut words = context.texts("to");
    if words.is_empty() {
        words = TO.map(str::to_owned).to_vec();
    }
    let candidates = candidates(directory, &person, &words).await?;
    let mut proof = Proof {
        operation: Some("reroute".to_owned()),
        before: Some(json!(open.iter().map(told).collect::<Vec<_>>())),
        sent_at: Some(clock.now()),
        ..Proof::default()
    };
    let mut rerouted = Vec::new();
    let mut messages = Vec::new();
    for question in &open {
        let about = format!("{PERSON}{}", question.subject);
        let Some(to) = candidates.iter().find(|to| **to != about) else {
            return Err(nobody(question, &words));
        };
        let mut entry = told(question);
        if let Value::Object(fields) = &mut entry {
            fields.insert("to".to_owned(), json!(to));
        }
        rerouted.push(entry);
        let message = Message::Command {
            case: question.case,
            definition: None,
            command: Command::Reassign {
                place: question.place,
                from: question.word.clone(),
                to: to.clone(),
                by: Actor::engine(),
                reason: format!("`{key}` is leaving (case {})", context.attempt.case),
            },
        };
        let name = format!(
            "{}\n{}\n{}\n{}\n{}\n{}",
            context.attempt.case,
            context.attempt.attempt,
            question.case,
            question.place.step.0,
            question.place.instance.0,
            question.word
        );
        let id = Uuid::new_v5(&NAMESPACE, name.as_bytes());
        let row = message.into_row(question.shard, id, Lane::Revocation, clock.now());
        messages.push(
            row.map_err(|error| super::context::permanent("stored_form", error.to_string()))?,
        );
    }
    let store = directory.store();
    store
        .put_inbox(&messages)
        .await
        .map_err(|error| database(&error))?;
    proof.acknowledged_at = Some(clock.now());
    let left = gone(directory, key).await?;
    if left > 0 {
        return Ok(AttemptResult::Failed {
            failure: Failure {
                kind: "waiting".to_owned(),
                message: format!(
                    "{left} questions still wait for `{key}`; their cases have not taken it over yet"
                ),
                class: FailureClass::Retry,
            },
            proof,
        });
    }
    proof.after = Some(json!(rerouted));
    proof.verified_at = Some(clock.now());
    Ok(AttemptResult::Succeeded {
        output: json!({ "rerouted": rerouted }),
        verification: Verification::Verified,
        proof,
    })
}

async fn asked(directory: &Directory, key: &str) -> Result<Vec<Asked>, Failure> {
    directory
        .asked_of(key)
        .await
        .map_err(|error| database(&error))
}

/// Looks until nothing waits for the person any more, or long enough; gives how many still do.
async fn gone(directory: &Directory, key: &str) -> Result<usize, Failure> {
    let until = Instant::now() + Duration::from_millis(WAIT_MS_MAX);
    loop {
        let left = asked(directory, key).await?.len();
        if left == 0 || Instant::now() >= until {
            return Ok(left);
        }
        tokio::time::sleep(Duration::from_millis(LOOK_EVERY_MS)).await;
    }
}

/// Who can answer, in order, each as a word for a question.
async fn candidates(
    directory: &Directory,
    person: &IdentityRow,
    words: &[String],
) -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    let mut known: BTreeMap<String, bool> = BTreeMap::new();
    for word in words {
        let key = match word.strip_prefix(PERSON) {
            Some(key) => key,
            None if word.contains(':') => {
                found.push(word.clone());
                continue;
            }
            None => match person.attributes.get(word).and_then(Value::as_str) {
                Some(key) if !key.is_empty() => key,
                _ => continue,
            },
        };
        if key == person.identity_key {
            continue;
        }
        let active = match known.get(key) {
            Some(active) => *active,
            None => {
                let holdings = directory
                    .holdings(key)
                    .await
                    .map_err(|error| database(&error))?;
                let active =
                    holdings.is_some_and(|it| it.identity.status == IdentityStatus::Active);
                known.insert(key.to_owned(), active);
                active
            }
        };
        if active {
            found.push(format!("{PERSON}{key}"));
        }
    }
    Ok(found)
}

fn told(question: &Asked) -> Value {
    json!({
        "case": question.case.to_string(),
        "step": question.place.step,
        "instance": question.place.instance,
        "about": question.subject,
        "from": question.word,
    })
}

fn nobody(question: &Asked, words: &[String]) -> Failure {
    super::context::permanent(
        "nobody",
        format!(
            "case `{}` asks `{}`, and of {} nobody can answer instead; name a role in `with: {{ to: [...] }}`, or put the \
             question to somebody with `tenure case reassign`, then retry",
            question.case,
            question.word,
            words.join(", ")
        ),
    )
}
