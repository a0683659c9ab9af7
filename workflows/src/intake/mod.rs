//! Intake: what sources say becomes durable, is put in order, and starts cases.
//!
//! Everything that follows from a file or an event is written in one transaction: records, identities, events
//! and the messages that start cases. A crash leaves all of it or nothing; the same file or event again
//! changes nothing.
//!
//! Facts that are not effective yet wait in the directory, not in a case: somebody's announced end in thirty
//! days must not hold up their transfer tomorrow, and a cancelled end is a row that never starts.
//! [`Intake::start_due`] starts them, and says when to call it next.
//!
//! Several events for one person in one file make one case for each workflow that reacts, and none for a
//! workflow that another of them would end at once.

mod adopt;
mod clock;
mod contracts;
mod correlate;
mod exceptions;
mod groups;
mod guard;
mod heard;
mod merge;
mod named;
mod person;
mod planned;
mod pushed;
mod report;
mod reviews;
mod scan;
mod settle;
mod take;
mod things;
mod waves;

#[cfg(test)]
mod contract_tests;
#[cfg(test)]
mod guarding;
#[cfg(test)]
mod held;
#[cfg(test)]
mod others;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use engine::core::Timestamp;
use engine::core::id::Actor;
use engine::runner::Definitions;
use engine::store::{InboxRow, StoreError, Transaction, Work};
use tokio::sync::Notify;
use uuid::Uuid;

use self::contracts::ContractPolicy;
use self::groups::REGROUPED;
use self::guard::Judged;
use self::settle::{INTRODUCED, Settled};
use self::take::Take;
use crate::correlation::{Correlation, SecondAccounts};
use crate::directory::guard::{believe, forget_tallies};
use crate::directory::{
    Directory, PendingSnapshot, Position, RecordRow, SnapshotRow, SnapshotStatus, decide_snapshot,
    mark_gone, move_on, put_records, put_snapshot,
};
use crate::policy::guard::LimitRule;
use crate::policy::{LeaverRules, Problem, Problems};
use crate::sources::doubt::{Earlier, doubts};
use crate::sources::{
    BusinessEvent, Key, Records, Snapshot, SnapshotInput, Source, Summary, Verdict, assess, diff,
    read_snapshot,
};

pub use self::adopt::WaveReport;
pub use self::contracts::{
    EXTENSION, ExtendError, Extended, Extension, ExtensionAsked, ExtensionInput,
};
pub use self::exceptions::ExceptionEnd;
pub(crate) use self::guard::holders;
pub use self::guard::{PolicyCell, protected};
pub use self::merge::{MergeReport, MovedAccount, Part, REGROUP, RegroupInput, RegroupReport};
pub use self::pushed::{
    Action, Outcome, Push, PushError, RESOURCE_BYTES_MAX, RESOURCE_NAME_BYTES_MAX, is_held,
};
pub use self::report::{Due, EventReport, ImportReport, ImportStatus, IntakeError};
pub use self::reviews::{ReviewReport, SeparationInput};
pub use self::scan::{Duplicate, SCAN_QUESTIONS_MAX, ScanReport};
pub use self::waves::{ADOPTION, StagedWave, WaveEffects};

/// How often a transaction is begun because of people whom others introduce meanwhile. An event needs two at most, a file
/// one more for each event that comes between about somebody who is new in both.
const INTRODUCTIONS_MAX: u32 = 50;
/// Makes identifiers of snapshots out of what they say.
const NAMESPACE: Uuid = Uuid::from_u128(0x0c5d_8a42_77e1_4d13_9b60_52fa_1e98_c3d7);

/// Takes facts in. Cheap to clone.
#[derive(Clone)]
pub struct Intake {
    directory: Directory,
    definitions: Arc<Definitions>,
    correlation: Option<Arc<Correlation>>,
    /// Whether everybody in the database is findable by the rules.
    indexed: Arc<tokio::sync::Mutex<bool>>,
    contracts: Option<ContractPolicy>,
    written: heard::Written,
    /// Told when something was planned that may be due before all else that waits.
    due: Arc<Notify>,
    /// What the guard measures accounts and rights by. Without one it counts people alone.
    policy: PolicyCell,
    /// How much each configured source may change at once.
    limits: Arc<BTreeMap<String, Vec<LimitRule>>>,
}

impl Intake {
    #[must_use]
    pub fn new(directory: Directory, definitions: Arc<Definitions>) -> Self {
        Self {
            directory,
            definitions,
            correlation: None,
            indexed: Arc::default(),
            contracts: None,
            written: heard::Written::default(),
            due: Arc::default(),
            policy: PolicyCell::default(),
            limits: Arc::default(),
        }
    }

    /// What is told when something was planned that may be due before all else that waits: for whoever sleeps until
    /// [`Intake::start_due`] is to be called.
    #[must_use]
    pub fn due(&self) -> Arc<Notify> {
        Arc::clone(&self.due)
    }

    /// Lets the guard measure what would become of accounts and rights under the policy in force.
    #[must_use]
    pub fn guarded<'a>(
        self,
        policy: PolicyCell,
        sources: impl Iterator<Item = &'a Arc<Source>>,
    ) -> Self {
        let limits = sources.map(|source| (source.name().to_owned(), source.guard().limit_rules()));
        Self {
            policy,
            limits: Arc::new(limits.collect()),
            ..self
        }
    }

    /// With rules by which new records are about people who are known.
    #[must_use]
    pub fn with_correlation(self, correlation: Option<Arc<Correlation>>) -> Self {
        Self {
            correlation,
            indexed: Arc::default(),
            ..self
        }
    }

    /// The rules by which new records are about people who are known.
    #[must_use]
    pub fn correlation(&self) -> Option<&Correlation> {
        self.correlation.as_deref()
    }

    fn second_accounts(&self) -> SecondAccounts {
        let rules = self.correlation.as_ref();
        rules.map(|rules| rules.second_accounts).unwrap_or_default()
    }

    /// When access ends of whom only the last day is known.
    #[must_use]
    pub fn leavers(&self) -> LeaverRules {
        let policy = self.policy.get();
        policy.map_or_else(LeaverRules::default, |policy| policy.leavers().clone())
    }

    /// Reads a file and takes it in, or keeps it until a person has approved it.
    ///
    /// # Errors
    /// [`IntakeError::Refused`] when the file is wrong or older than what was applied; nothing is changed.
    /// [`IntakeError::MovedOn`] when another import of this source came between.
    pub async fn import(
        &self,
        source: &Source,
        reader: impl Read,
        input: &SnapshotInput<'_>,
        by: &Actor,
        now: Timestamp,
    ) -> Result<ImportReport, IntakeError> {
        let snapshot = read_snapshot(source, reader, input)?;
        self.import_snapshot(source, &snapshot, by, now).await
    }

    /// As [`Intake::import`], for a file that was read already.
    ///
    /// # Errors
    /// As [`Intake::import`].
    pub async fn import_snapshot(
        &self,
        source: &Source,
        snapshot: &Snapshot,
        by: &Actor,
        now: Timestamp,
    ) -> Result<ImportReport, IntakeError> {
        let report = match self.compare(source, snapshot, by, now).await {
            Err(IntakeError::Refused(problems)) => {
                let reason = problems.list.first().map(ToString::to_string);
                self.refused(source.name(), now, &reason.unwrap_or_default())
                    .await;
                return Err(IntakeError::Refused(problems));
            }
            compared => compared?,
        };
        let news = report.status != ImportStatus::Unchanged;
        if !news {
            // It says what it said when it was last believed.
            self.doubt(source.name(), now, None).await?;
        }
        self.heard_or_logged(source.name(), now, news).await;
        Ok(report)
    }

    /// What taking a file in would do, and whether a person would have to decide. Nothing is changed.
    ///
    /// # Errors
    /// As [`Intake::import`].
    pub async fn preview(
        &self,
        source: &Source,
        snapshot: &Snapshot,
        by: &Actor,
        now: Timestamp,
    ) -> Result<ImportReport, IntakeError> {
        let Some(weighed) = self.weigh(source, snapshot, by, now).await? else {
            let next = self.position(snapshot);
            return Ok(ImportReport::unchanged(snapshot, &next.snapshot_id));
        };
        Ok(ImportReport::previewed(
            snapshot,
            &weighed.row,
            weighed.summary,
        ))
    }

    async fn compare(
        &self,
        source: &Source,
        snapshot: &Snapshot,
        by: &Actor,
        now: Timestamp,
    ) -> Result<ImportReport, IntakeError> {
        let Some(weighed) = self.weigh(source, snapshot, by, now).await? else {
            let next = self.position(snapshot);
            return Ok(ImportReport::unchanged(snapshot, &next.snapshot_id));
        };
        let Weighed {
            row,
            pending,
            next,
            summary,
            judged,
            doubts,
        } = weighed;
        if let Some(reason) = doubts.first() {
            self.refused(source.name(), now, reason).await;
        }
        if row.status == SnapshotStatus::Waiting {
            let keep = Keep {
                row: &row,
                pending: &pending,
            };
            self.directory.write(&keep).await?;
            return Ok(ImportReport::waiting(snapshot, &row, summary));
        }
        // Who stands behind the cases is the source; who fed the file in is kept with the file.
        let initiator = Actor(format!("source:{}", source.name()));
        let settled = self
            .apply(&row, &pending, next, &initiator, now, judged.as_ref())
            .await?;
        Ok(ImportReport::applied(snapshot, &row, summary, &settled))
    }

    /// Compares a file with what is there and holds the difference against all limits. `None` when the source says what it
    /// said before.
    async fn weigh(
        &self,
        source: &Source,
        snapshot: &Snapshot,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<Weighed>, IntakeError> {
        let (position, previous, gone) = self.directory.source_state(source.name()).await?;
        let next = self.position(snapshot);
        if let Some(position) = &position {
            if position.as_of > snapshot.as_of.day {
                return Err(older(snapshot, position).into());
            }
            if position.as_of == next.as_of && position.digest == next.digest {
                return Ok(None);
            }
        }
        let difference = diff(source, &self.leavers(), &previous, snapshot, &gone);
        let (mut summary, mut reasons) =
            match assess(&difference, &previous, &snapshot.records, source.guard()) {
                Verdict::Pass { summary } => (summary, Vec::new()),
                Verdict::Stop { reasons, summary } => {
                    (summary, reasons.iter().map(ToString::to_string).collect())
                }
            };
        let earlier = self.earlier(source.name()).await?;
        let doubts = doubts(
            source.trust(),
            &earlier,
            snapshot,
            &next.digest,
            &difference,
        );
        reasons.extend(doubts.iter().cloned());
        let people = guard::pairs(&difference, &previous, &snapshot.records);
        let limits = source.guard().limit_rules();
        let measured = self.measure_all(limits, people).await?;
        let mut judged = None;
        let mut difference_id = difference.id.clone();
        if let Some(measured) = measured {
            let (day, at) = (snapshot.as_of.day, snapshot.as_of.instant);
            let found = self
                .judge_file(source, &measured, &previous, day, at)
                .await?;
            reasons.extend(found.reasons.iter().cloned());
            judged = Some(found);
            difference_id = bound(&difference.id, &measured.blast.digest);
            summary.blast = Some(measured.blast.shown());
            summary.policy = Some(measured.policy);
        }
        summary.difference_id.clone_from(&difference_id);
        let stopped_by = (!reasons.is_empty()).then_some(reasons);
        let row = SnapshotRow {
            shard_id: next.shard_id,
            source: next.source.clone(),
            snapshot_id: next.snapshot_id.clone(),
            file: snapshot.file.clone(),
            as_of: next.as_of,
            file_sha256: snapshot.sha256.clone(),
            digest: next.digest.clone(),
            row_count: snapshot.rows,
            complete: snapshot.complete,
            status: if stopped_by.is_some() {
                SnapshotStatus::Waiting
            } else {
                SnapshotStatus::Applied
            },
            difference_id,
            summary: serde_json::to_value(&summary).map_err(IntakeError::stored_form)?,
            stopped_by,
            base_id: position.map(|position| position.snapshot_id),
            imported_at: now,
            imported_by: by.0.clone(),
            decided_at: None,
            decided_by: None,
            decided_note: None,
        };
        let pending = pending(&previous, snapshot, difference);
        Ok(Some(Weighed {
            row,
            pending,
            next,
            summary,
            judged,
            doubts,
        }))
    }

    /// The files of a source that were applied, the newest day first.
    async fn earlier(&self, source: &str) -> Result<Vec<Earlier>, IntakeError> {
        let seen = self.directory.files_seen(source).await?;
        let file = |seen: crate::directory::guard::FileSeen| Earlier {
            day: seen.as_of,
            digest: seen.digest,
            rows: seen.row_count,
            complete: seen.complete == true || seen.complete == 1,
            approved: seen.decided_by.is_some(),
        };
        Ok(seen.into_iter().map(file).collect())
    }

    /// Applies the difference that the guard stopped, exactly as it was shown.
    ///
    /// # Errors
    /// [`IntakeError::NoSuchDifference`], [`IntakeError::Decided`]; [`IntakeError::MovedOn`] when another
    /// snapshot was applied since, so that this difference says nothing any more; [`IntakeError::PlanChanged`] when it would do
    /// something else than was shown, because the policy changed: then the person is asked again.
    pub async fn approve(
        &self,
        difference_id: &str,
        by: &Actor,
        now: Timestamp,
    ) -> Result<ImportReport, IntakeError> {
        let mut row = self.waiting(difference_id).await?;
        if is_held(&row) {
            row.status = SnapshotStatus::Applied;
            row.decided_at = Some(now);
            row.decided_by = Some(by.0.clone());
            let (settled, events) = self.decide_held(&row, by, now).await?;
            let mut summary: Summary =
                serde_json::from_value(row.summary.clone()).map_err(IntakeError::stored_form)?;
            summary.events = events;
            self.doubt(&row.source, now, None).await?;
            return Ok(ImportReport::of_row(&row, summary, &settled));
        }
        let pending = self
            .directory
            .pending(&row)
            .await?
            .ok_or_else(|| IntakeError::Decided {
                difference: difference_id.to_owned(),
                by: String::new(),
            })?;
        if let Some(staged) = &pending.wave {
            return self.adopt_approved(&row, staged, by, now).await;
        }
        self.same_plan(&row, &pending).await?;
        row.status = SnapshotStatus::Applied;
        row.decided_at = Some(now);
        row.decided_by = Some(by.0.clone());
        let next = Position {
            shard_id: row.shard_id,
            source: row.source.clone(),
            snapshot_id: row.snapshot_id.clone(),
            as_of: row.as_of,
            digest: row.digest.clone(),
        };
        let settled = self.apply(&row, &pending, next, by, now, None).await?;
        let summary: Summary =
            serde_json::from_value(row.summary.clone()).map_err(IntakeError::stored_form)?;
        Ok(ImportReport::of_row(&row, summary, &settled))
    }

    /// Finds that a waiting file would still do what was shown. When it would not, it asks again under another name.
    async fn same_plan(
        &self,
        row: &SnapshotRow,
        pending: &PendingSnapshot,
    ) -> Result<(), IntakeError> {
        let mut summary: Summary =
            serde_json::from_value(row.summary.clone()).map_err(IntakeError::stored_form)?;
        let Some(shown) = &summary.blast else {
            return Ok(());
        };
        let (position, previous, _) = self.directory.source_state(&row.source).await?;
        if position.map(|position| position.snapshot_id) != row.base_id {
            return Err(IntakeError::MovedOn {
                source_name: row.source.clone(),
            });
        }
        let records = pending.records.iter();
        let next: Records = records
            .map(|record| (record.key.clone(), record.clone()))
            .collect();
        let limits = self.limits.get(&row.source).cloned().unwrap_or_default();
        let people = guard::pairs(&pending.difference, &previous, &next);
        let Some(measured) = self.measure(limits, people) else {
            return Ok(());
        };
        if measured.blast.digest == shown.digest {
            return Ok(());
        }
        let difference_id = bound(&pending.difference.id, &measured.blast.digest);
        summary.difference_id.clone_from(&difference_id);
        summary.blast = Some(measured.blast.shown());
        summary.policy = Some(measured.policy);
        let asked = SnapshotRow {
            difference_id: difference_id.clone(),
            summary: serde_json::to_value(&summary).map_err(IntakeError::stored_form)?,
            ..row.clone()
        };
        let keep = Keep {
            row: &asked,
            pending,
        };
        self.directory.write(&keep).await?;
        Err(IntakeError::PlanChanged {
            shown: row.difference_id.clone(),
            now: difference_id,
        })
    }

    /// Drops the difference that the guard stopped. The same file asks again.
    ///
    /// # Errors
    /// [`IntakeError::NoSuchDifference`], [`IntakeError::Decided`].
    pub async fn reject(
        &self,
        difference_id: &str,
        by: &Actor,
        note: &str,
        now: Timestamp,
    ) -> Result<(), IntakeError> {
        let mut row = self.waiting(difference_id).await?;
        row.status = SnapshotStatus::Rejected;
        row.decided_at = Some(now);
        row.decided_by = Some(by.0.clone());
        row.decided_note = Some(note.to_owned());
        if is_held(&row) {
            return self.decide_held(&row, by, now).await.map(|_| ());
        }
        let work = Reject {
            row: &row,
            done: Mutex::new(false),
        };
        self.directory.write(&work).await?;
        let done = work
            .done
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        if done {
            Ok(())
        } else {
            Err(IntakeError::decided(&row))
        }
    }

    fn position(&self, snapshot: &Snapshot) -> Position {
        // A file that claims to hold everybody says more than the same file without that claim.
        let digest = if snapshot.complete {
            format!("{}:complete", snapshot.digest)
        } else {
            snapshot.digest.clone()
        };
        let identity = format!("{}\n{}\n{digest}", snapshot.source, snapshot.as_of.day);
        Position {
            shard_id: self.directory.shard(&snapshot.source),
            source: snapshot.source.clone(),
            snapshot_id: format!(
                "snp_{}",
                Uuid::new_v5(&NAMESPACE, identity.as_bytes()).simple()
            ),
            as_of: snapshot.as_of.day,
            digest,
        }
    }

    async fn waiting(&self, difference_id: &str) -> Result<SnapshotRow, IntakeError> {
        let row = self
            .directory
            .snapshot_of(difference_id)
            .await?
            .ok_or_else(|| IntakeError::NoSuchDifference(difference_id.to_owned()))?;
        if row.status == SnapshotStatus::Waiting {
            Ok(row)
        } else {
            Err(IntakeError::decided(&row))
        }
    }

    async fn apply(
        &self,
        row: &SnapshotRow,
        pending: &PendingSnapshot,
        next: Position,
        initiator: &Actor,
        now: Timestamp,
        judged: Option<&Judged>,
    ) -> Result<Settled, IntakeError> {
        self.ready(now).await?;
        let decided = row.decided_by.is_some();
        let events: Vec<BusinessEvent> = pending
            .difference
            .changes
            .iter()
            .map(|change| change.event.clone())
            .collect();
        let subjects = events
            .iter()
            .map(|event| {
                let key = event.subject.as_str();
                (self.directory.shard(key), key.to_owned())
            })
            .collect();
        let work = Apply {
            row,
            pending,
            next,
            decided,
            judged,
            now,
            take: self
                .take(&subjects, &events, initiator, now)
                .repeating()
                .approved(decided),
        };
        match self.write(&work).await {
            Err(StoreError::Projection(reason)) if reason == MOVED_ON => {
                Err(IntakeError::MovedOn {
                    source_name: row.source.clone(),
                })
            }
            written => work.take.ended(written),
        }
    }

    async fn settle(
        &self,
        subjects: &BTreeSet<(i32, String)>,
        events: &[BusinessEvent],
        initiator: &Actor,
        now: Timestamp,
    ) -> Result<Settled, IntakeError> {
        let work = self.take(subjects, events, initiator, now);
        let written = self.write(&work).await;
        work.ended(written)
    }

    /// Writes, from the beginning when another transaction introduced one of the people first: the next time their row
    /// is there to be locked.
    async fn write(&self, work: &dyn Work) -> Result<(), StoreError> {
        for _ in 1..INTRODUCTIONS_MAX {
            match self.directory.write(work).await {
                Err(StoreError::Projection(reason))
                    if reason == INTRODUCED || reason == REGROUPED => {}
                written => return written,
            }
        }
        self.directory.write(work).await
    }
}

/// A file, compared and measured.
struct Weighed {
    row: SnapshotRow,
    pending: PendingSnapshot,
    next: Position,
    summary: Summary,
    judged: Option<Judged>,
    /// Why the source is not believed.
    doubts: Vec<String>,
}

/// A name for exactly these changes with exactly these effects.
fn bound(difference_id: &str, plan: &str) -> String {
    let digest = crate::policy::digest(&serde_json::json!([difference_id, plan]));
    format!("dif_{digest}")
}

/// What a snapshot changes, compared with what is there.
fn pending(
    previous: &Records,
    snapshot: &Snapshot,
    difference: crate::sources::Difference,
) -> PendingSnapshot {
    let changed = |key: &Key, digest: &str| {
        previous
            .get(key)
            .is_none_or(|before| before.digest != digest)
    };
    PendingSnapshot {
        difference,
        records: snapshot
            .records
            .iter()
            .filter(|(key, record)| changed(key, &record.digest))
            .map(|(_, record)| record.clone())
            .collect(),
        gone: previous
            .keys()
            .filter(|key| snapshot.complete && !snapshot.records.contains_key(*key))
            .cloned()
            .collect(),
        wave: None,
    }
}

fn older(snapshot: &Snapshot, position: &Position) -> Problems {
    Problem::new(
        &snapshot.file,
        None,
        format!(
            "the file is of {}, and `{}` is at {} already",
            snapshot.as_of.day, position.source, position.as_of
        ),
        "import files in the order of their days; to correct a day, deliver its file again with that day",
    )
    .into()
}

/// Rolls back when another import of the same source came first.
const MOVED_ON: &str = "the source has moved on";

/// Takes a snapshot in: records, identities, events, cases and the source's new position.
struct Apply<'a> {
    row: &'a SnapshotRow,
    pending: &'a PendingSnapshot,
    next: Position,
    /// Whether a person decided about it; then its row waits.
    decided: bool,
    /// What the guard found, when it let it pass.
    judged: Option<&'a Judged>,
    now: Timestamp,
    take: Take<'a>,
}

#[async_trait]
impl Work for Apply<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let moved_on = || StoreError::Projection(MOVED_ON.to_owned());
        if !move_on(transaction, self.row.base_id.as_deref(), &self.next).await? {
            return Err(moved_on());
        }
        let (shard_id, source) = (self.row.shard_id, self.row.source.as_str());
        if self.decided {
            if !decide_snapshot(transaction, self.row).await? {
                return Err(moved_on());
            }
            // What a person looked at does not count against what comes next.
            forget_tallies(transaction, shard_id, source).await?;
        } else {
            put_snapshot(transaction, self.row, None).await?;
        }
        if let Some(judged) = self.judged {
            let id = &self.row.snapshot_id;
            if !guard::remember(transaction, shard_id, source, id, judged, self.now).await? {
                return Err(moved_on());
            }
        }
        believe(transaction, shard_id, source).await?;
        let records: Vec<RecordRow> = self
            .pending
            .records
            .iter()
            .map(|record| RecordRow {
                shard_id: self.row.shard_id,
                source: self.row.source.clone(),
                record_key: record.key.as_str().to_owned(),
                digest: record.digest.clone(),
                status: "present".to_owned(),
                attributes: record.attributes.clone(),
            })
            .collect();
        put_records(transaction, &records).await?;
        mark_gone(
            transaction,
            self.row.shard_id,
            &self.row.source,
            &self.pending.gone,
        )
        .await?;
        self.take.run(transaction).await
    }
}

/// Keeps a snapshot that the guard stopped.
struct Keep<'a> {
    row: &'a SnapshotRow,
    pending: &'a PendingSnapshot,
}

#[async_trait]
impl Work for Keep<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        put_snapshot(transaction, self.row, Some(self.pending)).await?;
        Ok(Vec::new())
    }
}

struct Reject<'a> {
    row: &'a SnapshotRow,
    done: Mutex<bool>,
}

#[async_trait]
impl Work for Reject<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let done = decide_snapshot(transaction, self.row).await?;
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = done;
        Ok(Vec::new())
    }
}
