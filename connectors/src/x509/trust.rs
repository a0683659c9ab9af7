//! What hangs on a generation: what it signed and is still good, and whether somebody who trusts a bundle accepts what it signs.

use rcgen::KeyPair;
use serde_json::json;

use super::authority::{Held, Signing, after, back};
use super::generations::by_id;
use super::handshake::Trial;
use super::key::pem;
use super::request::{Usage, Wanted};
use super::settings::KeyAlgorithm;
use super::{AUTHORITY, verdict};
use crate::connector::{CredentialId, Error, ErrorKind, NativeId, Signed, SignedOne, Verdict};

/// How many of what is still good are told one by one.
const TOLD_MAX: usize = 10_000;
/// The name in the certificate of a trial, and how long it lives.
const TRIAL_NAME: &str = "trial.invalid";
const TRIAL_LIFETIME_S: u64 = 60;

/// What a generation signed and is still good. Nothing else signs anything.
pub(super) fn signed(held: &Held<'_>, account: &NativeId, id: &CredentialId) -> Verdict {
    let known = by_id(held, id).filter(|_| account.as_str() == AUTHORITY);
    let mut told = Signed::default();
    if let Some(known) = known.filter(|known| !known.retired) {
        let (good, until) = held.index.good_of(known.number, held.now);
        told.good = u64::try_from(good).unwrap_or(u64::MAX);
        told.until = until;
        let mut signed: Vec<SignedOne> = held
            .index
            .good(known.number, held.now)
            .map(|(credential, leaf)| SignedOne {
                account: leaf.account.clone(),
                credential: credential.clone(),
                until: leaf.not_after,
            })
            .collect();
        signed.sort();
        signed.truncate(TOLD_MAX);
        told.signed = signed;
    }
    verdict(told.good == 0, "index", Some(account.clone()), json!(told))
}

/// Why somebody who trusts `bundle` alone does not accept what a generation signs; `None` when they do.
///
/// The certificate of the trial lives in memory for as long as the handshake takes. Nobody is given it or its key, so it has no
/// line in the index.
pub(super) fn refused(
    held: &Held<'_>,
    id: &CredentialId,
    bundle: &str,
) -> Result<Option<String>, Error> {
    let Some(known) = by_id(held, id).filter(|known| !known.retired) else {
        return Ok(Some(format!(
            "the authority has no generation `{id}` any more"
        )));
    };
    let key = KeyPair::generate_for(KeyAlgorithm::EcdsaP256.rcgen()).map_err(|error| {
        Error::new(ErrorKind::Bug, "no key could be made for the trial").with_source(error)
    })?;
    let name = rcgen::string::Ia5String::try_from(TRIAL_NAME)
        .map_err(|error| Error::new(ErrorKind::Bug, "no name for the trial").with_source(error))?;
    let wanted = Wanted {
        common_name: TRIAL_NAME.to_owned(),
        names: vec![rcgen::SanType::DnsName(name)],
        usage: Usage::Server,
        key_algorithm: KeyAlgorithm::EcdsaP256,
    };
    let signing = Signing {
        key: &key,
        is_rsa: false,
        wanted: &wanted,
        not_before: back(held.now, TRIAL_LIFETIME_S),
        not_after: after(held.now, TRIAL_LIFETIME_S),
    };
    let (certificate, _) = held.certify(&known, &signing)?;
    // As it would be served, but without the way from the root before: the root itself has to be trusted.
    let chain = format!("{}{}", certificate.pem(), known.signer);
    let list = held.revoked_list(known.number)?;
    let trial = Trial {
        chain: &chain,
        key: &pem(&key),
        bundle,
        revoked: list.into_iter().map(|list| list.der).collect(),
        now: held.now,
    };
    Ok(trial.run().err())
}
