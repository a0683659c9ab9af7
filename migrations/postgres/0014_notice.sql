-- What people have to be told, written with the transition that is the reason for it; and the messages it becomes.

CREATE TABLE notice (
    -- Of the person it is about, or of the source.
    shard_id INTEGER NOT NULL,
    -- Follows from the cause: the same cause twice is one notice.
    notice_id TEXT NOT NULL,
    -- The name of its template.
    name TEXT NOT NULL,
    subject TEXT,
    case_id TEXT,
    workflow TEXT,
    step TEXT,
    -- `STEP/INSTANCE`, as numbers.
    place TEXT,
    -- Whom it is for, as it is written: resolved when it is delivered.
    recipient TEXT NOT NULL,
    urgent BOOLEAN NOT NULL,
    revocation BOOLEAN NOT NULL,
    vars JSONB NOT NULL,
    -- For the reminder of an open question: until when that is open. It is void when that does not hold any more.
    open_until TIMESTAMPTZ,
    created_at TIMESTAMPTZ NOT NULL,
    due_at TIMESTAMPTZ NOT NULL,
    -- waiting | sending | sent | parked | undeliverable | void
    state TEXT NOT NULL,
    -- Why it cannot be delivered, or what else is to be said.
    reason TEXT,
    changed_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (shard_id, notice_id)
);

CREATE INDEX notice_due ON notice (shard_id, due_at) WHERE state = 'waiting';
CREATE INDEX notice_unfinished ON notice (shard_id, state) WHERE state NOT IN ('sent', 'void');
CREATE INDEX notice_by_id ON notice (notice_id);
CREATE INDEX notice_by_time ON notice (created_at DESC, notice_id);

-- One message to one address; several of a digest are sent together.
CREATE TABLE notice_delivery (
    -- Of the address, so that all that goes there lies together.
    shard_id INTEGER NOT NULL,
    delivery_id TEXT NOT NULL,
    notice_shard INTEGER NOT NULL,
    notice_id TEXT NOT NULL,
    -- email | webhook
    channel TEXT NOT NULL,
    -- Empty for the webhook.
    address TEXT NOT NULL,
    -- The name and the time zone of whoever reads it, and why it comes to them instead of somebody else.
    person_name TEXT,
    zone TEXT NOT NULL,
    instead_of TEXT,
    -- May be gathered with others.
    digest BOOLEAN NOT NULL,
    -- When it was to leave first, and when it is to leave next.
    ready_at TIMESTAMPTZ NOT NULL,
    due_at TIMESTAMPTZ NOT NULL,
    -- waiting | sending | sent | parked
    state TEXT NOT NULL,
    -- The message it is part of: given before it is sent first, the same whenever it is sent again.
    message_id TEXT,
    attempts INTEGER NOT NULL,
    -- The node that is sending it.
    claimed_by TEXT,
    -- What the other side said last.
    answer TEXT,
    sent_at TIMESTAMPTZ,
    changed_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (shard_id, delivery_id)
);

CREATE INDEX notice_delivery_due ON notice_delivery (shard_id, channel, due_at) WHERE state IN ('waiting', 'sending');
CREATE INDEX notice_delivery_message ON notice_delivery (shard_id, message_id) WHERE message_id IS NOT NULL;
CREATE INDEX notice_delivery_of ON notice_delivery (notice_id);

-- What people did about notices. Never updated.
CREATE TABLE notice_change (
    shard_id INTEGER NOT NULL,
    notice_id TEXT NOT NULL,
    at TIMESTAMPTZ NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (shard_id, notice_id, at, actor)
);
