//! The guard's part of adopting accounts: what would become of the people of a wave once its accounts are theirs, held against the
//! limits together with what waves on the same system did within the window.
//!
//! Counted is the way from what they hold then to what policy wants: rights that policy gives and are missing, accounts that it
//! does not want, and everything of those who are not there any more. That they get the account at all is an
//! `identity.change`. A wave that is too much is kept, and decided as a file is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use chrono::NaiveDate;
use engine::core::Timestamp;
use engine::core::id::Actor;
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::guard::{holders, protected};
use super::{Intake, IntakeError, MOVED_ON, NAMESPACE, bound};
use crate::actions::access_effects;
use crate::directory::guard::{TallyRow, forget_tallies, put_tally, tallies_in};
use crate::directory::{
    Holdings, IdentityFilter, IdentityStatus, PAGE_ROWS_MAX, PendingSnapshot, SnapshotRow,
    SnapshotStatus, decide_snapshot, facts_of, put_snapshot, resources,
};
use crate::policy::PolicySet;
use crate::policy::guard::{
    Blast, Effect, Gathering, Operation, Pair, Populations, Question, Slice, attribute_value,
    attributes_of, is_of_access, judge, questions, remembered,
};
use crate::sources::guard::EXAMPLES_MAX;
use crate::sources::{ChangeKind, Difference, Key, Summary};
use crate::takeover::{Adoptable, Wave};

/// Stands for the source in limits.
pub const ADOPTION: &str = "adoption";

/// The accounts of a wave, as they are kept while a person decides. A stored form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StagedWave {
    pub id: String,
    pub system: String,
    pub adoptable: Vec<Adoptable>,
    pub reason: String,
}

/// What a wave would do to people.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct WaveEffects {
    pub blast: Blast,
    /// Why a person would have to decide, as sentences.
    pub stopped_by: Vec<String>,
}

/// Measured, before it is known what was before.
pub(super) struct WeighedWave {
    policy: Arc<PolicySet>,
    pub blast: Blast,
    /// People who would hold an account or a right by the wave, as questions name it.
    theirs: BTreeMap<(String, String), u64>,
}

impl StagedWave {
    pub(super) fn of(wave: &Wave, reason: &str) -> Self {
        Self {
            id: wave.id.clone(),
            system: wave.system.clone(),
            adoptable: wave.adoptable.clone(),
            reason: reason.to_owned(),
        }
    }

    /// What stands in place of a source.
    fn source(&self) -> String {
        format!("{ADOPTION}:{}", self.system)
    }
}

impl Intake {
    /// What adopting a wave would do to people, and why a person would have to decide. Nothing is changed.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn wave_effects(
        &self,
        wave: &Wave,
        now: Timestamp,
    ) -> Result<WaveEffects, IntakeError> {
        let staged = StagedWave::of(wave, "");
        let Some(weighed) = self.weigh_wave(&staged, now).await? else {
            return Ok(WaveEffects::default());
        };
        let window = weighed.policy.guard().window;
        let past = self
            .directory
            .tallies(&staged.source(), now - window, now + window)
            .await?;
        let past = past.into_iter().filter(|row| row.tally_id != staged.id);
        let past: Vec<Slice> = past.flat_map(|row| row.slices).collect();
        let stopped_by = self.wave_reasons(&weighed, &past).await?;
        Ok(WaveEffects {
            blast: weighed.blast.shown(),
            stopped_by,
        })
    }

    /// Counts what would become of the people of a wave. `None` before a policy is known.
    pub(super) async fn weigh_wave(
        &self,
        staged: &StagedWave,
        now: Timestamp,
    ) -> Result<Option<WeighedWave>, IntakeError> {
        let Some(policy) = self.policy.get() else {
            return Ok(None);
        };
        let rules = policy.guard();
        let attributes = attributes_of(&rules.limits);
        let mut gathering = Gathering::default();
        let mut theirs: BTreeMap<(String, String), u64> = BTreeMap::new();
        for account in &staged.adoptable {
            let Some(mut holdings) = self.directory.holdings(&account.key).await? else {
                continue;
            };
            let key = holdings.identity.identity_key.clone();
            let shard_id = holdings.identity.shard_id;
            let grants = super::adopt::grants(staged, account, shard_id, &key, now);
            for place in held(staged, account, |system, right| {
                rules.is_privileged(system, right)
            }) {
                *theirs.entry(place).or_default() += 1;
            }
            holdings
                .accounts
                .push(super::adopt::account(staged, account, shard_id, &key, now));
            holdings.grants.extend(grants);
            // Whoever is expected begins before anything is compared.
            if account.stays {
                holdings.identity.status = IdentityStatus::Active;
            }
            match wave_effects(&policy, &holdings, now) {
                Ok(effects) => {
                    let facts = facts_of(&holdings.identity);
                    let loses = effects.iter().any(|effect| effect.operation.takes());
                    let protected = loses
                        && (rules.protects(&facts)
                            || rules.protects_account(&staged.system, &account.name));
                    let pair = Pair {
                        before: Some(facts),
                        after: None,
                    };
                    gathering.count(rules, &attributes, &pair, &effects, protected);
                }
                Err(why) => gathering.unanswered(|| why),
            }
        }
        Ok(Some(WeighedWave {
            blast: gathering.finish(),
            theirs,
            policy,
        }))
    }

    /// Everybody who is there or expected, by names and values of their attributes; all of them under two empty texts.
    async fn crowd(
        &self,
        attributes: &BTreeSet<String>,
    ) -> Result<BTreeMap<(String, String), u64>, StoreError> {
        let mut crowd: BTreeMap<(String, String), u64> = BTreeMap::new();
        for status in [IdentityStatus::Active, IdentityStatus::Expected] {
            let filter = IdentityFilter {
                status: Some(status),
                ..IdentityFilter::default()
            };
            let mut after: Option<String> = None;
            loop {
                let page = self
                    .directory
                    .identities(&filter, after.as_deref(), PAGE_ROWS_MAX)
                    .await?;
                let Some(last) = page.last() else { break };
                after = Some(last.identity_key.clone());
                for row in &page {
                    *crowd.entry((String::new(), String::new())).or_default() += 1;
                    for attribute in attributes {
                        let value = attribute_value(Some(&row.attributes), attribute);
                        *crowd.entry((attribute.clone(), value)).or_default() += 1;
                    }
                }
            }
        }
        Ok(crowd)
    }

    /// Why a person has to decide.
    async fn wave_reasons(
        &self,
        weighed: &WeighedWave,
        past: &[Slice],
    ) -> Result<Vec<String>, StoreError> {
        let rules = weighed.policy.guard();
        let asked = questions(&rules.limits, ADOPTION, past, &weighed.blast);
        let access = if asked.iter().any(Question::is_about_access) {
            self.directory.access_counts().await?
        } else {
            Vec::new()
        };
        let crowd = if asked.iter().all(Question::is_about_access) {
            BTreeMap::new()
        } else {
            self.crowd(&attributes_of(&rules.limits)).await?
        };
        let everybody = (String::new(), String::new());
        let mut populations = Populations::new();
        for question in asked {
            let place = (question.by.clone(), question.value.clone());
            let count = if question.is_about_access() {
                let kind = (kind(&question), question.value.clone());
                let own = weighed.theirs.get(&kind).copied().unwrap_or(0);
                holders(&access, &question, Some(rules)) + own
            } else if question.by == "all" || is_of_access(&question.by) {
                crowd.get(&everybody).copied().unwrap_or(0)
            } else {
                crowd.get(&place).copied().unwrap_or(0)
            };
            populations.insert((question.operation, question.by, question.value), count);
        }
        let mut reasons: Vec<String> = Vec::new();
        let crossed = judge(&rules.limits, ADOPTION, past, &weighed.blast, &populations);
        for reason in crossed.iter().map(ToString::to_string) {
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
        if !weighed.blast.protected.is_empty() {
            reasons.push(protected(&weighed.blast.protected));
        }
        Ok(reasons)
    }

    /// Judges a wave under the lock of its system: remembers it when nobody has to be asked, else keeps it until a person has
    /// decided. Gives the kept row.
    pub(super) async fn stage_wave(
        &self,
        staged: &StagedWave,
        weighed: &WeighedWave,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<SnapshotRow>, IntakeError> {
        let work = Stage {
            intake: self,
            staged,
            weighed,
            by,
            now,
            kept: Mutex::new(None),
        };
        self.directory.write(&work).await?;
        let kept = work.kept.into_inner();
        Ok(kept.unwrap_or_else(PoisonError::into_inner))
    }

    /// What is kept of a wave.
    fn wave_row(
        &self,
        staged: &StagedWave,
        weighed: &WeighedWave,
        reasons: Vec<String>,
        by: &Actor,
        now: Timestamp,
    ) -> Result<SnapshotRow, serde_json::Error> {
        let difference_id = bound(&staged.id, &weighed.blast.digest);
        let people: Vec<Key> = staged
            .adoptable
            .iter()
            .map(|it| Key::new(&it.key))
            .collect();
        let count = staged.adoptable.len() as u64;
        let summary = Summary {
            difference_id: difference_id.clone(),
            population: count,
            people: BTreeMap::from([(ChangeKind::Update, count)]),
            events: BTreeMap::from([(ADOPTED.to_owned(), count)]),
            examples: BTreeMap::from([(
                ChangeKind::Update,
                people.into_iter().take(EXAMPLES_MAX).collect(),
            )]),
            missing_not_removed: 0,
            blast: Some(weighed.blast.shown()),
            policy: Some(weighed.policy.hash().to_owned()),
        };
        let source = staged.source();
        let id = Uuid::new_v5(&NAMESPACE, difference_id.as_bytes());
        Ok(SnapshotRow {
            shard_id: self.directory.shard(&source),
            source,
            snapshot_id: format!("snp_{}", id.simple()),
            file: format!("(accounts on {})", staged.system),
            as_of: now.date_naive(),
            file_sha256: String::new(),
            digest: staged.id.clone(),
            row_count: count,
            complete: false,
            status: SnapshotStatus::Waiting,
            difference_id,
            summary: serde_json::to_value(&summary)?,
            stopped_by: Some(reasons),
            base_id: None,
            imported_at: now,
            imported_by: by.0.clone(),
            decided_at: None,
            decided_by: None,
            decided_note: None,
        })
    }

    /// Notes that somebody approved a wave that waits, if it would still do what was shown. When it would not, it asks again
    /// under another name.
    pub(super) async fn approve_wave(
        &self,
        row: &SnapshotRow,
        staged: &StagedWave,
        by: &Actor,
        now: Timestamp,
    ) -> Result<(), IntakeError> {
        let weighed = self.weigh_wave(staged, now).await?;
        if let Some(weighed) = weighed {
            let reasons = row.stopped_by.clone().unwrap_or_default();
            let asker = Actor(row.imported_by.clone());
            let asked = self.wave_row(staged, &weighed, reasons, &asker, now);
            let asked = asked.map_err(IntakeError::stored_form)?;
            if asked.difference_id != row.difference_id {
                let again = Again {
                    row,
                    asked: &asked,
                    pending: &pending(staged.clone(), now.date_naive()),
                };
                self.directory.write(&again).await?;
                return Err(IntakeError::PlanChanged {
                    shown: row.difference_id.clone(),
                    now: asked.difference_id,
                });
            }
        }
        let decided = SnapshotRow {
            status: SnapshotStatus::Applied,
            decided_at: Some(now),
            decided_by: Some(by.0.clone()),
            ..row.clone()
        };
        match self.directory.write(&DecideWave(&decided)).await {
            Err(StoreError::Projection(reason)) if reason == MOVED_ON => {
                Err(IntakeError::decided(row))
            }
            written => Ok(written?),
        }
    }
}

/// What counts accounts that were adopted where files count events.
pub(super) const ADOPTED: &str = "account.adopted";

/// What somebody of a wave would gain and lose, and that they get an account.
fn wave_effects(
    policy: &PolicySet,
    holdings: &Holdings,
    now: Timestamp,
) -> Result<Vec<Effect>, String> {
    let mut effects = access_effects(policy, holdings, now)?;
    effects.push(Effect {
        operation: Operation::IdentityChange,
        system: None,
        entitlement: None,
        roles: BTreeSet::new(),
    });
    Ok(effects)
}

/// Accounts and rights of a wave, as [`kind`] and the value of a question name them.
fn held(
    staged: &StagedWave,
    account: &Adoptable,
    is_privileged: impl Fn(&str, &str) -> bool,
) -> BTreeSet<(String, String)> {
    let system = staged.system.as_str();
    let mut places = BTreeSet::from([("account system".to_owned(), system.to_owned())]);
    for right in &account.entitlements {
        places.insert(("right system".to_owned(), system.to_owned()));
        places.insert(("right entitlement".to_owned(), format!("{system}/{right}")));
        if is_privileged(system, right) {
            places.insert(("right privileged".to_owned(), String::new()));
        }
    }
    places
}

fn kind(question: &Question) -> String {
    let what = if question.operation == Operation::AccountClose {
        "account"
    } else {
        "right"
    };
    format!("{what} {}", question.by)
}

fn pending(staged: StagedWave, day: NaiveDate) -> PendingSnapshot {
    PendingSnapshot {
        difference: Difference {
            id: staged.id.clone(),
            source: staged.source(),
            as_of: day,
            changes: Vec::new(),
            missing: Vec::new(),
        },
        records: Vec::new(),
        gone: Vec::new(),
        wave: Some(staged),
    }
}

struct Stage<'a> {
    intake: &'a Intake,
    staged: &'a StagedWave,
    weighed: &'a WeighedWave,
    by: &'a Actor,
    now: Timestamp,
    kept: Mutex<Option<SnapshotRow>>,
}

#[async_trait]
impl Work for Stage<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let (staged, now) = (self.staged, self.now);
        let rules = self.weighed.policy.guard();
        let source = staged.source();
        let shard_id = self.intake.directory.shard(&source);
        resources::lock_guard(transaction, shard_id, &source, now).await?;
        let (from, to) = (now - rules.window, now + rules.window);
        let past = tallies_in(transaction, shard_id, &source, from, to).await?;
        // Begun once and not finished, it counts once.
        let past = past.into_iter().filter(|row| row.tally_id != staged.id);
        let past: Vec<Slice> = past.flat_map(|row| row.slices).collect();
        let reasons = self.intake.wave_reasons(self.weighed, &past).await?;
        if reasons.is_empty() {
            let row = TallyRow {
                shard_id,
                source,
                tally_id: staged.id.clone(),
                at: now,
                slices: remembered(&rules.limits, ADOPTION, &self.weighed.blast),
            };
            put_tally(transaction, &row, from).await?;
            return Ok(Vec::new());
        }
        let row = self
            .intake
            .wave_row(staged, self.weighed, reasons, self.by, now)
            .map_err(|error| StoreError::Projection(error.to_string()))?;
        put_snapshot(
            transaction,
            &row,
            Some(&pending(staged.clone(), now.date_naive())),
        )
        .await?;
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(row);
        Ok(Vec::new())
    }
}

/// Takes the place of a difference that would do something else by now.
struct Again<'a> {
    row: &'a SnapshotRow,
    asked: &'a SnapshotRow,
    pending: &'a PendingSnapshot,
}

#[async_trait]
impl Work for Again<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let over = SnapshotRow {
            status: SnapshotStatus::Rejected,
            decided_at: Some(self.asked.imported_at),
            decided_by: None,
            decided_note: Some(format!("replaced by {}", self.asked.difference_id)),
            ..self.row.clone()
        };
        if decide_snapshot(transaction, &over).await? {
            put_snapshot(transaction, self.asked, Some(self.pending)).await?;
        }
        Ok(Vec::new())
    }
}

struct DecideWave<'a>(&'a SnapshotRow);

#[async_trait]
impl Work for DecideWave<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let row = self.0;
        if !decide_snapshot(transaction, row).await? {
            return Err(StoreError::Projection(MOVED_ON.to_owned()));
        }
        // What a person looked at does not count against what comes next.
        forget_tallies(transaction, row.shard_id, &row.source).await?;
        Ok(Vec::new())
    }
}
