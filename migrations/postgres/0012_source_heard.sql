-- When each source was last heard, and when it last had news: what tells a source without news from one that is gone.
-- One row for a configured source, written at most once in a few seconds.
CREATE TABLE source_heard (
    shard_id INTEGER NOT NULL,
    source TEXT NOT NULL,
    -- Since when it is expected to be heard.
    known_since TIMESTAMPTZ NOT NULL,
    heard_at TIMESTAMPTZ,
    news_at TIMESTAMPTZ,
    PRIMARY KEY (shard_id, source)
);

INSERT INTO source_heard (shard_id, source, known_since, heard_at, news_at)
SELECT shard_id, source, min(imported_at), max(imported_at), max(imported_at)
  FROM source_snapshot
 GROUP BY shard_id, source;
