//! The transaction of a push: everything that was planned, if everything is as it was read.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use engine::core::Timestamp;
use engine::core::id::Actor;
use engine::store::{InboxRow, StoreError, Transaction, Work};

use super::plan::{Concerned, Plan, Step};
use super::{Push, STALE};
use crate::directory::resources;
use crate::directory::{RecordRow, mark_gone, put_records};
use crate::intake::Intake;
use crate::intake::groups::Groups;
use crate::intake::settle::{Origin, Settled, settle};
use crate::sources::{BusinessEvent, Change, Key, Record};

/// What was settled, whether something was held back, and spans that end once it is durable.
pub(super) type Done = (Settled, bool, Vec<tracing::Span>);

pub(super) struct Write<'a> {
    pub intake: &'a Intake,
    pub push: &'a Push<'a>,
    pub plan: &'a Plan,
    pub now: Timestamp,
    pub groups: Groups,
    pub done: Mutex<Option<Done>>,
}

#[async_trait]
impl Work for Write<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        self.resources(transaction).await?;
        let held = self.guard(transaction).await?;
        let people: Vec<&Concerned> = self
            .plan
            .people
            .iter()
            .filter(|person| !held.contains(&person.key))
            .collect();
        // Who stands behind the cases is the source; who called is kept with the resource.
        let initiator = Actor(format!("source:{}", self.push.source.name()));
        let told = people
            .iter()
            .filter(|person| !person.stays)
            .map(|person| (person.key.as_str(), person.record.as_ref()))
            .collect::<Vec<_>>();
        let changes = people.iter().flat_map(|person| &person.changes);
        let origin = Origin {
            // What is pushed is compared with what the source said before.
            repeats: true,
            ..self.intake.origin(&initiator, &self.groups, self.now)
        };
        let source = self.push.source.name();
        let (settled, inbox, spans) = self
            .intake
            .take_pushed(transaction, (source, &[]), &told, changes, &origin)
            .await?;
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((settled, !held.is_empty(), spans));
        Ok(inbox)
    }
}

impl Intake {
    /// Writes records of a source and takes in what follows from them, and what was `said` beside.
    pub(super) async fn take_pushed(
        &self,
        transaction: &mut Transaction<'_>,
        (source, said): (&str, &[BusinessEvent]),
        told: &[(&str, Option<&Record>)],
        changes: impl Iterator<Item = &Change>,
        origin: &Origin<'_>,
    ) -> Result<(Settled, Vec<InboxRow>, Vec<tracing::Span>), StoreError> {
        let shard_id = self.directory.shard(source);
        let records: Vec<RecordRow> = told
            .iter()
            .filter_map(|(_, record)| *record)
            .map(|record| RecordRow {
                shard_id,
                source: source.to_owned(),
                record_key: record.key.as_str().to_owned(),
                digest: record.digest.clone(),
                status: "present".to_owned(),
                attributes: record.attributes.clone(),
            })
            .collect();
        put_records(transaction, &records).await?;
        let gone: Vec<Key> = told
            .iter()
            .filter(|(_, record)| record.is_none())
            .map(|(key, _)| Key::new(*key))
            .collect();
        mark_gone(transaction, shard_id, source, &gone).await?;
        let events: Vec<BusinessEvent> = changes
            .map(|change| &change.event)
            .chain(said)
            .cloned()
            .collect();
        if events.is_empty() {
            return Ok(Default::default());
        }
        let subjects: BTreeSet<(i32, String)> = events
            .iter()
            .map(|event| {
                let key = event.subject.as_str();
                (self.directory.shard(key), key.to_owned())
            })
            .collect();
        let (settled, inbox, spans) = settle(transaction, origin, &subjects, &events).await?;
        match settled.unknown.first() {
            Some(subject) => Err(StoreError::Projection(format!(
                "nobody has introduced `{subject}`"
            ))),
            None => Ok((settled, inbox, spans)),
        }
    }
}

impl Write<'_> {
    /// Writes the resources if everything is as it was read.
    async fn resources(&self, transaction: &mut Transaction<'_>) -> Result<(), StoreError> {
        let stale = || StoreError::Projection(STALE.to_owned());
        let plan = self.plan;
        if !resources::lock(transaction, &plan.locks).await? {
            return Err(stale());
        }
        let own = match &plan.write {
            Step::Insert(row) => {
                if !resources::insert(transaction, row).await? {
                    return Err(stale());
                }
                row
            }
            Step::Update(row) => {
                if resources::update(transaction, std::slice::from_ref(row)).await? != 1 {
                    return Err(stale());
                }
                row
            }
            Step::Delete(row) => {
                resources::delete(transaction, row).await?;
                row
            }
        };
        if resources::update(transaction, &plan.others).await? != plan.others.len() as u64 {
            return Err(stale());
        }
        if !plan.added.is_empty() || !plan.removed.is_empty() {
            let texts = |ids: &'_ [String]| -> Vec<String> { ids.to_vec() };
            let (added, removed) = (texts(&plan.added), texts(&plan.removed));
            let added: Vec<&str> = added.iter().map(String::as_str).collect();
            let removed: Vec<&str> = removed.iter().map(String::as_str).collect();
            resources::change_members(transaction, own, &added, &removed).await?;
        }
        Ok(())
    }
}
