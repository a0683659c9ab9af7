//! Links in mails by which somebody does one thing without a login.
//!
//! A link is signed, holds for a while and is used once. It stands in the mail alone: what is stored is its hash, and beside
//! that what it is bound to: the address it was sent to, the person it is about, and the end of their contract. A mail that is
//! sent again has the same link. Programs that are told by webhook get none.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use engine::core::duration::Span;
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::outbox::Outbox;
use super::rows::{DeliveryRow, NoticeRow};
use crate::directory::database::{Sql, execute, stored_time, stored_time_option, time_text};
use crate::policy::hex;
use crate::sources::signature::SigningKey;

/// Where the page is, under the address by which people find Tenure.
pub const PAGE: &str = "/contract";
/// What a signature is made over begins so: a key signs nothing else in these words.
const PURPOSE: &str = "tenure.contract-link.v1.";
/// The names of links lie in a space of their own.
const SPACE: Uuid = Uuid::from_u128(0x6c69_6e6b_5e1a_4c07_a1d4_636f_6e74_7261);
const ID_BYTES: usize = 16;
const TIME_BYTES: usize = 8;
const MAC_BYTES: usize = 32;
/// The most links that one call removes.
const REMOVED_MAX: u32 = 1_000;

/// A link that was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRow {
    pub shard_id: i32,
    /// In hex.
    pub link_hash: String,
    pub delivery_id: String,
    pub address: String,
    pub identity_key: String,
    #[serde(with = "stored_time")]
    pub ends_at: DateTime<Utc>,
    #[serde(with = "stored_time")]
    pub created_at: DateTime<Utc>,
    #[serde(with = "stored_time")]
    pub expires_at: DateTime<Utc>,
    #[serde(default, with = "stored_time_option")]
    pub used_at: Option<DateTime<Utc>>,
    #[serde(default)]
    pub used_case: Option<String>,
}

/// Makes links, and tells those it made from others.
pub struct Links {
    key: SigningKey,
    base: String,
    valid: Span,
}

impl Links {
    /// `base` is where people find Tenure.
    #[must_use]
    pub fn new(key: SigningKey, base: &str, valid: Span) -> Self {
        Self {
            key,
            base: base.trim_end_matches('/').to_owned(),
            valid,
        }
    }

    /// What is kept of the link of a message about the end of a contract; `None` for any other.
    pub(super) fn of(&self, notice: &NoticeRow, part: &DeliveryRow) -> Option<LinkRow> {
        let (ends_at, identity_key) = (notice.ends_at?, notice.subject.clone()?);
        // Whoever stands in for the sponsor is told, and asks with a login of their own.
        if part.instead_of.is_some() || part.address.is_empty() {
            return None;
        }
        Some(LinkRow {
            shard_id: 0,
            link_hash: String::new(),
            delivery_id: part.delivery_id.clone(),
            address: part.address.clone(),
            identity_key,
            ends_at,
            created_at: part.ready_at,
            expires_at: (part.ready_at + self.valid.delta()).min(ends_at),
            used_at: None,
            used_case: None,
        })
    }

    /// The link of a row, and the row with its place and hash.
    fn made(&self, mut row: LinkRow, shard: &dyn Fn(&str) -> i32) -> (String, LinkRow) {
        let token = self.token(&row.delivery_id, row.expires_at);
        row.link_hash = hash(&token);
        row.shard_id = shard(&row.link_hash);
        let text = URL_SAFE_NO_PAD.encode(&token);
        (format!("{}{PAGE}?t={text}", self.base), row)
    }

    fn token(&self, name: &str, expires_at: DateTime<Utc>) -> Vec<u8> {
        let mut token = Uuid::new_v5(&SPACE, name.as_bytes()).into_bytes().to_vec();
        token.extend(expires_at.timestamp_micros().to_be_bytes());
        let signature = self.key.sign(PURPOSE, &token);
        let mac = signature.split_once(',').map(|(_, mac)| mac);
        token.extend(STANDARD.decode(mac.unwrap_or_default()).unwrap_or_default());
        token
    }

    /// The hash of a link that was made here and has not expired.
    #[must_use]
    pub fn read(&self, text: &str, now: DateTime<Utc>) -> Option<String> {
        let token = URL_SAFE_NO_PAD.decode(text).ok()?;
        if token.len() != ID_BYTES + TIME_BYTES + MAC_BYTES {
            return None;
        }
        let (said, mac) = token.split_at_checked(ID_BYTES + TIME_BYTES)?;
        let time: [u8; TIME_BYTES] = said.get(ID_BYTES..)?.try_into().ok()?;
        let is_ours = self.key.made(mac, PURPOSE, said);
        let expires_at = DateTime::from_timestamp_micros(i64::from_be_bytes(time))?;
        (is_ours && now < expires_at).then(|| hash(&token))
    }
}

fn hash(token: &[u8]) -> String {
    hex(&Sha256::digest(token))
}

impl Outbox {
    /// The link of a row, noted: it is about to be sent.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn put_link(&self, links: &Links, row: LinkRow) -> Result<String, StoreError> {
        let directory = self.directory();
        let (link, row) = links.made(row, &|name| directory.shard(name));
        directory.write(&Put(&row)).await?;
        Ok(link)
    }

    /// What is known of a link, by its hash.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn link(&self, link_hash: &str) -> Result<Option<LinkRow>, StoreError> {
        let directory = self.directory();
        let shard_id = directory.shard(link_hash);
        let parameter = json!({ "shard_id": shard_id, "link_hash": link_hash });
        directory.reader().row(&FIND, &parameter).await
    }

    /// Removes links that were over before `before`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn forget_links(&self, before: DateTime<Utc>) -> Result<(), StoreError> {
        self.directory().write(&Forget(before)).await
    }
}

/// Uses a link for a case, in the transaction that starts it: false when it was used, or is over.
pub(crate) async fn use_link(
    transaction: &mut Transaction<'_>,
    link: &LinkRow,
    case: &str,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let parameter = json!({
        "shard_id": link.shard_id,
        "link_hash": link.link_hash,
        "case": case,
        "now": time_text(now),
    });
    Ok(execute(transaction, &USE, &parameter).await? == 1)
}

struct Put<'a>(&'a LinkRow);

#[async_trait::async_trait]
impl Work for Put<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        execute(transaction, &PUT, &[self.0]).await?;
        Ok(Vec::new())
    }
}

struct Forget(DateTime<Utc>);

#[async_trait::async_trait]
impl Work for Forget {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let parameter = json!({ "before": time_text(self.0), "limit": REMOVED_MAX });
        execute(transaction, &FORGET, &parameter).await?;
        Ok(Vec::new())
    }
}

// One that was sent before stays as it is: used, perhaps.
const PUT: Sql = Sql {
    table: "contract_link",
    postgres: "
        INSERT INTO contract_link (shard_id, link_hash, delivery_id, address, identity_key, ends_at, created_at, expires_at)
        SELECT shard_id, link_hash, delivery_id, address, identity_key, ends_at, created_at, expires_at
        FROM jsonb_populate_recordset(NULL::contract_link, $1::jsonb)
        ON CONFLICT (shard_id, link_hash) DO NOTHING",
    sqlite: "
        INSERT INTO contract_link (shard_id, link_hash, delivery_id, address, identity_key, ends_at, created_at, expires_at)
        SELECT value ->> 'shard_id', value ->> 'link_hash', value ->> 'delivery_id', value ->> 'address',
            value ->> 'identity_key', value ->> 'ends_at', value ->> 'created_at', value ->> 'expires_at'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, link_hash) DO NOTHING",
};

const FIND: Sql = Sql {
    table: "contract_link",
    postgres: "
        SELECT to_jsonb(l)::text FROM contract_link AS l
        WHERE l.shard_id = ($1::jsonb->>'shard_id')::int AND l.link_hash = $1::jsonb->>'link_hash'",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'link_hash', link_hash, 'delivery_id', delivery_id, 'address', address,
            'identity_key', identity_key, 'ends_at', ends_at, 'created_at', created_at, 'expires_at', expires_at,
            'used_at', used_at, 'used_case', used_case)
        FROM contract_link
        WHERE shard_id = ?1 ->> 'shard_id' AND link_hash = ?1 ->> 'link_hash'",
};

const USE: Sql = Sql {
    table: "contract_link",
    postgres: "
        UPDATE contract_link AS l SET used_at = now.now, used_case = now.\"case\"
        FROM jsonb_to_record($1::jsonb) AS now(shard_id int, link_hash text, \"case\" text, now timestamptz)
        WHERE l.shard_id = now.shard_id AND l.link_hash = now.link_hash AND l.used_at IS NULL AND l.expires_at > now.now",
    sqlite: "
        UPDATE contract_link SET used_at = ?1 ->> 'now', used_case = ?1 ->> 'case'
        WHERE shard_id = ?1 ->> 'shard_id' AND link_hash = ?1 ->> 'link_hash' AND used_at IS NULL
          AND expires_at > ?1 ->> 'now'",
};

const FORGET: Sql = Sql {
    table: "contract_link",
    postgres: "
        DELETE FROM contract_link AS l
        USING (
            SELECT shard_id, link_hash FROM contract_link
            WHERE expires_at < ($1::jsonb->>'before')::timestamptz
            ORDER BY expires_at LIMIT ($1::jsonb->>'limit')::bigint
        ) AS over
        WHERE l.shard_id = over.shard_id AND l.link_hash = over.link_hash",
    sqlite: "
        DELETE FROM contract_link WHERE (shard_id, link_hash) IN (
            SELECT shard_id, link_hash FROM contract_link WHERE expires_at < ?1 ->> 'before'
            ORDER BY expires_at LIMIT ?1 ->> 'limit')",
};

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use chrono::TimeDelta;

    use super::*;

    fn links(secret: u8) -> Links {
        let key = SigningKey::of_bytes(vec![secret; 32]);
        Links::new(key, "https://tenure.example.org/", Span::from_s(3_600))
    }

    #[test]
    fn a_link_is_ours_whole_and_for_a_while() {
        let now: DateTime<Utc> = "2026-03-01T12:00:00Z".parse().unwrap();
        let until = now + TimeDelta::hours(1);
        let ours = links(1);
        let token = ours.token("d1", until);
        let text = URL_SAFE_NO_PAD.encode(&token);
        assert_eq!(ours.read(&text, now), Some(hash(&token)));
        assert_eq!(ours.token("d1", until), token, "sent again it is the same");
        assert_ne!(ours.token("d2", until), token);
        assert_eq!(ours.read(&text, until), None, "it is over");
        assert_eq!(links(2).read(&text, now), None, "another key");
        for place in 0..token.len() {
            let mut other = token.clone();
            other[place] ^= 1;
            assert_eq!(
                ours.read(&URL_SAFE_NO_PAD.encode(&other), now),
                None,
                "{place}"
            );
        }
        for wrong in [
            "",
            "x",
            "%%%",
            &text[1..],
            &format!("{text}A"),
            &"A".repeat(10_000),
        ] {
            assert_eq!(ours.read(wrong, now), None, "{wrong}");
        }
    }
}
