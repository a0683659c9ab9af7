-- The directory: who is known, what they hold, what the sources said, how long corrections took.
--
-- Times are UTC, in microseconds. Documents are JSON. `shard_id` is the shard of the subject and leads every
-- key; rows that belong to a source or a system have the shard of that name.

-- A person (later also a machine): the newest thing the sources said, and where the person stands.
CREATE TABLE identity (
    shard_id INTEGER NOT NULL,
    identity_key TEXT NOT NULL,
    identity_type TEXT NOT NULL,
    -- expected | active | leaving | departed
    status TEXT NOT NULL,
    -- The case that made the status `leaving`: when it closes, the person has departed.
    status_case TEXT,
    -- Raised when somebody comes back: what was meant for the earlier life cannot touch the later one.
    generation INTEGER NOT NULL,
    source TEXT NOT NULL,
    display_name TEXT NOT NULL,
    attributes JSONB NOT NULL,
    -- The version of the statement that `attributes` come from: an older one that arrives later loses.
    attributes_version BIGINT NOT NULL,
    first_seen_at TIMESTAMPTZ NOT NULL,
    changed_at TIMESTAMPTZ NOT NULL,
    departed_at TIMESTAMPTZ,
    PRIMARY KEY (shard_id, identity_key)
);

-- A login on a system.
CREATE TABLE account (
    shard_id INTEGER NOT NULL,
    identity_key TEXT NOT NULL,
    system TEXT NOT NULL,
    native_id TEXT NOT NULL,
    name TEXT NOT NULL,
    -- planned | active | disabled | deleted | uncertain
    status TEXT NOT NULL,
    -- Over the attributes last written, to see whether they have to be written again.
    attributes_digest TEXT,
    created_at TIMESTAMPTZ,
    disabled_at TIMESTAMPTZ,
    changed_at TIMESTAMPTZ NOT NULL,
    -- When a read last showed the status; NULL with a reason in `unverified` when none did.
    verified_at TIMESTAMPTZ,
    unverified TEXT,
    case_id TEXT NOT NULL,
    PRIMARY KEY (shard_id, identity_key, system)
);

-- Who has which right, and why. A right that ended stays as a row until it is given again.
CREATE TABLE grant_held (
    shard_id INTEGER NOT NULL,
    identity_key TEXT NOT NULL,
    system TEXT NOT NULL,
    entitlement TEXT NOT NULL,
    -- planned | active | revoked | uncertain
    status TEXT NOT NULL,
    -- policy | exception | unmanaged
    held_by TEXT NOT NULL,
    -- The roles that give it: [{"role": ..., "via": [...]}].
    reasons JSONB NOT NULL,
    policy_hash TEXT,
    since TIMESTAMPTZ,
    until TIMESTAMPTZ,
    verified_at TIMESTAMPTZ,
    unverified TEXT,
    case_id TEXT NOT NULL,
    PRIMARY KEY (shard_id, identity_key, system, entitlement)
);

-- A secret, key, token or certificate: what it is and how long it lasts, never the secret.
CREATE TABLE credential (
    shard_id INTEGER NOT NULL,
    identity_key TEXT NOT NULL,
    system TEXT NOT NULL,
    credential_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    status TEXT NOT NULL,
    issued_at TIMESTAMPTZ,
    expires_at TIMESTAMPTZ,
    case_id TEXT NOT NULL,
    PRIMARY KEY (shard_id, identity_key, system, credential_id)
);

-- Every file that was read, and what became of it.
CREATE TABLE source_snapshot (
    shard_id INTEGER NOT NULL,
    source TEXT NOT NULL,
    snapshot_id TEXT NOT NULL,
    file TEXT NOT NULL,
    as_of DATE NOT NULL,
    file_sha256 TEXT NOT NULL,
    digest TEXT NOT NULL,
    row_count BIGINT NOT NULL,
    -- Whether the file holds everybody.
    complete BOOLEAN NOT NULL,
    -- applied | waiting | rejected
    status TEXT NOT NULL,
    difference_id TEXT NOT NULL,
    -- The counts by kind of change and by event.
    summary JSONB NOT NULL,
    -- Why the guard stopped it, as sentences; NULL when it did not.
    stopped_by JSONB,
    -- What an approval would apply; NULL once that is decided.
    pending JSONB,
    -- The snapshot this one was compared with.
    base_id TEXT,
    imported_at TIMESTAMPTZ NOT NULL,
    imported_by TEXT NOT NULL,
    decided_at TIMESTAMPTZ,
    decided_by TEXT,
    decided_note TEXT,
    PRIMARY KEY (shard_id, source, snapshot_id)
);

-- The last applied snapshot of each source. Moving on is guarded by where it stands, so two imports at once
-- cannot both be applied.
CREATE TABLE source_state (
    shard_id INTEGER NOT NULL,
    source TEXT NOT NULL,
    snapshot_id TEXT NOT NULL,
    as_of DATE NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (shard_id, source)
);

-- The people of the last applied snapshot, and those who were in an earlier one and left.
CREATE TABLE source_record (
    shard_id INTEGER NOT NULL,
    source TEXT NOT NULL,
    record_key TEXT NOT NULL,
    digest TEXT NOT NULL,
    -- present | gone
    status TEXT NOT NULL,
    attributes JSONB NOT NULL,
    PRIMARY KEY (shard_id, source, record_key)
);

-- What happened, once each, in the words of the sources.
CREATE TABLE business_event (
    shard_id INTEGER NOT NULL,
    event_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    source TEXT NOT NULL,
    event_type TEXT NOT NULL,
    version BIGINT NOT NULL,
    occurred_at TIMESTAMPTZ NOT NULL,
    effective_at TIMESTAMPTZ NOT NULL,
    zone TEXT NOT NULL,
    received_at TIMESTAMPTZ NOT NULL,
    supersedes TEXT,
    -- started: its cases exist; waiting: not effective yet; superseded: another event took its place;
    -- recorded: nothing reacts to it
    status TEXT NOT NULL,
    data JSONB NOT NULL,
    -- The cases it started, as a JSON list.
    cases JSONB NOT NULL,
    initiator TEXT NOT NULL,
    PRIMARY KEY (shard_id, event_id)
);

CREATE INDEX business_event_subject ON business_event (shard_id, subject);
-- What becomes effective next: few rows, read by the clock.
CREATE INDEX business_event_waiting ON business_event (effective_at) WHERE status = 'waiting';

-- Whether each system takes calls: written by the process that calls it, read by everybody else.
CREATE TABLE system_state (
    shard_id INTEGER NOT NULL,
    system TEXT NOT NULL,
    node TEXT NOT NULL,
    -- ready | held
    state TEXT NOT NULL,
    since TIMESTAMPTZ,
    until TIMESTAMPTZ,
    reason TEXT,
    changed_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (shard_id, system, node)
);

-- How long a change in the business took to be true on a system: one row for a case, system and direction.
CREATE TABLE access_lag (
    shard_id INTEGER NOT NULL,
    case_id TEXT NOT NULL,
    system TEXT NOT NULL,
    -- grant | removal
    kind TEXT NOT NULL,
    identity_key TEXT NOT NULL,
    workflow TEXT NOT NULL,
    effective_at TIMESTAMPTZ NOT NULL,
    received_at TIMESTAMPTZ NOT NULL,
    -- When the last of its steps finished, and how many of them nothing proved.
    finished_at TIMESTAMPTZ NOT NULL,
    step_count INTEGER NOT NULL,
    unverified_count INTEGER NOT NULL,
    PRIMARY KEY (shard_id, case_id, system, kind)
);
