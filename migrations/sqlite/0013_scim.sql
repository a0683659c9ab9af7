-- What identity providers push over SCIM: the resources as they were sent, and what the guard holds back of them. Rows
-- have the shard of their source. Times and documents are text, as in the rest of the directory.

CREATE TABLE scim_resource (
    shard_id INTEGER NOT NULL,
    source TEXT NOT NULL,
    -- User | Group
    kind TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    -- userName or displayName, folded: unique without regard to case.
    name_key TEXT NOT NULL,
    external_id TEXT,
    -- Users: the key of the person. Two users are never the same person.
    record_key TEXT,
    body TEXT NOT NULL,
    -- Raised by every change; also the ETag.
    version INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    modified_at TEXT NOT NULL,
    modified_by TEXT NOT NULL,
    PRIMARY KEY (shard_id, source, kind, resource_id)
) STRICT;

CREATE UNIQUE INDEX scim_resource_name ON scim_resource (shard_id, source, kind, name_key);
CREATE UNIQUE INDEX scim_resource_record ON scim_resource (shard_id, source, record_key) WHERE record_key IS NOT NULL;
CREATE INDEX scim_resource_external ON scim_resource (shard_id, source, kind, external_id) WHERE external_id IS NOT NULL;

-- Who is in which group.
CREATE TABLE scim_member (
    shard_id INTEGER NOT NULL,
    source TEXT NOT NULL,
    group_id TEXT NOT NULL,
    member_id TEXT NOT NULL,
    PRIMARY KEY (shard_id, source, group_id, member_id)
) STRICT;

CREATE INDEX scim_member_of ON scim_member (shard_id, source, member_id);

-- One row a source, locked by whoever takes people away, so that removals are counted one after the other.
CREATE TABLE scim_guard (
    shard_id INTEGER NOT NULL,
    source TEXT NOT NULL,
    -- What is held back, when something is: the row of source_snapshot that waits for a person.
    snapshot_id TEXT,
    changed_at TEXT NOT NULL,
    PRIMARY KEY (shard_id, source)
) STRICT;

-- Who was taken away when; kept as long as the guard looks back.
CREATE TABLE scim_removal (
    shard_id INTEGER NOT NULL,
    source TEXT NOT NULL,
    record_key TEXT NOT NULL,
    at TEXT NOT NULL,
    PRIMARY KEY (shard_id, source, record_key)
) STRICT;

-- What the guard holds back: a person, and what would become of them.
CREATE TABLE scim_held (
    shard_id INTEGER NOT NULL,
    source TEXT NOT NULL,
    record_key TEXT NOT NULL,
    -- The record to keep; NULL when the source has the person no more.
    record TEXT,
    changes TEXT NOT NULL,
    held_at TEXT NOT NULL,
    PRIMARY KEY (shard_id, source, record_key)
) STRICT;
