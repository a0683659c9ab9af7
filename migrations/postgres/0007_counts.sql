-- How many cases of a workflow ended in each state. The batch that closes a case counts it, so that nobody has to walk
-- over all that ever were. A program of the version before closes cases without counting them: after the last of its
-- nodes is gone, `tenure migrate --recount` counts anew.
CREATE TABLE case_closed_count (
    shard_id integer NOT NULL,
    workflow text NOT NULL,
    state text NOT NULL,
    cases bigint NOT NULL,
    PRIMARY KEY (shard_id, workflow, state)
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 5000
);

INSERT INTO case_closed_count (shard_id, workflow, state, cases)
SELECT head.shard_id, head.workflow, state.state, count(*)
  FROM case_head AS head
  JOIN case_state AS state ON state.shard_id = head.shard_id AND state.case_id = head.case_id
  LEFT JOIN case_open AS open ON open.shard_id = head.shard_id AND open.case_id = head.case_id
 WHERE open.case_id IS NULL
 GROUP BY head.shard_id, head.workflow, state.state;
