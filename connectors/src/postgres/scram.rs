//! Passwords are hashed here, so that the clear text never reaches the server or its log.
//!
//! `ALTER ROLE ... PASSWORD` takes a ready SCRAM-SHA-256 verifier (RFC 5803 in PostgreSQL's spelling):
//! `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

/// What PostgreSQL itself uses.
const ITERATIONS: u32 = 4_096;
const SALT_BYTES: usize = 16;

/// A fresh verifier for `password`.
pub(super) fn verifier(password: &str) -> String {
    let salt: [u8; SALT_BYTES] = rand::random();
    verifier_with(password, &salt, ITERATIONS)
}

fn verifier_with(password: &str, salt: &[u8], iterations: u32) -> String {
    // A password that SASLprep refuses is used as it is, by libpq and the server alike.
    let prepared = stringprep::saslprep(password).unwrap_or(password.into());
    let mut salted = [0_u8; 32];
    pbkdf2::pbkdf2_hmac::<Sha256>(prepared.as_bytes(), salt, iterations, &mut salted);
    let stored_key = Sha256::digest(signed(&salted, b"Client Key"));
    let server_key = signed(&salted, b"Server Key");
    format!(
        "SCRAM-SHA-256${iterations}:{}${}:{}",
        STANDARD.encode(salt),
        STANDARD.encode(stored_key),
        STANDARD.encode(server_key)
    )
}

fn signed(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    // HMAC fills a short key up with zeros to one block; done here, the length cannot be wrong.
    let mut block = [0_u8; 64];
    for (place, byte) in block.iter_mut().zip(key) {
        *place = *byte;
    }
    let mut mac = Hmac::<Sha256>::new(&block.into());
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677: its server signature and client proof follow from these two keys.
    #[test]
    fn the_example_of_the_rfc() {
        let salt = STANDARD
            .decode("W22ZaJ0SNY7soEsUEjb6gQ==")
            .unwrap_or_default();
        let verifier = verifier_with("pencil", &salt, 4_096);
        let message = b"n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
            s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let server_key = verifier
            .rsplit(':')
            .next()
            .and_then(|key| STANDARD.decode(key).ok())
            .unwrap_or_default();
        let server_key: [u8; 32] = server_key.try_into().unwrap_or_default();
        assert_eq!(
            STANDARD.encode(signed(&server_key, message)),
            "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
    }

    #[test]
    fn the_salt_is_fresh_and_the_form_is_postgres() {
        let (first, second) = (verifier("a"), verifier("a"));
        assert_ne!(first, second);
        assert!(first.starts_with("SCRAM-SHA-256$4096:"), "{first}");
        assert_eq!(first.len(), 133, "{first}");
    }
}
