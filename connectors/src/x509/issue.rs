//! A certificate from request to hand-over.

use chrono::{DateTime, Utc};
use rcgen::KeyPair;
use secrecy::SecretString;
use serde_json::json;

use super::authority::{AnyKey, Held, Signing, after, back};
use super::generations::next_generation;
use super::index::{Generation, Leaf, Line};
use super::key::pem;
use super::request::{Request, Wanted};
use super::{AUTHORITY, Settled};
use crate::connector::{
    Credential, CredentialId, CredentialKind, Error, ErrorKind, Material, Minted, NativeId,
    NewCredential, Outcome, Receipt,
};

/// The longest name of a holder.
const HOLDER_CHARS_MAX: usize = 200;

pub(super) fn issue(
    held: &mut Held<'_>,
    new: &NewCredential,
    key: &str,
) -> Result<(Minted, Settled), Error> {
    let invalid = |what: &str| Error::new(ErrorKind::Invalid, what);
    let holder = new.account.as_str();
    if new.kind != CredentialKind::Certificate {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "an authority issues certificates and nothing else",
        ));
    }
    if holder.trim().is_empty()
        || holder.chars().count() > HOLDER_CHARS_MAX
        || holder.chars().any(char::is_control)
    {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("a holder's name has 1 to {HOLDER_CHARS_MAX} characters"),
        ));
    }
    if holder == AUTHORITY {
        return next_generation(held, new, key);
    }
    if let Some((id, leaf)) = held.index.issued(holder, key) {
        let (id, leaf) = (id.clone(), leaf.clone());
        return Ok((
            again(held, &id, &leaf)?,
            (told(held, &new.account, &id, &leaf), Outcome::AlreadySo),
        ));
    }
    if held.index.knows_key(key) {
        return Err(invalid(
            "this operation key issued something to somebody else",
        ));
    }
    let (request, pair) = match &new.material {
        Material::Public(pem) => (Some(Request::read(pem)?), None),
        Material::BySystem => (None, Some(())),
        Material::Secret(_) => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a private key stays where it is: send a signing request",
            ));
        }
    };
    let asked = request.as_ref().map(|request| request.names.clone());
    let settings = &held.settings().clone();
    let wanted = Wanted::read(settings, holder, &new.attributes, asked)?;
    let pair = pair
        .map(|()| KeyPair::generate_for(wanted.key_algorithm.rcgen()))
        .transpose()
        .map_err(|error| Error::new(ErrorKind::Bug, "no key could be made").with_source(error))?;
    let generation = held.signing()?;
    let not_after = end(held, new.lifetime_s, &generation)?;
    let (public, is_rsa): (&dyn AnyKey, bool) = match (&request, &pair) {
        (Some(request), _) => (&request.key, request.is_rsa),
        (None, Some(pair)) => (pair, false),
        (None, None) => return Err(invalid("there is no key to certify")),
    };
    let (certificate, serial) = held.certify(
        &generation,
        &Signing {
            key: public,
            is_rsa,
            wanted: &wanted,
            not_before: back(held.now, settings.backdate_s),
            not_after,
        },
    )?;
    let id = CredentialId::of_certificate(certificate.der());
    held.index.append(&Line::Issued {
        at: held.now,
        key: key.to_owned(),
        account: holder.to_owned(),
        id: id.clone(),
        serial,
        generation: generation.number,
        not_after,
        label: new.label.clone(),
        leaf: certificate.pem(),
    })?;
    let leaf =
        held.index.leaf(&id).cloned().ok_or_else(|| {
            Error::new(ErrorKind::Bug, "what was added to the index is not in it")
        })?;
    let mut minted = again(held, &id, &leaf)?;
    minted.secret = pair.map(|pair| SecretString::from(pem(&pair)));
    Ok((
        minted,
        (told(held, &new.account, &id, &leaf), Outcome::Done),
    ))
}

/// When a certificate ends: as asked, or as usual; never after what signs it.
pub(super) fn end(
    held: &Held<'_>,
    asked_s: Option<u64>,
    generation: &Generation,
) -> Result<DateTime<Utc>, Error> {
    let settings = held.settings();
    let lifetime_s = asked_s.unwrap_or(settings.lifetime_s);
    if !(1..=settings.lifetime_s_max).contains(&lifetime_s) {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "a life of {lifetime_s} s was asked for; `lifetime_s_max` allows 1 to {}",
                settings.lifetime_s_max
            ),
        ));
    }
    if generation.not_after <= held.now {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "the authority itself ended at {}; issue a new generation to `{AUTHORITY}` and activate it",
                generation.not_after.to_rfc3339()
            ),
        ));
    }
    let wanted = after(held.now, lifetime_s);
    if asked_s.is_some() && wanted > generation.not_after {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "a life until {} was asked for and the authority itself ends at {}; ask for less, or make its next generation",
                wanted.to_rfc3339(),
                generation.not_after.to_rfc3339()
            ),
        ));
    }
    Ok(wanted.min(generation.not_after))
}

/// The public half of what was issued before.
pub(super) fn again(held: &Held<'_>, id: &CredentialId, leaf: &Leaf) -> Result<Minted, Error> {
    let generation = held.generation(leaf.generation)?;
    let mut public = held.index.certificate(leaf)?;
    public.push_str(&held.above(&generation));
    Ok(Minted {
        credential: certificate(id, leaf, held.now),
        public: Some(public),
        secret: None,
    })
}

pub(super) fn told(held: &Held<'_>, account: &NativeId, id: &CredentialId, leaf: &Leaf) -> Receipt {
    Receipt {
        account: Some(account.clone()),
        after: Some(json!({
            "serial": leaf.serial,
            "not_after": leaf.not_after,
            "generation": leaf.generation,
        })),
        request_id: Some(leaf.key.clone()),
        credential: Some(certificate(id, leaf, held.now)),
        ..Receipt::default()
    }
}

pub(super) fn certificate(id: &CredentialId, leaf: &Leaf, now: DateTime<Utc>) -> Credential {
    Credential {
        active: Some(leaf.revoked.is_none() && leaf.not_after > now),
        label: leaf.label.clone(),
        expires_at: Some(leaf.not_after),
        ..Credential::new(id.clone(), CredentialKind::Certificate)
    }
}

pub(super) fn of<'a>(
    held: &'a Held<'_>,
    account: &NativeId,
    id: &CredentialId,
) -> Option<&'a Leaf> {
    held.index
        .leaf(id)
        .filter(|leaf| leaf.account == account.as_str())
}
