//! What is open for people to answer, over all cases.

use engine::core::case::{Ask, InstanceState};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::Row as _;
use utoipa::ToSchema;
use uuid::Uuid;
use workflows::directory::{ANSWERING, PERSON};

use super::Api;
use super::input::{self, Page};
use super::problem::ApiError;
use crate::shell::case_view::label;
use crate::shell::database::Readers;

/// A question or a task that is open.
#[derive(Debug, Serialize, ToSchema)]
pub struct Open {
    /// The case it belongs to; its answer goes to `{case}/{step}/{instance}`.
    pub case: Uuid,
    pub step: i64,
    pub instance: i64,
    pub workflow: String,
    /// The key of the person it is about.
    pub subject: String,
    /// What it is about inside the case: `crm`, `crm · sales`.
    pub label: String,
    /// What is asked.
    #[schema(value_type = Object)]
    pub ask: Ask,
    /// Until when; null when that has passed and nobody answered.
    pub due: Option<chrono::DateTime<chrono::Utc>>,
    /// Who approved already.
    pub approvals: Vec<String>,
    /// The keys of the people it is put to now: `manager` is whoever is the manager of the subject at this moment.
    pub people: Vec<String>,
}

/// Where a listing goes on: the key of the last row. `group` is what leads the key: the number of the case on
/// SQLite, the shard on PostgreSQL.
struct Position {
    group: i64,
    case: Uuid,
    step: i32,
    instance: i32,
}

/// The part of an instance's stored form that is needed here.
#[derive(Deserialize)]
struct Body {
    state: InstanceState,
    #[serde(default)]
    item: Value,
    #[serde(default)]
    with: Value,
}

struct Found {
    position: Position,
    workflow: String,
    subject: String,
    body: String,
    /// Who answers for the subject, by the attributes of [`ANSWERING`].
    answering: [Option<String>; 2],
}

/// A page of what is open and `wanted`, in the order of the cases' keys.
pub(super) async fn page(
    api: &Api,
    limit: Option<u32>,
    cursor: Option<&str>,
    wanted: fn(&Ask) -> bool,
) -> Result<Page<Open>, ApiError> {
    let limit = input::limit(limit)? as usize;
    let mut after = input::cursor(cursor, Position::parse)?.unwrap_or(Position::BEFORE_ALL);
    let mut items = Vec::new();
    loop {
        let rows = read(api, &after, limit).await?;
        let count = rows.len();
        for row in rows {
            after = row.position;
            let body: Body = serde_json::from_str(&row.body)
                .map_err(|error| ApiError::Internal(error.into()))?;
            let InstanceState::Asking {
                ask,
                due,
                approvals,
            } = body.state
            else {
                continue;
            };
            if !wanted(&ask) {
                continue;
            }
            let people = people(&ask, &row.answering);
            items.push(Open {
                case: after.case,
                step: after.step.into(),
                instance: after.instance.into(),
                workflow: row.workflow,
                subject: row.subject,
                label: label(&body.item, &body.with),
                ask,
                due,
                approvals: approvals.into_iter().collect(),
                people,
            });
            if items.len() == limit {
                return Ok(Page {
                    items,
                    next: Some(input::cursor_text(&after.text())),
                });
            }
        }
        if count < limit {
            return Ok(Page { items, next: None });
        }
    }
}

/// Whom the words of a question mean now; `answering` is what the attributes of [`ANSWERING`] say, in that order.
fn people(ask: &Ask, answering: &[Option<String>; 2]) -> Vec<String> {
    let words = match ask {
        Ask::Approval { ask, .. } => ask.as_slice(),
        Ask::Task { assignee, .. } => std::slice::from_ref(assignee),
        Ask::Signal { .. } => return Vec::new(),
    };
    let means = |word: &String| match word.strip_prefix(PERSON) {
        Some(key) => Some(key.to_owned()),
        None => ANSWERING
            .iter()
            .zip(answering)
            .find(|(name, _)| word == **name)
            .and_then(|(_, key)| key.clone().filter(|key| !key.is_empty())),
    };
    words.iter().filter_map(means).collect()
}

impl Position {
    const BEFORE_ALL: Self = Self {
        group: -1,
        case: Uuid::nil(),
        step: -1,
        instance: -1,
    };

    fn text(&self) -> String {
        format!(
            "{}/{}/{}/{}",
            self.group, self.case, self.step, self.instance
        )
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        Some(Self {
            group: parts.next()?.parse().ok()?,
            case: parts.next()?.parse().ok()?,
            step: parts.next()?.parse().ok()?,
            instance: parts.next()?.parse().ok()?,
        })
    }
}

async fn read(api: &Api, after: &Position, limit: usize) -> Result<Vec<Found>, ApiError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    /// The two drivers' rows have the same shape and no common type.
    macro_rules! fetch {
        ($pool:expr, $sql:expr) => {
            sqlx::query($sql)
                .bind(after.group)
                .bind(after.case)
                .bind(after.step)
                .bind(after.instance)
                .bind(limit)
                .fetch_all($pool)
                .await?
                .iter()
                .map(|row| {
                    Ok(Found {
                        position: Position {
                            group: row.try_get("leading")?,
                            case: row.try_get("case_id")?,
                            step: row.try_get("step")?,
                            instance: row.try_get("instance")?,
                        },
                        workflow: row.try_get("workflow")?,
                        subject: row.try_get("subject")?,
                        body: row.try_get("body")?,
                        answering: [row.try_get("manager")?, row.try_get("backup")?],
                    })
                })
                .collect::<Result<Vec<Found>, sqlx::Error>>()?
        };
    }
    Ok(match api.database.readers() {
        Readers::Sqlite(pool) => fetch!(pool, ASKING_SQLITE),
        Readers::Postgres(pool) => fetch!(pool, ASKING_POSTGRES),
    })
}

// Walks over the open cases, never over the closed ones: what it costs grows with what is open.
const ASKING_SQLITE: &str = "
    SELECT s.case_number AS leading, o.case_id, s.step, s.instance, s.body, o.workflow, o.subject,
        i.attributes ->> 'manager' AS manager, i.attributes ->> 'backup' AS backup
    FROM case_open AS o JOIN case_step AS s ON s.case_number = o.case_number
    LEFT JOIN identity AS i ON i.shard_id = o.shard_id AND i.identity_key = o.subject
    WHERE s.state = 'asking' AND s.instance >= 0
      -- The case's identifier, ?2, belongs to the key of the other database.
      AND (s.case_number, s.step, s.instance) > (?1, ?3, ?4) AND ?2 IS NOT NULL
    ORDER BY s.case_number, s.step, s.instance LIMIT ?5";
const ASKING_POSTGRES: &str = "
    SELECT s.shard_id::bigint AS leading, s.case_id, s.step, s.instance, s.body, o.workflow, o.subject,
        i.attributes ->> 'manager' AS manager, i.attributes ->> 'backup' AS backup
    FROM case_open AS o JOIN case_step AS s ON s.shard_id = o.shard_id AND s.case_id = o.case_id
    LEFT JOIN identity AS i ON i.shard_id = o.shard_id AND i.identity_key = o.subject
    WHERE s.state = 'asking' AND s.instance >= 0
      AND (s.shard_id, s.case_id, s.step, s.instance) > ($1::bigint, $2, $3, $4)
    ORDER BY s.shard_id, s.case_id, s.step, s.instance LIMIT $5";
