//! The one credential a role has here: its password.
//!
//! Whether one is set stands in `pg_authid`, which only a superuser may read. What everybody may read is until when the
//! password is valid. So it is destroyed twice over, in one statement: it is taken away, and its validity ends at a
//! moment that no administrator would choose, the epoch of Unix. The second is what a read proves, and how we know our
//! own mark again: enabling the role, or setting a password, takes it off.
//!
//! Whether a password works is not read anywhere, it is tried: by logging in with it. A server that lets the role in
//! whatever it says (`trust`) would make every password a good one, so a login that succeeds is followed by one that must not.

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use uuid::Uuid;

use super::Postgres;
use super::names::identifier;
use super::roles::Role;
use super::sessions::Tried;
use super::verdict;
use crate::connector::{
    Coverage, Credential, CredentialId, CredentialKind, Error, ErrorKind, Material, Minted,
    NativeId, NewCredential, Outcome, Receipt, Verdict,
};
use crate::handover::to_be_tried;
use crate::secret::SecretRef;

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
            credential: None,
        };
        if !is_password || role.password_destroyed() {
            return Ok(Outcome::AlreadySo(receipt));
        }
        let sql = format!("ALTER ROLE {} {DESTROYED}", identifier(&role.name));
        self.alter("destroying a password", sql, receipt).await
    }

    /// Sets the password that somebody made and kept before.
    pub(super) async fn issue_password(&self, new: &NewCredential) -> Result<Outcome, Error> {
        let (CredentialKind::Password, Material::Secret(password)) = (new.kind, &new.material)
        else {
            return Err(self.sessions.error(
                ErrorKind::Unsupported,
                "a role is given a password that was made before, and no other credential",
            ));
        };
        if password.expose_secret().is_empty() {
            return Err(self.invalid("an empty password lets nobody in".to_owned()));
        }
        if !new.attributes.is_empty() || new.lifetime_s.is_some() {
            return Err(self.invalid(
                "a password says nothing and has no life of its own; set `valid_until` of the account instead"
                    .to_owned(),
            ));
        }
        let role = self.existing(&new.account).await?;
        let credential = Credential {
            label: new.label.clone(),
            ..Credential::new(CredentialId::new(PASSWORD), CredentialKind::Password)
        };
        // If it cannot be told, it is set: setting it twice does no harm.
        let is_so = role.can_login && matches!(self.enters(&role, password).await, Ok(true));
        let outcome = if is_so {
            Outcome::AlreadySo(Receipt {
                account: Some(role.id()),
                name: Some(role.name.clone()),
                ..Receipt::default()
            })
        } else {
            self.set_password(&new.account, password).await?
        };
        let (mut receipt, so): (Receipt, fn(Receipt) -> Outcome) = match outcome {
            Outcome::Done(receipt) => (receipt, Outcome::Done),
            Outcome::AlreadySo(receipt) => (receipt, Outcome::AlreadySo),
            other => return Ok(other),
        };
        receipt.credential = Some(credential.clone());
        let minted = Minted {
            credential,
            public: None,
            secret: None,
        };
        Ok(new.into.settle(minted, receipt, so).await)
    }

    /// Whether the role logs in with this password, and with no other.
    async fn enters(&self, role: &Role, password: &SecretString) -> Result<bool, Error> {
        match self.sessions.try_login(&role.name, password).await? {
            Tried::In => {}
            Tried::WrongPassword => return Ok(false),
            Tried::NotAllowed(_) if !role.can_login => return Ok(false),
            Tried::NotAllowed(words) => {
                return Err(self.sessions.error(
                    ErrorKind::Denied,
                    format!(
                        "no login as `{}` could be tried: {words}; let `pg_hba.conf` take its password from here",
                        role.name.escape_debug()
                    ),
                ));
            }
        }
        let nonsense = SecretString::from(Uuid::new_v4().to_string());
        match self.sessions.try_login(&role.name, &nonsense).await? {
            Tried::In => Err(self.sessions.error(
                ErrorKind::Denied,
                format!(
                    "the server lets `{}` in from here whatever its password is; ask for `scram-sha-256` in `pg_hba.conf`",
                    role.name.escape_debug()
                ),
            )),
            Tried::WrongPassword | Tried::NotAllowed(_) => Ok(true),
        }
    }

    /// Whether the password lets in (or, the other claim, whether it does not).
    pub(super) async fn verify_login_with(
        &self,
        account: &NativeId,
        credential: &CredentialId,
        secret: &SecretRef,
        claimed: bool,
    ) -> Result<Verdict, Error> {
        let by = "login";
        let Some(role) = self.role(&self.parse(account)?).await? else {
            let seen = json!({ "exists": false });
            return Ok(verdict(!claimed, by, Some(account.clone()), seen));
        };
        if credential.as_str() != PASSWORD {
            return Err(self.invalid(format!(
                "a role has one credential to log in with, `{PASSWORD}`"
            )));
        }
        let enters = self.enters(&role, &to_be_tried(secret)?).await?;
        let seen = json!({ "credential": credential, "role": role.name, "let_in": enters });
        Ok(verdict(enters == claimed, by, Some(role.id()), seen))
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
