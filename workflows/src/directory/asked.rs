//! Questions and tasks that are open for somebody, over all cases.
//!
//! A question names whom it is put to by a word: a person's key (as it is, or `person:KEY`), or the name of an attribute of
//! the person it is about (`manager`, `backup`). Both are found here. Walks over the open cases that put a
//! question: a million that ask nobody cost nothing.

use engine::core::case::{Ask, InstanceState};
use engine::core::id::{CaseId, InstanceIndex, Place, ShardId, StepIndex};
use engine::store::StoreError;
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::Directory;
use super::database::Sql;

/// The attributes of a person that name another one who answers for them.
pub const ANSWERING: [&str; 2] = ["manager", "backup"];
/// The prefix of a word that is a person's key.
pub const PERSON: &str = "person:";
/// The most open questions that are given at once; whoever has more asks again.
const ASKED_MAX: u32 = 1_000;

/// An open question, and the word in it that means the person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub case: CaseId,
    pub shard: ShardId,
    pub place: Place,
    /// The person it is about.
    pub subject: String,
    pub word: String,
}

#[derive(Deserialize)]
struct Row {
    shard_id: i32,
    case_id: String,
    step: u16,
    instance: u32,
    subject: String,
    body: String,
    /// What the attributes of [`ANSWERING`] say, in that order.
    answering: [Option<String>; 2],
}

/// The part of an instance's stored form that is needed here.
#[derive(Deserialize)]
struct Body {
    state: InstanceState,
}

impl Directory {
    /// What waits for an answer of this person, of every case but those about themselves.
    ///
    /// # Errors
    /// When the database does not answer, or holds what this program cannot read.
    pub async fn asked_of(&self, key: &str) -> Result<Vec<Asked>, StoreError> {
        let parameter = json!({ "key": key, "limit": ASKED_MAX });
        let rows: Vec<Row> = self.reader().rows(&ASKED, &parameter).await?;
        let mut found = Vec::new();
        for row in rows {
            let corrupt = |source| StoreError::Corrupt {
                table: "case_step",
                column: "body",
                key: row.case_id.clone(),
                source,
            };
            let case = Uuid::parse_str(&row.case_id).map_err(|error| corrupt(error.into()))?;
            let body: Body =
                serde_json::from_str(&row.body).map_err(|error| corrupt(error.into()))?;
            let InstanceState::Asking { ask, .. } = body.state else {
                continue;
            };
            let words = match ask {
                Ask::Approval { ask, .. } => ask,
                Ask::Task { assignee, .. } => vec![assignee],
                Ask::Signal { .. } => continue,
            };
            let means = |word: &String| {
                word == key
                    || word.strip_prefix(PERSON) == Some(key)
                    || ANSWERING
                        .iter()
                        .zip(&row.answering)
                        .any(|(name, says)| word == name && says.as_deref() == Some(key))
            };
            found.extend(words.into_iter().filter(means).map(|word| Asked {
                case: CaseId(case),
                shard: ShardId(row.shard_id),
                place: Place {
                    step: StepIndex(row.step),
                    instance: InstanceIndex(row.instance),
                },
                subject: row.subject.clone(),
                word,
            }));
        }
        Ok(found)
    }
}

/// From the few cases that ask, one look-up each, whatever a planner believes of their number (`OFFSET 0`, `CROSS JOIN`).
/// Of what is open only that whose text has the key in quotes, or whose subject names the person.
const ASKED: Sql = Sql {
    table: "case_asked",
    postgres: "
        SELECT jsonb_build_object('shard_id', o.shard_id, 'case_id', o.case_id, 'step', s.step, 'instance', s.instance,
            'subject', o.subject, 'body', s.body,
            'answering', jsonb_build_array(i.attributes->>'manager', i.attributes->>'backup'))::text
        FROM case_asked AS a
        CROSS JOIN LATERAL (SELECT o.* FROM case_open AS o
            WHERE o.shard_id = a.shard_id AND o.case_id = a.case_id OFFSET 0) AS o
        CROSS JOIN LATERAL (SELECT s.* FROM case_step AS s
            WHERE s.shard_id = a.shard_id AND s.case_id = a.case_id OFFSET 0) AS s
        LEFT JOIN identity AS i ON i.shard_id = o.shard_id AND i.identity_key = o.subject
        WHERE s.state = 'asking' AND s.instance >= 0 AND o.subject <> $1::jsonb->>'key'
          AND (strpos(s.body, $1::jsonb->>'key') > 0
               OR i.attributes->>'manager' = $1::jsonb->>'key' OR i.attributes->>'backup' = $1::jsonb->>'key')
        ORDER BY o.shard_id, o.case_id, s.step, s.instance LIMIT ($1::jsonb->>'limit')::bigint",
    sqlite: "
        SELECT json_object('shard_id', o.shard_id, 'case_id', lower(hex(o.case_id)), 'step', s.step,
            'instance', s.instance, 'subject', o.subject, 'body', s.body,
            'answering', json_array(i.attributes ->> 'manager', i.attributes ->> 'backup'))
        FROM case_asked AS a
        CROSS JOIN case_head AS h ON h.shard_id = a.shard_id AND h.case_id = a.case_id
        CROSS JOIN case_open AS o ON o.case_number = h.case_number
        CROSS JOIN case_step AS s ON s.case_number = o.case_number
        LEFT JOIN identity AS i ON i.shard_id = o.shard_id AND i.identity_key = o.subject
        WHERE s.state = 'asking' AND s.instance >= 0 AND o.subject <> ?1 ->> 'key'
          AND (instr(s.body, ?1 ->> 'key') > 0
               OR i.attributes ->> 'manager' = ?1 ->> 'key' OR i.attributes ->> 'backup' = ?1 ->> 'key')
        ORDER BY s.case_number, s.step, s.instance LIMIT ?1 ->> 'limit'",
};

/// Notes which cases put a question to people.
pub(super) const PUT_ASKED: Sql = Sql {
    table: "case_asked",
    postgres: "
        INSERT INTO case_asked (shard_id, case_id)
        SELECT shard_id, case_id FROM jsonb_populate_recordset(NULL::case_asked, $1::jsonb)
        ON CONFLICT DO NOTHING",
    sqlite: "
        INSERT INTO case_asked (shard_id, case_id)
        SELECT value ->> 'shard_id', unhex(replace(value ->> 'case_id', '-', ''))
        FROM json_each(?1) WHERE true
        ON CONFLICT DO NOTHING",
};

/// Forgets those that are over.
pub(super) const DROP_ASKED: Sql = Sql {
    table: "case_asked",
    postgres: "
        DELETE FROM case_asked AS a
        USING jsonb_to_recordset($1::jsonb) AS over(shard_id int, case_id uuid)
        WHERE a.shard_id = over.shard_id AND a.case_id = over.case_id",
    sqlite: "
        DELETE FROM case_asked WHERE (shard_id, case_id) IN (
            SELECT value ->> 'shard_id', unhex(replace(value ->> 'case_id', '-', '')) FROM json_each(?1))",
};
