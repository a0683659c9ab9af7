//! `dependencies.settle`: sees to one piece of the work that `dependencies.check` gave.
//!
//! Takes the piece, `{do, to, deadline, things}`, and optionally `{hostile: true}`. It looks again first: what has been seen
//! to is left alone, and what calls for something else now is told to whoever is asked. Gives `{do, done: [..], changed}`.
//!
//! What a person answers for goes to who is named, and is read back. A secret they know is replaced by a rotation where that is
//! declared. Everything else needs hands: it becomes a task for
//! whoever answers for the thing, due at its deadline.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use engine::core::case::{Failure, FailureClass, Mode, Verification};
use engine::core::id::Actor;
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::tasks::{self, Ask};
use super::{assignee, looked, too_many};
use crate::actions::context::{Context, database, not_needed, permanent};
use crate::directory::{HandOver, IdentityStatus};
use crate::nhi::check::{self, Answer, Deed, Rules, Work};
use crate::nhi::graph::{Node, NodeKind};

/// The attribute of the person from whom a new backup is taken.
const BACKUP_FROM: &str = "manager";

pub(in crate::actions) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    if context.attempt.mode.is_undo() {
        return Ok(not_needed(Value::Null));
    }
    let mut parameters = Map::new();
    for name in ["do", "to", "deadline", "things"] {
        let value = context.value(name).cloned().unwrap_or(Value::Null);
        parameters.insert(name.to_owned(), value);
    }
    let work = Work::deserialize(Value::Object(parameters)).map_err(|error| {
        permanent(
            "parameter",
            format!("this is no piece of work as `dependencies.check` gives it: {error}"),
        )
    })?;
    let own = BTreeMap::new();
    let snapshot = match looked(context, &own).await? {
        Ok(snapshot) => snapshot,
        Err(known) => return Ok(too_many(known)),
    };
    let answer = check::check(&snapshot);
    let now = Now::of(&work, &answer);
    let mut output = Map::new();
    output.insert("do".to_owned(), json!(work.deed));
    output.insert("changed".to_owned(), json!(!now.still.is_empty()));
    if now.still.is_empty() && now.other.is_empty() {
        // Somebody saw to all of it meanwhile.
        return Ok(AttemptResult::Succeeded {
            output: Value::Object(output),
            verification: Verification::Verified,
            proof: Proof {
                operation: Some(work.deed.as_str().to_owned()),
                before: Some(json!({ "snapshot": answer.digest })),
                already_so: true,
                verified_at: Some(context.actions.clock().now()),
                ..Proof::default()
            },
        });
    }
    match (&work.to, work.deed) {
        (Some(to), Deed::HandOver) if to.kind == NodeKind::Person && now.other.is_empty() => {
            hand_over(context, &now, to, &answer, output).await
        }
        _ => {
            if work.deed == Deed::Rotate
                && now.other.is_empty()
                && let Some(result) = super::rotate::run(context, &work, output.clone()).await?
            {
                return Ok(result);
            }
            let first = work.things.first().map(|thing| &thing.node);
            let to = work.to.clone().or_else(|| snapshot.answers_for(first?));
            Ok(ask(context, &work, &now, to.as_ref(), output))
        }
    }
}

/// The things of a piece of work as they are found now.
struct Now<'a> {
    still: Vec<&'a Node>,
    /// What calls for something else by now, with that.
    other: Vec<(&'a Node, Deed)>,
}

impl<'a> Now<'a> {
    fn of(work: &'a Work, answer: &Answer) -> Self {
        let mut now = Self {
            still: Vec::new(),
            other: Vec::new(),
        };
        for thing in &work.things {
            let found = answer
                .findings
                .iter()
                .find(|finding| finding.node == thing.node);
            let Some(finding) = found else {
                continue;
            };
            match Deed::of(finding) {
                None => {}
                Some(deed) if deed == work.deed && finding.to == work.to => {
                    now.still.push(&thing.node);
                }
                Some(deed) => now.other.push((&thing.node, deed)),
            }
        }
        now
    }
}

async fn hand_over(
    context: &Context<'_>,
    now: &Now<'_>,
    to: &Node,
    answer: &Answer,
    mut output: Map<String, Value>,
) -> Result<AttemptResult, Failure> {
    if context.attempt.mode == Mode::ReadBack {
        return Ok(AttemptResult::NotApplied);
    }
    let directory = context.actions.directory();
    let at = context.actions.clock().now();
    let leaver = context.subject();
    let backup = stands_in(context, to).await?;
    let keys: BTreeSet<&str> = now.still.iter().map(|node| node.name.as_str()).collect();
    let by = Actor::engine();
    let reason = format!("{leaver} leaves: case {}", context.attempt.case);
    let hands = HandOver {
        from: leaver,
        to: &to.name,
        backup: backup.as_deref(),
        by: &by,
        reason: &reason,
        at,
    };
    let changed = (directory.hand_over_nhis(keys.iter().copied(), hands).await)
        .map_err(|error| database(&error))?;
    let after =
        (directory.nhis_of(keys.iter().copied()).await).map_err(|error| database(&error))?;
    let left: Vec<&str> = after
        .values()
        .filter(|row| row.owner == leaver || row.backup == leaver)
        .map(|row| row.nhi_key.as_str())
        .collect();
    let alone: Vec<&str> = after
        .values()
        .filter(|row| row.backup.is_empty())
        .map(|row| row.nhi_key.as_str())
        .collect();
    let proof = Proof {
        operation: Some(Deed::HandOver.as_str().to_owned()),
        object: Some(to.to_string()),
        before: Some(json!({ "snapshot": answer.digest, "from": leaver })),
        after: Some(json!({ "to": to.name, "changed": changed, "without_backup": alone })),
        sent_at: Some(at),
        acknowledged_at: Some(at),
        verified_at: left.is_empty().then(|| context.actions.clock().now()),
        reason: Some(reason.clone()),
        ..Proof::default()
    };
    if !left.is_empty() {
        return Ok(AttemptResult::Failed {
            failure: Failure {
                kind: "refuted".to_owned(),
                message: format!("{} still name `{leaver}`: {}", left.len(), left.join(", ")),
                class: FailureClass::Retry,
            },
            proof,
        });
    }
    output.insert("to".to_owned(), json!(to));
    output.insert("done".to_owned(), json!(keys));
    output.insert("without_backup".to_owned(), json!(alone));
    Ok(AttemptResult::Succeeded {
        output: Value::Object(output),
        verification: Verification::Verified,
        proof,
    })
}

/// Who can stand in for the new owner: the manager of whoever leaves, if that is somebody else who is there.
async fn stands_in(context: &Context<'_>, to: &Node) -> Result<Option<String>, Failure> {
    let leaver = context.holdings().await?.identity;
    let key = leaver
        .attributes
        .get(BACKUP_FROM)
        .and_then(Value::as_str)
        .filter(|key| !key.is_empty() && *key != to.name && *key != leaver.identity_key);
    let Some(key) = key else {
        return Ok(None);
    };
    let found =
        (context.actions.directory().holdings(key).await).map_err(|error| database(&error))?;
    let is_there = found.is_some_and(|it| it.identity.status == IdentityStatus::Active);
    Ok(is_there.then(|| key.to_owned()))
}

fn ask(
    context: &Context<'_>,
    work: &Work,
    now: &Now<'_>,
    to: Option<&Node>,
    output: Map<String, Value>,
) -> AttemptResult {
    // A read-back knows that nobody has been asked.
    if context.attempt.mode == Mode::ReadBack {
        return AttemptResult::NotApplied;
    }
    let things: Vec<_> = work
        .things
        .iter()
        .filter(|thing| {
            now.still.contains(&&thing.node)
                || now.other.iter().any(|(node, _)| **node == thing.node)
        })
        .collect();
    let other: BTreeMap<&Node, Deed> = now.other.iter().copied().collect();
    let text = tasks::text(&Ask {
        leaver: context.subject(),
        deed: work.deed,
        things: &things,
        other: &other,
        hostile: context.truth("hostile"),
    });
    AttemptResult::NeedsHuman {
        title: text.title,
        instructions: text.instructions,
        assignee: assignee(to),
        due_after_ms: due_after_ms(context.actions.clock().now(), work.deadline),
        proof_required: true,
        output: Value::Object(output),
    }
}

/// Milliseconds until a deadline; without one, as long as a decision may take.
pub(super) fn due_after_ms(now: DateTime<Utc>, deadline: Option<DateTime<Utc>>) -> u64 {
    let within = i64::try_from(Rules::default().decide_within_s).unwrap_or(i64::MAX);
    let wait = match deadline {
        Some(deadline) => deadline - now,
        None => TimeDelta::try_seconds(within).unwrap_or_default(),
    };
    u64::try_from(wait.num_milliseconds()).unwrap_or(0)
}
