//! Signature Version 4: proves to AWS that a request is from whoever has the key, without sending the key.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

/// Somebody's access key.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub id: String,
    pub secret: SecretString,
    pub session: Option<SecretString>,
}

/// What is signed.
pub(super) struct Signing<'a> {
    pub method: &'a str,
    /// As it stands in the `Host` header, with the port where there is one.
    pub host: &'a str,
    pub region: &'a str,
    pub service: &'a str,
    pub content_type: &'a str,
    /// What is called, where the body does not say it.
    pub target: Option<&'a str>,
    pub body: &'a str,
    pub now: DateTime<Utc>,
}

/// The headers to add, by name and value.
pub(super) fn headers(key: &Key, signing: &Signing<'_>) -> Vec<(&'static str, String)> {
    let moment = signing.now.format("%Y%m%dT%H%M%SZ").to_string();
    let day = moment.get(..8).unwrap_or_default();
    let mut signed = vec![
        ("content-type", signing.content_type.to_owned()),
        ("host", signing.host.to_owned()),
        ("x-amz-date", moment.clone()),
    ];
    if let Some(session) = &key.session {
        signed.push(("x-amz-security-token", session.expose_secret().to_owned()));
    }
    if let Some(target) = signing.target {
        signed.push(("x-amz-target", target.to_owned()));
    }
    let names = signed
        .iter()
        .map(|(name, _)| *name)
        .collect::<Vec<_>>()
        .join(";");
    let mut canonical = format!("{}\n/\n\n", signing.method);
    for (name, value) in &signed {
        let _ = writeln!(canonical, "{name}:{}", value.trim());
    }
    let _ = write!(
        canonical,
        "\n{names}\n{}",
        hex(&Sha256::digest(signing.body.as_bytes()))
    );
    let scope = format!("{day}/{}/{}/aws4_request", signing.region, signing.service);
    let text = format!(
        "AWS4-HMAC-SHA256\n{moment}\n{scope}\n{}",
        hex(&Sha256::digest(canonical.as_bytes()))
    );
    let mut derived = format!("AWS4{}", key.secret.expose_secret()).into_bytes();
    for part in [day, signing.region, signing.service, "aws4_request"] {
        derived = mac(&derived, part.as_bytes());
    }
    let signature = hex(&mac(&derived, text.as_bytes()));
    // `host` is what the client sends by itself.
    signed.retain(|(name, _)| *name != "host");
    signed.push((
        "authorization",
        format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            key.id
        ),
    ));
    signed
}

fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    // HMAC hashes a key that is longer than a block and fills up a shorter one; done here, the length cannot be wrong.
    let mut block = [0_u8; 64];
    let hashed;
    let key = if key.len() > block.len() {
        hashed = Sha256::digest(key);
        hashed.as_slice()
    } else {
        key
    };
    for (place, byte) in block.iter_mut().zip(key) {
        *place = *byte;
    }
    let mut mac = Hmac::<Sha256>::new(&block.into());
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// The derivation of a signing key as the manual of AWS shows it.
    #[test]
    fn the_key_of_the_manual() {
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        let mut derived = format!("AWS4{secret}").into_bytes();
        for part in ["20150830", "us-east-1", "iam", "aws4_request"] {
            derived = mac(&derived, part.as_bytes());
        }
        assert_eq!(
            hex(&derived),
            "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"
        );
    }

    #[test]
    fn a_token_of_a_session_is_signed_too_and_the_secret_is_in_no_header() {
        let key = Key {
            id: "AKIDEXAMPLE".to_owned(),
            secret: SecretString::from("wJalrXUtnFEMI".to_owned()),
            session: Some(SecretString::from("token".to_owned())),
        };
        let signing = Signing {
            method: "POST",
            host: "iam.amazonaws.com",
            region: "us-east-1",
            service: "iam",
            content_type: "application/x-www-form-urlencoded; charset=utf-8",
            target: Some("secretsmanager.DescribeSecret"),
            body: "Action=ListUsers&Version=2010-05-08",
            now: "2015-08-30T12:36:00Z".parse().unwrap(),
        };
        let headers = headers(&key, &signing);
        let (_, authorization) = headers.last().unwrap();
        assert!(authorization.starts_with(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target, Signature="
        ));
        assert!(!format!("{headers:?}").contains("wJalrXUtnFEMI"));
    }
}
