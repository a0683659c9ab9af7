//! What a role owns and may do, and what becomes of it when the role goes.
//!
//! `pg_shdepend` lists, for the whole cluster, what depends on a role: owned objects, privileges, policies. The
//! objects themselves can be named and handed over only from inside their own database, so these operations
//! visit each database that is concerned.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::Postgres;
use super::failure::Failure;
use super::names::{identifier, literal};
use super::roles::Role;
use super::settings::OwnedObjects;
use super::verdict;
use crate::connector::{
    Coverage, Error, ErrorKind, NativeId, ObjectRef, Outcome, Receipt, Use, Verdict,
};

/// How many objects one answer names.
const USES_MAX: i64 = 1_000;
/// How many of them an error message names.
const USES_SHOWN: usize = 10;

/// What depends on a role. Only objects of this database, and shared ones, can be described from here.
const DEPENDENTS: &str = "
SELECT coalesce(b.datname::text, '') AS place,
       CASE s.deptype WHEN 'o' THEN 'owns' WHEN 'a' THEN 'has privileges on' WHEN 'r' THEN 'is in a policy of'
                      ELSE 'is needed by' END AS how,
       CASE WHEN s.dbid = 0 OR b.datname = current_database()
            THEN pg_describe_object(s.classid, s.objid, s.objsubid) END AS what,
       count(*) AS objects
  FROM pg_shdepend s LEFT JOIN pg_database b ON b.oid = s.dbid
 WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = $1::int8::oid
 GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
 LIMIT $2";

/// The databases to visit. `only` restricts to what is owned, for a hand-over.
const PLACES: &str = "
SELECT DISTINCT coalesce(b.datname::text, current_database()::text) AS place
  FROM pg_shdepend s LEFT JOIN pg_database b ON b.oid = s.dbid
 WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = $1::int8::oid
   AND (s.deptype = 'o' OR NOT $2)
 ORDER BY 1";

/// Whether we may act for both roles as we are, and what we would have to give ourselves otherwise.
const ACTS_FOR: &str = "
SELECT pg_has_role(current_user, r.oid, 'USAGE') AS acts,
       -- Before 16 a membership exists once, whoever gave it: taking ours back would take it away.
       EXISTS (SELECT FROM pg_auth_members m
                WHERE m.roleid = r.oid AND m.member = me.oid
                  AND (m.grantor = me.oid OR current_setting('server_version_num')::int4 < 160000)) AS keeps
  FROM pg_roles r, pg_roles me
 WHERE r.oid = $1::int8::oid AND me.rolname = current_user";

/// What connects with the role now.
const SESSIONS_NOW: &str = "
SELECT coalesce(nullif(application_name, ''), 'an unnamed program') || coalesce(' at ' || host(client_addr), '') AS program,
       coalesce(datname::text, '') AS place, count(*) AS sessions, now() AS seen_at
  FROM pg_stat_activity
 WHERE usesysid = $1::int8::oid AND pid <> pg_backend_pid()
 GROUP BY 1, 2 ORDER BY 1, 2
 LIMIT $2";

const MEMBERS: &str = "
SELECT DISTINCT u.rolname::text AS name
  FROM pg_auth_members m JOIN pg_roles u ON u.oid = m.member
 WHERE m.roleid = $1::int8::oid ORDER BY 1
 LIMIT $2";

impl Postgres {
    fn column(&self, row: &PgRow, name: &str) -> Result<String, Error> {
        row.try_get::<Option<String>, _>(name)
            .map(Option::unwrap_or_default)
            .map_err(|error| {
                self.sessions
                    .error(ErrorKind::Bug, format!("cannot decode the column `{name}`"))
                    .with_source(error)
            })
    }

    fn count(&self, row: &PgRow, name: &str) -> Result<i64, Error> {
        row.try_get(name).map_err(|error| {
            self.sessions
                .error(ErrorKind::Bug, format!("cannot decode the column `{name}`"))
                .with_source(error)
        })
    }

    /// What depends on the role, in words.
    async fn needed_by(&self, role: &Role) -> Result<Vec<Use>, Error> {
        let query = sqlx::query(DEPENDENTS)
            .bind(i64::from(role.oid))
            .bind(USES_MAX);
        let rows = self
            .sessions
            .read("reading what a role owns", query)
            .await?;
        rows.iter()
            .map(|row| {
                let (place, how) = (self.column(row, "place")?, self.column(row, "how")?);
                let what = match self.column(row, "what")? {
                    what if !what.is_empty() => format!("{how} {what}"),
                    _ => match self.count(row, "objects")? {
                        1 => format!("{how} 1 object"),
                        many => format!("{how} {many} objects"),
                    },
                };
                let by = if place.is_empty() {
                    "the cluster".to_owned()
                } else {
                    format!("database {place}")
                };
                Ok(Use {
                    by,
                    what,
                    last_seen: None,
                })
            })
            .collect()
    }

    pub(super) async fn uses(&self, object: &ObjectRef) -> Result<Coverage<Vec<Use>>, Error> {
        let role = match object {
            ObjectRef::Account(id) => self.role(&self.parse(id)?).await?,
            ObjectRef::AccountNamed(name) => self.role_named(name).await?,
            ObjectRef::AccountOwnedBy(owner) => self.role_owned_by(owner).await?,
            ObjectRef::Entitlement(name) => self.role_named(name.as_str()).await?,
        };
        let role = role.ok_or_else(|| {
            self.sessions
                .error(ErrorKind::NotFound, "there is no such role to look at")
        })?;
        let mut uses = self.needed_by(&role).await?;
        let bind = |sql| sqlx::query(sql).bind(i64::from(role.oid)).bind(USES_MAX);
        for row in self
            .sessions
            .read("reading sessions", bind(SESSIONS_NOW))
            .await?
        {
            let (place, count) = (self.column(&row, "place")?, self.count(&row, "sessions")?);
            uses.push(Use {
                by: self.column(&row, "program")?,
                what: format!("{count} open session(s) in database {place}"),
                last_seen: row.try_get::<DateTime<Utc>, _>("seen_at").ok(),
            });
        }
        for row in self.sessions.read("reading members", bind(MEMBERS)).await? {
            uses.push(Use {
                by: self.column(&row, "name")?,
                what: "is a member".to_owned(),
                last_seen: None,
            });
        }
        Ok(Coverage {
            value: uses,
            blind_spots: vec![
                "programs that log in with this role and are not connected now".to_owned(),
                "names of objects in databases other than the configured one; they are only counted".to_owned(),
                "function bodies, pg_hba.conf and foreign servers that mention the role by name".to_owned(),
            ],
        })
    }

    async fn places(&self, role: &Role, only_owned: bool) -> Result<Vec<String>, Error> {
        let query = sqlx::query(PLACES)
            .bind(i64::from(role.oid))
            .bind(only_owned);
        let rows = self
            .sessions
            .read("reading where a role owns something", query)
            .await?;
        rows.iter().map(|row| self.column(row, "place")).collect()
    }

    /// `sql` between giving ourselves the rights of `roles` and taking them back, all in one transaction. Handing
    /// over needs the rights of both sides; CREATEROLE may grant them to itself, a superuser has them.
    async fn acting_for(&self, roles: &[&Role], sql: String) -> Result<String, Error> {
        let (mut before, mut after) = (String::new(), String::new());
        for role in roles {
            let query = sqlx::query(ACTS_FOR).bind(i64::from(role.oid));
            let rows = self.sessions.read("reading our own rights", query).await?;
            let flag = |name: &str| {
                rows.first()
                    .and_then(|row| row.try_get::<bool, _>(name).ok())
            };
            // A membership that was there before must not be taken away at the end.
            if flag("acts") == Some(false) && flag("keeps") == Some(false) {
                let name = identifier(&role.name);
                before.push_str(&format!("GRANT {name} TO CURRENT_USER; "));
                after.push_str(&format!("; REVOKE {name} FROM CURRENT_USER"));
            }
        }
        Ok(format!("{before}{sql}{after}"))
    }

    /// Runs `sql` in every place; an error after the first success is in doubt, not an error.
    async fn everywhere(
        &self,
        places: &[String],
        what: &str,
        sql: &str,
    ) -> Result<Option<Outcome>, Error> {
        for (done, place) in places.iter().enumerate() {
            match self.sessions.change_in(place, what, sql.to_owned()).await {
                Ok(()) => {}
                Err(failure) if done == 0 => return failure.of_change().map(Some),
                Err(failure) => {
                    let reason = failure.of_read().whole();
                    return Ok(Some(Outcome::Ambiguous {
                        reason: format!(
                            "{what} is done in {done} of {} databases; in `{place}`: {reason}",
                            places.len()
                        ),
                    }));
                }
            }
        }
        Ok(None)
    }

    pub(super) async fn transfer(&self, from: &NativeId, to: &NativeId) -> Result<Outcome, Error> {
        let (from, to) = (self.existing(from).await?, self.existing(to).await?);
        let receipt = Receipt {
            account: Some(from.id()),
            name: Some(from.name.clone()),
            ..Receipt::default()
        };
        let places = self.places(&from, true).await?;
        if places.is_empty() || from.oid == to.oid {
            return Ok(Outcome::AlreadySo(receipt));
        }
        let sql = format!(
            "REASSIGN OWNED BY {} TO {}",
            identifier(&from.name),
            identifier(&to.name)
        );
        let sql = self.acting_for(&[&from, &to], sql).await?;
        match self
            .everywhere(&places, "handing over what a role owns", &sql)
            .await?
        {
            None => Ok(Outcome::Done(receipt)),
            Some(outcome) => Ok(outcome),
        }
    }

    /// Whether the role owns nothing, in any database of the cluster.
    pub(super) async fn owns_nothing(&self, account: &NativeId) -> Result<Verdict, Error> {
        let places = match self.role(&self.parse(account)?).await? {
            Some(role) => self.places(&role, true).await?,
            None => Vec::new(),
        };
        let seen = json!({ "owns_in": places });
        Ok(verdict(
            places.is_empty(),
            "pg_shdepend",
            Some(account.clone()),
            seen,
        ))
    }

    pub(super) async fn delete(&self, account: &NativeId) -> Result<Outcome, Error> {
        let id = self.parse(account)?;
        let receipt = Receipt {
            account: Some(account.clone()),
            name: Some(id.name.clone()),
            ..Receipt::default()
        };
        let Some(role) = self.role(&id).await? else {
            return Ok(Outcome::AlreadySo(receipt));
        };
        let places = self.places(&role, false).await?;
        if !places.is_empty() {
            let sql = match self.owned_objects {
                OwnedObjects::Refuse => return Err(self.still_needed(&role).await?),
                OwnedObjects::Drop => {
                    self.acting_for(
                        &[&role],
                        format!("DROP OWNED BY {}", identifier(&role.name)),
                    )
                    .await?
                }
                OwnedObjects::Reassign => self.reassign_then_drop(&role).await?,
            };
            if let Some(outcome) = self
                .everywhere(&places, "clearing what a role owns", &sql)
                .await?
            {
                return Ok(outcome);
            }
        }
        let sql = format!("DROP ROLE {}", identifier(&role.name));
        match self.sessions.change("dropping a role", sql).await {
            Ok(_) => Ok(Outcome::Done(receipt)),
            Err(failure) if failure.code() == Some("42704") => Ok(Outcome::AlreadySo(receipt)),
            // Its things were handed over already: the caller has to look again.
            Err(failure @ Failure::Refused { .. }) if !places.is_empty() => {
                Ok(Outcome::Ambiguous {
                    reason: format!(
                        "what the role owned is cleared; then: {}",
                        failure.of_read().whole()
                    ),
                })
            }
            Err(failure) => failure.of_change(),
        }
    }

    async fn reassign_then_drop(&self, role: &Role) -> Result<String, Error> {
        let name = self.reassign_to.as_deref().unwrap_or_default();
        let Some(heir) = self.role_named(name).await? else {
            return Err(self.invalid(format!(
                "`reassign_to` names the role {}, which does not exist",
                literal(name)
            )));
        };
        // Privileges cannot be handed over; DROP OWNED removes what is left of them.
        let sql = format!(
            "REASSIGN OWNED BY {role} TO {}; DROP OWNED BY {role}",
            identifier(&heir.name),
            role = identifier(&role.name),
        );
        self.acting_for(&[role, &heir], sql).await
    }

    async fn still_needed(&self, role: &Role) -> Result<Error, Error> {
        let uses = self.needed_by(role).await?;
        let shown: Vec<String> = uses
            .iter()
            .take(USES_SHOWN)
            .map(|it| format!("{} ({})", it.what, it.by))
            .collect();
        let more = match uses.len().saturating_sub(USES_SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Ok(self.sessions.error(
            ErrorKind::Denied,
            format!(
                "role `{}` still {}{more}; transfer the ownership first, or set `owned_objects` to `reassign` or `drop`",
                role.name,
                shown.join(", ")
            ),
        ))
    }
}
