//! A Kubernetes cluster: Secrets as places where credentials are kept, and tokens of service accounts.
//!
//! | Tenure     | a Secret that the settings name                        | a service account, `NAMESPACE/NAME`                  |
//! |------------|--------------------------------------------------------|------------------------------------------------------|
//! | account    | its name in the settings                               | in one of `namespaces`                               |
//! | credential | a version, under the name it was stored with           | a token, `token:...`                                 |
//! | store      | an immutable Secret beside it, which nobody mounts     |                                                      |
//! | activate   | the Secret gets the content of that version, in one go |                                                      |
//! | issue      |                                                        | `TokenRequest`, bound to a Secret of ours            |
//! | destroy    | removes a version that is not read                     | removes that Secret: the token is worth nothing then |
//! | works      |                                                        | `TokenReview`                                        |
//!
//! # Never over somebody else's change
//!
//! A Secret is replaced in the state in which it was read (`resourceVersion`). One that was changed since is a conflict, and the
//! next try looks again. What stood in it and no version keeps becomes a version first, so there is a way back to it too.
//!
//! # What consumers see
//!
//! A mounted Secret changes as a whole some seconds after the switch, without a restart; what was read into an environment
//! variable does not change until the pod is made anew. A token that was ended is taken for as long as the API server
//! remembers that it was good: ten seconds, unless it was set up otherwise.
//!
//! # Where the secret can be read
//!
//! Rotations read what the place keeps again. With `scratch` the parts of a version lie in that folder for its owner alone while
//! they are worked with; without it the Secret can only be written and switched.
//!
//! ```yaml
//! kind: kubernetes
//! settings:
//!   server: https://10.0.0.1:6443
//!   ca_file: /etc/tenure/cluster.pem
//!   token: file:/var/run/secrets/kubernetes.io/serviceaccount/token   # read anew for each call
//!   # or: client_certificate: { certificate: file:/etc/tenure/k8s.crt, key: file:/etc/tenure/k8s.key }
//!   namespaces: [shop]              # whose service accounts get tokens; default: none
//!   lifetime_s: 3600                # of a token, unless asked otherwise; Kubernetes gives 600 at least
//!   lifetime_s_max: 2592000
//!   secrets:
//!     app:
//!       namespace: shop
//!       secret: app-credentials     # made by the first switch if it is not there
//!       type: Opaque                # that it gets then
//!       parts: { user: username, password: password }   # part of a credential: key of the Secret
//!   scratch: /run/tenure/cluster    # a folder of ours, best in memory
//!   timeout_ms: 15000
//! ```
//!
//! Attributes of a request for a token: `audiences`, a list. Our own account needs `get`, `list`, `create`, `update`, `patch` and
//! `delete` on `secrets` of those namespaces, `get` and `list` on `serviceaccounts`, `create` on `serviceaccounts/token`, and
//! `create` on `tokenreviews`; `check` says which of them is missing. With `get` on `namespaces` it also says which of those is not
//! there.

use std::collections::BTreeSet;

use async_trait::async_trait;
use reqwest::Method;
use serde_json::{Value, json};

use crate::answer::{named, verdict};
use crate::connector::{
    Capabilities, Claim, ClaimName, Connector, Coverage, Credential, CredentialId, CredentialKind,
    Cursor, Error, ErrorKind, Finding, Health, Issuing, Kind, MaterialName, NativeId, Object,
    ObjectRef, Operation, OperationKey, OperationName, Outcome, Page, Receipt, Verdict,
};
use crate::layer::real_clock;

mod http;
mod object;
mod place;
mod settings;
mod token;

#[cfg(test)]
mod live;
#[cfg(test)]
mod tests;

use http::{Api, Call, Failure};
use settings::Settings;
use token::ServiceAccount;

/// The label by which people see what is ours.
const MANAGED: &str = "app.kubernetes.io/managed-by";
const MANAGER: &str = "tenure";
pub struct Kubernetes {
    api: Api,
    settings: Settings,
}

/// A right that is asked after: group, resource, part of it, verb.
type Right = (
    &'static str,
    &'static str,
    Option<&'static str>,
    &'static str,
);

const OF_SECRETS: [Right; 5] = [
    ("", "secrets", None, "get"),
    ("", "secrets", None, "list"),
    ("", "secrets", None, "create"),
    ("", "secrets", None, "update"),
    ("", "secrets", None, "delete"),
];
const OF_ACCOUNTS: [Right; 7] = [
    ("", "serviceaccounts", None, "get"),
    ("", "serviceaccounts", None, "list"),
    ("", "serviceaccounts", Some("token"), "create"),
    ("", "secrets", None, "get"),
    ("", "secrets", None, "list"),
    ("", "secrets", None, "patch"),
    ("", "secrets", None, "delete"),
];
const OF_REVIEWS: [Right; 1] = [("authentication.k8s.io", "tokenreviews", None, "create")];

impl Kubernetes {
    /// Reads the settings and the certificates; contacts nobody.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] names the setting that is wrong, missing or unknown.
    pub fn from_settings(system: &str, settings: Value) -> Result<Self, Error> {
        let settings = Settings::parse(system, settings)?;
        Ok(Self {
            api: Api::new(system, &settings, real_clock())?,
            settings,
        })
    }

    fn error(&self, kind: ErrorKind, what: impl AsRef<str>) -> Error {
        self.api.error(kind, what)
    }

    /// Whether our own account may do something; what it lacks is a bad finding.
    async fn may(&self, namespace: Option<&str>, right: Right) -> Result<Finding, Failure> {
        let (group, resource, part, verb) = right;
        let path = [
            "apis",
            "authorization.k8s.io",
            "v1",
            "selfsubjectaccessreviews",
        ];
        let asked = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": { "resourceAttributes": {
                "namespace": namespace.unwrap_or_default(),
                "group": group,
                "resource": resource,
                "subresource": part.unwrap_or_default(),
                "verb": verb,
            } },
        });
        let answer = self
            .api
            .ask(Call::new(Method::POST, &path).with(asked))
            .await?;
        let may = answer.pointer("/status/allowed") == Some(&Value::Bool(true));
        let part = part.map_or_else(String::new, |part| format!("/{part}"));
        let of = namespace.map_or_else(String::new, |name| format!(" in `{name}`"));
        let what = format!("`{verb}` on `{resource}{part}`{of}");
        Ok(if may {
            Finding::good("rights", what)
        } else {
            Finding::bad(
                "rights",
                format!("our account has no {what}"),
                "give it that by a Role, and a RoleBinding to it",
            )
        })
    }

    /// Complains about a namespace that is not there, as far as our account may see that: what is not there has no accounts, and
    /// whoever has rights everywhere has them there too.
    async fn missing(&self, namespace: &str) -> Option<Finding> {
        let path = ["api", "v1", "namespaces", namespace];
        let failure = self.api.ask(Call::new(Method::GET, &path)).await.err()?;
        failure.is_absence_of(namespace).then(|| {
            Finding::bad(
                "namespace",
                format!("there is no namespace `{namespace}`"),
                "make it, or name another one in the settings",
            )
        })
    }

    /// The namespaces of the settings, each once.
    fn places(&self) -> BTreeSet<&str> {
        let bundles = self.settings.bundles.values();
        let bundles = bundles.map(|bundle| bundle.namespace.as_str());
        let namespaces = self.settings.namespaces.iter().map(String::as_str);
        bundles.chain(namespaces).collect()
    }

    /// What our account has to be allowed, and where.
    fn rights(&self) -> Vec<(Option<&str>, Right)> {
        let mut rights: Vec<(Option<&str>, Right)> = Vec::new();
        for bundle in self.settings.bundles.values() {
            rights.extend(OF_SECRETS.map(|right| (Some(bundle.namespace.as_str()), right)));
        }
        for namespace in &self.settings.namespaces {
            rights.extend(OF_ACCOUNTS.map(|right| (Some(namespace.as_str()), right)));
        }
        if !self.settings.namespaces.is_empty() {
            rights.extend(OF_REVIEWS.map(|right| (None, right)));
        }
        rights.sort_unstable();
        rights.dedup();
        rights
    }
}

#[async_trait]
impl Connector for Kubernetes {
    fn capabilities(&self) -> Capabilities {
        let mut can = Capabilities {
            operations: [OperationName::DestroyCredential].into(),
            claims: [ClaimName::CredentialActive, ClaimName::CredentialInactive].into(),
            lists: [Kind::Account].into(),
            credentials: [CredentialKind::Token].into(),
            ..Capabilities::default()
        };
        if !self.settings.bundles.is_empty() {
            can.operations.extend([
                OperationName::StoreCredential,
                OperationName::ActivateCredential,
            ]);
            can.claims.insert(ClaimName::CredentialStored);
            can.credentials.extend(CredentialKind::ALL);
        }
        if !self.settings.namespaces.is_empty() {
            can.operations.insert(OperationName::IssueCredential);
            can.claims.extend([
                ClaimName::CredentialIssued,
                ClaimName::CredentialWorks,
                ClaimName::CredentialRefused,
            ]);
            can.issues.insert(
                CredentialKind::Token,
                Issuing {
                    material: [MaterialName::BySystem].into(),
                    slots: None,
                },
            );
        }
        can
    }

    async fn check(&self) -> Result<Health, Error> {
        let mut findings = Vec::new();
        for (namespace, right) in self.rights() {
            match self.may(namespace, right).await {
                Ok(finding) => {
                    if findings.is_empty() {
                        let server = self.api.server();
                        findings.push(Finding::good("reach", format!("`{server}` answers")));
                        findings.push(Finding::good("login", "it knows who we are"));
                    }
                    findings.push(finding);
                }
                Err(failure) => {
                    let error = failure.of_read();
                    let (what, fix) = match error.kind {
                        ErrorKind::AuthExpired => {
                            ("login", "renew `token`, or what `client_certificate` names")
                        }
                        ErrorKind::Denied => (
                            "rights",
                            "let our account create `selfsubjectaccessreviews`",
                        ),
                        _ => (
                            "reach",
                            "see whether `server` and `ca_file` are right and it can be reached",
                        ),
                    };
                    findings.push(Finding::bad(what, error.whole(), fix));
                    return Ok(Health { findings });
                }
            }
        }
        for namespace in self.places() {
            findings.extend(self.missing(namespace).await);
        }
        Ok(Health { findings })
    }

    /// First the Secrets of the settings, then the service accounts, one namespace after the other.
    async fn list(&self, kind: Kind, after: Option<Cursor>) -> Result<Page, Error> {
        if kind != Kind::Account {
            return Err(self.error(
                ErrorKind::Unsupported,
                "Secrets and service accounts are listed, and nothing else",
            ));
        }
        let page = |items: Vec<Object>, next: Option<(usize, Option<String>)>| {
            let next = next.filter(|(number, _)| *number < self.settings.namespaces.len());
            let next = next.map(|next| Cursor(json!(next).to_string()));
            Page {
                items,
                complete: next.is_none(),
                next,
            }
        };
        let Some(after) = after else {
            let bundles = self.settings.bundles.keys();
            return Ok(page(
                bundles.map(|name| named(name)).collect(),
                Some((0, None)),
            ));
        };
        let read: Option<(usize, Option<String>)> = serde_json::from_str(&after.0).ok();
        let (number, token) =
            read.ok_or_else(|| self.error(ErrorKind::Invalid, "this is no place in a listing"))?;
        let Some(namespace) = self.settings.namespaces.get(number) else {
            return Ok(page(Vec::new(), None));
        };
        let names = self
            .names(namespace, "serviceaccounts", None, token.as_deref())
            .await
            .map_err(Failure::of_read)?;
        let items = names.items.iter();
        let items = items.map(|kept| named(&format!("{namespace}/{}", kept.name())));
        let next = match names.next {
            Some(token) => (number, Some(token)),
            None => (number.saturating_add(1), None),
        };
        Ok(page(items.collect(), Some(next)))
    }

    async fn get(&self, wanted: &ObjectRef) -> Result<Option<Object>, Error> {
        let id = match wanted {
            ObjectRef::Account(id) => id.clone(),
            ObjectRef::AccountNamed(name) => NativeId::new(name),
            ObjectRef::AccountOwnedBy(_) => {
                return Err(self.error(
                    ErrorKind::Unsupported,
                    "service accounts and Secrets carry no owner key",
                ));
            }
            ObjectRef::Entitlement(_) => return Ok(None),
        };
        let is_there = match self.service_account(&id) {
            Some(account) => self.account(account).await?.is_some(),
            None => self.settings.bundles.contains_key(id.as_str()),
        };
        Ok(is_there.then(|| named(id.as_str())))
    }

    async fn apply(&self, operation: &Operation, key: &OperationKey) -> Result<Outcome, Error> {
        if !self.capabilities().operations.contains(&operation.name()) {
            return Err(self.error(
                ErrorKind::Unsupported,
                format!(
                    "with these settings there is no `{}`",
                    operation.name().as_str()
                ),
            ));
        }
        match operation {
            Operation::IssueCredential(new) => self.issue(new, key).await,
            Operation::StoreCredential(stored) => self.store(stored).await,
            Operation::ActivateCredential {
                account,
                credential,
            } => match self.service_account(account) {
                None => self.activate(account, credential).await,
                Some(of) => self.already_active(of, account, credential).await,
            },
            Operation::DestroyCredential {
                account,
                credential,
            } => match self.service_account(account) {
                None => self.destroy_version(account, credential).await,
                Some(of) => self.destroy_token(of, credential).await,
            },
            other => Err(self.error(
                ErrorKind::Unsupported,
                format!("a cluster has no `{}` here", other.name().as_str()),
            )),
        }
    }

    async fn verify(&self, claim: &Claim) -> Result<Verdict, Error> {
        let unseen = || Verdict::CannotObserve {
            reason: "with these settings a cluster shows nothing about that".to_owned(),
        };
        if !self.capabilities().claims.contains(&claim.name()) {
            return Ok(unseen());
        }
        match claim {
            Claim::CredentialStored {
                account,
                credential,
            }
            | Claim::CredentialActive {
                account,
                credential,
            }
            | Claim::CredentialInactive {
                account,
                credential,
            } => self.is_so(claim.name(), account, credential).await,
            Claim::CredentialIssued { account, key } => match self.service_account(account) {
                Some(of) => self.token_issued(of, key).await,
                None => Ok(self.nobody(false, account)),
            },
            Claim::CredentialWorks {
                account,
                credential,
                secret,
            } => match self.service_account(account) {
                Some(of) => self.token_tried(of, credential, secret, true).await,
                None => Ok(self.nobody(false, account)),
            },
            Claim::CredentialRefused {
                account,
                credential,
                secret,
            } => match self.service_account(account) {
                Some(of) => self.token_tried(of, credential, secret, false).await,
                None => Ok(self.nobody(true, account)),
            },
            _ => Ok(unseen()),
        }
    }

    async fn credentials(&self, account: &NativeId) -> Result<Coverage<Vec<Credential>>, Error> {
        let value = match self.service_account(account) {
            Some(of) => self.tokens(of).await?,
            None => match self.settings.bundles.get(account.as_str()) {
                Some(bundle) => self.versions(bundle).await?,
                None => Vec::new(),
            },
        };
        Ok(Coverage {
            value,
            blind_spots: vec![
                "copies that somebody made of a Secret, and what programs have read of it"
                    .to_owned(),
                "tokens of service accounts that others asked for".to_owned(),
            ],
        })
    }
}

impl Kubernetes {
    /// What can be said of an account that is none.
    fn nobody(&self, holds: bool, account: &NativeId) -> Verdict {
        let seen = json!({ "service_account": "none of the settings' namespaces" });
        verdict(holds, "settings", Some(account.clone()), seen)
    }

    /// A token is active until it ends; there is nothing to switch.
    async fn already_active(
        &self,
        of: ServiceAccount<'_>,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<Outcome, Error> {
        let listed = self.tokens(of).await?;
        let found = listed
            .into_iter()
            .find(|it| it.id == *credential && it.active != Some(false));
        match found {
            Some(found) => Ok(Outcome::AlreadySo(Receipt {
                account: Some(account.clone()),
                credential: Some(found),
                ..Receipt::default()
            })),
            None => Err(self.error(
                ErrorKind::NotFound,
                format!("`{account}` has no token `{credential}` that is good; issue another"),
            )),
        }
    }

    /// Whether a credential is stored, active or inactive.
    async fn is_so(
        &self,
        claim: ClaimName,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<Verdict, Error> {
        if let Some(of) = self.service_account(account) {
            return match claim {
                ClaimName::CredentialStored => Ok(self.nobody(false, account)),
                claim => {
                    let claimed = claim == ClaimName::CredentialActive;
                    self.token_active(of, credential, claimed).await
                }
            };
        }
        let is_stored = claim == ClaimName::CredentialStored;
        let seen = self.seen(account, credential, is_stored).await?;
        let holds = match claim {
            ClaimName::CredentialStored => seen.whole,
            ClaimName::CredentialActive => seen.whole && seen.is_read,
            // One that somebody changed by hand is read all the same.
            _ => !seen.is_current,
        };
        Ok(verdict(
            holds,
            "GET secrets",
            Some(account.clone()),
            seen.told,
        ))
    }
}
