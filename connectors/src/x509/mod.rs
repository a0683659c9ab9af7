//! An internal certificate authority, kept in a folder.
//!
//! | Tenure                 | here                                                                                |
//! |------------------------|-------------------------------------------------------------------------------------|
//! | account                | a holder: any name; it exists once something was issued to it                       |
//! | credential             | a certificate, by its fingerprint                                                   |
//! | issue                  | from a signing request, or with a key that is made here and handed over once        |
//! | deactivate, activate   | on the list of the revoked with reason `certificateHold`, and off it again          |
//! | destroy                | on the list of the revoked for good                                                 |
//! | the account `authority`| its credentials are the generations of the authority itself                         |
//!
//! # The four phases of a new authority
//!
//! 1. `issue_credential` to `authority` makes the next root and what signs below it. What is handed over is the bundle of roots
//!    to trust from now on, old and new; nothing is signed by the new one yet. `credential_works` about a generation takes such a
//!    bundle as its `secret`: it shows by a handshake whether somebody who trusts only that accepts what the generation signs.
//! 2. `activate_credential`: the new one signs. Its certificates come with the new root signed by the old one, so whoever
//!    trusts only the old one accepts them too. Activating the old one again takes it back.
//! 3. Everything the old one signed is replaced.
//!    `nothing_signed` tells what is left.
//! 4. `destroy_credential` of the old one takes it out of the bundle and destroys its keys. Refused while something it signed is
//!    still good.
//!
//! # How it stays honest
//!
//! A certificate is issued when its line is in the [index], and its line is there before anybody has the certificate.
//! Nothing lives longer than what signed it. A revocation is as good as the readers of the list: the claim that a
//! certificate is inactive is read from the list as it lies there for others, and `credential_works` is a handshake with
//! somebody who reads it.
//!
//! ```yaml
//! kind: x509
//! settings:
//!   folder: /var/lib/tenure/ca          # keys for the owner alone; bundle.pem, chain.pem and crl.pem for everybody
//!   subject: Example internal           # of the names of its certificates
//!   create: true                        # make it if it is not there; default: false
//!   key_algorithm: ecdsa_p256           # or ecdsa_p384, ed25519
//!   names: [.svc.example, 10.0.0.7]     # what it may certify; without it, no names at all
//!   lifetime_s: 2592000                 # 30 days, unless asked otherwise
//!   lifetime_s_max: 7776000             # 90 days
//!   root_lifetime_s: 315360000          # ten years
//!   authority_lifetime_s: 157680000     # five
//!   backdate_s: 300                     # for clocks that are late
//!   crl_lifetime_s: 604800              # made again when half of it is over, by the node's clock
//!   crl_url: "http://ca.example/crl-{generation}.der"   # put into certificates: where `crl-g1.der` of the folder is served
//! ```
//!
//! Attributes of a request: `names` (hosts and addresses; without it those of the signing request), `common_name`, `usage`
//! (`server`, `client`, `both`), `key_algorithm` (of a key that is made here).

use std::sync::Arc;

use async_trait::async_trait;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::answer::{named, page, verdict};
use crate::connector::{
    Capabilities, Claim, ClaimName, Connector, Coverage, Credential, CredentialId, CredentialKind,
    Cursor, Error, ErrorKind, Finding, Health, Issuing, Kind, MaterialName, NativeId, Object,
    ObjectRef, Operation, OperationKey, OperationName, Outcome, Page, Receipt, Verdict,
};
use crate::handover::to_be_tried;
use crate::layer::{Clock, real_clock};
use crate::secret::SecretRef;

mod authority;
mod generations;
mod handshake;
mod index;
mod issue;
pub(crate) mod key;
pub(crate) mod request;
mod revocation;
mod settings;
mod trust;

#[cfg(test)]
mod tests;

use authority::{Authority, Held, after};
use generations::{activate_generation, by_id, generation, generations, retire_generation};
use issue::{certificate, issue, of};
use revocation::{release, revoke};
use settings::Settings;
use trust::{refused, signed};

/// The account whose credentials are the generations of the authority.
const AUTHORITY: &str = "authority";
/// A generation is told to be near its end.
const ENDS_SOON_S: u64 = 90 * 24 * 3_600;

pub struct X509 {
    authority: Arc<Authority>,
    clock: Clock,
}

/// How an operation ended, before what was issued is handed over.
type Settled = (Receipt, fn(Receipt) -> Outcome);

impl X509 {
    /// Reads the settings; touches nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] names the setting that is wrong, missing or unknown.
    pub fn from_settings(system: &str, settings: Value) -> Result<Self, Error> {
        Self::with_clock(system, settings, real_clock())
    }

    /// As [`X509::from_settings`], in a time of its own: for simulations, and for trials that run ahead.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] names the setting that is wrong, missing or unknown.
    pub fn with_clock(system: &str, settings: Value, clock: Clock) -> Result<Self, Error> {
        let settings = Settings::parse(system, settings)?;
        Ok(Self {
            authority: Arc::new(Authority::new(system, settings)),
            clock,
        })
    }

    /// Does something with the folder, on a thread for blocking work.
    async fn held<T: Send + 'static>(
        &self,
        work: impl FnOnce(Held<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (authority, now) = (Arc::clone(&self.authority), (self.clock)());
        let done = tokio::task::spawn_blocking(move || work(authority.hold(now)?));
        done.await.unwrap_or_else(|error| {
            let what = self
                .authority
                .error(ErrorKind::Bug, "the work was broken off");
            Err(what.with_source(error))
        })
    }

    async fn settled(
        &self,
        work: impl FnOnce(Held<'_>) -> Result<Settled, Error> + Send + 'static,
    ) -> Result<Outcome, Error> {
        let (receipt, so) = self.held(work).await?;
        Ok(so(receipt))
    }

    fn unsupported(&self, what: &str) -> Error {
        self.authority.error(
            ErrorKind::Unsupported,
            format!("an authority has no accounts to {what}"),
        )
    }
}

#[async_trait]
impl Connector for X509 {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            operations: [
                OperationName::IssueCredential,
                OperationName::ActivateCredential,
                OperationName::DeactivateCredential,
                OperationName::DestroyCredential,
            ]
            .into(),
            claims: [
                ClaimName::CredentialInactive,
                ClaimName::CredentialActive,
                ClaimName::CredentialIssued,
                ClaimName::CredentialWorks,
                ClaimName::CredentialRefused,
                ClaimName::NothingSigned,
            ]
            .into(),
            lists: [Kind::Account].into(),
            credentials: [CredentialKind::Certificate].into(),
            issues: [(
                CredentialKind::Certificate,
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
        match self.held(|mut held| look_around(&mut held)).await {
            Ok(findings) => Ok(Health { findings }),
            Err(error) => Ok(Health {
                findings: vec![Finding::bad(
                    "reach",
                    error.whole(),
                    "correct `folder`, or put back what is missing in it",
                )],
            }),
        }
    }

    async fn list(&self, kind: Kind, after: Option<Cursor>) -> Result<Page, Error> {
        if kind != Kind::Account {
            return Err(self.unsupported("give anything to"));
        }
        self.held(move |held| Ok(page(held.index.accounts(), after.as_ref())))
            .await
    }

    async fn get(&self, object: &ObjectRef) -> Result<Option<Object>, Error> {
        let name = match object {
            ObjectRef::Account(id) => id.as_str().to_owned(),
            ObjectRef::AccountNamed(name) => name.clone(),
            ObjectRef::AccountOwnedBy(_) => {
                return Err(self.unsupported("find by their owner"));
            }
            ObjectRef::Entitlement(_) => return Ok(None),
        };
        self.held(move |held| {
            let known = held.index.of_account(&name).next().is_some();
            Ok(known.then(|| named(&name)))
        })
        .await
    }

    async fn apply(&self, operation: &Operation, key: &OperationKey) -> Result<Outcome, Error> {
        match operation {
            Operation::IssueCredential(new) => {
                let (request, key) = (new.clone(), key.idempotency.clone());
                let (minted, (receipt, so)) = self
                    .held(move |mut held| {
                        held.refresh()?;
                        issue(&mut held, &request, &key)
                    })
                    .await?;
                Ok(new.into.settle(minted, receipt, so).await)
            }
            Operation::ActivateCredential {
                account,
                credential,
            } => {
                let (account, id) = (account.clone(), credential.clone());
                self.settled(move |mut held| {
                    if account.as_str() == AUTHORITY {
                        activate_generation(&mut held, &id)
                    } else {
                        release(&mut held, &account, &id)
                    }
                })
                .await
            }
            Operation::DeactivateCredential {
                account,
                credential,
            } => {
                if account.as_str() == AUTHORITY {
                    return Err(self.authority.error(
                        ErrorKind::Unsupported,
                        "a generation signs or does not; activate another one, then destroy this",
                    ));
                }
                let (account, id) = (account.clone(), credential.clone());
                self.settled(move |mut held| revoke(&mut held, &account, &id, true))
                    .await
            }
            Operation::DestroyCredential {
                account,
                credential,
            } => {
                let (account, id) = (account.clone(), credential.clone());
                self.settled(move |mut held| {
                    if account.as_str() == AUTHORITY {
                        retire_generation(&mut held, &id)
                    } else {
                        revoke(&mut held, &account, &id, false)
                    }
                })
                .await
            }
            other => Err(self.unsupported(&format!("carry out `{}` on", other.name().as_str()))),
        }
    }

    async fn verify(&self, claim: &Claim) -> Result<Verdict, Error> {
        match claim {
            Claim::CredentialIssued { account, key } => {
                let (account, key) = (account.clone(), key.clone());
                self.held(move |held| {
                    let found = issued(&held, &account, &key);
                    let seen = json!({ "credential": found });
                    Ok(verdict(
                        found.is_some(),
                        "index",
                        Some(account.clone()),
                        seen,
                    ))
                })
                .await
            }
            Claim::CredentialInactive {
                account,
                credential,
            } => {
                let (account, id) = (account.clone(), credential.clone());
                self.held(move |held| {
                    let (active, seen) = state(&held, &account, &id)?;
                    Ok(verdict(!active, "crl", Some(account.clone()), seen))
                })
                .await
            }
            Claim::CredentialActive {
                account,
                credential,
            } => {
                let (account, id) = (account.clone(), credential.clone());
                self.held(move |held| {
                    let (active, seen) = state(&held, &account, &id)?;
                    // Of generations one is used, though several may be trusted.
                    let used = account.as_str() != AUTHORITY
                        || held.index.signs.is_some_and(|signs| {
                            by_id(&held, &id).is_some_and(|known| known.number == signs)
                        });
                    Ok(verdict(active && used, "crl", Some(account.clone()), seen))
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
            Claim::NothingSigned {
                account,
                credential,
            } => {
                let (account, id) = (account.clone(), credential.clone());
                self.held(move |held| Ok(signed(&held, &account, &id)))
                    .await
            }
            _ => Ok(Verdict::CannotObserve {
                reason: "an authority knows certificates and nothing else".to_owned(),
            }),
        }
    }

    async fn credentials(&self, account: &NativeId) -> Result<Coverage<Vec<Credential>>, Error> {
        let account = account.clone();
        self.held(move |held| {
            // What was ended for good is not there any more; what is on hold can come back.
            let value = if account.as_str() == AUTHORITY {
                generations(&held)
            } else {
                let now = held.now;
                let of_account = held.index.of_account(account.as_str());
                of_account
                    .filter(|(_, leaf)| leaf.revoked.is_none_or(|revocation| revocation.on_hold))
                    .map(|(id, leaf)| certificate(id, leaf, now))
                    .collect()
            };
            Ok(Coverage {
                value,
                blind_spots: vec![
                    "whether a reader of certificates looks at the list of the revoked".to_owned(),
                ],
            })
        })
        .await
    }
}

impl X509 {
    async fn tried(
        &self,
        account: &NativeId,
        id: &CredentialId,
        secret: &SecretRef,
        claimed: bool,
    ) -> Result<Verdict, Error> {
        let (account, id, secret) = (account.clone(), id.clone(), secret.clone());
        if account.as_str() == AUTHORITY {
            return self
                .held(move |held| {
                    let bundle = to_be_tried(&secret)?;
                    let refused = refused(&held, &id, bundle.expose_secret())?;
                    let seen = json!({ "credential": id, "refused": refused });
                    Ok(verdict(
                        refused.is_none() == claimed,
                        "handshake",
                        Some(account.clone()),
                        seen,
                    ))
                })
                .await;
        }
        self.held(move |held| {
            let Some(leaf) = of(&held, &account, &id).cloned() else {
                let seen = json!({ "credential": id, "exists": false });
                return Ok(verdict(!claimed, "handshake", Some(account.clone()), seen));
            };
            let key = to_be_tried(&secret)?;
            let generation = held.generation(leaf.generation)?;
            let chain = format!("{}{}", held.index.certificate(&leaf)?, generation.signer);
            let list = held.revoked_list(leaf.generation)?;
            let trial = handshake::Trial {
                chain: &chain,
                key: key.expose_secret(),
                bundle: &held.bundle(),
                revoked: list.into_iter().map(|list| list.der).collect(),
                now: held.now,
            };
            let refused = trial.run().err();
            let seen = json!({ "credential": id, "refused": refused });
            Ok(verdict(
                refused.is_none() == claimed,
                "handshake",
                Some(account.clone()),
                seen,
            ))
        })
        .await
    }
}

fn issued(held: &Held<'_>, account: &NativeId, key: &str) -> Option<Credential> {
    if account.as_str() == AUTHORITY {
        let mut known = held.index.generations.values();
        let known = known.find(|known| known.key == key && !key.is_empty())?;
        return Some(generation(held, known));
    }
    let (id, leaf) = held.index.issued(account.as_str(), key)?;
    Some(certificate(id, leaf, held.now))
}

/// Whether it is good as far as others can tell, and what they see.
fn state(held: &Held<'_>, account: &NativeId, id: &CredentialId) -> Result<(bool, Value), Error> {
    if account.as_str() == AUTHORITY {
        let found = by_id(held, id);
        let known = found.as_ref().map(|known| generation(held, known));
        let active = known.as_ref().and_then(|known| known.active) == Some(true);
        return Ok((
            active,
            json!({
                "credential": id,
                "state": known.and_then(|known| known.label),
                "certificate": found.map(|known| known.root),
            }),
        ));
    }
    let Some(leaf) = of(held, account, id) else {
        return Ok((false, json!({ "credential": id, "state": "unknown" })));
    };
    let list = held.revoked_list(leaf.generation)?;
    let listed = list
        .as_ref()
        .is_some_and(|list| list.serials.contains(&leaf.serial));
    let ended = leaf.not_after <= held.now;
    let seen = json!({
        "credential": id,
        "not_after": leaf.not_after,
        "on_the_list": listed,
        "list_until": list.map(|list| list.next_update),
    });
    Ok((!listed && !ended, seen))
}

fn look_around(held: &mut Held<'_>) -> Result<Vec<Finding>, Error> {
    let mut findings = vec![Finding::good(
        "reach",
        format!(
            "`{}`, {} lines in the index",
            held.settings().folder.display(),
            held.index.lines()
        ),
    )];
    if held.index.signs.is_none() {
        findings.push(if held.settings().create {
            Finding::good(
                "authority",
                "none yet; it is made with the first certificate",
            )
        } else {
            Finding::bad(
                "authority",
                "there is none",
                "set `create: true` to have one made, or put back the folder that is missing",
            )
        });
        return Ok(findings);
    }
    let generation = held.signing()?;
    let detail = format!(
        "generation {} signs until {}",
        generation.number,
        generation.not_after.to_rfc3339()
    );
    findings.push(if generation.not_after > after(held.now, ENDS_SOON_S) {
        Finding::good("authority", detail)
    } else {
        Finding::bad(
            "authority",
            detail,
            "issue its next generation to the account `authority` and activate it",
        )
    });
    findings.push(match held.refresh() {
        Ok(()) => Finding::good(
            "rights",
            "its key is here and the list of the revoked is fresh",
        ),
        Err(error) => Finding::bad(
            "rights",
            error.whole(),
            "make the keys and the folder readable and writable for Tenure",
        ),
    });
    Ok(findings)
}
