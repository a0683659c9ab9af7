-- Whom an event is about whose identifier its sender gave. The identifier is one event of its source, whoever its
-- subject is, so the row lies in the shard of the identifier: the one place where two such events meet. Written
-- together with the event. Events of before have none and are known among those of their subject.
CREATE TABLE event_subject (
    shard_id INTEGER NOT NULL,
    event_id TEXT    NOT NULL,
    subject  TEXT    NOT NULL,
    PRIMARY KEY (shard_id, event_id)
) STRICT, WITHOUT ROWID;
