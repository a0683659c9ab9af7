//! The credentials that Tenure knows of: what each is, and that it was ended. Never a secret.

use engine::core::Timestamp;
use engine::store::StoreError;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Directory;
use super::database::{Sql, stored_time_option};

/// The most of one person that are shown.
const SHOWN_MAX: u32 = 500;

/// A key, token, certificate or password somebody had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialRow {
    pub shard_id: i32,
    pub identity_key: String,
    pub system: String,
    /// A fingerprint, or the system's own number.
    pub credential_id: String,
    pub kind: String,
    /// `ended`.
    pub status: String,
    #[serde(with = "stored_time_option", default)]
    pub issued_at: Option<Timestamp>,
    #[serde(with = "stored_time_option", default)]
    pub expires_at: Option<Timestamp>,
    /// The case that ended it.
    pub case_id: String,
}

impl Directory {
    /// The credentials of a person that are known, by system.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn credentials_of(&self, key: &str) -> Result<Vec<CredentialRow>, StoreError> {
        let parameter = json!({ "shard_id": self.shard(key), "key": key, "limit": SHOWN_MAX });
        self.reader().rows(&OF_PERSON, &parameter).await
    }
}

const OF_PERSON: Sql = Sql {
    table: "credential",
    postgres: "
        SELECT to_jsonb(c)::text FROM credential AS c
        WHERE c.shard_id = ($1::jsonb->>'shard_id')::int AND c.identity_key = $1::jsonb->>'key'
        ORDER BY c.system, c.credential_id LIMIT ($1::jsonb->>'limit')::bigint",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'identity_key', identity_key, 'system', system,
            'credential_id', credential_id, 'kind', kind, 'status', status, 'issued_at', issued_at,
            'expires_at', expires_at, 'case_id', case_id)
        FROM credential
        WHERE shard_id = ?1 ->> 'shard_id' AND identity_key = ?1 ->> 'key'
        ORDER BY system, credential_id LIMIT ?1 ->> 'limit'",
};

pub(super) const PUT_CREDENTIALS: Sql = Sql {
    table: "credential",
    postgres: "
        INSERT INTO credential (shard_id, identity_key, system, credential_id, kind, status, issued_at, expires_at,
            case_id)
        SELECT shard_id, identity_key, system, credential_id, kind, status, issued_at, expires_at, case_id
        FROM jsonb_populate_recordset(NULL::credential, $1::jsonb)
        ON CONFLICT (shard_id, identity_key, system, credential_id) DO UPDATE SET
            kind = excluded.kind, status = excluded.status,
            issued_at = COALESCE(excluded.issued_at, credential.issued_at),
            expires_at = COALESCE(excluded.expires_at, credential.expires_at), case_id = excluded.case_id",
    sqlite: "
        INSERT INTO credential (shard_id, identity_key, system, credential_id, kind, status, issued_at, expires_at,
            case_id)
        SELECT value ->> 'shard_id', value ->> 'identity_key', value ->> 'system', value ->> 'credential_id',
            value ->> 'kind', value ->> 'status', value ->> 'issued_at', value ->> 'expires_at', value ->> 'case_id'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, identity_key, system, credential_id) DO UPDATE SET
            kind = excluded.kind, status = excluded.status,
            issued_at = COALESCE(excluded.issued_at, credential.issued_at),
            expires_at = COALESCE(excluded.expires_at, credential.expires_at), case_id = excluded.case_id",
};
