//! What the guard holds back of pushes, and what a person decides about it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use chrono::TimeDelta;
use engine::core::Timestamp;
use engine::core::id::Actor;
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::STALE;
use super::plan::Concerned;
use super::write::Write;
use crate::directory::resources::{self, HELD_PREFIX, HeldRow};
use crate::directory::{SnapshotRow, SnapshotStatus, decide_snapshot, put_snapshot};
use crate::intake::settle::Settled;
use crate::intake::{Intake, IntakeError, NAMESPACE};
use crate::policy::hex;
use crate::sources::guard::EXAMPLES_MAX;
use crate::sources::{ChangeKind, Key, Record, StopReason, Summary};

/// What stands in place of a file name where something is held back.
const HELD_FILE: &str = "(pushed over SCIM)";

/// Whether a file in the listing is none, but what was held back of pushes.
#[must_use]
pub fn is_held(row: &SnapshotRow) -> bool {
    row.snapshot_id.starts_with(HELD_PREFIX)
}

impl Intake {
    /// Applies what was held back, exactly as it was shown, or drops it.
    pub(in crate::intake) async fn decide_held(
        &self,
        row: &SnapshotRow,
        by: &Actor,
        now: Timestamp,
    ) -> Result<(Settled, BTreeMap<String, u64>), IntakeError> {
        let work = Decide {
            intake: self,
            row,
            by,
            now,
            done: Mutex::default(),
        };
        match self.write(&work).await {
            Ok(()) => {
                let done = work.done.into_inner();
                let (settled, events, _spans) = done.unwrap_or_else(PoisonError::into_inner);
                Ok((settled, events))
            }
            Err(StoreError::Projection(reason)) if reason == STALE => Err(IntakeError::MovedOn {
                source_name: row.source.clone(),
            }),
            Err(error) => Err(error.into()),
        }
    }
}

impl Write<'_> {
    /// Counts who is taken away; says of whom that is held back.
    pub(super) async fn guard(
        &self,
        transaction: &mut Transaction<'_>,
    ) -> Result<BTreeSet<String>, StoreError> {
        let (source, now) = (self.push.source, self.now);
        let (name, shard_id) = (source.name(), self.intake.directory.shard(source.name()));
        let keys: Vec<&str> = self.plan.people.iter().map(|it| it.key.as_str()).collect();
        // What is new about a person takes the place of what was held back.
        let released = resources::release(transaction, shard_id, name, &keys).await?;
        let removals: Vec<&Concerned> = self
            .plan
            .people
            .iter()
            .filter(|person| person.is_removal())
            .collect();
        if removals.is_empty() && released.is_empty() {
            return Ok(BTreeSet::new());
        }
        let waiting = resources::lock_guard(transaction, shard_id, name, now).await?;
        // Whose leaving waits for a person already goes on waiting, however few there are by now.
        let (waiting_already, fresh): (Vec<&Concerned>, Vec<&Concerned>) = removals
            .into_iter()
            .partition(|person| released.contains(&person.key));
        let stopped = self.too_many(transaction, &fresh).await?;
        let mut held = waiting_already;
        if let Some(reason) = &stopped {
            tracing::warn!(source = name, %reason, "what was pushed is held back until a person approves it");
            held.extend(fresh);
        }
        let rows: Vec<HeldRow> = held
            .iter()
            .map(|person| HeldRow {
                shard_id,
                source: name.to_owned(),
                record_key: person.key.clone(),
                record: person.record.clone(),
                changes: person.changes.clone(),
                held_at: now,
            })
            .collect();
        resources::put_held(transaction, &rows).await?;
        if !rows.is_empty() || !released.is_empty() {
            self.show(transaction, waiting, stopped.as_ref()).await?;
        }
        Ok(held.into_iter().map(|person| person.key.clone()).collect())
    }

    /// Whether these are too many, with those who were taken away before them. If they are not, they are noted.
    async fn too_many(
        &self,
        transaction: &mut Transaction<'_>,
        people: &[&Concerned],
    ) -> Result<Option<StopReason>, StoreError> {
        if people.is_empty() {
            return Ok(None);
        }
        let (source, now) = (self.push.source, self.now);
        let (name, shard_id) = (source.name(), self.intake.directory.shard(source.name()));
        let guard = source.guard();
        let keys: Vec<&str> = people.iter().map(|person| person.key.as_str()).collect();
        let today = now.with_timezone(&source.zone()).date_naive();
        let since = now - TimeDelta::minutes(i64::from(guard.window_minutes));
        let removed = resources::removed_since(transaction, shard_id, name, since, &keys).await?;
        let count = removed + keys.len() as u64;
        // No more are counted than it takes to know that the limit is kept.
        let most = guard.population_to_count(count);
        let present = resources::present(transaction, shard_id, name, today, most).await?;
        if guard.assess_removals(count, removed + present).is_none() {
            resources::put_removals(transaction, shard_id, name, &keys, now, since).await?;
            return Ok(None);
        }
        // Whoever has to decide is told how many there really are.
        let all = u64::from(u32::MAX);
        let present = resources::present(transaction, shard_id, name, today, all).await?;
        Ok(guard.assess_removals(count, removed + present))
    }

    /// Keeps what people see of what is held back in step with it.
    async fn show(
        &self,
        transaction: &mut Transaction<'_>,
        waiting: Option<String>,
        reason: Option<&StopReason>,
    ) -> Result<(), StoreError> {
        let (source, now) = (self.push.source, self.now);
        let (name, shard_id) = (source.name(), self.intake.directory.shard(source.name()));
        let (count, examples) =
            resources::held_count(transaction, shard_id, name, EXAMPLES_MAX).await?;
        if count == 0 && waiting.is_none() {
            return Ok(());
        }
        let snapshot_id = waiting.unwrap_or_else(|| {
            let of = format!("{name}\n{}", now.timestamp_micros());
            format!(
                "{HELD_PREFIX}{}",
                Uuid::new_v5(&NAMESPACE, of.as_bytes()).simple()
            )
        });
        let mut hash = Sha256::new();
        hash.update(json!([snapshot_id, count, now.timestamp_micros(), self.push.id]).to_string());
        let difference_id = format!("dif_{}", hex(&hash.finalize()));
        let summary = Summary {
            difference_id: difference_id.clone(),
            population: reason.map_or(0, |reason| reason.population),
            people: BTreeMap::from([(ChangeKind::Remove, count)]),
            events: BTreeMap::new(),
            examples: BTreeMap::from([(
                ChangeKind::Remove,
                examples.into_iter().map(Key::new).collect(),
            )]),
            missing_not_removed: 0,
        };
        let summary = serde_json::to_value(&summary).map_err(|error| {
            StoreError::Projection(format!("a summary cannot be written: {error}"))
        })?;
        let stopped_by = format!(
            "{count} people are held back: within {} minutes more would leave than the guard allows{}",
            source.guard().window_minutes,
            reason
                .map(|reason| format!(" ({reason})"))
                .unwrap_or_default(),
        );
        let row = SnapshotRow {
            shard_id,
            source: name.to_owned(),
            snapshot_id: snapshot_id.clone(),
            file: HELD_FILE.to_owned(),
            as_of: now.with_timezone(&source.zone()).date_naive(),
            file_sha256: String::new(),
            digest: String::new(),
            row_count: count,
            complete: false,
            status: SnapshotStatus::Waiting,
            difference_id,
            summary,
            stopped_by: Some(vec![stopped_by]),
            base_id: None,
            imported_at: now,
            imported_by: self.push.by.0.clone(),
            decided_at: None,
            decided_by: None,
            decided_note: None,
        };
        put_snapshot(transaction, &row, None).await?;
        if count > 0 {
            return resources::set_guard(transaction, shard_id, name, Some(&snapshot_id)).await;
        }
        let over = SnapshotRow {
            status: SnapshotStatus::Rejected,
            decided_at: Some(now),
            decided_by: Some(format!("source:{name}")),
            decided_note: Some("the source took it back".to_owned()),
            ..row
        };
        decide_snapshot(transaction, &over).await?;
        resources::set_guard(transaction, shard_id, name, None).await
    }
}

/// A person's decision about what was held back.
struct Decide<'a> {
    intake: &'a Intake,
    row: &'a SnapshotRow,
    by: &'a Actor,
    now: Timestamp,
    /// What was settled, events by type, and spans that end once it is durable.
    done: Mutex<(Settled, BTreeMap<String, u64>, Vec<tracing::Span>)>,
}

#[async_trait]
impl Work for Decide<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let row = self.row;
        resources::lock_guard(transaction, row.shard_id, &row.source, self.now).await?;
        if !decide_snapshot(transaction, row).await? {
            return Err(StoreError::Projection(STALE.to_owned()));
        }
        let held = resources::held(transaction, row.shard_id, &row.source).await?;
        let approved = row.status == SnapshotStatus::Applied;
        resources::release_all(transaction, row.shard_id, &row.source).await?;
        resources::set_guard(transaction, row.shard_id, &row.source, None).await?;
        if !approved {
            return Ok(Vec::new());
        }
        // What a person looked at does not count against what comes next.
        resources::forget_removals(transaction, row.shard_id, &row.source, self.now).await?;
        let told: Vec<(&str, Option<&Record>)> = held
            .iter()
            .map(|held| (held.record_key.as_str(), held.record.as_ref()))
            .collect();
        let changes = held.iter().flat_map(|held| &held.changes);
        let (settled, inbox, spans) = self
            .intake
            .take_pushed(transaction, &row.source, &told, changes, self.by, self.now)
            .await?;
        let mut events = BTreeMap::new();
        for change in held.iter().flat_map(|held| &held.changes) {
            let name = change.event.event_type.as_str().to_owned();
            *events.entry(name).or_default() += 1;
        }
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = (settled, events, spans);
        Ok(inbox)
    }
}
