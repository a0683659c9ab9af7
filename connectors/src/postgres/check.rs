//! `check`: reach, login, rights, each with what to do about it.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::Postgres;
use super::names::identifier;
use crate::connector::{Error, ErrorKind, Finding, Health};

/// Who we are and what we may do. From 16 on CREATEROLE needs ADMIN OPTION on roles that others made; which of
/// those matter only the policy knows, except for accounts that carry our own mark.
const RIGHTS: &str = "
WITH out_of_reach AS (
    SELECT g.rolname::text AS name, coalesce(starts_with(c.description, 'tenure:'), false) AS marked
      FROM pg_roles g
      LEFT JOIN pg_shdescription c ON c.classoid = 'pg_authid'::regclass AND c.objoid = g.oid
     WHERE current_setting('server_version_num')::int4 >= 160000
       AND NOT g.rolsuper AND g.rolname NOT LIKE 'pg\\_%' AND g.rolname <> current_user
       AND NOT pg_has_role(g.oid, 'MEMBER WITH ADMIN OPTION')
)
SELECT current_user::text AS me, r.rolsuper AS superuser, r.rolcreaterole AS createrole,
       pg_has_role('pg_signal_backend', 'USAGE') AS signals,
       pg_is_in_recovery() AS standby,
       current_setting('server_version_num')::int4 AS version,
       ARRAY(SELECT name FROM out_of_reach WHERE marked ORDER BY 1 LIMIT 10) AS lost,
       ARRAY(SELECT name FROM out_of_reach WHERE NOT marked ORDER BY 1 LIMIT 10) AS others
  FROM pg_roles r WHERE r.rolname = current_user";

/// The oldest version whose catalogues and commands are used here.
const VERSION_MIN: i32 = 150_000;

/// What [`RIGHTS`] read.
struct Rights {
    me: String,
    superuser: bool,
    createrole: bool,
    signals: bool,
    standby: bool,
    version: i32,
    /// Accounts of ours that we may not change. At most ten.
    lost: Vec<String>,
    /// Other roles that we may not change or grant. At most ten.
    others: Vec<String>,
}

impl Postgres {
    pub(super) async fn look_around(&self) -> Result<Health, Error> {
        let rows = match self
            .sessions
            .read("reading our own rights", sqlx::query(RIGHTS))
            .await
        {
            Ok(rows) => rows,
            Err(error) => {
                return Ok(Health {
                    findings: away(&error),
                });
            }
        };
        let Some(row) = rows.first() else {
            return Err(self.sessions.error(
                ErrorKind::Bug,
                "the server does not know the role we logged in as",
            ));
        };
        let rights = Rights::from_row(row).map_err(|error| {
            self.sessions
                .error(ErrorKind::Bug, "cannot decode our own rights")
                .with_source(error)
        })?;
        Ok(Health {
            findings: rights.findings(),
        })
    }
}

impl Rights {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            me: row.try_get("me")?,
            superuser: row.try_get("superuser")?,
            createrole: row.try_get("createrole")?,
            signals: row.try_get("signals")?,
            standby: row.try_get("standby")?,
            version: row.try_get("version")?,
            lost: row.try_get("lost")?,
            others: row.try_get("others")?,
        })
    }

    fn findings(self) -> Vec<Finding> {
        let (major, me) = (self.version / 10_000, identifier(&self.me));
        let mut findings = vec![if self.version >= VERSION_MIN {
            Finding::good("reach", format!("PostgreSQL {major} answers"))
        } else {
            Finding::bad(
                "reach",
                format!("PostgreSQL {major} is too old"),
                "use PostgreSQL 15 or later",
            )
        }];
        findings.push(Finding::good("login", format!("logged in as {me}")));
        findings.push(if self.superuser || self.createrole {
            Finding::good(
                "rights",
                if self.superuser {
                    "SUPERUSER"
                } else {
                    "CREATEROLE"
                },
            )
        } else {
            Finding::bad(
                "rights",
                "may not create or change roles",
                format!("ALTER ROLE {me} CREATEROLE"),
            )
        });
        findings.push(if self.superuser || self.signals {
            Finding::good("end sessions", "may end the sessions of other roles")
        } else {
            Finding::bad(
                "end sessions",
                "may not end the sessions of other roles",
                format!("GRANT pg_signal_backend TO {me}"),
            )
        });
        if self.standby {
            findings.push(Finding::bad(
                "writable",
                "this server is a standby and takes no changes",
                "point `host` and `port` at the primary",
            ));
        }
        let named = |roles: &[String]| {
            roles
                .iter()
                .map(|name| identifier(name))
                .collect::<Vec<_>>()
                .join(", ")
        };
        if !self.lost.is_empty() {
            let names = named(&self.lost);
            findings.push(Finding::bad(
                "accounts",
                format!("accounts made by Tenure that {me} may not change: {names} (at most ten are named)"),
                format!("GRANT {names} TO {me} WITH ADMIN OPTION"),
            ));
        }
        if !self.superuser && !self.others.is_empty() {
            findings.push(Finding::good(
                "roles of others",
                format!(
                    "{me} may not change or grant {} (at most ten are named); for those that a policy names: GRANT ... TO {me} WITH ADMIN OPTION",
                    named(&self.others)
                ),
            ));
        }
        findings
    }
}

/// What a failed first question says.
fn away(error: &Error) -> Vec<Finding> {
    let answers = Finding::good("reach", "something answers");
    match error.kind {
        ErrorKind::AuthExpired => vec![
            answers,
            Finding::bad(
                "login",
                error.whole(),
                "correct `user`, the secret behind `password`, or pg_hba.conf",
            ),
        ],
        ErrorKind::Invalid | ErrorKind::Denied => vec![
            answers,
            Finding::bad(
                "login",
                error.whole(),
                "correct `database`, and let the role CONNECT to it",
            ),
        ],
        _ => vec![Finding::bad(
            "reach",
            error.whole(),
            "check `host`, `port`, `sslmode`, `ca_file`, the network and whether the server runs",
        )],
    }
}
