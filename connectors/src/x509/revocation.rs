//! On the list of the revoked, and off it again.

use serde_json::json;

use super::Settled;
use super::authority::Held;
use super::index::{Leaf, Line};
use super::issue::of;
use crate::connector::{CredentialId, Error, ErrorKind, NativeId, Outcome, Receipt};

pub(super) fn receipt(account: &NativeId, id: &CredentialId, before: &str, now: &str) -> Receipt {
    Receipt {
        account: Some(account.clone()),
        before: Some(json!({ "credential": id, "state": before })),
        after: Some(json!({ "credential": id, "state": now })),
        ..Receipt::default()
    }
}

pub(super) fn word(leaf: &Leaf) -> &'static str {
    match leaf.revoked {
        None => "good",
        Some(revocation) if revocation.on_hold => "on hold",
        Some(_) => "revoked",
    }
}

/// Whether the list that others read says what the index says of this one.
pub(super) fn is_published(held: &Held<'_>, leaf: &Leaf) -> Result<bool, Error> {
    let list = held.revoked_list(leaf.generation)?;
    let listed = list.is_some_and(|list| list.serials.contains(&leaf.serial));
    Ok(listed == leaf.revoked.is_some())
}

pub(super) fn revoke(
    held: &mut Held<'_>,
    account: &NativeId,
    id: &CredentialId,
    on_hold: bool,
) -> Result<Settled, Error> {
    let now = if on_hold { "on hold" } else { "revoked" };
    let Some(leaf) = of(held, account, id).cloned() else {
        return Ok((
            receipt(account, id, "unknown", "unknown"),
            Outcome::AlreadySo,
        ));
    };
    if leaf.revoked.is_some_and(|known| on_hold || !known.on_hold) {
        // Somebody may have stopped between the line and the list.
        if !is_published(held, &leaf)? {
            held.publish()?;
        }
        let state = word(&leaf);
        return Ok((receipt(account, id, state, state), Outcome::AlreadySo));
    }
    held.index.append(&Line::Revoked {
        at: held.now,
        id: id.clone(),
        on_hold,
    })?;
    held.publish()?;
    Ok((receipt(account, id, word(&leaf), now), Outcome::Done))
}

pub(super) fn release(
    held: &mut Held<'_>,
    account: &NativeId,
    id: &CredentialId,
) -> Result<Settled, Error> {
    let Some(leaf) = of(held, account, id).cloned() else {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("no certificate `{id}` was issued to `{account}`"),
        ));
    };
    match leaf.revoked {
        None => {
            if !is_published(held, &leaf)? {
                held.publish()?;
            }
            Ok((receipt(account, id, "good", "good"), Outcome::AlreadySo))
        }
        Some(revocation) if revocation.on_hold => {
            held.index.append(&Line::Released {
                at: held.now,
                id: id.clone(),
            })?;
            held.publish()?;
            Ok((receipt(account, id, "on hold", "good"), Outcome::Done))
        }
        Some(_) => Err(Error::new(
            ErrorKind::Invalid,
            format!("`{id}` was revoked for good; issue another"),
        )),
    }
}
