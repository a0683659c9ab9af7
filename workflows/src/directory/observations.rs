//! What the log of a system says of uses, into the graph.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use engine::core::id::Actor;
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde::Serialize;

use super::database::{execute_all, rows_of, time_text};
use super::identities::PAGE_ROWS_MAX;
use super::nhi_statements::{COVERAGE, PUT_CHANGES, PUT_COVERAGE, PUT_EDGES};
use super::nhis::{ChangeRow, CoverageRow, EdgeRow, digest};
use super::{Directory, NhiFilter, NhiRow, NhiStatus};
use crate::nhi::check::Coverage;
use crate::nhi::found::Thing;
use crate::nhi::uses::{Followed, Log, Summary, joined, things};

/// How many of what nobody answers for are named.
const UNKNOWN_NAMED_MAX: usize = 20;

/// What a log said about non-human identities.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ObserveReport {
    pub lines: u64,
    /// Different uses of declared identities and their credentials.
    pub uses: usize,
    /// The identities that the log watches, or shows uses of.
    pub nhis: usize,
    /// What was used and no declaration names, the most used first, with how often; people's accounts are among it.
    pub unknown: Vec<(Thing, u64)>,
    /// How many there are, where `unknown` names only the first.
    pub unknown_count: usize,
}

impl Directory {
    /// Takes what a log says. Said again, or after an interruption, it changes nothing that was right already.
    ///
    /// # Errors
    /// When the database does not answer, or holds what this program cannot read.
    pub async fn observe_log(
        &self,
        log: &Log,
        said: &Summary,
        by: &Actor,
        reason: &str,
        at: DateTime<Utc>,
    ) -> Result<ObserveReport, StoreError> {
        let mut report = ObserveReport {
            lines: said.lines,
            ..ObserveReport::default()
        };
        let (mut known, mut after) = (BTreeSet::new(), None::<String>);
        loop {
            let page = self
                .nhis(&NhiFilter::default(), after.as_deref(), PAGE_ROWS_MAX)
                .await?;
            let Some(last) = page.last() else {
                break;
            };
            after = Some(last.nhi_key.clone());
            let there: BTreeMap<&str, &NhiRow> = page
                .iter()
                .filter(|row| row.status != NhiStatus::Retired)
                .map(|row| (row.nhi_key.as_str(), row))
                .collect();
            let declared = || there.values().map(|row| &row.declared);
            known.extend(declared().flat_map(|one| things(one, &log.system)));
            let followed = said.follow(log, declared());
            if followed.keys.is_empty() {
                continue;
            }
            report.uses += followed.edges.len();
            report.nhis += followed.keys.len();
            let changes = followed
                .keys
                .iter()
                .filter_map(|key| there.get(key.as_str()))
                .map(|row| change(row, log, by, reason, at))
                .collect::<Result<_, _>>()?;
            let work = Watched {
                directory: self,
                followed,
                changes,
            };
            self.write(&work).await?;
        }
        let mut unknown = said.unknown(&known);
        report.unknown_count = unknown.len();
        unknown.truncate(UNKNOWN_NAMED_MAX);
        report.unknown = unknown;
        Ok(report)
    }
}

/// Who said that a log has seen everything, and why they may.
fn change(
    row: &NhiRow,
    log: &Log,
    by: &Actor,
    reason: &str,
    at: DateTime<Utc>,
) -> Result<ChangeRow, StoreError> {
    let declared = digest(&row.declared)?;
    Ok(ChangeRow {
        shard_id: row.shard_id,
        nhi_key: row.nhi_key.clone(),
        at: time_text(at),
        change_id: format!("observed:{}:{declared}", log.source),
        change: "observed",
        by_actor: by.0.clone(),
        reason: format!(
            "{reason} ({} watched from {} until {})",
            log.source,
            time_text(log.from),
            time_text(log.until)
        ),
        before_digest: Some(declared.clone()),
        after_digest: declared,
    })
}

struct Watched<'a> {
    directory: &'a Directory,
    followed: Followed,
    changes: Vec<ChangeRow>,
}

#[async_trait::async_trait]
impl Work for Watched<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let nodes = self.followed.coverage.iter().map(|looks| &looks.node);
        let before: Vec<CoverageRow> =
            rows_of(transaction, &COVERAGE, &self.directory.node_keys(nodes)).await?;
        let before: BTreeMap<(String, String), Coverage> = before
            .into_iter()
            .map(Coverage::from)
            .map(|looks| ((looks.node.to_string(), looks.source.clone()), looks))
            .collect();
        let coverage: Vec<CoverageRow> = self
            .followed
            .coverage
            .iter()
            .map(|looks| {
                let known = before.get(&(looks.node.to_string(), looks.source.clone()));
                let now = known.map_or_else(|| looks.clone(), |known| joined(known, looks.clone()));
                self.directory.coverage_row(&now)
            })
            .collect();
        let edges = self.followed.edges.iter();
        let edges: Vec<EdgeRow> = edges.map(|edge| self.directory.edge_row(edge)).collect();
        execute_all(transaction, &PUT_EDGES, &edges).await?;
        execute_all(transaction, &PUT_COVERAGE, &coverage).await?;
        execute_all(transaction, &PUT_CHANGES, &self.changes).await?;
        Ok(Vec::new())
    }
}
