-- History and evidence in partitions by time, so that what is old is dropped as a whole and never deleted row by row.
--
-- What is there becomes the default partition, which takes a moment however much it is, and programs of the version
-- before go on writing into it. The owner of the first shard makes the months ahead and closes this part off
-- (engine/src/store/postgres/partitions.rs).
--
-- The parents have no key: a key over partitions would have to hold the time. Each partition has its own. That a
-- transition is recorded once does not rest on it: the same statement moves the case from the version before to this
-- one, and does nothing at all when the case has moved already.

-- Somebody who reads for long must not make every commit wait behind this step: it gives up and can be run again.
SET LOCAL lock_timeout = '10s';

ALTER TABLE case_history RENAME TO case_history_rest;
ALTER TABLE case_history_rest RENAME CONSTRAINT case_history_pkey TO case_history_rest_pkey;

-- Append-only.
CREATE TABLE case_history (
    shard_id integer NOT NULL,
    case_id uuid NOT NULL,
    version bigint NOT NULL,
    at timestamptz NOT NULL,
    input text NOT NULL,
    actor text NOT NULL,
    events text NOT NULL
) PARTITION BY RANGE (at);

ALTER TABLE case_history ATTACH PARTITION case_history_rest DEFAULT;

ALTER TABLE evidence RENAME TO evidence_rest;
ALTER TABLE evidence_rest RENAME CONSTRAINT evidence_pkey TO evidence_rest_pkey;

-- Append-only.
CREATE TABLE evidence (
    shard_id integer NOT NULL,
    case_id uuid NOT NULL,
    version bigint NOT NULL,
    at timestamptz NOT NULL,
    leaf bytea NOT NULL
) PARTITION BY RANGE (at);

ALTER TABLE evidence ATTACH PARTITION evidence_rest DEFAULT;
