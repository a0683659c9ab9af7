//! What tests of several connectors ask, and how they read the answer.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde_json::Value;

use crate::connector::{
    Claim, Connector, CredentialId, Error, NativeId, Operation, OperationKey, Outcome, Receipt,
    StoredCredential, Verdict,
};

fn key() -> OperationKey {
    OperationKey {
        idempotency: "x".to_owned(),
        attempt: 1,
        epoch: 1,
    }
}

/// The one bundle of a place in tests.
pub(crate) fn app() -> NativeId {
    NativeId::new("app")
}

pub(crate) fn id(text: &str) -> CredentialId {
    CredentialId::new(text)
}

/// A version with two parts.
pub(crate) fn store(credential: &str, password: &str) -> Operation {
    let part = |text: &str| SecretString::from(text.to_owned());
    Operation::StoreCredential(StoredCredential {
        account: app(),
        credential: id(credential),
        parts: BTreeMap::from([
            ("user".to_owned(), part("ann")),
            ("password".to_owned(), part(password)),
        ]),
    })
}

pub(crate) fn activate(credential: &str) -> Operation {
    Operation::ActivateCredential {
        account: app(),
        credential: id(credential),
    }
}

/// It is carried out.
pub(crate) async fn does(connector: &impl Connector, operation: &Operation) -> Receipt {
    match connector.apply(operation, &key()).await {
        Ok(Outcome::Done(receipt)) => receipt,
        other => panic!("{other:?}"),
    }
}

/// Nothing is left to do.
pub(crate) async fn is_already(connector: &impl Connector, operation: &Operation) {
    let outcome = connector.apply(operation, &key()).await.unwrap();
    assert!(matches!(outcome, Outcome::AlreadySo(_)), "{outcome:?}");
}

/// It is an error.
pub(crate) async fn refused(connector: &impl Connector, operation: &Operation) -> Error {
    match connector.apply(operation, &key()).await {
        Err(error) => error,
        other => panic!("{other:?}"),
    }
}

/// Whether a claim holds, and what was seen.
pub(crate) async fn holds(connector: &impl Connector, claim: &Claim) -> (bool, Value) {
    match connector.verify(claim).await.unwrap() {
        Verdict::Proven(seen) => (true, seen.seen),
        Verdict::Refuted(seen) => (false, seen.seen),
        other => panic!("{other:?}"),
    }
}

/// Whether a version is stored, active and inactive.
pub(crate) async fn state(connector: &impl Connector, credential: &str) -> (bool, bool, bool) {
    let (account, credential) = (app(), id(credential));
    let stored = Claim::CredentialStored {
        account: account.clone(),
        credential: credential.clone(),
    };
    let active = Claim::CredentialActive {
        account: account.clone(),
        credential: credential.clone(),
    };
    let inactive = Claim::CredentialInactive {
        account,
        credential,
    };
    (
        holds(connector, &stored).await.0,
        holds(connector, &active).await.0,
        holds(connector, &inactive).await.0,
    )
}
