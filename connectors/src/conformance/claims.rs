//! Every declared claim is proven when it holds and refuted when it does not.

use serde_json::Value;

use super::bench::{Bench, Checked, Stop, ensure, failed};
use crate::connector::{Attributes, Claim, ClaimName, Operation, OperationName as Op, Verdict};

pub(super) async fn account_exists(bench: &Bench) -> Checked {
    bench.needs_claim(ClaimName::AccountExists)?;
    let made = bench.make().await?;
    let seen = bench
        .proven(&Claim::AccountExists {
            owner: made.owner.clone(),
        })
        .await?;
    ensure(seen.account.as_ref() == Some(&made.id), || {
        format!(
            "the observation should name the account `{}` and names {:?}",
            made.id, seen.account
        )
    })?;
    bench
        .refuted(&Claim::AccountExists {
            owner: format!("{}-nobody", made.owner),
        })
        .await?;
    if bench.can.operations.contains(&Op::DeleteAccount) {
        bench
            .does(&Operation::DeleteAccount { account: made.id })
            .await?;
        bench
            .refuted(&Claim::AccountExists { owner: made.owner })
            .await?;
    }
    Ok(())
}

pub(super) async fn enabled_and_disabled(bench: &Bench) -> Checked {
    let (enabled, disabled) = (
        bench.can.claims.contains(&ClaimName::AccountEnabled),
        bench.can.claims.contains(&ClaimName::AccountDisabled),
    );
    if !enabled && !disabled {
        return bench.needs_claim(ClaimName::AccountEnabled);
    }
    bench.needs(&[Op::DisableAccount])?;
    let account = bench.make().await?.id;
    let is_enabled = Claim::AccountEnabled {
        account: account.clone(),
    };
    let is_disabled = Claim::AccountDisabled {
        account: account.clone(),
    };
    if enabled {
        bench.proven(&is_enabled).await?;
    }
    if disabled {
        bench.refuted(&is_disabled).await?;
    }
    bench.does(&Operation::DisableAccount { account }).await?;
    if enabled {
        bench.refuted(&is_enabled).await?;
    }
    if disabled {
        bench.proven(&is_disabled).await?;
    }
    Ok(())
}

pub(super) async fn account_absent(bench: &Bench) -> Checked {
    bench.needs_claim(ClaimName::AccountAbsent)?;
    let account = bench.make().await?.id;
    let absent = Claim::AccountAbsent {
        account: account.clone(),
    };
    bench.refuted(&absent).await?;
    if bench.can.operations.contains(&Op::DisableAccount) {
        bench
            .does(&Operation::DisableAccount {
                account: account.clone(),
            })
            .await?;
        bench.refuted(&absent).await?;
    }
    bench.needs(&[Op::DeleteAccount])?;
    bench.does(&Operation::DeleteAccount { account }).await?;
    bench.proven(&absent).await.map(drop)
}

pub(super) async fn attributes_are(bench: &Bench) -> Checked {
    bench.needs_claim(ClaimName::AttributesAre)?;
    let made = bench.make().await?;
    let given = bench.new_account(&made.name).attributes;
    let changed = super::named(&bench.fixture.changed, &made.name);
    let claim = |attributes: &Attributes| Claim::AttributesAre {
        account: made.id.clone(),
        attributes: attributes.clone(),
    };
    bench.proven(&claim(&given)).await?;
    if changed.is_empty() {
        return Err(Stop::NotApplicable(
            "the fixture names no changed attributes".to_owned(),
        ));
    }
    bench.refuted(&claim(&changed)).await?;
    // One wrong value among right ones is enough.
    let mut one_wrong = given;
    if let Some((name, value)) = changed.iter().next() {
        one_wrong.insert(name.clone(), value.clone());
    }
    bench.refuted(&claim(&one_wrong)).await?;
    if bench.can.operations.contains(&Op::UpdateAccount) {
        bench
            .does(&Operation::UpdateAccount {
                account: made.id.clone(),
                attributes: changed.clone(),
            })
            .await?;
        bench.proven(&claim(&changed)).await?;
    }
    Ok(())
}

pub(super) async fn granted_and_not_granted(bench: &Bench) -> Checked {
    let (granted, not_granted) = (
        bench.can.claims.contains(&ClaimName::Granted),
        bench.can.claims.contains(&ClaimName::NotGranted),
    );
    if !granted && !not_granted {
        return bench.needs_claim(ClaimName::Granted);
    }
    bench.needs(&[Op::CreateAccount, Op::Grant])?;
    let [entitlement, other] = bench.entitlements()?;
    let account = bench.make().await?.id;
    let grant = Operation::Grant {
        account: account.clone(),
        entitlement: entitlement.clone(),
    };
    let holds = Claim::Granted {
        account: account.clone(),
        entitlement: entitlement.clone(),
    };
    let lacks = Claim::NotGranted {
        account: account.clone(),
        entitlement: entitlement.clone(),
    };
    let lacks_other = Claim::NotGranted {
        account: account.clone(),
        entitlement: other,
    };

    if granted {
        bench.refuted(&holds).await?;
    }
    if not_granted {
        bench.proven(&lacks).await?;
    }
    bench.does(&grant).await?;
    if granted {
        bench.proven(&holds).await?;
    }
    if not_granted {
        bench.refuted(&lacks).await?;
        bench.proven(&lacks_other).await?;
    }
    if bench.can.operations.contains(&Op::Revoke) {
        bench
            .does(&Operation::Revoke {
                account,
                entitlement,
            })
            .await?;
        if granted {
            bench.refuted(&holds).await?;
        }
        if not_granted {
            bench.proven(&lacks).await?;
        }
    }
    Ok(())
}

/// An account that is not there is absent and disabled and holds nothing; it is nothing else.
pub(super) async fn missing_account(bench: &Bench) -> Checked {
    bench.needs(&[])?;
    let account = bench.missing_id().await?;
    let mut proven = vec![
        Claim::AccountAbsent {
            account: account.clone(),
        },
        Claim::AccountDisabled {
            account: account.clone(),
        },
    ];
    let mut refuted = vec![Claim::AccountEnabled {
        account: account.clone(),
    }];
    if let Some((name, value)) = bench.fixture.changed.iter().next() {
        let attributes = Attributes::from([(name.clone(), value.clone())]);
        refuted.push(Claim::AttributesAre {
            account: account.clone(),
            attributes,
        });
    }
    if let Ok([entitlement, _]) = bench.entitlements() {
        proven.push(Claim::NotGranted {
            account: account.clone(),
            entitlement: entitlement.clone(),
        });
        refuted.push(Claim::Granted {
            account,
            entitlement,
        });
    }
    for claim in proven
        .iter()
        .filter(|claim| bench.can.claims.contains(&claim.name()))
    {
        bench.proven(claim).await?;
    }
    for claim in refuted
        .iter()
        .filter(|claim| bench.can.claims.contains(&claim.name()))
    {
        bench.refuted(claim).await?;
    }
    Ok(())
}

pub(super) async fn no_sessions(bench: &Bench) -> Checked {
    bench.needs_claim(ClaimName::NoSessions)?;
    let account = bench.make().await?.id;
    match bench.verify(&Claim::NoSessions { account }).await? {
        Verdict::Proven(seen) => ensure(seen.seen != Value::Null, || {
            "the observation says nothing about what was seen".to_owned()
        }),
        other => failed(format!("nobody logged in, yet the answer is {other:?}")),
    }
}
