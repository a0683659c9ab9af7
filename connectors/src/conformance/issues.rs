//! New credentials: both halves arrive, one key never makes two, and what was made really lets in.

use std::io::Write as _;
use std::path::PathBuf;

use secrecy::{ExposeSecret as _, SecretString};
use uuid::Uuid;

use super::bench::{Bench, Checked, Stop, ensure, failed, key, said};
use super::credentials::list;
use crate::connector::{
    Claim, ClaimName, Credential, CredentialId, CredentialKind, HandOver, Material, MaterialName,
    Minted, NativeId, NewCredential, Operation, OperationKey, OperationName as Op, Outcome,
    Receipt, Slot,
};
use crate::secret::SecretRef;

/// How many are issued before a system that names no limit is believed to have none.
const SLOTS_MAX: u32 = 16;

/// One way in which the system issues credentials, other than passwords, and for whom.
struct Way {
    kind: CredentialKind,
    material: Material,
    slots: Option<u32>,
}

/// What came of one issue.
struct Issued {
    credential: Credential,
    minted: Minted,
    receipt: Receipt,
    is_new: bool,
}

impl Bench {
    /// Every declared way, as far as the fixture can walk it.
    fn ways(&self) -> Checked<Vec<Way>> {
        self.needs(&[Op::IssueCredential])?;
        let mut ways = Vec::new();
        for (kind, issuing) in &self.can.issues {
            if *kind == CredentialKind::Password {
                continue;
            }
            for name in &issuing.material {
                let material = match (name, &self.fixture.public_half) {
                    (MaterialName::BySystem, _) => Material::BySystem,
                    (MaterialName::Secret, _) => Material::Secret(self.fixture.password.clone()),
                    (MaterialName::Public, Some(public)) => Material::Public(public.clone()),
                    (MaterialName::Public, None) => continue,
                };
                ways.push(Way {
                    kind: *kind,
                    material,
                    slots: issuing.slots,
                });
            }
        }
        if ways.is_empty() {
            return Err(Stop::NotApplicable(
                "only passwords are issued, or the fixture has no `public_half`".to_owned(),
            ));
        }
        Ok(ways)
    }

    /// Whom credentials are issued to.
    async fn holder(&self) -> Checked<NativeId> {
        match &self.fixture.holder {
            Some(holder) => Ok(NativeId::new(format!("{holder}{}", self.fresh_name()))),
            None => Ok(self.make().await?.id),
        }
    }

    fn request(&self, account: &NativeId, way: &Way) -> (Operation, Slot) {
        let (into, slot) = HandOver::slot();
        let new = NewCredential {
            account: account.clone(),
            kind: way.kind,
            material: way.material.clone(),
            attributes: super::named(&self.fixture.issue_attributes, account.as_str()),
            lifetime_s: self.fixture.issue_lifetime_s,
            label: Some("conformance".to_owned()),
            into,
        };
        (Operation::IssueCredential(new), slot)
    }

    async fn issue(&self, account: &NativeId, way: &Way, key: &OperationKey) -> Checked<Issued> {
        let (operation, slot) = self.request(account, way);
        let (receipt, is_new) = match self.apply(&operation, key).await {
            Ok(Outcome::Done(receipt)) => (receipt, true),
            Ok(Outcome::AlreadySo(receipt)) => (receipt, false),
            other => {
                return failed(format!(
                    "issue_credential ({}, {}): expected success, got {}",
                    way.kind.as_str(),
                    way.material.name().as_str(),
                    said(&other)
                ));
            }
        };
        let Some(minted) = slot.take() else {
            return failed("the answer came and nothing was handed over");
        };
        let Some(credential) = receipt.credential.clone() else {
            return failed("the receipt does not name the credential");
        };
        ensure(minted.credential.id == credential.id, || {
            format!(
                "`{}` was handed over and the receipt says `{}`",
                minted.credential.id, credential.id
            )
        })?;
        if let Some(secret) = &minted.secret {
            let text = serde_json::to_string(&receipt).unwrap_or_default();
            ensure(!text.contains(secret.expose_secret()), || {
                "the receipt holds the secret half".to_owned()
            })?;
        }
        Ok(Issued {
            credential,
            minted,
            receipt,
            is_new,
        })
    }
}

fn again(key: &OperationKey) -> OperationKey {
    OperationKey {
        attempt: key.attempt.saturating_add(1),
        ..key.clone()
    }
}

pub(super) async fn twice(bench: &Bench) -> Checked {
    for way in bench.ways()? {
        let account = bench.holder().await?;
        let key = key();
        let first = bench.issue(&account, &way, &key).await?;
        ensure(first.is_new, || "a new one was so already".to_owned())?;
        ensure(first.credential.kind == way.kind, || {
            format!("asked for `{}`", way.kind.as_str())
        })?;
        let by_system = way.material.name() == MaterialName::BySystem;
        ensure(first.minted.secret.is_some() == by_system, || {
            "the secret half is handed over if the system made it, and only then".to_owned()
        })?;
        ensure(
            first
                .receipt
                .account
                .as_ref()
                .is_none_or(|id| *id == account),
            || "the receipt names somebody else".to_owned(),
        )?;
        let second = bench.issue(&account, &way, &again(&key)).await?;
        ensure(!second.is_new, || "done twice under one key".to_owned())?;
        ensure(second.credential.id == first.credential.id, || {
            format!(
                "one key made `{}` and then `{}`",
                first.credential.id, second.credential.id
            )
        })?;
        ensure(second.minted.public == first.minted.public, || {
            "the public half is another one the second time".to_owned()
        })?;
        let listed = list(bench, &account).await?;
        let same = listed.iter().filter(|it| it.id == first.credential.id);
        ensure(same.count() == 1 && listed.len() == 1, || {
            format!("expected that one credential, found {listed:?}")
        })?;
    }
    Ok(())
}

pub(super) async fn beside(bench: &Bench) -> Checked {
    for way in bench.ways()? {
        if way.slots == Some(1) {
            continue;
        }
        let account = bench.holder().await?;
        let first = bench.issue(&account, &way, &key()).await?;
        let second = bench.issue(&account, &way, &key()).await?;
        ensure(second.is_new, || "another key was so already".to_owned())?;
        ensure(second.credential.id != first.credential.id, || {
            format!("two keys made one credential, `{}`", first.credential.id)
        })?;
        let listed = list(bench, &account).await?;
        for id in [&first.credential.id, &second.credential.id] {
            let is_there = listed
                .iter()
                .any(|it| it.id == *id && it.active != Some(false));
            ensure(is_there, || {
                format!("`{id}` is not listed as usable among {listed:?}")
            })?;
        }
    }
    Ok(())
}

pub(super) async fn answer_lost(bench: &Bench) -> Checked {
    bench.needs_claim(ClaimName::CredentialIssued)?;
    for way in bench.ways()? {
        let account = bench.holder().await?;
        let key = key();
        let issued = Claim::CredentialIssued {
            account: account.clone(),
            key: key.idempotency.clone(),
        };
        bench.refuted(&issued).await?;
        let made = bench.issue(&account, &way, &key).await?.credential;
        // The answer is forgotten here.
        let found = bench.proven(&issued).await?.credential();
        ensure(found.as_ref().is_some_and(|it| it.id == made.id), || {
            format!("`{}` was issued and {found:?} is found", made.id)
        })?;
        bench
            .refuted(&Claim::CredentialIssued {
                account,
                key: format!("{}-another", key.idempotency),
            })
            .await?;
    }
    Ok(())
}

pub(super) async fn no_room(bench: &Bench) -> Checked {
    let mut tried = false;
    for way in bench.ways()? {
        let Some(slots) = way.slots.filter(|slots| (2..=SLOTS_MAX).contains(slots)) else {
            continue;
        };
        tried = true;
        let account = bench.holder().await?;
        for _ in 0..slots {
            bench.issue(&account, &way, &key()).await?;
        }
        let before = list(bench, &account).await?;
        let (one_more, _) = bench.request(&account, &way);
        bench.refused(&one_more, &["full"]).await?;
        let now = list(bench, &account).await?;
        ensure(now == before, || {
            format!("there was no room and {before:?} became {now:?}")
        })?;
    }
    if tried {
        Ok(())
    } else {
        Err(Stop::NotApplicable(
            "no kind has two slots or more".to_owned(),
        ))
    }
}

pub(super) async fn switched(bench: &Bench) -> Checked {
    bench.needs(&[Op::ActivateCredential, Op::DeactivateCredential])?;
    for way in bench.ways()? {
        let account = bench.holder().await?;
        let credential = bench.issue(&account, &way, &key()).await?.credential.id;
        let active = Claim::CredentialActive {
            account: account.clone(),
            credential: credential.clone(),
        };
        let activate = Operation::ActivateCredential {
            account: account.clone(),
            credential: credential.clone(),
        };
        bench.is_already(&activate).await?;
        bench.proven_if_declared(&active).await?;
        bench
            .twice(&Operation::DeactivateCredential {
                account: account.clone(),
                credential: credential.clone(),
            })
            .await?;
        if bench.can.claims.contains(&active.name()) {
            bench.refuted(&active).await?;
        }
        bench.twice(&activate).await?;
        bench.proven_if_declared(&active).await?;
        let unknown = Operation::ActivateCredential {
            account,
            credential: CredentialId::new("never issued"),
        };
        bench.refused(&unknown, &["not_found", "invalid"]).await?;
    }
    Ok(())
}

/// A secret in a file of its own, for as long as it takes to try it.
struct Kept(PathBuf);

impl Kept {
    fn new(secret: &SecretString) -> Checked<Self> {
        let path = std::env::temp_dir().join(format!("tenure-conformance-{}", Uuid::new_v4()));
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let kept = Self(path);
        options
            .open(&kept.0)
            .and_then(|mut file| file.write_all(secret.expose_secret().as_bytes()))
            .map_err(|error| {
                Stop::Failed(format!("cannot write `{}`: {error}", kept.0.display()))
            })?;
        Ok(kept)
    }

    fn reference(&self) -> SecretRef {
        SecretRef::File(self.0.display().to_string())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Proves that the secret lets in, or that it is refused, by both claims.
async fn lets_in(
    bench: &Bench,
    account: &NativeId,
    credential: &CredentialId,
    kept: &Kept,
    wanted: bool,
) -> Checked {
    let works = Claim::CredentialWorks {
        account: account.clone(),
        credential: credential.clone(),
        secret: kept.reference(),
    };
    let refused = Claim::CredentialRefused {
        account: account.clone(),
        credential: credential.clone(),
        secret: kept.reference(),
    };
    let (so, not_so) = if wanted {
        (works, refused)
    } else {
        (refused, works)
    };
    if bench.can.claims.contains(&so.name()) {
        bench.proven(&so).await?;
    }
    if bench.can.claims.contains(&not_so.name()) {
        bench.refuted(&not_so).await?;
    }
    Ok(())
}

pub(super) async fn passwords_tried(bench: &Bench) -> Checked {
    bench.needs_claim(ClaimName::CredentialWorks)?;
    bench.needs(&[Op::CreateAccount])?;
    if !bench.can.issues.contains_key(&CredentialKind::Password) {
        return Err(Stop::NotApplicable("no passwords are issued".to_owned()));
    }
    let old = bench.fixture.password.clone();
    let new = SecretString::from(format!("{}-Second2", old.expose_secret()));
    let account = bench.make_with_password(&old).await?.id;
    let id = CredentialId::new("password");
    let (old_kept, new_kept) = (Kept::new(&old)?, Kept::new(&new)?);
    lets_in(bench, &account, &id, &old_kept, true).await?;
    lets_in(bench, &account, &id, &new_kept, false).await?;
    let way = Way {
        kind: CredentialKind::Password,
        material: Material::Secret(new),
        slots: Some(1),
    };
    let key = key();
    for attempt in [key.clone(), again(&key)] {
        let issued = bench.issue(&account, &way, &attempt).await?;
        ensure(issued.credential.id == id, || {
            format!(
                "a password goes by `{id}`, not by `{}`",
                issued.credential.id
            )
        })?;
        ensure(issued.minted.secret.is_none(), || {
            "a password that we made was handed back".to_owned()
        })?;
        let text = serde_json::to_string(&issued.receipt).unwrap_or_default();
        ensure(!text.contains("-Second2"), || {
            "the receipt holds the password".to_owned()
        })?;
    }
    lets_in(bench, &account, &id, &new_kept, true).await?;
    lets_in(bench, &account, &id, &old_kept, false).await?;
    if bench.can.operations.contains(&Op::DisableAccount) {
        bench
            .does(&Operation::DisableAccount {
                account: account.clone(),
            })
            .await?;
        lets_in(bench, &account, &id, &new_kept, false).await?;
    }
    let gone = bench.missing_id().await?;
    lets_in(bench, &gone, &id, &new_kept, false).await
}

pub(super) async fn issued_tried(bench: &Bench) -> Checked {
    bench.needs_claim(ClaimName::CredentialWorks)?;
    let mut tried = false;
    for way in bench.ways()? {
        let account = bench.holder().await?;
        let issued = bench.issue(&account, &way, &key()).await?;
        let Some(secret) = &issued.minted.secret else {
            continue;
        };
        tried = true;
        let id = issued.credential.id;
        let kept = Kept::new(secret)?;
        let wrong = Kept::new(&SecretString::from("C0nformance-wrong".to_owned()))?;
        lets_in(bench, &account, &id, &kept, true).await?;
        lets_in(bench, &account, &id, &wrong, false).await?;
        if bench.can.operations.contains(&Op::DeactivateCredential) {
            let (deactivate, activate) = (
                Operation::DeactivateCredential {
                    account: account.clone(),
                    credential: id.clone(),
                },
                Operation::ActivateCredential {
                    account: account.clone(),
                    credential: id.clone(),
                },
            );
            bench.does(&deactivate).await?;
            lets_in(bench, &account, &id, &kept, false).await?;
            if bench.can.operations.contains(&Op::ActivateCredential) {
                bench.does(&activate).await?;
                lets_in(bench, &account, &id, &kept, true).await?;
            }
        }
        if bench.can.operations.contains(&Op::DestroyCredential) {
            bench
                .does(&Operation::DestroyCredential {
                    account: account.clone(),
                    credential: id.clone(),
                })
                .await?;
            lets_in(bench, &account, &id, &kept, false).await?;
        }
    }
    if tried {
        Ok(())
    } else {
        Err(Stop::NotApplicable(
            "the system makes no secret half".to_owned(),
        ))
    }
}
