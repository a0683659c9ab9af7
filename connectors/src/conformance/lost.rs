//! The answer never came, or the caller died: what was done is found by reading, and nothing is done twice.

use std::time::Duration;

use super::bench::{Bench, Checked, Made, Stop, ensure, failed, key, said};
use crate::connector::{
    Claim, ClaimName, Object, ObjectRef, Operation, OperationKey, OperationName as Op, Outcome,
    RetryClass,
};

/// After how long a create is dropped, over and over: before it leaves, on its way, after its answer.
const DROPPED_AFTER_US: [u64; 7] = [0, 200, 1_000, 3_000, 8_000, 20_000, 60_000];
/// How often a create is repeated while the dropped one may still be under way in the system.
const REPEATS_MAX: u32 = 20;
/// The pause between two of them.
const REPEAT_PAUSE_MS: u64 = 50;

pub(super) async fn create(bench: &Bench) -> Checked {
    bench.needs_owner_lookup()?;
    bench.needs(&[Op::CreateAccount])?;
    let account = bench.new_account(&bench.fresh_name());
    let (name, owner) = (account.name.clone(), account.owner.clone());
    let first = key();
    let operation = Operation::CreateAccount(account);
    // The answer is thrown away: from here on only the system knows.
    let _ = bench.apply(&operation, &first).await;

    let found = bench
        .account(&ObjectRef::AccountOwnedBy(owner.clone()))
        .await?;
    bench.remember(&found.id);
    let made = Made {
        id: found.id,
        name,
        owner: owner.clone(),
    };
    if bench.can.claims.contains(&ClaimName::AccountExists) {
        let seen = bench.proven(&Claim::AccountExists { owner }).await?;
        ensure(seen.account.as_ref() == Some(&made.id), || {
            "the claim names another account".to_owned()
        })?;
    }
    match bench
        .apply(
            &operation,
            &OperationKey {
                attempt: 2,
                ..first
            },
        )
        .await
    {
        Ok(Outcome::AlreadySo(receipt)) => {
            ensure(receipt.account.as_ref() == Some(&made.id), || {
                format!(
                    "the repeated create names {:?} instead of `{}`",
                    receipt.account, made.id
                )
            })?
        }
        other => {
            return failed(format!(
                "repeated create: expected already so, got {}",
                said(&other)
            ));
        }
    }
    bench.ensure_one_account(&made).await
}

pub(super) async fn grant_and_revoke(bench: &Bench) -> Checked {
    bench.needs(&[Op::CreateAccount, Op::Grant, Op::Revoke])?;
    let [entitlement, _] = bench.entitlements()?;
    let account = bench.make().await?.id;
    let grant = Operation::Grant {
        account: account.clone(),
        entitlement: entitlement.clone(),
    };
    let _ = bench.apply(&grant, &key()).await;
    bench
        .proven_if_declared(&Claim::Granted {
            account: account.clone(),
            entitlement: entitlement.clone(),
        })
        .await?;
    bench.is_already(&grant).await?;
    let revoke = Operation::Revoke {
        account: account.clone(),
        entitlement: entitlement.clone(),
    };
    let _ = bench.apply(&revoke, &key()).await;
    bench
        .proven_if_declared(&Claim::NotGranted {
            account,
            entitlement,
        })
        .await?;
    bench.is_already(&revoke).await.map(drop)
}

pub(super) async fn disable_and_delete(bench: &Bench) -> Checked {
    bench.needs(&[Op::CreateAccount, Op::DisableAccount])?;
    let account = bench.make().await?.id;
    let disable = Operation::DisableAccount {
        account: account.clone(),
    };
    let _ = bench.apply(&disable, &key()).await;
    bench
        .proven_if_declared(&Claim::AccountDisabled {
            account: account.clone(),
        })
        .await?;
    bench.is_already(&disable).await?;
    if bench.can.operations.contains(&Op::DeleteAccount) {
        let delete = Operation::DeleteAccount {
            account: account.clone(),
        };
        let _ = bench.apply(&delete, &key()).await;
        bench
            .proven_if_declared(&Claim::AccountAbsent { account })
            .await?;
        bench.is_already(&delete).await?;
    }
    Ok(())
}

/// Drops the call itself: the connector must survive that (no poisoned connection, no answer of one
/// request taken for the next one's) and the system must end up with one account.
pub(super) async fn create_dropped(bench: &Bench) -> Checked {
    bench.needs(&[Op::CreateAccount])?;
    for after_us in DROPPED_AFTER_US {
        let account = bench.new_account(&bench.fresh_name());
        let (name, owner) = (account.name.clone(), account.owner.clone());
        let first = key();
        let operation = Operation::CreateAccount(account);
        let _ = tokio::time::timeout(
            Duration::from_micros(after_us),
            bench.connector.apply(&operation, &first),
        )
        .await;
        let made = repeat_until_made(bench, &operation, &first, &name, &owner).await?;
        bench.ensure_one_account(&made).await?;
    }
    Ok(())
}

/// Repeats as the engine would: an error it may retry is retried, everything else is a failure.
async fn repeat_until_made(
    bench: &Bench,
    operation: &Operation,
    first: &OperationKey,
    name: &str,
    owner: &str,
) -> Checked<Made> {
    let mut last = String::new();
    for attempt in 2..REPEATS_MAX {
        match bench
            .apply(
                operation,
                &OperationKey {
                    attempt,
                    ..first.clone()
                },
            )
            .await
        {
            Ok(Outcome::Done(receipt) | Outcome::AlreadySo(receipt)) => {
                let Some(id) = receipt.account else {
                    return failed("the repeated create's receipt names no account");
                };
                bench.remember(&id);
                return Ok(Made {
                    id,
                    name: name.to_owned(),
                    owner: owner.to_owned(),
                });
            }
            Err(error) if error.retry_class() == RetryClass::Never => {
                return failed(format!(
                    "repeating a dropped create: {}: {}",
                    error.kind.as_str(),
                    error.whole()
                ));
            }
            other => last = said(&other),
        }
        tokio::time::sleep(Duration::from_millis(REPEAT_PAUSE_MS)).await;
    }
    failed(format!(
        "a dropped create could not be repeated; the last answer was {last}"
    ))
}

pub(super) async fn two_creates_at_once(bench: &Bench) -> Checked {
    bench.needs(&[Op::CreateAccount])?;
    let account = bench.new_account(&bench.fresh_name());
    let (name, owner) = (account.name.clone(), account.owner.clone());
    let operation = Operation::CreateAccount(account);
    let (first, second) = (key(), key());
    let (one, other) = tokio::join!(
        bench.apply(&operation, &first),
        bench.apply(&operation, &second)
    );
    for answer in [&one, &other] {
        match answer {
            Err(error) if error.retry_class() == RetryClass::Never => {
                return failed(format!(
                    "two creates at once: {}: {}",
                    error.kind.as_str(),
                    error.whole()
                ));
            }
            _ => {}
        }
    }
    let both_done = matches!((&one, &other), (Ok(Outcome::Done(_)), Ok(Outcome::Done(_))));
    let made = match bench.get(&ObjectRef::AccountNamed(name.clone())).await? {
        Some(Object::Account(found)) => Made {
            id: found.id,
            name,
            owner,
        },
        _ => {
            return Err(Stop::Failed(
                "two creates at once made no account".to_owned(),
            ));
        }
    };
    bench.remember(&made.id);
    ensure(!both_done, || "both creates say they made it".to_owned())?;
    bench.ensure_one_account(&made).await
}
