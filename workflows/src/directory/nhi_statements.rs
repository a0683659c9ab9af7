//! The statements about non-human identities and their graph, in both dialects.

use super::database::Sql;

pub(super) const PEOPLE: Sql = Sql {
    table: "identity",
    postgres: "
        SELECT jsonb_build_object('identity_key', i.identity_key, 'status', i.status)::text
        FROM jsonb_to_recordset($1::jsonb) AS wanted(shard_id int, key text)
        JOIN identity AS i ON i.shard_id = wanted.shard_id AND i.identity_key = wanted.key",
    sqlite: "
        SELECT json_object('identity_key', i.identity_key, 'status', i.status)
        FROM json_each(?1) AS wanted
        JOIN identity AS i ON i.shard_id = wanted.value ->> 'shard_id' AND i.identity_key = wanted.value ->> 'key'",
};

pub(super) const NHIS: Sql = Sql {
    table: "nhi",
    postgres: "
        SELECT to_jsonb(n)::text
        FROM jsonb_to_recordset($1::jsonb) AS wanted(shard_id int, key text)
        JOIN nhi AS n ON n.shard_id = wanted.shard_id AND n.nhi_key = wanted.key",
    sqlite: "
        SELECT json_object('shard_id', n.shard_id, 'nhi_key', n.nhi_key, 'kind', n.kind, 'status', n.status,
            'environment', n.environment, 'team', n.team, 'owner', n.owner, 'backup', n.backup,
            'review_on', n.review_on, 'declared', json(n.declared), 'restore_s', n.restore_s,
            'quiet_since', n.quiet_since, 'declared_at', n.declared_at, 'changed_at', n.changed_at)
        FROM json_each(?1) AS wanted
        JOIN nhi AS n ON n.shard_id = wanted.value ->> 'shard_id' AND n.nhi_key = wanted.value ->> 'key'",
};

pub(super) const LIST: Sql = Sql {
    table: "nhi",
    postgres: "
        SELECT to_jsonb(n)::text
        FROM jsonb_to_record($1::jsonb) AS w(person text, team text, environment text, review_by date, after text,
            \"limit\" bigint)
        JOIN nhi AS n ON n.nhi_key COLLATE \"C\" > w.after
        WHERE (w.person IS NULL OR n.owner = w.person OR n.backup = w.person)
          AND (w.team IS NULL OR n.team = w.team)
          AND (w.environment IS NULL OR n.environment = w.environment)
          AND (w.review_by IS NULL OR n.review_on <= w.review_by)
        ORDER BY n.nhi_key COLLATE \"C\" LIMIT (SELECT ($1::jsonb->>'limit')::bigint)",
    sqlite: "
        SELECT json_object('shard_id', n.shard_id, 'nhi_key', n.nhi_key, 'kind', n.kind, 'status', n.status,
            'environment', n.environment, 'team', n.team, 'owner', n.owner, 'backup', n.backup,
            'review_on', n.review_on, 'declared', json(n.declared), 'restore_s', n.restore_s,
            'quiet_since', n.quiet_since, 'declared_at', n.declared_at, 'changed_at', n.changed_at)
        FROM nhi AS n
        WHERE n.nhi_key > ?1 ->> 'after'
          AND (?1 ->> 'person' IS NULL OR n.owner = ?1 ->> 'person' OR n.backup = ?1 ->> 'person')
          AND (?1 ->> 'team' IS NULL OR n.team = ?1 ->> 'team')
          AND (?1 ->> 'environment' IS NULL OR n.environment = ?1 ->> 'environment')
          AND (?1 ->> 'review_by' IS NULL OR n.review_on <= ?1 ->> 'review_by')
        ORDER BY n.nhi_key LIMIT ?1 ->> 'limit'",
};

pub(super) const PUT_NHIS: Sql = Sql {
    table: "nhi",
    postgres: "
        INSERT INTO nhi (shard_id, nhi_key, kind, status, environment, team, owner, backup, review_on, declared,
            restore_s, quiet_since, declared_at, changed_at)
        SELECT shard_id, nhi_key, kind, status, environment, team, owner, backup, review_on, declared, restore_s,
            quiet_since, declared_at, changed_at
        FROM jsonb_populate_recordset(NULL::nhi, $1::jsonb)
        ON CONFLICT (shard_id, nhi_key) DO UPDATE SET kind = excluded.kind, status = excluded.status,
            environment = excluded.environment, team = excluded.team, owner = excluded.owner,
            backup = excluded.backup, review_on = excluded.review_on, declared = excluded.declared,
            declared_at = excluded.declared_at, changed_at = excluded.changed_at",
    sqlite: "
        INSERT INTO nhi (shard_id, nhi_key, kind, status, environment, team, owner, backup, review_on, declared,
            restore_s, quiet_since, declared_at, changed_at)
        SELECT value ->> 'shard_id', value ->> 'nhi_key', value ->> 'kind', value ->> 'status',
            value ->> 'environment', value ->> 'team', value ->> 'owner', value ->> 'backup', value ->> 'review_on',
            value -> 'declared', value ->> 'restore_s', value ->> 'quiet_since', value ->> 'declared_at',
            value ->> 'changed_at'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, nhi_key) DO UPDATE SET kind = excluded.kind, status = excluded.status,
            environment = excluded.environment, team = excluded.team, owner = excluded.owner,
            backup = excluded.backup, review_on = excluded.review_on, declared = excluded.declared,
            declared_at = excluded.declared_at, changed_at = excluded.changed_at",
};

pub(super) const OF_NHIS: Sql = Sql {
    table: "nhi_credential",
    postgres: "
        SELECT to_jsonb(c)::text
        FROM jsonb_to_recordset($1::jsonb) AS wanted(shard_id int, key text)
        JOIN nhi_credential AS c ON c.shard_id = wanted.shard_id AND c.nhi_key = wanted.key
        WHERE c.status <> 'ended'",
    sqlite: "
        SELECT json_object('shard_id', c.shard_id, 'nhi_key', c.nhi_key, 'name', c.name, 'kind', c.kind,
            'status', c.status, 'issued_at', c.issued_at, 'expires_at', c.expires_at, 'quiet_since', c.quiet_since,
            'changed_at', c.changed_at)
        FROM json_each(?1) AS wanted
        JOIN nhi_credential AS c ON c.shard_id = wanted.value ->> 'shard_id' AND c.nhi_key = wanted.value ->> 'key'
        WHERE c.status <> 'ended'",
};

pub(super) const NAMED: Sql = Sql {
    table: "nhi_credential",
    postgres: "
        SELECT to_jsonb(c)::text
        FROM jsonb_to_recordset($1::jsonb) AS wanted(key text)
        JOIN nhi_credential AS c ON c.name = wanted.key",
    sqlite: "
        SELECT json_object('shard_id', c.shard_id, 'nhi_key', c.nhi_key, 'name', c.name, 'kind', c.kind,
            'status', c.status, 'issued_at', c.issued_at, 'expires_at', c.expires_at, 'quiet_since', c.quiet_since,
            'changed_at', c.changed_at)
        FROM json_each(?1) AS wanted
        JOIN nhi_credential AS c ON c.name = wanted.value ->> 'key'",
};

pub(super) const EXPIRING: Sql = Sql {
    table: "nhi_credential",
    postgres: "
        SELECT to_jsonb(c)::text FROM nhi_credential AS c
        WHERE c.status <> 'ended' AND c.expires_at < ($1::jsonb->>'before')::timestamptz
        ORDER BY c.expires_at, c.name LIMIT ($1::jsonb->>'limit')::bigint",
    sqlite: "
        SELECT json_object('shard_id', c.shard_id, 'nhi_key', c.nhi_key, 'name', c.name, 'kind', c.kind,
            'status', c.status, 'issued_at', c.issued_at, 'expires_at', c.expires_at, 'quiet_since', c.quiet_since,
            'changed_at', c.changed_at)
        FROM nhi_credential AS c
        WHERE c.status <> 'ended' AND c.expires_at < ?1 ->> 'before'
        ORDER BY c.expires_at, c.name LIMIT ?1 ->> 'limit'",
};

pub(super) const PUT_CREDENTIALS: Sql = Sql {
    table: "nhi_credential",
    postgres: "
        INSERT INTO nhi_credential (shard_id, nhi_key, name, kind, status, issued_at, expires_at, quiet_since,
            changed_at)
        SELECT shard_id, nhi_key, name, kind, status, issued_at, expires_at, quiet_since, changed_at
        FROM jsonb_populate_recordset(NULL::nhi_credential, $1::jsonb)
        ON CONFLICT (shard_id, nhi_key, name) DO UPDATE SET kind = excluded.kind, status = excluded.status,
            issued_at = excluded.issued_at, expires_at = excluded.expires_at, changed_at = excluded.changed_at",
    sqlite: "
        INSERT INTO nhi_credential (shard_id, nhi_key, name, kind, status, issued_at, expires_at, quiet_since,
            changed_at)
        SELECT value ->> 'shard_id', value ->> 'nhi_key', value ->> 'name', value ->> 'kind', value ->> 'status',
            value ->> 'issued_at', value ->> 'expires_at', value ->> 'quiet_since', value ->> 'changed_at'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, nhi_key, name) DO UPDATE SET kind = excluded.kind, status = excluded.status,
            issued_at = excluded.issued_at, expires_at = excluded.expires_at, changed_at = excluded.changed_at",
};

pub(super) const CHANGES: Sql = Sql {
    table: "nhi_change",
    postgres: "
        SELECT to_jsonb(c)::text FROM nhi_change AS c
        WHERE c.shard_id = ($1::jsonb->>'shard_id')::int AND c.nhi_key = $1::jsonb->>'key'
        ORDER BY c.at DESC, c.change_id LIMIT 500",
    sqlite: "
        SELECT json_object('at', at, 'change', change, 'by_actor', by_actor, 'reason', reason,
            'after_digest', after_digest)
        FROM nhi_change WHERE shard_id = ?1 ->> 'shard_id' AND nhi_key = ?1 ->> 'key'
        ORDER BY at DESC, change_id LIMIT 500",
};

pub(super) const PUT_CHANGES: Sql = Sql {
    table: "nhi_change",
    postgres: "
        INSERT INTO nhi_change (shard_id, nhi_key, at, change_id, change, by_actor, reason, before_digest,
            after_digest)
        SELECT shard_id, nhi_key, at, change_id, change, by_actor, reason, before_digest, after_digest
        FROM jsonb_populate_recordset(NULL::nhi_change, $1::jsonb)
        ON CONFLICT (shard_id, nhi_key, at, change_id) DO NOTHING",
    sqlite: "
        INSERT INTO nhi_change (shard_id, nhi_key, at, change_id, change, by_actor, reason, before_digest,
            after_digest)
        SELECT value ->> 'shard_id', value ->> 'nhi_key', value ->> 'at', value ->> 'change_id', value ->> 'change',
            value ->> 'by_actor', value ->> 'reason', value ->> 'before_digest', value ->> 'after_digest'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, nhi_key, at, change_id) DO NOTHING",
};

/// Both ways, each by its own index.
pub(super) const EDGES: Sql = Sql {
    table: "graph_edge",
    postgres: "
        SELECT to_jsonb(e)::text
        FROM jsonb_to_recordset($1::jsonb) AS wanted(shard_id int, key text)
        JOIN graph_edge AS e ON e.shard_id = wanted.shard_id AND e.to_node = wanted.key
        UNION
        SELECT to_jsonb(e)::text
        FROM jsonb_to_recordset($1::jsonb) AS wanted(shard_id int, key text)
        JOIN graph_edge AS e ON e.from_node = wanted.key",
    sqlite: "
        SELECT json_object('shard_id', e.shard_id, 'to_node', e.to_node, 'relation', e.relation,
            'from_node', e.from_node, 'source', e.source, 'confidence', e.confidence,
            'first_seen_at', e.first_seen_at, 'last_seen_at', e.last_seen_at)
        FROM json_each(?1) AS wanted
        JOIN graph_edge AS e ON e.shard_id = wanted.value ->> 'shard_id' AND e.to_node = wanted.value ->> 'key'
        UNION
        SELECT json_object('shard_id', e.shard_id, 'to_node', e.to_node, 'relation', e.relation,
            'from_node', e.from_node, 'source', e.source, 'confidence', e.confidence,
            'first_seen_at', e.first_seen_at, 'last_seen_at', e.last_seen_at)
        FROM json_each(?1) AS wanted
        JOIN graph_edge AS e ON e.from_node = wanted.value ->> 'key'",
};

pub(super) const PUT_EDGES: Sql = Sql {
    table: "graph_edge",
    postgres: "
        INSERT INTO graph_edge AS e (shard_id, to_node, relation, from_node, source, confidence, first_seen_at,
            last_seen_at)
        SELECT shard_id, to_node, relation, from_node, source, confidence, first_seen_at, last_seen_at
        FROM jsonb_populate_recordset(NULL::graph_edge, $1::jsonb)
        ON CONFLICT (shard_id, to_node, relation, from_node, source) DO UPDATE SET
            confidence = excluded.confidence,
            first_seen_at = LEAST(e.first_seen_at, excluded.first_seen_at),
            last_seen_at = GREATEST(e.last_seen_at, excluded.last_seen_at)",
    sqlite: "
        INSERT INTO graph_edge (shard_id, to_node, relation, from_node, source, confidence, first_seen_at,
            last_seen_at)
        SELECT value ->> 'shard_id', value ->> 'to_node', value ->> 'relation', value ->> 'from_node',
            value ->> 'source', value ->> 'confidence', value ->> 'first_seen_at', value ->> 'last_seen_at'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, to_node, relation, from_node, source) DO UPDATE SET
            confidence = excluded.confidence,
            first_seen_at = min(graph_edge.first_seen_at, excluded.first_seen_at),
            last_seen_at = max(graph_edge.last_seen_at, excluded.last_seen_at)",
};

pub(super) const DROP_EDGES: Sql = Sql {
    table: "graph_edge",
    postgres: "
        DELETE FROM graph_edge AS e
        USING jsonb_populate_recordset(NULL::graph_edge, $1::jsonb) AS gone
        WHERE e.shard_id = gone.shard_id AND e.to_node = gone.to_node AND e.relation = gone.relation
          AND e.from_node = gone.from_node AND e.source = gone.source",
    sqlite: "
        DELETE FROM graph_edge WHERE (shard_id, to_node, relation, from_node, source) IN (
            SELECT value ->> 'shard_id', value ->> 'to_node', value ->> 'relation', value ->> 'from_node',
                value ->> 'source'
            FROM json_each(?1))",
};

pub(super) const COVERAGE: Sql = Sql {
    table: "graph_coverage",
    postgres: "
        SELECT to_jsonb(c)::text
        FROM jsonb_to_recordset($1::jsonb) AS wanted(shard_id int, key text)
        JOIN graph_coverage AS c ON c.shard_id = wanted.shard_id AND c.node = wanted.key",
    sqlite: "
        SELECT json_object('shard_id', c.shard_id, 'node', c.node, 'source', c.source, 'seen_from', c.seen_from,
            'seen_until', c.seen_until, 'delay_s', c.delay_s, 'blind_spots', json(c.blind_spots),
            'required', json(CASE WHEN c.required THEN 'true' ELSE 'false' END))
        FROM json_each(?1) AS wanted
        JOIN graph_coverage AS c ON c.shard_id = wanted.value ->> 'shard_id' AND c.node = wanted.value ->> 'key'",
};

pub(super) const PUT_COVERAGE: Sql = Sql {
    table: "graph_coverage",
    postgres: "
        INSERT INTO graph_coverage (shard_id, node, source, seen_from, seen_until, delay_s, blind_spots, required)
        SELECT shard_id, node, source, seen_from, seen_until, delay_s, blind_spots, required
        FROM jsonb_populate_recordset(NULL::graph_coverage, $1::jsonb)
        ON CONFLICT (shard_id, node, source) DO UPDATE SET seen_from = excluded.seen_from,
            seen_until = excluded.seen_until, delay_s = excluded.delay_s, blind_spots = excluded.blind_spots,
            required = excluded.required",
    sqlite: "
        INSERT INTO graph_coverage (shard_id, node, source, seen_from, seen_until, delay_s, blind_spots, required)
        SELECT value ->> 'shard_id', value ->> 'node', value ->> 'source', value ->> 'seen_from',
            value ->> 'seen_until', value ->> 'delay_s', value -> 'blind_spots', value ->> 'required'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, node, source) DO UPDATE SET seen_from = excluded.seen_from,
            seen_until = excluded.seen_until, delay_s = excluded.delay_s, blind_spots = excluded.blind_spots,
            required = excluded.required",
};

/// Whether it is out of use on purpose.
pub(super) const MARK: Sql = Sql {
    table: "nhi",
    postgres: "
        UPDATE nhi SET status = w.status, quiet_since = w.quiet_since, restore_s = coalesce(w.restore_s, nhi.restore_s),
            changed_at = w.changed_at
        FROM jsonb_to_record($1::jsonb) AS w(shard_id int, key text, status text, quiet_since timestamptz,
            restore_s bigint, changed_at timestamptz)
        WHERE nhi.shard_id = w.shard_id AND nhi.nhi_key = w.key AND nhi.status <> 'retired'",
    sqlite: "
        UPDATE nhi SET status = ?1 ->> 'status', quiet_since = ?1 ->> 'quiet_since',
            restore_s = coalesce(?1 ->> 'restore_s', restore_s), changed_at = ?1 ->> 'changed_at'
        WHERE shard_id = ?1 ->> 'shard_id' AND nhi_key = ?1 ->> 'key' AND status <> 'retired'",
};
