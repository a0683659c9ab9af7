//! Secrets of AWS Secrets Manager, as places where credentials are kept.
//!
//! | Tenure     | AWS                                                                                                  |
//! |------------|------------------------------------------------------------------------------------------------------|
//! | account    | a secret, by its name in the settings                                                                |
//! | credential | a version of it, found by a staging label of ours: `tenure:` and the name it was stored with         |
//! | store      | `PutSecretValue` with `AWSPENDING`; the request's token follows from the credential's name           |
//! | activate   | moves `AWSCURRENT` to that version, away from the one that had it; `AWSPREVIOUS` follows by itself   |
//! | destroy    | takes the labels off: a version without any is worth nothing to readers, and AWS removes it          |
//!
//! A version is put under a token that follows from its name, so a question asked twice makes one. Whoever switches names the
//! version that had `AWSCURRENT`: if somebody else has moved it since, AWS refuses, and the next try looks again.
//!
//! The value is a JSON object. Fields in it that are no part of ours (`host`, `engine`) are taken along from the version that
//! is current when a credential is stored. Versions that AWS has not removed yet can be read by whoever knows their
//! identifier, so a credential is at its end only when its own system has ended it.
//!
//! ```yaml
//! kind: aws_secrets
//! settings:
//!   access_key_id: env:AWS_ACCESS_KEY_ID          # these, and `session_token`, `region`, `sts_url`, `ca_file` and
//!   secret_access_key: env:AWS_SECRET_ACCESS_KEY  # `timeout_ms`, as for kind `aws`
//!   region: eu-central-1
//!   secrets_url: https://secretsmanager.eu-central-1.amazonaws.com/   # other partitions and emulators
//!   secrets:
//!     app:
//!       secret: prod/app            # its name or ARN; it has to be there, with its key and its policy
//!       parts: { user: username, password: password }   # part of a credential: field of the JSON
//!   scratch: /run/tenure/aws        # a folder of ours, best in memory, where what is kept can be read again
//! ```
//!
//! Our own key needs `secretsmanager:DescribeSecret`, `GetSecretValue`, `PutSecretValue` and `UpdateSecretVersionStage` on them,
//! and the use of the keys that they are encrypted with.

use std::collections::BTreeMap;

use async_trait::async_trait;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::call::{Caller, Failure};
use crate::answer::{named, page, place_capabilities, verdict};
use crate::connector::{
    Capabilities, Claim, ClaimName, Connector, Coverage, Credential, CredentialId, Cursor, Error,
    ErrorKind, Finding, Health, Kind, NativeId, Object, ObjectRef, Operation, OperationKey,
    Outcome, Page, Receipt, StoredCredential, Verdict,
};
use crate::layer::real_clock;
use crate::scratch::hex;

mod settings;

#[cfg(test)]
mod tests;

use settings::{Bundle, Settings};

/// The version that is read.
const CURRENT: &str = "AWSCURRENT";
/// The one that was read before.
const PREVIOUS: &str = "AWSPREVIOUS";
/// The one that is to be read next.
const PENDING: &str = "AWSPENDING";
/// What our own labels begin with.
const LABEL: &str = "tenure:";
const LABEL_BYTES_MAX: usize = 256;
/// The largest value of a secret.
const VALUE_BYTES_MAX: usize = 64 * 1024;
/// How many of our versions one secret may have: AWS allows twenty labels, of which three are its own.
const VERSIONS_MAX: usize = 16;

pub struct Secrets {
    caller: Caller,
    settings: Settings,
}

/// The versions of a secret with their labels.
struct Stages(BTreeMap<String, Vec<String>>);

impl Stages {
    fn has(&self, version: &str, label: &str) -> bool {
        let labels = self.0.get(version);
        labels.is_some_and(|labels| labels.iter().any(|it| it == label))
    }

    fn with(&self, label: &str) -> Option<&str> {
        let mut versions = self.0.keys();
        versions
            .find(|version| self.has(version, label))
            .map(String::as_str)
    }

    /// Which of our credentials a version is.
    fn credential(&self, version: &str) -> Option<CredentialId> {
        let labels = self.0.get(version)?;
        let name = labels.iter().find_map(|label| label.strip_prefix(LABEL))?;
        Some(CredentialId::new(name))
    }
}

fn label(credential: &CredentialId) -> String {
    format!("{LABEL}{credential}")
}

/// The version that a credential becomes: the token of the request is its identifier.
fn version_id(credential: &CredentialId) -> String {
    let mut hash = Sha256::new();
    hash.update(LABEL.as_bytes());
    hash.update(credential.as_str().as_bytes());
    hex(&hash.finalize(), 32)
}

fn listed(credential: CredentialId, is_current: bool, version: &str) -> Credential {
    let kind = credential.kind();
    Credential {
        active: Some(is_current),
        label: Some(format!("version {version}")),
        ..Credential::new(credential, kind)
    }
}

fn receipt(account: &NativeId, credential: &CredentialId, current: bool) -> Receipt {
    let version = version_id(credential);
    Receipt {
        account: Some(account.clone()),
        after: Some(json!({ "version": version, "current": current })),
        credential: Some(listed(credential.clone(), current, &version)),
        ..Receipt::default()
    }
}

/// Our fields of a value, by the parts they are; those only that are there.
fn parts_of(bundle: &Bundle, value: &Map<String, Value>) -> BTreeMap<String, SecretString> {
    let parts = bundle.parts.iter().filter_map(|(name, field)| {
        let text = value.get(field)?.as_str()?;
        Some((name.clone(), SecretString::from(text.to_owned())))
    });
    parts.collect()
}

fn same(one: &BTreeMap<String, SecretString>, other: &BTreeMap<String, SecretString>) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .all(|((a, x), (b, y))| a == b && x.expose_secret() == y.expose_secret())
}

impl Secrets {
    /// Reads the settings and our own key; contacts nobody.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] names the setting that is wrong, missing or unknown.
    pub fn from_settings(system: &str, settings: Value) -> Result<Self, Error> {
        let settings = Settings::parse(system, settings)?;
        Ok(Self {
            caller: Caller::new(system, settings.access.clone(), real_clock())?,
            settings,
        })
    }

    fn error(&self, kind: ErrorKind, what: impl AsRef<str>) -> Error {
        self.caller.error(kind, what)
    }

    async fn call(&self, action: &str, fields: Value) -> Result<Value, Failure> {
        let url = &self.settings.url;
        self.caller.secrets(url, action, &fields, false).await
    }

    fn existing(&self, account: &NativeId) -> Result<&Bundle, Error> {
        self.settings.bundles.get(account.as_str()).ok_or_else(|| {
            let names: Vec<&str> = self.settings.bundles.keys().map(String::as_str).collect();
            self.error(
                ErrorKind::NotFound,
                format!(
                    "there is no secret `{}` in the settings; they name {}",
                    account.as_str().escape_debug(),
                    names.join(", ")
                ),
            )
        })
    }

    /// The versions there are, by their labels.
    async fn stages(&self, bundle: &Bundle) -> Result<Stages, Error> {
        let fields = json!({ "SecretId": bundle.secret });
        let answer = self
            .call("DescribeSecret", fields)
            .await
            .map_err(Failure::of_read)?;
        if answer.get("DeletedDate").is_some_and(|at| !at.is_null()) {
            return Err(self.error(
                ErrorKind::Invalid,
                format!(
                    "secret `{}` is going to be deleted; restore it, or name another",
                    bundle.secret
                ),
            ));
        }
        if answer.get("ARN").and_then(Value::as_str).is_none() {
            return Err(self.error(
                ErrorKind::Bug,
                format!(
                    "secret `{}` was to be described, and the answer is about nothing",
                    bundle.secret
                ),
            ));
        }
        // There is no such field as long as there is no version.
        let stages = answer.get("VersionIdsToStages");
        let stages = stages.filter(|stages| !stages.is_null()).cloned();
        let stages = serde_json::from_value(stages.unwrap_or_else(|| json!({})));
        let stages = stages.map_err(|error| {
            self.error(ErrorKind::Bug, "the versions of a secret have no form")
                .with_source(error)
        })?;
        Ok(Stages(stages))
    }

    /// The value of a version. One that is no JSON object, or not there, is an error that says so.
    async fn value(&self, bundle: &Bundle, version: &str) -> Result<Map<String, Value>, Error> {
        let fields = json!({ "SecretId": bundle.secret, "VersionId": version });
        let answer = self
            .call("GetSecretValue", fields)
            .await
            .map_err(Failure::of_read)?;
        if answer.get("VersionId").and_then(Value::as_str) != Some(version) {
            return Err(self.error(
                ErrorKind::Bug,
                format!("version `{version}` was asked for, and another one was answered"),
            ));
        }
        let text = answer.get("SecretString").and_then(Value::as_str);
        let value: Option<Value> = text.and_then(|text| serde_json::from_str(text).ok());
        match value {
            Some(Value::Object(fields)) => Ok(fields),
            // The error of the parser would tell some of it.
            _ => Err(self.error(
                ErrorKind::Invalid,
                format!(
                    "version `{version}` of secret `{}` is no JSON object; write one there first, `{{}}` will do",
                    bundle.secret
                ),
            )),
        }
    }

    async fn put(
        &self,
        bundle: &Bundle,
        token: &str,
        value: &Map<String, Value>,
        labels: &[&str],
    ) -> Result<(), Failure> {
        let text = Value::Object(value.clone()).to_string();
        let fields = json!({
            "SecretId": bundle.secret,
            "ClientRequestToken": token,
            "SecretString": text,
            "VersionStages": labels,
        });
        let url = &self.settings.url;
        let answer = self
            .caller
            .secrets(url, "PutSecretValue", &fields, true)
            .await?;
        if answer.get("VersionId").and_then(Value::as_str) == Some(token) {
            return Ok(());
        }
        Err(Failure::Lost(self.error(
            ErrorKind::Bug,
            "a version was put, and the answer is about another one",
        )))
    }

    /// Moves a label to a version, or takes it off one, or both.
    async fn label(
        &self,
        bundle: &Bundle,
        label: &str,
        from: Option<&str>,
        to: Option<&str>,
    ) -> Result<(), Failure> {
        let mut fields = json!({ "SecretId": bundle.secret, "VersionStage": label });
        if let Some(fields) = fields.as_object_mut() {
            let ends = [("RemoveFromVersionId", from), ("MoveToVersionId", to)];
            for (name, version) in ends {
                if let Some(version) = version {
                    fields.insert(name.to_owned(), json!(version));
                }
            }
        }
        self.call("UpdateSecretVersionStage", fields)
            .await
            .map(drop)
    }

    fn mistake(&self, bundle: &Bundle, stored: &StoredCredential) -> Option<String> {
        if !stored.parts.keys().eq(bundle.parts.keys()) {
            let names = |names: Vec<&String>| {
                let names: Vec<&str> = names.into_iter().map(String::as_str).collect();
                names.join(", ")
            };
            return Some(format!(
                "`{}` keeps the parts {} and was given {}",
                stored.account,
                names(bundle.parts.keys().collect()),
                names(stored.parts.keys().collect()),
            ));
        }
        (label(&stored.credential).len() > LABEL_BYTES_MAX)
            .then(|| "the name of the credential is too long for a staging label".to_owned())
    }

    async fn store(&self, stored: &StoredCredential) -> Result<Outcome, Error> {
        let (account, credential) = (&stored.account, &stored.credential);
        let bundle = self.existing(account)?;
        if let Some(mistake) = self.mistake(bundle, stored) {
            return Err(self.error(ErrorKind::Invalid, mistake));
        }
        let (own, version) = (label(credential), version_id(credential));
        let mut stages = self.stages(bundle).await?;
        if stages.has(&version, &own) {
            let kept = parts_of(bundle, &self.value(bundle, &version).await?);
            if !same(&kept, &stored.parts) {
                return Err(self.error(
                    ErrorKind::Conflict,
                    format!("`{account}` keeps `{credential}` already, with other content"),
                ));
            }
            let current = stages.has(&version, CURRENT);
            return Ok(Outcome::AlreadySo(receipt(account, credential, current)));
        }
        let ours = stages.0.keys().filter_map(|it| stages.credential(it));
        if ours.count() >= VERSIONS_MAX {
            return Err(self.error(
                ErrorKind::Full,
                format!(
                    "`{account}` keeps {VERSIONS_MAX} versions; destroy those that nobody needs"
                ),
            ));
        }
        if stages.with(CURRENT).is_none() {
            // The first version of a secret is current, whatever is asked for: it is one that says nothing.
            let nothing = version_id(&CredentialId::new(""));
            if let Err(failure) = self.put(bundle, &nothing, &Map::new(), &[CURRENT]).await {
                return failure.of_change();
            }
            stages = self.stages(bundle).await?;
        }
        let mut value = match stages.with(CURRENT) {
            Some(current) => self.value(bundle, current).await?,
            None => Map::new(),
        };
        for (name, part) in &stored.parts {
            if let Some(field) = bundle.parts.get(name) {
                value.insert(field.clone(), json!(part.expose_secret()));
            }
        }
        let bytes = Value::Object(value.clone()).to_string().len();
        if bytes > VALUE_BYTES_MAX {
            return Err(self.error(
                ErrorKind::Invalid,
                format!("{bytes} bytes are to be kept, and a secret holds {VALUE_BYTES_MAX}"),
            ));
        }
        match self.put(bundle, &version, &value, &[PENDING, &own]).await {
            Ok(()) => self.labelled(bundle, account, credential).await,
            // One that was destroyed and that AWS has not removed yet.
            Err(failure) if failure.is("ResourceExistsException") => Err(self.error(
                ErrorKind::Conflict,
                format!("`{account}` has kept `{credential}` before, with other content, and AWS has not removed it yet"),
            )),
            Err(failure) => failure.of_change(),
        }
    }

    /// Sees that what was put has our label. One that was kept before, and not removed yet, is there without it.
    async fn labelled(
        &self,
        bundle: &Bundle,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<Outcome, Error> {
        let (own, version) = (label(credential), version_id(credential));
        let lost = |error: Error| Outcome::Ambiguous {
            reason: error.whole(),
        };
        match self.stages(bundle).await {
            Ok(stages) if stages.has(&version, &own) => {}
            Ok(_) => {
                if let Err(failure) = self.label(bundle, &own, None, Some(&version)).await {
                    return Ok(lost(failure.of_read()));
                }
            }
            Err(error) => return Ok(lost(error)),
        }
        Ok(Outcome::Done(receipt(account, credential, false)))
    }

    async fn activate(
        &self,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<Outcome, Error> {
        let bundle = self.existing(account)?;
        let version = version_id(credential);
        let stages = self.stages(bundle).await?;
        if !stages.has(&version, &label(credential)) {
            return Err(self.error(
                ErrorKind::NotFound,
                format!("`{account}` keeps no `{credential}`; store it first"),
            ));
        }
        if stages.has(&version, CURRENT) {
            return Ok(Outcome::AlreadySo(receipt(account, credential, true)));
        }
        let before = stages.with(CURRENT);
        match self.label(bundle, CURRENT, before, Some(&version)).await {
            Ok(()) => {}
            Err(Failure::Refused { why, error })
                if ["InvalidParameterException", "InvalidRequestException"]
                    .contains(&why.as_str()) =>
            {
                return Err(Error {
                    kind: ErrorKind::Conflict,
                    ..error
                });
            }
            Err(failure) => return failure.of_change(),
        }
        if stages.has(&version, PENDING)
            && let Err(failure) = self.label(bundle, PENDING, Some(&version), None).await
        {
            // It says that a version is to come that has come; the next one takes the label over.
            tracing::warn!(error = %failure.of_read(), "a staging label could not be taken off");
        }
        let mut receipt = receipt(account, credential, true);
        let was = before.map(|before| {
            let credential = stages.credential(before);
            json!({ "version": before, "credential": credential })
        });
        receipt.before = was;
        Ok(Outcome::Done(receipt))
    }

    async fn destroy(
        &self,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<Outcome, Error> {
        let receipt = |was: bool| Receipt {
            account: Some(account.clone()),
            before: Some(json!({ "credential": credential, "kept": was })),
            after: Some(json!({ "credential": credential, "kept": false })),
            ..Receipt::default()
        };
        let Some(bundle) = self.settings.bundles.get(account.as_str()) else {
            return Ok(Outcome::AlreadySo(receipt(false)));
        };
        let (own, version) = (label(credential), version_id(credential));
        let stages = self.stages(bundle).await?;
        if !stages.has(&version, &own) {
            return Ok(Outcome::AlreadySo(receipt(false)));
        }
        if stages.has(&version, CURRENT) {
            return Err(self.error(
                ErrorKind::Denied,
                format!("`{credential}` is the version that is read; activate another one first"),
            ));
        }
        if let Some(scratch) = &self.settings.scratch {
            scratch.forget(account.as_str(), credential).await?;
        }
        // Our own comes last: a try that stopped half-way is gone on with.
        for label in [PENDING, PREVIOUS, own.as_str()] {
            if stages.has(&version, label)
                && let Err(failure) = self.label(bundle, label, Some(&version), None).await
            {
                return failure.of_change();
            }
        }
        Ok(Outcome::Done(receipt(true)))
    }

    /// What is seen of one version: whether it is kept whole, whether it is read, and the rest for people. Where its parts
    /// can be read is told only to whoever asks for that.
    async fn seen(
        &self,
        account: &NativeId,
        credential: &CredentialId,
        with_parts: bool,
    ) -> Result<(bool, bool, Value), Error> {
        let Some(bundle) = self.settings.bundles.get(account.as_str()) else {
            return Ok((false, false, json!({ "secret": "not in the settings" })));
        };
        let version = version_id(credential);
        let stages = self.stages(bundle).await?;
        if !stages.has(&version, &label(credential)) {
            let seen = json!({ "credential": credential, "state": "absent" });
            return Ok((false, false, seen));
        }
        let parts = parts_of(bundle, &self.value(bundle, &version).await?);
        let whole = parts.len() == bundle.parts.len();
        let current = stages.has(&version, CURRENT);
        let mut seen = json!({
            "credential": credential,
            "version": version,
            "labels": stages.0.get(&version),
            "current": current,
        });
        if let (true, Some(scratch)) = (whole && with_parts, &self.settings.scratch) {
            let references = scratch.show(account.as_str(), credential, parts).await?;
            if let Some(seen) = seen.as_object_mut() {
                seen.insert("parts".to_owned(), json!(references));
            }
        }
        Ok((whole, current, seen))
    }
}

#[async_trait]
impl Connector for Secrets {
    fn capabilities(&self) -> Capabilities {
        place_capabilities()
    }

    async fn check(&self) -> Result<Health, Error> {
        let mut findings = Vec::new();
        match self.caller.who(&self.settings.access.key).await {
            Ok(answer) => {
                let arn = answer.text_of("Arn").unwrap_or("?");
                findings.push(Finding::good("login", format!("as `{arn}`")));
            }
            Err(failure) => {
                findings.push(Finding::bad(
                    "login",
                    failure.of_read().whole(),
                    "renew `access_key_id` and `secret_access_key`, and see that `sts_url` and the clock are right",
                ));
                return Ok(Health { findings });
            }
        }
        for (name, bundle) in &self.settings.bundles {
            findings.push(match self.stages(bundle).await {
                Ok(stages) => Finding::good(
                    "reach",
                    format!("`{name}`, {} versions with labels", stages.0.len()),
                ),
                Err(error) => Finding::bad(
                    "reach",
                    format!("`{name}`: {}", error.whole()),
                    "make the secret, and give our key the rights that the documentation of this connector names",
                ),
            });
        }
        Ok(Health { findings })
    }

    async fn list(&self, kind: Kind, after: Option<Cursor>) -> Result<Page, Error> {
        if kind != Kind::Account {
            return Err(self.error(
                ErrorKind::Unsupported,
                "secrets are listed, and nothing else",
            ));
        }
        let names = self.settings.bundles.keys().map(String::as_str);
        Ok(page(names, after.as_ref()))
    }

    async fn get(&self, wanted: &ObjectRef) -> Result<Option<Object>, Error> {
        let name = match wanted {
            ObjectRef::Account(id) => id.as_str(),
            ObjectRef::AccountNamed(name) => name,
            ObjectRef::AccountOwnedBy(_) => {
                return Err(self.error(ErrorKind::Unsupported, "a secret carries no owner key"));
            }
            ObjectRef::Entitlement(_) => return Ok(None),
        };
        let known = self.settings.bundles.contains_key(name);
        Ok(known.then(|| named(name)))
    }

    async fn apply(&self, operation: &Operation, _key: &OperationKey) -> Result<Outcome, Error> {
        match operation {
            Operation::StoreCredential(stored) => self.store(stored).await,
            Operation::ActivateCredential {
                account,
                credential,
            } => self.activate(account, credential).await,
            Operation::DestroyCredential {
                account,
                credential,
            } => self.destroy(account, credential).await,
            other => Err(self.error(
                ErrorKind::Unsupported,
                format!("secrets have no `{}`", other.name().as_str()),
            )),
        }
    }

    async fn verify(&self, claim: &Claim) -> Result<Verdict, Error> {
        let (Claim::CredentialStored {
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
        }) = claim
        else {
            return Ok(Verdict::CannotObserve {
                reason: "a secret shows what is kept in it and nothing else".to_owned(),
            });
        };
        let is_stored = claim.name() == ClaimName::CredentialStored;
        let (whole, current, seen) = self.seen(account, credential, is_stored).await?;
        let holds = match claim.name() {
            ClaimName::CredentialStored => whole,
            ClaimName::CredentialActive => whole && current,
            _ => !current,
        };
        Ok(verdict(
            holds,
            "secretsmanager:DescribeSecret",
            Some(account.clone()),
            seen,
        ))
    }

    async fn credentials(&self, account: &NativeId) -> Result<Coverage<Vec<Credential>>, Error> {
        let mut value = Vec::new();
        if let Some(bundle) = self.settings.bundles.get(account.as_str()) {
            let stages = self.stages(bundle).await?;
            let ours = stages.0.keys().filter_map(|version| {
                let credential = stages.credential(version)?;
                // Our label at another version was put there by somebody.
                (version_id(&credential) == *version)
                    .then(|| listed(credential, stages.has(version, CURRENT), version))
            });
            value.extend(ours);
        }
        value.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(Coverage {
            value,
            blind_spots: vec![
                "versions without labels that AWS has not removed yet".to_owned(),
                "copies that programs have made of what they read".to_owned(),
            ],
        })
    }
}
