-- How many cases of a workflow ended in each state. The batch that closes a case counts it, so that nobody has to walk
-- over all that ever were. A program of the version before closes cases without counting them: after the last of its
-- nodes is gone, `tenure migrate --recount` counts anew.
CREATE TABLE case_closed_count (
    shard_id INTEGER NOT NULL,
    workflow TEXT NOT NULL,
    state TEXT NOT NULL,
    cases INTEGER NOT NULL,
    PRIMARY KEY (shard_id, workflow, state)
) STRICT, WITHOUT ROWID;

INSERT INTO case_closed_count (shard_id, workflow, state, cases)
SELECT head.shard_id, head.workflow, state.state, count(*)
  FROM case_head AS head
  JOIN case_state AS state ON state.case_number = head.case_number
 WHERE head.case_number NOT IN (SELECT case_number FROM case_open)
 GROUP BY head.shard_id, head.workflow, state.state;
