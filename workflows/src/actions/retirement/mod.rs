//! `retirement.*`: the end of a non-human identity, step by step, each of which can be taken back until the last.
//!
//! | action | does |
//! |---|---|
//! | `retirement.look` | looks at what hangs on it, and finds its accounts |
//! | `retirement.rehearse` | puts one account out of use and back, and measures how long putting back takes |
//! | `retirement.disable`, `.enable` | one account out of use, and back |
//! | `retirement.mark`, `.unmark` | it is out of use on purpose and watched, or not any more |
//! | `retirement.listen` | waits until the window is over, while nothing misses it |
//! | `retirement.delete` | one account for good |
//! | `retirement.retire` | nobody expects it any more |
//!
//! The case is about `nhi:KEY`; what it is about stands in its input, `{nhi, window, reason}`.

mod accounts;
mod listen;
mod look;

use engine::core::case::{Failure, Verification};
use engine::core::id::Actor;
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use serde_json::{Value, json};

use super::context::{Context, database, not_needed, permanent};
use super::name;
use crate::directory::{NhiRow, NhiStatus, Quiet};

/// One of these steps; `None` for others.
pub(super) async fn run(context: &Context<'_>) -> Option<Result<AttemptResult, Failure>> {
    Some(match context.attempt.uses.as_str() {
        name::RETIREMENT_LOOK => look::run(context).await,
        name::RETIREMENT_REHEARSE => accounts::rehearse(context).await,
        name::RETIREMENT_DISABLE => accounts::disable(context).await,
        name::RETIREMENT_ENABLE => accounts::enable(context).await,
        name::RETIREMENT_DELETE => accounts::delete(context).await,
        name::RETIREMENT_MARK => mark(context).await,
        name::RETIREMENT_UNMARK => unmark(context).await,
        name::RETIREMENT_LISTEN => listen::run(context).await,
        name::RETIREMENT_RETIRE => retire(context).await,
        _ => return None,
    })
}

/// The identity that the parameters, or the input of the case, name.
fn key(context: &Context<'_>) -> Result<String, Failure> {
    let given = context.text("nhi").map(str::to_owned);
    let input = || Some(context.attempt.input.get("nhi")?.as_str()?.to_owned());
    given.or_else(input).ok_or_else(|| {
        permanent(
            "parameter",
            "this workflow is started by `tenure nhi end` alone: its input names no `nhi`",
        )
    })
}

async fn row(context: &Context<'_>, key: &str) -> Result<NhiRow, Failure> {
    let found = (context.actions.directory().nhi(key).await).map_err(|error| database(&error))?;
    let found = found.filter(|row| row.status != NhiStatus::Retired);
    found.ok_or_else(|| {
        permanent(
            "unknown_nhi",
            format!("there is no non-human identity `{key}`, or it is retired"),
        )
    })
}

/// Gives `{since, until, restore_s}`.
async fn mark(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let key = key(context)?;
    let before = row(context, &key).await?;
    let window = engine::core::duration::Span::parse(context.required("window")?)
        .map_err(|error| permanent("parameter", error.to_string()))?;
    // A step that is repeated after a crash began when it began.
    let since = before
        .quiet_since
        .unwrap_or_else(|| context.actions.clock().now());
    let restores = context.value("restores").and_then(Value::as_array);
    let restore_ms = restores
        .into_iter()
        .flatten()
        .filter_map(|output| output.get("restore_ms")?.as_u64())
        .max()
        .unwrap_or(0);
    let restore_s = restore_ms.div_ceil(1_000).max(1);
    put(context, &key, Some(Quiet { since, restore_s })).await?;
    Ok(written(json!({
        "nhi": key,
        "since": since,
        "until": since + window.delta(),
        "restore_s": restore_s,
        "changed": true,
    })))
}

async fn unmark(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let key = key(context)?;
    put(context, &key, None).await?;
    Ok(written(json!({ "nhi": key })))
}

async fn put(context: &Context<'_>, key: &str, quiet: Option<Quiet>) -> Result<(), Failure> {
    let directory = context.actions.directory();
    let at = context.actions.clock().now();
    (directory.mark_nhi(key, quiet, at).await).map_err(|error| database(&error))
}

async fn retire(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let key = key(context)?;
    let input = &context.attempt.input;
    let reason = input
        .get("reason")
        .and_then(Value::as_str)
        .unwrap_or("retired");
    let reason = format!("{reason}: case {}", context.attempt.case);
    let at = context.actions.clock().now();
    let directory = context.actions.directory();
    let changed = (directory
        .retire_nhi(&key, &Actor::engine(), &reason, at)
        .await)
        .map_err(|error| database(&error))?;
    Ok(written(json!({ "nhi": key, "changed": changed })))
}

/// Written into the directory, which was read in the same transaction.
fn written(output: Value) -> AttemptResult {
    match not_needed(output) {
        AttemptResult::Succeeded { output, .. } => AttemptResult::Succeeded {
            proof: Proof {
                operation: Some("inventory".to_owned()),
                after: Some(output.clone()),
                ..Proof::default()
            },
            output,
            verification: Verification::NotNeeded,
        },
        other => other,
    }
}
