//! The effect, not the answer: through the system's own front door, where the fixture knows it.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use super::bench::{Bench, Checked, Stop, ensure};
use super::fixture::Door;
use crate::connector::{Claim, ClaimName, NativeId, ObjectRef, Operation, OperationName as Op};

fn door(bench: &Bench) -> Checked<Arc<dyn Door>> {
    bench.fixture.door.clone().ok_or_else(|| {
        Stop::NotApplicable("the fixture has no way in apart from the connector".to_owned())
    })
}

async fn opens(bench: &Bench, account: &NativeId, password: &SecretString) -> Checked<bool> {
    let found = bench.account(&ObjectRef::Account(account.clone())).await?;
    door(bench)?
        .opens(&found, password)
        .await
        .map_err(|error| Stop::Failed(format!("login not tried: {error}")))
}

pub(super) async fn disabled_cannot_log_in(bench: &Bench) -> Checked {
    door(bench)?;
    bench.needs(&[Op::CreateAccount, Op::DisableAccount])?;
    let password = bench.fixture.password.clone();
    let account = bench.make_with_password(&password).await?.id;
    ensure(opens(bench, &account, &password).await?, || {
        "a new account cannot log in".to_owned()
    })?;
    bench
        .does(&Operation::DisableAccount {
            account: account.clone(),
        })
        .await?;
    ensure(!opens(bench, &account, &password).await?, || {
        "a disabled account logs in".to_owned()
    })?;
    if bench.can.operations.contains(&Op::EnableAccount) {
        bench
            .does(&Operation::EnableAccount {
                account: account.clone(),
            })
            .await?;
        ensure(opens(bench, &account, &password).await?, || {
            "an enabled account cannot log in".to_owned()
        })?;
    }
    Ok(())
}

pub(super) async fn password_changes(bench: &Bench) -> Checked {
    door(bench)?;
    bench.needs(&[Op::CreateAccount, Op::SetPassword])?;
    let old = bench.fixture.password.clone();
    let new = SecretString::from(format!("{}-Second2", old.expose_secret()));
    let account = bench.make_with_password(&old).await?.id;
    bench
        .succeeds(&Operation::SetPassword {
            account: account.clone(),
            password: new.clone(),
        })
        .await?;
    ensure(opens(bench, &account, &new).await?, || {
        "the new password does not work".to_owned()
    })?;
    ensure(!opens(bench, &account, &old).await?, || {
        "the old password still works".to_owned()
    })
}

pub(super) async fn credentials_end(bench: &Bench) -> Checked {
    let door = door(bench)?;
    bench.needs(&[Op::CreateAccount, Op::DestroyCredential])?;
    let (account, credentials) = super::credentials::planted(bench).await?;
    let found = bench.account(&ObjectRef::Account(account.clone())).await?;
    let mut tried = 0;
    for credential in credentials {
        let takes = async || {
            door.takes(&found, &credential)
                .await
                .map_err(|error| Stop::Failed(format!("not tried: {error}")))
        };
        let Some(before) = takes().await? else {
            continue;
        };
        tried += 1;
        ensure(before, || {
            format!("`{}` is listed and proves nothing", credential.id)
        })?;
        bench
            .does(&Operation::DestroyCredential {
                account: account.clone(),
                credential: credential.id.clone(),
            })
            .await?;
        ensure(takes().await? == Some(false), || {
            format!("`{}` was destroyed and still works", credential.id)
        })?;
    }
    if tried == 0 {
        return Err(Stop::NotApplicable(
            "the fixture's way in knows none of these credentials".to_owned(),
        ));
    }
    Ok(())
}

pub(super) async fn sessions_end(bench: &Bench) -> Checked {
    let door = door(bench)?;
    bench.needs(&[Op::CreateAccount, Op::EndSessions])?;
    let password = bench.fixture.password.clone();
    let account = bench.make_with_password(&password).await?.id;
    let found = bench.account(&ObjectRef::Account(account.clone())).await?;
    let entered = door
        .enter(&found, &password)
        .await
        .map_err(|error| Stop::Failed(format!("cannot log in: {error}")))?;
    let Some(session) = entered else {
        return Err(Stop::NotApplicable("the system has no sessions".to_owned()));
    };
    let none = Claim::NoSessions {
        account: account.clone(),
    };
    if bench.can.claims.contains(&ClaimName::NoSessions) {
        bench.refuted(&none).await?;
    }
    bench.does(&Operation::EndSessions { account }).await?;
    if bench.can.claims.contains(&ClaimName::NoSessions) {
        bench.proven(&none).await?;
    }
    drop(session);
    Ok(())
}
