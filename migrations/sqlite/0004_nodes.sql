-- The processes that work on this database, as they last told.

CREATE TABLE node (
    -- Names one life of one process; never used again.
    owner TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    -- Where its API listens, if it has one.
    address TEXT,
    -- A node that is silent for longer than its lease counts as dead.
    lease_ms INTEGER NOT NULL,
    draining INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    heartbeat_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
