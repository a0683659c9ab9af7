-- Here a batch changes the counts themselves: no old version of a row stays. The table is there for its name, empty.
CREATE TABLE case_closed_part (
    shard_id INTEGER NOT NULL,
    part     TEXT    NOT NULL,
    workflow TEXT    NOT NULL,
    state    TEXT    NOT NULL,
    cases    INTEGER NOT NULL,
    PRIMARY KEY (shard_id, part)
) STRICT, WITHOUT ROWID;
