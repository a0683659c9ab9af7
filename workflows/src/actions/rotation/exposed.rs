//! What earlier rotations left, looked at when strangers know a credential: which of two stays, and what ends before another is made.
//!
//! The rotation that was under way has ended by then, with nothing of it in flight. What it did is seen where it did it: in what the
//! place shows, in what the system lists, and in which authority signs.

use connectors::connector::{Connector as _, CredentialId, CredentialKind, NativeId};
use engine::core::case::{Failure, FailureClass};
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use secrecy::ExposeSecret as _;
use serde::Deserialize as _;
use serde_json::Value;
use uuid::Uuid;

use super::super::apply::{Call, failed, failure};
use super::preflight::Look;
use super::{Plan, destroyed, kept, listed, output};
use crate::nhi::declare::ReplaceMode;
use crate::rotation::rollover::Sides;
use crate::rotation::settings::PART_ID;
use crate::rotation::{Exposed, Follows, Found, follows};

/// Which of two strangers know, by the input of a case; `None` when they know none. A case that does not say which means both.
pub(super) fn said(input: &Value) -> Option<Exposed> {
    let compromised = input.get("compromised").and_then(Value::as_bool) == Some(true);
    let which = input.get("exposed").map(Exposed::deserialize);
    compromised.then(|| which.and_then(Result::ok).unwrap_or(Exposed::Both))
}

/// What a place shows, and what else it keeps.
pub(super) struct Shown<'a> {
    pub version: Option<&'a str>,
    /// As the system names it, where that issued it.
    pub id: Option<&'a str>,
    pub kept: &'a [&'a str],
    pub user: &'a str,
    pub kind: CredentialKind,
    /// As it was declared, before any rotation.
    pub declared: &'a str,
}

/// What is to become of what was left.
#[derive(Default)]
pub(super) struct Left {
    /// The new one is in use, and stays.
    pub taken_up: bool,
    /// The one before it, as the system that issued it names it.
    pub before: Option<String>,
    /// These end before another is made.
    pub spare: Vec<String>,
}

impl Look<'_> {
    pub(super) async fn left(
        &self,
        call: &Call<'_>,
        place: &Call<'_>,
        shown: &Shown<'_>,
    ) -> Result<Left, Failure> {
        let Some(said) = self.exposed else {
            return Ok(Left::default());
        };
        let found = if self.is_of_the_interrupted(shown.version) {
            Found::InUse
        } else {
            Found::OldOnly
        };
        let stays = follows(self.row.mode, found, said) == Follows::TakenUp;
        // A secret that we make ends with the next one in its place.
        if shown.kind == CredentialKind::Password {
            return Ok(Left {
                taken_up: stays,
                ..Left::default()
            });
        }
        let mut known = self.issued_before(place, shown).await?;
        let lists = call.system.capabilities().credentials.contains(&shown.kind);
        let mut seen = false;
        if lists {
            known.push(shown.declared.to_owned());
            let account = if self.row.mode == ReplaceMode::Reissue {
                Some(NativeId::new(shown.user))
            } else {
                let found = self.account(call, shown.user).await?;
                found.map(|account| account.id)
            };
            let Some(account) = account else {
                return Ok(Left::default());
            };
            let all = call.connector.credentials(&account).await;
            let all = all.map_err(|error| failure(call.system.name(), &error))?;
            let is_listed = |id: &str| all.value.iter().any(|one| one.id.as_str() == id);
            seen = shown.id.is_some_and(is_listed);
            known.retain(|id| is_listed(id));
        }
        known.retain(|id| Some(id.as_str()) != shown.id);
        known.dedup();
        // What is in use stays only where its system says until when it is good.
        if stays && seen {
            let before = known.pop();
            return Ok(Left {
                taken_up: true,
                before: before.or_else(|| Some(shown.declared.to_owned())),
                spare: Vec::new(),
            });
        }
        Ok(Left {
            spare: known,
            ..Left::default()
        })
    }

    /// Whether what is shown was put there by the rotation that this one takes the place of.
    fn is_of_the_interrupted(&self, version: Option<&str>) -> bool {
        let case = self.context.attempt.input.get("interrupts");
        let case = case.and_then(Value::as_str).map(str::parse::<Uuid>);
        match (version, case) {
            (Some(version), Some(Ok(case))) => version.ends_with(&format!(".{}", case.simple())),
            _ => false,
        }
    }

    /// What was issued and the place keeps without showing it, as the system names it.
    async fn issued_before(
        &self,
        place: &Call<'_>,
        shown: &Shown<'_>,
    ) -> Result<Vec<String>, Failure> {
        let mut known = Vec::new();
        for version in shown.kept.iter().copied() {
            if Some(version) == shown.version {
                continue;
            }
            let version = CredentialId::new(version);
            let at = match kept(place, &self.row.declared.place, &version, PART_ID).await {
                Ok(at) => at,
                // It does not say what it is, so nothing says that it was issued.
                Err(failure) if failure.class == FailureClass::Permanent => None,
                Err(failure) => return Err(failure),
            };
            let id = at.and_then(|at| at.resolve().ok());
            known.extend(id.map(|id| id.expose_secret().to_owned()));
        }
        Ok(known)
    }
}

/// The authority that waits to sign and ends before another is made; then the rollover has no new side yet.
pub(super) fn spare_authority(
    said: Option<Exposed>,
    old_signs: bool,
    sides: &mut Sides,
) -> Option<String> {
    let found = match (&sides.new, old_signs) {
        (None, _) => Found::OldOnly,
        (Some(_), true) => Found::Made,
        (Some(_), false) => Found::InUse,
    };
    match follows(ReplaceMode::FourPhase, found, said?) {
        Follows::Another => sides.new.take(),
        Follows::TakenUp | Follows::TakenUpThenAnother => None,
    }
}

/// Ends what is in the way of another one: what keeps it from that, if something does.
pub(super) async fn spare_ended(
    call: &Call<'_>,
    plan: &Plan,
) -> Result<Option<AttemptResult>, Failure> {
    let lists = !call.system.capabilities().credentials.is_empty();
    for spare in &plan.spare {
        let (account, credential) = (plan.new.account(), CredentialId::new(spare));
        match listed(call, &account, &credential).await {
            // An attempt before this one has ended it.
            Ok(false) if lists => continue,
            Ok(_) => {}
            Err(error) => return Ok(Some(failed(call, &error, Proof::default()))),
        }
        match destroyed(call, account, credential, output(&plan.old.user)).await {
            AttemptResult::Succeeded { .. } => {}
            // It takes up nobody's place: it is asked of a person with the old one.
            AttemptResult::Failed { failure, .. }
                if failure.class == FailureClass::Permanent
                    && plan.mode == ReplaceMode::Reissue => {}
            other => return Ok(Some(other)),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_case_that_does_not_say_which_means_both() {
        for (input, which) in [
            (json!({}), None),
            (json!({ "compromised": false, "exposed": null }), None),
            (json!({ "compromised": false, "exposed": "old" }), None),
            (json!({ "compromised": true }), Some(Exposed::Both)),
            (
                json!({ "compromised": true, "exposed": null }),
                Some(Exposed::Both),
            ),
            (
                json!({ "compromised": true, "exposed": "old" }),
                Some(Exposed::Old),
            ),
            (
                json!({ "compromised": true, "exposed": "new" }),
                Some(Exposed::New),
            ),
        ] {
            assert_eq!(said(&input), which, "{input}");
        }
    }

    /// Who signs, what was said: the new side, and what ends first.
    #[test]
    fn an_authority_that_waits_and_is_known_ends_before_another_is_made() {
        for (new, old_signs, which, side, spare) in [
            (None, true, None, None, None),
            (Some("g2"), true, None, Some("g2"), None),
            (Some("g2"), true, Some(Exposed::Old), Some("g2"), None),
            (Some("g2"), true, Some(Exposed::New), None, Some("g2")),
            (Some("g2"), true, Some(Exposed::Both), None, Some("g2")),
            (Some("g2"), false, Some(Exposed::New), Some("g2"), None),
            (Some("g2"), false, Some(Exposed::Both), Some("g2"), None),
            (None, true, Some(Exposed::Both), None, None),
        ] {
            let mut sides = Sides {
                old: "g1".to_owned(),
                new: new.map(str::to_owned),
            };
            let ends = spare_authority(which, old_signs, &mut sides);
            assert_eq!(
                (sides.new.as_deref(), ends.as_deref()),
                (side, spare),
                "{new:?} {old_signs} {which:?}"
            );
        }
    }
}
