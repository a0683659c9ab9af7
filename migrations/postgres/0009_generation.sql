-- The life that a subject is in, where it is not the first: what belongs to an earlier one never fires again. Cases of
-- before say which it is.
CREATE TABLE subject_generation (
    shard_id integer NOT NULL,
    subject text NOT NULL,
    generation bigint NOT NULL,
    PRIMARY KEY (shard_id, subject)
);

INSERT INTO subject_generation (shard_id, subject, generation)
SELECT shard_id, subject, max(generation)
  FROM case_head
 GROUP BY shard_id, subject
HAVING max(generation) > 1;
