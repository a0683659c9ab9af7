//! The two halves of a new credential, and how they get from the system that made it to the place where it is kept.
//!
//! A receipt ends up in the history and in evidence, so no secret may stand in it. A new credential has a secret half all
//! the same: the password, the private key, the key that a cloud shows once and never again. It takes a way of its own.
//! Whoever asks for a credential says where its halves go ([`HandOver`]), and the connector hands them over *before* it
//! answers. What was answered as done is therefore kept; what was not is found again by its operation key:
//!
//! | what was lost | what the next call with the same key does |
//! |---|---|
//! | the request | issues |
//! | the answer, after the hand-over | already so; the halves are handed over again, as far as they can be shown twice |
//! | everything between the issue and the hand-over | already so, without the secret half if the system made it: destroy that one and issue under another key |
//!
//! The third row cannot happen where we make the secret half ourselves and keep it before we ask
//! ([`Material::Secret`], [`Material::Public`]). Prefer those wherever a system takes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use crate::connector::{Attributes, Error, ErrorKind, NativeId, Outcome, Receipt};
use crate::credential::{Credential, CredentialId, CredentialKind};
use crate::secret::SecretRef;

/// A credential to be issued.
#[derive(Debug, Clone)]
pub struct NewCredential {
    /// Whose it is. Authorities have no accounts: there it is the holder's own name.
    pub account: NativeId,
    pub kind: CredentialKind,
    pub material: Material,
    /// What it says: names, principals, usage. Each connector documents its own.
    pub attributes: Attributes,
    /// How long it lives; `None` leaves it to the system.
    pub lifetime_s: Option<u64>,
    /// What people call it. No secret.
    pub label: Option<String>,
    /// Where both halves go before the answer.
    pub into: HandOver,
}

/// Who makes the secret half.
#[derive(Debug, Clone)]
pub enum Material {
    /// The system does, and shows it once.
    BySystem,
    /// We did, and this is it: a password.
    Secret(SecretString),
    /// We did, and keep it: this is the public half, a signing request in PEM or the line of a public SSH key.
    Public(String),
}

impl Material {
    #[must_use]
    pub fn name(&self) -> MaterialName {
        match self {
            Self::BySystem => MaterialName::BySystem,
            Self::Secret(_) => MaterialName::Secret,
            Self::Public(_) => MaterialName::Public,
        }
    }
}

/// The name of a [`Material`], as capabilities list it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaterialName {
    BySystem,
    Secret,
    Public,
}

impl MaterialName {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BySystem => "by_system",
            Self::Secret => "secret",
            Self::Public => "public",
        }
    }
}

/// How a system issues credentials of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuing {
    pub material: BTreeSet<MaterialName>,
    /// How many an account may have at once; `None` where there is no limit.
    #[serde(default)]
    pub slots: Option<u32>,
}

/// A credential to be kept in a place as a new version, beside the one that is read there now.
#[derive(Debug, Clone)]
pub struct StoredCredential {
    /// The place.
    pub account: NativeId,
    pub credential: CredentialId,
    /// What is kept, by the names the place gives its parts: `key`, `certificate`, `chain`, `password`.
    pub parts: BTreeMap<String, SecretString>,
}

/// Both halves of a credential that was issued.
#[derive(Debug, Clone)]
pub struct Minted {
    pub credential: Credential,
    /// The half that anybody may see: a certificate chain in PEM with the leaf first, the line of an SSH certificate.
    pub public: Option<String>,
    /// `None` when we made it, or when the system shows it only once and has done so.
    pub secret: Option<SecretString>,
}

/// What keeps the halves.
#[async_trait]
pub trait Takes: Send + Sync {
    /// Keeps them for good. Called again with the same credential after a crash, then perhaps without the secret half:
    /// what is kept of it must stay.
    ///
    /// # Errors
    /// They are not kept.
    async fn take(&self, minted: Minted) -> Result<(), Error>;
}

/// Where the halves of a new credential go.
#[derive(Clone)]
pub struct HandOver(Arc<dyn Takes>);

impl fmt::Debug for HandOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandOver")
    }
}

impl HandOver {
    #[must_use]
    pub fn to(taker: Arc<dyn Takes>) -> Self {
        Self(taker)
    }

    /// Into memory, for whoever waits for the answer and keeps them then.
    #[must_use]
    pub fn slot() -> (Self, Slot) {
        let slot = Slot::default();
        (Self(Arc::new(slot.clone())), slot)
    }

    /// Hands over and says how the issue ended: as `outcome` does, or ambiguous when nobody took the halves.
    pub async fn settle(
        &self,
        minted: Minted,
        receipt: Receipt,
        outcome: fn(Receipt) -> Outcome,
    ) -> Outcome {
        let id = minted.credential.id.clone();
        match self.0.take(minted).await {
            Ok(()) => outcome(receipt),
            Err(error) => Outcome::Ambiguous {
                reason: format!(
                    "`{id}` was issued and could not be handed over: {}",
                    error.whole()
                ),
            },
        }
    }
}

/// Reads a secret that is to be tried.
pub(crate) fn to_be_tried(secret: &SecretRef) -> Result<SecretString, Error> {
    let read = secret.resolve().map_err(|error| {
        Error::new(
            ErrorKind::Invalid,
            "the secret to be tried cannot be read; is it kept where the claim says?",
        )
        .with_source(error)
    })?;
    if read.expose_secret().is_empty() {
        // Systems there are that let in whoever says nothing, as nobody.
        return Err(Error::new(
            ErrorKind::Invalid,
            "the secret to be tried is empty",
        ));
    }
    Ok(read)
}

/// Holds what was handed over last.
#[derive(Clone, Default)]
pub struct Slot(Arc<Mutex<Option<Minted>>>);

impl Slot {
    #[must_use]
    pub fn take(&self) -> Option<Minted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[async_trait]
impl Takes for Slot {
    async fn take(&self, minted: Minted) -> Result<(), Error> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(minted);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use super::*;

    struct Full;

    #[async_trait]
    impl Takes for Full {
        async fn take(&self, _: Minted) -> Result<(), Error> {
            Err(Error::new(ErrorKind::Transient, "no space left"))
        }
    }

    fn minted() -> Minted {
        Minted {
            credential: Credential::new(CredentialId::new("7"), CredentialKind::ApiKey),
            public: None,
            secret: Some(SecretString::from("hunter2".to_owned())),
        }
    }

    #[tokio::test]
    async fn what_nobody_took_is_not_done() {
        let into = HandOver::to(Arc::new(Full));
        let Outcome::Ambiguous { reason } = into
            .settle(minted(), Receipt::default(), Outcome::Done)
            .await
        else {
            panic!("the secret half is lost and the answer says done");
        };
        assert_eq!(
            reason,
            "`7` was issued and could not be handed over: no space left"
        );
    }

    #[tokio::test]
    async fn a_slot_holds_both_halves_once_and_shows_neither() {
        let (into, slot) = HandOver::slot();
        let outcome = into
            .settle(minted(), Receipt::default(), Outcome::Done)
            .await;
        assert!(matches!(outcome, Outcome::Done(_)));
        let held = slot.take().unwrap();
        assert!(!format!("{held:?} {into:?}").contains("hunter2"));
        assert!(slot.take().is_none());
    }
}
