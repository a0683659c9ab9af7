-- What the guard remembers beside what is pushed: what each source changed lately, events that are held back, sources that
-- are not believed, and the policies that were in force. Rows have the shard of their source. Times and documents are text,
-- as in the rest of the directory.

-- How many people one change of a source concerned, by operation and slice; kept as long as the guard looks back.
CREATE TABLE guard_tally (
    shard_id INTEGER NOT NULL,
    source   TEXT    NOT NULL,
    tally_id TEXT    NOT NULL,
    -- The moment the source speaks of.
    at       TEXT    NOT NULL,
    slices   TEXT    NOT NULL,
    PRIMARY KEY (shard_id, source, tally_id)
) STRICT;

-- Events that wait for a person.
CREATE TABLE guard_held_event (
    shard_id INTEGER NOT NULL,
    source   TEXT    NOT NULL,
    event_id TEXT    NOT NULL,
    subject  TEXT    NOT NULL,
    event    TEXT    NOT NULL,
    held_at  TEXT    NOT NULL,
    PRIMARY KEY (shard_id, source, event_id)
) STRICT;

-- Why a source is not believed at the moment.
CREATE TABLE source_doubt (
    shard_id INTEGER NOT NULL,
    source   TEXT    NOT NULL,
    since    TEXT    NOT NULL,
    reason   TEXT    NOT NULL,
    PRIMARY KEY (shard_id, source)
) STRICT;

-- Policies by their hash, all in the shard of the word `policy`.
CREATE TABLE policy_version (
    shard_id      INTEGER NOT NULL,
    policy_hash   TEXT    NOT NULL,
    -- in_force | waiting | rejected | past
    status        TEXT    NOT NULL,
    -- The files it was read from, as [[name, text], ...].
    files         TEXT    NOT NULL,
    -- What approve and reject take: names exactly what it would change.
    difference_id TEXT    NOT NULL,
    -- The counts by operation and slice.
    blast         TEXT    NOT NULL,
    -- Why the guard stopped it, as sentences; NULL when it did not.
    stopped_by    TEXT,
    -- The policy it was compared with.
    base_hash     TEXT,
    seen_at       TEXT    NOT NULL,
    seen_by       TEXT    NOT NULL,
    decided_at    TEXT,
    decided_by    TEXT,
    decided_note  TEXT,
    PRIMARY KEY (shard_id, policy_hash)
) STRICT;
