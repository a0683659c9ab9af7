-- How many cases a batch closed, until it is added to the counts: a row that every batch changes would leave a version of
-- itself behind as long as somebody keeps an old snapshot, and each change would walk over all of them.
CREATE TABLE case_closed_part (
    shard_id INTEGER NOT NULL,
    part UUID NOT NULL,
    workflow TEXT NOT NULL,
    state TEXT NOT NULL,
    cases BIGINT NOT NULL,
    PRIMARY KEY (shard_id, part)
) WITH (
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 5000
);
