//! Tokens of service accounts, each bound to a Secret of ours: when that goes, the token is worth nothing.
//!
//! The Secret is empty. Its name follows from the key of the operation, so a question asked twice finds it again. A token whose
//! answer was lost is bound to it as well: another one is asked for under the same Secret, and both end with it.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use reqwest::Method;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::http::{Call, Failure};
use super::object::{Kept, moment};
use super::settings::{LIFETIME_S_MIN, is_name};
use super::{Kubernetes, MANAGED, MANAGER};
use crate::answer::verdict;
use crate::connector::{
    Attributes, Credential, CredentialId, CredentialKind, Error, ErrorKind, Material, Minted,
    NativeId, NewCredential, OperationKey, Outcome, Receipt, Verdict,
};
use crate::handover::to_be_tried;
use crate::scratch::hex;
use crate::secret::SecretRef;

/// What the identifiers of tokens begin with, and the Secrets they are bound to.
const PREFIX: &str = "token:";
const SECRET: &str = "tenure-token-";
/// Bytes of a digest that name one.
const NAME_BYTES: usize = 16;
/// By this label the tokens of a service account are found; its value is a digest, because names can be too long for it.
const TOKEN_OF: &str = "tenure/token-of";
/// Notes at the Secret: whose the token is, what for, and until when.
const ACCOUNT: &str = "tenure/service-account";
const AUDIENCES: &str = "tenure/audiences";
const EXPIRES: &str = "tenure/expires-at";
const AUDIENCES_MAX: usize = 20;
/// What is said of tokens that were looked at.
const REFUSALS: [&str; 11] = [
    "invalid bearer token",
    "token has expired",
    "token is expired",
    "has been invalidated",
    "has been deleted",
    // `serviceaccounts "web" not found`
    "\" not found",
    "does not match",
    "is invalid for the target audiences",
    "invalid signature",
    "no keys found",
    "error in cryptographic primitive",
];
const ACCOUNT_BYTES_MAX: usize = 253;

/// A service account of a namespace that the settings name.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServiceAccount<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
}

impl ServiceAccount<'_> {
    /// As the cluster calls it when it says who somebody is.
    fn user(self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.name)
    }

    fn label(self) -> String {
        hex(&Sha256::digest(self.name.as_bytes()), NAME_BYTES)
    }

    fn id(self) -> NativeId {
        NativeId::new(format!("{}/{}", self.namespace, self.name))
    }
}

/// Names the Secret of what is issued under a key.
fn holder_of(account: ServiceAccount<'_>, key: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(account.user().as_bytes());
    hash.update([0]);
    hash.update(key.as_bytes());
    format!("{SECRET}{}", hex(&hash.finalize(), NAME_BYTES))
}

fn credential_id(holder: &str) -> Option<CredentialId> {
    let digits = holder.strip_prefix(SECRET)?;
    Some(CredentialId::new(format!("{PREFIX}{digits}")))
}

/// The Secret of a credential; `None` if it can be none of ours.
fn holder_name(credential: &CredentialId) -> Option<String> {
    let digits = credential.as_str().strip_prefix(PREFIX)?;
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (digits.len() == NAME_BYTES * 2 && digits.bytes().all(is_digit))
        .then(|| format!("{SECRET}{digits}"))
}

impl Kubernetes {
    /// The service account that an identifier names, if it is in a namespace of ours.
    pub(super) fn service_account<'a>(&self, id: &'a NativeId) -> Option<ServiceAccount<'a>> {
        let (namespace, name) = id.as_str().split_once('/')?;
        (self
            .settings
            .namespaces
            .iter()
            .any(|ours| ours == namespace)
            && is_name(name, ACCOUNT_BYTES_MAX, true))
        .then_some(ServiceAccount { namespace, name })
    }

    pub(super) async fn account(&self, account: ServiceAccount<'_>) -> Result<Option<Kept>, Error> {
        self.read(
            account.namespace,
            "serviceaccounts",
            "ServiceAccount",
            account.name,
        )
        .await
    }

    /// The Secret that a token of this account is bound to.
    async fn holder(
        &self,
        account: ServiceAccount<'_>,
        credential: &CredentialId,
    ) -> Result<Option<Kept>, Error> {
        let Some(name) = holder_name(credential) else {
            return Ok(None);
        };
        let found = self.secret(account.namespace, &name).await?;
        // What goes is worth nothing to the cluster already.
        Ok(found.filter(|kept| kept.note(ACCOUNT) == Some(account.name) && !kept.is_going()))
    }

    fn listed(&self, holder: &Kept) -> Option<Credential> {
        let expires_at = moment(holder.note(EXPIRES));
        Some(Credential {
            active: expires_at.map(|end| end > self.api.now()),
            label: Some(format!("made {}", holder.made_at())),
            expires_at,
            ..Credential::new(credential_id(holder.name())?, CredentialKind::Token)
        })
    }

    fn lifetime(&self, asked: Option<u64>) -> Result<u64, Error> {
        let lifetime_s = asked.unwrap_or(self.settings.lifetime_s);
        if (LIFETIME_S_MIN..=self.settings.lifetime_s_max).contains(&lifetime_s) {
            return Ok(lifetime_s);
        }
        Err(self.error(
            ErrorKind::Invalid,
            format!(
                "a life of {lifetime_s} s was asked for; Kubernetes and `lifetime_s_max` allow {LIFETIME_S_MIN} to {}",
                self.settings.lifetime_s_max
            ),
        ))
    }

    pub(super) async fn issue(
        &self,
        new: &NewCredential,
        key: &OperationKey,
    ) -> Result<Outcome, Error> {
        if new.kind != CredentialKind::Token || !matches!(new.material, Material::BySystem) {
            return Err(self.error(
                ErrorKind::Unsupported,
                "a cluster makes tokens itself, and nothing else here",
            ));
        }
        let audiences = audiences(&new.attributes)
            .map_err(|mistake| self.error(ErrorKind::Invalid, mistake))?;
        let lifetime_s = self.lifetime(new.lifetime_s)?;
        let missing = || {
            self.error(
                ErrorKind::NotFound,
                format!(
                    "there is no service account `{}` in the `namespaces` of the settings; write NAMESPACE/NAME",
                    new.account.as_str().escape_debug()
                ),
            )
        };
        let account = self.service_account(&new.account).ok_or_else(missing)?;
        let owner = self.account(account).await?.ok_or_else(missing)?;
        let name = holder_of(account, &key.idempotency);
        let holder = match self.secret(account.namespace, &name).await? {
            Some(holder) if holder.note(ACCOUNT) != Some(account.name) || holder.is_going() => {
                return Err(self.error(
                    ErrorKind::Conflict,
                    format!("Secret `{name}` is going, or is not ours"),
                ));
            }
            Some(holder) if holder.note(EXPIRES).is_some() => {
                return self
                    .settled(new, &holder, None, None, Outcome::AlreadySo)
                    .await;
            }
            // A token that was asked for and did not arrive ends with it too.
            Some(holder) => holder,
            None => match self.make_holder(account, &owner, &name, &audiences).await {
                Ok(holder) => holder,
                Err(failure) => return failure.of_change(),
            },
        };
        let (token, expires_at) = match self.request(account, &holder, &audiences, lifetime_s).await
        {
            Ok(made) => made,
            Err(failure) => return failure.of_change(),
        };
        // Without the note the next call with this key asks for another token, which ends with this one.
        if let Err(failure) = self.note_end(account, &holder, expires_at).await {
            tracing::warn!(error = %failure.of_read(), "the end of an issued token could not be noted");
        }
        self.settled(new, &holder, Some(token), Some(expires_at), Outcome::Done)
            .await
    }

    /// Makes the empty Secret. It goes with the service account.
    async fn make_holder(
        &self,
        account: ServiceAccount<'_>,
        owner: &Kept,
        name: &str,
        audiences: &[String],
    ) -> Result<Kept, Failure> {
        let mut notes = BTreeMap::from([(ACCOUNT, account.name.to_owned())]);
        if !audiences.is_empty() {
            notes.insert(AUDIENCES, json!(audiences).to_string());
        }
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": name,
                "namespace": account.namespace,
                "labels": { MANAGED: MANAGER, TOKEN_OF: account.label() },
                "annotations": notes,
                "ownerReferences": [{
                    "apiVersion": "v1",
                    "kind": "ServiceAccount",
                    "name": account.name,
                    "uid": owner.uid(),
                }],
            },
            "type": "Opaque",
        });
        self.make(account.namespace, secret).await
    }

    async fn request(
        &self,
        account: ServiceAccount<'_>,
        holder: &Kept,
        audiences: &[String],
        lifetime_s: u64,
    ) -> Result<(SecretString, DateTime<Utc>), Failure> {
        let path = [
            "api",
            "v1",
            "namespaces",
            account.namespace,
            "serviceaccounts",
            account.name,
            "token",
        ];
        let asked = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": audiences,
                "expirationSeconds": lifetime_s,
                "boundObjectRef": {
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "name": holder.name(),
                    "uid": holder.uid(),
                },
            },
        });
        let answer = self
            .api
            .ask(Call::new(Method::POST, &path).with(asked))
            .await?;
        let token = answer.pointer("/status/token").and_then(Value::as_str);
        let ends = answer.pointer("/status/expirationTimestamp");
        match (
            token.filter(|token| !token.is_empty()),
            moment(ends.and_then(Value::as_str)),
        ) {
            (Some(token), Some(ends)) => Ok((SecretString::from(token.to_owned()), ends)),
            _ => Err(Failure::Lost(self.error(
                ErrorKind::Bug,
                "a token was asked for and the answer does not show it",
            ))),
        }
    }

    async fn note_end(
        &self,
        account: ServiceAccount<'_>,
        holder: &Kept,
        expires_at: DateTime<Utc>,
    ) -> Result<(), Failure> {
        let path = [
            "api",
            "v1",
            "namespaces",
            account.namespace,
            "secrets",
            holder.name(),
        ];
        let note = json!({
            "metadata": {
                // Of the very Secret that the token is bound to.
                "uid": holder.uid(),
                "annotations": { EXPIRES: expires_at.to_rfc3339() },
            },
        });
        self.api
            .ask(Call::new(Method::PATCH, &path).with(note))
            .await
            .map(drop)
    }

    async fn settled(
        &self,
        new: &NewCredential,
        holder: &Kept,
        secret: Option<SecretString>,
        expires_at: Option<DateTime<Utc>>,
        so: fn(Receipt) -> Outcome,
    ) -> Result<Outcome, Error> {
        let mut credential = self
            .listed(holder)
            .ok_or_else(|| self.error(ErrorKind::Bug, "a Secret of ours has no name of ours"))?;
        if expires_at.is_some() {
            credential.expires_at = expires_at;
            credential.active = Some(true);
        }
        credential.label.clone_from(&new.label);
        let receipt = Receipt {
            account: Some(new.account.clone()),
            after: Some(json!({ "bound_to": holder.name(), "uid": holder.uid() })),
            credential: Some(credential.clone()),
            ..Receipt::default()
        };
        let minted = Minted {
            credential,
            public: None,
            secret,
        };
        Ok(new.into.settle(minted, receipt, so).await)
    }

    pub(super) async fn destroy_token(
        &self,
        account: ServiceAccount<'_>,
        credential: &CredentialId,
    ) -> Result<Outcome, Error> {
        let receipt = |was: bool| Receipt {
            account: Some(account.id()),
            before: Some(json!({ "credential": credential, "exists": was })),
            after: Some(json!({ "credential": credential, "exists": false })),
            ..Receipt::default()
        };
        let Some(holder) = self.holder(account, credential).await? else {
            return Ok(Outcome::AlreadySo(receipt(false)));
        };
        match self.remove(account.namespace, &holder).await {
            Ok(()) => Ok(Outcome::Done(receipt(true))),
            Err(failure) if failure.is_absence_of(holder.name()) => {
                Ok(Outcome::AlreadySo(receipt(false)))
            }
            Err(failure) => failure.of_change(),
        }
    }

    pub(super) async fn tokens(
        &self,
        account: ServiceAccount<'_>,
    ) -> Result<Vec<Credential>, Error> {
        let label = account.label();
        let mut holders = self.labelled(account.namespace, (TOKEN_OF, &label)).await?;
        holders.retain(|kept| kept.note(ACCOUNT) == Some(account.name) && !kept.is_going());
        holders.sort_by(|a, b| (a.made_at(), a.name()).cmp(&(b.made_at(), b.name())));
        Ok(holders
            .iter()
            .filter_map(|holder| self.listed(holder))
            .collect())
    }

    pub(super) async fn token_issued(
        &self,
        account: ServiceAccount<'_>,
        key: &str,
    ) -> Result<Verdict, Error> {
        let name = holder_of(account, key);
        let holder = self.secret(account.namespace, &name).await?;
        let holder =
            holder.filter(|kept| kept.note(ACCOUNT) == Some(account.name) && !kept.is_going());
        let credential = holder.as_ref().and_then(|holder| self.listed(holder));
        let seen = json!({ "credential": credential });
        Ok(verdict(
            credential.is_some(),
            "GET secrets",
            Some(account.id()),
            seen,
        ))
    }

    pub(super) async fn token_active(
        &self,
        account: ServiceAccount<'_>,
        credential: &CredentialId,
        claimed: bool,
    ) -> Result<Verdict, Error> {
        let holder = self.holder(account, credential).await?;
        let listed = holder.as_ref().and_then(|holder| self.listed(holder));
        // One whose end was not noted may be good.
        let active = listed
            .as_ref()
            .is_some_and(|listed| listed.active != Some(false));
        let seen = json!({
            "credential": credential,
            "bound_to": holder.as_ref().map(Kept::name),
            "resource_version": holder.as_ref().map(Kept::resource_version),
            "expires_at": listed.and_then(|listed| listed.expires_at),
        });
        Ok(verdict(
            active == claimed,
            "GET secrets",
            Some(account.id()),
            seen,
        ))
    }

    /// Whether the cluster takes the token, for this service account and bound to this Secret.
    pub(super) async fn token_tried(
        &self,
        account: ServiceAccount<'_>,
        credential: &CredentialId,
        secret: &SecretRef,
        claimed: bool,
    ) -> Result<Verdict, Error> {
        let token = to_be_tried(secret)?;
        let holder = self.holder(account, credential).await?;
        let audiences = holder.as_ref().and_then(|holder| holder.note(AUDIENCES));
        let audiences: Vec<String> = audiences
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": { "token": token.expose_secret(), "audiences": audiences },
        });
        let path = ["apis", "authentication.k8s.io", "v1", "tokenreviews"];
        let call = Call::new(Method::POST, &path).with_secret(review);
        let answer = self.api.ask(call).await.map_err(Failure::of_read)?;
        let status = answer.get("status").filter(|status| status.is_object());
        let Some(status) = status else {
            return Err(self.error(
                ErrorKind::Bug,
                "a token was to be reviewed, and the answer is no review",
            ));
        };
        let is_good = status.get("authenticated") == Some(&Value::Bool(true));
        let complaint = status.get("error").and_then(Value::as_str);
        if !is_good && !complaint.is_none_or(is_refusal) {
            return Err(self.error(
                ErrorKind::Transient,
                "the cluster could not look whether the token is good",
            ));
        }
        let user = status.pointer("/user/username").and_then(Value::as_str);
        let bound_to = bound_to(&token);
        let let_in = is_good
            && user == Some(account.user().as_str())
            && bound_to.is_some()
            && bound_to == holder_name(credential);
        let seen = json!({
            "credential": credential,
            "let_in": let_in,
            "as": user,
            "bound_to": bound_to,
        });
        Ok(verdict(
            let_in == claimed,
            "TokenReview",
            Some(account.id()),
            seen,
        ))
    }
}

/// Whether the cluster refuses the token. It asks everybody who may know it: what they say stands in brackets, and one who could
/// not look may be the one who would have known it.
fn is_refusal(complaint: &str) -> bool {
    let complaint = complaint.to_ascii_lowercase();
    let complaint = complaint.trim_start_matches('[').trim_end_matches(']');
    complaint.is_empty()
        || complaint
            .split(", ")
            .all(|one| REFUSALS.iter().any(|words| one.contains(words)))
}

/// The Secret that a token says it is bound to. Believed only after the cluster has looked at its signature.
fn bound_to(token: &SecretString) -> Option<String> {
    let claims = token.expose_secret().split('.').nth(1)?;
    let bytes = URL_SAFE_NO_PAD.decode(claims).ok()?;
    let claims: Value = serde_json::from_slice(&bytes).ok()?;
    let name = claims.get("kubernetes.io")?.get("secret")?.get("name")?;
    name.as_str().map(str::to_owned)
}

fn audiences(attributes: &Attributes) -> Result<Vec<String>, String> {
    let mut audiences = Vec::new();
    for (name, value) in attributes {
        let texts = match (name.as_str(), value) {
            ("audiences", Value::Array(list)) => {
                let texts = list.iter().map(|it| it.as_str().map(str::to_owned));
                texts.collect::<Option<Vec<String>>>()
            }
            _ => None,
        };
        audiences = texts.ok_or_else(|| {
            format!(
                "`{}` is no attribute here, or has no such value; there is `audiences`, a list of texts",
                name.escape_debug()
            )
        })?;
    }
    if audiences.len() > AUDIENCES_MAX || audiences.iter().any(String::is_empty) {
        return Err(format!(
            "`audiences` has an empty text, or more than {AUDIENCES_MAX}"
        ));
    }
    Ok(audiences)
}
