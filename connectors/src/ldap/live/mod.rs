//! Against the real servers that `tests/lab` starts: OpenLDAP and Samba's Active Directory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests"
)]

use std::collections::HashSet;
use std::sync::Arc;

use ldap3::{LdapConnAsync, LdapConnSettings, LdapResult, Scope, SearchEntry};
use secrecy::SecretString;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Ldap;
use super::settings::{Flavour, Settings};
use crate::connector::{
    Account, Attributes, Claim, Connector, EntitlementName, Error, NativeId, NewAccount, Object,
    ObjectRef, Operation, OperationKey, Outcome, Receipt, Verdict,
};

mod conformance;
mod connections;
mod credentials;
mod directory;
mod proxy;

const PASSWORD: &str = "C0nformance-Run!";

/// A running server and the settings that fit it.
struct Lab {
    flavour: Flavour,
    prefix: &'static str,
}

const OPENLDAP: Lab = Lab {
    flavour: Flavour::Openldap,
    prefix: "TENURE_LAB_OPENLDAP_",
};
const AD: Lab = Lab {
    flavour: Flavour::ActiveDirectory,
    prefix: "TENURE_LAB_AD_",
};

impl Lab {
    #[track_caller]
    fn get(&self, name: &str) -> String {
        let name = format!("{}{name}", self.prefix);
        let script = match self.flavour {
            Flavour::Openldap => "openldap.sh",
            Flavour::ActiveDirectory => "samba.sh",
        };
        std::env::var(&name).unwrap_or_else(|_| {
            panic!("`{name}` is not set: run `tests/lab/{script} start DIR` and `. DIR/env` first")
        })
    }

    /// Settings for TLS from the start; `changes` are laid over them, `null` removes one.
    fn settings(&self, changes: Value) -> Value {
        let mut settings = json!({
            "url": self.get("LDAPS_URL"),
            "ca_file": self.get("CA_FILE"),
            "bind_dn": self.get("BIND_DN"),
            "bind_password": format!("env:{}PASSWORD", self.prefix),
            "flavour": self.flavour,
            "people_base": self.get("PEOPLE_BASE"),
            "group_base": self.get("GROUP_BASE"),
        });
        let object = settings.as_object_mut().unwrap();
        for (name, value) in changes.as_object().unwrap() {
            if value.is_null() {
                object.remove(name);
            } else {
                object.insert(name.clone(), value.clone());
            }
        }
        settings
    }

    fn connector(&self, changes: Value) -> Ldap {
        Ldap::from_settings("lab", self.settings(changes)).unwrap()
    }

    /// A connection of the test's own, as somebody else than the connector.
    async fn bind(&self, name: &str, password: &str) -> (ldap3::Ldap, LdapResult) {
        let settings = Settings::read("lab", self.settings(json!({}))).unwrap();
        let options = LdapConnSettings::new().set_config(settings.tls.unwrap());
        let (driver, mut handle) = LdapConnAsync::with_settings(options, &settings.url)
            .await
            .unwrap();
        tokio::spawn(async move { driver.drive().await.ok() });
        let result = handle.simple_bind(name, password).await.unwrap();
        (handle, result)
    }

    async fn admin(&self) -> ldap3::Ldap {
        let name = match self.flavour {
            Flavour::Openldap => self.get("ADMIN_DN"),
            Flavour::ActiveDirectory => self.get("BIND_DN"),
        };
        let (handle, result) = self.bind(&name, &self.get("PASSWORD")).await;
        assert_eq!(result.rc, 0, "{result}");
        handle
    }

    /// A new empty group (as empty as the flavour allows) named `name` below the group base.
    async fn group(&self, name: &str) -> String {
        let group = super::dn::below("cn", name, &self.get("GROUP_BASE"));
        let one = |text: &str| HashSet::from([text.to_owned()]);
        let mut attributes = vec![("cn".to_owned(), one(name))];
        match self.flavour {
            Flavour::Openldap => {
                let placeholder = format!("cn=nobody,{}", self.get("GROUP_BASE"));
                attributes.push(("objectClass".to_owned(), one("groupOfNames")));
                attributes.push(("member".to_owned(), one(&placeholder)));
            }
            Flavour::ActiveDirectory => {
                attributes.push(("objectClass".to_owned(), one("group")));
                let short = name
                    .chars()
                    .filter(char::is_ascii_alphanumeric)
                    .collect::<String>();
                attributes.push(("sAMAccountName".to_owned(), one(&short)));
            }
        }
        self.admin()
            .await
            .add(&group, attributes)
            .await
            .unwrap()
            .success()
            .unwrap();
        group
    }

    /// All values of one attribute, as the server has them now.
    async fn values(&self, dn: &str, attribute: &str) -> Vec<String> {
        let found = self
            .admin()
            .await
            .search(dn, Scope::Base, "(objectClass=*)", [attribute])
            .await;
        let (entries, _) = found.unwrap().success().unwrap();
        let mut entry = SearchEntry::construct(entries.into_iter().next().unwrap());
        entry.attrs.remove(attribute).unwrap_or_default()
    }
}

/// Short enough for Active Directory, new for every test.
fn fresh(what: &str) -> String {
    let random = Uuid::new_v4().simple().to_string();
    format!("{what}{}", &random[..8])
}

fn key() -> OperationKey {
    OperationKey {
        idempotency: Uuid::new_v4().to_string(),
        attempt: 1,
        epoch: 1,
    }
}

fn new_account(name: &str) -> NewAccount {
    NewAccount {
        name: name.to_owned(),
        owner: format!("owner-{name}"),
        attributes: Attributes::from([("title".to_owned(), json!("Clerk"))]),
        enabled: true,
        password: None,
    }
}

async fn apply(connector: &Ldap, operation: Operation) -> Result<Outcome, Error> {
    connector.apply(&operation, &key()).await
}

#[track_caller]
fn receipt(outcome: Result<Outcome, Error>) -> Receipt {
    match outcome {
        Ok(Outcome::Done(receipt)) => receipt,
        Ok(other) => panic!("expected done, got {other:?}"),
        Err(error) => panic!(
            "expected done, got {}: {}",
            error.kind.as_str(),
            error.whole()
        ),
    }
}

#[track_caller]
fn error(outcome: Result<Outcome, Error>) -> Error {
    match outcome {
        Err(error) => error,
        Ok(outcome) => panic!("expected an error, got {outcome:?}"),
    }
}

async fn make(connector: &Ldap, new: NewAccount) -> NativeId {
    receipt(apply(connector, Operation::CreateAccount(new)).await)
        .account
        .unwrap()
}

async fn make_with_password(connector: &Ldap, name: &str) -> NativeId {
    let mut new = new_account(name);
    new.password = Some(SecretString::from(PASSWORD));
    make(connector, new).await
}

async fn account(connector: &Ldap, id: &NativeId) -> Account {
    match connector
        .get(&ObjectRef::Account(id.clone()))
        .await
        .unwrap()
    {
        Some(Object::Account(account)) => account,
        other => panic!("expected an account, got {other:?}"),
    }
}

async fn proven(connector: &Ldap, claim: Claim) -> bool {
    match connector.verify(&claim).await.unwrap() {
        Verdict::Proven(_) => true,
        Verdict::Refuted(_) => false,
        Verdict::CannotObserve { reason } => panic!("{reason}"),
    }
}

fn grant(account: &NativeId, entitlement: &str) -> Operation {
    Operation::Grant {
        account: account.clone(),
        entitlement: EntitlementName::new(entitlement),
    }
}

fn revoke(account: &NativeId, entitlement: &str) -> Operation {
    Operation::Revoke {
        account: account.clone(),
        entitlement: EntitlementName::new(entitlement),
    }
}
