-- The processes that work on this database, as they last told. Few rows and nothing of the hot path: in a
-- distributed database a reference table.

CREATE TABLE node (
    -- Names one life of one process; never used again.
    owner text PRIMARY KEY,
    name text NOT NULL,
    version text NOT NULL,
    -- Where its API listens, if it has one.
    address text,
    -- A node that is silent for longer than its lease counts as dead.
    lease_ms bigint NOT NULL,
    draining boolean NOT NULL,
    started_at timestamptz NOT NULL,
    heartbeat_at timestamptz NOT NULL
) WITH (
    fillfactor = 50
);
