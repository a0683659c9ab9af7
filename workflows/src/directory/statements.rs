//! The statements of the projection.

use super::database::Sql;

pub const PUT_ACCOUNTS: Sql = Sql {
    table: "account",
    postgres: "
        INSERT INTO account (shard_id, identity_key, system, native_id, name, status, attributes_digest,
            created_at, disabled_at, changed_at, verified_at, unverified, case_id)
        SELECT shard_id, identity_key, system, COALESCE(native_id, ''), COALESCE(name, ''), status, attributes_digest,
            created_at, disabled_at, changed_at, verified_at, unverified, case_id
        FROM jsonb_populate_recordset(NULL::account, $1::jsonb)
        ON CONFLICT (shard_id, identity_key, system) DO UPDATE SET
            native_id = COALESCE(NULLIF(excluded.native_id, ''), account.native_id),
            name = COALESCE(NULLIF(excluded.name, ''), account.name),
            -- A change of attributes says nothing about the status.
            status = CASE excluded.status WHEN 'planned' THEN account.status ELSE excluded.status END,
            attributes_digest = COALESCE(excluded.attributes_digest, account.attributes_digest),
            created_at = CASE WHEN account.status IN ('active', 'disabled') THEN COALESCE(account.created_at, excluded.created_at)
                ELSE COALESCE(excluded.created_at, account.created_at) END,
            disabled_at = CASE excluded.status WHEN 'active' THEN NULL
                ELSE COALESCE(excluded.disabled_at, account.disabled_at) END,
            changed_at = excluded.changed_at, verified_at = excluded.verified_at, unverified = excluded.unverified,
            case_id = excluded.case_id",
    sqlite: "
        INSERT INTO account (shard_id, identity_key, system, native_id, name, status, attributes_digest,
            created_at, disabled_at, changed_at, verified_at, unverified, case_id)
        SELECT value ->> 'shard_id', value ->> 'identity_key', value ->> 'system',
            COALESCE(value ->> 'native_id', ''), COALESCE(value ->> 'name', ''), value ->> 'status',
            value ->> 'attributes_digest', value ->> 'created_at', value ->> 'disabled_at', value ->> 'changed_at',
            value ->> 'verified_at', value ->> 'unverified', value ->> 'case_id'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, identity_key, system) DO UPDATE SET
            native_id = COALESCE(NULLIF(excluded.native_id, ''), account.native_id),
            name = COALESCE(NULLIF(excluded.name, ''), account.name),
            -- A change of attributes says nothing about the status.
            status = CASE excluded.status WHEN 'planned' THEN account.status ELSE excluded.status END,
            attributes_digest = COALESCE(excluded.attributes_digest, account.attributes_digest),
            created_at = CASE WHEN account.status IN ('active', 'disabled') THEN COALESCE(account.created_at, excluded.created_at)
                ELSE COALESCE(excluded.created_at, account.created_at) END,
            disabled_at = CASE excluded.status WHEN 'active' THEN NULL
                ELSE COALESCE(excluded.disabled_at, account.disabled_at) END,
            changed_at = excluded.changed_at, verified_at = excluded.verified_at, unverified = excluded.unverified,
            case_id = excluded.case_id",
};

pub const PUT_GRANTS: Sql = Sql {
    table: "grant_held",
    postgres: "
        INSERT INTO grant_held (shard_id, identity_key, system, entitlement, status, held_by, reasons, policy_hash,
            since, until, verified_at, unverified, case_id)
        SELECT shard_id, identity_key, system, entitlement, status, held_by, reasons, policy_hash,
            since, until, verified_at, unverified, case_id
        FROM jsonb_populate_recordset(NULL::grant_held, $1::jsonb)
        ON CONFLICT (shard_id, identity_key, system, entitlement) DO UPDATE SET
            status = excluded.status,
            -- What ended keeps the reason it had.
            reasons = CASE excluded.status WHEN 'active' THEN excluded.reasons ELSE grant_held.reasons END,
            held_by = CASE excluded.status WHEN 'active' THEN excluded.held_by ELSE grant_held.held_by END,
            policy_hash = COALESCE(excluded.policy_hash, grant_held.policy_hash),
            since = CASE WHEN grant_held.status = 'active' THEN grant_held.since
                ELSE COALESCE(excluded.since, grant_held.since) END,
            -- Given by a role, or gone, it is no exception any more.
            exception_until = CASE excluded.status WHEN 'uncertain' THEN grant_held.exception_until ELSE NULL END,
            until = excluded.until, verified_at = excluded.verified_at, unverified = excluded.unverified,
            case_id = excluded.case_id",
    sqlite: "
        INSERT INTO grant_held (shard_id, identity_key, system, entitlement, status, held_by, reasons, policy_hash,
            since, until, verified_at, unverified, case_id)
        SELECT value ->> 'shard_id', value ->> 'identity_key', value ->> 'system', value ->> 'entitlement',
            value ->> 'status', value ->> 'held_by', value -> 'reasons', value ->> 'policy_hash', value ->> 'since',
            value ->> 'until', value ->> 'verified_at', value ->> 'unverified', value ->> 'case_id'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, identity_key, system, entitlement) DO UPDATE SET
            status = excluded.status,
            -- What ended keeps the reason it had.
            reasons = CASE excluded.status WHEN 'active' THEN excluded.reasons ELSE grant_held.reasons END,
            held_by = CASE excluded.status WHEN 'active' THEN excluded.held_by ELSE grant_held.held_by END,
            policy_hash = COALESCE(excluded.policy_hash, grant_held.policy_hash),
            since = CASE WHEN grant_held.status = 'active' THEN grant_held.since
                ELSE COALESCE(excluded.since, grant_held.since) END,
            -- Given by a role, or gone, it is no exception any more.
            exception_until = CASE excluded.status WHEN 'uncertain' THEN grant_held.exception_until ELSE NULL END,
            until = excluded.until, verified_at = excluded.verified_at, unverified = excluded.unverified,
            case_id = excluded.case_id",
};

/// With an account go all its rights.
pub const CLOSE_GRANTS: Sql = Sql {
    table: "grant_held",
    postgres: "
        UPDATE grant_held AS g SET status = 'revoked', until = gone.at, exception_until = NULL
        FROM jsonb_to_recordset($1::jsonb) AS gone(shard_id int, identity_key text, system text, at timestamptz)
        WHERE g.shard_id = gone.shard_id AND g.identity_key = gone.identity_key AND g.system = gone.system
          AND g.status <> 'revoked'",
    sqlite: "
        UPDATE grant_held SET status = 'revoked', until = gone.value ->> 'at', exception_until = NULL
        FROM json_each(?1) AS gone
        WHERE grant_held.shard_id = gone.value ->> 'shard_id' AND grant_held.identity_key = gone.value ->> 'identity_key'
          AND grant_held.system = gone.value ->> 'system' AND grant_held.status <> 'revoked'",
};

pub const REASONS: Sql = Sql {
    table: "grant_held",
    postgres: "
        UPDATE grant_held AS g SET reasons = now.reasons, policy_hash = now.policy_hash
        FROM jsonb_to_recordset($1::jsonb)
            AS now(shard_id int, identity_key text, system text, entitlement text, reasons jsonb, policy_hash text)
        WHERE g.shard_id = now.shard_id AND g.identity_key = now.identity_key AND g.system = now.system
          AND g.entitlement = now.entitlement AND g.status = 'active'",
    sqlite: "
        UPDATE grant_held SET reasons = changed.value -> 'reasons', policy_hash = changed.value ->> 'policy_hash'
        FROM json_each(?1) AS changed
        WHERE grant_held.shard_id = changed.value ->> 'shard_id'
          AND grant_held.identity_key = changed.value ->> 'identity_key'
          AND grant_held.system = changed.value ->> 'system'
          AND grant_held.entitlement = changed.value ->> 'entitlement' AND grant_held.status = 'active'",
};

/// Until when a right is kept that is to go or is asked about; no end for one that stays.
pub const ENDS: Sql = Sql {
    table: "grant_held",
    postgres: "
        UPDATE grant_held AS g SET until = now.until
        FROM jsonb_to_recordset($1::jsonb)
            AS now(shard_id int, identity_key text, system text, entitlement text, until timestamptz)
        WHERE g.shard_id = now.shard_id AND g.identity_key = now.identity_key AND g.system = now.system
          AND g.entitlement = now.entitlement AND g.status = 'active'",
    sqlite: "
        UPDATE grant_held SET until = changed.value ->> 'until'
        FROM json_each(?1) AS changed
        WHERE grant_held.shard_id = changed.value ->> 'shard_id'
          AND grant_held.identity_key = changed.value ->> 'identity_key'
          AND grant_held.system = changed.value ->> 'system'
          AND grant_held.entitlement = changed.value ->> 'entitlement' AND grant_held.status = 'active'",
};

/// Rights that somebody confirmed: why, and until when they are held from now on. What is not said stays as it is.
pub const EXCEPT: Sql = Sql {
    table: "grant_held",
    postgres: "
        UPDATE grant_held AS g SET
            held_by = COALESCE(now.held_by, g.held_by),
            reasons = CASE WHEN now.held_by = 'exception' AND g.held_by <> 'exception' THEN '[]' ELSE g.reasons END,
            exception_until = CASE COALESCE(now.held_by, g.held_by)
                WHEN 'exception' THEN COALESCE(now.exception_until, g.exception_until) END
        FROM jsonb_to_recordset($1::jsonb)
            AS now(shard_id int, identity_key text, system text, entitlement text, held_by text, exception_until timestamptz)
        WHERE g.shard_id = now.shard_id AND g.identity_key = now.identity_key AND g.system = now.system
          AND g.entitlement = now.entitlement AND g.status = 'active'",
    sqlite: "
        UPDATE grant_held SET
            held_by = COALESCE(changed.value ->> 'held_by', held_by),
            reasons = CASE WHEN changed.value ->> 'held_by' = 'exception' AND held_by <> 'exception' THEN '[]' ELSE reasons END,
            exception_until = CASE COALESCE(changed.value ->> 'held_by', held_by)
                WHEN 'exception' THEN COALESCE(changed.value ->> 'exception_until', exception_until) END
        FROM json_each(?1) AS changed
        WHERE grant_held.shard_id = changed.value ->> 'shard_id'
          AND grant_held.identity_key = changed.value ->> 'identity_key'
          AND grant_held.system = changed.value ->> 'system'
          AND grant_held.entitlement = changed.value ->> 'entitlement' AND grant_held.status = 'active'",
};

pub const PUT_LAGS: Sql = Sql {
    table: "access_lag",
    postgres: "
        INSERT INTO access_lag (shard_id, case_id, system, kind, identity_key, workflow, effective_at, received_at,
            finished_at, step_count, unverified_count)
        SELECT shard_id, case_id, system, kind, identity_key, workflow, effective_at, received_at,
            finished_at, step_count, unverified_count
        FROM jsonb_populate_recordset(NULL::access_lag, $1::jsonb)
        ON CONFLICT (shard_id, case_id, system, kind) DO UPDATE SET
            -- Later than before where steps of one case are due one after the other.
            effective_at = GREATEST(access_lag.effective_at, excluded.effective_at),
            finished_at = GREATEST(access_lag.finished_at, excluded.finished_at),
            step_count = access_lag.step_count + excluded.step_count,
            unverified_count = access_lag.unverified_count + excluded.unverified_count",
    sqlite: "
        INSERT INTO access_lag (shard_id, case_id, system, kind, identity_key, workflow, effective_at, received_at,
            finished_at, step_count, unverified_count)
        SELECT value ->> 'shard_id', value ->> 'case_id', value ->> 'system', value ->> 'kind',
            value ->> 'identity_key', value ->> 'workflow', value ->> 'effective_at', value ->> 'received_at',
            value ->> 'finished_at', value ->> 'step_count', value ->> 'unverified_count'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, case_id, system, kind) DO UPDATE SET
            -- Later than before where steps of one case are due one after the other.
            effective_at = max(access_lag.effective_at, excluded.effective_at),
            finished_at = max(access_lag.finished_at, excluded.finished_at),
            step_count = access_lag.step_count + excluded.step_count,
            unverified_count = access_lag.unverified_count + excluded.unverified_count",
};

/// Only the generation that is meant: a joiner from before somebody left cannot bring them back.
pub const ACTIVATE: Sql = Sql {
    table: "identity",
    postgres: "
        UPDATE identity AS i SET status = 'active', status_case = NULL, departed_at = NULL, changed_at = now.at
        FROM jsonb_to_recordset($1::jsonb) AS now(shard_id int, identity_key text, generation int, at timestamptz)
        WHERE i.shard_id = now.shard_id AND i.identity_key = now.identity_key
          AND i.generation = now.generation AND i.status = 'expected'",
    sqlite: "
        UPDATE identity SET status = 'active', status_case = NULL, departed_at = NULL, changed_at = changed.value ->> 'at'
        FROM json_each(?1) AS changed
        WHERE identity.shard_id = changed.value ->> 'shard_id' AND identity.identity_key = changed.value ->> 'identity_key'
          AND identity.generation = changed.value ->> 'generation' AND identity.status = 'expected'",
};

pub const LEAVE: Sql = Sql {
    table: "identity",
    postgres: "
        UPDATE identity AS i SET status = 'leaving', status_case = now.case_id, changed_at = now.at
        FROM jsonb_to_recordset($1::jsonb)
            AS now(shard_id int, identity_key text, generation int, case_id text, at timestamptz)
        WHERE i.shard_id = now.shard_id AND i.identity_key = now.identity_key
          -- Somebody who has come back is not touched by the case of their earlier end.
          AND i.generation <= now.generation AND i.status NOT IN ('departed', 'merged')",
    sqlite: "
        UPDATE identity SET status = 'leaving', status_case = changed.value ->> 'case_id', changed_at = changed.value ->> 'at'
        FROM json_each(?1) AS changed
        WHERE identity.shard_id = changed.value ->> 'shard_id' AND identity.identity_key = changed.value ->> 'identity_key'
          -- Somebody who has come back is not touched by the case of their earlier end.
          AND identity.generation <= changed.value ->> 'generation' AND identity.status NOT IN ('departed', 'merged')",
};

/// Every closed case is offered; only the one that made the person leave matches.
pub const DEPART: Sql = Sql {
    table: "identity",
    postgres: "
        UPDATE identity AS i SET status = 'departed', departed_at = now.at, changed_at = now.at
        FROM jsonb_to_recordset($1::jsonb) AS now(shard_id int, identity_key text, case_id text, at timestamptz)
        WHERE i.shard_id = now.shard_id AND i.identity_key = now.identity_key
          AND i.status = 'leaving' AND i.status_case = now.case_id",
    sqlite: "
        UPDATE identity SET status = 'departed', departed_at = changed.value ->> 'at', changed_at = changed.value ->> 'at'
        FROM json_each(?1) AS changed
        WHERE identity.shard_id = changed.value ->> 'shard_id' AND identity.identity_key = changed.value ->> 'identity_key'
          AND identity.status = 'leaving' AND identity.status_case = changed.value ->> 'case_id'",
};
