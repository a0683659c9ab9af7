//! Answers that several connectors give in the same way.

use std::net::IpAddr;
use std::path::Path;

use reqwest::{Certificate, Response, Url};
use serde_json::Value;

use crate::connector::{
    Account, Attributes, Capabilities, ClaimName, CredentialKind, Cursor, Error, ErrorKind, Kind,
    NativeId, Object, ObjectRef, Observation, OperationName, Page, Verdict,
};

/// Names of one page.
const PAGE_SIZE: usize = 1_000;

/// How a connector of this kind says what is wrong with its settings.
pub(crate) fn settings_error<'a>(
    system: &'a str,
    kind: &'a str,
) -> impl Fn(String) -> Error + Copy + 'a {
    move |what| {
        Error::new(
            ErrorKind::Invalid,
            format!("system `{system}`: {kind} settings: {what}"),
        )
    }
}

/// The body of an answer; `None` when it is longer than `bytes_max`.
///
/// # Errors
/// When the connection breaks, or is too slow.
pub(crate) async fn body(
    mut response: Response,
    bytes_max: usize,
) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len().saturating_add(chunk.len()) > bytes_max {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

/// What a place can do, where secrets are kept by version and one of them is read.
pub(crate) fn place_capabilities() -> Capabilities {
    Capabilities {
        operations: [
            OperationName::StoreCredential,
            OperationName::ActivateCredential,
            OperationName::DestroyCredential,
        ]
        .into(),
        claims: [
            ClaimName::CredentialStored,
            ClaimName::CredentialActive,
            ClaimName::CredentialInactive,
        ]
        .into(),
        lists: [Kind::Account].into(),
        credentials: CredentialKind::ALL.into(),
        ..Capabilities::default()
    }
}

/// What a read says of a claim.
pub(crate) fn verdict(holds: bool, by: &str, account: Option<NativeId>, seen: Value) -> Verdict {
    let observation = Observation {
        by: by.to_owned(),
        account,
        seen,
    };
    if holds {
        Verdict::Proven(observation)
    } else {
        Verdict::Refuted(observation)
    }
}

/// An account of which nothing but its name is known.
pub(crate) fn named(name: &str) -> Object {
    Object::Account(Account {
        id: NativeId::new(name),
        name: name.to_owned(),
        enabled: None,
        owner: None,
        attributes: Attributes::new(),
        entitlements: None,
        version: None,
    })
}

/// All names that the settings have, as accounts.
pub(crate) fn all_named<'a>(names: impl Iterator<Item = &'a String>) -> Page {
    Page {
        items: names.map(|name| named(name)).collect(),
        next: None,
        complete: true,
    }
}

/// By which name an account is asked for, where nothing but its name is known; `None` for what is no account.
///
/// # Errors
/// By its owner nobody finds it.
pub(crate) fn name_in<'a>(system: &str, wanted: &'a ObjectRef) -> Result<Option<&'a str>, Error> {
    match wanted {
        ObjectRef::Account(id) => Ok(Some(id.as_str())),
        ObjectRef::AccountNamed(name) => Ok(Some(name)),
        ObjectRef::Entitlement(_) => Ok(None),
        ObjectRef::AccountOwnedBy(_) => Err(Error::new(
            ErrorKind::Unsupported,
            format!("system `{system}`: nothing here carries an owner key"),
        )),
    }
}

/// A page of accounts by name, from after `after` on.
pub(crate) fn page<'a>(names: impl Iterator<Item = &'a str>, after: Option<&Cursor>) -> Page {
    let mut names: Vec<&str> = names
        .filter(|name| after.is_none_or(|after| *name > after.0.as_str()))
        .collect();
    names.sort_unstable();
    let next = names
        .get(PAGE_SIZE - 1)
        .filter(|_| names.len() > PAGE_SIZE)
        .map(|last| Cursor((*last).to_owned()));
    names.truncate(PAGE_SIZE);
    Page {
        items: names.into_iter().map(named).collect(),
        complete: next.is_none(),
        next,
    }
}

/// The certificates of a `ca_file`.
///
/// # Errors
/// When it cannot be read, or holds none.
pub(crate) fn roots(system: &str, path: &Path) -> Result<Vec<Certificate>, Error> {
    let shown = path.display();
    let invalid =
        |what: String| Error::new(ErrorKind::Invalid, format!("system `{system}`: {what}"));
    let pem = std::fs::read(path)
        .map_err(|error| invalid(format!("cannot read `ca_file` `{shown}`")).with_source(error))?;
    let empty = || invalid(format!("`ca_file` `{shown}` holds no PEM certificate"));
    let roots = Certificate::from_pem_bundle(&pem).map_err(|error| empty().with_source(error))?;
    if roots.is_empty() {
        return Err(empty());
    }
    Ok(roots)
}

/// Whether what is sent there cannot leave this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        host.eq_ignore_ascii_case("localhost")
            || host
                .trim_matches(['[', ']'])
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    })
}
