//! Accounts that were there before, taken over by those whose they are.
//!
//! The directory notes the account as it is, with its rights as *unmanaged*: policy gives what is missing and takes nothing
//! that it did not give. Then a case brings the account in line, or closes it, when the person is not there. What that
//! would mean for people is measured before ([`super::waves`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use engine::core::Timestamp;
use engine::core::id::Actor;
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde::Serialize;
use serde_json::json;

use super::groups::Groups;
use super::settle::{Origin, Regrouped, Settled, finish, read};
use super::waves::{ADOPTED, StagedWave};
use super::{ImportReport, Intake, IntakeError};
use crate::directory::{
    AccountRow, AccountStatus, AdoptedRow, GrantRow, GrantStatus, SnapshotRow, holdings_in,
    put_adopted, put_holdings,
};
use crate::policy::HeldBy;
use crate::sources::{BusinessEvent, EventType, Key, Summary};
use crate::takeover::{Adoptable, Wave};

/// How many accounts one transaction adopts.
const ADOPTED_AT_ONCE_MAX: usize = 200;

/// What a wave did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct WaveReport {
    pub wave: String,
    pub system: String,
    /// Accounts that somebody has now.
    pub adopted: usize,
    /// Those whose person had got one meanwhile, or is known no more.
    pub skipped: Vec<String>,
    /// Why nothing was done: a person has to approve or reject `difference_id`.
    pub stopped_by: Vec<String>,
    pub difference_id: Option<String>,
    /// Cases by workflow.
    pub cases: BTreeMap<String, u64>,
}

impl Intake {
    /// Lets people have the accounts of a wave, as it was shown, unless the guard stops it: then it waits for a person, as a file
    /// does. Doing it again adopts nothing twice.
    ///
    /// # Errors
    /// When the database does not answer. What was adopted by then stays adopted.
    pub async fn adopt(
        &self,
        wave: &Wave,
        by: &Actor,
        reason: &str,
        now: Timestamp,
    ) -> Result<WaveReport, IntakeError> {
        let staged = StagedWave::of(wave, reason);
        if let Some(weighed) = self.weigh_wave(&staged, now).await?
            && let Some(kept) = self.stage_wave(&staged, &weighed, by, now).await?
        {
            return Ok(WaveReport {
                wave: staged.id,
                system: staged.system,
                stopped_by: kept.stopped_by.unwrap_or_default(),
                difference_id: Some(kept.difference_id),
                ..WaveReport::default()
            });
        }
        self.adopt_staged(&staged, by, false, now).await
    }

    /// Adopts a wave that waited, now that somebody approved it.
    pub(super) async fn adopt_approved(
        &self,
        row: &SnapshotRow,
        staged: &StagedWave,
        by: &Actor,
        now: Timestamp,
    ) -> Result<ImportReport, IntakeError> {
        self.approve_wave(row, staged, by, now).await?;
        let done = self.adopt_staged(staged, by, true, now).await?;
        let mut summary: Summary =
            serde_json::from_value(row.summary.clone()).map_err(IntakeError::stored_form)?;
        summary.events = BTreeMap::from([(ADOPTED.to_owned(), done.adopted as u64)]);
        let report = ImportReport::of_row(row, summary, &Settled::default());
        Ok(ImportReport {
            cases: done.cases,
            ..report
        })
    }

    async fn adopt_staged(
        &self,
        staged: &StagedWave,
        by: &Actor,
        approved: bool,
        now: Timestamp,
    ) -> Result<WaveReport, IntakeError> {
        let mut report = WaveReport {
            wave: staged.id.clone(),
            system: staged.system.clone(),
            ..WaveReport::default()
        };
        for part in staged.adoptable.chunks(ADOPTED_AT_ONCE_MAX) {
            let work = Adopt {
                intake: self,
                staged,
                part,
                by,
                approved,
                now,
                groups: Groups::default(),
                done: Mutex::default(),
            };
            self.write(&work).await?;
            let done = work
                .done
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner);
            report.adopted += done.adopted;
            report.skipped.extend(done.skipped);
            for (workflow, cases) in done.cases {
                *report.cases.entry(workflow).or_default() += cases;
            }
        }
        Ok(report)
    }
}

struct Adopt<'a> {
    intake: &'a Intake,
    staged: &'a StagedWave,
    part: &'a [Adoptable],
    by: &'a Actor,
    /// Whether somebody approved exactly this.
    approved: bool,
    now: Timestamp,
    groups: Groups,
    done: Mutex<WaveReport>,
}

#[async_trait]
impl Work for Adopt<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let origin = Origin {
            approved: self.approved,
            ..self.intake.origin(self.by, &self.groups, self.now)
        };
        let keys: BTreeSet<String> = self
            .part
            .iter()
            .map(|account| account.key.clone())
            .collect();
        let locked = self
            .groups
            .lock(transaction, origin.directory, &keys)
            .await?;
        let mut people = read(transaction, &origin, locked).await?;
        let mut report = WaveReport::default();
        let (mut accounts, mut grants, mut adopted) = (Vec::new(), Vec::new(), Vec::new());
        let mut concerned = BTreeSet::new();
        for account in self.part {
            let root = self.groups.root(&account.key);
            let Some(person) = people
                .get_mut(&root)
                .filter(|person| person.before.is_some())
            else {
                report.skipped.push(account.name.clone());
                continue;
            };
            let holdings = holdings_in(transaction, person.shard_id, &root).await?;
            let has = holdings
                .iter()
                .flat_map(|holdings| &holdings.accounts)
                .any(|row| {
                    row.system == self.staged.system && row.status != AccountStatus::Deleted
                });
            if has || !concerned.insert(root.clone()) {
                report.skipped.push(account.name.clone());
                continue;
            }
            let event = self.cause(&root);
            let (staged, shard_id) = (self.staged, person.shard_id);
            accounts.push(self::account(staged, account, shard_id, &root, self.now));
            grants.extend(self::grants(staged, account, shard_id, &root, self.now));
            adopted.push(AdoptedRow {
                shard_id: person.shard_id,
                identity_key: root,
                system: self.staged.system.clone(),
                native_id: account.native_id.clone(),
                name: account.name.clone(),
                wave: self.staged.id.clone(),
                adopted_at: self.now,
                adopted_by: self.by.0.clone(),
                reason: self.staged.reason.clone(),
                score: account.score.clone(),
            });
            person.regrouped = Some(Regrouped {
                event,
                holds: true,
                second: Vec::new(),
            });
        }
        put_holdings(transaction, &accounts, &grants).await?;
        put_adopted(transaction, &adopted).await?;
        report.adopted = adopted.len();
        people.retain(|root, _| concerned.contains(root));
        let (settled, inbox, _spans) =
            finish(transaction, &origin, people, Settled::default()).await?;
        let count = |cases: Vec<_>| cases.len() as u64;
        report.cases = settled
            .cases
            .into_iter()
            .map(|(workflow, cases)| (workflow, count(cases)))
            .collect();
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = report;
        Ok(inbox)
    }
}

impl Adopt<'_> {
    /// What cases are caused by: one for each person and wave.
    fn cause(&self, key: &str) -> BusinessEvent {
        BusinessEvent {
            id: format!("{}:{key}", self.staged.id),
            source: "tenure".to_owned(),
            event_type: EventType::Transfer,
            subject: Key::new(key),
            occurred_at: self.now,
            effective_at: self.now,
            zone: "UTC".to_owned(),
            version: self.now.timestamp(),
            supersedes: None,
            data: json!({ "reason": self.staged.reason }),
        }
    }
}

/// The account as it is, as one of theirs.
pub(super) fn account(
    staged: &StagedWave,
    account: &Adoptable,
    shard_id: i32,
    key: &str,
    now: Timestamp,
) -> AccountRow {
    let closed = account.enabled == Some(false);
    AccountRow {
        shard_id,
        identity_key: key.to_owned(),
        system: staged.system.clone(),
        native_id: account.native_id.clone(),
        name: account.name.clone(),
        status: if closed {
            AccountStatus::Disabled
        } else {
            AccountStatus::Active
        },
        // Unknown: they are written once.
        attributes_digest: None,
        created_at: None,
        disabled_at: None,
        changed_at: now,
        verified_at: Some(now),
        unverified: None,
        case_id: staged.id.clone(),
    }
}

/// Its rights.
pub(super) fn grants(
    staged: &StagedWave,
    account: &Adoptable,
    shard_id: i32,
    key: &str,
    now: Timestamp,
) -> Vec<GrantRow> {
    let grants = account.entitlements.iter().map(|entitlement| GrantRow {
        shard_id,
        identity_key: key.to_owned(),
        system: staged.system.clone(),
        entitlement: entitlement.clone(),
        status: GrantStatus::Active,
        held_by: HeldBy::Unmanaged,
        reasons: Vec::new(),
        policy_hash: None,
        since: None,
        until: None,
        exception_until: None,
        verified_at: Some(now),
        unverified: None,
        case_id: staged.id.clone(),
    });
    grants.collect()
}
