//! `rotation.serve`: waits until whoever connects is shown the new certificate.
//!
//! Takes `{plan, issued}`. Gives `{user, endpoint}`. A certificate that was issued, kept and read again is in use only when a
//! handshake shows it: a program that goes on with the old one is seen here. Where nothing is declared to look at the step is
//! `unverified`.

use connectors::connector::{Claim, Connector as _, Verdict};
use engine::core::case::{Failure, Verification};
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use serde_json::{Value, json};

use super::super::apply::failure;
use super::super::context::{Context, unverified};
use super::{Plan, blocked, output, plan};

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    let mut output = output(&plan.new.user);
    let Some(serves) = &plan.serves else {
        let why = "nothing is declared that shows it (`serves`), so nobody saw that it is in use";
        return Ok(unverified(Value::Object(output), why.to_owned()));
    };
    if let Some(why) = why_not(context, &plan).await? {
        return Ok(blocked(context, why));
    }
    output.insert("endpoint".to_owned(), json!(serves.endpoint));
    let now = context.actions.clock().now();
    Ok(AttemptResult::Succeeded {
        output: Value::Object(output),
        verification: Verification::Verified,
        proof: Proof {
            system: Some(serves.system.clone()),
            operation: Some("probe".to_owned()),
            object: Some(serves.endpoint.clone()),
            after: Some(json!({ "certificate": plan.new.credential })),
            verified_at: Some(now),
            ..Proof::default()
        },
    })
}

/// Why the new certificate is not seen where it should be, if it is not.
pub(super) async fn why_not(context: &Context<'_>, plan: &Plan) -> Result<Option<String>, Failure> {
    let Some(serves) = &plan.serves else {
        return Ok(None);
    };
    let call = context.call_to(&serves.system)?;
    let claim = Claim::ServesCertificate {
        endpoint: serves.endpoint.clone(),
        certificate: plan.new.credential(),
    };
    match call.connector.verify(&claim).await {
        Ok(Verdict::Proven(_)) => Ok(None),
        Ok(Verdict::Refuted(seen)) => Ok(Some(format!(
            "`{}` shows another certificate than the new one ({}); it goes on when that is read again",
            serves.endpoint, seen.seen
        ))),
        Ok(Verdict::CannotObserve { reason }) => Ok(Some(reason)),
        Err(error) => Err(failure(call.system.name(), &error)),
    }
}
