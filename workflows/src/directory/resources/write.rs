//! Writing resources, inside a transaction.

use std::collections::BTreeMap;

use engine::store::{StoreError, Transaction};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ResourceRow;
use crate::directory::database::{ROWS_PER_STATEMENT_MAX, Sql, execute, execute_all, rows_in};
use crate::scim::Kind;

/// Locks resources that are to be changed; says whether all of them have the versions they are thought to have.
pub(crate) async fn lock(
    transaction: &mut Transaction<'_>,
    rows: &[ResourceRow],
) -> Result<bool, StoreError> {
    #[derive(Deserialize)]
    struct Locked {
        kind: String,
        resource_id: String,
        version: i64,
    }
    let mut wanted: Vec<&ResourceRow> = rows.iter().collect();
    // Pieces in the same order as the rows in a piece, so that two transactions cannot wait for each other.
    wanted.sort_by(|a, b| (&a.kind, &a.resource_id).cmp(&(&b.kind, &b.resource_id)));
    for part in wanted.chunks(ROWS_PER_STATEMENT_MAX) {
        let parameter: Vec<Value> = part
            .iter()
            .map(|row| {
                json!({
                    "shard_id": row.shard_id, "source": row.source, "kind": row.kind, "resource_id": row.resource_id,
                })
            })
            .collect();
        let found: Vec<Locked> = rows_in(transaction, &LOCK, &parameter).await?;
        let versions: BTreeMap<(&str, &str), i64> = found
            .iter()
            .map(|row| ((row.kind.as_str(), row.resource_id.as_str()), row.version))
            .collect();
        let as_thought = part.iter().all(|row| {
            versions.get(&(row.kind.as_str(), row.resource_id.as_str())) == Some(&row.version)
        });
        if !as_thought {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Adds a resource; says whether its identifier, name and person were free.
pub(crate) async fn insert(
    transaction: &mut Transaction<'_>,
    row: &ResourceRow,
) -> Result<bool, StoreError> {
    Ok(execute(transaction, &INSERT, &[row]).await? == 1)
}

/// Writes what became of locked resources.
pub(crate) async fn update(
    transaction: &mut Transaction<'_>,
    rows: &[ResourceRow],
) -> Result<u64, StoreError> {
    execute_all(transaction, &UPDATE, rows).await
}

/// Removes a resource with its memberships.
pub(crate) async fn delete(
    transaction: &mut Transaction<'_>,
    row: &ResourceRow,
) -> Result<(), StoreError> {
    let memberships = if row.kind == Kind::Group.name() {
        &DELETE_ALL_MEMBERS
    } else {
        &DELETE_MEMBERSHIPS
    };
    execute(transaction, memberships, row).await?;
    execute(transaction, &DELETE, row).await.map(|_| ())
}

/// Adds and removes members of a group.
pub(crate) async fn change_members(
    transaction: &mut Transaction<'_>,
    group: &ResourceRow,
    added: &[&str],
    removed: &[&str],
) -> Result<(), StoreError> {
    let rows = |members: &[&str]| -> Vec<Value> {
        members
            .iter()
            .map(|member| {
                json!({
                    "shard_id": group.shard_id, "source": group.source, "group_id": group.resource_id,
                    "member_id": member,
                })
            })
            .collect()
    };
    execute_all(transaction, &REMOVE_MEMBERS, &rows(removed)).await?;
    execute_all(transaction, &ADD_MEMBERS, &rows(added)).await?;
    Ok(())
}

/// Deadlock, and failure to put transactions into an order, in PostgreSQL.
const AT_ONCE: [&str; 2] = ["40P01", "40001"];

/// Whether an error says that another transaction came between: a name or a person was taken, or both waited for each
/// other. Nothing was written; what was read has to be read again.
pub(crate) fn came_between(error: &StoreError) -> bool {
    let StoreError::Refused(error) = error else {
        return false;
    };
    error.as_database_error().is_some_and(|error| {
        error.is_unique_violation() || error.code().is_some_and(|code| AT_ONCE.contains(&&*code))
    })
}

const LOCK: Sql = Sql {
    table: "scim_resource",
    postgres: "
        SELECT jsonb_build_object('kind', r.kind, 'resource_id', r.resource_id, 'version', r.version)::text
        FROM scim_resource AS r
        JOIN jsonb_to_recordset($1::jsonb) AS wanted(shard_id int, source text, kind text, resource_id text)
          ON r.shard_id = wanted.shard_id AND r.source = wanted.source AND r.kind = wanted.kind
         AND r.resource_id = wanted.resource_id
        -- Always in the same order, so that two transactions cannot wait for each other.
        ORDER BY r.shard_id, r.source, r.kind, r.resource_id FOR UPDATE OF r",
    // The one writer of SQLite holds the whole database already.
    sqlite: "
        SELECT json_object('kind', r.kind, 'resource_id', r.resource_id, 'version', r.version)
        FROM json_each(?1) AS wanted
        JOIN scim_resource AS r ON r.shard_id = wanted.value ->> 'shard_id' AND r.source = wanted.value ->> 'source'
          AND r.kind = wanted.value ->> 'kind' AND r.resource_id = wanted.value ->> 'resource_id'",
};

const INSERT: Sql = Sql {
    table: "scim_resource",
    postgres: "
        INSERT INTO scim_resource (shard_id, source, kind, resource_id, name_key, external_id, record_key, body, version,
            created_at, modified_at, modified_by)
        SELECT shard_id, source, kind, resource_id, name_key, external_id, record_key, body, version,
            created_at, modified_at, modified_by
        FROM jsonb_populate_recordset(NULL::scim_resource, $1::jsonb)
        ON CONFLICT DO NOTHING",
    sqlite: "
        INSERT INTO scim_resource (shard_id, source, kind, resource_id, name_key, external_id, record_key, body, version,
            created_at, modified_at, modified_by)
        SELECT value ->> 'shard_id', value ->> 'source', value ->> 'kind', value ->> 'resource_id',
            value ->> 'name_key', value ->> 'external_id', value ->> 'record_key', value -> 'body', value ->> 'version',
            value ->> 'created_at', value ->> 'modified_at', value ->> 'modified_by'
        FROM json_each(?1) WHERE true
        ON CONFLICT DO NOTHING",
};

const UPDATE: Sql = Sql {
    table: "scim_resource",
    postgres: "
        UPDATE scim_resource AS r SET name_key = now.name_key, external_id = now.external_id,
            record_key = now.record_key, body = now.body, version = now.version,
            modified_at = now.modified_at, modified_by = now.modified_by
        FROM jsonb_populate_recordset(NULL::scim_resource, $1::jsonb) AS now
        WHERE r.shard_id = now.shard_id AND r.source = now.source AND r.kind = now.kind
          AND r.resource_id = now.resource_id AND r.version = now.version - 1",
    sqlite: "
        UPDATE scim_resource SET name_key = changed.value ->> 'name_key', external_id = changed.value ->> 'external_id',
            record_key = changed.value ->> 'record_key', body = changed.value -> 'body',
            version = changed.value ->> 'version',
            modified_at = changed.value ->> 'modified_at', modified_by = changed.value ->> 'modified_by'
        FROM json_each(?1) AS changed
        WHERE scim_resource.shard_id = changed.value ->> 'shard_id'
          AND scim_resource.source = changed.value ->> 'source' AND scim_resource.kind = changed.value ->> 'kind'
          AND scim_resource.resource_id = changed.value ->> 'resource_id'
          AND scim_resource.version = (changed.value ->> 'version') - 1",
};

const DELETE: Sql = Sql {
    table: "scim_resource",
    postgres: "
        DELETE FROM scim_resource
        WHERE shard_id = ($1::jsonb->>'shard_id')::int AND source = $1::jsonb->>'source' AND kind = $1::jsonb->>'kind'
          AND resource_id = $1::jsonb->>'resource_id'",
    sqlite: "
        DELETE FROM scim_resource
        WHERE shard_id = ?1 ->> 'shard_id' AND source = ?1 ->> 'source' AND kind = ?1 ->> 'kind'
          AND resource_id = ?1 ->> 'resource_id'",
};

const DELETE_MEMBERSHIPS: Sql = Sql {
    table: "scim_member",
    postgres: "
        DELETE FROM scim_member
        WHERE shard_id = ($1::jsonb->>'shard_id')::int AND source = $1::jsonb->>'source'
          AND member_id = $1::jsonb->>'resource_id'",
    sqlite: "
        DELETE FROM scim_member
        WHERE shard_id = ?1 ->> 'shard_id' AND source = ?1 ->> 'source' AND member_id = ?1 ->> 'resource_id'",
};

const DELETE_ALL_MEMBERS: Sql = Sql {
    table: "scim_member",
    postgres: "
        DELETE FROM scim_member
        WHERE shard_id = ($1::jsonb->>'shard_id')::int AND source = $1::jsonb->>'source'
          AND group_id = $1::jsonb->>'resource_id'",
    sqlite: "
        DELETE FROM scim_member
        WHERE shard_id = ?1 ->> 'shard_id' AND source = ?1 ->> 'source' AND group_id = ?1 ->> 'resource_id'",
};

const ADD_MEMBERS: Sql = Sql {
    table: "scim_member",
    postgres: "
        INSERT INTO scim_member (shard_id, source, group_id, member_id)
        SELECT shard_id, source, group_id, member_id FROM jsonb_populate_recordset(NULL::scim_member, $1::jsonb)
        ON CONFLICT DO NOTHING",
    sqlite: "
        INSERT INTO scim_member (shard_id, source, group_id, member_id)
        SELECT value ->> 'shard_id', value ->> 'source', value ->> 'group_id', value ->> 'member_id'
        FROM json_each(?1) WHERE true
        ON CONFLICT DO NOTHING",
};

const REMOVE_MEMBERS: Sql = Sql {
    table: "scim_member",
    postgres: "
        DELETE FROM scim_member AS m
        USING jsonb_populate_recordset(NULL::scim_member, $1::jsonb) AS gone
        WHERE m.shard_id = gone.shard_id AND m.source = gone.source AND m.group_id = gone.group_id
          AND m.member_id = gone.member_id",
    sqlite: "
        DELETE FROM scim_member
        WHERE (shard_id, source, group_id, member_id) IN (
            SELECT value ->> 'shard_id', value ->> 'source', value ->> 'group_id', value ->> 'member_id'
            FROM json_each(?1))",
};
