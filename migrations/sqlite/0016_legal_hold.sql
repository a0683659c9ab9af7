-- That nothing of a person may be destroyed, and who says so. A row is never deleted: it is the record of who placed
-- the hold, who released it, and why.
CREATE TABLE legal_hold (
    shard_id         INTEGER NOT NULL,
    identity_key     TEXT    NOT NULL,
    -- Names it among those of the person.
    hold             TEXT    NOT NULL,
    reason           TEXT    NOT NULL,
    placed_by        TEXT    NOT NULL,
    placed_at        TEXT    NOT NULL,
    -- Ends by itself at this moment.
    until            TEXT,
    released_at      TEXT,
    released_by      TEXT,
    released_because TEXT,
    PRIMARY KEY (shard_id, identity_key, hold)
) STRICT, WITHOUT ROWID;
