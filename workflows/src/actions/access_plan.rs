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
//! | `later` | `{system, entitlement, account, policy, due, reasons}`: rights that go at `due`: a role lets people hand over first |
//! | `disable_later` | `{system, account, name, policy, due}`: accounts that are needed until then |
//! | `review` | `{system, entitlement, account, policy, until}`: rights that were asked for and given, for somebody to look at |
//! | `keep` | `{system, entitlement}`: rights that were to go and are wanted again |
//! | `reasons_changed` | `{system, entitlement, reasons}`: rights that stay, for other reasons |
//!
//! and `stays`, how many wanted rights are held already, and `policy`, the version that decided. A person who is not active
//! is wanted nothing.
//!
//! Takes `{hand_over}`: `begin` where a case may follow that ends what people keep for a while, `go_on` where only ends that
//! stand already are kept to. Without it nothing waits: what goes goes at once. Takes `{review, review_within}`: whether
//! rights that were asked for are asked about now, and how long that may take (14 days). What is asked about stays so until
//! it is answered, whatever other plan comes in between.

use std::collections::{BTreeMap, BTreeSet};

use engine::core::Timestamp;
use engine::core::case::{Failure, Verification};
use engine::core::duration::Span;
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use serde_json::{Value, json};

use super::context::{Context, identity_facts, permanent};
use crate::directory::{AccountRow, AccountStatus, GrantReason, GrantRow, GrantStatus, Holdings};
use crate::policy::guard::{Effect, Operation};
use crate::policy::{self, Held, PolicySet, Reason, Wanted};
use crate::systems::{Systems, attributes_digest};

/// How long a question about a right may take where the step does not say.
const REVIEW_WITHIN: Span = Span::from_s(14 * 24 * 60 * 60);

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let holdings = context.holdings().await?;
    let policy = context.policy();
    let span = tracing::debug_span!(target: engine::runner::TRACE, "plan");
    let moment = Moment {
        effective_at: context
            .attempt
            .effective_at
            .unwrap_or(context.attempt.received_at),
        now: context.actions.clock().now(),
    };
    let patience = patience(context)?;
    let systems = context.actions.systems();
    let planned = span.in_scope(|| access_plan(&policy, systems, &holdings, moment, patience));
    let output = planned.map_err(|undecided| match undecided {
        Undecided::Policy(no) => context.undecided(&holdings.identity, &no.message, &no.why),
        Undecided::Required(name) => context.wants(
            &holdings.identity,
            &name,
            "policy gives nobody a first account without it",
        ),
    })?;
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

/// When a plan is made, and from when on it holds.
#[derive(Debug, Clone, Copy)]
struct Moment {
    effective_at: Timestamp,
    now: Timestamp,
}

/// What the case may leave for one that follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HandOver {
    /// Nothing: no case follows.
    Never,
    /// Only what an earlier plan left.
    GoOn,
    Begin,
}

/// How much may wait.
#[derive(Debug, Clone, Copy)]
struct Patience {
    hand_over: HandOver,
    /// Rights that were asked for are asked about.
    review: bool,
    review_within: Span,
}

fn patience(context: &Context<'_>) -> Result<Patience, Failure> {
    let hand_over = match context.text("hand_over") {
        None => HandOver::Never,
        Some("begin") => HandOver::Begin,
        Some("go_on") => HandOver::GoOn,
        Some(other) => {
            let message =
                format!("`hand_over` is `{other}`; write `begin` or `go_on`, or leave it out");
            return Err(permanent("parameter", message));
        }
    };
    let review_within = match context.text("review_within") {
        None => REVIEW_WITHIN,
        Some(text) => Span::parse(text)
            .map_err(|error| permanent("parameter", format!("`review_within`: {error}")))?,
    };
    Ok(Patience {
        hand_over,
        review: context.truth("review"),
        review_within,
    })
}

/// Why there is no plan: nothing is guessed.
enum Undecided {
    /// A rule or a template has no answer for this person.
    Policy(NoAnswer),
    /// Policy wants this attribute of everybody who is given a first account.
    Required(String),
}

/// A rule or a template has no answer for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoAnswer {
    /// Which: `role `x``, or what of accounts on which system.
    pub rule: String,
    /// Without where it stands.
    message: String,
    pub why: String,
}

impl NoAnswer {
    /// The attribute that it asks for and the person has not, if that is why.
    pub fn attribute(&self) -> Option<&str> {
        policy::missing_attribute(&self.message)
    }

    fn of_rule(error: &policy::EvaluationError) -> Self {
        Self {
            rule: format!("role `{}`", error.role),
            message: error.message.clone(),
            why: error.to_string(),
        }
    }

    fn of_template(error: &policy::TemplateError) -> Self {
        Self {
            rule: format!("{} of accounts on `{}`", error.what, error.system),
            message: error.message.clone(),
            why: error.to_string(),
        }
    }
}

/// Plans the way from what somebody holds to what policy wants for them.
fn access_plan(
    policy: &PolicySet,
    systems: &Systems,
    holdings: &Holdings,
    moment: Moment,
    patience: Patience,
) -> Result<Value, Undecided> {
    let facts = identity_facts(holdings);
    if let Some(name) = required(policy, &facts, holdings) {
        return Err(Undecided::Required(name));
    }
    let wanted = policy::evaluate(policy, &facts)
        .map_err(|error| Undecided::Policy(NoAnswer::of_rule(&error)))?;
    let mut plan = policy::plan(&wanted, &held(holdings, &wanted, moment.now));
    let hash = policy.hash();
    // On leave the account is closed anyway: nobody hands anything over.
    let later = if wanted.active && wanted.suspended.is_none() {
        handed_over(policy, holdings, &wanted, &mut plan, moment, patience)
    } else {
        Later::default()
    };
    let review = reviewed(policy, holdings, &wanted, &mut plan, moment, patience);
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
    let moves = policy.moves();
    let grant = |system: &str, entitlement: &str| policy::Grant {
        system: system.to_owned(),
        entitlement: entitlement.to_owned(),
    };
    // On each system what goes goes before what comes, or the other way round.
    let after = |system: &str, entitlement: &str| -> Vec<&str> {
        let new = grant(system, entitlement);
        plan.grants_to_remove
            .iter()
            .filter(|(going, old)| going == system && moves.goes_first(&grant(going, old), &new))
            .map(|(_, old)| old.as_str())
            .collect()
    };
    let after_added = |system: &str, entitlement: &str| -> Vec<&str> {
        let old = grant(system, entitlement);
        // What a new right waits for waits for nothing itself: two such pairs would wait for each other.
        if moves.excludes_any(&old, &plan.grants_to_add) {
            return Vec::new();
        }
        plan.grants_to_add
            .iter()
            .filter(|new| {
                let new = grant(&new.system, &new.entitlement);
                new.system == system && !moves.goes_first(&old, &new)
            })
            .map(|new| new.entitlement.as_str())
            .collect()
    };
    let update = outdated(policy, systems, holdings, &facts, &plan).map_err(Undecided::Policy)?;
    let update: Vec<Value> = update.iter().map(|known| account(&known.system)).collect();
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
            "after": some(after(&wanted.system, &wanted.entitlement)),
        })).collect::<Vec<_>>(),
        "remove": plan.grants_to_remove.iter().map(|(system, entitlement)| {
            let mut item = account(system);
            if let Value::Object(fields) = &mut item {
                fields.insert("entitlement".to_owned(), json!(entitlement));
                if let Some(after) = some(after_added(system, entitlement)) {
                    fields.insert("after_added".to_owned(), json!(after));
                }
            }
            item
        }).collect::<Vec<_>>(),
        "later": later.grants.iter().map(|(grant, due)| {
            let mut item = account(&grant.system);
            if let Value::Object(fields) = &mut item {
                fields.insert("entitlement".to_owned(), json!(grant.entitlement));
                fields.insert("due".to_owned(), json!(due.to_rfc3339()));
                let held = active(holdings, &grant.system, &grant.entitlement);
                fields.insert("reasons".to_owned(), json!(held.map(|held| &held.reasons)));
            }
            item
        }).collect::<Vec<_>>(),
        "disable_later": later.accounts.iter().map(|(system, due)| {
            let mut item = account(system);
            if let Value::Object(fields) = &mut item {
                fields.insert("due".to_owned(), json!(due.to_rfc3339()));
            }
            item
        }).collect::<Vec<_>>(),
        "review": review.iter().map(|(grant, until)| {
            let mut item = account(&grant.system);
            if let Value::Object(fields) = &mut item {
                fields.insert("entitlement".to_owned(), json!(grant.entitlement));
                fields.insert("until".to_owned(), json!(until.to_rfc3339()));
            }
            item
        }).collect::<Vec<_>>(),
        "keep": wanted.grants.iter().filter(|wanted| {
            let held = active(holdings, &wanted.system, &wanted.entitlement);
            held.is_some_and(|held| held.until.is_some())
        }).map(|wanted| json!({
            "system": wanted.system,
            "entitlement": wanted.entitlement,
        })).collect::<Vec<_>>(),
        "stays": wanted.grants.len() - plan.grants_to_add.len(),
        "disable": plan.accounts_to_disable.iter().map(|system| account(system)).collect::<Vec<_>>(),
        "reasons_changed": reasons_changed(&wanted, holdings),
    }))
}

/// The accounts that stay and have other attributes than their template makes now.
fn outdated<'a>(
    policy: &PolicySet,
    systems: &Systems,
    holdings: &'a Holdings,
    facts: &policy::IdentityFacts,
    plan: &policy::Plan,
) -> Result<Vec<&'a AccountRow>, NoAnswer> {
    let mut outdated = Vec::new();
    for known in &holdings.accounts {
        let stays = known.status == AccountStatus::Active
            && !plan.accounts_to_disable.contains(&known.system);
        let Some(system) = systems.get(&known.system).filter(|_| stays) else {
            continue;
        };
        let attributes = system
            .attributes(policy, facts)
            .map_err(|error| NoAnswer::of_template(&error))?;
        if known.attributes_digest.as_ref() != Some(&attributes_digest(&attributes)) {
            outdated.push(known);
        }
    }
    Ok(outdated)
}

/// What bringing somebody in line with a policy would do at `now`, for whoever looks at everybody. `None`: nothing at all. What
/// is being handed over until a day that stands counts as in line.
///
/// # Errors
/// Which rule or template has no answer.
pub(crate) fn difference(
    policy: &PolicySet,
    systems: &Systems,
    holdings: &Holdings,
    now: Timestamp,
) -> Result<Option<Vec<Effect>>, NoAnswer> {
    let (wanted, plan) = in_line(policy, holdings, now)?;
    let facts = identity_facts(holdings);
    let outdated = outdated(policy, systems, holdings, &facts, &plan)?;
    let kept = wanted.grants.iter().any(|wanted| {
        active(holdings, &wanted.system, &wanted.entitlement)
            .is_some_and(|held| held.until.is_some())
    });
    let effects = effects(&plan, holdings);
    let differs = !effects.is_empty()
        || !outdated.is_empty()
        || kept
        || !reasons_changed(&wanted, holdings).is_empty();
    Ok(differs.then_some(effects))
}

/// What that would give and take alone.
///
/// # Errors
/// Which rule has no answer.
pub(crate) fn access_effects(
    policy: &PolicySet,
    holdings: &Holdings,
    now: Timestamp,
) -> Result<Vec<Effect>, String> {
    let (_, plan) = in_line(policy, holdings, now).map_err(|no| no.why)?;
    Ok(effects(&plan, holdings))
}

/// The plan of a case that begins at `now`, without what an earlier one left for later.
fn in_line(
    policy: &PolicySet,
    holdings: &Holdings,
    now: Timestamp,
) -> Result<(Wanted, policy::Plan), NoAnswer> {
    let facts = identity_facts(holdings);
    let wanted = policy::evaluate(policy, &facts).map_err(|error| NoAnswer::of_rule(&error))?;
    let mut plan = policy::plan(&wanted, &held(holdings, &wanted, now));
    let moment = Moment {
        effective_at: now,
        now,
    };
    let patience = Patience {
        hand_over: HandOver::GoOn,
        review: false,
        review_within: REVIEW_WITHIN,
    };
    if wanted.active && wanted.suspended.is_none() {
        handed_over(policy, holdings, &wanted, &mut plan, moment, patience);
    }
    reviewed(policy, holdings, &wanted, &mut plan, moment, patience);
    Ok((wanted, plan))
}

/// What a plan gives and takes, as the guard counts it.
fn effects(plan: &policy::Plan, holdings: &Holdings) -> Vec<Effect> {
    let roles = |reasons: &[Reason]| reasons.iter().map(|reason| reason.role.clone()).collect();
    let opened = plan.create_accounts.iter().chain(&plan.accounts_to_enable);
    let opened = opened.map(|account| Effect {
        operation: Operation::AccountCreate,
        system: Some(account.system.clone()),
        entitlement: None,
        roles: roles(&account.reasons),
    });
    let closed = plan.accounts_to_disable.iter().map(|system| Effect {
        operation: Operation::AccountClose,
        system: Some(system.clone()),
        entitlement: None,
        roles: BTreeSet::new(),
    });
    let given = plan.grants_to_add.iter().map(|grant| Effect {
        operation: Operation::GrantGive,
        system: Some(grant.system.clone()),
        entitlement: Some(grant.entitlement.clone()),
        roles: roles(&grant.reasons),
    });
    let taken = plan.grants_to_remove.iter().map(|(system, entitlement)| {
        let held = active(holdings, system, entitlement);
        let by = held.iter().flat_map(|held| &held.reasons);
        Effect {
            operation: Operation::GrantTake,
            system: Some(system.clone()),
            entitlement: Some(entitlement.clone()),
            roles: by.map(|why| why.role.clone()).collect(),
        }
    });
    opened.chain(closed).chain(given).chain(taken).collect()
}

/// A list, unless it is empty.
fn some(list: Vec<&str>) -> Option<Vec<&str>> {
    (!list.is_empty()).then_some(list)
}

/// An attribute that policy wants of everybody before they get a first account, and this person has not.
fn required(
    policy: &PolicySet,
    facts: &policy::IdentityFacts,
    holdings: &Holdings,
) -> Option<String> {
    // Somebody who has accounts moves: what goes must not wait for what is not known.
    let first = !holdings.accounts.iter().any(|account| {
        matches!(
            account.status,
            AccountStatus::Active | AccountStatus::Disabled | AccountStatus::Uncertain
        )
    });
    let known = |name: &str| {
        let value = facts.attributes.get(name);
        !matches!(value, None | Some(Value::Null)) && value.and_then(Value::as_str) != Some("")
    };
    policy
        .attributes()
        .iter()
        .filter(|(name, attribute)| attribute.required && first && facts.active && !known(name))
        .map(|(name, _)| name.clone())
        .next()
}

/// What goes only after some time, and the accounts that are needed until then.
#[derive(Default)]
struct Later {
    grants: BTreeMap<policy::Grant, Timestamp>,
    accounts: BTreeMap<String, Timestamp>,
}

/// Takes out of the plan what a role lets people keep for a while. The time counts from when the move took effect; a
/// second move inside of it moves no end that stands already.
fn handed_over(
    policy: &PolicySet,
    holdings: &Holdings,
    wanted: &Wanted,
    plan: &mut policy::Plan,
    moment: Moment,
    patience: Patience,
) -> Later {
    let mut later = Later::default();
    if patience.hand_over == HandOver::Never {
        return later;
    }
    plan.grants_to_remove.retain(|(system, entitlement)| {
        let Some(held) = active(holdings, system, entitlement) else {
            return true;
        };
        let given_by = held.reasons.iter().filter_map(|why| policy.role(&why.role));
        let Some(grace) = given_by.filter_map(|role| role.grace).max() else {
            return true;
        };
        let own = moment.effective_at + grace.delta();
        let due = match held.until {
            Some(stands) => stands.min(own),
            None if patience.hand_over == HandOver::Begin => own,
            None => return true,
        };
        let grant = policy::Grant {
            system: system.clone(),
            entitlement: entitlement.clone(),
        };
        // What must never be held together is never left to be handed over.
        if due <= moment.now || policy.moves().excludes_any(&grant, &wanted.grants) {
            return true;
        }
        later.grants.insert(grant, due);
        false
    });
    plan.accounts_to_disable.retain(|system| {
        let kept = later
            .grants
            .iter()
            .filter(|(grant, _)| grant.system == *system);
        match kept.map(|(_, due)| *due).max() {
            Some(due) => {
                later.accounts.insert(system.clone(), due);
                false
            }
            None => true,
        }
    });
    later
}

/// Rights that no role gives, because somebody asked for them, and that somebody is to look at; until when. What must not
/// be held with what comes goes at once, and so does what nobody confirmed in time.
fn reviewed(
    policy: &PolicySet,
    holdings: &Holdings,
    wanted: &Wanted,
    plan: &mut policy::Plan,
    moment: Moment,
    patience: Patience,
) -> BTreeMap<policy::Grant, Timestamp> {
    let mut review = BTreeMap::new();
    if !wanted.active || patience.hand_over == HandOver::Never {
        return review;
    }
    let asked_for = holdings.grants.iter().filter(|held| {
        held.status == GrantStatus::Active
            && held.held_by == policy::HeldBy::Exception
            && !held.is_over(moment.now)
            && !wants(wanted, &held.system, &held.entitlement)
    });
    for held in asked_for {
        let grant = policy::Grant {
            system: held.system.clone(),
            entitlement: held.entitlement.clone(),
        };
        let from = moment.effective_at.max(moment.now);
        let until = match held.until {
            _ if policy.moves().excludes_any(&grant, &wanted.grants) => moment.now,
            Some(stands) => stands,
            None if patience.review => from + patience.review_within.delta(),
            None => continue,
        };
        // Nobody is asked for longer than it has.
        let until = held.exception_until.map_or(until, |end| end.min(until));
        if until > moment.now {
            review.insert(grant, until);
        } else {
            plan.grants_to_remove
                .push((grant.system, grant.entitlement));
        }
    }
    plan.grants_to_remove.sort();
    review
}

/// The right, if the person has it.
fn active<'a>(holdings: &'a Holdings, system: &str, entitlement: &str) -> Option<&'a GrantRow> {
    holdings.grants.iter().find(|held| {
        held.status == GrantStatus::Active
            && held.system == system
            && held.entitlement == entitlement
    })
}

fn wants(wanted: &Wanted, system: &str, entitlement: &str) -> bool {
    let mut grants = wanted.grants.iter();
    grants.any(|wanted| wanted.system == system && wanted.entitlement == entitlement)
}

/// What counts as held. What is uncertain counts as not held where it is wanted, so that it is made sure, and
/// as held where it is not, so that it is taken away. An exception whose end has come is a right like one of a role: it goes
/// unless one gives it.
fn held(holdings: &Holdings, wanted: &Wanted, now: Timestamp) -> Held {
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
        let wanted = wants(wanted, &grant.system, &grant.entitlement);
        match grant.status {
            GrantStatus::Active => {}
            GrantStatus::Uncertain if !wanted => {}
            GrantStatus::Uncertain | GrantStatus::Planned | GrantStatus::Revoked => continue,
        }
        let by = if grant.is_over(now) {
            policy::HeldBy::Policy
        } else {
            grant.held_by
        };
        held.grants.insert(key, by);
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
