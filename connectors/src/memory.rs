//! A directory in memory: what the suite and the layers are tested on. Exists in tests only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use chrono::DateTime;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use crate::connector::{
    Account, Attributes, Capabilities, Changes, Claim, ClaimName, Connector, Coverage, Credential,
    CredentialId, CredentialKind, Cursor, Entitlement, EntitlementName, Error, ErrorKind, Finding,
    Health, Issuing, Kind, Material, MaterialName, Minted, NativeId, NewCredential, Object,
    ObjectRef, Observation, Operation, OperationKey, OperationName, Outcome, Page, Receipt,
    Renewal, RenewalWindow, Use, Verdict,
};
use crate::secret::SecretRef;

/// The longest name this system takes.
pub const NAME_BYTES_MAX: usize = 64;
/// How many keys an account may have through `issue_credential`.
pub const SLOTS: u32 = 2;
/// Objects on one page of a listing.
pub const PAGE_SIZE: usize = 7;

#[derive(Debug, Clone)]
struct Held {
    account: Account,
    password: Option<String>,
    sessions: u32,
    keys: BTreeMap<CredentialId, Key>,
    documents: u32,
}

#[derive(Debug, Clone)]
struct Key {
    active: bool,
    secret: String,
    /// The operation key it was issued under.
    issued_by: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    accounts: BTreeMap<String, Held>,
    made: u64,
    log: Vec<String>,
}

/// Two entitlements, `staff` and `admins`, and no accounts.
#[derive(Debug, Default)]
pub struct Memory {
    state: Mutex<State>,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn accounts(&self) -> usize {
        self.lock().accounts.len()
    }

    pub fn log_in(&self, id: &NativeId, password: &SecretString) -> bool {
        let mut state = self.lock();
        let Some(held) = state.accounts.get_mut(id.as_str()) else {
            return false;
        };
        let opens = held.account.enabled == Some(true)
            && held.password.as_deref() == Some(password.expose_secret());
        held.sessions += u32::from(opens);
        opens
    }

    /// Whether a key lets in. It does so into a disabled account too: that is why keys have to be ended.
    pub fn takes(&self, id: &NativeId, key: &CredentialId) -> bool {
        let state = self.lock();
        let held = state.accounts.get(id.as_str());
        held.and_then(|held| held.keys.get(key))
            .is_some_and(|key| key.active)
    }
}

fn error(kind: ErrorKind, message: &str) -> Error {
    Error::new(kind, message)
}

fn known(name: &EntitlementName) -> Result<(), Error> {
    if ["staff", "admins"].contains(&name.as_str()) {
        Ok(())
    } else {
        Err(error(ErrorKind::NotFound, "no such entitlement"))
    }
}

fn receipt(id: &NativeId) -> Receipt {
    Receipt {
        account: Some(id.clone()),
        ..Receipt::default()
    }
}

/// What an issue gives, and how it is answered.
type Issued = (Minted, Receipt, fn(Receipt) -> Outcome);

fn issued(held: &Held, key: &str) -> Option<CredentialId> {
    let mut keys = held.keys.iter();
    keys.find(|(_, held)| held.issued_by.as_deref() == Some(key))
        .map(|(id, _)| id.clone())
}

fn minted(
    account: &NativeId,
    credential: Credential,
    secret: Option<String>,
    so: fn(Receipt) -> Outcome,
) -> Issued {
    let receipt = Receipt {
        credential: Some(credential.clone()),
        ..receipt(account)
    };
    let minted = Minted {
        credential,
        public: None,
        secret: secret.map(SecretString::from),
    };
    (minted, receipt, so)
}

impl State {
    fn held(&mut self, id: &NativeId) -> Result<&mut Held, Error> {
        self.log.push(id.to_string());
        self.accounts
            .get_mut(id.as_str())
            .ok_or_else(|| error(ErrorKind::NotFound, "no such account"))
    }

    fn change(
        &mut self,
        id: &NativeId,
        change: impl FnOnce(&mut Held) -> bool,
    ) -> Result<Outcome, Error> {
        let changed = change(self.held(id)?);
        Ok(if changed {
            Outcome::Done(receipt(id))
        } else {
            Outcome::AlreadySo(receipt(id))
        })
    }

    fn apply(&mut self, operation: &Operation) -> Result<Outcome, Error> {
        match operation {
            Operation::CreateAccount(new) => {
                if new.name.len() > NAME_BYTES_MAX || new.name.contains('\0') {
                    return Err(error(ErrorKind::Invalid, "the name is too long"));
                }
                for held in self.accounts.values() {
                    if held.account.owner.as_ref() == Some(&new.owner) {
                        return Ok(Outcome::AlreadySo(receipt(&held.account.id)));
                    }
                    if held.account.name == new.name {
                        return Err(error(
                            ErrorKind::Conflict,
                            "the name belongs to somebody else",
                        ));
                    }
                }
                self.made += 1;
                let id = NativeId::new(format!("account-{}", self.made));
                let account = Account {
                    id: id.clone(),
                    name: new.name.clone(),
                    enabled: Some(new.enabled),
                    owner: Some(new.owner.clone()),
                    attributes: new.attributes.clone(),
                    entitlements: Some(BTreeSet::new()),
                    version: None,
                };
                let password = new
                    .password
                    .as_ref()
                    .map(|secret| secret.expose_secret().to_owned());
                self.accounts.insert(
                    id.to_string(),
                    Held {
                        account,
                        password,
                        sessions: 0,
                        keys: BTreeMap::new(),
                        documents: 0,
                    },
                );
                self.log.push(id.to_string());
                Ok(Outcome::Done(receipt(&id)))
            }
            Operation::UpdateAccount {
                account,
                attributes,
            } => self.change(account, |held| {
                let before = held.account.attributes.clone();
                held.account.attributes.extend(attributes.clone());
                held.account.attributes != before
            }),
            Operation::EnableAccount { account } => self.change(account, |held| {
                held.account.enabled.replace(true) != Some(true)
            }),
            Operation::DisableAccount { account } => self.change(account, |held| {
                held.account.enabled.replace(false) != Some(false)
            }),
            Operation::DeleteAccount { account } => {
                self.log.push(account.to_string());
                Ok(match self.accounts.remove(account.as_str()) {
                    Some(_) => Outcome::Done(receipt(account)),
                    None => Outcome::AlreadySo(receipt(account)),
                })
            }
            Operation::Grant {
                account,
                entitlement,
            } => {
                known(entitlement)?;
                self.change(account, |held| {
                    held.account
                        .entitlements
                        .get_or_insert_default()
                        .insert(entitlement.clone())
                })
            }
            Operation::Revoke {
                account,
                entitlement,
            } => {
                known(entitlement)?;
                self.change(account, |held| {
                    held.account
                        .entitlements
                        .get_or_insert_default()
                        .remove(entitlement)
                })
            }
            Operation::EndSessions { account } => {
                self.change(account, |held| std::mem::take(&mut held.sessions) > 0)
            }
            Operation::SetPassword { account, password } => self.change(account, |held| {
                held.password = Some(password.expose_secret().to_owned());
                true
            }),
            Operation::DeactivateCredential {
                account,
                credential,
            } => self.change(account, |held| {
                held.keys
                    .get_mut(credential)
                    .is_some_and(|key| std::mem::take(&mut key.active))
            }),
            Operation::ActivateCredential {
                account,
                credential,
            } => {
                if !self.held(account)?.keys.contains_key(credential) {
                    return Err(error(ErrorKind::NotFound, "no such key"));
                }
                self.change(account, |held| {
                    held.keys
                        .get_mut(credential)
                        .is_some_and(|key| !std::mem::replace(&mut key.active, true))
                })
            }
            Operation::IssueCredential(_) | Operation::StoreCredential(_) => {
                Err(error(ErrorKind::Unsupported, "no such operation"))
            }
            Operation::DestroyCredential {
                account,
                credential,
            } => self.change(account, |held| held.keys.remove(credential).is_some()),
            Operation::TransferOwnership { from, to } => {
                self.held(to)?;
                let documents = std::mem::take(&mut self.held(from)?.documents);
                self.held(to)?.documents += documents;
                self.change(from, |_| documents > 0)
            }
            Operation::Action { name, .. } if name == "noop" => {
                Ok(Outcome::Done(Receipt::default()))
            }
            Operation::Action { name, with } if name == "add_key" || name == "add_document" => {
                let account = NativeId::new(with["account"].as_str().unwrap_or_default());
                let id = CredentialId::new(format!("key-{}", self.log.len()));
                let key = Key {
                    active: true,
                    secret: format!("secret of {id}"),
                    issued_by: None,
                };
                self.change(&account, |held| {
                    if name == "add_key" {
                        held.keys.insert(id, key);
                    } else {
                        held.documents += 1;
                    }
                    true
                })
            }
            Operation::Action { .. } => Err(error(ErrorKind::Unsupported, "no such action")),
        }
    }

    /// One with this key is there, or is made now: it, its secret if it is new, and the answer.
    fn issue(&mut self, new: &NewCredential, key: &OperationKey) -> Result<Issued, Error> {
        let account = &new.account;
        let id = CredentialId::new(format!("key-{}", self.log.len()));
        let held = self.held(account)?;
        if let (CredentialKind::Password, Material::Secret(secret)) = (new.kind, &new.material) {
            held.password = Some(secret.expose_secret().to_owned());
            let password = Credential::new(CredentialId::new("password"), new.kind);
            return Ok(minted(account, password, None, Outcome::Done));
        }
        if new.kind != CredentialKind::ApiKey || new.material.name() != MaterialName::BySystem {
            return Err(error(ErrorKind::Unsupported, "only API keys are issued"));
        }
        if let Some(id) = issued(held, &key.idempotency) {
            let known = Credential::new(id, new.kind);
            return Ok(minted(account, known, None, Outcome::AlreadySo));
        }
        let live = held.keys.values().filter(|key| key.issued_by.is_some());
        if live.count() >= SLOTS as usize {
            return Err(error(ErrorKind::Full, "both slots are taken"));
        }
        let secret = format!("secret of {id}");
        held.keys.insert(
            id.clone(),
            Key {
                active: true,
                secret: secret.clone(),
                issued_by: Some(key.idempotency.clone()),
            },
        );
        let made = Credential::new(id, new.kind);
        Ok(minted(account, made, Some(secret), Outcome::Done))
    }

    fn lets_in(&self, account: &NativeId, credential: &CredentialId, secret: &SecretRef) -> bool {
        let secret = secret.resolve().unwrap_or_default();
        self.accounts.get(account.as_str()).is_some_and(|held| {
            if credential.as_str() == "password" {
                held.account.enabled == Some(true)
                    && held.password.as_deref() == Some(secret.expose_secret())
            } else {
                held.keys
                    .get(credential)
                    .is_some_and(|key| key.active && key.secret == secret.expose_secret())
            }
        })
    }

    fn holds(&self, claim: &Claim) -> (bool, Option<NativeId>) {
        let find = |id: &NativeId| self.accounts.get(id.as_str());
        let granted = |account: &NativeId, name: &EntitlementName| {
            find(account)
                .and_then(|held| held.account.entitlements.as_ref())
                .is_some_and(|held| held.contains(name))
        };
        let attributes = |held: &Held, wanted: &Attributes| {
            wanted
                .iter()
                .all(|(name, value)| held.account.attributes.get(name) == Some(value))
        };
        match claim {
            Claim::AccountExists { owner } => {
                let found = self
                    .accounts
                    .values()
                    .find(|held| held.account.owner.as_ref() == Some(owner));
                (found.is_some(), found.map(|held| held.account.id.clone()))
            }
            Claim::AccountEnabled { account } => (
                find(account).is_some_and(|held| held.account.enabled == Some(true)),
                None,
            ),
            Claim::AccountDisabled { account } => (
                find(account).is_none_or(|held| held.account.enabled == Some(false)),
                None,
            ),
            Claim::AccountAbsent { account } => (find(account).is_none(), None),
            Claim::AttributesAre {
                account,
                attributes: wanted,
            } => (
                find(account).is_some_and(|held| attributes(held, wanted)),
                None,
            ),
            Claim::Granted {
                account,
                entitlement,
            } => (granted(account, entitlement), None),
            Claim::NotGranted {
                account,
                entitlement,
            } => (!granted(account, entitlement), None),
            Claim::NoSessions { account } => {
                (find(account).is_none_or(|held| held.sessions == 0), None)
            }
            Claim::CredentialInactive {
                account,
                credential,
            } => (
                find(account)
                    .is_none_or(|held| !held.keys.get(credential).is_some_and(|k| k.active)),
                None,
            ),
            Claim::CredentialActive {
                account,
                credential,
            } => (
                find(account)
                    .and_then(|held| held.keys.get(credential))
                    .is_some_and(|key| key.active),
                None,
            ),
            Claim::CredentialIssued { account, key } => (
                find(account).is_some_and(|held| issued(held, key).is_some()),
                None,
            ),
            Claim::CredentialWorks {
                account,
                credential,
                secret,
            } => (self.lets_in(account, credential, secret), None),
            Claim::CredentialRefused {
                account,
                credential,
                secret,
            } => (!self.lets_in(account, credential, secret), None),
            Claim::CredentialStored { .. }
            | Claim::ServesCertificate { .. }
            | Claim::ServesTrusted { .. }
            | Claim::NothingSigned { .. } => (false, None),
            Claim::OwnsNothing { account } => {
                (find(account).is_none_or(|held| held.documents == 0), None)
            }
        }
    }
}

#[async_trait]
impl Connector for Memory {
    fn capabilities(&self) -> Capabilities {
        use OperationName as Op;
        Capabilities {
            operations: BTreeSet::from([
                Op::CreateAccount,
                Op::UpdateAccount,
                Op::EnableAccount,
                Op::DisableAccount,
                Op::DeleteAccount,
                Op::Grant,
                Op::Revoke,
                Op::EndSessions,
                Op::SetPassword,
                Op::IssueCredential,
                Op::ActivateCredential,
                Op::DeactivateCredential,
                Op::DestroyCredential,
                Op::TransferOwnership,
                Op::Action,
            ]),
            claims: BTreeSet::from([
                ClaimName::AccountExists,
                ClaimName::AccountEnabled,
                ClaimName::AccountDisabled,
                ClaimName::AccountAbsent,
                ClaimName::AttributesAre,
                ClaimName::Granted,
                ClaimName::NotGranted,
                ClaimName::NoSessions,
                ClaimName::CredentialInactive,
                ClaimName::CredentialActive,
                ClaimName::CredentialIssued,
                ClaimName::CredentialWorks,
                ClaimName::CredentialRefused,
                ClaimName::OwnsNothing,
            ]),
            lists: BTreeSet::from([Kind::Account, Kind::Entitlement]),
            changes: true,
            dependents: true,
            credentials: BTreeSet::from([CredentialKind::ApiKey]),
            issues: BTreeMap::from([
                (
                    CredentialKind::ApiKey,
                    Issuing {
                        material: BTreeSet::from([MaterialName::BySystem]),
                        slots: Some(SLOTS),
                    },
                ),
                (
                    CredentialKind::Password,
                    Issuing {
                        material: BTreeSet::from([MaterialName::Secret]),
                        slots: Some(1),
                    },
                ),
            ]),
            renewal: true,
            finds_by_owner: true,
            by_hand: false,
        }
    }

    async fn check(&self) -> Result<Health, Error> {
        Ok(Health {
            findings: vec![Finding::good("reach", "in memory")],
        })
    }

    async fn list(&self, kind: Kind, after: Option<Cursor>) -> Result<Page, Error> {
        let state = self.lock();
        let all: Vec<Object> = match kind {
            Kind::Account => state
                .accounts
                .values()
                .map(|held| Object::Account(held.account.clone()))
                .collect(),
            Kind::Entitlement => ["staff", "admins"]
                .map(|name| {
                    Object::Entitlement(Entitlement {
                        id: NativeId::new(name),
                        name: EntitlementName::new(name),
                    })
                })
                .into(),
        };
        let skip = after.map_or(Ok(0), |cursor| {
            cursor
                .0
                .parse::<usize>()
                .map_err(|_| error(ErrorKind::Invalid, "unknown cursor"))
        })?;
        let end = skip + PAGE_SIZE;
        let next = (end < all.len()).then(|| Cursor(end.to_string()));
        Ok(Page {
            items: all.into_iter().skip(skip).take(PAGE_SIZE).collect(),
            complete: next.is_none(),
            next,
        })
    }

    async fn get(&self, object: &ObjectRef) -> Result<Option<Object>, Error> {
        tokio::task::yield_now().await;
        let state = self.lock();
        let find = |wanted: &dyn Fn(&Account) -> bool| {
            state
                .accounts
                .values()
                .find(|held| wanted(&held.account))
                .map(|held| Object::Account(held.account.clone()))
        };
        Ok(match object {
            ObjectRef::Account(id) => find(&|account| account.id == *id),
            ObjectRef::AccountNamed(name) => find(&|account| account.name == *name),
            ObjectRef::AccountOwnedBy(owner) => {
                find(&|account| account.owner.as_ref() == Some(owner))
            }
            ObjectRef::Entitlement(name) => known(name).ok().map(|()| {
                Object::Entitlement(Entitlement {
                    id: NativeId::new(name.as_str()),
                    name: name.clone(),
                })
            }),
        })
    }

    async fn changes(&self, after: Option<Cursor>) -> Result<Changes, Error> {
        let state = self.lock();
        let skip = after
            .and_then(|cursor| cursor.0.parse().ok())
            .unwrap_or(state.log.len());
        let mut changes = Changes {
            items: Vec::new(),
            deleted: Vec::new(),
            next: Some(Cursor(state.log.len().to_string())),
            gap: false,
        };
        for id in state.log.iter().skip(skip) {
            match state.accounts.get(id) {
                Some(held) => changes.items.push(Object::Account(held.account.clone())),
                None => changes.deleted.push(NativeId::new(id)),
            }
        }
        Ok(changes)
    }

    async fn apply(&self, operation: &Operation, key: &OperationKey) -> Result<Outcome, Error> {
        tokio::task::yield_now().await;
        if let Operation::IssueCredential(new) = operation {
            let (minted, receipt, so) = self.lock().issue(new, key)?;
            return Ok(new.into.settle(minted, receipt, so).await);
        }
        let outcome = self.lock().apply(operation);
        tokio::task::yield_now().await;
        outcome
    }

    async fn verify(&self, claim: &Claim) -> Result<Verdict, Error> {
        if let Claim::CredentialStored { .. }
        | Claim::ServesCertificate { .. }
        | Claim::ServesTrusted { .. }
        | Claim::NothingSigned { .. } = claim
        {
            return Ok(Verdict::CannotObserve {
                reason: "nothing is kept or served here".to_owned(),
            });
        }
        let state = self.lock();
        let (holds, account) = state.holds(claim);
        let mut seen = json!({ "holds": holds });
        if let (Claim::CredentialIssued { account, key }, true) = (claim, holds) {
            let id = state
                .accounts
                .get(account.as_str())
                .and_then(|held| issued(held, key))
                .ok_or_else(|| error(ErrorKind::Bug, "it was there"))?;
            seen = json!({
                "holds": holds,
                "credential": Credential::new(id, CredentialKind::ApiKey),
            });
        }
        let observation = Observation {
            by: "memory".to_owned(),
            account,
            seen,
        };
        Ok(if holds {
            Verdict::Proven(observation)
        } else {
            Verdict::Refuted(observation)
        })
    }

    async fn credentials(&self, account: &NativeId) -> Result<Coverage<Vec<Credential>>, Error> {
        let state = self.lock();
        let keys = state.accounts.get(account.as_str()).map(|held| &held.keys);
        let listed = keys.into_iter().flatten().map(|(id, key)| Credential {
            active: Some(key.active),
            ..Credential::new(id.clone(), CredentialKind::ApiKey)
        });
        Ok(Coverage {
            value: listed.collect(),
            blind_spots: Vec::new(),
        })
    }

    /// Every key within a moment, for ever.
    async fn renewal(
        &self,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<Renewal, Error> {
        let state = self.lock();
        let held = state.accounts.get(account.as_str());
        let held = held.filter(|held| held.keys.contains_key(credential));
        let (start, end) = (DateTime::UNIX_EPOCH, DateTime::UNIX_EPOCH);
        Ok(Renewal {
            window: held.map(|_| RenewalWindow { start, end }),
            ask_again_s: None,
        })
    }

    async fn dependents(&self, _object: &ObjectRef) -> Result<Coverage<Vec<Use>>, Error> {
        Ok(Coverage {
            value: Vec::new(),
            blind_spots: vec!["everything outside memory".to_owned()],
        })
    }
}
