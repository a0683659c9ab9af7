//! Claims, read afresh: nothing here uses what an answer said or what is remembered.

use serde_json::{Value, json};

use super::Ldap;
use super::entry::{self, Entry};
use super::group::Held;
use super::password::PASSWORD;
use crate::connector::{Attributes, Claim, EntitlementName, Error, NativeId, Observation, Verdict};

const BY: &str = "ldap search";

impl Ldap {
    pub(super) async fn verdict(&self, claim: &Claim) -> Result<Verdict, Error> {
        match claim {
            Claim::AccountExists { owner } => self.exists(owner).await,
            Claim::AccountEnabled { account } => self.enabled(account, true).await,
            Claim::AccountDisabled { account } => self.enabled(account, false).await,
            Claim::AccountAbsent { account } => {
                let entry = self.by_id(account, &self.state_attributes()).await?;
                let seen = entry
                    .as_ref()
                    .map_or_else(absent, |entry| self.state(entry));
                Ok(judged(entry.is_none(), account, seen))
            }
            Claim::AttributesAre {
                account,
                attributes,
            } => self.attributes_are(account, attributes).await,
            Claim::Granted {
                account,
                entitlement,
            } => self.granted(account, entitlement, true).await,
            Claim::NotGranted {
                account,
                entitlement,
            } => self.granted(account, entitlement, false).await,
            Claim::CredentialInactive { credential, .. } if credential.as_str() == PASSWORD => {
                Ok(Verdict::CannotObserve {
                    reason: "whether a password still works shows only when it is tried".to_owned(),
                })
            }
            Claim::CredentialInactive {
                account,
                credential,
            } => self.credential_verdict(account, credential).await,
            Claim::CredentialWorks {
                account,
                credential,
                secret,
            } => self.login_verdict(account, credential, secret, true).await,
            Claim::CredentialRefused {
                account,
                credential,
                secret,
            } => self.login_verdict(account, credential, secret, false).await,
            Claim::CredentialActive { .. }
            | Claim::CredentialIssued { .. }
            | Claim::CredentialStored { .. }
            | Claim::ServesCertificate { .. }
            | Claim::ServesTrusted { .. }
            | Claim::NothingSigned { .. } => Ok(Verdict::CannotObserve {
                reason: "a directory does not tell which password is set; try it".to_owned(),
            }),
            Claim::OwnsNothing { account } => self.owns_nothing(account).await,
            Claim::NoSessions { .. } => Ok(Verdict::CannotObserve {
                reason: "a directory does not tell who is logged in where".to_owned(),
            }),
        }
    }

    async fn exists(&self, owner: &str) -> Result<Verdict, Error> {
        let found = self.by_owner(owner, &self.state_attributes()).await?;
        Ok(match found {
            Some(entry) => Verdict::Proven(Observation {
                by: BY.to_owned(),
                account: Some(entry.id(&self.settings)?),
                seen: self.state(&entry),
            }),
            None => Verdict::Refuted(Observation {
                by: BY.to_owned(),
                account: None,
                seen: absent(),
            }),
        })
    }

    async fn enabled(&self, account: &NativeId, claimed: bool) -> Result<Verdict, Error> {
        let Some(entry) = self.by_id(account, &self.state_attributes()).await? else {
            // Nobody can log in as what is not there.
            return Ok(judged(!claimed, account, absent()));
        };
        let seen = self.state(&entry);
        match entry.enabled(self.settings.flavour) {
            Some(enabled) => Ok(judged(enabled == claimed, account, seen)),
            None => Ok(Verdict::CannotObserve {
                reason: format!(
                    "`{}` of the account may not be read; let the account of `bind_dn` read it",
                    entry::ACCOUNT_CONTROL
                ),
            }),
        }
    }

    async fn attributes_are(
        &self,
        account: &NativeId,
        attributes: &Attributes,
    ) -> Result<Verdict, Error> {
        let wanted = entry::wanted(attributes)?;
        let mut names: Vec<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
        names.push(self.settings.id_attribute());
        let Some(entry) = self.by_id(account, &names).await? else {
            return Ok(judged(false, account, absent()));
        };
        let holds = wanted
            .iter()
            .all(|(name, values)| entry.holds(name, values));
        let seen: serde_json::Map<String, Value> = wanted
            .iter()
            .map(|(name, _)| (name.clone(), entry::shown(entry.values(name))))
            .collect();
        Ok(judged(holds, account, Value::Object(seen)))
    }

    async fn granted(
        &self,
        account: &NativeId,
        entitlement: &EntitlementName,
        claimed: bool,
    ) -> Result<Verdict, Error> {
        let group = entry::group_dn(entitlement, &self.settings)?;
        let held = self.holds(account, &group).await?;
        let word = match held {
            Held::Yes => "member",
            Held::No => "not a member",
            Held::NoGroup => "no such group",
            Held::NoAccount => "no such account",
        };
        let holds = (held == Held::Yes) == claimed;
        Ok(judged(
            holds,
            account,
            json!({"group": group, "account": word}),
        ))
    }

    /// What was seen of an account, without personal attributes.
    fn state(&self, entry: &Entry) -> Value {
        json!({
            "name": entry.name(&self.settings),
            "enabled": entry.enabled(self.settings.flavour),
            entry::LOCKED_TIME: entry.text(entry::LOCKED_TIME),
            entry::ACCOUNT_CONTROL: entry.control(),
        })
    }
}

fn absent() -> Value {
    json!({"entry": "absent"})
}

fn judged(holds: bool, account: &NativeId, seen: Value) -> Verdict {
    let observation = Observation {
        by: BY.to_owned(),
        account: Some(account.clone()),
        seen,
    };
    if holds {
        Verdict::Proven(observation)
    } else {
        Verdict::Refuted(observation)
    }
}
