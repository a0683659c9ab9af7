//! Credentials are listed, and ended one by one.

use super::bench::{Bench, Checked, Stop, ensure, failed, key, said};
use crate::connector::{
    Claim, ClaimName, Credential, CredentialId, CredentialKind, NativeId, ObjectRef, Operation,
    OperationName as Op, Outcome, Renewal,
};

/// Identifiers that look like patterns, queries or paths.
const HOSTILE: [&str; 8] = [
    "*",
    "%",
    "ssh_key:*",
    "certificate:",
    "' or '1'='1",
    "../1",
    "password\0",
    "\" or \"\"=\"",
];

/// An account that has at least one credential, and what it has. Where a password is the only kind, that is it.
pub(super) async fn planted(bench: &Bench) -> Checked<(NativeId, Vec<Credential>)> {
    if bench.can.credentials.is_empty() || bench.can.by_hand {
        return Err(Stop::NotApplicable(
            "no kind of credential is declared".to_owned(),
        ));
    }
    let fixture = &bench.fixture;
    let account = if !fixture.credential_attributes.is_empty() {
        let account = bench.make().await?.id;
        let attributes = fixture.credential_attributes.clone();
        bench
            .does(&Operation::UpdateAccount {
                account: account.clone(),
                attributes,
            })
            .await?;
        account
    } else if let Some((name, with)) = &fixture.credential_action {
        let account = bench.make().await?.id;
        for _ in 0..2 {
            let with = super::filled(with, "{account}", account.as_str());
            let name = name.clone();
            bench.does(&Operation::Action { name, with }).await?;
        }
        account
    } else if bench.can.credentials.contains(&CredentialKind::Password) {
        bench.make_with_password(&fixture.password).await?.id
    } else if let Some(account) = planted_through_the_door(bench).await? {
        account
    } else {
        return Err(Stop::NotApplicable(
            "the fixture knows no way to give an account a credential".to_owned(),
        ));
    };
    let credentials = list(bench, &account).await?;
    ensure(!credentials.is_empty(), || {
        "an account was given a credential and none is listed".to_owned()
    })?;
    Ok((account, credentials))
}

async fn planted_through_the_door(bench: &Bench) -> Checked<Option<NativeId>> {
    let Some(door) = &bench.fixture.door else {
        return Ok(None);
    };
    let account = bench.make().await?.id;
    let found = bench.account(&ObjectRef::Account(account.clone())).await?;
    match door.plants(&found).await {
        Ok(planted) => Ok(planted.then_some(account)),
        Err(error) => failed(format!("cannot give it a credential: {error}")),
    }
}

pub(super) async fn list(bench: &Bench, account: &NativeId) -> Checked<Vec<Credential>> {
    match bench.connector.credentials(account).await {
        Ok(listed) => Ok(listed.value),
        Err(error) => failed(format!(
            "credentials of `{account}`: {}: {}",
            error.kind.as_str(),
            error.whole()
        )),
    }
}

/// What is listed and not said to be inactive.
async fn usable(bench: &Bench, account: &NativeId) -> Checked<Vec<CredentialId>> {
    let listed = list(bench, account).await?.into_iter();
    Ok(listed
        .filter(|credential| credential.active != Some(false))
        .map(|credential| credential.id)
        .collect())
}

pub(super) async fn listed(bench: &Bench) -> Checked {
    let (account, credentials) = planted(bench).await?;
    for credential in &credentials {
        ensure(bench.can.credentials.contains(&credential.kind), || {
            format!("`{}` is of a kind that is not declared", credential.id)
        })?;
        let same = credentials.iter().filter(|it| it.id == credential.id);
        ensure(same.count() == 1, || {
            format!("`{}` is listed twice", credential.id)
        })?;
    }
    let again = list(bench, &account).await?;
    ensure(again == credentials, || {
        format!("two listings differ: {credentials:?}, then {again:?}")
    })?;
    if bench.can.operations.contains(&Op::DeleteAccount) {
        let gone = bench.missing_id().await?;
        ensure(list(bench, &gone).await?.is_empty(), || {
            "an account that does not exist has credentials".to_owned()
        })?;
    }
    Ok(())
}

pub(super) async fn renewal(bench: &Bench) -> Checked {
    if !bench.can.renewal {
        return Err(Stop::NotApplicable("`renewal` is not declared".to_owned()));
    }
    let (account, credentials) = planted(bench).await?;
    for credential in &credentials {
        if let Some(window) = asked(bench, &account, &credential.id).await?.window {
            ensure(window.start <= window.end, || {
                format!("`{}` is to be renewed within {window:?}", credential.id)
            })?;
        }
    }
    let nothing = asked(bench, &account, &CredentialId::new("nothing")).await?;
    ensure(nothing.window.is_none(), || {
        format!("a credential that does not exist is to be renewed: {nothing:?}")
    })
}

async fn asked(bench: &Bench, account: &NativeId, id: &CredentialId) -> Checked<Renewal> {
    let asked = bench.connector.renewal(account, id).await;
    asked.map_err(|error| Stop::Failed(format!("renewal of `{id}`: {}", error.whole())))
}

pub(super) async fn destroy_twice(bench: &Bench) -> Checked {
    let ends = |account, credential| Operation::DestroyCredential {
        account,
        credential,
    };
    ended_twice(bench, Op::DestroyCredential, ends).await
}

pub(super) async fn deactivate_twice(bench: &Bench) -> Checked {
    let ends = |account, credential| Operation::DeactivateCredential {
        account,
        credential,
    };
    ended_twice(bench, Op::DeactivateCredential, ends).await
}

async fn ended_twice(
    bench: &Bench,
    operation: Op,
    ends: fn(NativeId, CredentialId) -> Operation,
) -> Checked {
    bench.needs(&[Op::CreateAccount, operation])?;
    let (account, credentials) = planted(bench).await?;
    let (colleague, _) = planted(bench).await?;
    let colleague_has = usable(bench, &colleague).await?;
    let Some((ended, others)) = credentials.split_first() else {
        return failed("nothing to end");
    };
    bench
        .twice(&ends(account.clone(), ended.id.clone()))
        .await?;
    let left = usable(bench, &account).await?;
    ensure(!left.contains(&ended.id), || {
        format!("`{}` was ended and is still listed as usable", ended.id)
    })?;
    for other in others {
        ensure(left.contains(&other.id), || {
            format!("`{}` was ended with `{}`", other.id, ended.id)
        })?;
    }
    let colleague_now = usable(bench, &colleague).await?;
    ensure(colleague_now == colleague_has, || {
        format!("somebody else had {colleague_has:?} and now has {colleague_now:?}")
    })?;
    bench
        .proven_if_declared(&Claim::CredentialInactive {
            account,
            credential: ended.id.clone(),
        })
        .await
}

pub(super) async fn claimed_both_ways(bench: &Bench) -> Checked {
    bench.needs_claim(ClaimName::CredentialInactive)?;
    bench.needs(&[Op::CreateAccount, Op::DestroyCredential])?;
    let (account, credentials) = planted(bench).await?;
    for credential in credentials {
        let claim = Claim::CredentialInactive {
            account: account.clone(),
            credential: credential.id.clone(),
        };
        bench.refuted(&claim).await?;
        bench
            .does(&Operation::DestroyCredential {
                account: account.clone(),
                credential: credential.id,
            })
            .await?;
        bench.proven(&claim).await?;
    }
    let gone = bench.missing_id().await?;
    bench
        .proven(&Claim::CredentialInactive {
            account: gone,
            credential: CredentialId::new("nothing"),
        })
        .await
        .map(drop)
}

pub(super) async fn hostile(bench: &Bench) -> Checked {
    bench.needs(&[Op::CreateAccount, Op::DestroyCredential])?;
    let (account, _) = planted(bench).await?;
    let before = usable(bench, &account).await?;
    for text in HOSTILE {
        let destroy = Operation::DestroyCredential {
            account: account.clone(),
            credential: CredentialId::new(text),
        };
        match bench.apply(&destroy, &key()).await {
            Ok(Outcome::AlreadySo(_)) => {}
            Err(error) if ["not_found", "invalid"].contains(&error.kind.as_str()) => {}
            other => {
                return failed(format!(
                    "destroy `{}`: expected already so, not_found or invalid, got {}",
                    text.escape_debug(),
                    said(&other)
                ));
            }
        }
        let now = usable(bench, &account).await?;
        ensure(now == before, || {
            format!("`{}` ended something", text.escape_debug())
        })?;
    }
    Ok(())
}
