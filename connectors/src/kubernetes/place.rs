//! A Secret as a place: versions beside it, and the one that consumers read.
//!
//! ```text
//! app-credentials                      what consumers mount; says in a note whose copy it is
//! app-credentials.4f1c0d6a55b2c3d4     a version, immutable, found by its label
//! app-credentials.a03b9e7c11f2d3e4     the version before, for the way back
//! ```
//!
//! Whoever switches names the state of the Secret that was read: one that somebody else has changed since is not
//! overwritten, and the next try looks again. What stood in it before, and no version keeps, is kept as a version first.

use std::collections::BTreeMap;

use reqwest::Method;
use secrecy::SecretString;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::http::{Call, Failure, Why};
use super::object::{Kept, encoded};
use super::settings::Bundle;
use super::{Kubernetes, MANAGED, MANAGER};
use crate::connector::{
    Credential, CredentialId, Error, ErrorKind, NativeId, Outcome, Receipt, StoredCredential,
};
use crate::scratch::hex;

/// By this label the versions of a Secret are found.
const VERSION_OF: &str = "tenure/version-of";
/// In this note a version, and the copy of it that is read, say which credential they are.
const CREDENTIAL: &str = "tenure/credential";
/// What the names of versions begin with that somebody else had put there.
const BEFORE: &str = "before:";
/// How much a Secret may keep.
const SECRET_BYTES_MAX: usize = 1024 * 1024;
/// How many versions may lie beside one Secret.
const VERSIONS_MAX: usize = 100;

/// What is seen of one version.
pub(super) struct Seen {
    pub whole: bool,
    /// Whether its copy is what is read, and whether that is as the version is.
    pub is_current: bool,
    pub is_read: bool,
    pub told: Value,
}

fn version_name(bundle: &Bundle, credential: &CredentialId) -> String {
    let digest = hex(&Sha256::digest(credential.as_str().as_bytes()), 8);
    format!("{}.{digest}", bundle.secret)
}

fn credential_of(kept: &Kept) -> Option<CredentialId> {
    kept.note(CREDENTIAL).map(CredentialId::new)
}

fn listed(credential: CredentialId, is_current: bool, made_at: &str) -> Credential {
    let kind = credential.kind();
    Credential {
        active: Some(is_current),
        label: Some(format!("kept {made_at}")),
        ..Credential::new(credential, kind)
    }
}

fn receipt(account: &NativeId, credential: &CredentialId, kept: &Kept, current: bool) -> Receipt {
    Receipt {
        account: Some(account.clone()),
        after: Some(json!({
            "secret": kept.name(),
            "uid": kept.uid(),
            "resource_version": kept.resource_version(),
        })),
        credential: Some(listed(credential.clone(), current, kept.made_at())),
        ..Receipt::default()
    }
}

impl Kubernetes {
    fn existing(&self, account: &NativeId) -> Result<&Bundle, Error> {
        self.settings.bundles.get(account.as_str()).ok_or_else(|| {
            let names: Vec<&str> = self.settings.bundles.keys().map(String::as_str).collect();
            self.error(
                ErrorKind::NotFound,
                format!(
                    "there is no Secret `{}` in the settings; they name {}",
                    account.as_str().escape_debug(),
                    if names.is_empty() {
                        "none".to_owned()
                    } else {
                        names.join(", ")
                    }
                ),
            )
        })
    }

    async fn version(
        &self,
        bundle: &Bundle,
        credential: &CredentialId,
    ) -> Result<Option<Kept>, Error> {
        let name = version_name(bundle, credential);
        let found = self.secret(&bundle.namespace, &name).await?;
        // Somebody else's Secret of that name is no version of ours, and one that is going is none any more.
        Ok(found
            .filter(|kept| credential_of(kept).as_ref() == Some(credential) && !kept.is_going()))
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
        let length = |part: &SecretString| secrecy::ExposeSecret::expose_secret(part).len();
        let bytes: usize = stored.parts.values().map(length).sum();
        (bytes > SECRET_BYTES_MAX)
            .then(|| format!("{bytes} bytes are to be kept, and a Secret holds {SECRET_BYTES_MAX}"))
    }

    /// Makes a version.
    async fn make_version(
        &self,
        bundle: &Bundle,
        credential: &CredentialId,
        data: Map<String, Value>,
    ) -> Result<Kept, Failure> {
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": version_name(bundle, credential),
                "namespace": bundle.namespace,
                "labels": { MANAGED: MANAGER, VERSION_OF: bundle.secret },
                "annotations": { CREDENTIAL: credential },
            },
            // Nobody mounts it, so its type asks for no keys of its own.
            "type": "Opaque",
            "immutable": true,
            "data": data,
        });
        self.make(&bundle.namespace, secret).await
    }

    pub(super) async fn store(&self, stored: &StoredCredential) -> Result<Outcome, Error> {
        let (account, credential) = (&stored.account, &stored.credential);
        let bundle = self.existing(account)?;
        if let Some(mistake) = self.mistake(bundle, stored) {
            return Err(self.error(ErrorKind::Invalid, mistake));
        }
        let data = encoded(&bundle.parts, &stored.parts);
        if let Some(known) = self.version(bundle, credential).await? {
            if known.data() != data {
                return Err(self.error(
                    ErrorKind::Conflict,
                    format!("`{account}` keeps `{credential}` already, with other content"),
                ));
            }
            let receipt = receipt(account, credential, &known, false);
            return Ok(Outcome::AlreadySo(receipt));
        }
        let versions = self
            .labelled(&bundle.namespace, (VERSION_OF, &bundle.secret))
            .await?;
        if versions.len() >= VERSIONS_MAX {
            return Err(self.error(
                ErrorKind::Full,
                format!(
                    "`{account}` keeps {VERSIONS_MAX} versions; destroy those that nobody needs"
                ),
            ));
        }
        match self.make_version(bundle, credential, data.clone()).await {
            Ok(kept) if kept.data() == data => {
                Ok(Outcome::Done(receipt(account, credential, &kept, false)))
            }
            Ok(_) => Ok(Outcome::Ambiguous {
                reason: "the cluster says that it keeps something else than what it was given"
                    .to_owned(),
            }),
            Err(failure) => failure.of_change(),
        }
    }

    pub(super) async fn activate(
        &self,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<Outcome, Error> {
        let bundle = self.existing(account)?;
        let Some(version) = self.version(bundle, credential).await? else {
            return Err(self.error(
                ErrorKind::NotFound,
                format!("`{account}` keeps no `{credential}`; store it first"),
            ));
        };
        let data = version.data();
        let shown = self.secret(&bundle.namespace, &bundle.secret).await?;
        let before = shown.as_ref().and_then(credential_of);
        let changed = match &shown {
            None => self.first(bundle, credential, data.clone()).await,
            Some(shown) if shown.is_going() => {
                return Err(self.error(
                    ErrorKind::Conflict,
                    format!(
                        "Secret `{}` is being removed, and somebody's finalizer holds it",
                        bundle.secret
                    ),
                ));
            }
            Some(shown) if before.as_ref() == Some(credential) && shown.data() == data => {
                let receipt = receipt(account, credential, shown, true);
                return Ok(Outcome::AlreadySo(receipt));
            }
            Some(shown) => {
                if let Some(why) = in_the_way(bundle, shown) {
                    return Err(self.error(ErrorKind::Invalid, why));
                }
                if let Some(lost) = self
                    .keep_what_is_there(bundle, shown, before.as_ref())
                    .await?
                {
                    return Ok(lost);
                }
                self.switch(bundle, shown, credential, data.clone()).await
            }
        };
        match changed {
            Ok(now) if now.data() == data && credential_of(&now).as_ref() == Some(credential) => {
                let mut receipt = receipt(account, credential, &now, true);
                receipt.before = Some(json!({ "credential": before }));
                Ok(Outcome::Done(receipt))
            }
            Ok(_) => Ok(Outcome::Ambiguous {
                reason: "the cluster shows something else than what it was told to".to_owned(),
            }),
            Err(failure) => failure.of_change(),
        }
    }

    /// The Secret that consumers read, made with its first content.
    async fn first(
        &self,
        bundle: &Bundle,
        credential: &CredentialId,
        data: Map<String, Value>,
    ) -> Result<Kept, Failure> {
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": bundle.secret,
                "namespace": bundle.namespace,
                "labels": { MANAGED: MANAGER },
                "annotations": { CREDENTIAL: credential },
            },
            "type": bundle.kind,
            "data": data,
        });
        self.make(&bundle.namespace, secret).await
    }

    /// Puts other content into the Secret that was read, if it is still as it was read.
    async fn switch(
        &self,
        bundle: &Bundle,
        shown: &Kept,
        credential: &CredentialId,
        data: Map<String, Value>,
    ) -> Result<Kept, Failure> {
        let path = [
            "api",
            "v1",
            "namespaces",
            bundle.namespace.as_str(),
            "secrets",
            bundle.secret.as_str(),
        ];
        let next = shown.changed(data, &[(CREDENTIAL, credential.as_str())]);
        let call = Call::new(Method::PUT, &path).with_secret(next);
        let answer = self.api.ask(call).await.map_err(|failure| {
            if !failure.is_absence_of(&bundle.secret) {
                return failure;
            }
            Failure::Refused {
                why: Why::default(),
                error: self.error(
                    ErrorKind::Conflict,
                    format!("Secret `{}` was removed since it was read", bundle.secret),
                ),
            }
        })?;
        self.expected(answer, "Secret", &bundle.secret)
            .map_err(Failure::Lost)
    }

    /// What somebody put into the Secret, and no version keeps, becomes a version; gives what became of that if it is not
    /// certain.
    async fn keep_what_is_there(
        &self,
        bundle: &Bundle,
        shown: &Kept,
        before: Option<&CredentialId>,
    ) -> Result<Option<Outcome>, Error> {
        let data = shown.data();
        let is_kept = match before {
            Some(before) => {
                let version = self.version(bundle, before).await?;
                version.is_some_and(|version| version.data() == data)
            }
            None => data.is_empty(),
        };
        if is_kept {
            return Ok(None);
        }
        let name = CredentialId::new(format!(
            "{BEFORE}{}.{}",
            shown.uid(),
            shown.resource_version()
        ));
        match self.make_version(bundle, &name, data).await {
            Ok(_) => Ok(None),
            // By an earlier try that came no further.
            Err(failure) if failure.is("AlreadyExists") => Ok(None),
            Err(failure) => failure.of_change().map(Some),
        }
    }

    pub(super) async fn destroy_version(
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
        let Some(bundle) = self.settings.bundles.get(account.as_str()) else {
            return Ok(Outcome::AlreadySo(receipt(false)));
        };
        let shown = self.secret(&bundle.namespace, &bundle.secret).await?;
        if shown.as_ref().and_then(credential_of).as_ref() == Some(credential) {
            return Err(self.error(
                ErrorKind::Denied,
                format!("`{credential}` is the version that is read; activate another one first"),
            ));
        }
        if let Some(scratch) = &self.settings.scratch {
            scratch.forget(account.as_str(), credential).await?;
        }
        let Some(version) = self.version(bundle, credential).await? else {
            return Ok(Outcome::AlreadySo(receipt(false)));
        };
        match self.remove(&bundle.namespace, &version).await {
            Ok(()) => Ok(Outcome::Done(receipt(true))),
            Err(failure) if failure.is_absence_of(version.name()) => {
                Ok(Outcome::AlreadySo(receipt(false)))
            }
            Err(failure) => failure.of_change(),
        }
    }

    /// Reads one version, and what consumers read now. Where its parts can be read is told only to whoever asks for that.
    pub(super) async fn seen(
        &self,
        account: &NativeId,
        credential: &CredentialId,
        with_parts: bool,
    ) -> Result<Seen, Error> {
        let absent = |told: Value| Seen {
            whole: false,
            is_current: false,
            is_read: false,
            told,
        };
        let Some(bundle) = self.settings.bundles.get(account.as_str()) else {
            return Ok(absent(json!({ "secret": "not in the settings" })));
        };
        let version = self.version(bundle, credential).await?;
        let shown = self.secret(&bundle.namespace, &bundle.secret).await?;
        let is_current = shown.as_ref().and_then(credential_of).as_ref() == Some(credential);
        let Some(version) = version else {
            let told =
                json!({ "credential": credential, "state": "absent", "current": is_current });
            return Ok(Seen {
                is_current,
                ..absent(told)
            });
        };
        let mut parts: BTreeMap<String, SecretString> = BTreeMap::new();
        for (name, key) in &bundle.parts {
            if let Some(text) = version.text(key) {
                parts.insert(name.clone(), text);
            }
        }
        let whole = parts.len() == bundle.parts.len();
        let is_read = is_current
            && shown
                .as_ref()
                .is_some_and(|shown| shown.data() == version.data());
        let mut told = json!({
            "credential": credential,
            "version": version.name(),
            "resource_version": version.resource_version(),
            "current": is_current,
            "changed_by_hand": is_current && !is_read,
            "shown_resource_version": shown.as_ref().map(Kept::resource_version),
        });
        if let (true, Some(scratch)) = (whole && with_parts, &self.settings.scratch) {
            let references = scratch.show(account.as_str(), credential, parts).await?;
            if let Some(told) = told.as_object_mut() {
                told.insert("parts".to_owned(), json!(references));
            }
        }
        Ok(Seen {
            whole,
            is_current,
            is_read,
            told,
        })
    }

    pub(super) async fn versions(&self, bundle: &Bundle) -> Result<Vec<Credential>, Error> {
        let shown = self.secret(&bundle.namespace, &bundle.secret).await?;
        let current = shown.as_ref().and_then(credential_of);
        let mut versions = self
            .labelled(&bundle.namespace, (VERSION_OF, &bundle.secret))
            .await?;
        versions.sort_by(|a, b| (a.made_at(), a.name()).cmp(&(b.made_at(), b.name())));
        let versions = versions.iter().filter_map(|version| {
            let credential = credential_of(version)?;
            // What bears our label under another name is a copy that somebody made.
            (version.name() == version_name(bundle, &credential)).then(|| {
                let is_current = current.as_ref() == Some(&credential);
                listed(credential, is_current, version.made_at())
            })
        });
        Ok(versions.collect())
    }
}

/// Why the content of the Secret cannot be replaced.
fn in_the_way(bundle: &Bundle, shown: &Kept) -> Option<String> {
    if shown.is_immutable() {
        return Some(format!(
            "Secret `{}` is immutable, so nothing can be switched in it; make it anew without `immutable`",
            bundle.secret
        ));
    }
    let data = shown.data();
    let foreign: Vec<&str> = data
        .keys()
        .filter(|key| !bundle.parts.values().any(|ours| ours == *key))
        .map(String::as_str)
        .collect();
    (!foreign.is_empty()).then(|| {
        format!(
            "Secret `{}` has {} too, which would be lost; name them in `parts`, or give this credential a Secret of its own",
            bundle.secret,
            foreign.join(", ")
        )
    })
}
