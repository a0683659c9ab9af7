//! The roles of a PostgreSQL cluster (15 or later) as a system.
//!
//! | Tenure         | PostgreSQL                                                                               |
//! |----------------|------------------------------------------------------------------------------------------|
//! | account        | a role with LOGIN, or one that Tenure disabled; [`NativeId`](crate::connector::NativeId) is [`name#oid`](names) |
//! | owner key      | first line of the role's comment, `tenure:owner=KEY`, written in the creating transaction |
//! | enabled        | LOGIN / NOLOGIN: no method of login gets past NOLOGIN                                     |
//! | attributes     | `valid_until` (of the *password*: other methods of login ignore it), `connection_limit`  |
//! | entitlement    | membership in a role with NOLOGIN, predefined roles (`pg_read_all_data`) included        |
//! | sessions       | `pg_stat_activity` / `pg_terminate_backend`, in all databases                            |
//! | password       | a SCRAM verifier made here; the server never sees the clear text                         |
//! | credential     | the [password](credential): destroyed by `PASSWORD NULL` and an end of its validity; tried by a login |
//! | dependents     | `pg_shdepend`, open sessions, members                                                    |
//!
//! `granted` and `not_granted` speak of direct membership. A role that is still reached through another group is
//! said so in the observation, because that other membership is an entitlement of its own.
//!
//! Our own login needs CREATEROLE (from 16 on also ADMIN OPTION on roles that others made) and
//! `pg_signal_backend`, or SUPERUSER. Connect directly, not through a pooler that shares sessions.

use async_trait::async_trait;
use serde_json::{Value, json};
use sqlx::Row;

use crate::answer::verdict;
use crate::connector::{
    Capabilities, Claim, ClaimName, Connector, Coverage, Credential, CredentialKind, Cursor,
    EntitlementName, Error, ErrorKind, Health, Issuing, Kind, MaterialName, NativeId, Object,
    ObjectRef, Operation, OperationKey, OperationName, Outcome, Page, Use, Verdict,
};

mod changes;
mod check;
mod credential;
mod failure;
mod names;
mod ownership;
mod roles;
mod scram;
mod sessions;
mod settings;

#[cfg(test)]
mod live;

use changes::Wanted;
use roles::Role;
use sessions::Sessions;
use settings::{OwnedObjects, Settings};

pub struct Postgres {
    sessions: Sessions,
    own_role: String,
    role_prefix: String,
    page_size: u32,
    owned_objects: OwnedObjects,
    reassign_to: Option<String>,
}

/// Whether a role is reached in any way. A superuser "is a member" of everything, which says nothing.
const REACHES: &str = "
SELECT NOT m.rolsuper AND pg_has_role(m.oid, g.oid, 'MEMBER') AS reaches
  FROM pg_roles m, pg_roles g
 WHERE m.oid = $1::int8::oid AND g.rolname = $2";

impl Postgres {
    /// Reads the settings and the password; contacts nobody.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] names the setting that is wrong, missing or unknown.
    pub fn from_settings(system: &str, settings: Value) -> Result<Self, Error> {
        let settings = Settings::parse(system, settings)?;
        Ok(Self {
            sessions: Sessions::new(system, &settings)?,
            own_role: settings.user,
            role_prefix: settings.role_prefix,
            page_size: settings.page_size,
            owned_objects: settings.owned_objects,
            reassign_to: settings.reassign_to,
        })
    }
}

#[async_trait]
impl Connector for Postgres {
    fn capabilities(&self) -> Capabilities {
        use OperationName as Op;
        Capabilities {
            operations: [
                Op::CreateAccount,
                Op::UpdateAccount,
                Op::EnableAccount,
                Op::DisableAccount,
                Op::DeleteAccount,
                Op::Grant,
                Op::Revoke,
                Op::EndSessions,
                Op::SetPassword,
                Op::IssueCredential,
                Op::DestroyCredential,
                Op::TransferOwnership,
            ]
            .into(),
            claims: [
                ClaimName::AccountExists,
                ClaimName::AccountEnabled,
                ClaimName::AccountDisabled,
                ClaimName::AccountAbsent,
                ClaimName::AttributesAre,
                ClaimName::Granted,
                ClaimName::NotGranted,
                ClaimName::NoSessions,
                ClaimName::CredentialInactive,
                ClaimName::CredentialWorks,
                ClaimName::CredentialRefused,
                ClaimName::OwnsNothing,
            ]
            .into(),
            lists: [Kind::Account, Kind::Entitlement].into(),
            changes: false,
            dependents: true,
            credentials: [CredentialKind::Password].into(),
            issues: [(
                CredentialKind::Password,
                Issuing {
                    material: [MaterialName::Secret].into(),
                    slots: Some(1),
                },
            )]
            .into(),
            renewal: false,
            finds_by_owner: true,
            by_hand: false,
        }
    }

    async fn check(&self) -> Result<Health, Error> {
        self.look_around().await
    }

    async fn list(&self, kind: Kind, after: Option<Cursor>) -> Result<Page, Error> {
        let after = match after {
            None => 0,
            Some(cursor) => cursor.0.parse().map_err(|_| {
                self.sessions.error(
                    ErrorKind::Invalid,
                    "the cursor is not one of this connector",
                )
            })?,
        };
        let roles = self.roles_after(kind == Kind::Account, after).await?;
        let full = roles.len() >= usize::try_from(self.page_size).unwrap_or(usize::MAX);
        let next = roles
            .last()
            .filter(|_| full)
            .map(|role| Cursor(role.oid.to_string()));
        let items = roles
            .iter()
            .map(|role| match kind {
                Kind::Account => Object::Account(role.account()),
                Kind::Entitlement => Object::Entitlement(role.entitlement()),
            })
            .collect();
        Ok(Page {
            items,
            complete: next.is_none(),
            next,
        })
    }

    async fn get(&self, object: &ObjectRef) -> Result<Option<Object>, Error> {
        let account = |role: Role| Object::Account(role.account());
        match object {
            // By its own identifier a role is an account even if somebody else took LOGIN from it.
            ObjectRef::Account(id) => Ok(self.role(&self.parse(id)?).await?.map(account)),
            ObjectRef::AccountNamed(name) => {
                self.fence(name)?;
                Ok(self
                    .role_named(name)
                    .await?
                    .filter(Role::is_account)
                    .map(account))
            }
            ObjectRef::AccountOwnedBy(owner) => Ok(self.role_owned_by(owner).await?.map(account)),
            ObjectRef::Entitlement(name) => {
                let role = self.role_named(name.as_str()).await?;
                Ok(role
                    .filter(|role| !role.is_account())
                    .map(|role| Object::Entitlement(role.entitlement())))
            }
        }
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
            Operation::EndSessions { account } => self.end_sessions(account).await,
            Operation::SetPassword { account, password } => {
                self.set_password(account, password).await
            }
            Operation::DestroyCredential {
                account,
                credential,
            } => self.destroy_credential(account, credential).await,
            Operation::IssueCredential(new) => self.issue_password(new).await,
            Operation::ActivateCredential { .. } | Operation::DeactivateCredential { .. } => {
                Err(self.sessions.error(
                    ErrorKind::Unsupported,
                    "a password is destroyed or it is valid; there is nothing between",
                ))
            }
            Operation::StoreCredential(_) => Err(self.sessions.error(
                ErrorKind::Unsupported,
                "PostgreSQL keeps no credentials for others",
            )),
            Operation::TransferOwnership { from, to } => self.transfer(from, to).await,
            Operation::Action { name, .. } => Err(self.sessions.error(
                ErrorKind::Unsupported,
                format!("PostgreSQL roles have no action `{}`", name.escape_debug()),
            )),
        }
    }

    async fn verify(&self, claim: &Claim) -> Result<Verdict, Error> {
        match claim {
            Claim::AccountExists { owner } => {
                let role = self.role_owned_by(owner).await?;
                let seen = json!({ "exists": role.is_some(), "name": role.as_ref().map(|role| &role.name) });
                Ok(verdict(role.is_some(), "pg_shdescription", role.map(|role| role.id()), seen))
            }
            Claim::AccountEnabled { account } => self.verify_login(account, true).await,
            Claim::AccountDisabled { account } => self.verify_login(account, false).await,
            Claim::AccountAbsent { account } => {
                let role = self.role(&self.parse(account)?).await?;
                let seen = json!({ "exists": role.is_some() });
                Ok(verdict(role.is_none(), "pg_roles", Some(account.clone()), seen))
            }
            Claim::AttributesAre { account, attributes } => {
                let wanted = Wanted::parse(attributes).map_err(|why| self.invalid(why))?;
                let role = self.role(&self.parse(account)?).await?;
                let holds = role.as_ref().is_some_and(|role| wanted.holds(role));
                let seen = role.map_or(json!({ "exists": false }), |role| json!(role.attributes()));
                Ok(verdict(holds, "pg_roles", Some(account.clone()), seen))
            }
            Claim::Granted { account, entitlement } => self.verify_granted(account, entitlement, true).await,
            Claim::NotGranted { account, entitlement } => self.verify_granted(account, entitlement, false).await,
            Claim::CredentialInactive { account, credential } => self.verify_credential(account, credential).await,
            Claim::CredentialWorks { account, credential, secret } => {
                self.verify_login_with(account, credential, secret, true).await
            }
            Claim::CredentialRefused { account, credential, secret } => {
                self.verify_login_with(account, credential, secret, false).await
            }
            Claim::CredentialActive { .. }
            | Claim::CredentialIssued { .. }
            | Claim::CredentialStored { .. }
            | Claim::ServesCertificate { .. }
            | Claim::ServesTrusted { .. }
            | Claim::NothingSigned { .. } => Ok(Verdict::CannotObserve {
                reason: "a password carries no key and nobody but a superuser sees whether one is set; try it".to_owned(),
            }),
            Claim::OwnsNothing { account } => self.owns_nothing(account).await,
            Claim::NoSessions { account } => match self.sessions_of(account).await? {
                Some(sessions) => {
                    let seen = json!({ "sessions": sessions });
                    Ok(verdict(sessions == 0, "pg_stat_activity", Some(account.clone()), seen))
                }
                None => Ok(Verdict::CannotObserve {
                    reason: "the role is gone and its oid is not known; look for sessions without a role name in pg_stat_activity"
                        .to_owned(),
                }),
            },
        }
    }

    async fn credentials(&self, account: &NativeId) -> Result<Coverage<Vec<Credential>>, Error> {
        self.list_credentials(account).await
    }

    async fn dependents(&self, object: &ObjectRef) -> Result<Coverage<Vec<Use>>, Error> {
        self.uses(object).await
    }
}

impl Postgres {
    async fn verify_login(&self, account: &NativeId, wanted: bool) -> Result<Verdict, Error> {
        let role = self.role(&self.parse(account)?).await?;
        let login = role.as_ref().is_some_and(|role| role.can_login);
        let seen = json!({ "exists": role.is_some(), "login": login });
        Ok(verdict(
            login == wanted,
            "pg_roles",
            Some(account.clone()),
            seen,
        ))
    }

    async fn verify_granted(
        &self,
        account: &NativeId,
        group: &EntitlementName,
        wanted: bool,
    ) -> Result<Verdict, Error> {
        let role = self.role(&self.parse(account)?).await?;
        let held = role.as_ref().is_some_and(|role| role.is_in(group));
        let mut seen = json!({ "entitlement": group.as_str(), "granted": held });
        if let (Some(role), false, false) = (&role, held, group.as_str().contains('\0')) {
            let query = sqlx::query(REACHES)
                .bind(i64::from(role.oid))
                .bind(group.as_str());
            let rows = self.sessions.read("reading memberships", query).await?;
            if rows.first().and_then(|row| row.try_get("reaches").ok()) == Some(true)
                && let Some(seen) = seen.as_object_mut()
            {
                seen.insert("through_another_group".to_owned(), Value::Bool(true));
            }
        }
        Ok(verdict(
            held == wanted,
            "pg_auth_members",
            Some(account.clone()),
            seen,
        ))
    }
}
