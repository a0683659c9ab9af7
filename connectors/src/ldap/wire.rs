//! Requests as data, and what came of them.
//!
//! The one thing that matters about a request without an answer is whether it may have left: a write that
//! may have left is [`Answer::Lost`], which becomes an ambiguous outcome and is never repeated here.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use ldap3::controls::{Assertion, ControlType, PagedResults, PostRead, PostReadResp, RawControl};
use ldap3::exop::PasswordModify;
use ldap3::{Ldap as Handle, LdapError, LdapResult, Mod, Scope, SearchOptions};
use secrecy::{ExposeSecret, SecretString};

use super::codes;
use super::entry::{Attribute, Entry};
use crate::connector::{Error, ErrorKind};

/// One search.
#[derive(Debug, Clone)]
pub(super) struct Search<'a> {
    pub(super) base: &'a str,
    pub(super) scope: Scope,
    pub(super) filter: &'a str,
    pub(super) attributes: &'a [&'a str],
    /// The most entries the server may send; 0 leaves it to the page.
    pub(super) entries_max: i32,
    /// Size and cookie of the page wanted.
    pub(super) page: Option<(i32, Vec<u8>)>,
}

impl<'a> Search<'a> {
    /// Reads one entry by its DN, if `filter` holds for it.
    pub(super) fn entry(base: &'a str, filter: &'a str, attributes: &'a [&'a str]) -> Self {
        Self {
            base,
            scope: Scope::Base,
            filter,
            attributes,
            entries_max: 1,
            page: None,
        }
    }
}

/// What a search answered, good or not.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) entries: Vec<Entry>,
    pub(super) result: LdapResult,
    /// Where the next page starts; `None` on the last one.
    pub(super) cookie: Option<Vec<u8>>,
}

impl Found {
    /// The entries, if the search succeeded. `doing` as in "cannot `doing`".
    pub(super) fn success(self, doing: &str) -> Result<Vec<Entry>, Error> {
        if self.result.rc == codes::SUCCESS {
            Ok(self.entries)
        } else {
            Err(codes::refused(doing, &self.result))
        }
    }
}

/// One change of one entry. `only_if` is a filter the entry must match, or nothing is done (RFC 4528).
#[derive(Debug, Clone)]
pub(super) enum Write<'a> {
    Add {
        dn: &'a str,
        attributes: &'a [Attribute],
    },
    Modify {
        dn: &'a str,
        changes: &'a [Change],
        only_if: Option<&'a str>,
    },
    Rename {
        dn: &'a str,
        relative: &'a str,
        only_if: Option<&'a str>,
    },
    Delete {
        dn: &'a str,
        only_if: Option<&'a str>,
    },
    /// The password modify operation (RFC 3062): the server hashes as its policy says.
    Password {
        dn: &'a str,
        password: &'a SecretString,
    },
}

impl Write<'_> {
    pub(super) fn dn(&self) -> &str {
        match self {
            Self::Add { dn, .. }
            | Self::Modify { dn, .. }
            | Self::Rename { dn, .. }
            | Self::Delete { dn, .. }
            | Self::Password { dn, .. } => dn,
        }
    }

    /// The same change, whatever the entry is like.
    pub(super) fn unconditional(mut self) -> Self {
        if let Self::Modify { only_if, .. }
        | Self::Rename { only_if, .. }
        | Self::Delete { only_if, .. } = &mut self
        {
            *only_if = None;
        }
        self
    }
}

#[derive(Clone)]
pub(super) enum Change {
    Add(String, Vec<Vec<u8>>),
    Remove(String, Vec<Vec<u8>>),
    /// No values: removes the attribute, whether it was there or not.
    Replace(String, Vec<Vec<u8>>),
}

impl std::fmt::Debug for Change {
    /// Names only: a value may be a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (what, name) = match self {
            Self::Add(name, _) => ("add", name),
            Self::Remove(name, _) => ("remove", name),
            Self::Replace(name, _) => ("replace", name),
        };
        write!(f, "{what} {name}")
    }
}

impl Change {
    fn modification(&self) -> Mod<Vec<u8>> {
        let set = |values: &Vec<Vec<u8>>| values.iter().cloned().collect::<HashSet<_>>();
        match self {
            Self::Add(name, values) => Mod::Add(name.clone().into_bytes(), set(values)),
            Self::Remove(name, values) => Mod::Delete(name.clone().into_bytes(), set(values)),
            Self::Replace(name, values) => Mod::Replace(name.clone().into_bytes(), set(values)),
        }
    }
}

/// What came of a write that left, or may have.
#[derive(Debug)]
pub(super) enum Answer {
    /// The server answered, yes or no.
    Answered(Reply),
    /// No answer; the change may have been made.
    Lost(String),
}

#[derive(Debug)]
pub(super) struct Reply {
    pub(super) result: LdapResult,
    /// The identifier and the version of the entry after the change, where the server told (RFC 4527).
    pub(super) id: Option<String>,
    pub(super) version: Option<String>,
}

impl Reply {
    pub(super) fn code(&self) -> u32 {
        self.result.rc
    }
}

/// Why a request got no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection was found dead before anything left.
    NotSent(String),
    /// It left or may have left; the connection broke before the answer.
    Lost(String),
    /// It left; no answer in time.
    Late,
    /// The request cannot even be written.
    Unspeakable(String),
}

/// Asks and waits at most `limit`. After any [`Failure`] the connection must be thrown away.
pub(super) async fn search(
    handle: &mut Handle,
    search: &Search<'_>,
    limit: Duration,
) -> Result<Found, Failure> {
    let options = SearchOptions::new()
        .sizelimit(if search.page.is_some() {
            0
        } else {
            search.entries_max
        })
        .timelimit(i32::try_from(limit.as_secs().max(1)).unwrap_or(i32::MAX));
    handle.with_search_options(options);
    if let Some((size, cookie)) = &search.page {
        handle.with_controls(PagedResults {
            size: *size,
            cookie: cookie.clone(),
        });
    }
    let asked = async {
        let found = handle
            .search(search.base, search.scope, search.filter, search.attributes)
            .await?;
        Ok((found.0, found.1))
    };
    let (raw, result) = answered(asked, limit).await?;
    let mut entries = Vec::with_capacity(raw.len());
    for entry in raw
        .into_iter()
        .filter(|entry| !entry.is_ref() && !entry.is_intermediate())
    {
        entries.push(
            Entry::decode(entry)
                .ok_or_else(|| Failure::Lost("an entry is malformed".to_owned()))?,
        );
    }
    let cookie = match result
        .ctrls
        .iter()
        .find(|c| matches!(c.0, Some(ControlType::PagedResults)))
    {
        Some(control) => {
            let parsed = careful(|| control.1.parse::<PagedResults>())?;
            (!parsed.cookie.is_empty()).then_some(parsed.cookie)
        }
        None => None,
    };
    Ok(Found {
        entries,
        result,
        cookie,
    })
}

/// Sends one change. `read_back` names the attributes of the changed entry to be told with the answer.
pub(super) async fn write(
    handle: &mut Handle,
    write: &Write<'_>,
    read_back: Option<[&str; 2]>,
    limit: Duration,
) -> Result<Reply, Failure> {
    let mut controls: Vec<RawControl> = Vec::new();
    if let Some(attributes) = read_back
        && matches!(
            write,
            Write::Add { .. } | Write::Modify { .. } | Write::Rename { .. }
        )
    {
        controls.push(PostRead::new(attributes.to_vec()));
    }
    let (Write::Modify { only_if, .. }
    | Write::Rename { only_if, .. }
    | Write::Delete { only_if, .. }) = write
    else {
        return sent(handle, write, controls, read_back, limit).await;
    };
    if let Some(filter) = only_if {
        let mut control = careful(|| Assertion::new(*filter))?;
        control.crit = true;
        controls.push(control);
    }
    sent(handle, write, controls, read_back, limit).await
}

async fn sent(
    handle: &mut Handle,
    write: &Write<'_>,
    controls: Vec<RawControl>,
    read_back: Option<[&str; 2]>,
    limit: Duration,
) -> Result<Reply, Failure> {
    if !controls.is_empty() {
        handle.with_controls(controls);
    }
    let asked = async {
        match write {
            Write::Add { dn, attributes } => {
                let attributes = attributes
                    .iter()
                    .map(|(name, values)| {
                        (name.clone().into_bytes(), values.iter().cloned().collect())
                    })
                    .collect();
                handle.add(dn, attributes).await
            }
            Write::Modify { dn, changes, .. } => {
                handle
                    .modify(dn, changes.iter().map(Change::modification).collect())
                    .await
            }
            Write::Rename { dn, relative, .. } => handle.modifydn(dn, relative, true, None).await,
            Write::Delete { dn, .. } => handle.delete(dn).await,
            Write::Password { dn, password } => {
                let request = PasswordModify {
                    user_id: Some(dn),
                    old_pass: None,
                    new_pass: Some(password.expose_secret()),
                };
                handle.extended(request).await.map(|result| result.1)
            }
        }
    };
    let result = answered(asked, limit).await?;
    let mut reply = Reply {
        result,
        id: None,
        version: None,
    };
    if let Some([id, version]) = read_back {
        let told = reply
            .result
            .ctrls
            .iter()
            .find(|c| matches!(c.0, Some(ControlType::PostReadResp)));
        // Nice to have: a malformed one is as good as none, the change itself was answered.
        if let Some(told) = told
            && let Ok(told) = careful(|| told.1.parse::<PostReadResp>())
        {
            let first = |name: &str| {
                let found = told
                    .attrs
                    .iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.and_then(|(_, values)| values.first().cloned())
            };
            reply.id = first(id);
            reply.version = first(version);
        }
    }
    Ok(reply)
}

/// Waits for the answer. The library panics on answers that break the protocol; that must cost the
/// connection, not the program.
pub(super) async fn answered<T>(
    asked: impl Future<Output = Result<T, LdapError>>,
    limit: Duration,
) -> Result<T, Failure> {
    let asked = AssertUnwindSafe(asked).catch_unwind();
    match tokio::time::timeout(limit, asked).await {
        Err(_) => Err(Failure::Late),
        Ok(Err(_)) => Err(Failure::Lost("the directory broke its protocol".to_owned())),
        Ok(Ok(Ok(value))) => Ok(value),
        Ok(Ok(Err(error))) => Err(failure(error)),
    }
}

fn careful<T>(parse: impl FnOnce() -> T) -> Result<T, Failure> {
    std::panic::catch_unwind(AssertUnwindSafe(parse))
        .map_err(|_| Failure::Lost("the directory broke its protocol".to_owned()))
}

/// Sorts the library's errors by the one question: may the request have left?
fn failure(error: LdapError) -> Failure {
    match error {
        LdapError::OpSend { .. } => Failure::NotSent("the connection was closed".to_owned()),
        LdapError::FilterParsing | LdapError::AddNoValues => {
            Failure::Unspeakable(error.to_string())
        }
        LdapError::ResultRecv { .. } | LdapError::EndOfStream => {
            Failure::Lost("the connection broke".to_owned())
        }
        LdapError::Timeout { .. } => Failure::Late,
        other => Failure::Lost(other.to_string()),
    }
}

impl Failure {
    /// The error of a read that failed this way for good.
    pub(super) fn of_read(self, url: &str) -> Error {
        match self {
            Self::NotSent(why) | Self::Lost(why) => Error::new(
                ErrorKind::Transient,
                format!("the directory at `{url}` gave no answer: {why}"),
            ),
            Self::Late => Error::new(
                ErrorKind::Timeout,
                format!("the directory at `{url}` did not answer within `operation_timeout_ms`"),
            ),
            Self::Unspeakable(why) => {
                Error::new(ErrorKind::Bug, format!("malformed request: {why}"))
            }
        }
    }
}
