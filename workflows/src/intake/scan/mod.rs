//! People who are known and may be one: what a new record is compared for when it comes, asked of everybody who is there.
//!
//! It holds nobody up. Whoever it concerns has what they have for long, and a question that may stay open for weeks must not
//! stop their next change; so unlike the question about a new record, this one only waits in the list. Nobody is linked
//! unasked, and nobody is asked again about two of whom a person said that they are two.
//!
//! People are read a few at a time, and so is whom they have something in common with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use engine::core::Timestamp;
use engine::core::id::Actor;
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde::Serialize;
use uuid::Uuid;

use super::correlate::{COMPARED_MAX, NAMESPACE, candidates};
use super::groups::Groups;
use super::{Intake, IntakeError};
use crate::correlation::{CANDIDATES_MAX, Candidate, Correlation, Scored, Verdict, blocks, decide};
use crate::directory::{
    BlockRow, Directory, IdentityFilter, IdentityRow, ReviewRow, ReviewStatus, put_reviews,
    reviews_about, split_pairs, with_blocks,
};

/// How many people are compared in one transaction.
const PEOPLE_AT_ONCE_MAX: u32 = 25;
/// The most questions of one scan: more than anybody answers in a day.
pub const SCAN_QUESTIONS_MAX: usize = 1_000;

/// What a scan found.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ScanReport {
    /// How many keys were compared with the others.
    pub compared: u64,
    /// The questions it asks, or would: those that were asked before are not among them.
    pub found: Vec<Duplicate>,
    /// There are more: scan again when these are decided.
    pub more: bool,
    /// Whether the questions are in the list now.
    pub asked: bool,
}

/// Somebody who may be one with others.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Duplicate {
    pub question: String,
    pub key: String,
    /// Best first.
    pub candidates: Vec<Scored>,
}

impl Intake {
    /// Compares everybody with everybody by the rules, and asks about those who are alike; without `ask` it only tells whom it
    /// would ask about.
    ///
    /// # Errors
    /// When there are no rules, or the database does not answer. What was asked by then stays asked.
    pub async fn scan(&self, ask: bool, now: Timestamp) -> Result<ScanReport, IntakeError> {
        let rules = self.correlation.as_deref().ok_or_else(|| {
            let why = "there is no `correlation.yaml` in the configuration folder, so nobody is compared; \
                       docs/correlation.md has one to begin with";
            IntakeError::Merge(why.to_owned())
        })?;
        self.ready(now).await?;
        let mut report = ScanReport {
            asked: ask,
            ..ScanReport::default()
        };
        let mut after: Option<String> = None;
        let filter = IdentityFilter::default();
        loop {
            let page = self
                .directory
                .identities(&filter, after.as_deref(), PEOPLE_AT_ONCE_MAX);
            let page = page.await?;
            let Some(last) = page.last() else {
                return Ok(report);
            };
            after = Some(last.identity_key.clone());
            report.compared += page.len() as u64;
            let work = Part {
                intake: self,
                rules,
                page: &page,
                ask,
                now,
                groups: Groups::default(),
                found: Mutex::default(),
            };
            self.write(&work).await?;
            let found = work
                .found
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner);
            for one in found {
                // Without asking, two keys of one person find the same pair twice.
                if !report.found.contains(&one) {
                    report.found.push(one);
                }
            }
            if report.found.len() >= SCAN_QUESTIONS_MAX {
                report.more = true;
                return Ok(report);
            }
        }
    }
}

struct Part<'a> {
    intake: &'a Intake,
    rules: &'a Correlation,
    page: &'a [IdentityRow],
    ask: bool,
    now: Timestamp,
    groups: Groups,
    found: Mutex<Vec<Duplicate>>,
}

/// The key that stands for a row.
fn root(row: &IdentityRow) -> &str {
    row.merged_into.as_deref().unwrap_or(&row.identity_key)
}

#[async_trait]
impl Work for Part<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let directory = &self.intake.directory;
        let roots: BTreeSet<String> = self.page.iter().map(|row| root(row).to_owned()).collect();
        if self.ask {
            // Whoever decides about them meanwhile comes first or afterwards.
            self.groups.lock(transaction, directory, &roots).await?;
        }
        let pairs = self.alike(transaction).await?;
        let mut concerned: BTreeSet<&str> = pairs.keys().map(String::as_str).collect();
        concerned.extend(pairs.values().flat_map(BTreeMap::keys).map(String::as_str));
        let decided = decided(transaction, directory, &concerned).await?;
        let mut found = Vec::new();
        let mut reviews = Vec::new();
        for (key, others) in &pairs {
            let mut candidates: Vec<Scored> = others
                .values()
                .filter(|scored| !decided.contains(&pair(key, &scored.key)))
                .cloned()
                .collect();
            candidates.sort_by(|a, b| (b.score.points, &a.key).cmp(&(a.score.points, &b.key)));
            candidates.truncate(CANDIDATES_MAX);
            if candidates.is_empty() {
                continue;
            }
            let source = self.page.iter().find(|row| root(row) == key);
            let review = self.review(key, source, candidates);
            found.push(Duplicate {
                question: review.review_id.clone(),
                key: key.clone(),
                candidates: review.candidates.clone(),
            });
            reviews.push(review);
        }
        if self.ask {
            put_reviews(transaction, &reviews).await?;
        }
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = found;
        Ok(Vec::new())
    }
}

impl Part<'_> {
    /// For each person of the page those before them in the order of keys who are alike: so each pair is found once.
    async fn alike(
        &self,
        transaction: &mut Transaction<'_>,
    ) -> Result<BTreeMap<String, BTreeMap<String, Scored>>, StoreError> {
        let directory = &self.intake.directory;
        let texts: Vec<BTreeSet<String>> = self
            .page
            .iter()
            .map(|row| blocks(self.rules, &row.attributes))
            .collect();
        let wanted: BTreeSet<&String> = texts.iter().flatten().collect();
        let wanted: Vec<BlockRow> = wanted
            .into_iter()
            .map(|block| BlockRow {
                shard_id: directory.shard(block),
                block: block.clone(),
                identity_key: String::new(),
            })
            .collect();
        let common = with_blocks(transaction, &wanted).await?;
        let near = |texts: &BTreeSet<String>| {
            let keys = texts.iter().filter_map(|text| common.get(text)).flatten();
            let keys: BTreeSet<String> = keys.cloned().collect();
            keys.into_iter().take(COMPARED_MAX).collect::<Vec<_>>()
        };
        let mut pairs: BTreeMap<String, BTreeMap<String, Scored>> = BTreeMap::new();
        for (row, texts) in self.page.iter().zip(&texts) {
            let own = root(row);
            let known = candidates(transaction, directory, near(texts).into_iter().collect());
            let known = known.await?;
            let others = known.values().filter(|(other, _)| other.as_str() < own);
            for (other, found) in others {
                let candidate = Candidate {
                    key: other,
                    attributes: &found.attributes,
                    // Nobody is linked here, however sure it looks.
                    beside: true,
                };
                let Verdict::Ask(scored) = decide(self.rules, &row.attributes, &[candidate]) else {
                    continue;
                };
                for scored in scored {
                    let best = pairs.entry(own.to_owned()).or_default();
                    let known = best.get(other).map(|known| known.score.points);
                    if known.is_none_or(|points| points < scored.score.points) {
                        best.insert(other.clone(), scored);
                    }
                }
            }
        }
        Ok(pairs)
    }

    fn review(&self, key: &str, row: Option<&IdentityRow>, candidates: Vec<Scored>) -> ReviewRow {
        let mut about: Vec<&str> = candidates
            .iter()
            .map(|scored| scored.key.as_str())
            .collect();
        about.sort_unstable();
        let name = format!("scan\n{key}\n{}", about.join("\n"));
        ReviewRow {
            shard_id: self.intake.directory.shard(key),
            review_id: format!("cor_{}", Uuid::new_v5(&NAMESPACE, name.as_bytes()).simple()),
            record_key: key.to_owned(),
            source: row.map_or_else(|| Actor::engine().0, |row| row.source.clone()),
            status: ReviewStatus::Open,
            owner: self.rules.owner.clone(),
            candidates,
            opened_at: self.now,
            decided_at: None,
            decided_by: None,
            decided_reason: None,
            decided_key: None,
        }
    }
}

fn pair(one: &str, other: &str) -> (String, String) {
    let (first, second) = if one < other {
        (one, other)
    } else {
        (other, one)
    };
    (first.to_owned(), second.to_owned())
}

/// The pairs among these people that were asked about, or parted by somebody.
async fn decided(
    transaction: &mut Transaction<'_>,
    directory: &Directory,
    keys: &BTreeSet<&str>,
) -> Result<BTreeSet<(String, String)>, StoreError> {
    let keys: Vec<(i32, String)> = keys
        .iter()
        .map(|key| (directory.shard(key), (*key).to_owned()))
        .collect();
    let mut pairs = BTreeSet::new();
    for review in reviews_about(transaction, &keys).await? {
        let others = review.candidates.iter();
        pairs.extend(others.map(|scored| pair(&review.record_key, &scored.key)));
    }
    let split = split_pairs(transaction, &keys).await?;
    pairs.extend(split.iter().map(|(one, other)| pair(one, other)));
    Ok(pairs)
}

#[cfg(test)]
mod tests;
