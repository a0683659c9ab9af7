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
use chrono::Utc;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::connector::{
    Account, Attributes, Capabilities, Claim, ClaimName, Connector, Coverage, Credential,
    CredentialId, CredentialKind, Cursor, Error, ErrorKind, Finding, Health, Issuing, Kind,
    MaterialName, NativeId, Object, ObjectRef, Observation, Operation, OperationKey, OperationName,
    Outcome, Page, Verdict,
};
use crate::disk;
use crate::handover::to_be_tried;
use crate::journal::Journal;
use crate::layer::Clock;
use crate::program::{self, Failed, Program};
use crate::secret::SecretRef;

mod held;
mod krl;
mod settings;

#[cfg(test)]
mod tests;

use held::{Held, Known, Leaf, Mark, State, unusable};
use settings::Settings;

/// Holders on one page of a listing.
const PAGE_SIZE: usize = 1_000;
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
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place where this connector meets the real clock"
        )]
        let clock: Clock = Arc::new(Utc::now);
        let settings = Settings::parse(system, settings)?;
        let state = State {
            journal: Journal::new(settings.folder.join("journal.jsonl")),
            known: Known::default(),
        };
        Ok(Self {
            system: system.to_owned(),
            settings: Arc::new(settings),
            state: Arc::new(Mutex::new(state)),
            clock,
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

    /// Logs in with it where `trial` says.
    async fn tried(
        &self,
        account: &NativeId,
        credential: &CredentialId,
        secret: &SecretRef,
        claimed: bool,
    ) -> Result<Verdict, Error> {
        let Some(trial) = &self.settings.trial else {
            return Ok(Verdict::CannotObserve {
                reason: "no `trial` is set up, so nobody can log in with it from here".to_owned(),
            });
        };
        let (of, id) = (account.clone(), credential.clone());
        let leaf = self
            .held(move |held| Ok(held.of(&of, &id).cloned()))
            .await?;
        let by = "ssh";
        let Some(leaf) = leaf else {
            let seen = json!({ "credential": credential, "exists": false });
            return Ok(verdict(!claimed, by, account, seen));
        };
        if leaf.is_host {
            return Err(self.error(
                ErrorKind::Invalid,
                "a host's certificate lets nobody in; look at the host itself",
            ));
        }
        let key = to_be_tried(secret)?;
        let user = trial
            .user
            .clone()
            .or_else(|| leaf.principals.first().cloned());
        let folder = self
            .settings
            .folder
            .join(format!(".trial-{}", Uuid::new_v4()));
        let kept = |error| unusable(&folder, error);
        disk::private_folder(&folder).map_err(kept)?;
        let (key_file, certificate) = (folder.join("key"), folder.join("key-cert.pub"));
        // A key without a line end at its end is none to ssh.
        let text = format!("{}\n", key.expose_secret().trim_end());
        let written = disk::create(&key_file, text.as_bytes(), PRIVATE)
            .and_then(|()| disk::create(&certificate, leaf.certificate.as_bytes(), PRIVATE));
        let ran = match written {
            Ok(()) => {
                let options = [
                    ("IdentityFile", key_file.display().to_string()),
                    ("CertificateFile", certificate.display().to_string()),
                    ("IdentitiesOnly", "yes".to_owned()),
                    ("IdentityAgent", "none".to_owned()),
                    ("PreferredAuthentications", "publickey".to_owned()),
                    ("BatchMode", "yes".to_owned()),
                    ("StrictHostKeyChecking", "yes".to_owned()),
                    (
                        "UserKnownHostsFile",
                        trial.known_hosts.display().to_string(),
                    ),
                    ("GlobalKnownHostsFile", "/dev/null".to_owned()),
                    ("Port", trial.port.to_string()),
                    ("User", user.unwrap_or_default()),
                ];
                let mut arguments = vec!["-F".to_owned(), "none".to_owned(), "-T".to_owned()];
                for (name, value) in options {
                    arguments.extend(["-o".to_owned(), format!("{name}={value}")]);
                }
                arguments.extend([trial.host.clone(), "true".to_owned()]);
                let ssh = Program::new(trial.ssh.clone(), arguments, trial.limit());
                Ok(program::run(&ssh, &[]).await)
            }
            Err(error) => Err(kept(error)),
        };
        let _ = std::fs::remove_dir_all(&folder);
        let let_in = match ran? {
            Ok(()) => true,
            Err(Failed::Refused(words)) if words.contains("Permission denied") => false,
            // Not even the key could be read, so it can be nobody's.
            Err(Failed::Refused(words)) if words.contains("invalid format") => false,
            Err(Failed::Refused(words)) => {
                return Err(self.error(
                    ErrorKind::Transient,
                    format!("nobody could try it: {words}"),
                ));
            }
            Err(Failed::Late(words)) => {
                return Err(self.error(ErrorKind::Timeout, format!("nobody could try it: {words}")));
            }
        };
        let seen = json!({ "credential": credential, "let_in": let_in, "host": trial.host });
        Ok(verdict(let_in == claimed, by, account, seen))
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
        self.held(move |held| {
            let mut names: Vec<String> = held
                .state
                .known
                .leaves
                .values()
                .map(|leaf| leaf.account.clone())
                .filter(|name| after.as_ref().is_none_or(|after| *name > after.0))
                .collect();
            names.sort_unstable();
            names.dedup();
            let next = names
                .get(PAGE_SIZE - 1)
                .filter(|_| names.len() > PAGE_SIZE)
                .map(|last| Cursor(last.clone()));
            names.truncate(PAGE_SIZE);
            Ok(Page {
                items: names.iter().map(|name| object(name)).collect(),
                complete: next.is_none(),
                next,
            })
        })
        .await
    }

    async fn get(&self, wanted: &ObjectRef) -> Result<Option<Object>, Error> {
        let name = match wanted {
            ObjectRef::Account(id) => id.as_str().to_owned(),
            ObjectRef::AccountNamed(name) => name.clone(),
            ObjectRef::AccountOwnedBy(_) => {
                return Err(self.error(ErrorKind::Unsupported, "holders carry no owner key"));
            }
            ObjectRef::Entitlement(_) => return Ok(None),
        };
        self.held(move |held| {
            let mut leaves = held.state.known.leaves.values();
            Ok(leaves
                .any(|leaf| leaf.account == name)
                .then(|| object(&name)))
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
                        &account,
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
                        return Ok(verdict(!claimed, "krl", &account, seen));
                    };
                    let listed = held.is_listed(leaf.serial)?;
                    let active = !listed && leaf.not_after > held.now;
                    let seen = json!({
                        "credential": id,
                        "on_the_list": listed,
                        "not_after": leaf.not_after,
                    });
                    Ok(verdict(active == claimed, "krl", &account, seen))
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

fn object(name: &str) -> Object {
    Object::Account(Account {
        id: NativeId::new(name),
        name: name.to_owned(),
        enabled: None,
        owner: None,
        attributes: Attributes::new(),
        entitlements: None,
        version: None,
    })
}

fn verdict(holds: bool, by: &str, account: &NativeId, seen: Value) -> Verdict {
    let observation = Observation {
        by: by.to_owned(),
        account: Some(account.clone()),
        seen,
    };
    if holds {
        Verdict::Proven(observation)
    } else {
        Verdict::Refuted(observation)
    }
}
