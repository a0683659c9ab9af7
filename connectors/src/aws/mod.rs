//! Access keys of IAM users.
//!
//! | Tenure     | AWS                                                                                         |
//! |------------|---------------------------------------------------------------------------------------------|
//! | account    | an IAM user below `path`, by its name                                                       |
//! | credential | an access key, `api_key:AKIA...`; a user may have two                                       |
//! | issue      | `CreateAccessKey`; the secret half is shown once                                            |
//! | deactivate, activate, destroy | `UpdateAccessKey`, `DeleteAccessKey`                                     |
//! | works      | `GetCallerIdentity`, signed with the key                                                    |
//!
//! # Never two keys for one question
//!
//! A key cannot carry a name of ours. But a user can: before a key is made, a tag of the user notes for which operation,
//! and which keys there were. What is there afterwards and not in the note is what was made. So a call whose answer was lost is found
//! again, and its key destroyed by whoever has lost its secret half.
//!
//! Two keys at most: with both places taken nothing is made and the error names what holds them. A key works everywhere only some
//! seconds after it was made, and one that was switched off may work for as long.
//!
//! ```yaml
//! kind: aws
//! settings:
//!   access_key_id: env:AWS_ACCESS_KEY_ID          # or file:/path, as below
//!   secret_access_key: env:AWS_SECRET_ACCESS_KEY
//!   session_token: env:AWS_SESSION_TOKEN          # for temporary keys
//!   region: eu-central-1                          # default: us-east-1
//!   path: /services/                              # only users below it; default: all
//!   iam_url: https://iam.amazonaws.com/           # other partitions and emulators
//!   sts_url: https://sts.eu-central-1.amazonaws.com/
//!   ca_file: /etc/tenure/proxy.pem
//!   timeout_ms: 15000
//! ```
//!
//! Our own key needs `iam:ListUsers`, `iam:GetUser`, `iam:ListAccessKeys`, `iam:GetAccessKeyLastUsed`, `iam:CreateAccessKey`,
//! `iam:UpdateAccessKey`, `iam:DeleteAccessKey`, `iam:ListUserTags`, `iam:TagUser` and `iam:UntagUser` on them.

use async_trait::async_trait;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::answer::{named, verdict};
use crate::connector::{
    Capabilities, Claim, ClaimName, Connector, Coverage, Credential, CredentialId, CredentialKind,
    Cursor, Error, ErrorKind, Finding, Health, Issuing, Kind, Material, MaterialName, Minted,
    NativeId, NewCredential, Object, ObjectRef, Operation, OperationKey, OperationName, Outcome,
    Page, Receipt, Verdict,
};
use crate::handover::to_be_tried;
use crate::layer::real_clock;
use crate::secret::SecretRef;

mod call;
mod notes;
pub mod secrets;
mod settings;
mod sign;
mod xml;

#[cfg(test)]
mod tests;

use call::{Caller, Failure};
use notes::{Held, Note, tag_name};
use settings::{Settings, is_key_id};
use sign::Key;
use xml::Element;

/// How many keys a user may have.
const SLOTS: u32 = 2;
/// What the identifiers of credentials begin with.
const PREFIX: &str = "api_key:";
pub struct Aws {
    caller: Caller,
}

fn credential_id(id: &str) -> CredentialId {
    CredentialId::new(format!("{PREFIX}{id}"))
}

/// The key's own name; `None` if the identifier can be none of ours.
fn key_id(credential: &CredentialId) -> Option<&str> {
    let id = credential.as_str().strip_prefix(PREFIX)?;
    is_key_id(id).then_some(id)
}

impl Aws {
    /// Reads the settings and our own key; contacts nobody.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] names the setting that is wrong, missing or unknown.
    pub fn from_settings(system: &str, settings: Value) -> Result<Self, Error> {
        let settings = Settings::parse(system, settings)?;
        Ok(Self {
            caller: Caller::new(system, settings, real_clock())?,
        })
    }

    fn error(&self, kind: ErrorKind, what: impl AsRef<str>) -> Error {
        self.caller.error(kind, what)
    }

    /// The user, if it is there and ours.
    async fn user(&self, name: &str) -> Result<Option<Element>, Error> {
        // What IAM would refuse as a name can be nobody's.
        let is_name = (1..=64).contains(&name.len())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte));
        if !is_name {
            return Ok(None);
        }
        match self.caller.iam("GetUser", &[("UserName", name)]).await {
            Ok(answer) => {
                let user = answer.find("User").cloned();
                let path = &self.caller.settings.path;
                Ok(user.filter(|user| {
                    // Names are compared without regard to case over there.
                    user.text_of("UserName") == Some(name)
                        && user
                            .text_of("Path")
                            .unwrap_or("/")
                            .starts_with(path.as_str())
                }))
            }
            Err(failure) if failure.is("NoSuchEntity") => Ok(None),
            Err(failure) => Err(failure.of_read()),
        }
    }

    async fn existing(&self, account: &NativeId) -> Result<(), Error> {
        match self.user(account.as_str()).await? {
            Some(_) => Ok(()),
            None => Err(self.error(
                ErrorKind::NotFound,
                format!(
                    "there is no user `{}` below `{}`",
                    account.as_str().escape_debug(),
                    self.caller.settings.path
                ),
            )),
        }
    }

    async fn issue(&self, new: &NewCredential, key: &OperationKey) -> Result<Outcome, Error> {
        if new.kind != CredentialKind::ApiKey || !matches!(new.material, Material::BySystem) {
            return Err(self.error(
                ErrorKind::Unsupported,
                "IAM makes access keys itself, and nothing else here",
            ));
        }
        if !new.attributes.is_empty() || new.lifetime_s.is_some() {
            return Err(self.error(
                ErrorKind::Invalid,
                "an access key says nothing and does not end by itself",
            ));
        }
        let account = &new.account;
        self.existing(account).await?;
        let (notes, keys) = (self.notes(account).await?, self.keys(account).await?);
        let tag = tag_name(&key.idempotency);
        if let Some(made) = self.made(&key.idempotency, &notes, &keys)? {
            let credential = Credential {
                active: Some(keys.iter().any(|held| held.id == made && held.active)),
                label: new.label.clone(),
                ..Credential::new(credential_id(&made), CredentialKind::ApiKey)
            };
            return Ok(self
                .settled(new, credential, None, Outcome::AlreadySo)
                .await);
        }
        if keys.len() >= SLOTS as usize {
            return Err(self.full(account, &keys));
        }
        let mut note = Note {
            before: keys.iter().map(|held| held.id.clone()).collect(),
            made: None,
        };
        self.forget_some(account, &notes).await?;
        // A note without a key does no harm: whether it is there or not, the next call writes it again.
        self.note(account, &tag, &note)
            .await
            .map_err(Failure::of_read)?;
        let answer = match self
            .caller
            .iam("CreateAccessKey", &[("UserName", account.as_str())])
            .await
        {
            Ok(answer) => answer,
            Err(failure) if failure.is("LimitExceeded") => return Err(self.full(account, &keys)),
            Err(failure) => return failure.of_change(),
        };
        let (Some(id), Some(secret)) = (
            answer.text_of("AccessKeyId").filter(|id| is_key_id(id)),
            answer
                .text_of("SecretAccessKey")
                .filter(|secret| !secret.is_empty()),
        ) else {
            return Ok(Outcome::Ambiguous {
                reason: "a key was made and the answer does not show it".to_owned(),
            });
        };
        let credential = Credential {
            active: Some(true),
            label: new.label.clone(),
            ..Credential::new(credential_id(id), CredentialKind::ApiKey)
        };
        let secret = SecretString::from(secret.to_owned());
        let outcome = self
            .settled(new, credential, Some(secret), Outcome::Done)
            .await;
        // Without it the key is found all the same, as the one that was not there before.
        note.made = Some(id.to_owned());
        if let Err(failure) = self.note(account, &tag, &note).await {
            tracing::warn!(error = %failure.of_read(), "a note of an issued key could not be completed");
        }
        Ok(outcome)
    }

    async fn settled(
        &self,
        new: &NewCredential,
        credential: Credential,
        secret: Option<SecretString>,
        so: fn(Receipt) -> Outcome,
    ) -> Outcome {
        let receipt = Receipt {
            account: Some(new.account.clone()),
            credential: Some(credential.clone()),
            ..Receipt::default()
        };
        let minted = Minted {
            public: key_id(&credential.id).map(str::to_owned),
            credential,
            secret,
        };
        new.into.settle(minted, receipt, so).await
    }

    fn full(&self, account: &NativeId, keys: &[Held]) -> Error {
        let held: Vec<String> = keys
            .iter()
            .map(|held| {
                let state = if held.active { "active" } else { "inactive" };
                format!("{} ({state}, of {})", held.id, held.created)
            })
            .collect();
        self.error(
            ErrorKind::Full,
            format!(
                "user `{account}` has {SLOTS} access keys, which is as many as AWS allows: {}; destroy one that nobody uses",
                held.join(", ")
            ),
        )
    }

    /// Switches a key on or off.
    async fn switch(
        &self,
        account: &NativeId,
        credential: &CredentialId,
        on: bool,
    ) -> Result<Outcome, Error> {
        self.existing(account).await?;
        let keys = self.keys(account).await?;
        let found = key_id(credential).and_then(|id| keys.iter().find(|held| held.id == id));
        let status = if on { "Active" } else { "Inactive" };
        let receipt = Receipt {
            account: Some(account.clone()),
            before: Some(
                json!({ "credential": credential, "active": found.map(|held| held.active) }),
            ),
            after: Some(json!({ "credential": credential, "active": on })),
            ..Receipt::default()
        };
        match found {
            None if on => Err(self.error(
                ErrorKind::NotFound,
                format!("user `{account}` has no key `{credential}`"),
            )),
            None => Ok(Outcome::AlreadySo(receipt)),
            Some(held) if held.active == on => Ok(Outcome::AlreadySo(receipt)),
            Some(held) => {
                let fields = [
                    ("UserName", account.as_str()),
                    ("AccessKeyId", &held.id),
                    ("Status", status),
                ];
                match self.caller.iam("UpdateAccessKey", &fields).await {
                    Ok(_) => Ok(Outcome::Done(receipt)),
                    Err(failure) => failure.of_change(),
                }
            }
        }
    }

    async fn destroy(
        &self,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<Outcome, Error> {
        let receipt = |was: bool| Receipt {
            account: Some(account.clone()),
            before: Some(json!({ "credential": credential, "exists": was })),
            after: Some(json!({ "credential": credential, "exists": false })),
            ..Receipt::default()
        };
        self.existing(account).await?;
        let keys = self.keys(account).await?;
        let Some(held) = key_id(credential).and_then(|id| keys.iter().find(|held| held.id == id))
        else {
            return Ok(Outcome::AlreadySo(receipt(false)));
        };
        let fields = [
            ("UserName", account.as_str()),
            ("AccessKeyId", held.id.as_str()),
        ];
        match self.caller.iam("DeleteAccessKey", &fields).await {
            Ok(_) => Ok(Outcome::Done(receipt(true))),
            Err(failure) if failure.is("NoSuchEntity") => Ok(Outcome::AlreadySo(receipt(false))),
            Err(failure) => failure.of_change(),
        }
    }

    /// Whether a call signed with the key is answered, and with this user's name.
    async fn lets_in(
        &self,
        account: &NativeId,
        id: &str,
        secret: SecretString,
    ) -> Result<(bool, Value), Error> {
        let key = Key {
            id: id.to_owned(),
            secret,
            session: None,
        };
        match self.caller.who(&key).await {
            Ok(answer) => {
                let arn = answer.text_of("Arn").unwrap_or_default().to_owned();
                let is_user = arn.rsplit('/').next() == Some(account.as_str());
                Ok((is_user, json!({ "arn": arn })))
            }
            Err(Failure::Refused { why, .. })
                if matches!(
                    why.as_str(),
                    "InvalidClientTokenId"
                        | "SignatureDoesNotMatch"
                        | "InvalidAccessKeyId"
                        | "AccessDenied"
                ) =>
            {
                Ok((false, json!({ "refused": why })))
            }
            Err(failure) => {
                let error = failure.of_read();
                // It is not our own login that was refused.
                let kind = match error.kind {
                    ErrorKind::AuthExpired => ErrorKind::Transient,
                    kind => kind,
                };
                Err(Error { kind, ..error })
            }
        }
    }

    async fn tried(
        &self,
        account: &NativeId,
        credential: &CredentialId,
        secret: &SecretRef,
        claimed: bool,
    ) -> Result<Verdict, Error> {
        let by = "sts:GetCallerIdentity";
        let id = key_id(credential);
        let (Some(id), true) = (id, self.user(account.as_str()).await?.is_some()) else {
            let seen = json!({ "credential": credential, "exists": false });
            return Ok(verdict(!claimed, by, Some(account.clone()), seen));
        };
        let (lets_in, seen) = self.lets_in(account, id, to_be_tried(secret)?).await?;
        let seen = json!({ "credential": credential, "let_in": lets_in, "answer": seen });
        Ok(verdict(lets_in == claimed, by, Some(account.clone()), seen))
    }

    async fn listed(&self, held: &Held) -> Result<Credential, Error> {
        let fields = [("AccessKeyId", held.id.as_str())];
        let used = match self.caller.iam("GetAccessKeyLastUsed", &fields).await {
            Ok(used) => used,
            // Deleted since it was listed.
            Err(failure) if failure.is("NoSuchEntity") => Element::default(),
            Err(failure) => return Err(failure.of_read()),
        };
        let last = match (used.text_of("LastUsedDate"), used.text_of("ServiceName")) {
            (Some(at), Some(service)) => format!("last used {at} for {service}"),
            _ => "never seen in use".to_owned(),
        };
        Ok(Credential {
            active: Some(held.active),
            label: Some(format!("of {}, {last}", held.created)),
            ..Credential::new(credential_id(&held.id), CredentialKind::ApiKey)
        })
    }
}

#[async_trait]
impl Connector for Aws {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            operations: [
                OperationName::IssueCredential,
                OperationName::ActivateCredential,
                OperationName::DeactivateCredential,
                OperationName::DestroyCredential,
            ]
            .into(),
            claims: [
                ClaimName::CredentialActive,
                ClaimName::CredentialInactive,
                ClaimName::CredentialIssued,
                ClaimName::CredentialWorks,
                ClaimName::CredentialRefused,
            ]
            .into(),
            lists: [Kind::Account].into(),
            credentials: [CredentialKind::ApiKey].into(),
            issues: [(
                CredentialKind::ApiKey,
                Issuing {
                    material: [MaterialName::BySystem].into(),
                    slots: Some(SLOTS),
                },
            )]
            .into(),
            ..Capabilities::default()
        }
    }

    async fn check(&self) -> Result<Health, Error> {
        let mut findings = Vec::new();
        match self.caller.who(&self.caller.settings.key).await {
            Ok(answer) => {
                findings.push(Finding::good(
                    "reach",
                    format!("`{}` answers", self.caller.settings.sts),
                ));
                let arn = answer.text_of("Arn").unwrap_or("?");
                findings.push(Finding::good("login", format!("as `{arn}`")));
            }
            Err(failure) => {
                let error = failure.of_read();
                let (what, fix) = match error.kind {
                    ErrorKind::AuthExpired => (
                        "login",
                        "renew `access_key_id` and `secret_access_key`, and see that the clock is right",
                    ),
                    _ => ("reach", "see whether `sts_url` is right and can be reached"),
                };
                findings.push(Finding::bad(what, error.whole(), fix));
                return Ok(Health { findings });
            }
        }
        let path = self.caller.settings.path.clone();
        let fields = [("PathPrefix", path.as_str()), ("MaxItems", "1")];
        findings.push(match self.caller.iam("ListUsers", &fields).await {
            Ok(_) => Finding::good("rights", format!("users below `{path}` can be listed")),
            Err(failure) => Finding::bad(
                "rights",
                failure.of_read().whole(),
                "give our key the rights that the documentation of this connector names",
            ),
        });
        Ok(Health { findings })
    }

    async fn list(&self, kind: Kind, after: Option<Cursor>) -> Result<Page, Error> {
        if kind != Kind::Account {
            return Err(self.error(ErrorKind::Unsupported, "only users are listed"));
        }
        let path = self.caller.settings.path.clone();
        let mut fields = vec![("PathPrefix", path.as_str())];
        if let Some(after) = &after {
            fields.push(("Marker", &after.0));
        }
        let page = self
            .caller
            .iam("ListUsers", &fields)
            .await
            .map_err(Failure::of_read)?;
        let next = match page.text_of("IsTruncated") {
            Some("true") => page
                .text_of("Marker")
                .map(|marker| Cursor(marker.to_owned())),
            _ => None,
        };
        Ok(Page {
            items: page.members("Users").iter().filter_map(object).collect(),
            complete: next.is_none(),
            next,
        })
    }

    async fn get(&self, wanted: &ObjectRef) -> Result<Option<Object>, Error> {
        let name = match wanted {
            ObjectRef::Account(id) => id.as_str(),
            ObjectRef::AccountNamed(name) => name,
            ObjectRef::AccountOwnedBy(_) => {
                return Err(self.error(ErrorKind::Unsupported, "users carry no owner key"));
            }
            ObjectRef::Entitlement(_) => return Ok(None),
        };
        Ok(self.user(name).await?.as_ref().and_then(object))
    }

    async fn apply(&self, operation: &Operation, key: &OperationKey) -> Result<Outcome, Error> {
        match operation {
            Operation::IssueCredential(new) => self.issue(new, key).await,
            Operation::ActivateCredential {
                account,
                credential,
            } => self.switch(account, credential, true).await,
            Operation::DeactivateCredential {
                account,
                credential,
            } => self.switch(account, credential, false).await,
            Operation::DestroyCredential {
                account,
                credential,
            } => self.destroy(account, credential).await,
            other => Err(self.error(
                ErrorKind::Unsupported,
                format!("access keys have no `{}`", other.name().as_str()),
            )),
        }
    }

    async fn verify(&self, claim: &Claim) -> Result<Verdict, Error> {
        match claim {
            Claim::CredentialActive {
                account,
                credential,
            }
            | Claim::CredentialInactive {
                account,
                credential,
            } => {
                let keys = match self.user(account.as_str()).await? {
                    Some(_) => self.keys(account).await?,
                    None => Vec::new(),
                };
                let held = key_id(credential).and_then(|id| keys.iter().find(|held| held.id == id));
                let active = held.is_some_and(|held| held.active);
                let seen =
                    json!({ "credential": credential, "active": held.map(|held| held.active) });
                let claimed = claim.name() == ClaimName::CredentialActive;
                Ok(verdict(
                    active == claimed,
                    "iam:ListAccessKeys",
                    Some(account.clone()),
                    seen,
                ))
            }
            Claim::CredentialIssued { account, key } => {
                let made = match self.user(account.as_str()).await? {
                    Some(_) => {
                        let (notes, keys) = (self.notes(account).await?, self.keys(account).await?);
                        self.made(key, &notes, &keys)?
                    }
                    None => None,
                };
                let credential = made
                    .as_deref()
                    .map(|id| Credential::new(credential_id(id), CredentialKind::ApiKey));
                let seen = json!({ "credential": credential });
                Ok(verdict(
                    made.is_some(),
                    "iam:ListUserTags",
                    Some(account.clone()),
                    seen,
                ))
            }
            Claim::CredentialWorks {
                account,
                credential,
                secret,
            } => self.tried(account, credential, secret, true).await,
            Claim::CredentialRefused {
                account,
                credential,
                secret,
            } => self.tried(account, credential, secret, false).await,
            _ => Ok(Verdict::CannotObserve {
                reason: "this connector looks at access keys and nothing else".to_owned(),
            }),
        }
    }

    async fn credentials(&self, account: &NativeId) -> Result<Coverage<Vec<Credential>>, Error> {
        let mut value = Vec::new();
        if self.user(account.as_str()).await?.is_some() {
            for held in self.keys(account).await? {
                value.push(self.listed(&held).await?);
            }
        }
        Ok(Coverage {
            value,
            blind_spots: vec![
                "temporary keys that were made with these and live on for their hours".to_owned(),
                "passwords for the console, certificates and service-specific credentials"
                    .to_owned(),
            ],
        })
    }
}

fn object(user: &Element) -> Option<Object> {
    user.text_of("UserName").map(named)
}
