//! What an account owns goes to its heir, all of it.

use super::bench::{Bench, Checked, Stop, ensure};
use crate::connector::{Claim, ClaimName, NativeId, ObjectRef, Operation, OperationName as Op};

/// Makes the account own something, one way or the other.
async fn own_something(bench: &Bench, account: &NativeId) -> Checked {
    if let Some((name, with)) = &bench.fixture.ownership_action {
        let with = super::filled(with, "{account}", account.as_str());
        let name = name.clone();
        return bench
            .does(&Operation::Action { name, with })
            .await
            .map(drop);
    }
    let found = bench.account(&ObjectRef::Account(account.clone())).await?;
    let given = match &bench.fixture.door {
        Some(door) => door
            .gives(&found)
            .await
            .map_err(|error| Stop::Failed(format!("cannot give it anything: {error}")))?,
        None => false,
    };
    if given {
        Ok(())
    } else {
        Err(Stop::NotApplicable(
            "the fixture knows no way to make an account own something".to_owned(),
        ))
    }
}

pub(super) async fn moves(bench: &Bench) -> Checked {
    bench.needs_claim(ClaimName::OwnsNothing)?;
    bench.needs(&[Op::CreateAccount, Op::TransferOwnership])?;
    let (from, to) = (bench.make().await?.id, bench.make().await?.id);
    let nothing = |account: &NativeId| Claim::OwnsNothing {
        account: account.clone(),
    };
    bench.proven(&nothing(&from)).await?;
    own_something(bench, &from).await?;
    bench.refuted(&nothing(&from)).await?;
    let transfer = Operation::TransferOwnership {
        from: from.clone(),
        to: to.clone(),
    };
    bench.twice(&transfer).await?;
    bench.proven(&nothing(&from)).await?;
    bench.refuted(&nothing(&to)).await?;
    // Whoever owns nothing can go, and what was theirs stays.
    if bench.can.operations.contains(&Op::DeleteAccount) {
        bench
            .does(&Operation::DeleteAccount { account: from })
            .await?;
        bench.refuted(&nothing(&to)).await?;
        let last = bench.make().await?.id;
        bench
            .does(&Operation::TransferOwnership {
                from: to,
                to: last.clone(),
            })
            .await?;
        if let Some(heir) = bench.fixture.heir.clone() {
            bench
                .does(&Operation::TransferOwnership {
                    from: last,
                    to: heir,
                })
                .await?;
        }
    }
    let missing = bench.missing_id().await?;
    let seen = bench.proven(&nothing(&missing)).await?;
    ensure(!seen.by.is_empty(), || {
        "the observation does not say how it was made".to_owned()
    })
}
