-- Schedules and their runs. A schedule belongs to the shard of its name, and only that shard's owner writes here.

CREATE TABLE schedule (
    shard_id INTEGER NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    -- For people who look at the table; a node computes them.
    next_due_at INTEGER,
    last_fire_at INTEGER,
    paused INTEGER NOT NULL,
    -- The row stays when a schedule is removed, so that its history does.
    removed INTEGER NOT NULL,
    -- Everything else as JSON: the spec, who paused it, open runs, what waits.
    state TEXT NOT NULL,
    PRIMARY KEY (shard_id, name)
) STRICT;

-- One row a fire time, or a run by hand.
CREATE TABLE schedule_run (
    shard_id INTEGER NOT NULL,
    schedule TEXT NOT NULL,
    fire_at INTEGER NOT NULL,
    by_hand INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    decided_at INTEGER NOT NULL,
    case_id BLOB,
    cause TEXT NOT NULL,
    outcome TEXT NOT NULL,
    initiator TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (shard_id, schedule, fire_at, by_hand)
) STRICT, WITHOUT ROWID;

-- What people and the configuration did to schedules, with the evidence of it. Append-only.
CREATE TABLE schedule_change (
    shard_id INTEGER NOT NULL,
    schedule TEXT NOT NULL,
    version INTEGER NOT NULL,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    operation TEXT NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    leaf BLOB NOT NULL,
    PRIMARY KEY (shard_id, schedule, version)
) STRICT, WITHOUT ROWID;
