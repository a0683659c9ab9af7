//! Reading roles: who is an account, who is a group, who is in what.
//!
//! An account is a role that may log in, or that carries our line in its comment (a disabled one may not log in).
//! Every other role is a group, and with it an entitlement.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::Postgres;
use super::names::{RoleId, check_name, is_marked, owner_in};
use crate::connector::{
    Account, Attributes, Entitlement, EntitlementName, Error, ErrorKind, NativeId,
};

/// One role with its comment and the roles it is a direct member of. `pg_roles` shows no passwords.
macro_rules! roles {
    ($restriction:literal) => {
        concat!(
            "
SELECT r.oid::int8 AS oid, r.rolname::text AS name, r.rolcanlogin AS can_login,
       r.rolconnlimit AS connection_limit,
       -- 'infinity' is the same as no limit, and no calendar date.
       CASE WHEN isfinite(r.rolvaliduntil)
            THEN to_char(r.rolvaliduntil AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') END AS valid_until,
       c.description AS comment,
       -- From PostgreSQL 16 on, several grantors may have given the same membership.
       ARRAY(SELECT DISTINCT g.rolname::text
               FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
              WHERE m.member = r.oid ORDER BY 1) AS memberships
  FROM pg_roles r
  LEFT JOIN pg_shdescription c ON c.classoid = 'pg_authid'::regclass AND c.objoid = r.oid
 WHERE ",
            $restriction
        )
    };
}

const BY_ID: &str = roles!("r.oid = $1::int8::oid OR r.rolname = $2");
const BY_NAME: &str = roles!("r.rolname = $1");
/// Our own line is the first one of the comment.
const BY_OWNER: &str = roles!("split_part(c.description, E'\\n', 1) = 'tenure:owner=' || $1");
/// Keyset paging: a role made meanwhile has a higher oid and comes later.
const PAGE: &str = roles!(
    "r.oid > $1::int8::oid
   AND (r.rolcanlogin OR coalesce(starts_with(c.description, 'tenure:'), false)) = $2
   AND starts_with(r.rolname, $3) AND r.rolname <> $4
 ORDER BY r.oid LIMIT $5"
);

/// A role as read.
#[derive(Debug, Clone)]
pub(super) struct Role {
    pub oid: u32,
    pub name: String,
    pub can_login: bool,
    pub connection_limit: i32,
    pub valid_until: Option<DateTime<Utc>>,
    pub comment: Option<String>,
    pub memberships: Vec<String>,
}

impl Role {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let oid: i64 = row.try_get("oid")?;
        let valid_until: Option<String> = row.try_get("valid_until")?;
        let valid_until = valid_until
            .map(|text| DateTime::parse_from_rfc3339(&text).map(|at| at.with_timezone(&Utc)))
            .transpose()
            .map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        Ok(Self {
            oid: u32::try_from(oid).map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
            name: row.try_get("name")?,
            can_login: row.try_get("can_login")?,
            connection_limit: row.try_get("connection_limit")?,
            valid_until,
            comment: row.try_get("comment")?,
            memberships: row.try_get("memberships")?,
        })
    }

    pub(super) fn id(&self) -> NativeId {
        RoleId::native(&self.name, self.oid)
    }

    pub(super) fn owner(&self) -> Option<&str> {
        owner_in(self.comment.as_deref())
    }

    pub(super) fn is_account(&self) -> bool {
        self.can_login || is_marked(self.comment.as_deref())
    }

    pub(super) fn is_in(&self, group: &EntitlementName) -> bool {
        self.memberships.iter().any(|name| name == group.as_str())
    }

    pub(super) fn attributes(&self) -> Attributes {
        let mut attributes =
            Attributes::from([("connection_limit".to_owned(), json!(self.connection_limit))]);
        if let Some(until) = self.valid_until {
            attributes.insert("valid_until".to_owned(), Value::from(shown(until)));
        }
        attributes
    }

    pub(super) fn account(&self) -> Account {
        Account {
            id: self.id(),
            name: self.name.clone(),
            enabled: Some(self.can_login),
            owner: self.owner().map(str::to_owned),
            attributes: self.attributes(),
            entitlements: Some(self.memberships.iter().map(EntitlementName::new).collect()),
            version: None,
        }
    }

    pub(super) fn entitlement(&self) -> Entitlement {
        Entitlement {
            id: self.id(),
            name: EntitlementName::new(&self.name),
        }
    }
}

pub(super) fn shown(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

impl Postgres {
    fn roles(&self, rows: &[PgRow]) -> Result<Vec<Role>, Error> {
        rows.iter()
            .map(Role::from_row)
            .collect::<Result<_, _>>()
            .map_err(|error| {
                self.sessions
                    .error(ErrorKind::Bug, "cannot decode a row of `pg_roles`")
                    .with_source(error)
            })
    }

    /// Refuses roles that this system was not given to manage.
    pub(super) fn fence(&self, name: &str) -> Result<(), Error> {
        if name == self.own_role {
            return Err(self.sessions.error(
                ErrorKind::Denied,
                format!("role `{name}` is the one Tenure logs in with; it does not touch itself"),
            ));
        }
        if !name.starts_with(&self.role_prefix) {
            return Err(self.sessions.error(
                ErrorKind::Denied,
                format!(
                    "role `{}` does not start with `{}`, the `role_prefix` of this system",
                    name.escape_debug(),
                    self.role_prefix
                ),
            ));
        }
        Ok(())
    }

    pub(super) fn invalid(&self, why: String) -> Error {
        self.sessions.error(ErrorKind::Invalid, why)
    }

    pub(super) fn parse(&self, account: &NativeId) -> Result<RoleId, Error> {
        let id = RoleId::parse(account).map_err(|why| self.invalid(why))?;
        self.fence(&id.name)?;
        Ok(id)
    }

    /// The role that `id` means. `None` is a fact: neither its oid nor its name is there.
    pub(super) async fn role(&self, id: &RoleId) -> Result<Option<Role>, Error> {
        let query = sqlx::query(BY_ID)
            .bind(i64::from(id.oid.unwrap_or(0)))
            .bind(&id.name);
        let found = self.roles(&self.sessions.read("reading a role", query).await?)?;
        let named = found.iter().find(|role| role.name == id.name);
        let Some(oid) = id.oid else {
            return Ok(named.cloned());
        };
        let numbered = found.iter().find(|role| role.oid == oid);
        match (numbered, named) {
            (None, None) => Ok(None),
            // Itself, or renamed since.
            (Some(role), None) => {
                self.fence(&role.name)?;
                Ok(Some(role.clone()))
            }
            (Some(role), Some(same)) if role.oid == same.oid => Ok(Some(role.clone())),
            (_, Some(other)) => Err(self.sessions.error(
                ErrorKind::Conflict,
                format!(
                    "role `{}` is not the one it was: its oid is {} and was {oid}; it was made anew or the cluster was restored, so look the account up again",
                    other.name, other.oid
                ),
            )),
        }
    }

    pub(super) async fn role_named(&self, name: &str) -> Result<Option<Role>, Error> {
        check_name(name).map_err(|why| self.invalid(why))?;
        let query = sqlx::query(BY_NAME).bind(name);
        Ok(self
            .roles(&self.sessions.read("reading a role by name", query).await?)?
            .pop())
    }

    pub(super) async fn role_owned_by(&self, owner: &str) -> Result<Option<Role>, Error> {
        if owner.contains('\0') {
            return Err(self.invalid("an owner key cannot hold a zero byte".to_owned()));
        }
        let query = sqlx::query(BY_OWNER).bind(owner);
        let mut found = self.roles(&self.sessions.read("looking for an owner", query).await?)?;
        if found.len() > 1 {
            let names: Vec<&str> = found.iter().map(|role| role.name.as_str()).collect();
            return Err(self.sessions.error(
                ErrorKind::Conflict,
                format!(
                    "the roles {} carry the same owner key; a person must remove it from all but one with COMMENT ON ROLE",
                    names.join(", ")
                ),
            ));
        }
        Ok(found.pop())
    }

    /// Accounts, or groups, with an oid above `after`, in order.
    pub(super) async fn roles_after(&self, accounts: bool, after: u32) -> Result<Vec<Role>, Error> {
        let query = sqlx::query(PAGE)
            .bind(i64::from(after))
            .bind(accounts)
            .bind(if accounts {
                self.role_prefix.as_str()
            } else {
                ""
            })
            .bind(&self.own_role)
            .bind(i64::from(self.page_size));
        self.roles(&self.sessions.read("listing roles", query).await?)
    }
}
