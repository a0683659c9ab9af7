//! Every operation does what it says, and says when there was nothing to do.

use secrecy::{ExposeSecret, SecretString};

use super::bench::{Bench, Checked, Stop, ensure, failed, key, said};
use crate::connector::{Claim, ObjectRef, Operation, OperationName as Op, Outcome, Receipt};

pub(super) async fn check_is_good(bench: &Bench) -> Checked {
    match bench.connector.check().await {
        Ok(health) => {
            ensure(!health.findings.is_empty(), || {
                "the check looked at nothing".to_owned()
            })?;
            ensure(health.is_good(), || {
                format!("the check found {:?}", health.findings)
            })
        }
        Err(error) => failed(format!("the check gave an error: {}", error.whole())),
    }
}

pub(super) async fn create_twice(bench: &Bench) -> Checked {
    bench.needs(&[Op::CreateAccount])?;
    let account = bench.new_account(&bench.fresh_name());
    let name = account.name.clone();
    let receipt = bench.twice(&Operation::CreateAccount(account)).await?;
    let Some(id) = receipt.account else {
        return failed("the receipt does not name the account that was made");
    };
    bench.remember(&id);
    let found = bench.account(&ObjectRef::AccountNamed(name)).await?;
    ensure(found.id == id, || {
        format!("the receipt says `{id}`, the system says `{}`", found.id)
    })
}

pub(super) async fn create_keeps_what_it_was_given(bench: &Bench) -> Checked {
    let made = bench.make().await?;
    let wanted = bench.new_account(&made.name);
    let found = bench.account(&ObjectRef::Account(made.id.clone())).await?;
    ensure(found.name == made.name, || {
        format!("made `{}`, reads back as `{}`", made.name, found.name)
    })?;
    ensure(found.enabled != Some(false), || {
        "made enabled, reads back as disabled".to_owned()
    })?;
    if bench.can.finds_by_owner {
        ensure(found.owner.as_ref() == Some(&made.owner), || {
            format!("owner `{}` reads back as {:?}", made.owner, found.owner)
        })?;
    }
    bench
        .proven_if_declared(&Claim::AttributesAre {
            account: made.id,
            attributes: wanted.attributes,
        })
        .await
}

pub(super) async fn create_disabled(bench: &Bench) -> Checked {
    bench.needs(&[Op::CreateAccount, Op::DisableAccount])?;
    let mut account = bench.new_account(&bench.fresh_name());
    account.enabled = false;
    let made = bench.make_this(account).await?;
    let found = bench.account(&ObjectRef::Account(made.id.clone())).await?;
    ensure(found.enabled != Some(true), || {
        "made disabled, reads back as enabled".to_owned()
    })?;
    bench
        .proven_if_declared(&Claim::AccountDisabled {
            account: made.id.clone(),
        })
        .await?;
    bench
        .is_already(&Operation::DisableAccount { account: made.id })
        .await
        .map(drop)
}

pub(super) async fn update_twice(bench: &Bench) -> Checked {
    bench.needs(&[Op::CreateAccount, Op::UpdateAccount])?;
    if bench.fixture.changed.is_empty() {
        return Err(Stop::NotApplicable(
            "the fixture names no changed attributes".to_owned(),
        ));
    }
    let made = bench.make().await?;
    let attributes = super::named(&bench.fixture.changed, &made.name);
    bench
        .twice(&Operation::UpdateAccount {
            account: made.id.clone(),
            attributes: attributes.clone(),
        })
        .await?;
    bench
        .proven_if_declared(&Claim::AttributesAre {
            account: made.id.clone(),
            attributes: attributes.clone(),
        })
        .await?;

    // What the update did not name must have stayed.
    let untouched = bench
        .new_account(&made.name)
        .attributes
        .into_iter()
        .filter(|(name, _)| !attributes.contains_key(name))
        .collect();
    bench
        .proven_if_declared(&Claim::AttributesAre {
            account: made.id,
            attributes: untouched,
        })
        .await
}

pub(super) async fn disable_and_enable_twice(bench: &Bench) -> Checked {
    bench.needs(&[Op::CreateAccount, Op::DisableAccount, Op::EnableAccount])?;
    let account = bench.make().await?.id;
    for _ in 0..2 {
        bench
            .twice(&Operation::DisableAccount {
                account: account.clone(),
            })
            .await?;
        bench
            .proven_if_declared(&Claim::AccountDisabled {
                account: account.clone(),
            })
            .await?;
        bench
            .twice(&Operation::EnableAccount {
                account: account.clone(),
            })
            .await?;
        bench
            .proven_if_declared(&Claim::AccountEnabled {
                account: account.clone(),
            })
            .await?;
    }
    Ok(())
}

pub(super) async fn grant_twice(bench: &Bench) -> Checked {
    bench.needs(&[Op::CreateAccount, Op::Grant])?;
    let [entitlement, other] = bench.entitlements()?;
    let account = bench.make().await?.id;
    bench
        .twice(&Operation::Grant {
            account: account.clone(),
            entitlement: entitlement.clone(),
        })
        .await?;
    let found = bench.account(&ObjectRef::Account(account.clone())).await?;
    if let Some(held) = found.entitlements {
        ensure(held.contains(&entitlement), || {
            format!("granted `{entitlement}`, the account reads back with {held:?}")
        })?;
        ensure(!held.contains(&other), || {
            format!("`{other}` was never granted and reads back as held")
        })?;
    }
    bench
        .proven_if_declared(&Claim::Granted {
            account,
            entitlement,
        })
        .await
}

pub(super) async fn revoke_twice(bench: &Bench) -> Checked {
    bench.needs(&[Op::CreateAccount, Op::Grant, Op::Revoke])?;
    let [revoked, kept] = bench.entitlements()?;
    let account = bench.make().await?.id;
    let colleague = bench.make().await?.id;
    for (account, entitlement) in [
        (&account, &revoked),
        (&account, &kept),
        (&colleague, &revoked),
    ] {
        bench
            .does(&Operation::Grant {
                account: account.clone(),
                entitlement: entitlement.clone(),
            })
            .await?;
    }
    bench
        .twice(&Operation::Revoke {
            account: account.clone(),
            entitlement: revoked.clone(),
        })
        .await?;
    bench
        .proven_if_declared(&Claim::NotGranted {
            account: account.clone(),
            entitlement: revoked.clone(),
        })
        .await?;
    bench
        .proven_if_declared(&Claim::Granted {
            account: account.clone(),
            entitlement: kept.clone(),
        })
        .await?;
    bench
        .proven_if_declared(&Claim::Granted {
            account: colleague.clone(),
            entitlement: revoked.clone(),
        })
        .await?;

    // The last member of a group is where directories are peculiar.
    bench
        .twice(&Operation::Revoke {
            account,
            entitlement: kept,
        })
        .await?;
    bench
        .twice(&Operation::Revoke {
            account: colleague,
            entitlement: revoked,
        })
        .await
        .map(drop)
}

pub(super) async fn delete_twice(bench: &Bench) -> Checked {
    bench.needs(&[Op::CreateAccount, Op::DeleteAccount])?;
    let made = bench.make().await?;
    // An account that holds something is the usual one to be deleted.
    if bench.can.operations.contains(&Op::Grant)
        && let Ok([entitlement, _]) = bench.entitlements()
    {
        bench
            .does(&Operation::Grant {
                account: made.id.clone(),
                entitlement,
            })
            .await?;
    }
    bench
        .twice(&Operation::DeleteAccount {
            account: made.id.clone(),
        })
        .await?;
    bench
        .is_missing(&ObjectRef::Account(made.id.clone()))
        .await?;
    bench
        .is_missing(&ObjectRef::AccountNamed(made.name))
        .await?;
    bench
        .proven_if_declared(&Claim::AccountAbsent { account: made.id })
        .await
}

pub(super) async fn set_password_twice(bench: &Bench) -> Checked {
    bench.needs(&[Op::CreateAccount, Op::SetPassword])?;
    let account = bench.make().await?.id;
    let set = Operation::SetPassword {
        account,
        password: bench.fixture.password.clone(),
    };
    bench.succeeds(&set).await?;
    bench.succeeds(&set).await.map(drop)
}

pub(super) async fn end_sessions_twice(bench: &Bench) -> Checked {
    bench.needs(&[Op::CreateAccount, Op::EndSessions])?;
    let account = bench.make().await?.id;
    let end = Operation::EndSessions { account };
    bench.succeeds(&end).await?;
    bench.succeeds(&end).await.map(drop)
}

pub(super) async fn transfer_twice(bench: &Bench) -> Checked {
    bench.needs(&[Op::CreateAccount, Op::TransferOwnership])?;
    let (from, to) = (bench.make().await?.id, bench.make().await?.id);
    let transfer = Operation::TransferOwnership { from, to };
    bench.succeeds(&transfer).await?;
    bench.succeeds(&transfer).await.map(drop)
}

pub(super) async fn action_twice(bench: &Bench) -> Checked {
    bench.needs(&[Op::Action])?;
    let Some((name, with)) = bench.fixture.action.clone() else {
        return Err(Stop::NotApplicable(
            "the fixture names no action".to_owned(),
        ));
    };
    let action = Operation::Action { name, with };
    bench.succeeds(&action).await?;
    bench.succeeds(&action).await.map(drop)
}

pub(super) async fn no_secret_in_receipts(bench: &Bench) -> Checked {
    bench.needs(&[Op::CreateAccount])?;
    let password = &bench.fixture.password;
    let mut account = bench.new_account(&bench.fresh_name());
    account.password = Some(password.clone());
    match bench
        .apply(&Operation::CreateAccount(account.clone()), &key())
        .await
    {
        Ok(Outcome::Done(receipt)) => {
            if let Some(id) = &receipt.account {
                bench.remember(id);
            }
            holds_no_secret(&receipt, password)?;
            if let (Some(account), true) = (
                receipt.account,
                bench.can.operations.contains(&Op::SetPassword),
            ) {
                let set = Operation::SetPassword {
                    account,
                    password: password.clone(),
                };
                holds_no_secret(&bench.succeeds(&set).await?, password)?;
            }
            Ok(())
        }
        // A system that holds no passwords may refuse one, and must say so; it may not repeat it.
        Err(error) if ["invalid", "unsupported"].contains(&error.kind.as_str()) => {
            ensure(!error.whole().contains(password.expose_secret()), || {
                "the error repeats the password".to_owned()
            })
        }
        other => failed(format!(
            "create with a password: expected done, got {}",
            said(&other)
        )),
    }
}

fn holds_no_secret(receipt: &Receipt, secret: &SecretString) -> Checked {
    let text = serde_json::to_string(receipt).unwrap_or_default();
    ensure(!text.contains(secret.expose_secret()), || {
        "the receipt holds the password".to_owned()
    })
}
