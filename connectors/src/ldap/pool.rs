//! Connections that are logged in, kept for the next one who asks.
//!
//! Making one costs three round trips and two for TLS, so up to `connections_max` are kept. The rules:
//!
//! - whoever takes a connection has it alone and gives it back only after a whole answer; one that is
//!   dropped on the way (an error, a cancelled caller) is closed, because an answer may still be under way;
//! - a connection found dead *before* a request left is replaced once; a request that may have left is
//!   never sent again if it writes;
//! - one that lay idle for long is not trusted: firewalls forget silently, and then a write would hang and
//!   end as ambiguous for nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ldap3::{Ldap as Handle, LdapConnAsync, LdapConnSettings, LdapError, StdStream};
use secrecy::ExposeSecret;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::codes;
use super::settings::{Flavour, Security, Settings};
use super::wire::{self, Answer, Failure, Found, Search, Write};
use crate::connector::{Error, ErrorKind};

/// An idle connection older than this is replaced.
const IDLE_MAX: Duration = Duration::from_secs(120);

/// How often one request may meet a dead connection: the kept one, then a fresh one.
const TRIES_MAX: usize = 2;

pub(super) struct Pool {
    settings: Arc<Settings>,
    idle: Mutex<Vec<Idle>>,
    room: Arc<Semaphore>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// One connection; closing it is dropping it.
pub(super) struct Connection {
    pub(super) handle: Handle,
    driver: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A connection in use, and the place it takes among `connections_max`.
struct Session {
    connection: Connection,
    _room: OwnedSemaphorePermit,
}

impl Pool {
    pub(super) fn new(settings: Arc<Settings>) -> Self {
        let room = Arc::new(Semaphore::new(settings.connections_max));
        Self {
            settings,
            idle: Mutex::new(Vec::new()),
            room,
        }
    }

    /// Asks a question. Asking twice changes nothing, so a connection that breaks meanwhile is replaced
    /// once: the second try tells whether the directory is away.
    pub(super) async fn search(&self, search: &Search<'_>) -> Result<Found, Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            let mut session = self.session().await?;
            let handle = &mut session.connection.handle;
            match wire::search(handle, search, self.settings.operation_timeout).await {
                Ok(found) => {
                    self.keep(session);
                    return Ok(found);
                }
                Err(Failure::NotSent(_) | Failure::Lost(_)) if tries < TRIES_MAX => self.forget(),
                Err(failure) => return Err(failure.of_read(&self.settings.url)),
            }
        }
    }

    /// Sends a change. It is sent again only when it is certain that it has not left.
    ///
    /// # Errors
    /// Nothing left.
    pub(super) async fn write(&self, write: &Write<'_>) -> Result<Answer, Error> {
        let read_back = (self.settings.flavour == Flavour::Openldap).then(|| {
            [
                self.settings.id_attribute(),
                self.settings.version_attribute(),
            ]
        });
        let mut tries = 0;
        loop {
            tries += 1;
            let mut session = self.session().await?;
            let handle = &mut session.connection.handle;
            let limit = self.settings.operation_timeout;
            match wire::write(handle, write, read_back, limit).await {
                Ok(reply) => {
                    self.keep(session);
                    return Ok(Answer::Answered(reply));
                }
                Err(Failure::NotSent(_)) if tries < TRIES_MAX => self.forget(),
                Err(Failure::NotSent(why)) => {
                    let message =
                        format!("the directory at `{}` hung up: {why}", self.settings.url);
                    return Err(Error::new(ErrorKind::Unreachable, message));
                }
                Err(Failure::Lost(why)) => return Ok(Answer::Lost(why)),
                Err(Failure::Late) => {
                    let limit_ms = limit.as_millis();
                    return Ok(Answer::Lost(format!("no answer within {limit_ms} ms")));
                }
                Err(failure @ Failure::Unspeakable(_)) => {
                    return Err(failure.of_read(&self.settings.url));
                }
            }
        }
    }

    async fn session(&self) -> Result<Session, Error> {
        let limit = self.settings.operation_timeout;
        let room = tokio::time::timeout(limit, self.room.clone().acquire_owned()).await;
        let Ok(Ok(room)) = room else {
            return Err(Error::new(
                ErrorKind::Transient,
                format!(
                    "all {} connections to `{}` were busy for {} ms; raise `connections_max` or lower the system's concurrency",
                    self.settings.connections_max,
                    self.settings.url,
                    limit.as_millis()
                ),
            ));
        };
        let connection = match self.kept() {
            Some(connection) => connection,
            None => Box::pin(connect(&self.settings)).await?,
        };
        Ok(Session {
            connection,
            _room: room,
        })
    }

    /// A kept connection that still seems to live.
    fn kept(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(mut kept) = idle.pop() {
            if kept.since.elapsed() < IDLE_MAX && !kept.connection.handle.is_closed() {
                return Some(kept.connection);
            }
        }
        None
    }

    fn keep(&self, session: Session) {
        let kept = Idle {
            connection: session.connection,
            since: Instant::now(),
        };
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(kept);
    }

    /// One broke: its neighbours are probably as dead.
    fn forget(&self) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// Reaches the server and logs in.
///
/// # Errors
/// [`ErrorKind::Unreachable`] or [`ErrorKind::AuthExpired`]; nothing but the login was sent.
pub(super) async fn connect(settings: &Settings) -> Result<Connection, Error> {
    let mut connection = reach(settings).await?;
    login(settings, &mut connection).await?;
    Ok(connection)
}

/// Connects, and makes the connection private if so configured.
pub(super) async fn reach(settings: &Settings) -> Result<Connection, Error> {
    let limit = settings.connect_timeout;
    match wire::answered(Box::pin(open(settings)), limit).await {
        Ok(connection) => connection,
        Err(Failure::Late) => Err(unreachable(
            settings,
            &format!("no connection within {} ms", limit.as_millis()),
        )),
        Err(Failure::NotSent(why) | Failure::Lost(why) | Failure::Unspeakable(why)) => {
            Err(unreachable(settings, &why))
        }
    }
}

/// The outer error is the library's way to say that it gave up, the inner one is ours.
async fn open(settings: &Settings) -> Result<Result<Connection, Error>, LdapError> {
    let stream = match TcpStream::connect((settings.host.as_str(), settings.port)).await {
        Ok(stream) => stream,
        Err(error) => {
            return Ok(Err(
                unreachable(settings, "cannot connect").with_source(error)
            ));
        }
    };
    // Requests are small and waited for: never hold one back to fill a packet.
    stream.set_nodelay(true)?;
    let mut options = LdapConnSettings::new()
        .set_std_stream(StdStream::Tcp(stream.into_std()?))
        .set_starttls(settings.security == Security::StartTls);
    if let Some(tls) = &settings.tls {
        options = options.set_config(Arc::clone(tls));
    }
    match LdapConnAsync::with_settings(options, &settings.url).await {
        Ok((driver, handle)) => {
            let driver = tokio::spawn(async move {
                if let Err(error) = driver.drive().await {
                    tracing::debug!(%error, "a directory connection ended");
                }
            })
            .abort_handle();
            Ok(Ok(Connection { handle, driver }))
        }
        Err(LdapError::LdapResult { result }) => Ok(Err(unreachable(
            settings,
            &format!("it refuses StartTLS ({}); give it a certificate or use ldaps://", codes::named(&result)),
        ))),
        Err(LdapError::Io { source }) if is_certificate(&source) => Ok(Err(unreachable(
            settings,
            "its certificate is not trusted; set `ca_file` to the authority that signed it and `url` to a name in it",
        )
        .with_source(source))),
        Err(error) if settings.tls.is_some() => {
            Ok(Err(unreachable(settings, "TLS could not be set up").with_source(error)))
        }
        Err(error) => Err(error),
    }
}

fn is_certificate(error: &std::io::Error) -> bool {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}

fn unreachable(settings: &Settings, why: &str) -> Error {
    Error::new(
        ErrorKind::Unreachable,
        format!("cannot reach the directory at `{}`: {why}", settings.url),
    )
}

/// Binds with name and password.
pub(super) async fn login(settings: &Settings, connection: &mut Connection) -> Result<(), Error> {
    let password = settings.bind_password.expose_secret();
    let asked = connection.handle.simple_bind(&settings.bind_dn, password);
    let result = match wire::answered(asked, settings.operation_timeout).await {
        Ok(result) => result,
        Err(Failure::Late) => return Err(unreachable(settings, "no answer to the login")),
        Err(Failure::NotSent(why) | Failure::Lost(why) | Failure::Unspeakable(why)) => {
            return Err(unreachable(
                settings,
                &format!("no answer to the login: {why}"),
            ));
        }
    };
    if result.rc == codes::SUCCESS {
        return Ok(());
    }
    let doing = format!("log in to `{}` as `{}`", settings.url, settings.bind_dn);
    let mut error = codes::refused(&doing, &result);
    match error.kind {
        // The whole system cannot, not one operation.
        ErrorKind::Transient | ErrorKind::Timeout => error.kind = ErrorKind::Unreachable,
        _ => error.kind = ErrorKind::AuthExpired,
    }
    if let Some(reason) = codes::bind_reason(&result) {
        error.message.push_str("; ");
        error.message.push_str(reason);
    }
    Err(error)
}
