//! `rotation.open`, `rotation.stage`, `rotation.verify`: the system comes to know the new credential, and a login shows it.
//!
//! All take `{plan}` and give `{user}`. A login name whose turn it is has no secret, or an old one, when it is opened; then it
//! is given the one that the place keeps. What is staged twice is staged with the same secret.

use connectors::connector::{
    Attributes, Claim, CredentialKind, HandOver, Material, NewCredential, Operation,
};
use engine::core::case::{Failure, Verification};
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use serde_json::{Value, json};

use super::super::apply::{Call, Task, apply_verified};
use super::super::context::{Context, not_needed, permanent, unverified};
use super::{Login, Plan, Works, can_try, kept, output, plan, works};

pub(super) async fn open(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    let call = context.call_to(&plan.system)?;
    let account = plan.new.account();
    let task = Task {
        operation: Operation::EnableAccount {
            account: account.clone(),
        },
        claim: Claim::AccountEnabled { account },
        output: output(&plan.new.user),
    };
    Ok(apply_verified(&call, task).await)
}

pub(super) async fn shut(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    if let Some(nothing) = context.nothing_to_undo() {
        return Ok(nothing);
    }
    let call = context.call_to(&plan.system)?;
    let account = plan.new.account();
    let task = Task {
        operation: Operation::DisableAccount {
            account: account.clone(),
        },
        claim: Claim::AccountDisabled { account },
        output: output(&plan.new.user),
    };
    Ok(apply_verified(&call, task).await)
}

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    let task = given(context, &plan, &plan.new).await?;
    let call = context.call_to(&plan.system)?;
    Ok(apply_verified(&call, task).await)
}

/// What gives one side the secret that the place keeps of it.
pub(super) async fn given(
    context: &Context<'_>,
    plan: &Plan,
    login: &Login,
) -> Result<Task, Failure> {
    let place: Call<'_> = context.call_to(&plan.place.system)?;
    let missing = || {
        permanent(
            "place",
            format!(
                "`{}` does not keep what was made for `{}`; roll back, and the next rotation makes another",
                plan.place.system, login.user
            ),
        )
    };
    let version = login.version().ok_or_else(missing)?;
    let kept_at = kept(&place, &plan.place, &version, plan.secret())
        .await?
        .ok_or_else(missing)?;
    let secret = kept_at.resolve().map_err(|error| {
        permanent(
            "place",
            format!("what `{}` keeps cannot be read: {error}", plan.place.system),
        )
    })?;
    let account = login.account();
    let new = NewCredential {
        account: account.clone(),
        kind: CredentialKind::Password,
        material: Material::Secret(secret),
        attributes: Attributes::new(),
        lifetime_s: None,
        label: None,
        // The place keeps it already.
        into: HandOver::slot().0,
    };
    Ok(Task {
        operation: Operation::IssueCredential(new),
        claim: Claim::CredentialWorks {
            account,
            credential: login.credential(),
            secret: kept_at,
        },
        output: output(&login.user),
    })
}

/// Takes the secret from the side that was to become the new one.
pub(super) async fn unstage(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    let call = context.call_to(&plan.system)?;
    let (account, credential) = (plan.new.account(), plan.new.credential());
    let task = Task {
        operation: Operation::DestroyCredential {
            account: account.clone(),
            credential: credential.clone(),
        },
        claim: Claim::CredentialInactive {
            account,
            credential,
        },
        output: output(&plan.new.user),
    };
    Ok(apply_verified(&call, task).await)
}

/// A login with the new one. One that is refused ends the rotation before anybody reads it.
pub(super) async fn verify(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    if context.attempt.mode.is_undo() {
        return Ok(not_needed(Value::Null));
    }
    if !can_try(context, &plan) {
        if plan.serves.is_some() {
            // A handshake shows it as soon as it is in use, before the old one loses anything.
            return Ok(not_needed(Value::Object(output(&plan.new.user))));
        }
        let why = format!(
            "`{}` cannot show whether a credential works; that it is in use shows it later",
            plan.system
        );
        return Ok(unverified(Value::Object(output(&plan.new.user)), why));
    }
    match works(context, &plan, &plan.new).await? {
        Works::Yes => {
            let now = context.actions.clock().now();
            Ok(AttemptResult::Succeeded {
                output: Value::Object(output(&plan.new.user)),
                verification: Verification::Verified,
                proof: Proof {
                    system: Some(plan.system.clone()),
                    operation: Some("test_credential".to_owned()),
                    object: Some(plan.new.account.clone()),
                    after: Some(json!({ "works": true, "version": plan.new.version })),
                    acknowledged_at: Some(now),
                    verified_at: Some(now),
                    ..Proof::default()
                },
            })
        }
        Works::No(why) => Err(permanent("refused", why)),
        Works::Unknown(why) => Err(permanent(
            "cannot_verify",
            format!("nobody can see whether the new one works: {why}"),
        )),
    }
}
