//! OpenLDAP and Active Directory.
//!
//! # Background
//!
//! A directory is a tree of entries. An account is an entry below `people_base`; an entitlement is a group
//! below `group_base` whose member attribute lists accounts by name. The two dialects differ where it
//! matters to us:
//!
//! | | `openldap` | `active_directory` |
//! |---|---|---|
//! | identifier ([`NativeId`](crate::connector::NativeId)) | `entryUUID` | `objectGUID` |
//! | login name | the naming attribute, `uid` | `sAMAccountName`; the entry is named by `cn` |
//! | disabled by | `pwdAccountLockedTime: 000001010000Z` | bit 2 of `userAccountControl` |
//! | password | password modify operation, hashed by the server | `unicodePwd` |
//! | empty group | forbidden: a placeholder stays | allowed |
//!
//! # Theory of operation
//!
//! **Identity.** A DN changes when a person marries or moves to another department, so accounts go by the
//! identifier the server never changes. OpenLDAP wants a DN in every change: it is looked up by the
//! identifier first, and the change carries the condition (RFC 4528) that the entry of that name still is
//! the one that was found. Active Directory takes `<GUID=...>` in place of any DN.
//!
//! **Disabling on OpenLDAP** is the `ppolicy` overlay's work: a lock time of 000001010000Z means "until
//! somebody removes it". It is looked at only where the policy in force has `pwdLockout: TRUE`; `check`
//! says so when it cannot see one. A lock after wrong passwords has another time, ends by itself and is no
//! disabled account. Setting a password removes the lock, so a disabled account's password is not set.
//! The lock stops binds; a program that only looks the account up must look at the lock too.
//!
//! **The owner key** is written by the same add that makes the entry (`owner_attribute`, usually
//! `employeeNumber`), and is how an account is found whose making was never answered. Give it and
//! `entryUUID` an equality index: every operation looks up by one of them.
//!
//! **A new password on Active Directory** is set twice: the one before the newest works for another
//! hour there, and so that one is the new one as well.
//!
//! **Entitlements** are named by the `cn` of a group directly below `group_base`, or by a full DN that ends
//! as `group_base` does. Only
//! direct membership counts: neither nested groups nor Active Directory's primary group. On OpenLDAP they
//! are found by searching the groups; with `member_of: true` the account's `memberOf` is believed, which is
//! right only if the overlay was there when the first member was added.
//!
//! **Credentials** are the values of `sshPublicKey` and `userCertificate`. They are removed with the person, because
//! whoever looks them up does not look at the lock. **Ownership** is the `owner` of a group (`managedBy` on Active
//! Directory), which goes to an heir.
//!
//! What a directory cannot tell: who is logged in (so sessions are neither ended nor claimed to be gone),
//! and entries that access rules hide from `bind_dn`. The second is why `check` reads every base.
//!
//! # Settings
//!
//! ```yaml
//! url: ldaps://ldap.example.org       # or ldap:// with start_tls: true
//! start_tls: false
//! ca_file: /etc/tenure/ldap-ca.pem    # default: the authorities this machine trusts
//! allow_plaintext: false              # ldap:// to another machine without TLS, at your own risk
//! bind_dn: cn=tenure,ou=services,dc=example,dc=org
//! bind_password: env:LDAP_PASSWORD    # or file:/path
//! flavour: openldap                   # or active_directory
//! people_base: ou=people,dc=example,dc=org
//! group_base: ou=groups,dc=example,dc=org
//! search_base: dc=example,dc=org      # default: what the two bases have in common
//! rdn_attribute: uid                  # default: uid; cn on Active Directory
//! name_attribute: uid                 # default: rdn_attribute; sAMAccountName on Active Directory
//! owner_attribute: employeeNumber
//! object_classes: [inetOrgPerson]     # default: inetOrgPerson; user on Active Directory
//! account_filter: (objectClass=inetOrgPerson)
//! group_class: groupOfNames           # default: groupOfNames; group on Active Directory
//! member_attribute: member
//! group_owner_attribute: owner        # default: owner; managedBy on Active Directory
//! placeholder_member: cn=nobody,ou=groups,dc=example,dc=org
//! member_of: false                    # default: true on Active Directory
//! password_policy: cn=default,ou=policies,dc=example,dc=org   # for check only
//! page_size: 500
//! connect_timeout_ms: 5000
//! operation_timeout_ms: 15000
//! connections_max: 8
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::connector::{
    Capabilities, Claim, ClaimName, Connector, Coverage, Credential, CredentialKind, Cursor, Error,
    ErrorKind, Health, Issuing, Kind, MaterialName, NativeId, Object, ObjectRef, Operation,
    OperationKey, OperationName, Outcome, Page, Verdict,
};

mod account;
mod check;
mod codes;
mod create;
mod credential;
mod dn;
mod entry;
mod group;
mod known;
mod listing;
#[cfg(test)]
mod live;
mod owner;
mod password;
mod pool;
mod read;
mod settings;
mod verify;
mod wire;

use known::Known;
use listing::Listings;
use pool::Pool;
use settings::{Security, Settings};

/// One directory.
pub struct Ldap {
    settings: Arc<Settings>,
    pool: Pool,
    known: Known,
    listings: Listings,
}

impl Ldap {
    /// Builds from settings, reading the password and the CA file; contacts nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] names the setting.
    pub fn from_settings(system: &str, settings: Value) -> Result<Self, Error> {
        let settings = Arc::new(Settings::read(system, settings)?);
        Ok(Self {
            pool: Pool::new(Arc::clone(&settings)),
            settings,
            known: Known::default(),
            listings: Listings::default(),
        })
    }
}

#[async_trait]
impl Connector for Ldap {
    fn capabilities(&self) -> Capabilities {
        let mut operations = BTreeSet::from([
            OperationName::CreateAccount,
            OperationName::UpdateAccount,
            OperationName::EnableAccount,
            OperationName::DisableAccount,
            OperationName::DeleteAccount,
            OperationName::Grant,
            OperationName::Revoke,
            OperationName::DestroyCredential,
            OperationName::TransferOwnership,
        ]);
        if self.settings.security != Security::Plain {
            operations.insert(OperationName::SetPassword);
            operations.insert(OperationName::IssueCredential);
        }
        let mut claims = BTreeSet::from([
            ClaimName::AccountExists,
            ClaimName::AccountEnabled,
            ClaimName::AccountDisabled,
            ClaimName::AccountAbsent,
            ClaimName::AttributesAre,
            ClaimName::Granted,
            ClaimName::NotGranted,
            ClaimName::CredentialInactive,
            ClaimName::OwnsNothing,
        ]);
        let mut issues = BTreeMap::new();
        if operations.contains(&OperationName::IssueCredential) {
            claims.extend([ClaimName::CredentialWorks, ClaimName::CredentialRefused]);
            let password = Issuing {
                material: BTreeSet::from([MaterialName::Secret]),
                slots: Some(1),
            };
            issues.insert(CredentialKind::Password, password);
        }
        Capabilities {
            operations,
            claims,
            issues,
            credentials: BTreeSet::from([CredentialKind::SshKey, CredentialKind::Certificate]),
            lists: BTreeSet::from([Kind::Account, Kind::Entitlement]),
            finds_by_owner: true,
            ..Capabilities::default()
        }
    }

    async fn check(&self) -> Result<Health, Error> {
        Ok(self.health().await)
    }

    async fn list(&self, kind: Kind, after: Option<Cursor>) -> Result<Page, Error> {
        self.page(kind, after).await
    }

    async fn get(&self, object: &ObjectRef) -> Result<Option<Object>, Error> {
        self.find(object).await
    }

    async fn apply(&self, operation: &Operation, _key: &OperationKey) -> Result<Outcome, Error> {
        match operation {
            Operation::CreateAccount(new) => self.create(new).await,
            Operation::UpdateAccount {
                account,
                attributes,
            } => self.update(account, attributes).await,
            Operation::EnableAccount { account } => self.enable(account).await,
            Operation::DisableAccount { account } => self.disable(account).await,
            Operation::DeleteAccount { account } => self.delete(account).await,
            Operation::Grant {
                account,
                entitlement,
            } => self.grant(account, entitlement).await,
            Operation::Revoke {
                account,
                entitlement,
            } => self.revoke(account, entitlement).await,
            Operation::SetPassword { account, password } => {
                self.set_password(account, password).await
            }
            Operation::DestroyCredential {
                account,
                credential,
            } => self.destroy_credential(account, credential).await,
            Operation::TransferOwnership { from, to } => self.transfer(from, to).await,
            Operation::IssueCredential(new) => self.issue_password(new).await,
            Operation::EndSessions { .. }
            | Operation::StoreCredential(_)
            | Operation::ActivateCredential { .. }
            | Operation::DeactivateCredential { .. }
            | Operation::Action { .. } => Err(Error::new(
                ErrorKind::Unsupported,
                format!("a directory has no `{}`", operation.name().as_str()),
            )),
        }
    }

    async fn verify(&self, claim: &Claim) -> Result<Verdict, Error> {
        self.verdict(claim).await
    }

    async fn credentials(&self, account: &NativeId) -> Result<Coverage<Vec<Credential>>, Error> {
        self.list_credentials(account).await
    }
}
