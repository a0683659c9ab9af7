-- The engine's tables. Times are microseconds since 1970 UTC; ids are blobs of 16 bytes.
--
-- A commit writes whole pages, so what it costs is how many pages it touches. Cases therefore get a number in
-- order of their making, and the tables that a step writes to are keyed by it: cases that are made together
-- are worked on together and lie together, and a key takes a few bytes instead of thirty.

CREATE TABLE engine_meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE shard (
    shard_id INTEGER PRIMARY KEY,
    epoch INTEGER NOT NULL,
    owner TEXT,
    lease_until INTEGER
) STRICT;

CREATE TABLE workflow_definition (
    hash TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    source TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- What never changes of a case.
CREATE TABLE case_head (
    case_number INTEGER PRIMARY KEY,
    shard_id INTEGER NOT NULL,
    case_id BLOB NOT NULL,
    generation INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    effective_at INTEGER,
    subject TEXT NOT NULL,
    workflow TEXT NOT NULL,
    definition TEXT NOT NULL,
    lane TEXT NOT NULL,
    initiator TEXT NOT NULL,
    salt BLOB NOT NULL,
    input TEXT NOT NULL,
    UNIQUE (shard_id, case_id)
) STRICT;

CREATE INDEX case_head_by_subject ON case_head (shard_id, subject, created_at, case_id);
CREATE INDEX case_head_by_age ON case_head (created_at, case_id);

-- What changes with every transition.
CREATE TABLE case_state (
    case_number INTEGER PRIMARY KEY,
    version INTEGER NOT NULL,
    deadline_at INTEGER,
    closed_at INTEGER,
    changed_at INTEGER NOT NULL,
    in_flight INTEGER NOT NULL,
    parked INTEGER NOT NULL,
    unfinished INTEGER NOT NULL,
    unverified INTEGER NOT NULL,
    given_up INTEGER NOT NULL,
    steps_done INTEGER NOT NULL,
    deadline_passed INTEGER NOT NULL,
    state TEXT NOT NULL,
    ending TEXT
) STRICT;

-- The cases that are not closed. A row is inserted with its case and deleted when that closes, never updated.
CREATE TABLE case_open (
    case_number INTEGER PRIMARY KEY,
    shard_id INTEGER NOT NULL,
    case_id BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    subject TEXT NOT NULL,
    workflow TEXT NOT NULL,
    lane TEXT NOT NULL
) STRICT;

CREATE INDEX case_open_by_subject ON case_open (shard_id, subject);

-- One row an instance; instance -1 is the step itself, where it is more than its instances.
CREATE TABLE case_step (
    case_number INTEGER NOT NULL,
    step INTEGER NOT NULL,
    instance INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    away INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    state TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (case_number, step, instance)
) STRICT;

-- A queue: rows are inserted and deleted. Step and instance are -1 for none. Here, where one program owns every
-- shard, the time leads.
CREATE TABLE case_timer (
    shard_id INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    case_id BLOB NOT NULL,
    step INTEGER NOT NULL,
    instance INTEGER NOT NULL,
    PRIMARY KEY (due_at, case_id, step, instance, shard_id)
) STRICT, WITHOUT ROWID;

-- Append-only.
CREATE TABLE case_history (
    case_number INTEGER NOT NULL,
    version INTEGER NOT NULL,
    at INTEGER NOT NULL,
    input TEXT NOT NULL,
    actor TEXT NOT NULL,
    events TEXT NOT NULL,
    PRIMARY KEY (case_number, version)
) STRICT;

-- Append-only.
CREATE TABLE evidence (
    case_number INTEGER NOT NULL,
    version INTEGER NOT NULL,
    at INTEGER NOT NULL,
    leaf BLOB NOT NULL,
    PRIMARY KEY (case_number, version)
) STRICT;

-- A queue. `lane_rank` is 0 for revocations, which go first, and 1 for the rest.
CREATE TABLE inbox (
    shard_id INTEGER NOT NULL,
    id BLOB NOT NULL,
    received_at INTEGER NOT NULL,
    lane_rank INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (shard_id, id)
) STRICT;

CREATE INDEX inbox_in_order ON inbox (lane_rank, received_at, id);

CREATE TABLE inbox_reply (
    shard_id INTEGER NOT NULL,
    id BLOB NOT NULL,
    at INTEGER NOT NULL,
    accepted INTEGER NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (shard_id, id)
) STRICT, WITHOUT ROWID;
