//! `access.plan`: what policy wants for a person, against what they hold.
//!
//! Gives, each as a list for `for_each`:
//!
//! | field | items |
//! |---|---|
//! | `create` | `{system, reasons, policy}`: accounts to make |
//! | `enable` | `{system, account, name, policy}`: accounts to open again |
//! | `update` | `{system, account, name, policy}`: accounts whose attributes changed |
//! | `add` | `{system, entitlement, reasons, policy, after}`: rights to give, on each system after those in `after` are gone |
//! | `remove` | `{system, entitlement, account, policy}`: rights to take |
//! | `disable` | `{system, account, name, policy}`: accounts to close |
//! | `reasons_changed` | `{system, entitlement, reasons}`: rights that stay, for other reasons |
//!
//! and `policy`, the version that decided. A person who is not active is wanted nothing.

use std::collections::BTreeMap;

use engine::core::case::{Failure, Verification};
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use serde_json::{Value, json};

use super::context::{Context, identity_facts, permanent};
use crate::directory::{AccountStatus, GrantReason, GrantStatus, Holdings};
use crate::policy::{self, Held, PolicySet, Reason, Wanted};
use crate::systems::{Systems, attributes_digest};

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let holdings = context.holdings().await?;
    let policy = context.policy();
    let span = tracing::debug_span!(target: engine::runner::TRACE, "plan");
    let output = span.in_scope(|| access_plan(&policy, context.actions.systems(), &holdings))?;
    Ok(AttemptResult::Succeeded {
        output,
        verification: Verification::NotNeeded,
        proof: Proof {
            operation: Some("plan".to_owned()),
            policy: Some(policy.hash().to_owned()),
            ..Proof::default()
        },
    })
}

/// Plans the way from what somebody holds to what policy wants for them.
///
/// # Errors
/// A rule or a template that has no answer for this person: nothing is decided then.
fn access_plan(
    policy: &PolicySet,
    systems: &Systems,
    holdings: &Holdings,
) -> Result<Value, Failure> {
    let facts = identity_facts(holdings);
    let wanted =
        policy::evaluate(policy, &facts).map_err(|error| permanent("policy", error.to_string()))?;
    let plan = policy::plan(&wanted, &held(holdings, &wanted));
    let hash = policy.hash();
    let account = |system: &str| {
        let known = holdings
            .accounts
            .iter()
            .find(|account| account.system == system);
        json!({
            "system": system,
            "account": known.map(|account| &account.native_id),
            "name": known.map(|account| &account.name),
            "policy": hash,
        })
    };
    let mut going: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (system, entitlement) in &plan.grants_to_remove {
        going.entry(system).or_default().push(entitlement);
    }
    let mut update = Vec::new();
    for known in &holdings.accounts {
        let stays = known.status == AccountStatus::Active
            && !plan.accounts_to_disable.contains(&known.system);
        let Some(system) = systems.get(&known.system).filter(|_| stays) else {
            continue;
        };
        let attributes = system
            .attributes(policy, &facts)
            .map_err(|error| permanent("policy", error.to_string()))?;
        if known.attributes_digest.as_ref() != Some(&attributes_digest(&attributes)) {
            update.push(account(&known.system));
        }
    }
    Ok(json!({
        "policy": hash,
        "create": plan.create_accounts.iter().map(|wanted| json!({
            "system": wanted.system,
            "reasons": reasons(&wanted.reasons),
            "policy": hash,
        })).collect::<Vec<_>>(),
        "enable": plan.accounts_to_enable.iter().map(|wanted| account(&wanted.system)).collect::<Vec<_>>(),
        "update": update,
        "add": plan.grants_to_add.iter().map(|wanted| json!({
            "system": wanted.system,
            "entitlement": wanted.entitlement,
            "reasons": reasons(&wanted.reasons),
            "policy": hash,
            "after": going.get(wanted.system.as_str()),
        })).collect::<Vec<_>>(),
        "remove": plan.grants_to_remove.iter().map(|(system, entitlement)| {
            let mut item = account(system);
            if let Value::Object(fields) = &mut item {
                fields.insert("entitlement".to_owned(), json!(entitlement));
            }
            item
        }).collect::<Vec<_>>(),
        "disable": plan.accounts_to_disable.iter().map(|system| account(system)).collect::<Vec<_>>(),
        "reasons_changed": reasons_changed(&wanted, holdings),
    }))
}

/// What counts as held. What is uncertain counts as not held where it is wanted, so that it is made sure, and
/// as held where it is not, so that it is taken away.
fn held(holdings: &Holdings, wanted: &Wanted) -> Held {
    let mut held = Held::default();
    for account in &holdings.accounts {
        let wanted = wanted
            .accounts
            .iter()
            .any(|wanted| wanted.system == account.system);
        let enabled = match account.status {
            AccountStatus::Active => true,
            AccountStatus::Disabled => false,
            AccountStatus::Uncertain if !wanted => true,
            AccountStatus::Uncertain | AccountStatus::Planned | AccountStatus::Deleted => continue,
        };
        held.accounts.insert(account.system.clone(), enabled);
    }
    for grant in &holdings.grants {
        let key = policy::Grant {
            system: grant.system.clone(),
            entitlement: grant.entitlement.clone(),
        };
        let wanted = wanted
            .grants
            .iter()
            .any(|wanted| wanted.system == grant.system && wanted.entitlement == grant.entitlement);
        match grant.status {
            GrantStatus::Active => {}
            GrantStatus::Uncertain if !wanted => {}
            GrantStatus::Uncertain | GrantStatus::Planned | GrantStatus::Revoked => continue,
        }
        held.grants.insert(key, grant.held_by);
    }
    held
}

fn reasons(reasons: &[Reason]) -> Vec<GrantReason> {
    reasons
        .iter()
        .map(|reason| GrantReason {
            role: reason.role.clone(),
            via: if reason.via.len() > 1 {
                reason.via.clone()
            } else {
                Vec::new()
            },
        })
        .collect()
}

fn reasons_changed(wanted: &Wanted, holdings: &Holdings) -> Vec<Value> {
    wanted
        .grants
        .iter()
        .filter_map(|wanted| {
            let now = reasons(&wanted.reasons);
            let known = holdings.grants.iter().find(|grant| {
                grant.status == GrantStatus::Active
                    && grant.system == wanted.system
                    && grant.entitlement == wanted.entitlement
            })?;
            (known.reasons != now).then(|| {
                json!({
                    "system": wanted.system,
                    "entitlement": wanted.entitlement,
                    "reasons": now,
                })
            })
        })
        .collect()
}
