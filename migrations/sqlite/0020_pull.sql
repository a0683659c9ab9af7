-- Sources that are pulled: up to where they were asked, and whom hints are about that nobody has followed yet. Rows have the
-- shard of their source. Times and documents are text, as in the rest of the directory.

CREATE TABLE pull_mark (
    shard_id INTEGER NOT NULL,
    source TEXT NOT NULL,
    mark TEXT NOT NULL,
    asked_at TEXT NOT NULL,
    PRIMARY KEY (shard_id, source)
) STRICT;

CREATE TABLE pull_hint (
    shard_id INTEGER NOT NULL,
    source TEXT NOT NULL,
    hint_id TEXT NOT NULL,
    -- Of the newest hint about the person.
    hinted_at TEXT NOT NULL,
    -- Of the first one since the person was last fetched.
    first_at TEXT NOT NULL,
    PRIMARY KEY (shard_id, source, hint_id)
) STRICT;
