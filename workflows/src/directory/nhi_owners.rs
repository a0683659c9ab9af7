//! Who answers for a non-human identity changes hands.
//!
//! One transaction: the record, what was declared, the edges, and the change with its actor and reason. Done twice it is done
//! once: what no longer names the one who goes is left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use engine::core::definition::Lane;
use engine::core::duration::Span;
use engine::core::id::{Actor, CaseId, Subject};
use engine::runner::{Message, StartCase};
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde_json::json;
use uuid::Uuid;

use super::Directory;
use super::database::{execute, execute_all, rows_of, time_text};
use super::nhi_statements::{
    DROP_EDGES, MARK, NHIS, OF_NHIS, PUT_CHANGES, PUT_CREDENTIALS, PUT_EDGES, PUT_NHIS,
};
use super::nhis::{
    ChangeRow, Declaring, EdgeRow, NhiCredentialRow, NhiRow, NhiStatus, digest, nhi_in,
};
use crate::nhi::edges;
use crate::nhi::graph::{Edge, Node, Relation};

/// Makes identifiers of the cases that end identities.
const RETIREMENTS: Uuid = Uuid::from_u128(0x6f1c_98d2_0c5b_4b7e_8a41_5de2_7f30_92c4);

/// What a change is called that ends an identity.
const RETIRED: &str = "retired";

/// From whom to whom.
#[derive(Debug, Clone, Copy)]
pub struct HandOver<'a> {
    /// The person who no longer answers, by key.
    pub from: &'a str,
    /// Who does from now on.
    pub to: &'a str,
    /// Who stands in for them; without one nobody does, and somebody has to name another.
    pub backup: Option<&'a str>,
    pub by: &'a Actor,
    pub reason: &'a str,
    pub at: DateTime<Utc>,
}

impl HandOver<'_> {
    /// Who owns a thing after it and who backs that up; `None` when nothing changes.
    fn after(&self, row: &NhiRow) -> Option<(String, String)> {
        let owner = if row.owner == self.from {
            self.to
        } else {
            row.owner.as_str()
        };
        let stays = row.backup != self.from && row.backup != owner;
        let backup = match self.backup.filter(|key| *key != owner && *key != self.from) {
            _ if stays => row.backup.as_str(),
            Some(key) => key,
            None => "",
        };
        let changes = owner != row.owner || backup != row.backup;
        changes.then(|| (owner.to_owned(), backup.to_owned()))
    }
}

/// What is kept of a change of what is declared.
fn changed(
    change: &'static str,
    before: &NhiRow,
    after: &NhiRow,
    by: &Actor,
    reason: &str,
    at: DateTime<Utc>,
) -> Result<ChangeRow, StoreError> {
    let declared = digest(&after.declared)?;
    Ok(ChangeRow {
        shard_id: after.shard_id,
        nhi_key: after.nhi_key.clone(),
        at: time_text(at),
        change_id: declared.clone(),
        change,
        by_actor: by.0.clone(),
        reason: reason.to_owned(),
        before_digest: Some(digest(&before.declared)?),
        after_digest: declared,
    })
}

struct Change<'a> {
    directory: &'a Directory,
    keys: Vec<(i32, String)>,
    hands: HandOver<'a>,
    changed: Mutex<Vec<String>>,
}

#[async_trait::async_trait]
impl Work for Change<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let known: Vec<NhiRow> = rows_of(transaction, &NHIS, &self.keys).await?;
        let (mut rows, mut changes) = (Vec::new(), Vec::new());
        let (mut told, mut gone) = (Vec::new(), Vec::new());
        for before in known {
            let Some((owner, backup)) = self.hands.after(&before) else {
                continue;
            };
            let mut row = before.clone();
            row.owner.clone_from(&owner);
            row.backup.clone_from(&backup);
            row.declared.owner = owner;
            row.declared.backup = backup;
            row.changed_at = self.hands.at;
            // What stood before was declared then, and goes on to be known from then.
            let (stood, stands) = (
                edges(&before.declared, before.declared_at),
                edges(&row.declared, before.declared_at),
            );
            let way = |edge: &Edge| (edge.from.clone(), edge.relation, edge.to.clone());
            let still: BTreeSet<_> = stands.iter().map(way).collect();
            let was: BTreeSet<_> = stood.iter().map(way).collect();
            let ended = stood.iter().filter(|edge| !still.contains(&way(edge)));
            gone.extend(ended.map(|edge| self.directory.edge_row(edge)));
            let new = stands.into_iter().filter(|edge| !was.contains(&way(edge)));
            told.extend(new.map(|edge| {
                self.directory.edge_row(&Edge {
                    first_seen_at: self.hands.at,
                    last_seen_at: self.hands.at,
                    ..edge
                })
            }));
            let HandOver { by, reason, at, .. } = self.hands;
            changes.push(changed("handed_over", &before, &row, by, reason, at)?);
            rows.push(row);
        }
        execute_all(transaction, &PUT_NHIS, &rows).await?;
        execute_all(transaction, &DROP_EDGES, &gone).await?;
        execute_all(transaction, &PUT_EDGES, &told).await?;
        execute_all(transaction, &PUT_CHANGES, &changes).await?;
        *self.changed.lock().unwrap_or_else(PoisonError::into_inner) =
            rows.into_iter().map(|row| row.nhi_key).collect();
        Ok(Vec::new())
    }
}

/// That something is out of use on purpose.
#[derive(Debug, Clone, Copy)]
pub struct Quiet {
    pub since: DateTime<Utc>,
    /// How long putting it back took when that was tried.
    pub restore_s: u64,
}

struct Mark(serde_json::Value);

#[async_trait::async_trait]
impl Work for Mark {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        execute(transaction, &MARK, &self.0).await?;
        Ok(Vec::new())
    }
}

struct Forget<'a> {
    directory: &'a Directory,
    key: &'a str,
    credential: &'a str,
    person: &'a str,
    reason: &'a str,
    at: DateTime<Utc>,
}

#[async_trait::async_trait]
impl Work for Forget<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let keys = self.directory.with_shards([self.key]);
        let rows: Vec<NhiRow> = rows_of(transaction, &NHIS, &keys).await?;
        for before in rows {
            let mut row = before.clone();
            let held = row.declared.credentials.iter_mut();
            for credential in held.filter(|it| it.name() == self.credential) {
                credential.known_by.remove(self.person);
            }
            if row.declared == before.declared {
                continue;
            }
            row.changed_at = self.at;
            let gone: Vec<_> = edges(&before.declared, before.declared_at)
                .iter()
                .filter(|edge| {
                    edge.relation == Relation::Knows
                        && edge.from == Node::person(self.person)
                        && edge.to == Node::credential(self.credential)
                })
                .map(|edge| self.directory.edge_row(edge))
                .collect();
            let by = Actor::engine();
            let change = changed("secret_replaced", &before, &row, &by, self.reason, self.at)?;
            execute_all(transaction, &PUT_NHIS, &[row]).await?;
            execute_all(transaction, &DROP_EDGES, &gone).await?;
            execute_all(transaction, &PUT_CHANGES, &[change]).await?;
        }
        Ok(Vec::new())
    }
}

impl Declaring<'_> {
    /// Notes that one is no more: nobody expects it, nothing replaces its credentials, and what is left of it on systems answers to
    /// nobody. Nothing is ended there by that; false when it was so already.
    pub async fn retire(
        &self,
        transaction: &mut Transaction<'_>,
        known: &NhiRow,
    ) -> Result<bool, StoreError> {
        if known.status == NhiStatus::Retired {
            return Ok(false);
        }
        let digest = digest(&known.declared)?;
        let change = ChangeRow {
            shard_id: known.shard_id,
            nhi_key: known.nhi_key.clone(),
            at: time_text(self.now),
            change_id: format!("{}:{digest}", self.change),
            change: self.change,
            by_actor: self.by.0.clone(),
            reason: self.reason.to_owned(),
            before_digest: Some(digest.clone()),
            after_digest: digest,
        };
        let retired = NhiRow {
            status: NhiStatus::Retired,
            changed_at: self.now,
            ..known.clone()
        };
        let stood = edges(&known.declared, known.declared_at);
        let gone: Vec<EdgeRow> = stood
            .iter()
            .map(|edge| self.directory.edge_row(edge))
            .collect();
        let key = [(known.shard_id, known.nhi_key.clone())];
        let held: Vec<NhiCredentialRow> = rows_of(transaction, &OF_NHIS, &key).await?;
        let ended: Vec<NhiCredentialRow> = held
            .into_iter()
            .map(|credential| NhiCredentialRow {
                status: "ended".to_owned(),
                changed_at: self.now,
                ..credential
            })
            .collect();
        execute_all(transaction, &PUT_NHIS, &[retired]).await?;
        execute_all(transaction, &PUT_CREDENTIALS, &ended).await?;
        execute_all(transaction, &DROP_EDGES, &gone).await?;
        execute_all(transaction, &PUT_CHANGES, &[change]).await?;
        self.directory
            .end_rotations(transaction, &known.declared, self.now)
            .await?;
        Ok(true)
    }
}

struct Retire<'a> {
    directory: &'a Directory,
    key: &'a str,
    by: &'a Actor,
    reason: &'a str,
    at: DateTime<Utc>,
    retired: Mutex<bool>,
}

#[async_trait::async_trait]
impl Work for Retire<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let declaring = Declaring {
            directory: self.directory,
            by: self.by,
            reason: self.reason,
            now: self.at,
            change: RETIRED,
        };
        let retired = match nhi_in(transaction, self.directory, self.key).await? {
            Some(known) => declaring.retire(transaction, &known).await?,
            None => false,
        };
        *self.retired.lock().unwrap_or_else(PoisonError::into_inner) = retired;
        Ok(Vec::new())
    }
}

impl Directory {
    /// Hands those of `keys` that name `from` to `to`; gives the keys of those that changed.
    ///
    /// # Errors
    /// When the database does not answer, or holds what this program cannot read.
    pub async fn hand_over_nhis<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a str>,
        hands: HandOver<'_>,
    ) -> Result<Vec<String>, StoreError> {
        let work = Change {
            directory: self,
            keys: self.with_shards(keys),
            hands,
            changed: Mutex::default(),
        };
        self.write(&work).await?;
        Ok(work
            .changed
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner))
    }

    /// Says that `person` no longer knows the secret of a credential: it was replaced.
    ///
    /// # Errors
    /// When the database does not answer, or holds what this program cannot read.
    pub async fn forget_secret(
        &self,
        key: &str,
        credential: &str,
        person: &str,
        reason: &str,
        at: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        self.write(&Forget {
            directory: self,
            key,
            credential,
            person,
            reason,
            at,
        })
        .await
    }

    /// Says that an identity is out of use on purpose, or in use again.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn mark_nhi(
        &self,
        key: &str,
        quiet: Option<Quiet>,
        at: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let status = match quiet {
            Some(_) => NhiStatus::Quiet,
            None => NhiStatus::Active,
        };
        let work = Mark(json!({
            "shard_id": self.shard(key),
            "key": key,
            "status": status,
            "quiet_since": quiet.map(|quiet| time_text(quiet.since)),
            "restore_s": quiet.map(|quiet| quiet.restore_s),
            "changed_at": time_text(at),
        }));
        self.write(&work).await
    }

    /// Starts the end of a non-human identity: a case of the workflow `retirement` about `nhi:KEY`. Asked for twice
    /// before it has begun, it is one.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn start_retirement(
        &self,
        key: &str,
        window: Span,
        by: &Actor,
        reason: &str,
        at: DateTime<Utc>,
    ) -> Result<CaseId, StoreError> {
        let subject = Subject(Node::nhi(key).to_string());
        let name = format!("{key}\n{}", time_text(at));
        let case = CaseId::caused(&RETIREMENTS, at, &name);
        let start = StartCase {
            case,
            workflow: "retirement".to_owned(),
            subject: subject.clone(),
            generation: 0,
            input: json!({ "nhi": key, "window": window.to_string(), "reason": reason }),
            initiator: by.clone(),
            effective_at: Some(at),
        };
        let shard = subject.shard(self.shards);
        let row = Message::Start(start)
            .into_row(shard, case.0, Lane::Normal, at)
            .map_err(|error| StoreError::Corrupt {
                table: "inbox",
                column: "body",
                key: key.to_owned(),
                source: error.into(),
            })?;
        self.store().put_inbox(&[row]).await?;
        Ok(case)
    }

    /// Ends a non-human identity: nobody expects it any more, and what is found of it answers to nobody. `false` when there is
    /// none of that key that is not retired.
    ///
    /// # Errors
    /// When the database does not answer, or holds what this program cannot read.
    pub async fn retire_nhi(
        &self,
        key: &str,
        by: &Actor,
        reason: &str,
        at: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let work = Retire {
            directory: self,
            key,
            by,
            reason,
            at,
            retired: Mutex::default(),
        };
        self.write(&work).await?;
        Ok(work
            .retired
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner))
    }

    /// Those of `keys` that are there, by key.
    ///
    /// # Errors
    /// When the database does not answer, or holds what this program cannot read.
    pub async fn nhis_of<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a str>,
    ) -> Result<BTreeMap<String, NhiRow>, StoreError> {
        let keys = self.with_shards(keys);
        let rows: Vec<NhiRow> = self.reader().rows_of(&NHIS, &keys).await?;
        Ok(rows
            .into_iter()
            .map(|row| (row.nhi_key.clone(), row))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used, reason = "tests")]

    use chrono::NaiveDate;

    use super::*;
    use crate::nhi::declare::{self, Declared};

    fn row(owner: &str, backup: &str) -> NhiRow {
        let text = "
nhis:
  - {key: sync, kind: bot, environment: production, purpose: syncs, team: data, owner: ann, backup: bob, review: 2027-01-31}";
        let declared: Declared = declare::parse("n.yaml", text, &BTreeSet::new())
            .ok()
            .and_then(|all| all.into_iter().next())
            .expect("a declaration");
        NhiRow {
            shard_id: 1,
            nhi_key: "sync".into(),
            kind: "bot".into(),
            status: NhiStatus::Active,
            environment: "production".into(),
            team: "data".into(),
            owner: owner.into(),
            backup: backup.into(),
            review_on: NaiveDate::MIN,
            declared,
            restore_s: None,
            quiet_since: None,
            declared_at: DateTime::UNIX_EPOCH,
            changed_at: DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn nobody_answers_for_a_thing_twice() {
        // The owner and backup there are, to whom it goes and who would stand in; the owner and backup after it.
        let rows = [
            ("ann", "bob", "bob", Some("mia"), Some(("bob", "mia"))),
            ("ann", "bob", "bob", None, Some(("bob", ""))),
            ("ann", "bob", "bob", Some("bob"), Some(("bob", ""))),
            ("ann", "bob", "bob", Some("ann"), Some(("bob", ""))),
            ("ann", "bob", "cid", Some("mia"), Some(("cid", "bob"))),
            // Whoever goes was the backup.
            ("bob", "ann", "bob", Some("mia"), Some(("bob", "mia"))),
            ("bob", "ann", "bob", None, Some(("bob", ""))),
            // Nothing of it is theirs.
            ("bob", "cid", "dan", Some("mia"), None),
        ];
        let by = Actor("engine".into());
        for (owner, backup, to, heir, expected) in rows {
            let hands = HandOver {
                from: "ann",
                to,
                backup: heir,
                by: &by,
                reason: "left",
                at: DateTime::UNIX_EPOCH,
            };
            let after = hands.after(&row(owner, backup));
            let after = after.as_ref().map(|(a, b)| (a.as_str(), b.as_str()));
            assert_eq!(after, expected, "{owner} {backup} to {to}");
        }
    }
}
