-- How far the replacement of each credential is, and when the next one begins. A row lies in the shard of `credential:NAME`,
-- the subject of the cases that replace it.
CREATE TABLE rotation (
    shard_id INTEGER NOT NULL,
    -- `system/id`.
    name TEXT NOT NULL,
    nhi_key TEXT NOT NULL,
    -- alternating | two_slot | single_slot | reissue | four_phase
    mode TEXT NOT NULL,
    -- What is declared of it. Names of places, never a secret.
    declared TEXT NOT NULL,
    -- Whether it is still declared.
    wanted INTEGER NOT NULL,
    -- The phase that was reached last; workflows/src/rotation/phase.rs has them all.
    phase TEXT NOT NULL,
    -- Why it is where it is, where that is not the usual way.
    reason TEXT,
    -- Who has to do something about it, and until when.
    answerable TEXT,
    answer_by TEXT,
    -- The case that is under way, and the one before it.
    open_case TEXT,
    last_case TEXT,
    compromised INTEGER NOT NULL,
    -- Since when what is used is used.
    since TEXT NOT NULL,
    expires_at TEXT,
    last_rotated_at TEXT,
    -- Of the case that is under way: since when its new one is used, and until when that is good.
    promoted_at TEXT,
    promoted_expires_at TEXT,
    -- Whose turn it is, of two login names.
    turn TEXT,
    overlap_s INTEGER,
    dominated_by TEXT,
    -- How often in a row it did not get to its end.
    failures INTEGER NOT NULL,
    failed_at TEXT,
    -- Whether the next one was planned: the five below are drawn once and kept.
    planned INTEGER NOT NULL,
    because TEXT,
    due_at TEXT,
    jitter_s INTEGER,
    past_window INTEGER NOT NULL,
    starts_at TEXT,
    changed_at TEXT NOT NULL,
    PRIMARY KEY (shard_id, name)
) STRICT, WITHOUT ROWID;

-- What begins next, and what has to be planned.
CREATE INDEX rotation_starts ON rotation (starts_at) WHERE open_case IS NULL AND wanted AND planned;
CREATE INDEX rotation_unplanned ON rotation (name) WHERE open_case IS NULL AND wanted AND NOT planned;
CREATE INDEX rotation_nhi ON rotation (nhi_key);
