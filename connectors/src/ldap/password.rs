//! The password of an account as a credential: set when a new one was made, and tried by binding with it.
//!
//! A bind is the only way to know. It costs something: a refused one counts where the password policy locks accounts,
//! so the claims are made once for each change and not in a loop.

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;

use super::entry::Entry;
use super::{Ldap, codes, pool, wire};
use crate::connector::{
    Credential, CredentialId, CredentialKind, Error, ErrorKind, Material, Minted, NativeId,
    NewCredential, Observation, Outcome, Receipt, Verdict,
};
use crate::handover::to_be_tried;
use crate::secret::SecretRef;

/// What the password of an account is called.
pub(super) const PASSWORD: &str = "password";

impl Ldap {
    /// Sets the password that somebody made and kept before.
    pub(super) async fn issue_password(&self, new: &NewCredential) -> Result<Outcome, Error> {
        let (CredentialKind::Password, Material::Secret(password)) = (new.kind, &new.material)
        else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a directory account is given a password that was made before; keys and certificates are its attributes",
            ));
        };
        self.ensure_private()?;
        let invalid = |why: &str| Err(Error::new(ErrorKind::Invalid, why));
        if password.expose_secret().is_empty() {
            return invalid("an empty password lets in as nobody");
        }
        if !new.attributes.is_empty() || new.lifetime_s.is_some() {
            return invalid(
                "a password says nothing and lives as long as the password policy lets it",
            );
        }
        let receipt = match self.set_password(&new.account, password).await {
            Ok(Outcome::Done(receipt) | Outcome::AlreadySo(receipt)) => (receipt, true),
            Ok(other) => return Ok(other),
            // A policy with a history refuses the password that is set already.
            Err(error) if error.kind == ErrorKind::Invalid => {
                match self.password_entry(&new.account).await? {
                    Some(entry) if self.binds(&entry, password).await? => {
                        (Receipt::default(), false)
                    }
                    _ => return Err(error),
                }
            }
            Err(error) => return Err(error),
        };
        let credential = Credential {
            label: new.label.clone(),
            ..Credential::new(CredentialId::new(PASSWORD), CredentialKind::Password)
        };
        let (receipt, is_new) = receipt;
        let receipt = Receipt {
            account: Some(new.account.clone()),
            credential: Some(credential.clone()),
            ..receipt
        };
        let minted = Minted {
            credential,
            public: None,
            secret: None,
        };
        let so = if is_new {
            Outcome::Done
        } else {
            Outcome::AlreadySo
        };
        Ok(new.into.settle(minted, receipt, so).await)
    }

    /// Whether the password lets in (or, the other claim, whether it does not).
    pub(super) async fn login_verdict(
        &self,
        account: &NativeId,
        credential: &CredentialId,
        secret: &SecretRef,
        claimed: bool,
    ) -> Result<Verdict, Error> {
        self.ensure_private()?;
        let judged = |binds: bool, seen| {
            let observation = Observation {
                by: "ldap bind".to_owned(),
                account: Some(account.clone()),
                seen,
            };
            if binds == claimed {
                Verdict::Proven(observation)
            } else {
                Verdict::Refuted(observation)
            }
        };
        let Some(entry) = self.password_entry(account).await? else {
            return Ok(judged(false, json!({"entry": "absent"})));
        };
        if credential.as_str() != PASSWORD {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("an account binds with `{PASSWORD}` and nothing else"),
            ));
        }
        let binds = self.binds(&entry, &to_be_tried(secret)?).await?;
        Ok(judged(
            binds,
            json!({"credential": credential, "let_in": binds}),
        ))
    }

    async fn password_entry(&self, account: &NativeId) -> Result<Option<Entry>, Error> {
        self.by_id(account, &self.state_attributes()).await
    }

    /// Binds as the account, over a connection of its own.
    async fn binds(&self, entry: &Entry, password: &SecretString) -> Result<bool, Error> {
        let mut connection = Box::pin(pool::reach(&self.settings)).await?;
        let asked = connection
            .handle
            .simple_bind(&entry.dn, password.expose_secret());
        let result = match wire::answered(asked, self.settings.operation_timeout).await {
            Ok(result) => result,
            Err(failure) => return Err(failure.of_read(&self.settings.url)),
        };
        match result.rc {
            codes::SUCCESS => Ok(true),
            codes::INVALID_CREDENTIALS => Ok(false),
            _ => Err(codes::refused("try a password", &result)),
        }
    }
}
