//! Looking at systems, again and again, for what answers to nobody.
//!
//! Every node has this loop for each system that lists its accounts, and the one that owns the shard of the system's name
//! looks. Two that both believe they do (a lease just changed hands) see the same and write the same.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use connectors::connector::Kind;
use workflows::config::InventorySettings;
use workflows::systems::System;
use workflows::takeover::look;

use super::queries::is_mine;
use super::{Database, now};

/// How long a node runs before it looks first: what it was started for comes before.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// The longest pause after a look that failed.
const FAILED_PAUSE_MAX: Duration = Duration::from_secs(15 * 60);

/// Looks at one system, for ever; drop the future to stop. `owner` is the name under which this node owns shards.
pub async fn keep_looking(
    system: Arc<System>,
    database: Database,
    settings: InventorySettings,
    owner: String,
) {
    // Who is asked by hand has no list.
    let can = system.capabilities();
    if can.by_hand || !can.lists.contains(&Kind::Account) {
        return;
    }
    let every = settings.every.std();
    let mut pause = FIRST_PAUSE.min(every);
    loop {
        tokio::time::sleep(pause).await;
        pause = match is_mine(&database, system.name(), &owner).await {
            Ok(false) => every,
            Ok(true) => {
                let within = settings.answer_within.delta();
                match tokio::time::timeout(every, looked(&system, &database, within)).await {
                    Ok(true) => every,
                    Ok(false) | Err(_) => every.min(FAILED_PAUSE_MAX),
                }
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot tell whose system this is"
                );
                every.min(FAILED_PAUSE_MAX)
            }
        };
    }
}

/// Looks once; whether that went well.
async fn looked(system: &System, database: &Database, within: TimeDelta) -> bool {
    let at = now();
    match look(&database.directory, system, within, at).await {
        Ok(looked) => {
            let overdue = looked
                .open
                .iter()
                .filter(|found| found.due_at <= at)
                .count();
            let (open, gaps) = (looked.open.len(), looked.gaps.len());
            let name = system.name();
            if overdue > 0 {
                tracing::warn!(
                    system = name,
                    open,
                    overdue,
                    "nobody answers in time for what was found; see `tenure nhi found`"
                );
            } else {
                tracing::info!(
                    system = name,
                    accounts = looked.accounts,
                    open,
                    gaps,
                    "a system was looked at"
                );
            }
            true
        }
        Err(error) => {
            tracing::warn!(
                system = system.name(),
                error = &error as &dyn std::error::Error,
                "a system could not be looked at"
            );
            false
        }
    }
}
