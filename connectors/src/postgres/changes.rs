//! What is done to a role: one message, one transaction each.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use sqlx::Row;
use tokio::time::Instant;

use super::Postgres;
use super::names::{
    RoleId, adopted_comment, check_entitlement, check_name, identifier, is_marked, literal,
    owner_comment,
};
use super::roles::{Role, shown};
use super::scram::verifier;
use crate::connector::{
    Attributes, EntitlementName, Error, ErrorKind, NativeId, NewAccount, Outcome, Receipt,
};

/// How long ended sessions may take to be gone. A backend leaves at its next interruptible point.
const SESSIONS_END_MS_MAX: u64 = 5_000;
const SESSIONS_POLL_MS: u64 = 10;
/// The attributes a role has for Tenure.
const ATTRIBUTES: &str = "`valid_until`, `connection_limit`";

/// Every session of a role, whatever database it is in. Also finds those of a role that was dropped.
const SESSIONS: &str = "
SELECT count(*) AS sessions
  FROM pg_stat_activity
 WHERE usesysid = $1::int8::oid AND pid <> pg_backend_pid()";

const END_SESSIONS: &str = "
SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) AS ended, count(*) AS sessions
  FROM pg_stat_activity
 WHERE usesysid = $1::int8::oid AND pid <> pg_backend_pid()";

/// Who gave the membership. Before PostgreSQL 16 there is one row, and the grantor is only a note.
const GRANTORS: &str = "
SELECT m.grantor::regrole::text AS quoted_grantor, current_setting('server_version_num')::int4 AS version
  FROM pg_auth_members m
 WHERE m.member = $1::int8::oid AND m.roleid = (SELECT oid FROM pg_roles WHERE rolname = $2)
 ORDER BY m.grantor";

/// Since when a membership is kept for each grantor apart.
const GRANTOR_VERSION: i32 = 160_000;

/// What attributes say, parsed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// `Some(None)` is "without end".
    valid_until: Option<Option<DateTime<Utc>>>,
    connection_limit: Option<i32>,
}

impl Wanted {
    pub(super) fn parse(attributes: &Attributes) -> Result<Self, String> {
        let mut wanted = Self::default();
        for (name, value) in attributes {
            match name.as_str() {
                "valid_until" => wanted.valid_until = Some(instant(value)?),
                "connection_limit" => wanted.connection_limit = Some(limit(value)?),
                other => {
                    return Err(format!(
                        "a role has no attribute `{}`; it has {ATTRIBUTES}",
                        other.escape_debug()
                    ));
                }
            }
        }
        Ok(wanted)
    }

    pub(super) fn holds(&self, role: &Role) -> bool {
        self.valid_until
            .is_none_or(|wanted| wanted == role.valid_until)
            && self
                .connection_limit
                .is_none_or(|wanted| wanted == role.connection_limit)
    }

    /// The options of CREATE ROLE and ALTER ROLE.
    fn options(&self) -> String {
        let mut options = String::new();
        if let Some(limit) = self.connection_limit {
            options.push_str(&format!(" CONNECTION LIMIT {limit}"));
        }
        if let Some(until) = self.valid_until {
            let until = until.map_or("infinity".to_owned(), shown);
            options.push_str(&format!(" VALID UNTIL {}", literal(&until)));
        }
        options
    }
}

/// An instant (RFC 3339), a day (its first moment in UTC), or without end (null, `infinity`).
fn instant(value: &Value) -> Result<Option<DateTime<Utc>>, String> {
    let text = match value {
        Value::Null => return Ok(None),
        Value::String(text) if text == "infinity" => return Ok(None),
        Value::String(text) => text,
        other => {
            return Err(format!(
                "`valid_until` is {other}; it must be a text like 2027-01-31T00:00:00Z or null"
            ));
        }
    };
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        let at = at.with_timezone(&Utc);
        // PostgreSQL keeps microseconds; a finer wish would never be seen to hold.
        return Ok(DateTime::from_timestamp_micros(at.timestamp_micros()));
    }
    NaiveDate::parse_from_str(text, "%Y-%m-%d")
        .map(|day| Some(day.and_time(NaiveTime::MIN).and_utc()))
        .map_err(|_| {
            format!(
                "`valid_until` `{}` is not an instant like 2027-01-31T00:00:00Z",
                text.escape_debug()
            )
        })
}

fn limit(value: &Value) -> Result<i32, String> {
    match value {
        Value::Null => Ok(-1),
        value => value
            .as_i64()
            .and_then(|limit| i32::try_from(limit).ok())
            .filter(|limit| *limit >= -1)
            .ok_or_else(|| {
                format!("`connection_limit` is {value}; it must be a whole number, -1 for no limit")
            }),
    }
}

impl Postgres {
    pub(super) async fn create(&self, new: &NewAccount) -> Result<Outcome, Error> {
        check_name(&new.name).map_err(|why| self.invalid(why))?;
        self.fence(&new.name)?;
        let wanted = Wanted::parse(&new.attributes).map_err(|why| self.invalid(why))?;
        let comment = owner_comment(&new.owner).map_err(|why| self.invalid(why))?;
        if let Some(outcome) = self.created_before(new).await? {
            return Ok(outcome);
        }
        let role = identifier(&new.name);
        let login = if new.enabled { "LOGIN" } else { "NOLOGIN" };
        let password = match &new.password {
            Some(password) => literal(&verifier(password.expose_secret())),
            None => "NULL".to_owned(),
        };
        // One transaction: a role without its owner's line is never seen, so a lost answer can be found again.
        let sql = format!(
            "CREATE ROLE {role} {login}{} PASSWORD {password}; COMMENT ON ROLE {role} IS {}; \
             SELECT oid::int8 AS oid FROM pg_roles WHERE rolname = {}",
            wanted.options(),
            literal(&comment),
            literal(&new.name),
        );
        match self.sessions.change("creating a role", sql).await {
            Ok(rows) => Ok(self.created(new, &rows)),
            Err(failure) if matches!(failure.code(), Some("42710" | "23505")) => {
                // Somebody made it since we looked; perhaps an earlier request of our own.
                match self.created_before(new).await? {
                    Some(outcome) => Ok(outcome),
                    None => failure.of_change(),
                }
            }
            Err(failure) => failure.of_change(),
        }
    }

    /// Whether the account is there already; a name held by another is a conflict.
    async fn created_before(&self, new: &NewAccount) -> Result<Option<Outcome>, Error> {
        if let Some(role) = self.role_owned_by(&new.owner).await? {
            return Ok(Some(Outcome::AlreadySo(Receipt {
                account: Some(role.id()),
                name: Some(role.name),
                ..Receipt::default()
            })));
        }
        let Some(other) = self.role_named(&new.name).await? else {
            return Ok(None);
        };
        let held = match other.owner() {
            Some(owner) => format!("the name `{}` belongs to the owner `{owner}`", new.name),
            None => format!("a role `{}` exists without an owner", new.name),
        };
        Err(self.sessions.error(ErrorKind::Conflict, held))
    }

    fn created(&self, new: &NewAccount, rows: &[sqlx::postgres::PgRow]) -> Outcome {
        let oid = rows
            .first()
            .and_then(|row| row.try_get::<i64, _>("oid").ok())
            .and_then(|oid| u32::try_from(oid).ok());
        let Some(oid) = oid else {
            return Outcome::Ambiguous {
                reason: format!("created `{}` and could not read its oid", new.name),
            };
        };
        Outcome::Done(Receipt {
            account: Some(RoleId::native(&new.name, oid)),
            name: Some(new.name.clone()),
            before: None,
            after: Some(json!({ "login": new.enabled, "attributes": new.attributes })),
            request_id: None,
            credential: None,
        })
    }

    /// The role of an operation, which must be there.
    pub(super) async fn existing(&self, account: &NativeId) -> Result<Role, Error> {
        let id = self.parse(account)?;
        self.role(&id).await?.ok_or_else(|| {
            self.sessions.error(
                ErrorKind::NotFound,
                format!("there is no role `{}`", id.name.escape_debug()),
            )
        })
    }

    pub(super) async fn alter(
        &self,
        what: &str,
        sql: String,
        receipt: Receipt,
    ) -> Result<Outcome, Error> {
        match self.sessions.change(what, sql).await {
            Ok(_) => Ok(Outcome::Done(receipt)),
            Err(failure) => failure.of_change(),
        }
    }

    pub(super) async fn update(
        &self,
        account: &NativeId,
        attributes: &Attributes,
    ) -> Result<Outcome, Error> {
        let wanted = Wanted::parse(attributes).map_err(|why| self.invalid(why))?;
        let role = self.existing(account).await?;
        let receipt = receipt(&role, json!(role.attributes()), json!(attributes));
        if wanted.holds(&role) {
            return Ok(Outcome::AlreadySo(receipt));
        }
        let sql = format!("ALTER ROLE {}{}", identifier(&role.name), wanted.options());
        self.alter("changing a role", sql, receipt).await
    }

    pub(super) async fn enable(&self, account: &NativeId) -> Result<Outcome, Error> {
        let role = self.existing(account).await?;
        let receipt = receipt(
            &role,
            json!({ "login": role.can_login }),
            json!({ "login": true }),
        );
        if role.can_login && !role.password_destroyed() {
            return Ok(Outcome::AlreadySo(receipt));
        }
        self.alter(
            "enabling a role",
            format!(
                "ALTER ROLE {} LOGIN{}",
                identifier(&role.name),
                role.valid_again()
            ),
            receipt,
        )
        .await
    }

    /// NOLOGIN refuses every new session, by whatever method it would log in. Open ones go on.
    pub(super) async fn disable(&self, account: &NativeId) -> Result<Outcome, Error> {
        let id = self.parse(account)?;
        let Some(role) = self.role(&id).await? else {
            return Ok(Outcome::AlreadySo(Receipt {
                account: Some(account.clone()),
                ..Receipt::default()
            }));
        };
        let receipt = receipt(
            &role,
            json!({ "login": role.can_login }),
            json!({ "login": false }),
        );
        if !role.can_login {
            return Ok(Outcome::AlreadySo(receipt));
        }
        let name = identifier(&role.name);
        let mut sql = format!("ALTER ROLE {name} NOLOGIN");
        if !is_marked(role.comment.as_deref()) {
            // Not one of ours: without LOGIN and without a mark it would count as a group from now on.
            let comment = literal(&adopted_comment(role.comment.as_deref()));
            sql.push_str(&format!("; COMMENT ON ROLE {name} IS {comment}"));
        }
        self.alter("disabling a role", sql, receipt).await
    }

    pub(super) async fn set_password(
        &self,
        account: &NativeId,
        password: &SecretString,
    ) -> Result<Outcome, Error> {
        let role = self.existing(account).await?;
        let sql = format!(
            "ALTER ROLE {} PASSWORD {}{}",
            identifier(&role.name),
            literal(&verifier(password.expose_secret())),
            role.valid_again()
        );
        let receipt = Receipt {
            account: Some(role.id()),
            name: Some(role.name.clone()),
            ..Receipt::default()
        };
        self.alter("setting a password", sql, receipt).await
    }

    pub(super) async fn grant(
        &self,
        account: &NativeId,
        group: &EntitlementName,
    ) -> Result<Outcome, Error> {
        check_entitlement(group).map_err(|why| self.invalid(why))?;
        let role = self.existing(account).await?;
        let receipt = membership_receipt(&role, group, true);
        if role.is_in(group) {
            return Ok(Outcome::AlreadySo(receipt));
        }
        match self.role_named(group.as_str()).await? {
            Some(found) if !found.is_account() => {}
            Some(_) => {
                return Err(self.invalid(format!(
                    "role `{}` is an account, not a group; only a role with NOLOGIN can be granted",
                    group.as_str().escape_debug()
                )));
            }
            None => {
                return Err(self.sessions.error(
                    ErrorKind::NotFound,
                    format!(
                        "there is no role `{}`; create it with NOLOGIN first",
                        group.as_str().escape_debug()
                    ),
                ));
            }
        }
        let sql = format!(
            "GRANT {} TO {}",
            identifier(group.as_str()),
            identifier(&role.name)
        );
        self.alter("granting a role", sql, receipt).await
    }

    pub(super) async fn revoke(
        &self,
        account: &NativeId,
        group: &EntitlementName,
    ) -> Result<Outcome, Error> {
        check_entitlement(group).map_err(|why| self.invalid(why))?;
        let role = self.existing(account).await?;
        let receipt = membership_receipt(&role, group, false);
        if !role.is_in(group) {
            return Ok(Outcome::AlreadySo(receipt));
        }
        let (granted, member) = (identifier(group.as_str()), identifier(&role.name));
        let query = sqlx::query(GRANTORS)
            .bind(i64::from(role.oid))
            .bind(group.as_str());
        let rows = self
            .sessions
            .read("reading who granted a role", query)
            .await?;
        // Every grantor's membership has to go; a plain REVOKE takes only our own, from PostgreSQL 16 on.
        let mut statements = Vec::new();
        for row in &rows {
            let (grantor, version): (String, i32) = row
                .try_get("quoted_grantor")
                .and_then(|grantor| Ok((grantor, row.try_get("version")?)))
                .map_err(|error| {
                    self.sessions
                        .error(ErrorKind::Bug, "cannot decode `pg_auth_members`")
                        .with_source(error)
                })?;
            statements.push(if version >= GRANTOR_VERSION {
                // regrole's text is quoted by the server.
                format!("REVOKE {granted} FROM {member} GRANTED BY {grantor}")
            } else {
                format!("REVOKE {granted} FROM {member}")
            });
        }
        if statements.is_empty() {
            return Ok(Outcome::AlreadySo(receipt));
        }
        self.alter("revoking a role", statements.join("; "), receipt)
            .await
    }

    /// The oid whose sessions are meant, even when the role is gone.
    async fn session_oid(&self, account: &NativeId) -> Result<Option<u32>, Error> {
        let id = self.parse(account)?;
        match self.role(&id).await? {
            Some(role) => Ok(Some(role.oid)),
            None => Ok(id.oid),
        }
    }

    /// How many sessions the account has; `None` when nothing says which role it was.
    pub(super) async fn sessions_of(&self, account: &NativeId) -> Result<Option<i64>, Error> {
        match self.session_oid(account).await? {
            Some(oid) => self.count_sessions(oid).await.map(Some),
            None => Ok(None),
        }
    }

    async fn count_sessions(&self, oid: u32) -> Result<i64, Error> {
        let query = sqlx::query(SESSIONS).bind(i64::from(oid));
        let rows = self.sessions.read("counting sessions", query).await?;
        rows.first()
            .and_then(|row| row.try_get("sessions").ok())
            .ok_or_else(|| {
                self.sessions.error(
                    ErrorKind::Bug,
                    "cannot decode a count of `pg_stat_activity`",
                )
            })
    }

    pub(super) async fn end_sessions(&self, account: &NativeId) -> Result<Outcome, Error> {
        let receipt = |before: i64| Receipt {
            account: Some(account.clone()),
            before: Some(json!({ "sessions": before })),
            after: Some(json!({ "sessions": 0 })),
            ..Receipt::default()
        };
        let Some(oid) = self.session_oid(account).await? else {
            return Ok(Outcome::AlreadySo(receipt(0)));
        };
        let before = self.count_sessions(oid).await?;
        if before == 0 {
            return Ok(Outcome::AlreadySo(receipt(0)));
        }
        let sql = END_SESSIONS.replace("$1", &literal(&oid.to_string()));
        if let Err(failure) = self.sessions.change("ending sessions", sql).await {
            return failure.of_change();
        }
        let deadline = Instant::now() + Duration::from_millis(SESSIONS_END_MS_MAX);
        loop {
            match self.count_sessions(oid).await {
                Ok(0) => return Ok(Outcome::Done(receipt(before))),
                Ok(left) if Instant::now() >= deadline => {
                    return Ok(Outcome::Ambiguous {
                        reason: format!(
                            "{left} of {before} sessions were told to end and have not yet"
                        ),
                    });
                }
                Ok(_) => tokio::time::sleep(Duration::from_millis(SESSIONS_POLL_MS)).await,
                Err(error) => {
                    return Ok(Outcome::Ambiguous {
                        reason: format!(
                            "{before} sessions were told to end; then: {}",
                            error.whole()
                        ),
                    });
                }
            }
        }
    }
}

fn receipt(role: &Role, before: Value, after: Value) -> Receipt {
    Receipt {
        account: Some(role.id()),
        name: Some(role.name.clone()),
        before: Some(before),
        after: Some(after),
        request_id: None,
        credential: None,
    }
}

fn membership_receipt(role: &Role, group: &EntitlementName, granted: bool) -> Receipt {
    let state = |granted: bool| json!({ "entitlement": group.as_str(), "granted": granted });
    receipt(role, state(role.is_in(group)), state(granted))
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]
    use super::*;

    fn options(attributes: &Value) -> Result<String, String> {
        let attributes: Attributes = serde_json::from_value(attributes.clone()).unwrap();
        Wanted::parse(&attributes).map(|wanted| wanted.options())
    }

    #[test]
    fn attributes_become_options() {
        for (attributes, sql) in [
            (json!({}), ""),
            (json!({ "connection_limit": 3 }), " CONNECTION LIMIT 3"),
            (json!({ "connection_limit": null }), " CONNECTION LIMIT -1"),
            (
                json!({ "valid_until": "2027-01-31" }),
                " VALID UNTIL '2027-01-31T00:00:00Z'",
            ),
            (
                json!({ "valid_until": "2027-01-31T12:00:00+02:00" }),
                " VALID UNTIL '2027-01-31T10:00:00Z'",
            ),
            (
                json!({ "valid_until": "2027-01-31T00:00:00.123456789Z" }),
                " VALID UNTIL '2027-01-31T00:00:00.123456Z'",
            ),
            (json!({ "valid_until": null }), " VALID UNTIL 'infinity'"),
        ] {
            assert_eq!(options(&attributes).unwrap(), sql, "{attributes}");
        }
    }

    #[test]
    fn what_a_role_does_not_have_is_refused() {
        for (attributes, why) in [
            (json!({ "superuser": true }), "no attribute `superuser`"),
            (json!({ "valid_until": "soon" }), "not an instant"),
            (json!({ "valid_until": 5 }), "must be a text"),
            (json!({ "connection_limit": -2 }), "whole number"),
            (json!({ "connection_limit": 1.5 }), "whole number"),
            (json!({ "connection_limit": "1; DROP" }), "whole number"),
        ] {
            let message = options(&attributes).unwrap_err();
            assert!(message.contains(why), "{attributes}: {message}");
        }
    }
}
