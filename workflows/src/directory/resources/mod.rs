//! What identity providers push over SCIM, as they sent it.
//!
//! Reading needs no lock. Writing is guarded: whoever writes has locked the resources concerned, always in the same order,
//! and found the versions that were read before.

mod guard;
mod write;

use std::collections::BTreeMap;

use engine::core::Timestamp;
use engine::store::StoreError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Directory;
use super::database::{ROWS_PER_STATEMENT_MAX, Sql, stored_time};
use super::snapshots::RecordRow;
use crate::scim::{Kind, etag};

/// The most resources of one read.
pub const RESOURCES_READ_MAX: u32 = 1_000;

pub(crate) use guard::{
    HeldRow, forget_removals, held, held_count, held_of, lock_guard, present, put_held,
    put_removals, release, release_all, removed_since, set_guard,
};
pub(crate) use write::{came_between, change_members, delete, insert, lock, update};

/// How the name of what is held back of a source begins, among the names of its files.
pub const HELD_PREFIX: &str = "hld_";

/// One resource, without what is computed when it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResourceRow {
    pub shard_id: i32,
    pub source: String,
    /// `User` or `Group`.
    pub kind: String,
    pub resource_id: String,
    /// `userName` or `displayName`, folded.
    pub name_key: String,
    pub external_id: Option<String>,
    /// The key of the person; groups have none.
    pub record_key: Option<String>,
    pub body: Map<String, Value>,
    pub version: i64,
    #[serde(with = "stored_time")]
    pub created_at: Timestamp,
    #[serde(with = "stored_time")]
    pub modified_at: Timestamp,
    pub modified_by: String,
}

/// Which resources of a kind; each is answered by an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    All,
    Id(String),
    /// By the folded name.
    Name(String),
    ExternalId(String),
    /// Groups with this member.
    Member(String),
    /// The user who is the person with this key.
    Record(String),
}

/// That somebody is in a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    pub group_id: String,
    pub member_id: String,
    /// The name of the group, where groups are looked for.
    pub display: String,
}

/// The form of a name in which names are compared.
#[must_use]
pub fn name_key(name: &str) -> String {
    name.to_lowercase()
}

impl ResourceRow {
    /// The whole resource, with what is computed. `others` are its groups or members; `base` is the address of the server,
    /// without which it has none.
    #[must_use]
    pub fn whole(
        &self,
        kind: Kind,
        others: &[Membership],
        base: Option<&str>,
    ) -> Map<String, Value> {
        let mut fields = self.body.clone();
        let mut schemas = vec![kind.schema()];
        let extensions = kind.extensions().iter();
        schemas.extend(extensions.filter(|urn| fields.contains_key(**urn)));
        fields.insert("schemas".to_owned(), json!(schemas));
        fields.insert("id".to_owned(), json!(self.resource_id));
        let stamp = |time: Timestamp| time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        let mut meta = json!({
            "resourceType": kind.name(),
            "created": stamp(self.created_at),
            "lastModified": stamp(self.modified_at),
            "version": etag(self.version),
        });
        if let (Some(base), Value::Object(meta)) = (base, &mut meta) {
            let location = format!("{base}/{}/{}", kind.endpoint(), self.resource_id);
            meta.insert("location".to_owned(), json!(location));
        }
        fields.insert("meta".to_owned(), meta);
        let (name, other) = match kind {
            Kind::Group => ("members", Kind::Person),
            Kind::User | Kind::Person => ("groups", Kind::Group),
        };
        let entries: Vec<Value> = others
            .iter()
            .map(|membership| {
                let (id, of) = match kind {
                    Kind::Group => (&membership.member_id, "User"),
                    Kind::User | Kind::Person => (&membership.group_id, "direct"),
                };
                let mut entry = json!({ "value": id, "type": of });
                if let (Some(base), Value::Object(entry)) = (base, &mut entry) {
                    let reference = format!("{base}/{}/{id}", other.endpoint());
                    entry.insert("$ref".to_owned(), json!(reference));
                }
                if let (true, Value::Object(entry)) = (kind != Kind::Group, &mut entry) {
                    entry.insert("display".to_owned(), json!(membership.display));
                }
                entry
            })
            .collect();
        if !entries.is_empty() {
            fields.insert(name.to_owned(), Value::Array(entries));
        }
        fields
    }
}

impl Wanted {
    fn statements(&self) -> (&'static Sql, &'static Sql, Option<&str>) {
        match self {
            Self::All => (&PAGE_ALL, &COUNT_ALL, None),
            Self::Id(value) => (&PAGE_ID, &COUNT_ID, Some(value)),
            Self::Name(value) => (&PAGE_NAME, &COUNT_NAME, Some(value)),
            Self::ExternalId(value) => (&PAGE_EXTERNAL, &COUNT_EXTERNAL, Some(value)),
            Self::Member(value) => (&PAGE_MEMBER, &COUNT_MEMBER, Some(value)),
            Self::Record(value) => (&PAGE_RECORD, &COUNT_RECORD, Some(value)),
        }
    }
}

impl Directory {
    /// One resource.
    ///
    /// # Errors
    /// When the database does not answer, or holds what this program cannot read.
    pub async fn resource(
        &self,
        source: &str,
        kind: Kind,
        wanted: &Wanted,
    ) -> Result<Option<ResourceRow>, StoreError> {
        let found = self.resources(source, kind, wanted, "", 0, 1).await?;
        Ok(found.into_iter().next())
    }

    /// Resources in the order of their identifiers: those behind `after`, without the first `offset` of them.
    ///
    /// # Errors
    /// As [`Directory::resource`].
    pub async fn resources(
        &self,
        source: &str,
        kind: Kind,
        wanted: &Wanted,
        after: &str,
        offset: u64,
        limit: u32,
    ) -> Result<Vec<ResourceRow>, StoreError> {
        let (page, _, value) = wanted.statements();
        let parameter = json!({
            "shard_id": self.shard(source),
            "source": source,
            "kind": kind.name(),
            "value": value,
            "after": after,
            "offset": offset,
            "limit": limit.min(RESOURCES_READ_MAX),
        });
        self.reader().rows(page, &parameter).await
    }

    /// How many resources there are.
    ///
    /// # Errors
    /// As [`Directory::resource`].
    pub async fn resource_count(
        &self,
        source: &str,
        kind: Kind,
        wanted: &Wanted,
    ) -> Result<u64, StoreError> {
        let (_, count, value) = wanted.statements();
        let parameter = json!({
            "shard_id": self.shard(source),
            "source": source,
            "kind": kind.name(),
            "value": value,
        });
        Ok(self.reader().row(count, &parameter).await?.unwrap_or(0))
    }

    /// The users with these identifiers; those that are not there are left out.
    ///
    /// # Errors
    /// As [`Directory::resource`].
    pub async fn users_by_id(
        &self,
        source: &str,
        ids: &[&str],
    ) -> Result<Vec<ResourceRow>, StoreError> {
        let mut found = Vec::with_capacity(ids.len());
        for part in ids.chunks(ROWS_PER_STATEMENT_MAX) {
            let parameter = self.of_source(source, part, "resource_id");
            found.extend(self.reader().rows(&USERS_BY_ID, &parameter).await?);
        }
        Ok(found)
    }

    /// The groups of each of these users.
    ///
    /// # Errors
    /// As [`Directory::resource`].
    pub async fn groups_of(
        &self,
        source: &str,
        users: &[&str],
    ) -> Result<BTreeMap<String, Vec<Membership>>, StoreError> {
        let mut groups: BTreeMap<String, Vec<Membership>> = BTreeMap::new();
        for part in users.chunks(ROWS_PER_STATEMENT_MAX) {
            let parameter = self.of_source(source, part, "member_id");
            let found: Vec<Membership> = self.reader().rows(&GROUPS_OF, &parameter).await?;
            for membership in found {
                groups
                    .entry(membership.member_id.clone())
                    .or_default()
                    .push(membership);
            }
        }
        Ok(groups)
    }

    /// The members of a group.
    ///
    /// # Errors
    /// As [`Directory::resource`].
    pub async fn members_of(
        &self,
        source: &str,
        group: &str,
    ) -> Result<Vec<Membership>, StoreError> {
        let parameter = self.of_source(source, &[group], "group_id");
        self.reader().rows(&MEMBERS_OF, &parameter).await
    }

    /// What a source last said of these people.
    pub(crate) async fn records_of(
        &self,
        source: &str,
        keys: &[&str],
    ) -> Result<BTreeMap<String, RecordRow>, StoreError> {
        let mut found = BTreeMap::new();
        for part in keys.chunks(ROWS_PER_STATEMENT_MAX) {
            let parameter = self.of_source(source, part, "record_key");
            let rows: Vec<RecordRow> = self.reader().rows(&RECORDS_OF, &parameter).await?;
            found.extend(rows.into_iter().map(|row| (row.record_key.clone(), row)));
        }
        Ok(found)
    }

    /// The version of the last that a source said of each of these people.
    pub(crate) async fn said_of(
        &self,
        source: &str,
        keys: &[&str],
    ) -> Result<BTreeMap<String, i64>, StoreError> {
        #[derive(Deserialize)]
        struct Said {
            subject: String,
            version: i64,
        }
        let mut found = BTreeMap::new();
        for part in keys.chunks(ROWS_PER_STATEMENT_MAX) {
            let parameter: Vec<Value> = part
                .iter()
                .map(|key| json!({ "shard_id": self.shard(key), "source": source, "subject": key }))
                .collect();
            let rows: Vec<Said> = self.reader().rows(&SAID_OF, &parameter).await?;
            found.extend(rows.into_iter().map(|row| (row.subject, row.version)));
        }
        Ok(found)
    }

    fn of_source(&self, source: &str, values: &[&str], name: &str) -> Vec<Value> {
        let shard_id = self.shard(source);
        values
            .iter()
            .map(|value| json!({ "shard_id": shard_id, "source": source, name: value }))
            .collect()
    }
}

/// The statement that pages through resources, and the one that counts them, for one condition.
macro_rules! reading {
    ($page:ident, $count:ident, $from_postgres:literal, $postgres:literal, $from_sqlite:literal, $sqlite:literal) => {
        const $page: Sql = Sql {
            table: "scim_resource",
            postgres: concat!(
                "SELECT to_jsonb(r)::text FROM scim_resource AS r ",
                $from_postgres,
                " WHERE r.shard_id = ($1::jsonb->>'shard_id')::int AND r.source = $1::jsonb->>'source'
                    AND r.kind = $1::jsonb->>'kind' ",
                $postgres,
                " AND r.resource_id > $1::jsonb->>'after'
                  ORDER BY r.resource_id
                  LIMIT ($1::jsonb->>'limit')::bigint OFFSET ($1::jsonb->>'offset')::bigint"
            ),
            sqlite: concat!(
                "SELECT json_object('shard_id', r.shard_id, 'source', r.source, 'kind', r.kind,
                    'resource_id', r.resource_id, 'name_key', r.name_key, 'external_id', r.external_id,
                    'record_key', r.record_key, 'body', json(r.body), 'version', r.version,                    'created_at', r.created_at, 'modified_at', r.modified_at, 'modified_by', r.modified_by)
                 FROM scim_resource AS r ",
                $from_sqlite,
                " WHERE r.shard_id = ?1 ->> 'shard_id' AND r.source = ?1 ->> 'source' AND r.kind = ?1 ->> 'kind' ",
                $sqlite,
                " AND r.resource_id > ?1 ->> 'after'
                  ORDER BY r.resource_id LIMIT ?1 ->> 'limit' OFFSET ?1 ->> 'offset'"
            ),
        };
        const $count: Sql = Sql {
            table: "scim_resource",
            postgres: concat!(
                "SELECT to_jsonb(count(*))::text FROM scim_resource AS r ",
                $from_postgres,
                " WHERE r.shard_id = ($1::jsonb->>'shard_id')::int AND r.source = $1::jsonb->>'source'
                    AND r.kind = $1::jsonb->>'kind' ",
                $postgres
            ),
            sqlite: concat!(
                "SELECT CAST(count(*) AS TEXT) FROM scim_resource AS r ",
                $from_sqlite,
                " WHERE r.shard_id = ?1 ->> 'shard_id' AND r.source = ?1 ->> 'source' AND r.kind = ?1 ->> 'kind' ",
                $sqlite
            ),
        };
    };
}

reading!(PAGE_ALL, COUNT_ALL, "", "", "", "");
reading!(
    PAGE_ID,
    COUNT_ID,
    "",
    "AND r.resource_id = $1::jsonb->>'value'",
    "",
    "AND r.resource_id = ?1 ->> 'value'"
);
reading!(
    PAGE_NAME,
    COUNT_NAME,
    "",
    "AND r.name_key = $1::jsonb->>'value'",
    "",
    "AND r.name_key = ?1 ->> 'value'"
);
reading!(
    PAGE_EXTERNAL,
    COUNT_EXTERNAL,
    "",
    "AND r.external_id = $1::jsonb->>'value'",
    "",
    "AND r.external_id = ?1 ->> 'value'"
);
reading!(
    PAGE_RECORD,
    COUNT_RECORD,
    "",
    "AND r.record_key = $1::jsonb->>'value'",
    "",
    "AND r.record_key = ?1 ->> 'value'"
);
reading!(
    PAGE_MEMBER,
    COUNT_MEMBER,
    "JOIN scim_member AS m ON m.shard_id = r.shard_id AND m.source = r.source AND m.group_id = r.resource_id",
    "AND m.member_id = $1::jsonb->>'value'",
    "JOIN scim_member AS m ON m.shard_id = r.shard_id AND m.source = r.source AND m.group_id = r.resource_id",
    "AND m.member_id = ?1 ->> 'value'"
);

const USERS_BY_ID: Sql = Sql {
    table: "scim_resource",
    postgres: "
        SELECT to_jsonb(r)::text
        FROM jsonb_to_recordset($1::jsonb) AS wanted(shard_id int, source text, resource_id text)
        JOIN scim_resource AS r ON r.shard_id = wanted.shard_id AND r.source = wanted.source AND r.kind = 'User'
          AND r.resource_id = wanted.resource_id",
    sqlite: "
        SELECT json_object('shard_id', r.shard_id, 'source', r.source, 'kind', r.kind, 'resource_id', r.resource_id,
            'name_key', r.name_key, 'external_id', r.external_id, 'record_key', r.record_key, 'body', json(r.body),
            'version', r.version, 'created_at', r.created_at, 'modified_at', r.modified_at,
            'modified_by', r.modified_by)
        FROM json_each(?1) AS wanted
        JOIN scim_resource AS r ON r.shard_id = wanted.value ->> 'shard_id' AND r.source = wanted.value ->> 'source'
          AND r.kind = 'User' AND r.resource_id = wanted.value ->> 'resource_id'",
};

const GROUPS_OF: Sql = Sql {
    table: "scim_member",
    postgres: "
        SELECT jsonb_build_object('group_id', m.group_id, 'member_id', m.member_id,
            'display', coalesce(g.body->>'displayName', ''))::text
        FROM jsonb_to_recordset($1::jsonb) AS wanted(shard_id int, source text, member_id text)
        JOIN scim_member AS m ON m.shard_id = wanted.shard_id AND m.source = wanted.source
          AND m.member_id = wanted.member_id
        JOIN scim_resource AS g ON g.shard_id = m.shard_id AND g.source = m.source AND g.kind = 'Group'
          AND g.resource_id = m.group_id
        ORDER BY m.member_id, m.group_id",
    sqlite: "
        SELECT json_object('group_id', m.group_id, 'member_id', m.member_id,
            'display', coalesce(g.body ->> 'displayName', ''))
        FROM json_each(?1) AS wanted
        JOIN scim_member AS m ON m.shard_id = wanted.value ->> 'shard_id' AND m.source = wanted.value ->> 'source'
          AND m.member_id = wanted.value ->> 'member_id'
        JOIN scim_resource AS g ON g.shard_id = m.shard_id AND g.source = m.source AND g.kind = 'Group'
          AND g.resource_id = m.group_id
        ORDER BY m.member_id, m.group_id",
};

const MEMBERS_OF: Sql = Sql {
    table: "scim_member",
    postgres: "
        SELECT jsonb_build_object('group_id', m.group_id, 'member_id', m.member_id, 'display', '')::text
        FROM jsonb_to_recordset($1::jsonb) AS wanted(shard_id int, source text, group_id text)
        JOIN scim_member AS m ON m.shard_id = wanted.shard_id AND m.source = wanted.source
          AND m.group_id = wanted.group_id
        ORDER BY m.member_id",
    sqlite: "
        SELECT json_object('group_id', m.group_id, 'member_id', m.member_id, 'display', '')
        FROM json_each(?1) AS wanted
        JOIN scim_member AS m ON m.shard_id = wanted.value ->> 'shard_id' AND m.source = wanted.value ->> 'source'
          AND m.group_id = wanted.value ->> 'group_id'
        ORDER BY m.member_id",
};

const RECORDS_OF: Sql = Sql {
    table: "source_record",
    postgres: "
        SELECT to_jsonb(r)::text
        FROM jsonb_to_recordset($1::jsonb) AS wanted(shard_id int, source text, record_key text)
        JOIN source_record AS r ON r.shard_id = wanted.shard_id AND r.source = wanted.source
          AND r.record_key = wanted.record_key",
    sqlite: "
        SELECT json_object('shard_id', r.shard_id, 'source', r.source, 'record_key', r.record_key, 'digest', r.digest,
            'status', r.status, 'attributes', json(r.attributes))
        FROM json_each(?1) AS wanted
        JOIN source_record AS r ON r.shard_id = wanted.value ->> 'shard_id' AND r.source = wanted.value ->> 'source'
          AND r.record_key = wanted.value ->> 'record_key'",
};

const SAID_OF: Sql = Sql {
    table: "business_event",
    postgres: "
        SELECT jsonb_build_object('subject', e.subject, 'version', max(e.version))::text
        FROM jsonb_to_recordset($1::jsonb) AS wanted(shard_id int, source text, subject text)
        JOIN business_event AS e ON e.shard_id = wanted.shard_id AND e.subject = wanted.subject
          AND e.source = wanted.source
        GROUP BY e.subject",
    sqlite: "
        SELECT json_object('subject', e.subject, 'version', max(e.version))
        FROM json_each(?1) AS wanted
        JOIN business_event AS e ON e.shard_id = wanted.value ->> 'shard_id' AND e.subject = wanted.value ->> 'subject'
          AND e.source = wanted.value ->> 'source'
        GROUP BY e.subject",
};
