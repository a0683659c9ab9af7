//! The end of a certificate, and how it is seen.

use rustls::pki_types::CertificateDer;
use serde_json::json;

use super::ledger::{Leaf, Line};
use super::{Acme, leaf_of};
use crate::answer::verdict;
use crate::connector::{CredentialId, Error, ErrorKind, NativeId, Outcome, Receipt, Verdict};

impl Acme {
    /// What the journal has of a certificate, and the certificate itself, in DER.
    pub(super) async fn known(
        &self,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<Option<(Leaf, CertificateDer<'static>)>, Error> {
        let (of, id) = (account.as_str().to_owned(), credential.clone());
        self.ledger(move |ledger| match ledger.leaf(&of, &id) {
            Some(leaf) => Ok(Some((leaf.clone(), leaf_of(&ledger.chain(leaf)?)?))),
            None => Ok(None),
        })
        .await
    }

    pub(super) async fn destroy(
        &self,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<Outcome, Error> {
        let receipt = |was: &str| Receipt {
            account: Some(account.clone()),
            before: Some(json!({ "credential": credential, "state": was })),
            after: Some(json!({ "credential": credential, "state": "revoked" })),
            ..Receipt::default()
        };
        let Some((leaf, der)) = self.known(account, credential).await? else {
            return Ok(Outcome::AlreadySo(receipt("unknown")));
        };
        if leaf.revoked {
            return Ok(Outcome::AlreadySo(receipt("revoked")));
        }
        if leaf.not_after <= self.now() {
            return Ok(Outcome::AlreadySo(receipt("ended")));
        }
        let acme = self.authority.account().await?;
        let now = match self.authority.revoke(&acme, &der).await {
            Ok(now) => now,
            Err(error) => {
                let refused = matches!(error, instant_acme::Error::Api(_));
                let error = self.authority.told("revoking", error);
                return match error.kind {
                    ErrorKind::Unreachable => Err(error),
                    _ if refused => Err(error),
                    _ => Ok(Outcome::Ambiguous {
                        reason: error.whole(),
                    }),
                };
            }
        };
        let line = Line::Revoked {
            at: self.now(),
            id: credential.clone(),
        };
        self.ledger(move |ledger| ledger.append(&line)).await?;
        Ok(if now {
            Outcome::Done(receipt("good"))
        } else {
            Outcome::AlreadySo(receipt("revoked"))
        })
    }

    /// Whether nobody can use a certificate any more. The protocol has no such question; but the authority says of one that it
    /// was revoked already when it is told to revoke it once more. So only what we revoked is asked after: asking changes nothing.
    pub(super) async fn inactive(
        &self,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<Verdict, Error> {
        let found = self.known(account, credential).await?;
        let said = |holds: bool, by: &str, state: &str| {
            let seen = json!({ "credential": credential, "state": state });
            verdict(holds, by, Some(account.clone()), seen)
        };
        let Some((leaf, der)) = found else {
            return Ok(said(true, "journal", "unknown"));
        };
        if leaf.not_after <= self.now() {
            return Ok(said(true, "journal", "ended"));
        }
        if !leaf.revoked {
            return Ok(said(false, "journal", "not revoked by us"));
        }
        let acme = self.authority.account().await?;
        match self.authority.revoke(&acme, &der).await {
            Ok(false) => Ok(said(true, "acme revokeCert", "revoked already")),
            Ok(true) => Ok(said(true, "acme revokeCert", "revoked now")),
            Err(error) => Err(self.authority.told("asking after a revocation", error)),
        }
    }
}
