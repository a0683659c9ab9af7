//! Whom those trust who read a bundle of roots: `rotation.trust`, `.trusted`, `.distrust`, `.distrusted`.
//!
//! All take `{plan, issued}`; `trust` and `distrust` are steps for each place, `{system, bundle}`. `trusted` gives `{user, places,
//! spread_until}`, `distrusted` gives `{user, places, soak_until}`.
//!
//! What a place shows is read, one root is added or taken out, and the rest stays: a bundle may hold roots of others. The version that
//! is kept is named by what it holds, so after a crash, and in another case, it is the same one. Before a place shows it, the
//! authority tries the very file by a handshake. What counts as trusted is what a place shows and its consumer was made to read;
//! what those who read it have in their memory nobody sees: that is what the time until `spread_until` is for.
//!
//! `rotation.untrust` and `rotation.retrust` take them back. Neither side is taken out of a bundle while something that it signed is
//! good.

use std::collections::BTreeMap;

use connectors::connector::{
    Claim, Connector as _, CredentialId, NativeId, Operation, Outcome, StoredCredential, Verdict,
};
use connectors::secret::SecretRef;
use engine::core::case::{Failure, Mode, Verification};
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value, json};

use super::super::apply::{Call, Task, apply_verified, failed, failure};
use super::super::context::{Context, not_needed, permanent};
use super::preflight::safe;
use super::promote::until;
use super::{Login, Plan, authority, blocked, destroyed, kept, output, plan, renew, sign};
use crate::rotation::bundle::{Bundle, Trusts};
use crate::rotation::settings::{PART_BUNDLE, Place};

pub(super) async fn trust(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    if plan.taken_up {
        // Everybody trusts the new one already, and strangers know the old one: nobody is told to trust that again.
        return Ok(not_needed(Value::Object(output(&plan.new.user))));
    }
    show(context, &plan, &place(context)?, Trusts::Both).await
}

pub(super) async fn retrust(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    show(context, &plan(context)?, &place(context)?, Trusts::Both).await
}

pub(super) async fn distrust(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    show(context, &plan(context)?, &place(context)?, Trusts::New).await
}

/// Takes the new one out again, and removes what the place keeps of it.
pub(super) async fn untrust(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let (plan, place) = (plan(context)?, place(context)?);
    // A step that was broken off may have made it sign all the same.
    let result = sign::old_signs(context, &plan).await?;
    if !matches!(result, AttemptResult::Succeeded { .. }) {
        return Ok(result);
    }
    let result = show(context, &plan, &place, Trusts::Old).await?;
    if !matches!(result, AttemptResult::Succeeded { .. }) {
        return Ok(result);
    }
    let call = context.call_to(&place.system)?;
    let prefix = format!("{}.", safe(&plan.new.user));
    match emptied(&call, &plan, &place, &prefix).await? {
        AttemptResult::Succeeded { .. } => Ok(result),
        other => Ok(other),
    }
}

/// The place of this instance of the step.
fn place(context: &Context<'_>) -> Result<Place, Failure> {
    Ok(Place {
        system: context.required("system")?.to_owned(),
        bundle: context.required("bundle")?.to_owned(),
    })
}

/// Makes every place show a bundle, whatever steps did there that were broken off; what keeps it from that, if something does.
pub(super) async fn everywhere(
    context: &Context<'_>,
    plan: &Plan,
    whom: Trusts,
) -> Result<Option<AttemptResult>, Failure> {
    for place in &plan.places {
        match show(context, plan, place, whom).await? {
            AttemptResult::Succeeded { .. } => {}
            other => return Ok(Some(other)),
        }
    }
    Ok(None)
}

/// Makes a place show a bundle.
async fn show(
    context: &Context<'_>,
    plan: &Plan,
    place: &Place,
    whom: Trusts,
) -> Result<AttemptResult, Failure> {
    let call = context.call_to(&place.system)?;
    let reads_back = matches!(context.attempt.mode, Mode::ReadBack | Mode::UndoReadBack);
    let before = match bundle_shown(&call, place).await? {
        Ok(before) => before,
        Err(why) => return Ok(blocked(context, why)),
    };
    if !reads_back && let Some(why) = needed(context, plan, whom).await? {
        return Ok(blocked(context, why));
    }
    let roots = authority::roots(context, plan).await?;
    let (version, wanted) = match before {
        Some((version, bundle)) => {
            let wanted = bundle.trusting(whom, &roots.old, &roots.new);
            // It shows that already, under whatever name.
            let same = (wanted == bundle).then_some(version);
            (same, wanted)
        }
        // Nobody was ever told anything there.
        None if whom == Trusts::Old => {
            return Ok(not_needed(Value::Object(output(&plan.old.user))));
        }
        None => (
            None,
            Bundle::default().trusting(whom, &roots.old, &roots.new),
        ),
    };
    let mut output = output(&plan.new.user);
    let version = match version {
        Some(version) => version,
        None if reads_back => return Ok(AttemptResult::NotApplied),
        None => {
            let named = format!("{}.{}", safe(&plan.new.user), wanted.digest());
            let version = CredentialId::new(named);
            if let Some(result) = stored(&call, place, &version, &wanted).await? {
                return Ok(result);
            }
            version
        }
    };
    let at = match kept(&call, place, &version, PART_BUNDLE).await? {
        Some(at) => at,
        None if reads_back => return Ok(AttemptResult::NotApplied),
        None => {
            return Ok(blocked(
                context,
                format!(
                    "`{}` does not keep `{version}` as it was stored; somebody changed it there",
                    place.system
                ),
            ));
        }
    };
    if !reads_back && let Some(why) = refused(context, plan, whom, &at).await? {
        return Ok(blocked(context, why));
    }
    output.insert("version".to_owned(), json!(version));
    let task = Task::activate(NativeId::new(&place.bundle), version, output);
    Ok(apply_verified(&call, task).await)
}

/// Keeps a bundle as a version that nobody reads; `None` when it is kept.
async fn stored(
    call: &Call<'_>,
    place: &Place,
    version: &CredentialId,
    bundle: &Bundle,
) -> Result<Option<AttemptResult>, Failure> {
    let parts = [(PART_BUNDLE.to_owned(), SecretString::from(bundle.pem()))];
    let operation = Operation::StoreCredential(StoredCredential {
        account: NativeId::new(&place.bundle),
        credential: version.clone(),
        parts: BTreeMap::from(parts),
    });
    let proof = Proof {
        system: Some(place.system.clone()),
        operation: Some("store_credential".to_owned()),
        object: Some(place.bundle.clone()),
        sent_at: Some(call.clock.now()),
        ..Proof::default()
    };
    match call.connector.apply(&operation, &call.key("/kept")).await {
        Ok(Outcome::Done(_) | Outcome::AlreadySo(_)) => Ok(None),
        Ok(Outcome::Ambiguous { reason }) => Ok(Some(AttemptResult::AnswerLost { reason, proof })),
        Ok(Outcome::Accepted(_) | Outcome::NeedsHuman(_)) => Err(permanent(
            "place",
            format!("`{}` does not keep bundles at once", place.system),
        )),
        Err(error) => Ok(Some(failed(call, &error, proof))),
    }
}

/// What is good of the side that is to be taken out.
async fn needed(
    context: &Context<'_>,
    plan: &Plan,
    whom: Trusts,
) -> Result<Option<String>, Failure> {
    let (side, which) = match whom {
        Trusts::Both => return Ok(None),
        Trusts::New => (&plan.old, "old"),
        Trusts::Old => (&plan.new, "new"),
    };
    let (account, credential) = (side.account(), side.credential());
    let hanging = renew::look(context, &plan.system, &account, &credential).await?;
    Ok((!hanging.is_nothing()).then(|| hanging.told(which)))
}

/// Why somebody who reads this very file does not accept what has to be accepted.
async fn refused(
    context: &Context<'_>,
    plan: &Plan,
    whom: Trusts,
    at: &SecretRef,
) -> Result<Option<String>, Failure> {
    let call = context.call_to(&plan.system)?;
    let sides: &[&Login] = match whom {
        Trusts::Old => &[&plan.old],
        Trusts::Both => &[&plan.old, &plan.new],
        Trusts::New => &[&plan.new],
    };
    for side in sides {
        let claim = Claim::CredentialWorks {
            account: side.account(),
            credential: side.credential(),
            secret: at.clone(),
        };
        match call.connector.verify(&claim).await {
            Ok(Verdict::Proven(_)) => {}
            Ok(Verdict::Refuted(seen)) => {
                return Ok(Some(format!(
                    "who trusts what is to be read does not accept what `{}` signs ({})",
                    side.credential, seen.seen
                )));
            }
            Ok(Verdict::CannotObserve { reason }) => return Ok(Some(reason)),
            Err(error) => return Err(failure(call.system.name(), &error)),
        }
    }
    Ok(None)
}

// --- read --------------------------------------------------------------------------------------------------

/// The version that a place shows.
pub(super) async fn version_shown(
    call: &Call<'_>,
    place: &Place,
) -> Result<Option<CredentialId>, Failure> {
    let listed = call
        .connector
        .credentials(&NativeId::new(&place.bundle))
        .await;
    let listed = listed.map_err(|error| failure(call.system.name(), &error))?;
    let mut kept = listed.value.into_iter();
    let shown = kept.find(|one| one.active == Some(true));
    Ok(shown.map(|one| one.id))
}

/// The bundle that a place shows, or why nobody can tell; `None` when it shows nothing yet.
async fn bundle_shown(
    call: &Call<'_>,
    place: &Place,
) -> Result<Result<Option<(CredentialId, Bundle)>, String>, Failure> {
    let Some(version) = version_shown(call, place).await? else {
        return Ok(Ok(None));
    };
    let (system, bundle) = (&place.system, &place.bundle);
    let Some(at) = kept(call, place, &version, PART_BUNDLE).await? else {
        return Ok(Err(format!(
            "what `{bundle}` in `{system}` shows was changed by hand; put it back as it was, or make a version of it"
        )));
    };
    let text = match at.resolve() {
        Ok(text) => text,
        Err(error) => {
            return Ok(Err(format!(
                "what `{bundle}` in `{system}` shows cannot be read: {error}"
            )));
        }
    };
    Ok(match Bundle::parse(text.expose_secret()) {
        Ok(bundle) => Ok(Some((version, bundle))),
        Err(why) => Err(format!(
            "`{bundle}` in `{system}` is no bundle of roots: {why}"
        )),
    })
}

/// In what some place differs from what it should show, if one does.
pub(super) async fn differs(
    context: &Context<'_>,
    plan: &Plan,
    whom: Trusts,
) -> Result<Option<String>, Failure> {
    let roots = authority::roots(context, plan).await?;
    for place in &plan.places {
        let call = context.call_to(&place.system)?;
        let (system, bundle) = (&place.system, &place.bundle);
        let (version, found) = match bundle_shown(&call, place).await? {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(Some(format!("`{bundle}` in `{system}` shows nothing"))),
            Err(why) => return Ok(Some(why)),
        };
        if found != found.trusting(whom, &roots.old, &roots.new) {
            return Ok(Some(format!(
                "`{bundle}` in `{system}` shows another bundle than was put there; somebody changed it"
            )));
        }
        let claim = Claim::CredentialActive {
            account: NativeId::new(bundle),
            credential: version.clone(),
        };
        match call.connector.verify(&claim).await {
            Ok(Verdict::Proven(_)) => {}
            Ok(Verdict::Refuted(_)) => {
                return Ok(Some(format!(
                    "`{bundle}` in `{system}` shows `{version}`, and its consumer has not read it"
                )));
            }
            Ok(Verdict::CannotObserve { reason }) => return Ok(Some(reason)),
            Err(error) => return Err(failure(call.system.name(), &error)),
        }
        if let Some(at) = kept(&call, place, &version, PART_BUNDLE).await?
            && let Some(why) = refused(context, plan, whom, &at).await?
        {
            return Ok(Some(format!("`{bundle}` in `{system}`: {why}")));
        }
    }
    Ok(None)
}

// --- looked at ---------------------------------------------------------------------------------------------

/// Everybody trusts both.
pub(super) async fn trusted(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    if plan.taken_up {
        return Ok(not_needed(Value::Object(looked(&plan))));
    }
    if let Some(why) = differs(context, &plan, Trusts::Both).await? {
        return Ok(blocked(context, why));
    }
    let mut output = looked(&plan);
    if !plan.compromised {
        until(context, &mut output, "spread_until", plan.spread_s);
    }
    Ok(seen(context, &plan, output, "both"))
}

/// Nobody trusts the old one any more, and nothing misses it.
pub(super) async fn distrusted(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    if let Some(why) = old_is_needed(context, &plan).await? {
        return Ok(blocked(context, why));
    }
    let mut output = looked(&plan);
    if !plan.compromised {
        until(context, &mut output, "soak_until", plan.soak_s);
    }
    Ok(seen(context, &plan, output, "new"))
}

/// Why the old one cannot end yet.
pub(super) async fn old_is_needed(
    context: &Context<'_>,
    plan: &Plan,
) -> Result<Option<String>, Failure> {
    if let Some(why) = differs(context, plan, Trusts::New).await? {
        return Ok(Some(why));
    }
    Ok(renew::needed(context, plan).await?.err())
}

fn looked(plan: &Plan) -> Map<String, Value> {
    let mut output = output(&plan.new.user);
    output.insert("places".to_owned(), json!(plan.places.len()));
    output
}

fn seen(
    context: &Context<'_>,
    plan: &Plan,
    output: Map<String, Value>,
    trusts: &str,
) -> AttemptResult {
    AttemptResult::Succeeded {
        output: Value::Object(output),
        verification: Verification::Verified,
        proof: Proof {
            system: Some(plan.system.clone()),
            operation: Some("test_credential".to_owned()),
            object: Some(plan.new.credential.clone()),
            after: Some(json!({ "trusts": trusts, "places": plan.places.len() })),
            verified_at: Some(context.actions.clock().now()),
            ..Proof::default()
        },
    }
}

// --- removed -----------------------------------------------------------------------------------------------

/// Removes what no place shows any more. From here on there is no way back.
pub(super) async fn clean(context: &Context<'_>, plan: &Plan) -> Result<AttemptResult, Failure> {
    for place in &plan.places {
        let call = context.call_to(&place.system)?;
        match emptied(&call, plan, place, "").await? {
            AttemptResult::Succeeded { .. } => {}
            other => return Ok(other),
        }
    }
    Ok(not_needed(Value::Object(output(&plan.old.user))))
}

/// Removes what a place keeps under names that begin so and does not show.
async fn emptied(
    call: &Call<'_>,
    plan: &Plan,
    place: &Place,
    prefix: &str,
) -> Result<AttemptResult, Failure> {
    let account = NativeId::new(&place.bundle);
    let listed = call.connector.credentials(&account).await;
    let listed = listed.map_err(|error| failure(call.system.name(), &error))?;
    let mut result = not_needed(Value::Null);
    for one in listed.value {
        if one.active == Some(true) || !one.id.as_str().starts_with(prefix) {
            continue;
        }
        result = destroyed(call, account.clone(), one.id, output(&plan.old.user)).await;
        if !matches!(result, AttemptResult::Succeeded { .. }) {
            break;
        }
    }
    Ok(result)
}
