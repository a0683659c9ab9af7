-- What was found on a system and answers to nobody: accounts that no person and no declared identity holds, credentials that
-- nobody declared. It lies in the shard of its system.
CREATE TABLE nhi_found (
    shard_id INTEGER NOT NULL,
    system TEXT NOT NULL,
    -- `account:ID` or `credential:ID`, in the words of the system.
    thing TEXT NOT NULL,
    -- The login name of the account.
    name TEXT NOT NULL,
    -- The declared identity whose account it is, for a credential.
    nhi_key TEXT,
    enabled BOOLEAN,
    -- open | adopted | gone | accepted
    status TEXT NOT NULL,
    first_seen_at TIMESTAMPTZ NOT NULL,
    last_seen_at TIMESTAMPTZ NOT NULL,
    -- By when somebody has to answer for it; for what was accepted, until when.
    due_at TIMESTAMPTZ NOT NULL,
    decided_by TEXT,
    reason TEXT,
    PRIMARY KEY (shard_id, system, thing)
);

CREATE INDEX nhi_found_due ON nhi_found (due_at) WHERE status = 'open';
