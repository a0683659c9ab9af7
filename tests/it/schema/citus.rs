//! The optional step that spreads the tables names each of them once.

use std::collections::BTreeMap;

use super::{Migrated, REFERENCE};

const DISTRIBUTE: &str = include_str!("../../../migrations/citus/distribute.sql");

/// The first of the tables that lie together; the others are told to lie with it.
const ANCHOR: &str = "shard";

/// Table and call without its table, for each call of `function`.
fn calls(function: &str) -> Vec<(String, String)> {
    DISTRIBUTE
        .lines()
        .filter_map(|line| line.strip_prefix(&format!("SELECT {function}('")))
        .map(|rest| {
            let (table, rest) = rest.split_once('\'').unwrap();
            (table.to_owned(), rest.to_owned())
        })
        .collect()
}

#[tokio::test]
async fn every_table_is_distributed_once() {
    let mut database = Migrated::new().await;
    let tables = database.tables().await;
    database.drop().await;
    let reference = calls("create_reference_table");
    let distributed = calls("create_distributed_table");
    assert_eq!(
        reference.len() + distributed.len(),
        DISTRIBUTE.matches("SELECT create_").count()
    );
    let mut named: BTreeMap<&str, u32> = BTreeMap::new();
    for (table, _) in reference.iter().chain(&distributed) {
        *named.entry(table).or_default() += 1;
    }
    let expected: BTreeMap<&str, u32> = tables.iter().map(|table| (table.as_str(), 1)).collect();
    assert_eq!(
        named, expected,
        "`migrations/citus/distribute.sql` must name each table once"
    );
    let reference: Vec<&str> = reference.iter().map(|(table, _)| table.as_str()).collect();
    assert_eq!(reference, REFERENCE.map(|(table, _)| table));
}

#[test]
fn the_rows_of_one_shard_lie_together() {
    let distributed = calls("create_distributed_table");
    for (index, (table, rest)) in distributed.iter().enumerate() {
        let with = if index == 0 { "none" } else { ANCHOR };
        assert_eq!(
            *rest,
            format!(", 'shard_id', colocate_with => '{with}');"),
            "{table}"
        );
    }
    assert_eq!(distributed[0].0, ANCHOR);
}
