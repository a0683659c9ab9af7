//! An authority as its system shows it: which of its generations are trusted, which signs, their roots, and what they signed; and
//! the plan of a rollover, which is made from that (`rotation.preflight`).

use std::collections::BTreeSet;

use connectors::connector::{
    Claim, Connector as _, CredentialId, CredentialKind, NativeId, Object, ObjectRef, Signed,
    Verdict,
};
use connectors::file::PARTS;
use engine::core::case::Failure;
use engine::core::duration::Span;
use serde_json::Value;

use super::super::apply::{Call, failure};
use super::super::context::{Context, permanent};
use super::preflight::Look;
use super::{Login, Plan, exposed, renew};
use crate::nhi::declare::DeclaredCredential;
use crate::rotation::bundle::Bundle;
use crate::rotation::overlap::{both_trusted, distribution, overlap};
use crate::rotation::rollover::{Sides, Trusted, sides};
use crate::rotation::settings::{PART_BUNDLE, Place};

/// The roots of both sides.
pub(super) struct Roots {
    pub old: Bundle,
    pub new: Bundle,
}

impl Look<'_> {
    /// The plan of a rollover, or what is in its way.
    pub(super) async fn rollover(
        &self,
        declared: &DeclaredCredential,
    ) -> Result<Result<Plan, String>, Failure> {
        let rotation = &self.row.declared;
        let Some(user) = rotation.users.first() else {
            return Ok(Err(format!("`{}` does not say whose it is", self.row.name)));
        };
        let system = declared.system.as_str();
        let call = self.context.call_to(system)?;
        let account = NativeId::new(user);
        let trusted = trusted(&call, &account).await?;
        let mut sides = match sides(&trusted) {
            Ok(sides) => sides,
            Err(why) => return Ok(Err(format!("`{system}`: {why}"))),
        };
        let old_signs = trusted.iter().any(|one| one.signs && one.id == sides.old);
        let spare = exposed::spare_authority(self.exposed, old_signs, &mut sides);
        let places = rotation.places();
        for place in &places {
            if let Some(why) = misfit(self.context, place).await? {
                return Ok(Err(why));
            }
        }
        let old = CredentialId::new(&sides.old);
        let hanging = renew::look(self.context, system, &account, &old).await?;
        let now = self.context.actions.clock().now();
        let leaf_s = hanging
            .strays()
            .map(|stray| (stray.until - now).num_seconds())
            .max()
            .and_then(|seconds| u32::try_from(seconds).ok())
            .unwrap_or(0);
        let lasts = both_trusted(&rotation.overlap, Span::from_s(leaf_s));
        let (digest, why) = self.depends().await?;
        let asks = !self.compromised && (rotation.approval || why.is_some());
        let answers = &self.nhi.declared;
        let login = |credential: String| Login {
            user: user.clone(),
            account: user.clone(),
            credential,
            version: None,
        };
        let Sides { old, new } = sides;
        let fresh = self.compromised && new.is_none();
        Ok(Ok(Plan {
            credential: self.row.name.clone(),
            nhi: self.nhi.nhi_key.clone(),
            kind: CredentialKind::Certificate,
            mode: self.row.mode,
            compromised: self.compromised,
            owner: answers.owner.clone(),
            system: system.to_owned(),
            place: rotation.place.clone(),
            places,
            parts: std::collections::BTreeMap::new(),
            attributes: rotation.attributes.clone(),
            lifetime_s: None,
            serves: None,
            old: login(old),
            new: login(new.unwrap_or_default()),
            stale: Vec::new(),
            spare: spare.into_iter().collect(),
            taken_up: self.compromised && !fresh && !old_signs,
            fresh,
            overlap_s: lasts.length.delta().num_seconds(),
            dominated_by: lasts.dominated_by.map(|term| term.as_str().to_owned()),
            spread_s: distribution(&rotation.overlap).length.delta().num_seconds(),
            linger_s: overlap(&rotation.overlap).length.delta().num_seconds(),
            soak_s: rotation.soak.map_or(0, |soak| soak.delta().num_seconds()),
            ask: if asks {
                vec![
                    format!("person:{}", answers.owner),
                    format!("person:{}", answers.backup),
                ]
            } else {
                Vec::new()
            },
            why,
            digest,
        }))
    }
}

/// Why a place cannot be given a bundle of roots, if it cannot.
async fn misfit(context: &Context<'_>, place: &Place) -> Result<Option<String>, Failure> {
    let call = context.call_to(&place.system)?;
    let named = ObjectRef::AccountNamed(place.bundle.clone());
    let found = call.connector.get(&named).await;
    let found = found.map_err(|error| failure(call.system.name(), &error))?;
    let (system, bundle) = (&place.system, &place.bundle);
    let Some(found) = found.and_then(Object::into_account) else {
        return Ok(Some(format!(
            "there is no bundle `{bundle}` in `{system}`; name it in the settings there"
        )));
    };
    let Some(Value::Array(has)) = found.attributes.get(PARTS) else {
        return Ok(None);
    };
    let has: BTreeSet<&str> = has.iter().filter_map(Value::as_str).collect();
    let fits = has == BTreeSet::from([PART_BUNDLE]);
    Ok((!fits).then(|| {
        let has: Vec<&str> = has.into_iter().collect();
        format!(
            "the bundle `{bundle}` of `{system}` keeps `{}`, and whom an authority is trusted by reads one part, \
             `{PART_BUNDLE}`; give it that alone in `parts`",
            has.join("`, `")
        )
    }))
}

/// Those of an account that are trusted, in the order in which they were made.
async fn trusted(call: &Call<'_>, account: &NativeId) -> Result<Vec<Trusted>, Failure> {
    let listed = call.connector.credentials(account).await;
    let listed = listed.map_err(|error| failure(call.system.name(), &error))?;
    let mut trusted = Vec::new();
    for one in listed.value {
        if one.kind != CredentialKind::Certificate || one.active == Some(false) {
            continue;
        }
        trusted.push(Trusted {
            signs: shown(call, account, &one.id).await?.0,
            id: one.id.as_str().to_owned(),
        });
    }
    Ok(trusted)
}

/// Whether a generation is the one that signs, and its root.
async fn shown(
    call: &Call<'_>,
    account: &NativeId,
    credential: &CredentialId,
) -> Result<(bool, Option<String>), Failure> {
    let claim = Claim::CredentialActive {
        account: account.clone(),
        credential: credential.clone(),
    };
    let (signs, seen) = match call.connector.verify(&claim).await {
        Ok(Verdict::Proven(seen)) => (true, seen),
        Ok(Verdict::Refuted(seen)) => (false, seen),
        Ok(Verdict::CannotObserve { reason }) => return Err(permanent("authority", reason)),
        Err(error) => return Err(failure(call.system.name(), &error)),
    };
    Ok((signs, seen.certificate().map(str::to_owned)))
}

/// The roots of both sides, as the authority shows them.
pub(super) async fn roots(context: &Context<'_>, plan: &Plan) -> Result<Roots, Failure> {
    let call = context.call_to(&plan.system)?;
    let (old, new) = (root(&call, &plan.old).await?, root(&call, &plan.new).await?);
    Ok(Roots { old, new })
}

async fn root(call: &Call<'_>, login: &Login) -> Result<Bundle, Failure> {
    let (_, pem) = shown(call, &login.account(), &login.credential()).await?;
    let bundle = pem.as_deref().map(Bundle::parse);
    match bundle {
        Some(Ok(bundle)) if !bundle.is_empty() => Ok(bundle),
        Some(Ok(_)) | None => Err(permanent(
            "authority",
            format!(
                "`{}` shows no root of `{}`",
                call.system.name(),
                login.credential
            ),
        )),
        Some(Err(why)) => Err(permanent(
            "authority",
            format!(
                "the root of `{}` on `{}`: {why}",
                login.credential,
                call.system.name()
            ),
        )),
    }
}

/// What a generation signed and is still good.
pub(super) async fn signed(
    call: &Call<'_>,
    account: &NativeId,
    credential: &CredentialId,
) -> Result<Signed, Failure> {
    let claim = Claim::NothingSigned {
        account: account.clone(),
        credential: credential.clone(),
    };
    match call.connector.verify(&claim).await {
        Ok(Verdict::Proven(_)) => Ok(Signed::default()),
        Ok(Verdict::Refuted(seen)) => seen.signed().ok_or_else(|| {
            permanent(
                "authority",
                format!(
                    "`{}` does not say what `{credential}` signed",
                    call.system.name()
                ),
            )
        }),
        Ok(Verdict::CannotObserve { reason }) => Err(permanent("authority", reason)),
        Err(error) => Err(failure(call.system.name(), &error)),
    }
}
