//! The statements about the replacement of credentials, in both dialects.

use super::database::Sql;

/// A row of `rotation` as SQLite gives it.
macro_rules! sqlite_row {
    () => {
        "json_object('shard_id', r.shard_id, 'name', r.name, 'nhi_key', r.nhi_key, 'mode', r.mode,
            'declared', json(r.declared), 'wanted', json(iif(r.wanted, 'true', 'false')), 'phase', r.phase,
            'reason', r.reason, 'answerable', r.answerable, 'answer_by', r.answer_by, 'open_case', r.open_case,
            'last_case', r.last_case, 'compromised', json(iif(r.compromised, 'true', 'false')), 'since', r.since,
            'expires_at', r.expires_at, 'last_rotated_at', r.last_rotated_at, 'promoted_at', r.promoted_at, 'turn', r.turn,
            'overlap_s', r.overlap_s, 'dominated_by', r.dominated_by, 'failures', r.failures,
            'failed_at', r.failed_at, 'planned', json(iif(r.planned, 'true', 'false')), 'because', r.because,
            'due_at', r.due_at, 'jitter_s', r.jitter_s, 'past_window', json(iif(r.past_window, 'true', 'false')),
            'starts_at', r.starts_at, 'renewal_from', r.renewal_from, 'renewal_until', r.renewal_until,
            'exposed_at', r.exposed_at, 'exposed_by', r.exposed_by, 'exposed_reason', r.exposed_reason,
            'exposed_again', json(iif(r.exposed_again, 'true', 'false')), 'changed_at', r.changed_at)"
    };
}

/// What is declared anew is planned anew; what is under way goes on.
pub(super) const DECLARE: Sql = Sql {
    table: "rotation",
    postgres: "
        INSERT INTO rotation (shard_id, name, nhi_key, mode, declared, wanted, phase, compromised, since, expires_at,
            failures, planned, past_window, changed_at)
        SELECT shard_id, name, nhi_key, mode, declared, wanted, phase, compromised, since, expires_at, failures,
            planned, past_window, changed_at
        FROM jsonb_populate_recordset(NULL::rotation, $1::jsonb)
        ON CONFLICT (shard_id, name) DO UPDATE SET nhi_key = excluded.nhi_key, mode = excluded.mode,
            declared = excluded.declared, wanted = excluded.wanted,
            -- What was seen when it was issued says more than what somebody wrote down.
            expires_at = CASE WHEN rotation.last_rotated_at IS NULL THEN excluded.expires_at ELSE rotation.expires_at END,
            planned = false, changed_at = excluded.changed_at",
    sqlite: "
        INSERT INTO rotation (shard_id, name, nhi_key, mode, declared, wanted, phase, compromised, since, expires_at,
            failures, planned, past_window, changed_at)
        SELECT value ->> 'shard_id', value ->> 'name', value ->> 'nhi_key', value ->> 'mode', value -> 'declared',
            value ->> 'wanted', value ->> 'phase', value ->> 'compromised', value ->> 'since', value ->> 'expires_at',
            value ->> 'failures', value ->> 'planned', value ->> 'past_window', value ->> 'changed_at'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, name) DO UPDATE SET nhi_key = excluded.nhi_key, mode = excluded.mode,
            declared = excluded.declared, wanted = excluded.wanted,
            -- What was seen when it was issued says more than what somebody wrote down.
            expires_at = CASE WHEN rotation.last_rotated_at IS NULL THEN excluded.expires_at ELSE rotation.expires_at END,
            planned = false, changed_at = excluded.changed_at",
};

pub(super) const END: Sql = Sql {
    table: "rotation",
    postgres: "
        UPDATE rotation AS r SET wanted = false, changed_at = w.changed_at
        FROM jsonb_to_recordset($1::jsonb) AS w(shard_id int, name text, nhi_key text, changed_at timestamptz)
        WHERE r.shard_id = w.shard_id AND r.name = w.name AND r.nhi_key = w.nhi_key",
    sqlite: "
        UPDATE rotation AS r SET wanted = 0, changed_at = w.value ->> 'changed_at'
        FROM json_each(?1) AS w
        WHERE r.shard_id = w.value ->> 'shard_id' AND r.name = w.value ->> 'name'
          AND r.nhi_key = w.value ->> 'nhi_key'",
};

pub(super) const NAMED: Sql = Sql {
    table: "rotation",
    postgres: "
        SELECT to_jsonb(r)::text
        FROM jsonb_to_recordset($1::jsonb) AS wanted(shard_id int, key text)
        JOIN rotation AS r ON r.shard_id = wanted.shard_id AND r.name = wanted.key",
    sqlite: concat!(
        "SELECT ",
        sqlite_row!(),
        " FROM json_each(?1) AS wanted
        JOIN rotation AS r ON r.shard_id = wanted.value ->> 'shard_id' AND r.name = wanted.value ->> 'key'"
    ),
};

/// The same, held until the end of the transaction.
pub(super) const NAMED_FOR_UPDATE: Sql = Sql {
    table: "rotation",
    postgres: "
        SELECT to_jsonb(r)::text
        FROM jsonb_to_recordset($1::jsonb) AS wanted(shard_id int, key text)
        JOIN rotation AS r ON r.shard_id = wanted.shard_id AND r.name = wanted.key
        ORDER BY r.shard_id, r.name FOR UPDATE OF r",
    sqlite: NAMED.sqlite,
};

/// A page of a list by name. `$postgres` and `$sqlite` say what the rows have in common that an index begins with and goes on
/// from by name, so a page costs what is read for it; whatever else is wanted is looked at row by row.
macro_rules! by_name {
    ($postgres:literal, $sqlite:literal) => {
        Sql {
            table: "rotation",
            postgres: concat!(
                "
        SELECT to_jsonb(r)::text FROM rotation AS r
        WHERE r.name COLLATE \"C\" > $1::jsonb->>'after' AND r.name COLLATE \"C\" < $1::jsonb->>'before'",
                $postgres,
                "
          AND (NOT ($1::jsonb->>'open_only')::boolean OR r.open_case IS NOT NULL)
          AND ($1::jsonb->>'phase' IS NULL OR r.phase = $1::jsonb->>'phase')
        ORDER BY r.name COLLATE \"C\" LIMIT ($1::jsonb->>'limit')::bigint"
            ),
            sqlite: concat!(
                "SELECT ",
                sqlite_row!(),
                " FROM rotation AS r
        WHERE r.name > ?1 ->> 'after' AND r.name < ?1 ->> 'before'",
                $sqlite,
                "
          AND (NOT ?1 ->> 'open_only' OR r.open_case IS NOT NULL)
          AND (?1 ->> 'phase' IS NULL OR r.phase = ?1 ->> 'phase')
        ORDER BY r.name LIMIT ?1 ->> 'limit'"
            ),
        }
    };
}

pub(super) const LIST: Sql = by_name!("", "");

pub(super) const LIST_OF_NHI: Sql = by_name!(
    "
          AND r.nhi_key = $1::jsonb->>'nhi'",
    "
          AND r.nhi_key = ?1 ->> 'nhi'"
);

pub(super) const LIST_OPEN: Sql = by_name!(
    "
          AND r.open_case IS NOT NULL",
    "
          AND r.open_case IS NOT NULL"
);

pub(super) const LIST_IN_PHASE: Sql = by_name!(
    "
          AND r.phase = $1::jsonb->>'phase'",
    "
          AND r.phase = ?1 ->> 'phase'"
);

/// What begins next, in the order of the time.
pub(super) const UPCOMING: Sql = Sql {
    table: "rotation",
    postgres: "
        SELECT to_jsonb(r)::text FROM rotation AS r
        WHERE r.open_case IS NULL AND r.wanted AND r.planned
          AND r.starts_at <= ($1::jsonb->>'until')::timestamptz
          -- Alone this one is what the index can begin at.
          AND r.starts_at >= COALESCE(($1::jsonb->>'at')::timestamptz, '-infinity')
          AND (r.starts_at, r.name COLLATE \"C\")
              > (COALESCE(($1::jsonb->>'at')::timestamptz, '-infinity'), $1::jsonb->>'after')
        ORDER BY r.starts_at, r.name COLLATE \"C\" LIMIT ($1::jsonb->>'limit')::bigint",
    sqlite: concat!(
        "SELECT ",
        sqlite_row!(),
        " FROM rotation AS r
        WHERE r.open_case IS NULL AND r.wanted AND r.planned
          AND r.starts_at <= ?1 ->> 'until'
          AND r.starts_at >= COALESCE(?1 ->> 'at', '')
          AND (r.starts_at, r.name) > (COALESCE(?1 ->> 'at', ''), ?1 ->> 'after')
        ORDER BY r.starts_at, r.name LIMIT ?1 ->> 'limit'"
    ),
};

pub(super) const UNPLANNED: Sql = Sql {
    table: "rotation",
    postgres: "
        SELECT to_jsonb(r)::text FROM rotation AS r
        WHERE r.open_case IS NULL AND r.wanted AND NOT r.planned
        ORDER BY r.name LIMIT ($1::jsonb->>'limit')::bigint FOR UPDATE",
    sqlite: concat!(
        "SELECT ",
        sqlite_row!(),
        " FROM rotation AS r
        WHERE r.open_case IS NULL AND r.wanted AND NOT r.planned
        ORDER BY r.name LIMIT ?1 ->> 'limit'"
    ),
};

pub(super) const DUE: Sql = Sql {
    table: "rotation",
    postgres: "
        SELECT to_jsonb(r)::text FROM rotation AS r
        WHERE r.open_case IS NULL AND r.wanted AND r.planned
          AND r.starts_at <= ($1::jsonb->>'until')::timestamptz
        ORDER BY r.starts_at LIMIT ($1::jsonb->>'limit')::bigint FOR UPDATE",
    sqlite: concat!(
        "SELECT ",
        sqlite_row!(),
        " FROM rotation AS r
        WHERE r.open_case IS NULL AND r.wanted AND r.planned AND r.starts_at <= ?1 ->> 'until'
        ORDER BY r.starts_at LIMIT ?1 ->> 'limit'"
    ),
};

/// When the next one begins, and whether something has to be planned.
pub(super) const NEXT: Sql = Sql {
    table: "rotation",
    postgres: "
        SELECT jsonb_build_object(
            'starts_at', (SELECT min(starts_at) FROM rotation WHERE open_case IS NULL AND wanted AND planned),
            'unplanned', EXISTS (SELECT 1 FROM rotation WHERE open_case IS NULL AND wanted AND NOT planned))::text
        WHERE $1::jsonb IS NOT NULL",
    sqlite: "
        SELECT json_object(
            'starts_at', (SELECT min(starts_at) FROM rotation WHERE open_case IS NULL AND wanted AND planned),
            'unplanned', json(iif(EXISTS (SELECT 1 FROM rotation
                WHERE open_case IS NULL AND wanted AND NOT planned), 'true', 'false')))
        WHERE ?1 IS NOT NULL",
};

/// How many begin in windows, each of which is named by its place in the question.
pub(super) const PLANNED_IN: Sql = Sql {
    table: "rotation",
    postgres: "
        SELECT jsonb_build_object('place', w.place, 'planned', (
            SELECT count(*) FROM rotation AS r
            WHERE r.open_case IS NULL AND r.wanted AND r.planned
              AND r.starts_at >= w.opens AND r.starts_at < w.closes))::text
        FROM jsonb_to_recordset($1::jsonb) AS w(place int, opens timestamptz, closes timestamptz)",
    sqlite: "
        SELECT json_object('place', w.value ->> 'place', 'planned', (
            SELECT count(*) FROM rotation AS r
            WHERE r.open_case IS NULL AND r.wanted AND r.planned
              AND r.starts_at >= w.value ->> 'opens' AND r.starts_at < w.value ->> 'closes'))
        FROM json_each(?1) AS w",
};

pub(super) const PLAN: Sql = Sql {
    table: "rotation",
    postgres: "
        UPDATE rotation AS r SET planned = true, phase = 'scheduled', because = w.because, due_at = w.due_at,
            jitter_s = w.jitter_s, past_window = w.past_window, starts_at = w.starts_at, changed_at = w.changed_at
        FROM jsonb_to_recordset($1::jsonb) AS w(shard_id int, name text, because text, due_at timestamptz,
            jitter_s bigint, past_window boolean, starts_at timestamptz, changed_at timestamptz)
        WHERE r.shard_id = w.shard_id AND r.name = w.name AND r.open_case IS NULL",
    sqlite: "
        UPDATE rotation AS r SET planned = 1, phase = 'scheduled', because = w.value ->> 'because',
            due_at = w.value ->> 'due_at', jitter_s = w.value ->> 'jitter_s', past_window = w.value ->> 'past_window',
            starts_at = w.value ->> 'starts_at', changed_at = w.value ->> 'changed_at'
        FROM json_each(?1) AS w
        WHERE r.shard_id = w.value ->> 'shard_id' AND r.name = w.value ->> 'name' AND r.open_case IS NULL",
};

/// One begins. What is said of its credential stands until another is in its place.
pub(super) const BEGIN: Sql = Sql {
    table: "rotation",
    postgres: "
        UPDATE rotation AS r SET open_case = w.open_case, phase = 'scheduled', because = w.because,
            compromised = w.compromised, reason = NULL, answerable = NULL, answer_by = NULL, changed_at = w.changed_at,
            exposed_at = w.exposed_at, exposed_by = w.exposed_by, exposed_reason = w.exposed_reason,
            exposed_again = w.exposed_again
        FROM jsonb_to_recordset($1::jsonb) AS w(shard_id int, name text, open_case text, because text,
            compromised boolean, changed_at timestamptz, exposed_at timestamptz, exposed_by text, exposed_reason text,
            exposed_again boolean)
        WHERE r.shard_id = w.shard_id AND r.name = w.name",
    sqlite: "
        UPDATE rotation AS r SET open_case = w.value ->> 'open_case', phase = 'scheduled',
            because = w.value ->> 'because', compromised = w.value ->> 'compromised', reason = NULL, answerable = NULL,
            answer_by = NULL, changed_at = w.value ->> 'changed_at', exposed_at = w.value ->> 'exposed_at',
            exposed_by = w.value ->> 'exposed_by', exposed_reason = w.value ->> 'exposed_reason',
            exposed_again = w.value ->> 'exposed_again'
        FROM json_each(?1) AS w
        WHERE r.shard_id = w.value ->> 'shard_id' AND r.name = w.value ->> 'name'",
};

/// What the case under way puts into use is known to strangers too.
pub(super) const EXPOSE: Sql = Sql {
    table: "rotation",
    postgres: "
        UPDATE rotation AS r SET exposed_at = w.exposed_at, exposed_by = w.exposed_by, exposed_reason = w.exposed_reason,
            exposed_again = true
        FROM jsonb_to_recordset($1::jsonb) AS w(shard_id int, name text, open_case text, exposed_at timestamptz,
            exposed_by text, exposed_reason text)
        WHERE r.shard_id = w.shard_id AND r.name = w.name AND r.open_case = w.open_case",
    sqlite: "
        UPDATE rotation AS r SET exposed_at = w.value ->> 'exposed_at', exposed_by = w.value ->> 'exposed_by',
            exposed_reason = w.value ->> 'exposed_reason', exposed_again = 1
        FROM json_each(?1) AS w
        WHERE r.shard_id = w.value ->> 'shard_id' AND r.name = w.value ->> 'name'
          AND r.open_case = w.value ->> 'open_case'",
};

/// What a case did. One that another case took the place of says nothing any more. Strangers know what is used until a case that is
/// closed has put something into use that was made after it was said.
pub(super) const MOVE: Sql = Sql {
    table: "rotation",
    postgres: "
        UPDATE rotation AS r SET phase = w.phase, reason = w.reason, answerable = w.answerable, answer_by = w.answer_by,
            turn = COALESCE(w.turn, r.turn), overlap_s = COALESCE(w.overlap_s, r.overlap_s),
            dominated_by = CASE WHEN w.overlap_s IS NULL THEN r.dominated_by ELSE w.dominated_by END,
            since = CASE WHEN w.phase = 'closed' THEN COALESCE(w.since, r.promoted_at, r.since) ELSE r.since END,
            last_rotated_at = CASE WHEN w.phase = 'closed' THEN COALESCE(w.since, r.promoted_at, r.last_rotated_at)
                ELSE r.last_rotated_at END,
            expires_at = CASE WHEN w.phase <> 'closed' THEN r.expires_at WHEN w.since IS NOT NULL THEN w.expires_at
                WHEN r.promoted_at IS NOT NULL THEN r.promoted_expires_at ELSE r.expires_at END,
            renewal_from = CASE WHEN w.phase = 'closed' THEN NULL ELSE r.renewal_from END,
            renewal_until = CASE WHEN w.phase = 'closed' THEN NULL ELSE r.renewal_until END,
            renewal_asked_at = CASE WHEN w.phase = 'closed' THEN NULL ELSE r.renewal_asked_at END,
            renewal_next_at = CASE WHEN w.phase = 'closed' THEN NULL ELSE r.renewal_next_at END,
            promoted_at = CASE WHEN w.closed THEN NULL ELSE COALESCE(w.since, r.promoted_at) END,
            promoted_expires_at = CASE WHEN w.closed THEN NULL WHEN w.since IS NULL THEN r.promoted_expires_at
                ELSE w.expires_at END,
            last_case = r.open_case, open_case = CASE WHEN w.closed THEN NULL ELSE r.open_case END,
            planned = NOT w.closed AND r.planned, compromised = NOT w.closed AND r.compromised,
            failures = CASE WHEN NOT w.closed THEN r.failures WHEN w.phase = 'closed' THEN 0 ELSE r.failures + 1 END,
            failed_at = CASE WHEN NOT w.closed THEN r.failed_at WHEN w.phase = 'closed' THEN NULL ELSE w.changed_at END,
            exposed_at = CASE WHEN w.phase = 'closed' AND (w.fresh OR NOT r.exposed_again) THEN NULL ELSE r.exposed_at END,
            exposed_by = CASE WHEN w.phase = 'closed' AND (w.fresh OR NOT r.exposed_again) THEN NULL ELSE r.exposed_by END,
            exposed_reason = CASE WHEN w.phase = 'closed' AND (w.fresh OR NOT r.exposed_again) THEN NULL
                ELSE r.exposed_reason END,
            exposed_again = r.exposed_again AND NOT w.fresh AND NOT w.closed,
            changed_at = w.changed_at
        FROM jsonb_to_recordset($1::jsonb) AS w(shard_id int, name text, case_id text, phase text, reason text,
            answerable text, answer_by timestamptz, turn text, overlap_s bigint, dominated_by text, since timestamptz,
            expires_at timestamptz, fresh boolean, closed boolean, changed_at timestamptz)
        WHERE r.shard_id = w.shard_id AND r.name = w.name AND r.open_case = w.case_id",
    sqlite: "
        UPDATE rotation AS r SET phase = w.value ->> 'phase', reason = w.value ->> 'reason',
            answerable = w.value ->> 'answerable', answer_by = w.value ->> 'answer_by',
            turn = COALESCE(w.value ->> 'turn', r.turn), overlap_s = COALESCE(w.value ->> 'overlap_s', r.overlap_s),
            dominated_by = CASE WHEN w.value ->> 'overlap_s' IS NULL THEN r.dominated_by
                ELSE w.value ->> 'dominated_by' END,
            since = CASE WHEN w.value ->> 'phase' = 'closed'
                THEN COALESCE(w.value ->> 'since', r.promoted_at, r.since) ELSE r.since END,
            last_rotated_at = CASE WHEN w.value ->> 'phase' = 'closed'
                THEN COALESCE(w.value ->> 'since', r.promoted_at, r.last_rotated_at) ELSE r.last_rotated_at END,
            expires_at = CASE WHEN w.value ->> 'phase' <> 'closed' THEN r.expires_at
                WHEN w.value ->> 'since' IS NOT NULL THEN w.value ->> 'expires_at'
                WHEN r.promoted_at IS NOT NULL THEN r.promoted_expires_at ELSE r.expires_at END,
            renewal_from = CASE WHEN w.value ->> 'phase' = 'closed' THEN NULL ELSE r.renewal_from END,
            renewal_until = CASE WHEN w.value ->> 'phase' = 'closed' THEN NULL ELSE r.renewal_until END,
            renewal_asked_at = CASE WHEN w.value ->> 'phase' = 'closed' THEN NULL ELSE r.renewal_asked_at END,
            renewal_next_at = CASE WHEN w.value ->> 'phase' = 'closed' THEN NULL ELSE r.renewal_next_at END,
            promoted_at = CASE WHEN w.value ->> 'closed' THEN NULL ELSE COALESCE(w.value ->> 'since', r.promoted_at) END,
            promoted_expires_at = CASE WHEN w.value ->> 'closed' THEN NULL
                WHEN w.value ->> 'since' IS NULL THEN r.promoted_expires_at ELSE w.value ->> 'expires_at' END,
            last_case = r.open_case,
            open_case = CASE WHEN w.value ->> 'closed' THEN NULL ELSE r.open_case END,
            planned = CASE WHEN w.value ->> 'closed' THEN 0 ELSE r.planned END,
            compromised = CASE WHEN w.value ->> 'closed' THEN 0 ELSE r.compromised END,
            failures = CASE WHEN NOT w.value ->> 'closed' THEN r.failures WHEN w.value ->> 'phase' = 'closed' THEN 0
                ELSE r.failures + 1 END,
            failed_at = CASE WHEN NOT w.value ->> 'closed' THEN r.failed_at WHEN w.value ->> 'phase' = 'closed' THEN NULL
                ELSE w.value ->> 'changed_at' END,
            exposed_at = CASE WHEN w.value ->> 'phase' = 'closed' AND (w.value ->> 'fresh' OR NOT r.exposed_again) THEN NULL
                ELSE r.exposed_at END,
            exposed_by = CASE WHEN w.value ->> 'phase' = 'closed' AND (w.value ->> 'fresh' OR NOT r.exposed_again) THEN NULL
                ELSE r.exposed_by END,
            exposed_reason = CASE WHEN w.value ->> 'phase' = 'closed' AND (w.value ->> 'fresh' OR NOT r.exposed_again)
                THEN NULL ELSE r.exposed_reason END,
            exposed_again = r.exposed_again AND NOT w.value ->> 'fresh' AND NOT w.value ->> 'closed',
            changed_at = w.value ->> 'changed_at'
        FROM json_each(?1) AS w
        WHERE r.shard_id = w.value ->> 'shard_id' AND r.name = w.value ->> 'name'
          AND r.open_case = w.value ->> 'case_id'",
};

/// What is known of how long a credential lasts is known of the one in use.
pub(super) const REPLACED: Sql = Sql {
    table: "nhi_credential",
    postgres: "
        UPDATE nhi_credential AS c SET issued_at = w.issued_at, expires_at = w.expires_at, changed_at = w.changed_at
        FROM jsonb_to_recordset($1::jsonb) AS w(shard_id int, nhi_key text, name text, issued_at timestamptz,
            expires_at timestamptz, changed_at timestamptz)
        WHERE c.shard_id = w.shard_id AND c.nhi_key = w.nhi_key AND c.name = w.name AND c.status <> 'ended'",
    sqlite: "
        UPDATE nhi_credential AS c SET issued_at = w.value ->> 'issued_at', expires_at = w.value ->> 'expires_at',
            changed_at = w.value ->> 'changed_at'
        FROM json_each(?1) AS w
        WHERE c.shard_id = w.value ->> 'shard_id' AND c.nhi_key = w.value ->> 'nhi_key'
          AND c.name = w.value ->> 'name' AND c.status <> 'ended'",
};

/// Who has seen a secret that is replaced knows nothing any more.
pub(super) const FORGET_KNOWN: Sql = Sql {
    table: "graph_edge",
    postgres: "
        DELETE FROM graph_edge AS e
        USING jsonb_to_recordset($1::jsonb) AS w(shard_id int, to_node text, before timestamptz)
        WHERE e.shard_id = w.shard_id AND e.to_node = w.to_node AND e.relation = 'knows'
          AND e.from_node LIKE 'person:%' AND e.last_seen_at < w.before",
    sqlite: "
        DELETE FROM graph_edge
        WHERE relation = 'knows' AND from_node LIKE 'person:%' AND EXISTS (
            SELECT 1 FROM json_each(?1) AS w
            WHERE graph_edge.shard_id = w.value ->> 'shard_id' AND graph_edge.to_node = w.value ->> 'to_node'
              AND graph_edge.last_seen_at < w.value ->> 'before')",
};

/// What a system issued, is used, and is to be asked after by a moment.
pub(super) const RENEWABLE: Sql = Sql {
    table: "rotation",
    postgres: "
        SELECT to_jsonb(r)::text FROM rotation AS r
        WHERE r.open_case IS NULL AND r.wanted AND r.mode = 'reissue' AND r.last_rotated_at IS NOT NULL
          AND r.name COLLATE \"C\" > $1::jsonb->>'after' AND r.name COLLATE \"C\" < $1::jsonb->>'before'
          AND (r.renewal_next_at IS NULL OR r.renewal_next_at <= ($1::jsonb->>'by')::timestamptz)
        ORDER BY r.name COLLATE \"C\" LIMIT ($1::jsonb->>'limit')::bigint",
    sqlite: concat!(
        "SELECT ",
        sqlite_row!(),
        " FROM rotation AS r
        WHERE r.open_case IS NULL AND r.wanted AND r.mode = 'reissue' AND r.last_rotated_at IS NOT NULL
          AND r.name > ?1 ->> 'after' AND r.name < ?1 ->> 'before'
          AND (r.renewal_next_at IS NULL OR r.renewal_next_at <= ?1 ->> 'by')
        ORDER BY r.name LIMIT ?1 ->> 'limit'"
    ),
};

/// What it said. Another wish is another plan; none leaves what it said before.
pub(super) const WISH: Sql = Sql {
    table: "rotation",
    postgres: "
        UPDATE rotation AS r SET renewal_asked_at = w.asked_at, renewal_next_at = w.next_at,
            renewal_from = COALESCE(w.renewal_from, r.renewal_from),
            renewal_until = COALESCE(w.renewal_until, r.renewal_until),
            planned = r.planned AND (w.renewal_from IS NULL OR (w.renewal_from = r.renewal_from
                AND w.renewal_until = r.renewal_until) IS TRUE)
        FROM jsonb_to_recordset($1::jsonb) AS w(shard_id int, name text, asked_at timestamptz,
            next_at timestamptz, renewal_from timestamptz, renewal_until timestamptz, since timestamptz)
        WHERE r.shard_id = w.shard_id AND r.name = w.name AND r.open_case IS NULL AND r.since = w.since",
    sqlite: "
        UPDATE rotation AS r SET renewal_asked_at = w.value ->> 'asked_at', renewal_next_at = w.value ->> 'next_at',
            renewal_from = COALESCE(w.value ->> 'renewal_from', r.renewal_from),
            renewal_until = COALESCE(w.value ->> 'renewal_until', r.renewal_until),
            planned = r.planned AND (w.value ->> 'renewal_from' IS NULL OR (w.value ->> 'renewal_from' IS r.renewal_from
                AND w.value ->> 'renewal_until' IS r.renewal_until))
        FROM json_each(?1) AS w
        WHERE r.shard_id = w.value ->> 'shard_id' AND r.name = w.value ->> 'name' AND r.open_case IS NULL
          AND r.since = w.value ->> 'since'",
};
