//! `rotation.renew`: everything that the old authority signed is issued anew, by rotations of their own. `rotation.unneeded`: the old
//! one is needed by nothing any more.
//!
//! Both take `{plan, issued}`. `renew` gives `{user, overlap_until}`; `unneeded` gives `{user, endpoints}`. The authority says what it
//! signed and is still good; each of these whose declared rotation is `reissue` is begun, what makes others before what it makes, a
//! few at a time. What nothing replaces is told, and waited for until it ends or somebody ends it.
//!
//! That something was issued anew does not say that it is in use. So at each place where it is to be served somebody who trusts
//! nothing but the new root connects: only when all of these go on is the old one unneeded.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use chrono::TimeDelta;
use connectors::connector::{
    Claim, ClaimName, Connector as _, CredentialId, NativeId, Signed, SignedOne, Verdict,
};
use engine::core::case::{Failure, FailureClass, Mode, Verification};
use engine::core::id::Actor;
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::super::apply::failure;
use super::super::context::{Context, database};
use super::promote::until;
use super::{Plan, authority, blocked, kept, output, plan, trust};
use crate::directory::{RotationFilter, RotationRow};
use crate::nhi::declare::ReplaceMode;
use crate::nhi::graph::Node;
use crate::rotation::Exposed;
use crate::rotation::rollover::next;
use crate::rotation::settings::PART_ID;

/// For how long one that did not get to its end is left alone.
const REST: TimeDelta = TimeDelta::hours(1);
/// How many are told by name.
const TOLD_MAX: usize = 5;

/// What hangs on an authority, and what becomes of it.
#[derive(Default)]
pub(super) struct Hanging {
    signed: Signed,
    /// Being issued anew.
    under_way: Vec<RotationRow>,
    /// To be issued anew.
    waiting: Vec<RotationRow>,
    /// Tried a short while ago, without success.
    resting: Vec<RotationRow>,
    /// Nothing replaces them.
    strays: Vec<SignedOne>,
}

impl Hanging {
    pub(super) fn is_nothing(&self) -> bool {
        self.signed.good == 0
    }

    pub(super) fn strays(&self) -> impl Iterator<Item = &SignedOne> {
        self.strays.iter()
    }

    /// What there is of it, for a person. `which` is the old one or the new one.
    pub(super) fn told(&self, which: &str) -> String {
        let mut told = format!(
            "{} certificates of the {which} authority are good",
            self.signed.good
        );
        if let Some(until) = self.signed.until {
            let _ = write!(told, ", the last until {}", until.to_rfc3339());
        }
        let of = |rows: &[RotationRow]| some(rows.iter().map(|row| row.name.clone()));
        for (what, names) in [
            ("being replaced", of(&self.under_way)),
            ("to be replaced", of(&self.waiting)),
            ("failed and tried again within the hour", of(&self.resting)),
            (
                "replaced by nothing (declare how, or destroy them; else they are waited for)",
                some(
                    self.strays
                        .iter()
                        .map(|one| format!("{}` of `{}", one.credential, one.account)),
                ),
            ),
        ] {
            if !names.is_empty() {
                let _ = write!(told, "; {what}: {names}");
            }
        }
        told
    }
}

fn some(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    let mut told = names
        .iter()
        .take(TOLD_MAX)
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > TOLD_MAX {
        let _ = write!(told, " and {} more", names.len() - TOLD_MAX);
    }
    told
}

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    let old = plan.old.credential();
    let hanging = look(context, &plan.system, &plan.old.account(), &old).await?;
    if !hanging.is_nothing() {
        if context.attempt.mode != Mode::Do {
            return Ok(AttemptResult::NotApplied);
        }
        ask(context, &plan, &hanging).await?;
        return Ok(blocked(context, hanging.told("old")));
    }
    let mut output = output(&plan.new.user);
    if !plan.compromised {
        until(context, &mut output, "overlap_until", plan.linger_s);
    }
    let now = context.actions.clock().now();
    Ok(AttemptResult::Succeeded {
        output: Value::Object(output),
        verification: Verification::Verified,
        proof: Proof {
            system: Some(plan.system.clone()),
            operation: Some("reissue".to_owned()),
            object: Some(plan.old.credential.clone()),
            after: Some(json!({ "good": 0 })),
            verified_at: Some(now),
            ..Proof::default()
        },
    })
}

/// What a generation signed, and what replaces it. Nothing is changed.
pub(super) async fn look(
    context: &Context<'_>,
    system: &str,
    account: &NativeId,
    credential: &CredentialId,
) -> Result<Hanging, Failure> {
    let call = context.call_to(system)?;
    let signed = authority::signed(&call, account, credential).await?;
    if signed.good == 0 {
        return Ok(Hanging::default());
    }
    let good: BTreeSet<&str> = signed
        .signed
        .iter()
        .map(|one| one.credential.as_str())
        .collect();
    let holders: BTreeSet<&str> = signed
        .signed
        .iter()
        .map(|one| one.account.as_str())
        .collect();
    let now = context.actions.clock().now();
    let mut hanging = Hanging::default();
    // Whose certificates are replaced, and which they are.
    let (mut replaced, mut moving) = (BTreeSet::new(), BTreeSet::new());
    for row in reissued(context, system).await? {
        let Some(holder) = row.declared.users.first().cloned() else {
            continue;
        };
        if !holders.contains(holder.as_str()) {
            continue;
        }
        let held = held(context, system, &row).await?;
        if row.open_case.is_some() {
            // The one before ends with its own rotation.
            moving.insert(holder);
            hanging.under_way.push(row);
        } else if good.contains(held.as_str()) {
            replaced.insert(held);
            if row.failed_at.is_some_and(|at| now < at + REST) {
                hanging.resting.push(row);
            } else {
                hanging.waiting.push(row);
            }
        }
    }
    let strays = signed.signed.iter().filter(|one| {
        !replaced.contains(one.credential.as_str()) && !moving.contains(&one.account)
    });
    hanging.strays = strays.cloned().collect();
    hanging.signed = signed;
    Ok(hanging)
}

/// Those of a system that are declared to be issued anew.
async fn reissued(context: &Context<'_>, system: &str) -> Result<Vec<RotationRow>, Failure> {
    let filter = RotationFilter {
        system: Some(system.to_owned()),
        ..RotationFilter::default()
    };
    let all = context.actions.directory().all_rotations(&filter).await;
    let mut all = all.map_err(|error| database(&error))?;
    all.retain(|row| row.wanted && row.mode == ReplaceMode::Reissue);
    Ok(all)
}

/// Which certificate a rotation replaces next: the one that its place shows, or as it was declared.
async fn held(context: &Context<'_>, system: &str, row: &RotationRow) -> Result<String, Failure> {
    let declared = || {
        let id = row.name.strip_prefix(system);
        id.and_then(|id| id.strip_prefix('/'))
            .unwrap_or_default()
            .to_owned()
    };
    let place = &row.declared.place;
    let call = context.call_to(&place.system)?;
    let Some(version) = trust::version_shown(&call, place).await? else {
        return Ok(declared());
    };
    let at = match kept(&call, place, &version, PART_ID).await {
        Ok(at) => at,
        // It keeps no name of it: somebody put it there.
        Err(failure) if failure.class == FailureClass::Permanent => None,
        Err(failure) => return Err(failure),
    };
    let id = at.and_then(|at| at.resolve().ok());
    Ok(id.map_or_else(declared, |id| id.expose_secret().to_owned()))
}

/// Begins what is to be issued anew now.
pub(super) async fn ask(
    context: &Context<'_>,
    plan: &Plan,
    hanging: &Hanging,
) -> Result<(), Failure> {
    let node = |row: &RotationRow| Node::credential(&row.name);
    let mut waiting: BTreeSet<Node> = hanging.waiting.iter().map(node).collect();
    let mut under_way: BTreeSet<Node> = hanging.under_way.iter().map(node).collect();
    if plan.compromised {
        // One that takes its time gives way to one that does not.
        let slow = hanging.under_way.iter().filter(|row| !row.compromised);
        for node in slow.map(node) {
            under_way.remove(&node);
            waiting.insert(node);
        }
    }
    let directory = context.actions.directory();
    let edges = directory
        .edges_at(waiting.iter().chain(&under_way))
        .await
        .map_err(|error| database(&error))?;
    let reason = format!("the authority `{}` is replaced", plan.credential);
    let now = context.actions.clock().now();
    let exposed = plan.compromised.then_some(Exposed::Both);
    for node in next(&waiting, &under_way, &edges) {
        // One that does not begin is looked at again.
        let _ = directory
            .ask_rotation(&node.name, exposed, &Actor::engine(), &reason, now)
            .await
            .map_err(|error| database(&error))?;
    }
    Ok(())
}

// --- unneeded ----------------------------------------------------------------------------------------------

pub(super) async fn unneeded(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let plan = plan(context)?;
    let seen = match needed(context, &plan).await? {
        Ok(seen) => seen,
        Err(why) => return Ok(blocked(context, why)),
    };
    let mut output = output(&plan.old.user);
    output.insert("endpoints".to_owned(), json!(seen.endpoints));
    let now = context.actions.clock().now();
    let verification = match seen.why_not_all() {
        None => Verification::Verified,
        Some(reason) => Verification::Unverified { reason },
    };
    Ok(AttemptResult::Succeeded {
        output: Value::Object(output),
        verification,
        proof: Proof {
            system: Some(plan.system.clone()),
            operation: Some("watch_credential".to_owned()),
            object: Some(plan.old.credential.clone()),
            after: Some(json!({ "good": 0, "endpoints": seen.endpoints })),
            verified_at: Some(now),
            ..Proof::default()
        },
    })
}

/// Where somebody connected who trusts nothing but the new root.
pub(super) struct Seen {
    endpoints: Vec<String>,
    /// Of these nobody sees where they are served.
    unseen: Vec<String>,
}

impl Seen {
    fn why_not_all(&self) -> Option<String> {
        if self.unseen.is_empty() {
            return None;
        }
        Some(format!(
            "nothing is declared that shows {} (`serves`), so nobody saw that they are in use",
            some(self.unseen.iter().cloned())
        ))
    }
}

/// What still needs the old one, if something does.
pub(super) async fn needed(
    context: &Context<'_>,
    plan: &Plan,
) -> Result<Result<Seen, String>, Failure> {
    let old = plan.old.credential();
    let hanging = look(context, &plan.system, &plan.old.account(), &old).await?;
    if !hanging.is_nothing() {
        return Ok(Err(hanging.told("old")));
    }
    let roots = authority::roots(context, plan).await?.new.pem();
    let mut seen = Seen {
        endpoints: Vec::new(),
        unseen: Vec::new(),
    };
    if plan.compromised {
        // Strangers have its key: it goes, whoever still shows what it signed.
        return Ok(Ok(seen));
    }
    for row in reissued(context, &plan.system).await? {
        let place = context.call_to(&row.declared.place.system)?;
        let shown = trust::version_shown(&place, &row.declared.place).await?;
        if shown.is_none() {
            // Nothing was issued there yet.
            continue;
        }
        let Some(serves) = &row.declared.serves else {
            seen.unseen.push(row.name);
            continue;
        };
        let call = context.call_to(&serves.system)?;
        let claims = &call.system.capabilities().claims;
        if !claims.contains(&ClaimName::ServesTrusted) {
            seen.unseen.push(row.name);
            continue;
        }
        let claim = Claim::ServesTrusted {
            endpoint: serves.endpoint.clone(),
            roots: roots.clone(),
        };
        let endpoint = &serves.endpoint;
        match call.connector.verify(&claim).await {
            Ok(Verdict::Proven(_)) => seen.endpoints.push(endpoint.clone()),
            Ok(Verdict::Refuted(found)) => {
                return Ok(Err(format!(
                    "who trusts only the new authority does not accept what `{endpoint}` shows ({}); it goes on when it does",
                    found.seen
                )));
            }
            Ok(Verdict::CannotObserve { reason }) => return Ok(Err(reason)),
            // One that is down keeps it waiting, and does not end it.
            Err(error) => {
                let failure = failure(call.system.name(), &error);
                return Ok(Err(format!(
                    "nobody can see what `{endpoint}` shows: {}",
                    failure.message
                )));
            }
        }
    }
    Ok(Ok(seen))
}
