//! A SCIM 2.0 application (RFC 7643, RFC 7644) as a system.
//!
//! | Tenure                 | SCIM                                                                 |
//! |------------------------|----------------------------------------------------------------------|
//! | account                | `/Users`; [`NativeId`] is the `id`, the name is `userName`           |
//! | owner key              | `externalId`                                                         |
//! | enabled                | `active`                                                             |
//! | attributes             | flat names; the [mapping](attributes) says which                     |
//! | entitlement            | `/Groups`; the name is the `displayName`, exactly                    |
//! | version                | `meta.version`, sent back as `If-Match` when a user is changed       |
//!
//! Requests for one operation: create 2 (find by owner, POST); update, enable, disable 2 (GET, PATCH); grant 3
//! (GET user and membership at the same time, PATCH) plus 1 when the group's id was not seen lately; revoke 3;
//! delete 1; any claim 1.
//!
//! SCIM knows no sessions, no change feed and nothing about who uses what; those are not declared.
//! What the wire's failures mean is the table in [`failure`].

use async_trait::async_trait;
use reqwest::Method;
use serde_json::{Value, json};

use crate::answer::verdict;
use crate::connector::{
    Capabilities, Claim, ClaimName, Connector, Coverage, Credential, CredentialKind, Cursor,
    Entitlement, EntitlementName, Error, ErrorKind, Finding, Health, Kind, NativeId, Object,
    ObjectRef, Operation, OperationKey, OperationName, Outcome, Page, Verdict,
};

mod attributes;
mod certificates;
mod failure;
mod groups;
mod http;
mod listing;
mod settings;
mod users;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod live;

use attributes::member;
use groups::Groups;
use http::{Http, Request};
use listing::{Progress, id_of};
use settings::Settings;

pub struct Scim {
    http: Http,
    groups: Groups,
    page_size: u32,
    extra_schemas: Vec<String>,
    set_password: bool,
    certificates: bool,
}

impl Scim {
    /// Reads the settings and the token; contacts nobody.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] names the setting that is wrong, missing or unknown.
    pub fn from_settings(system: &str, settings: Value) -> Result<Self, Error> {
        let (settings, base) = Settings::parse(system, settings)?;
        Ok(Self {
            http: Http::new(system, &settings, base)?,
            groups: Groups::default(),
            page_size: settings.page_size,
            extra_schemas: settings.extra_schemas,
            set_password: settings.set_password,
            certificates: settings.certificates,
        })
    }

    fn page_size(&self) -> u32 {
        self.page_size
    }

    fn unsupported(&self, what: &str) -> Error {
        self.http.error(
            ErrorKind::Unsupported,
            format!("a SCIM application cannot {what}"),
        )
    }
}

#[async_trait]
impl Connector for Scim {
    fn capabilities(&self) -> Capabilities {
        use OperationName as Op;
        let mut operations = [
            Op::CreateAccount,
            Op::UpdateAccount,
            Op::EnableAccount,
            Op::DisableAccount,
            Op::DeleteAccount,
            Op::Grant,
            Op::Revoke,
        ]
        .into_iter()
        .collect::<std::collections::BTreeSet<_>>();
        if self.set_password {
            operations.insert(Op::SetPassword);
        }
        let mut claims: std::collections::BTreeSet<_> = [
            ClaimName::AccountExists,
            ClaimName::AccountEnabled,
            ClaimName::AccountDisabled,
            ClaimName::AccountAbsent,
            ClaimName::AttributesAre,
            ClaimName::Granted,
            ClaimName::NotGranted,
        ]
        .into();
        let mut credentials = std::collections::BTreeSet::new();
        if self.certificates {
            operations.insert(Op::DestroyCredential);
            claims.insert(ClaimName::CredentialInactive);
            credentials.insert(CredentialKind::Certificate);
        }
        Capabilities {
            operations,
            claims,
            lists: [Kind::Account, Kind::Entitlement].into(),
            changes: false,
            dependents: false,
            credentials,
            issues: std::collections::BTreeMap::new(),
            renewal: false,
            finds_by_owner: true,
            by_hand: false,
        }
    }

    async fn check(&self) -> Result<Health, Error> {
        let mut findings = Vec::new();
        let base = self.http.base().to_string();
        let config = self
            .http
            .send(Request::new(Method::GET, &["ServiceProviderConfig"]))
            .await;
        let config = match config {
            Ok(answer) => {
                findings.push(Finding::good("reach", format!("`{base}` answers")));
                answer.body
            }
            Err(failure) => {
                // Any HTTP status means that something answered; what it is, the login tells.
                if let Some(status) = failure.status() {
                    findings.push(Finding::good(
                        "reach",
                        format!("`{base}` answers ({status} to /ServiceProviderConfig)"),
                    ));
                    Value::Null
                } else {
                    findings.push(Finding::bad(
                        "reach",
                        failure.of_read().whole(),
                        "check `base_url`, `ca_file`, the network and whether the application runs",
                    ));
                    return Ok(Health { findings });
                }
            }
        };
        if !self.check_list("login", "Users", &mut findings).await {
            return Ok(Health { findings });
        }
        self.check_list("rights", "Groups", &mut findings).await;
        findings.extend(check_features(&config));
        Ok(Health { findings })
    }

    async fn list(&self, kind: Kind, after: Option<Cursor>) -> Result<Page, Error> {
        let progress = match after {
            None => Progress::default(),
            Some(cursor) => serde_json::from_str(&cursor.0).map_err(|error| {
                self.http
                    .error(
                        ErrorKind::Invalid,
                        "the cursor is not one of this connector",
                    )
                    .with_source(error)
            })?,
        };
        let judged = match kind {
            Kind::Account => self.page("Users", progress, self.page_size, None).await?,
            Kind::Entitlement => {
                self.page(
                    "Groups",
                    progress,
                    self.page_size,
                    Some(("excludedAttributes", "members")),
                )
                .await?
            }
        };
        let items = judged.fresh.iter().map(|object| match kind {
            Kind::Account => self.account_of(object).map(Object::Account),
            Kind::Entitlement => self.entitlement_of(object).map(Object::Entitlement),
        });
        let next = judged.next.map(|progress| {
            serde_json::to_string(&progress)
                .map(Cursor)
                .map_err(|error| {
                    self.http
                        .error(ErrorKind::Bug, "cannot write the cursor")
                        .with_source(error)
                })
        });
        Ok(Page {
            items: items.collect::<Result<_, _>>()?,
            next: next.transpose()?,
            complete: judged.complete,
        })
    }

    async fn get(&self, object: &ObjectRef) -> Result<Option<Object>, Error> {
        let user = match object {
            ObjectRef::Account(id) => self.user(id).await?.map(|answer| answer.body),
            ObjectRef::AccountNamed(name) => self.user_named(name).await?,
            ObjectRef::AccountOwnedBy(owner) => self.user_owned_by(owner).await?,
            ObjectRef::Entitlement(name) => {
                return Ok(self.entitlement(name).await?.map(Object::Entitlement));
            }
        };
        match user {
            Some(user) => Ok(Some(Object::Account(
                self.account_with_entitlements(&user).await?,
            ))),
            None => Ok(None),
        }
    }

    async fn apply(&self, operation: &Operation, _key: &OperationKey) -> Result<Outcome, Error> {
        match operation {
            Operation::CreateAccount(new) => self.create(new).await,
            Operation::UpdateAccount {
                account,
                attributes,
            } => self.update(account, attributes).await,
            Operation::EnableAccount { account } => self.set_active(account, true).await,
            Operation::DisableAccount { account } => self.set_active(account, false).await,
            Operation::DeleteAccount { account } => self.delete(account).await,
            Operation::Grant {
                account,
                entitlement,
            } => self.grant(account, entitlement).await,
            Operation::Revoke {
                account,
                entitlement,
            } => self.revoke(account, entitlement).await,
            Operation::SetPassword { account, password } if self.set_password => {
                self.set_password(account, password).await
            }
            Operation::SetPassword { .. } => {
                Err(self
                    .unsupported("take a password here; set `set_password: true` if this one does"))
            }
            Operation::DestroyCredential {
                account,
                credential,
            } if self.certificates => self.destroy_certificate(account, credential).await,
            Operation::DestroyCredential { .. } | Operation::DeactivateCredential { .. } => {
                Err(self.unsupported(
                    "end a credential; set `certificates: true` if this one has `x509Certificates`",
                ))
            }
            Operation::IssueCredential(_)
            | Operation::StoreCredential(_)
            | Operation::ActivateCredential { .. } => {
                Err(self.unsupported("issue or keep credentials"))
            }
            Operation::EndSessions { .. } => {
                Err(self.unsupported("end sessions: the protocol knows none"))
            }
            Operation::TransferOwnership { .. } => Err(self.unsupported("transfer ownership")),
            Operation::Action { name, .. } => {
                Err(self.unsupported(&format!("carry out the action `{name}`")))
            }
        }
    }

    async fn verify(&self, claim: &Claim) -> Result<Verdict, Error> {
        match claim {
            Claim::AccountExists { owner } => {
                let user = self.user_owned_by(owner).await?;
                let account = user.as_ref().and_then(id_of).map(NativeId::new);
                let name = user
                    .as_ref()
                    .and_then(|user| member(user, "userName"))
                    .cloned();
                let seen = json!({ "exists": account.is_some(), "name": name });
                Ok(verdict(
                    account.is_some(),
                    "GET /Users?filter=externalId",
                    account,
                    seen,
                ))
            }
            Claim::AccountEnabled { account } => self.verify_active(account, true).await,
            Claim::AccountDisabled { account } => self.verify_active(account, false).await,
            Claim::AccountAbsent { account } => {
                let absent = self.user(account).await?.is_none();
                Ok(verdict(
                    absent,
                    "GET /Users/{id}",
                    Some(account.clone()),
                    json!({ "exists": !absent }),
                ))
            }
            Claim::AttributesAre {
                account,
                attributes,
            } => {
                let (holds, seen) = match self.user(account).await? {
                    Some(user) => self.compare(&user.body, attributes)?,
                    None => (false, json!({ "exists": false })),
                };
                Ok(verdict(
                    holds,
                    "GET /Users/{id}",
                    Some(account.clone()),
                    seen,
                ))
            }
            Claim::Granted {
                account,
                entitlement,
            } => self.verify_granted(account, entitlement, true).await,
            Claim::NotGranted {
                account,
                entitlement,
            } => self.verify_granted(account, entitlement, false).await,
            Claim::CredentialInactive {
                account,
                credential,
            } if self.certificates => self.verify_certificate(account, credential).await,
            Claim::CredentialInactive { .. } => Ok(Verdict::CannotObserve {
                reason: "SCIM shows no credentials here; look in the application itself".to_owned(),
            }),
            Claim::CredentialActive { .. }
            | Claim::CredentialIssued { .. }
            | Claim::CredentialStored { .. }
            | Claim::CredentialWorks { .. }
            | Claim::CredentialRefused { .. }
            | Claim::ServesCertificate { .. }
            | Claim::ServesTrusted { .. }
            | Claim::NothingSigned { .. } => Ok(Verdict::CannotObserve {
                reason: "the protocol tries no credentials; look in the application itself"
                    .to_owned(),
            }),
            Claim::OwnsNothing { .. } => Ok(Verdict::CannotObserve {
                reason: "SCIM does not show who owns what; look in the application itself"
                    .to_owned(),
            }),
            Claim::NoSessions { .. } => Ok(Verdict::CannotObserve {
                reason: "SCIM does not show sessions; look in the application itself".to_owned(),
            }),
        }
    }

    async fn credentials(&self, account: &NativeId) -> Result<Coverage<Vec<Credential>>, Error> {
        if self.certificates {
            self.list_certificates(account).await
        } else {
            Err(self.unsupported("list credentials"))
        }
    }
}

impl Scim {
    async fn verify_active(&self, account: &NativeId, wanted: bool) -> Result<Verdict, Error> {
        let user = self.user(account).await?;
        let by = "GET /Users/{id}";
        let seen = Some(account.clone());
        Ok(
            match user
                .as_ref()
                .map(|user| member(&user.body, "active").and_then(Value::as_bool))
            {
                None => verdict(!wanted, by, seen, json!({ "exists": false })),
                Some(Some(active)) => {
                    verdict(active == wanted, by, seen, json!({ "active": active }))
                }
                Some(None) => Verdict::CannotObserve {
                    reason: "the server does not show `active`; look in the application itself"
                        .to_owned(),
                },
            },
        )
    }

    async fn verify_granted(
        &self,
        account: &NativeId,
        entitlement: &EntitlementName,
        wanted: bool,
    ) -> Result<Verdict, Error> {
        let held = !self.memberships(account, entitlement).await?.is_empty();
        let seen = json!({ "entitlement": entitlement.as_str(), "granted": held });
        Ok(verdict(
            held == wanted,
            "GET /Groups?filter=members",
            Some(account.clone()),
            seen,
        ))
    }

    fn entitlement_of(&self, group: &Value) -> Result<Entitlement, Error> {
        let name = member(group, "displayName").and_then(Value::as_str);
        let (Some(id), Some(name)) = (id_of(group), name) else {
            return Err(self.http.error(
                ErrorKind::Bug,
                "the server sent a group without `id` or `displayName`",
            ));
        };
        Ok(Entitlement {
            id: NativeId::new(id),
            name: EntitlementName::new(name),
        })
    }

    /// Reads one object of a collection, and says what that showed.
    async fn check_list(&self, what: &str, kind: &str, findings: &mut Vec<Finding>) -> bool {
        match self.page(kind, Progress::default(), 1, None).await {
            Ok(_) => {
                findings.push(Finding::good(what, format!("the token may read {kind}")));
                true
            }
            Err(error) => {
                let fix = match error.kind {
                    ErrorKind::AuthExpired => "put a valid token where the setting `token` points",
                    ErrorKind::Denied => "let the token's owner read and write users and groups",
                    _ => "check that `base_url` is the SCIM address, usually ending in /v2",
                };
                findings.push(Finding::bad(what, error.whole(), fix));
                false
            }
        }
    }
}

/// What the server says about itself. Writing cannot be tried without writing.
fn check_features(config: &Value) -> Vec<Finding> {
    let says = |feature: &str| {
        member(config, feature)
            .and_then(|it| member(it, "supported"))
            .and_then(Value::as_bool)
    };
    let mut findings = Vec::new();
    for (feature, why) in [
        (
            "patch",
            "changing and disabling accounts and granting entitlements need it",
        ),
        ("filter", "finding accounts by owner and name needs it"),
    ] {
        match says(feature) {
            Some(true) => findings.push(Finding::good(feature, "supported")),
            Some(false) => findings.push(Finding::bad(
                feature,
                format!("the server says that it does not support `{feature}`"),
                format!(
                    "switch it on in the application, or manage this system as `manual`: {why}"
                ),
            )),
            None => findings.push(Finding::good(
                feature,
                "the server does not say; it will show",
            )),
        }
    }
    findings
}
