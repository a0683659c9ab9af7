//! Records about people whom nobody knows yet: are they about somebody who is known under another key?
//!
//! A key that no event was about before is compared with the people who have something in common with it. What follows is
//! decided without their locks; then the transaction is begun anew under the locks of all whom it concerns, and finds the
//! decision in [`Groups`](super::groups::Groups).

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use engine::core::Timestamp;
use engine::store::{InboxRow, StoreError, Transaction, Work};
use uuid::Uuid;

use super::groups::REGROUPED;
use super::settle::{Origin, Person};
use super::{Intake, person};
use crate::correlation::{Candidate, Correlation, Scored, Verdict, blocks, decide, score};
use crate::directory::{
    BlockRow, Directory, IdentityFilter, IdentityRow, IdentityStatus, MergeRow, MergeState,
    PAGE_ROWS_MAX, ReviewRow, ReviewStatus, events_in, identities_in, put_blocks, put_indexed,
    put_reviews, with_blocks,
};
use crate::sources::BusinessEvent;
use crate::timeline::{Class, Timeline, class};

/// Makes identifiers of merges and questions out of what they are about.
pub(super) const NAMESPACE: Uuid = Uuid::from_u128(0x2b71_44ce_0c55_4a7e_8b1e_7d4c_93a5_1f60);
/// The most people who have something in common with a record and are compared with it.
pub(super) const COMPARED_MAX: usize = 1_000;

/// A new key that is about somebody who is known.
pub(super) struct Joined {
    /// The first that was said under it.
    pub event: BusinessEvent,
    pub scored: Scored,
}

pub(super) fn merge_id(absorbed: &str, survivor: &str, event: &str) -> String {
    let of = format!("{absorbed}\n{survivor}\n{event}");
    format!("mrg_{}", Uuid::new_v5(&NAMESPACE, of.as_bytes()).simple())
}

fn review_id(key: &str) -> String {
    format!("cor_{}", Uuid::new_v5(&NAMESPACE, key.as_bytes()).simple())
}

/// Adds to a sorted list.
pub(super) fn include(list: &mut Vec<String>, item: String) {
    if let Err(place) = list.binary_search(&item) {
        list.insert(place, item);
    }
}

/// Finds out whom new keys are about.
///
/// # Errors
/// [`REGROUPED`] when somebody was found: the transaction is begun anew.
pub(super) async fn recognise(
    transaction: &mut Transaction<'_>,
    origin: &Origin<'_>,
    keys: &BTreeSet<String>,
    people: &mut BTreeMap<String, Person>,
) -> Result<(), StoreError> {
    let Some(correlation) = origin.correlation else {
        return Ok(());
    };
    let mut new: BTreeMap<&String, Vec<BusinessEvent>> = BTreeMap::new();
    let mut reviews = Vec::new();
    for key in keys {
        let root = origin.groups.root(key);
        let Some(known) = people.get_mut(&root) else {
            continue;
        };
        let has = known.members.iter().any(|row| row.identity_key == *key);
        let first = known.fresh.iter().find(|row| row.subject == *key);
        let first = first.map(|row| (row.source.clone(), row.event()));
        if let (Some(scored), false, Some((_, event))) = (origin.groups.decided(key), has, &first) {
            let event = event.clone();
            known.joined.push(Joined { event, scored });
        } else if let (Some(candidates), None, Some((source, _))) =
            (origin.groups.asked(key), &known.before, &first)
        {
            reviews.push(review(origin, correlation, key, source, candidates));
        } else if root == *key && known.before.is_none() {
            let events: Vec<BusinessEvent> = known.fresh.iter().map(|row| row.event()).collect();
            let begins = |event: &BusinessEvent| class(event.event_type) == Class::Begins;
            if events.iter().any(begins) {
                new.insert(key, events);
            }
        }
    }
    for review in &reviews {
        let asked = review.candidates.iter().map(|scored| scored.key.as_str());
        for key in asked.chain([review.record_key.as_str()]) {
            if let Some(person) = people.get_mut(&origin.groups.root(key)) {
                person.asked.push(review.review_id.clone());
            }
        }
    }
    put_reviews(transaction, &reviews).await?;
    if new.is_empty() || !compare(transaction, origin, correlation, &new).await? {
        return Ok(());
    }
    Err(StoreError::Projection(REGROUPED.to_owned()))
}

fn review(
    origin: &Origin<'_>,
    correlation: &Correlation,
    key: &str,
    source: &str,
    candidates: Vec<Scored>,
) -> ReviewRow {
    ReviewRow {
        shard_id: origin.directory.shard(key),
        review_id: review_id(key),
        record_key: key.to_owned(),
        source: source.to_owned(),
        status: ReviewStatus::Open,
        owner: correlation.owner.clone(),
        candidates,
        opened_at: origin.now,
        decided_at: None,
        decided_by: None,
        decided_reason: None,
        decided_key: None,
    }
}

/// Compares new keys with whom they have something in common with, and notes what is decided; says whether anybody was
/// found.
async fn compare(
    transaction: &mut Transaction<'_>,
    origin: &Origin<'_>,
    correlation: &Correlation,
    new: &BTreeMap<&String, Vec<BusinessEvent>>,
) -> Result<bool, StoreError> {
    let mut records = BTreeMap::new();
    let mut wanted = Vec::new();
    for (key, events) in new {
        let said = events.iter().map(|event| (origin.now, event));
        let attributes = Timeline::of(said).at(origin.now).attributes;
        let texts = blocks(correlation, &attributes);
        wanted.extend(texts.iter().map(|block| BlockRow {
            shard_id: origin.directory.shard(block),
            block: block.clone(),
            identity_key: String::new(),
        }));
        records.insert(*key, (attributes, texts));
    }
    let common = with_blocks(transaction, &wanted).await?;
    let mut found = BTreeSet::new();
    for (_, texts) in records.values() {
        found.extend(
            texts
                .iter()
                .filter_map(|text| common.get(text))
                .flatten()
                .cloned(),
        );
    }
    if found.is_empty() {
        return Ok(false);
    }
    let known = candidates(transaction, origin.directory, found).await?;
    let mut linked: BTreeMap<String, Vec<(&String, Scored)>> = BTreeMap::new();
    let mut anybody = false;
    for (key, (attributes, texts)) in &records {
        // The best of the keys of one person.
        let mut best: BTreeMap<&str, (i32, &IdentityRow)> = BTreeMap::new();
        let alike = texts.iter().filter_map(|text| common.get(text)).flatten();
        let alike: BTreeSet<&String> = alike.take(COMPARED_MAX).collect();
        for (root, row) in alike.into_iter().filter_map(|key| known.get(key)) {
            let points = score(correlation, attributes, &row.attributes).points;
            if best
                .get(root.as_str())
                .is_none_or(|(most, _)| *most < points)
            {
                best.insert(root, (points, row));
            }
        }
        let of = |beside: &BTreeSet<&str>| {
            let candidates = best.iter().map(|(root, (_, row))| Candidate {
                key: root,
                attributes: &row.attributes,
                beside: beside.contains(root),
            });
            decide(correlation, attributes, &candidates.collect::<Vec<_>>())
        };
        let mut verdict = of(&BTreeSet::new());
        if let Verdict::Link(scored) = &verdict {
            let sources = new
                .get(key)
                .into_iter()
                .flatten()
                .map(|event| event.source.as_str());
            let sources: BTreeSet<&str> = sources.collect();
            let row = best.get(scored.key.as_str()).map(|(_, row)| *row);
            if is_beside(transaction, origin, &scored.key, row, &sources).await? {
                let beside = scored.key.clone();
                verdict = of(&BTreeSet::from([beside.as_str()]));
            }
        }
        match verdict {
            Verdict::Link(scored) => {
                anybody = true;
                linked
                    .entry(scored.key.clone())
                    .or_default()
                    .push((key, scored));
            }
            Verdict::Ask(candidates) => {
                anybody = true;
                origin.groups.ask(key, candidates);
            }
            Verdict::New => {}
        }
    }
    for (_, records) in linked {
        // Two new records of one moment are two people to whoever sent them.
        let alone = records.len() == 1;
        for (key, scored) in records {
            if alone {
                origin.groups.becomes(key, scored);
            } else {
                origin.groups.ask(key, vec![scored]);
            }
        }
    }
    Ok(anybody)
}

/// The rows of these keys, each with the key that stands for it.
pub(super) async fn candidates(
    transaction: &mut Transaction<'_>,
    directory: &Directory,
    keys: BTreeSet<String>,
) -> Result<BTreeMap<String, (String, IdentityRow)>, StoreError> {
    let keys: Vec<(i32, String)> = keys
        .into_iter()
        .map(|key| (directory.shard(&key), key))
        .collect();
    let mut rows: BTreeMap<String, (String, IdentityRow)> = BTreeMap::new();
    for row in identities_in(transaction, &keys).await? {
        let root = row
            .merged_into
            .clone()
            .unwrap_or_else(|| row.identity_key.clone());
        rows.insert(row.identity_key.clone(), (root, row));
    }
    Ok(rows)
}

/// Whether one of `sources` has this person at work at this moment.
async fn is_beside(
    transaction: &mut Transaction<'_>,
    origin: &Origin<'_>,
    key: &str,
    row: Option<&IdentityRow>,
    sources: &BTreeSet<&str>,
) -> Result<bool, StoreError> {
    let mut keys = vec![(origin.directory.shard(key), key.to_owned())];
    let others = row.into_iter().flat_map(|row| {
        let members = row.members.iter();
        members.chain([&row.identity_key])
    });
    keys.extend(others.map(|key| (origin.directory.shard(key), key.clone())));
    keys.sort_unstable();
    keys.dedup();
    let rows = events_in(transaction, &keys).await?;
    let events: Vec<(Timestamp, BusinessEvent)> = rows
        .iter()
        .map(|row| (row.received_at, row.event()))
        .collect();
    let timeline = Timeline::of(events.iter().map(|(came, event)| (*came, event)));
    let of_source = |id: &str| {
        let mut rows = rows.iter();
        rows.any(|row| row.event_id == id && sources.contains(row.source.as_str()))
    };
    Ok(timeline.spells().iter().any(|spell| {
        spell.end.is_none_or(|(end, _)| end > origin.now) && of_source(spell.begun_by)
    }))
}

/// Lets new keys be this person: their rows, and the record of it.
pub(super) fn join(
    identity: &mut IdentityRow,
    joined: Vec<Joined>,
    origin: &Origin<'_>,
) -> (Vec<IdentityRow>, Vec<MergeRow>) {
    let (mut rows, mut merges) = (Vec::new(), Vec::new());
    for Joined { event, scored } in joined {
        let absorbed = event.subject.as_str();
        let shard_id = origin.directory.shard(absorbed);
        rows.push(IdentityRow {
            status: IdentityStatus::Merged,
            merged_into: Some(identity.identity_key.clone()),
            ..person::introduced(&event, shard_id, origin.now)
        });
        merges.push(MergeRow {
            shard_id,
            absorbed: absorbed.to_owned(),
            merge_id: merge_id(absorbed, &identity.identity_key, &event.id),
            survivor: identity.identity_key.clone(),
            // Nobody knew it, so it has neither accounts nor work under way.
            state: MergeState::Merged,
            said_at: origin.now,
            said_by_event: event.id.clone(),
            merged_at: Some(origin.now),
            merged_by: Some(origin.initiator.0.clone()),
            merged_reason: Some("the rules of correlation".to_owned()),
            score: Some(scored.score),
            split_at: None,
            split_by: None,
            split_reason: None,
            moved: Vec::new(),
        });
        include(&mut identity.members, absorbed.to_owned());
    }
    (rows, merges)
}

/// What people are found by, as it changes.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    gone: Vec<BlockRow>,
    new: Vec<BlockRow>,
}

impl Blocks {
    pub fn change(
        &mut self,
        origin: &Origin<'_>,
        before: Option<&IdentityRow>,
        after: &IdentityRow,
    ) {
        let Some(correlation) = origin.correlation else {
            return;
        };
        let same = |before: &IdentityRow| before.attributes == after.attributes;
        if before.is_some_and(same) {
            return;
        }
        let texts = |row: &IdentityRow| blocks(correlation, &row.attributes);
        let (old, new) = (before.map(texts).unwrap_or_default(), texts(after));
        let rows = |texts: Vec<&String>| {
            let rows = texts.into_iter().map(|block| BlockRow {
                shard_id: origin.directory.shard(block),
                block: block.clone(),
                identity_key: after.identity_key.clone(),
            });
            rows.collect::<Vec<_>>()
        };
        self.gone.extend(rows(old.difference(&new).collect()));
        self.new.extend(rows(new.difference(&old).collect()));
    }

    pub async fn write(mut self, transaction: &mut Transaction<'_>) -> Result<(), StoreError> {
        // Sorted: two transactions that write the same must not wait for each other.
        self.gone.sort_unstable();
        self.new.sort_unstable();
        put_blocks(transaction, &self.gone, &self.new).await
    }
}

impl Intake {
    /// Makes everybody findable by the rules in force, unless they are already.
    pub(super) async fn ready(&self, now: Timestamp) -> Result<(), StoreError> {
        let Some(rules) = &self.correlation else {
            return Ok(());
        };
        let mut indexed = self.indexed.lock().await;
        if *indexed {
            return Ok(());
        }
        let hash = rules.hash();
        if self.directory.indexed_by().await?.as_ref() != Some(&hash) {
            let mut after: Option<String> = None;
            loop {
                let filter = IdentityFilter::default();
                let page = self
                    .directory
                    .identities(&filter, after.as_deref(), PAGE_ROWS_MAX)
                    .await?;
                let Some(last) = page.last() else { break };
                after = Some(last.identity_key.clone());
                let work = Index {
                    intake: self,
                    correlation: rules,
                    page: &page,
                    done: None,
                };
                self.directory.write(&work).await?;
            }
            let work = Index {
                intake: self,
                correlation: rules,
                page: &[],
                done: Some((hash, now)),
            };
            self.directory.write(&work).await?;
        }
        *indexed = true;
        Ok(())
    }
}

/// Makes a page of people findable.
struct Index<'a> {
    intake: &'a Intake,
    correlation: &'a Correlation,
    page: &'a [IdentityRow],
    done: Option<(String, Timestamp)>,
}

#[async_trait]
impl Work for Index<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let mut rows: Vec<BlockRow> = Vec::new();
        for row in self.page {
            let texts = blocks(self.correlation, &row.attributes).into_iter();
            rows.extend(texts.map(|block| BlockRow {
                shard_id: self.intake.directory.shard(&block),
                block,
                identity_key: row.identity_key.clone(),
            }));
        }
        rows.sort_unstable();
        put_blocks(transaction, &[], &rows).await?;
        if let Some((hash, now)) = &self.done {
            put_indexed(transaction, hash, *now).await?;
        }
        Ok(Vec::new())
    }
}
