//! Capabilities are true: what is not declared is refused, what is declared is never "unsupported".

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde_json::json;

use super::bench::{Bench, Checked, Stop, ensure, failed, key, said, words};
use crate::connector::{
    Attributes, Claim, CredentialId, CredentialKind, EntitlementName, ErrorKind, HandOver, Kind,
    Material, NativeId, NewAccount, NewCredential, ObjectRef, Operation, OperationName, Outcome,
    StoredCredential, Verdict,
};
use crate::secret::SecretRef;

/// One operation of every name, about an account that need not exist.
pub(super) fn one_of_each(
    account: &NativeId,
    entitlement: &EntitlementName,
    new: NewAccount,
) -> Vec<Operation> {
    let account = account.clone();
    let entitlement = entitlement.clone();
    vec![
        Operation::CreateAccount(new),
        Operation::UpdateAccount {
            account: account.clone(),
            attributes: Attributes::new(),
        },
        Operation::EnableAccount {
            account: account.clone(),
        },
        Operation::DisableAccount {
            account: account.clone(),
        },
        Operation::DeleteAccount {
            account: account.clone(),
        },
        Operation::Grant {
            account: account.clone(),
            entitlement: entitlement.clone(),
        },
        Operation::Revoke {
            account: account.clone(),
            entitlement,
        },
        Operation::EndSessions {
            account: account.clone(),
        },
        Operation::SetPassword {
            account: account.clone(),
            password: SecretString::from("C0nformance-Run!".to_owned()),
        },
        Operation::IssueCredential(NewCredential {
            account: account.clone(),
            kind: CredentialKind::ApiKey,
            material: Material::BySystem,
            attributes: Attributes::new(),
            lifetime_s: None,
            label: None,
            into: HandOver::slot().0,
        }),
        Operation::StoreCredential(StoredCredential {
            account: account.clone(),
            credential: CredentialId::new("a credential"),
            parts: BTreeMap::new(),
        }),
        Operation::ActivateCredential {
            account: account.clone(),
            credential: CredentialId::new("a credential"),
        },
        Operation::DeactivateCredential {
            account: account.clone(),
            credential: CredentialId::new("a credential"),
        },
        Operation::DestroyCredential {
            account: account.clone(),
            credential: CredentialId::new("a credential"),
        },
        Operation::TransferOwnership {
            from: account.clone(),
            to: account,
        },
        Operation::Action {
            name: "no such action".to_owned(),
            with: json!({}),
        },
    ]
}

/// One claim of every name.
pub(super) fn one_claim_of_each(account: &NativeId, entitlement: &EntitlementName) -> Vec<Claim> {
    let account = account.clone();
    let entitlement = entitlement.clone();
    vec![
        Claim::AccountExists {
            owner: "conformance-nobody".to_owned(),
        },
        Claim::AccountEnabled {
            account: account.clone(),
        },
        Claim::AccountDisabled {
            account: account.clone(),
        },
        Claim::AccountAbsent {
            account: account.clone(),
        },
        Claim::AttributesAre {
            account: account.clone(),
            attributes: Attributes::new(),
        },
        Claim::Granted {
            account: account.clone(),
            entitlement: entitlement.clone(),
        },
        Claim::NotGranted {
            account: account.clone(),
            entitlement,
        },
        Claim::NoSessions {
            account: account.clone(),
        },
        Claim::CredentialInactive {
            account: account.clone(),
            credential: CredentialId::new("a credential"),
        },
        Claim::CredentialActive {
            account: account.clone(),
            credential: CredentialId::new("a credential"),
        },
        Claim::CredentialIssued {
            account: account.clone(),
            key: "conformance-nothing".to_owned(),
        },
        Claim::CredentialStored {
            account: account.clone(),
            credential: CredentialId::new("a credential"),
        },
        Claim::CredentialWorks {
            account: account.clone(),
            credential: CredentialId::new("a credential"),
            secret: SecretRef::File("/dev/null".to_owned()),
        },
        Claim::CredentialRefused {
            account: account.clone(),
            credential: CredentialId::new("a credential"),
            secret: SecretRef::File("/dev/null".to_owned()),
        },
        Claim::ServesCertificate {
            endpoint: "127.0.0.1:1".to_owned(),
            certificate: CredentialId::new("a certificate"),
        },
        Claim::ServesTrusted {
            endpoint: "127.0.0.1:1".to_owned(),
            roots: String::new(),
        },
        Claim::NothingSigned {
            account: account.clone(),
            credential: CredentialId::new("an authority"),
        },
        Claim::OwnsNothing { account },
    ]
}

fn nobody(bench: &Bench) -> (NativeId, EntitlementName) {
    let account = bench
        .fixture
        .missing_account
        .clone()
        .unwrap_or_else(|| NativeId::new("nobody"));
    let entitlement = bench
        .fixture
        .entitlements
        .first()
        .cloned()
        .unwrap_or_else(|| EntitlementName::new("nothing"));
    (account, entitlement)
}

pub(super) async fn undeclared_operations(bench: &Bench) -> Checked {
    let (account, entitlement) = nobody(bench);
    let new = bench.new_account(&bench.fresh_name());
    for operation in one_of_each(&account, &entitlement, new) {
        if bench.can.operations.contains(&operation.name()) {
            continue;
        }
        match bench.connector.apply(&operation, &key()).await {
            Err(error) if error.kind == ErrorKind::Unsupported => {}
            other => {
                return failed(format!(
                    "`{}` is not declared: expected unsupported, got {}",
                    operation.name().as_str(),
                    said(&other)
                ));
            }
        }
    }
    Ok(())
}

pub(super) async fn undeclared_claims(bench: &Bench) -> Checked {
    let (account, entitlement) = nobody(bench);
    for claim in one_claim_of_each(&account, &entitlement) {
        if bench.can.claims.contains(&claim.name()) {
            continue;
        }
        match bench.connector.verify(&claim).await {
            Err(error) if error.kind == ErrorKind::Unsupported => {}
            Ok(Verdict::CannotObserve { reason }) => {
                ensure(!reason.is_empty(), || {
                    "cannot observe, and no reason given".to_owned()
                })?;
            }
            other => {
                return failed(format!(
                    "`{}` is not declared and was answered {other:?}",
                    words(&claim.name())
                ));
            }
        }
    }
    Ok(())
}

pub(super) async fn undeclared_reads(bench: &Bench) -> Checked {
    for kind in [Kind::Account, Kind::Entitlement] {
        if !bench.can.lists.contains(&kind) {
            unsupported("list", bench.connector.list(kind, None).await)?;
        }
    }
    if !bench.can.changes {
        unsupported("changes", bench.connector.changes(None).await)?;
    }
    let (account, _) = nobody(bench);
    if bench.can.credentials.is_empty() {
        unsupported("credentials", bench.connector.credentials(&account).await)?;
    }
    if !bench.can.renewal {
        let id = CredentialId::new("nothing");
        unsupported("renewal", bench.connector.renewal(&account, &id).await)?;
    }
    if !bench.can.dependents {
        unsupported(
            "dependents",
            bench
                .connector
                .dependents(&ObjectRef::Account(account))
                .await,
        )?;
    }
    if !bench.can.finds_by_owner {
        let by_owner = ObjectRef::AccountOwnedBy("conformance-nobody".to_owned());
        unsupported("get by owner", bench.connector.get(&by_owner).await)?;
    }
    Ok(())
}

fn unsupported<T: std::fmt::Debug>(
    what: &str,
    answer: Result<T, crate::connector::Error>,
) -> Checked {
    match answer {
        Err(error) if error.kind == ErrorKind::Unsupported => Ok(()),
        other => failed(format!(
            "{what} is not declared: expected unsupported, got {other:?}"
        )),
    }
}

/// Called with a missing account they may fail in any way but this one.
pub(super) async fn declared_operations(bench: &Bench) -> Checked {
    let account = match bench.missing_id().await {
        Ok(id) => id,
        Err(Stop::NotApplicable(_)) => nobody(bench).0,
        Err(stop) => return Err(stop),
    };
    let entitlement = nobody(bench).1;
    let new = bench.new_account(&bench.fresh_name());
    for operation in one_of_each(&account, &entitlement, new) {
        if !bench.can.operations.contains(&operation.name())
            // What these carry must be of a kind the system knows; their own tests see to that.
            || matches!(
                operation.name(),
                OperationName::Action | OperationName::IssueCredential
            )
        {
            continue;
        }
        match bench.apply(&operation, &key()).await {
            Err(error) if error.kind == ErrorKind::Unsupported => {
                return failed(format!(
                    "`{}` is declared and unsupported",
                    operation.name().as_str()
                ));
            }
            Ok(Outcome::Done(receipt)) if matches!(operation, Operation::CreateAccount(_)) => {
                receipt.account.iter().for_each(|id| bench.remember(id));
            }
            Ok(Outcome::NeedsHuman(_)) if !bench.can.by_hand => {
                return failed(format!(
                    "`{}` became a task for a person and `by_hand` is not declared",
                    operation.name().as_str()
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

pub(super) async fn declared_claims(bench: &Bench) -> Checked {
    let account = match bench.missing_id().await {
        Ok(id) => id,
        Err(Stop::NotApplicable(_)) => nobody(bench).0,
        Err(stop) => return Err(stop),
    };
    let entitlement = nobody(bench).1;
    for claim in one_claim_of_each(&account, &entitlement) {
        if !bench.can.claims.contains(&claim.name()) {
            continue;
        }
        match bench.connector.verify(&claim).await {
            Ok(Verdict::CannotObserve { reason }) => {
                return failed(format!(
                    "`{}` is declared and cannot be observed: {reason}",
                    words(&claim.name())
                ));
            }
            Err(error) if error.kind == ErrorKind::Unsupported => {
                return failed(format!(
                    "`{}` is declared and unsupported",
                    words(&claim.name())
                ));
            }
            _ => {}
        }
    }
    Ok(())
}
