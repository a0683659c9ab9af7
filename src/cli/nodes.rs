//! `tenure nodes`: which processes work on the database, and on what.

use chrono::TimeDelta;
use clap::Args;

use super::format::{Listing, Tone, counted, plain, shortened, time};
use super::{Context, Exit};
use crate::shell::node_view::{NodeState, NodeView, NodesView, nodes_view};
use crate::shell::now;

/// How much of a long list of ranges is shown.
const RANGES_CHARS_MAX: usize = 40;

/// List the nodes and the shards each works on
#[derive(Debug, Args)]
#[command(after_long_help = "\
Every subject belongs to one shard, and every shard to one node, by a lease that the node renews. Nodes share the shards
evenly: a new one gets its part from the others, and those of one that died are taken over when its lease has run out.

LEASE is what is left of the lease that ends first, by the database's clock. TAKEN is how often the most contested of the
node's shards was taken since the database was made: a number that grows by itself means nodes that come and go, or a
database that answers too slowly.

Examples:
  tenure nodes
  tenure nodes --json | jq '.items[] | select(.state != \"alive\")'")]
pub struct Nodes {}

/// Lists the nodes.
///
/// # Errors
/// When the database does not answer.
pub async fn run(context: &Context, _: Nodes) -> anyhow::Result<Exit> {
    let database = context.database().await?;
    let view = nodes_view(&*database.store).await?;
    context.output.result(&view, describe)?;
    database.close().await;
    Ok(Exit::Good)
}

fn describe(view: &NodesView) -> String {
    if view.items.is_empty() {
        return "no node works on this database; `tenure serve` starts one".to_owned();
    }
    let mut listing = Listing::new(&[
        "NODE", "STATE", "SHARDS", "WHICH", "LEASE", "TAKEN", "STARTED", "HEARD", "API", "VERSION",
    ])
    .right(&[2, 5])
    .narrow(&[1, 2, 4, 5, 6, 7]);
    for node in &view.items {
        listing.row(row(node));
    }
    let unowned = u64::try_from(view.unowned).unwrap_or(0);
    let all = u64::try_from(view.shards).unwrap_or(0);
    let mut text = format!("{listing}\n\n{}", counted(all, "shard", "shards"));
    if unowned > 0 {
        text.push_str(&format!(
            ", {} that nobody works on now",
            super::format::paint(unowned, Tone::Warn)
        ));
    }
    text
}

fn row(node: &NodeView) -> [(String, Tone); 10] {
    let length = |ms: Option<i64>| {
        let ms = ms.and_then(TimeDelta::try_milliseconds);
        ms.map_or_else(String::new, time::length)
    };
    let tone = match node.state {
        NodeState::Alive => Tone::Good,
        NodeState::Draining => Tone::Busy,
        NodeState::Dead => Tone::Bad,
        NodeState::Unknown => Tone::Warn,
    };
    let lease = match node.lease_left_ms {
        Some(left) if left <= 0 => ("over".to_owned(), Tone::Bad),
        left => (length(left), Tone::Plain),
    };
    let heard = match node.silent_ms {
        Some(_) => format!("{} ago", length(node.silent_ms)),
        None => String::new(),
    };
    let started = node
        .started_at
        .map_or_else(String::new, |at| time::relative(at, now()));
    [
        (plain(&node.name), Tone::Strong),
        (node.state.as_str().to_owned(), tone),
        (node.shards.to_string(), Tone::Plain),
        (shortened(&node.ranges, RANGES_CHARS_MAX), Tone::Dim),
        lease,
        (
            node.epoch_max.map_or_else(String::new, |it| it.to_string()),
            Tone::Plain,
        ),
        (started, Tone::Dim),
        (heard, Tone::Dim),
        (plain(node.address.as_deref().unwrap_or("")), Tone::Plain),
        (plain(node.version.as_deref().unwrap_or("")), Tone::Dim),
    ]
}
