//! A directory in memory for the cases of one run: it takes every call at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use connectors::connector::{
    Account, Capabilities, Claim, ClaimName, Connector, Cursor, EntitlementName, Error, ErrorKind,
    Finding, Health, Kind, NativeId, Object, ObjectRef, Observation, Operation, OperationKey,
    OperationName, Outcome, Page, Receipt, Verdict,
};
use serde_json::Value;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    name: String,
    is_open: bool,
    groups: BTreeSet<EntitlementName>,
}

/// Accounts by owner; the owner is the identifier, too.
#[derive(Default)]
pub(super) struct Accounts(Mutex<HashMap<String, Held>>);

impl Accounts {
    fn held(&self) -> MutexGuard<'_, HashMap<String, Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The groups of somebody's open account.
    pub fn open(&self, owner: &str) -> Option<Vec<String>> {
        let held = self.held();
        let account = held.get(owner).filter(|account| account.is_open)?;
        Some(account.groups.iter().map(ToString::to_string).collect())
    }

    pub fn len(&self) -> usize {
        self.held().len()
    }

    /// Changes one account; gives whether it changed anything.
    fn change(
        &self,
        id: &NativeId,
        change: impl FnOnce(&mut Held) -> bool,
    ) -> Result<Outcome, Error> {
        let mut held = self.held();
        let account = held
            .get_mut(id.as_str())
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no such account"))?;
        let changed = change(account);
        Ok(outcome(id, Some(account.name.clone()), changed))
    }
}

fn outcome(id: &NativeId, name: Option<String>, changed: bool) -> Outcome {
    let receipt = Receipt {
        account: Some(id.clone()),
        name,
        ..Receipt::default()
    };
    if changed {
        Outcome::Done(receipt)
    } else {
        Outcome::AlreadySo(receipt)
    }
}

#[async_trait]
impl Connector for Accounts {
    fn capabilities(&self) -> Capabilities {
        use OperationName as Op;
        Capabilities {
            operations: BTreeSet::from([
                Op::CreateAccount,
                Op::UpdateAccount,
                Op::EnableAccount,
                Op::DisableAccount,
                Op::Grant,
                Op::Revoke,
            ]),
            claims: BTreeSet::from([ClaimName::AccountExists]),
            finds_by_owner: true,
            ..Capabilities::default()
        }
    }

    async fn check(&self) -> Result<Health, Error> {
        Ok(Health {
            findings: vec![Finding::good("reach", "in memory")],
        })
    }

    async fn list(&self, _: Kind, _: Option<Cursor>) -> Result<Page, Error> {
        Err(Error::new(
            ErrorKind::Unsupported,
            "this system lists nothing",
        ))
    }

    async fn get(&self, object: &ObjectRef) -> Result<Option<Object>, Error> {
        let id = match object {
            ObjectRef::Account(id) => id.as_str().to_owned(),
            ObjectRef::AccountOwnedBy(owner) => owner.clone(),
            ObjectRef::AccountNamed(name) => name.to_uppercase(),
            ObjectRef::Entitlement(_) => return Ok(None),
        };
        let held = self.held().get(&id).cloned();
        Ok(held.map(|held| {
            Object::Account(Account {
                id: NativeId::new(&id),
                name: held.name,
                enabled: Some(held.is_open),
                owner: Some(id),
                attributes: BTreeMap::new(),
                entitlements: Some(held.groups),
                version: None,
            })
        }))
    }

    async fn apply(&self, operation: &Operation, _: &OperationKey) -> Result<Outcome, Error> {
        match operation {
            Operation::CreateAccount(new) => {
                let id = NativeId::new(&new.owner);
                let mut held = self.held();
                if held.contains_key(&new.owner) {
                    return Ok(outcome(&id, Some(new.name.clone()), false));
                }
                let account = Held {
                    name: new.name.clone(),
                    is_open: new.enabled,
                    groups: BTreeSet::new(),
                };
                held.insert(new.owner.clone(), account);
                Ok(outcome(&id, Some(new.name.clone()), true))
            }
            Operation::UpdateAccount { account, .. } => self.change(account, |_| true),
            Operation::EnableAccount { account } => {
                self.change(account, |held| !std::mem::replace(&mut held.is_open, true))
            }
            Operation::DisableAccount { account } => {
                self.change(account, |held| std::mem::replace(&mut held.is_open, false))
            }
            Operation::Grant {
                account,
                entitlement,
            } => self.change(account, |held| held.groups.insert(entitlement.clone())),
            Operation::Revoke {
                account,
                entitlement,
            } => self.change(account, |held| held.groups.remove(entitlement)),
            _ => Err(Error::new(
                ErrorKind::Unsupported,
                "this system does no such thing",
            )),
        }
    }

    async fn verify(&self, claim: &Claim) -> Result<Verdict, Error> {
        let held = self.held();
        let find = |id: &NativeId| held.get(id.as_str());
        let mut account = None;
        let holds = match claim {
            Claim::AccountExists { owner } => {
                account = held.get(owner).map(|_| NativeId::new(owner));
                account.is_some()
            }
            Claim::AccountEnabled { account } => find(account).is_some_and(|held| held.is_open),
            Claim::AccountDisabled { account } => find(account).is_none_or(|held| !held.is_open),
            Claim::AccountAbsent { account } => find(account).is_none(),
            Claim::AttributesAre { .. }
            | Claim::NoSessions { .. }
            | Claim::CredentialInactive { .. }
            | Claim::CredentialActive { .. }
            | Claim::CredentialIssued { .. }
            | Claim::CredentialStored { .. }
            | Claim::CredentialWorks { .. }
            | Claim::CredentialRefused { .. }
            | Claim::ServesCertificate { .. }
            | Claim::ServesTrusted { .. }
            | Claim::NothingSigned { .. }
            | Claim::OwnsNothing { .. } => true,
            Claim::Granted {
                account,
                entitlement,
            } => find(account).is_some_and(|held| held.groups.contains(entitlement)),
            Claim::NotGranted {
                account,
                entitlement,
            } => find(account).is_none_or(|held| !held.groups.contains(entitlement)),
        };
        let seen = Observation {
            by: "memory".to_owned(),
            account,
            seen: Value::Null,
        };
        Ok(if holds {
            Verdict::Proven(seen)
        } else {
            Verdict::Refuted(seen)
        })
    }
}
