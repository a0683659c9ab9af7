//! Contractors whom nobody answers for any more: noticed, told, and told again when nothing was done about it in time.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use engine::store::StoreError;
use serde_json::json;

use super::cause::about_contract;
use super::outbox::{Found, Outbox};
use super::recipient::Recipient;
use super::template::kind;
use super::{NoticeRow, Notices};
use crate::directory::IdentityRow;
use crate::directory::database::Sql;
use crate::policy::ContractRules;

/// The most contractors of one look; the next one sees the others once somebody answers for these, or they were told.
const LOOKED_AT_MAX: u32 = 1_000;

/// Looks for contractors without a sponsor.
pub struct Sponsors {
    outbox: Outbox,
    notices: Arc<Notices>,
    rules: ContractRules,
}

impl Sponsors {
    #[must_use]
    pub fn new(outbox: Outbox, notices: Arc<Notices>, rules: ContractRules) -> Self {
        Self {
            outbox,
            notices,
            rules,
        }
    }

    /// Looks at the people of these shards; gives how many are without one. Each is told of once, and once more when the
    /// deadline of the policy has passed since.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn look(&self, shards: &[i32], now: DateTime<Utc>) -> Result<usize, StoreError> {
        let Some(attribute) = self.rules.sponsor() else {
            return Ok(0);
        };
        let parameter = json!({
            "shards": shards,
            "types": self.rules.types().collect::<Vec<_>>(),
            "sponsor": attribute,
            "path": format!("$.{}", json!(attribute)),
            "limit": LOOKED_AT_MAX,
        });
        let reader = self.outbox.directory().reader();
        let alone: Vec<IdentityRow> = reader.rows(&ALONE, &parameter).await?;
        for person in &alone {
            let sponsor = person.attributes.get(attribute);
            let sponsor = sponsor.and_then(serde_json::Value::as_str);
            let sponsor = sponsor.unwrap_or_default();
            let told = self.told(person, attribute, sponsor, false, now);
            let Some(first) = told.first() else { continue };
            let Found::One(known) = self.outbox.find(&first.notice_id).await? else {
                self.outbox.put(&told).await?;
                continue;
            };
            if now >= known.created_at + self.rules.sponsor_deadline().delta() {
                let late = self.told(person, attribute, sponsor, true, now);
                self.outbox.put(&late).await?;
            }
        }
        Ok(alone.len())
    }

    fn told(
        &self,
        person: &IdentityRow,
        attribute: &str,
        sponsor: &str,
        late: bool,
        now: DateTime<Utc>,
    ) -> Vec<NoticeRow> {
        let owner = Recipient::asked(self.rules.owner());
        let to = if late {
            owner
        } else {
            // Their manager stands in.
            Recipient::FirstOf(vec![Recipient::Attribute(attribute.to_owned()), owner])
        };
        let (key, life) = (&person.identity_key, person.generation);
        let root = format!("contract/{key}/{life}/sponsor/{sponsor}/{late}");
        let deadline = self.rules.sponsor_deadline();
        let vars = json!({
            "sponsor": sponsor,
            "late": late,
            "deadline": now + deadline.delta(),
        });
        about_contract(
            person,
            &root,
            kind::CONTRACT_SPONSOR_GONE,
            vec![to],
            &vars,
            &self.notices,
            now,
        )
    }
}

/// Those who work, and whose sponsor is nobody who does.
const ALONE: Sql = Sql {
    table: "identity",
    postgres: "
        SELECT to_jsonb(i)::text FROM identity AS i
        WHERE i.shard_id = ANY (ARRAY(SELECT jsonb_array_elements_text($1::jsonb->'shards')::int))
          AND i.status = 'active'
          AND i.identity_type IN (SELECT jsonb_array_elements_text($1::jsonb->'types'))
          AND (i.attributes->>($1::jsonb->>'sponsor')) <> ''
          AND (i.attributes->>($1::jsonb->>'sponsor')) NOT LIKE '%@%'
          AND NOT EXISTS (SELECT 1 FROM identity AS s
                           WHERE s.identity_key = i.attributes->>($1::jsonb->>'sponsor')
                             AND s.status IN ('expected', 'active'))
        ORDER BY i.identity_key LIMIT ($1::jsonb->>'limit')::bigint",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'identity_key', identity_key, 'identity_type', identity_type,
            'status', status, 'status_case', status_case, 'generation', generation, 'source', source,
            'display_name', display_name, 'attributes', json(attributes), 'attributes_version', attributes_version,
            'first_seen_at', first_seen_at, 'changed_at', changed_at, 'departed_at', departed_at)
        FROM identity
        WHERE shard_id IN (SELECT value FROM json_each(?1 -> 'shards'))
          AND status = 'active' AND identity_type IN (SELECT value FROM json_each(?1 -> 'types'))
          AND attributes ->> (?1 ->> 'path') <> '' AND attributes ->> (?1 ->> 'path') NOT LIKE '%@%'
          AND attributes ->> (?1 ->> 'path') NOT IN
              (SELECT identity_key FROM identity WHERE status IN ('expected', 'active'))
        ORDER BY identity_key LIMIT ?1 ->> 'limit'",
};
