-- One person under several keys: merges that can be taken back, and what is open about who somebody is.

ALTER TABLE identity ADD COLUMN merged_into TEXT;
ALTER TABLE identity ADD COLUMN members JSONB;
ALTER TABLE identity ADD COLUMN disputes JSONB;

-- A merge, and its end: one row for each time. It lies in the shard of the key that was absorbed.
CREATE TABLE identity_merge (
    shard_id INTEGER NOT NULL,
    absorbed TEXT NOT NULL,
    merge_id TEXT NOT NULL,
    survivor TEXT NOT NULL,
    -- draining: what the absorbed one has at work comes to its end; moving: so does what the survivor has; merged;
    -- splitting, returning: the same for the way back; split
    state TEXT NOT NULL,
    -- When the newest statement about it was made, and which it is: an older one changes nothing.
    said_at TIMESTAMPTZ NOT NULL,
    said_by_event TEXT NOT NULL,
    merged_at TIMESTAMPTZ,
    merged_by TEXT,
    merged_reason TEXT,
    -- Rule by rule, where rules decided.
    score JSONB,
    split_at TIMESTAMPTZ,
    split_by TEXT,
    split_reason TEXT,
    -- The accounts and rights that went to the survivor, as they were.
    moved JSONB NOT NULL,
    PRIMARY KEY (shard_id, absorbed, merge_id)
);

CREATE INDEX identity_merge_survivor ON identity_merge (survivor);

-- A question about who somebody is, and how it was decided. It lies in the shard of the new key.
CREATE TABLE correlation_review (
    shard_id INTEGER NOT NULL,
    review_id TEXT NOT NULL,
    record_key TEXT NOT NULL,
    source TEXT NOT NULL,
    -- open | linked | separate
    status TEXT NOT NULL,
    owner TEXT NOT NULL,
    -- Best first, each with its score.
    candidates JSONB NOT NULL,
    opened_at TIMESTAMPTZ NOT NULL,
    decided_at TIMESTAMPTZ,
    decided_by TEXT,
    decided_reason TEXT,
    -- Whom it was linked to.
    decided_key TEXT,
    PRIMARY KEY (shard_id, review_id)
);

CREATE INDEX correlation_review_open ON correlation_review (opened_at) WHERE status = 'open';

-- What people who are alike have in common, so that a new one is compared with few. It lies in the shard of the block.
CREATE TABLE correlation_block (
    shard_id INTEGER NOT NULL,
    block TEXT NOT NULL,
    identity_key TEXT NOT NULL,
    PRIMARY KEY (shard_id, block, identity_key)
);

-- The rules that the blocks were made by, in the one row of the first shard.
CREATE TABLE correlation_index (
    shard_id INTEGER NOT NULL,
    rules TEXT NOT NULL,
    built_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (shard_id)
);

-- An account that was there before Tenure was, and whose it turned out to be. It lies in the shard of that person.
CREATE TABLE account_adopted (
    shard_id INTEGER NOT NULL,
    identity_key TEXT NOT NULL,
    system TEXT NOT NULL,
    native_id TEXT NOT NULL,
    name TEXT NOT NULL,
    -- Names exactly the accounts that were adopted together.
    wave TEXT NOT NULL,
    adopted_at TIMESTAMPTZ NOT NULL,
    adopted_by TEXT NOT NULL,
    reason TEXT NOT NULL,
    -- Rule by rule, where rules decided; NULL where the account itself names the person.
    score JSONB,
    PRIMARY KEY (shard_id, identity_key, system)
);
