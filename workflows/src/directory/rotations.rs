//! How far the replacement of each credential is, and what begins next.
//!
//! A row is made when a credential is declared with a `rotation`. The clock plans what is not planned ([`Directory::plan_rotations`])
//! and starts what is due ([`Directory::start_rotations`]); both hold the rows they change until they are written, so two nodes
//! plan and start everything once. The case is named after the credential and the moment it was planned for. What it does is
//! written by the projection of its steps ([`super::rotation_moves`]), in the transaction that records them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use chrono::TimeDelta;
use connectors::connector::RenewalWindow;
use engine::core::Timestamp;
use engine::core::definition::Lane;
use engine::core::id::{Actor, CaseId, Subject};
use engine::runner::{Message, StartCase};
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::database::{Sql, execute_all, rows_in, stored_time, stored_time_option, time_text};
use super::rotation_asks::Report;
use super::rotation_statements::{
    BEGIN, DECLARE, DUE, END, LIST, LIST_IN_PHASE, LIST_OF_NHI, LIST_OPEN, NAMED, NEXT, UPCOMING,
};
use super::{Directory, PAGE_ROWS_MAX};
use crate::nhi::declare::{Declared, ReplaceMode};
use crate::nhi::graph::Node;
use crate::rotation::{self, Because, Facts, Phase, Rotation};

/// Makes identifiers of the cases: the same credential at the same moment is one case.
const NAMESPACE: Uuid = Uuid::from_u128(0x71d5_8e0c_2a9b_4c46_8d10_6be3_55f0_9a47);
/// The most that are planned or started in one transaction.
pub(super) const AT_ONCE_MAX: usize = 500;
/// The most transactions of one look; the rest is left to the next.
pub(super) const ROUNDS_MAX: usize = 100;
/// How long whoever answers for a credential has to end it by hand.
pub(crate) const IRREVOCABLE_DUE: TimeDelta = TimeDelta::days(7);

/// How far the replacement of a credential is. A stored form: fields may be added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RotationRow {
    pub shard_id: i32,
    /// `system/id`.
    pub name: String,
    pub nhi_key: String,
    pub mode: ReplaceMode,
    pub declared: Rotation,
    /// Whether it is still declared.
    pub wanted: bool,
    pub phase: Phase,
    #[serde(default)]
    pub reason: Option<String>,
    #[serde(default)]
    pub answerable: Option<String>,
    #[serde(with = "stored_time_option", default)]
    pub answer_by: Option<Timestamp>,
    #[serde(default)]
    pub open_case: Option<String>,
    #[serde(default)]
    pub last_case: Option<String>,
    pub compromised: bool,
    #[serde(with = "stored_time")]
    pub since: Timestamp,
    #[serde(with = "stored_time_option", default)]
    pub expires_at: Option<Timestamp>,
    #[serde(with = "stored_time_option", default)]
    pub last_rotated_at: Option<Timestamp>,
    /// Since when the new one of the case under way is used.
    #[serde(with = "stored_time_option", default)]
    pub promoted_at: Option<Timestamp>,
    #[serde(default)]
    pub turn: Option<String>,
    #[serde(default)]
    pub overlap_s: Option<i64>,
    #[serde(default)]
    pub dominated_by: Option<String>,
    pub failures: u32,
    #[serde(with = "stored_time_option", default)]
    pub failed_at: Option<Timestamp>,
    pub planned: bool,
    #[serde(default)]
    pub because: Option<Because>,
    #[serde(with = "stored_time_option", default)]
    pub due_at: Option<Timestamp>,
    #[serde(default)]
    pub jitter_s: Option<i64>,
    #[serde(default)]
    pub past_window: bool,
    #[serde(with = "stored_time_option", default)]
    pub starts_at: Option<Timestamp>,
    /// From and until when who issued what is used wishes it to be replaced.
    #[serde(with = "stored_time_option", default)]
    pub renewal_from: Option<Timestamp>,
    #[serde(with = "stored_time_option", default)]
    pub renewal_until: Option<Timestamp>,
    /// Since when it is said that strangers know it, by whom and why; until another is in its place.
    #[serde(with = "stored_time_option", default)]
    pub exposed_at: Option<Timestamp>,
    #[serde(default)]
    pub exposed_by: Option<String>,
    #[serde(default)]
    pub exposed_reason: Option<String>,
    /// What the case under way puts into use is known too: when it is closed another begins at once.
    #[serde(default)]
    pub exposed_again: bool,
    #[serde(with = "stored_time")]
    pub changed_at: Timestamp,
}

impl RotationRow {
    pub(super) fn facts(&self) -> Facts {
        Facts {
            since: self.since,
            expires_at: self.expires_at,
            renewal: self
                .renewal_from
                .zip(self.renewal_until)
                .map(|(start, end)| RenewalWindow { start, end }),
            first: self.mode == ReplaceMode::Reissue
                && self.last_rotated_at.is_none()
                && self.expires_at.is_none(),
            failures: self.failures,
            failed_at: self.failed_at,
        }
    }

    /// What its cases are about.
    #[must_use]
    pub fn subject(&self) -> Subject {
        subject(&self.name)
    }
}

/// What the cases that replace a credential are about.
#[must_use]
pub fn subject(name: &str) -> Subject {
    Subject(Node::credential(name).to_string())
}

/// Which rotations a listing wants.
#[derive(Debug, Clone, Default)]
pub struct RotationFilter {
    /// Of this system.
    pub system: Option<String>,
    /// Of this non-human identity.
    pub nhi: Option<String>,
    /// Only those under way.
    pub open_only: bool,
    /// Only those that have reached it last.
    pub phase: Option<Phase>,
}

impl RotationFilter {
    /// The statement that walks over the fewest rows.
    pub(super) fn statement(&self) -> &'static Sql {
        if self.nhi.is_some() {
            &LIST_OF_NHI
        } else if self.open_only {
            &LIST_OPEN
        } else if self.phase.is_some() {
            &LIST_IN_PHASE
        } else {
            &LIST
        }
    }

    /// What it is asked with.
    pub(super) fn page(&self, after: Option<&str>, limit: u32) -> Value {
        let (from, before) = names_of(self.system.as_deref());
        json!({
            "nhi": self.nhi,
            "open_only": self.open_only,
            "phase": self.phase,
            "after": from.as_str().max(after.unwrap_or_default()),
            "before": before,
            "limit": limit,
        })
    }
}

/// Between what the names of the credentials of a system stand, or those of all.
pub(super) fn names_of(system: Option<&str>) -> (String, String) {
    match system {
        // No system is called so.
        Some(system) if system.contains('/') => (String::new(), String::new()),
        // What comes after a slash is a zero.
        Some(system) => (format!("{system}/"), format!("{system}0")),
        // Names begin with that of a system: a small letter, a digit, or one of `-_.`.
        None => (String::new(), "~".to_owned()),
    }
}

/// What was begun, and when to look again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Begun {
    pub cases: Vec<CaseId>,
    pub next: Option<Timestamp>,
}

// --- declared ----------------------------------------------------------------------------------------------

#[derive(Serialize)]
struct NewRow<'a> {
    shard_id: i32,
    name: String,
    nhi_key: &'a str,
    mode: ReplaceMode,
    declared: &'a Rotation,
    wanted: bool,
    phase: Phase,
    compromised: bool,
    since: String,
    expires_at: Option<String>,
    failures: u32,
    planned: bool,
    past_window: bool,
    changed_at: String,
}

#[derive(Serialize)]
struct EndedRow<'a> {
    shard_id: i32,
    name: String,
    nhi_key: &'a str,
    changed_at: String,
}

impl Directory {
    /// Keeps what is declared of rotations in step with a declaration that takes the place of `before`.
    pub(super) async fn declare_rotations(
        &self,
        transaction: &mut Transaction<'_>,
        declared: &[(&Declared, Option<&Declared>)],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let changed_at = time_text(now);
        let (mut new, mut ended) = (Vec::new(), Vec::new());
        for (declared, before) in declared {
            let first = new.len();
            for credential in &declared.credentials {
                let (Some(mode), Some(rotation)) = (credential.replaced_by, &credential.rotation)
                else {
                    continue;
                };
                new.push(NewRow {
                    shard_id: self.shard(&subject(&credential.name()).0),
                    name: credential.name(),
                    nhi_key: &declared.key,
                    mode,
                    declared: rotation,
                    wanted: true,
                    phase: Phase::Scheduled,
                    compromised: false,
                    since: time_text(credential.issued.unwrap_or(now)),
                    expires_at: credential.expires.map(time_text),
                    failures: 0,
                    planned: false,
                    past_window: false,
                    changed_at: changed_at.clone(),
                });
            }
            let still = new.iter().skip(first);
            let still: BTreeSet<&str> = still.map(|row| row.name.as_str()).collect();
            let had = before.iter().flat_map(|before| &before.credentials);
            let gone = had
                .filter(|one| one.rotation.is_some())
                .map(|one| one.name())
                .filter(|name| !still.contains(name.as_str()));
            ended.extend(gone.map(|name| EndedRow {
                shard_id: self.shard(&subject(&name).0),
                name,
                nhi_key: &declared.key,
                changed_at: changed_at.clone(),
            }));
        }
        execute_all(transaction, &END, &ended).await?;
        execute_all(transaction, &DECLARE, &new).await?;
        Ok(())
    }

    /// Replaces nothing of an identity any more; what is under way goes on to its end.
    pub(super) async fn end_rotations(
        &self,
        transaction: &mut Transaction<'_>,
        declared: &Declared,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let credentials = declared.credentials.iter();
        let ended: Vec<EndedRow<'_>> = credentials
            .filter(|one| one.rotation.is_some())
            .map(|one| EndedRow {
                shard_id: self.shard(&subject(&one.name()).0),
                name: one.name(),
                nhi_key: &declared.key,
                changed_at: time_text(now),
            })
            .collect();
        execute_all(transaction, &END, &ended).await.map(drop)
    }

    /// One rotation, by the name of its credential.
    ///
    /// # Errors
    /// When the database does not answer, or holds what this program cannot read.
    pub async fn rotation(&self, name: &str) -> Result<Option<RotationRow>, StoreError> {
        let key = (self.shard(&subject(name).0), name.to_owned());
        let found = self.reader().rows_of(&NAMED, &[key]).await?;
        Ok(found.into_iter().next())
    }

    /// Those of these credentials, by name.
    ///
    /// # Errors
    /// When the database does not answer, or holds what this program cannot read.
    pub async fn rotations_of<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<BTreeMap<String, RotationRow>, StoreError> {
        let keys = names.into_iter();
        let keys = keys.map(|name| (self.shard(&subject(name).0), name.to_owned()));
        let keys: Vec<(i32, String)> = keys.collect();
        let found: Vec<RotationRow> = self.reader().rows_of(&NAMED, &keys).await?;
        Ok(found
            .into_iter()
            .map(|row| (row.name.clone(), row))
            .collect())
    }

    /// Those a filter wants, after `after`, by name.
    ///
    /// # Errors
    /// When the database does not answer, or holds what this program cannot read.
    pub async fn rotations(
        &self,
        filter: &RotationFilter,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<RotationRow>, StoreError> {
        let parameter = filter.page(after, limit);
        self.reader().rows(filter.statement(), &parameter).await
    }

    /// All that a filter wants, by name.
    ///
    /// # Errors
    /// When the database does not answer, or holds what this program cannot read.
    pub async fn all_rotations(
        &self,
        filter: &RotationFilter,
    ) -> Result<Vec<RotationRow>, StoreError> {
        let mut found: Vec<RotationRow> = Vec::new();
        loop {
            let after = found.last().map(|row| row.name.as_str());
            let page = self.rotations(filter, after, PAGE_ROWS_MAX).await?;
            if page.is_empty() {
                return Ok(found);
            }
            found.extend(page);
        }
    }

    /// What is planned to begin by `until`, in the order of the time; after the one that begins at `after` and is named so.
    ///
    /// # Errors
    /// When the database does not answer, or holds what this program cannot read.
    pub async fn rotations_upcoming(
        &self,
        until: Timestamp,
        after: Option<(Timestamp, &str)>,
        limit: u32,
    ) -> Result<Vec<RotationRow>, StoreError> {
        let parameter = json!({
            "until": time_text(until),
            "at": after.map(|(at, _)| time_text(at)),
            "after": after.map_or("", |(_, name)| name),
            "limit": limit,
        });
        self.reader().rows(&UPCOMING, &parameter).await
    }
}

// --- begun -------------------------------------------------------------------------------------------------

#[derive(Serialize)]
pub(super) struct BeginRow {
    shard_id: i32,
    name: String,
    open_case: String,
    because: Because,
    compromised: bool,
    #[serde(with = "stored_time_option")]
    exposed_at: Option<Timestamp>,
    exposed_by: Option<String>,
    exposed_reason: Option<String>,
    /// Until it turns out that what it puts into use is made after that was said.
    exposed_again: bool,
    #[serde(with = "stored_time")]
    changed_at: Timestamp,
}

struct Starting {
    now: Timestamp,
    begun: Mutex<Vec<CaseId>>,
}

#[async_trait::async_trait]
impl Work for Starting {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let parameter = json!({ "until": time_text(self.now), "limit": AT_ONCE_MAX });
        let rows: Vec<RotationRow> = rows_in(transaction, &DUE, &parameter).await?;
        let (mut begin, mut messages, mut begun) = (Vec::new(), Vec::new(), Vec::new());
        for row in &rows {
            let (Some(because), Some(workflows)) =
                (row.because, rotation::mode(row.mode).workflows)
            else {
                continue;
            };
            let start = Start {
                row,
                workflow: workflows.for_because(because),
                because,
                by: Actor::engine(),
                reason: None,
                exposed: (because == Because::Compromised).then(|| Report::kept(row, self.now)),
                at: row.starts_at.unwrap_or(self.now),
                now: self.now,
            };
            let case = start.case();
            messages.push(start.message(case)?);
            begin.push(start.begin(case));
            begun.push(case);
        }
        execute_all(transaction, &BEGIN, &begin).await?;
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = begun;
        Ok(messages)
    }
}

/// A rotation that begins.
pub(super) struct Start<'a> {
    pub row: &'a RotationRow,
    pub workflow: &'static str,
    pub because: Because,
    pub by: Actor,
    pub reason: Option<&'a str>,
    /// What strangers know of it.
    pub exposed: Option<Report>,
    pub at: Timestamp,
    pub now: Timestamp,
}

impl Start<'_> {
    pub(super) fn case(&self) -> CaseId {
        let cause = format!(
            "{}\n{}\n{}",
            self.row.name,
            self.because.as_str(),
            time_text(self.at)
        );
        CaseId::caused(&NAMESPACE, self.now, &cause)
    }

    pub(super) fn message(&self, case: CaseId) -> Result<InboxRow, StoreError> {
        let subject = self.row.subject();
        let exposed = self.exposed.as_ref();
        let lane = if exposed.is_some() {
            Lane::Revocation
        } else {
            Lane::Normal
        };
        let start = StartCase {
            case,
            workflow: self.workflow.to_owned(),
            subject,
            generation: 0,
            input: json!({
                "credential": self.row.name,
                "nhi": self.row.nhi_key,
                "because": self.because,
                "compromised": exposed.is_some(),
                "exposed": exposed.map(|exposed| exposed.which),
                "interrupts": exposed.and(self.row.open_case.as_ref()),
                "due_at": self.row.due_at.map(time_text),
                "past_window": self.row.past_window,
                "reason": self.reason.or(exposed.map(|exposed| exposed.reason.as_str())),
            }),
            initiator: exposed.map_or(&self.by, |exposed| &exposed.by).clone(),
            effective_at: Some(self.at),
        };
        let shard = engine::core::id::ShardId(self.row.shard_id);
        Message::Start(start)
            .into_row(shard, case.0, lane, self.now)
            .map_err(|error| StoreError::Corrupt {
                table: "inbox",
                column: "body",
                key: case.to_string(),
                source: error.into(),
            })
    }

    pub(super) fn begin(&self, case: CaseId) -> BeginRow {
        let exposed = self.exposed.as_ref();
        BeginRow {
            shard_id: self.row.shard_id,
            name: self.row.name.clone(),
            open_case: case.to_string(),
            because: self.because,
            compromised: exposed.is_some(),
            exposed_at: exposed.map(|exposed| exposed.at),
            exposed_by: exposed.map(|exposed| exposed.by.0.clone()),
            exposed_reason: exposed.map(|exposed| exposed.reason.clone()),
            exposed_again: exposed.is_some_and(|exposed| exposed.which.asks_for_another()),
            changed_at: self.now,
        }
    }
}

#[derive(Deserialize)]
struct NextRow {
    #[serde(with = "stored_time_option", default)]
    starts_at: Option<Timestamp>,
    unplanned: bool,
}

impl Directory {
    /// Plans what is not planned, begins what is due, and says when the next one is.
    ///
    /// # Errors
    /// When the database does not answer, or holds what this program cannot read.
    pub async fn start_rotations(&self, now: Timestamp) -> Result<Begun, StoreError> {
        let next = || async {
            let next: Option<NextRow> = self.reader().row(&NEXT, &json!({})).await?;
            Ok::<_, StoreError>(next.unwrap_or(NextRow {
                starts_at: None,
                unplanned: false,
            }))
        };
        // Most looks find nothing to do, and take no transaction to find it.
        let mut found = next().await?;
        if found.unplanned {
            self.plan_rotations(now).await?;
            found = next().await?;
        }
        let mut begun = Begun::default();
        for _ in 0..ROUNDS_MAX {
            if found.starts_at.is_none_or(|at| at > now) {
                break;
            }
            let work = Starting {
                now,
                begun: Mutex::default(),
            };
            self.write(&work).await?;
            let cases = work.begun.into_inner();
            let cases = cases.unwrap_or_else(PoisonError::into_inner);
            if cases.is_empty() {
                // Another node was first, or nothing carries them out.
                break;
            }
            begun.cases.extend(cases);
            found = next().await?;
        }
        begun.next = found.starts_at;
        Ok(begun)
    }
}
