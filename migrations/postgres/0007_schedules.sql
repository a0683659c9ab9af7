-- Schedules and their runs. A schedule belongs to the shard of its name, and only that shard's owner writes here.

CREATE TABLE schedule (
    shard_id integer NOT NULL,
    name text NOT NULL,
    version bigint NOT NULL,
    changed_at timestamptz NOT NULL,
    -- For people who look at the table; a node computes them.
    next_due_at timestamptz,
    last_fire_at timestamptz,
    paused boolean NOT NULL,
    -- The row stays when a schedule is removed, so that its history does.
    removed boolean NOT NULL,
    -- Everything else as JSON: the spec, who paused it, open runs, what waits.
    state text NOT NULL,
    PRIMARY KEY (shard_id, name)
) WITH (
    fillfactor = 50
);

-- One row a fire time, or a run by hand.
CREATE TABLE schedule_run (
    shard_id integer NOT NULL,
    schedule text NOT NULL,
    fire_at timestamptz NOT NULL,
    by_hand boolean NOT NULL,
    due_at timestamptz NOT NULL,
    decided_at timestamptz NOT NULL,
    case_id uuid,
    cause text NOT NULL,
    outcome text NOT NULL,
    initiator text NOT NULL,
    reason text NOT NULL,
    PRIMARY KEY (shard_id, schedule, fire_at, by_hand)
);

-- What people and the configuration did to schedules, with the evidence of it. Append-only.
CREATE TABLE schedule_change (
    shard_id integer NOT NULL,
    schedule text NOT NULL,
    version bigint NOT NULL,
    at timestamptz NOT NULL,
    actor text NOT NULL,
    operation text NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    leaf bytea NOT NULL,
    PRIMARY KEY (shard_id, schedule, version)
);
