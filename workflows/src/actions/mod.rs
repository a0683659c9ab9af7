//! What the steps of workflows do: one action a file, named after `uses:`.
//!
//! | action | does |
//! |---|---|
//! | `access.plan` | compares what policy wants with what is held |
//! | `account.create`, `.update`, `.enable`, `.disable`, `.delete` | one account on one system |
//! | `case.follow` | starts a case of another workflow for the person, after this one |
//! | `certification.plan` | compares what a review of access decided with what is held |
//! | `deletion.plan` | starts the case that deletes accounts when their time is over |
//! | `grant.add`, `grant.revoke` | one right on one system |
//! | `grant.keep` | one right that was asked about stays |
//! | `sessions.revoke` | ends what is open on one system |
//! | `credentials.revoke` | ends keys, tokens, certificates and passwords on one system |
//! | `approvals.reroute` | puts the questions that wait for the person to somebody else |
//! | `dependencies.check`, `.settle`, `.rebind` | what hangs on somebody beside their accounts: seen, and seen to |
//! | `ownership.transfer` | hands what an account owns to somebody who stays |
//! | `identity.activate`, `identity.leave` | where the person stands |
//! | `identity.separate` | keeps that somebody decided that a key is nobody who was known |
//! | `contract.extend` | moves the end of a contract that was asked and approved |
//! | `notify` | tells somebody |
//! | `identity.regroup` | goes on with a merge of identities, or the end of one |
//! | `retirement.*` | one step of the end of a non-human identity ([`retirement`]) |
//! | `rotation.*` | one step of replacing a credential ([`rotation`]) |
//! | `noop` | nothing, for measuring |
//!
//! Parameters come from `with:` and, for what that leaves out, from the `item` of `for_each:`. Every action on a
//! system reads back what it did ([`apply`]); none retries, the engine does.

mod access_plan;
mod account_create;
mod account_delete;
mod account_state;
mod account_update;
mod apply;
mod approvals_reroute;
mod case_follow;
mod certification_plan;
mod context;
mod contract_extend;
mod credentials_revoke;
mod deletion_plan;
mod dependencies;
mod grant_add;
mod grant_keep;
mod grant_revoke;
mod notify;
mod ownership_transfer;
mod protected;
mod recent;
mod regroup;
mod retirement;
mod rotation;
mod separate;
mod sessions_revoke;

#[cfg(test)]
mod dependency_tests;
#[cfg(test)]
mod exception_tests;
#[cfg(test)]
mod leaving_tests;
#[cfg(test)]
mod moving_tests;
#[cfg(test)]
mod retirement_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use engine::core::case::Failure;
use engine::core::id::Subject;
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use engine::runner::{Actions, Attempt, Availability, Clock, Resource};
use serde_json::{Map, Value, json};

pub(crate) use self::access_plan::{NoAnswer, access_effects, difference};
pub use self::protected::APPROVED_BY;

use self::context::{Context, database, not_needed, permanent};
use self::recent::Recent;
use crate::directory::{AccountStatus, Directory, GrantStatus, Holdings};
use crate::intake::Intake;
use crate::policy::PolicySet;
use crate::systems::Systems;

/// The names after `uses:`.
pub mod name {
    pub const ACCESS_PLAN: &str = "access.plan";
    pub const ACCOUNT_CREATE: &str = "account.create";
    pub const ACCOUNT_UPDATE: &str = "account.update";
    pub const ACCOUNT_ENABLE: &str = "account.enable";
    pub const ACCOUNT_DISABLE: &str = "account.disable";
    pub const ACCOUNT_DELETE: &str = "account.delete";
    pub const GRANT_ADD: &str = "grant.add";
    pub const GRANT_REVOKE: &str = "grant.revoke";
    pub const GRANT_KEEP: &str = "grant.keep";
    pub const SESSIONS_REVOKE: &str = "sessions.revoke";
    pub const CREDENTIALS_REVOKE: &str = "credentials.revoke";
    pub const OWNERSHIP_TRANSFER: &str = "ownership.transfer";
    pub const DEPENDENCIES_CHECK: &str = "dependencies.check";
    pub const DEPENDENCIES_SETTLE: &str = "dependencies.settle";
    pub const DEPENDENCIES_REBIND: &str = "dependencies.rebind";
    pub const DELETION_PLAN: &str = "deletion.plan";
    pub const APPROVALS_REROUTE: &str = "approvals.reroute";
    pub const CERTIFICATION_PLAN: &str = "certification.plan";
    pub const CASE_FOLLOW: &str = "case.follow";
    pub const IDENTITY_ACTIVATE: &str = "identity.activate";
    pub const IDENTITY_LEAVE: &str = "identity.leave";
    pub const NOTIFY: &str = "notify";
    pub const IDENTITY_REGROUP: &str = "identity.regroup";
    pub const IDENTITY_SEPARATE: &str = "identity.separate";
    pub const CONTRACT_EXTEND: &str = "contract.extend";
    pub const RETIREMENT_LOOK: &str = "retirement.look";
    pub const RETIREMENT_REHEARSE: &str = "retirement.rehearse";
    pub const RETIREMENT_DISABLE: &str = "retirement.disable";
    pub const RETIREMENT_ENABLE: &str = "retirement.enable";
    pub const RETIREMENT_MARK: &str = "retirement.mark";
    pub const RETIREMENT_UNMARK: &str = "retirement.unmark";
    pub const RETIREMENT_LISTEN: &str = "retirement.listen";
    pub const RETIREMENT_DELETE: &str = "retirement.delete";
    pub const RETIREMENT_RETIRE: &str = "retirement.retire";
    pub const NOOP: &str = "noop";
    /// What all steps of a rotation begin with.
    pub const ROTATION: &str = "rotation.";
    pub const ROTATION_PREFLIGHT: &str = "rotation.preflight";
    pub const ROTATION_MINT: &str = "rotation.mint";
    pub const ROTATION_DROP: &str = "rotation.drop";
    pub const ROTATION_OPEN: &str = "rotation.open";
    pub const ROTATION_SHUT: &str = "rotation.shut";
    pub const ROTATION_STAGE: &str = "rotation.stage";
    pub const ROTATION_UNSTAGE: &str = "rotation.unstage";
    pub const ROTATION_ISSUE: &str = "rotation.issue";
    pub const ROTATION_WITHDRAW: &str = "rotation.withdraw";
    pub const ROTATION_SERVE: &str = "rotation.serve";
    pub const ROTATION_VERIFY: &str = "rotation.verify";
    pub const ROTATION_PROMOTE: &str = "rotation.promote";
    pub const ROTATION_DEMOTE: &str = "rotation.demote";
    pub const ROTATION_SWITCH: &str = "rotation.switch";
    pub const ROTATION_SWITCH_BACK: &str = "rotation.switch_back";
    pub const ROTATION_QUIESCE: &str = "rotation.quiesce";
    pub const ROTATION_DISABLE_OLD: &str = "rotation.disable_old";
    pub const ROTATION_ENABLE_OLD: &str = "rotation.enable_old";
    pub const ROTATION_CONTAIN_OLD: &str = "rotation.contain_old";
    pub const ROTATION_CONTAIN_NEW: &str = "rotation.contain_new";
    pub const ROTATION_SOAK: &str = "rotation.soak";
    pub const ROTATION_DESTROY_OLD: &str = "rotation.destroy_old";
    pub const ROTATION_CLEAN: &str = "rotation.clean";
    pub const ROTATION_GENERATE: &str = "rotation.generate";
    pub const ROTATION_DISCARD: &str = "rotation.discard";
    pub const ROTATION_TRUST: &str = "rotation.trust";
    pub const ROTATION_UNTRUST: &str = "rotation.untrust";
    pub const ROTATION_TRUSTED: &str = "rotation.trusted";
    pub const ROTATION_SIGN: &str = "rotation.sign";
    pub const ROTATION_SIGN_BACK: &str = "rotation.sign_back";
    pub const ROTATION_RENEW: &str = "rotation.renew";
    pub const ROTATION_UNNEEDED: &str = "rotation.unneeded";
    pub const ROTATION_DISTRUST: &str = "rotation.distrust";
    pub const ROTATION_RETRUST: &str = "rotation.retrust";
    pub const ROTATION_DISTRUSTED: &str = "rotation.distrusted";
}

/// Every action, with a sentence for people.
pub const ACTIONS: [(&str, &str); 70] = [
    (
        name::ACCESS_PLAN,
        "compares what policy wants for the person with what they hold",
    ),
    (
        name::ACCOUNT_CREATE,
        "makes the person's account on `system`, or adopts the one they have",
    ),
    (
        name::ACCOUNT_UPDATE,
        "writes the attributes of the account template again",
    ),
    (
        name::ACCOUNT_ENABLE,
        "lets the account on `system` be used again",
    ),
    (
        name::ACCOUNT_DISABLE,
        "makes every new login to the account on `system` fail",
    ),
    (
        name::ACCOUNT_DELETE,
        "deletes the account on `system`, unless a legal hold stands",
    ),
    (
        name::GRANT_ADD,
        "gives `entitlement` on `system`, once the account is there",
    ),
    (name::GRANT_REVOKE, "takes `entitlement` on `system`"),
    (
        name::GRANT_KEEP,
        "lets the person keep `entitlement` on `system`, which was asked about",
    ),
    (
        name::SESSIONS_REVOKE,
        "ends what the person has open on `system`",
    ),
    (
        name::CREDENTIALS_REVOKE,
        "ends the keys, tokens, certificates and passwords of the account on `system`",
    ),
    (
        name::OWNERSHIP_TRANSFER,
        "hands what the account on `system` owns to somebody who stays",
    ),
    (
        name::DEPENDENCIES_CHECK,
        "looks at what hangs on the person beside their accounts: what they own, know and made",
    ),
    (
        name::DEPENDENCIES_SETTLE,
        "sees to one piece of what hangs on the person, or asks who can",
    ),
    (
        name::DEPENDENCIES_REBIND,
        "asks to bind anew what needs the person's own keys on `system`",
    ),
    (
        name::DELETION_PLAN,
        "starts the case that deletes accounts when their systems no longer keep them",
    ),
    (
        name::APPROVALS_REROUTE,
        "puts the questions that wait for the person to somebody who can answer them",
    ),
    (
        name::CASE_FOLLOW,
        "starts a case of `workflow` for the person, after this one",
    ),
    (
        name::CERTIFICATION_PLAN,
        "compares what reviews of access decided with what the person holds",
    ),
    (name::IDENTITY_ACTIVATE, "the person has begun"),
    (
        name::IDENTITY_LEAVE,
        "the person is leaving: nothing may be given any more",
    ),
    (name::NOTIFY, "tells `to`: by mail, by webhook, or both"),
    (
        name::IDENTITY_REGROUP,
        "goes on with a merge of two identities, or with taking one back",
    ),
    (
        name::IDENTITY_SEPARATE,
        "keeps that somebody decided that a key is nobody who was known",
    ),
    (
        name::CONTRACT_EXTEND,
        "moves the end of a contract, as it was asked and approved",
    ),
    (
        name::RETIREMENT_LOOK,
        "looks at what hangs on the non-human identity `input.nhi`, and finds its accounts",
    ),
    (
        name::RETIREMENT_REHEARSE,
        "puts `account` on `system` out of use and back, and measures how long that takes",
    ),
    (
        name::RETIREMENT_DISABLE,
        "puts `account` of a non-human identity out of use",
    ),
    (
        name::RETIREMENT_ENABLE,
        "puts `account` of a non-human identity back into use",
    ),
    (
        name::RETIREMENT_MARK,
        "says that the non-human identity is out of use and watched",
    ),
    (
        name::RETIREMENT_UNMARK,
        "says that the non-human identity is in use again",
    ),
    (
        name::RETIREMENT_LISTEN,
        "waits until `until` while nothing misses the non-human identity",
    ),
    (
        name::RETIREMENT_DELETE,
        "deletes `account` of a non-human identity for good",
    ),
    (
        name::RETIREMENT_RETIRE,
        "says that nobody expects the non-human identity any more",
    ),
    (
        name::ROTATION_PREFLIGHT,
        "looks whether `input.credential` can be replaced, and how",
    ),
    (
        name::ROTATION_MINT,
        "makes the new secret of `plan` and keeps it in its place",
    ),
    (
        name::ROTATION_DROP,
        "removes a new secret that nobody reads from its place",
    ),
    (
        name::ROTATION_OPEN,
        "lets the login name whose turn it is log in",
    ),
    (name::ROTATION_SHUT, "takes `rotation.open` back"),
    (
        name::ROTATION_STAGE,
        "gives the system the new secret, as its place keeps it",
    ),
    (
        name::ROTATION_UNSTAGE,
        "takes the new secret from the system",
    ),
    (
        name::ROTATION_ISSUE,
        "has the system issue the new credential into its place",
    ),
    (
        name::ROTATION_WITHDRAW,
        "destroys what `rotation.issue` issued",
    ),
    (
        name::ROTATION_SERVE,
        "waits until whoever connects is shown the new certificate",
    ),
    (name::ROTATION_VERIFY, "logs in with the new credential"),
    (
        name::ROTATION_PROMOTE,
        "makes the place show the new credential",
    ),
    (
        name::ROTATION_DEMOTE,
        "makes the place show the old credential again, if it works",
    ),
    (
        name::ROTATION_SWITCH,
        "puts the new secret in place of the old one, in the system and in its place",
    ),
    (
        name::ROTATION_SWITCH_BACK,
        "puts the old secret back, in the system and in its place",
    ),
    (
        name::ROTATION_QUIESCE,
        "waits until nothing uses the old credential",
    ),
    (
        name::ROTATION_DISABLE_OLD,
        "puts the old credential out of use, once the new one works",
    ),
    (
        name::ROTATION_ENABLE_OLD,
        "puts the old credential back into use",
    ),
    (
        name::ROTATION_CONTAIN_OLD,
        "ends what is open with the old credential",
    ),
    (
        name::ROTATION_CONTAIN_NEW,
        "ends what is open under the name that gets a new secret, before anybody reads that",
    ),
    (
        name::ROTATION_SOAK,
        "looks whether the new credential works before the old one goes",
    ),
    (
        name::ROTATION_DESTROY_OLD,
        "ends the old credential for good, or asks somebody to",
    ),
    (
        name::ROTATION_CLEAN,
        "removes the old credential from its place",
    ),
    (
        name::ROTATION_GENERATE,
        "makes the next authority of `plan`, which signs nothing yet",
    ),
    (
        name::ROTATION_DISCARD,
        "destroys the authority that `rotation.generate` made",
    ),
    (
        name::ROTATION_TRUST,
        "makes the place `system`, `bundle` show the roots of both authorities",
    ),
    (
        name::ROTATION_UNTRUST,
        "takes the new root out of the bundle of a place",
    ),
    (
        name::ROTATION_TRUSTED,
        "looks whether every place shows both roots, and tries both",
    ),
    (
        name::ROTATION_SIGN,
        "makes the new authority the one that signs",
    ),
    (
        name::ROTATION_SIGN_BACK,
        "makes the old authority sign again, and has issued anew what the new one signed",
    ),
    (
        name::ROTATION_RENEW,
        "has everything issued anew that the old authority signed",
    ),
    (
        name::ROTATION_UNNEEDED,
        "waits until nothing needs the old authority",
    ),
    (
        name::ROTATION_DISTRUST,
        "takes the old root out of the bundle of a place",
    ),
    (
        name::ROTATION_RETRUST,
        "puts the old root back into the bundle of a place",
    ),
    (
        name::ROTATION_DISTRUSTED,
        "looks whether no place shows the old root, and nothing misses it",
    ),
    (name::NOOP, "does nothing, durably"),
];

/// What expressions in workflows may read beside `input`, `steps`, `case` and `item`.
pub const FACT_ROOTS: &[&str] = &["identity"];

/// Whether an action exists.
#[must_use]
pub fn exists(uses: &str) -> bool {
    ACTIONS.iter().any(|(name, _)| *name == uses)
}

/// The actions on the configured systems, under the current policy.
pub struct IdentityActions {
    directory: Directory,
    systems: Arc<Systems>,
    policy: RwLock<Arc<PolicySet>>,
    clock: Arc<dyn Clock>,
    recent: Recent,
    intake: Option<Intake>,
}

impl IdentityActions {
    #[must_use]
    pub fn new(
        directory: Directory,
        systems: Arc<Systems>,
        policy: Arc<PolicySet>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            directory,
            systems,
            policy: RwLock::new(policy),
            clock,
            recent: Recent::default(),
            intake: None,
        }
    }

    /// With what merges go on through.
    #[must_use]
    pub fn with_intake(self, intake: Intake) -> Self {
        Self {
            intake: Some(intake),
            ..self
        }
    }

    /// Puts another policy into force for every plan made from now on.
    pub fn set_policy(&self, policy: Arc<PolicySet>) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = policy;
    }

    /// The systems it acts on.
    #[must_use]
    pub fn systems_shared(&self) -> Arc<Systems> {
        Arc::clone(&self.systems)
    }

    fn policy(&self) -> Arc<PolicySet> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn directory(&self) -> &Directory {
        &self.directory
    }

    fn systems(&self) -> &Systems {
        &self.systems
    }

    fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    fn intake(&self) -> Option<&Intake> {
        self.intake.as_ref()
    }

    fn recent(&self) -> &Recent {
        &self.recent
    }

    async fn dispatch(&self, context: &Context<'_>) -> Result<AttemptResult, Failure> {
        protected::check(context).await?;
        if let Some(result) = Box::pin(retirement::run(context)).await {
            return result;
        }
        if context.attempt.uses.starts_with(name::ROTATION)
            && let Some(result) = Box::pin(rotation::run(context)).await
        {
            return result;
        }
        match context.attempt.uses.as_str() {
            name::ACCESS_PLAN => access_plan::run(context).await,
            name::ACCOUNT_CREATE => account_create::run(context).await,
            name::ACCOUNT_UPDATE => account_update::run(context).await,
            name::ACCOUNT_ENABLE => account_state::enable(context).await,
            name::ACCOUNT_DISABLE => account_state::disable(context).await,
            name::ACCOUNT_DELETE => account_delete::run(context).await,
            name::GRANT_ADD => grant_add::run(context).await,
            name::GRANT_REVOKE => grant_revoke::run(context).await,
            name::SESSIONS_REVOKE => sessions_revoke::run(context).await,
            name::NOTIFY => notify::run(context.attempt),
            name::CREDENTIALS_REVOKE => credentials_revoke::run(context).await,
            name::OWNERSHIP_TRANSFER => ownership_transfer::run(context).await,
            name::DEPENDENCIES_CHECK => dependencies::run(context).await,
            name::DEPENDENCIES_SETTLE => dependencies::settle(context).await,
            name::DEPENDENCIES_REBIND => dependencies::rebind(context).await,
            name::DELETION_PLAN => deletion_plan::run(context).await,
            name::APPROVALS_REROUTE => approvals_reroute::run(context).await,
            name::IDENTITY_REGROUP => regroup::run(context).await,
            name::GRANT_KEEP => grant_keep::run(context).await,
            name::CERTIFICATION_PLAN => certification_plan::run(context).await,
            name::CASE_FOLLOW => case_follow::run(context).await,
            name::CONTRACT_EXTEND => contract_extend::run(context).await,
            name::IDENTITY_SEPARATE => separate::run(context),
            // The projection of the finished step changes the directory; nothing outside is touched.
            name::IDENTITY_ACTIVATE | name::IDENTITY_LEAVE | name::NOOP => {
                Ok(not_needed(Value::Null))
            }
            other => Err(permanent(
                "unknown_action",
                format!("there is no action `{other}`; see `tenure workflow actions`"),
            )),
        }
    }
}

#[async_trait]
impl Actions for IdentityActions {
    fn exists(&self, uses: &str) -> bool {
        exists(uses)
    }

    fn fact_roots(&self) -> Vec<&'static str> {
        FACT_ROOTS.to_vec()
    }

    async fn facts(
        &self,
        subject: &Subject,
        _input: &Value,
        roots: &BTreeSet<String>,
    ) -> Result<Value, Failure> {
        let mut facts = Map::new();
        if roots.contains("identity") {
            let holdings = self
                .directory
                .holdings(&subject.0)
                .await
                .map_err(|error| database(&error))?
                .ok_or_else(|| {
                    permanent(
                        "unknown_identity",
                        format!("there is no identity `{subject}`"),
                    )
                })?;
            facts.insert("identity".to_owned(), identity_root(&holdings));
        }
        Ok(Value::Object(facts))
    }

    fn resource(&self, attempt: &Attempt) -> Option<Resource> {
        // It names a system and asks only the directory.
        if attempt.uses == name::DEPENDENCIES_REBIND {
            return None;
        }
        let system = [&attempt.with, &attempt.item, &attempt.output]
            .into_iter()
            .find_map(|part| part.get("system").and_then(Value::as_str))?;
        let limits = self.systems.get(system)?.limits();
        let waits = matches!(
            attempt.uses.as_str(),
            name::GRANT_ADD | name::SESSIONS_REVOKE | name::CREDENTIALS_REVOKE
        );
        // What may wait for another step of its case has a queue of its own: it must never hold the places that
        // the other step needs. The layers around the connector bound both together.
        let name = if waits {
            format!("{system}{FOLLOWING}")
        } else {
            system.to_owned()
        };
        Some(Resource {
            name,
            concurrency: limits.concurrency,
            reserved: limits.revocation_reserved,
        })
    }

    fn availability(&self, resource: &str) -> Availability {
        let system = resource.strip_suffix(FOLLOWING).unwrap_or(resource);
        match self
            .systems
            .get(system)
            .map(|system| system.connector().availability())
        {
            Some(connectors::layer::Availability::HeldUntil { until, .. }) => {
                Availability::HeldUntil(until)
            }
            Some(connectors::layer::Availability::Ready) | None => Availability::Ready,
        }
    }

    fn at_once(&self, attempt: &Attempt) -> Option<AttemptResult> {
        match attempt.uses.as_str() {
            name::IDENTITY_ACTIVATE | name::IDENTITY_LEAVE | name::NOOP => {
                Some(not_needed(Value::Null))
            }
            name::NOTIFY => Some(notify::run(attempt).unwrap_or_else(failed)),
            _ => None,
        }
    }

    async fn run(&self, attempt: &Attempt) -> AttemptResult {
        let context = Context::new(self, attempt);
        match self.dispatch(&context).await {
            Ok(result) => result,
            Err(failure) => failed(failure),
        }
    }
}

fn failed(failure: Failure) -> AttemptResult {
    AttemptResult::Failed {
        failure,
        proof: Proof::default(),
    }
}

/// The suffix of the queue for what follows another step.
const FOLLOWING: &str = " (following)";

/// The root `identity`: the attributes as rules see them, and beside them `key`, `type`, `status`, `generation`,
/// `accounts` (all that are not known to be deleted) and `grants` (all that are not known to be gone).
fn identity_root(holdings: &Holdings) -> Value {
    let identity = &holdings.identity;
    let mut root: Map<String, Value> = identity
        .attributes
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let accounts: Vec<Value> = holdings
        .accounts
        .iter()
        .filter(|account| {
            !matches!(
                account.status,
                AccountStatus::Deleted | AccountStatus::Planned
            )
        })
        .map(|account| {
            json!({
                "system": account.system,
                "account": account.native_id,
                "name": account.name,
                "status": account.status,
            })
        })
        .collect();
    let grants: Vec<Value> = holdings
        .grants
        .iter()
        .filter(|grant| matches!(grant.status, GrantStatus::Active | GrantStatus::Uncertain))
        .map(|grant| {
            json!({
                "system": grant.system,
                "entitlement": grant.entitlement,
                "status": grant.status,
                "held_by": grant.held_by,
                "account": holdings
                    .accounts
                    .iter()
                    .find(|account| account.system == grant.system)
                    .map(|account| &account.native_id),
            })
        })
        .collect();
    for (name, value) in [
        ("key", json!(identity.identity_key)),
        ("type", json!(identity.identity_type)),
        ("status", json!(identity.status)),
        ("generation", json!(identity.generation)),
        ("accounts", json!(accounts)),
        ("grants", json!(grants)),
    ] {
        root.insert(name.to_owned(), value);
    }
    Value::Object(root)
}
