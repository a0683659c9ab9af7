//! The transaction that unites or parts keys.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use engine::core::Timestamp;
use engine::core::id::{Actor, CaseId};
use engine::runner::StartCase;
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde_json::Value;

use super::{Decided, Done, Part, RegroupInput, Said, regroup_case};
use crate::directory::{
    Claim, EventStatus, IdentityRow, IdentityStatus, MergeRow, MergeState, ReviewStatus, claim,
    events_named, introduce, merges_in, put_events, put_identities, put_merges, put_reviews,
    review_in, reviews_about,
};
use crate::intake::correlate::{include, merge_id};
use crate::intake::groups::{Groups, Locked, REGROUPED};
use crate::intake::named::differences;
use crate::intake::settle::{INTRODUCED, Origin, Settled, finish, message, read, row_of};
use crate::intake::{Intake, IntakeError, person};
use crate::sources::{BusinessEvent, EventType, Key};

/// The transaction that unites or parts keys.
pub(super) struct State<'a> {
    pub intake: &'a Intake,
    pub event: &'a BusinessEvent,
    pub said: &'a Said,
    pub by: &'a Actor,
    /// A person wants to know why it cannot be; a source only says what it says.
    pub by_hand: bool,
    pub review: Option<&'a Decided<'a>>,
    pub now: Timestamp,
    pub groups: Groups,
    pub done: Mutex<Option<Done>>,
    pub refused: Mutex<Option<IntakeError>>,
}

/// What is about to be written.
#[derive(Default)]
struct Change {
    /// Rows as they are before anything follows from it.
    rows: Vec<IdentityRow>,
    introduced: Vec<IdentityRow>,
    merge: Option<MergeRow>,
    starts: Vec<(i32, StartCase)>,
}

#[async_trait]
impl Work for State<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let (event, said) = (self.event, self.said);
        let directory = &self.intake.directory;
        let subject = event.subject.as_str();
        let id_shard = directory.shard(&event.id);
        let own = Claim {
            shard_id: id_shard,
            event_id: event.id.clone(),
            subject: subject.to_owned(),
        };
        if let Some(known) = claim(transaction, vec![own]).await?.remove(&event.id) {
            let name = (directory.shard(&known), event.id.clone());
            let rows = events_named(transaction, &[name]).await?;
            let row = rows.into_iter().next();
            let differs = row.map_or_else(|| vec!["subject"], |row| differences(event, &row));
            if !differs.is_empty() {
                return Err(self.refuse(IntakeError::OtherEvent {
                    event: event.id.clone(),
                    differs,
                }));
            }
            return Ok(Vec::new());
        }
        let origin = self.intake.origin(self.by, &self.groups, self.now);
        let keys = BTreeSet::from([said.survivor.clone(), said.absorbed.clone()]);
        let mut locked = self.groups.lock(transaction, directory, &keys).await?;
        let absorbed_shard = directory.shard(&said.absorbed);
        let merges = merges_in(transaction, absorbed_shard, &said.absorbed).await?;
        let newest = merges
            .iter()
            .map(|merge| (merge.said_at, merge.said_by_event.as_str()))
            .max();
        let is_late = newest.is_some_and(|newest| newest > (event.occurred_at, event.id.as_str()));
        let change = if is_late {
            Change::default()
        } else if event.event_type == EventType::IdentityMerged {
            self.unite(transaction, &mut locked, merges).await?
        } else {
            self.part(&origin, &mut locked, merges)
        };
        self.write(transaction, &origin, locked, change).await
    }
}

impl State<'_> {
    fn refuse(&self, error: IntakeError) -> StoreError {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        StoreError::Projection("it cannot be".to_owned())
    }

    fn input(&self, merge: &MergeRow, part: Part) -> RegroupInput {
        let reason = self.event.data.get("reason").and_then(Value::as_str);
        RegroupInput {
            merge: merge.merge_id.clone(),
            absorbed: merge.absorbed.clone(),
            survivor: merge.survivor.clone(),
            part,
            reason: reason.map(str::to_owned),
        }
    }

    /// The row of a key, that of somebody new where nobody has it.
    fn row(&self, group: Option<&Locked>, key: &str) -> (IdentityRow, bool) {
        let known = group.and_then(|group| {
            let mut rows = group.row.iter().chain(&group.members);
            rows.find(|row| row.identity_key == key)
        });
        match known {
            Some(row) => (row.clone(), false),
            None => {
                let shard_id = self.intake.directory.shard(key);
                let event = BusinessEvent {
                    subject: Key::new(key),
                    ..self.event.clone()
                };
                (person::introduced(&event, shard_id, self.now), true)
            }
        }
    }

    /// Makes one person of two.
    async fn unite(
        &self,
        transaction: &mut Transaction<'_>,
        locked: &mut BTreeMap<String, Locked>,
        merges: Vec<MergeRow>,
    ) -> Result<Change, StoreError> {
        let (event, said) = (self.event, self.said);
        let survivor_root = self.groups.root(&said.survivor);
        let absorbed_root = self.groups.root(&said.absorbed);
        if survivor_root == absorbed_root {
            if self.by_hand {
                return Err(self.refuse(IntakeError::Merge(format!(
                    "`{}` and `{}` are one person already",
                    said.survivor, said.absorbed
                ))));
            }
            // Said again: what was said between changes nothing any more.
            let again = merges.into_iter().find(|merge| merge.state.holds());
            return Ok(Change {
                merge: again.map(|merge| MergeRow {
                    said_at: event.occurred_at,
                    said_by_event: event.id.clone(),
                    ..merge
                }),
                ..Change::default()
            });
        }
        if absorbed_root != said.absorbed {
            return Err(self.refuse(IntakeError::Merge(format!(
                "`{}` is part of `{absorbed_root}`; split it first, or merge `{absorbed_root}`",
                said.absorbed
            ))));
        }
        let survivors = locked.remove(&survivor_root).unwrap_or_default();
        let group = locked.remove(&absorbed_root).unwrap_or_default();
        let (mut absorbed, absorbed_is_new) = self.row(Some(&group), &said.absorbed);
        let (mut root, root_is_new) = self.row(Some(&survivors), &survivor_root);
        if self.by_hand && (absorbed_is_new || root_is_new) {
            let key = if root_is_new {
                &said.survivor
            } else {
                &said.absorbed
            };
            return Err(self.refuse(IntakeError::NobodyKnown(key.clone())));
        }
        let mut change = Change::default();
        let mut merge = MergeRow {
            shard_id: absorbed.shard_id,
            absorbed: said.absorbed.clone(),
            merge_id: merge_id(&said.absorbed, &said.survivor, &event.id),
            survivor: said.survivor.clone(),
            state: MergeState::Draining,
            said_at: event.occurred_at,
            said_by_event: event.id.clone(),
            merged_at: Some(self.now),
            merged_by: Some(self.by.0.clone()),
            merged_reason: event
                .data
                .get("reason")
                .and_then(Value::as_str)
                .map(str::to_owned),
            score: None,
            split_at: None,
            split_by: None,
            split_reason: None,
            moved: Vec::new(),
        };
        absorbed.status = IdentityStatus::Merged;
        absorbed.status_case = None;
        absorbed.merged_into = Some(said.survivor.clone());
        absorbed.changed_at = self.now;
        self.decide(transaction, &mut absorbed, &mut root, locked, &mut change)
            .await?;
        // What was about to be taken back stays where it is.
        for mut earlier in merges {
            let returns = matches!(earlier.state, MergeState::Splitting | MergeState::Returning);
            if returns && survivors.has(&earlier.survivor) {
                earlier.state = MergeState::Split;
                merge.moved.append(&mut earlier.moved);
                absorbed.disputes.retain(|other| *other != earlier.merge_id);
                root.disputes.retain(|other| *other != earlier.merge_id);
                put_merges(transaction, &[earlier]).await?;
            }
        }
        let open = std::mem::take(&mut absorbed.disputes);
        for question in open {
            include(&mut root.disputes, question);
        }
        if absorbed_is_new {
            // Nobody said anything under it, so it has neither accounts nor work under way.
            merge.state = MergeState::Merged;
            change.introduced.push(absorbed.clone());
        } else {
            absorbed.generation = absorbed.generation.saturating_add(1);
            include(&mut root.disputes, merge.merge_id.clone());
            let start = regroup_case(
                &absorbed,
                &self.input(&merge, Part::Drained),
                self.by,
                self.now,
            );
            change.starts.push((absorbed.shard_id, start));
            change.rows.push(absorbed.clone());
        }
        let mut members = survivors.members;
        if said.survivor == survivor_root {
            include(&mut root.members, said.absorbed.clone());
        } else if let Some(parent) = members
            .iter_mut()
            .find(|row| row.identity_key == said.survivor)
        {
            include(&mut parent.members, said.absorbed.clone());
            change.rows.push(parent.clone());
        }
        if root_is_new {
            change.introduced.push(root.clone());
        } else {
            change.rows.push(root.clone());
        }
        members.push(absorbed);
        members.extend(group.members);
        members.sort_by(|a, b| a.identity_key.cmp(&b.identity_key));
        locked.insert(
            survivor_root,
            Locked {
                row: Some(root),
                members,
            },
        );
        change.merge = Some(merge);
        Ok(change)
    }

    /// Closes the question about the key that is absorbed.
    async fn decide(
        &self,
        transaction: &mut Transaction<'_>,
        absorbed: &mut IdentityRow,
        root: &mut IdentityRow,
        locked: &mut BTreeMap<String, Locked>,
        change: &mut Change,
    ) -> Result<(), StoreError> {
        // Those that hold somebody up, and those that only wait in the list.
        let about = [(absorbed.shard_id, absorbed.identity_key.clone())];
        let mut questions = absorbed.disputes.clone();
        for review in reviews_about(transaction, &about).await? {
            include(&mut questions, review.review_id);
        }
        for question in questions {
            let found = review_in(transaction, absorbed.shard_id, &question).await?;
            let Some(mut review) =
                found.filter(|review| review.record_key == absorbed.identity_key)
            else {
                continue;
            };
            if review.status != ReviewStatus::Open {
                continue;
            }
            review.status = ReviewStatus::Linked;
            review.decided_at = Some(self.now);
            review.decided_by = Some(self.by.0.clone());
            let said = self.event.data.get("reason").and_then(Value::as_str);
            let reason = self.review.map(|review| review.reason).or(said);
            review.decided_reason = reason.map(str::to_owned);
            review.decided_key = Some(self.said.survivor.clone());
            // The other candidates are asked about no more; they have to be under lock for that.
            let roots: Vec<String> = review
                .candidates
                .iter()
                .map(|scored| self.groups.root(&scored.key))
                .filter(|key| *key != root.identity_key && *key != absorbed.identity_key)
                .collect();
            if roots.iter().any(|key| !locked.contains_key(key)) {
                self.groups
                    .ask(&absorbed.identity_key, review.candidates.clone());
                return Err(StoreError::Projection(REGROUPED.to_owned()));
            }
            for key in roots {
                if let Some(row) = locked.get_mut(&key).and_then(|group| group.row.as_mut()) {
                    row.disputes.retain(|other| *other != question);
                    change.rows.push(row.clone());
                }
            }
            absorbed.disputes.retain(|other| *other != question);
            root.disputes.retain(|other| *other != question);
            put_reviews(transaction, &[review]).await?;
        }
        Ok(())
    }

    /// Makes two people of one.
    fn part(
        &self,
        origin: &Origin<'_>,
        locked: &mut BTreeMap<String, Locked>,
        merges: Vec<MergeRow>,
    ) -> Change {
        let (event, said) = (self.event, self.said);
        let reason = event
            .data
            .get("reason")
            .and_then(Value::as_str)
            .map(str::to_owned);
        let root_key = self.groups.root(&said.absorbed);
        let merge = merges.into_iter().find(|merge| merge.state.holds());
        let group = locked.remove(&root_key).unwrap_or_default();
        let (Some(mut merge), Some(mut root), true) =
            (merge, group.row.clone(), root_key != said.absorbed)
        else {
            locked.insert(root_key, group);
            // It may have come before what it takes back.
            let shard_id = origin.directory.shard(&said.absorbed);
            return Change {
                merge: Some(MergeRow {
                    shard_id,
                    absorbed: said.absorbed.clone(),
                    merge_id: merge_id(&said.absorbed, &said.survivor, &event.id),
                    survivor: said.survivor.clone(),
                    state: MergeState::Split,
                    said_at: event.occurred_at,
                    said_by_event: event.id.clone(),
                    merged_at: None,
                    merged_by: None,
                    merged_reason: None,
                    score: None,
                    split_at: Some(self.now),
                    split_by: Some(self.by.0.clone()),
                    split_reason: reason,
                    moved: Vec::new(),
                }),
                ..Change::default()
            };
        };
        merge.state = MergeState::Splitting;
        merge.said_at = event.occurred_at;
        merge.said_by_event.clone_from(&event.id);
        merge.split_at = Some(self.now);
        merge.split_by = Some(self.by.0.clone());
        merge.split_reason = reason;
        let mut own = subtree(&group.members, &said.absorbed);
        let mut rest: Vec<IdentityRow> = group
            .members
            .into_iter()
            .filter(|row| {
                !own.iter()
                    .any(|other| other.identity_key == row.identity_key)
            })
            .collect();
        let place = own.iter().position(|row| row.identity_key == said.absorbed);
        let Some(mut absorbed) = place.map(|place| own.remove(place)) else {
            return Change::default();
        };
        let mut change = Change::default();
        let parent = absorbed
            .merged_into
            .take()
            .unwrap_or_else(|| root_key.clone());
        absorbed.status = IdentityStatus::Expected;
        absorbed.status_case = None;
        absorbed.generation = absorbed.generation.saturating_add(1);
        absorbed.changed_at = self.now;
        include(&mut absorbed.disputes, merge.merge_id.clone());
        root.changed_at = self.now;
        include(&mut root.disputes, merge.merge_id.clone());
        if parent == root_key {
            root.members.retain(|key| *key != said.absorbed);
        } else if let Some(parent) = rest.iter_mut().find(|row| row.identity_key == parent) {
            parent.members.retain(|key| *key != said.absorbed);
            change.rows.push(parent.clone());
        }
        let input = self.input(&merge, Part::Drained);
        let start = regroup_case(&absorbed, &input, self.by, self.now);
        change.starts.push((absorbed.shard_id, start));
        change.rows.extend([absorbed.clone(), root.clone()]);
        change.merge = Some(merge);
        locked.insert(
            root_key,
            Locked {
                row: Some(root),
                members: rest,
            },
        );
        let parted = Locked {
            row: Some(absorbed),
            members: own,
        };
        locked.insert(said.absorbed.clone(), parted);
        change
    }

    /// Writes it, with the statement and what follows for the people as they are now.
    async fn write(
        &self,
        transaction: &mut Transaction<'_>,
        origin: &Origin<'_>,
        locked: BTreeMap<String, Locked>,
        change: Change,
    ) -> Result<Vec<InboxRow>, StoreError> {
        if !introduce(transaction, &change.introduced).await? {
            return Err(StoreError::Projection(INTRODUCED.to_owned()));
        }
        put_identities(transaction, &change.rows).await?;
        put_merges(transaction, change.merge.as_slice()).await?;
        let mut people = read(transaction, origin, locked).await?;
        let subject = self.event.subject.as_str();
        let shard_id = origin.directory.shard(subject);
        let row = row_of(self.event, shard_id, origin);
        let about = people.values_mut().find(|person| person.has(subject));
        match about {
            Some(person) => person.fresh.push(row),
            // It is about nobody who is known: kept, so that the same again is known.
            None => put_events(transaction, &[row]).await?,
        }
        let (settled, mut inbox, _spans) =
            finish(transaction, origin, people, Settled::default()).await?;
        let mut cases: Vec<CaseId> = settled.cases.into_values().flatten().collect();
        for (shard_id, start) in change.starts {
            cases.push(start.case);
            inbox.push(message(start, shard_id, origin)?);
        }
        let mut done = Done::nothing(self.said);
        if let Some(merge) = change.merge {
            done.report.merge = merge.merge_id;
            done.report.state = merge.state;
        }
        done.report.cases = cases;
        let status = settled.events.into_keys().next();
        done.status = status.or(Some(EventStatus::Recorded));
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
        Ok(inbox)
    }
}

/// The rows of a key and of all that were merged into it.
fn subtree(rows: &[IdentityRow], key: &str) -> Vec<IdentityRow> {
    let mut found: Vec<IdentityRow> = Vec::new();
    let mut open = vec![key.to_owned()];
    while let Some(key) = open.pop() {
        let row = rows.iter().find(|row| row.identity_key == key);
        let is_new = |row: &&IdentityRow| {
            let mut found = found.iter();
            !found.any(|other| other.identity_key == row.identity_key)
        };
        if let Some(row) = row.filter(is_new) {
            open.extend(row.members.iter().cloned());
            found.push(row.clone());
        }
    }
    found
}
