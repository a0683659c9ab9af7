//! How many shards each node should have. Pure arithmetic over what the database says about nodes.

use crate::store::NodeRow;

/// How many of `shards` a node should have: its place among the nodes that take part, the longest running first.
/// The shares of all of them add up to all shards, so a node above its share always has somebody to give to. A
/// node that comes last takes from the others and moves nothing between them.
pub(super) fn share(
    shards: u32,
    node: &str,
    nodes: &[NodeRow],
    is_dead: &dyn Fn(&str) -> bool,
) -> u32 {
    let takes_part = |row: &&NodeRow| {
        row.owner == node || !row.draining && !row.is_silent() && !is_dead(&row.owner)
    };
    let living: Vec<&NodeRow> = nodes.iter().filter(takes_part).collect();
    let count = u32::try_from(living.len()).unwrap_or(u32::MAX).max(1);
    let place = living.iter().position(|row| row.owner == node).unwrap_or(0);
    let place = u32::try_from(place).unwrap_or(u32::MAX);
    shards / count + u32::from(place < shards % count)
}

#[cfg(test)]
mod tests {
    use super::share as share_of;
    use super::*;
    use crate::core::Timestamp;

    fn share(shards: u32, node: &str, nodes: &[NodeRow]) -> u32 {
        share_of(shards, node, nodes, &|owner| owner == "dead")
    }

    fn node(owner: &str, silent_ms: i64, draining: bool) -> NodeRow {
        NodeRow {
            owner: owner.to_owned(),
            name: owner.to_owned(),
            version: String::new(),
            address: None,
            lease_ms: 10_000,
            draining,
            started_at: Timestamp::UNIX_EPOCH,
            heartbeat_at: Timestamp::UNIX_EPOCH,
            silent_ms,
        }
    }

    #[test]
    fn shares_add_up_and_differ_by_one_at_most() {
        for shards in [1, 2, 16, 255, 256] {
            for count in 1..20 {
                let nodes: Vec<NodeRow> = (0..count)
                    .map(|number| node(&number.to_string(), 0, false))
                    .collect();
                let shares: Vec<u32> = nodes
                    .iter()
                    .map(|row| share(shards, &row.owner, &nodes))
                    .collect();
                assert_eq!(shares.iter().sum::<u32>(), shards, "{shards} on {count}");
                let (most, least) = (shares.iter().max(), shares.iter().min());
                assert!(
                    most.zip(least)
                        .is_some_and(|(most, least)| most - least <= 1)
                );
            }
        }
    }

    #[test]
    fn the_silent_and_the_leaving_get_nothing() {
        let nodes = [
            node("a", 0, false),
            node("b", 10_000, false),
            node("c", 0, true),
            node("d", 9_999, false),
            node("dead", 0, false),
        ];
        assert_eq!(share(256, "a", &nodes), 128);
        assert_eq!(share(256, "d", &nodes), 128);
        // A node always counts itself: its own row may be older than it thinks.
        assert_eq!(share(256, "b", &nodes), 85);
        assert_eq!(share(256, "unknown", &[]), 256);
    }

    #[test]
    fn a_newcomer_moves_nothing_between_the_others() {
        let three = ["a", "b", "c"].map(|owner| node(owner, 0, false));
        let four = ["a", "b", "c", "d"].map(|owner| node(owner, 0, false));
        for row in &three {
            assert!(share(256, &row.owner, &four) < share(256, &row.owner, &three));
        }
    }
}
