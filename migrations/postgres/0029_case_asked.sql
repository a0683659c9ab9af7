-- Cases that put a question to people, so that whoever leaves is found among those who are asked without walking over every open
-- case. A row says that there was a question; whether one is still open is said by the case. Deleted when the case is over.
CREATE TABLE case_asked (
    shard_id integer NOT NULL,
    case_id uuid NOT NULL,
    PRIMARY KEY (shard_id, case_id)
);

INSERT INTO case_asked (shard_id, case_id)
SELECT DISTINCT o.shard_id, o.case_id
  FROM case_open AS o
  JOIN case_step AS s ON s.shard_id = o.shard_id AND s.case_id = o.case_id
 WHERE s.state = 'asking' AND s.instance >= 0;
