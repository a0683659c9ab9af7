//! `retirement.listen`: waits until the window is over, and looks meanwhile whether something misses what is out of use.
//!
//! Takes `{nhi, accounts, since, until}`. A use that was observed after `since`, or an account that somebody put back, fails it
//! for good: everything is put back then. Gives `{nhi, since, until}`.

use chrono::{DateTime, TimeDelta, Utc};
use connectors::connector::{Claim, Connector, NativeId, ObjectRef, Verdict};
use engine::core::case::{Failure, Mode, Verification};
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use serde_json::{Value, json};

use super::{key, row};
use crate::actions::apply::failure;
use crate::actions::context::{Context, database, permanent, waits};
use crate::nhi::check::MINUTE;
use crate::nhi::graph::{Confidence, Node, Relation};

/// How long until it is looked again, in seconds.
const LOOK_AGAIN_S: i64 = 300;

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let key = key(context)?;
    let (since, until) = (moment(context, "since")?, moment(context, "until")?);
    let now = context.actions.clock().now();
    missed(context, &key, since).await?;
    let accounts = context.value("accounts").and_then(Value::as_array);
    for account in accounts.into_iter().flatten() {
        let text = |name: &str| {
            account
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let call = context.call_to(text("system"))?;
        let id = NativeId::new(text("account"));
        let claim = Claim::AccountDisabled {
            account: id.clone(),
        };
        let seen = call.connector.verify(&claim).await;
        let seen = seen.map_err(|error| failure(call.system.name(), &error))?;
        if matches!(seen, Verdict::Refuted(_)) {
            return Err(permanent(
                "put_back",
                format!(
                    "somebody put `{}` on `{}` back into use",
                    text("name"),
                    text("system")
                ),
            ));
        }
        if call.system.capabilities().dependents {
            let uses = (call.connector.dependents(&ObjectRef::Account(id)).await)
                .map_err(|error| failure(call.system.name(), &error))?;
            let seen = uses
                .value
                .iter()
                .find(|it| it.last_seen.is_some_and(|at| at > since));
            if let Some(used) = seen {
                return Err(permanent(
                    "missed",
                    format!("{} uses it: {}", used.by, used.what),
                ));
            }
        }
    }
    if now < until {
        if context.attempt.mode == Mode::ReadBack {
            return Ok(AttemptResult::NotApplied);
        }
        let again = until.min(now + TimeDelta::seconds(LOOK_AGAIN_S));
        let message = format!(
            "`{key}` is out of use; listening until {} for who misses it",
            until.format(MINUTE)
        );
        return Ok(waits("listening", message, again));
    }
    let output = json!({ "nhi": key, "since": since, "until": until });
    Ok(AttemptResult::Succeeded {
        proof: Proof {
            operation: Some("listen".to_owned()),
            object: Some(Node::nhi(&key).to_string()),
            after: Some(output.clone()),
            verified_at: Some(now),
            ..Proof::default()
        },
        output,
        verification: Verification::Verified,
    })
}

/// A use of it, or of one of its credentials, that was observed after it was put out of use.
async fn missed(context: &Context<'_>, key: &str, since: DateTime<Utc>) -> Result<(), Failure> {
    let row = row(context, key).await?;
    let credentials = row.declared.credentials.iter();
    let nodes: Vec<Node> = std::iter::once(Node::nhi(key))
        .chain(credentials.map(|credential| Node::credential(credential.name())))
        .collect();
    let edges =
        (context.actions.directory().edges_at(&nodes).await).map_err(|error| database(&error))?;
    let seen = edges.iter().find(|edge| {
        edge.relation == Relation::Uses
            && edge.confidence == Confidence::Observed
            && nodes.contains(&edge.to)
            && edge.last_seen_at > since
    });
    match seen {
        None => Ok(()),
        Some(edge) => Err(permanent(
            "missed",
            format!(
                "{} was seen to use {} at {}, after it was put out of use (by {})",
                edge.from,
                edge.to,
                edge.last_seen_at.format(MINUTE),
                edge.source
            ),
        )),
    }
}

fn moment(context: &Context<'_>, name: &str) -> Result<DateTime<Utc>, Failure> {
    let text = context.required(name)?;
    text.parse().map_err(|_| {
        permanent(
            "parameter",
            format!("`{name}` is `{text}`, which is no time"),
        )
    })
}
