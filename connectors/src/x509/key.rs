//! Private keys in the form that everybody reads.
//!
//! The library writes Ed25519 keys with the public half beside the secret one (RFC 5958), which OpenSSL before 3.2 does not
//! take. The older form (PKCS #8) has the secret half alone, and is read everywhere.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::KeyPair;

/// What stands before the secret half of an Ed25519 key in the newer form, after its length.
const NEWER: &[u8] = &[
    0x02, 0x01, 0x01, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
/// The whole of what stands before it in the older one.
const OLDER: &[u8] = &[
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
const SECRET_BYTES: usize = 32;
const LINE_CHARS: usize = 64;

/// The secret half, in PEM.
pub(crate) fn pem(pair: &KeyPair) -> String {
    let der = pair.serialized_der();
    let secret = der
        .get(2..)
        .and_then(|rest| rest.strip_prefix(NEWER))
        .and_then(|rest| rest.get(..SECRET_BYTES));
    let Some(secret) = secret else {
        return pair.serialize_pem();
    };
    let text = STANDARD.encode([OLDER, secret].concat());
    let mut pem = "-----BEGIN PRIVATE KEY-----\n".to_owned();
    for (place, character) in text.chars().enumerate() {
        if place > 0 && place % LINE_CHARS == 0 {
            pem.push('\n');
        }
        pem.push(character);
    }
    pem.push_str("\n-----END PRIVATE KEY-----\n");
    pem
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_is_written_is_the_same_key() {
        for algorithm in [
            &rcgen::PKCS_ED25519,
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
        ] {
            let pair = KeyPair::generate_for(algorithm).unwrap();
            let again = KeyPair::from_pem(&pem(&pair)).unwrap();
            assert_eq!(pair.public_key_raw(), again.public_key_raw());
        }
    }
}
