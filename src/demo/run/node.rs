//! A running Tenure from a configuration folder: database, node, intake.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use engine::core::id::Actor;
use engine::runner::{Definitions, Node, NodeConfig, NodeHandle, SystemClock};
use workflows::actions::IdentityActions;
use workflows::config::Configuration;
use workflows::directory::DirectoryProjection;
use workflows::intake::{ImportReport, Intake};
use workflows::sources::{Manifest, SnapshotInput, manifest_name};

use crate::shell::{Database, now};

/// Who feeds files in and approves here.
const OPERATOR: &str = "person:operator";

/// Everything that works while the demo runs.
pub struct Tenure {
    pub database: Database,
    pub node: NodeHandle,
    pub intake: Intake,
    configuration: Configuration,
}

impl Tenure {
    /// Loads the folder, prepares its database and starts a node on it.
    ///
    /// # Errors
    /// What is wrong with the folder, or why the database cannot be used.
    pub async fn start(root: &Path) -> anyhow::Result<Self> {
        let configuration = Configuration::load(root)?;
        let address = configuration.settings.store.address(root).map_err(|problem| anyhow::anyhow!("{problem}"))?;
        let database = Database::prepare(&address).await?;
        let (node, intake) = start_node(&configuration, &database).await?;
        Ok(Self { database, node, intake, configuration })
    }

    /// Takes a file in, with the manifest beside it.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn import(&self, file: &Path) -> anyhow::Result<ImportReport> {
        let source = self.configuration.sources.get("hr").context("the folder has no source `hr`")?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let beside = manifest_name(&name);
        let manifest = std::fs::read(file.with_file_name(&beside)).with_context(|| format!("cannot read `{beside}`"))?;
        let manifest = Manifest::parse(&beside, &manifest).map_err(|problem| anyhow::anyhow!("{problem}"))?;
        let reader = File::open(file).with_context(|| format!("cannot read `{name}`"))?;
        let input = SnapshotInput { file: &name, manifest: Some(&manifest), ..SnapshotInput::default() };
        let report = self.intake.import(source, reader, &input, &Actor(OPERATOR.to_owned()), now()).await?;
        self.node.nudge();
        Ok(report)
    }

    /// Approves exactly one difference that the guard stopped.
    ///
    /// # Errors
    /// When it does not wait any more.
    pub async fn approve(&self, difference: &str) -> anyhow::Result<ImportReport> {
        let report = self.intake.approve(difference, &Actor(OPERATOR.to_owned()), now()).await?;
        self.node.nudge();
        Ok(report)
    }

    /// Stops the node and closes the database.
    ///
    /// # Errors
    /// When what is in flight does not come back in time.
    pub async fn stop(self) -> anyhow::Result<()> {
        let limit = Duration::from_millis(u64::try_from(self.configuration.settings.node.drain.ms()).unwrap_or(0));
        self.node.drain(limit).await?;
        self.database.close().await;
        Ok(())
    }
}

/// Starts the node of a configuration on its database, and the intake that feeds it.
async fn start_node(configuration: &Configuration, database: &Database) -> anyhow::Result<(NodeHandle, Intake)> {
    let definitions = Arc::new(Definitions::new());
    for definition in &configuration.definitions {
        definitions.add(definition.clone());
    }
    let clock = Arc::new(SystemClock);
    let actions = IdentityActions::new(
        database.directory.clone(),
        Arc::clone(&configuration.systems),
        Arc::clone(&configuration.policy),
        clock.clone(),
    );
    let node = &configuration.settings.node;
    let node_config = NodeConfig { name: node.name.clone(), lease_ms: u32::try_from(node.lease.ms()).unwrap_or(u32::MAX) };
    let handle = Node::start(
        node_config,
        Arc::clone(&database.store),
        Arc::new(actions),
        Arc::new(DirectoryProjection),
        Arc::clone(&definitions),
        clock,
    )
    .await?;
    Ok((handle, Intake::new(database.directory.clone(), definitions)))
}
