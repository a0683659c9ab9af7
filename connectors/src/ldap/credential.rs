//! Keys and certificates that stand in an account's entry.
//!
//! Whoever looks such an attribute up looks at nothing else: a server that asks the directory for `sshPublicKey` lets
//! the key in whether the account is locked or not. So they are removed, value by value. Each goes by its fingerprint;
//! two values of one key that differ in their comment are one credential and go together.
//!
//! The password is none of them: a locked account's does not open anything, and setting another would unlock it.

use serde_json::json;

use super::account::done;
use super::entry::Entry;
use super::password::PASSWORD;
use super::settings::Flavour;
use super::wire::{Answer, Change, Write};
use super::{Ldap, codes};
use crate::connector::{
    Coverage, Credential, CredentialId, CredentialKind, Error, ErrorKind, NativeId, Observation,
    Outcome, Receipt, Verdict,
};

const SSH_KEY: &str = "sshPublicKey";

/// One value of one attribute.
struct Held {
    attribute: &'static str,
    value: Vec<u8>,
    credential: Credential,
}

impl Ldap {
    pub(super) async fn list_credentials(
        &self,
        account: &NativeId,
    ) -> Result<Coverage<Vec<Credential>>, Error> {
        let held = match self.credential_entry(account).await? {
            Some(entry) => self.held(&entry),
            None => Vec::new(),
        };
        let mut listed: Vec<Credential> = Vec::new();
        for held in held {
            if listed.iter().all(|known| known.id != held.credential.id) {
                listed.push(held.credential);
            }
        }
        listed.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(Coverage {
            value: listed,
            blind_spots: vec![
                "keys and tokens that are kept elsewhere and only name the account".to_owned(),
                "certificates that were issued to the account and are not in its entry".to_owned(),
            ],
        })
    }

    pub(super) async fn destroy_credential(
        &self,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<Outcome, Error> {
        if credential.as_str() == PASSWORD {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a directory account cannot be left without its password; set another one, or disable the account",
            ));
        }
        let mut names = self.credential_attributes();
        names.push(self.settings.id_attribute());
        let entry = self.existing(account, &names).await?;
        let id = self.identifier(account)?;
        let mut changes: Vec<Change> = Vec::new();
        for attribute in self.credential_attributes() {
            let values: Vec<Vec<u8>> = self
                .held(&entry)
                .into_iter()
                .filter(|held| held.attribute == attribute && held.credential.id == *credential)
                .map(|held| held.value)
                .collect();
            if !values.is_empty() {
                changes.push(Change::Remove(attribute.to_owned(), values));
            }
        }
        let mut receipt = Receipt {
            account: Some(account.clone()),
            before: Some(json!({"credential": credential, "held": !changes.is_empty()})),
            after: Some(json!({"credential": credential, "held": false})),
            ..Receipt::default()
        };
        if changes.is_empty() {
            return Ok(Outcome::AlreadySo(receipt));
        }
        let (address, same_entry) = (self.address(&id, &entry), self.same_entry(&id));
        let modify = Write::Modify {
            dn: &address,
            changes: &changes,
            only_if: same_entry.as_deref(),
        };
        match self.write_same(account, modify).await? {
            Answer::Lost(reason) => Ok(Outcome::Ambiguous { reason }),
            Answer::Answered(reply) if reply.code() == codes::NO_SUCH_ATTRIBUTE => {
                // Somebody was faster with this one, or with one of its values.
                match self.holds_credential(account, credential).await? {
                    false => Ok(Outcome::AlreadySo(receipt)),
                    true => Err(codes::refused(
                        &format!("destroy `{credential}` of account `{account}`"),
                        &reply.result,
                    )),
                }
            }
            Answer::Answered(reply) => {
                done(
                    &format!("destroy `{credential}` of account `{account}`"),
                    &reply,
                )?;
                receipt.request_id = reply.version;
                Ok(Outcome::Done(receipt))
            }
        }
    }

    /// Whether a credential is gone, read afresh.
    pub(super) async fn credential_verdict(
        &self,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<Verdict, Error> {
        let held = self.holds_credential(account, credential).await?;
        let observation = Observation {
            by: "ldap search".to_owned(),
            account: Some(account.clone()),
            seen: json!({"credential": credential, "held": held}),
        };
        Ok(if held {
            Verdict::Refuted(observation)
        } else {
            Verdict::Proven(observation)
        })
    }

    async fn holds_credential(
        &self,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<bool, Error> {
        let entry = self.credential_entry(account).await?;
        Ok(entry.is_some_and(|entry| {
            let mut held = self.held(&entry).into_iter();
            held.any(|held| held.credential.id == *credential)
        }))
    }

    async fn credential_entry(&self, account: &NativeId) -> Result<Option<Entry>, Error> {
        let mut names = self.credential_attributes();
        names.push(self.settings.id_attribute());
        self.by_id(account, &names).await
    }

    /// As the server wants them named: OpenLDAP sends certificates in binary only, Active Directory only without.
    fn credential_attributes(&self) -> Vec<&'static str> {
        vec![SSH_KEY, self.certificate_attribute()]
    }

    fn certificate_attribute(&self) -> &'static str {
        match self.settings.flavour {
            Flavour::Openldap => "userCertificate;binary",
            Flavour::ActiveDirectory => "userCertificate",
        }
    }

    fn held(&self, entry: &Entry) -> Vec<Held> {
        let certificate = self.certificate_attribute();
        let keys = entry.values(SSH_KEY).iter().map(|value| Held {
            attribute: SSH_KEY,
            value: value.clone(),
            credential: Credential {
                active: Some(true),
                label: comment(value),
                ..Credential::new(CredentialId::of_ssh_key(value), CredentialKind::SshKey)
            },
        });
        let certificates = entry.values(certificate).iter().map(|value| Held {
            attribute: certificate,
            value: value.clone(),
            credential: Credential {
                active: Some(true),
                ..Credential::new(
                    CredentialId::of_certificate(value),
                    CredentialKind::Certificate,
                )
            },
        });
        keys.chain(certificates).collect()
    }
}

/// What follows the key itself.
fn comment(line: &[u8]) -> Option<String> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line
        .split_whitespace()
        .skip_while(|word| !word.starts_with("AAAA"));
    words.next()?;
    let comment: Vec<&str> = words.collect();
    (!comment.is_empty()).then(|| comment.join(" "))
}
