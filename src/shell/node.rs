//! A node on a configuration: the engine's node, and what has to run beside it.
//!
//! Beside the engine's own loop small ones run: one starts what waited for its time, one replaces credentials that are due,
//! one for each system tells the directory whether it takes calls and looks after it while it does not, one for each source
//! that is a database asks it, some tell people what they have to know ([`super::notices`]), one brings people under a policy
//! that came into force ([`super::rollouts`]), one for each authority asks what it wishes ([`super::renewals`]), one takes back what nodes said about systems that ended since, one forgets what
//! is over. At the start older versions of workflows are looked for that open cases still run.
//!
//! All of it is the same on every node of a database. What waited for its time is started in a transaction that locks
//! the people concerned and finds nothing left to start when another node was first; what is said about systems is
//! said by each node for itself.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use connectors::layer::Availability;
use engine::core::definition::Definition;
use engine::core::id::{Actor, DefinitionHash};
use engine::runner::{
    Actions, Clock, Definitions, Housekeeping, Node, NodeConfig, NodeHandle, NodeStatus,
    SystemClock, owner_is_dead,
};
use engine::store::{CaseCursor, CaseFilter, PAGE_ROWS_MAX, Store};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use workflows::actions::{FACT_ROOTS, IdentityActions};
use workflows::config::Configuration;
use workflows::directory::{SystemState, SystemStateRow};
use workflows::intake::{Intake, PolicyCell};
use workflows::notices::NoticeProjection;
use workflows::policies::{Policies, Proposed};
use workflows::rollouts::Rollouts;
use workflows::systems::System;

use super::pulls::Pull;
use super::{Database, notices, now};
use crate::telemetry::{Metrics, ObservedActions, ObservedStore, Telemetry};

/// The longest pause between two looks for what waited for its time: events from other processes come unannounced.
const DUE_PAUSE_MAX: Duration = Duration::from_secs(30);
/// The pause after a look that failed.
const FAILED_PAUSE: Duration = Duration::from_secs(2);
/// How often it is looked for what ended nodes have left behind.
const FORGET_PAUSE: Duration = Duration::from_secs(30);
/// Between two looks whether the policy of the folder was approved.
const POLICY_PAUSE: Duration = Duration::from_secs(2);
/// How long the loops beside the node may take to end.
const SIDE_LIMIT: Duration = Duration::from_secs(5);

/// A running node with everything that belongs to it.
pub struct Running {
    pub database: Database,
    pub configuration: Arc<Configuration>,
    pub definitions: Arc<Definitions>,
    pub intake: Intake,
    pub policies: Policies,
    /// The policy that decides here.
    pub policy: PolicyCell,
    actions: Arc<IdentityActions>,
    node: NodeHandle,
    due: Arc<Notify>,
    stop: CancellationToken,
    side: TaskTracker,
}

impl Running {
    /// Starts to work on `database`, whose schema is up to date.
    ///
    /// # Errors
    /// When the database cannot be used, or holds a version of a workflow that cannot be read.
    pub async fn start(
        configuration: Arc<Configuration>,
        database: Database,
        telemetry: &Telemetry,
    ) -> anyhow::Result<Self> {
        Self::start_at(configuration, database, telemetry, None).await
    }

    /// As [`Running::start`]; `address` tells other nodes and people where its API listens.
    ///
    /// # Errors
    /// As [`Running::start`].
    pub async fn start_at(
        configuration: Arc<Configuration>,
        database: Database,
        telemetry: &Telemetry,
        address: Option<String>,
    ) -> anyhow::Result<Self> {
        let definitions = Arc::new(Definitions::new());
        for definition in &configuration.definitions {
            definitions.add(definition.clone());
        }
        keep_older_versions(&database, &definitions).await?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let policies = Policies::new(database.directory.clone(), configuration.schema.clone());
        let node_name = Actor(format!("node:{}", configuration.settings.node.name));
        let in_force = policies
            .propose(&Proposed::of(&configuration), &node_name, now())
            .await
            .context("cannot tell which policy is in force")?;
        let policy = PolicyCell::new(Arc::clone(&in_force));
        let intake = Intake::new(database.directory.clone(), Arc::clone(&definitions))
            .guarded(policy.clone(), configuration.sources.values())
            .with_correlation(configuration.correlation.clone())
            .with_contracts(policy.clone(), Arc::clone(&configuration.notices));
        let identity_actions = IdentityActions::new(
            database.directory.clone(),
            Arc::clone(&configuration.systems),
            in_force,
            Arc::clone(&clock),
        );
        let identity_actions = Arc::new(identity_actions.with_intake(intake.clone()));
        let actions = Arc::new(ObservedActions::new(
            Arc::clone(&identity_actions) as Arc<dyn Actions>,
            telemetry.metrics.clone(),
        ));
        let store: Arc<dyn Store> = Arc::new(ObservedStore::new(
            Arc::clone(&database.store),
            telemetry.metrics.clone(),
            telemetry.spans.clone(),
        ));
        let settings = &configuration.settings.node;
        let config = NodeConfig {
            name: settings.name.clone(),
            lease_ms: u32::try_from(settings.lease.ms()).unwrap_or(u32::MAX),
            address,
            ..NodeConfig::default()
        };
        let written = Arc::new(Notify::new());
        let projection = Arc::new(NoticeProjection::new(
            Arc::clone(&configuration.notices),
            Arc::clone(&written),
        ));
        let node = Node::start(
            config,
            Arc::clone(&store),
            actions,
            projection,
            Arc::clone(&definitions),
            Arc::clone(&clock),
        )
        .await
        .context("cannot start a node")?;
        let housekeeping = Housekeeping::new(
            store,
            clock,
            configuration.settings.retention.spans(),
            node.owner(),
        );
        let running = Self {
            due: intake.due(),
            intake,
            policies,
            policy,
            actions: identity_actions,
            database,
            configuration,
            definitions,
            node,
            stop: CancellationToken::new(),
            side: TaskTracker::new(),
        };
        let sources = running.configuration.sources.keys().map(String::as_str);
        running
            .intake
            .expect_sources(sources, now())
            .await
            .context("cannot note which sources there are")?;
        if super::schedules::declare(&running.database, &running.configuration).await? > 0 {
            running.node.nudge();
        }
        running.start_side_loops();
        running.start_notices(written, &telemetry.metrics)?;
        running.spawn_side(super::rollouts::keep_rolling_out(
            running.rollouts(),
            running.database.clone(),
            running.policy.clone(),
            running.node.owner().to_owned(),
            running.node.nudger(),
        ));
        running.side.spawn(housekeeping.run(running.stop.clone()));
        Ok(running)
    }

    /// Says that something new came in: messages to cases, or events that wait for their time.
    pub fn nudge(&self) {
        self.node.nudge();
        self.due.notify_one();
    }

    /// What the API needs of a node beside its intake.
    #[must_use]
    pub fn handles(&self) -> (Arc<Notify>, Arc<Notify>, watch::Receiver<NodeStatus>) {
        (
            self.node.nudger(),
            Arc::clone(&self.due),
            self.node.watcher(),
        )
    }

    #[must_use]
    pub fn status(&self) -> NodeStatus {
        self.node.status()
    }

    /// Waits until nothing is in flight, queued or unread: false only if the node ended meanwhile.
    pub async fn idle(&self) -> bool {
        self.node.idle().await
    }

    /// Takes nothing new in, lets what has left come back, gives the shards back.
    ///
    /// # Errors
    /// When that takes longer than `limit`; the node is ended all the same.
    pub async fn drain(self, limit: Duration) -> anyhow::Result<()> {
        self.stop.cancel();
        self.side.close();
        let drained = self.node.drain(limit).await;
        // They only read, or say what the next start says again.
        let _ = tokio::time::timeout(SIDE_LIMIT, self.side.wait()).await;
        self.database.close().await;
        Ok(drained?)
    }

    /// What brings people under a policy that came into force.
    #[must_use]
    pub fn rollouts(&self) -> Rollouts {
        Rollouts::new(
            self.database.directory.clone(),
            self.policies.clone(),
            Arc::clone(&self.definitions),
            Arc::clone(&self.configuration.systems),
        )
    }

    /// Takes the policy of the folder into use as soon as it is in force.
    fn following(&self) -> impl Future<Output = ()> + use<> {
        let (database, actions) = (self.database.clone(), Arc::clone(&self.actions));
        let (cell, own) = (self.policy.clone(), Arc::clone(&self.configuration.policy));
        let (intake, node) = (self.intake.clone(), self.node.nudger());
        async move {
            let mut is_considered = false;
            loop {
                if !is_considered {
                    // Also at the start: the process before this one may have ended between the two.
                    match intake.reconsider(now()).await {
                        Ok(cases) => {
                            is_considered = true;
                            if !cases.is_empty() {
                                node.notify_one();
                            }
                        }
                        Err(error) => {
                            tracing::warn!(%error, "cannot look who waits for the policy")
                        }
                    }
                }
                tokio::time::sleep(POLICY_PAUSE).await;
                let used = cell.get();
                if used.is_some_and(|used| used.hash() == own.hash()) {
                    continue;
                }
                match database.directory.policy_in_force().await {
                    Ok(Some(row)) if row.policy_hash == own.hash() => {
                        tracing::info!(
                            policy = own.hash(),
                            "the policy of the folder is in force now"
                        );
                        cell.set(Arc::clone(&own));
                        actions.set_policy(Arc::clone(&own));
                        is_considered = false;
                    }
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%error, "cannot tell which policy is in force"),
                }
            }
        }
    }

    fn start_side_loops(&self) {
        let (stop, intake) = (self.stop.clone(), self.intake.clone());
        let (due, node) = (Arc::clone(&self.due), self.node.nudger());
        self.side.spawn(async move {
            let _ = stop
                .run_until_cancelled(keep_starting_due(&intake, &due, &node))
                .await;
        });
        let (stop, database) = (self.stop.clone(), self.database.clone());
        let node = self.node.nudger();
        self.side.spawn(async move {
            let _ = stop
                .run_until_cancelled(keep_rotating(&database, &node))
                .await;
        });
        for system in self.configuration.systems.iter() {
            let (stop, system, database) =
                (self.stop.clone(), Arc::clone(system), self.database.clone());
            // Not the name for people, which several nodes may share.
            let owner = self.node.owner().to_owned();
            self.side.spawn(async move {
                let _ = stop
                    .run_until_cancelled(keep_telling(&system, &database, &owner))
                    .await;
            });
        }
        for system in self.configuration.systems.iter() {
            let stop = self.stop.clone();
            let looking = super::inventory::keep_looking(
                Arc::clone(system),
                self.database.clone(),
                self.configuration.settings.inventory.clone(),
                self.node.owner().to_owned(),
            );
            self.side.spawn(async move {
                let _ = stop.run_until_cancelled(looking).await;
            });
            let renewing = super::renewals::keep_asking(
                Arc::clone(&self.configuration.systems),
                Arc::clone(system),
                self.database.clone(),
                self.node.owner().to_owned(),
            );
            self.spawn_side(renewing);
        }
        for source in self.configuration.sources.values() {
            if source.pull().is_some() {
                let pull = Pull::new(
                    Arc::clone(source),
                    self.database.clone(),
                    self.intake.clone(),
                );
                match pull {
                    Ok(pull) => {
                        let owner = self.node.owner().to_owned();
                        let (node, due) = (self.node.nudger(), Arc::clone(&self.due));
                        let asking = Box::pin(pull.keep_asking(owner, node, due));
                        let stop = self.stop.clone();
                        self.side.spawn(async move {
                            let _ = stop.run_until_cancelled(asking).await;
                        });
                    }
                    // `tenure serve` has checked it; other commands go on without it.
                    Err(error) => {
                        tracing::warn!(error = format!("{error:#}"), "a source is not asked")
                    }
                }
            }
            if source.query().is_none() {
                continue;
            }
            let stop = self.stop.clone();
            let asking = super::queries::keep_asking(
                Arc::clone(source),
                self.database.clone(),
                self.intake.clone(),
                self.node.owner().to_owned(),
                self.node.nudger(),
                Arc::clone(&self.due),
            );
            self.side.spawn(async move {
                let _ = stop.run_until_cancelled(asking).await;
            });
        }
        let (stop, following) = (self.stop.clone(), self.following());
        self.side.spawn(async move {
            let _ = stop.run_until_cancelled(following).await;
        });
        let (stop, database) = (self.stop.clone(), self.database.clone());
        self.side.spawn(async move {
            let _ = stop.run_until_cancelled(keep_forgetting(&database)).await;
        });
    }
}

impl Running {
    /// The loops that tell people; none when there is no way to.
    fn start_notices(&self, written: Arc<Notify>, metrics: &Metrics) -> anyhow::Result<()> {
        let Some(settings) = self.configuration.notices.settings() else {
            return Ok(());
        };
        let shared = notices::Shared {
            database: self.database.clone(),
            configuration: Arc::clone(&self.configuration),
            policy: self.policy.clone(),
            links: notices::links(&self.configuration)?,
            // Not the name for people, which several nodes may share.
            owner: self.node.owner().to_owned(),
            written,
            metrics: metrics.clone(),
        };
        let routed = Arc::new(Notify::new());
        for carrier in notices::carriers(settings)? {
            let sending = notices::keep_sending(shared.clone(), carrier, Arc::clone(&routed));
            self.spawn_side(sending);
        }
        self.spawn_side(notices::keep_routing(shared.clone(), routed));
        self.spawn_side(notices::keep_watching_sponsors(shared.clone()));
        self.spawn_side(notices::keep_watching_expiries(shared.clone()));
        self.spawn_side(notices::keep_forgetting(shared));
        Ok(())
    }

    /// Runs beside the node until that stops.
    fn spawn_side(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.side.spawn(async move {
            let _ = stop.run_until_cancelled(work).await;
        });
    }
}

/// Cases keep the version they started with, so the node has to know every version that an open case runs.
async fn keep_older_versions(database: &Database, definitions: &Definitions) -> anyhow::Result<()> {
    let filter = CaseFilter {
        open_only: true,
        ..CaseFilter::default()
    };
    let mut after = None;
    loop {
        let page = database.store.list(&filter, after, PAGE_ROWS_MAX).await?;
        for summary in &page {
            keep_version(
                database,
                definitions,
                &summary.head.workflow,
                &summary.head.definition,
            )
            .await?;
        }
        match page.last() {
            Some(last) => {
                after = Some(CaseCursor {
                    created_at: last.head.created_at,
                    case: last.head.case,
                })
            }
            None => return Ok(()),
        }
    }
}

async fn keep_version(
    database: &Database,
    definitions: &Definitions,
    workflow: &str,
    hash: &DefinitionHash,
) -> anyhow::Result<()> {
    if definitions.by_hash(hash).is_some() {
        return Ok(());
    }
    let text = database.store.definition(hash).await?;
    let text = text.with_context(|| {
        format!(
            "version `{}` of workflow `{workflow}` is not stored",
            hash.short()
        )
    })?;
    let definition =
        Definition::parse(workflow, &text, FACT_ROOTS, &|_| true).with_context(|| {
            format!(
                "version `{}` of workflow `{workflow}` cannot be read",
                hash.short()
            )
        })?;
    definitions.keep(definition);
    Ok(())
}

async fn keep_starting_due(intake: &Intake, changed: &Notify, node: &Notify) {
    loop {
        let pause = match intake.start_due(now()).await {
            Ok(due) => {
                if !due.cases.is_empty() {
                    node.notify_one();
                }
                let until = due.next.and_then(|next| (next - now()).to_std().ok());
                until
                    .unwrap_or(if due.next.is_some() {
                        Duration::ZERO
                    } else {
                        DUE_PAUSE_MAX
                    })
                    .min(DUE_PAUSE_MAX)
            }
            Err(error) => {
                tracing::warn!(%error, "cannot look for events that are due");
                FAILED_PAUSE
            }
        };
        let _ = tokio::time::timeout(pause, changed.notified()).await;
    }
}

/// Plans and begins the rotations of credentials that are due.
async fn keep_rotating(database: &Database, node: &Notify) {
    loop {
        let pause = match database.directory.start_rotations(now()).await {
            Ok(begun) => {
                if !begun.cases.is_empty() {
                    node.notify_one();
                }
                let until = begun.next.map(|next| (next - now()).to_std());
                // What is due already and was not begun is left to the next look.
                until
                    .and_then(Result::ok)
                    .unwrap_or(DUE_PAUSE_MAX)
                    .min(DUE_PAUSE_MAX)
            }
            Err(error) => {
                tracing::warn!(%error, "cannot look for credentials that have to be replaced");
                FAILED_PAUSE
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Takes back what nodes said about systems and their policy that do not live any more. Every node does it; twice is harmless.
async fn keep_forgetting(database: &Database) {
    loop {
        let forgotten = async {
            let nodes = database.store.nodes().await?;
            let alive: Vec<String> = nodes
                .into_iter()
                .filter(|node| !node.is_silent() && !owner_is_dead(&node.owner))
                .map(|node| node.owner)
                .collect();
            // One that has just started may have told about systems before it told about itself.
            let before = now() - FORGET_PAUSE;
            let directory = &database.directory;
            directory.forget_policies_loaded(&alive, before).await?;
            directory.forget_system_states(&alive, before).await
        };
        if let Err(error) = forgotten.await {
            tracing::warn!(%error, "cannot clear what ended nodes said");
        }
        tokio::time::sleep(FORGET_PAUSE).await;
    }
}

/// Writes every change of a system's availability into the directory, and looks after the system while it is held.
async fn keep_telling(system: &System, database: &Database, node: &str) {
    let connector = system.connector();
    let mut availability = connector.watch();
    loop {
        let current = availability.borrow_and_update().clone();
        let row = state_row(system.name(), node, &current);
        if let Err(error) = database.directory.put_system_state(row).await {
            tracing::warn!(system = system.name(), %error, "cannot store whether the system takes calls");
        }
        let wake = match &current {
            Availability::Ready => None,
            Availability::HeldUntil { until, .. } => {
                Some(Instant::now() + (*until - now()).to_std().unwrap_or_default() + PROBE_SLACK)
            }
        };
        tokio::select! {
            changed = availability.changed() => if changed.is_err() { return },
            () = at(wake) => { connector.probe().await; }
        }
    }
}

/// A look just after the moment named, not just before it.
const PROBE_SLACK: Duration = Duration::from_millis(20);

async fn at(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}

fn state_row(system: &str, node: &str, availability: &Availability) -> SystemStateRow {
    let (state, since, until, reason) = match availability {
        Availability::Ready => (SystemState::Ready, None, None, None),
        Availability::HeldUntil {
            until,
            since,
            reason,
        } => (
            SystemState::Held,
            Some(*since),
            Some(*until),
            Some(reason.clone()),
        ),
    };
    SystemStateRow {
        shard_id: 0,
        system: system.to_owned(),
        node: node.to_owned(),
        state,
        since,
        until,
        reason,
        changed_at: now(),
    }
}
