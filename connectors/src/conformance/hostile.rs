//! Text that looks like a query, a path or a command is text.

use serde_json::Value;

use super::bench::{Bench, Checked, Stop, ensure, failed, key, said};
use crate::connector::{
    Attributes, EntitlementName, ErrorKind, NativeId, Object, ObjectRef, Operation,
    OperationName as Op, Outcome,
};

/// What injections into LDAP filters, SQL, SCIM filters, shells and URLs start with. `{p}` is the prefix, so
/// that a wildcard which is taken for one does find something.
const QUERIES: [&str; 12] = [
    "*",
    "{p}*",
    "*)(uid=*",
    "{p}0)(objectClass=*",
    "' or '1'='1",
    "\" or userName pr or userName eq \"",
    "{p}0\" or \"1\" eq \"1",
    "%",
    "{p}_",
    "{p}0/../{p}1",
    "$(id)",
    "{p}0\0",
];

/// Identifiers that would leave their place if they were put into a path or a name unescaped.
const PATHS: [&str; 7] = [
    "../Groups",
    "..",
    "a/b?c=d&e=f#g",
    "%2e%2e",
    "cn=*",
    "\" or \"\"=\"",
    "x\0y",
];

/// Ends of account names. Legal in one system or another; none may be changed silently.
const NAMES: [&str; 10] = [
    "o'brien",
    "quo\"ted",
    "com,ma=plus+",
    "semi;colon--",
    "back\\slash",
    "per%cent_",
    "space in it",
    "ümläut-日本",
    "sla/sh?x=y#z",
    "<b>&amp;",
];

/// Values of a text attribute.
const VALUES: [&str; 10] = [
    "O'Brien \"the \\ (great)\" *",
    "Robert'); DROP TABLE accounts;--",
    "*)(uid=*))(|(uid=*",
    "Łukasz Żółć 日本語 🙂",
    "cafe\u{301}",
    "line one\nline two\ttabbed",
    "${jndi:ldap://x} {{7*7}} $(id) `id`",
    "<script>alert(1)</script>&amp;",
    "#hash, plus+ equals= semi; angle<>",
    "null",
];

pub(super) async fn lookups(bench: &Bench) -> Checked {
    bench.needs(&[])?;
    bench.make().await?;
    for pattern in QUERIES {
        let text = pattern.replace("{p}", &bench.fixture.prefix);
        finds_nothing(bench, &ObjectRef::AccountNamed(text.clone())).await?;
        if bench.can.finds_by_owner {
            finds_nothing(bench, &ObjectRef::AccountOwnedBy(text.clone())).await?;
            finds_nothing(
                bench,
                &ObjectRef::AccountOwnedBy(format!("conformance-{text}")),
            )
            .await?;
        }
    }
    Ok(())
}

pub(super) async fn identifiers(bench: &Bench) -> Checked {
    bench.needs(&[])?;
    for text in PATHS {
        finds_nothing(bench, &ObjectRef::Account(NativeId::new(text))).await?;
    }
    Ok(())
}

pub(super) async fn entitlements(bench: &Bench) -> Checked {
    bench.needs(&[Op::CreateAccount, Op::Grant])?;
    let account = bench.make().await?.id;
    for pattern in QUERIES {
        let name = EntitlementName::new(pattern.replace("{p}", &bench.fixture.prefix));
        finds_nothing(bench, &ObjectRef::Entitlement(name.clone())).await?;
        bench
            .refused(
                &Operation::Grant {
                    account: account.clone(),
                    entitlement: name,
                },
                &["not_found", "invalid"],
            )
            .await?;
    }
    let found = bench.account(&ObjectRef::Account(account)).await?;
    ensure(
        found
            .entitlements
            .as_ref()
            .is_none_or(std::collections::BTreeSet::is_empty),
        || {
            format!(
                "hostile grants left the account with {:?}",
                found.entitlements
            )
        },
    )
}

/// Nothing is found, or the question itself is refused; both are safe.
async fn finds_nothing(bench: &Bench, object: &ObjectRef) -> Checked {
    match bench.connector.get(object).await {
        Ok(None) => Ok(()),
        Err(error) if error.kind == ErrorKind::Invalid => Ok(()),
        Ok(Some(found)) => failed(format!("get {object:?} found {found:?}")),
        Err(error) => failed(format!(
            "get {object:?}: expected nothing or invalid, got {}: {}",
            error.kind.as_str(),
            error.whole()
        )),
    }
}

pub(super) async fn names(bench: &Bench) -> Checked {
    bench.needs(&[Op::CreateAccount])?;
    for end in NAMES {
        let account = bench.new_account(&format!("{}{end}", bench.fresh_name()));
        let name = account.name.clone();
        match bench.create(account, &key()).await {
            Ok((id, Outcome::Done(_))) => {
                let by_name = bench
                    .account(&ObjectRef::AccountNamed(name.clone()))
                    .await?;
                ensure(by_name.id == id, || {
                    format!("`{name}` finds `{}`, `{id}` was made", by_name.id)
                })?;
                ensure(by_name.name == name, || {
                    format!("`{name}` was kept as `{}`", by_name.name)
                })?;
                let by_id = bench.account(&ObjectRef::Account(id.clone())).await?;
                ensure(by_id.name == name, || {
                    format!("`{id}` reads back as `{}`, not `{name}`", by_id.name)
                })?;
                if bench.can.operations.contains(&Op::DisableAccount) {
                    bench
                        .does(&Operation::DisableAccount {
                            account: id.clone(),
                        })
                        .await?;
                }
                if let (true, Ok([entitlement, _])) = (
                    bench.can.operations.contains(&Op::Grant),
                    bench.entitlements(),
                ) {
                    bench
                        .does(&Operation::Grant {
                            account: id.clone(),
                            entitlement,
                        })
                        .await?;
                }
                if bench.can.operations.contains(&Op::DeleteAccount) {
                    bench
                        .does(&Operation::DeleteAccount { account: id })
                        .await?;
                }
            }
            Err(error) if error.kind == ErrorKind::Invalid => {
                finds_nothing(bench, &ObjectRef::AccountNamed(name)).await?;
            }
            other => {
                return failed(format!(
                    "create of `{name}`: expected done or invalid, got {}",
                    said(&other.map(|made| made.1))
                ));
            }
        }
    }
    Ok(())
}

pub(super) async fn values(bench: &Bench) -> Checked {
    bench.needs(&[Op::CreateAccount, Op::UpdateAccount])?;
    let Some(attribute) = &bench.fixture.text_attribute else {
        return Err(Stop::NotApplicable(
            "the fixture names no text attribute".to_owned(),
        ));
    };
    let account = bench.make().await?.id;
    for text in VALUES {
        let attributes = Attributes::from([(attribute.clone(), Value::String(text.to_owned()))]);
        let update = Operation::UpdateAccount {
            account: account.clone(),
            attributes,
        };
        match bench.apply(&update, &key()).await {
            Ok(Outcome::Done(_)) => {}
            Err(error) if error.kind == ErrorKind::Invalid => continue,
            other => {
                return failed(format!(
                    "{attribute} = {text:?}: expected done, got {}",
                    said(&other)
                ));
            }
        }
        bench.is_already(&update).await?;
        let read = bench
            .connector
            .get(&ObjectRef::Account(account.clone()))
            .await;
        let kept = match read {
            Ok(Some(Object::Account(found))) => found.attributes.get(attribute).cloned(),
            other => {
                return failed(format!(
                    "after {attribute} = {text:?} the account reads as {other:?}"
                ));
            }
        };
        // Systems that hold several values may read a single one back as a list of one.
        let same = match &kept {
            Some(Value::String(kept)) => kept == text,
            Some(Value::Array(kept)) => kept.as_slice() == [Value::String(text.to_owned())],
            _ => false,
        };
        ensure(same, || {
            format!("{attribute} = {text:?} reads back as {kept:?}")
        })?;
    }
    Ok(())
}
