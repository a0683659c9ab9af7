//! What must be refused is refused with the kind of error that the engine acts on.

use serde_json::Value;

use super::bench::{Bench, Checked, Stop, ensure, failed, key, said};
use crate::connector::{
    Claim, CredentialId, EntitlementName, Object, ObjectRef, Operation, OperationName as Op,
    Outcome,
};

pub(super) async fn name_conflict(bench: &Bench) -> Checked {
    let made = bench.make().await?;
    let mut stranger = bench.new_account(&made.name);
    stranger.owner = format!("{}-stranger", made.owner);
    let stranger_owner = stranger.owner.clone();
    bench
        .refused(&Operation::CreateAccount(stranger), &["conflict"])
        .await?;

    let found = bench
        .account(&ObjectRef::AccountNamed(made.name.clone()))
        .await?;
    ensure(found.id == made.id, || {
        format!("`{}` became `{}` by a refused create", made.id, found.id)
    })?;
    if bench.can.finds_by_owner {
        ensure(found.owner.as_ref() == Some(&made.owner), || {
            format!("a refused create changed the owner to {:?}", found.owner)
        })?;
        bench
            .is_missing(&ObjectRef::AccountOwnedBy(stranger_owner))
            .await?;
    }
    Ok(())
}

pub(super) async fn one_account_for_one_owner(bench: &Bench) -> Checked {
    bench.needs_owner_lookup()?;
    let made = bench.make().await?;
    let mut second = bench.new_account(&bench.fresh_name());
    second.owner.clone_from(&made.owner);
    let second_name = second.name.clone();
    match bench.create(second, &key()).await {
        Ok((id, Outcome::AlreadySo(_))) if id == made.id => {}
        Err(error) if error.kind.as_str() == "conflict" => {}
        other => {
            return failed(format!(
                "a second name for the same owner: expected already so with the first account, or conflict; got {}",
                said(&other.map(|made| made.1))
            ));
        }
    }
    bench
        .is_missing(&ObjectRef::AccountNamed(second_name))
        .await?;
    bench.ensure_one_account(&made).await
}

pub(super) async fn missing_account(bench: &Bench) -> Checked {
    bench.needs(&[])?;
    let account = bench.missing_id().await?;
    let entitlement = bench.entitlements().ok();
    let must_be_there = [
        Operation::EnableAccount {
            account: account.clone(),
        },
        Operation::UpdateAccount {
            account: account.clone(),
            attributes: super::named(&bench.fixture.changed, "nobody"),
        },
        Operation::SetPassword {
            account: account.clone(),
            password: bench.fixture.password.clone(),
        },
    ];
    let grants = entitlement.into_iter().flat_map(|[entitlement, _]| {
        [
            Operation::Grant {
                account: account.clone(),
                entitlement: entitlement.clone(),
            },
            Operation::Revoke {
                account: account.clone(),
                entitlement,
            },
        ]
    });
    for operation in must_be_there.into_iter().chain(grants) {
        if bench.can.operations.contains(&operation.name()) {
            bench.refused(&operation, &["not_found"]).await?;
        }
    }

    // What is not there is disabled, has no sessions and no keys: both answers are right, an effect is not.
    for operation in [
        Operation::DisableAccount {
            account: account.clone(),
        },
        Operation::EndSessions {
            account: account.clone(),
        },
        Operation::DestroyCredential {
            account: account.clone(),
            credential: CredentialId::new("a credential"),
        },
    ] {
        if bench.can.operations.contains(&operation.name()) {
            match bench.apply(&operation, &key()).await {
                Ok(Outcome::AlreadySo(_)) => {}
                Err(error) if error.kind.as_str() == "not_found" => {}
                other => {
                    return failed(format!(
                        "{} of a missing account: expected not_found or already so, got {}",
                        operation.name().as_str(),
                        said(&other)
                    ));
                }
            }
        }
    }
    if bench.can.operations.contains(&Op::DeleteAccount) {
        bench
            .is_already(&Operation::DeleteAccount { account })
            .await?;
    }
    Ok(())
}

pub(super) async fn unknown_entitlement(bench: &Bench) -> Checked {
    bench.needs(&[Op::CreateAccount, Op::Grant])?;
    let account = bench.make().await?.id;
    let unknown = EntitlementName::new(format!("{}unknown", bench.fixture.prefix));
    bench
        .refused(
            &Operation::Grant {
                account: account.clone(),
                entitlement: unknown.clone(),
            },
            &["not_found"],
        )
        .await?;
    bench
        .is_missing(&ObjectRef::Entitlement(unknown.clone()))
        .await?;
    if bench.can.operations.contains(&Op::Revoke) {
        let revoke = Operation::Revoke {
            account: account.clone(),
            entitlement: unknown.clone(),
        };
        match bench.apply(&revoke, &key()).await {
            Ok(Outcome::AlreadySo(_)) => {}
            Err(error) if error.kind.as_str() == "not_found" => {}
            other => {
                return failed(format!(
                    "revoke of an unknown entitlement: expected not_found or already so, got {}",
                    said(&other)
                ));
            }
        }
    }
    if bench
        .can
        .claims
        .contains(&crate::connector::ClaimName::Granted)
    {
        match bench
            .connector
            .verify(&Claim::Granted {
                account,
                entitlement: unknown,
            })
            .await
        {
            Ok(crate::connector::Verdict::Refuted(_)) => {}
            Err(error) if error.kind.as_str() == "not_found" => {}
            other => {
                return failed(format!(
                    "verify granted of an unknown entitlement: got {other:?}"
                ));
            }
        }
    }
    Ok(())
}

pub(super) async fn name_length(bench: &Bench) -> Checked {
    bench.needs(&[Op::CreateAccount])?;
    let Some(longest) = bench.fixture.name_bytes_max else {
        return Err(Stop::NotApplicable(
            "the fixture names no longest name".to_owned(),
        ));
    };
    let fill = |bytes: usize| {
        let name = bench.fresh_name();
        let missing = bytes.saturating_sub(name.len());
        name + &"x".repeat(missing)
    };
    let made = bench.make_this(bench.new_account(&fill(longest))).await?;
    let found = bench.account(&ObjectRef::Account(made.id)).await?;
    ensure(found.name == made.name, || {
        format!("`{}` was kept as `{}`", made.name, found.name)
    })?;

    let too_long = bench.new_account(&fill(longest.saturating_add(1)));
    let cut: String = too_long.name.chars().take(longest).collect();
    bench
        .refused(&Operation::CreateAccount(too_long), &["invalid"])
        .await?;
    match bench.get(&ObjectRef::AccountNamed(cut.clone())).await? {
        None => Ok(()),
        Some(Object::Account(account)) => {
            bench.remember(&account.id);
            failed(format!("a name too long was cut to `{cut}`"))
        }
        Some(other) => failed(format!(
            "looking for an account found {:?}",
            Value::String(format!("{other:?}"))
        )),
    }
}
