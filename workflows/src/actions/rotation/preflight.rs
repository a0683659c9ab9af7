//! `rotation.preflight`: looks whether a credential can be replaced, and how. Nothing is changed.
//!
//! Takes `input.credential` and `input.compromised`. Gives the plan of all that follows. What is in the way (a login name that is not
//! there, two that may not do the same, a system that cannot log in with what it is given) is told and waited for; the deadline
//! of the case tells somebody.
//!
//! | looked at | because |
//! |---|---|
//! | what is declared, as it is now | it may have changed since the rotation was planned |
//! | what the place shows | that is whose turn it is, whatever anybody wrote down |
//! | both login names, and what each may do | those who use it get another name, and must be able to do the same |
//! | what hangs on it | the check of docs/dependency-checks.md, on what is known at this moment |
//!
//! Whoever answers for it is asked when that is declared, and when the check says that a person has to decide.

use std::collections::{BTreeMap, BTreeSet};

use connectors::connector::{
    Account, ClaimName, Connector as _, CredentialId, CredentialKind, EntitlementName,
    MaterialName, NativeId, Object, ObjectRef, OperationName,
};
use connectors::file::PARTS;
use engine::core::case::Failure;
use engine::core::input::AttemptResult;
use secrecy::ExposeSecret as _;
use serde_json::Value;

use super::super::apply::{Call, failure};
use super::super::context::{Context, database, not_needed, permanent};
use super::exposed::{self, Shown};
use super::{Login, PASSWORD, Plan, blocked, kept};
use crate::directory::{NhiRow, RotationRow};
use crate::nhi::check::{Finding, Intent, Question, Rules, check};
use crate::nhi::declare::ReplaceMode;
use crate::nhi::graph::Node;
use crate::rotation::settings::{PART_CERTIFICATE, PART_ID, PART_KEY};
use crate::rotation::{Exposed, overlap};

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let input = &context.attempt.input;
    let named = input.get("credential").and_then(Value::as_str);
    let named = named.ok_or_else(|| {
        permanent(
            "parameter",
            "the case names no credential; begin one with `tenure rotation run`",
        )
    })?;
    let exposed = exposed::said(input);
    let directory = context.actions.directory();
    let row = directory
        .rotation(named)
        .await
        .map_err(|error| database(&error))?
        .filter(|row| row.wanted);
    let nhi = match &row {
        Some(row) => directory
            .nhi(&row.nhi_key)
            .await
            .map_err(|error| database(&error))?,
        None => None,
    };
    let (Some(row), Some(nhi)) = (row, nhi) else {
        return Err(permanent(
            "not_declared",
            format!("`{named}` is not declared with a `rotation` any more"),
        ));
    };
    let look = Look {
        context,
        row: &row,
        nhi: &nhi,
        exposed,
        compromised: exposed.is_some(),
    };
    Ok(match look.plan().await? {
        Ok(plan) => {
            let plan = serde_json::to_value(plan)
                .map_err(|error| permanent("stored_form", error.to_string()))?;
            not_needed(plan)
        }
        Err(why) => blocked(context, why),
    })
}

/// What is looked at.
pub(super) struct Look<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) row: &'a RotationRow,
    pub(super) nhi: &'a NhiRow,
    /// Which of two strangers know, if they do.
    pub(super) exposed: Option<Exposed>,
    pub(super) compromised: bool,
}

impl Look<'_> {
    /// The plan, or what is in its way.
    async fn plan(&self) -> Result<Result<Plan, String>, Failure> {
        let declared = &self.nhi.declared;
        let credential = declared
            .credentials
            .iter()
            .find(|one| one.name() == self.row.name);
        let Some(credential) = credential else {
            return Ok(Err(format!("`{}` is not declared any more", self.row.name)));
        };
        let (system, kind) = (credential.system.as_str(), credential.kind);
        let rotation = &self.row.declared;
        if let Some(why) = self.missing(system, kind) {
            return Ok(Err(why));
        }
        if self.row.mode == ReplaceMode::FourPhase {
            return self.rollover(credential).await;
        }
        let call = self.context.call_to(system)?;
        let place = self.context.call_to(&rotation.place.system)?;
        if let Some(why) = self.misfit(&place, kind).await? {
            return Ok(Err(why));
        }
        let versions = self.kept(&place).await?;
        let shown = versions.iter().find(|version| version.shown);
        let (mut old_user, mut new_user) =
            match self.users(shown.map(|version| version.id.as_str())) {
                Ok(users) => users,
                Err(why) => return Ok(Err(why)),
            };
        let shown_id = if kind == CredentialKind::Password {
            None
        } else {
            self.id_shown(&place, shown).await?
        };
        let versions_kept: Vec<&str> = versions.iter().map(|version| version.id.as_str()).collect();
        let around = Shown {
            version: shown.map(|version| version.id.as_str()),
            id: shown_id.as_deref(),
            kept: &versions_kept,
            user: &new_user,
            kind,
            declared: &credential.id,
        };
        let left = self.left(&call, &place, &around).await?;
        if left.taken_up {
            // Its turn has come already.
            std::mem::swap(&mut old_user, &mut new_user);
        }
        // An authority has no accounts: whose it is stands in what it issues.
        let (old, new) = if self.row.mode == ReplaceMode::Reissue {
            (old_user.clone(), new_user.clone())
        } else {
            let (old, new) = (
                self.account(&call, &old_user).await?,
                self.account(&call, &new_user).await?,
            );
            let (old, new) = match (old, new) {
                (Some(old), Some(new)) => (old, new),
                (None, _) => return Ok(Err(no_login(system, &old_user))),
                (_, None) => return Ok(Err(no_login(system, &new_user))),
            };
            if let Some(why) = differ(&old, &new) {
                return Ok(Err(why));
            }
            (old.id.as_str().to_owned(), new.id.as_str().to_owned())
        };
        let (old_credential, new_credential) = match (shown_id, &left.before) {
            _ if kind == CredentialKind::Password => (PASSWORD.to_owned(), PASSWORD.to_owned()),
            (Some(is), Some(before)) if left.taken_up => (before.clone(), is),
            (is, _) => (is.unwrap_or_else(|| credential.id.clone()), String::new()),
        };
        if !left.taken_up
            && let Some(why) = self.full(&call, kind, &new, &new_user, &left.spare).await?
        {
            return Ok(Err(why));
        }
        let shown_version = shown.map(|version| version.id.clone());
        let own_version = format!(
            "{}.{}",
            safe(&new_user),
            self.context.attempt.case.0.simple()
        );
        let (old_version, new_version) = match shown_version {
            Some(shown) if left.taken_up => (None, shown),
            shown => (shown, own_version),
        };
        let stale = versions
            .iter()
            .filter(|version| !version.shown && version.id != new_version)
            .map(|version| version.id.clone())
            .collect();
        let (digest, why) = self.depends().await?;
        let asks = !self.compromised && (rotation.approval || why.is_some());
        let lasts = overlap(&rotation.overlap);
        let soak = rotation.soak.map_or(0, |soak| soak.delta().num_seconds());
        Ok(Ok(Plan {
            credential: self.row.name.clone(),
            nhi: self.nhi.nhi_key.clone(),
            kind,
            mode: self.row.mode,
            compromised: self.compromised,
            owner: declared.owner.clone(),
            system: system.to_owned(),
            place: rotation.place.clone(),
            places: Vec::new(),
            // The secret is filled in where it is made.
            parts: rotation.written(&new_user, crate::rotation::settings::PASSWORD),
            attributes: rotation.attributes.clone(),
            lifetime_s: rotation
                .lifetime
                .map(|lifetime| lifetime.delta().num_seconds().unsigned_abs()),
            serves: rotation.serves.clone(),
            old: Login {
                user: old_user,
                account: old,
                credential: old_credential,
                version: old_version,
            },
            new: Login {
                user: new_user,
                account: new,
                credential: new_credential,
                version: Some(new_version),
            },
            stale,
            spare: left.spare,
            taken_up: left.taken_up,
            fresh: self.compromised && !left.taken_up,
            overlap_s: lasts.length.delta().num_seconds(),
            dominated_by: lasts.dominated_by.map(|term| term.as_str().to_owned()),
            spread_s: 0,
            linger_s: 0,
            soak_s: soak,
            ask: if asks {
                vec![
                    format!("person:{}", declared.owner),
                    format!("person:{}", declared.backup),
                ]
            } else {
                Vec::new()
            },
            why,
            digest,
        }))
    }

    /// What the systems would have to be able to do, and one of them cannot.
    fn missing(&self, system: &str, kind: CredentialKind) -> Option<String> {
        let rotation = &self.row.declared;
        let by_us = kind == CredentialKind::Password;
        let (operations, claims): (&[OperationName], &[ClaimName]) = match self.row.mode {
            ReplaceMode::Alternating => (
                &[
                    OperationName::IssueCredential,
                    OperationName::EnableAccount,
                    OperationName::DisableAccount,
                    OperationName::DestroyCredential,
                ],
                &[ClaimName::CredentialWorks],
            ),
            ReplaceMode::SingleSlot => (
                &[OperationName::IssueCredential],
                &[ClaimName::CredentialWorks],
            ),
            ReplaceMode::TwoSlot => (
                &[
                    OperationName::IssueCredential,
                    OperationName::ActivateCredential,
                    OperationName::DeactivateCredential,
                    OperationName::DestroyCredential,
                ],
                &[ClaimName::CredentialIssued, ClaimName::CredentialWorks],
            ),
            ReplaceMode::Reissue => (
                &[
                    OperationName::IssueCredential,
                    OperationName::DestroyCredential,
                ],
                &[ClaimName::CredentialIssued],
            ),
            ReplaceMode::FourPhase => (
                &[
                    OperationName::IssueCredential,
                    OperationName::ActivateCredential,
                    OperationName::DestroyCredential,
                ],
                &[
                    ClaimName::CredentialIssued,
                    ClaimName::CredentialActive,
                    ClaimName::CredentialWorks,
                    ClaimName::NothingSigned,
                ],
            ),
        };
        let kept: (&[OperationName], &[ClaimName]) = (
            &[
                OperationName::StoreCredential,
                OperationName::ActivateCredential,
                OperationName::DestroyCredential,
            ],
            &[ClaimName::CredentialStored, ClaimName::CredentialActive],
        );
        let mut wanted = vec![
            (system, operations, claims),
            (rotation.place.system.as_str(), kept.0, kept.1),
        ];
        for place in &rotation.trusted_in {
            wanted.push((place.system.as_str(), kept.0, kept.1));
        }
        if let Some(serves) = &rotation.serves {
            wanted.push((serves.system.as_str(), &[], &[ClaimName::ServesCertificate]));
        }
        let systems = self.context.actions.systems();
        for (name, operations, claims) in wanted {
            let Some(system) = systems.get(name) else {
                return Some(format!("there is no system `{name}` in the configuration"));
            };
            if let Some(lacks) = operations.iter().find(|one| !system.can(**one)) {
                return Some(format!("`{name}` cannot do `{}`", lacks.as_str()));
            }
            if !claims
                .iter()
                .all(|one| system.capabilities().claims.contains(one))
            {
                return Some(format!(
                    "`{name}` cannot show what became of a credential, so nobody would know whether a new one works"
                ));
            }
        }
        let material = if by_us {
            MaterialName::Secret
        } else {
            MaterialName::BySystem
        };
        let issues = systems.get(system)?.capabilities().issues.get(&kind);
        let can = issues.is_some_and(|issues| issues.material.contains(&material));
        (!can).then(|| format!("`{system}` does not issue a {} this way", kind.as_str()))
    }

    /// What the place is going to be given, and is not set up for. Found out before anything is made.
    async fn misfit(
        &self,
        place: &Call<'_>,
        kind: CredentialKind,
    ) -> Result<Option<String>, Failure> {
        let (rotation, by) = (&self.row.declared, place.system.name());
        let bundle = &rotation.place.bundle;
        let named = ObjectRef::AccountNamed(bundle.clone());
        let found = place.connector.get(&named).await;
        let found = found.map_err(|error| failure(by, &error))?;
        let Some(found) = found.and_then(Object::into_account) else {
            // Other places than files make what they do not have yet.
            let is_file = place.system.kind() == "file";
            return Ok(is_file.then(|| {
                format!("there is no bundle `{bundle}` in `{by}`; name it in the settings there")
            }));
        };
        let Some(Value::Array(has)) = found.attributes.get(PARTS) else {
            return Ok(None);
        };
        let has: BTreeSet<&str> = has.iter().filter_map(Value::as_str).collect();
        let written = rotation.written("", "");
        let mut given: BTreeSet<&str> = if kind.is_certificate() {
            [PART_CERTIFICATE, PART_KEY].into()
        } else {
            written.keys().map(String::as_str).collect()
        };
        if kind != CredentialKind::Password {
            given.insert(PART_ID);
        }
        let list = |names: &BTreeSet<&str>| {
            let names: Vec<&str> = names.iter().copied().collect();
            names.join("`, `")
        };
        Ok((has != given).then(|| {
            format!(
                "the bundle `{bundle}` of `{by}` keeps `{}`, and what is made consists of `{}`; give it these `parts`",
                list(&has),
                list(&given)
            )
        }))
    }

    /// How the system calls what the place shows, where it issued that.
    async fn id_shown(
        &self,
        place: &Call<'_>,
        shown: Option<&Kept>,
    ) -> Result<Option<String>, Failure> {
        let Some(shown) = shown else {
            return Ok(None);
        };
        let version = CredentialId::new(&shown.id);
        let at = kept(place, &self.row.declared.place, &version, PART_ID).await?;
        let id = at.and_then(|at| at.resolve().ok());
        Ok(id.map(|id| id.expose_secret().to_owned()))
    }

    /// Whether there is no room for another one.
    async fn full(
        &self,
        call: &Call<'_>,
        kind: CredentialKind,
        account: &str,
        user: &str,
        spare: &[String],
    ) -> Result<Option<String>, Failure> {
        let slots = call.system.capabilities().issues.get(&kind);
        let Some(slots) = slots.and_then(|issues| issues.slots) else {
            return Ok(None);
        };
        if self.row.mode != ReplaceMode::TwoSlot
            || !call.system.capabilities().credentials.contains(&kind)
        {
            return Ok(None);
        }
        let listed = call.connector.credentials(&NativeId::new(account)).await;
        let listed = listed.map_err(|error| failure(call.system.name(), &error))?;
        let taken = listed.value.iter().filter(|one| {
            // What ends before another is made leaves its place.
            one.kind == kind && !spare.iter().any(|spare| spare == one.id.as_str())
        });
        // What this case has issued already takes up the place that it needs.
        let taken: Vec<&str> = taken.map(|one| one.id.as_str()).collect();
        let room = usize::try_from(slots).unwrap_or(usize::MAX);
        Ok((taken.len() >= room).then(|| {
            format!(
                "`{user}` has {} of {slots} credentials (`{}`), and there is no room for another; end the one that nobody uses",
                taken.len(),
                taken.join("`, `")
            )
        }))
    }

    async fn kept(&self, place: &Call<'_>) -> Result<Vec<Kept>, Failure> {
        let bundle = NativeId::new(&self.row.declared.place.bundle);
        let listed = place.connector.credentials(&bundle).await;
        let listed = listed.map_err(|error| failure(place.system.name(), &error))?;
        let kept = listed.value.into_iter().map(|credential| Kept {
            id: credential.id.as_str().to_owned(),
            shown: credential.active == Some(true),
        });
        Ok(kept.collect())
    }

    /// Whose turn it was, and whose it is.
    fn users(&self, shown: Option<&str>) -> Result<(String, String), String> {
        let users = &self.row.declared.users;
        let is_of = |id: &str, user: &str| {
            id.strip_prefix(&safe(user))
                .is_some_and(|rest| rest.starts_with('.'))
        };
        match (self.row.mode, users.as_slice()) {
            (ReplaceMode::Alternating, [first, second]) => {
                let (was, is) = match shown {
                    Some(id) if is_of(id, second) => (second, first),
                    Some(id) if !is_of(id, first) => {
                        return Err(format!(
                            "`{}` shows `{id}`, which is of neither `{first}` nor `{second}`; say in `users` which two take turns",
                            self.row.declared.place.system
                        ));
                    }
                    Some(_) | None => (first, second),
                };
                Ok((was.clone(), is.clone()))
            }
            (_, [only]) => Ok((only.clone(), only.clone())),
            _ => Err(format!("`{}` does not say whose it is", self.row.name)),
        }
    }

    pub(super) async fn account(
        &self,
        call: &Call<'_>,
        user: &str,
    ) -> Result<Option<Account>, Failure> {
        let named = ObjectRef::AccountNamed(user.to_owned());
        match call.connector.get(&named).await {
            Ok(found) => Ok(found.and_then(Object::into_account)),
            Err(error) => Err(failure(call.system.name(), &error)),
        }
    }

    /// What the check of dependencies rests on, and why a person has to decide, if one has to.
    pub(super) async fn depends(&self) -> Result<(String, Option<String>), Failure> {
        let node = Node::credential(&self.row.name);
        let question = Question {
            subject: node.clone(),
            intent: Intent::Rotate,
            hostile: self.compromised,
        };
        let now = self.context.actions.clock().now();
        let directory = self.context.actions.directory();
        let snapshot = directory
            .dependencies(question, &BTreeMap::new(), Rules::default(), now)
            .await
            .map_err(|error| database(&error))?;
        let mut snapshot = match snapshot {
            Ok(snapshot) => snapshot,
            Err(count) => {
                let why = format!("more things hang on it than can be looked at: {count}");
                return Ok((String::new(), Some(why)));
            }
        };
        if let Some(facts) = snapshot.credentials.get_mut(&node) {
            // Of two that take turns the old one can always be put back, and an authority be trusted again.
            facts.reversible |= matches!(
                self.row.mode,
                ReplaceMode::Alternating | ReplaceMode::FourPhase
            );
        }
        let answer = check(&snapshot);
        // What an authority signed is issued anew on the way.
        let stops =
            |found: &&Finding| self.row.mode != ReplaceMode::FourPhase || found.node == node;
        let why = answer.stopping().find(stops).map(|finding| {
            format!(
                "the check of what hangs on `{}` says `{}`; see `tenure nhi check {node} --to rotate`",
                finding.node,
                finding.verdict.as_str()
            )
        });
        Ok((answer.digest, why))
    }
}

/// What a place keeps.
struct Kept {
    id: String,
    shown: bool,
}

fn no_login(system: &str, user: &str) -> String {
    format!(
        "there is no login name `{user}` on `{system}`; make it, with all that the other one may do"
    )
}

/// What one of the two may do, and the other may not.
fn differ(old: &Account, new: &Account) -> Option<String> {
    let (Some(has), Some(gets)) = (&old.entitlements, &new.entitlements) else {
        return None;
    };
    let names = |missing: BTreeSet<&EntitlementName>| {
        let names: Vec<&str> = missing.into_iter().map(EntitlementName::as_str).collect();
        names.join("`, `")
    };
    let lacks: BTreeSet<_> = has.difference(gets).collect();
    if !lacks.is_empty() {
        return Some(format!(
            "`{}` may not do what `{}` may: give it `{}`",
            new.name,
            old.name,
            names(lacks)
        ));
    }
    let more: BTreeSet<_> = gets.difference(has).collect();
    (!more.is_empty()).then(|| {
        format!(
            "`{}` may do more than `{}`: take `{}` from it",
            new.name,
            old.name,
            names(more)
        )
    })
}

/// A login name as a place takes it in the name of a version.
pub(super) fn safe(user: &str) -> String {
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() || "-_".contains(c) {
            c
        } else {
            '-'
        }
    };
    user.chars().map(safe).collect()
}
