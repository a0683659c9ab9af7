//! `rotation.sign`: the new authority signs from now on.
//!
//! Takes `{plan, issued, expires_at}`. Gives `{user, expires_at}`. Everybody who reads a bundle trusts both first: that is looked at
//! again here. `rotation.sign_back` makes the old one sign again, and has everything issued anew that the new one signed: as long as
//! something of it is good, nobody stops trusting the new one.

use engine::core::case::{Failure, Mode};
use engine::core::input::AttemptResult;
use serde_json::{Map, Value, json};

use super::super::apply::{Task, apply_verified};
use super::super::context::Context;
use super::{Login, Plan, blocked, output, plan, renew, trust};
use crate::rotation::bundle::Trusts;

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    if context.attempt.mode == Mode::Do
        && !plan.taken_up
        && let Some(why) = trust::differs(context, &plan, Trusts::Both).await?
    {
        return Ok(blocked(context, why));
    }
    let mut output = output(&plan.new.user);
    if let Some(expires) = context.text("expires_at") {
        output.insert("expires_at".to_owned(), json!(expires));
    }
    let call = context.call_to(&plan.system)?;
    Ok(apply_verified(&call, signs(&plan.new, output)).await)
}

pub(super) async fn back(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    // What a step that was broken off took out of a bundle is put back first.
    if let Some(result) = trust::everywhere(context, &plan, Trusts::Both).await? {
        return Ok(result);
    }
    old_signs(context, &plan).await
}

/// The old one signs, and nothing is good that the new one signed.
pub(super) async fn old_signs(
    context: &Context<'_>,
    plan: &Plan,
) -> Result<AttemptResult, Failure> {
    let call = context.call_to(&plan.system)?;
    let task = signs(&plan.old, output(&plan.old.user));
    let result = apply_verified(&call, task).await;
    if !matches!(result, AttemptResult::Succeeded { .. }) {
        return Ok(result);
    }
    let hanging = renew::look(
        context,
        &plan.system,
        &plan.new.account(),
        &plan.new.credential(),
    )
    .await?;
    if hanging.is_nothing() {
        return Ok(result);
    }
    if context.attempt.mode == Mode::UndoReadBack {
        return Ok(AttemptResult::NotApplied);
    }
    renew::ask(context, plan, &hanging).await?;
    Ok(blocked(context, hanging.told("new")))
}

fn signs(login: &Login, output: Map<String, Value>) -> Task {
    Task::activate(login.account(), login.credential(), output)
}
