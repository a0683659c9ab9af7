-- The cases that a person holds: who, since when, why. A table of its own, so that the hot one stays narrow and a
-- transition of any other case knows nothing of it. A row goes when its case is resumed or closed.
CREATE TABLE case_pause (
    shard_id INTEGER NOT NULL,
    case_id BLOB NOT NULL,
    at INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (shard_id, case_id)
) STRICT, WITHOUT ROWID;
