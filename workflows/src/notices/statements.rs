//! The statements about notices.

use crate::directory::database::Sql;

/// A notice as a document, on SQLite; its table is `n`.
macro_rules! notice_object {
    () => {
        "json_object('shard_id', n.shard_id, 'notice_id', n.notice_id, 'name', n.name, 'subject', n.subject,
            'case_id', n.case_id, 'workflow', n.workflow, 'step', n.step, 'place', n.place, 'recipient', n.recipient,
            'urgent', json(iif(n.urgent, 'true', 'false')), 'revocation', json(iif(n.revocation, 'true', 'false')),
            'vars', json(n.vars), 'open_until', n.open_until, 'ends_at', n.ends_at, 'created_at', n.created_at, 'due_at', n.due_at,
            'state', n.state, 'reason', n.reason, 'changed_at', n.changed_at)"
    };
}

/// A message as a document, on SQLite; its table is `d`.
macro_rules! delivery_object {
    () => {
        "json_object('shard_id', d.shard_id, 'delivery_id', d.delivery_id, 'notice_shard', d.notice_shard,
            'notice_id', d.notice_id, 'channel', d.channel, 'address', d.address, 'person_name', d.person_name,
            'zone', d.zone, 'instead_of', d.instead_of, 'digest', json(iif(d.digest, 'true', 'false')),
            'ready_at', d.ready_at, 'due_at', d.due_at, 'state', d.state, 'message_id', d.message_id,
            'attempts', d.attempts, 'claimed_by', d.claimed_by, 'answer', d.answer, 'sent_at', d.sent_at,
            'changed_at', d.changed_at)"
    };
}

/// In the transaction of the transition that is the reason. The same cause twice is one notice.
pub(super) const PUT_NOTICES: Sql = Sql {
    table: "notice",
    postgres: "
        INSERT INTO notice (shard_id, notice_id, name, subject, case_id, workflow, step, place, recipient, urgent,
            revocation, vars, open_until, ends_at, created_at, due_at, state, reason, changed_at)
        SELECT shard_id, notice_id, name, subject, case_id, workflow, step, place, recipient, urgent,
            revocation, vars, open_until, ends_at, created_at, due_at, state, reason, changed_at
        FROM jsonb_populate_recordset(NULL::notice, $1::jsonb)
        ON CONFLICT (shard_id, notice_id) DO NOTHING",
    sqlite: "
        INSERT INTO notice (shard_id, notice_id, name, subject, case_id, workflow, step, place, recipient, urgent,
            revocation, vars, open_until, ends_at, created_at, due_at, state, reason, changed_at)
        SELECT value ->> 'shard_id', value ->> 'notice_id', value ->> 'name', value ->> 'subject',
            value ->> 'case_id', value ->> 'workflow', value ->> 'step', value ->> 'place', value ->> 'recipient',
            value ->> 'urgent', value ->> 'revocation', value -> 'vars', value ->> 'open_until', value ->> 'ends_at',
            value ->> 'created_at', value ->> 'due_at', value ->> 'state', value ->> 'reason', value ->> 'changed_at'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, notice_id) DO NOTHING",
};

pub(super) const DUE_NOTICES: Sql = Sql {
    table: "notice",
    postgres: "
        SELECT to_jsonb(n)::text FROM notice AS n
        WHERE n.shard_id = ANY (ARRAY(SELECT jsonb_array_elements_text($1::jsonb->'shards')::int))
          AND n.state = 'waiting' AND n.due_at <= ($1::jsonb->>'now')::timestamptz
        ORDER BY n.due_at LIMIT ($1::jsonb->>'limit')::bigint",
    sqlite: concat!(
        "SELECT ",
        notice_object!(),
        " FROM notice AS n
        WHERE n.shard_id IN (SELECT value FROM json_each(?1 -> 'shards'))
          AND n.state = 'waiting' AND n.due_at <= ?1 ->> 'now'
        ORDER BY n.due_at LIMIT ?1 ->> 'limit'"
    ),
};

/// When something is due next, from now on: notices first, then messages.
pub(super) const NEXT_NOTICE: Sql = Sql {
    table: "notice",
    postgres: "
        SELECT COALESCE(to_jsonb(min(n.due_at)), 'null')::text FROM notice AS n
        WHERE n.shard_id = ANY (ARRAY(SELECT jsonb_array_elements_text($1::jsonb->'shards')::int)) AND n.state = 'waiting'",
    sqlite: "
        SELECT json_quote(min(n.due_at)) FROM notice AS n
        WHERE n.shard_id IN (SELECT value FROM json_each(?1 -> 'shards')) AND n.state = 'waiting'",
};

pub(super) const NEXT_DELIVERY: Sql = Sql {
    table: "notice_delivery",
    postgres: "
        SELECT COALESCE(to_jsonb(min(d.due_at)), 'null')::text FROM notice_delivery AS d
        WHERE d.shard_id = ANY (ARRAY(SELECT jsonb_array_elements_text($1::jsonb->'shards')::int))
          AND d.channel = $1::jsonb->>'channel' AND d.state IN ('waiting', 'sending')",
    sqlite: "
        SELECT json_quote(min(d.due_at)) FROM notice_delivery AS d
        WHERE d.shard_id IN (SELECT value FROM json_each(?1 -> 'shards'))
          AND d.channel = ?1 ->> 'channel' AND d.state IN ('waiting', 'sending')",
};

/// Only one that still waits: of two nodes that both believe they own its shard, the second finds nothing.
pub(super) const ROUTED: Sql = Sql {
    table: "notice",
    postgres: "
        UPDATE notice AS n SET state = now.state, reason = now.reason, due_at = COALESCE(now.due_at, n.due_at),
            changed_at = now.at
        FROM jsonb_to_recordset($1::jsonb)
            AS now(shard_id int, notice_id text, state text, reason text, due_at timestamptz, at timestamptz)
        WHERE n.shard_id = now.shard_id AND n.notice_id = now.notice_id AND n.state = 'waiting'",
    sqlite: "
        UPDATE notice SET state = changed.value ->> 'state', reason = changed.value ->> 'reason',
            due_at = COALESCE(changed.value ->> 'due_at', due_at), changed_at = changed.value ->> 'at'
        FROM json_each(?1) AS changed
        WHERE notice.shard_id = changed.value ->> 'shard_id' AND notice.notice_id = changed.value ->> 'notice_id'
          AND notice.state = 'waiting'",
};

pub(super) const PUT_DELIVERIES: Sql = Sql {
    table: "notice_delivery",
    postgres: "
        INSERT INTO notice_delivery (shard_id, delivery_id, notice_shard, notice_id, channel, address, person_name, zone,
            instead_of, digest, ready_at, due_at, state, message_id, attempts, claimed_by, answer, sent_at, changed_at)
        SELECT shard_id, delivery_id, notice_shard, notice_id, channel, address, person_name, zone,
            instead_of, digest, ready_at, due_at, state, message_id, attempts, claimed_by, answer, sent_at, changed_at
        FROM jsonb_populate_recordset(NULL::notice_delivery, $1::jsonb)
        ON CONFLICT (shard_id, delivery_id) DO NOTHING",
    sqlite: "
        INSERT INTO notice_delivery (shard_id, delivery_id, notice_shard, notice_id, channel, address, person_name, zone,
            instead_of, digest, ready_at, due_at, state, message_id, attempts, claimed_by, answer, sent_at, changed_at)
        SELECT value ->> 'shard_id', value ->> 'delivery_id', value ->> 'notice_shard', value ->> 'notice_id',
            value ->> 'channel', value ->> 'address', value ->> 'person_name', value ->> 'zone',
            value ->> 'instead_of', value ->> 'digest', value ->> 'ready_at', value ->> 'due_at', value ->> 'state',
            value ->> 'message_id', value ->> 'attempts', value ->> 'claimed_by', value ->> 'answer',
            value ->> 'sent_at', value ->> 'changed_at'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, delivery_id) DO NOTHING",
};

/// What is due, and what somebody else had in hand when its shard came here.
pub(super) const DUE_DELIVERIES: Sql = Sql {
    table: "notice_delivery",
    postgres: "
        SELECT to_jsonb(d)::text FROM notice_delivery AS d
        WHERE d.shard_id = ANY (ARRAY(SELECT jsonb_array_elements_text($1::jsonb->'shards')::int))
          AND d.channel = $1::jsonb->>'channel'
          AND (d.state IN ('waiting', 'sending') AND d.due_at <= ($1::jsonb->>'now')::timestamptz
               OR d.state = 'sending' AND d.claimed_by <> $1::jsonb->>'owner')
        ORDER BY d.due_at, d.delivery_id LIMIT ($1::jsonb->>'limit')::bigint",
    sqlite: concat!(
        "SELECT ",
        delivery_object!(),
        " FROM notice_delivery AS d
        WHERE d.shard_id IN (SELECT value FROM json_each(?1 -> 'shards'))
          AND d.channel = ?1 ->> 'channel'
          AND (d.state IN ('waiting', 'sending') AND d.due_at <= ?1 ->> 'now'
               OR d.state = 'sending' AND d.claimed_by <> ?1 ->> 'owner')
        ORDER BY d.due_at, d.delivery_id LIMIT ?1 ->> 'limit'"
    ),
};

/// All of a message that was sent before; or, for a first one, what waits for the same address and may be gathered.
pub(super) const TOGETHER: Sql = Sql {
    table: "notice_delivery",
    postgres: "
        SELECT to_jsonb(d)::text FROM notice_delivery AS d
        WHERE d.shard_id = ($1::jsonb->>'shard_id')::int
          AND (d.message_id = $1::jsonb->>'message_id'
               OR ($1::jsonb->>'message_id') IS NULL AND d.message_id IS NULL AND d.state = 'waiting' AND d.digest
                  AND d.channel = $1::jsonb->>'channel' AND d.address = $1::jsonb->>'address')
        ORDER BY d.ready_at, d.delivery_id LIMIT ($1::jsonb->>'limit')::bigint",
    sqlite: concat!(
        "SELECT ",
        delivery_object!(),
        " FROM notice_delivery AS d
        WHERE d.shard_id = ?1 ->> 'shard_id'
          AND (d.message_id = ?1 ->> 'message_id'
               OR ?1 ->> 'message_id' IS NULL AND d.message_id IS NULL AND d.state = 'waiting' AND d.digest
                  AND d.channel = ?1 ->> 'channel' AND d.address = ?1 ->> 'address')
        ORDER BY d.ready_at, d.delivery_id LIMIT ?1 ->> 'limit'"
    ),
};

/// Taken in hand, in the state in which it was read; whoever is second touches fewer rows and gives up.
pub(super) const CLAIM: Sql = Sql {
    table: "notice_delivery",
    postgres: "
        UPDATE notice_delivery AS d SET state = 'sending', message_id = now.message_id, attempts = d.attempts + 1,
            claimed_by = now.owner, due_at = now.until, changed_at = now.at
        FROM jsonb_to_recordset($1::jsonb) AS now(shard_id int, delivery_id text, state text, attempts int,
            message_id text, owner text, until timestamptz, at timestamptz)
        WHERE d.shard_id = now.shard_id AND d.delivery_id = now.delivery_id AND d.state = now.state
          AND d.attempts = now.attempts AND (d.message_id IS NULL OR d.message_id = now.message_id)",
    sqlite: "
        UPDATE notice_delivery SET state = 'sending', message_id = now.value ->> 'message_id',
            attempts = attempts + 1, claimed_by = now.value ->> 'owner', due_at = now.value ->> 'until',
            changed_at = now.value ->> 'at'
        FROM json_each(?1) AS now
        WHERE notice_delivery.shard_id = now.value ->> 'shard_id'
          AND notice_delivery.delivery_id = now.value ->> 'delivery_id'
          AND notice_delivery.state = now.value ->> 'state' AND notice_delivery.attempts = now.value ->> 'attempts'
          AND (notice_delivery.message_id IS NULL OR notice_delivery.message_id = now.value ->> 'message_id')",
};

/// What came of it, if it is still in our hands.
pub(super) const CAME_OF_IT: Sql = Sql {
    table: "notice_delivery",
    postgres: "
        UPDATE notice_delivery AS d SET state = now.state, due_at = now.due_at, answer = now.answer,
            attempts = d.attempts - now.uncounted, sent_at = now.sent_at, claimed_by = NULL, changed_at = now.at
        FROM jsonb_to_record($1::jsonb) AS now(shard_id int, message_id text, owner text, state text,
            due_at timestamptz, answer text, uncounted int, sent_at timestamptz, at timestamptz)
        WHERE d.shard_id = now.shard_id AND d.message_id = now.message_id AND d.state = 'sending'
          AND d.claimed_by = now.owner",
    sqlite: "
        UPDATE notice_delivery SET state = ?1 ->> 'state', due_at = ?1 ->> 'due_at', answer = ?1 ->> 'answer',
            attempts = attempts - (?1 ->> 'uncounted'), sent_at = ?1 ->> 'sent_at', claimed_by = NULL, changed_at = ?1 ->> 'at'
        WHERE shard_id = ?1 ->> 'shard_id' AND message_id = ?1 ->> 'message_id' AND state = 'sending'
          AND claimed_by = ?1 ->> 'owner'",
};

/// A way is away for too long: what has waited for it until now parks.
pub(super) const GIVE_UP: Sql = Sql {
    table: "notice_delivery",
    postgres: "
        UPDATE notice_delivery AS d SET state = 'parked', answer = now.answer, changed_at = now.at
        FROM jsonb_to_record($1::jsonb) AS now(answer text, at timestamptz)
        WHERE d.shard_id = ANY (ARRAY(SELECT jsonb_array_elements_text($1::jsonb->'shards')::int))
          AND d.channel = $1::jsonb->>'channel' AND d.state = 'waiting'
          AND d.ready_at <= ($1::jsonb->>'since')::timestamptz",
    sqlite: "
        UPDATE notice_delivery SET state = 'parked', answer = ?1 ->> 'answer', changed_at = ?1 ->> 'at'
        WHERE shard_id IN (SELECT value FROM json_each(?1 -> 'shards'))
          AND channel = ?1 ->> 'channel' AND state = 'waiting' AND ready_at <= ?1 ->> 'since'",
};

/// From its messages to the notice.
pub(super) const SETTLE: Sql = Sql {
    table: "notice",
    postgres: "
        UPDATE notice AS n SET changed_at = now.at, state = CASE
            WHEN EXISTS (SELECT 1 FROM notice_delivery AS d WHERE d.notice_id = n.notice_id AND d.state = 'parked') THEN 'parked'
            WHEN EXISTS (SELECT 1 FROM notice_delivery AS d WHERE d.notice_id = n.notice_id AND d.state <> 'sent') THEN 'sending'
            ELSE 'sent' END
        FROM jsonb_to_recordset($1::jsonb) AS now(shard_id int, notice_id text, at timestamptz)
        WHERE n.shard_id = now.shard_id AND n.notice_id = now.notice_id AND n.state IN ('sending', 'parked', 'sent')",
    sqlite: "
        UPDATE notice SET changed_at = now.value ->> 'at', state = CASE
            WHEN EXISTS (SELECT 1 FROM notice_delivery AS d WHERE d.notice_id = notice.notice_id AND d.state = 'parked') THEN 'parked'
            WHEN EXISTS (SELECT 1 FROM notice_delivery AS d WHERE d.notice_id = notice.notice_id AND d.state <> 'sent') THEN 'sending'
            ELSE 'sent' END
        FROM json_each(?1) AS now
        WHERE notice.shard_id = now.value ->> 'shard_id' AND notice.notice_id = now.value ->> 'notice_id'
          AND notice.state IN ('sending', 'parked', 'sent')",
};

/// The notices that parked with their way, after [`GIVE_UP`].
pub(super) const SETTLE_PARKED: Sql = Sql {
    table: "notice",
    postgres: "
        UPDATE notice AS n SET state = 'parked', changed_at = now.at
        FROM jsonb_to_record($1::jsonb) AS now(at timestamptz)
        WHERE n.state = 'sending'
          AND EXISTS (SELECT 1 FROM notice_delivery AS d WHERE d.notice_id = n.notice_id AND d.state = 'parked')",
    sqlite: "
        UPDATE notice SET state = 'parked', changed_at = ?1 ->> 'at'
        WHERE state = 'sending'
          AND EXISTS (SELECT 1 FROM notice_delivery AS d WHERE d.notice_id = notice.notice_id AND d.state = 'parked')",
};

pub(super) const NOTICES: Sql = Sql {
    table: "notice",
    postgres: "
        SELECT to_jsonb(n)::text FROM notice AS n
        JOIN jsonb_to_recordset($1::jsonb) AS wanted(shard_id int, notice_id text)
          ON n.shard_id = wanted.shard_id AND n.notice_id = wanted.notice_id",
    sqlite: concat!(
        "SELECT ",
        notice_object!(),
        " FROM json_each(?1) AS wanted
        JOIN notice AS n ON n.shard_id = wanted.value ->> 'shard_id' AND n.notice_id = wanted.value ->> 'notice_id'"
    ),
};

/// By identifier, or by the beginning of one.
pub(super) const FIND: Sql = Sql {
    table: "notice",
    postgres: "
        SELECT to_jsonb(n)::text FROM notice AS n
        WHERE n.notice_id >= $1::jsonb->>'from' AND n.notice_id < $1::jsonb->>'to' ORDER BY n.notice_id LIMIT 2",
    sqlite: concat!(
        "SELECT ",
        notice_object!(),
        " FROM notice AS n WHERE n.notice_id >= ?1 ->> 'from' AND n.notice_id < ?1 ->> 'to' ORDER BY n.notice_id LIMIT 2"
    ),
};

pub(super) const LIST: Sql = Sql {
    table: "notice",
    postgres: "
        SELECT to_jsonb(n)::text FROM notice AS n
        WHERE (($1::jsonb->>'at') IS NULL
               OR n.created_at < ($1::jsonb->>'at')::timestamptz
               OR n.created_at = ($1::jsonb->>'at')::timestamptz AND n.notice_id > $1::jsonb->>'id')
          AND (($1::jsonb->'states') = 'null'::jsonb OR n.state IN (SELECT jsonb_array_elements_text($1::jsonb->'states')))
          AND (($1::jsonb->>'name') IS NULL OR n.name = $1::jsonb->>'name')
          AND (($1::jsonb->>'case_id') IS NULL OR n.case_id = $1::jsonb->>'case_id')
          AND (($1::jsonb->>'subject') IS NULL OR n.subject = $1::jsonb->>'subject')
        ORDER BY n.created_at DESC, n.notice_id LIMIT ($1::jsonb->>'limit')::bigint",
    sqlite: concat!(
        "SELECT ",
        notice_object!(),
        " FROM notice AS n
        WHERE (?1 ->> 'at' IS NULL OR n.created_at < ?1 ->> 'at'
               OR n.created_at = ?1 ->> 'at' AND n.notice_id > ?1 ->> 'id')
          AND (?1 ->> 'states' IS NULL OR n.state IN (SELECT value FROM json_each(?1 -> 'states')))
          AND (?1 ->> 'name' IS NULL OR n.name = ?1 ->> 'name')
          AND (?1 ->> 'case_id' IS NULL OR n.case_id = ?1 ->> 'case_id')
          AND (?1 ->> 'subject' IS NULL OR n.subject = ?1 ->> 'subject')
        ORDER BY n.created_at DESC, n.notice_id LIMIT ?1 ->> 'limit'"
    ),
};

pub(super) const DELIVERIES: Sql = Sql {
    table: "notice_delivery",
    postgres: "
        SELECT to_jsonb(d)::text FROM notice_delivery AS d WHERE d.notice_id = $1::jsonb->>'notice_id'
        ORDER BY d.ready_at, d.delivery_id LIMIT ($1::jsonb->>'limit')::bigint",
    sqlite: concat!(
        "SELECT ",
        delivery_object!(),
        " FROM notice_delivery AS d WHERE d.notice_id = ?1 ->> 'notice_id'
        ORDER BY d.ready_at, d.delivery_id LIMIT ?1 ->> 'limit'"
    ),
};

pub(super) const CHANGES: Sql = Sql {
    table: "notice_change",
    postgres: "
        SELECT to_jsonb(c)::text FROM notice_change AS c
        WHERE c.shard_id = ($1::jsonb->>'shard_id')::int AND c.notice_id = $1::jsonb->>'notice_id'
        ORDER BY c.at LIMIT ($1::jsonb->>'limit')::bigint",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'notice_id', notice_id, 'at', at, 'actor', actor, 'action', action,
            'reason', reason)
        FROM notice_change
        WHERE shard_id = ?1 ->> 'shard_id' AND notice_id = ?1 ->> 'notice_id' ORDER BY at LIMIT ?1 ->> 'limit'",
};

pub(super) const PUT_CHANGE: Sql = Sql {
    table: "notice_change",
    postgres: "
        INSERT INTO notice_change (shard_id, notice_id, at, actor, action, reason)
        SELECT shard_id, notice_id, at, actor, action, reason FROM jsonb_populate_recordset(NULL::notice_change, $1::jsonb)
        ON CONFLICT (shard_id, notice_id, at, actor) DO NOTHING",
    sqlite: "
        INSERT INTO notice_change (shard_id, notice_id, at, actor, action, reason)
        SELECT value ->> 'shard_id', value ->> 'notice_id', value ->> 'at', value ->> 'actor', value ->> 'action',
            value ->> 'reason'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, notice_id, at, actor) DO NOTHING",
};

/// A parked message is sent again as a whole, under the name it had.
pub(super) const RETRY_DELIVERIES: Sql = Sql {
    table: "notice_delivery",
    postgres: "
        UPDATE notice_delivery AS d SET state = 'waiting', attempts = 0, due_at = now.at, ready_at = now.at,
            changed_at = now.at
        FROM jsonb_to_record($1::jsonb) AS now(notice_id text, at timestamptz)
        WHERE d.state = 'parked' AND (d.notice_id = now.notice_id OR d.message_id IN (
            SELECT m.message_id FROM notice_delivery AS m WHERE m.notice_id = now.notice_id AND m.state = 'parked'))",
    sqlite: "
        UPDATE notice_delivery SET state = 'waiting', attempts = 0, due_at = ?1 ->> 'at', ready_at = ?1 ->> 'at',
            changed_at = ?1 ->> 'at'
        WHERE state = 'parked' AND (notice_id = ?1 ->> 'notice_id' OR message_id IN (
            SELECT m.message_id FROM notice_delivery AS m WHERE m.notice_id = ?1 ->> 'notice_id' AND m.state = 'parked'))",
};

/// A notice that nobody could be sent is looked at again; one with parked messages waits for them.
pub(super) const RETRY_NOTICES: Sql = Sql {
    table: "notice",
    postgres: "
        UPDATE notice AS n SET changed_at = now.at, due_at = now.at,
            state = CASE WHEN n.state = 'undeliverable' THEN 'waiting' ELSE 'sending' END
        FROM jsonb_to_record($1::jsonb) AS now(notice_id text, at timestamptz)
        WHERE n.notice_id = now.notice_id AND n.state IN ('undeliverable', 'parked')
           OR n.state = 'parked' AND NOT EXISTS (
               SELECT 1 FROM notice_delivery AS d WHERE d.notice_id = n.notice_id AND d.state = 'parked')",
    sqlite: "
        UPDATE notice SET changed_at = ?1 ->> 'at', due_at = ?1 ->> 'at',
            state = CASE WHEN state = 'undeliverable' THEN 'waiting' ELSE 'sending' END
        WHERE notice_id = ?1 ->> 'notice_id' AND state IN ('undeliverable', 'parked')
           OR state = 'parked' AND NOT EXISTS (
               SELECT 1 FROM notice_delivery AS d WHERE d.notice_id = notice.notice_id AND d.state = 'parked')",
};

pub(super) const COUNTS: Sql = Sql {
    table: "notice",
    postgres: "
        SELECT jsonb_build_object('state', state, 'count', count(*), 'oldest', min(due_at))::text FROM notice
        WHERE state NOT IN ('sent', 'void') AND $1::jsonb IS NOT NULL GROUP BY state",
    sqlite: "
        SELECT json_object('state', state, 'count', count(*), 'oldest', min(due_at)) FROM notice
        WHERE state NOT IN ('sent', 'void') AND ?1 IS NOT NULL GROUP BY state",
};

/// What is over, the oldest first, in pieces. Messages and what people did go with their notice.
pub(super) const OVER: Sql = Sql {
    table: "notice",
    postgres: "
        SELECT jsonb_build_object('shard_id', n.shard_id, 'notice_id', n.notice_id)::text FROM notice AS n
        WHERE n.shard_id = ANY (ARRAY(SELECT jsonb_array_elements_text($1::jsonb->'shards')::int))
          AND n.state IN ('sent', 'void', 'parked', 'undeliverable')
          AND n.created_at < ($1::jsonb->>'before')::timestamptz AND n.changed_at < ($1::jsonb->>'before')::timestamptz
        ORDER BY n.created_at LIMIT ($1::jsonb->>'limit')::bigint",
    sqlite: "
        SELECT json_object('shard_id', n.shard_id, 'notice_id', n.notice_id) FROM notice AS n
        WHERE n.shard_id IN (SELECT value FROM json_each(?1 -> 'shards'))
          AND n.state IN ('sent', 'void', 'parked', 'undeliverable')
          AND n.created_at < ?1 ->> 'before' AND n.changed_at < ?1 ->> 'before'
        ORDER BY n.created_at LIMIT ?1 ->> 'limit'",
};

pub(super) const FORGET_DELIVERIES: Sql = Sql {
    table: "notice_delivery",
    postgres: "
        DELETE FROM notice_delivery AS d USING jsonb_to_recordset($1::jsonb) AS over(notice_id text)
        WHERE d.notice_id = over.notice_id",
    sqlite: "
        DELETE FROM notice_delivery WHERE notice_id IN (SELECT value ->> 'notice_id' FROM json_each(?1))",
};

pub(super) const FORGET_CHANGES: Sql = Sql {
    table: "notice_change",
    postgres: "
        DELETE FROM notice_change AS c USING jsonb_to_recordset($1::jsonb) AS over(shard_id int, notice_id text)
        WHERE c.shard_id = over.shard_id AND c.notice_id = over.notice_id",
    sqlite: "
        DELETE FROM notice_change WHERE (shard_id, notice_id) IN
            (SELECT value ->> 'shard_id', value ->> 'notice_id' FROM json_each(?1))",
};

pub(super) const FORGET_NOTICES: Sql = Sql {
    table: "notice",
    postgres: "
        DELETE FROM notice AS n USING jsonb_to_recordset($1::jsonb) AS over(shard_id int, notice_id text)
        WHERE n.shard_id = over.shard_id AND n.notice_id = over.notice_id",
    sqlite: "
        DELETE FROM notice WHERE (shard_id, notice_id) IN
            (SELECT value ->> 'shard_id', value ->> 'notice_id' FROM json_each(?1))",
};
