//! What is said about non-human identities: that there is one, that it has another owner, that it is no more.
//!
//! Such events name no person, introduce nobody and start no case: they change what is [declared](crate::nhi), in the transaction
//! that makes them durable, with who said it and why. In whatever order they come, the one that holds from the latest moment
//! counts, and a file that was declared later counts more than all of them.

use std::collections::BTreeSet;

use engine::core::Timestamp;
use engine::core::id::Actor;
use engine::store::{StoreError, Transaction};
use serde_json::{Map, Value, json};

use super::settle::{Origin, Person, Settled};
use crate::directory::{
    DECLARED, Declaring, EventRow, EventStatus, NhiRow, mark, nhi_changes_in, nhi_in, put_events,
    resources,
};
use crate::nhi::declare::{self, Declared};
use crate::sources::EventType;

/// Whether events of a type are about things where their subject is nobody who is known.
fn is_of_things(event_type: EventType) -> bool {
    matches!(
        event_type,
        EventType::ServiceRegistered | EventType::ServiceRetired | EventType::OwnerChanged
    )
}

/// Whether nothing is said that makes it a person.
pub(super) fn is_thing(person: &Person) -> bool {
    let mut said = person.known.iter().chain(&person.fresh);
    person.before.is_none()
        && !(person.known.is_empty() && person.fresh.is_empty())
        && said.all(|row| is_of_things(row.event_type))
}

/// In which order events hold.
fn place(row: &EventRow) -> (Timestamp, i64, &str) {
    (row.effective_at, row.version, row.event_id.as_str())
}

/// Whether two say something about the same: who owns it, or whether it is there.
fn same(a: &EventRow, b: &EventRow) -> bool {
    (a.event_type == EventType::OwnerChanged) == (b.event_type == EventType::OwnerChanged)
}

/// Takes in what is said about a thing, and what was said and holds by now. What cannot be so is noted in
/// [`Settled::refused`] when it is new, and held when it waited for its time.
pub(super) async fn settle(
    transaction: &mut Transaction<'_>,
    origin: &Origin<'_>,
    key: &str,
    thing: Person,
    settled: &mut Settled,
) -> Result<(), StoreError> {
    // Two events about one thing come one after the other.
    let lock = format!("nhi:{key}");
    resources::lock_guard(transaction, thing.shard_id, &lock, origin.now).await?;
    let declared_at = nhi_changes_in(transaction, thing.shard_id, key)
        .await?
        .into_iter()
        .filter(|change| change.change == DECLARED)
        .map(|change| change.at)
        .max();
    let (known, fresh) = (thing.known, thing.fresh);
    let all: Vec<EventRow> = known.iter().chain(&fresh).cloned().collect();
    let replaced: BTreeSet<&str> = all
        .iter()
        .filter_map(|row| row.supersedes.as_deref())
        .collect();
    let waits = known
        .into_iter()
        .filter(|row| row.status == EventStatus::Waiting)
        .map(|row| (row, false));
    let mut open: Vec<(EventRow, bool)> = waits
        .chain(fresh.into_iter().map(|row| (row, true)))
        .collect();
    open.sort_by(|(a, _), (b, _)| place(a).cmp(&place(b)));
    let (mut new, mut marked) = (Vec::new(), Vec::new());
    for (mut row, is_new) in open {
        let overtaken = || {
            let mut others = all.iter();
            others.any(|other| {
                same(other, &row) && place(other) > place(&row) && other.effective_at <= origin.now
            })
        };
        let said = row.occurred_at.max(row.effective_at);
        row.status = if replaced.contains(row.event_id.as_str()) {
            EventStatus::Superseded
        } else if row.effective_at > origin.now {
            EventStatus::Waiting
        } else if overtaken() || declared_at.is_some_and(|at| at > said) {
            EventStatus::Recorded
        } else {
            match apply(transaction, origin, key, &row).await? {
                Ok(true) => EventStatus::Started,
                Ok(false) => EventStatus::Recorded,
                Err(why) if is_new => {
                    settled
                        .refused
                        .push(format!("event `{}`: {why}", row.event_id));
                    continue;
                }
                Err(why) => {
                    // Without the reason, which may name a person.
                    tracing::warn!(
                        event = row.event_id,
                        "an event that waited cannot be carried out"
                    );
                    tracing::debug!(event = row.event_id, why, "an event that waited");
                    EventStatus::Held
                }
            }
        };
        if is_new {
            *settled.events.entry(row.status).or_default() += 1;
            let became = (row.status, Vec::new());
            settled.by_event.insert(row.event_id.clone(), became);
            new.push(row);
        } else if row.status != EventStatus::Waiting {
            marked.push(row);
        }
    }
    put_events(transaction, &new).await?;
    mark(transaction, &marked).await?;
    Ok(())
}

/// Changes what is declared. False when it says nothing that is not so, or nothing of that name is declared; the inner error is
/// why it cannot be so.
async fn apply(
    transaction: &mut Transaction<'_>,
    origin: &Origin<'_>,
    key: &str,
    row: &EventRow,
) -> Result<Result<bool, String>, StoreError> {
    let known = nhi_in(transaction, origin.directory, key).await?;
    let reason = row.data.get("reason").and_then(Value::as_str);
    let reason = match reason {
        Some(reason) => format!(
            "{reason} ({} `{}` of `{}`)",
            row.event_type, row.event_id, row.source
        ),
        None => format!("{} `{}` of `{}`", row.event_type, row.event_id, row.source),
    };
    let by = Actor(row.initiator.clone());
    let declaring = Declaring {
        directory: origin.directory,
        by: &by,
        reason: &reason,
        now: origin.now,
        change: row.event_type.as_str(),
    };
    let declared = match (row.event_type, known) {
        (EventType::ServiceRetired, Some(known)) => {
            return Ok(Ok(declaring.retire(transaction, &known).await?));
        }
        (EventType::OwnerChanged, Some(known)) => match moved(&known, row) {
            Ok(declared) => declared,
            Err(why) => return Ok(Err(why)),
        },
        (EventType::ServiceRegistered, _) => match registered(key, row) {
            Ok(Some(declared)) => declared,
            Ok(None) => return Ok(Ok(false)),
            Err(why) => return Ok(Err(why)),
        },
        _ => return Ok(Ok(false)),
    };
    let report = declaring.take(transaction, &[declared]).await?;
    Ok(match report.refused.into_iter().next() {
        Some(why) => Err(why),
        None => Ok(report.unchanged == 0),
    })
}

/// The declaration with the owner that an event names. Who was the backup makes room when they become the owner.
fn moved(known: &NhiRow, row: &EventRow) -> Result<Declared, String> {
    let to = row.data.pointer("/to/key").and_then(Value::as_str);
    let to = to.filter(|key| !key.is_empty()).ok_or_else(|| {
        format!(
            "`{}` would have no owner; say `\"to\": {{\"key\": \"...\"}}` with somebody who is known",
            known.nhi_key
        )
    })?;
    let mut declared = known.declared.clone();
    if declared.backup == to {
        declared.backup.clone_from(&declared.owner);
    }
    to.clone_into(&mut declared.owner);
    Ok(declared)
}

/// The declaration that an event makes; `None` when it says nothing but that the thing is there.
fn registered(key: &str, row: &EventRow) -> Result<Option<Declared>, String> {
    let Some(Value::Object(attributes)) = row.data.get("attributes") else {
        return Ok(None);
    };
    let mut fields: Map<String, Value> = attributes.clone();
    fields.insert("key".to_owned(), json!(key));
    let declared: Declared = serde_json::from_value(Value::Object(fields)).map_err(|error| {
        format!(
            "its `attributes` do not declare `{key}`: {error}; they have what a file of `tenure nhi declare` has: `kind`, \
             `environment`, `purpose`, `team`, `owner`, `backup` and `review`"
        )
    })?;
    match declare::mistakes(&declared, &BTreeSet::new())
        .into_iter()
        .next()
    {
        Some((what, fix)) => Err(format!("{what}; {fix}")),
        None => Ok(Some(declared)),
    }
}
