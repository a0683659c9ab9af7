//! A few sessions, kept open.
//!
//! Not sqlx's own pool: that one retries a refused connection until its deadline and then says only that time
//! ran out, where the engine needs to know at once that the system is away and that nothing was sent. A session
//! goes back only after its statement was answered completely; a caller that gives up half-way closes it. Before a
//! session is used again it is asked whether it still lives: a change sent into a dead one would be in doubt, one
//! that was never sent is not.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::postgres::{PgArguments, PgConnectOptions, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, Postgres};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::failure::{Failure, ends_session, of_login, of_statement};
use super::settings::Settings;
use crate::connector::{Error, ErrorKind};

/// A session idle for longer is closed.
const IDLE_MS_MAX: u64 = 60_000;
/// The server cancels at `timeout_ms`, which proves that nothing was changed. Only if it does not answer to that
/// either do we stop waiting.
const GRACE_MS: u64 = 1_000;

pub(super) struct Sessions {
    system: String,
    place: String,
    options: PgConnectOptions,
    permits: Semaphore,
    idle: Mutex<Vec<(PgConnection, Instant)>>,
    connect_timeout: Duration,
    timeout: Duration,
}

/// What somebody meets who logs in.
pub(super) enum Tried {
    In,
    /// `invalid_password`: so is one whose validity has ended, and any password of a role that has none.
    WrongPassword,
    /// `invalid_authorization_specification`, in the server's words: NOLOGIN, or no line in `pg_hba.conf`.
    NotAllowed(String),
}

struct Session<'a> {
    connection: PgConnection,
    _permit: SemaphorePermit<'a>,
}

impl Sessions {
    pub(super) fn new(system: &str, settings: &Settings) -> Result<Self, Error> {
        Ok(Self {
            system: system.to_owned(),
            place: format!("`{}:{}`", settings.host, settings.port),
            options: settings.options(system)?,
            permits: Semaphore::new(usize::try_from(settings.connections_max).unwrap_or(1)),
            idle: Mutex::default(),
            connect_timeout: Duration::from_millis(settings.connect_timeout_ms),
            timeout: Duration::from_millis(settings.timeout_ms),
        })
    }

    pub(super) fn error(&self, kind: ErrorKind, message: impl AsRef<str>) -> Error {
        Error::new(
            kind,
            format!("system `{}`: {}", self.system, message.as_ref()),
        )
    }

    /// Runs a query that changes nothing.
    pub(super) async fn read(
        &self,
        what: &str,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, Error> {
        let mut session = self.open().await.map_err(Failure::of_read)?;
        let answer = self
            .wait(what, query.fetch_all(&mut session.connection))
            .await;
        self.settle(session, what, answer).map_err(Failure::of_read)
    }

    /// Runs `sql`, one or more statements, as one message and so as one transaction. The text must be made of
    /// constants and of what [`super::names`] quoted.
    pub(super) async fn change(&self, what: &str, sql: String) -> Result<Vec<PgRow>, Failure> {
        let mut session = self.open().await?;
        let answer = self
            .wait(
                what,
                session
                    .connection
                    .fetch_all(sqlx::raw_sql(AssertSqlSafe(sql))),
            )
            .await;
        self.settle(session, what, answer)
    }

    /// Like [`Self::change`], in another database of the cluster, over a session of its own.
    pub(super) async fn change_in(
        &self,
        database: &str,
        what: &str,
        sql: String,
    ) -> Result<(), Failure> {
        let _permit = self.permit().await?;
        let mut connection = self
            .connect(&self.options.clone().database(database))
            .await?;
        let answer = self
            .wait(
                what,
                connection.fetch_all(sqlx::raw_sql(AssertSqlSafe(sql))),
            )
            .await;
        let result = match answer {
            Ok(answer) => answer
                .map(drop)
                .map_err(|error| of_statement(&self.system, what, error)),
            Err(failure) => Err(failure),
        };
        if result.is_ok() {
            let _ = tokio::time::timeout(self.connect_timeout, connection.close()).await;
        }
        result
    }

    async fn wait<T>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<Result<T, sqlx::Error>, Failure> {
        let limit = self.timeout.saturating_add(Duration::from_millis(GRACE_MS));
        tokio::time::timeout(limit, work).await.map_err(|_| {
            let limit_ms = limit.as_millis();
            Failure::Lost(self.error(
                ErrorKind::Timeout,
                format!("{what} was not answered within {limit_ms} ms"),
            ))
        })
    }

    /// Keeps the session for the next one if it still lives.
    fn settle<T>(
        &self,
        session: Session<'_>,
        what: &str,
        answer: Result<Result<T, sqlx::Error>, Failure>,
    ) -> Result<T, Failure> {
        let answer = answer?;
        if !answer.as_ref().is_err_and(ends_session) {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push((session.connection, Instant::now()));
        }
        answer.map_err(|error| of_statement(&self.system, what, error))
    }

    async fn open(&self) -> Result<Session<'_>, Failure> {
        let permit = self.permit().await?;
        while let Some((mut connection, since)) = self.take_idle() {
            if since.elapsed() > Duration::from_millis(IDLE_MS_MAX) {
                continue;
            }
            if matches!(
                tokio::time::timeout(self.connect_timeout, connection.ping()).await,
                Ok(Ok(()))
            ) {
                return Ok(Session {
                    connection,
                    _permit: permit,
                });
            }
        }
        let connection = self.connect(&self.options).await?;
        Ok(Session {
            connection,
            _permit: permit,
        })
    }

    fn take_idle(&self) -> Option<(PgConnection, Instant)> {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
    }

    async fn permit(&self) -> Result<SemaphorePermit<'_>, Failure> {
        let waited = tokio::time::timeout(self.timeout, self.permits.acquire()).await;
        match waited {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Failure::NotSent(self.error(
                ErrorKind::Transient,
                "all sessions are busy; raise `connections_max` or lower the concurrency of this system",
            ))),
        }
    }

    /// Logs in as somebody else, over a session of its own that is closed at once.
    ///
    /// # Errors
    /// It could not be tried, or what was said concerns neither the role nor its password.
    pub(super) async fn try_login(
        &self,
        name: &str,
        password: &SecretString,
    ) -> Result<Tried, Error> {
        let _permit = self.permit().await.map_err(Failure::of_read)?;
        let options = self.options.clone().username(name);
        let options = options.password(password.expose_secret());
        match tokio::time::timeout(self.connect_timeout, options.connect()).await {
            Ok(Ok(connection)) => {
                let _ = tokio::time::timeout(self.connect_timeout, connection.close()).await;
                Ok(Tried::In)
            }
            Ok(Err(sqlx::Error::Database(error))) if error.code().as_deref() == Some("28P01") => {
                Ok(Tried::WrongPassword)
            }
            Ok(Err(sqlx::Error::Database(error))) if error.code().as_deref() == Some("28000") => {
                Ok(Tried::NotAllowed(error.message().to_owned()))
            }
            Ok(Err(error)) => Err(of_login(&self.system, &self.place, error)),
            Err(_) => Err(self.late()),
        }
    }

    fn late(&self) -> Error {
        let limit_ms = self.connect_timeout.as_millis();
        self.error(
            ErrorKind::Unreachable,
            format!("no login to {} within {limit_ms} ms", self.place),
        )
    }

    async fn connect(&self, options: &PgConnectOptions) -> Result<PgConnection, Failure> {
        match tokio::time::timeout(self.connect_timeout, options.connect()).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(Failure::NotSent(of_login(&self.system, &self.place, error))),
            Err(_) => Err(Failure::NotSent(self.late())),
        }
    }
}
