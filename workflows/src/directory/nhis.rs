//! Non-human identities, their credentials, and the graph they stand in.
//!
//! What is declared is kept as it was declared, and the columns beside it are what is searched by. A declaration is taken
//! as a whole, in one transaction: with an owner nobody knows, nothing of it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, NaiveDate, Utc};
use engine::core::id::Actor;
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::database::{execute_all, rows_in, rows_of, stored_time, stored_time_option, time_text};
use super::nhi_statements::{
    CHANGES, COVERAGE, DROP_EDGES, EDGES, EXPIRING, LIST, NAMED, NHIS, OF_NHIS, PEOPLE,
    PUT_CHANGES, PUT_COVERAGE, PUT_CREDENTIALS, PUT_EDGES, PUT_NHIS,
};
use super::{Directory, IdentityStatus};
use crate::nhi::check::{Coverage, CredentialFacts, Question, Rules, Snapshot};
use crate::nhi::declare::{Declared, DeclaredCredential};
use crate::nhi::graph::{Confidence, Edge, Node, NodeKind, Relation};
use crate::nhi::{credential_facts, edges, facts};
use crate::policy;

/// The most things that one question is answered about.
pub const NODES_MAX: usize = 50_000;

/// Where a non-human identity stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NhiStatus {
    Active,
    /// Out of use on purpose, and watched.
    Quiet,
    Retired,
}

impl NhiStatus {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Quiet => "quiet",
            Self::Retired => "retired",
        }
    }
}

/// A non-human identity. A stored form: fields may be added, never renamed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NhiRow {
    pub shard_id: i32,
    pub nhi_key: String,
    pub kind: String,
    pub status: NhiStatus,
    pub environment: String,
    pub team: String,
    pub owner: String,
    pub backup: String,
    pub review_on: NaiveDate,
    pub declared: Declared,
    #[serde(default)]
    pub restore_s: Option<u64>,
    #[serde(with = "stored_time_option", default)]
    pub quiet_since: Option<DateTime<Utc>>,
    #[serde(with = "stored_time")]
    pub declared_at: DateTime<Utc>,
    #[serde(with = "stored_time")]
    pub changed_at: DateTime<Utc>,
}

/// What a non-human identity proves with. A stored form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NhiCredentialRow {
    pub shard_id: i32,
    pub nhi_key: String,
    /// `system/id`.
    pub name: String,
    pub kind: String,
    /// `active`; `undeclared` once the declaration names it no more; `ended`.
    pub status: String,
    #[serde(with = "stored_time_option", default)]
    pub issued_at: Option<DateTime<Utc>>,
    #[serde(with = "stored_time_option", default)]
    pub expires_at: Option<DateTime<Utc>>,
    #[serde(with = "stored_time_option", default)]
    pub quiet_since: Option<DateTime<Utc>>,
    #[serde(with = "stored_time")]
    pub changed_at: DateTime<Utc>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct EdgeRow {
    shard_id: i32,
    to_node: Node,
    relation: Relation,
    from_node: Node,
    source: String,
    confidence: Confidence,
    #[serde(with = "stored_time")]
    first_seen_at: DateTime<Utc>,
    #[serde(with = "stored_time")]
    last_seen_at: DateTime<Utc>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CoverageRow {
    shard_id: i32,
    node: Node,
    source: String,
    #[serde(with = "stored_time")]
    seen_from: DateTime<Utc>,
    #[serde(with = "stored_time")]
    seen_until: DateTime<Utc>,
    delay_s: u64,
    blind_spots: Vec<String>,
    required: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct ChangeRow {
    pub shard_id: i32,
    pub nhi_key: String,
    pub at: String,
    pub change_id: String,
    pub change: &'static str,
    pub by_actor: String,
    pub reason: String,
    pub before_digest: Option<String>,
    pub after_digest: String,
}

/// Who changed what is declared, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NhiChange {
    #[serde(with = "stored_time")]
    pub at: DateTime<Utc>,
    pub change: String,
    pub by_actor: String,
    pub reason: String,
    pub after_digest: String,
}

/// What became of a declaration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DeclareReport {
    pub new: Vec<String>,
    pub changed: Vec<String>,
    pub unchanged: usize,
    /// Why nothing was taken: people who are not there, credentials that belong to another identity.
    pub refused: Vec<String>,
}

/// Which non-human identities a listing wants.
#[derive(Debug, Clone, Default)]
pub struct NhiFilter {
    /// Owned or backed up by this person.
    pub person: Option<String>,
    pub team: Option<String>,
    pub environment: Option<String>,
    /// To be reviewed by this day.
    pub review_by: Option<NaiveDate>,
}

/// What a change is called that a file made.
pub(crate) const DECLARED: &str = "declared";

/// Who declares something, when and why.
pub(crate) struct Declaring<'a> {
    pub directory: &'a Directory,
    pub by: &'a Actor,
    pub reason: &'a str,
    pub now: DateTime<Utc>,
    /// What is done, for whoever reads what was declared when.
    pub change: &'static str,
}

struct Declare<'a> {
    declaring: Declaring<'a>,
    declared: &'a [Declared],
    report: Mutex<DeclareReport>,
}

#[derive(Deserialize)]
struct Person {
    identity_key: String,
    status: IdentityStatus,
}

#[async_trait::async_trait]
impl Work for Declare<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let report = self.declaring.take(transaction, self.declared).await?;
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = report;
        Ok(Vec::new())
    }
}

impl Declaring<'_> {
    /// Takes a declaration as a whole, or nothing of it: see [`DeclareReport::refused`].
    pub async fn take(
        &self,
        transaction: &mut Transaction<'_>,
        declared: &[Declared],
    ) -> Result<DeclareReport, StoreError> {
        let mut report = DeclareReport::default();
        self.refusals(transaction, declared, &mut report).await?;
        if report.refused.is_empty() {
            self.write(transaction, declared, &mut report).await?;
        }
        Ok(report)
    }

    async fn refusals(
        &self,
        transaction: &mut Transaction<'_>,
        declared: &[Declared],
        report: &mut DeclareReport,
    ) -> Result<(), StoreError> {
        let named: BTreeSet<&str> = declared
            .iter()
            .flat_map(|declared| [declared.owner.as_str(), declared.backup.as_str()])
            .collect();
        let keys = self.directory.with_shards(named);
        let people: Vec<Person> = rows_of(transaction, &PEOPLE, &keys).await?;
        let there: BTreeMap<&str, IdentityStatus> = people
            .iter()
            .map(|person| (person.identity_key.as_str(), person.status))
            .collect();
        for declared in declared {
            for (what, key) in [("owner", &declared.owner), ("backup", &declared.backup)] {
                let why = match there.get(key.as_str()) {
                    Some(IdentityStatus::Active | IdentityStatus::Expected) => continue,
                    Some(status) => format!("is {}", status.as_str()),
                    None => "is nobody who is known".to_owned(),
                };
                report
                    .refused
                    .push(format!("`{}`: its {what} `{key}` {why}", declared.key));
            }
        }
        let of: BTreeMap<String, &str> = declared
            .iter()
            .flat_map(|declared| {
                let names = declared.credentials.iter().map(DeclaredCredential::name);
                names.map(|name| (name, declared.key.as_str()))
            })
            .collect();
        // By name alone: whose it is, and so its shard, is what is asked.
        let names: Vec<(i32, String)> = of.keys().map(|name| (0, name.clone())).collect();
        let taken: Vec<NhiCredentialRow> = rows_of(transaction, &NAMED, &names).await?;
        for row in taken.iter().filter(|row| row.status == "active") {
            if let Some(key) = of.get(&row.name)
                && *key != row.nhi_key
            {
                report.refused.push(format!(
                    "`{key}`: the credential `{}` belongs to `{}`",
                    row.name, row.nhi_key
                ));
            }
        }
        Ok(())
    }

    async fn write(
        &self,
        transaction: &mut Transaction<'_>,
        declared: &[Declared],
        report: &mut DeclareReport,
    ) -> Result<(), StoreError> {
        let keys = self
            .directory
            .with_shards(declared.iter().map(|one| one.key.as_str()));
        let known: Vec<NhiRow> = rows_of(transaction, &NHIS, &keys).await?;
        let known: BTreeMap<&str, &NhiRow> = known
            .iter()
            .map(|row| (row.nhi_key.as_str(), row))
            .collect();
        let (mut rows, mut credentials, mut changes) = (Vec::new(), Vec::new(), Vec::new());
        let (mut told, mut gone) = (Vec::new(), Vec::new());
        let mut rotated = Vec::new();
        let again: Vec<(i32, String)> = keys
            .iter()
            .filter(|(_, key)| known.contains_key(key.as_str()))
            .cloned()
            .collect();
        let held: Vec<NhiCredentialRow> = rows_of(transaction, &OF_NHIS, &again).await?;
        let held: BTreeMap<&str, &NhiCredentialRow> =
            held.iter().map(|row| (row.name.as_str(), row)).collect();
        for declared in declared {
            let before = known.get(declared.key.as_str()).copied();
            if before
                .is_some_and(|row| row.declared == *declared && row.status != NhiStatus::Retired)
            {
                report.unchanged += 1;
                continue;
            }
            match before {
                None => report.new.push(declared.key.clone()),
                Some(_) => report.changed.push(declared.key.clone()),
            }
            rotated.push((declared, before.map(|row| &row.declared)));
            let shard_id = self.directory.shard(&declared.key);
            let stands = edges(declared, self.now);
            if let Some(row) = before {
                let stood = edges(&row.declared, row.declared_at);
                let way = |edge: &Edge| (edge.from.clone(), edge.relation, edge.to.clone());
                let still: BTreeSet<_> = stands.iter().map(way).collect();
                let ended = stood.iter().filter(|edge| !still.contains(&way(edge)));
                gone.extend(ended.map(|edge| self.edge_row(edge)));
                let names: BTreeSet<String> =
                    declared.credentials.iter().map(|one| one.name()).collect();
                let dropped = row
                    .declared
                    .credentials
                    .iter()
                    .filter(|one| !names.contains(&one.name()));
                credentials
                    .extend(dropped.map(|one| self.credential(&row.nhi_key, one, "undeclared")));
            }
            told.extend(stands.iter().map(|edge| self.edge_row(edge)));
            for one in &declared.credentials {
                let mut row = self.credential(&declared.key, one, "active");
                // What was seen when it was replaced says more than what somebody wrote down.
                if let Some(held) = held.get(row.name.as_str())
                    && before.is_some_and(|before| is_replaced(held, &before.declared))
                {
                    row.issued_at = held.issued_at;
                    row.expires_at = held.expires_at;
                }
                credentials.push(row);
            }
            changes.push(ChangeRow {
                shard_id,
                nhi_key: declared.key.clone(),
                at: time_text(self.now),
                change_id: digest(declared)?,
                change: self.change,
                by_actor: self.by.0.clone(),
                reason: self.reason.to_owned(),
                before_digest: before.map(|row| digest(&row.declared)).transpose()?,
                after_digest: digest(declared)?,
            });
            rows.push(NhiRow {
                shard_id,
                nhi_key: declared.key.clone(),
                kind: declared.kind.as_str().to_owned(),
                status: before.map_or(NhiStatus::Active, |row| match row.status {
                    NhiStatus::Retired => NhiStatus::Active,
                    stays => stays,
                }),
                environment: declared.environment.clone(),
                team: declared.team.clone(),
                owner: declared.owner.clone(),
                backup: declared.backup.clone(),
                review_on: declared.review,
                declared: declared.clone(),
                restore_s: before.and_then(|row| row.restore_s),
                quiet_since: before.and_then(|row| row.quiet_since),
                declared_at: self.now,
                changed_at: self.now,
            });
        }
        execute_all(transaction, &PUT_NHIS, &rows).await?;
        execute_all(transaction, &PUT_CREDENTIALS, &credentials).await?;
        execute_all(transaction, &DROP_EDGES, &gone).await?;
        execute_all(transaction, &PUT_EDGES, &told).await?;
        execute_all(transaction, &PUT_CHANGES, &changes).await?;
        self.directory
            .declare_rotations(transaction, &rotated, self.now)
            .await
    }

    fn edge_row(&self, edge: &Edge) -> EdgeRow {
        self.directory.edge_row(edge)
    }

    fn credential(
        &self,
        key: &str,
        credential: &DeclaredCredential,
        status: &str,
    ) -> NhiCredentialRow {
        NhiCredentialRow {
            shard_id: self.directory.shard(key),
            nhi_key: key.to_owned(),
            name: credential.name(),
            kind: credential.kind.as_str().to_owned(),
            status: status.to_owned(),
            issued_at: credential.issued,
            expires_at: credential.expires,
            quiet_since: None,
            changed_at: self.now,
        }
    }
}

/// Whether a credential was replaced since: it lasts otherwise than was said of it.
fn is_replaced(held: &NhiCredentialRow, said: &Declared) -> bool {
    let credentials = said.credentials.iter();
    let mut replaced = credentials.filter(|one| one.rotation.is_some());
    replaced.any(|one| {
        one.name() == held.name && (one.issued, one.expires) != (held.issued_at, held.expires_at)
    })
}

/// One non-human identity, inside a transaction.
pub(crate) async fn nhi_in(
    transaction: &mut Transaction<'_>,
    directory: &Directory,
    key: &str,
) -> Result<Option<NhiRow>, StoreError> {
    let found = rows_of(transaction, &NHIS, &directory.with_shards([key])).await?;
    Ok(found.into_iter().next())
}

/// What was declared of one, newest first, inside a transaction.
pub(crate) async fn nhi_changes_in(
    transaction: &mut Transaction<'_>,
    shard_id: i32,
    key: &str,
) -> Result<Vec<NhiChange>, StoreError> {
    let parameter = json!({ "shard_id": shard_id, "key": key });
    rows_in(transaction, &CHANGES, &parameter).await
}

pub(super) fn digest(declared: &Declared) -> Result<String, StoreError> {
    let value = serde_json::to_value(declared).map_err(|error| StoreError::Corrupt {
        table: "nhi",
        column: "declared",
        key: declared.key.clone(),
        source: error.into(),
    })?;
    Ok(policy::digest(&value))
}

impl Directory {
    /// Takes a declaration as a whole, or nothing of it: see [`DeclareReport::refused`].
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn declare(
        &self,
        declared: &[Declared],
        by: &Actor,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<DeclareReport, StoreError> {
        let work = Declare {
            declaring: Declaring {
                directory: self,
                by,
                reason,
                now,
                change: DECLARED,
            },
            declared,
            report: Mutex::default(),
        };
        self.write(&work).await?;
        Ok(work
            .report
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner))
    }

    /// One non-human identity.
    ///
    /// # Errors
    /// When the database does not answer, or holds what this program cannot read.
    pub async fn nhi(&self, key: &str) -> Result<Option<NhiRow>, StoreError> {
        let key = self.with_shards([key]);
        let found = self.reader().rows_of(&NHIS, &key).await?;
        Ok(found.into_iter().next())
    }

    /// Those a filter wants, after `after`, by key.
    ///
    /// # Errors
    /// When the database does not answer, or holds what this program cannot read.
    pub async fn nhis(
        &self,
        filter: &NhiFilter,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<NhiRow>, StoreError> {
        let parameter = json!({
            "person": filter.person,
            "team": filter.team,
            "environment": filter.environment,
            "review_by": filter.review_by,
            "after": after.unwrap_or_default(),
            "limit": limit,
        });
        self.reader().rows(&LIST, &parameter).await
    }

    /// The credentials of non-human identities that expire before `before`, the soonest first.
    ///
    /// # Errors
    /// When the database does not answer, or holds what this program cannot read.
    pub async fn nhi_credentials_expiring(
        &self,
        before: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<NhiCredentialRow>, StoreError> {
        let parameter = json!({ "before": time_text(before), "limit": limit });
        self.reader().rows(&EXPIRING, &parameter).await
    }

    /// The credentials of these identities that are not ended, with when they were issued and end by what is known now.
    ///
    /// # Errors
    /// When the database does not answer, or holds what this program cannot read.
    pub async fn nhi_credentials_of<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<NhiCredentialRow>, StoreError> {
        let keys = self.with_shards(keys);
        self.reader().rows_of(&OF_NHIS, &keys).await
    }

    /// What was declared of one, newest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn nhi_changes(&self, key: &str) -> Result<Vec<NhiChange>, StoreError> {
        let parameter = json!({ "shard_id": self.shard(key), "key": key });
        self.reader().rows(&CHANGES, &parameter).await
    }

    /// The edges that begin or end at any of `nodes`.
    ///
    /// # Errors
    /// When the database does not answer, or holds what this program cannot read.
    pub async fn edges_at(
        &self,
        nodes: impl IntoIterator<Item = &Node>,
    ) -> Result<Vec<Edge>, StoreError> {
        let rows: Vec<EdgeRow> = self
            .reader()
            .rows_of(&EDGES, &self.node_keys(nodes))
            .await?;
        let found: BTreeSet<Edge> = rows.into_iter().map(Edge::from).collect();
        Ok(found.into_iter().collect())
    }

    /// Writes what was seen of the graph: a later sight of a known edge moves its last moment on, an earlier one its first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn observe(&self, edges: &[Edge], coverage: &[Coverage]) -> Result<(), StoreError> {
        let work = Observe {
            edges: edges.iter().map(|edge| self.edge_row(edge)).collect(),
            coverage: coverage
                .iter()
                .map(|looks| self.coverage_row(looks))
                .collect(),
        };
        self.write(&work).await
    }

    pub(super) fn edge_row(&self, edge: &Edge) -> EdgeRow {
        EdgeRow {
            shard_id: self.shard(&edge.to.name),
            to_node: edge.to.clone(),
            relation: edge.relation,
            from_node: edge.from.clone(),
            source: edge.source.clone(),
            confidence: edge.confidence,
            first_seen_at: edge.first_seen_at,
            last_seen_at: edge.last_seen_at,
        }
    }

    pub(super) fn coverage_row(&self, looks: &Coverage) -> CoverageRow {
        CoverageRow {
            shard_id: self.shard(&looks.node.name),
            node: looks.node.clone(),
            source: looks.source.clone(),
            seen_from: looks.from,
            seen_until: looks.until,
            delay_s: looks.delay_s,
            blind_spots: looks.blind_spots.clone(),
            required: looks.required,
        }
    }

    pub(super) fn with_shards<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a str>,
    ) -> Vec<(i32, String)> {
        let with_shard = |key: &str| (self.shard(key), key.to_owned());
        keys.into_iter().map(with_shard).collect()
    }

    /// A node lies in the shard of its name.
    pub(super) fn node_keys<'a>(
        &self,
        nodes: impl IntoIterator<Item = &'a Node>,
    ) -> Vec<(i32, String)> {
        let key = |node: &Node| (self.shard(&node.name), node.to_string());
        nodes.into_iter().map(key).collect()
    }

    /// All that the answer to a question rests on: what hangs on its subject, and what is known of that. `own` are the
    /// subject's own credentials, which no declaration names.
    ///
    /// `Err` of the inner result when more than [`NODES_MAX`] things hang on it.
    ///
    /// # Errors
    /// When the database does not answer, or holds what this program cannot read.
    pub async fn dependencies(
        &self,
        question: Question,
        own: &BTreeMap<Node, CredentialFacts>,
        rules: Rules,
        at: DateTime<Utc>,
    ) -> Result<Result<Snapshot, usize>, StoreError> {
        let mut snapshot = Snapshot {
            question,
            at,
            rules,
            present: BTreeSet::new(),
            nhis: BTreeMap::new(),
            credentials: own.clone(),
            edges: Vec::new(),
            coverage: Vec::new(),
        };
        let subject = snapshot.question.subject.clone();
        let (mut known, mut edges) = (BTreeSet::from([subject.clone()]), BTreeSet::new());
        let mut frontier = vec![subject.clone()];
        for node in own.keys() {
            if known.insert(node.clone()) {
                frontier.push(node.clone());
            }
        }
        if subject.kind == NodeKind::Person {
            let filter = NhiFilter {
                person: Some(subject.name.clone()),
                ..NhiFilter::default()
            };
            let limit = u32::try_from(NODES_MAX).unwrap_or(u32::MAX);
            for row in self.nhis(&filter, None, limit).await? {
                let node = Node::nhi(&row.nhi_key);
                if known.insert(node.clone()) {
                    frontier.push(node);
                }
            }
        }
        while !frontier.is_empty() {
            if known.len() > NODES_MAX {
                return Ok(Err(known.len()));
            }
            let found = self.edges_at(&frontier).await?;
            let mut next = BTreeSet::new();
            for edge in &found {
                // Down to what hangs on a node, and from a credential up to whose it is; never over somebody else's hands.
                let down = known.contains(&edge.from)
                    && matches!(
                        edge.relation,
                        Relation::Owns | Relation::Knows | Relation::Minted
                    );
                let up = edge.relation == Relation::Owns && edge.from.kind == NodeKind::Nhi;
                for (wanted, node) in [(down, &edge.to), (up, &edge.from)] {
                    let hangs = matches!(
                        node.kind,
                        NodeKind::Nhi | NodeKind::Credential | NodeKind::Anchor
                    );
                    if wanted && hangs && known.insert(node.clone()) {
                        next.insert(node.clone());
                    }
                }
            }
            edges.extend(found);
            frontier = next.into_iter().collect();
        }
        snapshot.edges = edges.into_iter().collect();
        self.known_of(&mut snapshot, &known).await?;
        Ok(Ok(snapshot))
    }

    async fn known_of(
        &self,
        snapshot: &mut Snapshot,
        nodes: &BTreeSet<Node>,
    ) -> Result<(), StoreError> {
        let nhis = nodes.iter().filter(|node| node.kind == NodeKind::Nhi);
        let keys = self.with_shards(nhis.map(|node| node.name.as_str()));
        let rows: Vec<NhiRow> = self.reader().rows_of(&NHIS, &keys).await?;
        let held: Vec<NhiCredentialRow> = self.reader().rows_of(&OF_NHIS, &keys).await?;
        let by_key: BTreeMap<&str, &NhiRow> =
            rows.iter().map(|row| (row.nhi_key.as_str(), row)).collect();
        for credential in &held {
            let of = by_key.get(credential.nhi_key.as_str());
            let facts = of.and_then(|row| {
                credential_facts(&row.declared, &credential.name, credential.quiet_since)
            });
            let node = Node::credential(&credential.name);
            snapshot
                .credentials
                .extend(facts.map(|facts| (node, facts)));
        }
        let mut people = BTreeSet::new();
        for row in &rows {
            people.extend([row.owner.as_str(), row.backup.as_str()]);
            let facts = facts(&row.declared, row.restore_s, row.quiet_since);
            snapshot.nhis.insert(Node::nhi(&row.nhi_key), facts);
        }
        let people: Vec<Person> =
            (self.reader().rows_of(&PEOPLE, &self.with_shards(people))).await?;
        let there = people
            .into_iter()
            .filter(|person| person.status == IdentityStatus::Active);
        snapshot
            .present
            .extend(there.map(|person| person.identity_key));
        let looks: Vec<CoverageRow> =
            (self.reader().rows_of(&COVERAGE, &self.node_keys(nodes))).await?;
        snapshot.coverage = looks.into_iter().map(Coverage::from).collect();
        Ok(())
    }
}

impl From<EdgeRow> for Edge {
    fn from(row: EdgeRow) -> Self {
        Self {
            from: row.from_node,
            relation: row.relation,
            to: row.to_node,
            source: row.source,
            first_seen_at: row.first_seen_at,
            last_seen_at: row.last_seen_at,
            confidence: row.confidence,
        }
    }
}

impl From<CoverageRow> for Coverage {
    fn from(row: CoverageRow) -> Self {
        Self {
            node: row.node,
            source: row.source,
            from: row.seen_from,
            until: row.seen_until,
            delay_s: row.delay_s,
            blind_spots: row.blind_spots,
            required: row.required,
        }
    }
}

struct Observe {
    edges: Vec<EdgeRow>,
    coverage: Vec<CoverageRow>,
}

#[async_trait::async_trait]
impl Work for Observe {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        execute_all(transaction, &PUT_EDGES, &self.edges).await?;
        execute_all(transaction, &PUT_COVERAGE, &self.coverage).await?;
        Ok(Vec::new())
    }
}
