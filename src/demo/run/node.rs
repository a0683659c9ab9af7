//! A running Tenure from a configuration folder: database, node, intake.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use engine::core::id::Actor;
use workflows::config::Configuration;
use workflows::intake::ImportReport;
use workflows::sources::{Manifest, SnapshotInput, manifest_name};

use crate::shell::{Database, Running, now};
use crate::telemetry::Telemetry;

/// Who feeds files in and approves here.
const OPERATOR: &str = "person:operator";

/// Everything that works while the demo runs: the same node as that of `tenure serve`.
pub struct Tenure {
    pub node: Running,
}

impl Tenure {
    /// Loads the folder, prepares its database and starts a node on it.
    ///
    /// # Errors
    /// What is wrong with the folder, or why the database cannot be used.
    pub async fn start(root: &Path) -> anyhow::Result<Self> {
        let configuration = Configuration::load(root)?;
        let address = configuration
            .settings
            .store
            .address(root)
            .map_err(|problem| anyhow::anyhow!("{problem}"))?;
        let database = Database::prepare(&address, configuration.settings.store.shards).await?;
        let node = Running::start(Arc::new(configuration), database, &Telemetry::default()).await?;
        Ok(Self { node })
    }

    pub fn database(&self) -> &Database {
        &self.node.database
    }

    /// Takes a file in, with the manifest beside it.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn import(&self, file: &Path) -> anyhow::Result<ImportReport> {
        let source = self
            .node
            .configuration
            .sources
            .get("hr")
            .context("the folder has no source `hr`")?;
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let beside = manifest_name(&name);
        let manifest = std::fs::read(file.with_file_name(&beside))
            .with_context(|| format!("cannot read `{beside}`"))?;
        let manifest =
            Manifest::parse(&beside, &manifest).map_err(|problem| anyhow::anyhow!("{problem}"))?;
        let reader = File::open(file).with_context(|| format!("cannot read `{name}`"))?;
        let input = SnapshotInput {
            file: &name,
            manifest: Some(&manifest),
            ..SnapshotInput::default()
        };
        let report = self
            .node
            .intake
            .import(source, reader, &input, &Actor(OPERATOR.to_owned()), now())
            .await?;
        self.node.nudge();
        Ok(report)
    }

    /// Approves exactly one difference that the guard stopped.
    ///
    /// # Errors
    /// When it does not wait any more.
    pub async fn approve(&self, difference: &str) -> anyhow::Result<ImportReport> {
        let report = self
            .node
            .intake
            .approve(difference, &Actor(OPERATOR.to_owned()), now())
            .await?;
        self.node.nudge();
        Ok(report)
    }

    /// Stops the node and closes the database.
    ///
    /// # Errors
    /// When what is in flight does not come back in time.
    pub async fn stop(self) -> anyhow::Result<()> {
        let drain_ms = self.node.configuration.settings.node.drain.ms();
        self.node
            .drain(Duration::from_millis(u64::try_from(drain_ms).unwrap_or(0)))
            .await
    }
}
