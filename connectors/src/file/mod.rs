//! Files as a place where credentials are kept and read.
//!
//! | Tenure     | here                                                                                            |
//! |------------|-------------------------------------------------------------------------------------------------|
//! | account    | a bundle: files that belong together, named in the settings                                     |
//! | credential | a version of the bundle, under the name it was stored with                                      |
//! | store      | writes a new version beside the others; nobody reads it yet                                     |
//! | activate   | switches all files of the bundle at once, then runs the program that makes the consumer read    |
//! | destroy    | removes a version that is not read                                                              |
//!
//! The way back is to activate the version before. A program that refuses the new files (`nginx -t`) takes the switch back by
//! itself: the error says what it said, and the version before is read as if nothing had been. One that has to be ended after
//! its time may have done anything: that is ambiguous, and the next activation runs it again.
//!
//! A consumer reads `FOLDER/FILE`, a link through `current`, so certificate and key are always of one version, as long as it opens
//! them after one another while nothing is switched, or opens `current` as a folder first. Its folder, and everything up to
//! `root`, must belong to nobody who could put a link in its way: links on the path are refused, and so are folders
//! into which everybody may write.
//!
//! ```yaml
//! kind: file
//! settings:
//!   root: /etc/tenure/credentials     # must exist; nothing outside of it is touched
//!   bundles:
//!     web:
//!       folder: web                   # below root; default: the bundle's name
//!       parts:                        # what a stored credential consists of, all of it
//!         certificate: { file: tls.crt }            # 0644 for bundle, ca, certificate and chain
//!         key: { file: tls.key, mode: "0640" }      # 0600 for everything else
//!       owner: 0                      # numbers; default: whoever Tenure runs as
//!       group: 33
//!       reload: { command: [/usr/sbin/nginx, -s, reload], timeout_ms: 30000 }   # no shell
//! ```

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::answer::{all_named, name_in, named, place_capabilities};
use crate::connector::{
    Capabilities, Claim, ClaimName, Connector, Coverage, Credential, CredentialId, Cursor, Error,
    ErrorKind, Finding, Health, Kind, NativeId, Object, ObjectRef, Observation, Operation,
    OperationKey, Outcome, Page, Receipt, StoredCredential, Verdict,
};
use crate::program::{self, Failed};

mod place;
mod settings;

#[cfg(test)]
mod tests;

use place::{Place, Version};
use settings::{Bundle, Settings};

/// The attribute of a bundle that names what is kept in it.
pub const PARTS: &str = "parts";

pub struct Files {
    system: String,
    settings: Arc<Settings>,
}

impl Files {
    /// Reads the settings; touches nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] names the setting that is wrong, missing or unknown.
    pub fn from_settings(system: &str, settings: Value) -> Result<Self, Error> {
        Ok(Self {
            system: system.to_owned(),
            settings: Arc::new(Settings::parse(system, settings)?),
        })
    }

    fn error(&self, kind: ErrorKind, what: impl AsRef<str>) -> Error {
        Error::new(kind, format!("system `{}`: {}", self.system, what.as_ref()))
    }

    fn bundle(&self, account: &NativeId) -> Option<(&String, &Bundle)> {
        self.settings.bundles.get_key_value(account.as_str())
    }

    fn existing(&self, account: &NativeId) -> Result<(&String, &Bundle), Error> {
        self.bundle(account).ok_or_else(|| {
            self.error(
                ErrorKind::NotFound,
                format!(
                    "there is no bundle `{}`; the settings name {}",
                    account.as_str().escape_debug(),
                    self.settings
                        .bundles
                        .keys()
                        .map(String::as_str)
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
            )
        })
    }

    /// Does something with a bundle, on a thread for blocking work.
    async fn held<T: Send + 'static>(
        &self,
        (name, bundle): (&String, &Bundle),
        work: impl FnOnce(&Place) -> Result<T, Error> + Send + 'static,
    ) -> Result<(T, Place), Error> {
        let (name, bundle) = (name.clone(), bundle.clone());
        let settings = Arc::clone(&self.settings);
        let done = tokio::task::spawn_blocking(move || {
            let place = Place::hold(&name, &bundle, &settings.root)?;
            let worked = work(&place)?;
            Ok((worked, place))
        });
        self.joined(done.await)
    }

    /// Goes on with a bundle that is held.
    async fn with<T: Send + 'static>(
        &self,
        place: Place,
        work: impl FnOnce(&Place) -> Result<T, Error> + Send + 'static,
    ) -> Result<(T, Place), Error> {
        let done = tokio::task::spawn_blocking(move || {
            let worked = work(&place)?;
            Ok((worked, place))
        });
        self.joined(done.await)
    }

    fn joined<T>(
        &self,
        done: Result<Result<T, Error>, tokio::task::JoinError>,
    ) -> Result<T, Error> {
        done.unwrap_or_else(|error| {
            let what = self.error(ErrorKind::Bug, "the work was broken off");
            Err(what.with_source(error))
        })
    }

    async fn store(&self, stored: &StoredCredential) -> Result<Outcome, Error> {
        let bundle = self.existing(&stored.account)?;
        let (credential, parts) = (stored.credential.clone(), stored.parts.clone());
        let ((version, was_there), _) = self
            .held(bundle, move |place| place.store(&credential, &parts))
            .await?;
        let receipt = receipt(&stored.account, &version);
        Ok(if was_there {
            Outcome::AlreadySo(receipt)
        } else {
            Outcome::Done(receipt)
        })
    }

    async fn activate(
        &self,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<Outcome, Error> {
        let (name, bundle) = self.existing(account)?;
        let wanted = credential.clone();
        let (found, place) = self
            .held((name, bundle), move |place| {
                let versions = place.versions()?;
                let before = versions.iter().find(|version| version.is_current).cloned();
                let mut versions = versions.into_iter();
                let version = versions.find(|version| *version.credential() == wanted);
                let reloaded = version
                    .as_ref()
                    .is_some_and(|version| version.is_current && place.is_reloaded(version));
                let changed = version.as_ref().map(Version::changed).unwrap_or_default();
                Ok((before, version, reloaded, changed))
            })
            .await?;
        let (before, version, reloaded, changed) = found;
        let Some(version) = version else {
            return Err(self.error(
                ErrorKind::NotFound,
                format!("bundle `{name}` keeps no `{credential}`; store it first"),
            ));
        };
        if let Some(changed) = changed.first() {
            return Err(self.error(
                ErrorKind::Conflict,
                format!(
                    "`{changed}` of `{credential}` was changed by somebody in `{}`; it is not switched to",
                    version.folder.display()
                ),
            ));
        }
        let mut receipt = receipt(account, &version);
        receipt.before = Some(json!({
            "credential": before.as_ref().map(Version::credential),
        }));
        if reloaded {
            return Ok(Outcome::AlreadySo(receipt));
        }
        let next = version.clone();
        let switched = self
            .with(place, move |place| place.switch(Some(&next)))
            .await;
        let place = match switched {
            Ok(((), place)) => place,
            // Some of it may have been done; the next try finds out.
            Err(error) => {
                return Ok(Outcome::Ambiguous {
                    reason: error.whole(),
                });
            }
        };
        if let Some(reload) = &bundle.reload {
            let variables = [
                ("TENURE_BUNDLE", name.as_str()),
                ("TENURE_CREDENTIAL", credential.as_str()),
            ];
            match program::run(reload, &variables).await {
                Ok(()) => {}
                Err(Failed::Late(reason)) => return Ok(Outcome::Ambiguous { reason }),
                Err(Failed::Refused(words)) => {
                    return self.taken_back(place, before, &version, &words).await;
                }
            }
            let next = version.clone();
            let noted = self
                .with(place, move |place| place.note_reloaded(&next))
                .await;
            if let Err(error) = noted {
                return Ok(Outcome::Ambiguous {
                    reason: format!("switched and read again; {}", error.whole()),
                });
            }
        }
        Ok(Outcome::Done(receipt))
    }

    /// The consumer's program refused the new version: the one before is read again.
    async fn taken_back(
        &self,
        place: Place,
        before: Option<Version>,
        refused: &Version,
        words: &str,
    ) -> Result<Outcome, Error> {
        let was_current = refused.is_current;
        let back = before.clone();
        if was_current {
            // It was switched to earlier, and only the program has not succeeded since.
            return Err(self.error(
                ErrorKind::Transient,
                format!(
                    "`{}` is in place and the consumer does not read it: {words}",
                    refused.credential()
                ),
            ));
        }
        match self
            .with(place, move |place| place.switch(back.as_ref()))
            .await
        {
            Ok(_) => Err(self.error(
                ErrorKind::Transient,
                format!(
                    "`{}` was refused and {}: {words}",
                    refused.credential(),
                    match before {
                        Some(_) => "the version before is in place again",
                        None => "nothing is in place again",
                    }
                ),
            )),
            Err(error) => Ok(Outcome::Ambiguous {
                reason: format!(
                    "{words}; and the switch could not be taken back: {}",
                    error.whole()
                ),
            }),
        }
    }

    async fn destroy(
        &self,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<Outcome, Error> {
        let gone = |state: &str| Receipt {
            account: Some(account.clone()),
            before: Some(json!({ "credential": credential, "state": state })),
            after: Some(json!({ "credential": credential, "state": "absent" })),
            ..Receipt::default()
        };
        let Some(bundle) = self.bundle(account) else {
            return Ok(Outcome::AlreadySo(gone("absent")));
        };
        let wanted = credential.clone();
        let (removed, _) = self
            .held(bundle, move |place| {
                let Some(version) = place.version(&wanted)? else {
                    return Ok(false);
                };
                if version.is_current {
                    return Err(Error::new(
                        ErrorKind::Denied,
                        format!(
                            "`{wanted}` is the version that is read; activate another one first"
                        ),
                    ));
                }
                place.remove(&version)?;
                Ok(true)
            })
            .await?;
        Ok(if removed {
            Outcome::Done(gone("kept"))
        } else {
            Outcome::AlreadySo(gone("absent"))
        })
    }

    /// What is seen of one version: whether it is kept whole, whether it is read, and the rest for people.
    async fn seen(
        &self,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<(bool, bool, Value), Error> {
        let Some(bundle) = self.bundle(account) else {
            return Ok((false, false, json!({ "bundle": "unknown" })));
        };
        let wanted = credential.clone();
        let (seen, _) = self
            .held(bundle, move |place| {
                let Some(version) = place.version(&wanted)? else {
                    return Ok((
                        false,
                        false,
                        json!({ "credential": wanted, "state": "absent" }),
                    ));
                };
                let changed = version.changed();
                let reloaded = place.is_reloaded(&version);
                let (whole, read) = (changed.is_empty(), version.is_current);
                let seen = json!({
                    "credential": wanted,
                    "version": version.number,
                    "current": read,
                    "reloaded": reloaded,
                    "changed_by_hand": changed,
                    "parts": version.references(),
                });
                Ok((whole, read && reloaded, seen))
            })
            .await?;
        Ok(seen)
    }
}

fn receipt(account: &NativeId, version: &Version) -> Receipt {
    Receipt {
        account: Some(account.clone()),
        after: Some(json!({ "version": version.number, "parts": version.references() })),
        credential: Some(listed(version)),
        ..Receipt::default()
    }
}

fn listed(version: &Version) -> Credential {
    Credential {
        active: Some(version.is_current),
        label: Some(format!("version {}", version.number)),
        ..Credential::new(version.credential().clone(), version.credential().kind())
    }
}

#[async_trait]
impl Connector for Files {
    fn capabilities(&self) -> Capabilities {
        place_capabilities()
    }

    async fn check(&self) -> Result<Health, Error> {
        let mut findings = Vec::new();
        for (name, bundle) in &self.settings.bundles {
            match self.held((name, bundle), |place| place.versions()).await {
                Ok((versions, place)) => findings.push(Finding::good(
                    "reach",
                    format!(
                        "bundle `{name}` below `{}`, {} versions",
                        place.root().display(),
                        versions.len()
                    ),
                )),
                Err(error) => findings.push(Finding::bad(
                    "reach",
                    format!("bundle `{name}`: {}", error.whole()),
                    "make the folder one that Tenure may write into and nobody else",
                )),
            }
            if let Some(reload) = &bundle.reload
                && !reload.path.is_file()
            {
                findings.push(Finding::bad(
                    "reload",
                    format!("bundle `{name}`: there is no `{}`", reload.path.display()),
                    "correct `reload.command`",
                ));
            }
        }
        Ok(Health { findings })
    }

    async fn list(&self, kind: Kind, _after: Option<Cursor>) -> Result<Page, Error> {
        if kind != Kind::Account {
            return Err(self.error(
                ErrorKind::Unsupported,
                "files have bundles and nothing else",
            ));
        }
        Ok(all_named(self.settings.bundles.keys()))
    }

    async fn get(&self, wanted: &ObjectRef) -> Result<Option<Object>, Error> {
        let Some(name) = name_in(&self.system, wanted)? else {
            return Ok(None);
        };
        let Some(bundle) = self.settings.bundles.get(name) else {
            return Ok(None);
        };
        let mut found = named(name);
        if let Object::Account(account) = &mut found {
            // Whoever is going to store something can see whether it fits, before it is made.
            let parts = json!(bundle.parts.keys().collect::<Vec<_>>());
            account.attributes.insert(PARTS.to_owned(), parts);
        }
        Ok(Some(found))
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
                format!("files have no `{}`", other.name().as_str()),
            )),
        }
    }

    async fn verify(&self, claim: &Claim) -> Result<Verdict, Error> {
        let (account, credential) = match claim {
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
            } => (account, credential),
            _ => {
                return Ok(Verdict::CannotObserve {
                    reason: "files show what is kept in them and nothing else".to_owned(),
                });
            }
        };
        let (whole, read, seen) = self.seen(account, credential).await?;
        let holds = match claim.name() {
            ClaimName::CredentialStored => whole,
            ClaimName::CredentialActive => whole && read,
            // A version the consumer was not told of may be read at its next start.
            _ => seen.get("current") != Some(&Value::Bool(true)),
        };
        let observation = Observation {
            by: "files".to_owned(),
            account: Some(account.clone()),
            seen,
        };
        Ok(if holds {
            Verdict::Proven(observation)
        } else {
            Verdict::Refuted(observation)
        })
    }

    async fn credentials(&self, account: &NativeId) -> Result<Coverage<Vec<Credential>>, Error> {
        let value = match self.bundle(account) {
            None => Vec::new(),
            Some(bundle) => {
                let (versions, _) = self.held(bundle, |place| place.versions()).await?;
                versions.iter().map(listed).collect()
            }
        };
        Ok(Coverage {
            value,
            blind_spots: vec!["copies that somebody made of the files".to_owned()],
        })
    }
}
