//! Who is known.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use engine::store::{StoreError, Transaction};

use super::Directory;
use super::credentials::CredentialRow;
use super::database::{Sql, execute_all, rows_in, rows_of};
use super::holds::HoldRow;
use crate::policy::IdentityFacts;
use crate::sources::record::attribute;

use super::merges::MergeRow;
use super::rows::{AccountRow, AccountStatus, EventRow, GrantRow, IdentityRow, IdentityStatus};

/// The most identities one page of a listing holds.
pub const PAGE_ROWS_MAX: u32 = 1_000;
/// The longest text that is searched for, in bytes.
pub const SEARCH_BYTES_MAX: usize = 200;
/// The most events of one identity that are shown.
pub const EVENTS_SHOWN_MAX: usize = 200;

/// Everything the directory knows about one person.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IdentityDetail {
    pub identity: IdentityRow,
    pub accounts: Vec<AccountRow>,
    pub grants: Vec<GrantRow>,
    /// Keys, tokens, certificates and passwords that were ended.
    pub credentials: Vec<CredentialRow>,
    /// Legal holds, those too that are released.
    pub holds: Vec<HoldRow>,
    /// Newest first, at most [`EVENTS_SHOWN_MAX`].
    pub events: Vec<EventRow>,
    /// The merges this key had a part in, newest first.
    pub merges: Vec<MergeRow>,
    /// Accounts under other keys of the person, which this one could not take over.
    pub second_accounts: Vec<AccountRow>,
}

/// What a step may need to know: the person, and what they hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Holdings {
    pub identity: IdentityRow,
    pub accounts: Vec<AccountRow>,
    pub grants: Vec<GrantRow>,
}

/// Which identities a listing wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdentityFilter {
    pub status: Option<IdentityStatus>,
    /// Part of the key or the name; case does not matter.
    pub search: Option<String>,
}

/// What policy sees of a person. Only who is active has a business reason for any access: who is expected
/// has not begun, who is leaving must lose what is left.
#[must_use]
pub fn facts_of(identity: &IdentityRow) -> IdentityFacts {
    IdentityFacts {
        key: identity.identity_key.clone(),
        attributes: identity.attributes.clone(),
        active: identity.status == IdentityStatus::Active,
        on_leave: identity.attributes.get(attribute::EMPLOYMENT_STATUS) == Some(&json!("leave")),
    }
}

impl Directory {
    /// One person with accounts, grants and events; `None` when the key is not known.
    ///
    /// # Errors
    /// When the database does not answer, or holds what this program cannot read.
    pub async fn identity(&self, key: &str) -> Result<Option<IdentityDetail>, StoreError> {
        let Some(holdings) = self.holdings(key).await? else {
            return Ok(None);
        };
        let parameter =
            json!({ "shard_id": self.shard(key), "key": key, "limit": EVENTS_SHOWN_MAX });
        let events = self.reader().rows(&EVENTS_OF, &parameter).await?;
        let mut second_accounts = Vec::new();
        let mut members = holdings.identity.members.clone();
        while let Some(member) = members.pop() {
            if let Some(held) = self.holdings(&member).await? {
                members.extend(held.identity.members);
                let stays = |account: &AccountRow| account.status != AccountStatus::Deleted;
                second_accounts.extend(held.accounts.into_iter().filter(stays));
            }
        }
        Ok(Some(IdentityDetail {
            merges: self.merges(key).await?,
            second_accounts,
            identity: holdings.identity,
            accounts: holdings.accounts,
            grants: holdings.grants,
            credentials: self.credentials_of(key).await?,
            holds: self.holds_of(key).await?,
            events,
        }))
    }

    /// One person with what they hold, in one read.
    ///
    /// # Errors
    /// As [`Directory::identity`].
    pub async fn holdings(&self, key: &str) -> Result<Option<Holdings>, StoreError> {
        let parameter = json!({ "shard_id": self.shard(key), "key": key });
        self.reader().row(&HOLDINGS, &parameter).await
    }

    /// Identities in the order of their keys, from the one after `after`.
    ///
    /// # Errors
    /// As [`Directory::identity`].
    pub async fn identities(
        &self,
        filter: &IdentityFilter,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<IdentityRow>, StoreError> {
        let search = filter.search.as_deref().map(pattern);
        let parameter = json!({
            "status": filter.status,
            "search": search,
            "after": after.unwrap_or_default(),
            "limit": limit.min(PAGE_ROWS_MAX),
        });
        self.reader().rows(&LIST, &parameter).await
    }

    /// How many identities there are by status.
    ///
    /// # Errors
    /// As [`Directory::identity`].
    pub async fn identity_counts(&self) -> Result<Vec<(IdentityStatus, u64)>, StoreError> {
        #[derive(Deserialize)]
        struct Count {
            status: IdentityStatus,
            count: u64,
        }
        let counts: Vec<Count> = self.reader().rows(&COUNTS, &Value::Null).await?;
        Ok(counts
            .into_iter()
            .map(|count| (count.status, count.count))
            .collect())
    }
}

/// `text` as a LIKE pattern for "contains", with `\` before what LIKE would read.
fn pattern(text: &str) -> String {
    let mut end = text.len().min(SEARCH_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut pattern = String::from("%");
    for c in text.get(..end).unwrap_or_default().to_lowercase().chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

/// The identities of these keys, locked until the transaction ends.
pub(crate) async fn for_update(
    transaction: &mut Transaction<'_>,
    keys: &[(i32, String)],
) -> Result<Vec<IdentityRow>, StoreError> {
    rows_of(transaction, &FOR_UPDATE, keys).await
}

/// The identities of these keys as they are, for whoever holds the lock of the person they belong to.
pub(crate) async fn in_transaction(
    transaction: &mut Transaction<'_>,
    keys: &[(i32, String)],
) -> Result<Vec<IdentityRow>, StoreError> {
    rows_of(transaction, &IN_TRANSACTION, keys).await
}

/// What these hold, for whoever holds the lock of the person they belong to.
pub(crate) async fn holdings_in(
    transaction: &mut Transaction<'_>,
    shard_id: i32,
    key: &str,
) -> Result<Option<Holdings>, StoreError> {
    let parameter = json!({ "shard_id": shard_id, "key": key });
    let found = rows_in(transaction, &HOLDINGS, &parameter).await?;
    Ok(found.into_iter().next())
}

/// Adds people nobody has introduced yet; false when another transaction introduced one of them first. Waits for one
/// that is about to. What was decided without knowing of them is void then, so roll back and begin again.
pub(crate) async fn introduce(
    transaction: &mut Transaction<'_>,
    rows: &[IdentityRow],
) -> Result<bool, StoreError> {
    let added = execute_all(transaction, &INTRODUCE, rows).await?;
    Ok(added == rows.len() as u64)
}

pub(crate) async fn put(
    transaction: &mut Transaction<'_>,
    rows: &[IdentityRow],
) -> Result<(), StoreError> {
    execute_all(transaction, &PUT, rows).await.map(|_| ())
}

const LIST: Sql = Sql {
    table: "identity",
    postgres: "
        SELECT to_jsonb(i)::text FROM identity AS i
        WHERE i.identity_key > $1::jsonb->>'after'
          AND (($1::jsonb->>'status') IS NULL OR i.status = $1::jsonb->>'status')
          AND (($1::jsonb->>'search') IS NULL
               OR lower(i.identity_key) LIKE $1::jsonb->>'search' OR lower(i.display_name) LIKE $1::jsonb->>'search')
        ORDER BY i.identity_key LIMIT ($1::jsonb->>'limit')::bigint",
    sqlite: r"
        SELECT json_object('shard_id', shard_id, 'identity_key', identity_key, 'identity_type', identity_type,
            'status', status, 'status_case', status_case, 'generation', generation, 'source', source,
            'display_name', display_name, 'attributes', json(attributes), 'attributes_version', attributes_version,
            'first_seen_at', first_seen_at, 'changed_at', changed_at, 'departed_at', departed_at,
            'merged_into', merged_into, 'members', json(members), 'disputes', json(disputes))
        FROM identity
        WHERE identity_key > ?1 ->> 'after'
          AND (?1 ->> 'status' IS NULL OR status = ?1 ->> 'status')
          AND (?1 ->> 'search' IS NULL
               OR lower(identity_key) LIKE ?1 ->> 'search' ESCAPE '\' OR lower(display_name) LIKE ?1 ->> 'search' ESCAPE '\')
        ORDER BY identity_key LIMIT ?1 ->> 'limit'",
};

const COUNTS: Sql = Sql {
    table: "identity",
    postgres: "
        SELECT jsonb_build_object('status', status, 'count', count(*))::text FROM identity
        WHERE $1::jsonb IS NOT NULL GROUP BY status ORDER BY status",
    sqlite: "
        SELECT json_object('status', status, 'count', count(*)) FROM identity
        WHERE ?1 IS NOT NULL GROUP BY status ORDER BY status",
};

/// A person with what they hold, in the words of each database.
macro_rules! holdings {
    (postgres $which:literal) => {
        concat!(
            "
        SELECT jsonb_build_object(
            'identity', to_jsonb(i),
            'accounts', COALESCE((SELECT jsonb_agg(to_jsonb(a) ORDER BY a.system) FROM account AS a
                WHERE a.shard_id = i.shard_id AND a.identity_key = i.identity_key), '[]'),
            'grants', COALESCE((SELECT jsonb_agg(to_jsonb(g) ORDER BY g.system, g.entitlement) FROM grant_held AS g
                WHERE g.shard_id = i.shard_id AND g.identity_key = i.identity_key), '[]')
        )::text
        FROM identity AS i
        ",
            $which
        )
    };
    (sqlite $which:literal) => {
        concat!(
            "
        SELECT json_object(
            'identity', json_object('shard_id', i.shard_id, 'identity_key', i.identity_key,
                'identity_type', i.identity_type, 'status', i.status, 'status_case', i.status_case,
                'generation', i.generation, 'source', i.source, 'display_name', i.display_name,
                'attributes', json(i.attributes), 'attributes_version', i.attributes_version,
                'first_seen_at', i.first_seen_at, 'changed_at', i.changed_at, 'departed_at', i.departed_at,
                'merged_into', i.merged_into, 'members', json(i.members), 'disputes', json(i.disputes)),
            'accounts', (SELECT json_group_array(json_object('shard_id', a.shard_id, 'identity_key', a.identity_key,
                    'system', a.system, 'native_id', a.native_id, 'name', a.name, 'status', a.status,
                    'attributes_digest', a.attributes_digest, 'created_at', a.created_at, 'disabled_at', a.disabled_at,
                    'changed_at', a.changed_at, 'verified_at', a.verified_at, 'unverified', a.unverified,
                    'case_id', a.case_id) ORDER BY a.system)
                FROM account AS a WHERE a.shard_id = i.shard_id AND a.identity_key = i.identity_key),
            'grants', (SELECT json_group_array(json_object('shard_id', g.shard_id, 'identity_key', g.identity_key,
                    'system', g.system, 'entitlement', g.entitlement, 'status', g.status, 'held_by', g.held_by,
                    'reasons', json(g.reasons), 'policy_hash', g.policy_hash, 'since', g.since, 'until', g.until,
                    'exception_until', g.exception_until,
                    'verified_at', g.verified_at, 'unverified', g.unverified, 'case_id', g.case_id)
                    ORDER BY g.system, g.entitlement)
                FROM grant_held AS g WHERE g.shard_id = i.shard_id AND g.identity_key = i.identity_key)
        )
        FROM identity AS i
        ",
            $which
        )
    };
}

const HOLDINGS: Sql = Sql {
    table: "identity",
    postgres: holdings!(postgres "WHERE i.shard_id = ($1::jsonb->>'shard_id')::int AND i.identity_key = $1::jsonb->>'key'"),
    sqlite: holdings!(sqlite "WHERE i.shard_id = ?1 ->> 'shard_id' AND i.identity_key = ?1 ->> 'key'"),
};

/// Everybody at work, in the order of the key of the table.
pub(super) const HOLDINGS_AFTER: Sql = Sql {
    table: "identity",
    postgres: holdings!(postgres "
        WHERE (i.shard_id, i.identity_key) > (($1::jsonb->>'shard_id')::int, $1::jsonb->>'key') AND i.status = 'active'
        ORDER BY i.shard_id, i.identity_key LIMIT ($1::jsonb->>'limit')::bigint"),
    sqlite: holdings!(sqlite "
        WHERE (i.shard_id, i.identity_key) > (?1 ->> 'shard_id', ?1 ->> 'key') AND i.status = 'active'
        ORDER BY i.shard_id, i.identity_key LIMIT ?1 ->> 'limit'"),
};

/// Everybody whom a rollout of a policy left out, wherever they stand, in the order of the key of the table.
pub(super) const LEFT_OUT_AFTER: Sql = Sql {
    table: "identity",
    postgres: holdings!(postgres "
        JOIN policy_left_out AS l ON l.shard_id = i.shard_id AND l.identity_key = i.identity_key
        WHERE (i.shard_id, i.identity_key) > (($1::jsonb->>'shard_id')::int, $1::jsonb->>'key')
        ORDER BY i.shard_id, i.identity_key LIMIT ($1::jsonb->>'limit')::bigint"),
    sqlite: holdings!(sqlite "
        JOIN policy_left_out AS l ON l.shard_id = i.shard_id AND l.identity_key = i.identity_key
        WHERE (i.shard_id, i.identity_key) > (?1 ->> 'shard_id', ?1 ->> 'key')
        ORDER BY i.shard_id, i.identity_key LIMIT ?1 ->> 'limit'"),
};

const EVENTS_OF: Sql = Sql {
    table: "business_event",
    postgres: "
        SELECT to_jsonb(e)::text FROM business_event AS e
        WHERE e.shard_id = ($1::jsonb->>'shard_id')::int AND e.subject = $1::jsonb->>'key'
        ORDER BY e.received_at DESC, e.event_id LIMIT ($1::jsonb->>'limit')::bigint",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'event_id', event_id, 'subject', subject, 'source', source,
            'event_type', event_type, 'version', version, 'occurred_at', occurred_at, 'effective_at', effective_at,
            'zone', zone, 'received_at', received_at, 'supersedes', supersedes, 'status', status,
            'data', json(data), 'cases', json(cases), 'initiator', initiator)
        FROM business_event
        WHERE shard_id = ?1 ->> 'shard_id' AND subject = ?1 ->> 'key'
        ORDER BY received_at DESC, event_id LIMIT ?1 ->> 'limit'",
};

const FOR_UPDATE: Sql = Sql {
    table: "identity",
    postgres: "
        SELECT to_jsonb(i)::text FROM identity AS i
        JOIN jsonb_to_recordset($1::jsonb) AS wanted(shard_id int, key text)
          ON i.shard_id = wanted.shard_id AND i.identity_key = wanted.key
        -- Always in the same order, so that two transactions cannot wait for each other.
        -- The order of bytes is the one in which long lists are cut.
        ORDER BY i.shard_id, i.identity_key COLLATE \"C\" FOR UPDATE OF i",
    // The one writer of SQLite holds the whole database already.
    sqlite: "
        SELECT json_object('shard_id', i.shard_id, 'identity_key', i.identity_key, 'identity_type', i.identity_type,
            'status', i.status, 'status_case', i.status_case, 'generation', i.generation, 'source', i.source,
            'display_name', i.display_name, 'attributes', json(i.attributes),
            'attributes_version', i.attributes_version, 'first_seen_at', i.first_seen_at,
            'changed_at', i.changed_at, 'departed_at', i.departed_at,
            'merged_into', i.merged_into, 'members', json(i.members), 'disputes', json(i.disputes))
        FROM json_each(?1) AS wanted
        JOIN identity AS i ON i.shard_id = wanted.value ->> 'shard_id' AND i.identity_key = wanted.value ->> 'key'",
};

const IN_TRANSACTION: Sql = Sql {
    table: "identity",
    postgres: "
        SELECT to_jsonb(i)::text FROM identity AS i
        JOIN jsonb_to_recordset($1::jsonb) AS wanted(shard_id int, key text)
          ON i.shard_id = wanted.shard_id AND i.identity_key = wanted.key",
    sqlite: "
        SELECT json_object('shard_id', i.shard_id, 'identity_key', i.identity_key, 'identity_type', i.identity_type,
            'status', i.status, 'status_case', i.status_case, 'generation', i.generation, 'source', i.source,
            'display_name', i.display_name, 'attributes', json(i.attributes),
            'attributes_version', i.attributes_version, 'first_seen_at', i.first_seen_at,
            'changed_at', i.changed_at, 'departed_at', i.departed_at,
            'merged_into', i.merged_into, 'members', json(i.members), 'disputes', json(i.disputes))
        FROM json_each(?1) AS wanted
        JOIN identity AS i ON i.shard_id = wanted.value ->> 'shard_id' AND i.identity_key = wanted.value ->> 'key'",
};

const INTRODUCE: Sql = Sql {
    table: "identity",
    postgres: "
        INSERT INTO identity (shard_id, identity_key, identity_type, status, status_case, generation, source,
            display_name, attributes, attributes_version, first_seen_at, changed_at, departed_at, merged_into, members, disputes)
        SELECT shard_id, identity_key, identity_type, status, status_case, generation, source,
            display_name, attributes, attributes_version, first_seen_at, changed_at, departed_at, merged_into, members, disputes
        FROM jsonb_populate_recordset(NULL::identity, $1::jsonb)
        ON CONFLICT (shard_id, identity_key) DO NOTHING",
    sqlite: "
        INSERT INTO identity (shard_id, identity_key, identity_type, status, status_case, generation, source,
            display_name, attributes, attributes_version, first_seen_at, changed_at, departed_at, merged_into, members, disputes)
        SELECT value ->> 'shard_id', value ->> 'identity_key', value ->> 'identity_type', value ->> 'status',
            value ->> 'status_case', value ->> 'generation', value ->> 'source', value ->> 'display_name',
            value -> 'attributes', value ->> 'attributes_version', value ->> 'first_seen_at',
            value ->> 'changed_at', value ->> 'departed_at', value ->> 'merged_into', value -> 'members',
            value -> 'disputes'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, identity_key) DO NOTHING",
};

const PUT: Sql = Sql {
    table: "identity",
    postgres: "
        INSERT INTO identity (shard_id, identity_key, identity_type, status, status_case, generation, source,
            display_name, attributes, attributes_version, first_seen_at, changed_at, departed_at, merged_into, members, disputes)
        SELECT shard_id, identity_key, identity_type, status, status_case, generation, source,
            display_name, attributes, attributes_version, first_seen_at, changed_at, departed_at, merged_into, members, disputes
        FROM jsonb_populate_recordset(NULL::identity, $1::jsonb)
        ON CONFLICT (shard_id, identity_key) DO UPDATE SET
            identity_type = excluded.identity_type, status = excluded.status, status_case = excluded.status_case,
            generation = excluded.generation, source = excluded.source, display_name = excluded.display_name,
            attributes = excluded.attributes, attributes_version = excluded.attributes_version,
            changed_at = excluded.changed_at, departed_at = excluded.departed_at,
            merged_into = excluded.merged_into, members = excluded.members, disputes = excluded.disputes",
    sqlite: "
        INSERT INTO identity (shard_id, identity_key, identity_type, status, status_case, generation, source,
            display_name, attributes, attributes_version, first_seen_at, changed_at, departed_at, merged_into, members, disputes)
        SELECT value ->> 'shard_id', value ->> 'identity_key', value ->> 'identity_type', value ->> 'status',
            value ->> 'status_case', value ->> 'generation', value ->> 'source', value ->> 'display_name',
            value -> 'attributes', value ->> 'attributes_version', value ->> 'first_seen_at',
            value ->> 'changed_at', value ->> 'departed_at', value ->> 'merged_into', value -> 'members',
            value -> 'disputes'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, identity_key) DO UPDATE SET
            identity_type = excluded.identity_type, status = excluded.status, status_case = excluded.status_case,
            generation = excluded.generation, source = excluded.source, display_name = excluded.display_name,
            attributes = excluded.attributes, attributes_version = excluded.attributes_version,
            changed_at = excluded.changed_at, departed_at = excluded.departed_at,
            merged_into = excluded.merged_into, members = excluded.members, disputes = excluded.disputes",
};
