//! Says what would be done instead of doing it.
//!
//! Writes are answered without a call. Reads go through; a claim that does not hold because of that is not
//! refuted but cannot be observed, so that nobody retries or raises an alarm over a rehearsal.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;

use crate::connector::{
    Attributes, Capabilities, Changes, Claim, Connector, Coverage, Credential, CredentialId,
    Cursor, Error, ErrorKind, Handle, Health, Kind, NativeId, NewCredential, Object, ObjectRef,
    Operation, OperationKey, Outcome, Page, Receipt, Renewal, StoredCredential, Use, Verdict,
};

/// What the identifier of an account starts with that a dry run pretends to have made.
const ID_PREFIX: &str = "dry-run:";

pub struct DryRun {
    inner: Arc<dyn Connector>,
}

impl DryRun {
    #[must_use]
    pub fn new(inner: Arc<dyn Connector>) -> Self {
        Self { inner }
    }
}

/// An operation in words: names and attribute names, no values and no secrets.
#[must_use]
pub fn describe(operation: &Operation) -> String {
    let names = |attributes: &Attributes| {
        if attributes.is_empty() {
            "nothing".to_owned()
        } else {
            attributes
                .keys()
                .map(|name| format!("`{name}`"))
                .collect::<Vec<_>>()
                .join(", ")
        }
    };
    match operation {
        Operation::CreateAccount(new) => format!(
            "create account `{}` ({}, {}) with {}",
            new.name,
            if new.enabled { "enabled" } else { "disabled" },
            if new.password.is_some() {
                "with a password"
            } else {
                "without a password"
            },
            names(&new.attributes)
        ),
        Operation::UpdateAccount {
            account,
            attributes,
        } => {
            format!("set {} of account `{account}`", names(attributes))
        }
        Operation::EnableAccount { account } => format!("enable account `{account}`"),
        Operation::DisableAccount { account } => format!("disable account `{account}`"),
        Operation::DeleteAccount { account } => format!("delete account `{account}`"),
        Operation::Grant {
            account,
            entitlement,
        } => format!("give `{entitlement}` to account `{account}`"),
        Operation::Revoke {
            account,
            entitlement,
        } => format!("take `{entitlement}` from account `{account}`"),
        Operation::EndSessions { account } => format!("end the sessions of account `{account}`"),
        Operation::SetPassword { account, .. } => {
            format!("set the password of account `{account}`")
        }
        Operation::IssueCredential(new) => format!(
            "issue a credential (`{}`) to account `{}`",
            new.kind.as_str(),
            new.account
        ),
        Operation::StoreCredential(stored) => {
            format!("keep `{}` in `{}`", stored.credential, stored.account)
        }
        Operation::ActivateCredential {
            account,
            credential,
        } => format!("activate `{credential}` of account `{account}`"),
        Operation::DeactivateCredential {
            account,
            credential,
        } => format!("deactivate `{credential}` of account `{account}`"),
        Operation::DestroyCredential {
            account,
            credential,
        } => format!("destroy `{credential}` of account `{account}`"),
        Operation::TransferOwnership { from, to } => {
            format!("hand over what `{from}` owns to `{to}`")
        }
        Operation::Action { name, .. } => format!("carry out `{name}`"),
    }
}

fn account_of(operation: &Operation) -> Option<NativeId> {
    match operation {
        Operation::CreateAccount(new) => Some(NativeId::new(format!("{ID_PREFIX}{}", new.name))),
        Operation::UpdateAccount { account, .. }
        | Operation::EnableAccount { account }
        | Operation::DisableAccount { account }
        | Operation::DeleteAccount { account }
        | Operation::Grant { account, .. }
        | Operation::Revoke { account, .. }
        | Operation::EndSessions { account }
        | Operation::SetPassword { account, .. }
        | Operation::IssueCredential(NewCredential { account, .. })
        | Operation::StoreCredential(StoredCredential { account, .. })
        | Operation::ActivateCredential { account, .. }
        | Operation::DeactivateCredential { account, .. }
        | Operation::DestroyCredential { account, .. } => Some(account.clone()),
        Operation::TransferOwnership { from, .. } => Some(from.clone()),
        Operation::Action { .. } => None,
    }
}

#[async_trait]
impl Connector for DryRun {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    async fn check(&self) -> Result<Health, Error> {
        self.inner.check().await
    }
    async fn list(&self, kind: Kind, after: Option<Cursor>) -> Result<Page, Error> {
        self.inner.list(kind, after).await
    }
    async fn get(&self, object: &ObjectRef) -> Result<Option<Object>, Error> {
        match object {
            // Made up here; the system has never heard of it and might refuse the very question.
            ObjectRef::Account(id) if id.as_str().starts_with(ID_PREFIX) => Ok(None),
            _ => self.inner.get(object).await,
        }
    }
    async fn changes(&self, after: Option<Cursor>) -> Result<Changes, Error> {
        self.inner.changes(after).await
    }

    async fn apply(&self, operation: &Operation, _key: &OperationKey) -> Result<Outcome, Error> {
        if !self
            .inner
            .capabilities()
            .operations
            .contains(&operation.name())
        {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "this system cannot carry out `{}`",
                    operation.name().as_str()
                ),
            ));
        }
        let would = describe(operation);
        tracing::info!(
            operation = operation.name().as_str(),
            "dry run: nothing was changed"
        );
        Ok(Outcome::Done(Receipt {
            account: account_of(operation),
            after: Some(json!({ "dry_run": format!("would {would}") })),
            ..Receipt::default()
        }))
    }

    async fn poll(&self, handle: &Handle) -> Result<Outcome, Error> {
        self.inner.poll(handle).await
    }

    async fn verify(&self, claim: &Claim) -> Result<Verdict, Error> {
        let reason = || "dry run: nothing was changed".to_owned();
        if serde_json::to_value(claim).is_ok_and(|claim| {
            claim
                .get("account")
                .and_then(serde_json::Value::as_str)
                .is_some_and(|id| id.starts_with(ID_PREFIX))
        }) {
            return Ok(Verdict::CannotObserve { reason: reason() });
        }
        Ok(match self.inner.verify(claim).await? {
            Verdict::Refuted(_) => Verdict::CannotObserve { reason: reason() },
            verdict => verdict,
        })
    }

    async fn credentials(&self, account: &NativeId) -> Result<Coverage<Vec<Credential>>, Error> {
        self.inner.credentials(account).await
    }

    async fn renewal(
        &self,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<Renewal, Error> {
        self.inner.renewal(account, credential).await
    }

    async fn dependents(&self, object: &ObjectRef) -> Result<Coverage<Vec<Use>>, Error> {
        self.inner.dependents(object).await
    }
}
