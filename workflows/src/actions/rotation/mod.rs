//! What the steps of a rotation do: one a file.
//!
//! | action | does | taken back by |
//! |---|---|---|
//! | `rotation.preflight` | looks whether it can be done, and how: gives the plan of all that follows | |
//! | `rotation.mint` | makes the new secret and keeps it in the place, read by nobody | `rotation.drop` |
//! | `rotation.open` | lets the login name whose turn it is log in, which has no secret yet | `rotation.shut` |
//! | `rotation.stage` | gives it the secret that the place keeps | `rotation.unstage` |
//! | `rotation.issue` | has the system issue the new one into the place, read by nobody | `rotation.withdraw` |
//! | `rotation.verify` | logs in with it | |
//! | `rotation.promote` | makes the place show the new one | `rotation.demote` |
//! | `rotation.switch` | where there is room for one: gives the secret to the system and makes the place show it | `rotation.switch_back` |
//! | `rotation.serve` | waits until whoever connects is shown the new one | |
//! | `rotation.quiesce` | waits until nothing uses the old one | |
//! | `rotation.disable_old` | puts the old one out of use | `rotation.enable_old` |
//! | `rotation.contain_old` | ends what is open with the old one | |
//! | `rotation.contain_new` | ends what is open under the name that has got the new one, which nobody reads yet | |
//! | `rotation.soak` | looks once more whether the new one works, before the old one goes | |
//! | `rotation.destroy_old` | ends the old one for good | |
//! | `rotation.clean` | removes the old one from the place | |
//!
//! Of an authority, which others trust and which signs:
//!
//! | action | does | taken back by |
//! |---|---|---|
//! | `rotation.generate` | makes the next one, which signs nothing yet | `rotation.discard` |
//! | `rotation.trust` | makes a place show a bundle with both | `rotation.untrust` |
//! | `rotation.trusted` | looks whether all places show both, and tries both with what they show | |
//! | `rotation.sign` | the new one signs from now on | `rotation.sign_back` |
//! | `rotation.renew` | has everything issued anew that the old one signed | |
//! | `rotation.unneeded` | waits until nothing needs the old one, as seen where certificates are served | |
//! | `rotation.distrust` | takes the old one out of the bundle of a place | `rotation.retrust` |
//! | `rotation.distrusted` | looks whether no place shows it any more, and nothing misses it | |
//!
//! **Intent before effect.** We make the secret, and the place keeps it before the system hears of it. So a crash at any
//! moment goes on with the secret that is kept; none is ever made twice, and none is ever in the system that nobody knows.
//! It passes through memory and never through the store, the history, evidence, the log or an error: what steps give each
//! other is where it lies.
//!
//! **Before the old one loses anything** the new one is tried again, with a login. Once the place shows the new one, what
//! cannot be done waits and says why; it fails only by the word of a person.

mod authority;
mod destroy;
mod exposed;
mod generate;
mod issue;
mod mint;
mod preflight;
mod promote;
mod quiesce;
mod renew;
mod serve;
mod sign;
mod stage;
mod switch;
mod trust;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use chrono::TimeDelta;
use connectors::connector::{
    Attributes, Claim, ClaimName, Connector as _, Credential, CredentialId, CredentialKind, Error,
    ErrorKind, NativeId, Observation, Operation, Verdict,
};
use connectors::secret::SecretRef;
use engine::core::case::{Failure, FailureClass, Mode};
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::apply::{Call, Task, apply_verified, failed, failure};
use super::context::{Context, permanent, waits};
use super::name;
use crate::nhi::declare::ReplaceMode;
use crate::rotation::settings::{PART_KEY, PART_PASSWORD, Place, Serves};

/// What the secret of an account is called by the systems that have one.
const PASSWORD: &str = "password";
/// How soon it is looked again at what keeps a rotation from going on.
const LOOK_AGAIN_FIRST: TimeDelta = TimeDelta::seconds(10);
const LOOK_AGAIN_DOUBLED_MAX: u32 = 6;

/// What was found before anything was changed: the plan of all that follows. Given by the first step to the others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Plan {
    credential: String,
    nhi: String,
    kind: CredentialKind,
    mode: ReplaceMode,
    compromised: bool,
    /// Who answers for it: a person.
    owner: String,
    /// The system that the credential opens.
    system: String,
    place: Place,
    /// Where an authority is trusted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    places: Vec<Place>,
    /// What is written beside the secret, by name, without it.
    parts: BTreeMap<String, String>,
    /// What is issued says, and how long it lives.
    #[serde(default)]
    attributes: Attributes,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lifetime_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    serves: Option<Serves>,
    old: Login,
    new: Login,
    /// What earlier rotations left in the place, which nobody reads.
    #[serde(default)]
    stale: Vec<String>,
    /// What earlier ones made, as the system names it, that is not in use: because of a compromise it ends before another is made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    spare: Vec<String>,
    /// Because of a compromise: the new one is in use already, and stays until the old one is gone.
    #[serde(default)]
    taken_up: bool,
    /// Because of a compromise: the new one is made after that was said.
    #[serde(default)]
    fresh: bool,
    overlap_s: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dominated_by: Option<String>,
    /// Of an authority: until everybody who reads a bundle trusts both, and until what the old one signed is used by nobody.
    #[serde(default)]
    spread_s: i64,
    #[serde(default)]
    linger_s: i64,
    soak_s: i64,
    /// Who has to agree before anything is changed, and why.
    ask: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// Names what the answer about dependencies rests on.
    digest: String,
}

/// One side of a rotation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Login {
    user: String,
    /// As the system names it.
    account: String,
    /// As the system names what it proves with; empty until it is issued.
    #[serde(default)]
    credential: String,
    /// As the place names what it keeps of it; none when it keeps nothing.
    #[serde(default)]
    version: Option<String>,
}

impl Plan {
    /// Which part of what the place keeps is the secret.
    fn secret(&self) -> &'static str {
        if self.kind.is_certificate() {
            PART_KEY
        } else {
            PART_PASSWORD
        }
    }

    /// Whether what it proves with can be put out of use by itself, and not with its login name.
    fn is_issued(&self) -> bool {
        matches!(
            self.mode,
            ReplaceMode::TwoSlot | ReplaceMode::Reissue | ReplaceMode::FourPhase
        )
    }
}

impl Login {
    fn account(&self) -> NativeId {
        NativeId::new(&self.account)
    }

    fn credential(&self) -> CredentialId {
        CredentialId::new(&self.credential)
    }

    fn version(&self) -> Option<CredentialId> {
        self.version.as_deref().map(CredentialId::new)
    }
}

/// Carries an action of a rotation out; `None` when there is none of that name.
pub(super) async fn run(context: &Context<'_>) -> Option<Result<AttemptResult, Failure>> {
    Some(match context.attempt.uses.as_str() {
        name::ROTATION_PREFLIGHT => preflight::run(context).await,
        name::ROTATION_MINT => mint::run(context).await,
        name::ROTATION_DROP => mint::drop(context).await,
        name::ROTATION_OPEN => stage::open(context).await,
        name::ROTATION_SHUT => stage::shut(context).await,
        name::ROTATION_STAGE => stage::run(context).await,
        name::ROTATION_UNSTAGE => stage::unstage(context).await,
        name::ROTATION_ISSUE => issue::run(context).await,
        name::ROTATION_WITHDRAW => issue::withdraw(context).await,
        name::ROTATION_SERVE => serve::run(context).await,
        name::ROTATION_VERIFY => stage::verify(context).await,
        name::ROTATION_PROMOTE => promote::run(context).await,
        name::ROTATION_DEMOTE => promote::demote(context).await,
        name::ROTATION_SWITCH => switch::run(context).await,
        name::ROTATION_SWITCH_BACK => switch::back(context).await,
        name::ROTATION_QUIESCE => quiesce::run(context).await,
        name::ROTATION_DISABLE_OLD => destroy::disable(context).await,
        name::ROTATION_ENABLE_OLD => destroy::enable(context).await,
        name::ROTATION_CONTAIN_OLD => destroy::contain(context).await,
        name::ROTATION_CONTAIN_NEW => destroy::contain_new(context).await,
        name::ROTATION_SOAK => destroy::soak(context).await,
        name::ROTATION_DESTROY_OLD => destroy::run(context).await,
        name::ROTATION_CLEAN => destroy::clean(context).await,
        name::ROTATION_GENERATE => generate::run(context).await,
        name::ROTATION_DISCARD => generate::discard(context).await,
        name::ROTATION_TRUST => trust::trust(context).await,
        name::ROTATION_UNTRUST => trust::untrust(context).await,
        name::ROTATION_TRUSTED => trust::trusted(context).await,
        name::ROTATION_SIGN => sign::run(context).await,
        name::ROTATION_SIGN_BACK => sign::back(context).await,
        name::ROTATION_RENEW => patient(context, renew::run(context).await),
        name::ROTATION_UNNEEDED => patient(context, renew::unneeded(context).await),
        name::ROTATION_DISTRUST => patient(context, trust::distrust(context).await),
        name::ROTATION_RETRUST => trust::retrust(context).await,
        name::ROTATION_DISTRUSTED => patient(context, trust::distrusted(context).await),
        _ => return None,
    })
}

/// The plan that the first step gave.
fn plan(context: &Context<'_>) -> Result<Plan, Failure> {
    let given = context.value("plan").cloned().unwrap_or(Value::Null);
    let mut plan: Plan = serde_json::from_value(given).map_err(|error| {
        permanent(
            "parameter",
            format!(
                "step `{}` is given no plan of a rotation ({error}); write `plan: ${{{{ steps.preflight.output }}}}` in its `with:`",
                context.attempt.step
            ),
        )
    })?;
    // What a system issues has its name once it is issued.
    if let Some(issued) = context.text("issued") {
        issued.clone_into(&mut plan.new.credential);
    }
    Ok(plan)
}

/// What a step says of itself, beside what its connector tells.
fn output(user: &str) -> Map<String, Value> {
    let mut output = Map::new();
    output.insert("user".to_owned(), json!(user));
    output
}

/// Where a part of what the place keeps can be read.
fn kept_at(seen: &Observation, part: &str) -> Option<SecretRef> {
    let reference = seen.seen.get("parts")?.get(part)?;
    serde_json::from_value(reference.clone()).ok()
}

/// Where the place keeps a part of a version; `None` when it does not.
async fn kept(
    call: &Call<'_>,
    place: &Place,
    version: &CredentialId,
    part: &str,
) -> Result<Option<SecretRef>, Failure> {
    let claim = Claim::CredentialStored {
        account: NativeId::new(&place.bundle),
        credential: version.clone(),
    };
    match call.connector.verify(&claim).await {
        Ok(Verdict::Proven(seen)) => kept_at(&seen, part).map(Some).ok_or_else(|| {
            permanent(
                "place",
                format!(
                    "`{}` keeps `{version}` and does not say where; a place has to be of kind `file`, or have a `scratch` folder",
                    place.system
                ),
            )
        }),
        Ok(Verdict::Refuted(_)) => Ok(None),
        Ok(Verdict::CannotObserve { reason }) => Err(permanent("place", reason)),
        Err(error) => Err(failure(call.system.name(), &error)),
    }
}

/// Whether a login with what the place keeps of one side succeeds.
async fn works(context: &Context<'_>, plan: &Plan, login: &Login) -> Result<Works, Failure> {
    let Some(version) = login.version() else {
        return Ok(Works::Unknown(format!(
            "`{}` keeps nothing of `{}`",
            plan.place.system, login.user
        )));
    };
    let place = context.call_to(&plan.place.system)?;
    let Some(secret) = kept(&place, &plan.place, &version, plan.secret()).await? else {
        return Ok(Works::Unknown(format!(
            "`{}` does not keep `{version}` any more",
            plan.place.system
        )));
    };
    let call = context.call_to(&plan.system)?;
    let claim = Claim::CredentialWorks {
        account: login.account(),
        credential: login.credential(),
        secret,
    };
    match call.connector.verify(&claim).await {
        Ok(Verdict::Proven(_)) => Ok(Works::Yes),
        Ok(Verdict::Refuted(seen)) => Ok(Works::No(format!(
            "a login as `{}` on `{}` was refused ({})",
            login.user, plan.system, seen.by
        ))),
        Ok(Verdict::CannotObserve { reason }) => Ok(Works::Unknown(reason)),
        Err(error) => Err(failure(call.system.name(), &error)),
    }
}

/// What a login showed.
enum Works {
    Yes,
    No(String),
    Unknown(String),
}

impl Works {
    fn why_not(self) -> Option<String> {
        match self {
            Self::Yes => None,
            Self::No(why) | Self::Unknown(why) => Some(why),
        }
    }
}

/// Ends a credential for good, and sees that it is gone. That it is inactive says nothing: it was before.
async fn destroyed(
    call: &Call<'_>,
    account: NativeId,
    credential: CredentialId,
    output: Map<String, Value>,
) -> AttemptResult {
    let reads_back = matches!(call.attempt.mode, Mode::ReadBack | Mode::UndoReadBack);
    match listed(call, &account, &credential).await {
        Ok(true) if reads_back => return AttemptResult::NotApplied,
        Ok(_) => {}
        Err(error) => return failed(call, &error, Proof::default()),
    }
    let task = Task {
        operation: Operation::DestroyCredential {
            account: account.clone(),
            credential: credential.clone(),
        },
        claim: Claim::CredentialInactive {
            account: account.clone(),
            credential: credential.clone(),
        },
        output,
    };
    let result = apply_verified(call, task).await;
    if !matches!(result, AttemptResult::Succeeded { .. }) {
        return result;
    }
    match listed(call, &account, &credential).await {
        Ok(false) => result,
        Ok(true) => AttemptResult::Failed {
            failure: Failure {
                kind: "refuted".to_owned(),
                message: format!(
                    "system `{}` says that `{credential}` is gone, and still lists it",
                    call.system.name()
                ),
                class: FailureClass::Retry,
            },
            proof: Proof::default(),
        },
        Err(error) => AttemptResult::AnswerLost {
            reason: format!("done, but it could not be read back: {}", error.whole()),
            proof: Proof::default(),
        },
    }
}

/// Whether a system lists a credential. One that lists none is believed when it says that it is inactive.
async fn listed(
    call: &Call<'_>,
    account: &NativeId,
    credential: &CredentialId,
) -> Result<bool, Error> {
    if call.system.capabilities().credentials.is_empty() {
        return Ok(false);
    }
    match call.connector.credentials(account).await {
        Ok(listed) => Ok(listed.value.iter().any(|one| one.id == *credential)),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The new one where an earlier rotation had it made already; `gone` says what follows where it is not there any more.
async fn there_already(
    call: &Call<'_>,
    plan: &Plan,
    kind: &str,
    gone: String,
) -> Result<Credential, Failure> {
    let listed = call.connector.credentials(&plan.new.account()).await;
    let listed = listed.map_err(|error| failure(call.system.name(), &error))?;
    let wanted = plan.new.credential();
    let found = listed.value.into_iter().find(|one| one.id == wanted);
    found.ok_or_else(|| permanent(kind, gone))
}

/// Whether anybody can see that a credential of this system works.
fn can_try(context: &Context<'_>, plan: &Plan) -> bool {
    let system = context.actions.systems().get(&plan.system);
    system.is_some_and(|system| {
        system
            .capabilities()
            .claims
            .contains(&ClaimName::CredentialWorks)
    })
}

/// It does not go on, and says why. It is looked again, more and more seldom; the deadline of the case tells somebody.
fn blocked(context: &Context<'_>, why: impl Into<String>) -> AttemptResult {
    let doubled = context
        .attempt
        .attempt
        .saturating_sub(1)
        .min(LOOK_AGAIN_DOUBLED_MAX);
    let until = context.actions.clock().now() + LOOK_AGAIN_FIRST * (1 << doubled);
    waits("blocked", why.into(), until)
}

/// Every place for another one is taken: somebody, or an earlier rotation, has to free one.
fn full(error: &connectors::connector::Error, proof: Proof) -> AttemptResult {
    AttemptResult::Failed {
        failure: Failure {
            kind: "full".to_owned(),
            message: error.whole(),
            class: FailureClass::Retry,
        },
        proof,
    }
}

/// The new one is in use already: what fails for good waits for a person instead of taking all back.
fn patient(
    context: &Context<'_>,
    result: Result<AttemptResult, Failure>,
) -> Result<AttemptResult, Failure> {
    match result {
        Ok(AttemptResult::Failed { failure, .. }) | Err(failure)
            if failure.class == FailureClass::Permanent =>
        {
            Ok(blocked(context, failure.message))
        }
        other => other,
    }
}

/// Nothing is taken from the old one while the new one does not work: waits until it does.
async fn new_works(context: &Context<'_>, plan: &Plan) -> Result<Option<AttemptResult>, Failure> {
    // Strangers have the key of the old one: it goes, whoever still shows it.
    let why = if plan.mode == ReplaceMode::FourPhase {
        trust::old_is_needed(context, plan).await?
    } else if plan.serves.is_some() && !plan.compromised {
        serve::why_not(context, plan).await?
    } else if can_try(context, plan) {
        works(context, plan, &plan.new).await?.why_not()
    } else {
        None
    };
    Ok(why.map(|why| {
        blocked(
            context,
            format!("the old one stays, because {why}; roll it back, or mend it and it goes on"),
        )
    }))
}
