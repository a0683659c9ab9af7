//! An SSH authority: certificates for users and hosts, and the list of the revoked.
//!
//! | Tenure     | here                                                                                           |
//! |------------|------------------------------------------------------------------------------------------------|
//! | account    | a holder: any name; it stands in the certificate as its key id and in the logs of servers      |
//! | credential | a certificate, `ssh_certificate:SERIAL`                                                        |
//! | issue      | for a public key, or with a key that is made here and handed over once                         |
//! | destroy    | on the list of the revoked for good; deactivate and activate put it on and take it off         |
//! | works      | a login with the `ssh` of this machine, where `trial` says                                     |
//!
//! Servers read `user_ca.pub` (`TrustedUserCAKeys`) and `krl` (`RevokedKeys`), clients `host_ca.pub` (`@cert-authority`). Keys
//! that stand in `authorized_keys` are a bundle of the `file` connector: their part is that file, and the switch is what
//! refuses the old one.
//!
//! ```yaml
//! kind: ssh
//! settings:
//!   folder: /var/lib/tenure/ssh       # keys for the owner alone; *.pub and krl for everybody
//!   create: true                      # make the authority if it is not there; default: false
//!   users: [deploy, backup]           # whom certificates may let in as; without it nobody
//!   hosts: [.example.org]             # which hosts may be certified
//!   extensions: [permit-pty]          # of certificates of users
//!   lifetime_s: 86400                 # a day, unless asked otherwise
//!   lifetime_s_max: 2592000
//!   trial: { host: bastion.example.org, port: 22, user: deploy, known_hosts: /etc/tenure/known_hosts }
//! ```
//!
//! Attributes of a request: `principals` (names of users or hosts), `usage` (`user` or `host`; default: user).

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::answer::{name_in, named, page, verdict};
use crate::connector::{
    Capabilities, Claim, ClaimName, Connector, Coverage, Credential, CredentialId, CredentialKind,
    Cursor, Error, ErrorKind, Finding, Health, Issuing, Kind, MaterialName, NativeId, Object,
    ObjectRef, Operation, OperationKey, OperationName, Outcome, Page, Verdict,
};
use crate::disk;
use crate::journal::Journal;
use crate::layer::{Clock, real_clock};

mod held;
mod krl;
mod settings;
mod trial;

#[cfg(test)]
mod tests;

use held::{Held, Known, Leaf, Mark, State, unusable};
use settings::Settings;

const PRIVATE: u32 = 0o600;

pub struct Ssh {
    system: String,
    settings: Arc<Settings>,
    state: Arc<Mutex<State>>,
    clock: Clock,
}

impl Ssh {
    /// Reads the settings; touches nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] names the setting that is wrong, missing or unknown.
    pub fn from_settings(system: &str, settings: Value) -> Result<Self, Error> {
        let settings = Settings::parse(system, settings)?;
        let state = State {
            journal: Journal::new(settings.folder.join("journal.jsonl")),
            known: Known::default(),
        };
        Ok(Self {
            system: system.to_owned(),
            settings: Arc::new(settings),
            state: Arc::new(Mutex::new(state)),
            clock: real_clock(),
        })
    }

    fn error(&self, kind: ErrorKind, what: impl AsRef<str>) -> Error {
        Error::new(kind, format!("system `{}`: {}", self.system, what.as_ref()))
    }

    async fn held<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Held<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (settings, state) = (Arc::clone(&self.settings), Arc::clone(&self.state));
        let now = (self.clock)();
        let done = tokio::task::spawn_blocking(move || {
            let folder = &settings.folder;
            if settings.create {
                disk::private_folder(folder).map_err(|error| unusable(folder, error))?;
            }
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let _lock = disk::lock(&folder.join("lock"))
                .map_err(|error| unusable(folder, error))?
                .ok_or_else(|| {
                    Error::new(
                        ErrorKind::Transient,
                        "another process holds the folder for too long",
                    )
                })?;
            let State { journal, known } = &mut *state;
            journal.catch_up(|line, _| known.take(line))?;
            work(&mut Held {
                settings: &settings,
                state: &mut state,
                now,
            })
        });
        let done = done.await.unwrap_or_else(|error| {
            let what = Error::new(ErrorKind::Bug, "the work was broken off");
            Err(what.with_source(error))
        });
        done.map_err(|error| Error {
            message: format!("system `{}`: {}", self.system, error.message),
            ..error
        })
    }

    async fn marked(
        &self,
        account: &NativeId,
        credential: &CredentialId,
        wanted: Mark,
    ) -> Result<Outcome, Error> {
        let (account, credential) = (account.clone(), credential.clone());
        let (receipt, done) = self
            .held(move |held| held.mark(&account, &credential, wanted))
            .await?;
        Ok(if done {
            Outcome::Done(receipt)
        } else {
            Outcome::AlreadySo(receipt)
        })
    }
}

#[async_trait]
impl Connector for Ssh {
    fn capabilities(&self) -> Capabilities {
        let mut claims = std::collections::BTreeSet::from([
            ClaimName::CredentialActive,
            ClaimName::CredentialInactive,
            ClaimName::CredentialIssued,
        ]);
        if self.settings.trial.is_some() {
            claims.extend([ClaimName::CredentialWorks, ClaimName::CredentialRefused]);
        }
        Capabilities {
            operations: [
                OperationName::IssueCredential,
                OperationName::ActivateCredential,
                OperationName::DeactivateCredential,
                OperationName::DestroyCredential,
            ]
            .into(),
            claims,
            lists: [Kind::Account].into(),
            credentials: [CredentialKind::SshCertificate].into(),
            issues: [(
                CredentialKind::SshCertificate,
                Issuing {
                    material: [MaterialName::BySystem, MaterialName::Public].into(),
                    slots: None,
                },
            )]
            .into(),
            ..Capabilities::default()
        }
    }

    async fn check(&self) -> Result<Health, Error> {
        let looked = self
            .held(|held| {
                for is_host in [false, true] {
                    held.signer(is_host)?;
                }
                held.publish()?;
                Ok(held.state.journal.lines())
            })
            .await;
        let finding = match looked {
            Ok(lines) => Finding::good(
                "reach",
                format!(
                    "`{}`, {lines} lines in the journal",
                    self.settings.folder.display()
                ),
            ),
            Err(error) => Finding::bad(
                "reach",
                error.whole(),
                "correct `folder`, put back what is missing in it, or set `create: true`",
            ),
        };
        Ok(Health {
            findings: vec![finding],
        })
    }

    async fn list(&self, kind: Kind, after: Option<Cursor>) -> Result<Page, Error> {
        if kind != Kind::Account {
            return Err(self.error(
                ErrorKind::Unsupported,
                "an authority has holders and nothing else",
            ));
        }
        self.held(move |held| Ok(page(held.holders(), after.as_ref())))
            .await
    }

    async fn get(&self, wanted: &ObjectRef) -> Result<Option<Object>, Error> {
        let Some(name) = name_in(&self.system, wanted)?.map(str::to_owned) else {
            return Ok(None);
        };
        self.held(move |held| {
            let is_known = held.holders().any(|holder| holder == name);
            Ok(is_known.then(|| named(&name)))
        })
        .await
    }

    async fn apply(&self, operation: &Operation, key: &OperationKey) -> Result<Outcome, Error> {
        match operation {
            Operation::IssueCredential(new) => {
                let (request, key) = (new.clone(), key.idempotency.clone());
                let (minted, receipt, done) =
                    self.held(move |held| held.issue(&request, &key)).await?;
                let so = if done {
                    Outcome::Done
                } else {
                    Outcome::AlreadySo
                };
                Ok(new.into.settle(minted, receipt, so).await)
            }
            Operation::ActivateCredential {
                account,
                credential,
            } => self.marked(account, credential, Mark::Good).await,
            Operation::DeactivateCredential {
                account,
                credential,
            } => self.marked(account, credential, Mark::OnHold).await,
            Operation::DestroyCredential {
                account,
                credential,
            } => self.marked(account, credential, Mark::Gone).await,
            other => Err(self.error(
                ErrorKind::Unsupported,
                format!("an authority has no `{}`", other.name().as_str()),
            )),
        }
    }

    async fn verify(&self, claim: &Claim) -> Result<Verdict, Error> {
        match claim {
            Claim::CredentialIssued { account, key } => {
                let (account, key) = (account.clone(), key.clone());
                self.held(move |held| {
                    let found = held
                        .issued(account.as_str(), &key)
                        .map(|leaf| held.listed(leaf));
                    let holds = found.is_some();
                    Ok(verdict(
                        holds,
                        "journal",
                        Some(account),
                        json!({ "credential": found }),
                    ))
                })
                .await
            }
            Claim::CredentialActive {
                account,
                credential,
            }
            | Claim::CredentialInactive {
                account,
                credential,
            } => {
                let claimed = claim.name() == ClaimName::CredentialActive;
                let (account, id) = (account.clone(), credential.clone());
                self.held(move |held| {
                    let Some(leaf) = held.of(&account, &id) else {
                        let seen = json!({ "credential": id, "state": "unknown" });
                        return Ok(verdict(!claimed, "krl", Some(account), seen));
                    };
                    let listed = held.is_listed(leaf.serial)?;
                    let active = !listed && leaf.not_after > held.now;
                    let seen = json!({
                        "credential": id,
                        "on_the_list": listed,
                        "not_after": leaf.not_after,
                    });
                    Ok(verdict(active == claimed, "krl", Some(account), seen))
                })
                .await
            }
            Claim::CredentialWorks {
                account,
                credential,
                secret,
            } => self.tried(account, credential, secret, true).await,
            Claim::CredentialRefused {
                account,
                credential,
                secret,
            } => self.tried(account, credential, secret, false).await,
            _ => Ok(Verdict::CannotObserve {
                reason: "an SSH authority knows certificates and nothing else".to_owned(),
            }),
        }
    }

    async fn credentials(&self, account: &NativeId) -> Result<Coverage<Vec<Credential>>, Error> {
        let account = account.clone();
        self.held(move |held| {
            let mut leaves: Vec<&Leaf> = held
                .state
                .known
                .leaves
                .values()
                .filter(|leaf| leaf.account == account.as_str())
                // What was revoked for good is gone; what is on hold may come back.
                .filter(|leaf| Mark::of(leaf) != Mark::Gone)
                .collect();
            leaves.sort_by_key(|leaf| (leaf.not_after, leaf.serial));
            Ok(Coverage {
                value: leaves.into_iter().map(|leaf| held.listed(leaf)).collect(),
                blind_spots: vec![
                    "servers that do not read the list of the revoked".to_owned(),
                    "keys that stand in `authorized_keys` by themselves".to_owned(),
                ],
            })
        })
        .await
    }
}
