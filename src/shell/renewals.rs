//! What has to be looked at now and then of authorities: when they wish what they issued to be replaced, and whether their list of
//! the revoked is still fresh.
//!
//! Every node has this loop for each system that issues certificates or has opinions, and the one that owns the shard of its name asks.
//! Two that both believe they do (a lease just changed hands) hear the same and write the same.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use workflows::renewals::{ask, has_opinions, is_authority};
use workflows::systems::{System, Systems};

use super::queries::is_mine;
use super::{Database, now};

/// The pause between two looks for something to ask after: what was just issued is asked after soon.
const PAUSE: Duration = Duration::from_secs(60);
/// How often an authority is looked at as a whole: an internal one makes its list of the revoked again then, if half of its life
/// is over.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(600);

/// Asks one authority, for ever; drop the future to stop. `owner` is the name under which this node owns shards.
pub async fn keep_asking(
    systems: Arc<Systems>,
    system: Arc<System>,
    database: Database,
    owner: String,
) {
    let (is_authority, has_opinions) = (is_authority(&system), has_opinions(&system));
    if !is_authority && !has_opinions {
        return;
    }
    let mut looked_at: Option<Instant> = None;
    loop {
        tokio::time::sleep(PAUSE).await;
        match is_mine(&database, system.name(), &owner).await {
            Ok(false) => continue,
            Ok(true) => {}
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot tell whose system this is"
                );
                continue;
            }
        }
        if is_authority && looked_at.is_none_or(|at| at.elapsed() >= LOOKED_AT_EVERY) {
            looked_at = Some(Instant::now());
            look(&system).await;
        }
        if !has_opinions {
            continue;
        }
        match ask(&database.directory, &systems, &system, now()).await {
            Ok(asked) => {
                if let Some(why) = asked.failed {
                    tracing::warn!(
                        system = system.name(),
                        why,
                        "an authority does not say when it wishes what it issued to be replaced"
                    );
                }
            }
            Err(error) => tracing::warn!(
                system = system.name(),
                error = &error as &dyn std::error::Error,
                "what an authority wishes cannot be kept"
            ),
        }
    }
}

/// Looks whether it is well; what is not is told.
async fn look(system: &System) {
    use connectors::connector::Connector as _;
    match system.connector().check().await {
        Ok(health) => {
            for finding in health.findings.iter().filter(|finding| !finding.good) {
                tracing::warn!(
                    system = system.name(),
                    what = finding.what,
                    detail = finding.detail,
                    fix = finding.fix,
                    "an authority is not well"
                );
            }
        }
        Err(error) => tracing::warn!(
            system = system.name(),
            error = error.whole(),
            "an authority cannot be looked at"
        ),
    }
}
