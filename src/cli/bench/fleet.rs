//! Nodes on the database of one run, and cases put to them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use engine::core::case::{CaseState, Failure, Verification};
use engine::core::definition::{Definition, Lane};
use engine::core::id::{Actor, CaseId, Subject};
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use engine::runner::{
    Actions, Attempt, Clock as _, Definitions, Message, Node, NodeConfig, NodeHandle, Resource,
    StartCase, SystemClock,
};
use engine::store::{CaseFilter, InboxRow, NoProjection, Store};
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::scratch::Scratch;

/// How many messages go into one write of the inbox.
const MESSAGES_PER_WRITE: usize = 1_000;
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// How long nodes may take to share the shards among themselves.
const BALANCE_LIMIT: Duration = Duration::from_secs(60);

/// How many calls are out at the same time at most.
const CALLS: usize = 2_000;

/// Two actions that do nothing: `noop` asks nobody, `call` leaves as a request to a system would.
pub(super) struct Noop;

#[async_trait]
impl Actions for Noop {
    fn exists(&self, uses: &str) -> bool {
        matches!(uses, "noop" | "call")
    }
    fn fact_roots(&self) -> Vec<&'static str> {
        Vec::new()
    }
    async fn facts(&self, _: &Subject, _: &Value, _: &BTreeSet<String>) -> Result<Value, Failure> {
        Ok(json!({}))
    }
    fn resource(&self, _: &Attempt) -> Option<Resource> {
        Some(Resource {
            name: "system".to_owned(),
            concurrency: CALLS,
            reserved: 0,
        })
    }
    fn at_once(&self, attempt: &Attempt) -> Option<AttemptResult> {
        (attempt.uses == "noop").then(done)
    }
    async fn run(&self, _: &Attempt) -> AttemptResult {
        done()
    }
}

pub(super) fn done() -> AttemptResult {
    AttemptResult::Succeeded {
        output: Value::Null,
        verification: Verification::NotNeeded,
        proof: Proof::default(),
    }
}

/// The definitions of these texts; `noop` and `call` are the actions they may use.
pub(super) fn definitions(texts: &[&str]) -> anyhow::Result<Arc<Definitions>> {
    let definitions = Definitions::new();
    for text in texts {
        definitions.add(Definition::parse("bench", text, &[], &|uses| {
            Noop.exists(uses)
        })?);
    }
    Ok(Arc::new(definitions))
}

/// A workflow of so many steps that do nothing, one after another.
pub(super) fn steps(name: &str, uses: &str, count: u32) -> String {
    let steps: String = (0..count)
        .map(|step| format!("  - {{ id: s{step}, uses: {uses} }}\n"))
        .collect();
    format!("name: {name}\nsteps:\n{steps}")
}

/// Running nodes that share one database.
pub(super) struct Fleet {
    pub store: Arc<dyn Store>,
    nodes: Vec<NodeHandle>,
    shards: u32,
}

impl Fleet {
    /// Starts `nodes` nodes and waits until each owns its share.
    pub async fn start(
        scratch: &Scratch,
        nodes: u32,
        actions: Arc<dyn Actions>,
        definitions: &Arc<Definitions>,
    ) -> anyhow::Result<Self> {
        let store = scratch.store();
        let shards = store.shard_count().await?;
        let mut fleet = Self {
            store,
            nodes: Vec::new(),
            shards,
        };
        for number in 1..=nodes {
            let config = NodeConfig {
                name: format!("bench-{number}"),
                ..NodeConfig::default()
            };
            let node = Node::start(
                config,
                scratch.another().await?,
                Arc::clone(&actions),
                Arc::new(NoProjection),
                Arc::clone(definitions),
                Arc::new(SystemClock),
            );
            let node = node
                .await
                .context("cannot start a node on the scratch database")?;
            fleet.nodes.push(node);
        }
        let started = Instant::now();
        while fleet.shares_min() == 0 {
            ensure!(
                started.elapsed() < BALANCE_LIMIT,
                "a node got no share of the shards within {} s",
                BALANCE_LIMIT.as_secs()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(fleet)
    }

    fn shares_min(&self) -> usize {
        let shares = self.nodes.iter().map(|node| node.status().owns_shards);
        shares.min().unwrap_or(0)
    }

    /// How many batches all nodes have written.
    pub fn batches(&self) -> u64 {
        self.nodes.iter().map(|node| node.status().batches).sum()
    }

    pub fn cases_hot(&self) -> usize {
        self.nodes.iter().map(|node| node.status().cases_hot).sum()
    }

    /// A message that starts a case of `workflow` for somebody new.
    pub fn message(&self, workflow: &str, lane: Lane, input: &Value) -> anyhow::Result<InboxRow> {
        let name = Uuid::new_v4();
        let now = SystemClock.now();
        let case = CaseId::caused(&name, now, "bench");
        let id = case.0;
        let subject = Subject(name.simple().to_string());
        let shard = subject.shard(self.shards);
        let start = StartCase {
            case,
            workflow: workflow.to_owned(),
            subject,
            generation: 0,
            input: input.clone(),
            initiator: Actor("bench".to_owned()),
            effective_at: None,
        };
        Ok(Message::Start(start).into_row(shard, id, lane, now)?)
    }

    pub fn messages(
        &self,
        workflow: &str,
        count: u32,
        input: &Value,
    ) -> anyhow::Result<Vec<InboxRow>> {
        (0..count)
            .map(|_| self.message(workflow, Lane::Normal, input))
            .collect()
    }

    pub async fn put(&self, rows: &[InboxRow]) -> anyhow::Result<()> {
        for part in rows.chunks(MESSAGES_PER_WRITE) {
            self.store.put_inbox(part).await?;
            self.nudge();
        }
        Ok(())
    }

    fn nudge(&self) {
        for node in &self.nodes {
            node.nudge();
        }
    }

    /// Starts `count` cases and waits until every node has nothing to do.
    pub async fn cases(
        &self,
        workflow: &str,
        count: u32,
        input: &Value,
    ) -> anyhow::Result<Duration> {
        let rows = self.messages(workflow, count, input)?;
        let started = Instant::now();
        self.put(&rows).await?;
        self.idle().await?;
        Ok(started.elapsed())
    }

    /// How many transitions all nodes have written.
    fn transitions(&self) -> u64 {
        self.nodes
            .iter()
            .map(|node| node.status().transitions)
            .sum()
    }

    /// As [`Fleet::cases`], of one node whose cases all make `transitions`: it is not asked whether it is idle, which
    /// makes it read its whole inbox.
    pub async fn cases_unasked(
        &self,
        workflow: &str,
        count: u32,
        transitions: u64,
    ) -> anyhow::Result<Duration> {
        let rows = self.messages(workflow, count, &Value::Null)?;
        let end = self.transitions() + transitions * u64::from(count);
        let mut status = self.node()?.watcher();
        let started = Instant::now();
        self.put(&rows).await?;
        let reached = status.wait_for(|status| status.transitions >= end).await;
        reached.context("the node ended in the middle of the run")?;
        Ok(started.elapsed())
    }

    fn node(&self) -> anyhow::Result<&NodeHandle> {
        self.nodes.first().context("there is no node")
    }

    /// How many transitions a case of `workflow` makes.
    pub async fn transitions_of_one(&self, workflow: &str) -> anyhow::Result<u64> {
        let before = self.transitions();
        self.cases(workflow, 1, &Value::Null).await?;
        Ok(self.transitions() - before)
    }

    /// Waits until nothing is in flight, queued or unread on any node.
    pub async fn idle(&self) -> anyhow::Result<()> {
        for node in &self.nodes {
            ensure!(node.idle().await, "a node ended in the middle of the run");
        }
        Ok(())
    }

    /// Waits until no case is open.
    pub async fn closed(&self) -> anyhow::Result<()> {
        let open = CaseFilter {
            open_only: true,
            ..CaseFilter::default()
        };
        loop {
            self.idle().await?;
            if self.store.list(&open, None, 1).await?.is_empty() {
                return Ok(());
            }
        }
    }

    pub async fn succeeded(&self) -> anyhow::Result<u64> {
        let counts = self.store.counts().await?;
        Ok(counts
            .iter()
            .filter(|(_, state, _)| *state == CaseState::Succeeded)
            .map(|(_, _, count)| count)
            .sum())
    }

    pub async fn drain(self) -> anyhow::Result<()> {
        for node in self.nodes {
            node.drain(DRAIN_LIMIT).await?;
        }
        Ok(())
    }
}

/// The value below which `share` of the sorted values lie.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index into a list that fits into memory"
)]
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
pub(super) fn rate(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64().max(1e-9)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]
    use super::*;

    #[test]
    #[expect(clippy::float_cmp, reason = "the values are copied, not computed")]
    fn a_quantile_is_a_value_that_was_seen() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&values, 0.50), 50.0);
        assert_eq!(quantile(&values, 0.99), 99.0);
        assert_eq!(quantile(&[3.0], 0.99), 3.0);
        assert_eq!(quantile(&[], 0.99), 0.0);
    }
}
