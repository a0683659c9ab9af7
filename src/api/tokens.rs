//! Tokens: who may call the API.
//!
//! A token is `tnr_` and 256 random bits. It is shown once, when it is made; the database has its SHA-256, which
//! is enough, because nobody can try 2^256 of them. Its name stands in the evidence as `token:NAME`, so a name is
//! never given out twice, not even after its token was revoked.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use engine::core::id::Actor;
use engine::store::{InboxRow, Migration, StoreError, Transaction, Work};
use secrecy::SecretString;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use sqlx::Row as _;
use subtle::ConstantTimeEq as _;
use utoipa::ToSchema;

use super::auth::{Caller, Role};
use crate::shell::Database;
use crate::shell::database::Readers;

/// The schema of the API, to be given to `Store::migrate` after the directory's.
pub const MIGRATIONS: &[Migration] = &[Migration {
    version: 3,
    name: "api",
    postgres: include_str!("../../migrations/postgres/0003_api.sql"),
    sqlite: include_str!("../../migrations/sqlite/0003_api.sql"),
}];

/// What every token begins with, so that people and scanners know one when they see it.
pub const PREFIX: &str = "tnr_";
/// Random bytes in a token.
const SECRET_BYTES: usize = 32;
/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// The longest life of a token, in days.
pub const LIFE_DAYS_MAX: i64 = 366;
/// The most tokens that are listed.
const LISTED_MAX: i64 = 1_000;

/// A token to be made.
#[derive(Debug, Clone)]
pub struct NewToken {
    pub name: String,
    pub roles: BTreeSet<Role>,
    pub expires_at: DateTime<Utc>,
}

/// What is known about a token: everything but the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Token {
    pub name: String,
    pub roles: BTreeSet<Role>,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub last_used_day: Option<NaiveDate>,
    pub revoked_at: Option<DateTime<Utc>>,
}

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("`{0}` is no name for a token; use 1 to 64 of `a-z`, `0-9`, `-`, `_`, `.`")]
    Name(String),
    #[error("a token needs at least one role: `read`, `operate`, `approve` or `admin`")]
    NoRole,
    #[error(
        "a token lives from now to at most {LIFE_DAYS_MAX} days; give an `expires_at` in between"
    )]
    Life,
    #[error("there was a token `{0}` before, and evidence may name it; take another name")]
    NameTaken(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The tokens of a database.
#[derive(Clone)]
pub struct Tokens {
    database: Database,
}

impl Tokens {
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    /// Makes a token; this is the only time it can be seen.
    ///
    /// # Errors
    /// [`TokenError`] says what is wrong with the request, or that the database does not answer.
    pub async fn create(
        &self,
        new: &NewToken,
        now: DateTime<Utc>,
    ) -> Result<SecretString, TokenError> {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        if new.name.is_empty() || new.name.len() > NAME_BYTES_MAX || !new.name.chars().all(good) {
            return Err(TokenError::Name(new.name.clone()));
        }
        if new.roles.is_empty() {
            return Err(TokenError::NoRole);
        }
        if new.expires_at <= now || new.expires_at > now + TimeDelta::days(LIFE_DAYS_MAX) {
            return Err(TokenError::Life);
        }
        let secret: [u8; SECRET_BYTES] = rand::random();
        let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret));
        let work = Put {
            new,
            hash: hash(&token),
            now,
            written: AtomicU64::new(0),
        };
        self.database.store.write(&work).await?;
        if work.written.into_inner() == 0 {
            return Err(TokenError::NameTaken(new.name.clone()));
        }
        Ok(token.into())
    }

    /// All tokens, by name.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn list(&self) -> Result<Vec<Token>, sqlx::Error> {
        match self.database.readers() {
            Readers::Sqlite(pool) => {
                let rows = sqlx::query(LIST_SQLITE)
                    .bind(LISTED_MAX)
                    .fetch_all(pool)
                    .await?;
                rows.iter().map(token_of_sqlite).collect()
            }
            Readers::Postgres(pool) => {
                let rows = sqlx::query(LIST_POSTGRES)
                    .bind(LISTED_MAX)
                    .fetch_all(pool)
                    .await?;
                rows.iter().map(token_of_postgres).collect()
            }
        }
    }

    /// Ends a token at once; says whether there was one to end.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn revoke(&self, name: &str, now: DateTime<Utc>) -> Result<bool, StoreError> {
        let work = Revoke {
            name,
            now,
            written: AtomicU64::new(0),
        };
        self.database.store.write(&work).await?;
        Ok(work.written.into_inner() > 0)
    }

    /// Who presents this token, if it is good at `now`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn authenticate(
        &self,
        presented: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<Caller>, sqlx::Error> {
        let encoded = presented.strip_prefix(PREFIX).unwrap_or_default();
        if encoded.len() != SECRET_BYTES.div_ceil(3) * 4 - 1 {
            return Ok(None);
        }
        let hash = hash(presented);
        let found = match self.database.readers() {
            Readers::Sqlite(pool) => {
                let row = sqlx::query(FIND_SQLITE)
                    .bind(hash.as_slice())
                    .fetch_optional(pool)
                    .await?;
                row.map(|row| {
                    Ok::<_, sqlx::Error>((
                        row.try_get::<Vec<u8>, _>("token_hash")?,
                        token_of_sqlite(&row)?,
                    ))
                })
                .transpose()?
            }
            Readers::Postgres(pool) => {
                let row = sqlx::query(FIND_POSTGRES)
                    .bind(hash.as_slice())
                    .fetch_optional(pool)
                    .await?;
                row.map(|row| {
                    Ok::<_, sqlx::Error>((
                        row.try_get::<Vec<u8>, _>("token_hash")?,
                        token_of_postgres(&row)?,
                    ))
                })
                .transpose()?
            }
        };
        let Some((stored, token)) = found else {
            return Ok(None);
        };
        // The index compared them already; this compares them without telling by its time where they differ.
        let same: bool = stored.as_slice().ct_eq(hash.as_slice()).into();
        if !same || token.revoked_at.is_some() || token.expires_at <= now {
            return Ok(None);
        }
        let today = now.date_naive();
        if token.last_used_day.is_none_or(|day| day < today)
            && let Err(error) = self
                .database
                .store
                .write(&Used {
                    name: &token.name,
                    day: today,
                })
                .await
        {
            tracing::warn!(
                token = token.name,
                error = &error as &dyn std::error::Error,
                "cannot note that a token was used"
            );
        }
        Ok(Some(Caller {
            actor: Actor(format!("token:{}", token.name)),
            roles: token.roles,
        }))
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

fn roles_text(roles: &BTreeSet<Role>) -> String {
    roles
        .iter()
        .map(|role| role.as_str())
        .collect::<Vec<_>>()
        .join(",")
}

fn roles_of(text: &str) -> Result<BTreeSet<Role>, sqlx::Error> {
    let role = |name: &str| {
        Role::parse(name).ok_or_else(|| sqlx::Error::ColumnDecode {
            index: "api_token.roles".to_owned(),
            source: format!("`{name}` is no role").into(),
        })
    };
    text.split(',').map(role).collect()
}

fn time_of(micros: i64) -> Result<DateTime<Utc>, sqlx::Error> {
    DateTime::from_timestamp_micros(micros).ok_or_else(|| sqlx::Error::ColumnDecode {
        index: "api_token".to_owned(),
        source: format!("`{micros}` is no time").into(),
    })
}

fn token_of_sqlite(row: &sqlx::sqlite::SqliteRow) -> Result<Token, sqlx::Error> {
    Ok(Token {
        name: row.try_get("name")?,
        roles: roles_of(row.try_get("roles")?)?,
        created_at: time_of(row.try_get("created_at")?)?,
        expires_at: time_of(row.try_get("expires_at")?)?,
        last_used_day: row.try_get("last_used_day")?,
        revoked_at: row
            .try_get::<Option<i64>, _>("revoked_at")?
            .map(time_of)
            .transpose()?,
    })
}

fn token_of_postgres(row: &sqlx::postgres::PgRow) -> Result<Token, sqlx::Error> {
    Ok(Token {
        name: row.try_get("name")?,
        roles: roles_of(row.try_get("roles")?)?,
        created_at: row.try_get("created_at")?,
        expires_at: row.try_get("expires_at")?,
        last_used_day: row.try_get("last_used_day")?,
        revoked_at: row.try_get("revoked_at")?,
    })
}

struct Put<'a> {
    new: &'a NewToken,
    hash: [u8; 32],
    now: DateTime<Utc>,
    written: AtomicU64,
}

#[async_trait]
impl Work for Put<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let roles = roles_text(&self.new.roles);
        let written = match transaction {
            Transaction::Sqlite(connection) => sqlx::query(PUT_SQLITE)
                .bind(&self.new.name)
                .bind(self.hash.as_slice())
                .bind(roles)
                .bind(self.now.timestamp_micros())
                .bind(self.new.expires_at.timestamp_micros())
                .execute(&mut **connection)
                .await
                .map(|done| done.rows_affected()),
            Transaction::Postgres(connection) => sqlx::query(PUT_POSTGRES)
                .bind(&self.new.name)
                .bind(self.hash.as_slice())
                .bind(roles)
                .bind(self.now)
                .bind(self.new.expires_at)
                .execute(&mut **connection)
                .await
                .map(|done| done.rows_affected()),
        };
        self.written
            .store(written.map_err(StoreError::Unavailable)?, Ordering::Relaxed);
        Ok(Vec::new())
    }
}

struct Revoke<'a> {
    name: &'a str,
    now: DateTime<Utc>,
    written: AtomicU64,
}

#[async_trait]
impl Work for Revoke<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let written = match transaction {
            Transaction::Sqlite(connection) => sqlx::query(REVOKE_SQLITE)
                .bind(self.name)
                .bind(self.now.timestamp_micros())
                .execute(&mut **connection)
                .await
                .map(|done| done.rows_affected()),
            Transaction::Postgres(connection) => sqlx::query(REVOKE_POSTGRES)
                .bind(self.name)
                .bind(self.now)
                .execute(&mut **connection)
                .await
                .map(|done| done.rows_affected()),
        };
        self.written
            .store(written.map_err(StoreError::Unavailable)?, Ordering::Relaxed);
        Ok(Vec::new())
    }
}

struct Used<'a> {
    name: &'a str,
    day: NaiveDate,
}

#[async_trait]
impl Work for Used<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        match transaction {
            Transaction::Sqlite(connection) => sqlx::query(USED_SQLITE)
                .bind(self.name)
                .bind(self.day)
                .execute(&mut **connection)
                .await
                .map(drop),
            Transaction::Postgres(connection) => sqlx::query(USED_POSTGRES)
                .bind(self.name)
                .bind(self.day)
                .execute(&mut **connection)
                .await
                .map(drop),
        }
        .map_err(StoreError::Unavailable)?;
        Ok(Vec::new())
    }
}

const LIST_SQLITE: &str = "SELECT * FROM api_token ORDER BY name LIMIT ?1";
const LIST_POSTGRES: &str = "SELECT * FROM api_token ORDER BY name LIMIT $1";
const FIND_SQLITE: &str = "SELECT * FROM api_token WHERE token_hash = ?1";
const FIND_POSTGRES: &str = "SELECT * FROM api_token WHERE token_hash = $1";
// A name that was ever used stays taken: evidence names it.
const PUT_SQLITE: &str = "
    INSERT INTO api_token (name, token_hash, roles, created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5)
    ON CONFLICT (name) DO NOTHING";
const PUT_POSTGRES: &str = "
    INSERT INTO api_token (name, token_hash, roles, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (name) DO NOTHING";
const REVOKE_SQLITE: &str =
    "UPDATE api_token SET revoked_at = ?2 WHERE name = ?1 AND revoked_at IS NULL";
const REVOKE_POSTGRES: &str =
    "UPDATE api_token SET revoked_at = $2 WHERE name = $1 AND revoked_at IS NULL";
const USED_SQLITE: &str = "UPDATE api_token SET last_used_day = ?2 WHERE name = ?1 AND (last_used_day IS NULL OR last_used_day < ?2)";
const USED_POSTGRES: &str = "UPDATE api_token SET last_used_day = $2 WHERE name = $1 AND (last_used_day IS NULL OR last_used_day < $2)";
