-- Links in mails by which a sponsor asks for a contract to go on, without a login. Only the hash of a link is kept. Rows have
-- the shard of that hash.
CREATE TABLE contract_link (
    shard_id INTEGER NOT NULL,
    link_hash TEXT NOT NULL,
    -- The message it was sent with, to whom, and about whom.
    delivery_id TEXT NOT NULL,
    address TEXT NOT NULL,
    identity_key TEXT NOT NULL,
    -- The end that stood then: about another one it says nothing.
    ends_at TIMESTAMPTZ NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL,
    -- When it was used, and the case that was started with it. It is used once.
    used_at TIMESTAMPTZ,
    used_case TEXT,
    PRIMARY KEY (shard_id, link_hash)
);

-- What is over, to be removed.
CREATE INDEX contract_link_expires ON contract_link (expires_at);
