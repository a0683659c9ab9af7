//! The rules, each a question to the catalogue that answers with what breaks it.

use std::collections::BTreeSet;

use super::statements::{self, Column};
use super::{Migrated, REFERENCE, is_reference};

/// Everything that breaks a rule, one line each.
async fn findings(database: &mut Migrated) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    keys(database, &mut found).await;
    forbidden(database, &mut found).await;
    foreign_keys(database, &mut found).await;
    hot_indexes(database, &mut found).await;
    found
}

/// Keys of hot tables, partitions among them, begin with the shard, and every hot table has one.
async fn keys(database: &mut Migrated, found: &mut BTreeSet<String>) {
    let without = database
        .rows::<1>(
            "SELECT relname::text FROM pg_class AS t
              WHERE relnamespace = to_regnamespace($1) AND relkind IN ('r', 'p')
                AND NOT EXISTS (SELECT 1 FROM pg_attribute AS a
                                 WHERE a.attrelid = t.oid AND a.attname = 'shard_id'
                                   AND a.attnotnull AND a.atttypid = 'integer'::regtype)",
        )
        .await;
    for [table] in without {
        if !is_reference(&table) {
            found.insert(format!("{table}: no column `shard_id integer NOT NULL`"));
        }
    }
    let unique = database
        .rows::<3>(
            "SELECT t.relname::text, i.relname::text, coalesce(a.attname::text, '(expression)')
               FROM pg_index AS x
               JOIN pg_class AS t ON t.oid = x.indrelid
               JOIN pg_class AS i ON i.oid = x.indexrelid
               LEFT JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum = x.indkey[0]
              WHERE t.relnamespace = to_regnamespace($1) AND x.indisunique",
        )
        .await;
    for [table, index, first] in unique {
        if !is_reference(&table) && first != "shard_id" {
            found.insert(format!("{table}: key `{index}` begins with `{first}`"));
        }
    }
    let keyless = database
        .rows::<1>(
            "SELECT relname::text FROM pg_class AS t
              WHERE relnamespace = to_regnamespace($1) AND relkind = 'r'
                AND NOT EXISTS (SELECT 1 FROM pg_index AS x WHERE x.indrelid = t.oid AND x.indisprimary)",
        )
        .await;
    for [table] in keyless {
        found.insert(format!("{table}: no primary key"));
    }
}

/// What a distributed database has not, or has only on one machine.
async fn forbidden(database: &mut Migrated, found: &mut BTreeSet<String>) {
    let things = database
        .rows::<2>(
            "SELECT 'sequence', relname::text FROM pg_class
              WHERE relnamespace = to_regnamespace($1) AND relkind = 'S'
              UNION ALL
             SELECT 'identity column', c.relname::text || '.' || a.attname::text
               FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
              WHERE c.relnamespace = to_regnamespace($1) AND a.attidentity <> ''
              UNION ALL
             SELECT 'default of a column', c.relname::text || ': ' || pg_get_expr(d.adbin, d.adrelid)
               FROM pg_attrdef AS d JOIN pg_class AS c ON c.oid = d.adrelid
              WHERE c.relnamespace = to_regnamespace($1) AND pg_get_expr(d.adbin, d.adrelid) LIKE '%nextval%'
              UNION ALL
             SELECT 'trigger', c.relname::text || '.' || g.tgname::text
               FROM pg_trigger AS g JOIN pg_class AS c ON c.oid = g.tgrelid
              WHERE c.relnamespace = to_regnamespace($1) AND NOT g.tgisinternal
              UNION ALL
             SELECT 'rule', c.relname::text || '.' || r.rulename::text
               FROM pg_rewrite AS r JOIN pg_class AS c ON c.oid = r.ev_class
              WHERE c.relnamespace = to_regnamespace($1)
              UNION ALL
             SELECT 'function', proname::text FROM pg_proc WHERE pronamespace = to_regnamespace($1)",
        )
        .await;
    for [kind, name] in things {
        found.insert(format!("{kind} `{name}`"));
    }
}

/// A foreign key stays in its shard, or points at a table that is everywhere.
async fn foreign_keys(database: &mut Migrated, found: &mut BTreeSet<String>) {
    let keys = database
        .rows::<5>(
            "SELECT c.conname::text, t.relname::text, r.relname::text, first.attname::text, target.attname::text
               FROM pg_constraint AS c
               JOIN pg_class AS t ON t.oid = c.conrelid
               JOIN pg_class AS r ON r.oid = c.confrelid
               JOIN pg_attribute AS first ON first.attrelid = t.oid AND first.attnum = c.conkey[1]
               JOIN pg_attribute AS target ON target.attrelid = r.oid AND target.attnum = c.confkey[1]
              WHERE t.relnamespace = to_regnamespace($1) AND c.contype = 'f'",
        )
        .await;
    for [name, from, to, first, target] in keys {
        let in_one_shard = first == "shard_id" && target == "shard_id";
        if !(is_reference(&to) || in_one_shard) {
            found.insert(format!(
                "{from}: foreign key `{name}` to `{to}` leaves the shard"
            ));
        }
    }
}

/// An update that touches no indexed column stays on its page and touches no index.
async fn hot_indexes(database: &mut Migrated, found: &mut BTreeSet<String>) {
    let changed = statements::changed_by_steps();
    let indexed = database
        .rows::<3>(
            "SELECT DISTINCT t.relname::text, i.relname::text, a.attname::text
               FROM pg_index AS x
               JOIN pg_class AS t ON t.oid = x.indrelid
               JOIN pg_class AS i ON i.oid = x.indexrelid
               JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = x.indexrelid
                                  AND d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid
               JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
              WHERE t.relnamespace = to_regnamespace($1)
              UNION
             SELECT t.relname::text, i.relname::text, a.attname::text
               FROM pg_index AS x
               JOIN pg_class AS t ON t.oid = x.indrelid
               JOIN pg_class AS i ON i.oid = x.indexrelid
               JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum = ANY(x.indkey)
              WHERE t.relnamespace = to_regnamespace($1)",
        )
        .await;
    for [table, index, column] in indexed {
        let hot = Column {
            table: table.clone(),
            name: column.clone(),
        };
        if changed.contains(&hot) {
            found.insert(format!(
                "{table}: index `{index}` holds `{column}`, which steps change"
            ));
        }
    }
}

#[tokio::test]
async fn the_schema_can_be_distributed() {
    let mut database = Migrated::new().await;
    let found = findings(&mut database).await;
    let tables = database.tables().await;
    database.drop().await;
    assert!(tables.len() > 20, "{tables:?}");
    for (table, why) in REFERENCE {
        assert!(tables.contains(table), "`{table}` is not there any more");
        assert!(!why.is_empty());
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[tokio::test]
async fn what_breaks_a_rule_is_found() {
    let mut database = Migrated::new().await;
    assert_eq!(findings(&mut database).await, BTreeSet::new());
    database
        .execute(
            "CREATE TABLE ledger (id bigserial PRIMARY KEY, note text UNIQUE);
             CREATE TABLE badge (shard_id integer NOT NULL, id integer GENERATED ALWAYS AS IDENTITY,
                                 case_id uuid NOT NULL, PRIMARY KEY (shard_id, id));
             CREATE UNIQUE INDEX badge_case ON badge (case_id);
             CREATE TABLE heap (shard_id integer NOT NULL);
             ALTER TABLE badge ADD UNIQUE (shard_id, case_id);
             CREATE TABLE visit (shard_id integer NOT NULL, at integer NOT NULL, badge integer,
                                 definition text REFERENCES workflow_definition (hash),
                                 ledger bigint REFERENCES ledger (id),
                                 PRIMARY KEY (shard_id, at),
                                 FOREIGN KEY (shard_id, badge) REFERENCES badge (shard_id, id));
             CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
             CREATE TRIGGER touched BEFORE UPDATE ON badge FOR EACH ROW EXECUTE FUNCTION touch();
             CREATE RULE quiet AS ON DELETE TO heap DO INSTEAD NOTHING;
             CREATE INDEX case_state_open ON case_state (shard_id) WHERE closed_at IS NULL;
             CREATE INDEX case_state_lower ON case_state (shard_id, lower(state));
             CREATE INDEX case_step_late ON case_step (changed_at)",
        )
        .await;
    let found = findings(&mut database).await;
    database.drop().await;
    let expected = [
        "badge: key `badge_case` begins with `case_id`",
        "case_state: index `case_state_lower` holds `state`, which steps change",
        "case_state: index `case_state_open` holds `closed_at`, which steps change",
        "case_step: index `case_step_late` holds `changed_at`, which steps change",
        "default of a column `ledger: nextval('ledger_id_seq'::regclass)`",
        "function `touch`",
        "heap: no primary key",
        "identity column `badge.id`",
        "ledger: key `ledger_note_key` begins with `note`",
        "ledger: key `ledger_pkey` begins with `id`",
        "ledger: no column `shard_id integer NOT NULL`",
        "rule `heap.quiet`",
        "sequence `badge_id_seq`",
        "sequence `ledger_id_seq`",
        "trigger `badge.touched`",
        "visit: foreign key `visit_ledger_fkey` to `ledger` leaves the shard",
    ];
    assert_eq!(found, expected.map(str::to_owned).into());
}
