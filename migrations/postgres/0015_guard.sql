-- What the guard remembers beside what is pushed: what each source changed lately, events that are held back, sources that
-- are not believed, and the policies that were in force. Rows have the shard of their source.

-- How many people one change of a source concerned, by operation and slice; kept as long as the guard looks back.
CREATE TABLE guard_tally (
    shard_id INTEGER NOT NULL,
    source TEXT NOT NULL,
    tally_id TEXT NOT NULL,
    -- The moment the source speaks of.
    at TIMESTAMPTZ NOT NULL,
    slices JSONB NOT NULL,
    PRIMARY KEY (shard_id, source, tally_id)
);

-- Events that wait for a person.
CREATE TABLE guard_held_event (
    shard_id INTEGER NOT NULL,
    source TEXT NOT NULL,
    event_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    event JSONB NOT NULL,
    held_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (shard_id, source, event_id)
);

-- Why a source is not believed at the moment.
CREATE TABLE source_doubt (
    shard_id INTEGER NOT NULL,
    source TEXT NOT NULL,
    since TIMESTAMPTZ NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (shard_id, source)
);

-- Policies by their hash, all in the shard of the word `policy`.
CREATE TABLE policy_version (
    shard_id INTEGER NOT NULL,
    policy_hash TEXT NOT NULL,
    -- in_force | waiting | rejected | past
    status TEXT NOT NULL,
    -- The files it was read from, as [[name, text], ...].
    files JSONB NOT NULL,
    -- What approve and reject take: names exactly what it would change.
    difference_id TEXT NOT NULL,
    -- The counts by operation and slice.
    blast JSONB NOT NULL,
    -- Why the guard stopped it, as sentences; NULL when it did not.
    stopped_by JSONB,
    -- The policy it was compared with.
    base_hash TEXT,
    seen_at TIMESTAMPTZ NOT NULL,
    seen_by TEXT NOT NULL,
    decided_at TIMESTAMPTZ,
    decided_by TEXT,
    decided_note TEXT,
    PRIMARY KEY (shard_id, policy_hash)
);
