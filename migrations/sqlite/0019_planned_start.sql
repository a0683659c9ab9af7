-- Workflows that start before an event takes effect, or after: a row for each event and workflow, kept once it has started.
CREATE TABLE planned_start (
    shard_id INTEGER NOT NULL,
    subject  TEXT    NOT NULL,
    workflow TEXT    NOT NULL,
    event_id TEXT    NOT NULL,
    due_at   TEXT    NOT NULL,
    -- planned | started
    status   TEXT    NOT NULL,
    PRIMARY KEY (shard_id, subject, workflow, event_id)
) STRICT, WITHOUT ROWID;

-- What starts next, read by the clock.
CREATE INDEX planned_start_next ON planned_start (due_at) WHERE status = 'planned';
