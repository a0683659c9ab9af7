//! The transaction of the step in between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use engine::core::Timestamp;
use engine::core::id::Actor;
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde_json::json;

use super::{
    MovedAccount, OPERATOR_SOURCE, Part, REGROUP, RegroupInput, RegroupReport, regroup_case,
};
use crate::correlation::SecondAccounts;
use crate::directory::{
    AccountRow, AccountStatus, GrantRow, GrantStatus, Holdings, IdentityRow, MergeRow, MergeState,
    Moved, holdings_in, merges_in, put_holdings, put_identities, put_merges, take_holdings,
    under_way,
};
use crate::intake::Intake;
use crate::intake::groups::{Groups, Locked, REGROUPED};
use crate::intake::settle::{Regrouped, Settled, finish, message, read};
use crate::sources::{BusinessEvent, EventType, Key};

/// What the case of a merge does.
pub(super) struct GoOn<'a> {
    pub intake: &'a Intake,
    pub subject: &'a str,
    pub input: &'a RegroupInput,
    pub by: &'a Actor,
    pub now: Timestamp,
    pub groups: Groups,
    /// Keys that turned out to be concerned.
    pub also: Mutex<BTreeSet<String>>,
    pub report: Mutex<RegroupReport>,
}

#[async_trait]
impl Work for GoOn<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        *self.report() = RegroupReport::default();
        match self.input.part {
            Part::Drained => self.drained(transaction).await,
            Part::Move => self.move_all(transaction).await,
        }
    }
}

impl GoOn<'_> {
    fn report(&self) -> MutexGuard<'_, RegroupReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The absorbed one has nothing at work: the survivor comes to its end, too.
    async fn drained(
        &self,
        transaction: &mut Transaction<'_>,
    ) -> Result<Vec<InboxRow>, StoreError> {
        let directory = &self.intake.directory;
        let keys = self.keys();
        let mut locked = self.groups.lock(transaction, directory, &keys).await?;
        self.drain(transaction, &keys, &mut locked).await
    }

    /// Everybody concerned, as far as it is known.
    fn keys(&self) -> BTreeSet<String> {
        let also = self.also.lock().unwrap_or_else(PoisonError::into_inner);
        let mut keys = also.clone();
        keys.insert(self.subject.to_owned());
        keys
    }

    /// Begins anew, with these under lock as well.
    fn with(&self, more: impl IntoIterator<Item = String>) -> StoreError {
        let mut also = self.also.lock().unwrap_or_else(PoisonError::into_inner);
        also.extend(more);
        StoreError::Projection(REGROUPED.to_owned())
    }

    /// All that waits for the subject to have nothing at work, as the one that is absorbed or parted, goes on: not only
    /// what this case was started for, for one that was started later ends the earlier ones.
    async fn drain(
        &self,
        transaction: &mut Transaction<'_>,
        keys: &BTreeSet<String>,
        locked: &mut BTreeMap<String, Locked>,
    ) -> Result<Vec<InboxRow>, StoreError> {
        let shard_id = self.intake.directory.shard(self.subject);
        let mut merges = merges_in(transaction, shard_id, self.subject).await?;
        merges.retain(|merge| matches!(merge.state, MergeState::Draining | MergeState::Splitting));
        let survivors: BTreeSet<String> =
            merges.iter().map(|merge| merge.survivor.clone()).collect();
        if !survivors.is_subset(keys) {
            return Err(self.with(survivors));
        }
        let origin = self.intake.origin(self.by, &self.groups, self.now);
        let (mut inbox, mut rows) = (Vec::new(), Vec::new());
        for merge in &mut merges {
            merge.state = if merge.state == MergeState::Draining {
                MergeState::Moving
            } else {
                MergeState::Returning
            };
            let group = locked.get_mut(&self.groups.root(&merge.survivor));
            let Some(root) = group.and_then(|group| group.row.as_mut()) else {
                continue;
            };
            root.generation = root.generation.saturating_add(1);
            rows.retain(|row: &IdentityRow| row.identity_key != root.identity_key);
            rows.push(root.clone());
            let input = RegroupInput {
                merge: merge.merge_id.clone(),
                absorbed: merge.absorbed.clone(),
                survivor: merge.survivor.clone(),
                part: Part::Move,
                reason: self.input.reason.clone(),
            };
            let start = regroup_case(root, &input, self.by, self.now);
            let mut report = self.report();
            let cases = report.cases.entry(REGROUP.to_owned()).or_default();
            cases.push(start.case);
            inbox.push(message(start, root.shard_id, &origin)?);
        }
        put_identities(transaction, &rows).await?;
        put_merges(transaction, &merges).await?;
        Ok(inbox)
    }

    /// The survivor has nothing at work: everything goes where it belongs, and access is brought in line.
    async fn move_all(
        &self,
        transaction: &mut Transaction<'_>,
    ) -> Result<Vec<InboxRow>, StoreError> {
        let directory = &self.intake.directory;
        let keys = self.keys();
        let mut locked = self.groups.lock(transaction, directory, &keys).await?;
        let mut inbox = self.drain(transaction, &keys, &mut locked).await?;
        // Somebody who was merged since has another such case that ends this one.
        let Some(group) = locked.get(self.subject) else {
            return Ok(inbox);
        };
        let group: Vec<&str> = group.keys().collect();
        let merges = under_way(transaction, &group).await?;
        let parted: BTreeSet<String> = merges
            .iter()
            .filter(|merge| merge.state == MergeState::Returning)
            .map(|merge| merge.absorbed.clone())
            .collect();
        if !parted.is_subset(&keys) {
            return Err(self.with(parted));
        }
        let mut events: BTreeMap<String, BusinessEvent> = BTreeMap::new();
        let mut done = Vec::new();
        // What goes back first: it may be what another merge takes along.
        let (back, forth): (Vec<MergeRow>, Vec<MergeRow>) = merges
            .into_iter()
            .partition(|merge| merge.state == MergeState::Returning);
        for mut merge in back {
            self.give_back(transaction, &locked, &merge).await?;
            merge.state = MergeState::Split;
            let event = said_by(&merge, EventType::IdentitySplit);
            events.insert(self.groups.root(&merge.absorbed), event.clone());
            events.insert(self.subject.to_owned(), event);
            done.push(merge);
        }
        for mut merge in forth {
            let moved = self.take_over(transaction, &merge.absorbed).await?;
            merge.moved.extend(moved);
            merge.state = MergeState::Merged;
            events.insert(
                self.subject.to_owned(),
                said_by(&merge, EventType::IdentityMerged),
            );
            done.push(merge);
        }
        put_merges(transaction, &done).await?;
        let released: BTreeSet<&String> = done.iter().map(|merge| &merge.merge_id).collect();
        let mut rows = Vec::new();
        for group in locked.values_mut() {
            for row in group.row.iter_mut().chain(&mut group.members) {
                let before = row.disputes.len();
                row.disputes.retain(|question| !released.contains(question));
                if row.disputes.len() != before {
                    rows.push(row.clone());
                }
            }
        }
        put_identities(transaction, &rows).await?;
        inbox.extend(self.bring_in_line(transaction, locked, events).await?);
        Ok(inbox)
    }

    async fn bring_in_line(
        &self,
        transaction: &mut Transaction<'_>,
        locked: BTreeMap<String, Locked>,
        events: BTreeMap<String, BusinessEvent>,
    ) -> Result<Vec<InboxRow>, StoreError> {
        let origin = self.intake.origin(self.by, &self.groups, self.now);
        let closes_second = self.intake.second_accounts() == SecondAccounts::Disable;
        let mut people = read(transaction, &origin, locked).await?;
        people.retain(|root, _| events.contains_key(root));
        for (root, event) in events {
            let Some(person) = people.get_mut(&root) else {
                continue;
            };
            let own = holdings_in(transaction, person.shard_id, &root).await?;
            let mut holds = own.as_ref().is_some_and(is_holding);
            let mut second = Vec::new();
            for member in &person.members {
                let key = &member.identity_key;
                let held = holdings_in(transaction, member.shard_id, key).await?;
                if held.as_ref().is_some_and(is_holding) {
                    holds = true;
                    second.push(key.clone());
                }
                for account in held.iter().flat_map(|held| &held.accounts) {
                    if account.status != AccountStatus::Deleted {
                        self.report().second.push(MovedAccount {
                            system: account.system.clone(),
                            name: account.name.clone(),
                            from: key.clone(),
                            to: root.clone(),
                        });
                    }
                }
            }
            if !closes_second {
                second.clear();
            }
            person.regrouped = Some(Regrouped {
                event,
                holds,
                second,
            });
        }
        let (settled, inbox, _spans) =
            finish(transaction, &origin, people, Settled::default()).await?;
        self.report().cases = settled.cases;
        Ok(inbox)
    }

    /// Accounts and rights of a key go to the subject, but for those on systems where it has an account already.
    async fn take_over(
        &self,
        transaction: &mut Transaction<'_>,
        absorbed: &str,
    ) -> Result<Vec<Moved>, StoreError> {
        let directory = &self.intake.directory;
        let (shard_id, key) = (directory.shard(self.subject), self.subject);
        let from = holdings_in(transaction, directory.shard(absorbed), absorbed).await?;
        let to = holdings_in(transaction, shard_id, key).await?;
        let (Some(from), Some(to)) = (from, to) else {
            return Ok(Vec::new());
        };
        let mut moved = Vec::new();
        // Its own end was started meanwhile, and closes what is there.
        if from.identity.status_case.is_some() {
            return Ok(moved);
        }
        for account in from.accounts {
            let there = to
                .accounts
                .iter()
                .find(|other| other.system == account.system);
            let there = there.filter(|there| !there.native_id.is_empty() || !there.name.is_empty());
            // Of two the one that is open is the person's; the other goes the other way.
            let yields = |there: &AccountRow| match there.status {
                AccountStatus::Deleted => true,
                AccountStatus::Disabled => account.status == AccountStatus::Active,
                _ => false,
            };
            if account.status == AccountStatus::Deleted || !there.is_none_or(yields) {
                continue;
            }
            let on_system = |grants: &[GrantRow]| -> Vec<GrantRow> {
                let grants = grants.iter().filter(|grant| grant.system == account.system);
                grants.cloned().collect()
            };
            let (grants, replaced_grants) = (on_system(&from.grants), on_system(&to.grants));
            take_holdings(transaction, &account).await?;
            if let Some(there) = there {
                take_holdings(transaction, there).await?;
                let own = directory.shard(absorbed);
                put(transaction, own, absorbed, there, &replaced_grants).await?;
            }
            put(transaction, shard_id, key, &account, &grants).await?;
            self.note(&account, absorbed, key);
            moved.push(Moved {
                replaced: there.cloned(),
                replaced_grants,
                account,
                grants,
            });
        }
        Ok(moved)
    }

    /// What a key had brought along goes back, as it is now.
    async fn give_back(
        &self,
        transaction: &mut Transaction<'_>,
        locked: &BTreeMap<String, Locked>,
        merge: &MergeRow,
    ) -> Result<(), StoreError> {
        let directory = &self.intake.directory;
        let root = self.groups.root(&merge.absorbed);
        if !locked.contains_key(&root) || root == self.subject {
            return Ok(());
        }
        let (from_shard, to_shard) = (directory.shard(self.subject), directory.shard(&root));
        let from = holdings_in(transaction, from_shard, self.subject).await?;
        let to = holdings_in(transaction, to_shard, &root).await?;
        let (Some(from), Some(to)) = (from, to) else {
            return Ok(());
        };
        for moved in &merge.moved {
            let system = &moved.account.system;
            let is_it = |account: &&AccountRow| {
                account.system == *system
                    && account.native_id == moved.account.native_id
                    && account.name == moved.account.name
            };
            let Some(account) = from.accounts.iter().find(is_it) else {
                continue;
            };
            // What went the other way comes back, too; anything else that is there stays.
            let there = to.accounts.iter().find(|account| account.system == *system);
            let came = there.filter(|there| {
                let replaced = moved.replaced.iter();
                replaced
                    .into_iter()
                    .any(|replaced| replaced.native_id == there.native_id)
            });
            if there.is_some_and(|there| there.status != AccountStatus::Deleted) && came.is_none() {
                continue;
            }
            let on_system = |grants: &[GrantRow]| -> Vec<GrantRow> {
                let grants = grants.iter().filter(|grant| grant.system == *system);
                grants.cloned().collect()
            };
            let (grants, there_grants) = (on_system(&from.grants), on_system(&to.grants));
            take_holdings(transaction, account).await?;
            if let Some(there) = there {
                take_holdings(transaction, there).await?;
            }
            put(transaction, to_shard, &root, account, &grants).await?;
            if let Some(came) = came {
                put(transaction, from_shard, self.subject, came, &there_grants).await?;
            }
            self.note(account, self.subject, &root);
        }
        Ok(())
    }

    fn note(&self, account: &AccountRow, from: &str, to: &str) {
        self.report().moved.push(MovedAccount {
            system: account.system.clone(),
            name: account.name.clone(),
            from: from.to_owned(),
            to: to.to_owned(),
        });
    }
}

/// Writes an account with its rights as those of another key.
async fn put(
    transaction: &mut Transaction<'_>,
    shard_id: i32,
    key: &str,
    account: &AccountRow,
    grants: &[GrantRow],
) -> Result<(), StoreError> {
    let account = AccountRow {
        shard_id,
        identity_key: key.to_owned(),
        ..account.clone()
    };
    let grants: Vec<GrantRow> = grants
        .iter()
        .map(|grant| GrantRow {
            shard_id,
            identity_key: key.to_owned(),
            ..grant.clone()
        })
        .collect();
    put_holdings(transaction, &[account], &grants).await
}

/// Whether something is there that an end would take away.
fn is_holding(holdings: &Holdings) -> bool {
    let open = |account: &AccountRow| {
        !matches!(
            account.status,
            AccountStatus::Deleted | AccountStatus::Disabled
        )
    };
    let held = |grant: &GrantRow| grant.status != GrantStatus::Revoked;
    holdings.accounts.iter().any(open) || holdings.grants.iter().any(held)
}

/// The statement that a merge stands on, as the cause of cases.
fn said_by(merge: &MergeRow, event_type: EventType) -> BusinessEvent {
    BusinessEvent {
        id: merge.said_by_event.clone(),
        source: OPERATOR_SOURCE.to_owned(),
        event_type,
        subject: Key::new(&merge.survivor),
        occurred_at: merge.said_at,
        effective_at: merge.said_at,
        zone: "UTC".to_owned(),
        version: merge.said_at.timestamp(),
        supersedes: None,
        data: json!({ "from": { "key": merge.absorbed }, "to": { "key": merge.survivor } }),
    }
}
