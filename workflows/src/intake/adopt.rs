//! Accounts that were there before, taken over by those whose they are.
//!
//! The directory notes the account as it is, with its rights as *unmanaged*: policy gives what is missing and takes nothing
//! that it did not give. Then a case brings the account in line, or closes it, when the person is not there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use engine::core::Timestamp;
use engine::core::id::Actor;
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde::Serialize;
use serde_json::json;

use super::groups::Groups;
use super::settle::{Regrouped, Settled, finish, read};
use super::{Intake, IntakeError};
use crate::directory::{
    AccountRow, AccountStatus, AdoptedRow, GrantRow, GrantStatus, holdings_in, put_adopted,
    put_holdings,
};
use crate::policy::HeldBy;
use crate::sources::{BusinessEvent, EventType, Key};
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
    /// Cases by workflow.
    pub cases: BTreeMap<String, u64>,
}

impl Intake {
    /// Lets people have the accounts of a wave, as it was shown. Doing it again adopts nothing twice.
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
        let mut report = WaveReport {
            wave: wave.id.clone(),
            system: wave.system.clone(),
            ..WaveReport::default()
        };
        for part in wave.adoptable.chunks(ADOPTED_AT_ONCE_MAX) {
            let work = Adopt {
                intake: self,
                wave,
                part,
                by,
                reason,
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
    wave: &'a Wave,
    part: &'a [Adoptable],
    by: &'a Actor,
    reason: &'a str,
    now: Timestamp,
    groups: Groups,
    done: Mutex<WaveReport>,
}

#[async_trait]
impl Work for Adopt<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let origin = self.intake.origin(self.by, &self.groups, self.now);
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
                .any(|row| row.system == self.wave.system && row.status != AccountStatus::Deleted);
            if has || !concerned.insert(root.clone()) {
                report.skipped.push(account.name.clone());
                continue;
            }
            let event = self.cause(&root);
            accounts.push(self.account(account, person.shard_id, &root));
            grants.extend(self.grants(account, person.shard_id, &root));
            adopted.push(AdoptedRow {
                shard_id: person.shard_id,
                identity_key: root,
                system: self.wave.system.clone(),
                native_id: account.native_id.clone(),
                name: account.name.clone(),
                wave: self.wave.id.clone(),
                adopted_at: self.now,
                adopted_by: self.by.0.clone(),
                reason: self.reason.to_owned(),
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
            id: format!("{}:{key}", self.wave.id),
            source: "tenure".to_owned(),
            event_type: EventType::Transfer,
            subject: Key::new(key),
            occurred_at: self.now,
            effective_at: self.now,
            zone: "UTC".to_owned(),
            version: self.now.timestamp(),
            supersedes: None,
            data: json!({ "reason": self.reason }),
        }
    }

    fn account(&self, account: &Adoptable, shard_id: i32, key: &str) -> AccountRow {
        let closed = account.enabled == Some(false);
        AccountRow {
            shard_id,
            identity_key: key.to_owned(),
            system: self.wave.system.clone(),
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
            changed_at: self.now,
            verified_at: Some(self.now),
            unverified: None,
            case_id: self.wave.id.clone(),
        }
    }

    fn grants(&self, account: &Adoptable, shard_id: i32, key: &str) -> Vec<GrantRow> {
        let grants = account.entitlements.iter().map(|entitlement| GrantRow {
            shard_id,
            identity_key: key.to_owned(),
            system: self.wave.system.clone(),
            entitlement: entitlement.clone(),
            status: GrantStatus::Active,
            held_by: HeldBy::Unmanaged,
            reasons: Vec::new(),
            policy_hash: None,
            since: None,
            until: None,
            verified_at: Some(self.now),
            unverified: None,
            case_id: self.wave.id.clone(),
        });
        grants.collect()
    }
}
