//! What the guard holds back of pushes, and what a person decides about it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use chrono::{NaiveDate, TimeDelta};
use engine::core::Timestamp;
use engine::core::id::Actor;
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::STALE;
use super::plan::Concerned;
use super::write::Write;
use crate::directory::guard::{forget_tallies, held_events_in, release_events};
use crate::directory::resources::{self, HELD_PREFIX, HeldRow};
use crate::directory::{SnapshotRow, SnapshotStatus, decide_snapshot, put_snapshot};
use crate::intake::groups::Groups;
use crate::intake::settle::Origin;
use crate::intake::settle::Settled;
use crate::intake::{Intake, IntakeError, NAMESPACE};
use crate::policy::guard::Operation;
use crate::policy::hex;
use crate::sources::guard::EXAMPLES_MAX;
use crate::sources::{BusinessEvent, ChangeKind, Key, Record, StopReason, Summary};
use crate::timeline::kind;

/// What stands in place of a file name where something is held back.
const HELD_FILE: &str = "(pushed over SCIM)";
const HELD_EVENTS: &str = "(said in events)";

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
            groups: Groups::default(),
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
        let nothing_new = removals.is_empty() && released.is_empty();
        let mut crossed = Vec::new();
        if nothing_new {
            crossed = self.judge(transaction, &released).await?;
            if crossed.is_empty() {
                return Ok(BTreeSet::new());
            }
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
        } else if !nothing_new {
            crossed = self.judge(transaction, &released).await?;
        }
        if let Some(reason) = crossed.first() {
            tracing::warn!(source = name, %reason, "what was pushed is held back until a person approves it");
            let others = self.plan.people.iter();
            held.extend(
                others.filter(|person| {
                    !person.changes.is_empty() && !waits_already(person, &released)
                }),
            );
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
            let by_pushes = stopped
                .as_ref()
                .map(|reason| self.too_many_sentence(reason));
            let reasons: Vec<String> = by_pushes.into_iter().chain(crossed).collect();
            let population = stopped.as_ref().map_or(0, |reason| reason.population);
            let showing = Showing {
                source: name,
                shard_id,
                day: now.with_timezone(&source.zone()).date_naive(),
                id: self.push.id,
                by: self.push.by,
                now,
                reasons,
                population,
            };
            showing.show(transaction, waiting).await?;
        }
        Ok(held.into_iter().map(|person| person.key.clone()).collect())
    }

    /// What the limits on accounts, rights and newcomers say about everybody who does not wait already.
    async fn judge(
        &self,
        transaction: &mut Transaction<'_>,
        released: &BTreeSet<String>,
    ) -> Result<Vec<String>, StoreError> {
        let source = self.push.source;
        let mut limits = source.guard().limit_rules();
        // Those are counted by themselves, see below.
        limits.retain(|limit| limit.operation != Operation::IdentityRemove);
        let people = self.plan.people.iter();
        let pairs: Vec<_> = people
            .filter(|person| !waits_already(person, released))
            .map(|person| person.pair.clone())
            .collect();
        let Some(measured) = self.intake.measure_all(limits, pairs).await? else {
            return Ok(Vec::new());
        };
        let id = format!("{}@{}", self.push.id, self.now.timestamp_micros());
        self.intake
            .judge_now(transaction, source.name(), &measured, &id, self.now)
            .await
    }

    fn too_many_sentence(&self, reason: &StopReason) -> String {
        let minutes = self.push.source.guard().window_minutes;
        format!("within {minutes} minutes more would leave than the guard allows ({reason})")
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
}

/// Whether the leaving of somebody waits for a person, and went on waiting.
fn waits_already(person: &Concerned, released: &BTreeSet<String>) -> bool {
    person.is_removal() && released.contains(&person.key)
}

/// What people see of what is held back of a source.
pub(in crate::intake) struct Showing<'a> {
    pub source: &'a str,
    pub shard_id: i32,
    pub day: NaiveDate,
    /// Of what is held back now.
    pub id: &'a str,
    pub by: &'a Actor,
    pub now: Timestamp,
    /// Why it is; empty when it only goes on waiting.
    pub reasons: Vec<String>,
    pub population: u64,
}

impl Showing<'_> {
    /// Keeps what people see in step with what is held back. `waiting` is what they see already.
    pub async fn show(
        &self,
        transaction: &mut Transaction<'_>,
        waiting: Option<String>,
    ) -> Result<(), StoreError> {
        let (name, shard_id, now) = (self.source, self.shard_id, self.now);
        let (pushed, mut examples) =
            resources::held_count(transaction, shard_id, name, EXAMPLES_MAX).await?;
        let events = held_events_in(transaction, shard_id, name).await?;
        let mut kinds: BTreeMap<ChangeKind, BTreeSet<&str>> = BTreeMap::new();
        for held in &events {
            kinds
                .entry(kind(held.event.event_type))
                .or_default()
                .insert(&held.subject);
        }
        let count = pushed + events.len() as u64;
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
        hash.update(json!([snapshot_id, count, now.timestamp_micros(), self.id]).to_string());
        let difference_id = format!("dif_{}", hex(&hash.finalize()));
        let mut people: BTreeMap<ChangeKind, u64> = kinds
            .iter()
            .map(|(kind, subjects)| (*kind, subjects.len() as u64))
            .collect();
        if pushed > 0 {
            *people.entry(ChangeKind::Remove).or_default() += pushed;
        }
        let mut shown: BTreeMap<ChangeKind, Vec<Key>> = BTreeMap::new();
        for (kind, subjects) in &kinds {
            let first = subjects.iter().take(EXAMPLES_MAX).map(|key| Key::new(*key));
            shown.entry(*kind).or_default().extend(first);
        }
        if !examples.is_empty() {
            let removed = shown.entry(ChangeKind::Remove).or_default();
            removed.extend(examples.drain(..).map(Key::new));
        }
        let summary = Summary {
            difference_id: difference_id.clone(),
            population: self.population,
            people,
            events: BTreeMap::new(),
            examples: shown,
            missing_not_removed: 0,
            blast: None,
            policy: None,
        };
        let summary = serde_json::to_value(&summary).map_err(|error| {
            StoreError::Projection(format!("a summary cannot be written: {error}"))
        })?;
        let what = if events.is_empty() {
            format!("{count} people are held back")
        } else {
            format!("{count} changes are held back")
        };
        let why = if self.reasons.is_empty() {
            "more would change than the guard allows".to_owned()
        } else {
            self.reasons.join("; ")
        };
        let row = SnapshotRow {
            shard_id,
            source: name.to_owned(),
            snapshot_id: snapshot_id.clone(),
            file: if events.is_empty() {
                HELD_FILE.to_owned()
            } else {
                HELD_EVENTS.to_owned()
            },
            as_of: self.day,
            file_sha256: String::new(),
            digest: String::new(),
            row_count: count,
            complete: false,
            status: SnapshotStatus::Waiting,
            difference_id,
            summary,
            stopped_by: Some(vec![format!("{what}: {why}")]),
            base_id: None,
            imported_at: now,
            imported_by: self.by.0.clone(),
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
    groups: Groups,
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
        let said = held_events_in(transaction, row.shard_id, &row.source).await?;
        let approved = row.status == SnapshotStatus::Applied;
        resources::release_all(transaction, row.shard_id, &row.source).await?;
        release_events(transaction, row.shard_id, &row.source).await?;
        resources::set_guard(transaction, row.shard_id, &row.source, None).await?;
        if !approved {
            return Ok(Vec::new());
        }
        // What a person looked at does not count against what comes next.
        resources::forget_removals(transaction, row.shard_id, &row.source, self.now).await?;
        forget_tallies(transaction, row.shard_id, &row.source).await?;
        let told: Vec<(&str, Option<&Record>)> = held
            .iter()
            .map(|held| (held.record_key.as_str(), held.record.as_ref()))
            .collect();
        let changes = held.iter().flat_map(|held| &held.changes);
        let said: Vec<BusinessEvent> = said.into_iter().map(|held| held.event).collect();
        let origin = Origin {
            repeats: true,
            approved: true,
            ..self.intake.origin(self.by, &self.groups, self.now)
        };
        let (settled, inbox, spans) = self
            .intake
            .take_pushed(transaction, (&row.source, &said), &told, changes, &origin)
            .await?;
        let mut events = BTreeMap::new();
        let pushed = held.iter().flat_map(|held| &held.changes);
        let pushed = pushed.map(|change| &change.event);
        for event in pushed.chain(&said) {
            let name = event.event_type.as_str().to_owned();
            *events.entry(name).or_default() += 1;
        }
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = (settled, events, spans);
        Ok(inbox)
    }
}
