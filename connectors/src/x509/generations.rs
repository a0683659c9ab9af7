//! The generations of the authority itself, as credentials of the account `authority`.

use serde_json::json;

use super::authority::Held;
use super::index::Generation;
use super::revocation::receipt;
use super::{AUTHORITY, Settled};
use crate::connector::{
    Credential, CredentialId, CredentialKind, Error, ErrorKind, MaterialName, Minted, NativeId,
    NewCredential, Outcome, Receipt,
};

pub(super) fn by_id(held: &Held<'_>, id: &CredentialId) -> Option<Generation> {
    let mut known = held.index.generations.values();
    known.find(|known| known.id == *id).cloned()
}

pub(super) fn generation(held: &Held<'_>, known: &Generation) -> Credential {
    let use_now = if held.index.signs == Some(known.number) {
        "signs"
    } else if known.retired {
        "retired"
    } else {
        "trusted"
    };
    Credential {
        active: Some(!known.retired && known.not_after > held.now),
        label: Some(format!("generation {}, {use_now}", known.number)),
        expires_at: Some(known.not_after),
        ..Credential::new(known.id.clone(), CredentialKind::Certificate)
    }
}

/// Those that are trusted, in the order in which they were made.
pub(super) fn generations(held: &Held<'_>) -> Vec<Credential> {
    let known = held.index.generations.values();
    let trusted = known.filter(|known| !known.retired);
    trusted.map(|known| generation(held, known)).collect()
}

pub(super) fn next_generation(
    held: &mut Held<'_>,
    new: &NewCredential,
    key: &str,
) -> Result<(Minted, Settled), Error> {
    if new.material.name() != MaterialName::BySystem
        || !new.attributes.is_empty()
        || new.lifetime_s.is_some()
    {
        return Err(Error::new(
            ErrorKind::Invalid,
            "the authority makes its own keys, and its settings say how long it lives",
        ));
    }
    let mut known = held.index.generations.values();
    let (made, so): (Generation, fn(Receipt) -> Outcome) = match known
        .find(|known| known.key == key && !key.is_empty())
        .cloned()
    {
        Some(known) => (known, Outcome::AlreadySo),
        None => {
            let signs = held.signing()?.number;
            let mut later = held.index.generations.range(signs + 1..);
            if let Some((_, waiting)) = later.find(|(_, known)| !known.retired) {
                return Err(Error::new(
                    ErrorKind::Full,
                    format!(
                        "generation {} (`{}`) waits to be activated or destroyed",
                        waiting.number, waiting.id
                    ),
                ));
            }
            (held.new_generation(key)?, Outcome::Done)
        }
    };
    let credential = generation(held, &made);
    let receipt = Receipt {
        account: Some(new.account.clone()),
        after: Some(json!({
            "generation": made.number,
            "not_after": made.not_after,
            "cross_signed": made.cross.is_some(),
        })),
        credential: Some(credential.clone()),
        ..Receipt::default()
    };
    let minted = Minted {
        credential,
        public: Some(held.bundle()),
        secret: None,
    };
    Ok((minted, (receipt, so)))
}

pub(super) fn activate_generation(
    held: &mut Held<'_>,
    id: &CredentialId,
) -> Result<Settled, Error> {
    let account = NativeId::new(AUTHORITY);
    let Some(known) = by_id(held, id) else {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("the authority has no generation `{id}`"),
        ));
    };
    if held.index.signs == Some(known.number) {
        return Ok((receipt(&account, id, "signs", "signs"), Outcome::AlreadySo));
    }
    if known.retired || known.not_after <= held.now {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("generation {} is retired or has ended", known.number),
        ));
    }
    held.sign_with(known.number)?;
    Ok((receipt(&account, id, "trusted", "signs"), Outcome::Done))
}

pub(super) fn retire_generation(held: &mut Held<'_>, id: &CredentialId) -> Result<Settled, Error> {
    let account = NativeId::new(AUTHORITY);
    let found = by_id(held, id);
    let Some(known) = found.clone().filter(|known| !known.retired) else {
        // Somebody may have stopped between the line and the keys.
        if let Some(known) = found {
            held.forget_keys(known.number)?;
        }
        return Ok((
            receipt(&account, id, "retired", "retired"),
            Outcome::AlreadySo,
        ));
    };
    if held.index.signs == Some(known.number) {
        return Err(Error::new(
            ErrorKind::Denied,
            format!(
                "generation {} signs; activate another one first",
                known.number
            ),
        ));
    }
    let (good, last) = held.index.good_of(known.number, held.now);
    if let (1.., Some(last)) = (good, last) {
        return Err(Error::new(
            ErrorKind::Denied,
            format!(
                "{good} certificates of generation {} are good until {} at the latest; replace and destroy them first",
                known.number,
                last.to_rfc3339()
            ),
        ));
    }
    held.retire(known.number)?;
    held.forget_keys(known.number)?;
    Ok((receipt(&account, id, "trusted", "retired"), Outcome::Done))
}
