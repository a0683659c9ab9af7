//! Reading: one object, all objects, what changed. Absence must be a fact.

use std::collections::BTreeMap;

use super::bench::{Bench, Checked, Stop, ensure, failed};
use crate::connector::{Kind, NativeId, Object, ObjectRef, Operation, OperationName as Op};

/// Accounts made for a listing where the page size is not known.
const LISTED_ACCOUNTS: usize = 5;

pub(super) async fn missing_is_none(bench: &Bench) -> Checked {
    bench.needs(&[])?;
    let name = format!("{}nobody", bench.fixture.prefix);
    bench
        .is_missing(&ObjectRef::AccountNamed(name.clone()))
        .await?;
    if bench.can.finds_by_owner {
        bench
            .is_missing(&ObjectRef::AccountOwnedBy(format!("conformance-{name}")))
            .await?;
    }
    if bench.can.operations.contains(&Op::Grant) {
        let unknown = crate::connector::EntitlementName::new(name);
        bench.is_missing(&ObjectRef::Entitlement(unknown)).await?;
    }
    let id = bench.missing_id().await?;
    bench.is_missing(&ObjectRef::Account(id)).await
}

pub(super) async fn three_ways_agree(bench: &Bench) -> Checked {
    let made = bench.make().await?;
    let by_id = bench.account(&ObjectRef::Account(made.id.clone())).await?;
    let by_name = bench
        .account(&ObjectRef::AccountNamed(made.name.clone()))
        .await?;
    ensure(by_id.id == made.id, || {
        format!("asked for `{}`, got `{}`", made.id, by_id.id)
    })?;
    ensure(by_id == by_name, || {
        format!("by id: {by_id:?}; by name: {by_name:?}")
    })?;
    if bench.can.finds_by_owner {
        let by_owner = bench
            .account(&ObjectRef::AccountOwnedBy(made.owner.clone()))
            .await?;
        ensure(by_id == by_owner, || {
            format!("by id: {by_id:?}; by owner: {by_owner:?}")
        })?;
    }
    Ok(())
}

pub(super) async fn entitlement_by_name(bench: &Bench) -> Checked {
    bench.needs(&[Op::Grant])?;
    for name in bench.entitlements()? {
        match bench.get(&ObjectRef::Entitlement(name.clone())).await? {
            Some(Object::Entitlement(found)) => {
                ensure(found.name == name, || {
                    format!("asked for `{name}`, got `{}`", found.name)
                })?;
            }
            other => return failed(format!("entitlement `{name}`: found {other:?}")),
        }
    }
    Ok(())
}

pub(super) async fn list_accounts(bench: &Bench) -> Checked {
    bench.needs_list(Kind::Account)?;
    let count = bench
        .fixture
        .page_size
        .map_or(LISTED_ACCOUNTS, |size| size.saturating_add(2));
    let mut made = Vec::with_capacity(count);
    for _ in 0..count {
        made.push(bench.make().await?);
    }
    let (items, pages) = bench.list_all(Kind::Account).await?;
    if let Some(size) = bench.fixture.page_size {
        ensure(pages > 1, || {
            format!("{} accounts came on one page of {size}", items.len())
        })?;
    }
    let mut seen: BTreeMap<NativeId, usize> = BTreeMap::new();
    for item in items {
        match item {
            Object::Account(account) => *seen.entry(account.id).or_default() += 1,
            Object::Entitlement(entitlement) => {
                return failed(format!(
                    "entitlement `{}` in a listing of accounts",
                    entitlement.name
                ));
            }
        }
    }
    for account in &made {
        match seen.get(&account.id) {
            Some(1) => {}
            Some(times) => return failed(format!("`{}` was listed {times} times", account.id)),
            None => return failed(format!("`{}` was made and is not listed", account.id)),
        }
    }
    Ok(())
}

pub(super) async fn list_entitlements(bench: &Bench) -> Checked {
    bench.needs_list(Kind::Entitlement)?;
    let wanted = bench.entitlements()?;
    let (items, _) = bench.list_all(Kind::Entitlement).await?;
    for name in wanted {
        let times = items
            .iter()
            .filter(|item| matches!(item, Object::Entitlement(found) if found.name == name))
            .count();
        ensure(times == 1, || format!("`{name}` was listed {times} times"))?;
    }
    Ok(())
}

pub(super) async fn deleted_leaves_the_listing(bench: &Bench) -> Checked {
    bench.needs_list(Kind::Account)?;
    bench.needs(&[Op::CreateAccount, Op::DeleteAccount])?;
    let made = bench.make().await?;
    bench
        .does(&Operation::DeleteAccount {
            account: made.id.clone(),
        })
        .await?;
    let (items, _) = bench.list_all(Kind::Account).await?;
    let listed = items
        .into_iter()
        .filter_map(Object::into_account)
        .any(|account| account.id == made.id);
    ensure(!listed, || {
        format!("`{}` was deleted and is still listed", made.id)
    })
}

pub(super) async fn changes_show_a_new_account(bench: &Bench) -> Checked {
    if !bench.can.changes {
        return Err(Stop::NotApplicable("`changes` is not declared".to_owned()));
    }
    let words =
        |error: crate::connector::Error| Stop::Failed(format!("changes: {}", error.whole()));
    let start = bench.connector.changes(None).await.map_err(words)?.next;
    let made = bench.make().await?;
    let since = bench.connector.changes(start).await.map_err(words)?;
    ensure(!since.gap, || {
        "the feed says it lost something between two calls".to_owned()
    })?;
    let shown = since
        .items
        .into_iter()
        .filter_map(Object::into_account)
        .any(|account| account.id == made.id);
    ensure(shown, || {
        format!("`{}` was made and the feed does not show it", made.id)
    })
}

pub(super) async fn dependents_answer(bench: &Bench) -> Checked {
    if !bench.can.dependents {
        return Err(Stop::NotApplicable(
            "`dependents` is not declared".to_owned(),
        ));
    }
    let made = bench.make().await?;
    match bench
        .connector
        .dependents(&ObjectRef::Account(made.id))
        .await
    {
        Ok(_) => Ok(()),
        Err(error) => failed(format!(
            "dependents: {}: {}",
            error.kind.as_str(),
            error.whole()
        )),
    }
}
