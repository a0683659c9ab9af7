//! The one credential a role has here: its password.
//!
//! Whether one is set stands in `pg_authid`, which only a superuser may read. What everybody may read is until when the
//! password is valid. So it is destroyed twice over, in one statement: it is taken away, and its validity ends at a
//! moment that no administrator would choose, the epoch of Unix. The second is what a read proves, and how we know our
//! own mark again: enabling the role, or setting a password, takes it off.

use chrono::{DateTime, Utc};
use serde_json::json;

use super::Postgres;
use super::names::identifier;
use super::roles::Role;
use super::verdict;
use crate::connector::{
    Coverage, Credential, CredentialId, CredentialKind, Error, NativeId, Outcome, Receipt, Verdict,
};

/// What the password of a role is called.
const PASSWORD: &str = "password";
/// The options of ALTER ROLE that leave it without one.
const DESTROYED: &str = "PASSWORD NULL VALID UNTIL '1970-01-01T00:00:00Z'";
/// The option that takes the mark off.
const VALID_AGAIN: &str = " VALID UNTIL 'infinity'";

impl Role {
    /// Whether its password was destroyed by us.
    pub(super) fn password_destroyed(&self) -> bool {
        self.valid_until == Some(DateTime::UNIX_EPOCH)
    }

    /// What to add to a change that lets the role log in again.
    pub(super) fn valid_again(&self) -> &'static str {
        if self.password_destroyed() {
            VALID_AGAIN
        } else {
            ""
        }
    }
}

impl Postgres {
    pub(super) async fn list_credentials(
        &self,
        account: &NativeId,
    ) -> Result<Coverage<Vec<Credential>>, Error> {
        let role = self.role(&self.parse(account)?).await?;
        let password = role.map(|role| Credential {
            // Until when it is valid is known; whether there is one is not.
            active: role.password_destroyed().then_some(false),
            expires_at: role.valid_until,
            ..Credential::new(CredentialId::new(PASSWORD), CredentialKind::Password)
        });
        Ok(Coverage {
            value: password.into_iter().collect(),
            blind_spots: vec![
                "certificates, tickets and whatever else `pg_hba.conf` takes; none of them gets past NOLOGIN"
                    .to_owned(),
            ],
        })
    }

    pub(super) async fn destroy_credential(
        &self,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<Outcome, Error> {
        let role = self.existing(account).await?;
        let is_password = credential.as_str() == PASSWORD;
        let receipt = Receipt {
            account: Some(role.id()),
            name: Some(role.name.clone()),
            before: Some(json!({ "credential": credential, "valid_until": role.valid_until })),
            after: Some(
                json!({ "credential": credential, "valid_until": DateTime::<Utc>::UNIX_EPOCH }),
            ),
            request_id: None,
        };
        if !is_password || role.password_destroyed() {
            return Ok(Outcome::AlreadySo(receipt));
        }
        let sql = format!("ALTER ROLE {} {DESTROYED}", identifier(&role.name));
        self.alter("destroying a password", sql, receipt).await
    }

    pub(super) async fn verify_credential(
        &self,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<Verdict, Error> {
        let role = self.role(&self.parse(account)?).await?;
        let ended = role.as_ref().is_none_or(Role::password_destroyed);
        let inactive = ended || credential.as_str() != PASSWORD;
        let seen = json!({
            "exists": role.is_some(),
            "credential": credential,
            "valid_until": role.and_then(|role| role.valid_until),
        });
        Ok(verdict(inactive, "pg_roles", Some(account.clone()), seen))
    }
}
