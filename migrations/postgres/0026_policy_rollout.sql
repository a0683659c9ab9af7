-- How everybody comes under a policy that came into force, and by which policy each node decides. All rows lie in the shard of
-- the word `policy`.

-- One row for each policy that took the place of another.
CREATE TABLE policy_rollout (
    shard_id INTEGER NOT NULL,
    rollout_id TEXT NOT NULL,
    policy_hash TEXT NOT NULL,
    -- The policy before, whose guard measures.
    base_hash TEXT NOT NULL,
    -- pending | waiting | running | done | rejected | superseded
    status TEXT NOT NULL,
    -- The person who holds it, whatever its status is.
    paused_by TEXT,
    -- The last person who was looked at, by shard and key.
    cursor_shard INTEGER NOT NULL,
    cursor_key TEXT NOT NULL,
    begun_at TIMESTAMPTZ NOT NULL,
    begun_by TEXT NOT NULL,
    -- Who approved what it does; NULL when nobody had to.
    approved_by TEXT,
    -- What they were shown: counts by operation and slice.
    approved JSONB,
    -- Whom there was to look at when it was measured; who was looked at, who got a case, for whom a rule had no answer.
    people BIGINT NOT NULL,
    looked BIGINT NOT NULL,
    started BIGINT NOT NULL,
    undecided BIGINT NOT NULL,
    -- What approve and reject take; NULL before it was measured.
    difference_id TEXT,
    blast JSONB,
    -- Why the guard stopped it, as sentences; NULL when it did not.
    stopped_by JSONB,
    changed_at TIMESTAMPTZ NOT NULL,
    -- One higher with each write: who read an older one writes nothing.
    revision BIGINT NOT NULL,
    PRIMARY KEY (shard_id, rollout_id)
);

-- What people did to it, and why. Added to, never changed.
CREATE TABLE policy_rollout_change (
    shard_id INTEGER NOT NULL,
    rollout_id TEXT NOT NULL,
    -- The revision it made.
    revision BIGINT NOT NULL,
    at TIMESTAMPTZ NOT NULL,
    -- pause | resume | approve | reject
    change TEXT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (shard_id, rollout_id, revision)
);

-- The policy that each node decides by, as it says itself.
CREATE TABLE policy_loaded (
    shard_id INTEGER NOT NULL,
    node TEXT NOT NULL,
    policy_hash TEXT NOT NULL,
    at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (shard_id, node)
);
