//! `rotation.promote`: the place shows the new credential from now on.
//!
//! Takes `{plan, expires_at}`. Gives `{user, overlap_until, expires_at}`: until when both have to work. `rotation.demote` makes the place show the old one
//! again, after a login with the old one has succeeded: nobody is sent back to what does not work.

use chrono::TimeDelta;
use connectors::connector::{CredentialId, NativeId};
use engine::core::case::Failure;
use engine::core::input::AttemptResult;
use serde_json::{Map, Value, json};

use super::super::apply::{Task, apply_verified};
use super::super::context::{Context, permanent};
use super::{Plan, Works, can_try, output, plan, works};

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    let missing = || permanent("parameter", "the plan names no new version");
    let version = plan.new.version().ok_or_else(missing)?;
    let mut output = output(&plan.new.user);
    if !plan.compromised {
        until(context, &mut output, "overlap_until", plan.overlap_s);
    }
    if let Some(expires) = context.text("expires_at") {
        output.insert("expires_at".to_owned(), json!(expires));
    }
    let call = context.call_to(&plan.place.system)?;
    Ok(apply_verified(&call, shown(&plan, version, output)).await)
}

pub(super) async fn demote(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    let version = old_version(&plan)?;
    old_works(context, &plan).await?;
    let call = context.call_to(&plan.place.system)?;
    let output = output(&plan.old.user);
    Ok(apply_verified(&call, shown(&plan, version, output)).await)
}

/// What makes the place show a version.
pub(super) fn shown(plan: &Plan, credential: CredentialId, output: Map<String, Value>) -> Task {
    Task::activate(NativeId::new(&plan.place.bundle), credential, output)
}

/// What the place kept before.
pub(super) fn old_version(plan: &Plan) -> Result<CredentialId, Failure> {
    plan.old.version().ok_or_else(|| {
        permanent(
            "no_way_back",
            format!(
                "`{}` kept nothing of `{}` before, so it cannot show the old one again; give those who use it the old one by \
                 hand and skip the step saying so, or go on with the new one",
                plan.place.system, plan.old.user
            ),
        )
    })
}

async fn old_works(context: &Context<'_>, plan: &Plan) -> Result<(), Failure> {
    if !can_try(context, plan) {
        return Ok(());
    }
    match works(context, plan, &plan.old).await? {
        Works::Yes => Ok(()),
        Works::No(why) | Works::Unknown(why) => Err(permanent(
            "no_way_back",
            format!("the place goes on showing the new one, because {why}"),
        )),
    }
}

/// Notes a moment that lies so long ahead.
pub(super) fn until(context: &Context<'_>, output: &mut Map<String, Value>, name: &str, s: i64) {
    let until = context.actions.clock().now() + TimeDelta::seconds(s);
    output.insert(name.to_owned(), json!(until.to_rfc3339()));
}
