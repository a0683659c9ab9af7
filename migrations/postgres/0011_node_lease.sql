-- Until when a node holds all of its shards: renewing a lease changes this one row, and not one of every shard. Whoever
-- takes a shard of a node whose time is over deletes its row first, so that it cannot be renewed any more.
CREATE TABLE node_lease (
    owner text PRIMARY KEY,
    until timestamptz NOT NULL
) WITH (
    fillfactor = 50
);
