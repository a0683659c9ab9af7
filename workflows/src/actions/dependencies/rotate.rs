//! A secret that somebody knows who leaves: replaced by the rotation machine where that is declared, else by a person.
//!
//! The rotation is a case of its own, about the credential. This step asks for it and waits: it is done once the secret that the
//! person knew lets nobody in any more. What fails, is blocked, or is not done by the deadline becomes a person's. Of somebody
//! from whom harm is feared it is not waited for a deadline: the rotation takes no overlap, and is quicker than whoever is asked.

use chrono::{DateTime, TimeDelta, Utc};
use engine::core::case::{Failure, Mode, Verification};
use engine::core::id::Actor;
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use serde_json::{Map, Value, json};

use crate::actions::context::{Context, database, waits};
use crate::directory::{NotBegun, RotationRow};
use crate::nhi::check::Work;
use crate::nhi::graph::{Node, NodeKind, Relation};
use crate::rotation::{Exposed, Phase};

/// How long until it is looked at again, in seconds.
const LOOK_AGAIN_S: i64 = 30;

/// What became of it; `None`: a person has to.
pub(super) async fn run(
    context: &Context<'_>,
    work: &Work,
    mut output: Map<String, Value>,
) -> Result<Option<AttemptResult>, Failure> {
    let [thing] = work.things.as_slice() else {
        return Ok(None);
    };
    if thing.node.kind != NodeKind::Credential {
        return Ok(None);
    }
    let name = thing.node.name.as_str();
    let directory = context.actions.directory();
    let now = context.actions.clock().now();
    let row = (directory.rotation(name).await).map_err(|error| database(&error))?;
    let Some(row) = row.filter(|row| row.wanted) else {
        return Ok(None);
    };
    let from = context.attempt.received_at;
    let known = knows_since(context, &thing.node).await?.unwrap_or(from);
    if is_replaced(&row, known) {
        let leaver = context.subject();
        let reason = format!(
            "replaced because {leaver} leaves: case {}",
            context.attempt.case
        );
        (directory
            .forget_secret(&row.nhi_key, name, leaver, &reason, now)
            .await)
            .map_err(|error| database(&error))?;
        let case = row.open_case.or(row.last_case);
        output.insert("replaced".to_owned(), json!(name));
        output.insert("by_case".to_owned(), json!(case));
        return Ok(Some(AttemptResult::Succeeded {
            output: Value::Object(output),
            verification: Verification::Verified,
            proof: Proof {
                operation: Some("rotate".to_owned()),
                object: Some(Node::credential(name).to_string()),
                after: Some(json!({ "phase": row.phase, "case": case })),
                verified_at: Some(now),
                reason: Some(reason),
                ..Proof::default()
            },
        }));
    }
    let hostile = context.truth("hostile");
    let failed = row.failed_at.is_some_and(|at| at > from);
    let stuck = matches!(row.phase, Phase::Blocked | Phase::Irrevocable);
    // For whom nothing may wait the deadline is over from the beginning, and nobody is as quick as the rotation.
    let late = !hostile && work.deadline.is_some_and(|deadline| now >= deadline);
    if failed || stuck || late {
        return Ok(None);
    }
    if context.attempt.mode == Mode::ReadBack {
        return Ok(Some(AttemptResult::NotApplied));
    }
    // One that takes its time is too slow for what may be used against us.
    if row.open_case.is_none() || hostile && !row.compromised {
        let reason = format!(
            "{} leaves and knows it: case {}",
            context.subject(),
            context.attempt.case
        );
        let exposed = hostile.then(|| exposed(&row, known));
        let asked = directory
            .ask_rotation(name, exposed, &Actor::engine(), &reason, now)
            .await
            .map_err(|error| database(&error))?;
        match asked {
            Ok(_) | Err(NotBegun::UnderWay { .. }) => {}
            Err(NotBegun::NotDeclared(_) | NotBegun::NoWorkflow(_)) => return Ok(None),
        }
    }
    let message = format!("`{name}` is being replaced, and is {}", row.phase.as_str());
    let again = now + TimeDelta::seconds(LOOK_AGAIN_S);
    let deadline = work.deadline.filter(|deadline| *deadline > now);
    let again = deadline.map_or(again, |deadline| again.min(deadline));
    Ok(Some(waits("rotating", message, again)))
}

/// Since when the person is known to know it.
async fn knows_since(
    context: &Context<'_>,
    credential: &Node,
) -> Result<Option<DateTime<Utc>>, Failure> {
    let edges = (context.actions.directory().edges_at([credential]).await)
        .map_err(|error| database(&error))?;
    let person = super::subject(context);
    let knows = edges.iter().filter(|edge| {
        edge.relation == Relation::Knows && edge.from == person && edge.to == *credential
    });
    Ok(knows.map(|edge| edge.first_seen_at).min())
}

/// Which of two somebody knows who knows it since `known`: what came into use later is another secret.
fn exposed(row: &RotationRow, known: DateTime<Utc>) -> Exposed {
    if row.promoted_at.is_some_and(|at| at > known) {
        Exposed::Old
    } else {
        Exposed::Both
    }
}

/// Whether what was known at `known` lets nobody in any more: what came into use later is another secret.
fn is_replaced(row: &RotationRow, known: DateTime<Utc>) -> bool {
    let is_over = row.last_rotated_at.is_some_and(|at| at > known);
    let old_is_out = matches!(
        row.phase,
        Phase::OldDisabled | Phase::Soaked | Phase::OldDestroyed | Phase::Closed
    );
    is_over || old_is_out && row.promoted_at.is_some_and(|at| at > known)
}
