//! `x509Certificates` of a user: certificates that the application takes for them.
//!
//! Only where the setting `certificates` says that the application has them. Each goes by the fingerprint of its octets;
//! the list is sent back without the one that ends, on the condition that nobody changed the user in between.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Scim;
use super::attributes::member;
use crate::connector::{
    Attributes, Coverage, Credential, CredentialId, CredentialKind, Error, NativeId, Observation,
    Outcome, Verdict,
};

const ATTRIBUTE: &str = "x509Certificates";

impl Scim {
    pub(super) async fn list_certificates(
        &self,
        account: &NativeId,
    ) -> Result<Coverage<Vec<Credential>>, Error> {
        let user = self.user(account).await?;
        let mut listed: Vec<Credential> = Vec::new();
        for certificate in user.iter().flat_map(|user| certificates(&user.body)) {
            let id = id_of(certificate);
            if listed.iter().any(|known| known.id == id) {
                continue;
            }
            listed.push(Credential {
                active: Some(true),
                label: member(certificate, "display")
                    .and_then(Value::as_str)
                    .map(str::to_owned),
                ..Credential::new(id, CredentialKind::Certificate)
            });
        }
        Ok(Coverage {
            value: listed,
            blind_spots: vec![
                "tokens and keys that the application gave out by itself: the protocol shows none"
                    .to_owned(),
            ],
        })
    }

    pub(super) async fn destroy_certificate(
        &self,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<Outcome, Error> {
        let nothing = Attributes::new();
        self.change(account, &nothing, |user| {
            let all = certificates(user);
            let left: Vec<&Value> = all
                .iter()
                .copied()
                .filter(|certificate| id_of(certificate) != *credential)
                .collect();
            if left.len() == all.len() {
                Vec::new()
            } else if left.is_empty() {
                vec![json!({ "op": "remove", "path": ATTRIBUTE })]
            } else {
                vec![json!({ "op": "replace", "path": ATTRIBUTE, "value": left })]
            }
        })
        .await
    }

    pub(super) async fn verify_certificate(
        &self,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<Verdict, Error> {
        let user = self.user(account).await?;
        let held = user.is_some_and(|user| {
            let mut all = certificates(&user.body).into_iter();
            all.any(|certificate| id_of(certificate) == *credential)
        });
        let observation = Observation {
            by: "GET /Users/{id}".to_owned(),
            account: Some(account.clone()),
            seen: json!({ "credential": credential, "held": held }),
        };
        Ok(if held {
            Verdict::Refuted(observation)
        } else {
            Verdict::Proven(observation)
        })
    }
}

fn certificates(user: &Value) -> Vec<&Value> {
    member(user, ATTRIBUTE)
        .and_then(Value::as_array)
        .map(|all| all.iter().collect())
        .unwrap_or_default()
}

/// By what it is, not by how the server writes it: base64 may have line breaks.
fn id_of(certificate: &Value) -> CredentialId {
    let text: String = member(certificate, "value")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    match STANDARD.decode(&text) {
        Ok(der) => CredentialId::of_certificate(&der),
        Err(_) => CredentialId::of_certificate(text.as_bytes()),
    }
}
