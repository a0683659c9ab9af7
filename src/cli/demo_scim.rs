//! `tenure demo-scim`: the demo's SCIM application by itself, to try connectors and testers on.

use std::path::PathBuf;

use anyhow::Context as _;
use secrecy::ExposeSecret as _;

use super::{Context, Exit};
use crate::demo::scim_server::ScimServer;

/// Run the demo's SCIM application until interrupted
#[derive(Debug, clap::Args)]
#[command(
    hide = true,
    after_long_help = "\
Examples:
  TOKEN=secret tenure demo-scim --port 8099 --token env:TOKEN --file scim.db"
)]
pub struct DemoScim {
    /// The port on 127.0.0.1; 0 takes any free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Where the token is kept: `env:NAME` or `file:/path`
    #[arg(long, value_name = "REFERENCE")]
    token: String,
    /// Where users and groups are kept
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
}

/// Runs the application.
///
/// # Errors
/// When the port, the file or the token cannot be had.
pub async fn run(context: &Context, command: DemoScim) -> anyhow::Result<Exit> {
    let token = connectors::secret::SecretRef::try_from(command.token)?.resolve()?;
    let server = ScimServer::start(&command.file, command.port, token.expose_secret()).await?;
    context.output.raw(&server.base_url())?;
    tokio::signal::ctrl_c()
        .await
        .context("cannot listen for signals")?;
    server.stop().await;
    Ok(Exit::Good)
}
