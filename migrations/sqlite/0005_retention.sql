-- History and evidence are keyed by the number of their case. When a closed case is forgotten and its evidence is
-- kept, this says whose it is. Two lives of one case may be here, so the case is not unique.

CREATE TABLE case_gone (
    case_number INTEGER PRIMARY KEY,
    shard_id INTEGER NOT NULL,
    case_id BLOB NOT NULL
) STRICT;

CREATE INDEX case_gone_by_case ON case_gone (shard_id, case_id);
