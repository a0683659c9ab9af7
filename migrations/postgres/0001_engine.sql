-- The engine's tables. `shard_id` leads every primary key, unique key and join, so that the same schema runs
-- distributed; there are no sequences, triggers or foreign keys across tables that could live apart.
--
-- Hot tables keep room on every page and have no index on a column that a step changes: an update then stays
-- on its page and touches no index.

CREATE TABLE engine_meta (
    name text PRIMARY KEY,
    value text NOT NULL
);

-- One row a shard. Every commit share-locks the rows it relies on; taking a shard over raises the epoch.
CREATE TABLE shard (
    shard_id integer PRIMARY KEY,
    epoch bigint NOT NULL,
    owner text,
    lease_until timestamptz
) WITH (
    fillfactor = 30,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000
);

CREATE TABLE workflow_definition (
    hash text PRIMARY KEY,
    name text NOT NULL,
    source text NOT NULL,
    created_at timestamptz NOT NULL
);

-- What never changes of a case.
CREATE TABLE case_head (
    shard_id integer NOT NULL,
    case_id uuid NOT NULL,
    generation bigint NOT NULL,
    received_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    effective_at timestamptz,
    subject text NOT NULL,
    workflow text NOT NULL,
    definition text NOT NULL,
    lane text NOT NULL,
    initiator text NOT NULL,
    salt bytea NOT NULL,
    input text NOT NULL,
    PRIMARY KEY (shard_id, case_id)
);

CREATE INDEX case_head_by_subject ON case_head (shard_id, subject, created_at, case_id);
-- For lists over everything, newest first. Not unique, so it need not begin with the shard.
CREATE INDEX case_head_by_age ON case_head (created_at, case_id);

-- What changes with every transition: narrow, and only its primary key is indexed.
CREATE TABLE case_state (
    shard_id integer NOT NULL,
    case_id uuid NOT NULL,
    version bigint NOT NULL,
    deadline_at timestamptz,
    closed_at timestamptz,
    changed_at timestamptz NOT NULL,
    in_flight integer NOT NULL,
    parked integer NOT NULL,
    unfinished integer NOT NULL,
    unverified integer NOT NULL,
    given_up integer NOT NULL,
    steps_done integer NOT NULL,
    deadline_passed boolean NOT NULL,
    state text NOT NULL,
    ending text,
    PRIMARY KEY (shard_id, case_id)
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_analyze_scale_factor = 0.05
);

-- The cases that are not closed. A row is inserted with its case and deleted when that closes, never updated.
CREATE TABLE case_open (
    shard_id integer NOT NULL,
    case_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    subject text NOT NULL,
    workflow text NOT NULL,
    lane text NOT NULL,
    PRIMARY KEY (shard_id, case_id)
) WITH (
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_analyze_scale_factor = 0.05
);

CREATE INDEX case_open_by_subject ON case_open (shard_id, subject);

-- One row an instance; instance -1 is the step itself, where it is more than its instances.
CREATE TABLE case_step (
    shard_id integer NOT NULL,
    case_id uuid NOT NULL,
    step integer NOT NULL,
    instance integer NOT NULL,
    attempt integer NOT NULL,
    failures integer NOT NULL,
    away integer NOT NULL,
    changed_at timestamptz NOT NULL,
    state text NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (shard_id, case_id, step, instance)
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_analyze_scale_factor = 0.05
);

-- A queue: rows are inserted and deleted, so dead ones are cleared early. Step and instance are -1 for none.
CREATE TABLE case_timer (
    shard_id integer NOT NULL,
    due_at timestamptz NOT NULL,
    case_id uuid NOT NULL,
    step integer NOT NULL,
    instance integer NOT NULL,
    PRIMARY KEY (shard_id, due_at, case_id, step, instance)
) WITH (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000
);

-- Append-only.
CREATE TABLE case_history (
    shard_id integer NOT NULL,
    case_id uuid NOT NULL,
    version bigint NOT NULL,
    at timestamptz NOT NULL,
    input text NOT NULL,
    actor text NOT NULL,
    events text NOT NULL,
    PRIMARY KEY (shard_id, case_id, version)
);

-- Append-only.
CREATE TABLE evidence (
    shard_id integer NOT NULL,
    case_id uuid NOT NULL,
    version bigint NOT NULL,
    at timestamptz NOT NULL,
    leaf bytea NOT NULL,
    PRIMARY KEY (shard_id, case_id, version)
);

-- A queue. `lane_rank` is 0 for revocations, which go first, and 1 for the rest.
CREATE TABLE inbox (
    shard_id integer NOT NULL,
    id uuid NOT NULL,
    received_at timestamptz NOT NULL,
    lane_rank integer NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (shard_id, id)
) WITH (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000
);

CREATE INDEX inbox_in_order ON inbox (shard_id, lane_rank, received_at, id);

CREATE TABLE inbox_reply (
    shard_id integer NOT NULL,
    id uuid NOT NULL,
    at timestamptz NOT NULL,
    accepted boolean NOT NULL,
    message text NOT NULL,
    PRIMARY KEY (shard_id, id)
);
