-- Non-human identities, what hangs on them, and how far silence about them can be believed.

-- One non-human identity. It lies in the shard of its key.
CREATE TABLE nhi (
    shard_id INTEGER NOT NULL,
    nhi_key TEXT NOT NULL,
    kind TEXT NOT NULL,
    -- active | quiet: out of use on purpose, and watched | retired
    status TEXT NOT NULL,
    environment TEXT NOT NULL,
    team TEXT NOT NULL,
    -- Keys of people.
    owner TEXT NOT NULL,
    backup TEXT NOT NULL,
    review_on TEXT NOT NULL,
    -- All that was declared.
    declared TEXT NOT NULL,
    -- How long putting it back took when that was tried.
    restore_s INTEGER,
    quiet_since TEXT,
    declared_at TEXT NOT NULL,
    changed_at TEXT NOT NULL,
    PRIMARY KEY (shard_id, nhi_key)
) STRICT, WITHOUT ROWID;

CREATE INDEX nhi_owner ON nhi (owner);
CREATE INDEX nhi_backup ON nhi (backup);

-- What a non-human identity proves with. It lies in the shard of the identity.
CREATE TABLE nhi_credential (
    shard_id INTEGER NOT NULL,
    nhi_key TEXT NOT NULL,
    -- `system/id`.
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    -- active | undeclared: the declaration names it no more | ended
    status TEXT NOT NULL,
    issued_at TEXT,
    expires_at TEXT,
    quiet_since TEXT,
    changed_at TEXT NOT NULL,
    PRIMARY KEY (shard_id, nhi_key, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX nhi_credential_expires ON nhi_credential (expires_at) WHERE status <> 'ended';
CREATE INDEX nhi_credential_name ON nhi_credential (name);

-- That one thing stands to another in a way, as one source says it. It lies in the shard of the name of the second.
CREATE TABLE graph_edge (
    shard_id INTEGER NOT NULL,
    -- `kind:name`.
    to_node TEXT NOT NULL,
    -- owns | knows | minted | uses | trusts
    relation TEXT NOT NULL,
    from_node TEXT NOT NULL,
    source TEXT NOT NULL,
    -- declared | configured | observed
    confidence TEXT NOT NULL,
    first_seen_at TEXT NOT NULL,
    last_seen_at TEXT NOT NULL,
    PRIMARY KEY (shard_id, to_node, relation, from_node, source)
) STRICT, WITHOUT ROWID;

CREATE INDEX graph_edge_from ON graph_edge (from_node);

-- For how long one source could see every use of one thing. It lies in the shard of the node.
CREATE TABLE graph_coverage (
    shard_id INTEGER NOT NULL,
    node TEXT NOT NULL,
    source TEXT NOT NULL,
    seen_from TEXT NOT NULL,
    seen_until TEXT NOT NULL,
    delay_s INTEGER NOT NULL,
    blind_spots TEXT NOT NULL,
    required INTEGER NOT NULL,
    PRIMARY KEY (shard_id, node, source)
) STRICT, WITHOUT ROWID;

-- Who changed what is declared, and why. Never deleted.
CREATE TABLE nhi_change (
    shard_id INTEGER NOT NULL,
    nhi_key TEXT NOT NULL,
    at TEXT NOT NULL,
    change_id TEXT NOT NULL,
    -- declared
    change TEXT NOT NULL,
    by_actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    -- SHA-256 of what was declared, before and after.
    before_digest TEXT,
    after_digest TEXT NOT NULL,
    PRIMARY KEY (shard_id, nhi_key, at, change_id)
) STRICT, WITHOUT ROWID;
